//! The OpenAPI document, from the handlers, and the headers that several of them share.

use utoipa::{
    IntoParams, Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

/// The team that a request is about.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the document is all it is for")]
pub struct TeamHeader {
    /// The team; one of those of whoever asks.
    #[param(rename = "X-Team-ID", value_type = uuid::Uuid)]
    team: uuid::Uuid,
}

/// Makes a write safe to repeat.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the document is all it is for")]
pub struct IdempotencyHeader {
    /// The same key with the same request answers with the first outcome, without the secret; with another one: 422.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255)]
    key: Option<String>,
}

/// Makes a write depend on what was read.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the document is all it is for")]
pub struct IfMatchHeader {
    /// The ETag that was read; 412 if it has changed since.
    #[param(rename = "If-Match")]
    etag: Option<String>,
}

/// The document's frame; the routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "keyledger",
        description = "An event-sourced credential ledger. Every answer carries `Ledger-Position`, the last position it \
                       rests on; a read with `Ledger-Min-Position` waits, a few seconds at most, until the reader has got there. \
                       Errors are RFC 9457 problems with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "verify", description = "Is this key good, here, now?"),
        (name = "credentials", description = "Keys: issue, list, rotate, end."),
        (name = "pairing", description = "How a device gets its key."),
        (name = "people", description = "Signing in, teams, members, departures."),
        (name = "audit", description = "What happened, in order."),
        (name = "webhooks", description = "What happens, sent where the team says, signed (Standard Webhooks)."),
        (name = "tree", description = "What anybody may check: the signed Merkle tree over all events, and proofs."),
        (name = "oauth", description = "The same for OAuth clients: forms in, RFC 6749 errors out."),
        (name = "operators", description = "For those who run the ledger."),
    ),
    paths(crate::http::forward_auth::forward_auth),
    modifiers(&Bearer),
    security(("bearer" = []))
)]
pub struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description =
            Some("A person's access token (`eyJ…`), or a credential where the call says so.".to_owned());
        document.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}
