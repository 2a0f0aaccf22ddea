//! How long it takes to say which credentials were alive: of a directory, everything read from disk, and of one team on a
//! running ledger, whose projections say where the team's commits are.
//!
//! `KEYLEDGER_BENCH_EVENTS` says how many events (100,000 if unset), `KEYLEDGER_BENCH_TEAMS` of how many teams (1,000),
//! `KEYLEDGER_BENCH_DIR` keeps the log between runs.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "ledger/mod.rs"]
mod ledger;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use keyledger_events::{
    Position,
    store::{ReadLog, file::FileLog},
};
use keyledger_projections::Projections;
use keyledger_replay::{Moment, TeamLog, as_of::as_of, quiet};

/// How many teams are asked about.
const TEAMS_ASKED: usize = 500;

/// What the service itself is built with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let events = number("KEYLEDGER_BENCH_EVENTS").unwrap_or(100_000);
    let teams = number("KEYLEDGER_BENCH_TEAMS").unwrap_or(1_000);
    let kept = env::var("KEYLEDGER_BENCH_DIR").ok().map(PathBuf::from);
    let temporary = kept.is_none().then(|| tempfile::tempdir().unwrap());
    let dir = kept.unwrap_or_else(|| temporary.as_ref().unwrap().path().to_owned());
    if !dir.join("ledger.vkey").exists() {
        ledger::make(&dir, events, teams as usize);
    }
    of_directory(&dir);
    of_directory(&dir);
    of_teams(&dir);
}

/// What `keyledger replay as-of DIR` does.
fn of_directory(dir: &Path) {
    let began = Instant::now();
    let log = FileLog::open(dir).unwrap();
    let opened = began.elapsed();
    let middle = Position(log.head().position.0 / 2);
    for (what, known_at) in [("at the end", None), ("half-way", Some(middle))] {
        let began = Instant::now();
        let found = as_of(&log, Moment { at: None, known_at }, None, &quiet).unwrap();
        println!(
            "as-of a directory of {} events, {what}: opened in {:.2} s, {} alive in {:.2} s",
            log.head().position,
            opened.as_secs_f64(),
            found.credentials.len(),
            began.elapsed().as_secs_f64()
        );
    }
}

/// What a running server does for `GET /history/as-of`, but for HTTP.
fn of_teams(dir: &Path) {
    let log: Arc<dyn ReadLog> = Arc::new(FileLog::open(dir).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (projections, _) = Projections::open(log.as_ref(), folder.path()).unwrap();
    let mut teams = Vec::new();
    for number in (0..log.head().commits.0).step_by((log.head().commits.0 as usize / TEAMS_ASKED).max(1)) {
        let commit = log.commit(keyledger_events::CommitNumber(number)).unwrap().unwrap();
        teams.push(commit.body.view().first().unwrap().team);
    }
    let middle = Position(log.head().position.0 / 2);
    for (what, known_at) in [("at the end", None), ("half-way", Some(middle))] {
        let (mut times, mut alive, mut events) = (Vec::new(), 0, 0);
        for team in &teams {
            let began = Instant::now();
            let part = TeamLog::new(log.clone(), log.head(), projections.team_commits(*team));
            let resolved = part.resolve(Moment { at: None, known_at }).unwrap();
            let asked = Moment { at: Some(resolved.at), known_at };
            alive += as_of(&part, asked, Some(*team), &quiet).unwrap().credentials.len();
            times.push(began.elapsed());
            events += projections.team_commits(*team).len();
        }
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "as-of one team, {what}: {:.2} ms (slowest {:.2}) for {} commits, {} alive",
            ms(times[times.len() / 2]),
            ms(times[times.len() - 1]),
            events / teams.len(),
            alive / teams.len(),
        );
    }
}
