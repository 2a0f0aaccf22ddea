//! The requests that an edge makes. Every wait has an end; no redirect is followed, for the token is the ledger's alone.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use keyledger_events::{Position, TeamId};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
    redirect,
};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::time::timeout;

use super::{EdgeError, machine::Refusal, reports::Report};
use crate::{
    Active,
    feed::snapshot::{self, Header},
};

/// A snapshot's answer may wait for its turn, and for the state to be frozen.
const SNAPSHOT_BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// How long a snapshot's bytes, or any short answer, may stay away.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is not a stream, in bytes: a note and a proof.
const TEXT_LEN_MAX: usize = 256 * 1024;
/// Pieces of a snapshot that are received and not yet read.
const PIECES: usize = 16;

pub(super) struct Upstream {
    client: Client,
    /// Without a trailing slash.
    url: String,
    authorization: HeaderValue,
    /// Which teams, as the query says it.
    team: Option<String>,
    silence_max: Duration,
}

/// What came of asking for a snapshot.
pub(super) enum GotSnapshot {
    Whole(Box<(Header, Active)>),
    /// All of it came, and it is none.
    Malformed,
    Refused(Refusal),
}

impl Upstream {
    pub(super) fn new(
        url: &str,
        token: &str,
        teams: Option<&BTreeSet<TeamId>>,
        silence_max: Duration,
    ) -> Result<Self, EdgeError> {
        let parsed = Url::parse(url).map_err(|_| EdgeError::Url)?;
        let plain = parsed.username().is_empty()
            && parsed.password().is_none()
            && parsed.query().is_none()
            && parsed.fragment().is_none();
        if !plain || !matches!(parsed.scheme(), "http" | "https") {
            return Err(EdgeError::Url);
        }
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| EdgeError::Token)?;
        authorization.set_sensitive(true);
        let client = Client::builder()
            .tls_backend_preconfigured(tls(parsed.scheme() == "https")?)
            .user_agent(concat!("keyledger-edge/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(silence_max)
            .build()
            .map_err(|error| EdgeError::Tls(error.to_string()))?;
        let team = teams.map(|teams| teams.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        Ok(Self { client, url: parsed.as_str().trim_end_matches('/').to_owned(), authorization, team, silence_max })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn get(&self, path: &str, query: &[(&str, String)]) -> Result<RequestBuilder, Refusal> {
        let url = Url::parse_with_params(&format!("{}{path}", self.url), query).map_err(|_| Refusal::Away)?;
        // Parsing with no parameters leaves a bare question mark.
        Ok(self.client.get(if query.is_empty() { without_query(url) } else { url }))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(AUTHORIZATION, self.authorization.clone())
    }

    fn of_teams(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.team.iter().map(|team| ("team", team.clone()))
    }

    /// The feed, from behind this position.
    pub(super) async fn feed(&self, after: Option<Position>) -> Result<Feed, Refusal> {
        let after = after.map(|after| ("after", after.0.to_string()));
        let query: Vec<_> = after.into_iter().chain(self.of_teams()).collect();
        let request = self.authorized(self.get("/api/v1/feed", &query)?).header(ACCEPT, "text/event-stream");
        let response = begin(request, self.silence_max).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("text/event-stream")) {
            return Err(Refusal::Away);
        }
        Ok(Feed { response, silence_max: self.silence_max })
    }

    /// The newest tree head, or a proof that its tree continues the one of this size; none if there is none to be had.
    pub(super) async fn tree(&self, remembered: Option<u64>) -> Option<String> {
        let request = match remembered {
            None => self.get("/checkpoint", &[]),
            Some(size) => self.get("/api/v1/proof/consistency", &[("old", size.to_string())]),
        };
        let response = begin(request.ok()?, self.silence_max).await.ok()?;
        text(response).await.ok()
    }

    /// The whole index.
    pub(super) async fn snapshot(&self) -> GotSnapshot {
        let query: Vec<_> = self.of_teams().collect();
        let request = match self.get("/api/v1/snapshot", &query) {
            Ok(request) => self.authorized(request),
            Err(refusal) => return GotSnapshot::Refused(refusal),
        };
        let mut response = match begin(request, SNAPSHOT_BEGINS_WITHIN).await {
            Ok(response) => response,
            Err(refusal) => return GotSnapshot::Refused(refusal),
        };
        // It is read where it may take its time, while the next pieces come.
        let (pieces, received) = tokio::sync::mpsc::channel(PIECES);
        let reading = tokio::task::spawn_blocking(move || read(Pieces { received, piece: bytes::Bytes::new() }));
        loop {
            match timeout(READ_TIMEOUT, response.chunk()).await {
                // Its reader has found a flaw.
                Ok(Ok(Some(piece))) => {
                    if pieces.send(Ok(piece)).await.is_err() {
                        break;
                    }
                }
                Ok(Ok(None)) => break,
                _ => {
                    let _ = pieces.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
                    return GotSnapshot::Refused(Refusal::Away);
                }
            }
        }
        drop(pieces);
        match reading.await {
            Ok(Ok(whole)) => GotSnapshot::Whole(Box::new(whole)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the ledger's snapshot was not taken in");
                GotSnapshot::Malformed
            }
            Err(_) => GotSnapshot::Malformed,
        }
    }

    /// Tells what keys were used; whether it was taken.
    pub(super) async fn report(&self, report: &Report) -> Result<(), Refusal> {
        let body = serde_json::to_vec(report).map_err(|_| Refusal::Away)?;
        let request = self.client.post(format!("{}/api/v1/usage", self.url)).header(CONTENT_TYPE, "application/json");
        begin(self.authorized(request).body(body), READ_TIMEOUT).await.map(drop)
    }
}

/// Roots are the system's; without TLS none are read.
fn tls(used: bool) -> Result<rustls::ClientConfig, EdgeError> {
    let error = |error: rustls::Error| EdgeError::Tls(error.to_string());
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(error)?;
    let config = match used {
        true => config.with_platform_verifier().map_err(error)?,
        false => config.with_root_certificates(rustls::RootCertStore::empty()),
    };
    Ok(config.with_no_client_auth())
}

fn without_query(mut url: Url) -> Url {
    url.set_query(None);
    url
}

/// The head of a good answer.
async fn begin(request: RequestBuilder, within: Duration) -> Result<Response, Refusal> {
    let response = match timeout(within, request.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::debug!(error = %error.without_url(), "the ledger was not reached");
            return Err(Refusal::Away);
        }
        Err(_) => return Err(Refusal::Away),
    };
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Refusal::Token),
        StatusCode::CONFLICT => {
            let code = text(response).await.ok().and_then(|text| serde_json::from_str::<Problem>(&text).ok());
            match code {
                Some(Problem { code }) if code == "position_beyond_log" => Err(Refusal::Shorter),
                _ => Err(Refusal::Away),
            }
        }
        _ => Err(Refusal::Away),
    }
}

#[derive(serde::Deserialize)]
struct Problem {
    code: String,
}

async fn text(mut response: Response) -> Result<String, Refusal> {
    let mut body = Vec::new();
    loop {
        match timeout(READ_TIMEOUT, response.chunk()).await {
            Ok(Ok(Some(piece))) if body.len() + piece.len() <= TEXT_LEN_MAX => body.extend_from_slice(&piece),
            Ok(Ok(None)) => return String::from_utf8(body).map_err(|_| Refusal::Away),
            _ => return Err(Refusal::Away),
        }
    }
}

/// A feed that has begun.
pub(super) struct Feed {
    response: Response,
    silence_max: Duration,
}

impl Feed {
    /// What comes next; none if it has ended, or nothing came for too long. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Option<bytes::Bytes> {
        timeout(self.silence_max, self.response.chunk()).await.ok()?.ok()?
    }
}

fn read(from: Pieces) -> Result<(Header, Active), snapshot::SnapshotError> {
    let from = io::BufReader::with_capacity(1 << 18, from);
    snapshot::read(zstd::stream::read::Decoder::with_buffer(from)?)
}

/// What a channel brings, as one reader.
struct Pieces {
    received: tokio::sync::mpsc::Receiver<io::Result<bytes::Bytes>>,
    piece: bytes::Bytes,
}

impl Read for Pieces {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let len = to.len().min(self.piece.len());
        to[..len].copy_from_slice(&self.piece.split_to(len));
        Ok(len)
    }
}
