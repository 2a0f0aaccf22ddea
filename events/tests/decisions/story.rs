//! The language of the tables: given these commands, when this command, then these facts or this refusal.

use std::time::Duration;

use keyledger_events::{
    CommitBody, CorrelationId, CredentialId, Event, EventId, Meta, OperationId, PersonId, PlaceId, Record, RecordHash,
    Revision, TeamId, Timestamp,
    commit::{COMMIT_FORMAT, Envelope, NewEvent, RequestDigest},
    credential::{
        Credential, Expire, Issue, IssueService, KeyMaterial, NoteDeadKey, PairDevice, ReportLeak, Revoke, Revoker,
        Rotate,
    },
    event::{PolicyV1, RevokeReason, Role},
    presented::{AddressClass, Surface},
    record::{self, Actor, AuthMethod, RecordHeader, StreamHead},
    seal::{Label, Sealed},
    secret::{Kind, RANDOM_LEN, Secret},
    team::{
        ChangePolicy, ChangeRole, CreateTeam, Decision, DenyPairing, Depart, ErasePerson, Fact, Join, Refusal,
        RemoveMember, TeamState,
    },
};

use crate::words::show;

pub const ACME: TeamId = TeamId::from_bytes([0xac; 16]);
pub const OWNER: PersonId = PersonId::from_bytes([1; 16]);
pub const ADMIN: PersonId = PersonId::from_bytes([2; 16]);
pub const MEMBER: PersonId = PersonId::from_bytes([3; 16]);
pub const OTHER: PersonId = PersonId::from_bytes([4; 16]);
pub const VIEWER: PersonId = PersonId::from_bytes([5; 16]);
pub const AUDITOR: PersonId = PersonId::from_bytes([6; 16]);
pub const STRANGER: PersonId = PersonId::from_bytes([7; 16]);
/// Everybody, most powerful first.
pub const PEOPLE: [PersonId; 7] = [OWNER, ADMIN, MEMBER, OTHER, VIEWER, AUDITOR, STRANGER];

/// 2026-03-03T12:00:00Z.
pub const START: Timestamp = Timestamp::from_micros(1_772_539_200_000_000);
pub const DAY: Duration = Duration::from_secs(86_400);
pub const MICROSECOND: Duration = Duration::from_micros(1);

/// A credential in a table: `k1` is `key(1)`.
pub type Key = u32;

pub fn key(number: Key) -> CredentialId {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    CredentialId::from_bytes(bytes)
}

pub fn material(kind: Kind, number: Key) -> KeyMaterial {
    let mut random = [0; RANDOM_LEN];
    for (place, digit) in random.iter_mut().zip(number.to_be_bytes()) {
        *place = digit % 62;
    }
    KeyMaterial::new(key(number), &Secret::new(kind, &random))
}

/// Any command, on keys by number.
#[derive(Clone, Debug)]
pub enum When {
    Issue { by: PersonId, kind: Kind, days: Option<u16>, new: Key },
    Pair { by: PersonId, device: Key, companion: Key },
    IssueService { by: PersonId, days: Option<u16>, new: Key },
    Revoke { by: PersonId, key: Key },
    RevokeSelf { key: Key },
    Rotate { by: PersonId, key: Key, overlap_seconds: u32, days: Option<u16>, new: Key },
    Expire { key: Key },
    Policy { by: PersonId, policy: PolicyV1 },
    Join { member: PersonId, role: Role, invited_by: PersonId },
    Role { by: PersonId, member: PersonId, role: Role },
    Remove { by: PersonId, member: PersonId },
    Depart { by: PersonId, member: PersonId, revoke: Vec<Key>, hand_over: Vec<(Key, PersonId)>, revision: Option<u64> },
    Deny { by: PersonId },
    Erase { by: PersonId, person: PersonId, still_member: bool },
    Leak { by: Option<PersonId>, key: Key, place: u8 },
    Knock { key: Key, ago: Duration },
    KnockAhead { key: Key, by: Duration },
}

pub fn issue(by: PersonId, kind: Kind, days: impl Into<Option<u16>>, new: Key) -> When {
    When::Issue { by, kind, days: days.into(), new }
}

pub fn sk(by: PersonId, new: Key) -> When {
    issue(by, Kind::Integration, None, new)
}

/// Pairs a device; its companion is the next number.
pub fn pair(by: PersonId, device: Key) -> When {
    When::Pair { by, device, companion: device + 1 }
}

pub fn revoke(by: PersonId, key: Key) -> When {
    When::Revoke { by, key }
}

pub fn rotate(by: PersonId, key: Key, overlap_seconds: u32, new: Key) -> When {
    When::Rotate { by, key, overlap_seconds, days: None, new }
}

pub fn role(by: PersonId, member: PersonId, role: Role) -> When {
    When::Role { by, member, role }
}

pub fn remove(by: PersonId, member: PersonId) -> When {
    When::Remove { by, member }
}

pub fn join(member: PersonId, role: Role, invited_by: PersonId) -> When {
    When::Join { member, role, invited_by }
}

pub fn policy(by: PersonId, lifetime_days_max: u16, never_allowed: bool, admins_only: bool) -> When {
    When::Policy { by, policy: PolicyV1 { lifetime_days_max, never_allowed, admins_only } }
}

impl When {
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        let name = Label::Clear("a key".into());
        match self {
            Self::Issue { by, kind, days, new } => {
                let key = material(kind, new);
                Issue { actor: by, kind, name, purpose: None, expires_in_days: days, key }.decide(team, now)
            }
            Self::Pair { by, device, companion } => {
                let (device, companion) = (material(Kind::Device, device), material(Kind::Agent, companion));
                let name = sealed(by);
                PairDevice { actor: by, companion_name: name.clone(), name, device, companion }.decide(team, now)
            }
            Self::IssueService { by, days, new } => {
                let key = material(Kind::Service, new);
                IssueService { actor: by, name: "edge".into(), expires_in_days: days, key }.decide(team, now)
            }
            Self::Revoke { by, key: number } => {
                let by = Revoker::Person(by);
                Revoke { by, credential: key(number), reason: RevokeReason::Requested, note: None }.decide(team, now)
            }
            Self::RevokeSelf { key: number } => {
                let by = Revoker::Holder;
                Revoke { by, credential: key(number), reason: RevokeReason::SelfRevoked, note: None }.decide(team, now)
            }
            Self::Rotate { by, key: number, overlap_seconds, days, new } => {
                let kind = team.credentials.get(&key(number)).map_or(Kind::Integration, |key| key.kind);
                let (credential, new) = (key(number), material(kind, new));
                Rotate { actor: by, credential, overlap_seconds, expires_in_days: days, key: new }.decide(team, now)
            }
            Self::Expire { key: number } => Expire { credential: key(number) }.decide(team, now),
            Self::Policy { by, policy } => ChangePolicy { actor: by, policy }.decide(team),
            Self::Join { member, role, invited_by } => {
                Join { member, name: sealed(member), role, invited_by }.decide(team)
            }
            Self::Role { by, member, role } => ChangeRole { actor: by, member, role }.decide(team),
            Self::Remove { by, member } => RemoveMember { actor: by, member }.decide(team, now),
            Self::Depart { by, member, revoke, hand_over, revision } => {
                let revoke = revoke.into_iter().map(key).collect();
                let hand_over = hand_over.into_iter().map(|(number, to)| (key(number), to)).collect();
                let now_at = team.head.map_or(Revision(0), |head| head.revision);
                let expected_revision = revision.map_or(now_at, Revision);
                Depart { actor: by, member, revoke, hand_over, expected_revision }.decide(team, now)
            }
            Self::Deny { by } => DenyPairing { actor: by, device_name: sealed(by) }.decide(team),
            Self::Erase { by, person, still_member } => ErasePerson { actor: by, person, still_member }.decide(team),
            Self::Leak { by, key: number, place } => {
                let by = by.map_or(Revoker::Holder, Revoker::Person);
                let (place_id, place) =
                    (PlaceId::from_bytes([place; 16]), Some(Label::Clear(format!("place {place}"))));
                ReportLeak { by, credential: key(number), place, place_id, source: None }.decide(team, now)
            }
            Self::Knock { key: number, ago } => {
                let at = Timestamp::from_micros(now.micros() - ago.as_micros() as u64);
                knock(number, at).decide(team, now)
            }
            Self::KnockAhead { key: number, by } => knock(number, now.plus(by)).decide(team, now),
        }
    }

    fn actor(&self) -> Actor {
        match self {
            Self::Issue { by, .. }
            | Self::Pair { by, .. }
            | Self::IssueService { by, .. }
            | Self::Revoke { by, .. }
            | Self::Rotate { by, .. }
            | Self::Policy { by, .. }
            | Self::Role { by, .. }
            | Self::Remove { by, .. }
            | Self::Depart { by, .. }
            | Self::Deny { by }
            | Self::Erase { by, .. } => Actor::Person(*by),
            Self::Join { member, .. } => Actor::Person(*member),
            Self::RevokeSelf { key: number } => Actor::Credential(key(*number)),
            Self::Leak { by: Some(by), .. } => Actor::Person(*by),
            Self::Expire { .. } | Self::Leak { .. } | Self::Knock { .. } | Self::KnockAhead { .. } => Actor::System,
        }
    }
}

fn knock(number: Key, at: Timestamp) -> NoteDeadKey {
    let (surface, address) = (Some(Surface::Runtime), AddressClass::Private);
    NoteDeadKey { credential: key(number), at, surface, address }
}

fn sealed(person: PersonId) -> Label {
    Label::Sealed(Sealed { person, nonce: [0; 24], ciphertext: vec![0; 24] })
}

/// A team on its way through time. Every step goes through the bytes.
#[derive(Clone)]
pub struct Story {
    pub state: TeamState,
    pub now: Timestamp,
    pub commits: Vec<CommitBody>,
    team: TeamId,
    events: u64,
}

impl Story {
    fn begin(team: TeamId) -> Self {
        let mut story = Self { state: TeamState::default(), now: START, commits: Vec::new(), team, events: 0 };
        let create = CreateTeam { name: "Acme".into(), owner: OWNER, owner_name: sealed(OWNER) };
        story.append(Actor::System, create.decide().unwrap());
        story
    }

    /// A team of one person of each role, and a second member.
    pub fn acme() -> Self {
        Self::begin(ACME).with_everybody()
    }

    /// The same people as operators.
    pub fn system() -> Self {
        Self::begin(TeamId::SYSTEM).with_everybody()
    }

    fn with_everybody(self) -> Self {
        let people = [
            (ADMIN, Role::Admin),
            (MEMBER, Role::Member),
            (OTHER, Role::Member),
            (VIEWER, Role::Viewer),
            (AUDITOR, Role::Auditor),
        ];
        self.given(people.map(|(person, role)| join(person, role, OWNER)))
    }

    /// What has happened before; each must do something.
    pub fn given(mut self, commands: impl IntoIterator<Item = When>) -> Self {
        for command in commands {
            let said = format!("{command:?}");
            match self.run(command) {
                Ok(0) => panic!("{said} did nothing"),
                Ok(_) => {}
                Err(refusal) => panic!("{said} was refused: {refusal}"),
            }
        }
        self
    }

    /// Time passes.
    pub fn after(mut self, duration: Duration) -> Self {
        self.now = self.now.plus(duration);
        self
    }

    /// What would be decided, in words.
    pub fn when(&self, command: When) -> Result<Vec<String>, Refusal> {
        let facts = command.decide(&self.state, self.now)?;
        Ok(facts.iter().map(|fact| show(fact, self.now)).collect())
    }

    /// Decides and appends; says how many events that made.
    pub fn run(&mut self, command: When) -> Result<usize, Refusal> {
        let actor = command.actor();
        let facts = command.decide(&self.state, self.now)?;
        let count = facts.len();
        if count > 0 {
            self.append(actor, facts);
        }
        Ok(count)
    }

    /// Appends facts through their bytes, as the one write path does.
    pub fn append(&mut self, actor: Actor, facts: Vec<Fact>) {
        let (head, envelope) = (self.state.head, self.envelope(actor));
        let ids: Vec<EventId> = (0..facts.len() as u64).map(|at| self.event_id(self.events + at)).collect();
        let header = commit_header(&envelope, facts.len());
        let mut expected = Expected { state: self.state.clone(), head, header, bytes: Vec::new() };
        let mut events = Vec::new();
        for (index, fact) in facts.into_iter().enumerate() {
            assert!(fact.cause.is_none_or(|cause| cause < index), "a cause comes before its effect");
            let cause = fact.cause.map(|cause| ids[cause]);
            expected.append(&envelope, ids[index], cause, &fact.event);
            events.push(NewEvent { id: ids[index], salt: [9; 16], cause, event: fact.event });
        }
        self.events += events.len() as u64;
        let (body, next) = CommitBody::build(head, &envelope, events);
        let parsed = CommitBody::parse(body.bytes()).unwrap();
        assert!(
            parsed.view().records().map(|record| record.bytes()).eq(expected.bytes.iter().map(Vec::as_slice)),
            "a commit holds its records"
        );
        fold(&mut self.state, &parsed);
        assert_eq!(self.state.head, Some(next));
        assert_eq!(same(&self.state), same(&expected.state), "decoded events fold like the decided ones");
        self.commits.push(parsed);
    }

    fn envelope(&self, actor: Actor) -> Envelope {
        let auth = match actor {
            Actor::Person(_) => AuthMethod::Session,
            Actor::Credential(_) => AuthMethod::Secret,
            Actor::System => AuthMethod::Internal,
        };
        Envelope {
            team: self.team,
            recorded_at: self.now,
            actor,
            auth,
            correlation: CorrelationId::from_bytes([8; 16]),
            context: None,
            operation: OperationId::from_bytes(*self.event_id(self.events).as_bytes()),
            request: RequestDigest::default(),
        }
    }

    fn event_id(&self, serial: u64) -> EventId {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&serial.to_be_bytes());
        EventId::from_bytes(bytes)
    }

    pub fn revision(&self) -> u64 {
        self.state.head.unwrap().revision.0
    }

    pub fn alive(&self, number: Key) -> bool {
        self.state.credentials[&key(number)].alive(self.now)
    }

    /// Each row against the story as it stands.
    pub fn table<const N: usize>(&self, rows: [(When, Result<&[&str], Refusal>); N]) {
        for (command, then) in rows {
            let said = format!("{command:?}");
            let decided = self.when(command);
            let then = then.map(|facts| facts.iter().map(|fact| (*fact).to_owned()).collect::<Vec<_>>());
            assert_eq!(decided, then, "when {said}");
        }
    }
}

/// The fold of what was decided, without any bytes between: the measure for the other.
struct Expected {
    state: TeamState,
    head: Option<StreamHead>,
    /// Of the commit, until its first record is hashed.
    header: Vec<u8>,
    bytes: Vec<Vec<u8>>,
}

impl Expected {
    fn append(&mut self, envelope: &Envelope, id: EventId, cause: Option<EventId>, event: &Event) {
        let record = Record {
            team: envelope.team,
            revision: self.head.map_or(Revision(0), |head| head.revision.next()),
            id,
            recorded_at: envelope.recorded_at,
            previous: self.head.map_or(RecordHash::default(), |head| head.hash),
            salt: [9; 16],
            meta: Meta {
                actor: envelope.actor,
                auth: envelope.auth,
                cause,
                correlation: envelope.correlation,
                context: None,
            },
            event: event.clone(),
        };
        let bytes = record.encode();
        // FORMAT.md §5: the first record is hashed with all that stands before it in the commit.
        let mut hashed = std::mem::take(&mut self.header);
        if !hashed.is_empty() {
            hashed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        }
        hashed.extend_from_slice(&bytes);
        let hash = RecordHash(*blake3::hash(&hashed).as_bytes());
        self.state.apply(&record, hash).unwrap();
        self.head = Some(StreamHead { revision: record.revision, hash });
        self.bytes.push(bytes);
    }
}

fn commit_header(envelope: &Envelope, count: usize) -> Vec<u8> {
    let count = (count as u16).to_le_bytes();
    [&[COMMIT_FORMAT], count.as_slice(), envelope.operation.as_bytes(), &envelope.request.0].concat()
}

/// Folds a commit's decoded records, checking the chain.
pub fn fold(state: &mut TeamState, body: &CommitBody) {
    for found in body.view().records() {
        record::follow_chain(state.head, &RecordHeader::decode(found.bytes()).unwrap()).unwrap();
        state.apply(&Record::decode(found.bytes()).unwrap(), found.hash()).unwrap();
    }
}

/// A state as comparable text: maps have no order.
pub fn same(state: &TeamState) -> (String, Vec<(CredentialId, String)>) {
    let TeamState { team, head, recorded_at, policy, members, credentials, sealed_through, webhooks } = state;
    let mut credentials: Vec<_> = credentials.iter().map(|(id, key)| (*id, format!("{key:?}"))).collect();
    credentials.sort();
    (
        format!("{team:?} {head:?} {recorded_at} {policy:?} {members:?} {sealed_through} {webhooks:?}"),
        credentials,
    )
}

pub fn sorted(state: &TeamState) -> Vec<(CredentialId, Credential)> {
    let mut keys: Vec<_> = state.credentials.iter().map(|(id, key)| (*id, key.clone())).collect();
    keys.sort_by_key(|(id, _)| *id);
    keys
}
