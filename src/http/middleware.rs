//! What every routed request passes: an id, the check for secrets in its URL, rate limits, the cross-site check, the
//! access log, and headers that keep browsers careful.

use std::{
    any::Any,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use tower_http::catch_panic::CatchPanicLayer;
use uuid::Uuid;

use super::{
    limits::RateLimits,
    metrics::Metrics,
    oauth::refusal_at,
    problem::{MEDIA_TYPE, Problem, ProblemCode},
    server::{BODY_BYTES_DEFAULT, Peer},
};
use crate::{
    config::{Config, Network},
    scrub::{scrub, url_holds_secret},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What is logged of a path that no route knows.
const LOGGED_PATH_LEN_MAX: usize = 200;

/// The request's id, made here: a UUIDv7. What a client sends as `X-Request-Id` is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(pub Uuid);

/// Where the request came from: the socket's other end, or what a trusted proxy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// What the middleware needs to know.
#[derive(Debug)]
pub struct Guard {
    public_authority: Option<String>,
    https: bool,
    trusted_proxies: Vec<Network>,
    rates: Arc<RateLimits>,
    metrics: Arc<Metrics>,
}

impl Guard {
    /// By the settings.
    pub fn new(config: &Config, rates: Arc<RateLimits>, metrics: Arc<Metrics>) -> Self {
        let url = config.public_url();
        Self {
            public_authority: url.split_once("://").map(|(_, authority)| authority.to_owned()),
            https: url.starts_with("https:"),
            trusted_proxies: config.trusted_proxies.clone(),
            rates,
            metrics,
        }
    }

    /// Where a request came from. Behind trusted proxies it is the last address in `X-Forwarded-For` that none of them has;
    /// everything before that is hearsay.
    pub fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = |address: IpAddr| self.trusted_proxies.iter().any(|network| network.contains(address));
        if !trusted(peer) {
            return peer;
        }
        let mut nearest = peer;
        for header in headers.get_all("x-forwarded-for").iter().rev() {
            let Ok(text) = header.to_str() else { return nearest };
            for part in text.rsplit(',') {
                let Ok(address) = part.trim().parse() else { return nearest };
                nearest = address;
                if !trusted(address) {
                    return nearest;
                }
            }
        }
        nearest
    }

    /// Whether a browser sent it on behalf of another site (OWASP CSRF prevention: fetch metadata, then Origin).
    fn is_cross_site(&self, method: &Method, headers: &HeaderMap) -> bool {
        // A page can't set Authorization across sites without asking first, and is never allowed to.
        if method.is_safe() || headers.contains_key(header::AUTHORIZATION) {
            return false;
        }
        if let Some(site) = headers.get(SEC_FETCH_SITE) {
            return !matches!(site.as_bytes(), b"same-origin" | b"none");
        }
        match headers.get(header::ORIGIN) {
            Some(origin) => !self.is_own(origin, headers),
            // No browser of today sends neither; what carries a cookie and neither is not one.
            None => headers.contains_key(header::COOKIE),
        }
    }

    fn is_own(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let Some((_, authority)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else {
            return false;
        };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        [self.public_authority.as_deref(), host].into_iter().flatten().any(|own| own.eq_ignore_ascii_case(authority))
    }
}

/// Puts the guard before every route, and problems in place of the router's own answers for what it does not know.
pub fn guarded(router: Router, guard: Arc<Guard>) -> Router {
    let panics = Arc::clone(&guard.metrics);
    router
        .fallback(|uri: Uri| async move { refusal_at(&uri, Problem::not_found()) })
        .method_not_allowed_fallback(|uri: Uri| async move { refusal_at(&uri, Problem::method_not_allowed()) })
        .layer(DefaultBodyLimit::max(BODY_BYTES_DEFAULT))
        .layer(CatchPanicLayer::custom(move |panic: Box<dyn Any + Send>| {
            // What it says has been written by the panic hook, scrubbed; the payload is not for the client.
            drop(panic);
            panics.panics.increment(1);
            Problem::internal().into_response()
        }))
        .layer(axum::middleware::from_fn_with_state(guard, pass))
}

async fn pass(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = Uuid::now_v7();
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let client = guard.client_address(peer, request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let secret_in_url = url_holds_secret(request.uri().path(), request.uri().query());
    let path = match &route {
        Some(route) => route.as_str().to_owned(),
        None if secret_in_url => "[a secret]".to_owned(),
        None => scrub(request.uri().path()).chars().take(LOGGED_PATH_LEN_MAX).collect(),
    };

    let refusal = if secret_in_url {
        Some(Problem::bad_request(
            "secret_in_url",
            "A secret must never be in a URL. Treat this one as leaked: revoke it.",
        ))
    } else if guard.is_cross_site(&method, request.headers()) {
        Some(Problem::forbidden("cross_site", "A browser sent this on behalf of another site."))
    } else {
        guard.rates.address(client).err()
    };
    let mut response = match refusal {
        Some(problem) => refusal_at(request.uri(), problem),
        None => {
            request.extensions_mut().insert(RequestId(id));
            request.extensions_mut().insert(ClientAddress(client));
            in_own_words(next.run(request).await)
        }
    };

    careful(&guard, &id, response.headers_mut());
    let took = began.elapsed();
    let template = route.as_ref().map_or("unknown", MatchedPath::as_str);
    guard.metrics.answered(method_label(&method), template, response.status(), took);
    tracing::info!(
        target: "keyledger::access",
        method = method_label(&method),
        path,
        status = response.status().as_u16(),
        code = response.extensions().get::<ProblemCode>().map(|code| code.0),
        took_us = took.as_micros() as u64,
        client = %client,
        request_id = %id,
    );
    response
}

/// Refusals by axum's own extractors and handlers are plain text that may repeat what was sent: a problem takes their place.
fn in_own_words(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let content_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !is_error || content_type.is_some_and(|kind| kind == MEDIA_TYPE.as_bytes() || !kind.starts_with(b"text/plain")) {
        return response;
    }
    match status {
        StatusCode::NOT_FOUND => Problem::not_found(),
        StatusCode::METHOD_NOT_ALLOWED => Problem::method_not_allowed(),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(BODY_BYTES_DEFAULT),
        status if status.is_server_error() => Problem::internal(),
        status => Problem::new(status, "bad_request", "The request can't be understood."),
    }
    .into_response()
}

/// Headers that a response has unless its handler says otherwise.
fn careful(guard: &Guard, id: &Uuid, headers: &mut HeaderMap) {
    let defaults = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if guard.https {
        headers
            .entry(header::STRICT_TRANSPORT_SECURITY)
            .or_insert(HeaderValue::from_static("max-age=31536000; includeSubDomains"));
    }
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Methods as labels: whatever else somebody invents is one.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::limits::Rates;

    fn guard(trusted: &[&str]) -> Guard {
        let metrics = Arc::new(Metrics::new());
        let config = Config {
            public_url: Some("https://ledger.example".to_owned()),
            trusted_proxies: trusted.iter().map(|text| text.parse().unwrap()).collect(),
            ..Config::default()
        };
        Guard::new(&config, Arc::new(RateLimits::new(Rates::OFF, Arc::clone(&metrics))), metrics)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn cross_site() {
        let guard = guard(&[]);
        let get = Method::GET;
        let post = Method::POST;
        for (method, sent, refused) in [
            (&get, headers(&[("sec-fetch-site", "cross-site"), ("cookie", "s=1")]), false),
            (&post, headers(&[]), false),
            (&post, headers(&[("cookie", "s=1")]), true),
            (&post, headers(&[("cookie", "s=1"), ("authorization", "Bearer x")]), false),
            (&post, headers(&[("cookie", "s=1"), ("sec-fetch-site", "same-origin")]), false),
            (&post, headers(&[("cookie", "s=1"), ("sec-fetch-site", "same-site")]), true),
            (&post, headers(&[("cookie", "s=1"), ("sec-fetch-site", "cross-site")]), true),
            (&post, headers(&[("sec-fetch-site", "cross-site")]), true),
            (&post, headers(&[("cookie", "s=1"), ("origin", "https://ledger.example")]), false),
            (&post, headers(&[("cookie", "s=1"), ("origin", "https://LEDGER.example")]), false),
            (
                &post,
                headers(&[("cookie", "s=1"), ("origin", "http://localhost:7470"), ("host", "localhost:7470")]),
                false,
            ),
            (
                &post,
                headers(&[("cookie", "s=1"), ("origin", "https://evil.example"), ("host", "ledger.example")]),
                true,
            ),
            (&post, headers(&[("cookie", "s=1"), ("origin", "https://ledger.example.evil.example")]), true),
            (&post, headers(&[("cookie", "s=1"), ("origin", "null")]), true),
            (&Method::DELETE, headers(&[("cookie", "s=1"), ("origin", "https://evil.example")]), true),
        ] {
            assert_eq!(guard.is_cross_site(method, &sent), refused, "{method} {sent:?}");
        }
    }

    #[test]
    fn client_addresses() {
        let (direct, behind) = (guard(&[]), guard(&["10.0.0.0/8"]));
        let via = |text: &'static str| headers(&[("x-forwarded-for", text)]);
        for (guard, peer, sent, client) in [
            (&direct, "10.0.0.1", via("192.0.2.1"), "10.0.0.1"),
            (&behind, "192.0.2.9", via("192.0.2.1"), "192.0.2.9"),
            (&behind, "10.0.0.1", via("192.0.2.1"), "192.0.2.1"),
            (&behind, "10.0.0.1", via("6.6.6.6, 192.0.2.1, 10.0.0.2"), "192.0.2.1"),
            (&behind, "10.0.0.1", via("6.6.6.6, nonsense"), "10.0.0.1"),
            (&behind, "10.0.0.1", headers(&[]), "10.0.0.1"),
            (&behind, "10.0.0.1", via("10.0.0.3, 10.0.0.2"), "10.0.0.3"),
        ] {
            assert_eq!(
                guard.client_address(peer.parse().unwrap(), &sent),
                client.parse::<IpAddr>().unwrap(),
                "{sent:?}"
            );
        }
    }
}
