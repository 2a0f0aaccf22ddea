use std::collections::HashMap;

use futures_util::{Stream, StreamExt as _, stream};
use keyledger_events::{
    CommitNumber, CredentialId, Event, PersonId, Timestamp,
    event::{
        CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialHandedOverV1, CredentialIssuedV1,
        CredentialRevokedV1, ExpiryShortenedV1, RevokeReason, ServiceCredentialIssuedV1, TeamCreatedV1,
    },
    seal::Label,
    secret::{Kind, RANDOM_LEN, Secret, SecretHash},
    store::{ReadLog as _, contract::Author, memory::MemoryStore},
};
use keyledger_projections::{
    Active,
    feed::{Changes, HeadMessage},
};
use proptest::prelude::*;

use super::*;
use tokio::task::JoinSet;

/// A name that must never be told.
const CANARY: &str = "canary-in-the-name";
const TEAMS: u64 = 3;

/// A log, its projections and its feed, and a service that may follow.
struct World {
    log: Arc<MemoryStore>,
    feed: Arc<Feed>,
    authors: Vec<Author>,
    issued: u64,
    services: u64,
    service: SecretHash,
    _dir: tempfile::TempDir,
}

fn id(number: u64) -> CredentialId {
    let mut bytes = [0x33; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    CredentialId::from_bytes(bytes)
}

fn secret(kind: Kind, mut number: u64) -> Secret {
    let mut random = [0; RANDOM_LEN];
    for digit in &mut random {
        *digit = (number % 62) as u8;
        number /= 62;
    }
    Secret::new(kind, &random)
}

fn person(number: u64) -> PersonId {
    PersonId::from_bytes([number as u8 + 1; 16])
}

impl World {
    /// Without any event.
    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(MemoryStore::new());
        let (projections, _) = Projections::open(log.as_ref(), dir.path()).unwrap();
        let clock = Arc::new(Clock::new(Timestamp::default(), 0));
        let feed = Feed::new(log.clone(), Arc::new(projections), clock, Arc::new(Metrics::new()), 1_000);
        let system = Author { team: TeamId::SYSTEM, ..Author::new(0) };
        let authors = std::iter::once(system).chain((1..=TEAMS).map(Author::new)).collect();
        let service = secret(Kind::Service, 0).hash();
        Self { log, feed, authors, issued: 0, services: 0, service, _dir: dir }
    }

    /// With a service's credential.
    fn new() -> Self {
        let mut world = Self::empty();
        let event = world.service_event(0);
        world.commit(0, vec![event]);
        world
    }

    fn service_event(&mut self, number: u64) -> Event {
        let secret = secret(Kind::Service, number);
        Event::ServiceCredentialIssued(ServiceCredentialIssuedV1 {
            credential: id(u64::MAX - number),
            hash: secret.hash(),
            prefix: secret.prefix(),
            name: CANARY.to_owned(),
            holder: person(9),
            expires_at: None,
        })
    }

    fn commit(&mut self, author: usize, events: Vec<Event>) {
        let appended = self.log.append(self.authors[author].propose(events)).unwrap();
        let commit = self.log.commit(appended.number).unwrap().unwrap();
        self.feed.projections.apply(&commit).unwrap();
        self.feed.applied(&commit.records().collect::<Result<Vec<_>, _>>().unwrap());
    }

    fn issue(&mut self, kind: Kind, expires_at: Option<u64>, companion_of: Option<CredentialId>) -> Event {
        self.issued += 1;
        let secret = secret(kind, self.issued);
        Event::CredentialIssued(CredentialIssuedV1 {
            credential: id(self.issued),
            kind,
            hash: secret.hash(),
            prefix: secret.prefix(),
            name: Label::Clear(CANARY.to_owned()),
            purpose: Some(CANARY.to_owned()),
            holder: person(self.issued % 5),
            expires_at: expires_at.map(Timestamp::from_micros),
            rotated_from: None,
            companion_of,
        })
    }

    /// One of the things that happen, told by three numbers. Many of them name a key of another team, or none.
    fn step(&mut self, (author, what, number): (usize, u8, u64)) {
        let some = number % (self.issued + 2);
        let revoked = |credential| {
            Event::CredentialRevoked(CredentialRevokedV1 { credential, reason: RevokeReason::Requested, note: None })
        };
        let at = Timestamp::from_micros(number * 7);
        let events = match what {
            0..=2 => vec![self.issue(Kind::ALL[(number % 2) as usize], (number % 3 == 0).then_some(number * 9), None)],
            3 => {
                let device = self.issue(Kind::Device, Some(number * 9), None);
                let of = device.credential();
                vec![device, self.issue(Kind::Agent, None, of)]
            }
            4 => vec![revoked(id(some))],
            5 => vec![
                revoked(id(some)),
                Event::TeamCreated(TeamCreatedV1 { name: CANARY.to_owned() }),
                Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
                    credential: id(some + 1),
                    device: id(some),
                    effective_at: at,
                }),
            ],
            6 => vec![Event::CredentialExpired(CredentialExpiredV1 { credential: id(some), effective_at: at })],
            7 => vec![Event::ExpiryShortened(ExpiryShortenedV1 { credential: id(some), from: None, to: at })],
            8 => vec![Event::CredentialHandedOver(CredentialHandedOverV1 {
                credential: id(some),
                from: person(0),
                to: person(number % 5),
            })],
            9 => vec![Event::TeamCreated(TeamCreatedV1 { name: CANARY.to_owned() })],
            // The service's team has more to do with services than with anything else.
            10 if number % 2 == 1 && self.services > 0 => {
                let service = id(u64::MAX - 1 - number % self.services);
                return self.commit(0, vec![revoked(service)]);
            }
            10 => {
                self.services += 1;
                let event = self.service_event(self.services);
                return self.commit(0, vec![event]);
            }
            _ => vec![revoked(id(some)), self.issue(Kind::Integration, None, None)],
        };
        self.commit(author, events);
    }

    fn last(&self) -> Option<Position> {
        self.log.head().position.0.checked_sub(1).map(Position)
    }

    /// What a follower should be told of each event, spelt out.
    fn told(&self, after: Option<Position>, teams: Option<&Teams>) -> Vec<(TeamId, PlacedChange)> {
        use keyledger_projections::feed::Change;
        let mut services = std::collections::HashSet::new();
        let mut told = Vec::new();
        for number in 0..self.log.head().commits.0 {
            for placed in self.log.commit(CommitNumber(number)).unwrap().unwrap().records().map(Result::unwrap) {
                let event = &placed.record.event;
                if let Event::ServiceCredentialIssued(issued) = event {
                    services.insert(issued.credential);
                    continue;
                }
                let of_service = event.credential().is_some_and(|credential| services.contains(&credential));
                let team = placed.record.team;
                if Some(placed.position) > after
                    && !of_service
                    && teams.is_none_or(|teams| teams.contains(&team))
                    && let Some(change) = Change::of(event)
                {
                    told.push((team, PlacedChange { position: placed.position, change }));
                }
            }
        }
        told
    }

    async fn follow(&self, after: Option<Position>, teams: Option<&Teams>) -> Result<Follower, Refused> {
        Follower::begin(&self.feed, self.service, after, teams.cloned()).await
    }
}

/// A follower as it should be: it takes no gap, and sums up what it has been told.
struct Client {
    active: Active,
    at: Option<Position>,
    told: Vec<(TeamId, PlacedChange)>,
    heads: usize,
}

impl Client {
    /// One that knows what was told up to a position.
    fn knowing(world: &World, at: Option<Position>, teams: Option<&Teams>) -> Self {
        let active = Active::default();
        for (team, placed) in world.told(None, teams) {
            if Some(placed.position) <= at {
                active.apply_change(team, &placed.change);
            }
        }
        Self { active, at, told: vec![], heads: 0 }
    }

    fn take(&mut self, message: &str) {
        let mut fields: HashMap<&str, &str> = message.lines().filter_map(|line| line.split_once(": ")).collect();
        let (data, id) = (fields.remove("data").unwrap(), fields.remove("id"));
        assert!(!message.contains(CANARY));
        match fields["event"] {
            "changes" => {
                let changes: Changes = serde_json::from_str(data).unwrap();
                assert_eq!(changes.after, self.at, "a gap");
                assert_eq!(id, Some(changes.position.to_string().as_str()));
                assert!(!changes.changes.is_empty() && Some(changes.changes[0].position) > self.at);
                assert!(changes.changes.last().unwrap().position <= changes.position);
                for placed in changes.changes {
                    self.active.apply_change(changes.team, &placed.change);
                    self.told.push((changes.team, placed));
                }
                self.at = Some(changes.position);
            }
            _ => {
                let head: HeadMessage = serde_json::from_str(data).unwrap();
                assert_eq!(head.after, self.at, "a gap");
                assert!(head.position >= self.at);
                assert_eq!(id.map(str::to_owned), head.position.map(|position| position.to_string()));
                assert_eq!(head.digest, self.active.nameless_digest(None), "at {:?}", head.position);
                self.at = head.position;
                self.heads += 1;
            }
        }
    }
}

/// The messages of a follower, without comments.
fn messages(follower: Follower) -> impl Stream<Item = String> + Unpin {
    let pieces = Box::pin(stream::unfold(follower, Follower::next));
    Box::pin(stream::unfold((pieces, Vec::<u8>::new()), |(mut pieces, mut buffer)| async move {
        loop {
            if let Some(end) = buffer.windows(2).position(|two| two == b"\n\n") {
                let message = String::from_utf8(buffer.drain(..end + 2).collect()).unwrap();
                if message != ":\n\n" {
                    return Some((message, (pieces, buffer)));
                }
                continue;
            }
            buffer.extend_from_slice(&pieces.next().await?);
        }
    }))
}

/// Follows until a head at the log's end has come.
async fn follow_to(client: &mut Client, stream: &mut (impl Stream<Item = String> + Unpin), end: Option<Position>) {
    let before = client.heads;
    loop {
        client.take(&stream.next().await.expect("the feed goes on"));
        if client.heads > before && client.at >= end {
            return;
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

fn steps(max: usize) -> impl Strategy<Value = Vec<(usize, u8, u64)>> {
    proptest::collection::vec((0..=TEAMS as usize, 0..12u8, 0..1_000u64), 0..max)
}

fn filter() -> impl Strategy<Value = Option<Teams>> {
    proptest::option::of(proptest::collection::btree_set(0..TEAMS, 0..3)).prop_map(|numbers| {
        let teams = numbers?.into_iter().map(|number| match number {
            0 => TeamId::SYSTEM,
            number => Author::new(number).team,
        });
        Some(Arc::new(teams.collect()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// From every position, in the middle of a commit too: all that comes after it, once, in order; and the digest is
    /// that of whoever has taken it.
    #[test]
    fn from_any_position_the_rest_is_told(history in steps(40), live in steps(20), teams in filter()) {
        let teams = teams.as_ref();
        let mut world = World::new();
        history.into_iter().for_each(|step| world.step(step));
        let last = world.last();
        block_on(async {
            let mut followers = Vec::new();
            for after in std::iter::once(None).chain((0..=last.unwrap().0).map(|at| Some(Position(at)))) {
                let mut client = Client::knowing(&world, after, teams);
                let mut stream = messages(world.follow(after, teams).await.unwrap());
                follow_to(&mut client, &mut stream, last).await;
                assert_eq!(client.told, world.told(after, teams));
                followers.push((after, client, stream));
            }
            live.into_iter().for_each(|step| world.step(step));
            world.feed.news.send_modify(|_| {});
            for (after, mut client, mut stream) in followers.into_iter().step_by(7) {
                follow_to(&mut client, &mut stream, world.last()).await;
                assert_eq!(client.told, world.told(after, teams));
            }
        });
    }
}

/// History, ring and lag meet while the ledger is written to as fast as it goes.
#[test]
fn there_is_no_gap_and_nothing_twice_while_commits_come() {
    const COMMITS: u64 = 4_000;
    let mut world = World::new();
    world.feed.live.write().len_max = 24;
    (0..500).for_each(|number| world.step((number as usize % 4, (number % 12) as u8, number * 31)));
    let (feed, service) = (world.feed.clone(), world.service);
    let filters = [None, Some(Arc::new([Author::new(1).team].into())), Some(Arc::new([TeamId::SYSTEM].into()))];
    let beginnings: Vec<_> = (0..12u64).map(|n| n.checked_sub(1).map(|n| Position(n * 47))).collect();
    let mut clients = Vec::new();
    for (after, teams) in beginnings.iter().zip(filters.iter().cycle()) {
        clients.push((*after, teams.clone(), Client::knowing(&world, *after, teams.as_ref())));
    }
    let (end, end_told) = watch::channel(None);
    std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            block_on(async move {
                let waking = tokio::spawn(feed.clone().wake());
                let mut tasks = JoinSet::new();
                for (after, teams, mut client) in clients {
                    let (feed, mut end) = (feed.clone(), end_told.clone());
                    tasks.spawn(async move {
                        let follower = Follower::begin(&feed, service, after, teams.clone()).await.unwrap();
                        let mut stream = messages(follower);
                        while end.borrow().is_none_or(|end| client.at < Some(end)) {
                            client.take(&stream.next().await.unwrap());
                            // Some are slow.
                            if client.told.len() % 50 == 7 {
                                let _ = tokio::time::timeout(Duration::from_millis(1), end.changed()).await;
                            }
                        }
                        let last = client.at;
                        follow_to(&mut client, &mut stream, last).await;
                        (after, teams, client)
                    });
                }
                let clients = tasks.join_all().await;
                waking.abort();
                clients
            })
        });
        for number in 0..COMMITS {
            world.step((number as usize % 4, (number % 12) as u8, number * 17));
        }
        end.send_replace(world.last());
        for (after, teams, client) in running.join().unwrap() {
            assert_eq!(client.told, world.told(after, teams.as_ref()));
        }
    });
    let lagged = world.feed.metrics.render();
    assert!(
        !lagged.contains("keyledger_feed_lagged_total 0\n"),
        "nobody lagged: the test does not see what it must"
    );
    assert!(lagged.contains("keyledger_feed_followers 0\n"));
}

#[test]
fn an_empty_log_has_a_head_too() {
    let world = World::empty();
    block_on(async {
        assert_eq!(world.follow(Some(Position(0)), None).await.err(), Some(Refused::Beyond(None)));
        let mut stream = messages(world.follow(None, None).await.unwrap());
        let head = stream.next().await.unwrap();
        assert!(head.starts_with("event: head\ndata: {\"after\":null,\"position\":null,"), "{head}");
        Client::knowing(&world, None, None).take(&head);
    });
}

#[test]
fn who_comes_from_beyond_the_end_is_told_so() {
    let mut world = World::new();
    world.step((1, 3, 5));
    let last = world.last();
    assert_eq!(last, Some(Position(2)));
    block_on(async {
        for after in [3, 4, u64::MAX] {
            assert_eq!(world.follow(Some(Position(after)), None).await.err(), Some(Refused::Beyond(last)));
        }
        assert!(world.follow(last, None).await.is_ok());
    });
}

#[test]
fn a_feed_ends_with_its_credential_and_with_the_service() {
    let mut world = World::new();
    block_on(async {
        let first = messages(world.follow(None, None).await.unwrap());
        let mut second = messages(world.follow(None, None).await.unwrap());
        assert!(second.next().await.is_some());
        let credential = id(u64::MAX);
        let revoked = CredentialRevokedV1 { credential, reason: RevokeReason::Requested, note: None };
        world.commit(0, vec![Event::CredentialRevoked(revoked)]);
        assert!(tokio::time::timeout(Duration::from_secs(20), first.count()).await.is_ok());
        world.feed.close();
        assert!(tokio::time::timeout(Duration::from_secs(20), second.count()).await.is_ok());
        assert_eq!(world.follow(None, None).await.err(), Some(Refused::Closing));
    });
    let metrics = world.feed.metrics.render();
    for line in ["keyledger_feed_followers 0\n", "_ended_total{why=\"revoked\"} 1\n", "{why=\"shutdown\"} 1\n"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn some_connections_are_left_for_others() {
    let mut world = World::new();
    Arc::get_mut(&mut world.feed).unwrap().followers_max = 2;
    block_on(async {
        let one = world.follow(None, None).await.unwrap();
        let _other = world.follow(None, None).await.unwrap();
        assert_eq!(world.follow(None, None).await.err(), Some(Refused::Full));
        drop(one);
        assert!(world.follow(None, None).await.is_ok());
    });
}
