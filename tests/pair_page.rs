//! `/pair` as a browser without scripts sees it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::json;
use support::ledger::{Api, Ledger, Reply};

/// Somebody's browser: cookies, and the Origin header that it sends along with forms.
struct Browser {
    api: Api,
    cookies: Vec<(String, String)>,
}

impl Browser {
    fn new(ledger: &Ledger) -> Self {
        Self { api: ledger.api(), cookies: Vec::new() }
    }

    /// One that has followed a link of this person's.
    fn of(ledger: &Ledger, person: &Api) -> Self {
        let operator = ledger.owner();
        let link = operator.post(&format!("/api/v1/persons/{}/sign-in-link", person.id), &json!({})).expect(201);
        let mut browser = Self::new(ledger);
        browser.sign_in(&link.text("url")).expect(303);
        browser
    }

    fn sign_in(&mut self, url: &str) -> Reply {
        self.post("/sign-in", &[("token", url.split_once("token=").unwrap().1)])
    }

    fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let origin = self.api.url.clone();
        self.post_from(&origin, path, fields)
    }

    fn post_from(&mut self, origin: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let headers = [("Origin", origin), ("Content-Type", "application/x-www-form-urlencoded")];
        self.send("POST", path, &headers, body.as_bytes())
    }

    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let mut headers = headers.to_vec();
        if !cookies.is_empty() {
            headers.push(("Cookie", &cookies));
        }
        let reply = self.api.send(method, path, &headers, body);
        for (_, cookie) in reply.headers.iter().filter(|(name, _)| name == "set-cookie") {
            assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Lax"), "{cookie}");
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        reply
    }
}

fn start(ledger: &Ledger, name: &str) -> (String, String) {
    let started = ledger.api().post("/api/v1/desktop/pair/start", &json!({ "device_name": name })).expect(200);
    (started.text("device_code"), started.text("user_code"))
}

fn poll(ledger: &Ledger, device_code: &str) -> Reply {
    ledger.api().post("/api/v1/desktop/pair/poll", &json!({ "device_code": device_code }))
}

#[track_caller]
fn says(reply: Reply, status: u16, words: &[&str]) -> Reply {
    let reply = reply.expect(status);
    for word in words {
        assert!(reply.body.contains(word), "{word:?} is not in {reply:?}");
    }
    assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{reply:?}");
    assert!(!reply.body.contains("<script"), "it works without scripts");
    let policy = reply.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    reply
}

#[test]
fn a_person_comes_with_a_code_signs_in_and_lets_the_device_in() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let (device_code, code) = start(&ledger, "<b>Mia's</b> laptop");
    let link = owner.post(&format!("/api/v1/persons/{}/sign-in-link", owner.id), &json!({})).expect(201).text("url");
    let mut browser = Browser::new(&ledger);
    let typed = code.to_lowercase().replace('-', "");
    says(browser.get(&format!("/pair?code={typed}")), 401, &["Sign in first", &code]);
    assert_eq!(browser.sign_in(&link).expect(303).header("location"), Some(format!("/pair?code={code}").as_str()));
    assert!(!browser.cookies.iter().any(|(name, _)| name == "keyledger_pair"), "once");

    // Looking decides nothing, however often.
    let before = owner.position();
    for path in [format!("/pair?code={code}"), format!("/pair?user_code={typed}"), format!("/pair?code=%20{typed}")] {
        let shown = ["&lt;b&gt;Mia's&lt;/b&gt; laptop", "127.0.0.1", &code, "seconds ago", "UTC"];
        let page = says(browser.get(&path), 200, &shown);
        assert!(!page.body.contains("<b>"), "{page:?}");
        let first = page.body.split_once("<button").unwrap().1.split_once('>').unwrap().0;
        assert!(first.contains("disabled"), "Enter in a field decides nothing: {first}");
        for choice in ["allow", "deny"] {
            assert!(page.body.contains(&format!("name=\"decision\" value=\"{choice}\"")), "{page:?}");
        }
    }
    assert_eq!(owner.position(), before);
    assert_eq!(poll(&ledger, &device_code).text("status"), "pending");

    // Nor does a form of another site, or one without a choice.
    let team = owner.team.clone().unwrap();
    let allow = [("code", code.as_str()), ("team", &team), ("decision", "allow"), ("name", " Mia's own ")];
    for origin in ["https://evil.example", "null"] {
        assert_eq!(browser.post_from(origin, "/pair", &allow).expect(403).code(), "cross_site");
    }
    says(browser.post("/pair", &allow[..2]), 400, &["Nothing was decided"]);
    says(
        browser.post("/pair", &[("code", &code), ("team", "x"), ("decision", "allow")]),
        404,
        &["Nothing was decided"],
    );
    let bad_name = [allow[0], allow[1], allow[2], ("name", "a\u{1b}b")];
    says(browser.post("/pair", &bad_name), 400, &["name", "Nothing was decided"]);
    says(Browser::new(&ledger).post("/pair", &allow), 401, &["Sign in first"]);
    assert_eq!(owner.position(), before);

    says(browser.post("/pair", &allow), 200, &["The device is in"]);
    let got = poll(&ledger, &device_code).expect(200);
    assert_eq!(owner.verified(&got.text("raw_key")).text("display_name"), "Mia's own");
    says(browser.post("/pair", &allow), 409, &["This code was used"]);
    says(browser.get(&format!("/pair?code={code}")), 409, &["This code was used"]);
}

#[test]
fn whoever_comes_without_a_code_is_asked_for_one() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let mut browser = Browser::new(&ledger);
    says(browser.get("/pair"), 401, &["Sign in first"]);
    let link = owner.post(&format!("/api/v1/persons/{}/sign-in-link", owner.id), &json!({})).expect(201).text("url");
    assert_eq!(browser.sign_in(&link).expect(303).header("location"), Some("/pair"));
    says(browser.get("/pair"), 200, &["<label for=\"code\"", "action=\"/pair\""]);
    says(browser.get("/pair?code="), 200, &["<label for=\"code\""]);
    assert!(says(browser.get("/"), 200, &[]).body.contains("href=\"/pair\""));
    // What is no code is not carried through a sign-in.
    let mut browser = Browser::new(&ledger);
    says(browser.get("/pair?code=https://evil.example"), 401, &[]);
    browser.cookies = vec![("keyledger_pair".to_owned(), "//evil.example".to_owned())];
    let link = owner.post(&format!("/api/v1/persons/{}/sign-in-link", owner.id), &json!({})).expect(201).text("url");
    assert_eq!(browser.sign_in(&link).expect(303).header("location"), Some("/"));
    // Wrong codes, each a guess, until there are no more.
    for _ in 0..5 {
        says(browser.get("/pair?code=BBBB-BBBB"), 404, &["No device has this code"]);
    }
    let (_, code) = start(&ledger, "laptop");
    let page = says(browser.get(&format!("/pair?code={code}")), 429, &["Too many wrong codes", "5 minutes"]);
    assert!(!page.body.contains("laptop"), "{page:?}");
}

#[test]
fn a_device_is_refused_as_easily() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let mut browser = Browser::of(&ledger, &owner);
    let (device_code, code) = start(&ledger, "stranger");
    let team = owner.team.clone().unwrap();
    let deny = [("code", code.as_str()), ("team", &team), ("decision", "deny")];
    says(browser.post("/pair", &deny), 200, &["The device was refused"]);
    assert_eq!(poll(&ledger, &device_code).text("status"), "denied");
    assert!(owner.get("/api/v1/audit").expect(200).body.contains("pairing_denied"));
}

#[test]
fn the_team_is_one_of_theirs_and_where_they_may() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let second = owner.post("/api/v1/teams", &json!({ "name": "Second & last" })).expect(201).text("id");
    let mut browser = Browser::of(&ledger, &owner);
    let (device_code, code) = start(&ledger, "laptop");
    let page = says(browser.get(&format!("/pair?code={code}")), 200, &["<select", "Second &amp; last"]);
    assert!(page.body.contains(&format!("value=\"{second}\"")));
    says(browser.post("/pair", &[("code", &code), ("team", &second), ("decision", "allow")]), 200, &[]);
    let got = poll(&ledger, &device_code).expect(200).text("raw_key");
    assert_eq!(owner.verified(&got).text("team_id"), second);

    // A viewer may not let a device in, and may refuse one.
    let viewer = owner.invite("viewer", "Vic");
    let mut browser = Browser::of(&ledger, &viewer);
    let (device_code, code) = start(&ledger, "laptop");
    let page = says(browser.get(&format!("/pair?code={code}")), 200, &["none of your teams"]);
    assert!(!page.body.contains("value=\"allow\"") && page.body.contains("value=\"deny\""), "{page:?}");
    let team = viewer.team.clone().unwrap();
    says(
        browser.post("/pair", &[("code", &code), ("team", &team), ("decision", "allow")]),
        403,
        &["Nothing was decided"],
    );
    // Another's team does not exist for them.
    says(browser.post("/pair", &[("code", &code), ("team", &second), ("decision", "allow")]), 404, &[]);
    assert_eq!(poll(&ledger, &device_code).text("status"), "pending");
    says(browser.post("/pair", &[("code", &code), ("team", &team), ("decision", "deny")]), 200, &[]);
    assert_eq!(poll(&ledger, &device_code).text("status"), "denied");
}
