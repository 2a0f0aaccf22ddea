//! Ledgers for tests and benches, made by the domain's own decisions from a seed.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

pub mod bundle;
pub mod directory;

use std::{collections::HashMap, time::Duration};

use keyledger_events::{
    Commit, CommitBody, CommitNumber, CorrelationId, CredentialId, Event, EventId, OperationId, PersonId, Position,
    TeamId, Timestamp,
    commit::{Envelope, NewEvent, RequestDigest},
    credential::{Expire, Issue, KeyMaterial, PairDevice, Revoke, Revoker, Rotate},
    event::{HistorySealedV1, RevokeReason, Role},
    record::{Actor, AuthMethod, StreamHead},
    seal::{Label, Sealed},
    secret::{Kind, RANDOM_LEN, Secret},
    store::{Proposal, Store, memory::MemoryStore},
    stream_map::StreamMap,
    team::{ChangeRole, CreateTeam, Decision, Depart, Fact, Join, RemoveMember, TeamState},
};

/// SplitMix64: small, seeded, good enough to vary a history.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        bytes
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())]) }
    }
}

/// A ledger in the making.
pub struct Town {
    pub random: Random,
    pub now: Timestamp,
    pub teams: HashMap<TeamId, TeamState>,
    pub heads: HashMap<TeamId, StreamHead>,
    /// The teams in the order they were founded.
    pub founded: Vec<TeamId>,
    /// A team's credentials that may still be alive: so that long histories need not look through dead ones.
    pub recent: HashMap<TeamId, Vec<CredentialId>>,
    pub commits: u64,
    pub events: u64,
    /// How many credentials no event has ended, and from how many on more are ended than issued.
    pub live: usize,
    pub live_max: usize,
    /// What a request's context is sealed as, if commits carry one.
    pub context: Option<Sealed>,
}

pub const START: &str = "2026-03-03T12:00:00Z";

impl Town {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            now: START.parse().unwrap(),
            teams: HashMap::new(),
            heads: HashMap::new(),
            founded: Vec::new(),
            recent: HashMap::new(),
            commits: 0,
            events: 0,
            live: 0,
            live_max: usize::MAX,
            context: None,
        }
    }

    pub fn wait(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
    }

    pub fn key(&mut self, kind: Kind) -> KeyMaterial {
        let numbers: [u8; RANDOM_LEN] = self.random.bytes::<RANDOM_LEN>().map(|byte| byte % 62);
        KeyMaterial::new(CredentialId::from_bytes(self.random.bytes()), &Secret::new(kind, &numbers))
    }

    pub fn person(&mut self) -> PersonId {
        PersonId::from_bytes(self.random.bytes())
    }

    /// The commit a decision makes, already part of the town; `None` if it decided nothing.
    pub fn commit(&mut self, team: TeamId, actor: Actor, facts: Vec<Fact>) -> Option<Commit> {
        if facts.is_empty() {
            return None;
        }
        let commit = self.forge(team, actor, facts);
        let state = self.teams.entry(team).or_default();
        for placed in commit.records() {
            let placed = placed.unwrap();
            state.apply(&placed.record, placed.hash).unwrap();
            match &placed.record.event {
                Event::CredentialIssued(_) | Event::ServiceCredentialIssued(_) => self.live += 1,
                Event::CredentialRevoked(_) | Event::CredentialCascadeRevoked(_) | Event::CredentialExpired(_) => {
                    self.live -= 1;
                }
                _ => {}
            }
            if let Some(credential) = placed.record.event.credential() {
                let recent = self.recent.entry(team).or_default();
                if !recent.contains(&credential) {
                    recent.push(credential);
                }
            }
        }
        Some(commit)
    }

    /// A commit of any facts, possible or not, well formed and chained.
    pub fn forge(&mut self, team: TeamId, actor: Actor, facts: Vec<Fact>) -> Commit {
        let mut ids: Vec<EventId> = Vec::new();
        let events = facts
            .into_iter()
            .map(|fact| {
                let id = self.event_id();
                let cause = fact.cause.map(|index| ids[index]);
                ids.push(id);
                NewEvent { id, salt: self.random.bytes(), cause, event: fact.event }
            })
            .collect();
        let auth = match actor {
            Actor::Person(_) => AuthMethod::Session,
            Actor::Credential(_) => AuthMethod::Secret,
            Actor::System => AuthMethod::Internal,
        };
        let envelope = Envelope {
            team,
            recorded_at: self.now,
            actor,
            auth,
            correlation: CorrelationId::from_bytes(self.random.bytes()),
            context: self.context.clone(),
            operation: OperationId::from_bytes(self.random.bytes()),
            request: RequestDigest(self.random.bytes()),
        };
        let (body, head) = CommitBody::build(self.heads.get(&team).copied(), &envelope, events);
        self.heads.insert(team, head);
        let commit = Commit { number: CommitNumber(self.commits), first_position: Position(self.events), body };
        self.commits += 1;
        self.events = commit.end().0;
        commit
    }

    /// A commit of a decision that is expected to be granted and to do something.
    pub fn must(&mut self, team: TeamId, actor: Actor, decision: Decision) -> Commit {
        self.commit(team, actor, decision.unwrap()).unwrap()
    }

    fn event_id(&mut self) -> EventId {
        let mut bytes: [u8; 16] = self.random.bytes();
        bytes[..6].copy_from_slice(&(self.now.micros() / 1000).to_be_bytes()[2..]);
        bytes[6] = 0x70 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        EventId::from_bytes(bytes)
    }

    pub fn found(&mut self) -> Commit {
        let team = if self.founded.is_empty() { TeamId::SYSTEM } else { TeamId::from_bytes(self.random.bytes()) };
        let owner = self.person();
        self.founded.push(team);
        let name = format!("team {}", self.founded.len());
        let owner_name = clear("owner");
        self.must(team, Actor::System, CreateTeam { name, owner, owner_name }.decide())
    }

    /// Something happens somewhere; `None` if chance picked something impossible.
    pub fn step(&mut self) -> Option<Commit> {
        let gap_us = self.random.next() % 20_000_000;
        self.step_after(Duration::from_micros(gap_us), 20)
    }

    /// [`Town::step`] after a pause, with about `teams` teams in the end.
    pub fn step_after(&mut self, pause: Duration, teams: usize) -> Option<Commit> {
        self.wait(pause);
        if self.founded.len() < 2 || (self.founded.len() < teams && self.random.below(50) == 0) {
            return Some(self.found());
        }
        let pick = self.random.below(self.founded.len());
        let team = self.founded[pick];
        let dice = self.random.below(100);
        let dice = if self.live >= self.live_max && dice < 50 { 50 + dice % 25 } else { dice };
        let state = self.teams.get(&team)?;
        let members: Vec<PersonId> =
            state.members.iter().filter(|(_, member)| !member.departed).map(|(person, _)| *person).collect();
        let owner = *state.members.iter().find(|(_, member)| member.role == Role::Owner)?.0;
        let now = self.now;
        if let Some(recent) = self.recent.get_mut(&team) {
            recent.retain(|id| state.credentials.get(id).is_some_and(|key| !key.ended));
        }
        let alive: Vec<CredentialId> = self.recent.get(&team).cloned().unwrap_or_default();
        let key = self.random.pick(&alive);
        let member = self.random.pick(&members)?;
        let (actor, decision) = match dice {
            0..40 => {
                let kind = if dice.is_multiple_of(2) { Kind::Integration } else { Kind::Agent };
                let expires_in_days = [None, Some(1), Some(30), Some(365)][self.random.below(4)];
                let key = self.key(kind);
                let name = clear(&format!("key {}", self.events));
                let issue = Issue { actor: member, kind, name, purpose: None, expires_in_days, key };
                (Actor::Person(member), issue.decide(self.teams.get(&team)?, now))
            }
            40..50 => {
                let (device, companion) = (self.key(Kind::Device), self.key(Kind::Agent));
                let (name, companion_name) = (clear("laptop"), clear("laptop's agent"));
                let pair = PairDevice { actor: member, name, companion_name, device, companion };
                (Actor::Person(member), pair.decide(self.teams.get(&team)?, now))
            }
            50..75 => {
                let (credential, note) = (key?, dice.is_multiple_of(5).then(|| "found in a log".to_owned()));
                let by = Revoker::Person(owner);
                let reason = RevokeReason::Requested;
                (Actor::Person(owner), Revoke { by, credential, reason, note }.decide(self.teams.get(&team)?, now))
            }
            75..80 => {
                let (credential, by, reason) = (key?, Revoker::Holder, RevokeReason::SelfRevoked);
                let revoke = Revoke { by, credential, reason, note: None };
                (Actor::Credential(credential), revoke.decide(self.teams.get(&team)?, now))
            }
            80..85 => {
                let credential = key?;
                let kind = self.teams.get(&team)?.credentials.get(&credential)?.kind;
                let overlap_seconds = [0, 3600, 2_592_000][self.random.below(3)];
                let key = self.key(kind);
                let rotate = Rotate { actor: owner, credential, overlap_seconds, expires_in_days: None, key };
                (Actor::Person(owner), rotate.decide(self.teams.get(&team)?, now))
            }
            85..90 => {
                let state = self.teams.get(&team)?;
                let due = alive.iter().find(|id| {
                    state.credentials.get(id).is_some_and(|key| key.expires_at.is_some_and(|end| end <= now))
                });
                (Actor::System, Expire { credential: *due? }.decide(state, now))
            }
            90..95 => {
                let person = self.person();
                let role = [Role::Admin, Role::Member, Role::Viewer, Role::Auditor][self.random.below(4)];
                let join = Join { member: person, name: clear("somebody"), role, invited_by: owner };
                (Actor::Person(person), join.decide(self.teams.get(&team)?))
            }
            95..97 => {
                let role = Role::ALL[self.random.below(5)];
                let change = ChangeRole { actor: owner, member, role };
                (Actor::Person(owner), change.decide(self.teams.get(&team)?))
            }
            97 => {
                let actor = if self.random.below(2) == 0 { owner } else { member };
                (Actor::Person(actor), RemoveMember { actor, member }.decide(self.teams.get(&team)?, now))
            }
            _ => {
                let state = self.teams.get(&team)?;
                let theirs = |id: &&CredentialId| {
                    state
                        .credentials
                        .get(id)
                        .is_some_and(|key| key.holder == member && key.alive(now) && key.survives_departure())
                };
                let keys: Vec<CredentialId> = alive.iter().filter(theirs).copied().collect();
                let (revoke, rest) = keys.split_at(keys.len() / 2);
                let depart = Depart {
                    actor: owner,
                    member,
                    revoke: revoke.to_vec(),
                    hand_over: rest.iter().map(|id| (*id, owner)).collect(),
                    expected_revision: state.head?.revision,
                };
                (Actor::Person(owner), depart.decide(state, now))
            }
        };
        self.commit(team, actor, decision.ok()?)
    }

    /// Seals the whole of `commits`, which are all of this town's, and appends that to them.
    pub fn seal(&mut self, commits: &mut Vec<Commit>) {
        let seal = Event::HistorySealed(sealed(commits));
        commits.push(self.commit(TeamId::SYSTEM, Actor::System, vec![seal.into()]).unwrap());
    }

    /// At least so many events, all of them.
    pub fn history(&mut self, events: u64) -> Vec<Commit> {
        let mut commits = Vec::new();
        while self.events < events {
            commits.extend(self.step());
            // Now and then a long pause, so that expiries come due.
            if self.random.below(100) == 0 {
                self.wait(Duration::from_secs(20 * 3600));
            }
        }
        commits
    }
}

pub fn clear(text: &str) -> Label {
    Label::Clear(text.to_owned())
}

/// The map of all streams that these commits leave.
pub fn stream_map(commits: &[Commit]) -> StreamMap {
    let mut map = StreamMap::new();
    for commit in commits {
        let last = commit.records().last().unwrap().unwrap();
        map.insert(last.record.team, StreamHead { revision: last.record.revision, hash: last.hash });
    }
    map
}

/// What a seal of these commits says.
pub fn sealed(commits: &[Commit]) -> HistorySealedV1 {
    let mut map = stream_map(commits);
    let through = commits.last().map_or(Position(0), Commit::end);
    HistorySealedV1 { through, teams: map.teams(), root: map.root() }
}

/// The same commits in a log in memory.
pub fn store(commits: &[Commit]) -> MemoryStore {
    let store = MemoryStore::new();
    let mut heads = HashMap::new();
    for commit in commits {
        let team = commit.body.view().first().unwrap().team;
        let expected = heads.get(&team).copied();
        let proposal = Proposal { team, expected, body: commit.body.clone(), essential: false };
        let appended = store.append(proposal).unwrap();
        assert_eq!((appended.number, appended.first_position), (commit.number, commit.first_position));
        let last = commit.records().last().unwrap().unwrap();
        heads.insert(team, StreamHead { revision: last.record.revision, hash: last.hash });
    }
    store
}
