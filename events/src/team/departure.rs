//! A member goes: their devices end, and somebody decides on what else they hold.

use std::collections::HashSet;

use super::{Decision, Fact, Refusal, TeamState, may_hold};
use crate::{
    CredentialId, Event, PersonId, Revision, Timestamp,
    credential::{end_with_companion, revoked},
    event::{CredentialHandedOverV1, MemberDepartedV1, RevokeReason, Role},
};

/// How many keys one departure decides on: with all devices of the member and the longest request context they fit one
/// commit (a test builds the biggest). Whoever holds more is removed first; the rest is decided on in further rounds.
pub const DEPARTURE_KEYS_MAX: usize = 1_000;

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
            facts.push(Fact { event: revoked(id, RevokeReason::MemberDeparted, None), cause });
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
pub(super) fn departure(team: &TeamState, member: PersonId, left_by_themselves: bool, now: Timestamp) -> Vec<Fact> {
    let mut facts = vec![Event::MemberDeparted(MemberDepartedV1 { member, left_by_themselves }).into()];
    let mut devices: Vec<_> =
        team.credentials.iter().filter(|(_, key)| key.is_live_device_of(member, now)).map(|(id, _)| *id).collect();
    devices.sort();
    for device in devices {
        let event = revoked(device, RevokeReason::MemberDeparted, None);
        end_with_companion(team, device, Fact { event, cause: Some(0) }, now, &mut facts);
    }
    facts
}
