//! From a revocation's answer to the key's denial at edges: `KEYLEDGER_BENCH_EDGES` (100) edges in one process follow the
//! real server over loopback; `KEYLEDGER_BENCH_ROUNDS` (100) keys are revoked, one after the other.
//!
//! `cargo bench --bench edge_latency`. An edge that denies before the answer has come counts as 0.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use keyledger_projections::edge::Edge;
use serde_json::{Value, json};

fn main() {
    let (count, rounds) = (number("KEYLEDGER_BENCH_EDGES", 100), number("KEYLEDGER_BENCH_ROUNDS", 100));
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let token = server.post("/api/v1/service-credentials", &json!({ "display_name": "bench" }));
    let token = token["raw_key"].as_str().unwrap();
    let url = format!("http://127.0.0.1:{}", server.port);
    let edges: Vec<_> = (0..count).map(|_| Edge::connect(&url, token).unwrap()).collect();
    assert!(edges.iter().all(|edge| edge.wait_until_ready(Duration::from_secs(60))));
    let mut times = Vec::with_capacity(count * rounds);
    for _ in 0..rounds {
        let made = server.post("/api/v1/credentials", &json!({ "kind": "integration", "display_name": "bench" }));
        let (id, key) = (made["id"].as_str().unwrap(), made["raw_key"].as_str().unwrap());
        let accepts = |edge: &Edge| edge.verify(key, None, edge.now()).is_ok();
        while !edges.iter().all(accepts) {
            std::thread::sleep(Duration::from_millis(1));
        }
        server.delete(&format!("/api/v1/credentials/{id}"));
        let answered = Instant::now();
        let mut left: Vec<_> = edges.iter().collect();
        while !left.is_empty() {
            left.retain(|edge| {
                let still = accepts(edge);
                if !still {
                    times.push(answered.elapsed());
                }
                still
            });
            // The edges' own threads need the processors.
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "revoke answered to denied, {count} edges, {rounds} keys: p50 {:?}  p99 {:?}  max {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

struct Server {
    child: Child,
    port: u16,
    owner: String,
    team: String,
}

impl Server {
    fn start(dir: &std::path::Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyledger"))
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--log-filter", "warn", "--data"])
            .arg(dir.join("data"))
            .env("KEYLEDGER_RATE_ADDRESS_PER_MINUTE", "0")
            .env("KEYLEDGER_RATE_KEY_PER_MINUTE", "0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let curl = lines.map(|line| line.trim().to_owned()).find(|line| line.contains("/api/v1/credentials")).unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let between = |from: &str| curl.split_once(from).unwrap().1.split('\'').next().unwrap().to_owned();
        Self { child, port, owner: between("Authorization: Bearer "), team: between("X-Team-ID: ") }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let request = ureq::post(format!("http://127.0.0.1:{}{path}", self.port))
            .header("Authorization", format!("Bearer {}", self.owner))
            .header("X-Team-ID", &self.team);
        request.send_json(body).unwrap().body_mut().read_json().unwrap()
    }

    fn delete(&self, path: &str) {
        let request = ureq::delete(format!("http://127.0.0.1:{}{path}", self.port))
            .header("Authorization", format!("Bearer {}", self.owner))
            .header("X-Team-ID", &self.team);
        request.call().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}
