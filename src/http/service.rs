//! The whole service over HTTP: the fast path for verifications, and the router for everything else.

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use bytes::Bytes;
use http::{Response, request::Parts};

use super::{
    Problem,
    body::RequestBody,
    docs,
    middleware::{Guard, guarded},
    routes,
    server::{BODY_BYTES_DEFAULT, FastPath, Server},
};
use crate::app::Shared;

/// The server, ready to run.
pub fn server(app: &Shared) -> Server<Verifications> {
    let limits = app.config.limits().within_open_files();
    let guard = Arc::new(Guard::new(&app.config, app.rates.clone(), app.metrics.clone()));
    let fast = Verifications { app: app.clone(), guard: guard.clone() };
    Server::new(limits, router(app, guard), fast, app.metrics.clone())
}

fn router(app: &Shared, guard: Arc<Guard>) -> Router {
    let (router, document) = routes::router(app.clone());
    guarded(router.merge(docs::router(&document)), guard)
}

/// Answers verifications before any router or middleware.
pub struct Verifications {
    app: Shared,
    guard: Arc<Guard>,
}

impl FastPath for Verifications {
    async fn answer(&self, head: Parts, body: RequestBody, peer: SocketAddr) -> Response<Bytes> {
        let body = match body.collect_up_to(BODY_BYTES_DEFAULT).await {
            Ok(body) => body,
            Err(error) => return Problem::from(error).into_http::<Vec<u8>>().map(Bytes::from),
        };
        if let Err(problem) = routes::wait_for_position(&self.app, &head.headers).await {
            return problem.into_http::<Vec<u8>>().map(Bytes::from);
        }
        let client = || self.guard.client_address(peer.ip(), &head.headers);
        routes::verify::answer(&self.app, &head.headers, &body, client)
    }
}
