//! The service under the faults it promises to survive, smoke-sized: killed, refused by its disk, kept waiting by it,
//! started twice, and with a clock that jumps. `replay verify` is the judge. KEYLEDGER_SOAK=1 makes them longer.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use support::ledger::{Api, Ledger, PATIENCE, command, eventually, files, replay, said};

/// What writers were told before the server went away.
#[derive(Default)]
struct Acknowledged {
    alive: Vec<String>,
    dead: Vec<String>,
}

impl Acknowledged {
    fn hold(&self, api: &Api) {
        self.alive.iter().for_each(|key| drop(api.verified(key)));
        self.dead.iter().for_each(|key| api.refused(key));
    }
}

/// Six writers that issue and revoke until one of them is not told of success; what all of them were told.
fn write_until_it_fails(owner: &Api) -> Acknowledged {
    let (told, failed) = (Mutex::new(Acknowledged::default()), AtomicBool::new(false));
    let write = |writer: usize| -> Option<()> {
        let body = json!({ "kind": "integration", "display_name": format!("writer {writer}") }).to_string();
        let issue = || {
            let reply = owner.try_send("POST", "/api/v1/credentials", &[], body.as_bytes())?;
            (reply.status == 201).then(|| (reply.text("id"), reply.text("raw_key")))
        };
        loop {
            let (_, kept) = issue()?;
            told.lock().unwrap().alive.push(kept);
            let (id, key) = issue()?;
            let reply = owner.try_send("DELETE", &format!("/api/v1/credentials/{id}"), &[], b"")?;
            // What is not acknowledged may have happened or not.
            if reply.status != 204 || failed.load(Ordering::Acquire) {
                return None;
            }
            told.lock().unwrap().dead.push(key);
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let (write, failed) = (&write, &failed);
            scope.spawn(move || {
                write(writer);
                failed.store(true, Ordering::Release);
            });
        }
    });
    told.into_inner().unwrap()
}

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let rounds = if std::env::var_os("KEYLEDGER_SOAK").is_some() { 200 } else { 4 };
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut ledger = Ledger::new();
    let mut all = Acknowledged::default();
    for round in 0..rounds {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wait = Duration::from_micros(20_000 + (seed >> 33) % 300_000);
        ledger.start(&["--sign-in-link"]);
        let owner = ledger.owner();
        let told = std::thread::scope(|scope| {
            let writers = scope.spawn(|| write_until_it_fails(&owner));
            std::thread::sleep(wait);
            ledger.kill();
            writers.join().unwrap()
        });
        all.alive.extend(told.alive);
        all.dead.extend(told.dead);
        let judged = ledger.replay(&["verify"]);
        assert!(judged.status.success(), "round {round}, killed after {wait:?}: {}", said(&judged));
    }
    ledger.start(&[]);
    assert!(all.alive.len() + all.dead.len() > 20, "something was written");
    all.hold(&ledger.api());
    let judged = ledger.replay(&["verify"]);
    assert!(judged.status.success(), "{}", said(&judged));
}

/// strace on a running server, until it is dropped.
struct Strace(Child);

impl Strace {
    /// None, said aloud, where tracing is not possible.
    fn on(ledger: &Ledger, call: &str, fault: &str, only: &Path) -> Option<Self> {
        let pid = ledger.pid();
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:{fault}"), "-P"])
            .arg(only)
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("SKIPPED: strace is not here; {fault} was not tried");
            return None;
        };
        let traced = || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
            let mut states = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
            states.all(|status| !status.contains("TracerPid:\t0\n"))
        };
        let began = Instant::now();
        while !traced() {
            if child.try_wait().unwrap().is_some() || began.elapsed() > PATIENCE {
                eprintln!("SKIPPED: strace can't trace here; {fault} was not tried");
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self(child))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// The segment that is written to.
fn segment(dir: &Path) -> PathBuf {
    let segments =
        files(&dir.join("log")).into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "seg"));
    segments.max().unwrap()
}

#[test]
fn a_disk_that_can_not_sync_ends_the_service_and_nothing_more_is_acknowledged() {
    let mut ledger = Ledger::started();
    let owner = ledger.owner();
    let before = owner.issue("integration", "before", None).1;
    let told = std::thread::scope(|scope| {
        let writers = scope.spawn(|| write_until_it_fails(&owner));
        std::thread::sleep(Duration::from_millis(200));
        let strace = Strace::on(&ledger, "fdatasync", "error=EIO", &segment(&ledger.dir()));
        if strace.is_none() {
            ledger.kill();
        }
        let told = writers.join().unwrap();
        if strace.is_some() {
            assert!(!ledger.ended().success(), "it exits as having failed");
        }
        told
    });
    assert!(!told.alive.is_empty());
    let judged = ledger.replay(&["verify"]);
    assert!(judged.status.success(), "{}", said(&judged));
    ledger.start(&[]);
    ledger.api().verified(&before);
    told.hold(&ledger.api());
}

#[test]
fn a_write_that_takes_too_long_is_of_unknown_outcome_until_its_repeat_tells_it() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let good = owner.issue("integration", "good", None).1;
    let delay = format!("delay_enter={}:when=1", 11_000_000);
    let Some(_strace) = Strace::on(&ledger, "fdatasync", &delay, &segment(&ledger.dir())) else { return };
    let issue = || {
        let body = json!({ "kind": "agent", "display_name": "slow" }).to_string();
        owner.send("POST", "/api/v1/credentials", &[("Idempotency-Key", "slow-1")], body.as_bytes())
    };
    let (waiting, verified) = (AtomicBool::new(true), AtomicU64::new(0));
    let unknown = std::thread::scope(|scope| {
        scope.spawn(|| {
            while waiting.load(Ordering::Acquire) {
                let asked = Instant::now();
                owner.verified(&good);
                assert!(asked.elapsed() < Duration::from_secs(2), "a verification waited for the disk");
                verified.fetch_add(1, Ordering::Relaxed);
            }
        });
        let asked = Instant::now();
        let unknown = issue();
        waiting.store(false, Ordering::Release);
        assert!(asked.elapsed() > Duration::from_secs(5), "the disk was slow");
        unknown
    });
    assert_eq!(unknown.expect(503).code(), "outcome_unknown");
    assert!(verified.into_inner() > 50);
    let told = issue().expect(201);
    assert!(told.json().get("raw_key").is_none(), "nobody has the secret of an answer that got lost");
    let list = owner.get("/api/v1/credentials?q=slow").expect(200).json();
    assert_eq!(list["page_meta"]["total_count"], 1, "{list}");
    assert_eq!(list["credentials"][0]["id"], told.json()["id"]);
}

#[test]
fn a_key_whose_end_can_not_be_written_in_time_is_to_be_revoked_again() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let leaked = owner.issue("integration", "leaked", None).1;
    let revoke = || {
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        ledger.api().send("POST", "/oauth/revoke", &form, format!("token={leaked}").as_bytes())
    };
    let delay = format!("delay_enter={}:when=1", 11_000_000);
    let Some(strace) = Strace::on(&ledger, "fdatasync", &delay, &segment(&ledger.dir())) else { return };
    // RFC 7009 §2.2.1: 503 with a time to try again, and nobody may take the key for dead.
    let late = revoke().expect(503);
    assert_eq!(late.code(), "temporarily_unavailable");
    assert!(late.header("retry-after").is_some(), "{late:?}");
    drop(strace);
    eventually("the key can be ended", || revoke().status == 200);
    owner.refused(&leaked);
}

#[test]
fn on_a_full_disk_keys_are_verified_and_ended_and_none_is_issued() {
    let mut ledger = Ledger::new();
    let dir = ledger.dir();
    fs::create_dir(&dir).unwrap();
    // A small disk that only the server sees.
    const MOUNT: &str = "mount -t tmpfs -o size=6m tmpfs \"$0\"";
    let probe = Command::new("unshare").args(["-rm", "sh", "-c", MOUNT]).arg(&dir).output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no file system can be mounted here; the full disk was not tried ({probe:?})");
        return;
    }
    let serve = ledger.serve(&[]);
    let mut confined = Command::new("unshare");
    confined.args(["-rm", "sh", "-c", &format!("{MOUNT} && exec \"$@\"")]).arg(&dir);
    confined.arg(serve.get_program()).args(serve.get_args());
    confined.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    ledger.start_as(confined);
    let owner = ledger.owner();
    let seen = PathBuf::from(format!("/proc/{}/root{}", ledger.pid(), dir.display()));
    let (_, kept) = owner.issue("integration", "kept", None);
    let (_, leaked) = owner.issue("integration", "leaked", None);
    let ending: Vec<_> = (0..40).map(|n| owner.issue("agent", &format!("ending {n}"), None)).collect();
    let device = owner.pair("laptop");

    let filler = seen.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    let body = json!({ "kind": "agent", "display_name": "x", "purpose": "p".repeat(500) }).to_string();
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    let reply = owner.send("POST", "/api/v1/credentials", &[], body.as_bytes());
                    if reply.status != 201 {
                        assert_eq!(reply.expect(507).code(), "insufficient_storage");
                        refused.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
    assert_eq!(refused.into_inner(), 4, "the disk never filled up");
    let position = owner.position();
    owner.send("POST", "/api/v1/credentials", &[], body.as_bytes()).expect(507);
    assert_eq!(owner.position(), position, "a refused write changes nothing");
    owner.verified(&kept);
    for (id, key) in &ending {
        owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
        owner.refused(key);
    }
    owner.bearing(&device[1]).post("/api/v1/auth/device/revoke", &json!({})).expect(204);
    owner.refused(&device[3]);
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    ledger.api().send("POST", "/oauth/revoke", &form, format!("token={leaked}").as_bytes()).expect(200);
    owner.refused(&leaked);
    owner.get("/readyz").expect(200);

    fs::remove_file(&filler).unwrap();
    drop(file);
    eventually("there is room again", || {
        owner.send("POST", "/api/v1/credentials", &[], body.as_bytes()).status == 201
    });
    let judged = replay(&seen, &["verify"]);
    assert!(judged.status.success(), "{}", said(&judged));
    assert!(ledger.stop().success());
}

#[test]
fn a_second_process_leaves_at_once_and_touches_nothing() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    owner.issue("integration", "one", None);
    // Everything that the first one writes on its own account has been written.
    std::thread::sleep(Duration::from_millis(1_500));
    let state = || -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
        let kept = |file: &PathBuf| !file.starts_with(ledger.dir().join("side"));
        let files = files(&ledger.dir()).into_iter().filter(kept);
        files
            .map(|file| (file.clone(), (file.metadata().unwrap().modified().unwrap(), fs::read(&file).unwrap())))
            .collect()
    };
    let before = state();
    for listen in ["127.0.0.1:0", ledger.url().trim_start_matches("http://")] {
        let began = Instant::now();
        let second = command().args(["serve", "--listen", listen, "--data"]).arg(ledger.dir()).output().unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(second.status.code(), Some(1), "{}", said(&second));
        assert!(!second.stderr.is_empty(), "it says why");
    }
    let after = state();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (file, state) in &before {
        assert!(after[file] == *state, "{} was touched", file.display());
    }
    owner.issue("integration", "two", None);
    assert!(ledger.replay(&["verify"]).status.success());
}

#[test]
fn a_clock_that_jumps_brings_nothing_back() {
    const YEAR_SECONDS: &str = "31536000";
    let mut ledger = Ledger::started();
    let owner = ledger.owner();
    let (short, short_key) = owner.issue("integration", "a day", Some(1));
    let (_, long_key) = owner.issue("integration", "for ever", None);
    assert!(ledger.stop().success());
    ledger.start(&["--sign-in-link", "--clock-offset-seconds", YEAR_SECONDS]);
    ledger.api().refused(&short_key);
    let owner = ledger.owner();
    eventually("the expiry is on record", || {
        owner.get(&format!("/api/v1/credentials/{short}/history")).expect(200).body.contains("credential_expired")
    });
    ledger.kill();
    for offset in ["0", &format!("-{YEAR_SECONDS}")] {
        ledger.start(&["--sign-in-link", "--clock-offset-seconds", offset]);
        ledger.api().refused(&short_key);
        ledger.api().verified(&long_key);
        let owner = ledger.owner();
        let (_, key) = owner.issue("agent", "in between", Some(1));
        ledger.api().verified(&key);
        assert!(ledger.log().contains("the clock is behind the log"));
        assert!(ledger.stop().success());
    }
    ledger.start(&["--sign-in-link"]);
    let export = ledger.owner().get("/api/v1/audit/export").expect(200).body;
    let recorded: Vec<String> = export
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["recorded_at"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(recorded.is_sorted(), "recorded time went backwards: {recorded:?}");
    assert!(ledger.replay(&["verify"]).status.success());
}
