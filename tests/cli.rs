//! The command against a server that answers by the book: what it sends, prints and exits with.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use axum::{Json, Router, body::Bytes, extract::State};
use http::{HeaderMap, Method, StatusCode, Uri};
use keyledger::http::{
    Challenge, Problem,
    server::{Limits, NoFastPath},
};
use serde_json::{Value, json};
use support::Running;

const ID: &str = "0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a";
const TEAM: &str = "0190b5a6-7e0c-7cc0-98c1-000000000001";
const TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl";

/// What came in: method, target, Authorization, X-Team-ID, body.
type Seen = Arc<Mutex<Vec<(String, String, String, String, Value)>>>;

async fn answer(
    State(seen): State<Seen>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let header = |name: &str| headers.get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned());
    let sent = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let target = uri.path_and_query().unwrap().to_string();
    seen.lock().unwrap().push((method.to_string(), target, header("authorization"), header("x-team-id"), sent));
    let ok = |body: Value| Ok((StatusCode::OK, Json(body)));
    let credential = json!({ "id": ID, "kind": "integration", "display_name": "CI \u{1b}[2J", "key_status": "active", "expires_at": null });
    match (method.as_str(), uri.path().strip_prefix("/api/v1").unwrap_or(uri.path())) {
        ("POST", "/credentials" | "/service-credentials") => {
            ok(json!({ "id": ID, "kind": "integration", "raw_key": "the-key", "expires_at": null }))
        }
        ("POST", path) if path.ends_with("/rotate") => {
            ok(json!({ "id": ID, "raw_key": "the-next-key", "rotated_from": ID }))
        }
        ("GET", "/credentials") => {
            ok(json!({ "credentials": [credential], "page_meta": { "total_count": 41 }, "position": 1 }))
        }
        ("GET", path) if path == format!("/credentials/{ID}") => ok(credential),
        ("DELETE", path) if path == format!("/credentials/{ID}") => ok(Value::Null),
        ("POST", "/verify") if header("authorization") == "Bearer good" => {
            ok(json!({ "valid": true, "credential_id": ID }))
        }
        ("POST", "/verify") => Err(Problem::unauthorized(Challenge::InvalidToken)),
        ("GET", "/whoami") => {
            ok(json!({ "type": "person", "user_id": ID, "teams": [{ "id": TEAM, "name": "One", "role": "owner" }] }))
        }
        ("POST", "/auth/link") => ok(
            json!({ "access_token": TOKEN, "expires_at": "2026-03-03T12:00:00Z", "user_id": ID, "teams": [{ "id": TEAM, "name": "One", "role": "owner" }] }),
        ),
        ("POST", "/auth/logout" | "/auth/device/revoke") => ok(Value::Null),
        ("POST", "/desktop/pair/start") => ok(
            json!({ "device_code": "dc", "user_code": "BCDF-GHJK", "verification_uri": "http://x/pair", "expires_in": 60, "interval": 1 }),
        ),
        ("POST", "/desktop/pair/poll") => {
            ok(json!({ "status": "approved", "raw_key": "dk-the-device", "agent_key": "ak-the-agent" }))
        }
        ("GET", "/members") => ok(json!({ "members": [{ "id": ID, "name": "Ada", "role": "admin" }] })),
        ("GET", path) if path.ends_with("/departure") => ok(
            json!({ "member": { "id": ID, "name": "Ada" }, "revision": 7, "ends_by_itself": [], "to_decide": [credential] }),
        ),
        ("POST", path) if path.ends_with("/departure") => {
            Err(Problem::conflict("stale_revision", "Something has changed.").with_member("revision", 9))
        }
        ("PATCH" | "DELETE", path) if path.starts_with("/members/") => ok(Value::Null),
        ("POST", "/members/invitations") => ok(json!({ "url": "http://x/sign-in?token=lk-1", "role": "viewer" })),
        ("GET", "/readyz") => ok(json!({ "status": "ready", "version": "1" })),
        _ => Err(Problem::not_found()),
    }
}

struct Scene {
    server: Running,
    seen: Seen,
    home: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let seen = Seen::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&seen));
        Self { server: Running::start(Limits::default(), router, NoFastPath), seen, home: tempfile::tempdir().unwrap() }
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyledger"));
        command.args(line.split_whitespace()).env_clear().env("KEYLEDGER_CONFIG_DIR", self.home.path());
        command
    }

    fn run(&self, line: &str, environment: &[(&str, &str)], stdin: &str) -> Output {
        let mut command = self.command(line);
        command.envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn last(&self) -> (String, String, String, String, Value) {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn each_command_sends_what_the_contract_says() {
    let scene = Scene::new();
    let url = scene.url();
    let environment = [("KEYLEDGER_SERVER", url.as_str()), ("KEYLEDGER_TOKEN", TOKEN), ("KEYLEDGER_TEAM", TEAM)];
    let v1 = |path: &str| format!("/api/v1{path}");
    for (line, method, target, body, printed) in [
        (
            "issue integration CI --expires-in-days 30 --purpose tests",
            "POST",
            v1("/credentials"),
            json!({ "kind": "integration", "display_name": "CI", "expires_in_days": 30, "purpose": "tests" }),
            "the-key\n",
        ),
        (
            "issue agent bot",
            "POST",
            v1("/credentials"),
            json!({ "kind": "agent", "display_name": "bot" }),
            "the-key\n",
        ),
        (
            "list --kind device --status revoked --departed --q a&b --page 2",
            "GET",
            v1("/credentials?kind=device&status=revoked&departed=true&q=a%26b&current_page=2&per_page=20"),
            Value::Null,
            "41 credentials, page 2 of 3",
        ),
        (&format!("show {ID}"), "GET", v1(&format!("/credentials/{ID}")), Value::Null, "CI \u{fffd}[2J"),
        (
            &format!("revoke {ID} --reason stolen"),
            "DELETE",
            v1(&format!("/credentials/{ID}")),
            json!({ "reason": "stolen" }),
            "is revoked",
        ),
        (
            &format!("rotate {ID} --overlap-seconds 60"),
            "POST",
            v1(&format!("/credentials/{ID}/rotate")),
            json!({ "overlap_seconds": 60 }),
            "the-next-key\n",
        ),
        ("whoami", "GET", v1("/whoami"), Value::Null, TEAM),
        ("members", "GET", v1("/members"), Value::Null, "Ada"),
        (
            "members invite --role viewer",
            "POST",
            v1("/members/invitations"),
            json!({ "role": "viewer" }),
            "http://x/sign-in",
        ),
        (
            &format!("members role {ID} admin"),
            "PATCH",
            v1(&format!("/members/{ID}")),
            json!({ "role": "admin" }),
            "is admin",
        ),
        (
            &format!("members remove {ID}"),
            "DELETE",
            v1(&format!("/members/{ID}")),
            Value::Null,
            "no member any more",
        ),
        (
            &format!("depart {ID}"),
            "GET",
            v1(&format!("/members/{ID}/departure")),
            Value::Null,
            "To decide, riskiest first:",
        ),
        (
            "service-token edge --expires-in-days 365",
            "POST",
            v1("/service-credentials"),
            json!({ "display_name": "edge", "expires_in_days": 365 }),
            "the-key\n",
        ),
    ] {
        let output = scene.run(line, &environment, "");
        assert_eq!(output.status.code(), Some(0), "{line}: {}", err(&output));
        assert!(out(&output).contains(printed), "{line}: {}", out(&output));
        assert_eq!(
            scene.last(),
            (method.to_owned(), target, format!("Bearer {TOKEN}"), TEAM.to_owned(), body),
            "{line}"
        );
        let as_json = scene.run(&format!("{line} --json"), &environment, "");
        assert!(serde_json::from_slice::<Value>(&as_json.stdout).is_ok(), "{line}: {}", out(&as_json));
        assert!(as_json.stderr.is_empty(), "{line}: {}", err(&as_json));
    }
}

#[test]
fn refusals_are_one_sentence_and_exit_codes_hold() {
    let scene = Scene::new();
    let url = scene.url();
    let environment = [("KEYLEDGER_SERVER", url.as_str()), ("KEYLEDGER_TOKEN", TOKEN)];
    let other = TEAM;
    for (line, stdin, code, said) in [
        ("verify", "good\n", 0, ""),
        ("verify", "bad\n", 1, "keyledger: What was presented is not valid here. (invalid_token, 401)\n"),
        ("verify", "", 2, "keyledger: there is nothing on standard input\n"),
        (&format!("show {other}"), "", 1, "keyledger: There is no such thing here. (not_found, 404)\n"),
        (
            &format!("depart {ID} --revoke {ID}"),
            "",
            1,
            "keyledger: Something has changed. The revision is now 9. (stale_revision, 409)\n",
        ),
        ("--server http://127.0.0.1:1 whoami", "", 1, "keyledger: http://127.0.0.1:1 can't be reached"),
        ("--server nonsense whoami", "", 2, "keyledger: the server must be http://"),
        ("show", "", 2, "error:"),
        ("nonsense", "", 2, "error:"),
        ("--version", "", 0, ""),
        ("help", "", 0, ""),
    ] {
        let output = scene.run(line, &environment, stdin);
        assert_eq!(output.status.code(), Some(code), "{line}: {} {}", out(&output), err(&output));
        assert!(err(&output).starts_with(said), "{line}: {}", err(&output));
    }
    let departure = scene.last();
    assert_eq!(departure.0, "POST");
    assert_eq!(
        departure.4,
        json!({ "revoke": [ID], "hand_over": [], "expected_revision": 7 }),
        "the dossier's revision is taken"
    );
}

#[test]
fn a_key_for_verify_may_come_from_the_environment_and_never_as_an_argument() {
    let scene = Scene::new();
    let url = scene.url();
    let output = scene.run("verify --surface runtime", &[("KEYLEDGER_SERVER", &url), ("KEYLEDGER_KEY", "good")], "");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!((scene.last().2.as_str(), &scene.last().4), ("Bearer good", &json!({ "surface": "runtime" })));
    let secret = format!("sk-kl1{}", "a".repeat(49));
    for line in [format!("verify {secret}"), format!("show {secret}"), format!("issue integration {secret}")] {
        let output = scene.run(&line, &[("KEYLEDGER_SERVER", &url)], "");
        assert_eq!(output.status.code(), Some(2));
        assert!(
            !err(&output).contains(&secret) && err(&output).contains("must not be an argument"),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn signing_in_by_link_saves_for_this_user_only_and_signing_out_forgets() {
    let scene = Scene::new();
    let saved = scene.home.path().join("login.json");
    let link = format!("{}/sign-in?token=lk-{}", scene.url(), "Z9".repeat(22));
    let output = scene.run("login --link -", &[], &link);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(!out(&output).contains(TOKEN) && out(&output).contains(TEAM), "{}", out(&output));
    assert_eq!(scene.last().4, json!({ "token": format!("lk-{}", "Z9".repeat(22)) }));
    assert_eq!(std::fs::metadata(&saved).unwrap().permissions().mode() & 0o777, 0o600);

    // The sign-in carries server, token and team; another server does not get the token.
    let output = scene.run("whoami", &[], "");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!((scene.last().2, scene.last().3), (format!("Bearer {TOKEN}"), TEAM.to_owned()));
    let other = Scene::new();
    scene.run("whoami", &[("KEYLEDGER_SERVER", &other.url())], "");
    assert_eq!((other.last().2, other.last().3), (String::new(), String::new()));

    // What others may read is not used.
    std::fs::set_permissions(&saved, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(err(&scene.run("whoami", &[], "")).contains("may be read by others"));
    std::fs::set_permissions(&saved, std::fs::Permissions::from_mode(0o600)).unwrap();

    let output = scene.run("logout", &[], "");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(scene.last().1, "/api/v1/auth/logout");
    assert!(!saved.exists());
    assert_eq!(scene.run("logout", &[("KEYLEDGER_SERVER", &scene.url())], "").status.code(), Some(1));
}

#[test]
fn pairing_saves_the_device_and_hands_the_agents_key_over_once() {
    let scene = Scene::new();
    let url = scene.url();
    let environment = [("KEYLEDGER_SERVER", url.as_str())];
    let output = scene.run("login --name laptop", &environment, "");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(out(&output), "ak-the-agent\n");
    assert!(err(&output).contains("BCDF-GHJK") && !err(&output).contains("dk-the-device"), "{}", err(&output));
    let file = scene.home.path().join("agent");
    let output = scene.run(&format!("login --agent-key-file {}", file.display()), &environment, "");
    assert!(!out(&output).contains("ak-the-agent"), "{}", out(&output));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "ak-the-agent\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(scene.run("logout", &[], "").status.code(), Some(0));
    assert_eq!(
        (scene.last().1.as_str(), scene.last().2.as_str()),
        ("/api/v1/auth/device/revoke", "Bearer dk-the-device")
    );
}

#[test]
fn doctor_says_what_is_wrong() {
    let scene = Scene::new();
    let url = scene.url();
    let data = scene.home.path().join("data");
    let run = |line: &str, environment: &[(&str, &str)]| {
        let output = scene.run(&format!("doctor --json {line}"), environment, "");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), found)
    };
    let result = |found: &Value, check: &str| {
        let checks = found["checks"].as_array().unwrap();
        checks.iter().find(|one| one["check"] == check).map(|one| one["result"].as_str().unwrap().to_owned())
    };
    let line = format!("--data {}", data.display());
    let (code, found) = run(&line, &[("KEYLEDGER_SERVER", &url)]);
    assert_eq!((code, result(&found, "server").as_deref()), (0, Some("ok")), "{found}");
    assert_eq!(result(&found, "data directory").as_deref(), Some("warning"), "{found}");
    let (code, found) = run(&line, &[("KEYLEDGER_SERVER", "http://127.0.0.1:1")]);
    assert_eq!((code, result(&found, "server").as_deref()), (1, Some("bad")), "{found}");
    let (code, found) = run(&line, &[("KEYLEDGER_SERVER", &url), ("KEYLEDGER_NONSENSE", "1")]);
    assert_eq!((code, result(&found, "settings").as_deref()), (1, Some("bad")), "{found}");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, found) = run(&line, &[("KEYLEDGER_SERVER", &url)]);
    assert_eq!((code, result(&found, "log").as_deref()), (3, Some("damaged")), "{found}");
    assert_eq!(result(&found, "data directory").as_deref(), Some("bad"), "{found}");
}

#[test]
fn completions_know_the_commands() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = scene.run(&format!("completions {shell}"), &[], "");
        assert!(out(&output).contains("service-token"), "{shell}");
    }
    assert!(!Path::new("login.json").exists());
}
