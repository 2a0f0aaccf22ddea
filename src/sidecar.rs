//! `keyledger edge`: an edge beside a service that is not written in Rust. It answers `/verify` and `/forward-auth` as the
//! ledger does, from its own memory.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, response::IntoResponse as _, routing::get};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use keyledger_events::presented::AddressClass;
use keyledger_projections::{
    Denied,
    edge::{Edge, EdgeDenied, Question},
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::{TcpListener, UnixListener};

use crate::http::{
    Problem,
    body::RequestBody,
    forward_auth::{self, Complaints, Identity},
    metrics::Metrics,
    routes::verify,
    server::{BODY_BYTES_DEFAULT, FastPath, Limits, Listener, Server, asked_to_end},
    write::POSITION_HEADER,
};

/// As [`verify::PATH`], for who need not speak of versions.
const SHORT_PATH: &str = "/verify";

/// Where a sidecar listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port: whoever reaches it may ask, so it should be a loopback address.
    Tcp(SocketAddr),
    /// A socket in the file system, 0660: its owner and group may ask.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(_) => Err("unix: needs a path, such as unix:/run/keyledger/edge.sock".to_owned()),
            None => text.parse().map(Self::Tcp).map_err(|_| "neither unix:PATH nor ADDRESS:PORT".to_owned()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    async fn bind(&self) -> io::Result<Listener> {
        match self {
            Self::Tcp(address) => TcpListener::bind(address).await.map(Listener::from),
            Self::Unix(path) => {
                remove_abandoned(path)?;
                let listener = UnixListener::bind(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
                Ok(listener.into())
            }
        }
    }
}

/// A killed process leaves its socket behind. One that still answers is somebody else's, and whatever is no socket too.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            Err(error) => Err(error),
        },
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The recorder for what edges count in this process. To be made before the edge.
///
/// # Errors
/// If there is one already.
pub fn recorder() -> Result<PrometheusHandle, String> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;
    Ok(handle)
}

/// Answers until the process is asked to end.
///
/// # Errors
/// If it can't listen.
pub async fn serve(edge: Edge, listen: &Listen, counted: PrometheusHandle) -> io::Result<()> {
    let asked_to_end = asked_to_end()?;
    let listener = listen.bind().await?;
    let metrics = Arc::new(Metrics::new());
    let limits = Limits::default().within_open_files();
    let own = Own { edge: edge.clone(), metrics: metrics.clone(), counted };
    let fast = Answers { edge, complaints: Complaints::default() };
    let drained = Server::new(limits, router(own), fast, metrics).run(listener, asked_to_end).await;
    tracing::info!(cut = drained.cut, "no more requests");
    if let Listen::Unix(path) = listen {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

#[derive(Clone)]
struct Own {
    edge: Edge,
    metrics: Arc<Metrics>,
    counted: PrometheusHandle,
}

fn router(own: Own) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .fallback(async || Problem::not_found())
        .with_state(own)
}

/// 503 while every key is denied.
async fn readyz(State(own): State<Own>) -> axum::response::Response {
    if own.edge.is_ready() { "ready\n".into_response() } else { unready(&own.edge).into_response() }
}

fn unready(edge: &Edge) -> Problem {
    let state = edge.state();
    let why = if state.denies() { state.to_string() } else { format!("Nothing new from the ledger: {state}") };
    Problem::unavailable("edge_not_ready", why).with_retry_after(Duration::from_secs(1))
}

async fn render(State(own): State<Own>) -> axum::response::Response {
    own.counted.run_upkeep();
    let text = own.counted.render() + &own.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// What is asked, and who answers it.
struct Answers {
    edge: Edge,
    complaints: Complaints,
}

impl FastPath for Answers {
    fn takes(&self, method: &Method, path_and_query: &str) -> bool {
        (method == Method::POST && matches!(path_and_query, verify::PATH | SHORT_PATH))
            || forward_auth::is_asked(path_and_query)
    }

    async fn answer(&self, head: Parts, body: RequestBody, _: SocketAddr) -> Response<Bytes> {
        if matches!(head.uri.path(), verify::PATH | SHORT_PATH) {
            return match body.collect_up_to(BODY_BYTES_DEFAULT).await {
                Ok(body) => self.verify(&head, &body),
                Err(error) => Problem::from(error).into_http::<Vec<u8>>().map(Bytes::from),
            };
        }
        let mut response = forward_auth::answer(&head, |presented, question| {
            let question = Question { surface: question.surface, team: question.team, address: AddressClass::Unknown };
            let judged = self.edge.verify_for(presented, &question, self.edge.now());
            // A proxy understands three answers: who can't tell says no.
            judged.map(Identity::from).map_err(|denied| match denied {
                EdgeDenied::Key(denied) => denied,
                EdgeDenied::Stale | EdgeDenied::Closed(_) => Denied::Unknown,
            })
        });
        self.place(&mut response);
        if response.status() == StatusCode::FORBIDDEN {
            self.complaints.hear(&head);
        }
        forward_auth::without_body(body, response).await
    }
}

impl Answers {
    fn verify(&self, head: &Parts, body: &[u8]) -> Response<Bytes> {
        let position = self.edge.position().unwrap_or_default();
        verify::respond(&head.headers, body, position, |presented, surface, team| {
            // Who asks is the service beside; where its own client is, nobody says.
            let question = Question { surface, team, address: AddressClass::Unknown };
            match self.edge.verify_for(presented, &question, self.edge.now()) {
                Ok(verdict) => Ok((verdict, None)),
                Err(EdgeDenied::Key(denied)) => Err(verify::refused(&denied, surface)),
                Err(EdgeDenied::Stale | EdgeDenied::Closed(_)) => Err(unready(&self.edge)),
            }
        })
    }

    fn place(&self, response: &mut Response<Bytes>) {
        let position = self.edge.position().unwrap_or_default();
        response.headers_mut().insert(POSITION_HEADER, HeaderValue::from(position.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen() {
        assert_eq!("unix:/run/x".parse(), Ok(Listen::Unix("/run/x".into())));
        assert_eq!("[::1]:7".parse(), Ok(Listen::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], 7).into())));
        for text in ["unix:", "/run/x", "localhost:7", ""] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn an_abandoned_socket_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.sock");
        let listen = Listen::Unix(path.clone());
        let first = listen.bind().await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(listen.bind().await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        listen.bind().await.unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "something else").unwrap();
        assert_eq!(listen.bind().await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
