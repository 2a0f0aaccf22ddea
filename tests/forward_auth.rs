//! `/forward-auth` as any proxy may ask it, also one that is set up badly: 200, 401 or 403, and nothing else. What the
//! real proxies make of it is in `proxies.rs`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;

use proptest::{prelude::*, test_runner::TestRunner};
use support::{
    Answer, Client,
    ledger::{Ledger, Reply},
};

fn connect(ledger: &Ledger) -> Client {
    Client::to(SocketAddr::from(([127, 0, 0, 1], ledger.port())))
}

/// What must be true of every answer; whether it lets the request pass.
#[track_caller]
fn sound(answer: &Answer, identity: &Reply) -> bool {
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    assert!(answer.header("ledger-position").is_some(), "{answer:?}");
    let names = ["x-credential-id", "x-credential-kind", "x-team-id", "x-user-id"];
    let told = names.map(|name| answer.header(name).map(str::to_owned));
    if answer.status() == 200 {
        assert_eq!(told, ["credential_id", "kind", "team_id", "user_id"].map(|member| Some(identity.text(member))));
        assert!(answer.body.is_empty() && answer.header("www-authenticate").is_none(), "{answer:?}");
        return true;
    }
    assert!(matches!(answer.status(), 401 | 403), "{answer:?}");
    assert!(
        answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer realm=")),
        "{answer:?}"
    );
    assert_eq!(told, [None, None, None, None]);
    false
}

#[test]
fn every_method_path_and_header_is_answered_and_the_connection_kept() {
    // Whoever has no more than one request a minute is answered all the same.
    let mut ledger = ["ADDRESS", "ANONYMOUS", "VERIFY_FAILURES", "KEY"]
        .iter()
        .fold(Ledger::new(), |ledger, what| ledger.with(&format!("RATE_{what}_PER_MINUTE"), "100"));
    ledger.start(&[]);
    let owner = ledger.owner();
    let (_, key) = owner.issue("integration", "asked about", None);
    let (_, agent) = owner.issue("agent", "elsewhere", None);
    let team = owner.team.clone().unwrap();
    let identity = ledger.api().verified(&key);
    let good = format!("Authorization: Bearer {key}\r\n");
    let mut client = connect(&ledger);
    let mut ask = |method: &str, target: &str, headers: &str| {
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: nobody.example\r\n{headers}\r\n").as_bytes());
        let answer = client.answer_to(method).expect("an answer on the same connection");
        assert_ne!(answer.header("connection"), Some("close"), "{answer:?}");
        sound(&answer, &identity);
        answer
    };
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW", "get"] {
        for target in
            ["/forward-auth", "/forward-auth?surface=runtime", "/forward-auth/", "/forward-auth/a/%00/../b?c=d"]
        {
            assert_eq!(ask(method, target, &good).status(), 200, "{method} {target}");
            assert_eq!(ask(method, target, "").status(), 401, "{method} {target}");
        }
    }
    let mine = format!("/forward-auth?team={team}");
    let below = format!("/forward-auth/orders/{key}?token={key}");
    let two = format!("{good}Authorization: Bearer {agent}\r\n");
    let basic = format!("Authorization: Basic {key}\r\n");
    let elsewhere = format!("Authorization: Bearer {agent}\r\n");
    for (target, headers, status, challenge) in [
        ("/forward-auth", "", 401, "Bearer realm=\"keyledger\""),
        (
            "/forward-auth",
            "Authorization: Bearer\r\n",
            401,
            "Bearer realm=\"keyledger\", error=\"invalid_token\"",
        ),
        ("/forward-auth", &two, 401, "Bearer realm=\"keyledger\", error=\"invalid_token\""),
        ("/forward-auth", &basic, 401, "Bearer realm=\"keyledger\", error=\"invalid_token\""),
        ("/forward-auth?surface=agent", &elsewhere, 200, ""),
        (&mine, &good, 200, ""),
        (
            "/forward-auth?team=0190b5a6-7e0c-7cc0-98c1-00000000dead",
            &good,
            401,
            "Bearer realm=\"keyledger\", error=\"invalid_token\"",
        ),
        (
            "/forward-auth?surface=agent",
            &good,
            403,
            "Bearer realm=\"keyledger\", error=\"insufficient_scope\", scope=\"agent\"",
        ),
        // The operator's mistakes let nobody pass, whatever they have.
        ("/forward-auth?surface=water", &good, 403, "Bearer realm=\"keyledger\", error=\"invalid_request\""),
        ("/forward-auth?surface=water", "", 403, "Bearer realm=\"keyledger\", error=\"invalid_request\""),
        (
            "/forward-auth?surface=runtime&surface=runtime",
            &good,
            403,
            "Bearer realm=\"keyledger\", error=\"invalid_request\"",
        ),
        ("/forward-auth?team=mine", &good, 403, "Bearer realm=\"keyledger\", error=\"invalid_request\""),
        ("/forward-auth?surfcae=runtime", &good, 403, "Bearer realm=\"keyledger\", error=\"invalid_request\""),
        // The client's own, which the proxy has appended.
        (&below, &good, 200, ""),
        (
            "/forward-auth/orders?surface=agent",
            &good,
            403,
            "Bearer realm=\"keyledger\", error=\"insufficient_scope\", scope=\"agent\"",
        ),
    ] {
        if headers == elsewhere {
            // Another one's identity is told.
            client_of(&ledger, target, headers, 200);
            continue;
        }
        let answer = ask("GET", target, headers);
        assert_eq!(
            (answer.status(), answer.header("www-authenticate").unwrap_or_default()),
            (status, challenge),
            "{target} {headers}"
        );
    }
    for header in [
        "Ledger-Min-Position: 999999999",
        "Ledger-Min-Position: nonsense",
        "Cookie: keyledger_session=x\r\nSec-Fetch-Site: cross-site\r\nOrigin: https://evil.example",
        "X-Forwarded-For: nonsense, , 1.2.3.4",
        "X-Forwarded-Uri: /x?key=sk-kl1",
        "Content-Type: nonsense",
        "X-Team-ID: not-a-uuid",
        "Connection: Upgrade\r\nUpgrade: websocket",
        "TE: trailers",
        "If-Match: nonsense\r\nRange: bytes=0-1",
        "Accept: image/png",
    ] {
        for method in ["GET", "POST"] {
            assert_eq!(ask(method, "/forward-auth", &format!("{good}{header}\r\n")).status(), 200, "{header}");
        }
    }
    for _ in 0..300 {
        assert_eq!(ask("GET", "/forward-auth", "").status(), 401);
    }
    // There are limits, elsewhere.
    assert!((0..300).any(|_| ledger.api().get("/api/v1/whoami").status == 429));

    assert!(ledger.stop().success());
    let log = ledger.log();
    for reason in ["?surface= must be", "?team= must be", "once each", "nothing else"] {
        assert_eq!(log.matches(reason).count(), 1, "{reason}: {log}");
    }
    assert!(!log.contains(&key[13..]) && !log.contains("water") && !log.contains("surfcae"), "{log}");
}

fn client_of(ledger: &Ledger, target: &str, headers: &str, status: u16) {
    let mut client = connect(ledger);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes());
    assert_eq!(client.answer().unwrap().status(), status);
}

/// What a proxy passes on of the body, or only announces, neither delays nor changes the answer, and never becomes the next
/// request: where it is not there whole, the connection ends.
#[test]
fn a_body_is_of_no_account() {
    let ledger = Ledger::started();
    let (_, key) = ledger.owner().issue("integration", "asked about", None);
    let identity = ledger.api().verified(&key);
    let head = |headers: &str| {
        format!(
            "POST /forward-auth?surface=runtime HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{headers}\r\n"
        )
    };
    let whole = "x".repeat(5_000);
    for (sent, kept) in [
        (head("Content-Length: 0\r\n"), true),
        (head("Content-Length: 2\r\n") + "{}", true),
        (head("Content-Length: 5000\r\n") + &whole, true),
        // Only its last chunk tells that it was the last one.
        (head("Transfer-Encoding: chunked\r\n") + "3\r\nabc\r\n0\r\n\r\n", false),
        // Announced, and not sent.
        (head("Content-Length: 2\r\n"), false),
        (head("Content-Length: 10000000000\r\n"), false),
        (head("Content-Length: 5000\r\n") + &whole[..100], false),
        (head("Transfer-Encoding: chunked\r\n"), false),
        (head("Transfer-Encoding: chunked\r\n") + "3\r\nabc\r\n", false),
        (head("Content-Length: 2\r\nExpect: 100-continue\r\n"), false),
    ] {
        let mut client = connect(&ledger);
        client.send(sent.as_bytes());
        let answer = client.answer().expect("an answer");
        assert!(sound(&answer, &identity));
        assert_eq!(answer.header("connection") == Some("close"), !kept, "{sent}: {answer:?}");
        if kept {
            client.send(b"GET /forward-auth HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(!sound(&client.answer().expect("a second answer"), &identity), "{sent}");
        } else {
            client.closed();
        }
    }
}

/// Headers that mean something to some part of the service, or to HTTP, with any value.
fn headers() -> impl Strategy<Value = (&'static str, String)> {
    let names = [
        "Host",
        "Cookie",
        "Origin",
        "Sec-Fetch-Site",
        "Ledger-Min-Position",
        "X-Forwarded-For",
        "X-Forwarded-Uri",
        "X-Request-Id",
        "X-Team-ID",
        "X-Credential-Id",
        "Content-Type",
        "Accept",
        "Accept-Encoding",
        "Idempotency-Key",
        "If-Match",
        "If-None-Match",
        "Range",
        "Upgrade",
        "TE",
        "Trailer",
        "Expect",
        "X-HTTP-Method-Override",
        "Via",
    ];
    (prop::sample::select(names.to_vec()), "[ -~]{0,40}")
}

/// Whatever a proxy passes on of what a client has made up.
#[test]
fn nothing_else_is_ever_answered() {
    let ledger = Ledger::started();
    let (_, key) = ledger.owner().issue("integration", "asked about", None);
    let identity = ledger.api().verified(&key);
    // Of what RFC 3986 allows in a URL, and more. What is left out (`"<>#` and what is not ASCII) HTTP itself refuses.
    let target = "(/[!$-;=?-_a-z|~{}]{0,12}){0,3}(\\?[!$-;=?-_a-z|~{}&=]{0,30})?";
    let asked = (
        prop_oneof!["[A-Z]{1,12}", "[!$%&'*+.^_`|~0-9A-Za-z-]{1,12}", Just("HEAD".to_owned())],
        target,
        prop::collection::vec(headers(), 0..6),
        prop_oneof![
            Just(String::new()),
            Just(format!("Authorization: Bearer {key}\r\n")),
            "Authorization: [ -~]{0,60}\r\n",
        ],
        prop::option::of("[ -~]{0,100}"),
    );
    let mut runner = TestRunner::new(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() });
    let done = runner.run(&asked, |(method, below, headers, authorization, body)| {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let body = body.map_or_else(String::new, |body| format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        let end = if body.is_empty() { "\r\n" } else { "" };
        let request = format!("{method} /forward-auth{below} HTTP/1.1\r\n{headers}{authorization}{body}{end}");
        let mut client = connect(&ledger);
        client.send(request.as_bytes());
        let answer = client.answer_to(&method).expect("an answer");
        prop_assert!(matches!(answer.status(), 200 | 401 | 403), "{request} {answer:?}");
        sound(&answer, &identity);
        Ok(())
    });
    done.unwrap();
}
