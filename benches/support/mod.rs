//! What the benchmarks over HTTP share: servers as processes of their own, wrk, and contenders that take turns.
//!
//! Absolutes drift by more than half between hours, and by a quarter between seconds where others use the machine. So each
//! contender has its turn in every round, in alternating order, and what counts is the median of the rounds' ratios.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use axum::Router;

pub const CONNECTIONS: &str = "64";
const ROUNDS: usize = 7;
const ROUND_SECONDS: u32 = 3;

/// The servers' core, and the clients'.
const SERVER_CORE: &str = "0";
const CLIENT_CORE: &str = "1";

/// A process that ends with this.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is measured, or what it is measured against.
pub struct Contender {
    pub name: &'static str,
    pub url: String,
    /// The share of this one's rate that the first contender must reach.
    pub reach: Option<f64>,
}

/// Whether these programs are here; if not, it is said.
pub fn possible(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| Command::new(tool).arg("-v").output().is_err()).collect();
    if !missing.is_empty() {
        println!("SKIPPED: {missing:?} are needed");
    }
    missing.is_empty()
}

/// Lets the contenders take turns, and prints each one's rate, and how the first compares. `KEYLEDGER_BENCH_ROUNDS` and
/// `KEYLEDGER_BENCH_SECONDS` (of a turn) make it shorter.
pub fn compare(what: &str, dir: &Path, method: &str, key: &str, contenders: &[Contender]) {
    let rounds = setting("KEYLEDGER_BENCH_ROUNDS", ROUNDS);
    let seconds = setting("KEYLEDGER_BENCH_SECONDS", ROUND_SECONDS);
    let script = dir.join("wrk.lua");
    let text = format!("wrk.method = \"{method}\"\nwrk.headers[\"Authorization\"] = \"Bearer {key}\"\n");
    std::fs::write(&script, text).unwrap();
    let mut rates = vec![Vec::new(); contenders.len()];
    // The first round warms caches and allocators.
    for round in 0..=rounds {
        let mut order: Vec<_> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for number in order {
            let rate = wrk(&script, seconds, &contenders[number].url);
            if round > 0 {
                rates[number].push(rate);
            }
        }
    }
    println!("{what}, {CONNECTIONS} connections, medians of {rounds} rounds");
    for (contender, theirs) in contenders.iter().zip(&rates) {
        let ratios: Vec<_> = rates[0].iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let verdict = contender.reach.map(|reach| format!("ratio {:.3} (at least {reach})", median(&ratios)));
        println!("{:<10} {:>9.0} req/s  {}", contender.name, median(theirs), verdict.unwrap_or_default());
    }
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Requests a second.
fn wrk(script: &Path, seconds: u32, url: &str) -> f64 {
    let mut wrk = pinned(Path::new("wrk"), CLIENT_CORE);
    let wrk = wrk.args(["-t1", "-c", CONNECTIONS, "-d", &format!("{seconds}s"), "-s"]).arg(script).arg(url);
    let output = wrk.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")).unwrap();
    rate.trim().parse().unwrap()
}

/// Serves the router that the command line asks for (`--serve NAME PORT`), if it does: how [`start_axum`] starts this
/// executable again.
pub fn serve_if_asked(router: impl Fn(&str) -> Router) -> bool {
    let arguments: Vec<String> = env::args().collect();
    let [_, flag, name, port] = arguments.as_slice() else { return false };
    if flag != "--serve" {
        return false;
    }
    let (router, port) = (router(name), port.parse::<u16>().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        axum::serve(listener, router).await.unwrap();
    });
    true
}

/// Starts a server of axum's own.
pub fn start_axum(name: &str, port: u16) -> Server {
    let this = env::current_exe().unwrap();
    let child = on_server_core(&this).args(["--serve", name, &port.to_string()]).spawn().unwrap();
    wait_for(port);
    Server(child)
}

/// Starts a fresh ledger and issues a first key by the command that it prints.
pub fn start_ledger(dir: &Path, port: u16) -> (Server, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_keyledger"));
    let mut command = on_server_core(binary);
    // This benchmark's variables are no settings of the server's.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KEYLEDGER_")) {
        command.env_remove(name);
    }
    let mut child = command
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--log-filter", "warn", "--data"])
        .arg(dir.join("data"))
        // One worker for one core, as the others have.
        .env("TOKIO_WORKER_THREADS", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let curl = lines.map(|line| line.trim().to_owned()).find(|line| line.contains("/api/v1/credentials")).unwrap();
    wait_for(port);
    let issued = Command::new("sh").args(["-c", &curl]).output().unwrap();
    let issued: serde_json::Value = serde_json::from_slice(&issued.stdout).unwrap();
    (Server(child), issued["raw_key"].as_str().unwrap().to_owned())
}

/// A program on the servers' core.
pub fn on_server_core(binary: &Path) -> Command {
    pinned(binary, SERVER_CORE)
}

fn pinned(binary: &Path, core: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(binary);
    command
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn wait_for(port: u16) {
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        sleep(Duration::from_millis(20));
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
