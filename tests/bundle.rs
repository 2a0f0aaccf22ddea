//! Bundles, statements and seals, end to end: from the running server to an auditor who has a file and a key.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::{Value, json};
use support::ledger::{Api, Ledger, command, said};

/// `keyledger …` as that person.
fn cli(ledger: &Ledger, who: &Api, arguments: &[&str]) -> Output {
    let mut command = command();
    command.env("KEYLEDGER_TOKEN", who.token.as_ref().unwrap()).env("KEYLEDGER_CONFIG_DIR", ledger.home());
    command.args(["--server", &who.url, "--team", who.team.as_ref().unwrap()]).args(arguments).output().unwrap()
}

/// The same on a machine that has nothing but the binary and these files.
fn offline(arguments: &[&str]) -> Output {
    command().env_clear().args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server with two teams' keys in it, and the owner.
fn busy() -> (Ledger, Api) {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    for n in 0..8 {
        let issued =
            owner.post("/api/v1/credentials", &json!({ "kind": "integration", "display_name": format!("key {n}") }));
        let id = issued.expect(201).text("id");
        if n % 3 == 0 {
            owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
        }
    }
    let other = owner.post("/api/v1/teams", &json!({ "name": "another" })).expect(201).text("id");
    let other = owner.in_team(&other);
    other.post("/api/v1/credentials", &json!({ "kind": "agent", "display_name": "not yours" })).expect(201);
    (ledger, owner)
}

fn vkey(ledger: &Ledger) -> PathBuf {
    let kept = ledger.home().join("pinned.vkey");
    fs::copy(ledger.dir().join("ledger.vkey"), &kept).unwrap();
    kept
}

#[test]
fn an_auditor_with_a_file_and_a_key_gets_a_yes_and_after_one_flipped_bit_a_no() {
    let (mut ledger, owner) = busy();
    let (file, key) = (ledger.home().join("team.bundle"), vkey(&ledger));
    let done = cli(&ledger, &owner, &["export", text(&file)]);
    assert!(
        done.status.success() && String::from_utf8_lossy(&done.stdout).contains("the whole history"),
        "{}",
        said(&done)
    );
    let old = ledger.home().join("old.note");
    let bundle = fs::read(&file).unwrap();
    let len = u32::from_le_bytes(bundle[8..12].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bundle[12..12 + len]).unwrap();
    fs::write(&old, header["tree_head"].as_str().unwrap()).unwrap();
    ledger.stop();

    let yes = offline(&["replay", "verify", text(&file), "--key", text(&key)]);
    let report = String::from_utf8_lossy(&yes.stdout).into_owned();
    assert!(yes.status.success(), "{}", said(&yes));
    assert!(report.contains("whole history") && report.contains("The seal at position"), "{report}");
    assert!(!report.contains("bundle's own"), "{report}");
    // The key as text serves as well; without one the report says what that means.
    let key_text = fs::read_to_string(&key).unwrap();
    assert!(offline(&["replay", "verify", text(&file), "--key", key_text.trim()]).status.success());
    let unpinned = offline(&["replay", "verify", text(&file)]);
    assert!(String::from_utf8_lossy(&unpinned.stdout).contains("bundle's own"), "{}", said(&unpinned));

    let damaged = ledger.home().join("damaged.bundle");
    for n in 0..60 {
        // Spread over the whole file.
        let (mut bytes, bit) = (bundle.clone(), n * 7919 * 104_729 % (bundle.len() * 8));
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&damaged, bytes).unwrap();
        let no = offline(&["replay", "verify", text(&damaged), "--key", text(&key)]);
        assert_eq!(no.status.code(), Some(1), "bit {bit}: {}", said(&no));
        assert_eq!(String::from_utf8_lossy(&no.stderr).lines().count(), 1, "one sentence: {}", said(&no));
    }
    fs::write(&damaged, &bundle[..bundle.len() / 2]).unwrap();
    let cut = offline(&["replay", "verify", text(&damaged), "--key", text(&key)]);
    assert!(cut.status.code() == Some(1) && said(&cut).contains("position"), "{}", said(&cut));

    // Another team's, and another ledger's.
    let system = uuid::Uuid::nil().to_string();
    let other = offline(&["--team", &system, "replay", "verify", text(&file), "--key", text(&key)]);
    assert!(other.status.code() == Some(1) && said(&other).contains("not of team"), "{}", said(&other));
    let foreign = Ledger::started();
    let foreign_key = vkey(&foreign);
    let signed = offline(&["replay", "verify", text(&file), "--key", text(&foreign_key)]);
    assert!(
        signed.status.code() == Some(1) && said(&signed).contains("not by the given key"),
        "{}",
        said(&signed)
    );

    // Later: the kept head is the beginning of the new one.
    ledger.start(&[]);
    let owner = Api { url: ledger.url(), ..owner };
    owner.post("/api/v1/credentials", &json!({ "kind": "integration", "display_name": "later" })).expect(201);
    let later = ledger.home().join("later.bundle");
    let done = cli(&ledger, &owner, &["export", text(&later), "--head", text(&old)]);
    assert!(done.status.success(), "{}", said(&done));
    let yes = offline(&["replay", "verify", text(&later), "--key", text(&key), "--head", text(&old), "--json"]);
    let report: Value = serde_json::from_slice(&yes.stdout).unwrap();
    assert!(yes.status.success() && report["compared_sizes"].as_array().unwrap().len() == 1, "{report}");
    let team = owner.team.clone().unwrap();
    for arguments in [
        &["replay", "as-of", text(&later), "--at", "9999-01-01T00:00:00Z"][..],
        &["--team", &team, "replay", "as-of", text(&later), "--at", "9999-01-01T00:00:00Z"],
        &["replay", "diff", text(&later), "1", "9999-01-01T00:00:00Z"],
    ] {
        let answer = offline(arguments);
        let table = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(
            answer.status.success() && table.contains("later") && !table.contains("not yours"),
            "{}",
            said(&answer)
        );
    }
    assert_eq!(
        fs::read_dir(ledger.home())
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".part") })
            .count(),
        0
    );
}

#[test]
fn a_directory_gives_the_same_bundle_without_a_server() {
    let (mut ledger, owner) = busy();
    let (file, key) = (ledger.home().join("team.bundle"), vkey(&ledger));
    ledger.stop();
    let (dir, team) = (ledger.dir(), owner.team.clone().unwrap());
    let export = |more: &[&str]| {
        let arguments = [&["--team", &team, "export", text(&file), "--data", text(&dir)], more].concat();
        command().args(arguments).output().unwrap()
    };
    assert!(export(&[]).status.success());
    let yes = offline(&["replay", "verify", text(&file), "--key", text(&key), "--json"]);
    let report: Value = serde_json::from_slice(&yes.stdout).unwrap();
    assert!(yes.status.success() && report["whole"] == true, "{report}");
    assert_eq!(report["seal"]["compared"], true, "the seal of the clean end: {report}");
    let part = export(&["--from", "2", "--to", "4"]);
    assert!(part.status.success() && said(&part).contains("revisions"), "{}", said(&part));
    let report = offline(&["replay", "verify", text(&file), "--key", text(&key)]);
    assert!(report.status.success() && said(&report).contains("a part: revisions"), "{}", said(&report));
    // What an auditor's copy of the directory lacks.
    fs::remove_file(dir.join("keys/signing.key")).unwrap();
    let refused = export(&[]);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("signing.key"), "{}", said(&refused));
}

#[test]
fn seals_are_made_on_demand_by_schedule_and_at_the_end_and_verify_makes_them_anew() {
    let mut ledger = Ledger::new().with("SEAL_EVERY_SECONDS", "1");
    ledger.start(&[]);
    let owner = ledger.owner();
    let seal = |status: u16| owner.post("/api/v1/seals", &json!({})).expect(status).json();
    let issue =
        || owner.post("/api/v1/credentials", &json!({ "kind": "integration", "display_name": "x" })).expect(201);
    issue();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    // The schedule was faster, and nothing has happened since.
    let first = seal(200);
    assert_eq!(first["through"], first["position"]);
    assert_eq!(seal(200), first);
    issue();
    let second = owner.post("/api/v1/seals", &json!({}));
    assert!([200, 201].contains(&second.status), "{second:?}");
    assert!(second.json()["through"].as_u64() > first["through"].as_u64());
    issue();
    assert!(ledger.stop().success());
    let verified = ledger.replay(&["verify", "--json"]);
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert!(verified.status.success() && report["seals"].as_u64() >= Some(3), "{report}");
    assert_eq!(report["sealed_through"].as_u64().unwrap() + 1, report["events"].as_u64().unwrap());
    // A restart without events seals nothing.
    let events = report["events"].clone();
    ledger.start(&[]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(ledger.stop().success());
    let again: Value = serde_json::from_slice(&ledger.replay(&["verify", "--json"]).stdout).unwrap();
    assert_eq!(again["events"], events);
}

#[test]
fn a_statement_is_a_signed_note_about_one_team() {
    let (ledger, owner) = busy();
    let reply = owner.get("/api/v1/statement").expect(200);
    let note = reply.body.clone();
    let lines: Vec<_> = note.lines().collect();
    assert_eq!(lines[0], "keyledger-team-statement/v1");
    assert_eq!(lines[2], format!("team {}", owner.team.as_ref().unwrap()));
    let printed = cli(&ledger, &owner, &["statement"]);
    assert!(
        printed.status.success() && said(&printed).contains("keyledger-team-statement/v1"),
        "{}",
        said(&printed)
    );
    let member = owner.invite("member", "Max");
    for path in ["/api/v1/statement", "/api/v1/export"] {
        member.get(path).expect(403);
    }
    member.post("/api/v1/seals", &json!({})).expect(403);
    for query in ["from=yesterday", "to=-1", "since=x", "since=1,2,x", "format=jsonl"] {
        owner.get(&format!("/api/v1/export?{query}")).expect(400);
    }
    owner.get("/api/v1/export?from=9999-01-01T00:00:00Z").expect(400);
}
