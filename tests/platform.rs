//! Everything a routed request passes, seen from outside: hostile input against a small router.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use axum::{
    Extension, Router,
    routing::{get, post},
};
use garde::Validate;
use keyledger::{
    config::Config,
    http::{
        ApiJson, ApiJsonOrDefault, ApiPath, ApiQuery, Name,
        health::{self, Readiness},
        limits::{RateLimits, Rates},
        metrics::Metrics,
        middleware::{ClientAddress, Guard, RequestId, guarded},
        server::{Limits, NoFastPath},
    },
};
use keyledger_events::secret::{Kind, RANDOM_LEN, Secret};
use serde::Deserialize;
use support::{Running, request};
use uuid::Uuid;

const JSON: &str = "Content-Type: application/json\r\n";

#[derive(Deserialize, Validate)]
#[serde(deny_unknown_fields)]
struct Thing {
    #[garde(dive)]
    name: Name,
    #[serde(default)]
    #[garde(range(min = 1, max = 365))]
    days: Option<u16>,
    #[serde(default)]
    #[garde(skip)]
    id: Option<Uuid>,
}

#[derive(Default, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
struct Reason {
    #[serde(default)]
    #[garde(length(max = 10))]
    reason: String,
}

#[derive(Deserialize, Validate)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    #[garde(range(max = 100))]
    per_page: u32,
    #[serde(default)]
    #[garde(skip)]
    id: Option<Uuid>,
}

fn secret() -> String {
    Secret::new(Kind::Integration, &std::array::from_fn::<_, RANDOM_LEN, _>(|i| (i * 13 % 62) as u8))
        .expose()
        .to_owned()
}

fn start(rates: Rates) -> Running {
    let metrics = Arc::new(Metrics::new());
    let readiness = Arc::new(Readiness::default());
    readiness.ready();
    let (health, document) = health::router(readiness, Arc::clone(&metrics)).split_for_parts();
    let limits = Arc::new(RateLimits::new(rates, Arc::clone(&metrics)));
    let anonymous = Arc::clone(&limits);
    let router = Router::new()
        .route("/things", post(|ApiJson(thing): ApiJson<Thing>| async move {
            format!("{} {:?} {}", thing.name.as_str(), thing.days, thing.id.is_some())
        }))
        .route("/things/{id}", get(|ApiPath(id): ApiPath<Uuid>| async move { id.to_string() })
            .delete(|ApiPath(_): ApiPath<Uuid>, ApiJsonOrDefault(body): ApiJsonOrDefault<Reason>| async move { body.reason }))
        .route("/pages", get(|ApiQuery(page): ApiQuery<Page>| async move { format!("{} {}", page.per_page, page.id.is_some()) }))
        .route("/raw", post(|axum::Json(value): axum::Json<Thing>| async move { value.name.into_string() }))
        .route("/panic", post(|body: String| async move { if body.len() < 1000 { panic!("it was {body}") } }))
        .route("/fail", get(|| async { (http::StatusCode::INTERNAL_SERVER_ERROR, "the password is 123") }))
        .route("/start", post(move |Extension(client): Extension<ClientAddress>| async move { anonymous.anonymous(client.0) }))
        .route("/id", get(|Extension(id): Extension<RequestId>| async move { id.0.to_string() }))
        .merge(health)
        .merge(keyledger::http::docs::router(&document));
    let guard = Guard::new(&Config::default(), limits, metrics);
    Running::start(Limits::default(), guarded(router, Arc::new(guard)), NoFastPath)
}

#[test]
fn hostile_input_is_a_4xx_problem_that_repeats_nothing() {
    let server = start(Rates::OFF);
    let secret = secret();
    let id = "0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a";
    let long_name = "x".repeat(101);
    let deep = "[".repeat(10_000);
    let big = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
    #[rustfmt::skip]
    let rows: Vec<(&str, String, &str, String, u16, &str)> = vec![
        ("POST", "/things".into(), JSON, String::new(), 400, "malformed_json"),
        ("POST", "/things".into(), JSON, "{".into(), 400, "malformed_json"),
        ("POST", "/things".into(), JSON, format!("{{\"name\": {secret}}}"), 400, "malformed_json"),
        ("POST", "/things".into(), JSON, "\u{feff}{}".into(), 400, "malformed_json"),
        ("POST", "/things".into(), JSON, deep.clone(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "[]".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, " [\"a\", 3]".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, format!("{{\"name\": {deep}"), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "null".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, format!("\"{secret}\""), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":7}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":\"\"}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, format!("{{\"name\":\"{long_name}\"}}"), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, format!("{{\"name\":\"{secret}\"}}"), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":\"a\\u0000b\"}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":\"a\\u202eb\"}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":\"a\",\"name\":\"b\"}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, format!("{{\"name\":\"a\",\"{secret}\":1}}"), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, format!("{{\"name\":\"a\",\"x, expected {secret}\":1}}"), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, format!("{{\"name\":\"a\",\"days\":\"{secret}\"}}"), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":\"a\",\"days\":0}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":\"a\",\"days\":366}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":\"a\",\"days\":-1}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":\"a\",\"days\":1.5}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, "{\"name\":\"a\",\"days\":99999999999999999999}".into(), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, format!("{{\"name\":\"a\",\"id\":\"{secret}\"}}"), 400, "invalid_field"),
        ("POST", "/things".into(), JSON, big.clone(), 413, "body_too_large"),
        ("POST", "/things".into(), "", "{\"name\":\"a\"}".into(), 415, "unsupported_media_type"),
        ("POST", "/things".into(), "Content-Type: text/plain\r\n", "{\"name\":\"a\"}".into(), 415, "unsupported_media_type"),
        ("POST", "/things".into(), "Content-Type: application/x-www-form-urlencoded\r\n", "name=a".into(), 415, "unsupported_media_type"),
        ("GET", format!("/things/{}", "x".repeat(50)), "", String::new(), 400, "invalid_path"),
        ("GET", "/things/%00".into(), "", String::new(), 400, "invalid_path"),
        ("GET", "/things/%ff".into(), "", String::new(), 400, "invalid_path"),
        ("GET", "/things/..%2f..%2fetc%2fpasswd".into(), "", String::new(), 400, "invalid_path"),
        ("GET", format!("/things/{secret}"), "", String::new(), 400, "secret_in_url"),
        ("GET", format!("/things/{}", &secret[..12]), "", String::new(), 400, "secret_in_url"),
        ("GET", format!("/things/{id}?x={secret}"), "", String::new(), 400, "secret_in_url"),
        ("GET", format!("/nowhere/{secret}"), "", String::new(), 400, "secret_in_url"),
        ("GET", format!("/pages?per_page={}", "9".repeat(30)), "", String::new(), 400, "invalid_query"),
        ("GET", "/pages?per_page=101".into(), "", String::new(), 400, "invalid_field"),
        ("GET", "/pages?per_page=-1".into(), "", String::new(), 400, "invalid_query"),
        ("GET", "/pages?nothing=1".into(), "", String::new(), 400, "invalid_query"),
        ("GET", "/pages?id=zzz".into(), "", String::new(), 400, "invalid_query"),
        ("GET", "/pages?per_page=1&per_page=2".into(), "", String::new(), 400, "invalid_query"),
        ("DELETE", format!("/things/{id}"), JSON, "{\"reason\":\"much too long\"}".into(), 400, "invalid_field"),
        ("DELETE", format!("/things/{id}"), "", "{}".into(), 415, "unsupported_media_type"),
        ("POST", "/raw".into(), JSON, format!("{{\"name\":\"a\",\"{secret}\":1}}"), 422, "bad_request"),
        ("GET", "/nowhere".into(), "", String::new(), 404, "not_found"),
        ("GET", "/".into(), "", String::new(), 404, "not_found"),
        ("PATCH", "/things".into(), JSON, "{}".into(), 405, "method_not_allowed"),
        ("BREW", "/things".into(), "", String::new(), 405, "method_not_allowed"),
        ("POST", "/things".into(), "Cookie: s=1\r\nContent-Type: application/json\r\n", "{\"name\":\"a\"}".into(), 403, "cross_site"),
        ("POST", "/things".into(), "Sec-Fetch-Site: cross-site\r\nContent-Type: application/json\r\n", "{\"name\":\"a\"}".into(), 403, "cross_site"),
    ];
    for (method, target, headers, body, status, code) in rows {
        let answer = server.ask(&request(method, &target, headers, &body));
        let what = format!("{method} {target:.60} {body:.80}: {} {}", answer.head, answer.body);
        assert_eq!(answer.status(), status, "{what}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        assert_eq!(answer.code(), code, "{what}");
        assert!(
            !answer.body.contains(&secret[..]) && !answer.body.contains("passwd") && !answer.body.contains("zzz"),
            "{what}"
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
    }
    for (method, target, headers, body, answer) in [
        (
            "POST",
            "/things".to_owned(),
            JSON,
            "{\"name\":\"  CI  \",\"days\":365}",
            "CI Some(365) false".to_owned(),
        ),
        (
            "POST",
            "/things".to_owned(),
            "Content-Type: application/json; charset=utf-8\r\n",
            "{\"name\":\"a\"}",
            "a None false".to_owned(),
        ),
        ("GET", format!("/things/{id}"), "", "", id.to_owned()),
        ("DELETE", format!("/things/{id}"), "", "", String::new()),
        ("DELETE", format!("/things/{id}"), JSON, "{\"reason\":\"stolen\"}", "stolen".to_owned()),
        ("GET", "/pages?per_page=100".to_owned(), "", "", "100 false".to_owned()),
    ] {
        let got = server.ask(&request(method, &target, headers, body));
        assert_eq!((got.status(), got.body), (200, answer), "{method} {target}");
    }
}

#[test]
fn the_details_help_without_repeating() {
    let server = start(Rates::OFF);
    for (body, detail) in [
        ("{}", "The body is not of its type: missing field `name` (line 1, column 2)."),
        (
            "{\"name\":\"a\",\"daze\":1}",
            "The body is not of its type: unknown field, expected one of `name`, `days`, `id` (line 1, column 18).",
        ),
        (
            "{\"name\":\"a\",\"days\":\"x\"}",
            "The body is not of its type: invalid type, expected u16 (line 1, column 22).",
        ),
        ("{\"name\":\"\"}", "name: must not be empty."),
        ("", "The body is empty; it must be JSON."),
    ] {
        let answer = server.ask(&request("POST", "/things", JSON, body));
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(problem["detail"], detail);
    }
}

#[test]
fn failures_say_nothing_of_the_inside() {
    let server = start(Rates::OFF);
    for (method, target) in [("POST", "/panic"), ("GET", "/fail")] {
        let answer = server.ask(&request(method, target, "", "sesame"));
        assert_eq!((answer.status(), answer.code().as_str()), (500, "internal"));
        assert!(!answer.body.contains("sesame") && !answer.body.contains("password"), "{}", answer.body);
    }
    // And the server lives on.
    assert_eq!(server.ask(&request("GET", "/healthz", "", "")).status(), 200);
    let metrics = server.ask(&request("GET", "/metrics", "", ""));
    assert!(metrics.body.contains("keyledger_panics_total 1"), "{}", metrics.body);
    assert!(metrics.body.contains("route=\"/panic\",status=\"500\""), "{}", metrics.body);
}

#[test]
fn request_ids_are_made_here() {
    let server = start(Rates::OFF);
    let answer = server.ask(&request("GET", "/id", "X-Request-Id: evil\r\n", ""));
    let id: Uuid = answer.header("x-request-id").unwrap().parse().unwrap();
    assert_eq!((id.to_string(), id.get_version_num()), (answer.body, 7));
}

#[test]
fn rates_hold_and_say_when_to_come_back() {
    let server = start(Rates { anonymous_per_minute: 2, address_per_minute: 10, ..Rates::OFF });
    let statuses: Vec<u16> = (0..12)
        .map(|n| {
            let target = if n < 4 { "/start" } else { "/things" };
            let answer = server.ask(&request("POST", target, "", ""));
            assert_eq!(answer.header("retry-after").is_some(), answer.status() == 429);
            answer.status()
        })
        .collect();
    assert_eq!(statuses, [200, 200, 429, 429, 415, 415, 415, 415, 415, 415, 429, 429]);
}

#[test]
fn the_document_and_its_pages_come_from_this_binary() {
    let server = start(Rates::OFF);
    let document = server.ask(&request("GET", "/openapi.json", "", ""));
    let document: serde_json::Value = serde_json::from_str(&document.body).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let page = server.ask(&request("GET", "/docs/", "", ""));
    assert_eq!(page.status(), 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'self';"), "{policy}");
    // Under that policy nothing inline would run, and nothing from elsewhere would load.
    for part in page.body.split("<script").skip(1) {
        let tag = &part[..part.find('>').unwrap()];
        assert!(tag.contains("src=\"./"), "{tag}");
    }
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "{}", page.body);
    for asset in ["swagger-ui-bundle.js", "swagger-ui.css", "swagger-initializer.js"] {
        assert_eq!(server.ask(&request("GET", &format!("/docs/{asset}"), "", "")).status(), 200, "{asset}");
    }
}

/// Log lines of this process.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_secret_reaches_the_access_log_by_any_way() {
    let lines = Lines::default();
    let sink = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || keyledger::scrub::ScrubbingWriter(sink.clone()))
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let server = start(Rates::OFF);
    let secret = secret();
    let body = format!("{{\"name\":\"{secret}\"}}");
    for (target, headers) in [
        (format!("/things/{secret}"), String::new()),
        (format!("/nowhere/{secret}?k={secret}"), String::new()),
        (format!("/things?{secret}"), String::new()),
        (
            "/things".to_owned(),
            format!("Authorization: Bearer {secret}\r\nX-{secret}: {secret}\r\nUser-Agent: {secret}\r\n"),
        ),
        (
            "/things".to_owned(),
            format!("X-Request-Id: {secret}\r\nReferer: https://x/{secret}\r\nContent-Type: {secret}\r\n"),
        ),
        ("/panic".to_owned(), String::new()),
    ] {
        let answer = server.ask(&request("POST", &target, &headers, &body));
        assert!(!answer.head.contains(&secret) && !answer.body.contains(&secret), "{} {}", answer.head, answer.body);
    }
    tracing::info!(secret, "also when somebody logs it on purpose");
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("keyledger::access") && text.contains("status=400"), "{text}");
    assert!(!text.contains(&secret[13..]), "{text}");
}
