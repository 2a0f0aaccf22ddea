//! Secrets of every kind, put wherever a client can put text, and then looked for in everything the service has written:
//! its output, its metrics, its answers and every file under the data directory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{fs, path::Path};

use serde_json::{Value, json};
use support::{
    ledger::{Api, Ledger, Reply, files},
    routes::{Route, routes},
};

const UNKNOWN: &str = "0190b5a6-7e0c-7cc0-98c1-00000000dead";

/// What is looked for of a secret: its end, which is no part of what may be shown.
fn needle(secret: &str) -> &str {
    &secret[secret.len() - 30..]
}

#[test]
fn no_secret_is_written_anywhere() {
    let mut ledger = Ledger::new().with("LOG_FILTER", "debug,keyledger=trace");
    ledger.start(&[]);
    let owner = ledger.owner();
    let mut secrets = secrets(&ledger, &owner);
    let mut made = Vec::new();
    for route in &routes(&owner.get("/openapi.json").expect(200).json()) {
        // Signing out would end the sweep.
        let asking = if route.path.ends_with("/logout") { &ledger.api() } else { &owner };
        for secret in &secrets {
            for reply in sow(route, asking, secret) {
                for (kind, text) in [("answer", &reply.body), ("header", &format!("{:?}", reply.headers))] {
                    let echoed = secrets.iter().find(|secret| text.contains(needle(secret)));
                    assert_eq!(echoed, None, "in the {kind} of {}", reply.what);
                }
                made.extend(handed_out(&reply));
            }
        }
    }
    assert!(made.len() > 10, "answers handed out secrets, too");
    secrets.append(&mut made);
    let nowhere = |text: &[u8], place: &str| {
        for secret in &secrets {
            let needle = needle(secret).as_bytes();
            let found = text.windows(needle.len()).any(|window| window == needle);
            assert!(!found, "{secret} is in {place}");
        }
    };
    let metrics = ledger.api().get("/metrics").expect(200).body;
    nowhere(metrics.as_bytes(), "the metrics");
    // What was sent may have been kept, to be read back later by somebody else.
    for path in ["/api/v1/audit/export", "/api/v1/credentials?per_page=100", "/api/v1/members", "/api/v1/teams", "/"] {
        nowhere(owner.get(path).body.as_bytes(), path);
    }
    each_file(&ledger.dir(), &nowhere);
    assert!(ledger.stop().success());
    each_file(&ledger.dir(), &nowhere);
    let log = ledger.log();
    assert!(log.len() > 100_000, "there is something to look through");
    nowhere(log.as_bytes(), "the service's output");
    // What a fresh ledger prints for its owner is the one exception.
    secrets.retain(|secret| !secret.starts_with("eyJ") && !secret.starts_with("lk-"));
    for secret in &secrets {
        assert!(!ledger.printed().contains(needle(secret)));
    }
}

fn each_file(dir: &Path, look: &impl Fn(&[u8], &str)) {
    for file in files(dir) {
        // The long files are zeros for the most part.
        let bytes = fs::read(&file).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        look(&bytes[..end], &file.display().to_string());
    }
}

/// One of each kind, alive, dead, used and never issued.
fn secrets(ledger: &Ledger, owner: &Api) -> Vec<String> {
    let token_of = |url: &str| url.split_once("token=").unwrap().1.to_owned();
    let printed = ledger.printed();
    let printed = printed.lines().map(str::trim).find(|line| line.contains("token=")).unwrap();
    let came = owner.post("/api/v1/auth/link", &json!({ "token": token_of(printed) })).expect(200);
    let cookie = came.header("set-cookie").unwrap().split(';').next().unwrap().split_once('=').unwrap().1.to_owned();
    let live = owner.issue("integration", "canary", None).1;
    let (dead, dead_key) = owner.issue("agent", "dead canary", None);
    owner.delete(&format!("/api/v1/credentials/{dead}")).expect(204);
    let device = owner.pair("canary");
    let service = owner.post("/api/v1/service-credentials", &json!({ "display_name": "canary" })).expect(201);
    let invitation = owner.post("/api/v1/members/invitations", &json!({ "role": "viewer" })).expect(201).text("url");
    let pairing = owner.post("/api/v1/desktop/pair/start", &json!({})).expect(200).text("device_code");
    vec![
        live.clone(),
        dead_key,
        device[1].clone(),
        device[3].clone(),
        service.text("raw_key"),
        token_of(printed),
        token_of(&invitation),
        came.text("access_token"),
        cookie,
        pairing,
        // A typo makes it no less secret.
        format!("{}{}", &live[..54], if live.ends_with('x') { 'y' } else { 'x' }),
    ]
}

/// Sends a secret in every place that a route has.
fn sow(route: &Route, api: &Api, secret: &str) -> Vec<Reply> {
    let path = route.at(UNKNOWN);
    let mut replies = Vec::new();
    let mut send = |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let reply = api.send(&route.method, path, &route.with_type(headers), body);
        assert!(reply.status < 500, "{reply:?}");
        replies.push(reply);
    };
    let encoded = format!("%{:02x}{}", secret.as_bytes()[0], &secret[1..]);
    for text in [secret, &encoded] {
        let mut urls = vec![format!("{path}?q={text}"), format!("{path}?{text}"), format!("{path}/{text}")];
        if route.has_id() {
            urls.push(route.at(text));
        }
        for url in urls {
            send(&url, &[], &route.body());
        }
    }
    let cookie = format!("keyledger_session={secret}; other={secret}");
    for (name, value) in [
        ("X-Team-ID", secret),
        ("Idempotency-Key", secret),
        ("If-Match", secret),
        ("Ledger-Min-Position", secret),
        ("User-Agent", secret),
        ("X-Request-Id", secret),
        ("X-Forwarded-For", secret),
        ("Referer", secret),
        ("Origin", secret),
        ("Cookie", &cookie),
        ("Accept", secret),
        ("Content-Type", secret),
        ("Authorization", &format!("Basic {secret}")),
        ("X-Canary", secret),
    ] {
        send(&path, &[(name, value)], &route.body());
    }
    for name in route.example[0].as_object().into_iter().flat_map(|first| first.keys()) {
        let mut body = route.example.clone();
        body[0][name] = json!(secret);
        send(&path, &[], body.to_string().as_bytes());
        body[0][name] = json!(encoded);
        send(&path, &[], body.to_string().as_bytes());
    }
    for (name, value) in route.example.as_object().into_iter().flatten() {
        let mut body = route.example.clone();
        body[name] = match value {
            Value::Array(_) => json!([secret]),
            _ => json!(secret),
        };
        // Following a link is what a link is for; here it is only sown where it does not belong.
        send(&path, &[], &route.encoded(&body));
        let mut body = route.example.clone();
        body[secret] = json!(secret);
        send(&path, &[], &route.encoded(&body));
        send(&path, &[], secret.as_bytes());
    }
    replies
}

/// The secrets that an answer created.
fn handed_out(reply: &Reply) -> Vec<String> {
    let body: Value = serde_json::from_str(&reply.body).unwrap_or_default();
    let named = ["raw_key", "device_code", "access_token", "secret"].iter().filter_map(|name| body[name].as_str());
    let link = body["url"].as_str().and_then(|url| url.split_once("token=")).map(|(_, token)| token);
    named.chain(link).map(str::to_owned).collect()
}

#[test]
fn the_log_tells_nobody_who_its_people_are() {
    let mut ledger = Ledger::new().with("TRUSTED_PROXIES", "127.0.0.1");
    ledger.start(&[]);
    let owner = ledger.owner();
    let person = owner.invite("member", "Zebedee Quillfeather");
    person.pair("Quillfeather's slate");
    let seen = [("X-Forwarded-For", "203.0.113.77"), ("User-Agent", "QuillBrowser/9")];
    let body = json!({ "kind": "integration", "display_name": "CI" }).to_string();
    let id = person.send("POST", "/api/v1/credentials", &seen, body.as_bytes()).expect(201).text("id");
    let denied =
        person.post("/api/v1/desktop/pair/start", &json!({ "device_name": "Quillfeather's slate" })).expect(200);
    person.post("/api/v1/desktop/pair/deny", &json!({ "user_code": denied.text("user_code") })).expect(204);
    // They are there for who may read them …
    let told = owner.get("/api/v1/audit").expect(200).body;
    for text in ["203.0.113.77", "QuillBrowser/9", "Quillfeather's slate"] {
        assert!(told.contains(text), "{text}");
    }
    assert!(owner.get("/api/v1/members").expect(200).body.contains("Zebedee Quillfeather"));
    // … and in no file.
    assert!(ledger.stop().success());
    let needles = ["Zebedee", "Quillfeather", "203.0.113.77", "QuillBrowser", "slate"];
    for file in files(&ledger.dir()) {
        let bytes = fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for needle in needles {
            assert!(!text.contains(needle), "{needle} is in {}", file.display());
        }
    }

    // Erased: nobody can read it any more, and the log holds all the same.
    ledger.start(&["--sign-in-link"]);
    let owner = ledger.owner();
    owner.delete(&format!("/api/v1/members/{}", person.id)).expect(204);
    owner.post(&format!("/api/v1/persons/{}/erase", person.id), &json!({})).expect(204);
    let told = owner.get("/api/v1/audit").expect(200).body;
    let members = owner.get("/api/v1/members").expect(200).body;
    for needle in needles {
        assert!(!told.contains(needle) && !members.contains(needle), "{needle}");
    }
    owner.get(&format!("/api/v1/credentials/{id}")).expect(200);
    assert!(ledger.replay(&["verify"]).status.success());
}
