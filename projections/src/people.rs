//! Who is in which team as what, across all teams; and what each team is called.

use std::collections::{BTreeSet, HashMap};

use keyledger_events::{Event, PersonId, Record, TeamId, Timestamp, event::Role, seal::Label};
use serde::{Deserialize, Serialize};

use crate::{Digest, checkpoint::chunked};

/// All persons and teams. Changed by the projector only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    memberships: HashMap<PersonId, Memberships>,
    teams: HashMap<TeamId, Team>,
    erased: BTreeSet<PersonId>,
}

/// A person in a team, now or once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Their role, or the last they had.
    pub role: Role,
    /// What they were called when they joined last.
    pub label: Label,
    /// When they joined last.
    pub joined_at: Timestamp,
    /// When they left, if they have.
    pub departed_at: Option<Timestamp>,
}

/// A team as everybody in it sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Team {
    /// What its people call it.
    pub name: String,
    /// Since when it exists.
    pub created_at: Timestamp,
    /// Who owns it.
    pub owner: Option<PersonId>,
    /// How many members it has now.
    pub members: u32,
}

/// One fact of the state: what the digest counts and a checkpoint keeps.
#[derive(Serialize, Deserialize)]
enum Row {
    Membership(PersonId, TeamId, Membership),
    Team(TeamId, Team),
    Erased(PersonId),
}

/// What one person is or was in, by team. Mostly one, so a vector: a map's node would take room for eleven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Memberships(Vec<(TeamId, Membership)>);

impl Memberships {
    fn place(&self, team: TeamId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&team, |(team, _)| *team)
    }

    fn get(&self, team: TeamId) -> Option<&Membership> {
        self.place(team).ok().map(|at| &self.0[at].1)
    }

    fn get_mut(&mut self, team: TeamId) -> Option<&mut Membership> {
        self.place(team).ok().map(|at| &mut self.0[at].1)
    }

    /// Returns what stood there before.
    fn insert(&mut self, team: TeamId, membership: Membership) -> Option<Membership> {
        match self.place(team) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, membership)),
            Err(at) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, (team, membership));
                None
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (TeamId, &Membership)> {
        self.0.iter().map(|(team, membership)| (*team, membership))
    }
}

impl People {
    /// Takes in one event.
    pub fn apply(&mut self, record: &Record) {
        let (team, at) = (record.team, record.recorded_at);
        match &record.event {
            Event::TeamCreated(e) => {
                let fresh = Team { name: e.name.clone(), created_at: at, owner: None, members: 0 };
                self.teams.entry(team).or_insert(fresh);
            }
            Event::MemberJoined(e) => {
                let joined = Membership { role: e.role, label: e.name.clone(), joined_at: at, departed_at: None };
                let before = self.memberships.entry(e.member).or_default().insert(team, joined);
                if let Some(team) = self.teams.get_mut(&team) {
                    team.members += u32::from(before.is_none_or(|before| before.departed_at.is_some()));
                    team.note_role(e.member, e.role);
                }
            }
            Event::RoleChanged(e) => {
                if let Some(membership) = self.membership_mut(e.member, team) {
                    membership.role = e.to;
                }
                if let Some(team) = self.teams.get_mut(&team) {
                    team.note_role(e.member, e.to);
                }
            }
            Event::MemberDeparted(e) => {
                let Some(membership) = self.membership_mut(e.member, team) else { return };
                let was_present = membership.departed_at.is_none();
                membership.departed_at.get_or_insert(at);
                if let Some(team) = self.teams.get_mut(&team) {
                    team.members -= u32::from(was_present && team.members > 0);
                    team.owner = team.owner.filter(|owner| *owner != e.member);
                }
            }
            Event::PersonErased(e) => {
                self.erased.insert(e.person);
            }
            _ => {}
        }
    }

    /// The teams a person is in now, by id, each with their role.
    pub fn teams_of(&self, person: PersonId) -> Vec<(TeamId, Role)> {
        self.memberships_of(person)
            .filter(|(_, membership)| membership.departed_at.is_none())
            .map(|(team, membership)| (team, membership.role))
            .collect()
    }

    /// A person's role in a team, if they are in it now.
    pub fn role(&self, person: PersonId, team: TeamId) -> Option<Role> {
        self.membership(person, team).filter(|membership| membership.departed_at.is_none()).map(|found| found.role)
    }

    /// A person in a team, now or once.
    pub fn membership(&self, person: PersonId, team: TeamId) -> Option<&Membership> {
        self.memberships.get(&person)?.get(team)
    }

    /// Everything a person is or was in, by team.
    pub fn memberships_of(&self, person: PersonId) -> impl Iterator<Item = (TeamId, &Membership)> {
        self.memberships.get(&person).into_iter().flat_map(Memberships::iter)
    }

    /// Whether anything is known of this person.
    pub fn knows(&self, person: PersonId) -> bool {
        self.memberships.contains_key(&person)
    }

    /// What to call a person: as they were called in the team they joined last.
    pub fn label(&self, person: PersonId) -> Option<Label> {
        let latest = self
            .memberships
            .get(&person)?
            .iter()
            .map(|(_, membership)| membership)
            .max_by_key(|membership| membership.joined_at)?;
        Some(latest.label.clone())
    }

    /// Who owns a team.
    pub fn owner(&self, team: TeamId) -> Option<PersonId> {
        self.teams.get(&team)?.owner
    }

    /// How many teams there are, the system's own included.
    pub fn team_count(&self) -> usize {
        self.teams.len()
    }

    /// Everybody whose sealing key was erased.
    pub fn erased(&self) -> impl Iterator<Item = PersonId> {
        self.erased.iter().copied()
    }

    /// Whether this person's sealing key was erased.
    pub fn is_erased(&self, person: PersonId) -> bool {
        self.erased.contains(&person)
    }

    /// A team.
    pub fn team(&self, team: TeamId) -> Option<&Team> {
        self.teams.get(&team)
    }

    /// All teams, in no order.
    pub fn teams(&self) -> impl Iterator<Item = (TeamId, &Team)> {
        self.teams.iter().map(|(id, team)| (*id, team))
    }

    /// The digest: the sum over the postcard bytes of all rows.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for row in self.rows() {
            digest.add(&postcard::to_allocvec(&row).unwrap_or_default());
        }
        digest
    }

    /// The checkpoint: chunks of about `target_len` bytes, for [`People::restore`].
    pub(crate) fn chunks(&self, target_len: usize) -> Vec<Vec<u8>> {
        chunked(self.rows(), target_len, |row, chunk| postcard::to_extend(&row, chunk).unwrap_or_default())
    }

    /// The people of a checkpoint; `None` if the bytes are not one.
    pub(crate) fn restore<B: AsRef<[u8]>>(chunks: impl IntoIterator<Item = B>) -> Option<Self> {
        let mut people = Self::default();
        for chunk in chunks {
            let mut rest = chunk.as_ref();
            while !rest.is_empty() {
                let (row, behind) = postcard::take_from_bytes(rest).ok()?;
                rest = behind;
                match row {
                    Row::Membership(person, team, membership) => {
                        people.memberships.entry(person).or_default().insert(team, membership);
                    }
                    Row::Team(id, team) => drop(people.teams.insert(id, team)),
                    Row::Erased(person) => drop(people.erased.insert(person)),
                }
            }
        }
        Some(people)
    }

    fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let memberships = self.memberships.iter().flat_map(|(person, teams)| {
            teams.iter().map(|(team, membership)| Row::Membership(*person, team, membership.clone()))
        });
        let teams = self.teams.iter().map(|(id, team)| Row::Team(*id, team.clone()));
        memberships.chain(teams).chain(self.erased.iter().map(|person| Row::Erased(*person)))
    }

    fn membership_mut(&mut self, person: PersonId, team: TeamId) -> Option<&mut Membership> {
        self.memberships.get_mut(&person)?.get_mut(team)
    }
}

impl Team {
    fn note_role(&mut self, person: PersonId, role: Role) {
        if role == Role::Owner {
            self.owner = Some(person);
        } else {
            self.owner = self.owner.filter(|owner| *owner != person);
        }
    }
}

#[cfg(test)]
mod tests {
    use keyledger_events::event::{MemberDepartedV1, MemberJoinedV1, PersonErasedV1, RoleChangedV1, TeamCreatedV1};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{at, person, record, team};

    fn joined(member: u8, role: Role) -> Event {
        let name = Label::Clear(format!("person {member}"));
        Event::MemberJoined(MemberJoinedV1 { member: person(member), role, name, invited_by: None })
    }

    fn departed(member: u8) -> Event {
        Event::MemberDeparted(MemberDepartedV1 { member: person(member), left_by_themselves: false })
    }

    fn role_changed(member: u8, to: Role) -> Event {
        Event::RoleChanged(RoleChangedV1 { member: person(member), from: Role::Member, to })
    }

    #[test]
    fn people_come_change_and_go() {
        let mut people = People::default();
        let created = || Event::TeamCreated(TeamCreatedV1 { name: "Orion".into() });
        let story = [
            (0, 1, created()),
            (0, 1, joined(0, Role::Owner)),
            (1, 2, created()),
            (1, 2, joined(0, Role::Viewer)),
            (0, 3, joined(1, Role::Member)),
            (0, 4, role_changed(1, Role::Owner)),
            (0, 4, role_changed(0, Role::Admin)),
            (0, 5, departed(0)),
        ];
        story.iter().for_each(|(of, micros, event)| people.apply(&record(team(*of), *micros, event.clone())));
        assert_eq!(people.teams_of(person(0)), [(team(1), Role::Viewer)]);
        assert_eq!(people.membership(person(0), team(0)).unwrap().departed_at, Some(at(5)));
        assert_eq!(people.role(person(0), team(0)), None);
        let orion = people.team(team(0)).unwrap();
        assert_eq!((orion.owner, orion.members, orion.created_at), (Some(person(1)), 1, at(1)));
        // Back again, in another role.
        people.apply(&record(team(0), 6, joined(0, Role::Auditor)));
        assert_eq!(people.role(person(0), team(0)), Some(Role::Auditor));
        assert_eq!(people.team(team(0)).unwrap().members, 2);
        people.apply(&record(team(0), 7, Event::PersonErased(PersonErasedV1 { person: person(3) })));
        assert!(people.is_erased(person(3)) && !people.is_erased(person(0)));
    }

    proptest! {
        #[test]
        fn a_checkpoint_holds_everybody(
            steps in proptest::collection::vec((0u8..3, 0u8..6, 0usize..7), 0..60), target_len in 1usize..300,
        ) {
            let mut people = People::default();
            for (n, (of, member, what)) in (0..).zip(steps) {
                let event = match what {
                    0 => Event::TeamCreated(TeamCreatedV1 { name: format!("team {of}") }),
                    1 => joined(member, Role::Owner),
                    2 | 3 => joined(member, Role::Member),
                    4 => departed(member),
                    5 => role_changed(member, Role::ALL[usize::from(member) % 5]),
                    _ => Event::PersonErased(PersonErasedV1 { person: person(member) }),
                };
                people.apply(&record(team(of), n, event));
            }
            let restored = People::restore(people.chunks(target_len)).unwrap();
            prop_assert_eq!(restored.digest(), people.digest());
            prop_assert_eq!(restored, people);
        }

        #[test]
        fn restoring_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = People::restore([bytes]);
        }
    }
}
