//! `POST /api/v1/verify` over HTTP keep-alive against the least that axum can do, in the same run.
//!
//! `cargo bench --bench verify_http`; needs `wrk` and `taskset`, and two cores: the server has one, wrk the other. Every
//! server is a process of its own, and the rounds are interleaved, since absolutes drift by more than half between hours.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::post};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: &str = "64";
const ROUNDS: usize = 7;
const ROUND_SECONDS: u32 = 3;
/// As long as a verification's answer is at least.
const STATIC_JSON: &str =
    r#"{"valid":true,"credential_id":"0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a","kind":"integration","position":1}"#;

/// What is measured, what it is measured against, and the share that must be reached.
const CONTENDERS: [(&str, f64); 3] = [("keyledger", 1.0), ("axum-204", 0.85), ("axum-json", 0.95)];

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if let [_, flag, name, port] = arguments.as_slice()
        && flag == "--serve"
    {
        return serve_axum(name, port.parse().unwrap());
    }
    if !["wrk", "taskset"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok()) {
        println!("SKIPPED: wrk and taskset are needed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut rates: [Vec<f64>; 3] = Default::default();
    let ports = CONTENDERS.map(|_| free_port());
    let (_ledger, key) = start_ledger(dir.path(), ports[0]);
    let _axum: Vec<Server> = (1..3).map(|n| start_axum(CONTENDERS[n].0, ports[n])).collect();
    for round in 0..=ROUNDS {
        for (number, port) in ports.iter().enumerate() {
            let rate = wrk(dir.path(), *port, &key);
            // The first round warms caches and allocators.
            if round > 0 {
                rates[number].push(rate);
            }
        }
    }
    let [ours, ..] = rates.each_ref().map(|rates| median(rates));
    println!(
        "verify over HTTP, {CONNECTIONS} connections, one core each for server and wrk, medians of {ROUNDS} rounds"
    );
    for ((name, reach), rates) in CONTENDERS.iter().zip(&rates) {
        let rate = median(rates);
        let ratio = ours / rate;
        let verdict = if *name == "keyledger" { String::new() } else { format!("ratio {ratio:.3} (at least {reach})") };
        println!("{name:<10} {rate:>9.0} req/s  {verdict}");
    }
}

fn serve_axum(name: &str, port: u16) {
    let router = match name {
        "axum-204" => Router::new().route("/api/v1/verify", post(|| async { StatusCode::NO_CONTENT })),
        _ => Router::new().route(
            "/api/v1/verify",
            post(|| async { ([(axum::http::header::CONTENT_TYPE, "application/json")], STATIC_JSON) }),
        ),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        axum::serve(listener, router).await.unwrap();
    });
}

fn start_axum(name: &str, port: u16) -> Server {
    let this = env::current_exe().unwrap();
    let child = pinned(&this, "0").args(["--serve", name, &port.to_string()]).spawn().unwrap();
    wait_for(port);
    Server(child)
}

/// Starts a fresh ledger and issues a first key by the command that it prints.
fn start_ledger(dir: &Path, port: u16) -> (Server, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_keyledger"));
    let mut child = pinned(binary, "0")
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

fn pinned(binary: &Path, core: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(binary);
    command
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(port: u16) {
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        sleep(Duration::from_millis(20));
    }
}

/// Requests a second.
fn wrk(dir: &Path, port: u16, key: &str) -> f64 {
    let script = dir.join("verify.lua");
    let text = format!("wrk.method = \"POST\"\nwrk.headers[\"Authorization\"] = \"Bearer {key}\"\n");
    std::fs::write(&script, text).unwrap();
    let seconds = format!("{ROUND_SECONDS}s");
    let output = pinned(Path::new("wrk"), "1")
        .args(["-t1", "-c", CONNECTIONS, "-d", &seconds, "-s"])
        .arg(&script)
        .arg(format!("http://127.0.0.1:{port}/api/v1/verify"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")).unwrap();
    rate.trim().parse().unwrap()
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
