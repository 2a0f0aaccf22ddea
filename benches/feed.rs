//! The feed: history to one follower, a revocation to very many, a snapshot, and what all of them cost verifications.
//!
//! `cargo bench --bench feed [-- PART…]`, of `history`, `followers`, `snapshot`; needs `wrk` for the cost.
//! `KEYLEDGER_BENCH_EVENTS` says how many events the log has (1,000,000 if unset), `KEYLEDGER_BENCH_FOLLOWERS` how many follow
//! (10,000), `KEYLEDGER_BENCH_KEYS` how many keys a snapshot has (1,000,000), `KEYLEDGER_BENCH_DIR` keeps the log between
//! runs. Server, followers and `wrk` are processes of their own.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use keyledger_events::{
    CommitNumber, CredentialId, Event, PersonId, TeamId,
    event::{CredentialIssuedV1, CredentialRevokedV1, RevokeReason},
    head::{HeadSigner, HeadVerifier},
    seal::Label,
    secret::{Kind, RANDOM_LEN, Secret, SecretHash},
    store::{
        ReadLog as _, Store as _,
        contract::Author,
        file::{FileLog, FileStore, Options},
        keyring::load_signing_seed,
    },
};
use keyledger_projections::{
    Active,
    feed::snapshot::{self, Header},
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 30;
const WRK_SECONDS: u32 = 5;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [flag, port, key, after, count] = arguments.as_slice()
        && flag == "--follow"
    {
        return follow(port.parse().unwrap(), key, after, count.parse().unwrap());
    }
    let asked = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    let fresh = tempfile::tempdir().unwrap();
    let dir = env::var_os("KEYLEDGER_BENCH_DIR").map_or_else(|| fresh.path().to_owned(), PathBuf::from);
    if asked("snapshot") {
        snapshots(number("KEYLEDGER_BENCH_KEYS", 1_000_000));
    }
    if asked("history") {
        history(&dir, number("KEYLEDGER_BENCH_EVENTS", 1_000_000));
    }
    if asked("followers") {
        followers(&dir, number("KEYLEDGER_BENCH_FOLLOWERS", 10_000));
    }
}

fn number(name: &str, unset: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(unset)
}

/// How fast a snapshot is written and loaded, in one process.
fn snapshots(keys: u64) {
    let active = Active::default();
    for number in 0..keys {
        let team = TeamId::from_bytes([(number / 500 % 251) as u8 + 1; 16]);
        active.apply_event(team, &issued(number));
    }
    let (digest, took) = timed(|| active.nameless_digest(None));
    println!("snapshot: the nameless digest of {keys} keys, for the first time: {:.2} s", took.as_secs_f64());
    let frozen = active.freeze();
    let credentials = frozen.nameless_len(None) as u64;
    let header = Header { position: None, credentials, digest, teams: None, at: Default::default() };
    let (bytes, took) = timed(|| {
        let mut out = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        snapshot::write(&frozen, &header).for_each(|piece| out.write_all(&piece).unwrap());
        out.finish().unwrap()
    });
    println!("  written and compressed to {} MB: {:.2} s", bytes.len() / 1_000_000, took.as_secs_f64());
    let (read, took) = timed(|| snapshot::read(zstd::stream::read::Decoder::new(&bytes[..]).unwrap()).unwrap());
    assert_eq!(read.1.len() as u64, keys);
    println!("  decompressed, checked and loaded: {:.2} s", took.as_secs_f64());
}

/// Key number `number`. None has an end, so that the ledger has nothing to do with them.
fn issued(number: u64) -> Event {
    Event::CredentialIssued(CredentialIssuedV1 {
        credential: id(number),
        kind: Kind::Integration,
        hash: SecretHash(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        prefix: Secret::new(Kind::Integration, &[(number % 62) as u8; RANDOM_LEN]).prefix(),
        name: Label::Clear(format!("build {number}")),
        purpose: None,
        holder: PersonId::from_bytes([(number % 97) as u8; 16]),
        expires_at: None,
        rotated_from: None,
        companion_of: None,
    })
}

fn id(number: u64) -> CredentialId {
    CredentialId::from_bytes((u128::from(number) + 1).to_be_bytes())
}

/// History to one follower, beside reading and decoding the log and nothing else.
fn history(dir: &Path, events: u64) {
    let data = dir.join("data");
    let (server, service) = Server::with_service(dir);
    drop(server);
    fill(&data, events);
    let log = FileLog::open(&data).unwrap();
    let (decoded, limit) = timed(|| {
        let mut follow = log.follow(CommitNumber(0)).unwrap();
        let mut decoded = 0_u64;
        while let Some(commit) = follow.next(Duration::ZERO).unwrap() {
            decoded += commit.records().map(|record| u64::from(record.is_ok())).sum::<u64>();
        }
        decoded
    });
    drop(log);
    let server = Server::start(dir);
    let receive = || {
        let mut stream = ask(server.port, &service, "");
        let (mut buffer, mut len, mut tail) = (vec![0; 1 << 20], 0_u64, Vec::new());
        loop {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the feed broke off");
            len += read as u64;
            tail.extend_from_slice(&buffer[..read]);
            if tail.windows(11).rev().take(2_000).any(|window| window == b"event: head") {
                return len;
            }
            tail.drain(..tail.len().saturating_sub(64));
        }
    };
    // The first follower also pays for the digest.
    let (_, first) = timed(receive);
    let (len, took) = timed(receive);
    let rate = |took: Duration| decoded as f64 / took.as_secs_f64();
    println!("history of {decoded} events to one follower, {} MB:", len / 1_000_000);
    println!("  first follower {:>9.0} events/s", rate(first));
    println!("  next follower  {:>9.0} events/s (at least 200000)", rate(took));
    println!("  reading and decoding the log alone {:>9.0} events/s", rate(limit));
}

/// A revocation's answer → the line at each of very many followers, and what they cost verifications.
fn followers(dir: &Path, count: u64) {
    let (server, service) = Server::with_service(dir);
    let wrk = Command::new("wrk").arg("--version").output().is_ok();
    let key = server.issue().1;
    let rate = || if wrk { verify(dir, server.port, &key) } else { 0.0 };
    let before = rate();
    let after = server.post("/api/v1/credentials", &json!({ "kind": "agent", "display_name": "last" }));
    let after = after["position"].to_string();
    let memory = server.memory_kb();
    let this = env::current_exe().unwrap();
    let mut child = Command::new(this)
        .args(["--follow", &server.port.to_string(), &service, &after, &count.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut stdin = child.stdin.take().unwrap();
    println!("{}", lines.next().unwrap());
    println!("  server's memory {} KB a follower", server.memory_kb().saturating_sub(memory) / count);
    let mut all: Vec<u64> = Vec::new();
    for _ in 0..ROUNDS {
        let (id, _) = server.issue();
        std::thread::sleep(Duration::from_millis(700));
        server.delete(&format!("/api/v1/credentials/{id}"));
        writeln!(stdin, "{}", micros()).unwrap();
        all.extend(lines.next().unwrap().split(' ').map(|text| text.parse::<u64>().unwrap()));
    }
    all.sort_unstable();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize] as f64 / 1_000.0;
    println!(
        "  revoke answered → seen by each, {ROUNDS} rounds: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    if wrk {
        let with = rate();
        println!(
            "  POST /verify: {before:.0} req/s without followers, {with:.0} req/s with them ({:.2})",
            with / before
        );
    }
    drop(stdin);
    let _ = child.kill();
    let _ = child.wait();
}

/// The process of the followers: says when all have heard a head, then for each instant on standard input how long after
/// it each of them has seen a revocation, in microseconds.
fn follow(port: u16, key: &str, after: &str, count: usize) {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let seen: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
    let (ready, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    runtime.block_on(async {
        for number in 0..count {
            let request = request(key, &format!("?after={after}"));
            let (seen, ready, told) = (seen.clone(), ready.clone(), told.clone());
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                let (mut buffer, mut is_ready) = (vec![0; 4096], false);
                loop {
                    let len = stream.read(&mut buffer).await.unwrap();
                    assert!(len > 0, "follower {number} was cut: {}", String::from_utf8_lossy(&buffer[..200]));
                    let has = |needle: &[u8]| buffer[..len].windows(needle.len()).any(|window| window == needle);
                    if !is_ready && has(b"event: head") {
                        is_ready = true;
                        ready.fetch_add(1, Relaxed);
                    }
                    if has(b"credential_revoked") {
                        seen[number].store(micros(), Relaxed);
                        told.fetch_add(1, Relaxed);
                    }
                }
            });
            // Not all at once: the kernel's queue of new connections is short.
            if number % 100 == 99 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        while ready.load(Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    println!("{count} followers after {:.1} s", began.elapsed().as_secs_f64());
    for (round, line) in std::io::stdin().lines().map_while(Result::ok).enumerate() {
        let answered: u64 = line.parse().unwrap();
        while told.load(Relaxed) < count * (round + 1) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let took = seen.iter().map(|seen| seen.load(Relaxed).saturating_sub(answered).to_string());
        println!("{}", took.collect::<Vec<_>>().join(" "));
    }
}

fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed())
}

/// Fills a log that nobody has open, an event a commit, 500 a team.
fn fill(data: &Path, events: u64) {
    let verifier: HeadVerifier = fs::read_to_string(data.join("ledger.vkey")).unwrap().parse().unwrap();
    let seed = load_signing_seed(&data.join("keys/signing.key")).unwrap().unwrap();
    let signer = HeadSigner::new(verifier.origin(), &seed).unwrap();
    let (log, _) = FileStore::open(data, signer, &Options::default()).unwrap();
    let have = log.head().position.0;
    let mut authors: Vec<Author> = (0..events.div_ceil(500))
        .map(|team| Author { now: log.head().recorded_at, ..Author::new(have * 1_000_000 + team) })
        .collect();
    let (mut tickets, teams) = (std::collections::VecDeque::new(), authors.len());
    for number in have..events {
        // Every fourth event ends the key before it.
        let (event, team) = match number % 4 {
            3 => {
                let (reason, note) = (RevokeReason::Requested, None);
                let credential = id(number - 1);
                (Event::CredentialRevoked(CredentialRevokedV1 { credential, reason, note }), number - 1)
            }
            _ => (issued(number), number),
        };
        tickets.push_back(log.submit(authors[team as usize % teams].propose(vec![event])));
        if tickets.len() > 10_000 {
            tickets.pop_front().unwrap().wait().unwrap();
        }
    }
    tickets.into_iter().for_each(|ticket| assert!(!ticket.wait().unwrap().repeated));
    log.close().unwrap();
}

struct Server {
    child: Child,
    port: u16,
    /// What it prints needs a reader as long as it lives.
    _printed: Box<dyn Iterator<Item = String>>,
    owner: String,
    team: String,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyledger"));
        // This benchmark's own settings are none of the service's.
        env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("KEYLEDGER_")).for_each(
            |name| {
                command.env_remove(name);
            },
        );
        let mut child = command
            .args([
                "serve",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--log-filter",
                "warn",
                "--sign-in-link",
                "--data",
            ])
            .arg(dir.join("data"))
            .env("KEYLEDGER_CONNECTIONS_MAX", "16000")
            .env("KEYLEDGER_RATE_ADDRESS_PER_MINUTE", "0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let curl = printed
            .by_ref()
            .map(|line| line.trim().to_owned())
            .find(|line| line.contains("/api/v1/credentials"))
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let between = |from: &str| curl.split_once(from).unwrap().1.split('\'').next().unwrap().to_owned();
        Self {
            child,
            port,
            _printed: Box::new(printed),
            owner: between("Authorization: Bearer "),
            team: between("X-Team-ID: "),
        }
    }

    /// The same, with a service's key.
    fn with_service(dir: &Path) -> (Self, String) {
        let server = Self::start(dir);
        let made = server.post("/api/v1/service-credentials", &json!({ "display_name": "bench" }));
        (server, made["raw_key"].as_str().unwrap().to_owned())
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let request = ureq::post(format!("http://127.0.0.1:{}{path}", self.port))
            .header("Authorization", format!("Bearer {}", self.owner))
            .header("X-Team-ID", &self.team);
        request.send_json(body).unwrap().body_mut().read_json().unwrap()
    }

    fn issue(&self) -> (String, String) {
        let made = self.post("/api/v1/credentials", &json!({ "kind": "integration", "display_name": "bench" }));
        (made["id"].as_str().unwrap().to_owned(), made["raw_key"].as_str().unwrap().to_owned())
    }

    fn delete(&self, path: &str) {
        let request = ureq::delete(format!("http://127.0.0.1:{}{path}", self.port))
            .header("Authorization", format!("Bearer {}", self.owner))
            .header("X-Team-ID", &self.team);
        request.call().unwrap();
    }

    fn memory_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn request(key: &str, query: &str) -> String {
    format!("GET /api/v1/feed{query} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n\r\n")
}

fn ask(port: u16, key: &str, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request(key, query).as_bytes()).unwrap();
    stream
}

/// Requests a second.
fn verify(dir: &Path, port: u16, key: &str) -> f64 {
    let script = dir.join("verify.lua");
    let text = format!("wrk.method = \"POST\"\nwrk.headers[\"Authorization\"] = \"Bearer {key}\"\n");
    fs::write(&script, text).unwrap();
    let output = Command::new("wrk")
        .args(["-t1", "-c64", "-d", &format!("{WRK_SECONDS}s"), "-s"])
        .arg(&script)
        .arg(format!("http://127.0.0.1:{port}/api/v1/verify"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")).unwrap();
    rate.trim().parse().unwrap()
}
