//! Extractors whose every refusal is a 4xx problem that repeats nothing of what was sent.

use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        path::ErrorKind,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
};
use garde::Validate;
use http::{HeaderMap, StatusCode, header, request::Parts};
use serde::de::DeserializeOwned;
use serde_json::{Value, error::Category, json};

use super::{body::BodyError, problem::Problem, server::BODY_BYTES_DEFAULT};

/// A JSON body, read and checked by its garde rules. Put `#[serde(deny_unknown_fields)]` on its type.
#[derive(Clone, Copy, Debug)]
pub struct ApiJson<T>(pub T);

/// As [`ApiJson`]; no body at all, whatever its content type, is the type's default.
#[derive(Clone, Copy, Debug)]
pub struct ApiJsonOrDefault<T>(pub T);

/// The path's parameters.
#[derive(Clone, Copy, Debug)]
pub struct ApiPath<T>(pub T);

/// The query's parameters, checked by their garde rules. Put `#[serde(deny_unknown_fields)]` on its type.
#[derive(Clone, Copy, Debug)]
pub struct ApiQuery<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Validate<Context = ()>> FromRequest<S> for ApiJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_content_type(request.headers())?;
        let body = Bytes::from_request(request, state).await.map_err(|rejection| unreadable_body(&rejection))?;
        read_json(&body).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Validate<Context = ()> + Default> FromRequest<S> for ApiJsonOrDefault<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let typed = check_content_type(request.headers());
        let body = Bytes::from_request(request, state).await.map_err(|rejection| unreadable_body(&rejection))?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        typed?;
        read_json(&body).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for ApiPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(unreadable_path(&rejection)),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Validate<Context = ()>> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(value) =
            Query::<T>::from_request_parts(parts, state).await.map_err(|rejection| unreadable_query(&rejection))?;
        validated(value).map(Self)
    }
}

/// Reads and checks a JSON object that is already in memory.
///
/// # Errors
/// A 400 problem.
pub fn read_json<T: DeserializeOwned + Validate<Context = ()>>(body: &[u8]) -> Result<T, Problem> {
    // serde would take `["CI", 30]` for a struct's fields in their order, which no document promises.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Problem::bad_request("invalid_field", "The body must be a JSON object."));
    }
    serde_json::from_slice(body).map_err(|error| unreadable_json(&error)).and_then(validated)
}

/// Reads and checks a JSON array, of at most so many elements, that is already in memory.
///
/// # Errors
/// A 400 problem.
pub fn read_json_array<T: DeserializeOwned + Validate<Context = ()>>(
    body: &[u8],
    len_max: usize,
) -> Result<Vec<T>, Problem> {
    let values: Vec<Value> = serde_json::from_slice(body).map_err(|error| unreadable_json(&error))?;
    if values.len() > len_max {
        let detail = format!("The body must be an array of at most {len_max} elements.");
        return Err(Problem::bad_request("invalid_field", detail));
    }
    let one = |value: Value| match value {
        // serde would take an array for a struct's fields in their order.
        Value::Object(_) => serde_json::from_value(value).map_err(|error| unreadable_json(&error)).and_then(validated),
        _ => Err(Problem::bad_request("invalid_field", "The body must be an array of JSON objects.")),
    };
    values.into_iter().map(one).collect()
}

/// Refuses every content type but JSON's.
///
/// # Errors
/// A 415 problem.
pub fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    json.then_some(()).ok_or_else(|| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "The body must be JSON, with Content-Type: application/json.",
        )
    })
}

fn validated<T: Validate<Context = ()>>(value: T) -> Result<T, Problem> {
    match value.validate() {
        Ok(()) => Ok(value),
        Err(report) => {
            // The rules' messages are this service's own words, and the paths its own fields' names.
            let errors: Vec<Value> = report
                .iter()
                .map(|(path, error)| json!({ "field": path.to_string(), "message": error.message() }))
                .collect();
            let detail =
                report.iter().next().map_or_else(String::new, |(path, error)| format!("{path}: {}.", error.message()));
            Err(Problem::bad_request("invalid_field", detail).with_member("errors", errors))
        }
    }
}

fn unreadable_json(error: &serde_json::Error) -> Problem {
    let place = format!("line {}, column {}", error.line(), error.column());
    match error.classify() {
        Category::Data => {
            let text = error.to_string();
            let message = text.rfind(" at line ").map_or(text.as_str(), |at| &text[..at]);
            Problem::bad_request(
                "invalid_field",
                format!("The body is not of its type: {} ({place}).", own_words(message)),
            )
        }
        Category::Eof if error.line() == 1 && error.column() == 0 => {
            Problem::bad_request("malformed_json", "The body is empty; it must be JSON.")
        }
        Category::Syntax | Category::Eof | Category::Io => {
            Problem::bad_request("malformed_json", format!("The body is not well-formed JSON ({place})."))
        }
    }
}

/// What of serde's message is this service's own words. What was sent stands before the last ", expected " and is dropped.
fn own_words(message: &str) -> String {
    if message.starts_with("missing field `") || message.starts_with("duplicate field `") {
        return message.to_owned();
    }
    let what = ["unknown field", "unknown variant", "invalid type", "invalid value", "invalid length"]
        .into_iter()
        .find(|what| message.starts_with(what));
    match (what, message.rfind(", expected ")) {
        (Some(what), Some(at)) => format!("{what}{}", &message[at..]),
        (Some(what), None) => what.to_owned(),
        (None, _) => "a value has not the form the API document gives".to_owned(),
    }
}

/// What was wrong with a body that could not be read.
pub fn unreadable_body(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "The body is longer than this path takes.",
        )
        .with_member("default_limit_bytes", BODY_BYTES_DEFAULT);
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(rejection);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<BodyError>() {
            return Problem::from(*error);
        }
        cause = error.source();
    }
    Problem::from(BodyError::Broken)
}

fn unreadable_path(rejection: &PathRejection) -> Problem {
    let name = match rejection {
        PathRejection::FailedToDeserializePathParams(failed) => match failed.kind() {
            ErrorKind::ParseErrorAtKey { key, .. } | ErrorKind::DeserializeError { key, .. } => Some(key.clone()),
            _ => None,
        },
        _ => None,
    };
    match name {
        // A parameter's name comes from the route, not from the caller.
        Some(name) => Problem::bad_request("invalid_path", format!("{name} in the path has not its form.")),
        None => Problem::bad_request("invalid_path", "A part of the path has not its form."),
    }
}

fn unreadable_query(rejection: &QueryRejection) -> Problem {
    let words = match rejection {
        QueryRejection::FailedToDeserializeQueryString(_) => {
            let text = rejection.body_text();
            let message = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            // Newer versions say which parameter: "name: message". Only the message is looked at.
            let known = ["unknown field", "unknown variant", "missing field", "duplicate field", "invalid "];
            let at = known.iter().filter_map(|what| message.find(what)).min().unwrap_or(0);
            own_words(&message[at..])
        }
        _ => "it can't be read".to_owned(),
    };
    Problem::bad_request("invalid_query", format!("The query is not of its type: {words}."))
}
