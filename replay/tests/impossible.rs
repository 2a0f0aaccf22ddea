//! Histories that are whole, chained and signed by the ledger's own key, and can't have happened.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use keyledger_events::{
    Commit, CredentialId, Event, PersonId, PlaceId, TeamId, Timestamp,
    event::{
        CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialHandedOverV1, CredentialIssuedV1,
        CredentialLeakedV1, CredentialRevokedV1, DeadKeyPresentedV1, ExpiryShortenedV1, MemberDepartedV1,
        MemberJoinedV1, PolicyChangedV1, PolicyV1, RevokeReason, Role, RoleChangedV1, ServiceCredentialIssuedV1,
        TeamCreatedV1,
    },
    presented::AddressClass,
    record::Actor,
    secret::Kind,
    team::Fact,
};
use keyledger_replay::verify::{Options, verify};
use support::{Town, clear, directory};

/// A team with an owner and a member, each with a key; the member with a device too.
struct Scene {
    town: Town,
    commits: Vec<Commit>,
    team: TeamId,
    other_team: TeamId,
    owner: PersonId,
    member: PersonId,
    key: CredentialId,
    ended: CredentialId,
    device: CredentialId,
    companion: CredentialId,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Scene {
    fn new() -> Self {
        let mut town = Town::new(77);
        let mut commits = vec![town.found(), town.found(), town.found()];
        let (team, other_team) = (town.founded[1], town.founded[2]);
        let owner = *town.teams[&team].members.keys().next().unwrap();
        let member = town.person();
        let mut scene = {
            commits.push(town.forge(team, Actor::System, vec![joined(member, Role::Member)]));
            let nobody = CredentialId::from_bytes([0; 16]);
            let (key, ended, device, companion) = (nobody, nobody, nobody, nobody);
            Self { town, commits, team, other_team, owner, member, key, ended, device, companion }
        };
        let (key, ended) = (scene.issue(member, Kind::Integration, None), scene.issue(member, Kind::Agent, None));
        let device = scene.issue(member, Kind::Device, None);
        let companion = scene.issue(member, Kind::Agent, Some(id_of(&device)));
        (scene.key, scene.ended) = (id_of(&key), id_of(&ended));
        (scene.device, scene.companion) = (id_of(&device), id_of(&companion));
        let revoked = revoked(scene.ended);
        for facts in [vec![key], vec![ended], vec![device, companion], vec![revoked]] {
            scene.append(facts);
        }
        scene
    }

    fn append(&mut self, facts: Vec<Fact>) {
        self.town.wait(Duration::from_secs(60));
        self.commits.push(self.town.forge(self.team, Actor::System, facts));
    }

    /// An issue that expires in 30 days.
    fn issue(&mut self, holder: PersonId, kind: Kind, companion_of: Option<CredentialId>) -> Fact {
        let expires_at = Some(self.town.now.plus(30 * DAY));
        self.issue_until(holder, kind, companion_of, expires_at)
    }

    fn issue_until(
        &mut self,
        holder: PersonId,
        kind: Kind,
        companion_of: Option<CredentialId>,
        expires_at: Option<Timestamp>,
    ) -> Fact {
        let key = self.town.key(kind);
        fact(Event::CredentialIssued(CredentialIssuedV1 {
            credential: key.id,
            kind,
            hash: key.hash,
            prefix: key.prefix,
            name: clear("key"),
            purpose: None,
            holder,
            expires_at,
            rotated_from: None,
            companion_of,
        }))
    }
}

fn fact(event: Event) -> Fact {
    event.into()
}

fn id_of(fact: &Fact) -> CredentialId {
    fact.event.credential().unwrap()
}

fn joined(member: PersonId, role: Role) -> Fact {
    fact(Event::MemberJoined(MemberJoinedV1 { member, role, name: clear("somebody"), invited_by: None }))
}

fn role(member: PersonId, from: Role, to: Role) -> Fact {
    fact(Event::RoleChanged(RoleChangedV1 { member, from, to }))
}

fn departed(member: PersonId) -> Fact {
    fact(Event::MemberDeparted(MemberDepartedV1 { member, left_by_themselves: false }))
}

fn revoked(credential: CredentialId) -> Fact {
    fact(Event::CredentialRevoked(CredentialRevokedV1 {
        credential,
        reason: RevokeReason::Requested,
        note: None,
    }))
}

fn cascade(credential: CredentialId, device: CredentialId, effective_at: Timestamp, cause: Option<usize>) -> Fact {
    let event = Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 { credential, device, effective_at });
    Fact { event, cause }
}

fn expired(credential: CredentialId, effective_at: Timestamp) -> Fact {
    fact(Event::CredentialExpired(CredentialExpiredV1 { credential, effective_at }))
}

fn shortened(credential: CredentialId, from: Option<Timestamp>, to: Timestamp) -> Fact {
    fact(Event::ExpiryShortened(ExpiryShortenedV1 { credential, from, to }))
}

fn handed(credential: CredentialId, from: PersonId, to: PersonId) -> Fact {
    fact(Event::CredentialHandedOver(CredentialHandedOverV1 { credential, from, to }))
}

fn leaked(credential: CredentialId) -> Fact {
    let place_id = PlaceId::from_bytes([1; 16]);
    fact(Event::CredentialLeaked(CredentialLeakedV1 { credential, place: None, place_id, source: None }))
}

fn presented(credential: CredentialId, presented_at: Timestamp) -> Fact {
    let (surface, address) = (None, AddressClass::Public);
    fact(Event::DeadKeyPresented(DeadKeyPresentedV1 { credential, presented_at, surface, address }))
}

fn policy(lifetime_days_max: u16, never_allowed: bool) -> Fact {
    let policy = PolicyV1 { lifetime_days_max, never_allowed, admins_only: false };
    fact(Event::PolicyChanged(PolicyChangedV1 { policy }))
}

/// What is appended to the scene, and what the verifier says of it; nothing if all is well.
type Row = (&'static str, fn(&mut Scene) -> Vec<Fact>, &'static str);

const ROWS: &[Row] = &[
    ("an ordinary revocation", |s| vec![revoked(s.key)], ""),
    (
        "a device with its companion",
        |s| vec![revoked(s.device), cascade(s.companion, s.device, s.town.now, Some(0))],
        "",
    ),
    ("a companion alone", |s| vec![revoked(s.companion)], ""),
    (
        "a new owner",
        |s| vec![role(s.member, Role::Member, Role::Owner), role(s.owner, Role::Owner, Role::Admin)],
        "",
    ),
    (
        "unknown credential revoked",
        |_| vec![revoked(CredentialId::from_bytes([9; 16]))],
        "none of that id is alive",
    ),
    ("dead credential revoked", |s| vec![revoked(s.ended)], "none of that id is alive"),
    (
        "dead credential shortened",
        |s| vec![shortened(s.ended, None, s.town.now)],
        "none of that id is alive",
    ),
    ("revoked twice at once", |s| vec![revoked(s.key), revoked(s.key)], "none of that id is alive"),
    ("device without its companion", |s| vec![revoked(s.device)], "does not end with it"),
    (
        "cascade without its device",
        |s| vec![cascade(s.companion, s.device, s.town.now, None)],
        "does not end in this commit",
    ),
    (
        "cascade without its cause",
        |s| vec![revoked(s.device), cascade(s.companion, s.device, s.town.now, None)],
        "as its cause",
    ),
    (
        "cascade of a stranger",
        |s| vec![revoked(s.device), cascade(s.key, s.device, s.town.now, Some(0))],
        "does not end in this commit",
    ),
    (
        "cascade later than its device",
        |s| vec![revoked(s.device), cascade(s.companion, s.device, s.town.now.plus(2 * DAY), Some(0))],
        "later than its device",
    ),
    ("expired before its time", |s| vec![expired(s.key, s.town.now)], "not its time"),
    ("shortened to later", |s| vec![shortened(s.key, None, s.town.now)], "misstated"),
    (
        "handed to a stranger",
        |s| vec![handed(s.key, s.member, PersonId::from_bytes([9; 16]))],
        "no member",
    ),
    ("handed over by another", |s| vec![handed(s.key, s.owner, s.member)], "does not hold it"),
    ("device handed over", |s| vec![handed(s.device, s.member, s.owner)], "handed over"),
    ("two owners", |s| vec![role(s.member, Role::Member, Role::Owner)], "2 owners"),
    ("no owner", |s| vec![role(s.owner, Role::Owner, Role::Admin)], "0 owners"),
    ("a second owner joins", |_| vec![joined(PersonId::from_bytes([9; 16]), Role::Owner)], "2 owners"),
    ("the owner departs", |s| vec![departed(s.owner)], "owns the team"),
    ("a stranger departs", |_| vec![departed(PersonId::from_bytes([9; 16]))], "no member"),
    ("a departure leaves a device", |s| vec![departed(s.member)], "lives on"),
    ("a member joins twice", |s| vec![joined(s.member, Role::Viewer)], "joins twice"),
    ("a role from another", |s| vec![role(s.member, Role::Viewer, Role::Admin)], "changes from viewer"),
    (
        "a team created twice",
        |_| vec![fact(Event::TeamCreated(TeamCreatedV1 { name: "again".into() }))],
        "that exists",
    ),
    (
        "issued to a stranger",
        |s| vec![s.issue(PersonId::from_bytes([9; 16]), Kind::Agent, None)],
        "no member",
    ),
    ("issued dead", |s| vec![s.issue_until(s.owner, Kind::Agent, None, Some(s.town.now))], "issued dead"),
    (
        "issued for too long",
        |s| vec![s.issue_until(s.owner, Kind::Agent, None, Some(s.town.now.plus(366 * DAY)))],
        "longer than",
    ),
    (
        "against the policy",
        |s| vec![policy(365, false), s.issue_until(s.owner, Kind::Agent, None, None)],
        "never expires",
    ),
    ("a policy beyond the rules", |_| vec![policy(366, true)], "366 days"),
    ("a lone device", |s| vec![s.issue(s.owner, Kind::Device, None)], "without its companion"),
    (
        "a late companion",
        |s| vec![s.issue(s.member, Kind::Agent, Some(s.device))],
        "can't be the companion",
    ),
    ("a service key like a team's", |s| vec![s.issue(s.owner, Kind::Service, None)], "like a team's own"),
    (
        "a service key in a team",
        |s| {
            let key = s.town.key(Kind::Service);
            let (credential, hash, prefix, holder) = (key.id, key.hash, key.prefix, s.owner);
            let name = "edge".to_owned();
            let issued = ServiceCredentialIssuedV1 { credential, hash, prefix, name, holder, expires_at: None };
            vec![fact(Event::ServiceCredentialIssued(issued))]
        },
        "outside the system stream",
    ),
    (
        "issued twice",
        |s| {
            let one = s.issue(s.owner, Kind::Agent, None);
            vec![one.clone(), one]
        },
        "issued twice",
    ),
    ("a leak that ends nothing", |s| vec![leaked(s.key)], "not ended because of it"),
    ("a leak whose end is another's", |s| vec![leaked(s.key), revoked(s.key)], "not ended because of it"),
    ("a leak that ends its key", |s| vec![leaked(s.key), Fact { cause: Some(0), ..revoked(s.key) }], ""),
    ("a leak of what has ended", |s| vec![leaked(s.ended)], ""),
    ("a living key is presented as dead", |s| vec![presented(s.key, s.town.now)], "but lives"),
    ("a dead key is presented", |s| vec![presented(s.ended, s.town.now)], ""),
    (
        "a dead key is presented in the future",
        |s| vec![presented(s.ended, s.town.now.plus(DAY))],
        "in the future",
    ),
    (
        "in another team's stream",
        |s| {
            s.team = s.other_team;
            vec![revoked(s.key)]
        },
        "another team's stream",
    ),
    (
        "in a team that never was",
        |s| {
            s.team = TeamId::from_bytes([9; 16]);
            vec![joined(s.member, Role::Owner)]
        },
        "never created",
    ),
];

#[test]
fn a_history_that_cant_have_happened_is_told_although_it_is_signed() {
    for (name, facts, says) in ROWS {
        let mut scene = Scene::new();
        let facts = facts(&mut scene);
        let first = scene.town.events;
        let events = first + facts.len() as u64;
        scene.append(facts);
        let dir = tempfile::tempdir().unwrap();
        directory::write(dir.path(), &scene.commits);
        match verify(dir.path(), &Options::default()) {
            Ok(_) => assert_eq!(*says, "", "{name} is taken for possible"),
            Err(broken) => {
                assert!(!says.is_empty() && broken.what.contains(says), "{name}: {broken}");
                assert!((first..events).contains(&broken.position.0), "{name}: {broken}");
            }
        }
    }
}

#[test]
fn time_never_goes_back() {
    let mut scene = Scene::new();
    scene.town.now = support::START.parse().unwrap();
    let facts = vec![revoked(scene.key)];
    let commit = scene.town.forge(scene.team, Actor::System, facts);
    let position = commit.first_position;
    scene.commits.push(commit);
    let dir = tempfile::tempdir().unwrap();
    directory::write(dir.path(), &scene.commits);
    let broken = verify(dir.path(), &Options::default()).unwrap_err();
    assert!(broken.what.contains("before its predecessor"), "{broken}");
    assert_eq!(broken.position, position);
}
