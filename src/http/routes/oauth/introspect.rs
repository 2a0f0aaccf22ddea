//! What a token is worth, for services that speak RFC 7662.

use axum::{extract::State, response::Response};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, StatusCode, header};
use keyledger_events::{PersonId, TeamId, secret::Kind};
use keyledger_projections::{Denied, Surface, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::device::scope;
use crate::{
    app::{App, Shared},
    http::{
        Challenge, Problem,
        auth::{Origin, bearer},
        oauth::{OAuthError, OAuthErrorBody, OAuthForm, basic_challenge, decoded, no_store, service_challenges},
    },
};

/// RFC 7662 §2.1.
#[derive(Deserialize, ToSchema)]
pub(super) struct IntrospectForm {
    /// What somebody has presented to the service that asks.
    token: String,
    /// Ignored: a key says itself what it is.
    #[serde(rename = "token_type_hint")]
    _token_type_hint: Option<String>,
    /// Must take the key's kind: `runtime`, `mcp`, `agent` or `management`. Without it any will do.
    surface: Option<String>,
    /// The team the key must belong to. Without it any will do.
    team_id: Option<String>,
    /// Anything, where the service authenticates in the form (`client_secret_post`).
    #[serde(rename = "client_id")]
    _client_id: Option<String>,
    /// The service's `sv-…`, there.
    client_secret: Option<String>,
}

/// RFC 7662 §2.2. What is not good, for whatever reason, is `{"active":false}` and nothing else.
#[derive(Serialize, ToSchema)]
pub(super) struct Introspected {
    active: bool,
    #[serde(flatten)]
    good: Option<Good>,
}

/// A key that is good.
#[derive(Serialize, ToSchema)]
struct Good {
    /// The surfaces that take it, separated by spaces; absent if none does.
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    /// The credential's id: each is its own client.
    client_id: Uuid,
    /// The same.
    jti: Uuid,
    /// Who answers for it.
    #[schema(value_type = Uuid)]
    sub: PersonId,
    /// `Bearer`.
    token_type: &'static str,
    /// When it ends, in seconds since 1970, rounded down; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    /// When it was issued, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    /// The metadata's issuer.
    iss: String,
    #[schema(value_type = String)]
    kind: Kind,
    #[schema(value_type = Uuid)]
    team_id: TeamId,
}

/// Says whether a key is good (RFC 7662). For services: `sv-` as Bearer, or as the secret of HTTP Basic or of the form.
#[utoipa::path(post, path = "/oauth/introspect", tag = "oauth",
    request_body(content = inline(IntrospectForm), content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Introspected), (status = 400, body = OAuthErrorBody), (status = 401, body = OAuthErrorBody), (status = 403, body = OAuthErrorBody)))]
pub(super) async fn introspect(
    State(app): State<Shared>,
    origin: Origin,
    headers: HeaderMap,
    OAuthForm(form): OAuthForm<IntrospectForm>,
) -> Result<Response, OAuthError> {
    service(&app, &origin, &headers, form.client_secret.as_deref())?;
    let surface = form.surface.as_deref().map(str::parse::<Surface>).transpose();
    let surface = surface.map_err(|error| OAuthError::invalid_request(format!("surface is {error}.")))?;
    let team = form.team_id.as_deref().map(str::parse).transpose();
    let team = team.map_err(|_| OAuthError::invalid_request("team_id is not a UUID."))?;
    let good = app.verify_key(form.token.as_bytes(), surface, team, || origin.address).ok();
    let good = good.map(|verdict| describe(&app, &verdict));
    Ok(no_store(StatusCode::OK, &Introspected { active: good.is_some(), good }))
}

fn describe(app: &App, verdict: &Verdict) -> Good {
    let id = verdict.credential.uuid();
    Good {
        scope: scope(verdict.kind),
        client_id: id,
        jti: id,
        sub: verdict.holder,
        token_type: "Bearer",
        exp: verdict.expires_at.map(|at| at.micros() / 1_000_000),
        // An id is a UUIDv7 of the instant it was issued at.
        iat: id.get_timestamp().map(|at| at.to_unix().0),
        iss: app.config.public_url(),
        kind: verdict.kind,
        team_id: verdict.team,
    }
}

/// Lets a live `sv-` pass, presented in one of three ways.
fn service(app: &App, origin: &Origin, headers: &HeaderMap, in_form: Option<&str>) -> Result<(), OAuthError> {
    let basic = basic_password(headers)?;
    let (presented, refused) = match (basic, in_form) {
        (Some(_), Some(_)) => return Err(two_ways()),
        (Some(password), None) => (password, vec![basic_challenge()]),
        (None, Some(_)) if headers.contains_key(header::AUTHORIZATION) => return Err(two_ways()),
        (None, Some(secret)) => (secret.to_owned(), service_challenges()),
        (None, None) => match bearer(headers)? {
            Some(token) => (token.to_owned(), vec![Challenge::InvalidToken.header()]),
            None => {
                let description = "Only services may ask: present an sv- key as Bearer or as a client secret.";
                return Err(OAuthError::unauthorized("invalid_client", description, service_challenges()));
            }
        },
    };
    match app.verify_key(presented.as_bytes(), None, None, || origin.address) {
        Ok(verdict) if verdict.kind == Kind::Service => Ok(()),
        Ok(_) | Err(Denied::WrongSurface(_)) => Err(Problem::insufficient_scope("service").into()),
        Err(_) => {
            app.rates.verify_failure(origin.address)?;
            let bearer = refused.first() == Some(&Challenge::InvalidToken.header());
            let error = if bearer { "invalid_token" } else { "invalid_client" };
            Err(OAuthError::unauthorized(error, "What was presented is not valid here.", refused))
        }
    }
}

/// The password of HTTP Basic, if that is what the Authorization header holds. Any user name will do (RFC 6749 §2.3.1).
fn basic_password(headers: &HeaderMap) -> Result<Option<String>, OAuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next().and_then(|value| value.to_str().ok()), values.next()) else {
        return Ok(None);
    };
    let Some((scheme, encoded)) = value.split_once(' ') else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let password = BASE64_STANDARD.decode(encoded.trim()).ok().and_then(|bytes| {
        let text = String::from_utf8(bytes).ok()?;
        decoded(text.split_once(':')?.1)
    });
    let unreadable =
        || OAuthError::unauthorized("invalid_client", "HTTP Basic could not be read.", vec![basic_challenge()]);
    password.map(Some).ok_or_else(unreadable)
}

fn two_ways() -> OAuthError {
    OAuthError::invalid_request("Authenticate in one way: in the header or in the form.")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn password(value: &[u8]) -> Result<Option<String>, OAuthError> {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap())]);
        basic_password(&headers)
    }

    proptest! {
        #[test]
        fn basic_is_read_or_refused(user in "[ -~&&[^:]]{0,20}", secret in "[0-9A-Za-z-]{1,60}", junk in "[!-~]{0,60}") {
            for encode in [false, true] {
                let secret_sent = if encode { secret.replace('-', "%2D") } else { secret.clone() };
                let value = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{secret_sent}")));
                prop_assert_eq!(password(value.as_bytes()).unwrap(), Some(secret.clone()));
            }
            let _ = password(format!("Basic {junk}").as_bytes());
            prop_assert_eq!(password(format!("Bearer {junk}").as_bytes()).unwrap(), None);
        }
    }
}
