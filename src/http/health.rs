//! `/healthz`, `/readyz`, `/metrics`: for the machines that watch this one.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::header;
use parking_lot::RwLock;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    metrics::Metrics,
    problem::{Problem, ProblemBody},
};

/// Whether the service may be sent requests, and if not, why. Whoever opens, poisons or drains the ledger sets it.
#[derive(Debug)]
pub struct Readiness(RwLock<Result<(), &'static str>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(RwLock::new(Err("The ledger is being opened.")))
    }
}

impl Readiness {
    /// Ready.
    pub fn ready(&self) {
        *self.0.write() = Ok(());
    }

    /// Not ready, with a sentence for the operator.
    pub fn not_ready(&self, why: &'static str) {
        *self.0.write() = Err(why);
    }

    /// How it stands.
    ///
    /// # Errors
    /// The sentence.
    pub fn get(&self) -> Result<(), &'static str> {
        *self.0.read()
    }
}

#[derive(Clone)]
struct Health {
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
}

/// The three routes.
pub fn router<S: Clone + Send + Sync + 'static>(readiness: Arc<Readiness>, metrics: Arc<Metrics>) -> OpenApiRouter<S> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(render))
        .with_state(Health { readiness, metrics })
}

/// How the service is.
#[derive(Serialize, ToSchema)]
struct Status {
    /// `ok` or `ready`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The service's version.
    version: &'static str,
}

const fn status(status: &'static str) -> Json<Status> {
    Json(Status { status, version: env!("CARGO_PKG_VERSION") })
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operators", security(()), responses((status = 200, body = Status)))]
async fn healthz() -> Json<Status> {
    status("ok")
}

/// The ledger is open and takes requests.
#[utoipa::path(get, path = "/readyz", tag = "operators", security(()),
    responses((status = 200, body = Status), (status = 503, description = "not yet, or no more", body = ProblemBody)))]
async fn readyz(State(health): State<Health>) -> Result<Json<Status>, Problem> {
    health.readiness.get().map_err(|why| Problem::unavailable("not_ready", why))?;
    Ok(status("ready"))
}

/// Counters, gauges and histograms in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operators", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn render(State(health): State<Health>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], health.metrics.render()).into_response()
}
