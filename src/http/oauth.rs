//! What the OAuth endpoints share: bodies are forms (RFC 6749 appendix B), refusals are RFC 6749 §5.2 objects.

use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Challenge, Problem, extract::unreadable_body, problem::ProblemCode};

/// The media type of a form.
pub const FORM: &str = "application/x-www-form-urlencoded";
/// How long to wait where a refusal with 503 names no time, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// A refusal in OAuth's words. Like a [`Problem`] it repeats nothing of what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthError {
    status: StatusCode,
    error: &'static str,
    description: String,
    challenges: Vec<HeaderValue>,
    retry_after: Option<HeaderValue>,
}

/// The shape of an [`OAuthError`] in the OpenAPI document.
#[derive(Serialize, ToSchema)]
#[schema(as = OAuthError)]
pub struct OAuthErrorBody<'a> {
    /// Stable: programs decide by it (RFC 6749 §5.2, RFC 8628 §3.5).
    #[schema(example = "invalid_request")]
    error: &'a str,
    /// For people.
    error_description: &'a str,
}

impl OAuthError {
    /// 400 with one of RFC 6749 §5.2's or RFC 8628 §3.5's codes.
    pub fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error,
            description: description.into(),
            challenges: Vec::new(),
            retry_after: None,
        }
    }

    /// 400: a parameter is missing, twice there, or not of its form.
    pub fn invalid_request(description: impl Into<String>) -> Self {
        Self::new("invalid_request", description)
    }

    /// 401, naming the ways to authenticate that would be taken.
    pub fn unauthorized(error: &'static str, description: &str, challenges: Vec<HeaderValue>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, challenges, ..Self::new(error, description) }
    }
}

impl From<Problem> for OAuthError {
    /// The same refusal in OAuth's words: the status stays. What could not be done is 503 with a time to try again
    /// (RFC 7009 §2.2.1).
    fn from(problem: Problem) -> Self {
        let description = problem.detail().to_owned();
        let (status, code) = (problem.status(), problem.code());
        let headers = problem.into_http::<Vec<u8>>().into_parts().0.headers;
        let error = match status {
            StatusCode::UNAUTHORIZED if code == "unauthenticated" => "invalid_client",
            StatusCode::UNAUTHORIZED => "invalid_token",
            StatusCode::FORBIDDEN if code == "insufficient_scope" => "insufficient_scope",
            StatusCode::TOO_MANY_REQUESTS => "temporarily_unavailable",
            StatusCode::INTERNAL_SERVER_ERROR => "server_error",
            status if status.is_server_error() => "temporarily_unavailable",
            _ => "invalid_request",
        };
        let mut refused = Self {
            status,
            challenges: headers.get_all(header::WWW_AUTHENTICATE).iter().cloned().collect(),
            retry_after: headers.get(header::RETRY_AFTER).cloned(),
            ..Self::new(error, description)
        };
        if status.is_server_error() && status != StatusCode::INTERNAL_SERVER_ERROR {
            refused.status = StatusCode::SERVICE_UNAVAILABLE;
            refused.retry_after.get_or_insert(HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        refused
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let body = OAuthErrorBody { error: self.error, error_description: &self.description };
        let mut response = no_store(self.status, &body);
        let headers = response.headers_mut();
        for challenge in self.challenges {
            headers.append(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, wait);
        }
        response.extensions_mut().insert(ProblemCode(self.error));
        response
    }
}

/// A refusal that no handler made, in the words of its path.
pub fn refusal_at(uri: &Uri, problem: Problem) -> Response {
    if uri.path().starts_with("/oauth/") {
        return OAuthError::from(problem).into_response();
    }
    problem.into_response()
}

/// A JSON answer that no cache may keep (RFC 6749 §5.1).
pub fn no_store(status: StatusCode, body: &impl Serialize) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")];
    (status, headers, serde_json::to_vec(body).unwrap_or_default()).into_response()
}

/// Asks for HTTP Basic (RFC 7617).
pub fn basic_challenge() -> HeaderValue {
    HeaderValue::from_static("Basic realm=\"keyledger\"")
}

/// Asks for any of the ways in which a service may authenticate.
pub fn service_challenges() -> Vec<HeaderValue> {
    vec![Challenge::Missing.header(), basic_challenge()]
}

/// A form, read into a type of required and optional texts. What the type does not know is ignored (RFC 6749 §3.2).
#[derive(Clone, Copy, Debug)]
pub struct OAuthForm<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for OAuthForm<T> {
    type Rejection = OAuthError;

    async fn from_request(request: Request, state: &S) -> Result<Self, OAuthError> {
        if !is_form(request.headers()) {
            return Err(OAuthError::invalid_request(format!("The body must be a form, with Content-Type: {FORM}.")));
        }
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| OAuthError::from(unreadable_body(&rejection)))?;
        read(parameters(&body)?).map(Self)
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(FORM)
}

/// The parameters of a form. One without a value is as if it were not there; none may be there twice (RFC 6749 §3.2).
///
/// # Errors
/// `invalid_request`.
fn parameters(body: &[u8]) -> Result<BTreeMap<String, String>, OAuthError> {
    let mut parameters = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(body) {
        // The parser puts this character where the bytes were not UTF-8.
        if name.contains('\u{fffd}') || value.contains('\u{fffd}') {
            return Err(OAuthError::invalid_request("The form is not UTF-8."));
        }
        if parameters.insert(name.into_owned(), value.into_owned()).is_some() {
            return Err(OAuthError::invalid_request("A parameter is there more than once."));
        }
    }
    parameters.retain(|_, value| !value.is_empty());
    Ok(parameters)
}

fn read<T: DeserializeOwned>(parameters: BTreeMap<String, String>) -> Result<T, OAuthError> {
    let object: Map<String, Value> = parameters.into_iter().map(|(name, value)| (name, value.into())).collect();
    serde_json::from_value(Value::Object(object)).map_err(|error| {
        // Every field is a text, so nothing else can be wrong; and a field's name is this service's own word.
        let text = error.to_string();
        let name = text.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')).map(|(name, _)| name);
        OAuthError::invalid_request(match name {
            Some(name) => format!("The parameter {name} is missing."),
            None => "A parameter has not its form.".to_owned(),
        })
    })
}

/// One value of a form, decoded: what RFC 6749 §2.3.1 does to both halves of HTTP Basic. None if it is more than one.
pub fn decoded(value: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(value.as_bytes());
    match (pairs.next(), pairs.next()) {
        (Some((text, rest)), None) if rest.is_empty() => Some(text.into_owned()),
        (None, None) => Some(String::new()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Probe {
        token: String,
        hint: Option<String>,
    }

    fn probe(body: &[u8]) -> Result<Probe, OAuthError> {
        read(parameters(body)?)
    }

    #[test]
    fn forms() {
        let secret = "sk-kl1SECRETSECRETSECRET";
        for (body, token, hint) in [
            ("token=a", "a", None),
            ("token=a+b%20c&hint=%C3%A9", "a b c", Some("é")),
            ("hint=&token=a&unknown=1", "a", None),
            ("&&token=a&", "a", None),
            ("token=%zz%", "%zz%", None),
        ] {
            let got = probe(body.as_bytes()).unwrap();
            assert_eq!((got.token.as_str(), got.hint.as_deref()), (token, hint), "{body}");
        }
        let twice = "A parameter is there more than once.";
        let missing = "The parameter token is missing.";
        for (body, description) in [
            (format!("token={secret}&token={secret}"), twice),
            (format!("token={secret}&token="), twice),
            (format!("token={secret}&x=1&x=2"), twice),
            (format!("token={secret}&%74oken=x"), twice),
            (String::new(), missing),
            ("token=".to_owned(), missing),
            (format!("Token={secret}"), missing),
            (format!("{{\"token\":\"{secret}\"}}"), missing),
            (format!("token={secret}%ff"), "The form is not UTF-8."),
        ] {
            let refused = probe(body.as_bytes()).unwrap_err();
            assert_eq!(refused, OAuthError::invalid_request(description), "{body}");
            assert!(!format!("{refused:?}").contains("SECRET"));
        }
    }

    #[test]
    fn a_problem_keeps_its_status_and_headers() {
        let waits = |seconds| Some(HeaderValue::from(seconds));
        let second = std::time::Duration::from_secs(1);
        for (problem, status, error, retry_after) in [
            (Problem::too_many_requests(second * 7), 429, "temporarily_unavailable", waits(7)),
            (Problem::insufficient_storage(), 503, "temporarily_unavailable", waits(1)),
            (
                Problem::unavailable("busy", "").with_retry_after(second * 3),
                503,
                "temporarily_unavailable",
                waits(3),
            ),
            (Problem::internal(), 500, "server_error", None),
            (Problem::too_large(1), 413, "invalid_request", None),
            (Problem::unauthorized(Challenge::InvalidToken), 401, "invalid_token", None),
            (Problem::insufficient_scope("service"), 403, "insufficient_scope", None),
        ] {
            let challenged = matches!(status, 401 | 403);
            let refused = OAuthError::from(problem);
            assert_eq!((refused.status.as_u16(), refused.error, &refused.retry_after), (status, error, &retry_after));
            assert_eq!(!refused.challenges.is_empty(), challenged);
        }
    }

    proptest! {
        /// Every byte string is read or refused; what is read is what any other encoder meant.
        #[test]
        fn a_form_is_what_was_written(
            token in "\\PC{1,40}", hint in "\\PC{0,40}", junk in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let body = form_urlencoded::Serializer::new(String::new())
                .append_pair("hint", &hint).append_pair("token", &token).finish();
            let got = probe(body.as_bytes());
            if token.contains('\u{fffd}') || hint.contains('\u{fffd}') {
                prop_assert!(got.is_err());
            } else {
                let got = got.unwrap();
                prop_assert_eq!(&got.token, &token);
                prop_assert_eq!(got.hint.unwrap_or_default(), hint);
            }
            let _ = probe(&junk);
            let _ = decoded(&String::from_utf8_lossy(&junk));
        }

        #[test]
        fn a_name_twice_is_never_read(name in "[a-z_%]{1,10}", values in (".{0,5}", ".{0,5}")) {
            let body = form_urlencoded::Serializer::new(String::new()).append_pair("token", "x")
                .append_pair(&name, &values.0).append_pair(&name, &values.1).finish();
            prop_assert!(probe(body.as_bytes()).is_err());
        }

        #[test]
        fn halves_of_basic(text in "[ -~é]{0,60}") {
            let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
            prop_assert_eq!(decoded(&encoded), Some(text));
        }
    }
}
