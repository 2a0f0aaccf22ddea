//! The feed and the snapshot over HTTP: what a service that follows the ledger gets, whatever happens in between.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use keyledger_events::{Position, TeamId, secret::Presented};
use keyledger_projections::{
    Active,
    feed::{Changes, HeadMessage, snapshot},
};
use serde_json::json;
use support::ledger::{Api, Ledger, PATIENCE, eventually};

const CANARY: &str = "canary-in-a-name";

/// A connection that follows.
struct Follower {
    reader: BufReader<TcpStream>,
    head: String,
    /// What is left of the chunk that is being read (RFC 9112 §7.1).
    chunk_left: usize,
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq)]
struct Message {
    event: String,
    id: Option<String>,
    data: String,
}

impl Follower {
    fn connect(ledger: &Ledger, key: &str, query: &str, headers: &str) -> Self {
        let stream = TcpStream::connect(ledger.url().strip_prefix("http://").unwrap()).unwrap();
        Self::over(stream, key, query, headers)
    }

    fn over(mut stream: TcpStream, key: &str, query: &str, headers: &str) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request =
            format!("GET /api/v1/feed{query} HTTP/1.1\r\nHost: ledger\r\nAuthorization: Bearer {key}\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut follower = Self { reader: BufReader::new(stream), head: String::new(), chunk_left: 0 };
        while !follower.head.ends_with("\r\n\r\n") {
            assert!(follower.reader.read_line(&mut follower.head).unwrap() > 0, "{}", follower.head);
        }
        assert!(follower.head.starts_with("HTTP/1.1 200"), "{}", follower.head);
        assert!(follower.head.contains("content-type: text/event-stream\r\n"), "{}", follower.head);
        follower
    }

    /// The next line of the body; none at its end. An error if the body breaks off.
    fn line(&mut self) -> std::io::Result<Option<String>> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            if self.chunk_left == 0 {
                let mut size = String::new();
                self.reader.read_line(&mut size)?;
                if size == "\r\n" {
                    continue;
                }
                self.chunk_left = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
                if self.chunk_left == 0 {
                    return Ok(None);
                }
            }
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            line.push(byte[0]);
            self.chunk_left -= 1;
        }
        line.pop();
        Ok(Some(String::from_utf8(line).unwrap()))
    }

    /// The next message; none at the feed's end. Comments are passed over.
    fn next(&mut self) -> Option<Message> {
        self.try_next().expect("the body does not break off")
    }

    fn try_next(&mut self) -> std::io::Result<Option<Message>> {
        let mut message = Message { event: String::new(), id: None, data: String::new() };
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            match line.split_once(": ") {
                Some(("event", event)) => message.event = event.to_owned(),
                Some(("id", id)) => message.id = Some(id.to_owned()),
                Some(("data", data)) => message.data = data.to_owned(),
                None if line.is_empty() && !message.event.is_empty() => return Ok(Some(message)),
                None if line.is_empty() || line == ":" => {}
                _ => panic!("{line:?}"),
            }
        }
    }
}

/// What a service makes of it.
struct Edge {
    active: Active,
    at: Option<Position>,
    /// The changes' JSON, as it came.
    told: Vec<String>,
    heads: usize,
}

impl Edge {
    fn new() -> Self {
        Self { active: Active::default(), at: None, told: vec![], heads: 0 }
    }

    fn take(&mut self, message: &Message) {
        assert!(!message.data.contains(CANARY), "{message:?}");
        if message.event == "changes" {
            let changes: Changes = serde_json::from_str(&message.data).unwrap();
            assert_eq!(changes.after, self.at, "a gap");
            assert_eq!(message.id, Some(changes.position.to_string()));
            for placed in &changes.changes {
                self.active.apply_change(changes.team, &placed.change);
                self.told.push(serde_json::to_string(placed).unwrap());
            }
            self.at = Some(changes.position);
        } else {
            assert_eq!(message.event, "head");
            let head: HeadMessage = serde_json::from_str(&message.data).unwrap();
            assert_eq!(head.after, self.at, "a gap");
            assert_eq!(head.digest, self.active.nameless_digest(None), "at {:?}", head.position);
            self.at = head.position;
            self.heads += 1;
        }
    }

    /// Follows until a head says that it knows everything up to a position.
    fn follow_to(&mut self, follower: &mut Follower, position: u64) {
        let heads = self.heads;
        while self.heads == heads || self.at < Some(Position(position)) {
            self.take(&follower.next().expect("the feed goes on"));
        }
    }

    fn knows(&self, key: &str) -> bool {
        let hash = Presented::parse(key.as_bytes()).unwrap().hash();
        let now = keyledger_events::Timestamp::from_micros(1);
        self.active.judge(&hash, None, None, now).is_ok()
    }
}

fn service(owner: &Api) -> (String, String) {
    let made = owner.post("/api/v1/service-credentials", &json!({ "display_name": CANARY })).expect(201);
    (made.text("id"), made.text("raw_key"))
}

fn last(ledger: &Ledger) -> u64 {
    ledger.api().position().parse().unwrap()
}

/// Some of everything that concerns followers, and of what does not.
fn live_a_little(owner: &Api, other: &Api) -> Vec<String> {
    let mut keys = vec![owner.issue("integration", CANARY, Some(30)).1, other.issue("agent", CANARY, None).1];
    let device = owner.pair(CANARY);
    let (id, _) = owner.issue("integration", CANARY, None);
    owner.post(&format!("/api/v1/credentials/{id}/rotate"), &json!({ "overlap_seconds": 60 })).expect(201);
    owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    owner.delete(&format!("/api/v1/credentials/{}", device[0])).expect(204);
    keys.push(device[3].clone());
    keys
}

struct Scene {
    ledger: Ledger,
    owner: Api,
    other: Api,
    service: (String, String),
    keys: Vec<String>,
}

fn scene() -> Scene {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let service = service(&owner);
    let team = owner.post("/api/v1/teams", &json!({ "name": CANARY })).expect(201).text("id");
    let other = owner.in_team(&team);
    let keys = live_a_little(&owner, &other);
    Scene { ledger, owner, other, service, keys }
}

#[test]
fn from_every_position_the_same_history_and_the_same_digest() {
    let Scene { ledger, owner, other, service: (service_id, key), keys } = scene();
    let last = last(&ledger);
    let mut whole = Edge::new();
    whole.follow_to(&mut Follower::connect(&ledger, &key, "", ""), last);
    assert!(whole.told.len() >= 9, "{:?}", whole.told);
    assert!(whole.knows(&keys[0]) && whole.knows(&keys[1]) && !whole.knows(&keys[2]));
    assert!(!whole.knows(&key) && !whole.told.concat().contains(&service_id));
    // Cut after every message and resumed; the header wins over the query.
    let mut hops = Edge::new();
    while hops.heads == 0 || hops.at < Some(Position(last)) {
        let (query, resume) = match hops.at {
            None => ("", String::new()),
            Some(at) => ("?after=1", format!("Last-Event-ID: {at}\r\n")),
        };
        hops.take(&Follower::connect(&ledger, &key, query, &resume).next().unwrap());
    }
    assert_eq!(hops.told, whole.told);
    for after in 0..=last {
        let mut client = Edge::new();
        // What it knew before.
        for team in [&owner, &other] {
            let team: TeamId = team.team.as_ref().unwrap().parse().unwrap();
            let mut before = Edge::new();
            let query = format!("?team={team}");
            before.follow_to(&mut Follower::connect(&ledger, &key, &query, ""), last);
            for told in &before.told {
                let placed: keyledger_projections::feed::PlacedChange = serde_json::from_str(told).unwrap();
                if placed.position.0 <= after {
                    client.active.apply_change(team, &placed.change);
                }
            }
        }
        client.at = Some(Position(after));
        client.follow_to(&mut Follower::connect(&ledger, &key, &format!("?after={after}"), ""), last);
        assert!(whole.told.ends_with(&client.told), "{after}");
        let left = whole.told.iter().filter(|told| {
            let placed: keyledger_projections::feed::PlacedChange = serde_json::from_str(told).unwrap();
            placed.position.0 > after
        });
        assert_eq!(left.count(), client.told.len());
    }
}

#[test]
fn live_follows_history_without_a_gap_while_others_write() {
    let Scene { ledger, owner, other, service: (_, key), .. } = scene();
    let done = AtomicBool::new(false);
    let end = std::sync::OnceLock::new();
    let started = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        let followers: Vec<_> = (0..8)
            .map(|number| {
                let (ledger, key, done, end) = (&ledger, &key, &done, &end);
                let team = [None, owner.team.clone(), other.team.clone()][number % 3].clone();
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(40 * number as u64));
                    let query = team.map_or_else(String::new, |team| format!("?team={team}"));
                    let (mut edge, mut follower) = (Edge::new(), Follower::connect(ledger, key, &query, ""));
                    while !done.load(Ordering::Acquire) {
                        edge.take(&follower.next().unwrap());
                    }
                    edge.follow_to(&mut follower, *end.get().unwrap());
                    (query, edge)
                })
            })
            .collect();
        let writers: Vec<_> = [&owner, &other]
            .map(|api| {
                let started = &started;
                scope.spawn(move || {
                    started.wait();
                    for number in 0..40 {
                        let (id, _) = api.issue("integration", CANARY, None);
                        if number % 2 == 0 {
                            api.delete(&format!("/api/v1/credentials/{id}")).expect(204);
                        }
                    }
                })
            })
            .into();
        started.wait();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        end.set(last(&ledger)).unwrap();
        done.store(true, Ordering::Release);
        for (query, edge) in followers.into_iter().map(|follower| follower.join().unwrap()) {
            let mut afresh = Edge::new();
            afresh.follow_to(&mut Follower::connect(&ledger, &key, &query, ""), *end.get().unwrap());
            assert_eq!(edge.told, afresh.told, "{query}");
        }
    });
}

#[test]
fn a_head_comes_each_second_and_a_change_at_once() {
    let Scene { ledger, owner, service: (_, key), .. } = scene();
    let (mut edge, mut follower) = (Edge::new(), Follower::connect(&ledger, &key, "", ""));
    edge.follow_to(&mut follower, last(&ledger));
    let began = Instant::now();
    for _ in 0..3 {
        let before = edge.at;
        edge.take(&follower.next().unwrap());
        assert_eq!(edge.at, before);
    }
    assert!(began.elapsed() >= Duration::from_millis(1_900) && began.elapsed() < PATIENCE);
    // What does not concern it moves the head.
    owner.post("/api/v1/teams", &json!({ "name": CANARY })).expect(201);
    let told = edge.told.len();
    edge.follow_to(&mut follower, last(&ledger));
    assert_eq!(edge.told.len(), told);
    let (_, fresh) = owner.issue("integration", CANARY, None);
    edge.follow_to(&mut follower, last(&ledger));
    assert!(edge.knows(&fresh));
}

#[test]
fn a_snapshot_and_the_feed_behind_it_are_the_whole() {
    let Scene { ledger, owner, other, service: (_, key), keys } = scene();
    for team in [
        None,
        Some(owner.team.as_deref().unwrap()),
        Some(&*[owner.team.as_deref().unwrap(), other.team.as_deref().unwrap()].join(",")),
    ] {
        let query = team.map_or_else(String::new, |team| format!("?team={team}"));
        let mut response = owner
            .agent
            .get(format!("{}/api/v1/snapshot{query}", ledger.url()))
            .header("Authorization", format!("Bearer {key}"))
            .call()
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/vnd.keyledger.snapshot+zstd");
        let position: u64 = response.headers()["ledger-position"].to_str().unwrap().parse().unwrap();
        let bytes = response.body_mut().read_to_vec().unwrap();
        let plain = zstd::stream::decode_all(&bytes[..]).unwrap();
        assert!(!String::from_utf8_lossy(&plain).contains(CANARY));
        let (header, active) = snapshot::read(&plain[..]).unwrap();
        assert_eq!(header.position, Some(Position(position)));
        let mut edge = Edge { active, at: header.position, told: vec![], heads: 0 };
        assert!(edge.knows(&keys[0]) && !edge.knows(&key));
        assert_eq!(edge.knows(&keys[1]), team.is_none_or(|team| team.contains(',')));
        live_a_little(&owner, &other);
        let query = format!("?after={position}{}", query.replace('?', "&"));
        // The head's digest is compared in there.
        edge.follow_to(&mut Follower::connect(&ledger, &key, &query, ""), last(&ledger));
        assert!(!edge.told.is_empty());
    }
}

#[test]
fn who_may_follow_and_from_where() {
    let Scene { ledger, owner, service: (_, key), keys, .. } = scene();
    let last = last(&ledger);
    let service = owner.bearing(&key);
    for path in ["/api/v1/feed", "/api/v1/snapshot"] {
        let nobody = ledger.api();
        assert_eq!(nobody.get(path).expect(401).code(), "unauthenticated");
        owner.get(path).expect(401);
        assert_eq!(owner.bearing(&keys[0]).get(path).expect(403).code(), "insufficient_scope");
        for team in ["x", "", ",", "0190b5a6-7e0c-7cc0-98c1-00000000dead,"] {
            assert_eq!(service.get(&format!("{path}?team={team}")).expect(400).code(), "invalid_query");
        }
        service.get(&format!("{path}?surprise=1")).expect(400);
    }
    for id in ["x", "-1", "+1", "1,2", "1.0", "18446744073709551616"] {
        let reply = service.send("GET", "/api/v1/feed", &[("Last-Event-ID", id)], b"").expect(400);
        assert_eq!(reply.code(), "invalid_event_id");
        if id != "+1" {
            service.get(&format!("/api/v1/feed?after={id}")).expect(400);
        }
    }
    for after in [last + 1, u64::MAX] {
        let reply = service.get(&format!("/api/v1/feed?after={after}")).expect(409);
        assert_eq!((reply.code().as_str(), &reply.json()["position"]), ("position_beyond_log", &json!(last)));
    }
}

/// The ledger is killed and comes back: who followed goes on. It comes back with less: who followed is told.
#[test]
fn a_restart_loses_no_follower_and_a_shorter_history_is_noticed() {
    let Scene { mut ledger, owner, other, service: (_, key), .. } = scene();
    let (mut edge, mut follower) = (Edge::new(), Follower::connect(&ledger, &key, "", ""));
    edge.follow_to(&mut follower, last(&ledger));
    // At a clean end the feed ends, too, and nobody waits for it.
    let began = Instant::now();
    let ended = std::thread::scope(|scope| {
        let reading = scope.spawn(|| while follower.next().is_some() {});
        let status = ledger.stop();
        reading.join().unwrap();
        status
    });
    assert!(ended.success() && began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(!ledger.log().contains("still in use"), "a feed kept the log");
    let old = ledger.home().join("old");
    support::ledger::copy_dir(&ledger.dir(), &old);
    ledger.start(&[]);
    live_a_little(&owner, &other);
    let resume = |at: Option<Position>| format!("Last-Event-ID: {}\r\n", at.unwrap());
    let mut follower = Follower::connect(&ledger, &key, "", &resume(edge.at));
    edge.follow_to(&mut follower, last(&ledger));
    ledger.kill();
    ledger.start(&[]);
    let (_, fresh) = owner.issue("integration", CANARY, None);
    let mut follower = Follower::connect(&ledger, &key, "", &resume(edge.at));
    edge.follow_to(&mut follower, last(&ledger));
    assert!(edge.knows(&fresh));
    ledger.kill();
    std::fs::remove_dir_all(ledger.dir()).unwrap();
    std::fs::rename(old, ledger.dir()).unwrap();
    ledger.start(&[]);
    let id = edge.at.unwrap().to_string();
    let reply = owner.bearing(&key).send("GET", "/api/v1/feed", &[("Last-Event-ID", &id)], b"").expect(409);
    assert_eq!(reply.code(), "position_beyond_log");
}

#[test]
fn a_revoked_service_hears_nothing_more() {
    let Scene { ledger, owner, service: (_, key), .. } = scene();
    let made = owner.post("/api/v1/service-credentials", &json!({ "display_name": "short" })).expect(201);
    let mut follower = Follower::connect(&ledger, &made.text("raw_key"), "", "");
    let mut stays = Follower::connect(&ledger, &key, "", "");
    assert!(follower.next().is_some());
    let system = owner.in_team(&TeamId::SYSTEM.to_string());
    system.delete(&format!("/api/v1/credentials/{}", made.text("id"))).expect(204);
    while follower.next().is_some() {}
    assert!(stays.next().is_some());
    owner.bearing(&made.text("raw_key")).get("/api/v1/feed").expect(401);
}

/// Who takes nothing is cut; it holds up nobody, and goes on where it was.
#[test]
fn a_follower_that_takes_nothing_is_cut_and_resumes() {
    let mut ledger = Ledger::new().with("WRITE_TIMEOUT_MS", "4000");
    ledger.start(&[]);
    let owner = ledger.owner();
    let (_, key) = service(&owner);
    assert!(ledger.stop().success());
    write_much(&ledger);
    ledger.start(&[]);
    let before = last(&ledger);
    // A small window, so that most of it has to wait in the server.
    let address = ledger.url().strip_prefix("http://").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    let mut stalled = Follower::over(stream, &key, "", "");
    // Others get theirs meanwhile.
    let (mut edge, mut follower) = (Edge::new(), Follower::connect(&ledger, &key, "", ""));
    edge.follow_to(&mut follower, before);
    let (_, fresh) = owner.issue("integration", CANARY, None);
    edge.follow_to(&mut follower, last(&ledger));
    assert!(edge.knows(&fresh));
    let metrics = |line: &str| owner.get("/metrics").expect(200).body.lines().any(|found| found == line);
    eventually("the stalled follower is cut", || metrics("keyledger_feed_ended_total{why=\"stalled\"} 1"));
    assert!(metrics("keyledger_connections_closed_total{why=\"timeout\"} 1"));
    assert!(metrics("keyledger_feed_followers 1"));
    // It has what reached it, whole messages, and asks for the rest.
    let mut late = Edge::new();
    while let Ok(Some(message)) = stalled.try_next() {
        late.take(&message);
    }
    assert!(late.at < Some(Position(before)), "it was cut before it had everything");
    let resume = late.at.map_or_else(String::new, |at| format!("Last-Event-ID: {at}\r\n"));
    late.follow_to(&mut Follower::connect(&ledger, &key, "", &resume), last(&ledger));
    assert_eq!(late.told, edge.told);
}

/// Writes 50,000 events into a log that nobody has open: more than any socket buffers.
fn write_much(ledger: &Ledger) {
    use keyledger_events::{
        CredentialId, Event, PersonId,
        event::CredentialIssuedV1,
        head::{HeadSigner, HeadVerifier},
        seal::Label,
        secret::{Kind, RANDOM_LEN, Secret},
        store::{
            ReadLog as _, Store as _,
            contract::Author,
            file::{FileStore, Options},
            keyring::load_signing_seed,
        },
    };
    let dir = ledger.dir();
    let verifier: HeadVerifier = std::fs::read_to_string(dir.join("ledger.vkey")).unwrap().parse().unwrap();
    let seed = load_signing_seed(&dir.join("keys/signing.key")).unwrap().unwrap();
    let signer = HeadSigner::new(verifier.origin(), &seed).unwrap();
    let (log, _) = FileStore::open(&dir, signer, &Options::default()).unwrap();
    let mut author = Author { now: log.head().recorded_at, ..Author::new(1) };
    let issued = |number: u64| {
        let mut random = [7; RANDOM_LEN];
        random[..3].copy_from_slice(&[(number % 62) as u8, (number / 62 % 62) as u8, (number / 3844) as u8]);
        let secret = Secret::new(Kind::Integration, &random);
        Event::CredentialIssued(CredentialIssuedV1 {
            credential: CredentialId::from_bytes(u128::from(number + 1).to_be_bytes()),
            kind: Kind::Integration,
            hash: secret.hash(),
            prefix: secret.prefix(),
            name: Label::Clear(CANARY.to_owned()),
            purpose: None,
            holder: PersonId::from_bytes([7; 16]),
            expires_at: None,
            rotated_from: None,
            companion_of: None,
        })
    };
    let commits = (0..500).map(|commit| author.propose((commit * 100..commit * 100 + 100).map(issued).collect()));
    let tickets: Vec<_> = commits.map(|proposal| log.submit(proposal)).collect();
    tickets.into_iter().for_each(|ticket| assert!(!ticket.wait().unwrap().repeated));
    log.close().unwrap();
}
