//! OAuth for clients that nobody wrote for this service: metadata (RFC 8414), the device grant (RFC 8628), introspection
//! (RFC 7662), revocation (RFC 7009).

mod device;
mod introspect;
mod metadata;
mod revoke;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::app::Shared;

/// Where the endpoints lie; the paths are in the metadata, too.
const DEVICE_AUTHORIZATION: &str = "/oauth/device_authorization";
const TOKEN: &str = "/oauth/token";
const INTROSPECT: &str = "/oauth/introspect";
const REVOKE: &str = "/oauth/revoke";

/// The routes of this folder, from the root.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(metadata::metadata))
        .routes(routes!(device::authorize))
        .routes(routes!(device::token))
        .routes(routes!(introspect::introspect))
        .routes(routes!(revoke::revoke))
}
