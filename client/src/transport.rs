//! One request, one answer or one reason why not; writes are tried again under one idempotency key.

use std::{fmt, sync::Arc, time::Duration};

use keyledger_events::TeamId;
use reqwest::{Method, Response, Url, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::types::{ProblemBody, RawKey};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How often a write whose outcome is not known is tried, all in all.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause, whatever the server asks for.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no.
    #[error("{} ({}, {})", .0.detail, .0.code, .0.status)]
    Refused(Box<ProblemBody>),
    /// The server could not be asked, or broke off.
    #[error("the ledger can't be asked: {0}")]
    Unreachable(#[source] reqwest::Error),
    /// The answer is none of keyledger's: most likely something else stands in between.
    #[error("an answer of no known form, with status {0}")]
    Unintelligible(u16),
    /// The address is no `http://` or `https://` URL, or it is `http://` to another machine.
    #[error("not a server's address: https://HOST, or http:// to this machine itself")]
    Address,
    /// The token is not one that a header can carry.
    #[error("not a token")]
    Token,
    /// TLS can't be set up on this machine.
    #[error("TLS: {0}")]
    Tls(String),
}

impl Error {
    /// The stable code, if the server said no.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether the same request may have another outcome later: nothing was changed, or it is not known.
    fn may_pass(&self) -> bool {
        match self {
            Self::Refused(problem) => matches!(problem.status, 429 | 502 | 503 | 504),
            Self::Unreachable(error) => !error.is_builder(),
            Self::Unintelligible(status) => *status >= 500,
            Self::Address | Self::Token | Self::Tls(_) => false,
        }
    }
}

/// Whom requests go to, and as whom. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    token: Option<Arc<RawKey>>,
    team: Option<TeamId>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.server.as_str())
            .field("team", &self.team)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Asks the server at this address. `http://` is taken for this machine alone: anybody between could read the keys.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Tls`].
    pub fn new(server: &str) -> Result<Self, Error> {
        let server = Url::parse(server).ok().filter(is_private).ok_or(Error::Address)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                let verifier = rustls_platform_verifier::Verifier::new(builder.crypto_provider().clone())?;
                Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
            })
            .map_err(|error| Error::Tls(error.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(TIMEOUT)
            // A redirect could carry the token elsewhere, and the API has none.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("keyledger-client/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::Unreachable)?;
        Ok(Self { http, server, token: None, team: None })
    }

    /// The same, as whoever holds this token: an `sv-` key, or a signed-in person's access token.
    #[must_use]
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self { token: Some(Arc::new(RawKey::new(token))), ..self.clone() }
    }

    /// The same, about this team (`X-Team-ID`).
    #[must_use]
    pub fn with_team(&self, team: TeamId) -> Self {
        Self { team: Some(team), ..self.clone() }
    }

    pub(crate) fn as_bearer(&self, token: &str) -> Result<Self, Error> {
        Ok(Self { team: None, ..self.with_token(token) })
    }

    /// A write: tried again under one idempotency key while its outcome is not known.
    pub(crate) async fn write<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, Error> {
        let key = Uuid::new_v4().to_string();
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.send(method.clone(), path, &(), Some(body), Some(&key)).await {
                Ok(response) => return read(response).await,
                Err((error, _)) if !error.may_pass() => return Err(error),
                Err((_, asked)) => tokio::time::sleep(asked.unwrap_or(pause).min(PAUSE_MAX)).await,
            }
            pause *= 2;
        }
        let response = self.send(method, path, &(), Some(body), Some(&key)).await.map_err(|(error, _)| error)?;
        read(response).await
    }

    /// A request that is sent once.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &impl Serialize,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        read(self.send(method, path, query, body, None).await.map_err(|(error, _)| error)?).await
    }

    /// A success; or why not, and how long the server asks to wait.
    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &impl Serialize,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> Result<Response, (Error, Option<Duration>)> {
        let url = self.server.join(path).map_err(|_| (Error::Address, None))?;
        let mut request = self.http.request(method, url).query(query);
        if let Some(token) = &self.token {
            let mut value = header::HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .map_err(|_| (Error::Token, None))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(team) = self.team {
            request = request.header("x-team-id", team.to_string());
        }
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| (Error::Unreachable(error.without_url()), None))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let asked = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let error = match response.json::<ProblemBody>().await {
            Ok(problem) => Error::Refused(Box::new(ProblemBody { status, ..problem })),
            Err(_) => Error::Unintelligible(status),
        };
        Err((error, asked.map(Duration::from_secs)))
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, Error> {
    let status = response.status().as_u16();
    let bytes = response.bytes().await.map_err(|error| Error::Unreachable(error.without_url()))?;
    // 204 has no body; whoever expects none reads null.
    let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
    serde_json::from_slice(text).map_err(|_| Error::Unintelligible(status))
}

/// Whether nobody between can read: https, or this machine itself.
fn is_private(server: &Url) -> bool {
    let local = match server.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    server.scheme() == "https" || (server.scheme() == "http" && local)
}
