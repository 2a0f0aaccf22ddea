//! What is noticed of a secret from outside: found where it must not be, or presented after its end.

use super::{
    Credential,
    end::{Revoker, end_with_companion, ended_by, revoked},
};
use crate::{
    CredentialId, Event, PlaceId, Timestamp,
    event::{CredentialLeakedV1, DeadKeyPresentedV1, RevokeReason},
    presented::{AddressClass, Surface},
    seal::Label,
    team::{Decision, Fact, Refusal, TeamState},
    time::DAY_US,
};

/// How many places of one credential are recorded. Whoever holds a secret that has ended could name a new one each second.
pub const LEAK_PLACES_MAX: usize = 16;

/// Records that a secret was found where it must not be, and ends it if it is alive: a device with its companion.
#[derive(Clone, Debug)]
pub struct ReportLeak {
    /// Who reports it: whoever holds the secret may, and a person who may end the credential.
    pub by: Revoker,
    /// Whose secret.
    pub credential: CredentialId,
    /// Where, sealed for whoever answers for it.
    pub place: Option<Label>,
    /// The same place has the same id.
    pub place_id: PlaceId,
    /// Who found it, such as a scanner's name.
    pub source: Option<String>,
}

impl ReportLeak {
    /// The leak, and the end it causes. Of a credential that has ended each place is recorded once, and no more than
    /// [`LEAK_PLACES_MAX`] of them.
    ///
    /// # Errors
    /// [`Refusal`], as for [`super::Revoke`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        let Self { by, credential, place, place_id, source } = self;
        let key = ended_by(by, team, credential)?;
        let alive = key.alive(now);
        if !alive && (key.leaks.contains(&place_id) || key.leaks.len() >= LEAK_PLACES_MAX) {
            return Ok(Vec::new());
        }
        let leaked = CredentialLeakedV1 { credential, place, place_id, source };
        let mut facts = vec![Event::CredentialLeaked(leaked).into()];
        if alive {
            let end = Fact { event: revoked(credential, RevokeReason::Leaked, None), cause: Some(0) };
            end_with_companion(team, credential, end, now, &mut facts);
        }
        Ok(facts)
    }
}

/// Records that a credential is still presented after its end: an old key lives on somewhere.
#[derive(Clone, Copy, Debug)]
pub struct NoteDeadKey {
    /// Which.
    pub credential: CredentialId,
    /// When; in the future it counts as now.
    pub at: Timestamp,
    /// On which surface, if it was said.
    pub surface: Option<Surface>,
    /// From where.
    pub address: AddressClass,
}

impl NoteDeadKey {
    /// One fact a credential and UTC day; none for what is alive, nor for a day that has passed already.
    ///
    /// # Errors
    /// [`Refusal::UnknownCredential`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        let Self { credential, at, surface, address } = self;
        let key = team.credentials.get(&credential).ok_or(Refusal::UnknownCredential)?;
        let presented_at = at.min(now);
        if key.alive(now) || !key.is_first_of_its_day(presented_at) {
            return Ok(Vec::new());
        }
        let event = DeadKeyPresentedV1 { credential, presented_at, surface, address };
        Ok(vec![Event::DeadKeyPresented(event).into()])
    }
}

/// The UTC day of an instant, from 1970-01-01 on.
pub const fn day(at: Timestamp) -> u64 {
    at.micros() / DAY_US
}

impl Credential {
    /// Whether no event of this day or a later one says that it was presented after its end.
    pub(crate) fn is_first_of_its_day(&self, at: Timestamp) -> bool {
        self.dead_presented_at.is_none_or(|last| day(last) < day(at))
    }
}
