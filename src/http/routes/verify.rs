//! `/api/v1/verify` and `/api/v1/verify/batch`: is this key good, here, now?
//!
//! A verification reads memory only. `POST /api/v1/verify` is handed over by the connection loop before any router or
//! middleware: [`answer`] is all that happens to it.

use std::net::IpAddr;

use axum::{Json, body::Body, extract::State};
use bytes::Bytes;
use garde::Validate;
use http::{HeaderMap, HeaderValue, header};
use keyledger_client::types::{Accepted, BatchAccepted, BatchAnswer, BatchVerdict};
use keyledger_events::{Position, TeamId, seal::Label};
use keyledger_projections::{Denied, Surface, Verdict};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::fmt::Hyphenated;

use crate::{
    app::{App, Shared},
    http::{
        ApiJson, Challenge, Problem,
        auth::{Origin, Service, bearer},
        extract::read_json,
        problem::ProblemBody,
        write::POSITION_HEADER,
    },
};

/// Where a key is checked, in full.
pub const PATH: &str = "/api/v1/verify";

/// How many keys one batch may hold.
const BATCH_LEN_MAX: usize = 1_000;

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(verify)).routes(routes!(batch))
}

/// What to check a key against.
#[derive(Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyBody {
    /// `runtime`, `mcp`, `agent` or `management`; none: any.
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = Option<String>, example = "runtime")]
    surface: Option<Surface>,
    /// The team it must belong to; none: any.
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = Option<uuid::Uuid>)]
    team_id: Option<TeamId>,
}

/// The same bytes as serde's, in a quarter of its time: this is the answer that all speed is about.
fn to_json(accepted: &Accepted) -> Vec<u8> {
    let mut out = Vec::with_capacity(384);
    let mut id = [0; Hyphenated::LENGTH];
    out.extend_from_slice(if accepted.valid { b"{\"valid\":true" } else { b"{\"valid\":false" });
    out.extend_from_slice(b",\"credential_id\":\"");
    out.extend_from_slice(accepted.credential_id.hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(b"\",\"kind\":\"");
    out.extend_from_slice(accepted.kind.name().as_bytes());
    out.extend_from_slice(b"\",\"team_id\":\"");
    out.extend_from_slice(accepted.team_id.uuid().hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(b"\",\"user_id\":\"");
    out.extend_from_slice(accepted.user_id.uuid().hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(b"\",\"display_name\":");
    // What people have written needs escaping. Writing to a vector can't fail.
    let _ = serde_json::to_writer(&mut out, &accepted.display_name);
    match accepted.expires_at {
        Some(at) => {
            out.extend_from_slice(b",\"expires_at\":\"");
            out.extend_from_slice(at.encode(&mut [0; 27]).as_bytes());
            out.push(b'"');
        }
        None => out.extend_from_slice(b",\"expires_at\":null"),
    }
    out.extend_from_slice(b",\"position\":");
    let _ = serde_json::to_writer(&mut out, &accepted.position);
    out.push(b'}');
    out
}

/// Checks the key in the Authorization header.
#[utoipa::path(post, path = "/verify", tag = "verify", request_body = inline(Option<VerifyBody>),
    responses((status = 200, body = Accepted), (status = 400, body = ProblemBody), (status = 401, description = "malformed, unknown, expired, revoked, or another team's: not told apart", body = ProblemBody), (status = 403, description = "alive, and not for this surface", body = ProblemBody), (status = 429, body = ProblemBody)))]
async fn verify(State(app): State<Shared>, origin: Origin, headers: HeaderMap, body: Bytes) -> http::Response<Body> {
    answer(&app, &headers, &body, || origin.address).map(Body::from)
}

/// The whole of a verification. `client` is asked only where it matters: who presents good keys is not limited.
pub fn answer(app: &App, headers: &HeaderMap, body: &[u8], client: impl Fn() -> IpAddr) -> http::Response<Bytes> {
    let position = app.ledger.position().unwrap_or_default();
    respond(headers, body, position, |presented, surface, team| {
        let judged = app.verify_key(presented, surface, team, &client);
        let verdict = judged
            .map_err(|denied| app.rates.verify_failure(client()).err().unwrap_or_else(|| refused(&denied, surface)))?;
        let display_name = match app.projections.active().name(verdict.handle) {
            Label::Clear(name) => Some(name),
            Label::Sealed(sealed) => app.open_sealed(&sealed),
        };
        Ok((verdict, display_name))
    })
}

/// The answer to a question, whoever has judged the key: `judge` is given what was presented and what was asked, and
/// gives the verdict and what people call the credential.
pub fn respond(
    headers: &HeaderMap,
    body: &[u8],
    position: Position,
    judge: impl FnOnce(&[u8], Option<Surface>, Option<TeamId>) -> Result<(Verdict, Option<String>), Problem>,
) -> http::Response<Bytes> {
    let judged = || {
        let VerifyBody { surface, team_id } = if body.is_empty() { VerifyBody::default() } else { read_json(body)? };
        let presented = bearer(headers)?.ok_or_else(|| Problem::unauthorized(Challenge::Missing))?;
        judge(presented.as_bytes(), surface, team_id)
    };
    let mut response = match judged() {
        Ok((verdict, display_name)) => {
            let mut response = http::Response::new(Bytes::from(to_json(&accepted(&verdict, display_name, position))));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(problem) => problem.into_http::<Vec<u8>>().map(Bytes::from),
    };
    response.headers_mut().insert(POSITION_HEADER, HeaderValue::from(position.0));
    response
}

/// What whoever presented a key is told.
pub fn refused(denied: &Denied, surface: Option<Surface>) -> Problem {
    match denied {
        Denied::WrongSurface(_) => Problem::insufficient_scope(surface.map_or("", Surface::name)),
        _ => Problem::unauthorized(Challenge::InvalidToken),
    }
}

fn accepted(verdict: &Verdict, display_name: Option<String>, position: Position) -> Accepted {
    Accepted {
        valid: true,
        credential_id: verdict.credential.uuid(),
        kind: verdict.kind,
        team_id: verdict.team,
        user_id: verdict.holder,
        display_name,
        expires_at: verdict.expires_at,
        position: position.0,
    }
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct BatchBody {
    /// At most 1,000 keys.
    #[garde(length(max = BATCH_LEN_MAX))]
    #[schema(max_items = 1000)]
    keys: Vec<String>,
    /// `runtime`, `mcp`, `agent` or `management`; none: any.
    #[serde(default)]
    #[garde(skip)]
    #[schema(value_type = Option<String>)]
    surface: Option<Surface>,
}

/// Checks many keys at once. For services: the answer tells expired from revoked from unknown.
#[utoipa::path(post, path = "/verify/batch", tag = "verify", request_body = inline(BatchBody),
    responses((status = 200, body = BatchAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody)))]
async fn batch(
    State(app): State<Shared>,
    _: Service,
    origin: Origin,
    ApiJson(body): ApiJson<BatchBody>,
) -> Json<BatchAnswer> {
    let position = app.ledger.position().unwrap_or_default().0;
    let judge = |key: &String| match app.verify_key(key.as_bytes(), body.surface, None, || origin.address) {
        Ok(verdict) => {
            let accepted = BatchAccepted {
                credential_id: verdict.credential.uuid(),
                kind: verdict.kind,
                team_id: verdict.team,
                user_id: verdict.holder,
                expires_at: verdict.expires_at,
            };
            BatchVerdict { valid: true, code: "valid".to_owned(), accepted: Some(accepted) }
        }
        Err(denied) => BatchVerdict { valid: false, code: denied.code().to_owned(), accepted: None },
    };
    Json(BatchAnswer { results: body.keys.iter().map(judge).collect(), position })
}

#[cfg(test)]
mod tests {
    use keyledger_events::{PersonId, Timestamp, secret::Kind};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_accepted_keys_json_is_serdes(
            (valid, kind) in (any::<bool>(), prop::sample::select(&Kind::ALL[..])),
            (credential, team, person) in any::<([u8; 16], [u8; 16], [u8; 16])>(),
            display_name in any::<Option<String>>(),
            (expires_at, position) in any::<(Option<u64>, u64)>(),
        ) {
            let accepted = Accepted {
                valid,
                credential_id: uuid::Uuid::from_bytes(credential),
                kind,
                team_id: TeamId::from_bytes(team),
                user_id: PersonId::from_bytes(person),
                display_name,
                expires_at: expires_at.map(Timestamp::from_micros),
                position,
            };
            prop_assert_eq!(to_json(&accepted), serde_json::to_vec(&accepted).unwrap());
        }
    }
}
