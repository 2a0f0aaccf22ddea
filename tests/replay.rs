//! `keyledger replay …` as an auditor runs it: on a directory, without a server.
#![allow(clippy::unwrap_used)]

#[path = "../replay/tests/support/mod.rs"]
mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use keyledger_events::{Commit, Event};
use serde_json::Value;
use support::{Town, directory};

fn replay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyledger"))
        .arg("replay")
        .args(arguments)
        .env_remove("KEYLEDGER_TEAM")
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn ledger() -> (tempfile::TempDir, Vec<Commit>) {
    let commits = Town::new(31).history(120);
    let dir = tempfile::tempdir().unwrap();
    directory::write(dir.path(), &commits);
    directory::write_digests(dir.path(), &directory::digests(&commits));
    (dir, commits)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn verify_exits_0_only_if_all_holds_and_else_names_the_first_bad_position() {
    let (dir, commits) = ledger();
    let verified = replay(&["verify", text(dir.path())]);
    assert_eq!(verified.status.code(), Some(0), "{}", err(&verified));
    assert!(out(&verified).starts_with("Everything holds"), "{}", out(&verified));
    assert!(err(&verified).is_empty(), "no bar where there is no terminal: {}", err(&verified));
    let key = dir.path().join("ledger.vkey");
    let head = dir.path().join("log/head.1");
    let pinned = replay(&["verify", text(dir.path()), "--key", text(&key), "--head", text(&head), "--json"]);
    let report: Value = serde_json::from_slice(&pinned.stdout).unwrap();
    assert_eq!((&report["holds"], &report["key_pinned"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(report["events"], commits.last().unwrap().end().0);

    let segment = dir.path().join("log/0000000000000000.seg");
    let mut bytes = fs::read(&segment).unwrap();
    let place = &commits[commits.len() / 2];
    let at = directory::segment(&commits[..commits.len() / 2]).len() + 100;
    bytes[at] ^= 4;
    fs::write(&segment, bytes).unwrap();
    let broken = replay(&["verify", text(dir.path())]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(err(&broken).contains(&format!("position {}:", place.first_position)), "{}", err(&broken));
    let broken = replay(&["verify", text(dir.path()), "--json"]);
    let told: Value = serde_json::from_slice(&broken.stdout).unwrap();
    assert_eq!(told["broken"]["position"], place.first_position.0);
    assert_eq!(replay(&["as-of", text(dir.path()), "--at", "3"]).status.code(), Some(3));
    assert_eq!(replay(&["verify", text(&dir.path().join("nowhere"))]).status.code(), Some(1));
    assert_eq!(replay(&["verify"]).status.code(), Some(2));
}

#[test]
fn questions_are_answered_in_words_and_in_json() {
    let (dir, commits) = ledger();
    let last = commits.last().unwrap().end().0 - 1;
    let dead = commits.iter().flat_map(|commit| commit.records().map(Result::unwrap).collect::<Vec<_>>());
    let (position, dead) = dead
        .filter_map(|placed| match placed.record.event {
            Event::CredentialRevoked(e) => Some((placed.position, e.credential)),
            _ => None,
        })
        .next_back()
        .unwrap();
    let dir_text = text(dir.path());

    let alive = replay(&["as-of", dir_text, "--at", &last.to_string()]);
    assert_eq!(alive.status.code(), Some(0), "{}", err(&alive));
    assert!(out(&alive).contains("credentials were alive at"), "{}", out(&alive));
    assert!(!out(&alive).contains(&dead.to_string()));
    let known = replay(&["as-of", dir_text, "--known-at", &last.to_string(), "--json"]);
    let known: Value = serde_json::from_slice(&known.stdout).unwrap();
    assert_eq!(known["moment"]["known_at"], last);
    assert!(known["credentials"].as_array().unwrap().iter().all(|row| row["name"].is_string()));

    let why = replay(&["explain", dir_text, &dead.to_string()]);
    assert_eq!(why.status.code(), Some(0), "{}", err(&why));
    assert!(out(&why).contains(&format!("position {position} says so (revoked on request")), "{}", out(&why));
    let before = (position.0 - 1).to_string();
    let before = replay(&["explain", dir_text, &dead.to_string(), "--at", &before, "--json"]);
    let before: Value = serde_json::from_slice(&before.stdout).unwrap();
    assert!(before["sentence"].as_str().unwrap().contains("was alive at"), "{before}");

    let changed = replay(&["diff", dir_text, "20", &last.to_string()]);
    assert_eq!(changed.status.code(), Some(0), "{}", err(&changed));
    assert!(out(&changed).contains("Issued and alive at the end"), "{}", out(&changed));
    let same = replay(&["diff", dir_text, &last.to_string(), &last.to_string()]);
    assert!(out(&same).contains("Nothing changed"), "{}", out(&same));

    for (arguments, code) in [
        (vec!["explain", dir_text, "00000000-0000-0000-0000-000000000009"], 1),
        (vec!["explain", dir_text, "nobody"], 2),
        (vec!["as-of", dir_text], 2),
        (vec!["as-of", dir_text, "--at", "yesterday"], 2),
        (vec!["as-of", dir_text, "--at", "99999"], 1),
        (vec!["as-of", dir_text, "--at", "7", "--known-at", "8"], 2),
        (vec!["diff", dir_text, "9", "3"], 2),
    ] {
        let refused = replay(&arguments);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {}", err(&refused));
    }
}

#[test]
fn rebuild_compares_and_refuses_beside_a_server() {
    let (dir, commits) = ledger();
    let rebuilt = replay(&["rebuild", text(dir.path())]);
    assert_eq!(rebuilt.status.code(), Some(0), "{}", err(&rebuilt));
    assert!(out(&rebuilt).contains("were the same"), "{}", out(&rebuilt));
    let served = dir.path().join("projections/digests");
    let honest = fs::read_to_string(&served).unwrap();
    let active = honest.find("active").unwrap() + 9;
    let mut forged = honest.clone().into_bytes();
    forged[active] = if forged[active] == b'0' { b'1' } else { b'0' };
    fs::write(&served, forged).unwrap();
    let differs = replay(&["rebuild", text(dir.path())]);
    assert_eq!(differs.status.code(), Some(1));
    assert!(err(&differs).contains("the projection active"), "{}", err(&differs));
    assert_eq!(fs::read_to_string(&served).unwrap(), honest);
    assert_eq!(replay(&["verify", text(dir.path())]).status.code(), Some(0));

    let lock = fs::File::create(dir.path().join("lock")).unwrap();
    lock.try_lock().unwrap();
    let refused = replay(&["rebuild", text(dir.path())]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("a server is running"), "{}", err(&refused));
    assert!(commits.len() > 20);
}
