//! Why a command is refused: one name a reason, for people and for programs.

use super::{DEPARTURE_KEYS_MAX, DEVICES_PER_MEMBER_MAX, WEBHOOK_URL_LEN_MAX, WEBHOOKS_PER_TEAM_MAX};
use crate::{CredentialId, Revision};

/// Why a command is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such team, or the actor is not in it: the same answer for both.
    #[error("no such team")]
    UnknownTeam,
    /// The actor's role does not allow it.
    #[error("your role in this team does not allow this")]
    Forbidden,
    /// No such credential in this team.
    #[error("no such credential")]
    UnknownCredential,
    /// No such member in this team.
    #[error("no such member")]
    UnknownMember,
    /// The credential has ended.
    #[error("the credential has ended")]
    Ended,
    /// Devices and their companions are issued by pairing, service credentials by the operator: none is rotated.
    #[error("only integration and agent keys are rotated; pair a device again, issue a service credential anew")]
    NotRotatable,
    /// The lifetime is longer than the team's policy allows.
    #[error("this team's keys live for at most {days_max} days")]
    LifetimeTooLong {
        /// What the policy allows.
        days_max: u16,
    },
    /// The team's policy wants every key to expire.
    #[error("this team's keys must expire")]
    NeverNotAllowed,
    /// Lifetimes are 1–365 days.
    #[error("a lifetime is 1 to 365 days")]
    LifetimeOutOfRange,
    /// The person is in the team already.
    #[error("already a member of this team")]
    AlreadyMember,
    /// A team always has exactly one owner.
    #[error("the owner can't leave or step down; transfer the ownership first")]
    OwnerStays,
    /// A key is handed over to somebody in the team who may issue keys.
    #[error("a key can only be handed over to a present member who may issue keys")]
    NotAHeir,
    /// Only keys that the departing member holds are decided on.
    #[error("credential {0} is not a live key of that member")]
    NotTheirs(CredentialId),
    /// The same key twice in one decision.
    #[error("credential {0} is named twice")]
    DecidedTwice(CredentialId),
    /// The team has changed since the decision was prepared.
    #[error("the team has changed since; its revision is {actual}")]
    Stale {
        /// The team's last revision.
        actual: Revision,
    },
    /// See [`DEVICES_PER_MEMBER_MAX`].
    #[error("a member has at most {DEVICES_PER_MEMBER_MAX} devices; revoke one first")]
    TooManyDevices,
    /// See [`DEPARTURE_KEYS_MAX`].
    #[error("one decision is about at most {DEPARTURE_KEYS_MAX} keys; decide on the rest afterwards")]
    TooManyKeys,
    /// Only a person who is in no team can be erased.
    #[error("this person is still a member; remove them first")]
    StillMember,
    /// No such endpoint in this team.
    #[error("no such webhook")]
    UnknownWebhook,
    /// See [`WEBHOOKS_PER_TEAM_MAX`].
    #[error("a team has at most {WEBHOOKS_PER_TEAM_MAX} webhooks; remove one first")]
    TooManyWebhooks,
    /// Events are sent nowhere but to an https URL of visible ASCII.
    #[error("a webhook's url begins with https:// and has at most {WEBHOOK_URL_LEN_MAX} visible ASCII characters")]
    NotAWebhookUrl,
    /// Nothing is ever of such a type. Which one is not repeated: it may be a secret in the wrong place.
    #[error("one of the types is no type of event")]
    UnknownEventType,
}

impl Refusal {
    /// A stable code for clients.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownTeam => "unknown_team",
            Self::Forbidden => "forbidden",
            Self::UnknownCredential => "unknown_credential",
            Self::UnknownMember => "unknown_member",
            Self::Ended => "credential_ended",
            Self::NotRotatable => "not_rotatable",
            Self::LifetimeTooLong { .. } => "lifetime_too_long",
            Self::NeverNotAllowed => "never_not_allowed",
            Self::LifetimeOutOfRange => "lifetime_out_of_range",
            Self::AlreadyMember => "already_member",
            Self::OwnerStays => "owner_stays",
            Self::NotAHeir => "not_an_heir",
            Self::NotTheirs(_) => "not_theirs",
            Self::DecidedTwice(_) => "decided_twice",
            Self::Stale { .. } => "stale_revision",
            Self::TooManyDevices => "too_many_devices",
            Self::TooManyKeys => "too_many_keys",
            Self::StillMember => "still_member",
            Self::UnknownWebhook => "unknown_webhook",
            Self::TooManyWebhooks => "too_many_webhooks",
            Self::NotAWebhookUrl => "invalid_webhook_url",
            Self::UnknownEventType => "unknown_event_type",
        }
    }
}
