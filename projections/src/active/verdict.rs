//! What the verifier is asked and what it answers.

pub use keyledger_events::presented::{Surface, UnknownSurface};
use keyledger_events::{CredentialId, PersonId, TeamId, Timestamp, secret::Kind};

/// An entry of the index, for as long as this index lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub(super) u32);

impl Handle {
    pub(crate) const fn number(self) -> u32 {
        self.0
    }
}

/// An accepted credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its id.
    pub credential: CredentialId,
    /// Its kind.
    pub kind: Kind,
    /// The team it belongs to.
    pub team: TeamId,
    /// Who answers for it.
    pub holder: PersonId,
    /// When it ends by itself; none: never.
    pub expires_at: Option<Timestamp>,
    /// Where its name lies: [`super::Active::name`].
    pub handle: Handle,
}

/// What is known of a credential, dead or alive: for the ledger's own work, never for whoever presents a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub credential: CredentialId,
    /// Its kind.
    pub kind: Kind,
    /// The team it belongs to.
    pub team: TeamId,
    /// Who answers for it.
    pub holder: PersonId,
    /// Whether it would be accepted.
    pub alive: bool,
}

/// Why a credential is not accepted. Whoever presents it learns of [`Denied::WrongSurface`] and nothing else: all the
/// others look alike to them. The precise code is for the team's own people and for services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Not of the format this ledger issues. No look-up was made.
    #[error("not a well-formed credential")]
    Malformed,
    /// Never issued.
    #[error("unknown credential")]
    Unknown,
    /// Ended by somebody, or with its device.
    #[error("revoked credential")]
    Revoked,
    /// Past its end.
    #[error("expired credential")]
    Expired,
    /// Another team's, alive or not.
    #[error("a credential of another team")]
    WrongTeam,
    /// Alive and of the right team, but of a kind that this surface does not take.
    #[error("a credential of a kind that this surface does not take")]
    WrongSurface(Verdict),
}

impl Denied {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::WrongTeam => "wrong_team",
            Self::WrongSurface(_) => "insufficient_scope",
        }
    }
}
