//! `/healthz` and `/readyz`.

use axum::{Json, extract::State, response::{IntoResponse, Response}};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::Shared, http::{Problem, problem::ProblemBody}};

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// How the service is.
#[derive(Serialize, ToSchema)]
struct Health {
    status: &'static str,
    version: &'static str,
    position: Option<u64>,
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/healthz", tag = "operators", security(()), responses((status = 200, body = Health)))]
async fn healthz(State(app): State<Shared>) -> Json<Health> {
    Json(health(&app))
}

/// Whether the service takes writes: false once the log has failed.
#[utoipa::path(get, path = "/readyz", tag = "operators", security(()), responses((status = 200, body = Health), (status = 503, body = ProblemBody)))]
async fn readyz(State(app): State<Shared>) -> Response {
    if app.ledger.has_failed() {
        return Problem::unavailable("ledger_failed", "The log takes nothing more; the process is about to exit.").into_response();
    }
    Json(health(&app)).into_response()
}

fn health(app: &Shared) -> Health {
    let position = app.ledger.position().map(|position| position.0);
    Health { status: "ok", version: env!("CARGO_PKG_VERSION"), position }
}
