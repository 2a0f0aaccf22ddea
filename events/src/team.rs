//! A team: its people, its rules, and what they decide about themselves.
//!
//! [`TeamState`] is what a decision knows: one team's stream, folded. The decisions about credentials are in
//! [`crate::credential`]; they share the state, because a departure is about both.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    CredentialId, Event, PersonId, Revision, TeamId, Timestamp,
    credential::{self, Credential},
    event::{
        CredentialHandedOverV1, MemberDepartedV1, MemberJoinedV1, PairingDeniedV1, PersonErasedV1, PolicyChangedV1,
        PolicyV1, RevokeReason, Role, RoleChangedV1, TeamCreatedV1,
    },
    record::{Actor, Record, RecordHash, StreamHead},
    seal::Label,
    secret::Kind,
};

/// How many live devices one member may have: their departure must fit one commit.
pub const DEVICES_PER_MEMBER_MAX: usize = 100;
/// How many keys one departure decides on: with all devices of the member and the longest request context they fit one
/// commit (a test builds the biggest). Whoever holds more is removed first; the rest is decided on in further rounds.
pub const DEPARTURE_KEYS_MAX: usize = 1_000;

/// One team's stream, folded as far as decisions need it. Owned by whoever decides; only [`TeamState::apply`] changes it.
#[derive(Clone, Debug, Default)]
pub struct TeamState {
    /// Whose stream this is; `None` before the first event.
    pub team: Option<TeamId>,
    /// The last event folded in; `None` before the first.
    pub head: Option<StreamHead>,
    /// When that was recorded.
    pub recorded_at: Timestamp,
    /// The rules for new keys.
    pub policy: PolicyV1,
    /// Everybody who ever was a member.
    pub members: BTreeMap<PersonId, Member>,
    /// Every credential ever issued.
    pub credentials: HashMap<CredentialId, Credential>,
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
        }
    }
}

/// What the facts of a decision are, or why there are none.
pub type Decision = Result<Vec<Fact>, Refusal>;

/// Creates a team with its owner.
#[derive(Clone, Debug)]
pub struct CreateTeam {
    /// What its people call it.
    pub name: String,
    /// Its first owner.
    pub owner: PersonId,
    /// What to call them.
    pub owner_name: Label,
}

impl CreateTeam {
    /// # Errors
    /// None at present; team ids are random, so the stream is new.
    pub fn decide(self) -> Decision {
        Ok(vec![
            Event::TeamCreated(TeamCreatedV1 { name: self.name }).into(),
            Event::MemberJoined(MemberJoinedV1 {
                member: self.owner,
                role: Role::Owner,
                name: self.owner_name,
                invited_by: None,
            })
            .into(),
        ])
    }
}

/// Sets the rules for new keys.
#[derive(Clone, Debug)]
pub struct ChangePolicy {
    /// Who.
    pub actor: PersonId,
    /// What shall hold.
    pub policy: PolicyV1,
}

impl ChangePolicy {
    /// # Errors
    /// [`Refusal`]: not an admin, or a lifetime out of range.
    pub fn decide(self, team: &TeamState) -> Decision {
        team.admin(self.actor)?;
        if !self.policy.is_possible() {
            return Err(Refusal::LifetimeOutOfRange);
        }
        if self.policy == team.policy {
            return Ok(Vec::new());
        }
        Ok(vec![Event::PolicyChanged(PolicyChangedV1 { policy: self.policy }).into()])
    }
}

/// Follows an invitation.
#[derive(Clone, Debug)]
pub struct Join {
    /// Who.
    pub member: PersonId,
    /// What to call them.
    pub name: Label,
    /// As what.
    pub role: Role,
    /// Who invited them.
    pub invited_by: PersonId,
}

impl Join {
    /// # Errors
    /// [`Refusal`]: a member already, or the inviter may no longer invite.
    pub fn decide(self, team: &TeamState) -> Decision {
        may_invite(team, self.invited_by, self.role)?;
        if team.present(self.member).is_some() {
            return Err(Refusal::AlreadyMember);
        }
        let Self { member, name, role, invited_by } = self;
        Ok(vec![
            Event::MemberJoined(MemberJoinedV1 { member, role, name, invited_by: Some(invited_by) }).into(),
        ])
    }
}

/// Whether `actor` may invite somebody as `role`.
///
/// # Errors
/// [`Refusal`].
pub fn may_invite(team: &TeamState, actor: PersonId, role: Role) -> Result<(), Refusal> {
    team.admin(actor)?;
    if role == Role::Owner { Err(Refusal::Forbidden) } else { Ok(()) }
}

/// Gives a member another role. Making somebody the owner makes the owner an admin.
#[derive(Clone, Debug)]
pub struct ChangeRole {
    /// Who.
    pub actor: PersonId,
    /// Whose.
    pub member: PersonId,
    /// Which.
    pub role: Role,
}

impl ChangeRole {
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState) -> Decision {
        let actor_role = team.admin(self.actor)?;
        let from = team.present(self.member).ok_or(Refusal::UnknownMember)?;
        if from == self.role {
            return Ok(Vec::new());
        }
        if from == Role::Owner {
            return Err(Refusal::OwnerStays);
        }
        let change = |member, from, to| Event::RoleChanged(RoleChangedV1 { member, from, to });
        let mut facts = vec![change(self.member, from, self.role).into()];
        if self.role == Role::Owner {
            if actor_role != Role::Owner {
                return Err(Refusal::Forbidden);
            }
            facts.push(Fact { event: change(self.actor, Role::Owner, Role::Admin), cause: Some(0) });
        }
        Ok(facts)
    }
}

/// Removes a member, or lets them leave. Their devices end with it; what else they hold stays until somebody decides.
#[derive(Clone, Debug)]
pub struct RemoveMember {
    /// Who; the member themselves: they leave.
    pub actor: PersonId,
    /// Whom.
    pub member: PersonId,
}

impl RemoveMember {
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        let left_by_themselves = self.actor == self.member;
        if !left_by_themselves {
            team.admin(self.actor)?;
        }
        match team.present(self.member) {
            None if left_by_themselves => Err(Refusal::UnknownTeam),
            None => Err(Refusal::UnknownMember),
            Some(Role::Owner) => Err(Refusal::OwnerStays),
            Some(_) => Ok(departure(team, self.member, left_by_themselves, now)),
        }
    }
}

/// Decides on what a departing (or departed) member holds, and removes them, all in one commit.
#[derive(Clone, Debug)]
pub struct Depart {
    /// Who decides.
    pub actor: PersonId,
    /// Who leaves.
    pub member: PersonId,
    /// Which of their keys end.
    pub revoke: Vec<CredentialId>,
    /// Which of their keys go to whom.
    pub hand_over: Vec<(CredentialId, PersonId)>,
    /// The team's last revision as the decision knew it.
    pub expected_revision: Revision,
}

impl Depart {
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        team.admin(self.actor)?;
        let member = team.members.get(&self.member).ok_or(Refusal::UnknownMember)?;
        if let Some(head) = team.head.filter(|head| head.revision != self.expected_revision) {
            return Err(Refusal::Stale { actual: head.revision });
        }
        if !member.departed && member.role == Role::Owner {
            return Err(Refusal::OwnerStays);
        }
        if self.revoke.len() + self.hand_over.len() > DEPARTURE_KEYS_MAX {
            return Err(Refusal::TooManyKeys);
        }
        let mut facts =
            if member.departed { Vec::new() } else { departure(team, self.member, self.actor == self.member, now) };
        let cause = (!facts.is_empty()).then_some(0);
        let mut decided = HashSet::new();
        let mut theirs = |id: CredentialId| match team.credentials.get(&id) {
            Some(key) if key.holder == self.member && key.alive(now) && key.survives_departure() => {
                if decided.insert(id) { Ok(()) } else { Err(Refusal::DecidedTwice(id)) }
            }
            Some(_) => Err(Refusal::NotTheirs(id)),
            None => Err(Refusal::UnknownCredential),
        };
        for id in self.revoke {
            theirs(id)?;
            facts.push(Fact { event: credential::revoked(id, RevokeReason::MemberDeparted, None), cause });
        }
        for (id, to) in self.hand_over {
            theirs(id)?;
            if to == self.member || !team.present(to).is_some_and(may_hold) {
                return Err(Refusal::NotAHeir);
            }
            let event = Event::CredentialHandedOver(CredentialHandedOverV1 { credential: id, from: self.member, to });
            facts.push(Fact { event, cause });
        }
        Ok(facts)
    }
}

/// The member goes, and their devices with their companions.
fn departure(team: &TeamState, member: PersonId, left_by_themselves: bool, now: Timestamp) -> Vec<Fact> {
    let mut facts = vec![Event::MemberDeparted(MemberDepartedV1 { member, left_by_themselves }).into()];
    let mut devices: Vec<_> =
        team.credentials.iter().filter(|(_, key)| key.is_live_device_of(member, now)).map(|(id, _)| *id).collect();
    devices.sort();
    for device in devices {
        let event = credential::revoked(device, RevokeReason::MemberDeparted, None);
        credential::end_with_companion(team, device, Fact { event, cause: Some(0) }, now, &mut facts);
    }
    facts
}

/// Refuses a pairing, on the record.
#[derive(Clone, Debug)]
pub struct DenyPairing {
    /// Who.
    pub actor: PersonId,
    /// What the device called itself.
    pub device_name: Label,
}

impl DenyPairing {
    /// # Errors
    /// [`Refusal::UnknownTeam`].
    pub fn decide(self, team: &TeamState) -> Decision {
        team.role(self.actor)?;
        Ok(vec![Event::PairingDenied(PairingDeniedV1 { device_name: self.device_name }).into()])
    }
}

/// Erases a person's sealing key, on the record of the system stream. The caller destroys the key once this is durable.
#[derive(Clone, Debug)]
pub struct ErasePerson {
    /// Who: an operator.
    pub actor: PersonId,
    /// Whom.
    pub person: PersonId,
    /// Whether they are still in any team.
    pub still_member: bool,
}

impl ErasePerson {
    /// # Errors
    /// [`Refusal`]. `system` is the system stream's state.
    pub fn decide(self, system: &TeamState) -> Decision {
        system.operator(self.actor)?;
        if self.still_member {
            return Err(Refusal::StillMember);
        }
        Ok(vec![Event::PersonErased(PersonErasedV1 { person: self.person }).into()])
    }
}

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

    /// Folds one more event in. `hash` is the record's. The chain itself is [`crate::record::follow_chain`]'s to check.
    ///
    /// # Errors
    /// [`Impossible`] if the event can't follow what came before: the log was not written by decisions. The state is
    /// then of no use.
    pub fn apply(&mut self, record: &Record, hash: RecordHash) -> Result<(), Impossible> {
        let first = self.head.is_none();
        let team = *self.team.get_or_insert(record.team);
        self.head = Some(StreamHead { revision: record.revision, hash });
        self.recorded_at = record.recorded_at;
        self.fold(record, team, first).map_err(|why| Impossible { revision: record.revision, why })
    }

    fn fold(&mut self, record: &Record, team: TeamId, first: bool) -> Result<(), &'static str> {
        ensure(record.team == team, "an event of another team")?;
        ensure(matches!(record.event, Event::TeamCreated(_)) == first, "a team begins once, and first of all")?;
        match &record.event {
            Event::TeamCreated(_) | Event::PairingDenied(_) => {}
            Event::PersonErased(_) => ensure(team == TeamId::SYSTEM, "a person is erased outside the system stream")?,
            Event::PolicyChanged(e) => {
                ensure(e.policy.is_possible(), "a policy looser than the ledger's")?;
                self.policy = e.policy;
            }
            Event::MemberJoined(e) => {
                let joined = Member { role: e.role, departed: false };
                let before = self.members.insert(e.member, joined);
                ensure(before.is_none_or(|before| before.departed), "a member joins twice")?;
                ensure(e.role != Role::Owner || self.members.len() == 1, "somebody joins as a second owner")?;
            }
            Event::RoleChanged(e) => {
                let member = self.members.get_mut(&e.member).ok_or("a stranger's role changes")?;
                ensure(!member.departed && member.role == e.from, "a role changes that nobody had")?;
                member.role = e.to;
            }
            Event::MemberDeparted(e) => {
                let member = self.members.get_mut(&e.member).ok_or("a stranger departs")?;
                ensure(!member.departed && member.role != Role::Owner, "the owner, or a member who has left, departs")?;
                member.departed = true;
            }
            Event::CredentialIssued(e) => {
                ensure(e.kind != Kind::Service, "a service credential is issued to a team")?;
                if let Some(device) = e.companion_of {
                    let device = self.credentials.get_mut(&device).filter(|key| key.takes_companion(e.kind, e.holder));
                    device.ok_or("a companion without its device")?.companion = Some(e.credential);
                }
                let key = Credential {
                    name: e.name.clone(),
                    purpose: e.purpose.clone(),
                    companion_of: e.companion_of,
                    ..issued(record, e.kind, e.holder, e.expires_at)
                };
                self.issue(record, e.credential, key)?;
            }
            Event::ServiceCredentialIssued(e) => {
                ensure(team == TeamId::SYSTEM, "a service credential is issued outside the system stream")?;
                let name = Label::Clear(e.name.clone());
                let key = Credential { name, ..issued(record, Kind::Service, e.holder, e.expires_at) };
                self.issue(record, e.credential, key)?;
            }
            Event::CredentialRevoked(_) => self.live(record)?.ended = true,
            Event::CredentialCascadeRevoked(e) => {
                let key = self.live(record)?;
                ensure(key.companion_of == Some(e.device), "a cascade from another's device")?;
                key.ended = true;
                let device = self.credentials.get(&e.device);
                ensure(device.is_some_and(|device| device.ended), "a cascade from a living device")?;
            }
            Event::CredentialExpired(e) => {
                let due = e.effective_at <= record.recorded_at;
                let key = self.live(record)?;
                ensure(due && key.expires_at == Some(e.effective_at), "an expiry before its time")?;
                key.ended = true;
            }
            Event::ExpiryShortened(e) => {
                by_people_only(record)?;
                let key = self.live(record)?;
                let shorter = key.expires_at.is_none_or(|end| e.to < end);
                ensure(shorter && key.expires_at == e.from, "an expiry that is not shortened")?;
                key.expires_at = Some(e.to);
            }
            Event::CredentialHandedOver(e) => {
                by_people_only(record)?;
                let heir = self.present(e.to).is_some_and(may_hold);
                let key = self.live(record)?;
                ensure(heir && key.holder == e.from && key.survives_departure(), "handed over by or to the wrong one")?;
                key.holder = e.to;
            }
        }
        Ok(())
    }

    fn issue(&mut self, record: &Record, id: CredentialId, key: Credential) -> Result<(), &'static str> {
        by_people_only(record)?;
        ensure(self.present(key.holder).is_some_and(may_hold), "issued for somebody who may hold no key")?;
        ensure(self.credentials.insert(id, key).is_none(), "a credential is issued twice")
    }

    fn live(&mut self, record: &Record) -> Result<&mut Credential, &'static str> {
        let id = record.event.credential().ok_or("about no credential")?;
        let key = self.credentials.get_mut(&id).filter(|key| !key.ended);
        let key = key.ok_or("what has ended, or never was, changes")?;
        key.revision = record.revision;
        Ok(key)
    }
}

fn ensure(holds: bool, why: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(why) }
}

/// Rule 5: a stolen key can't mint another, nor let one live on under somebody else's name.
fn by_people_only(record: &Record) -> Result<(), &'static str> {
    ensure(!matches!(record.meta.actor, Actor::Credential(_)), "a credential manages credentials")
}

/// Whether a role may issue keys, and so be handed one.
pub(crate) fn may_hold(role: Role) -> bool {
    matches!(role, Role::Owner | Role::Admin | Role::Member)
}

/// A credential as every kind of issue leaves it.
fn issued(record: &Record, kind: Kind, holder: PersonId, expires_at: Option<Timestamp>) -> Credential {
    let issued_by = match record.meta.actor {
        Actor::Person(person) => person,
        Actor::Credential(_) | Actor::System => holder,
    };
    Credential {
        kind,
        holder,
        issued_by,
        issued_at: record.recorded_at,
        expires_at,
        lifetime_days: expires_at.map(|end| credential::days_between(record.recorded_at, end)),
        name: Label::Clear(String::new()),
        purpose: None,
        companion: None,
        companion_of: None,
        ended: false,
        revision: record.revision,
    }
}

/// An event that can't follow what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {revision}: {why}")]
pub struct Impossible {
    /// Where in the team's stream.
    pub revision: Revision,
    /// What is wrong.
    pub why: &'static str,
}
