//! `keyledger scan`: the real binary over real files, alone and with a server.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
};

use keyledger_events::secret::{Kind, RANDOM_LEN, Secret};
use serde_json::{Value, json};
use support::ledger::{Api, Ledger, command, said};

fn secret(kind: Kind, seed: u8) -> String {
    Secret::new(kind, &[seed; RANDOM_LEN]).expose().to_owned()
}

fn scan(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let home = dir.join("../home");
    let mut command = command();
    command.arg("scan").args(arguments).current_dir(dir).env("KEYLEDGER_CONFIG_DIR", home);
    command.envs(environment.iter().copied()).output().unwrap()
}

fn found(output: &Output) -> Vec<Value> {
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)));
    answer["finds"].as_array().unwrap().clone()
}

#[test]
fn files_of_every_kind_are_searched_and_no_secret_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join(".git/objects/ab")).unwrap();
    fs::create_dir_all(tree.join("src/objects")).unwrap();
    let [one, two, three, four, five] = [1, 2, 3, 4, 5].map(|seed| secret(Kind::ALL[usize::from(seed) % 4], seed));
    let typo = one.replace("kl11", "kl12");
    fs::write(tree.join("src/main.rs"), format!("a\nb\nlet k = \"{one}\"; // {two}\nnot {typo}x {three}_\n")).unwrap();
    fs::write(tree.join(".gitignore"), ".env\n").unwrap();
    fs::write(tree.join(".env"), format!("KEY={three}\n")).unwrap();
    fs::write(tree.join("src/objects/blob"), [b"\0\xff\xfe", four.as_bytes(), b"\0"].concat()).unwrap();
    fs::write(tree.join(".git/objects/ab/cd"), &five).unwrap();
    fs::write(tree.join(".git/config"), format!("url = https://x:{five}@x.example\n")).unwrap();

    let output = scan(&tree, &["."], &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let lines: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().map(str::to_owned).collect();
    let expected = [
        ("./.env:1:5", &three),
        ("./.git/config:1:17", &five),
        ("./src/main.rs:3:10", &one),
        ("./src/main.rs:3:71", &two),
        ("./src/objects/blob:1:4", &four),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, (place, secret)) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("{place}: ")) && line.contains(&secret[..12]), "{line} is not at {place}");
    }
    for secret in [&one, &two, &three, &four, &five] {
        assert!(!said(&output).contains(&secret[12..]), "a secret is printed");
    }
    assert!(said(&output).contains("not signed in"));

    let output = scan(&tree, &["--json", "--offline", "--respect-ignore", "."], &[]);
    let finds = found(&output);
    assert_eq!(finds.len(), 4, "{finds:?}");
    let expected = json!({ "path": "./src/main.rs", "line": 3, "column": 10, "kind": "agent", "key_prefix": &one[..12], "status": "not asked", "credential_id": null });
    assert!(finds.contains(&expected), "{finds:?}");
    assert!(said(&output).split("stderr").all(|text| !text.contains("not signed in")));

    // A file by name, also behind a link; nothing; nowhere; standard input.
    std::os::unix::fs::symlink(tree.join(".env"), tree.join("link")).unwrap();
    assert_eq!(found(&scan(&tree, &["--json", "--offline", "link"], &[])).len(), 1);
    fs::create_dir(tree.join("empty")).unwrap();
    let nothing = scan(&tree, &["empty"], &[]);
    assert_eq!((nothing.status.code(), &nothing.stdout[..]), (Some(0), &b"Nothing found.\n"[..]));
    for wrong in [&["missing"][..], &[], &[".", "--revoke", "--offline"], &[&one]] {
        let output = scan(&tree, wrong, &[]);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", said(&output));
        assert!(!said(&output).contains(&one[12..]));
    }
    let mut child = command();
    child.args(["scan", "-", "--offline"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let diff = format!("commit 1\n+{}\n{}+KEY={two}\n", "x".repeat(3_000_000), "+\n".repeat(999));
    child.stdin.take().unwrap().write_all(diff.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("-:1002:6: "), "{}", said(&output));
}

#[test]
fn the_server_tells_what_lives_and_ends_it() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let member = owner.invite("member", "Mia");
    let (id, live) = owner.issue("integration", "CI", None);
    let (dead_id, dead) = owner.issue("agent", "bot", None);
    owner.delete(&format!("/api/v1/credentials/{dead_id}")).expect(204);
    let stranger = secret(Kind::Integration, 9);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a.txt"), format!("{live}\n{dead}\n{stranger}\n")).unwrap();
    fs::write(tree.join("b.txt"), format!("\n\n{live}\n")).unwrap();
    let of = |api: &Api| {
        let (url, token, team) = (ledger.url(), api.token.clone().unwrap(), api.team.clone().unwrap());
        [("KEYLEDGER_SERVER", url), ("KEYLEDGER_TOKEN", token), ("KEYLEDGER_TEAM", team)]
    };
    let run = |api: &Api, arguments: &[&str]| {
        let environment = of(api);
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let output = scan(&tree, &[&["--json", "."], arguments].concat(), &environment);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        for secret in [&live, &dead, &stranger] {
            assert!(!said(&output).contains(&secret[12..]));
        }
        found(&output).iter().map(|find| find["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(run(&owner, &[]), ["live", "revoked", "unknown", "live"]);
    owner.verified(&live);
    let forbidden = "live, and not yours to end";
    assert_eq!(run(&member, &["--revoke"]), [forbidden, "revoked", "unknown", forbidden]);
    owner.verified(&live);
    // Who is not signed in any more learns what was found all the same.
    let stale =
        Api { token: Some("eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl".to_owned()), ..owner.clone() };
    assert_eq!(run(&stale, &[]), ["not asked"; 4]);
    assert_eq!(run(&owner, &["--revoke"]), ["revoked now", "revoked", "unknown", "revoked now"]);
    owner.refused(&live);
    let history = owner.get(&format!("/api/v1/credentials/{id}/history")).expect(200).json();
    let places: Vec<_> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "credential_leaked")
        .map(|event| event["data"]["place"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(places.len(), 2, "{history}");
    assert!(places.contains(&"./a.txt:1".to_owned()) && places.contains(&"./b.txt:3".to_owned()), "{places:?}");
    assert_eq!(run(&owner, &[]), ["revoked", "revoked", "unknown", "revoked"]);
}
