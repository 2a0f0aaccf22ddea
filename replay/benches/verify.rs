//! How fast a whole directory is verified, in how much memory, and how that compares with hashing the same bytes bare.
//!
//! `KEYLEDGER_BENCH_EVENTS` says how many events (100,000 if unset), `KEYLEDGER_BENCH_DIR` keeps the log between runs.
//! Each stage is a process of its own, so that its peak memory is its own.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "ledger/mod.rs"]
mod ledger;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use keyledger_events::{
    store::file::LogFiles,
    tree::{leaf_data, leaf_hash, node_hash},
};
use keyledger_replay::verify::{Options, verify};

/// What the service itself is built with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STAGE: &str = "KEYLEDGER_BENCH_STAGE";
const TEAMS: usize = 1000;

fn main() {
    let events: u64 = env::var("KEYLEDGER_BENCH_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let kept = env::var("KEYLEDGER_BENCH_DIR").ok().map(PathBuf::from);
    let temporary = kept.is_none().then(|| tempfile::tempdir().unwrap());
    let dir = kept.unwrap_or_else(|| temporary.as_ref().unwrap().path().to_owned());
    match env::var(STAGE).as_deref() {
        Ok("make") => ledger::make(&dir, events, TEAMS),
        Ok("hash") => hash(&dir),
        Ok("verify") => verify_all(&dir),
        _ => {
            if !dir.join("ledger.vkey").exists() {
                stage("make", &dir);
            }
            // By turns, so that each stands beside the other in the same run.
            for name in ["hash", "verify", "hash", "verify"] {
                stage(name, &dir);
            }
        }
    }
}

fn stage(name: &str, dir: &Path) {
    let status =
        Command::new(env::current_exe().unwrap()).env(STAGE, name).env("KEYLEDGER_BENCH_DIR", dir).status().unwrap();
    assert!(status.success());
}

/// CRC-32C of every frame, BLAKE3 of every record, a SHA-256 leaf and a node for each: what no verifier can do without.
fn hash(dir: &Path) {
    let files = LogFiles::open(dir, None).unwrap();
    let (segments, next, events) = (files.segments(), AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while let Some(segment) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut frames = segment.frames();
                    while let Some(frame) = frames.next().unwrap() {
                        let recorded_at = frame.commit.first().unwrap().recorded_at;
                        for record in frame.commit.records() {
                            let hash = record.hash();
                            let leaf = leaf_hash(&leaf_data(frame.first_position, recorded_at, &hash));
                            std::hint::black_box(node_hash(&leaf, &leaf));
                            events.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    report("bare hashing", events.into_inner() as u64, began);
}

fn verify_all(dir: &Path) {
    let began = Instant::now();
    let found = verify(dir, &Options::default()).unwrap();
    assert_eq!((found.unsigned_events, found.digests_position), (0, Some(found.events)));
    report("verify, everything", found.events, began);
}

fn report(what: &str, events: u64, began: Instant) {
    let took = began.elapsed().as_secs_f64();
    println!(
        "{what:<20} {events} events in {took:.3} s: {:.2} M/s, peak memory {} MB",
        events as f64 / took / 1e6,
        peak_kib().map_or(0, |kib| kib / 1024)
    );
}

/// This process's peak resident memory.
fn peak_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}
