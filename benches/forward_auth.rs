//! Forward authentication through nginx, as `deploy/nginx` has it, against the same nginx that asks a server which answers
//! an empty 204 and knows nothing.
//!
//! `cargo bench --bench forward_auth`; needs `nginx`, `wrk` and `taskset`, and two cores: nginx and whom it asks share one,
//! so that both count; wrk has the other. Behind nginx there is nothing, which would only hide the difference.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

mod support;

use std::{fs, path::Path};

use axum::{Router, http::StatusCode, routing::get};
use support::{
    Contender, Server, compare, free_port, on_server_core, possible, serve_if_asked, start_axum, start_ledger, wait_for,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// It ends with its process.
const ONE_PROCESS: &str = "daemon off; master_process off;";

fn main() {
    let empty = |_: &str| Router::new().route("/forward-auth", get(|| async { StatusCode::NO_CONTENT }));
    if serve_if_asked(empty) || !possible(&["nginx", "wrk", "taskset"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [ledger, axum] = [free_port(), free_port()];
    let (_ledger, key) = start_ledger(dir.path(), ledger);
    let _axum = start_axum("axum-204", axum);
    let nginx = [ledger, axum].map(|asked| start_nginx(&dir.path().join(asked.to_string()), asked));
    let rivals = [("keyledger", None), ("axum-204", Some(0.9))];
    let contender = |((name, reach), (_, port)): (_, &(Server, u16))| Contender {
        name,
        url: format!("http://127.0.0.1:{port}/"),
        reach,
    };
    let contenders: Vec<_> = rivals.into_iter().zip(&nginx).map(contender).collect();
    compare(
        "forward-auth through nginx, which shares a core with whom it asks",
        dir.path(),
        "GET",
        &key,
        &contenders,
    );
}

/// nginx with the configuration of `deploy/`, asking at this port, and the port where it listens.
fn start_nginx(home: &Path, asked: u16) -> (Server, u16) {
    let port = free_port();
    let deployed = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx");
    let mut text = fs::read_to_string(deployed.join("keyledger.conf")).unwrap();
    for (from, to) in [
        ("127.0.0.1:7470", &*format!("127.0.0.1:{asked}")),
        ("127.0.0.1:8000", &format!("127.0.0.1:{port}")),
        ("proxy_pass http://app;", "empty_gif;"),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    fs::create_dir(home).unwrap();
    fs::write(home.join("keyledger.conf"), text).unwrap();
    fs::copy(deployed.join("nginx.conf"), home.join("nginx.conf")).unwrap();
    let mut nginx = on_server_core(Path::new("nginx"));
    let nginx =
        nginx.arg("-p").arg(home).args(["-c", "nginx.conf", "-e", "stderr", "-g", ONE_PROCESS]).spawn().unwrap();
    wait_for(port);
    (Server(nginx), port)
}
