//! The device grant (RFC 8628): the pairing of `/api/v1/desktop/pair/*`, for stock OAuth clients.

use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode, header};
use keyledger_client::types::PairingStarted;
use keyledger_events::{Timestamp, secret::Secret};
use keyledger_projections::Surface;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::{App, Shared},
    http::{
        Name,
        auth::Origin,
        oauth::{OAuthError, OAuthErrorBody, OAuthForm, basic_challenge, no_store},
        routes::pairing::begin,
    },
    identity::pairing::{PollError, Polled},
};

/// RFC 8628 §3.4.
pub(super) const DEVICE_CODE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// RFC 8628 §3.1. A `scope` is ignored: every device gets the same.
#[derive(Deserialize, ToSchema)]
pub(super) struct AuthorizeForm {
    /// Any name of 1–100 printable characters. Clients are public and not registered.
    client_id: Option<String>,
    /// What the device calls itself, for the person who decides; without it: `client_id`.
    device_name: Option<String>,
}

/// Starts a pairing for an OAuth client (RFC 8628 §3.1).
#[utoipa::path(post, path = "/oauth/device_authorization", tag = "oauth", security(()),
    request_body(content = inline(AuthorizeForm), content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = PairingStarted), (status = 400, body = OAuthErrorBody), (status = 429, body = OAuthErrorBody)))]
pub(super) async fn authorize(
    State(app): State<Shared>,
    origin: Origin,
    headers: HeaderMap,
    OAuthForm(form): OAuthForm<AuthorizeForm>,
) -> Result<Response, OAuthError> {
    let client_id = client_id(&headers, form.client_id)?;
    let name = form.device_name.as_deref().unwrap_or(&client_id);
    let name =
        Name::new(name).map_err(|error| OAuthError::invalid_request(format!("device_name {}.", error.message())))?;
    let started = begin(&app, &origin, name.into_string(), Some(client_id))?;
    Ok(no_store(StatusCode::OK, &started))
}

/// RFC 8628 §3.4.
#[derive(Deserialize, ToSchema)]
pub(super) struct TokenForm {
    /// `urn:ietf:params:oauth:grant-type:device_code`.
    grant_type: String,
    /// The one that asked for the device code.
    client_id: Option<String>,
    /// As it was given.
    device_code: Option<String>,
}

/// A device's key, and its companion's (RFC 6749 §5.1).
#[derive(Serialize, ToSchema)]
pub(super) struct Granted {
    /// The device's key, `dk-…`.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds until both end; absent: they never do.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    /// The surfaces that take the device's key.
    scope: String,
    /// The companion's key, `ak-…`, for the device's agents.
    agent_key: String,
}

/// Asks what became of a pairing (RFC 8628 §3.4). The keys are answered once: a device that loses the answer pairs anew.
#[utoipa::path(post, path = "/oauth/token", tag = "oauth", security(()),
    request_body(content = inline(TokenForm), content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Granted), (status = 400, description = "`authorization_pending`, `slow_down`, `access_denied`, `expired_token`, `invalid_grant`, or a wrong request", body = OAuthErrorBody)))]
pub(super) async fn token(
    State(app): State<Shared>,
    headers: HeaderMap,
    OAuthForm(form): OAuthForm<TokenForm>,
) -> Result<Response, OAuthError> {
    if form.grant_type != DEVICE_CODE_GRANT {
        return Err(OAuthError::new("unsupported_grant_type", "The device code is the only grant there is."));
    }
    let client_id = client_id(&headers, form.client_id)?;
    let device_code =
        form.device_code.ok_or_else(|| OAuthError::invalid_request("The parameter device_code is missing."))?;
    let now = app.now();
    match app.pairings.poll(&device_code, Some(&client_id), now) {
        Ok(Polled::Approved { device, companion }) => {
            let granted = granted(&app, &device, &companion, now).ok_or_else(|| {
                OAuthError::new("invalid_grant", "The device was allowed, and ended before it fetched its keys.")
            })?;
            Ok(no_store(StatusCode::OK, &granted))
        }
        Ok(Polled::Pending) => Err(OAuthError::new("authorization_pending", "Nobody has decided yet.")),
        Ok(Polled::TooSoon { interval }) => Err(OAuthError::new(
            "slow_down",
            format!("Nobody has decided yet. From now on wait {} seconds between polls.", interval.as_secs()),
        )),
        Ok(Polled::Denied) => Err(OAuthError::new("access_denied", "Somebody has refused this device.")),
        Err(PollError::Expired) => Err(OAuthError::new("expired_token", "The device code has run out; start again.")),
        Err(PollError::Unknown) => {
            Err(OAuthError::new("invalid_grant", "No such device code for this client, or its keys were fetched."))
        }
    }
}

/// None if the device has ended meanwhile.
fn granted(app: &App, device: &Secret, companion: &Secret, now: Timestamp) -> Option<Granted> {
    // Nobody presents the key here, so nothing is counted as its use.
    let verdict = app.projections.active().judge(&device.hash(), None, None, now).ok()?;
    Some(Granted {
        access_token: device.expose().to_owned(),
        token_type: "Bearer",
        expires_in: verdict.expires_at.map(|at| at.since(now).as_secs()),
        scope: scope(verdict.kind),
        agent_key: companion.expose().to_owned(),
    })
}

/// The surfaces that take a kind of key, as an OAuth scope.
pub(super) fn scope(kind: keyledger_events::secret::Kind) -> String {
    let fits: Vec<_> = Surface::ALL.into_iter().filter(|surface| surface.takes(kind)).map(Surface::name).collect();
    fits.join(" ")
}

/// A public client's name for itself.
fn client_id(headers: &HeaderMap, sent: Option<String>) -> Result<String, OAuthError> {
    match sent {
        // Its own name in every place where it is compared or shown, so nothing is trimmed.
        Some(id) if Name::new(&id).is_ok_and(|name| name.as_str() == id) => Ok(id),
        Some(_) => Err(OAuthError::new("invalid_client", "client_id must be 1 to 100 printable characters.")),
        // RFC 6749 §5.2: who tried the Authorization header is told which scheme it was.
        None if headers.contains_key(header::AUTHORIZATION) => Err(OAuthError::unauthorized(
            "invalid_client",
            "Clients are public here: send client_id in the form and authenticate in no other way.",
            vec![basic_challenge()],
        )),
        None => Err(OAuthError::invalid_request("The parameter client_id is missing.")),
    }
}
