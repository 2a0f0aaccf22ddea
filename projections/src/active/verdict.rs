//! What the verifier is asked and what it answers.

use std::str::FromStr;

use keyledger_events::{CredentialId, PersonId, TeamId, Timestamp, secret::Kind};

/// Where a credential is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Surface {
    /// The products' programming interface.
    Runtime,
    /// Model Context Protocol servers.
    Mcp,
    /// The agents' interface.
    Agent,
    /// The ledger's own management calls, which never include credentials.
    Management,
}

impl Surface {
    /// All surfaces.
    pub const ALL: [Self; 4] = [Self::Runtime, Self::Mcp, Self::Agent, Self::Management];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Mcp => "mcp",
            Self::Agent => "agent",
            Self::Management => "management",
        }
    }

    /// Whether it takes credentials of this kind.
    pub const fn takes(self, kind: Kind) -> bool {
        match self {
            Self::Runtime => matches!(kind, Kind::Integration | Kind::Device),
            Self::Mcp => matches!(kind, Kind::Integration),
            Self::Agent => matches!(kind, Kind::Agent),
            Self::Management => matches!(kind, Kind::Device),
        }
    }
}

impl FromStr for Surface {
    type Err = UnknownSurface;

    fn from_str(text: &str) -> Result<Self, UnknownSurface> {
        Self::ALL.into_iter().find(|surface| surface.name() == text).ok_or(UnknownSurface)
    }
}

/// No surface has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a surface: runtime, mcp, agent or management")]
pub struct UnknownSurface;

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
