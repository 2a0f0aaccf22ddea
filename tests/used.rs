//! Where keys are used, as edges and the ledger itself see it, and dead keys that are still knocking.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use keyledger_events::secret::Secret;
use serde_json::{Value, json};
use support::ledger::{Api, Ledger, eventually, said};

fn shown(api: &Api, id: &str) -> Value {
    api.get(&format!("/api/v1/credentials/{id}")).expect(200).json()
}

fn knocks(api: &Api, id: &str) -> Vec<Value> {
    let told = api.get(&format!("/api/v1/credentials/{id}/history")).expect(200).json();
    let events = told["events"].as_array().unwrap().iter();
    events.filter(|event| event["type"] == "dead_key_presented").cloned().collect()
}

fn edge(owner: &Api) -> Api {
    let service = owner.post("/api/v1/service-credentials", &json!({ "display_name": "edge" })).expect(201);
    owner.bearing(&service.text("raw_key"))
}

#[test]
fn the_last_use_says_where() {
    let mut ledger = Ledger::new().with("TRUSTED_PROXIES", "127.0.0.1");
    ledger.start(&[]);
    let owner = ledger.owner();
    let edge = edge(&owner);
    let (id, key) = owner.issue("integration", "CI", None);
    let (other, _) = owner.issue("integration", "other", None);
    assert_eq!(
        (&shown(&owner, &id)["last_used"], &shown(&owner, &id)["last_used_at"]),
        (&Value::Null, &Value::Null)
    );
    let body = json!({ "surface": "mcp" }).to_string();
    let from = [("X-Forwarded-For", "100.64.3.4")];
    owner.bearing(&key).send("POST", "/api/v1/verify", &from, body.as_bytes()).expect(200);
    let used = shown(&owner, &id)["last_used"].clone();
    assert_eq!((&used["surface"], &used["address"]), (&json!("mcp"), &json!("shared")));
    assert_eq!(used["at"], shown(&owner, &id)["last_used_at"]);

    // What an edge tells: an older use changes nothing, the future counts as now, and strangers are passed over.
    let at = "2026-01-02T03:04:05Z";
    let accepted = |body: Value| edge.post("/api/v1/usage", &body).expect(200).json()["accepted"].clone();
    let uses = json!({ "uses": [
        { "credential_id": id, "at": at, "surface": "runtime", "address": "public" },
        { "credential_id": other, "at": at, "surface": "runtime", "address": "private" },
        { "credential_id": "0190b5a6-7e0c-7cc0-98c1-00000000dead", "at": at },
    ] });
    assert_eq!(accepted(uses), 2);
    assert_eq!(shown(&owner, &id)["last_used"], used);
    let expected = json!({ "at": "2026-01-02T03:04:00.000000Z", "surface": "runtime", "address": "private" });
    assert_eq!(shown(&owner, &other)["last_used"], expected);
    assert_eq!(accepted(json!({ "uses": [{ "credential_id": other, "at": "2999-01-01T00:00:00Z" }] })), 1);
    let last = shown(&owner, &other)["last_used"].clone();
    assert!(
        last["at"].as_str().unwrap() < "2999" && last["address"] == "unknown" && last["surface"].is_null(),
        "{last}"
    );
    // A batch of thousands.
    let many: Vec<_> = (0..7_000).map(|_| json!({ "credential_id": other, "at": at })).collect();
    assert_eq!(accepted(json!({ "uses": many })), 7_000);
    edge.post("/api/v1/usage", &json!({ "uses": [], "dead": [{ "at": at }] })).expect(400);
    edge.post("/api/v1/usage", &json!({ "uses": [{ "credential_id": other, "at": at, "address": "192.0.2.1" }] }))
        .expect(400);

    assert!(ledger.stop().success());
    ledger.start(&["--sign-in-link"]);
    let owner = ledger.owner();
    assert_eq!(shown(&owner, &id)["last_used"], used, "it outlives a restart");
}

#[test]
fn a_dead_key_knocks_once_a_day_however_often_it_is_presented() {
    let mut ledger = Ledger::started();
    let owner = ledger.owner();
    let edge = edge(&owner);
    let (id, key) = owner.issue("integration", "CI", None);
    let device = owner.pair("laptop");
    owner.refused(Secret::new(keyledger_events::secret::Kind::Agent, &[7; 43]).expose());
    owner.verified(&key);
    owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    owner.delete(&format!("/api/v1/credentials/{}", device[0])).expect(204);
    let flood = |owner: &Api| {
        for _ in 0..300 {
            owner.verify(&key, &json!({ "surface": "runtime" })).expect(401);
        }
    };
    flood(&owner);
    eventually("the knock is told", || knocks(&owner, &id).len() == 1);
    let dead = shown(&owner, &id)["dead_presented"].clone();
    assert_eq!((&dead["surface"], &dead["address"]), (&json!("runtime"), &json!("loopback")));
    let knock = &knocks(&owner, &id)[0];
    assert_eq!((&knock["actor"]["type"], &knock["context"]["ip"]), (&json!("system"), &json!("127.0.0.1")));
    let listed = owner.get("/api/v1/credentials?status=revoked").expect(200).json();
    assert!(
        listed["credentials"].as_array().unwrap().iter().any(|row| row["dead_presented"] == dead),
        "{listed}"
    );
    // A companion knocks for itself; an edge tells by hash or id.
    let hash = Secret::parse(device[3].as_bytes()).unwrap().hash();
    let hash = blake3::Hash::from_bytes(hash.0).to_hex().to_string();
    let now = "2999-01-01T00:00:00Z";
    let body = json!({ "dead": [
        { "hash": hash, "at": now, "surface": "agent", "address": "public" },
        { "credential_id": device[2], "at": now },
        { "credential_id": device[0], "at": now, "surface": "management", "address": "private" },
        { "hash": "ab".repeat(32), "at": now },
    ] });
    for _ in 0..3 {
        assert_eq!(edge.post("/api/v1/usage", &body).expect(200).json()["accepted"], 3);
    }
    eventually("both are told", || knocks(&owner, &device[0]).len() == 1 && knocks(&owner, &device[2]).len() == 1);
    assert_eq!(knocks(&owner, &device[2])[0]["data"]["address"], "public");

    // The log remembers what the process has forgotten.
    let position = owner.position();
    assert!(ledger.stop().success());
    ledger.start(&["--sign-in-link"]);
    let owner = ledger.owner();
    flood(&owner);
    // Another key's knock goes the same way, later: when it is through, the flood's is.
    let (second, key2) = owner.issue("agent", "bot", None);
    owner.delete(&format!("/api/v1/credentials/{second}")).expect(204);
    owner.refused(&key2);
    eventually("the other knock is told", || knocks(&owner, &second).len() == 1);
    assert_eq!((knocks(&owner, &id).len(), knocks(&owner, &device[2]).len()), (1, 1), "after {position}");

    // Another day, another knock.
    assert!(ledger.stop().success());
    ledger.start(&["--sign-in-link", "--clock-offset-seconds", "86400"]);
    let owner = ledger.owner();
    flood(&owner);
    eventually("the next day's knock is told", || knocks(&owner, &id).len() == 2);
    assert!(ledger.api().get("/metrics").expect(200).body.contains("keyledger_dead_keys_dropped_total 0"));
    assert!(ledger.stop().success());
    let verified = ledger.replay(&["verify"]);
    assert!(verified.status.success(), "{}", said(&verified));
    let explained = said(&ledger.replay(&["explain", &id]));
    assert!(explained.contains("still presented on runtime from the ledger's own machine"), "{explained}");
}
