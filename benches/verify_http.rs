//! `POST /api/v1/verify` over HTTP keep-alive against the least that axum can do, in the same run.
//!
//! `cargo bench --bench verify_http`; needs `wrk` and `taskset`, and two cores: the server has one, wrk the other.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

mod support;

use axum::{
    Router,
    http::{StatusCode, header},
    routing::post,
};
use support::{Contender, compare, free_port, possible, serve_if_asked, start_axum, start_ledger};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As long as a verification's answer is at least.
const STATIC_JSON: &str =
    r#"{"valid":true,"credential_id":"0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a","kind":"integration","position":1}"#;

fn main() {
    if serve_if_asked(axum_alone) || !possible(&["wrk", "taskset"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let (_ledger, key) = start_ledger(dir.path(), ports[0]);
    let _axum = [start_axum("axum-204", ports[1]), start_axum("axum-json", ports[2])];
    let rivals = [("keyledger", None), ("axum-204", Some(0.85)), ("axum-json", Some(0.95))];
    let contender =
        |((name, reach), port)| Contender { name, url: format!("http://127.0.0.1:{port}/api/v1/verify"), reach };
    let contenders: Vec<_> = rivals.into_iter().zip(ports).map(contender).collect();
    compare("verify over HTTP, one core each for server and wrk", dir.path(), "POST", &key, &contenders);
}

fn axum_alone(name: &str) -> Router {
    Router::new().route(
        "/api/v1/verify",
        match name {
            "axum-204" => post(|| async { StatusCode::NO_CONTENT }),
            _ => post(|| async { ([(header::CONTENT_TYPE, "application/json")], STATIC_JSON) }),
        },
    )
}
