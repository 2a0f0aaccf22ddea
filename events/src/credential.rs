//! A credential's life: issued, shortened, handed over, ended. Every rule of the contract's section 2 that is a decision.

mod end;
mod found;
mod issue;
mod rotate;

pub(crate) use self::end::{end_with_companion, revoked};
pub use self::{
    end::{Expire, Revoke, Revoker},
    found::{LEAK_PLACES_MAX, NoteDeadKey, ReportLeak, day},
    issue::{Issue, IssueService, PairDevice},
    rotate::{OVERLAP_SECONDS_MAX, Rotate},
};
use crate::{
    CredentialId, PersonId, PlaceId, Revision, Timestamp,
    event::Role,
    seal::Label,
    secret::{KeyPrefix, Kind, Secret, SecretHash},
    time::DAY_US,
};

/// The longest lifetime of any key, in days.
pub const LIFETIME_DAYS_MAX: u16 = 365;

/// What decisions know of a credential.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its kind.
    pub kind: Kind,
    /// Who answers for it.
    pub holder: PersonId,
    /// Who issued it.
    pub issued_by: PersonId,
    /// When.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// What it was issued for, in whole days; none: for ever. Shortening leaves this as it is.
    pub lifetime_days: Option<u16>,
    /// Its name.
    pub name: Label,
    /// What it is for.
    pub purpose: Option<String>,
    /// A device's companion.
    pub companion: Option<CredentialId>,
    /// A companion's device.
    pub companion_of: Option<CredentialId>,
    /// Whether an event has ended it.
    pub ended: bool,
    /// The last event that changed what it is worth or who answers for it.
    pub revision: Revision,
    /// The places where its secret was found, as far as they are recorded.
    pub leaks: Vec<PlaceId>,
    /// When it was last presented after its end, as far as that is recorded.
    pub dead_presented_at: Option<Timestamp>,
}

impl Credential {
    /// active(k,t): issued ≤ t < min(expires_at, revoked_at).
    pub fn alive(&self, now: Timestamp) -> bool {
        !self.ended && self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether a departure leaves it for somebody to decide on.
    pub fn survives_departure(&self) -> bool {
        matches!(self.kind, Kind::Integration | Kind::Agent) && self.companion_of.is_none()
    }

    /// Whether this is a device that lacks just this companion.
    pub(crate) fn takes_companion(&self, kind: Kind, holder: PersonId) -> bool {
        let free = self.kind == Kind::Device && self.companion.is_none() && !self.ended;
        free && kind == Kind::Agent && self.holder == holder
    }

    pub(crate) fn is_live_device_of(&self, member: PersonId, now: Timestamp) -> bool {
        self.kind == Kind::Device && self.holder == member && self.alive(now)
    }
}

/// A new secret, as far as the log may know it.
#[derive(Clone, Debug)]
pub struct KeyMaterial {
    /// The new credential's id.
    pub id: CredentialId,
    /// Its secret's hash.
    pub hash: SecretHash,
    /// Its secret's first characters.
    pub prefix: KeyPrefix,
}

impl KeyMaterial {
    /// Of a secret that was just drawn.
    pub fn new(id: CredentialId, secret: &Secret) -> Self {
        Self { id, hash: secret.hash(), prefix: secret.prefix() }
    }
}

/// Whether a role sees a credential at all: a member and a viewer see no devices (nor companions) but their own.
pub fn may_see(role: Role, person: PersonId, key: &Credential) -> bool {
    let personal = key.kind == Kind::Device || key.companion_of.is_some();
    !personal || key.holder == person || matches!(role, Role::Owner | Role::Admin | Role::Auditor)
}

/// The lifetime between two instants in whole days, at least one.
pub(crate) fn days_between(from: Timestamp, to: Timestamp) -> u16 {
    (to.since(from).as_micros() as u64).div_ceil(DAY_US).clamp(1, u64::from(LIFETIME_DAYS_MAX)) as u16
}
