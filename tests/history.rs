//! Questions on a running server and exports, end to end: through HTTP, through the command, and against the directory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{fs, time::Duration};

use serde_json::{Value, json};
use support::ledger::{Api, Ledger, command, said};

/// A server with two teams, and somebody of every role in one of them.
struct Scene {
    ledger: Ledger,
    owner: Api,
    member: Api,
    viewer: Api,
    auditor: Api,
    /// Somebody of another team, and a key there.
    stranger: Api,
    foreign_key: String,
    key: String,
    device: [String; 4],
}

impl Scene {
    fn new() -> Self {
        let ledger = Ledger::started();
        let owner = ledger.owner();
        let [member, viewer, auditor] = ["member", "viewer", "auditor"].map(|role| owner.invite(role, role));
        let other = owner.post("/api/v1/teams", &json!({ "name": "between" })).expect(201).text("id");
        let stranger = owner.in_team(&other).invite("admin", "stranger");
        let theirs = stranger.post("/api/v1/teams", &json!({ "name": "theirs" })).expect(201).text("id");
        let stranger = stranger.in_team(&theirs);
        let foreign_key = stranger.issue("integration", "their key", None).0;
        let (key, secret) = member.issue("integration", "=cmd|' /C calc'!A0", Some(30));
        let device = member.pair("Mara's laptop");
        let (dead, _) = owner.issue("agent", "bot", None);
        let reason = json!({ "reason": "+1 \"quoted\", comma" }).to_string();
        let path = format!("/api/v1/credentials/{dead}");
        owner.send("DELETE", &path, &[("User-Agent", "=HYPERLINK(\"http://x\")")], reason.as_bytes()).expect(204);
        owner.verified(&secret);
        Self { ledger, owner, member, viewer, auditor, stranger, foreign_key, key, device }
    }

    /// `keyledger …` as the auditor: exit code, standard output, standard error.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = command();
        command
            .args(arguments)
            .env("KEYLEDGER_SERVER", self.ledger.url())
            .env("KEYLEDGER_CONFIG_DIR", self.ledger.home());
        command.env("KEYLEDGER_TOKEN", self.auditor.token.as_ref().unwrap());
        command.env("KEYLEDGER_TEAM", self.auditor.team.as_ref().unwrap());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, err) = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        serde_json::from_str(&out).unwrap()
    }

    /// The same question to the directory.
    fn of_directory(&self, arguments: &[&str]) -> Value {
        let team = self.auditor.team.clone().unwrap();
        let output = self.ledger.replay(&[arguments, &["--team", &team, "--json"]].concat());
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Without the names that only a server can open.
fn sealed(mut answer: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(object) => {
                if object.get("prefix").is_some_and(|prefix| prefix.as_str().is_some_and(|p| !p.starts_with("sk-"))) {
                    object.remove("name");
                }
                object.remove("what");
                object.values_mut().for_each(walk);
            }
            Value::Array(list) => list.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut answer);
    answer
}

#[test]
fn a_running_server_answers_as_its_directory_does() {
    let scene = Scene::new();
    let url = scene.ledger.url();
    let last: u64 = scene.owner.position().parse().unwrap();
    let last = last.to_string();
    for (arguments, path) in [
        (vec!["as-of", "--at", &last], format!("as-of?at={last}")),
        (vec!["as-of", "--at", "4"], "as-of?at=4".to_owned()),
        (vec!["as-of", "--at", "2099-01-01T00:00:00Z"], "as-of?at=2099-01-01T00:00:00Z".to_owned()),
        (
            vec!["as-of", "--at", "2099-01-01T00:00:00Z", "--known-at", "9"],
            "as-of?at=2099-01-01T00:00:00Z&known_at=9".to_owned(),
        ),
        (vec!["explain", &scene.key], format!("explain?credential={}", scene.key)),
        (
            vec!["explain", &scene.device[2], "--at", &last],
            format!("explain?credential={}&at={last}", scene.device[2]),
        ),
        (vec!["diff", "1", &last], format!("diff?from=1&to={last}")),
        (
            vec!["diff", "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"],
            "diff?from=2020-01-01T00:00:00Z&to=2099-01-01T00:00:00Z".to_owned(),
        ),
    ] {
        let served = scene.auditor.get(&format!("/api/v1/history/{path}")).expect(200).json();
        assert_eq!(scene.owner.get(&format!("/api/v1/history/{path}")).expect(200).json(), served, "{path}");
        let (what, rest) = arguments.split_first().unwrap();
        let asked = scene.json(&[&["replay", what, &url], rest].concat());
        assert_eq!(asked, served, "{path}: the command prints what the server answers");
        assert_eq!(sealed(scene.of_directory(&arguments)), sealed(served.clone()), "{path}");
        assert!(!served.to_string().contains("their"), "{served}");
        let (code, text, err) = scene.run(&[&["replay", what, &url], rest].concat());
        assert_eq!(code, Some(0), "{err}");
        assert!(text.len() > 40 && !text.starts_with('{'), "{text}");
    }
    let alive = scene.auditor.get(&format!("/api/v1/history/as-of?at={last}")).expect(200).json();
    assert!(alive.to_string().contains("Mara's laptop"), "names are opened for who may read them: {alive}");
    let copy = scene.of_directory(&["as-of", "--at", &last]);
    assert!(copy.to_string().contains("sealed_for") && !copy.to_string().contains("Mara"), "{copy}");

    // Every key is a second too old by now.
    std::thread::sleep(Duration::from_millis(1_100));
    let policy = ["--max-lifetime", "1s", "--idle", "30d", "--revoke-on-departure"];
    let found = scene.json(&[&["replay", "what-if", &url], &policy[..]].concat());
    let ids = |found: &Value| -> Vec<String> {
        let ended = found["ended"].as_array().unwrap();
        ended.iter().map(|would| would["credential"]["credential"].as_str().unwrap().to_owned()).collect()
    };
    for id in [&scene.key, &scene.device[0], &scene.device[2]] {
        assert!(ids(&found).contains(id), "{found}");
    }
    assert_eq!((found["judged"].as_u64(), found["ended"].as_array().map(Vec::len)), (Some(4), Some(3)), "{found}");
    assert_eq!(found["used_afterwards"], 0);
    let key = scene.key.clone();
    let of_key = |found: &Value| {
        let ended = found["ended"].as_array().unwrap();
        ended.iter().find(|would| would["credential"]["credential"] == key.as_str()).unwrap().clone()
    };
    assert!(of_key(&found)["last_used_at"].is_string(), "{found}");
    // The directory of a running server tells nothing of uses; a stopped one's does.
    let dir = scene.ledger.dir();
    let dir = dir.to_str().unwrap();
    let (code, _, err) = scene.run(&["replay", "what-if", dir, "--idle", "30d"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("in use by a server") && err.contains("--idle can't be judged"), "{err}");
    let unknown = scene.of_directory(&["what-if", "--max-lifetime", "1s"]);
    assert_eq!((&unknown["used_afterwards"], unknown["not_known"][0].is_string()), (&Value::Null, true));
    let mut scene = scene;
    let used = of_key(&found)["last_used_at"].clone();
    // So that the log's last event is late enough, too.
    scene.owner.issue("agent", "late", None);
    assert!(scene.ledger.stop().success());
    let offline = scene.of_directory(&["what-if", "--max-lifetime", "1s", "--idle", "30d"]);
    let would = of_key(&offline);
    assert_eq!((&would["last_used_at"], &would["used_afterwards"]), (&used, &json!(false)));
    let again = scene.of_directory(&["what-if", "--max-lifetime", "1s", "--idle", "30d"]);
    assert_eq!(again, offline, "asking changes nothing");
    fs::remove_dir_all(scene.ledger.dir().join("side")).unwrap();
    let (code, _, err) = scene.run(&["replay", "what-if", dir, "--idle", "30d"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("is not here"), "{err}");
}

#[test]
fn only_who_may_read_everything_asks_and_nobody_about_another_team() {
    let scene = Scene::new();
    let paths = [
        "history/as-of?at=5".to_owned(),
        format!("history/explain?credential={}", scene.key),
        "history/diff?from=1&to=5".to_owned(),
        "history/what-if?max_lifetime=1s".to_owned(),
        "audit/export?format=csv".to_owned(),
    ];
    for path in &paths {
        let path = format!("/api/v1/{path}");
        scene.auditor.get(&path).expect(200);
        scene.owner.get(&path).expect(200);
        scene.member.get(&path).expect(403);
        scene.viewer.get(&path).expect(403);
        scene.ledger.api().get(&path).expect(401);
        scene.stranger.in_team(scene.auditor.team.as_ref().unwrap()).get(&path).expect(404);
    }
    let foreign = format!("/api/v1/history/explain?credential={}", scene.foreign_key);
    scene.stranger.get(&foreign).expect(200);
    let unknown = foreign.replace(&scene.foreign_key, "0190b5a6-7e0c-7cc0-98c1-00000000dead");
    assert_eq!(scene.auditor.get(&foreign).expect(404).body, scene.auditor.get(&unknown).expect(404).body);
    let (code, _, err) = scene.run(&["replay", "explain", &scene.ledger.url(), &scene.foreign_key]);
    assert_eq!(code, Some(1), "{err}");

    for wrong in [
        "as-of",
        "as-of?at=yesterday",
        "as-of?at=-1",
        "as-of?at=7&known_at=8",
        "as-of?at=99999999",
        "as-of?known_at=18446744073709551615",
        "as-of?at=2026-03-03T12:00:00Z&known_at=x",
        "as-of?at=5&surprise=1",
        "explain",
        "explain?credential=nobody",
        "explain?credential=",
        "explain?credential=sk-kl1abcdef&at=never",
        "diff",
        "diff?from=1",
        "diff?from=5&to=1",
        "diff?from=2026-03-04T12:00:00Z&to=2026-03-03T12:00:00Z",
        "diff?from=0&to=99999999",
        "what-if",
        "what-if?max_lifetime=1y",
        "what-if?idle=0s",
        "what-if?idle=30",
        "what-if?revoke_on_departure=maybe",
        "what-if?max_lifetime=-1d",
    ] {
        let refused = scene.auditor.get(&format!("/api/v1/history/{wrong}")).expect(400);
        assert!(!refused.code().is_empty(), "{wrong}");
    }
    for wrong in ["format=xml", "format=", "after=x", "from=yesterday", "to=1"] {
        scene.auditor.get(&format!("/api/v1/audit/export?{wrong}")).expect(400);
    }
}

#[test]
fn exports_are_whole_resumable_and_of_one_team() {
    let scene = Scene::new();
    let file = |name: &str| scene.ledger.home().join(name);
    let team = scene.auditor.team.clone().unwrap();
    let events = scene.auditor.get("/api/v1/audit?limit=1000").expect(200).json();
    let positions: Vec<u64> =
        events["events"].as_array().unwrap().iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert!(positions.len() > 8);

    for (format, content_type, suffix) in [
        ("jsonl", "application/x-ndjson", "jsonl"),
        ("csv", "text/csv; charset=utf-8", "csv"),
        ("ocsf", "application/x-ndjson", "ocsf.jsonl"),
    ] {
        let served = scene.auditor.get(&format!("/api/v1/audit/export?format={format}")).expect(200);
        assert_eq!(served.header("content-type"), Some(content_type));
        let disposition = format!("attachment; filename=\"keyledger-{team}.{suffix}\"");
        assert_eq!(served.header("content-disposition"), Some(disposition.as_str()));
        assert_eq!(served.header("ledger-stream-events"), Some(positions.len().to_string().as_str()));
        assert!(!served.body.contains("their key"), "{}", served.body);
        let found: Vec<u64> = served.body.lines().filter_map(|line| position(format, line)).collect();
        assert_eq!(found, positions, "{format}");

        let path = file(format);
        let name = path.to_str().unwrap();
        let facts = scene.json(&["export", "--format", format, name]);
        assert_eq!(facts["events"], positions.len());
        assert_eq!(fs::read_to_string(&path).unwrap(), served.body);
        let statement = fs::read_to_string(facts["statement"].as_str().unwrap()).unwrap();
        let last = events["events"].as_array().unwrap().last().unwrap()["hash"].as_str().unwrap();
        assert!(statement.contains(&format!("\nhead {last}\n")), "{statement}");
        let (code, out, _) = scene.run(&["export", "--format", format, "-"]);
        assert_eq!((code, out.as_str()), (Some(0), served.body.as_str()));
        // What is there is not overwritten.
        let (code, _, err) = scene.run(&["export", "--format", format, name]);
        assert_eq!(code, Some(1));
        assert!(err.contains("--resume"), "{err}");
        // Wherever it was cut off, resuming ends with the same bytes.
        let len = served.body.len();
        for cut in [0, 1, 30, len / 3, len / 2, len - 1, len] {
            fs::write(&path, &served.body[..cut]).unwrap();
            let whole = served.body[..cut].lines().count();
            let (code, _, err) = scene.run(&["export", "--format", format, "--resume", name]);
            match (code, served.body[..cut].contains('\n') || cut == 0) {
                (Some(0), true) => assert_eq!(fs::read_to_string(&path).unwrap(), served.body, "{format} cut at {cut}"),
                // Half a heading is known for one, and written anew; half of another first line might be anything.
                (Some(0), false) if format == "csv" => assert_eq!(fs::read_to_string(&path).unwrap(), served.body),
                (Some(1), false) => assert!(whole == 1 && err.contains("no export of the form"), "{err}"),
                other => panic!("{format} cut at {cut}: {other:?} {err}"),
            }
        }
        fs::write(&path, "another file\n").unwrap();
        let (code, _, err) = scene.run(&["export", "--format", format, "--resume", name]);
        assert_eq!(code, Some(1), "{err}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "another file\n");
        let middle = positions[positions.len() / 2];
        let rest = scene.auditor.get(&format!("/api/v1/audit/export?format={format}&after={middle}")).expect(200);
        assert_eq!(rest.body.lines().count(), positions.iter().filter(|position| **position > middle).count());
        assert!(served.body.ends_with(&rest.body));
    }

    let csv = scene.auditor.get("/api/v1/audit/export?format=csv").expect(200).body;
    let mut reader = csv::ReaderBuilder::new().from_reader(csv.as_bytes());
    let heading = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert!(rows.iter().flatten().all(|cell| !cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n'])));
    let column = |name: &str| heading.iter().position(|column| column == name).unwrap();
    let cells = |name: &str| rows.iter().map(|row| row[column(name)].to_owned()).collect::<Vec<_>>();
    assert!(cells("name").contains(&"'=cmd|' /C calc'!A0".to_owned()), "{csv}");
    assert!(cells("user_agent").contains(&"'=HYPERLINK(\"http://x\")".to_owned()), "{csv}");
    let notes: Vec<Value> = cells("data").iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    assert!(notes.iter().any(|data| data["note"] == "+1 \"quoted\", comma"), "{csv}");
}

fn position(format: &str, line: &str) -> Option<u64> {
    let object = || serde_json::from_str::<Value>(line).unwrap();
    match format {
        "csv" => line.split(',').next()?.parse().ok(),
        "jsonl" => object()["position"].as_u64(),
        _ => object()["metadata"]["sequence"].as_u64(),
    }
}
