//! Every refusal the service answers over HTTP, as RFC 9457 problem details.

use std::{borrow::Cow, fmt, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
pub use keyledger_client::types::ProblemBody;
use serde_json::{Map, Value};

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A refusal: a status, a `code` that clients may rely on, a sentence for people.
///
/// It is built of what the service knows, never of what somebody sent: what was sent might hold a secret.
#[derive(Clone, PartialEq)]
pub struct Problem(Box<Inner>);

#[derive(Clone, PartialEq)]
struct Inner {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
    challenge: Option<Challenge>,
    retry_after: Option<Duration>,
}

/// What `WWW-Authenticate` says (RFC 6750 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Nothing was presented: the scheme alone, no error code (RFC 6750 §3.1).
    Missing,
    /// What was presented is malformed, unknown, revoked or expired; which of them is nobody's business here.
    InvalidToken,
    /// The question itself can't be answered, whatever was presented.
    InvalidRequest,
    /// What was presented is alive, and not for this.
    InsufficientScope {
        /// The surface it would take.
        scope: &'static str,
    },
}

impl Challenge {
    /// The header's value.
    pub fn header(self) -> HeaderValue {
        match self {
            Self::Missing => HeaderValue::from_static("Bearer realm=\"keyledger\""),
            Self::InvalidToken => HeaderValue::from_static("Bearer realm=\"keyledger\", error=\"invalid_token\""),
            Self::InvalidRequest => HeaderValue::from_static("Bearer realm=\"keyledger\", error=\"invalid_request\""),
            Self::InsufficientScope { scope } => HeaderValue::try_from(format!(
                "Bearer realm=\"keyledger\", error=\"insufficient_scope\", scope=\"{scope}\""
            ))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer error=\"insufficient_scope\"")),
        }
    }
}

impl Problem {
    /// A problem of any status. `code` is snake case, stable and in the OpenAPI document.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            status,
            code,
            detail: detail.into(),
            members: Map::new(),
            challenge: None,
            retry_after: None,
        }))
    }

    /// 400: the request can't be understood or breaks a rule that needs no state to see.
    pub fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 401 with the challenge that fits.
    pub fn unauthorized(challenge: Challenge) -> Self {
        let (code, detail) = match challenge {
            Challenge::Missing => ("unauthenticated", "This needs a credential in the Authorization header."),
            Challenge::InvalidToken | Challenge::InvalidRequest | Challenge::InsufficientScope { .. } => {
                ("invalid_token", "What was presented is not valid here.")
            }
        };
        Self::new(StatusCode::UNAUTHORIZED, code, detail).with_challenge(challenge)
    }

    /// 403 for a live credential on a surface it is not for.
    pub fn insufficient_scope(scope: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "insufficient_scope", "The credential is alive and not for this surface.")
            .with_challenge(Challenge::InsufficientScope { scope })
    }

    /// 403: known who, and not allowed.
    pub fn forbidden(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// 404. What belongs to another team and what does not exist answer this, byte for byte.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing here.")
    }

    /// 405 for a path that exists with other methods.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "The path exists; the method does not.")
    }

    /// 409: the state is another than the request assumed.
    pub fn conflict(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 412: an `If-Match` that no longer matches.
    pub fn precondition_failed() -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", "It has changed since the ETag was read.")
    }

    /// 413: the body is longer than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("The body may have {limit} bytes here."))
            .with_member("limit_bytes", limit)
    }

    /// 422: understood, and contradicting something earlier (an `Idempotency-Key` used for another body).
    pub fn unprocessable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 429 with `Retry-After`, in whole seconds, rounded up.
    pub fn too_many_requests(retry_after: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests; wait before the next.")
            .with_retry_after(retry_after)
    }

    /// 500. What went wrong is in the service's own log, under the request's id.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The service failed; X-Request-Id names this request in its log.",
        )
    }

    /// 503: nothing changed, another time may succeed.
    pub fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// 507: the disk is full and nothing changed.
    pub fn insufficient_storage() -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "insufficient_storage",
            "The ledger's disk is full; nothing was changed. Revoking still works.",
        )
    }

    /// Adds an extension member (RFC 9457 §3.2), such as `revision`. The standard ones can't be replaced.
    #[must_use]
    pub fn with_member(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        if !matches!(name, "type" | "title" | "status" | "detail" | "code") {
            self.0.members.insert(name.to_owned(), value.into());
        }
        self
    }

    /// Sets `WWW-Authenticate`.
    #[must_use]
    pub fn with_challenge(mut self, challenge: Challenge) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// Sets `Retry-After`.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Its stable code.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// Its sentence for people.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        let inner = &self.0;
        let mut object = inner.members.clone();
        object.insert("type".to_owned(), format!("urn:keyledger:problem:{}", inner.code).into());
        object.insert("title".to_owned(), inner.status.canonical_reason().unwrap_or("Error").into());
        object.insert("status".to_owned(), inner.status.as_u16().into());
        object.insert("detail".to_owned(), inner.detail.as_ref().into());
        object.insert("code".to_owned(), inner.code.into());
        Value::Object(object).to_string().into_bytes()
    }

    /// The answer, with a body type of the caller's choice.
    pub fn into_http<B: From<Vec<u8>>>(self) -> http::Response<B> {
        let mut response = http::Response::new(B::from(self.to_json()));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.0.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge.header());
        }
        if let Some(wait) = self.0.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        // The access log and the tests read the code from here instead of parsing the body.
        response.extensions_mut().insert(ProblemCode(self.0.code));
        response
    }
}

/// The code of the problem that a response carries, among the response's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProblemCode(pub &'static str);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.into_http::<Body>()
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Problem({} {}: {})", self.0.status.as_u16(), self.0.code, self.0.detail)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.detail, self.0.code)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(problem: &Problem) -> Value {
        serde_json::from_slice(&problem.to_json()).unwrap()
    }

    #[test]
    fn standard_members_stand_and_extensions_cannot_replace_them() {
        let problem = Problem::conflict("revision_conflict", "Somebody was faster.")
            .with_member("revision", 7)
            .with_member("status", 200)
            .with_member("code", "ok");
        assert_eq!(
            body(&problem),
            serde_json::json!({
                "type": "urn:keyledger:problem:revision_conflict", "title": "Conflict", "status": 409,
                "detail": "Somebody was faster.", "code": "revision_conflict", "revision": 7
            })
        );
    }

    #[test]
    fn headers_follow_rfc_6750_and_9110() {
        let rows = [
            (Problem::unauthorized(Challenge::Missing), 401, Some("Bearer realm=\"keyledger\""), None),
            (
                Problem::unauthorized(Challenge::InvalidToken),
                401,
                Some("Bearer realm=\"keyledger\", error=\"invalid_token\""),
                None,
            ),
            (
                Problem::insufficient_scope("agent"),
                403,
                Some("Bearer realm=\"keyledger\", error=\"insufficient_scope\", scope=\"agent\""),
                None,
            ),
            (Problem::too_many_requests(Duration::from_millis(1)), 429, None, Some("1")),
            (Problem::too_many_requests(Duration::from_millis(2001)), 429, None, Some("3")),
            (Problem::not_found(), 404, None, None),
        ];
        for (problem, status, challenge, retry_after) in rows {
            let response = problem.into_response();
            let get = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(get(header::WWW_AUTHENTICATE), challenge);
            assert_eq!(get(header::RETRY_AFTER), retry_after);
            assert_eq!(get(header::CONTENT_TYPE), Some(MEDIA_TYPE));
            assert_eq!(get(header::CACHE_CONTROL), Some("no-store"));
        }
    }
}
