//! Edges against the real server: killed and started again in each order, stopped, lied to, cut off.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use keyledger_events::{
    Timestamp,
    secret::{Kind, RANDOM_LEN, Secret},
};
use keyledger_projections::{
    Denied, Surface,
    edge::{Edge, EdgeDenied, EdgeState, Ended, Policy},
};
use serde_json::json;
use support::ledger::{Api, Ledger, command, copy_dir, eventually};

const SECONDS_5: Duration = Duration::from_secs(5);

fn service_token(owner: &Api) -> String {
    owner.post("/api/v1/service-credentials", &json!({ "display_name": "edge" })).expect(201).text("raw_key")
}

fn accepts(edge: &Edge, key: &str) -> bool {
    edge.verify(key, None, edge.now()).is_ok()
}

fn denial(edge: &Edge, key: &str) -> Option<EdgeDenied> {
    edge.verify(key, None, edge.now()).err()
}

#[track_caller]
fn ready(edge: &Edge) {
    eventually("the edge is ready", || edge.is_ready());
}

#[test]
fn an_edge_judges_as_its_ledger_does_and_forgets_no_end() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let token = service_token(&owner);
    let (_, before) = owner.issue("integration", "before", None);
    let edge = Edge::connect(&ledger.url(), &token).unwrap();
    ready(&edge);
    let (id, key) = owner.issue("agent", "after", Some(30));
    let [device_id, device, companion_id, companion] = owner.pair("laptop");
    for key in [&before, &key, &device, &companion] {
        eventually("it is accepted", || accepts(&edge, key));
        let told = owner.verified(key);
        let verdict = edge.verify(key, None, edge.now()).unwrap();
        assert_eq!(verdict.credential.to_string(), told.text("credential_id"));
        assert_eq!(verdict.team.to_string(), told.text("team_id"));
        assert_eq!(verdict.holder.to_string(), told.text("user_id"));
    }
    let wrong = edge.verify(&key, Some(Surface::Runtime), edge.now());
    assert!(matches!(wrong, Err(EdgeDenied::Key(Denied::WrongSurface(_)))), "{wrong:?}");
    assert_eq!(denial(&edge, "no key"), Some(EdgeDenied::Key(Denied::Malformed)));
    assert_eq!(denial(&edge, &token), Some(EdgeDenied::Key(Denied::Unknown)), "sv- keys are not told");
    let far = edge.now().plus_days(40);
    // A clock that is ahead of the last news says that the machine has slept.
    assert_eq!(edge.verify(&key, None, far).err(), Some(EdgeDenied::Stale));

    let mut ended = edge.ended();
    owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    owner.delete(&format!("/api/v1/credentials/{device_id}")).expect(204);
    for dead in [&key, &device, &companion] {
        eventually("it is denied", || denial(&edge, dead) == Some(EdgeDenied::Key(Denied::Revoked)));
    }
    let told: Vec<_> = (0..3).filter_map(|_| ended.blocking_recv()).collect();
    let of = |id: &str| Ended::Credential(id.parse().unwrap());
    assert_eq!(told[0], of(&id));
    // Its companion is never found alive behind it.
    assert_eq!(told[1..], [of(&companion_id), of(&device_id)]);
    eventually("it is not behind", || edge.staleness().positions == 0);
    assert!(edge.staleness().age.unwrap() < Duration::from_secs(60));
}

#[test]
fn an_edge_of_one_team_knows_no_other() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let other = owner.in_team(&owner.post("/api/v1/teams", &json!({ "name": "Other" })).expect(201).text("id"));
    let (_, ours) = owner.issue("integration", "ours", None);
    let (_, theirs) = other.issue("integration", "theirs", None);
    let team = owner.team.as_ref().unwrap().parse().unwrap();
    let edge = Edge::builder(&ledger.url(), &service_token(&owner)).teams([team]).connect().unwrap();
    ready(&edge);
    let (_, later) = owner.issue("integration", "later", None);
    other.issue("integration", "between", None);
    eventually("ours are known", || accepts(&edge, &ours) && accepts(&edge, &later));
    assert_eq!(denial(&edge, &theirs), Some(EdgeDenied::Key(Denied::Unknown)));
}

#[test]
fn what_can_be_no_edge_is_refused_at_once() {
    let error = |url: &str, token: &str| Edge::connect(url, token).err().unwrap().to_string();
    let token = Secret::new(Kind::Service, &[7; RANDOM_LEN]).expose().to_owned();
    for url in ["ledger.example", "ftp://x", "http://u:p@x", "http://x?y", "http://x#y", ""] {
        assert!(error(url, &token).contains("URL"), "{url}");
    }
    assert!(error("http://127.0.0.1:1", "sk-kl1").contains("sv-"));
}

#[test]
fn server_and_edge_are_killed_and_started_in_each_order() {
    let mut ledger = Ledger::started();
    let owner = ledger.owner();
    let token = service_token(&owner);
    let (id, key) = owner.issue("integration", "CI", None);
    let file = ledger.home().join("edge.state");
    let build = |policy| Edge::builder(&ledger.url(), &token).policy(policy).snapshot_file(&file).connect().unwrap();
    let strict = build(Policy::default());
    ready(&strict);
    assert!(accepts(&strict, &key));

    // The server goes and comes back: the edge goes on, and then follows again.
    let position = strict.position();
    drop(strict);
    ledger.kill();
    // Both were away: the file alone. Without news strict denies, and best effort goes on.
    let best = Edge::builder(&ledger.url(), &token).policy(Policy::BestEffort).snapshot_file(&file).connect().unwrap();
    eventually("it starts with its file", || accepts(&best, &key));
    assert_eq!((best.position(), best.state()), (position, EdgeState::Disconnected));
    let strict = Edge::builder(&ledger.url(), &token)
        .policy(Policy::Strict { max: Duration::from_millis(1) })
        .snapshot_file(&file)
        .connect()
        .unwrap();
    eventually("it has read its file", || strict.position() == position);
    assert_eq!(denial(&strict, &key), Some(EdgeDenied::Stale));
    drop(strict);

    ledger.start(&["--sign-in-link"]);
    // A sign-in of the last second is lost with a server that is killed.
    let owner = ledger.owner();
    owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    eventually("it hears of the end", || denial(&best, &key) == Some(EdgeDenied::Key(Denied::Revoked)));
    assert_eq!(best.state(), EdgeState::Following);
    drop(best);

    // A file that was damaged is not used: the state comes from the ledger again.
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, &bytes).unwrap();
    let fresh = Edge::builder(&ledger.url(), &token).snapshot_file(&file).connect().unwrap();
    ready(&fresh);
    assert_eq!(denial(&fresh, &key), Some(EdgeDenied::Key(Denied::Revoked)));
    ledger.kill();
    ledger.start(&["--sign-in-link"]);
    let owner = ledger.owner();
    let (_, next) = owner.issue("integration", "next", None);
    eventually("it follows the restarted server", || accepts(&fresh, &next));
}

fn signal(ledger: &Ledger, name: &str) {
    assert!(Command::new("kill").args([name, &ledger.pid().to_string()]).status().unwrap().success());
}

#[test]
fn a_server_that_stops_makes_strict_deny_and_heals() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let token = service_token(&owner);
    let (_, key) = owner.issue("integration", "CI", None);
    let strict = Edge::connect(&ledger.url(), &token).unwrap();
    let best = Edge::builder(&ledger.url(), &token).policy(Policy::BestEffort).connect().unwrap();
    ready(&strict);
    ready(&best);
    let mut ended = strict.ended();
    signal(&ledger, "-STOP");
    let stopped = std::time::Instant::now();
    eventually("strict denies", || denial(&strict, &key) == Some(EdgeDenied::Stale));
    assert!(stopped.elapsed() < SECONDS_5 * 3, "{:?}", stopped.elapsed());
    assert!(strict.staleness().age.unwrap() > SECONDS_5);
    assert!(accepts(&best, &key));
    assert_eq!(ended.blocking_recv(), Some(Ended::Any), "who holds something open is told");
    signal(&ledger, "-CONT");
    eventually("it heals", || accepts(&strict, &key));
}

#[test]
fn a_ledger_with_less_history_than_it_had_is_not_believed_until_it_has_it_again() {
    let mut ledger = Ledger::started();
    let owner = ledger.owner();
    let token = service_token(&owner);
    let (id, key) = owner.issue("integration", "CI", None);
    assert!(ledger.stop().success());
    let old = ledger.home().join("old");
    copy_dir(&ledger.dir(), &old);
    ledger.start(&[]);
    let edge = Edge::builder(&ledger.url(), &token).policy(Policy::BestEffort).connect().unwrap();
    ready(&edge);
    owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    for n in 0..5 {
        owner.issue("integration", &format!("later {n}"), None);
    }
    eventually("it is dead", || denial(&edge, &key) == Some(EdgeDenied::Key(Denied::Revoked)));
    let mut age = Duration::ZERO;
    eventually("a head has confirmed it", || {
        let before = std::mem::replace(&mut age, edge.staleness().age.unwrap());
        edge.staleness().positions == 0 && age < before
    });

    // A backup is restored: the same key signs, the end of the key is gone.
    assert!(ledger.stop().success());
    let newest = ledger.home().join("newest");
    std::fs::rename(ledger.dir(), &newest).unwrap();
    std::fs::rename(&old, ledger.dir()).unwrap();
    ledger.start(&[]);
    owner.verified(&key);
    eventually("it says so", || edge.state() == EdgeState::Behind);
    assert_eq!(denial(&edge, &key), Some(EdgeDenied::Closed(EdgeState::Behind)));

    // It grows beyond what was, with another content: that is a fork.
    for n in 0..12 {
        owner.issue("integration", &format!("other {n}"), None);
    }
    eventually("it says so", || edge.state() == EdgeState::Forked);
    assert!(!accepts(&edge, &key));

    // The true one comes back.
    ledger.kill();
    std::fs::rename(ledger.dir(), ledger.home().join("false")).unwrap();
    std::fs::rename(&newest, ledger.dir()).unwrap();
    ledger.start(&[]);
    eventually("it is believed", || edge.state() == EdgeState::Following && edge.is_ready());
    assert_eq!(denial(&edge, &key), Some(EdgeDenied::Key(Denied::Revoked)));
}

#[test]
fn a_tree_that_no_pinned_key_has_signed_is_not_believed() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let token = service_token(&owner);
    let own = std::fs::read_to_string(ledger.dir().join("ledger.vkey")).unwrap();
    let other = keyledger_events::head::HeadSigner::new("other.example/1", &[7; 32]).unwrap().verifier();
    let wrong = Edge::builder(&ledger.url(), &token).ledger_key(other.clone()).connect().unwrap();
    eventually("it says so", || wrong.state() == EdgeState::WrongKey);
    let right = Edge::builder(&ledger.url(), &token).ledger_key(other).ledger_key(own.parse().unwrap());
    ready(&right.connect().unwrap());
    assert!(!wrong.is_ready());
}

/// A proxy that does something to each event of a feed. What it is asked otherwise goes through.
struct Liar {
    url: String,
    lie: Arc<Mutex<Lie>>,
    /// Feeds that were begun.
    feeds: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    None,
    DropChanges,
    Double,
    Swap,
    Garble,
    OtherDigest,
    Late,
    Cut,
}

impl Liar {
    fn before(ledger: &Ledger) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (lie, feeds) = (Arc::new(Mutex::new(Lie::None)), Arc::new(AtomicUsize::new(0)));
        let upstream = ledger.url().strip_prefix("http://").unwrap().to_owned();
        let shared = (lie.clone(), feeds.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, (lie, feeds)) = (upstream.clone(), shared.clone());
                std::thread::spawn(move || serve_liar(client, &upstream, &lie, &feeds));
            }
        });
        Self { url, lie, feeds }
    }

    fn tell(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
    }
}

/// One connection: requests go up as they come, answers come down, and a feed's events one by one.
fn serve_liar(client: TcpStream, upstream: &str, lie: &Mutex<Lie>, feeds: &AtomicUsize) -> Option<()> {
    let server = TcpStream::connect(upstream).ok()?;
    let (mut up, mut from_client) = (server.try_clone().ok()?, client.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut up);
        let _ = up.shutdown(Shutdown::Both);
    });
    let result = pass_down(BufReader::new(server.try_clone().ok()?), client.try_clone().ok()?, lie, feeds);
    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    result
}

fn pass_down(
    mut server: BufReader<TcpStream>,
    mut client: TcpStream,
    lie: &Mutex<Lie>,
    feeds: &AtomicUsize,
) -> Option<()> {
    loop {
        let (mut head, mut len, mut is_feed, mut chunked) = (String::new(), 0, false, false);
        loop {
            let mut line = String::new();
            if server.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                len = value.trim().parse().ok()?;
            }
            is_feed |= lower.starts_with("content-type: text/event-stream");
            chunked |= lower.starts_with("transfer-encoding: chunked");
            head.push_str(&line);
            if line == "\r\n" {
                break;
            }
        }
        client.write_all(head.as_bytes()).ok()?;
        if is_feed {
            feeds.fetch_add(1, SeqCst);
            return pass_feed(server, client, lie);
        }
        while chunked {
            let bytes = chunk(&mut server)?;
            write!(client, "{:x}\r\n", bytes.len()).ok()?;
            client.write_all(&bytes).ok()?;
            client.write_all(b"\r\n").ok()?;
            chunked = !bytes.is_empty();
        }
        std::io::copy(&mut server.by_ref().take(len), &mut client).ok()?;
    }
}

/// Its length in hexadecimal figures, its bytes, a line's end.
fn chunk(server: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut len = String::new();
    if server.read_line(&mut len).ok()? == 0 {
        return None;
    }
    let mut bytes = vec![0; usize::from_str_radix(len.trim(), 16).ok()?];
    server.read_exact(&mut bytes).ok()?;
    server.read_line(&mut String::new()).ok()?;
    Some(bytes)
}

fn with_other_digest(event: &str) -> String {
    let Some((before, digest)) = event.split_once("\"digest\":\"") else { return event.to_owned() };
    let other = if digest.starts_with('0') { '1' } else { '0' };
    format!("{before}\"digest\":\"{other}{}", &digest[1..])
}

fn pass_feed(mut server: BufReader<TcpStream>, mut client: TcpStream, lie: &Mutex<Lie>) -> Option<()> {
    let mut text = String::new();
    let mut kept: Option<String> = None;
    loop {
        text.push_str(std::str::from_utf8(&chunk(&mut server)?).ok()?);
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let is_changes = event.contains("event: changes") || event.contains("event:changes");
            let mut send = |event: &str| write!(client, "{:x}\r\n{event}\r\n", event.len());
            match *lie.lock().unwrap() {
                Lie::DropChanges if is_changes => {}
                Lie::Double => (0..2).try_for_each(|_| send(&event)).ok()?,
                Lie::Swap if is_changes && kept.is_none() => kept = Some(event),
                Lie::Swap => {
                    send(&event).ok()?;
                    kept.take().map_or(Ok(()), |event| send(&event)).ok()?;
                }
                Lie::Garble => send(&event.replace("position", "positiom")).ok()?,
                Lie::OtherDigest => send(&with_other_digest(&event)).ok()?,
                Lie::Late => {
                    std::thread::sleep(Duration::from_millis(1_600));
                    send(&event).ok()?;
                }
                Lie::Cut => return None,
                Lie::None | Lie::DropChanges => send(&event).ok()?,
            }
        }
    }
}

#[test]
fn whatever_a_proxy_does_to_the_messages_nothing_dead_is_accepted_and_the_edge_recovers() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let token = service_token(&owner);
    let liar = Liar::before(&ledger);
    let edge = Edge::builder(&liar.url, &token).policy(Policy::BestEffort).connect().unwrap();
    ready(&edge);
    for lie in [Lie::DropChanges, Lie::Double, Lie::Swap, Lie::Garble, Lie::OtherDigest, Lie::Cut] {
        let (id, key) = owner.issue("integration", &format!("{lie:?}"), None);
        eventually("it is known", || accepts(&edge, &key));
        let before = liar.feeds.load(SeqCst);
        liar.tell(lie);
        owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
        owner.issue("integration", "and something else", None);
        // Either it was told rightly or not at all; best effort goes on without news, but not on a gap.
        eventually(&format!("{lie:?} is noticed"), || liar.feeds.load(SeqCst) > before);
        liar.tell(Lie::None);
        eventually(&format!("it recovers from {lie:?}"), || edge.is_ready() && edge.state() == EdgeState::Following);
        eventually("it is dead", || denial(&edge, &key) == Some(EdgeDenied::Key(Denied::Revoked)));
    }
}

#[test]
fn messages_that_are_held_up_make_a_strict_edge_stale_though_they_come_each_second() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let token = service_token(&owner);
    let (_, key) = owner.issue("integration", "CI", None);
    let liar = Liar::before(&ledger);
    let edge =
        Edge::builder(&liar.url, &token).policy(Policy::Strict { max: Duration::from_secs(2) }).connect().unwrap();
    ready(&edge);
    // A second's messages take 1.6 s: the delay grows, and something always comes within the allowed silence.
    liar.tell(Lie::Late);
    eventually("it is stale", || denial(&edge, &key) == Some(EdgeDenied::Stale));
    liar.tell(Lie::None);
    eventually("it recovers", || accepts(&edge, &key));
}

/// The sidecar's process.
struct Sidecar(Child);

impl Sidecar {
    fn start(ledger: &Ledger, token: &str, socket: &Path, flags: &[&str]) -> Self {
        let mut command = command();
        command.args(["edge", "--upstream", &ledger.url(), "--listen", &format!("unix:{}", socket.display())]);
        command.args(flags).env("KEYLEDGER_TOKEN", token).stdout(Stdio::null()).stderr(Stdio::null());
        let sidecar = Self(command.spawn().unwrap());
        eventually("the sidecar is ready", || {
            ask(socket, "GET", "/readyz", "", "").is_some_and(|(status, _)| status == 200)
        });
        sidecar
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One request over a Unix socket: status, and everything that came.
fn ask(socket: &Path, method: &str, target: &str, headers: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let len = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n{headers}Content-Length: {len}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some((answer.split(' ').nth(1)?.parse().ok()?, answer))
}

#[test]
fn the_sidecar_speaks_as_the_server_does() {
    let mut ledger = Ledger::started();
    let owner = ledger.owner();
    let token = service_token(&owner);
    let (id, key) = owner.issue("integration", "CI", Some(9));
    let socket = ledger.home().join("edge.sock");
    let state = ledger.home().join("edge.state");
    let flags = ["--snapshot", state.to_str().unwrap(), "--stale-after-seconds", "2"];
    let sidecar = Sidecar::start(&ledger, &token, &socket, &flags);
    let bearer = format!("Authorization: Bearer {key}\r\n");

    let mut told = owner.verified(&key).json();
    told["display_name"] = json!(null);
    for path in ["/verify", "/api/v1/verify"] {
        let (status, answer) = ask(&socket, "POST", path, &bearer, r#"{"surface":"runtime"}"#).unwrap();
        assert_eq!(status, 200, "{answer}");
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body, told);
    }
    for (headers, body, expected, challenge) in [
        ("", "", 401, "Bearer"),
        ("Authorization: Bearer sk-x\r\n", "", 401, "invalid_token"),
        (&bearer, r#"{"surface":"agent"}"#, 403, "insufficient_scope"),
        (&bearer, r#"{"surfce":"agent"}"#, 400, ""),
    ] {
        let (status, answer) = ask(&socket, "POST", "/verify", headers, body).unwrap();
        assert!(status == expected && answer.contains(challenge), "{body}: {answer}");
    }
    for (method, target, headers, expected) in [
        ("GET", "/forward-auth?surface=runtime", &*bearer, 200),
        ("DELETE", "/forward-auth/any/path", &bearer, 200),
        ("GET", "/forward-auth?surface=agent", &bearer, 403),
        ("GET", "/forward-auth?surfac=agent", &bearer, 403),
        ("GET", "/forward-auth", "", 401),
    ] {
        let (status, answer) = ask(&socket, method, target, headers, "").unwrap();
        assert_eq!(status, expected, "{target}: {answer}");
        assert_eq!(answer.to_lowercase().contains(&format!("x-credential-id: {id}")), expected == 200, "{answer}");
    }
    let counted = r#"keyledger_edge_verifications_total{outcome="valid"} "#;
    eventually("it is counted", || {
        let (_, metrics) = ask(&socket, "GET", "/metrics", "", "").unwrap();
        metrics.contains("keyledger_edge_ready 1") && metrics.contains(counted)
    });
    assert_eq!(ask(&socket, "GET", "/healthz", "", "").unwrap().0, 200);
    assert_eq!(ask(&socket, "GET", "/other", "", "").unwrap().0, 404);

    owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    eventually("it is dead", || ask(&socket, "POST", "/verify", &bearer, "").unwrap().0 == 401);

    // Without the server it is not ready, and says no.
    let (_, alive) = owner.issue("integration", "alive", None);
    let alive = format!("Authorization: Bearer {alive}\r\n");
    eventually("it is known", || ask(&socket, "POST", "/verify", &alive, "").unwrap().0 == 200);
    ledger.kill();
    eventually("it is stale", || ask(&socket, "GET", "/readyz", "", "").unwrap().0 == 503);
    assert_eq!(ask(&socket, "POST", "/verify", &alive, "").unwrap().0, 503);
    assert_eq!(ask(&socket, "GET", "/forward-auth", &alive, "").unwrap().0, 401);
    ledger.start(&[]);
    eventually("it heals", || ask(&socket, "POST", "/verify", &alive, "").unwrap().0 == 200);

    // Killed, it leaves its socket and comes back over it.
    drop(sidecar);
    let _again = Sidecar::start(&ledger, &token, &socket, &flags);
    assert_eq!(ask(&socket, "POST", "/verify", &alive, "").unwrap().0, 200);
}

#[test]
fn a_key_that_ends_by_the_clock_ends_at_the_edge_too() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let token = service_token(&owner);
    let (id, key) = owner.issue("integration", "old", None);
    let edge = Edge::connect(&ledger.url(), &token).unwrap();
    ready(&edge);
    let mut ended = edge.ended();
    owner.post(&format!("/api/v1/credentials/{id}/rotate"), &json!({ "overlap_seconds": 2 })).expect(201);
    assert_eq!(ended.blocking_recv(), Some(Ended::Credential(id.parse().unwrap())));
    let denied = denial(&edge, &key);
    assert!(matches!(denied, Some(EdgeDenied::Key(Denied::Expired))), "{denied:?}");
    // A caller whose clock is slow is none the wiser: the ledger's counts.
    let slow = Timestamp::from_micros(edge.now().micros() - 3_600_000_000);
    let denied = edge.verify(&key, None, slow).err();
    assert!(matches!(denied, Some(EdgeDenied::Key(Denied::Expired))), "{denied:?}");
}

#[test]
fn what_an_edge_has_seen_is_told_to_the_ledger() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let (id, key) = owner.issue("integration", "used at the edge only", None);
    let (dead_id, dead) = owner.issue("agent", "still in somebody's configuration", None);
    let edge = Edge::connect(&ledger.url(), &service_token(&owner)).unwrap();
    ready(&edge);
    eventually("it is accepted", || edge.verify(&key, Some(Surface::Mcp), edge.now()).is_ok());
    owner.delete(&format!("/api/v1/credentials/{dead_id}")).expect(204);
    eventually("it is denied", || edge.verify(&dead, Some(Surface::Agent), edge.now()).is_err());
    // Some more, so that one lies behind the end for certain.
    assert!(edge.verify(&dead, Some(Surface::Agent), edge.now()).is_err());

    let shown = |id: &str| owner.get(&format!("/api/v1/credentials/{id}")).expect(200).json();
    eventually("the use is reported", || shown(&id)["last_used"]["surface"] == "mcp");
    eventually("the dead key is reported", || shown(&dead_id)["dead_presented"]["surface"] == "agent");
}
