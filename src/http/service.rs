//! The whole service over HTTP: the fast path for verifications, a client's own or a proxy's, and the router for everything else.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::Router;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, request::Parts};

use super::{
    Problem,
    body::RequestBody,
    docs,
    forward_auth::{self, Complaints, Identity},
    middleware::{Guard, guarded},
    routes,
    server::{BODY_BYTES_DEFAULT, FastPath, Server},
    write::POSITION_HEADER,
};
use crate::app::Shared;

/// The server, ready to run.
pub fn server(app: &Shared) -> Server<Verifications> {
    let limits = app.config.limits().within_open_files();
    let guard = Arc::new(Guard::new(&app.config, app.rates.clone(), app.metrics.clone()));
    let fast = Verifications { app: app.clone(), guard: guard.clone(), complaints: Complaints::default() };
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
    complaints: Complaints,
}

impl FastPath for Verifications {
    async fn answer(&self, head: Parts, body: RequestBody, peer: SocketAddr) -> Response<Bytes> {
        let client = || self.guard.client_address(peer.ip(), &head.headers);
        if head.uri.path() != routes::verify::PATH {
            return self.forward_auth(&head, body, client).await;
        }
        let body = match body.collect_up_to(BODY_BYTES_DEFAULT).await {
            Ok(body) => body,
            Err(error) => return Problem::from(error).into_http::<Vec<u8>>().map(Bytes::from),
        };
        if let Err(problem) = routes::wait_for_position(&self.app, &head.headers).await {
            return problem.into_http::<Vec<u8>>().map(Bytes::from);
        }
        routes::verify::answer(&self.app, &head.headers, &body, client)
    }
}

impl Verifications {
    async fn forward_auth(&self, head: &Parts, body: RequestBody, client: impl Fn() -> IpAddr) -> Response<Bytes> {
        let position = self.app.ledger.position().unwrap_or_default();
        let mut response = forward_auth::answer(head, |presented, question| {
            self.app.verify_key(presented, question.surface, question.team, client).map(Identity::from)
        });
        response.headers_mut().insert(POSITION_HEADER, HeaderValue::from(position.0));
        if response.status() == StatusCode::FORBIDDEN {
            self.complaints.hear(head);
        }
        forward_auth::without_body(body, response).await
    }
}
