//! One attempt: a request that goes where it may and nowhere else, and what became of it.

use std::{error::Error as _, io, path::Path, sync::Arc, time::Duration};

use http::{StatusCode, header};
use keyledger_events::Timestamp;
use reqwest::{Client, Response, redirect};
use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;

use super::address::{Allowed, Forbidden, Lookup, Resolver};

/// How long an attempt may take in all.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long its connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How much of an answer is read, so that the connection can be used again; what it says is nobody's business.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long a connection is kept for the next message.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// The longest wait that a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered 2xx: the receiver has it.
    Delivered(u16),
    /// Answered 410: the receiver wants nothing any more.
    Gone,
    /// Answered otherwise.
    Refused {
        /// The status.
        status: u16,
        /// The wait it has asked for.
        retry_after: Option<Duration>,
    },
    /// Not sent: it would have gone where it may not.
    Forbidden(Forbidden),
    /// No answer.
    Failed(&'static str),
}

impl Outcome {
    /// All names, for the counters.
    pub const NAMES: [&'static str; 5] = ["delivered", "gone", "refused", "forbidden", "failed"];

    /// Its name, as an index into [`Outcome::NAMES`].
    pub const fn number(&self) -> usize {
        match self {
            Self::Delivered(_) => 0,
            Self::Gone => 1,
            Self::Refused { .. } => 2,
            Self::Forbidden(_) => 3,
            Self::Failed(_) => 4,
        }
    }

    /// The status, if there was an answer.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Delivered(status) | Self::Refused { status, .. } => Some(*status),
            Self::Gone => Some(StatusCode::GONE.as_u16()),
            Self::Forbidden(_) | Self::Failed(_) => None,
        }
    }

    /// What went wrong, in words; none if nothing did.
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Delivered(_) => None,
            Self::Gone => Some("the receiver answered 410: it wants nothing any more".to_owned()),
            Self::Refused { status, .. } if (300..400).contains(status) => {
                Some(format!("the receiver answered {status}; redirects are not followed"))
            }
            Self::Refused { status, .. } => Some(format!("the receiver answered {status}")),
            Self::Forbidden(why) => Some(format!("not sent: {why}")),
            Self::Failed(why) => Some((*why).to_owned()),
        }
    }
}

/// What is sent.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// `webhook-id`: the same at every attempt.
    pub id: String,
    /// `webhook-timestamp`: of this attempt.
    pub timestamp_seconds: u64,
    /// `webhook-signature`: one or two, with a space between.
    pub signature: String,
    /// The JSON.
    pub body: Vec<u8>,
}

/// Sends. Cheap to share.
pub struct Sender {
    allowed: Arc<Allowed>,
    /// None if there is no certificate authority to trust: then nothing can be sent.
    client: Option<Client>,
}

impl Sender {
    /// A sender to where `allowed` says. `extra_roots` are trusted beside the system's.
    pub fn new(allowed: Allowed, lookup: Lookup, extra_roots: Vec<CertificateDer<'static>>) -> Self {
        let allowed = Arc::new(allowed);
        let client = client(&allowed, lookup, extra_roots);
        if let Err(why) = &client {
            tracing::error!(%why, "webhooks can't be sent: there is no TLS");
        }
        Self { allowed, client: client.ok() }
    }

    /// Where it may send.
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// One attempt.
    pub async fn send(&self, url: &str, envelope: Envelope, now: Timestamp) -> Outcome {
        let url = match self.allowed.url(url) {
            Ok(url) => url,
            Err(forbidden) => return Outcome::Forbidden(forbidden),
        };
        let Some(client) = &self.client else { return Outcome::Failed("this server has no TLS to send with") };
        let request = client
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", envelope.id)
            .header("webhook-timestamp", envelope.timestamp_seconds)
            .header("webhook-signature", envelope.signature)
            .body(envelope.body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return failed(&error),
        };
        let status = response.status();
        let retry_after = retry_after(&response, now);
        drain(response).await;
        match status {
            status if status.is_success() => Outcome::Delivered(status.as_u16()),
            StatusCode::GONE => Outcome::Gone,
            status => Outcome::Refused { status: status.as_u16(), retry_after },
        }
    }
}

fn client(
    allowed: &Arc<Allowed>,
    lookup: Lookup,
    extra_roots: Vec<CertificateDer<'static>>,
) -> Result<Client, Box<dyn std::error::Error>> {
    let provider = Arc::new(ring::default_provider());
    // The system's certificate authorities; "dangerous" only says that a verifier is named.
    let verifier = Verifier::new_with_extra_roots(extra_roots, provider.clone())?;
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(Resolver::new(allowed.clone(), lookup))
        .https_only(true)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .http1_only()
        .timeout(ANSWER_WITHIN)
        .connect_timeout(CONNECT_WITHIN)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(IDLE_FOR)
        .user_agent(concat!("keyledger/", env!("CARGO_PKG_VERSION")))
        .build()?;
    Ok(client)
}

/// The certificates in a PEM file.
///
/// # Errors
/// Why not, in words.
pub fn read_roots(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(certificates) }
}

/// What a failure comes down to, without the URL, which may hold somebody else's secret.
fn failed(error: &reqwest::Error) -> Outcome {
    let mut inner = error.source();
    while let Some(cause) = inner {
        if let Some(forbidden) = cause.downcast_ref::<Forbidden>() {
            return Outcome::Forbidden(*forbidden);
        }
        if cause.is::<rustls::Error>() {
            return Outcome::Failed("the receiver's certificate, or its TLS, does not hold");
        }
        // What an io::Error was made of is not its source.
        let within = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner = within.map(|within| within as &(dyn std::error::Error + 'static)).or_else(|| cause.source());
    }
    Outcome::Failed(match error {
        error if error.is_timeout() => "the receiver did not answer in time",
        error if error.is_connect() => "the receiver could not be reached",
        _ => "the connection to the receiver broke",
    })
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
fn retry_after(response: &Response, now: Timestamp) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = chrono::DateTime::parse_from_rfc2822(text).ok()?.timestamp_micros();
            Timestamp::from_micros(u64::try_from(at).ok()?).since(now)
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

async fn drain(mut response: Response) {
    let mut left = ANSWER_BYTES_MAX;
    // Whatever happens now, the answer stands.
    while let Ok(Some(chunk)) = response.chunk().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
