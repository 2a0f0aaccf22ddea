//! The credentials page's whole story against the real binary, from a fresh directory to an auditor who replays it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{collections::HashMap, fs, path::Path, process::Command};

use serde_json::{Value, json};
use support::ledger::{Api, Ledger, Reply, command, copy_dir, eventually, replay, said};

const DEATHS: [&str; 3] = ["credential_revoked", "credential_cascade_revoked", "credential_expired"];

#[test]
fn a_team_lives_with_its_keys_and_an_auditor_replays_it_all() {
    let mut ledger = Ledger::started();
    first_steps(&ledger);
    let (owner, cookie) = owner_signs_in(&ledger);
    let admin = owner.invite("admin", "Ada Admin");
    let member = owner.invite("member", "Mia Member");
    let mut keys = Keys::default();

    surfaces(&member, &mut keys);
    devices(&owner, &admin, &member, &mut keys);
    repeats_and_conditions(&admin);
    queries(&admin, &member, &mut keys);

    // A key of one day, and a day later.
    let (short, short_key) = member.issue("integration", "for today", Some(1));
    let expires_at = member.get(&format!("/api/v1/credentials/{short}")).expect(200).text("expires_at");
    member.verified(&short_key);
    assert!(ledger.stop().success());
    ledger.start(&["--clock-offset-seconds", "90000"]);
    ledger.api().refused(&short_key);
    assert_eq!(owner.get("/api/v1/whoami").status, 401, "an access token lives for an hour");
    let owner = renewed(&owner, &cookie);
    let [admin, member] = [admin, member].map(|person| signed_in_again(&owner, &person));
    // That it was presented since is on record, too.
    let of_type = |kind: &str| history(&owner, &short).into_iter().find(|event| event["type"] == kind);
    eventually("the sweeper records the expiry", || of_type("credential_expired").is_some());
    assert_eq!(of_type("credential_expired").unwrap()["data"]["effective_at"], json!(expires_at));
    eventually("a dead key's knock is recorded", || of_type("dead_key_presented").is_some());
    rotation(&member, &mut keys);
    assert!(ledger.stop().success());
    ledger.start(&[]);
    ledger.api().refused(&short_key);
    keys.dead.insert(short, short_key);

    let noor = owner.invite("member", "Noor Next");
    departures(&ledger, &owner, &admin, &member, &noor, &mut keys);
    batch(&ledger, &owner, &keys);

    // The auditor's half, beside the running server and after its death.
    let deaths = deaths(&owner);
    for id in keys.dead.keys() {
        assert!(deaths.contains_key(id), "no event ends {id}");
    }
    let live = ledger.replay(&["verify"]);
    assert!(live.status.success(), "{}", said(&live));
    ledger.kill();
    ledger.start(&[]);
    keys.hold(&ledger.api());
    ledger.kill();
    let dead = ledger.replay(&["verify"]);
    assert!(dead.status.success(), "{}", said(&dead));
    for (id, position) in &deaths {
        let told = command().args(["--json", "replay", "explain"]).arg(ledger.dir()).arg(id).output().unwrap();
        assert!(told.status.success(), "{}", said(&told));
        let told: Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!(told["verdict"]["end"]["position"], *position, "{told}");
    }
    damage(&ledger);
}

/// The keys so far, by id.
#[derive(Default)]
struct Keys {
    alive: HashMap<String, String>,
    dead: HashMap<String, String>,
}

impl Keys {
    fn end(&mut self, id: &str) {
        let key = self.alive.remove(id).unwrap_or_else(|| panic!("{id} was not alive"));
        self.dead.insert(id.to_owned(), key);
    }

    /// All are what they should be.
    fn hold(&self, api: &Api) {
        for (id, key) in &self.alive {
            assert_eq!(api.verified(key).text("credential_id"), *id);
        }
        self.dead.values().for_each(|key| api.refused(key));
    }
}

/// What a fresh ledger prints works as pasted.
fn first_steps(ledger: &Ledger) {
    let printed = ledger.printed();
    let line = printed.lines().map(str::trim).find(|line| line.starts_with("curl") && line.contains("/credentials"));
    let line = line.expect("a curl is printed");
    match Command::new("sh").args(["-c", line]).output() {
        Ok(output) if output.status.code() != Some(127) => {
            let issued: Value = serde_json::from_slice(&output.stdout).unwrap();
            let key = issued["raw_key"].as_str().unwrap();
            assert_eq!((key.len(), &key[..6]), (55, "sk-kl1"));
            ledger.api().verified(key);
        }
        _ => eprintln!("SKIPPED: curl is not here; the printed command was not pasted"),
    }
}

fn owner_signs_in(ledger: &Ledger) -> (Api, String) {
    let printed = ledger.printed();
    let url = printed.lines().map(str::trim).find(|line| line.contains("/sign-in?token=")).expect("a link is printed");
    let path = url.strip_prefix(&ledger.url()).expect("the link leads here");
    let api = ledger.api();
    // Whoever previews a link does not use it up.
    api.get(path).expect(200);
    let token = json!({ "token": path.split_once('=').unwrap().1 });
    let came = api.post("/api/v1/auth/link", &token).expect(200);
    api.post("/api/v1/auth/link", &token).expect(401);
    let cookie = came.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite="), "{cookie}");
    let teams = came.json()["teams"].as_array().unwrap().clone();
    let team = teams.iter().find(|team| team["name"] == "First team").expect("there is a first team");
    assert_eq!(team["role"], "owner");
    let mut owner = api.bearing(&came.text("access_token")).in_team(team["id"].as_str().unwrap());
    owner.id = came.text("user_id");
    (owner, cookie.split(';').next().unwrap().to_owned())
}

/// A fresh access token for a browser's session.
fn renewed(owner: &Api, cookie: &str) -> Api {
    let nobody = Api { token: None, ..owner.clone() };
    // A cookie alone might come from another site's page.
    nobody.send("POST", "/api/v1/auth/token", &[("Cookie", cookie)], b"").expect(403);
    let own = [("Cookie", cookie), ("Sec-Fetch-Site", "same-origin")];
    let token = nobody.send("POST", "/api/v1/auth/token", &own, b"").expect(200).text("access_token");
    Api { token: Some(token), ..owner.clone() }
}

fn signed_in_again(owner: &Api, person: &Api) -> Api {
    let link = owner.post(&format!("/api/v1/persons/{}/sign-in-link", person.id), &json!({})).expect(201).text("url");
    let back = Api { token: None, team: None, ..owner.clone() }.follow(&link, None);
    assert_eq!(back.id, person.id);
    back.in_team(person.team.as_ref().unwrap())
}

fn surfaces(member: &Api, keys: &mut Keys) {
    let (ci, ci_key) = member.issue("integration", "CI", None);
    let (agent, agent_key) = member.issue("agent", "helper", Some(365));
    let device = member.post("/api/v1/credentials", &json!({ "kind": "device", "display_name": "by hand" }));
    device.expect(400);
    for (key, surface, status) in [
        (&ci_key, "runtime", 200),
        (&ci_key, "mcp", 200),
        (&ci_key, "agent", 403),
        (&ci_key, "management", 403),
        (&agent_key, "agent", 200),
        (&agent_key, "runtime", 403),
        (&agent_key, "mcp", 403),
        (&agent_key, "management", 403),
    ] {
        let reply = member.verify(key, &json!({ "surface": surface })).expect(status);
        if status == 403 {
            assert_eq!(reply.code(), "insufficient_scope", "{surface}");
            assert!(reply.header("www-authenticate").unwrap().contains("insufficient_scope"));
        }
    }
    let verified = member.verified(&ci_key);
    assert_eq!(verified.text("display_name"), "CI");
    assert_eq!(verified.text("user_id"), member.id);
    assert_eq!(verified.header("ledger-position").unwrap(), verified.json()["position"].to_string());
    keys.alive.extend([(ci, ci_key), (agent, agent_key)]);
}

/// Pairing, a stolen laptop ended by whom it belongs to and one by an admin, and a device that ends itself.
fn devices(owner: &Api, admin: &Api, member: &Api, keys: &mut Keys) {
    let anyone = Api { token: None, team: None, ..member.clone() };
    let start = anyone.post("/api/v1/desktop/pair/start", &json!({ "device_name": "Mia's laptop" })).expect(200);
    let poll = json!({ "device_code": start.text("device_code") });
    let polled = || anyone.post("/api/v1/desktop/pair/poll", &poll);
    assert_eq!(polled().expect(200).text("status"), "pending");
    let typed = start.text("user_code").to_lowercase().replace('-', " ");
    member.post("/api/v1/desktop/pair/confirm", &json!({ "user_code": typed })).expect(204);
    member.post("/api/v1/desktop/pair/confirm", &json!({ "user_code": typed })).expect(404);
    let approved = polled().expect(200);
    assert_eq!(approved.text("status"), "approved");
    polled().expect(404);
    let (device_key, companion_key) = (approved.text("raw_key"), approved.text("agent_key"));
    assert!(device_key.starts_with("dk-kl1") && companion_key.starts_with("ak-kl1"));
    let id = |key: &str| member.verified(key).text("credential_id");
    let (device, companion) = (id(&device_key), id(&companion_key));
    member.verify(&device_key, &json!({ "surface": "runtime" })).expect(200);
    member.verify(&device_key, &json!({ "surface": "management" })).expect(200);
    member.verify(&companion_key, &json!({ "surface": "runtime" })).expect(403);

    // Denied: nothing comes of it, and it is on record.
    let denied = anyone.post("/api/v1/desktop/pair/start", &json!({})).expect(200);
    member.post("/api/v1/desktop/pair/deny", &json!({ "user_code": denied.text("user_code") })).expect(204);
    let told = anyone.post("/api/v1/desktop/pair/poll", &json!({ "device_code": denied.text("device_code") }));
    assert_eq!(told.expect(200).text("status"), "denied");

    let [second, second_key, second_companion, second_companion_key] = member.pair("Mia's tablet");
    let [third, third_key, third_companion, third_companion_key] = member.pair("Mia's phone");
    // Another member's device is not there for a member, and an admin sees it.
    let viewer = owner.invite("viewer", "Vic Viewer");
    viewer.get(&format!("/api/v1/credentials/{second}")).expect(404);
    admin.get(&format!("/api/v1/credentials/{second}")).expect(200);

    member.send("DELETE", &format!("/api/v1/credentials/{device}"), &[], br#"{"reason":"stolen"}"#).expect(204);
    admin.delete(&format!("/api/v1/credentials/{second}")).expect(204);
    let before = admin.position();
    admin.delete(&format!("/api/v1/credentials/{second}")).expect(204);
    assert_eq!(admin.position(), before, "ending it again is no event");
    member.bearing(&third_key).post("/api/v1/auth/device/revoke", &json!({})).expect(204);
    for (device, companion) in [(&device, &companion), (&second, &second_companion), (&third, &third_companion)] {
        let (device, companion) = (history(admin, device), history(admin, companion));
        let (ended, cascaded) = (device.last().unwrap(), companion.last().unwrap());
        assert_eq!(
            (&ended["type"], &cascaded["type"]),
            (&json!("credential_revoked"), &json!("credential_cascade_revoked"))
        );
        assert_eq!(cascaded["cause"], ended["id"], "the cascade names its cause");
        assert_eq!(cascaded["position"].as_u64(), ended["position"].as_u64().map(|position| position + 1));
        assert_eq!(
            (&cascaded["recorded_at"], &cascaded["correlation_id"]),
            (&ended["recorded_at"], &ended["correlation_id"])
        );
    }
    keys.dead.extend([
        (device, device_key),
        (companion, companion_key),
        (second, second_key),
        (second_companion, second_companion_key),
        (third, third_key),
        (third_companion, third_companion_key),
    ]);
    keys.hold(member);
}

fn repeats_and_conditions(admin: &Api) {
    let send = |body: Value| {
        let key = [("Idempotency-Key", "deploy-1")];
        admin.send("POST", "/api/v1/credentials", &key, body.to_string().as_bytes())
    };
    let body = json!({ "kind": "integration", "display_name": "once" });
    let first = send(body.clone()).expect(201);
    let position = admin.position();
    let second = send(body).expect(201);
    assert_eq!(first.text("id"), second.text("id"));
    assert!(second.json().get("raw_key").is_none(), "the secret was answered once");
    assert_eq!(admin.position(), position);
    assert_eq!(
        send(json!({ "kind": "integration", "display_name": "twice" })).expect(422).code(),
        "idempotency_key_reused"
    );

    let path = format!("/api/v1/credentials/{}", first.text("id"));
    let etag = admin.get(&path).expect(200).header("etag").unwrap().to_owned();
    let rotate = |etag: &str| {
        let body = json!({ "overlap_seconds": 3600 }).to_string();
        admin.send("POST", &format!("{path}/rotate"), &[("If-Match", etag)], body.as_bytes())
    };
    rotate("\"999999\"").expect(412);
    rotate(&etag).expect(201);
    admin.send("DELETE", &path, &[("If-Match", &etag)], b"").expect(412);
    let etag = admin.get(&path).expect(200).header("etag").unwrap().to_owned();
    admin.send("DELETE", &path, &[("If-Match", &etag)], b"").expect(204);
    admin.verified(&admin.issue("agent", "still works", None).1);
}

fn queries(admin: &Api, member: &Api, keys: &mut Keys) {
    let (id, key) = member.issue("integration", "as of", Some(30));
    let position: u64 = member.position().parse().unwrap();
    member.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    let status = |query: &str| -> Value {
        let list = admin.get(&format!("/api/v1/credentials?q=as%20of{query}")).expect(200).json();
        assert_eq!(list["page_meta"]["total_count"], 1, "{list}");
        list["credentials"][0]["key_status"].clone()
    };
    assert_eq!(status(""), "revoked");
    assert_eq!(status(&format!("&as_of={position}")), "active");
    let all = admin.get("/api/v1/credentials?per_page=100").expect(200).json();
    let then = admin.get(&format!("/api/v1/credentials?per_page=100&as_of={}", position - 1)).expect(200).json();
    let count = |list: &Value| list["page_meta"]["total_count"].as_u64().unwrap();
    assert_eq!(count(&all), count(&then) + 1);
    keys.dead.insert(id.clone(), key);

    let events = |query: &str| admin.get(&format!("/api/v1/audit?{query}")).expect(200).json();
    let of_one = events(&format!("credential={id}"));
    let types: Vec<_> =
        of_one["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["credential_issued", "credential_revoked"]);
    let by_member = events(&format!("actor={}&type=credential_revoked", member.id));
    assert!(by_member["events"].as_array().unwrap().iter().all(|event| event["actor"]["id"] == json!(member.id)));
    // All pages one after another are the export.
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = events(&format!("limit=7{after}"));
        paged.extend(page["events"].as_array().unwrap().iter().map(|event| event["position"].as_u64().unwrap()));
        match page["next"].as_u64() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let export = admin.get("/api/v1/audit/export?format=jsonl").expect(200);
    let lines: Vec<Value> = export.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(paged, lines.iter().map(|line| line["position"].as_u64().unwrap()).collect::<Vec<_>>());
    for (revision, pair) in lines.windows(2).enumerate() {
        assert_eq!(pair[0]["revision"], revision);
        assert_eq!(pair[0]["hash"], pair[1]["previous"], "the chain holds");
    }
    member.get("/api/v1/audit").expect(403);
}

/// Both keys live through the overlap; then the old one ends.
fn rotation(member: &Api, keys: &mut Keys) {
    let (old, old_key) = member.issue("integration", "rotated", Some(90));
    let rotate = |seconds: u32| {
        member.post(&format!("/api/v1/credentials/{old}/rotate"), &json!({ "overlap_seconds": seconds }))
    };
    let next = rotate(2).expect(201);
    assert_eq!(next.text("rotated_from"), old);
    member.verified(&next.text("raw_key"));
    member.verified(&old_key);
    // Another rotation makes another successor, and never lengthens the old key's life.
    let other = rotate(3600).expect(201);
    keys.alive.insert(other.text("id"), other.text("raw_key"));
    eventually("the overlap ends", || member.verify(&old_key, &json!({})).status == 401);
    eventually("its end is on record", || {
        history(member, &old).iter().any(|event| event["type"] == "credential_expired")
    });
    keys.dead.insert(old, old_key);
    keys.alive.insert(next.text("id"), next.text("raw_key"));
    keys.hold(member);
}

fn departures(ledger: &Ledger, owner: &Api, admin: &Api, member: &Api, noor: &Api, keys: &mut Keys) {
    let [device, device_key, companion, companion_key] = member.pair("Mia's last laptop");
    keys.alive.extend([(device.clone(), device_key), (companion.clone(), companion_key)]);
    let path = format!("/api/v1/members/{}/departure", member.id);
    let dossier = || admin.get(&path).expect(200).json();
    let ids = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let stale = dossier()["revision"].clone();
    let (late, late_key) = member.issue("agent", "at the last minute", None);
    keys.alive.insert(late.clone(), late_key);
    let fresh = dossier();
    let mut ending = ids(&fresh["ends_by_itself"]);
    ending.sort();
    let mut expected = vec![device.clone(), companion.clone()];
    expected.sort();
    assert_eq!(ending, expected);
    let undecided = ids(&fresh["to_decide"]);
    assert!(undecided.contains(&late) && undecided.len() >= 3, "{undecided:?}");
    let (kept, ended) = undecided.split_first().unwrap();
    let decision = |revision: &Value| json!({ "revoke": ended, "hand_over": [{ "id": kept, "to": admin.id }], "expected_revision": revision });
    let before = admin.position();
    let conflict = admin.post(&path, &decision(&stale)).expect(409);
    assert_eq!(conflict.json()["revision"], fresh["revision"]);
    assert_eq!(admin.position(), before, "a refused decision changes nothing");
    member.post(&path, &decision(&fresh["revision"])).expect(403);
    let receipt = admin.post(&path, &decision(&fresh["revision"])).expect(200).json();
    assert_eq!(receipt["undecided"], 0);
    let events = receipt["events"].as_array().unwrap();
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0]["position"].as_u64().unwrap() + 1 == pair[1]["position"].as_u64().unwrap())
    );
    assert!(events.iter().all(|event| event["recorded_at"] == events[0]["recorded_at"]), "one commit");
    ended.iter().chain([&device, &companion]).for_each(|id| keys.end(id));
    assert_eq!(member.get("/api/v1/whoami").status, 401, "who has left is signed out");
    member.get("/api/v1/credentials").expect(401);
    keys.hold(admin);
    let row = admin.get(&format!("/api/v1/credentials/{kept}")).expect(200);
    assert_eq!((row.text("user_id"), &row.json()["departed"]), (admin.id.clone(), &json!(false)));
    let queue = || admin.get("/api/v1/departures").expect(200).json()["total_count"].clone();
    assert_eq!(queue(), 0);

    // Somebody leaves without a decision: their key stays alive and waits for one.
    let (waiting, waiting_key) = noor.issue("integration", "left behind", None);
    owner.delete(&format!("/api/v1/members/{}", noor.id)).expect(204);
    noor.get("/api/v1/whoami").expect(401);
    ledger.api().verified(&waiting_key);
    assert_eq!(queue(), 1);
    let path = format!("/api/v1/members/{}/departure", noor.id);
    let revision = admin.get(&path).expect(200).json()["revision"].clone();
    admin.post(&path, &json!({ "revoke": [waiting], "expected_revision": revision })).expect(200);
    ledger.api().refused(&waiting_key);
    assert_eq!(queue(), 0);
    keys.dead.insert(waiting, waiting_key);
}

fn batch(ledger: &Ledger, owner: &Api, keys: &Keys) {
    let token = command()
        .args(["service-token", "edge"])
        .env("KEYLEDGER_CONFIG_DIR", ledger.home())
        .env("KEYLEDGER_SERVER", ledger.url())
        .env("KEYLEDGER_TOKEN", owner.token.as_ref().unwrap())
        .output()
        .unwrap();
    assert!(token.status.success(), "{}", said(&token));
    let printed = String::from_utf8(token.stdout).unwrap();
    let service = printed.split_whitespace().find(|word| word.starts_with("sv-kl1")).expect("a key is printed");
    let (alive, dead): (Vec<_>, Vec<_>) = (keys.alive.values().collect(), keys.dead.values().collect());
    let wrong = if alive[0].ends_with('x') { 'y' } else { 'x' };
    let malformed = format!("{}{wrong}", &alive[0][..54]);
    let asked: Vec<_> = alive.iter().chain(&dead).map(|key| key.as_str()).chain([malformed.as_str()]).collect();
    let told = owner.bearing(service).post("/api/v1/verify/batch", &json!({ "keys": asked })).expect(200).json();
    let codes: Vec<_> = told["results"].as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap()).collect();
    assert_eq!(codes.len(), asked.len());
    assert!(codes[..alive.len()].iter().all(|code| *code == "valid"), "{codes:?}");
    let dead = &codes[alive.len()..asked.len() - 1];
    assert!(dead.iter().all(|code| matches!(*code, "revoked" | "expired")), "{dead:?}");
    assert_eq!(dead.iter().filter(|code| **code == "expired").count(), 2);
    assert_eq!(codes.last(), Some(&"malformed"));
    // Nobody else may ask for precise reasons.
    owner.post("/api/v1/verify/batch", &json!({ "keys": [] })).expect(401);
    owner.bearing(alive[0]).post("/api/v1/verify/batch", &json!({ "keys": [] })).expect(403);
}

fn history(api: &Api, credential: &str) -> Vec<Value> {
    let reply: Reply = api.get(&format!("/api/v1/credentials/{credential}/history")).expect(200);
    reply.json()["events"].as_array().unwrap().clone()
}

/// Where each credential of the team died.
fn deaths(owner: &Api) -> HashMap<String, Value> {
    let export = owner.get("/api/v1/audit/export").expect(200).body;
    let events = export.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let deaths = events.filter(|event| DEATHS.contains(&event["type"].as_str().unwrap()));
    deaths.map(|event| (event["data"]["credential"].as_str().unwrap().to_owned(), event["position"].clone())).collect()
}

/// Whatever byte of the log or its heads changes: it is found, named by position, and nothing is served from it.
fn damage(ledger: &Ledger) {
    let copy = ledger.home().join("copy");
    copy_dir(&ledger.dir(), &copy);
    let intact = replay(&copy, &["verify"]);
    assert!(intact.status.success(), "{}", said(&intact));
    let segment = fs::read_dir(copy.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|suffix| suffix == "seg")).min().unwrap();
    let bytes = fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // Header, first frame, places all over, the last frame's end, and the zeros behind it.
    let mut places = vec![0, 9, 63, 64, 70, 75, 80, 90, 100, end - 1, end - 40, end + 64, end + 5_000, bytes.len() - 1];
    places.extend((1..12).map(|twelfth| end * twelfth / 12));
    let mut refused_to_serve = 0;
    for at in places {
        flip(&segment, &bytes, at);
        let found = replay(&copy, &["verify"]);
        assert_eq!(found.status.code(), Some(1), "byte {at} of {end}: {}", said(&found));
        assert!(said(&found).contains("position"), "byte {at}: {}", said(&found));
        // A few starts are enough: the store's own suite opens every one of them.
        if at % 4 == 3 && at < end {
            refused_to_serve += 1;
            let started = command().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&copy).output().unwrap();
            assert_eq!(started.status.code(), Some(3), "byte {at} of {end}: {}", said(&started));
        }
    }
    assert!(refused_to_serve > 0);
    fs::write(&segment, &bytes).unwrap();
    for name in ["log/head.0", "log/head.1", "ledger.vkey"] {
        let file = copy.join(name);
        let bytes = fs::read(&file).unwrap();
        flip(&file, &bytes, 20);
        let found = replay(&copy, &["verify"]);
        assert_eq!(found.status.code(), Some(1), "{name}: {}", said(&found));
        fs::write(&file, &bytes).unwrap();
    }
    let intact = replay(&copy, &["verify"]);
    assert!(intact.status.success(), "{}", said(&intact));
}

fn flip(file: &Path, bytes: &[u8], at: usize) {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}
