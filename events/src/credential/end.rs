//! The ends of a credential: by decision or by time, and a device never without its companion.

use super::{Credential, may_see};
use crate::{
    CredentialId, Event, PersonId, Timestamp,
    event::{CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialRevokedV1, RevokeReason, Role},
    team::{Decision, Fact, Refusal, TeamState},
};

/// Who ends a credential.
#[derive(Clone, Copy, Debug)]
pub enum Revoker {
    /// A person of the team.
    Person(PersonId),
    /// Whoever presented the secret.
    Holder,
}

/// Ends a credential; a device takes its companion along.
#[derive(Clone, Debug)]
pub struct Revoke {
    /// Who.
    pub by: Revoker,
    /// Which.
    pub credential: CredentialId,
    /// Why.
    pub reason: RevokeReason,
    /// In their words.
    pub note: Option<String>,
}

impl Revoke {
    /// No facts if it has ended already: ending is idempotent.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        if !ended_by(self.by, team, self.credential)?.alive(now) {
            return Ok(Vec::new());
        }
        let mut facts = Vec::with_capacity(2);
        let event = revoked(self.credential, self.reason, self.note);
        end_with_companion(team, self.credential, event.into(), now, &mut facts);
        Ok(facts)
    }
}

/// Records that a credential's time has come. The expiry itself has held since `expires_at`.
#[derive(Clone, Copy, Debug)]
pub struct Expire {
    /// Which.
    pub credential: CredentialId,
}

impl Expire {
    /// No facts if there is nothing to record, or not yet.
    ///
    /// # Errors
    /// [`Refusal::UnknownCredential`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        let key = team.credentials.get(&self.credential).ok_or(Refusal::UnknownCredential)?;
        let due = |key: &Credential| key.expires_at.filter(|end| !key.ended && *end <= now);
        // A companion whose device is due too ends as the device's cascade, so that the record names its cause.
        let (id, key) = match key.companion_of.and_then(|device| Some((device, team.credentials.get(&device)?))) {
            Some((device, state)) if due(state).is_some() => (device, state),
            _ => (self.credential, key),
        };
        let Some(effective_at) = due(key) else { return Ok(Vec::new()) };
        let mut facts = vec![Event::CredentialExpired(CredentialExpiredV1 { credential: id, effective_at }).into()];
        if let Some(companion) = key.companion.filter(|id| team.credentials.get(id).is_some_and(|key| !key.ended)) {
            let event = Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
                credential: companion,
                device: id,
                effective_at,
            });
            facts.push(Fact { event, cause: Some(0) });
        }
        Ok(facts)
    }
}

pub(crate) fn revoked(credential: CredentialId, reason: RevokeReason, note: Option<String>) -> Event {
    Event::CredentialRevoked(CredentialRevokedV1 { credential, reason, note })
}

/// Adds the end of `credential` to `facts`, and behind it that of its live companion.
pub(crate) fn end_with_companion(
    team: &TeamState,
    credential: CredentialId,
    end: Fact,
    now: Timestamp,
    facts: &mut Vec<Fact>,
) {
    let cause = facts.len();
    facts.push(end);
    let companion = team.credentials.get(&credential).and_then(|key| key.companion);
    if let Some(companion) = companion.filter(|id| team.credentials.get(id).is_some_and(|key| !key.ended)) {
        let event = Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
            credential: companion,
            device: credential,
            effective_at: now,
        });
        facts.push(Fact { event, cause: Some(cause) });
    }
}

/// The credential, if this revoker may end it.
pub(super) fn ended_by(by: Revoker, team: &TeamState, credential: CredentialId) -> Result<&Credential, Refusal> {
    let key = team.credentials.get(&credential);
    if let Revoker::Person(person) = by {
        let role = team.role(person)?;
        let key = key.filter(|key| may_see(role, person, key)).ok_or(Refusal::UnknownCredential)?;
        may_end(role, person, key)?;
    }
    key.ok_or(Refusal::UnknownCredential)
}

/// The issuer, whoever answers for it, an admin or the owner; auditors change nothing.
fn may_end(role: Role, person: PersonId, key: &Credential) -> Result<(), Refusal> {
    let own = key.holder == person || key.issued_by == person;
    match role {
        Role::Owner | Role::Admin => Ok(()),
        Role::Member | Role::Viewer if own => Ok(()),
        _ => Err(Refusal::Forbidden),
    }
}
