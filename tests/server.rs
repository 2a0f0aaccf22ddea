//! The accept loop under clients that are silent, slow, greedy or late.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::{get, post},
};
use http::{Response, request::Parts};
use keyledger::http::{
    body::RequestBody,
    server::{Drained, FastPath, Limits, NoFastPath},
};
use support::{Running, request};

const QUICK: Limits = Limits {
    connections_max: 4000,
    header_timeout: Duration::from_millis(300),
    body_timeout: Duration::from_millis(300),
    idle_timeout: Duration::from_millis(300),
    write_timeout: Duration::from_millis(300),
    header_bytes_max: 16 * 1024,
    drain_timeout: Duration::from_millis(500),
};

fn router() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/len", post(|body: Bytes| async move { body.len().to_string() }))
        .route(
            "/slow",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(250)).await;
                "done"
            }),
        )
        .route("/never", get(std::future::pending::<&'static str>))
        .route("/endless", get(|| async { Body::from(Bytes::from(vec![0; 64 * 1024 * 1024])) }))
}

struct Echo;

impl FastPath for Echo {
    async fn answer(&self, _: Parts, body: RequestBody, peer: std::net::SocketAddr) -> Response<Bytes> {
        assert!(peer.ip().is_loopback());
        match body.collect_up_to(100_000).await {
            Ok(body) => Response::new(Bytes::from(format!("fast {}", body.len()))),
            Err(error) => keyledger::http::Problem::from(error).into_http(),
        }
    }
}

#[test]
fn requests_reach_the_router_and_the_fast_path() {
    let server = Running::start(Limits::default(), router(), Echo);
    let mut client = server.connect();
    for (method, target, body, status, answer) in [
        ("GET", "/hello", "", 200, "hello"),
        ("POST", "/api/v1/verify", "", 200, "fast 0"),
        ("POST", "/api/v1/verify", "{}", 200, "fast 2"),
        ("POST", "/len", "12345", 200, "5"),
        ("GET", "/api/v1/verify", "", 404, ""),
        ("POST", "/api/v1/verify?x", "", 404, ""),
    ] {
        client.send(request(method, target, "", body).as_bytes());
        let got = client.answer().unwrap();
        assert_eq!((got.status(), got.body.as_str()), (status, answer), "{method} {target}");
    }
    // Pipelined, and a body in pieces.
    client.send(format!("{0}{0}", request("POST", "/api/v1/verify", "", "ab")).as_bytes());
    assert_eq!(client.answer().unwrap().body, "fast 2");
    assert_eq!(client.answer().unwrap().body, "fast 2");
    client.send(b"POST /api/v1/verify HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    std::thread::sleep(Duration::from_millis(50));
    client.send(b"4\r\ndefg\r\n0\r\n\r\n");
    assert_eq!(client.answer().unwrap().body, "fast 7");
}

#[test]
fn hundreds_of_bad_clients_are_closed_in_time_and_good_ones_served_meanwhile() {
    let server = Running::start(QUICK, router(), Echo);
    let started = Instant::now();
    // Both ends of each connection are in this process.
    let open_files_max = keyledger::http::server::open_files_max().unwrap_or(1024);
    let wanted = if std::env::var_os("KEYLEDGER_SOAK").is_some() { 3_000 } else { 300 };
    let count = wanted.min(open_files_max / 3) / 5 * 5;
    let mut clients: Vec<_> = (0..count).map(|_| server.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(match number % 5 {
            0 => b"".as_slice(),
            1 => b"GET /hello HT",
            2 => b"GET /hello HTTP/1.1\r\nHost: test\r\nX-Slow: ",
            3 => b"POST /api/v1/verify HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12",
            _ => b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n",
        });
    }
    let asked = Instant::now();
    assert_eq!(server.ask(&request("POST", "/api/v1/verify", "", "{}")).body, "fast 2");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    for client in &mut clients {
        client.closed();
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // The client may see the end before the server has counted it.
    while !server.metrics.render().contains("keyledger_connections_open 0\n") {
        assert!(started.elapsed() < Duration::from_secs(12), "{}", server.metrics.render());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn drip_feeding_does_not_reset_the_clock() {
    let server = Running::start(QUICK, router(), NoFastPath);
    for start in ["GET /hello HTTP/1.1\r\nX-Drip: ", "POST /len HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n"]
    {
        let mut client = server.connect();
        client.send(start.as_bytes());
        let started = Instant::now();
        let mut drip = client.stream.try_clone().unwrap();
        let dripping = std::thread::spawn(move || {
            use std::io::Write as _;
            while drip.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        client.closed();
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        drop(client);
        dripping.join().unwrap();
    }
}

#[test]
fn an_answer_nobody_reads_ends_the_connection() {
    let server = Running::start(QUICK, router(), NoFastPath);
    let mut client = server.connect();
    client.send(request("GET", "/endless", "", "").as_bytes());
    std::thread::sleep(Duration::from_secs(2));
    assert!(server.metrics.render().contains("keyledger_connections_closed_total{why=\"timeout\"} 1"));
}

#[test]
fn a_slow_handler_is_not_a_slow_client() {
    let server = Running::start(QUICK, router(), NoFastPath);
    let mut client = server.connect();
    for _ in 0..2 {
        client.send(request("GET", "/slow", "", "").as_bytes());
        assert_eq!(client.answer().unwrap().body, "done");
    }
}

#[test]
fn oversized_requests_are_refused() {
    let server = Running::start(Limits { header_bytes_max: 16 * 1024, ..Limits::default() }, router(), Echo);
    let long_header = format!("X-Long: {}\r\n", "x".repeat(20 * 1024));
    let many_headers: String = (0..120).map(|n| format!("X-{n}: y\r\n")).collect();
    let long_target = format!("/{}", "x".repeat(70 * 1024));
    for (request, status) in [
        (request("GET", "/hello", &long_header, ""), 431),
        (request("GET", "/hello", &many_headers, ""), 431),
        (request("GET", &long_target, "", ""), 431),
        ("POST /api/v1/verify HTTP/1.1\r\nHost: test\r\nContent-Length: 1048577\r\n\r\n".to_owned(), 413),
        ("POST /len HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999\r\n\r\n".to_owned(), 413),
        ("POST /len HTTP/1.1\r\nHost: test\r\nContent-Length: -1\r\n\r\n".to_owned(), 400),
        (
            "POST /len HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(),
            400,
        ),
        (request("POST", "/api/v1/verify", "", &"x".repeat(100_001)), 413),
        ("\u{0}\u{1}\u{2}\r\n\r\n".to_owned(), 400),
    ] {
        let answer = server.ask(&request);
        assert!(
            answer.status() == status || (status == 431 && answer.status() == 414),
            "{} instead of {status} to {}",
            answer.status(),
            &request[..60.min(request.len())]
        );
    }
    // Chunked, so that only counting finds out.
    let mut client = server.connect();
    client.send(b"POST /api/v1/verify HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..10 {
        client.send(format!("4000\r\n{}\r\n", "x".repeat(0x4000)).as_bytes());
    }
    assert_eq!(client.answer().unwrap().code(), "body_too_large");
}

#[test]
fn a_full_house_evicts_who_is_idle_and_keeps_who_is_served() {
    let server = Running::start(Limits { connections_max: 4, ..Limits::default() }, router(), NoFastPath);
    let mut idle: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut idle {
        client.send(request("GET", "/hello", "", "").as_bytes());
        assert_eq!(client.answer().unwrap().status(), 200);
    }
    let mut served = server.connect();
    served.send(request("GET", "/slow", "", "").as_bytes());
    let asked = Instant::now();
    assert_eq!(server.ask(&request("GET", "/hello", "", "")).status(), 200);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(served.answer().unwrap().body, "done");
    idle[0].closed();
}

#[test]
fn shutdown_lets_requests_end_closes_idle_ones_and_cuts_the_rest() {
    let mut server = Running::start(QUICK, router(), NoFastPath);
    let mut served = server.connect();
    served.send(request("GET", "/slow", "", "").as_bytes());
    let mut idle = server.connect();
    idle.send(request("GET", "/hello", "", "").as_bytes());
    assert_eq!(idle.answer().unwrap().status(), 200);
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    server.begin_stop();
    idle.closed();
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    assert_eq!(served.answer().unwrap().body, "done");
    served.closed();
    assert_eq!(server.stop(), Drained { cut: 0 });

    let server = Running::start(QUICK, router(), NoFastPath);
    let mut stuck = server.connect();
    stuck.send(request("GET", "/never", "", "").as_bytes());
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    assert_eq!(server.stop(), Drained { cut: 1 });
    assert!(began.elapsed() < Duration::from_secs(2));
    stuck.closed();
}
