//! Secrets that are found where they must not be, reported by anybody, by GitHub and by a team's own scan.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use keyledger::http::server::{Limits, NoFastPath};
use keyledger_events::secret::{Kind, RANDOM_LEN, Secret};
use p256::{
    ecdsa::{Signature, SigningKey, signature::Signer as _},
    pkcs8::{EncodePublicKey as _, LineEnding},
};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{
    Running,
    ledger::{Api, Ledger, Reply, eventually, said},
};

const LEAKS: &str = "/api/v1/leaks";

/// All that could tell two answers apart.
fn face(reply: &Reply) -> (u16, String, Vec<(String, String)>) {
    let mut headers = reply.headers.clone();
    headers.retain(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id" | "ledger-position"));
    headers.sort();
    (reply.status, reply.body.clone(), headers)
}

fn report(api: &Api, token: &str, url: &str) -> Reply {
    api.post(LEAKS, &json!([{ "token": token, "type": "keyledger", "url": url, "source": "commit" }]))
}

/// A secret that nobody has issued.
fn never_issued() -> String {
    Secret::new(Kind::Integration, &[7; RANDOM_LEN]).expose().to_owned()
}

/// A credential's events, oldest first.
fn history(api: &Api, id: &str) -> Vec<Value> {
    let told = api.get(&format!("/api/v1/credentials/{id}/history")).expect(200).json();
    told["events"].as_array().unwrap().clone()
}

fn leaks(api: &Api, id: &str) -> Vec<Value> {
    history(api, id).into_iter().filter(|event| event["type"] == "credential_leaked").collect()
}

fn hash(secret: &str) -> String {
    let hash = Secret::parse(secret.as_bytes()).unwrap().hash();
    blake3::Hash::from_bytes(hash.0).to_hex().to_string()
}

#[test]
fn a_reported_key_ends_and_the_answer_tells_nothing() {
    let mut ledger = Ledger::started();
    let owner = ledger.owner();
    let anybody = ledger.api();
    let member = owner.invite("member", "Mia");
    let (id, key) = member.issue("integration", "CI", None);
    let device = member.pair("laptop");
    let service = owner.post("/api/v1/service-credentials", &json!({ "display_name": "edge" })).expect(201);

    let answered = report(&anybody, &key, "https://paste.example/1").expect(202);
    assert_eq!(answered.body, "");
    member.refused(&key);
    let told = history(&owner, &id);
    // Behind them may stand that it was presented once more.
    let at = told.iter().position(|event| event["type"] == "credential_leaked").unwrap();
    let (leaked, revoked) = (&told[at], &told[at + 1]);
    assert_eq!(leaked["actor"]["type"], "system");
    assert_eq!(leaked["data"]["place"], "https://paste.example/1");
    assert_eq!(leaked["data"]["source"], "commit");
    assert_eq!(leaked["context"]["ip"], "127.0.0.1", "{leaked}");
    assert_eq!((&revoked["data"]["reason"], &revoked["cause"]), (&json!("leaked"), &leaked["id"]));
    let shown = owner.get(&format!("/api/v1/credentials/{id}")).expect(200).json();
    assert_eq!(shown["revoke_reason"], "leaked");

    // Dead, known and reported before, never issued, no secret at all: the same answer.
    let told = face(&answered);
    for (token, url) in [
        (&key, "https://paste.example/1"),
        (&key, "https://paste.example/2"),
        (&never_issued(), "https://paste.example/1"),
        (&"some_token".to_owned(), ""),
        (&format!(" {key}\n"), "https://paste.example/2"),
    ] {
        assert_eq!(face(&report(&anybody, token, url)), told);
    }
    // Each place is told once.
    eventually("the second place is told", || leaks(&owner, &id).len() == 2);
    for _ in 0..3 {
        report(&anybody, &key, "https://paste.example/2").expect(202);
    }
    report(&anybody, &key, "https://paste.example/3").expect(202);
    eventually("the third place is told", || leaks(&owner, &id).len() == 3);

    // A device takes its companion along; several at once; a secret in the place is no longer one.
    let url = format!("https://x.example/?key={}", device[1]);
    let body = json!([
        { "token": device[1], "url": url, "surprise": { "is": "ignored" } },
        { "token": service.text("raw_key"), "url": "" },
    ]);
    anybody.post(LEAKS, &body).expect(202);
    owner.refused(&device[1]);
    owner.refused(&device[3]);
    owner.refused(&service.text("raw_key"));
    let place = leaks(&owner, &device[0])[0]["data"]["place"].as_str().unwrap().to_owned();
    assert_eq!(place, format!("https://x.example/?key={}…[redacted]", &device[1][..12]));
    assert!(history(&owner, &device[2]).iter().any(|event| event["type"] == "credential_cascade_revoked"));

    let audit = owner.get("/api/v1/audit/export?format=jsonl").expect(200).body;
    assert!(audit.contains("credential_leaked") && !audit.contains(&key[12..]), "{audit}");
    assert!(ledger.stop().success());
    let verified = ledger.replay(&["verify"]);
    assert!(verified.status.success(), "{}", said(&verified));
    let explained = ledger.replay(&["explain", &id]);
    assert!(said(&explained).contains("because of position"), "{}", said(&explained));
    assert!(said(&explained).contains("its secret was found at"), "{}", said(&explained));
}

#[test]
fn what_is_no_report_changes_nothing() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let (_, key) = owner.issue("agent", "bot", None);
    let anybody = ledger.api();
    let before = anybody.position();
    let many = vec![json!({ "token": "x" }); 101];
    for body in [
        json!({ "token": key }),
        json!([{ "token": key, "url": "a\nb" }]),
        json!([{ "token": key, "url": "a%0ask%2dkl1aaaaaaaaaaaaaaaaaaa" }]),
        json!([{ "token": key, "url": "x".repeat(2_001) }]),
        json!([{ "token": key, "source": "\u{202e}" }]),
        json!([{ "token": key, "type": "a\u{1b}" }]),
        json!([{ "token": key }, { "token": 7 }]),
        json!([{ "token": key }, [key, "", ""]]),
        json!([{ "token": key }, {}]),
        json!([{ "token": key }, null]),
        json!(many),
    ] {
        let refused = anybody.post(LEAKS, &body);
        assert_eq!(refused.status, 400, "{body}: {refused:?}");
        assert!(!refused.body.contains(&key[12..]), "{refused:?}");
    }
    anybody.send("POST", LEAKS, &[("Content-Type", "text/plain")], b"[]").expect(415);
    anybody.post(LEAKS, &json!([])).expect(202);
    assert_eq!(anybody.position(), before);
    owner.verified(&key);
}

#[test]
fn no_body_and_no_header_makes_it_fail() {
    let ledger = Ledger::started();
    let anybody = ledger.api();
    let mut runner = TestRunner::new(ProptestConfig { cases: 200, ..ProptestConfig::default() });
    let text = "\\PC{0,40}|sk-kl1[0-9A-Za-z]{49}|https?://[a-z%0-9]{0,30}";
    let value = prop_oneof![Just(Value::Null), text.prop_map(Value::from), any::<i64>().prop_map(Value::from)];
    let object = proptest::collection::vec(("token|url|source|type|[a-z]{1,4}", value), 0..5);
    let object = object.prop_map(|members| Value::Object(members.into_iter().collect()));
    let body = prop_oneof![
        4 => proptest::collection::vec(object, 0..4).prop_map(|all| json!(all).to_string().into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 1..60),
    ];
    let header = || proptest::option::of("[ -~]{0,60}|[A-Za-z0-9+/]{90,100}={0,2}");
    runner
        .run(&(body, header(), header()), |(body, id, signature)| {
            let mut headers = Vec::new();
            headers.extend(id.as_deref().map(|id| ("Github-Public-Key-Identifier", id)));
            headers.extend(signature.as_deref().map(|signature| ("Github-Public-Key-Signature", signature)));
            let reply = anybody.send("POST", LEAKS, &headers, &body);
            prop_assert!(reply.status == 202 || (400..500).contains(&reply.status), "{reply:?}");
            Ok(())
        })
        .unwrap();
}

/// Whoever publishes the keys, and how often they were asked.
#[derive(Clone)]
struct Publisher {
    list: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

async fn published(State(publisher): State<Publisher>) -> axum::response::Response {
    publisher.asked.fetch_add(1, SeqCst);
    match publisher.list.lock().unwrap().clone() {
        Some(list) => Json(list).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn signed(api: &Api, id: &str, key: &SigningKey, body: &str) -> Reply {
    let signature: Signature = key.sign(body.as_bytes());
    let signature = BASE64.encode(signature.to_der());
    let headers = [("Github-Public-Key-Identifier", id), ("Github-Public-Key-Signature", signature.as_str())];
    api.send("POST", LEAKS, &headers, body.as_bytes())
}

#[test]
fn a_signed_report_is_answered_with_labels_and_a_badly_signed_one_changes_nothing() {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    let list = json!({ "public_keys": [{ "key_identifier": "k1", "key": pem, "is_current": true }] });
    let publisher = Publisher { list: Arc::new(Mutex::new(Some(list))), asked: Arc::default() };
    let router = Router::new().fallback(published).with_state(publisher.clone());
    let server = Running::start(Limits::default(), router, NoFastPath);
    let mut ledger = Ledger::new().with("LEAK_KEYS_URL", &format!("http://{}/keys", server.address));
    ledger.start(&[]);
    let owner = ledger.owner();
    let github = ledger.api();
    let (id, live) = owner.issue("integration", "CI", None);
    let (dead_id, dead) = owner.issue("integration", "old CI", None);
    owner.delete(&format!("/api/v1/credentials/{dead_id}")).expect(204);
    let unknown = never_issued();
    // With odd spacing: the signature is over the bytes as they are.
    let find =
        |token: &str| format!("{{ \"token\" :\"{token}\",\"type\":\"keyledger\", \"url\":\"https://github.com/a/b\"}}");
    let body = format!("[ {} ,{},\n{},{}]", find(&live), find(&dead), find(&unknown), find("some_token"));

    let before = github.position();
    let another = SigningKey::from_slice(&[8; 32]).unwrap();
    for (id, key) in [("k1", &another), ("k2", &key), ("", &key)] {
        let refused = signed(&github, id, key, &body).expect(400);
        assert_eq!(refused.code(), "invalid_signature");
    }
    let half = [("Github-Public-Key-Identifier", "k1")];
    github.send("POST", LEAKS, &half, body.as_bytes()).expect(400);
    for id in 0..20 {
        signed(&github, &format!("unknown-{id}"), &key, &body).expect(400);
    }
    assert_eq!(publisher.asked.load(SeqCst), 1, "an unknown key is no reason to ask each time");
    assert_eq!(github.position(), before);
    owner.verified(&live);

    let labels = signed(&github, "k1", &key, &body).expect(200).json();
    let row = |token: &str, label: &str| json!({ "token_hash": BASE64.encode(Sha256::digest(token)), "token_type": "keyledger", "label": label });
    let expected = [
        row(&live, "true_positive"),
        row(&dead, "true_positive"),
        row(&unknown, "false_positive"),
        row("some_token", "false_positive"),
    ];
    assert_eq!(labels, json!(expected));
    owner.refused(&live);
    assert_eq!((leaks(&owner, &id).len(), leaks(&owner, &dead_id).len()), (1, 1));
    // A hundred is anybody's bound, not GitHub's.
    let many = vec![json!({ "token": "x" }); 101];
    signed(&github, "k1", &key, &json!(many).to_string()).expect(200);
}

#[test]
fn a_report_counts_also_when_its_signature_cannot_be_judged() {
    let publisher = Publisher { list: Arc::default(), asked: Arc::default() };
    let router = Router::new().fallback(published).with_state(publisher.clone());
    let server = Running::start(Limits::default(), router, NoFastPath);
    let mut ledger = Ledger::new().with("LEAK_KEYS_URL", &format!("http://{}/keys", server.address));
    ledger.start(&[]);
    let owner = ledger.owner();
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    for number in 0..3 {
        let (_, live) = owner.issue("agent", &format!("bot {number}"), None);
        let body = json!([{ "token": live, "url": "" }]).to_string();
        assert_eq!(signed(&ledger.api(), "k1", &key, &body).expect(202).body, "");
        owner.refused(&live);
    }
    assert_eq!(publisher.asked.load(SeqCst), 1, "a publisher that is down is not asked each time");
}

#[test]
fn a_team_asks_by_hash_and_ends_what_is_its_own() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let [member, other, viewer, auditor] =
        ["member", "member", "viewer", "auditor"].map(|role| owner.invite(role, role));
    let (id, key) = member.issue("integration", "CI", None);
    let device = member.pair("laptop");
    let theirs = owner.post("/api/v1/teams", &json!({ "name": "theirs" })).expect(201).text("id");
    let (_, foreign) = owner.in_team(&theirs).issue("integration", "theirs", None);
    let unknown = never_issued();

    let check = |api: &Api, secrets: &[&str]| {
        let hashes: Vec<_> = secrets.iter().map(|secret| hash(secret)).collect();
        api.post("/api/v1/leaks/check", &json!({ "hashes": hashes })).expect(200).json()["results"].clone()
    };
    let found = check(&owner, &[&key, &foreign, &unknown, &device[1]]);
    assert_eq!(found[0]["credential"]["id"], *id);
    assert_eq!(found[0]["credential"]["key_status"], "active");
    assert_eq!(found[3]["credential"]["id"], *device[0]);
    // Another team's, another's device and nobody's: the same but for what was asked.
    for (api, secret) in [(&owner, &foreign), (&other, &device[1]), (&other, &device[3])] {
        let told = check(api, &[secret]).to_string().replace(&hash(secret), "H");
        assert_eq!(told, check(api, &[&unknown]).to_string().replace(&hash(&unknown), "H"));
    }
    let bad = json!({ "hashes": ["zz".repeat(32)] });
    owner.post("/api/v1/leaks/check", &bad).expect(400);

    let revoke = |api: &Api, secrets: &[&str]| {
        let finds: Vec<_> =
            secrets.iter().map(|secret| json!({ "hash": hash(secret), "place": "src/a.rs:7" })).collect();
        let answer =
            api.post("/api/v1/leaks/revoke", &json!({ "finds": finds, "source": "keyledger scan" })).expect(200);
        let results = answer.json()["results"].as_array().unwrap().clone();
        results.iter().map(|row| row["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = owner.position();
    assert_eq!(revoke(&other, &[&key, &foreign, &device[1]]), ["forbidden", "unknown", "unknown"]);
    assert_eq!(revoke(&viewer, &[&key]), ["forbidden"]);
    auditor.post("/api/v1/leaks/revoke", &json!({ "finds": [] })).expect(403);
    assert_eq!(owner.position(), before);
    assert_eq!(revoke(&member, &[&key, &unknown, &device[1], &device[3]])[..3], ["revoked", "unknown", "revoked"]);
    owner.refused(&key);
    owner.refused(&device[1]);
    owner.refused(&device[3]);
    owner.in_team(&theirs).verified(&foreign);
    assert_eq!(revoke(&owner, &[&key]), ["ended_before"]);
    let told = leaks(&owner, &id);
    assert_eq!((told.len(), &told[0]["data"]["place"]), (1, &json!("src/a.rs:7")));
    assert_eq!(told[0]["actor"], json!({ "type": "person", "id": member.id }));
}
