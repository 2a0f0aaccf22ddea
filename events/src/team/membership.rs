//! What a team decides about its people and its rules.

use super::{Decision, Fact, Refusal, TeamState, departure::departure};
use crate::{
    Event, PersonId, Timestamp,
    event::{
        MemberJoinedV1, PairingDeniedV1, PersonErasedV1, PolicyChangedV1, PolicyV1, Role, RoleChangedV1, TeamCreatedV1,
    },
    seal::Label,
};

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
