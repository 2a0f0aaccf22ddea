//! `/api/v1/export`: the team's history as a bundle, which proves itself to whoever has the ledger's public key.

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::{HeaderValue, header};
use keyledger_replay::bundle::{Bound, ExportError, Selection};
use serde::Deserialize;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::Shared,
    bundles,
    http::{ApiQuery, Problem, auth::Caller, openapi::TeamHeader, problem::ProblemBody},
};

/// How many older sizes a bundle may be cut at.
const SINCE_MAX: usize = 64;

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(export))
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ExportQuery {
    /// From this revision of the team (digits) or instant (RFC 3339) on, rounded to whole commits; else from the first.
    #[garde(length(max = 64))]
    from: Option<String>,
    /// Up to this revision or instant, itself included; else to the last.
    #[garde(length(max = 64))]
    to: Option<String>,
    /// Sizes of older tree heads that the bundle must compare with, with commas between them.
    #[garde(length(max = 1024))]
    since: Option<String>,
}

/// Exports the team's history as a bundle: a file that `keyledger replay verify` checks without a server. Seals the map
/// of all streams first if this server has not yet.
#[utoipa::path(get, path = "/export", tag = "audit", params(ExportQuery, TeamHeader),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn export(
    State(app): State<Shared>,
    caller: Caller,
    ApiQuery(query): ApiQuery<ExportQuery>,
) -> Result<Response, Problem> {
    caller.sees_all()?;
    let selection = selection(&query)?;
    let mut chunks = bundles::begin(&app, caller.team, selection).await?;
    // What can be refused is refused before the first byte.
    let first = match chunks.recv().await {
        Some(Ok(first)) => first,
        Some(Err(ExportError::Nothing)) => {
            return Err(Problem::bad_request(
                "nothing_to_export",
                "The team has no events in that part of its history.",
            ));
        }
        Some(Err(error)) => {
            tracing::error!(%error, "a bundle could not be made");
            return Err(Problem::unavailable(
                "not_exported",
                "The bundle could not be made; the operator has been told.",
            ));
        }
        None => return Err(Problem::internal()),
    };
    let rest = ReceiverStream::new(chunks).map(|chunk| {
        chunk.map_err(|error| {
            tracing::error!(%error, "a bundle broke off");
            std::io::Error::other(error)
        })
    });
    let mut response = Body::from_stream(tokio_stream::once(Ok(first)).chain(rest)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let name = format!("attachment; filename=\"keyledger-{}.bundle\"", caller.team);
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

fn selection(query: &ExportQuery) -> Result<Selection, Problem> {
    let bound = |text: &Option<String>| {
        let parsed = text.as_deref().map(str::parse::<Bound>).transpose();
        parsed.map_err(|error| Problem::bad_request("invalid_query", format!("A bound is {error}.")))
    };
    let sizes = query.since.iter().flat_map(|since| since.split(',')).map(str::parse);
    let since: Result<Vec<u64>, _> = sizes.collect();
    let since = since.ok().filter(|since| since.len() <= SINCE_MAX);
    let since = since.ok_or_else(|| {
        Problem::bad_request("invalid_query", format!("since is at most {SINCE_MAX} sizes with commas between them."))
    })?;
    Ok(Selection { from: bound(&query.from)?, to: bound(&query.to)?, since })
}
