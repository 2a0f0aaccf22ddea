//! The service struck at a system call of its choosing: killed, refused a sync, refused room. A small life is first led
//! in peace and its calls are counted; then it is led again for each of them. A smoke takes some, spread evenly,
//! KEYLEDGER_SOAK=1 all of them. What fails names its call; `replay verify` is the judge.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    collections::HashMap,
    path::Path,
    process::ExitStatus,
    time::{SystemTime, UNIX_EPOCH},
};

use keyledger_events::{
    CommitNumber,
    store::{ReadLog as _, file::FileLog},
};
use serde_json::json;
use support::{
    ledger::{Api, Ledger, Reply, said},
    strace::{self, Call},
};

/// What a life consists of, and the events of each step.
#[derive(Clone, Copy)]
enum Step {
    Issue(&'static str),
    Pair(&'static str),
    Revoke(&'static str),
}

const LIFE: [(Step, &[&str]); 7] = [
    (Step::Issue("first"), &["credential_issued"]),
    (Step::Issue("second"), &["credential_issued"]),
    (Step::Pair("laptop"), &["credential_issued", "credential_issued"]),
    (Step::Revoke("first"), &["credential_revoked"]),
    (Step::Revoke("laptop"), &["credential_revoked", "credential_cascade_revoked"]),
    (Step::Issue("third"), &["credential_issued"]),
    (Step::Revoke("second"), &["credential_revoked"]),
];

/// What a first start writes by itself.
const BEGINNING: [&str; 4] = ["team_created", "member_joined", "team_created", "member_joined"];

/// What whoever led a life knows of it.
#[derive(Default)]
struct Told {
    /// How many steps were handed in, and how many of them acknowledged.
    submitted: usize,
    acknowledged: usize,
    /// When the acknowledged ones were handed in, in seconds since 1970.
    submitted_at: Vec<f64>,
    /// How many steps were refused for want of room, before they were acknowledged.
    refused: usize,
    ids: HashMap<&'static str, String>,
    /// Each key's secrets: a device has its companion's, too.
    secrets: HashMap<&'static str, Vec<String>>,
}

impl Told {
    /// Leads a life until a step is not answered. A step that finds no room is tried once more.
    fn lead(&mut self, owner: &Api) -> Option<()> {
        for (step, _) in LIFE {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
            self.submitted += 1;
            if self.step(owner, step)? {
                self.refused += 1;
                assert!(!self.step(owner, step)?, "there is room again");
            }
            self.acknowledged += 1;
            self.submitted_at.push(at);
        }
        Some(())
    }

    /// Whether there was no room for it; none if its outcome is not known.
    fn step(&mut self, owner: &Api, step: Step) -> Option<bool> {
        match step {
            Step::Issue(name) => {
                let body = json!({ "kind": "integration", "display_name": name }).to_string();
                let reply = owner.try_send("POST", "/api/v1/credentials", &[], body.as_bytes())?;
                let full = settled(&reply, 201)?;
                if !full {
                    self.ids.insert(name, reply.text("id"));
                    self.secrets.insert(name, vec![reply.text("raw_key")]);
                }
                Some(full)
            }
            Step::Pair(name) => {
                let send =
                    |path, body: serde_json::Value| owner.try_send("POST", path, &[], body.to_string().as_bytes());
                let start = send("/api/v1/desktop/pair/start", json!({ "device_name": name }))?;
                settled(&start, 200)?;
                let code = json!({ "user_code": start.text("user_code") });
                if settled(&send("/api/v1/desktop/pair/confirm", code)?, 204)? {
                    return Some(true);
                }
                let poll = send("/api/v1/desktop/pair/poll", json!({ "device_code": start.text("device_code") }));
                let Some(poll) = poll.filter(|poll| poll.status == 200) else { return Some(false) };
                self.secrets.insert(name, vec![poll.text("raw_key"), poll.text("agent_key")]);
                let verified = owner.bearing(&poll.text("raw_key"));
                let verified = verified.try_send("POST", "/api/v1/verify", &[], b"{}");
                self.ids.insert(name, verified.filter(|reply| reply.status == 200)?.text("credential_id"));
                Some(false)
            }
            Step::Revoke(name) => {
                let path = format!("/api/v1/credentials/{}", self.ids.get(name)?);
                settled(&owner.try_send("DELETE", &path, &[], b"")?, 204)
            }
        }
    }
}

/// Whether there was no room; none if there was another answer than that or the good one.
fn settled(reply: &Reply, good: u16) -> Option<bool> {
    match reply.status {
        507 => Some(true),
        status if status == good => Some(false),
        _ => None,
    }
}

/// How a life under a fault went.
struct Struck {
    ledger: Ledger,
    told: Told,
    /// How the process ended, by the fault or by SIGTERM.
    ended: ExitStatus,
    /// Whether it was there to the end of the life.
    alive: bool,
    /// When the fault came, in seconds since 1970.
    at: Option<f64>,
}

/// Leads a life with that fault at that call, which was seen on the ledger in `dir`.
fn struck(call: &Call, dir: &Path, fault: &str) -> Struck {
    let mut ledger = Ledger::new();
    let inside = call.file.strip_prefix(dir).unwrap();
    // Joined with nothing, a path would get a slash at its end.
    let file = if inside.as_os_str().is_empty() { ledger.dir() } else { ledger.dir().join(inside) };
    let file = if file.ends_with("") && call.file == dir { ledger.dir() } else { file };
    let log = ledger.home().join("strace");
    let command = strace::faulty(&ledger.serve(&[]), &log, &Call { file, ..call.clone() }, fault);
    let mut told = Told::default();
    let (ended, alive) = match ledger.try_start_as(command) {
        Err(status) => (status, false),
        Ok(()) => {
            let whole = told.lead(&ledger.owner_if_there()).is_some();
            if whole { (ledger.stop(), true) } else { (ledger.ended(), false) }
        }
    };
    let at = strace::injected_at(&log);
    Struck { ledger, told, ended, alive, at }
}

/// Starts the ledger again and holds it to what was told; how many of the steps are in its log.
fn recovers(ledger: &mut Ledger, told: &Told) -> usize {
    ledger.start(&["--sign-in-link"]);
    let api = ledger.api();
    let events = events(&ledger.dir());
    let (beginning, life) = events.split_at(BEGINNING.len().min(events.len()));
    assert_eq!(beginning, BEGINNING);
    let mut rest = life;
    let mut recovered = 0;
    while let Some((_, step)) = LIFE.get(recovered)
        && let Some(behind) = rest.strip_prefix(*step)
    {
        rest = behind;
        recovered += 1;
    }
    assert!(rest.is_empty(), "a prefix of what was handed in, in whole steps: {life:?}");
    assert!(told.acknowledged <= recovered, "acknowledged {}, recovered {recovered}", told.acknowledged);
    assert!(recovered <= told.submitted, "submitted {}, recovered {recovered}", told.submitted);
    for (name, secrets) in &told.secrets {
        let ended = LIFE[..recovered].iter().any(|(step, _)| matches!(step, Step::Revoke(ended) if ended == name));
        for secret in secrets {
            if ended { api.refused(secret) } else { drop(api.verified(secret)) }
        }
    }
    let (_, key) = ledger.owner().issue("agent", "after it all", None);
    api.verified(&key);
    assert!(ledger.stop().success());
    let judged = ledger.replay(&["verify"]);
    assert!(judged.status.success(), "{}", said(&judged));
    recovered
}

/// The names of all events in the log.
fn events(dir: &Path) -> Vec<&'static str> {
    let log = FileLog::open(dir).unwrap();
    let mut follow = log.follow(CommitNumber(0)).unwrap();
    let mut names = Vec::new();
    while let Some(commit) = follow.next(std::time::Duration::ZERO).unwrap() {
        names.extend(commit.records().map(|placed| placed.unwrap().record.event.name()));
    }
    // What the ledger seals of its own accord, at a clean end, is no step of the life.
    names.retain(|name| *name != "history_sealed");
    names
}

/// The calls of a life in peace, and the directory they were on.
fn calls() -> (Vec<Call>, std::path::PathBuf) {
    let mut ledger = Ledger::new();
    let log = ledger.home().join("strace");
    ledger.start_as(strace::traced(&ledger.serve(&[]), &log));
    let (pid, mut told) = (ledger.pid(), Told::default());
    told.lead(&ledger.owner()).expect("a life in peace");
    assert!(ledger.stop().success());
    assert_eq!((told.acknowledged, recovers(&mut ledger, &told)), (LIFE.len(), LIFE.len()));
    let calls = strace::calls(&log, pid, &ledger.dir());
    assert!(calls.len() > 100, "{calls:#?}");
    (calls, ledger.dir())
}

/// Says which call it was when a check on it fails.
struct Naming<'a>(&'a Call, &'a str);

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- with {} at {}", self.1, self.0);
        }
    }
}

#[test]
fn killed_at_any_call_it_has_what_was_acknowledged_and_nothing_revoked_lives() {
    if !strace::possible("kill -9 at each call") {
        return;
    }
    let (calls, dir) = calls();
    let (mut killed, mut outcomes) = (0, HashMap::new());
    let chosen = strace::chosen(&calls, 24);
    for call in &chosen {
        let _naming = Naming(call, "kill -9");
        let mut struck = struck(call, &dir, "signal=KILL");
        // Threads take turns: now and then a call is not reached in its thread.
        killed += usize::from(!struck.ended.success());
        let recovered = recovers(&mut struck.ledger, &struck.told);
        *outcomes.entry(recovered).or_insert(0) += 1;
    }
    eprintln!("killed in {killed} of {} lives, steps recovered: {outcomes:?}", chosen.len());
    assert!(killed * 4 > chosen.len() * 3, "only {killed} of {} were killed", chosen.len());
}

#[test]
fn a_sync_that_fails_at_any_call_ends_it_and_nothing_more_is_acknowledged() {
    if !strace::possible("a failing sync at each call") {
        return;
    }
    let (calls, dir) = calls();
    let syncs: Vec<Call> =
        calls.into_iter().filter(|call| call.name.ends_with("sync") && is_truth(call, &dir)).collect();
    assert!(syncs.len() > 12, "{syncs:#?}");
    for call in &strace::chosen(&syncs, 7) {
        let _naming = Naming(call, "EIO");
        let mut struck = struck(call, &dir, "error=EIO");
        if let Some(at) = struck.at {
            assert!(!struck.ended.success(), "it exits as having failed");
            let late = struck.told.submitted_at.iter().filter(|submitted| **submitted > at).count();
            assert_eq!(late, 0, "acknowledged after a sync had failed");
        }
        recovers(&mut struck.ledger, &struck.told);
    }
}

#[test]
fn without_room_at_any_call_it_refuses_or_passes_and_goes_on() {
    if !strace::possible("a full disk at each call") {
        return;
    }
    let (calls, dir) = calls();
    let writes = ["pwrite64", "fallocate"];
    let writes: Vec<Call> =
        calls.into_iter().filter(|call| writes.contains(&call.name.as_str()) && is_truth(call, &dir)).collect();
    assert!(writes.len() > 12, "{writes:#?}");
    for call in &strace::chosen(&writes, 7) {
        let _naming = Naming(call, "ENOSPC");
        let mut struck = struck(call, &dir, "error=ENOSPC");
        let started = struck.told.submitted > 0;
        assert!(struck.alive || !started, "a server that has begun goes on: {}", struck.ended);
        assert_eq!(struck.alive, struck.ended.success(), "a start without room says so, and only that");
        recovers(&mut struck.ledger, &struck.told);
    }
}

/// What nothing can be rebuilt from: the log, its tree heads, the keys, and the folders that name them.
fn is_truth(call: &Call, dir: &Path) -> bool {
    let file = call.file.strip_prefix(dir).unwrap();
    let derived = ["side", "projections", "log/checked", "log/checked.tmp"];
    !derived.iter().any(|derived| file.starts_with(derived))
}
