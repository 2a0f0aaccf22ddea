//! A team: its people, its rules, and what they decide about themselves.
//!
//! [`TeamState`] is what a decision knows: one team's stream, folded. The decisions about credentials are in
//! [`crate::credential`]; they share the state, because a departure is about both.

mod departure;
mod fold;
mod membership;
mod refusal;
mod seal;
mod webhook;

use std::collections::{BTreeMap, HashMap};

pub use self::{
    departure::{DEPARTURE_KEYS_MAX, Depart},
    fold::Impossible,
    membership::{ChangePolicy, ChangeRole, CreateTeam, DenyPairing, ErasePerson, Join, RemoveMember, may_invite},
    refusal::Refusal,
    seal::SealHistory,
    webhook::{
        AddWebhook, ChangeWebhook, EXPIRING, RemoveWebhook, WEBHOOK_URL_LEN_MAX, WEBHOOKS_PER_TEAM_MAX, Webhook,
        WebhookChange, webhook_type, webhook_types,
    },
};
use crate::{
    CredentialId, Event, PersonId, Position, TeamId, Timestamp, WebhookId,
    credential::Credential,
    event::{PolicyV1, Role},
    record::StreamHead,
};

/// How many live devices one member may have: their departure must fit one commit.
pub const DEVICES_PER_MEMBER_MAX: usize = 100;

/// One team's stream, folded as far as decisions need it. Owned by whoever decides; only [`TeamState::apply`] changes it.
#[derive(Clone, Debug, Default)]
pub struct TeamState {
    /// Whose stream this is; `None` before the first event.
    pub team: Option<TeamId>,
    /// The last event folded in; `None` before the first.
    pub head: Option<StreamHead>,
    /// When that was recorded.
    pub recorded_at: Timestamp,
    /// How many events the last seal is of; only in the system stream.
    pub sealed_through: Position,
    /// The rules for new keys.
    pub policy: PolicyV1,
    /// Everybody who ever was a member.
    pub members: BTreeMap<PersonId, Member>,
    /// Every credential ever issued.
    pub credentials: HashMap<CredentialId, Credential>,
    /// Where the team's events are sent.
    pub webhooks: BTreeMap<WebhookId, Webhook>,
}

/// A person in a team, now or once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Their role, or the last they had.
    pub role: Role,
    /// Whether they have left.
    pub departed: bool,
}

/// What a decision adds to the log: an event, and which earlier event of the same decision it follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The event.
    pub event: Event,
    /// The index of its cause among the decision's facts.
    pub cause: Option<usize>,
}

impl From<Event> for Fact {
    fn from(event: Event) -> Self {
        Self { event, cause: None }
    }
}

/// What the facts of a decision are, or why there are none.
pub type Decision = Result<Vec<Fact>, Refusal>;

impl TeamState {
    /// The role of somebody who is in the team.
    pub fn present(&self, person: PersonId) -> Option<Role> {
        self.members.get(&person).filter(|member| !member.departed).map(|member| member.role)
    }

    /// The actor's role.
    ///
    /// # Errors
    /// [`Refusal::UnknownTeam`] to whoever is not in it.
    pub fn role(&self, actor: PersonId) -> Result<Role, Refusal> {
        self.present(actor).ok_or(Refusal::UnknownTeam)
    }

    /// The actor's role, if it is admin or owner.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`] otherwise; [`Refusal::UnknownTeam`] to whoever is not in the team.
    pub fn admin(&self, actor: PersonId) -> Result<Role, Refusal> {
        match self.role(actor)? {
            role @ (Role::Owner | Role::Admin) => Ok(role),
            _ => Err(Refusal::Forbidden),
        }
    }

    /// Checks that the actor is one of the ledger's operators: an admin or the owner of the system stream.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`] to everybody in any other team, however powerful there.
    pub fn operator(&self, actor: PersonId) -> Result<(), Refusal> {
        self.admin(actor)?;
        if self.team == Some(TeamId::SYSTEM) { Ok(()) } else { Err(Refusal::Forbidden) }
    }
}

/// Whether a role may issue keys, and so be handed one.
pub(crate) fn may_hold(role: Role) -> bool {
    matches!(role, Role::Owner | Role::Admin | Role::Member)
}
