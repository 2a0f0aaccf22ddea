//! Ending a key by having it (RFC 7009).

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    app::Shared,
    http::{
        auth::Origin,
        oauth::{OAuthError, OAuthErrorBody, OAuthForm},
        routes::pairing::end_itself,
        write::at_position,
    },
};

/// RFC 7009 §2.1. Who asks is not asked: whoever has a key may end it (contract, rule 5).
#[derive(Deserialize, ToSchema)]
pub(super) struct RevokeForm {
    /// The key to end.
    token: String,
    /// Ignored: a key says itself what it is.
    #[serde(rename = "token_type_hint")]
    _token_type_hint: Option<String>,
}

/// Ends the key that is sent, a device's with its companion's (RFC 7009). What is no live key is answered the same.
#[utoipa::path(post, path = "/oauth/revoke", tag = "oauth", security(()),
    request_body(content = inline(RevokeForm), content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "whatever it was, it is no live key any more"), (status = 400, body = OAuthErrorBody), (status = 429, body = OAuthErrorBody), (status = 503, description = "the key may still live; try again after `Retry-After`", body = OAuthErrorBody)))]
pub(super) async fn revoke(
    State(app): State<Shared>,
    origin: Origin,
    OAuthForm(form): OAuthForm<RevokeForm>,
) -> Result<Response, OAuthError> {
    let done = (StatusCode::OK, [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")]).into_response();
    match app.verify_key(form.token.as_bytes(), None, None, || origin.address) {
        Ok(verdict) => Ok(at_position(done, end_itself(&app, &origin, &verdict).await?)),
        Err(_) => {
            app.rates.verify_failure(origin.address)?;
            Ok(done)
        }
    }
}
