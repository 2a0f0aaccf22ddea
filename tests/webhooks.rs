//! A team's events at a real receiver over TLS: signed as the stock library checks it, in order and at least once
//! whatever happens in between, and never to the inside.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{collections::HashMap, fs, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use support::{
    ledger::{Api, Ledger, eventually, files},
    receiver::{Arrived, Behaviour, Identity, Receiver},
};

const DAY: u64 = 86_400;

/// A ledger that trusts the receiver's certificate, not started.
fn ledger(identity: &Identity, retry_seconds: &str) -> Ledger {
    let ledger = Ledger::new();
    let file = identity.write(ledger.home());
    ledger.with("WEBHOOK_CA_FILE", &file).with("WEBHOOK_RETRY_SECONDS", retry_seconds)
}

/// A started ledger, its owner, and a receiver.
fn scene(retry_seconds: &str) -> (Ledger, Api, Receiver, Identity) {
    let identity = Identity::new();
    let mut ledger = ledger(&identity, retry_seconds);
    ledger.start(&[]);
    let owner = ledger.owner();
    let receiver = Receiver::start(&identity);
    (ledger, owner, receiver, identity)
}

/// Adds an endpoint: its path and its secret.
fn add(api: &Api, url: &str, types: &[&str]) -> (String, String) {
    let added = api.post("/api/v1/webhooks", &json!({ "url": url, "event_types": types })).expect(201);
    (format!("/api/v1/webhooks/{}", added.text("id")), added.text("secret"))
}

fn state(api: &Api, path: &str) -> String {
    api.get(path).expect(200).text("state")
}

fn deliveries(api: &Api, path: &str) -> Vec<Value> {
    api.get(&format!("{path}/deliveries")).expect(200).json()["deliveries"].as_array().unwrap().clone()
}

/// Positions of the team's events behind `after`, by the audit trail.
fn trail(api: &Api, after: u64) -> Vec<u64> {
    let page = api.get(&format!("/api/v1/audit?after={after}&limit=1000")).expect(200).json();
    page["events"].as_array().unwrap().iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

fn is_signed(arrived: &Arrived, secret: &str) -> bool {
    Webhook::new(secret).unwrap().verify(&arrived.body, &arrived.headers).is_ok()
}

/// The positions of what was taken, each the first time, in the order it came.
fn taken_once(receiver: &Receiver) -> Vec<u64> {
    let mut seen = Vec::new();
    for position in receiver.taken().iter().map(Arrived::position) {
        if !seen.contains(&position) {
            seen.push(position);
        }
    }
    seen
}

#[test]
fn what_happens_is_told_in_order_and_signed_as_the_stock_library_checks_it() {
    let (mut ledger, owner, receiver, _identity) = scene("1");
    let all = receiver.url("/all?tenant=7");
    let (everything, secret) = add(&owner, &all, &[]);
    let (few, other_secret) = add(&owner, &receiver.url("/few"), &["credential.revoked"]);
    let added_at = owner.get(&everything).expect(200).json()["position_reached"].as_u64().unwrap();
    let (id, _) = owner.issue("integration", "deploys", Some(90));
    owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    let device = owner.pair("Ada's laptop");
    owner.delete(&format!("/api/v1/credentials/{}", device[0])).expect(204);
    let expected = trail(&owner, added_at);
    let on = |path: &str| receiver.taken().into_iter().filter(|one| one.target == path).collect::<Vec<_>>();
    eventually("everything arrives", || on("/all?tenant=7").len() == expected.len() && on("/few").len() == 2);

    let told = on("/all?tenant=7");
    assert_eq!(told.iter().map(Arrived::position).collect::<Vec<_>>(), expected);
    let kinds: Vec<_> = told.iter().map(Arrived::kind).collect();
    // The second endpoint itself, a key and its end, a device and its companion, and both their ends.
    assert_eq!(
        kinds,
        [
            "webhook.added",
            "credential.issued",
            "credential.revoked",
            "credential.issued",
            "credential.issued",
            "credential.revoked",
            "credential.cascade_revoked",
        ]
    );
    for one in &told {
        assert!(is_signed(one, &secret) && !is_signed(one, &other_secret), "{one:?}");
        assert_eq!(one.header("content-type"), "application/json");
        assert!(one.header("user-agent").starts_with("keyledger/"));
    }
    assert!(on("/few").iter().all(|one| one.kind() == "credential.revoked" && is_signed(one, &other_secret)));
    // The event as the audit trail has it, but for what is personal.
    let audited = owner.get(&format!("/api/v1/audit?after={added_at}")).expect(200).json();
    for (one, mut event) in told.iter().zip(audited["events"].as_array().unwrap().clone()) {
        event["context"] = Value::Null;
        if one.json()["data"]["data"]["kind"] == "device" || one.json()["data"]["data"]["companion_of"].is_string() {
            event["data"]["name"] = Value::Null;
        }
        assert_eq!(one.json()["data"], event);
        assert_eq!(one.json()["timestamp"], event["recorded_at"]);
    }
    assert!(!told.iter().any(|one| String::from_utf8_lossy(&one.body).contains("Ada's laptop")));
    // Ids tell messages apart, and the same event at two endpoints.
    let ids: std::collections::HashSet<_> = receiver.arrived().iter().map(|one| one.header("webhook-id")).collect();
    assert_eq!(ids.len(), receiver.arrived().len());

    let shown = owner.get(&everything).expect(200).json();
    assert_eq!((shown["state"].as_str(), shown["url"].as_str()), (Some("active"), Some(all.as_str())));
    assert!(shown["last_success_at"].is_string() && shown["position_reached"] == *expected.last().unwrap());
    let log = deliveries(&owner, &few);
    assert_eq!((log.len(), &log[0]["delivered"], &log[0]["status"]), (2, &json!(true), &json!(200)));
    let tested = owner.post(&format!("{few}/test"), &json!({})).expect(200).json();
    assert_eq!((&tested["delivered"], &tested["type"]), (&json!(true), &json!("webhook.test")));
    assert!(is_signed(receiver.taken().iter().find(|one| one.kind() == "webhook.test").unwrap(), &other_secret));

    // The other types that there are; the wrong ones are refused.
    let types = owner.get("/api/v1/webhooks/event-types").expect(200).json();
    assert!(types["event_types"].as_array().unwrap().contains(&json!("credential.expiring")));
    let body = json!({ "url": receiver.url("/"), "event_types": ["credential_revoked"] });
    assert_eq!(owner.post("/api/v1/webhooks", &body).expect(400).code(), "unknown_event_type");

    // A secret is shown once, and stands in no file.
    let body = json!({ "url": receiver.url("/again") }).to_string();
    let again = || owner.send("POST", "/api/v1/webhooks", &[("Idempotency-Key", "k")], body.as_bytes()).expect(201);
    let (first, second) = (again(), again());
    assert_eq!(first.text("id"), second.text("id"));
    assert!(first.json()["secret"].is_string() && second.json()["secret"].is_null());
    for path in ["/api/v1/webhooks", &everything, "/api/v1/audit?limit=1000"] {
        assert!(!owner.get(path).body.contains("whsec_"), "{path}");
    }
    assert!(ledger.stop().success());
    for secret in [secret, other_secret, first.text("secret")] {
        let bytes = STANDARD.decode(&secret[6..]).unwrap();
        for file in files(&ledger.dir()) {
            let content = fs::read(&file).unwrap();
            let holds = |needle: &[u8]| content.windows(needle.len()).any(|window| window == needle);
            assert!(!holds(&bytes) && !holds(&secret.as_bytes()[6..]), "{}", file.display());
        }
        assert!(!ledger.log().contains(&secret[6..]));
    }
    assert!(ledger.replay(&["verify"]).status.success());
}

#[test]
fn a_rotated_secret_and_the_one_before_sign_together_for_a_day() {
    let (mut ledger, owner, receiver, _identity) = scene("1");
    let (path, first) = add(&owner, &receiver.url("/"), &["credential.issued"]);
    let rotated = owner.post(&format!("{path}/rotate-secret"), &json!({})).expect(200);
    let second = rotated.text("secret");
    assert!(first != second && rotated.json()["previous_secret_until"].is_string());
    // What was under way at an end comes again: by its name, not by its number.
    let told_of = |name: &str| {
        let find = || receiver.taken().into_iter().rfind(|one| one.json()["data"]["data"]["name"] == name);
        eventually("it arrives", || find().is_some());
        find().unwrap()
    };
    owner.issue("agent", "one", None);
    let one = told_of("one");
    assert_eq!(one.header("webhook-signature").split(' ').count(), 2);
    assert!(is_signed(&one, &first) && is_signed(&one, &second));
    // It is the same after a restart, and over after a day.
    assert!(ledger.stop().success());
    ledger.start(&[]);
    owner.issue("agent", "two", None);
    let two = told_of("two");
    assert!(is_signed(&two, &first) && is_signed(&two, &second));
    assert!(ledger.stop().success());
    ledger.start(&["--clock-offset-seconds", &(DAY + 60).to_string(), "--sign-in-link"]);
    ledger.owner().issue("agent", "three", None);
    assert_eq!(told_of("three").header("webhook-signature").split(' ').count(), 1);
    assert!(ledger.owner().get(&path).expect(200).json()["previous_secret_until"].is_null());
}

#[test]
fn errors_resets_silence_and_redirects_lose_and_reorder_nothing() {
    let (_ledger, owner, receiver, _identity) = scene("0,0,0,0,0,0,0,0,0,0");
    let (path, secret) = add(&owner, &receiver.url("/hook"), &[]);
    let began = owner.get(&path).expect(200).json()["position_reached"].as_u64().unwrap();
    receiver.next([
        Behaviour::Answer(500, ""),
        Behaviour::Reset,
        Behaviour::Answer(302, "Location: /elsewhere\r\n"),
        Behaviour::Answer(429, "Retry-After: 1\r\n"),
        Behaviour::Answer(201, ""),
        Behaviour::Silent(Duration::from_secs(20)),
        Behaviour::Answer(404, "Connection: close\r\n"),
        Behaviour::Endless,
        Behaviour::Reset,
    ]);
    for number in 0..12 {
        owner.issue("agent", &format!("key {number}"), None);
    }
    let expected = trail(&owner, began);
    eventually("everything arrives", || taken_once(&receiver).len() == expected.len());
    assert_eq!(taken_once(&receiver), expected);
    let arrived = receiver.arrived();
    assert!(arrived.len() >= expected.len() + 7, "each failure is one more attempt");
    assert!(arrived.iter().all(|one| one.target == "/hook" && is_signed(one, &secret)));
    // What was tried again kept its id, and only that.
    let mut positions = HashMap::new();
    for one in &arrived {
        assert_eq!(*positions.entry(one.header("webhook-id")).or_insert(one.position()), one.position());
    }
    assert_eq!(positions.len(), expected.len());
    // The shown attempts say what went wrong, in words.
    let log = deliveries(&owner, &path);
    let said: Vec<_> = log.iter().rev().filter_map(|one| one["error"].as_str().map(str::to_owned)).collect();
    assert_eq!(
        said,
        [
            "the receiver answered 500",
            "the connection to the receiver broke",
            "the receiver answered 302; redirects are not followed",
            "the receiver answered 429",
            "the receiver did not answer in time",
            "the receiver answered 404",
            "the connection to the receiver broke",
        ]
    );
    let metrics = owner.get("/metrics").expect(200).body;
    assert!(metrics.contains("keyledger_webhook_deliveries_total{outcome=\"refused\"} 4"), "{metrics}");
    assert!(metrics.contains("keyledger_webhook_deliveries_total{outcome=\"failed\"} 3"));
}

#[test]
fn a_kill_in_mid_delivery_repeats_and_skips_nothing() {
    let (mut ledger, mut owner, receiver, _identity) = scene("0,0,0,0,0,0,0,0,0,0");
    let (path, _) = add(&owner, &receiver.url("/"), &[]);
    let began = owner.get(&path).expect(200).json()["position_reached"].as_u64().unwrap();
    for round in 0..4 {
        for number in 0..10 {
            owner.issue("agent", &format!("{round} {number}"), None);
        }
        // In mid-delivery: something has arrived of this round, not all need have.
        let so_far = taken_once(&receiver).len();
        receiver.next([Behaviour::Answer(200, ""), Behaviour::Silent(Duration::from_secs(1))]);
        eventually("some arrive", || taken_once(&receiver).len() > so_far || so_far == (round + 1) * 10);
        ledger.kill();
        ledger.start(&["--sign-in-link"]);
        // Sessions may be lost by a kill.
        owner = ledger.owner();
    }
    let expected = trail(&owner, began);
    assert_eq!(expected.len(), 40);
    eventually("everything arrives", || taken_once(&receiver).len() == expected.len());
    assert_eq!(taken_once(&receiver), expected);
    assert!(ledger.stop().success());

    // Without the side store: the endpoint is there all the same, and is told again what came after it was added.
    fs::remove_dir_all(ledger.dir().join("side")).unwrap();
    let before = receiver.taken().len();
    ledger.start(&["--sign-in-link"]);
    eventually("everything arrives again", || receiver.taken().len() == before + expected.len());
    let taken = receiver.taken();
    let (first, again) = taken.split_at(before);
    assert_eq!(again.iter().map(Arrived::position).collect::<Vec<_>>(), expected);
    for one in again {
        let known = first.iter().find(|known| known.position() == one.position()).unwrap();
        assert_eq!((known.header("webhook-id"), &known.body), (one.header("webhook-id"), &one.body));
    }
}

#[test]
fn a_dead_endpoint_is_parked_and_shown_and_holds_up_nobody() {
    let (mut ledger, owner, receiver, identity) = scene("0,0");
    let alive = Receiver::start(&identity);
    let (dead, _) = add(&owner, &receiver.url("/"), &["credential.issued"]);
    let (well, _) = add(&owner, &alive.url("/"), &["credential.issued"]);
    receiver.next(vec![Behaviour::Answer(503, ""); 3]);
    for number in 0..5 {
        owner.issue("agent", &format!("key {number}"), None);
    }
    eventually("it is parked", || state(&owner, &dead) == "parked");
    eventually("the other gets everything", || alive.taken().len() == 5);
    assert_eq!(state(&owner, &well), "active");
    assert_eq!(receiver.arrived().len(), 3, "as often as the schedule says");
    let shown = owner.get(&dead).expect(200).json();
    assert_eq!(shown["parked_reason"], "the receiver answered 503");
    assert!(shown["parked_at"].is_string() && shown["next_attempt_at"].is_null());
    assert!(owner.get("/metrics").expect(200).body.contains("keyledger_webhooks_parked 1"));
    // It stays so over a restart, and a test says how it is without changing that.
    assert!(ledger.stop().success());
    ledger.start(&[]);
    assert_eq!(state(&owner, &dead), "parked");
    assert!(owner.get("/metrics").expect(200).body.contains("keyledger_webhooks_parked 1"));
    owner.post(&format!("{dead}/test"), &json!({})).expect(200);
    assert_eq!((state(&owner, &dead).as_str(), receiver.taken().len()), ("parked", 1));
    // Resumed, it is told what it has missed.
    owner.post(&format!("{dead}/resume"), &json!({})).expect(200);
    eventually("it gets everything", || receiver.taken().len() == 6);
    assert_eq!(receiver.taken()[1..].iter().map(Arrived::position).collect::<Vec<_>>(), taken_once(&alive));
    assert_eq!(state(&owner, &dead), "active");
    assert!(owner.get("/metrics").expect(200).body.contains("keyledger_webhooks_parked 0"));

    // 410 parks at once; another URL is another chance.
    receiver.next([Behaviour::Answer(410, "")]);
    owner.issue("agent", "unwanted", None);
    eventually("it is parked", || state(&owner, &dead) == "parked");
    owner.send("PATCH", &dead, &[], json!({ "url": alive.url("/moved") }).to_string().as_bytes()).expect(200);
    eventually("it arrives there", || alive.taken().iter().any(|one| one.target == "/moved"));
    // Removed, it is told nothing more, and what was known of it is gone.
    owner.delete(&dead).expect(204);
    owner.get(&dead).expect(404);
    owner.post(&format!("{dead}/resume"), &json!({})).expect(404);
    assert_eq!(owner.get("/api/v1/webhooks").expect(200).json()["webhooks"].as_array().unwrap().len(), 1);
}

#[test]
fn no_request_goes_to_the_inside() {
    let (mut ledger, owner, receiver, identity) = scene("600");
    let (path, _) = add(&owner, &receiver.url("/"), &["credential.issued"]);
    owner.issue("agent", "one", None);
    eventually("it arrives", || receiver.taken().len() == 1);
    // The operator closes the inside again: what was added before leads nowhere now.
    assert!(ledger.stop().success());
    drop(ledger);
    let mut ledger = self::ledger(&identity, "600").with("WEBHOOK_ALLOW_NETWORKS", "");
    ledger.start(&[]);
    let owner = ledger.owner();
    for url in include_str!("fixtures/hostile-urls.txt").lines().filter(|line| !line.starts_with('#')) {
        let refused = owner.post("/api/v1/webhooks", &json!({ "url": url })).expect(400);
        assert_eq!(refused.code(), "invalid_webhook_url", "{url}: {refused:?}");
    }
    owner.post("/api/v1/webhooks", &json!({ "url": receiver.url("/") })).expect(400);
    // A key pasted into a URL is refused and not echoed.
    let (_, key) = owner.issue("agent", "pasted", None);
    for url in [format!("https://hooks.example/?k={key}"), format!("https://hooks.example/{key}")] {
        let refused = owner.post("/api/v1/webhooks", &json!({ "url": url })).expect(400);
        assert!(!refused.body.contains(&key[20..]), "{refused:?}");
    }
    let _ = path;
    assert_eq!(receiver.arrived().len(), 1);
}

#[test]
fn what_was_allowed_once_is_judged_again_at_each_request() {
    let identity = Identity::new();
    let receiver = Receiver::start(&identity);
    let mut ledger = ledger(&identity, "600");
    ledger.start(&[]);
    let owner = ledger.owner();
    let (path, _) = add(&owner, &receiver.url("/"), &["credential.issued"]);
    assert!(ledger.stop().success());
    let mut closed = ledger.serve(&[]);
    closed.env("KEYLEDGER_WEBHOOK_ALLOW_NETWORKS", "10.0.0.0/8");
    ledger.start_as(closed);
    owner.issue("agent", "one", None);
    eventually("it is tried", || !deliveries(&owner, &path).is_empty());
    assert_eq!(deliveries(&owner, &path)[0]["error"], "not sent: the host's address is not a public one");
    let tested = owner.post(&format!("{path}/test"), &json!({})).expect(200).json();
    assert_eq!((&tested["delivered"], &tested["status"]), (&json!(false), &Value::Null));
    assert!(receiver.arrived().is_empty());
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (_ledger, owner, _receiver, _identity) = scene("600");
    let stranger = Receiver::start(&Identity::new());
    let (path, _) = add(&owner, &stranger.url("/"), &[]);
    let tested = owner.post(&format!("{path}/test"), &json!({})).expect(200).json();
    assert_eq!(tested["error"], "the receiver's certificate, or its TLS, does not hold");
    assert!(stranger.arrived().is_empty());
}

#[test]
fn another_teams_endpoint_does_not_exist() {
    let (_ledger, owner, receiver, _identity) = scene("600");
    let other = owner.post("/api/v1/teams", &json!({ "name": "theirs" })).expect(201).text("id");
    let other = owner.in_team(&other);
    let (path, _) = add(&other, &receiver.url("/theirs"), &[]);
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("GET", format!("{path}/deliveries")),
        ("POST", format!("{path}/test")),
        ("POST", format!("{path}/resume")),
        ("POST", format!("{path}/rotate-secret")),
    ] {
        owner.send(method, &path, &[], b"").expect(404);
    }
    owner.send("PATCH", &path, &[], b"{}").expect(404);
    // And its team's events are nobody else's.
    owner.issue("agent", "ours", None);
    other.issue("agent", "theirs", None);
    eventually("theirs arrives", || receiver.taken().len() == 1);
    assert_eq!(receiver.taken()[0].json()["data"]["data"]["name"], "theirs");
    let auditor = other.invite("auditor", "auditor");
    auditor.get(&path).expect(200);
    auditor.get(&format!("{path}/deliveries")).expect(200);
    for what in ["test", "resume", "rotate-secret"] {
        auditor.post(&format!("{path}/{what}"), &json!({})).expect(403);
    }
}

#[test]
fn a_key_that_ends_soon_is_told_of_at_30_7_and_1_day_once_each() {
    let identity = Identity::new();
    let receiver = Receiver::start(&identity);
    let mut ledger = ledger(&identity, "0,0,0");
    ledger.start(&["--sign-in-link"]);
    let owner = ledger.owner();
    let (path, secret) = add(&owner, &receiver.url("/"), &["credential.expiring"]);
    let names: HashMap<String, &str> =
        [("long", Some(40)), ("short", Some(5)), ("revoked", Some(40)), ("for ever", None)]
            .map(|(name, days)| (owner.issue("agent", name, days).0, name))
            .into();
    let revoked = names.iter().find(|(_, name)| **name == "revoked").unwrap().0.clone();
    let told = || {
        let mut told: Vec<_> = receiver
            .taken()
            .iter()
            .map(|one| one.json()["data"].clone())
            .map(|data| (names[data["credential_id"].as_str().unwrap()], data["days"].as_u64().unwrap()))
            .collect();
        told.sort_unstable();
        told
    };
    let mut expected: Vec<(&str, u64)> = Vec::new();
    // In hours after the beginning: what is told then, besides what was told before.
    let times: [(u64, &[(&str, u64)]); 7] = [
        (0, &[]),
        (24 * 4 + 12, &[("short", 1)]),
        (24 * 11, &[("long", 30), ("revoked", 30)]),
        (24 * 11 + 1, &[]),
        // Revoked in between: nothing more of that one.
        (24 * 34, &[("long", 7)]),
        (24 * 39 + 12, &[("long", 1)]),
        (24 * 41, &[]),
    ];
    for (hours, news) in times {
        assert!(ledger.stop().success());
        receiver.next(news.iter().map(|_| Behaviour::Answer(500, "")));
        ledger.start(&["--clock-offset-seconds", &(hours * 3_600).to_string(), "--sign-in-link"]);
        expected.extend(news);
        expected.sort_unstable();
        let owner = ledger.owner();
        let noted = || deliveries(&owner, &path).iter().filter(|one| one["delivered"] == true).count();
        eventually(&format!("{expected:?} are told"), || told() == expected && noted() == expected.len());
        if hours == 24 * 11 + 1 {
            owner.delete(&format!("/api/v1/credentials/{revoked}")).expect(204);
        }
    }
    // Nothing comes a second time by itself.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(told(), expected);
    let one = receiver.taken().remove(0);
    assert_eq!(one.kind(), "credential.expiring");
    assert!(!secret.is_empty() && one.json()["data"]["expires_at"].is_string());
    let shown = deliveries(&ledger.owner(), &path);
    assert!(shown.iter().any(|one| one["type"] == "credential.expiring" && one["position"].is_null()));
}

#[test]
fn who_starts_late_says_what_is_still_true_once() {
    let identity = Identity::new();
    let receiver = Receiver::start(&identity);
    let mut ledger = ledger(&identity, "0,0,0");
    ledger.start(&[]);
    let owner = ledger.owner();
    for number in 0..3 {
        owner.issue("agent", &format!("key {number}"), Some(60));
    }
    assert!(ledger.stop().success());
    // Two thresholds have passed unseen; an endpoint that is added now is told of the closer one.
    ledger.start(&["--clock-offset-seconds", &(55 * DAY).to_string(), "--sign-in-link"]);
    add(&ledger.owner(), &receiver.url("/"), &[]);
    eventually("each is told of", || receiver.taken().len() == 3);
    assert!(receiver.taken().iter().all(|one| one.json()["data"]["days"] == 7));
    let ids: std::collections::HashSet<_> = receiver.taken().iter().map(|one| one.header("webhook-id")).collect();
    assert_eq!(ids.len(), 3);
}
