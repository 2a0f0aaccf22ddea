//! Every route of the API document × everybody who might ask × ids that are not theirs × whatever can be wrong with a
//! request. What is refused changes nothing, and what is another team's looks exactly like what does not exist.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::{Value, json};
use support::{
    ledger::{Api, Ledger, Reply},
    routes::{Route, Who, routes},
};

/// No id of anything.
const UNKNOWN: &str = "0190b5a6-7e0c-7cc0-98c1-00000000dead";

/// Everybody, and something of each team.
struct Cast {
    ledger: Ledger,
    routes: Vec<Route>,
    /// By the letter of their role.
    people: Vec<(char, Api)>,
    stranger: Api,
    /// A live key of each kind, by its tag.
    keys: Vec<(&'static str, String)>,
    own: Things,
    foreign: Things,
}

/// Ids that exist in one team.
struct Things {
    team: String,
    credentials: Vec<String>,
    member: String,
}

impl Cast {
    fn new() -> Self {
        let ledger = Ledger::started();
        let owner = ledger.owner();
        let document = owner.get("/openapi.json").expect(200).json();
        let [admin, member, viewer, auditor] =
            ["admin", "member", "viewer", "auditor"].map(|role| owner.invite(role, role));
        let sk = member.issue("integration", "ours", None);
        let ak = member.issue("agent", "ours too", None);
        let dk = member.pair("our laptop");
        let sv = owner.post("/api/v1/service-credentials", &json!({ "display_name": "edge" })).expect(201);
        // Somebody with a team of their own, whom nobody of ours shares.
        let other = owner.post("/api/v1/teams", &json!({ "name": "between" })).expect(201).text("id");
        let stranger = owner.in_team(&other).invite("admin", "stranger");
        let theirs = stranger.post("/api/v1/teams", &json!({ "name": "theirs" })).expect(201).text("id");
        let stranger = stranger.in_team(&theirs);
        let foreign_key = stranger.issue("integration", "theirs", None).0;
        let foreign_device = stranger.pair("their laptop");
        let own = Things {
            team: owner.team.clone().unwrap(),
            credentials: vec![sk.0, ak.0, dk[0].clone(), dk[2].clone()],
            member: member.id.clone(),
        };
        let foreign = Things {
            team: theirs,
            credentials: vec![foreign_key, foreign_device[0].clone(), foreign_device[2].clone()],
            member: stranger.id.clone(),
        };
        let keys = vec![("sk", sk.1), ("ak", ak.1), ("dk", dk[1].clone()), ("sv", sv.text("raw_key"))];
        let people = vec![('o', owner), ('a', admin), ('m', member), ('v', viewer), ('u', auditor)];
        Self { ledger, routes: routes(&document), people, stranger, keys, own, foreign }
    }

    /// Runs requests that must all be refused, and sees that the log has not moved.
    fn unmoved(&self, what: &str, requests: impl FnOnce()) {
        let before = self.ledger.api().position();
        requests();
        assert_eq!(self.ledger.api().position(), before, "{what} moved the log");
    }
}

fn ask(route: &Route, api: &Api, id: &str) -> Reply {
    ask_with(route, api, id, &route.body())
}

fn ask_with(route: &Route, api: &Api, id: &str, body: &[u8]) -> Reply {
    sound(api.send(&route.method, &route.at(id), &route.with_type(&[]), body))
}

/// No answer is ever a failure of the service, and every refusal is a problem.
fn sound(reply: Reply) -> Reply {
    assert!(reply.status < 500, "{reply:?}");
    if reply.what.contains(" /oauth/") && reply.status >= 400 {
        assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
        assert!(reply.json()["error"].is_string() && reply.json()["error_description"].is_string(), "{reply:?}");
    } else if reply.status >= 400 {
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
        let problem = reply.json();
        assert!(problem["code"].is_string() && problem["status"] == reply.status, "{reply:?}");
    }
    reply
}

/// All that could tell two answers apart, the ids that were asked for aside.
fn face(reply: &Reply, id: &str) -> (u16, String, Vec<(String, String)>) {
    let mut headers = reply.headers.clone();
    headers.retain(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id" | "content-length"));
    headers.sort();
    (reply.status, reply.body.replace(id, "ID"), headers)
}

#[test]
fn what_is_another_teams_does_not_exist() {
    let cast = Cast::new();
    cast.unmoved("a foreign id", || {
        for route in &cast.routes {
            // Another team in the header, and those of the other team in ours.
            for (asking, teams) in [(&cast.stranger, [&cast.own, &cast.foreign])]
                .into_iter()
                .chain(cast.people.iter().map(|(_, person)| (person, [&cast.foreign, &cast.own])))
            {
                let [not_theirs, theirs] = teams;
                if route.has_team() {
                    for id in not_theirs.credentials.iter().chain([&not_theirs.member]) {
                        let foreign = ask(route, &asking.in_team(&not_theirs.team), id);
                        let unknown = ask(route, &asking.in_team(UNKNOWN), UNKNOWN);
                        assert_eq!(foreign.status, 404, "{foreign:?}");
                        assert_eq!(face(&foreign, id), face(&unknown, UNKNOWN));
                        if !route.has_id() {
                            break;
                        }
                    }
                }
                if route.has_team() && route.has_id() {
                    for id in not_theirs.credentials.iter().chain([&not_theirs.member]) {
                        let asking = asking.in_team(&theirs.team);
                        let foreign = ask(route, &asking, id);
                        let unknown = ask(route, &asking, UNKNOWN);
                        assert!(matches!(foreign.status, 403 | 404), "{foreign:?}");
                        assert_eq!(face(&foreign, id), face(&unknown, UNKNOWN));
                    }
                }
            }
            if route.who == Who::Operator {
                for asking in cast.people.iter().skip(1).map(|(_, person)| person).chain([&cast.stranger]) {
                    ask(route, asking, &cast.foreign.member).expect(403);
                    ask(route, asking, UNKNOWN).expect(403);
                }
            }
        }
        // Foreign ids in a body.
        let (_, owner) = &cast.people[0];
        let path = format!("/api/v1/members/{}/departure", cast.own.member);
        let revision = owner.get(&path).expect(200).json()["revision"].clone();
        for name in ["revoke", "hand_over", "heir"] {
            let decide = |id: &str| {
                let mut body = json!({ "expected_revision": revision });
                match name {
                    "revoke" => body["revoke"] = json!([id]),
                    "hand_over" => body["hand_over"] = json!([{ "id": id, "to": owner.id }]),
                    _ => body["hand_over"] = json!([{ "id": cast.own.credentials[0], "to": id }]),
                }
                face(&sound(owner.post(&path, &body)), id)
            };
            for id in cast.foreign.credentials.iter().chain([&cast.foreign.member]) {
                let (status, ..) = decide(id);
                assert!(matches!(status, 400 | 404 | 409), "{name}: {status}");
                assert_eq!(decide(id), decide(UNKNOWN), "{name}");
            }
        }
        // A key of ours is not good for another team, and looks unknown there.
        let (_, key) = &cast.keys[0];
        owner.verify(key, &json!({ "team_id": cast.own.team })).expect(200);
        let foreign = owner.verify(key, &json!({ "team_id": cast.foreign.team })).expect(401);
        let unknown = owner.verify(&owner.token.clone().unwrap(), &json!({})).expect(401);
        assert_eq!(face(&foreign, "").1, face(&unknown, "").1);
    });
}

#[test]
fn everybody_may_do_what_the_table_says_and_nothing_else() {
    let cast = Cast::new();
    let nobody = cast.ledger.api();
    cast.unmoved("nobody", || {
        for route in cast.routes.iter().filter(|route| route.who != Who::Anyone) {
            for team in [None, Some(cast.own.team.clone()), Some(UNKNOWN.to_owned())] {
                let nobody = Api { team, ..nobody.clone() };
                let refused = ask(route, &nobody, &cast.own.credentials[0]).expect(401);
                let code = if route.is_form { "invalid_client" } else { "unauthenticated" };
                assert_eq!(refused.code(), code, "{refused:?}");
                assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"keyledger\""), "{refused:?}");
            }
            let mut garbage = nobody.bearing("garbage");
            garbage.team = Some(cast.own.team.clone());
            assert_eq!(ask(route, &garbage, &cast.own.credentials[0]).expect(401).code(), "invalid_token");
        }
    });
    cast.unmoved("a key", || {
        for route in &cast.routes {
            for (kind, key) in &cast.keys {
                let may = match route.who {
                    Who::Keys(kinds) => kinds.contains(kind),
                    Who::Anybody | Who::Anyone => true,
                    _ => false,
                };
                // What a device may do for itself is told in the story.
                if may {
                    continue;
                }
                let asking = Api { team: Some(cast.own.team.clone()), ..nobody.bearing(key) };
                for id in [&cast.own.credentials[0], &cast.own.member] {
                    let refused = ask(route, &asking, id).expect(403);
                    assert_eq!(refused.code(), "insufficient_scope", "{kind} {}", route.name());
                }
            }
        }
    });
    cast.unmoved("a role that may not", || {
        for route in &cast.routes {
            let Who::Roles(roles) = route.who else { continue };
            for (role, person) in cast.people.iter().filter(|(role, _)| !roles.contains(*role)) {
                let others = cast.people.iter().map(|(_, other)| &other.id).filter(|id| **id != person.id);
                for id in cast.own.credentials.iter().chain(others) {
                    let refused = ask(route, person, id);
                    assert!(matches!(refused.status, 403 | 404), "{role}: {refused:?}");
                    if !route.has_id() {
                        assert_eq!(refused.status, 403, "{role}: {refused:?}");
                    }
                }
            }
        }
    });
    let logout = |route: &&Route| route.path.ends_with("/logout");
    let last = cast.routes.iter().filter(logout);
    for route in cast.routes.iter().filter(|route| !logout(route)).chain(last) {
        for (role, person) in &cast.people {
            let may = match route.who {
                Who::Roles(roles) => roles.contains(*role),
                Who::Operator => *role == 'o',
                Who::Person | Who::Anybody => true,
                Who::Keys(_) | Who::Anyone => continue,
            };
            if may {
                let answer = ask(route, person, UNKNOWN);
                assert!(!matches!(answer.status, 401 | 403), "{role}: {answer:?}");
                if route.has_id() {
                    assert_eq!(answer.status, 404, "{role}: {answer:?}");
                }
            }
        }
    }
    for (_, person) in &cast.people {
        person.get("/api/v1/whoami").expect(401);
    }
}

#[test]
fn a_wrong_request_is_a_problem_and_changes_nothing() {
    let cast = Cast::new();
    let (_, owner) = &cast.people[0];
    let service = cast.keys.iter().find(|(kind, _)| *kind == "sv").map(|(_, key)| key).unwrap();
    for route in &cast.routes {
        let asking = match route.who {
            Who::Keys(_) => &owner.bearing(service),
            _ => owner,
        };
        let id = if route.path.contains("/credentials") { &cast.own.credentials[0] } else { &cast.own.member };
        cast.unmoved(&route.name(), || {
            bodies(route, asking, id);
            places(route, asking, id);
            headers(route, asking, id);
        });
    }
}

#[track_caller]
fn refused(reply: Reply, why: &str) {
    let reply = sound(reply);
    assert!((400..500).contains(&reply.status), "{why}: {reply:?}");
}

fn bodies(route: &Route, api: &Api, id: &str) {
    let Some(example) = route.example.as_object() else { return };
    let send = |body: &[u8], why: &str| {
        refused(api.send(&route.method, &route.at(id), &route.with_type(&[]), body), why);
    };
    // A few paths take as much as the server takes at all, whose own tests look at more.
    let takes_more = route.path.contains("/leaks") || route.path.ends_with("/usage");
    let too_long =
        if takes_more { b"{".to_vec() } else { format!("{}{}", route.example, " ".repeat(70_000)).into_bytes() };
    let deep = |open: &str| open.repeat(5_000).into_bytes();
    for (body, why) in [
        (b"{".to_vec(), "cut off"),
        (b"[]".to_vec(), "an array"),
        (b"\"x\"".to_vec(), "a text"),
        (b"1".to_vec(), "a number"),
        (b"{} {}".to_vec(), "two"),
        (b"\xff\xfe{}".to_vec(), "not UTF-8"),
        (deep("["), "deep arrays"),
        (deep("{\"a\":"), "deep objects"),
        (too_long, "too long"),
    ] {
        send(&body, why);
    }
    if route.body_is_required {
        send(b"", "empty");
        send(b"null", "null");
        let text = [("Content-Type", "text/plain")];
        let status = if route.is_form { 400 } else { 415 };
        sound(api.send(&route.method, &route.at(id), &text, &route.body())).expect(status);
    }
    if route.refuses_unknown {
        let mut body = route.example.clone();
        body["surprise"] = json!(1);
        send(body.to_string().as_bytes(), "unknown property");
    }
    if route.is_form {
        for name in example.keys() {
            let twice = [route.body(), format!("&{name}=x&{name}=x").into_bytes()].concat();
            send(&twice, &format!("{name} twice"));
        }
        for name in &route.required {
            let mut body = route.example.clone();
            body.as_object_mut().unwrap().remove(name);
            send(&route.encoded(&body), &format!("{name} missing"));
        }
        return;
    }
    for (name, value) in example {
        let with = |wrong: Value| {
            let mut body = route.example.clone();
            body[name] = wrong;
            body.to_string()
        };
        let wrong = match value {
            Value::Null => vec![json!({}), json!("\u{0}"), json!(7)],
            Value::Bool(_) => vec![json!("yes"), json!(1), json!([]), json!(null)],
            Value::Number(_) => vec![json!("7"), json!(-1), json!(1e300), json!(1.5), json!({}), json!(true)],
            Value::String(_) => vec![json!(7), json!({ "a": 1 }), json!(["x"]), json!(true), json!("x".repeat(60_000))],
            Value::Array(_) => vec![json!({}), json!("x"), json!([7]), json!([null]), json!(vec!["x"; 1_001])],
            Value::Object(_) => vec![json!([]), json!("x")],
        };
        for wrong in wrong {
            let body = with(wrong);
            send(body.as_bytes(), &format!("{name} wrong in {}", &body[..body.len().min(200)]));
        }
        if route.required.contains(name) {
            let mut body = route.example.clone();
            body.as_object_mut().unwrap().remove(name);
            send(body.to_string().as_bytes(), &format!("{name} missing"));
            send(with(Value::Null).as_bytes(), &format!("{name} null"));
        }
    }
}

fn places(route: &Route, api: &Api, id: &str) {
    let send =
        |path: &str| refused(api.send(&route.method, path, &route.with_type(&[]), &route.body()), "path or query");
    if route.has_id() {
        for wrong in ["x", "0", "%00", "%ff%fe", "..%2f..%2fetc", "sk-kl1abcdef", &"a".repeat(3_000), &format!("{id}0")]
        {
            send(&route.at(wrong));
        }
    }
    for (name, kind, format) in &route.query {
        let long = "x".repeat(600);
        let wrong: &[&str] = match (kind.as_str(), format.as_str()) {
            ("integer", _) => &["x", "-1", "1.5", "", "99999999999999999999999"],
            ("boolean", _) => &["maybe", "", "2"],
            (_, "uuid") => &["x", "1"],
            (_, "date-time") => &["yesterday", "2026-13-45T00:00:00Z", "-1", "2026-03-03"],
            _ => &[&long],
        };
        for wrong in wrong {
            send(&format!("{}?{name}={wrong}", route.at(id)));
        }
        if matches!(name.as_str(), "limit" | "per_page" | "current_page") {
            send(&format!("{}?{name}=0", route.at(id)));
            send(&format!("{}?{name}=1000001", route.at(id)));
        }
    }
    if !route.query.is_empty() {
        send(&format!("{}?surprise=1", route.at(id)));
    }
    let odd = sound(api.send("TRACE", &route.at(id), &[], b""));
    // What asks on behalf of others' requests asks for every method.
    assert!(matches!(odd.status, 404 | 405) || route.path == "/forward-auth", "{odd:?}");
}

fn headers(route: &Route, api: &Api, id: &str) {
    let long = "k".repeat(256);
    for name in &route.headers {
        let wrong: &[&str] = match name.as_str() {
            "X-Team-ID" => &["x", "", "0190b5a6", "\u{e9}"],
            "Idempotency-Key" => &["", &long, "\u{e9}"],
            "Last-Event-ID" => &["x", "", "-1", "+1", "1 2", "99999999999999999999", "\u{e9}"],
            "If-Match" => &["x", "\"x\"", "-1", "W/\"1\""],
            other => panic!("{}: what is a wrong {other}?", route.name()),
        };
        for wrong in wrong {
            let reply = api.send(&route.method, &route.at(id), &[(name, wrong)], &route.body());
            refused(reply, &format!("{name}: {wrong}"));
        }
    }
    for wrong in ["x", "-1", "1.5", "\u{e9}"] {
        let reply = api.send(&route.method, &route.at(id), &[("Ledger-Min-Position", wrong)], &route.body());
        if route.path.starts_with("/api/") {
            refused(reply, &format!("Ledger-Min-Position: {wrong}"));
        }
    }
    if route.who != Who::Anyone {
        for wrong in ["Basic x", "Bearer", "Bearer ", "bearer  x y", "x"] {
            let wrong = route.with_type(&[("Authorization", wrong)]);
            let reply = api.send(&route.method, &route.at(id), &wrong, &route.body());
            sound(reply).expect(401);
        }
    }
}
