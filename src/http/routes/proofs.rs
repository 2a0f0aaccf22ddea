//! `/api/v1/statement` and `/api/v1/seals`: what the ledger signs about a team, and the map of all streams in the log.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use keyledger_events::Position;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::Shared,
    http::{
        Problem,
        auth::{Caller, Person},
        openapi::TeamHeader,
        problem::ProblemBody,
        write::at_position,
    },
    seals::SealError,
    statements,
};

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(statement)).routes(routes!(seal))
}

/// States where the team's stream ends, as a signed note that an auditor can keep: two that contradict each other prove
/// that the ledger lied. It waits, at most five seconds, for a signed tree head that covers the team's last event.
#[utoipa::path(get, path = "/statement", tag = "audit", params(TeamHeader),
    responses((status = 200, content_type = "text/plain", body = String), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn statement(State(app): State<Shared>, caller: Caller) -> Result<Response, Problem> {
    caller.sees_all()?;
    let end = tokio::task::block_in_place(|| statements::end(&app, caller.team))?.ok_or_else(Problem::not_found)?;
    let (tree, _) = statements::covering_head(&app, end.position).await.ok_or_else(statements::not_signed)?;
    let note = statements::sign(&app, caller.team, &end, tree);
    let mut response = note.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A seal of the map of all streams.
#[derive(Serialize, ToSchema)]
struct Seal {
    /// The map is of all events before this position.
    through: u64,
    /// How many teams it has, the system stream included.
    teams: u64,
    /// Its root, in hexadecimal.
    root: String,
    /// The position of the seal's own event.
    position: u64,
}

/// Seals the map of all streams into the log; for operators. 200 if nothing has happened since the last seal.
#[utoipa::path(post, path = "/seals", tag = "audit",
    responses((status = 200, body = Seal), (status = 201, body = Seal), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn seal(State(app): State<Shared>, person: Person) -> Result<Response, Problem> {
    app.operator(&person)?;
    let (sealed, is_new) = app.seals.seal(&app).await?;
    let seal = Seal {
        through: sealed.seal.through.0,
        teams: sealed.seal.teams,
        root: sealed.seal.root.to_string(),
        position: sealed.position.0,
    };
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(at_position((status, Json(seal)).into_response(), Position(sealed.position.0)))
}

impl From<SealError> for Problem {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Ledger(error) => error.into(),
            SealError::Read(error) => error.into(),
            SealError::Empty => Self::unavailable("nothing_to_seal", "The ledger has no events yet."),
        }
    }
}
