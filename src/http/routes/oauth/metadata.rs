//! What a client can find out by itself (RFC 8414).

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use keyledger_projections::Surface;
use serde::Serialize;
use utoipa::ToSchema;

use super::{DEVICE_AUTHORIZATION, INTROSPECT, REVOKE, TOKEN, device::DEVICE_CODE_GRANT};
use crate::app::Shared;

/// RFC 8414 §2, RFC 8628 §4.
#[derive(Serialize, ToSchema)]
pub(super) struct Metadata {
    /// The service's `public_url`.
    issuer: String,
    device_authorization_endpoint: String,
    token_endpoint: String,
    introspection_endpoint: String,
    revocation_endpoint: String,
    /// The surfaces: what an introspected token's `scope` is made of.
    scopes_supported: [&'static str; 4],
    /// None: there is no authorization endpoint.
    response_types_supported: [&'static str; 0],
    grant_types_supported: [&'static str; 1],
    token_endpoint_auth_methods_supported: [&'static str; 1],
    revocation_endpoint_auth_methods_supported: [&'static str; 1],
    /// `Bearer` is the access token type; RFC 8414 §2 lets them stand beside the client authentication methods.
    introspection_endpoint_auth_methods_supported: [&'static str; 3],
    service_documentation: String,
}

/// Where the OAuth endpoints are and what they take (RFC 8414).
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", tag = "oauth", security(()),
    responses((status = 200, body = Metadata)))]
pub(super) async fn metadata(State(app): State<Shared>) -> Response {
    let issuer = app.config.public_url();
    let at = |path: &str| format!("{issuer}{path}");
    let metadata = Metadata {
        device_authorization_endpoint: at(DEVICE_AUTHORIZATION),
        token_endpoint: at(TOKEN),
        introspection_endpoint: at(INTROSPECT),
        revocation_endpoint: at(REVOKE),
        scopes_supported: Surface::ALL.map(Surface::name),
        response_types_supported: [],
        grant_types_supported: [DEVICE_CODE_GRANT],
        token_endpoint_auth_methods_supported: ["none"],
        revocation_endpoint_auth_methods_supported: ["none"],
        introspection_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post", "Bearer"],
        service_documentation: at("/docs"),
        issuer,
    };
    ([(header::CACHE_CONTROL, "public, max-age=3600")], Json(metadata)).into_response()
}
