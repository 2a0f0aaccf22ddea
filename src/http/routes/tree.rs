//! The tree as anybody may read it: C2SP tlog-tiles, and proofs for those who want no tiles. It tells how many events there
//! are and when they were recorded, nothing else, and so needs no credential.

use std::time::Duration;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::{HeaderValue, StatusCode, header};
use keyledger_events::{
    store::file::{PublishedHead, TreeError},
    tree::{tile::TilePath, wire},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{App, Shared},
    http::{Problem, extract::ApiQuery, problem::ProblemBody},
};

/// How soon a tree that is not ready, or a head that is not signed yet, is worth another try.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Proofs, under the API's prefix.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(inclusion)).routes(routes!(consistency))
}

/// What C2SP tlog-tiles puts at the root.
pub fn tiles() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(checkpoint)).routes(routes!(tile))
}

/// The newest published tree head.
///
/// A C2SP tlog-checkpoint: origin, size and base64 root in a signed note, perhaps with lines of witnesses. A new one follows
/// within a second of new events.
#[utoipa::path(get, path = "/checkpoint", tag = "tree", security(()),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 503, description = "the tiles are being made", body = ProblemBody)))]
async fn checkpoint(State(app): State<Shared>) -> Result<Response, Problem> {
    newest(&app).map(|newest| text(newest.note))
}

/// A tile of the tree, or a bundle of its entries.
///
/// `<L>/<N>[.p/<W>]` or `entries/<N>[.p/<W>]`, as C2SP tlog-tiles has it, of any width up to what the newest published
/// tree has. An entry is 48 bytes: position, 8; recorded time in µs, 8, both little-endian; the record's salted hash, 32.
#[utoipa::path(get, path = "/tile/{*path}", tag = "tree", security(()),
    params(("path" = String, Path, description = "Such as `0/x001/234`, `1/000.p/7` or `entries/000.p/200`", example = "0/000.p/1")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 404, description = "the published tree has no such tile", body = ProblemBody)))]
async fn tile(State(app): State<Shared>, path: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let path = path.ok().and_then(|Path(path)| path.parse::<TilePath>().ok()).ok_or_else(Problem::not_found)?;
    let bytes = tokio::task::block_in_place(|| app.tree.tile(&path)).map_err(problem)?;
    let bytes = bytes.ok_or_else(Problem::not_found)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        // A partial one does not change either, but its readers soon want a wider one.
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static(if path.is_full() { IMMUTABLE } else { FOR_A_WHILE }),
        ),
    ];
    Ok((headers, bytes).into_response())
}

const IMMUTABLE: &str = "public, max-age=31536000, immutable";
const FOR_A_WHILE: &str = "public, max-age=3600";

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct InclusionQuery {
    /// Of the event.
    #[garde(skip)]
    position: u64,
    /// How many events the tree has that it is proven in; the newest published one if not given.
    #[garde(skip)]
    size: Option<u64>,
}

/// Proves that an event is in the tree.
///
/// A C2SP tlog-proof file: the index, the hashes from the leaf's sibling up, and a signed head of that size.
#[utoipa::path(get, path = "/proof/inclusion", tag = "tree", security(()), params(InclusionQuery),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 400, body = ProblemBody), (status = 404, description = "not published, or not yet", body = ProblemBody), (status = 503, description = "the tiles are being made", body = ProblemBody)))]
async fn inclusion(State(app): State<Shared>, ApiQuery(query): ApiQuery<InclusionQuery>) -> Result<Response, Problem> {
    let proof = tokio::task::block_in_place(|| {
        let head = head_of(&app, query.size)?;
        let proof = app.tree.inclusion(query.position, head.head.size);
        let proof = proof.map_err(|error| of_tree(query.size, error))?;
        Ok(wire::inclusion_file(query.position, &proof, &head.note))
    });
    proof.map(text)
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ConsistencyQuery {
    /// How many events the older tree has.
    #[garde(skip)]
    old: u64,
    /// How many the newer one has; the newest published one if not given.
    #[garde(skip)]
    new: Option<u64>,
}

/// Proves that the tree begins with an older one.
///
/// In the form of a C2SP tlog-witness `add-checkpoint` request: `old` and the size, a base64 hash a line, an empty line,
/// and a signed head of the newer size.
#[utoipa::path(get, path = "/proof/consistency", tag = "tree", security(()), params(ConsistencyQuery),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 400, body = ProblemBody), (status = 404, description = "not published, or not yet", body = ProblemBody), (status = 503, description = "the tiles are being made", body = ProblemBody)))]
async fn consistency(
    State(app): State<Shared>,
    ApiQuery(query): ApiQuery<ConsistencyQuery>,
) -> Result<Response, Problem> {
    let proof = tokio::task::block_in_place(|| {
        let head = head_of(&app, query.new)?;
        let proof = app.tree.consistency(query.old, head.head.size);
        let proof = proof.map_err(|error| of_tree(query.new, error))?;
        Ok(wire::consistency_file(query.old, &proof, &head.note))
    });
    proof.map(text)
}

fn text(text: String) -> Response {
    ([(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))], text)
        .into_response()
}

/// The signed head of a size; without one, the newest.
fn head_of(app: &App, size: Option<u64>) -> Result<PublishedHead, Problem> {
    let newest = newest(app)?;
    match size {
        Some(size) if size != newest.head.size => app.tree.signed_at(size).map_err(problem),
        _ => Ok(newest),
    }
}

/// The newest published head, with what witnesses have signed of it.
fn newest(app: &App) -> Result<PublishedHead, Problem> {
    let newest = app.tree.head().ok_or_else(|| {
        let problem = Problem::unavailable("tree_not_ready", "The tree's tiles are being made; try again soon.");
        problem.with_retry_after(RETRY_AFTER)
    })?;
    Ok(match &app.witnesses {
        Some(witnesses) => witnesses.published(newest),
        None => newest,
    })
}

/// What is outside the newest tree may come to be in it; what is outside a tree that was named never will.
fn of_tree(named: Option<u64>, error: TreeError) -> Problem {
    problem(match (named, error) {
        (None, TreeError::Outside { asked, tree }) => TreeError::Beyond { asked, published: tree },
        (_, error) => error,
    })
}

fn problem(error: TreeError) -> Problem {
    match error {
        TreeError::Beyond { published, .. } => {
            let detail =
                "The published tree has no such event or size; a new head follows within a second of new events.";
            Problem::new(StatusCode::NOT_FOUND, "not_published", detail).with_member("published", published)
        }
        TreeError::Outside { .. } => {
            Problem::bad_request("invalid_query", "The position, or the older tree, is not in the tree asked about.")
        }
        TreeError::BeforeKey { from, .. } => {
            let detail = "Heads of this size are the older key's: whoever kept one has it.";
            Problem::new(StatusCode::NOT_FOUND, "older_key", detail).with_member("signs_from", from)
        }
        error => {
            tracing::error!(%error, "the tree could not be read");
            Problem::unavailable("tree_unreadable", "The ledger could not read its tree; its operator has been told.")
        }
    }
}
