//! The resources, one file each.

pub mod audit;
pub mod auth;
pub mod credentials;
pub mod departures;
pub mod export;
pub mod feed;
pub mod history;
pub mod leaks;
pub mod members;
pub mod oauth;
pub mod pages;
mod pair;
pub mod pairing;
pub mod proofs;
pub mod snapshot;
pub mod teams;
pub mod tree;
pub mod usage;
pub mod verify;
pub mod webhooks;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use keyledger_events::Position;
use utoipa::{OpenApi, openapi::OpenApi as Document};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Problem,
    health::{self, Readiness},
    metrics::Metrics,
    oauth::refusal_at,
    openapi,
    write::POSITION_HEADER,
};
use crate::app::{App, Shared};

/// How long a read waits for the position it asks for.
const MIN_POSITION_WAIT: Duration = Duration::from_secs(5);
const MIN_POSITION_HEADER: HeaderName = HeaderName::from_static("ledger-min-position");

/// All routes and their document.
pub fn router(app: Shared) -> (Router, Document) {
    let (router, document) = documented(app.readiness.clone(), app.metrics.clone()).split_for_parts();
    let router = router
        .merge(pages::router())
        .merge(pair::router())
        .layer(middleware::from_fn_with_state(app.clone(), positions))
        .with_state(app);
    (router, document)
}

/// The OpenAPI document alone; it takes no ledger to describe one.
pub fn document() -> Document {
    documented(Arc::default(), Arc::default()).into_openapi()
}

fn documented(readiness: Arc<Readiness>, metrics: Arc<Metrics>) -> OpenApiRouter<Shared> {
    let api = OpenApiRouter::new()
        .merge(verify::router())
        .merge(usage::router())
        .merge(credentials::router())
        .merge(pairing::router())
        .merge(auth::router())
        .merge(teams::router())
        .merge(members::router())
        .merge(departures::router())
        .merge(leaks::router())
        .merge(audit::router())
        .merge(tree::router())
        .merge(proofs::router())
        .merge(export::router())
        .merge(feed::router())
        .merge(snapshot::router())
        .merge(history::router())
        .merge(webhooks::router());
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .nest("/api/v1", api)
        .merge(tree::tiles())
        .merge(oauth::router())
        .merge(health::router(readiness, metrics))
}

/// Waits for the position a request asks for, and says in every answer how far the reader has got.
async fn positions(State(app): State<Shared>, request: Request, next: Next) -> Response {
    if let Err(problem) = wait_for_position(&app, request.headers()).await {
        return refusal_at(request.uri(), problem);
    }
    let mut response = next.run(request).await;
    if let Some(position) = app.ledger.position() {
        response.headers_mut().entry(POSITION_HEADER).or_insert(HeaderValue::from(position.0));
    }
    response
}

/// Waits until the reader has got to the position that `Ledger-Min-Position` asks for, if it is there.
///
/// # Errors
/// 400 for what is no position, 503 when it takes too long.
pub async fn wait_for_position(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(MIN_POSITION_HEADER) else { return Ok(()) };
    let wanted = value.to_str().ok().and_then(|text| text.trim().parse::<Position>().ok());
    let wanted =
        wanted.ok_or_else(|| Problem::bad_request("invalid_min_position", "Ledger-Min-Position is not a position."))?;
    if app.ledger.wait_for(wanted, MIN_POSITION_WAIT).await {
        return Ok(());
    }
    let problem = Problem::unavailable("position_not_reached", "The reader has not got to this position yet.");
    Err(problem.with_retry_after(Duration::from_secs(1)))
}
