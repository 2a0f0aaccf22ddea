//! Rotation: a successor now, and the old key's end brought forward.

use std::time::Duration;

use super::{
    Credential, KeyMaterial, LIFETIME_DAYS_MAX,
    issue::{lifetime, may_issue},
    may_see,
};
use crate::{
    CredentialId, Event, PersonId, Timestamp,
    event::{CredentialIssuedV1, ExpiryShortenedV1, Role},
    team::{Decision, Fact, Refusal, TeamState, may_hold},
};

/// The longest time an old and a new key live side by side, in seconds.
pub const OVERLAP_SECONDS_MAX: u32 = 2_592_000;

/// Issues a successor and lets the old key live on for a while, never longer than it would have.
#[derive(Clone, Debug)]
pub struct Rotate {
    /// Who.
    pub actor: PersonId,
    /// Which.
    pub credential: CredentialId,
    /// How long both live, in seconds; beyond [`OVERLAP_SECONDS_MAX`] it is that.
    pub overlap_seconds: u32,
    /// The successor's lifetime; none: as long as the old one was issued for, or as the policy now allows.
    pub expires_in_days: Option<u16>,
    /// The successor's secret.
    pub key: KeyMaterial,
}

impl Rotate {
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        let role = team.role(self.actor)?;
        let old = team
            .credentials
            .get(&self.credential)
            .filter(|key| may_see(role, self.actor, key))
            .ok_or(Refusal::UnknownCredential)?;
        may_rotate(role, self.actor, old)?;
        may_issue(team, self.actor)?;
        if !old.survives_departure() {
            return Err(Refusal::NotRotatable);
        }
        if !old.alive(now) {
            return Err(Refusal::Ended);
        }
        let expires_at = match self.expires_in_days {
            None => lifetime(team, inherited_days(team, old), now)?,
            days => lifetime(team, days, now)?,
        };
        // Whoever has left or may hold no key any more answers for no new one.
        let holder = if team.present(old.holder).is_some_and(may_hold) { old.holder } else { self.actor };
        let mut facts = vec![
            Event::CredentialIssued(CredentialIssuedV1 {
                credential: self.key.id,
                kind: old.kind,
                hash: self.key.hash,
                prefix: self.key.prefix,
                name: old.name.clone(),
                purpose: old.purpose.clone(),
                holder,
                expires_at,
                rotated_from: Some(self.credential),
                companion_of: None,
            })
            .into(),
        ];
        let to = now.plus(Duration::from_secs(u64::from(self.overlap_seconds.min(OVERLAP_SECONDS_MAX))));
        if old.expires_at.is_none_or(|end| to < end) {
            let event =
                Event::ExpiryShortened(ExpiryShortenedV1 { credential: self.credential, from: old.expires_at, to });
            facts.push(Fact { event, cause: Some(0) });
        }
        Ok(facts)
    }
}

/// Whoever answers for it, an admin or the owner. Not a former holder: they would get a secret that another answers for.
fn may_rotate(role: Role, person: PersonId, key: &Credential) -> Result<(), Refusal> {
    if key.holder == person || matches!(role, Role::Owner | Role::Admin) { Ok(()) } else { Err(Refusal::Forbidden) }
}

/// A successor lives as long as its predecessor was issued for, as far as the policy still allows.
fn inherited_days(team: &TeamState, old: &Credential) -> Option<u16> {
    match old.lifetime_days {
        None if team.policy.never_allowed => None,
        days => Some(days.unwrap_or(LIFETIME_DAYS_MAX).min(team.policy.lifetime_days_max)),
    }
}
