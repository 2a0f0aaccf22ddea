//! The signing key's rotation by `keyledger rotate-signing-key`, and what it leaves of what was pinned, kept and issued
//! before.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use support::{
    ledger::{Ledger, command, files, replay, said},
    strace,
};

fn rotate(dir: &Path) -> Output {
    rotation(dir).output().unwrap()
}

fn rotation(dir: &Path) -> Command {
    let mut command = command();
    command.args(["rotate-signing-key", "--json", "--data"]).arg(dir);
    command
}

/// A file of the ledger's, kept elsewhere.
fn keep(ledger: &Ledger, file: &str, name: &str) -> PathBuf {
    let kept = ledger.home().join(name);
    fs::copy(ledger.dir().join(file), &kept).unwrap();
    kept
}

/// What `replay verify --json` says, given that key and these heads; none if it says no.
fn verified(dir: &Path, key: &Path, heads: &[&Path]) -> Result<Value, String> {
    let mut arguments = vec!["verify", "--json", "--key", key.to_str().unwrap()];
    arguments.extend(heads.iter().flat_map(|head| ["--head", head.to_str().unwrap()]));
    let output = replay(dir, &arguments);
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        Some(1) => Err(String::from_utf8(output.stderr).unwrap()),
        _ => panic!("{}", said(&output)),
    }
}

fn doctor(ledger: &Ledger) -> String {
    String::from_utf8(command().args(["doctor", "--offline", "--data"]).arg(ledger.dir()).output().unwrap().stdout)
        .unwrap()
}

#[test]
fn a_key_that_was_pinned_and_a_head_that_was_kept_outlive_two_rotations() {
    let mut ledger = Ledger::started();
    let dir = ledger.dir();
    let owner = ledger.owner();
    let (_, secret) = owner.issue("integration", "before", None);
    let refused = rotate(&dir);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("a server is running"), "{}", said(&refused));
    assert!(ledger.stop().success());
    assert!(doctor(&ledger).contains("since the ledger began"), "{}", doctor(&ledger));
    let (first_key, first_head) = (keep(&ledger, "ledger.vkey", "key.1"), keep(&ledger, "log/head.0", "head.1"));
    let first_seed = fs::read(dir.join("keys/signing.key")).unwrap();

    let rotated = rotate(&dir);
    assert!(rotated.status.success(), "{}", said(&rotated));
    let told: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    assert_eq!((&told["position"], &told["old_key"]), (&json!(6), &json!(text(&first_key))));
    assert_eq!(told["new_key"], text(&dir.join("ledger.vkey")));
    let said_by_doctor = doctor(&ledger);
    assert!(said_by_doctor.contains("position 6"), "{said_by_doctor}");
    let mode = fs::metadata(dir.join("keys/signing.key")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    ledger.start(&["--sign-in-link"]);
    let old_token = owner.get("/api/v1/whoami");
    assert_eq!(old_token.status, 401, "tokens of the old seed have ended");
    ledger.api().verified(&secret);
    ledger.owner().issue("agent", "between", None);
    assert!(ledger.stop().success());
    let (second_key, second_head) = (keep(&ledger, "ledger.vkey", "key.2"), keep(&ledger, "log/head.0", "head.2"));
    let human = command().args(["rotate-signing-key", "--data"]).arg(&dir).output().unwrap();
    assert!(human.status.success() && said(&human).contains("Access tokens"), "{}", said(&human));
    ledger.start(&["--sign-in-link"]);
    ledger.owner().issue("agent", "after", None);
    let live = replay(&dir, &["verify"]);
    assert!(live.status.success() && said(&live).contains("rotated 2 times"), "{}", said(&live));
    ledger.kill();
    ledger.start(&[]);
    assert!(ledger.stop().success());

    // A bundle brings the certificates along.
    let bundle = ledger.home().join("team.bundle");
    let mut export = command();
    export.args(["--team", owner.team.as_deref().unwrap(), "export"]).arg(&bundle).arg("--data").arg(&dir);
    let exported = export.args(["--head"]).arg(&first_head).output().unwrap();
    assert!(exported.status.success(), "{}", said(&exported));
    for (key, rotations) in [(&first_key, 2), (&second_key, 1), (&dir.join("ledger.vkey"), 0)] {
        let report = verified(&bundle, key, &[&first_head]).unwrap();
        assert_eq!((&report["key_rotations"], &report["whole"]), (&json!(rotations), &json!(true)));
    }

    let heads: [&Path; 2] = [&first_head, &second_head];
    for (key, rotations) in [(&first_key, 2), (&second_key, 1), (&dir.join("ledger.vkey"), 0)] {
        let report = verified(&dir, key, &heads).unwrap();
        assert_eq!((&report["key_rotations"], &report["key_pinned"]), (&json!(rotations), &json!(true)));
        assert_eq!(report["unsigned_events"], 0);
    }
    let told = replay(&dir, &["verify", "--key", first_key.to_str().unwrap()]);
    assert!(said(&told).contains("2 rotations of the signing key were followed"), "{}", said(&told));
    // The new head is none of the old key's alone, and the old one is none of another ledger's.
    let certificates = dir.join("ledger.keys");
    let honest = fs::read_to_string(&certificates).unwrap();
    for forged in [String::new(), honest.replacen("position 6", "position 5", 1), honest[..honest.len() / 2].to_owned()]
    {
        fs::write(&certificates, forged).unwrap();
        let why = verified(&dir, &first_key, &[]).unwrap_err();
        assert!(why.starts_with("keyledger: broken: ") && why.contains("certificate"), "{why}");
    }
    fs::remove_file(&certificates).unwrap();
    assert!(verified(&dir, &second_key, &[]).unwrap_err().contains("no certificate leads from the key"));
    assert!(verified(&dir, &dir.join("ledger.vkey"), &[]).unwrap_err().contains("certificate is missing"));
    fs::write(&certificates, honest).unwrap();
    verified(&dir, &first_key, &heads).unwrap();

    // No seed stands anywhere but in its own file.
    let seeds = [first_seed, fs::read(dir.join("keys/signing.key")).unwrap()];
    for file in files(ledger.home()) {
        let bytes = fs::read(&file).unwrap();
        let found = seeds.iter().any(|seed| bytes.windows(32).any(|window| window == seed));
        assert_eq!(found, file.ends_with("keys/signing.key"), "{}", file.display());
    }
    assert!(doctor(&ledger).contains("position 9"), "{}", doctor(&ledger));
    fs::write(dir.join("keys/signing.key"), [9; 32]).unwrap();
    assert!(doctor(&ledger).contains("is another key's"), "{}", doctor(&ledger));
}

fn text(key: &Path) -> String {
    fs::read_to_string(key).unwrap().trim().to_owned()
}

#[test]
fn a_rotation_killed_at_any_call_is_finished_or_taken_back_by_the_next_start() {
    if !strace::possible("kill -9 at each call of a rotation") {
        return;
    }
    let calls = {
        let (ledger, log) = stopped();
        let mut child = strace::traced(&rotation(&ledger.dir()), &log).spawn().unwrap();
        assert!(child.wait().unwrap().success());
        strace::calls(&log, child.id(), &ledger.dir())
            .into_iter()
            .map(|call| (call.file.strip_prefix(ledger.dir()).unwrap().to_owned(), call))
            .collect::<Vec<_>>()
    };
    assert!(calls.len() > 30, "{calls:#?}");
    let (mut finished, mut taken_back, mut killed) = (0, 0, 0);
    for (file, call) in strace::chosen(&calls, 12) {
        let (mut ledger, log) = stopped();
        let (dir, pinned) = (ledger.dir(), keep(&ledger, "ledger.vkey", "key.1"));
        let file = if file.as_os_str().is_empty() { dir.clone() } else { dir.join(file) };
        let call = strace::Call { file, ..call };
        let status = strace::faulty(&rotation(&dir), &log, &call, "signal=KILL").status().unwrap();
        killed += usize::from(!status.success());
        // What lies there now is a ledger that holds, whichever step it was.
        verified(&dir, &pinned, &[]).unwrap_or_else(|why| panic!("left by a kill at {call}: {why}"));
        ledger.start(&["--sign-in-link"]);
        ledger.owner().issue("agent", "after", None);
        assert!(ledger.stop().success());
        let report = verified(&dir, &pinned, &[]).unwrap_or_else(|why| panic!("killed at {call}: {why}"));
        let rotated = report["key_rotations"] == 1;
        assert!(rotated || !status.success(), "{call}: what was answered is undone");
        assert_eq!(rotated, text(&pinned) != text(&dir.join("ledger.vkey")), "{call}");
        assert!(!dir.join("keys/signing.key.next").exists(), "{call}");
        *(if rotated { &mut finished } else { &mut taken_back }) += 1;
        // And the next one goes through.
        assert!(rotate(&dir).status.success(), "{call}");
        verified(&dir, &pinned, &[]).unwrap();
    }
    assert!(
        finished > 1 && taken_back > 1 && killed > 8,
        "{finished} finished, {taken_back} back, {killed} killed"
    );
}

/// A ledger that has served, and where strace may write.
fn stopped() -> (Ledger, PathBuf) {
    let mut ledger = Ledger::started();
    assert!(ledger.stop().success());
    let log = ledger.home().join("strace");
    (ledger, log)
}
