//! `/api/v1/desktop/pair/*` and `/api/v1/auth/device/revoke`: how a device gets its key, and ends it.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::{HeaderMap, StatusCode};
use keyledger_client::types::{PairingPolled, PairingStarted, RawKey};
use keyledger_events::{
    CredentialId, Position,
    credential::{KeyMaterial, PairDevice, Revoke, Revoker},
    event::RevokeReason,
    record::{Actor, AuthMethod},
    secret::Kind,
    team::DenyPairing,
};
use keyledger_projections::Verdict;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{App, Shared},
    http::{
        ApiJson, ApiJsonOrDefault, Challenge, Name, Problem,
        auth::{Caller, Origin, bearer},
        write::{Write, at_position},
    },
    identity::pairing::{Asking, CodeError, PAIRING_TTL, POLL_INTERVAL_SECONDS, Polled},
    random,
};

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(poll))
        .routes(routes!(confirm))
        .routes(routes!(deny))
        .routes(routes!(revoke_self))
}

/// What a device says of itself.
#[derive(Default, Deserialize, Validate, ToSchema)]
struct StartBody {
    /// What it calls itself; shown to the person who decides.
    #[serde(default)]
    #[garde(dive)]
    device_name: Option<Name>,
}

/// Starts a pairing.
#[utoipa::path(post, path = "/desktop/pair/start", tag = "pairing", security(()), request_body = inline(Option<StartBody>),
    responses((status = 200, body = PairingStarted), (status = 400, body = crate::http::problem::ProblemBody), (status = 429, body = crate::http::problem::ProblemBody)))]
async fn start(
    State(app): State<Shared>,
    origin: Origin,
    ApiJsonOrDefault(body): ApiJsonOrDefault<StartBody>,
) -> Result<Json<PairingStarted>, Problem> {
    app.rates.anonymous(origin.address)?;
    let name = body.device_name.map_or_else(|| "Unnamed device".to_owned(), Name::into_string);
    begin(&app, &origin, name, None).map(Json)
}

/// Starts a pairing for a device of this name, whose secrets only this OAuth client may fetch, if it is one.
///
/// # Errors
/// 429.
pub fn begin(
    app: &App,
    origin: &Origin,
    device_name: String,
    client_id: Option<String>,
) -> Result<PairingStarted, Problem> {
    app.rates.anonymous(origin.address)?;
    let asking = Asking { device_name, address: origin.address.to_string(), client_id };
    let started = app.pairings.start(asking, app.now());
    let (device_code, user_code) = started.ok_or_else(|| Problem::too_many_requests(PAIRING_TTL))?;
    let verification_uri = format!("{}/pair", app.config.public_url());
    Ok(PairingStarted {
        verification_uri_complete: format!("{verification_uri}?code={user_code}"),
        device_code: RawKey::new(device_code),
        user_code,
        verification_uri,
        expires_in: PAIRING_TTL.as_secs(),
        interval: POLL_INTERVAL_SECONDS,
    })
}

#[derive(Deserialize, Validate, ToSchema)]
struct PollBody {
    #[garde(length(max = 200))]
    device_code: String,
}

/// Asks what became of a pairing.
#[utoipa::path(post, path = "/desktop/pair/poll", tag = "pairing", security(()), request_body = inline(PollBody),
    responses((status = 200, body = PairingPolled), (status = 400, body = crate::http::problem::ProblemBody), (status = 404, description = "no such pairing, or its secrets were fetched", body = crate::http::problem::ProblemBody)))]
async fn poll(State(app): State<Shared>, ApiJson(body): ApiJson<PollBody>) -> Result<Response, Problem> {
    let answer = match app.pairings.poll(&body.device_code, None, app.now()).map_err(|_| Problem::not_found())? {
        Polled::Pending | Polled::TooSoon { .. } => PairingPolled::Pending,
        Polled::Denied => PairingPolled::Denied,
        Polled::Approved { device, companion } => PairingPolled::Approved {
            raw_key: RawKey::new(device.expose()),
            agent_key: RawKey::new(companion.expose()),
        },
    };
    Ok(([(http::header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

#[derive(Deserialize, Validate, ToSchema)]
struct CodeBody {
    /// As shown on the device; case, dashes and spaces do not matter.
    #[garde(length(max = 40))]
    user_code: String,
    /// Another name for the device than it gave itself.
    #[serde(default)]
    #[garde(dive)]
    device_name: Option<Name>,
}

/// Lets the device in: it gets its key, and a companion for its agents.
#[utoipa::path(post, path = "/desktop/pair/confirm", tag = "pairing", request_body = inline(CodeBody), params(crate::http::openapi::TeamHeader),
    responses((status = 204), (status = 400, body = crate::http::problem::ProblemBody), (status = 401, body = crate::http::problem::ProblemBody), (status = 403, body = crate::http::problem::ProblemBody), (status = 404, body = crate::http::problem::ProblemBody), (status = 429, body = crate::http::problem::ProblemBody)))]
async fn confirm(
    State(app): State<Shared>,
    caller: Caller,
    ApiJson(body): ApiJson<CodeBody>,
) -> Result<Response, Problem> {
    let position = allow(&app, &caller, &body.user_code, body.device_name).await?;
    Ok(at_position(StatusCode::NO_CONTENT.into_response(), position))
}

/// Why a decision on a pairing did not come about.
pub enum Undecided {
    /// The code is not good.
    Code(CodeError),
    /// The ledger refused, or could not.
    Problem(Problem),
}

impl From<CodeError> for Undecided {
    fn from(error: CodeError) -> Self {
        Self::Code(error)
    }
}

impl From<Problem> for Undecided {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Lets the device behind a code in, under its own name or another one.
///
/// # Errors
/// [`Undecided`]; the pairing then waits on.
pub async fn allow(app: &App, caller: &Caller, user_code: &str, name: Option<Name>) -> Result<Position, Undecided> {
    let now = app.now();
    let person = caller.person.id;
    let undecided = app.pairings.claim(user_code, caller.person.session, now)?;
    let name = name.map_or_else(|| undecided.facing.device_name.clone(), Name::into_string);
    let (device, companion) = (random::secret(Kind::Device), random::secret(Kind::Agent));
    let new_id = || CredentialId::from(random::uuid_v7(now));
    let command = PairDevice {
        actor: person,
        name: app.seal_name(person, &name),
        companion_name: app.seal_name(person, &format!("{name} (agent)")),
        device: KeyMaterial::new(new_id(), &device),
        companion: KeyMaterial::new(new_id(), &companion),
    };
    let write = Write::new(caller.team, caller.person.who(app));
    let written = write.run(app, move |team, now| command.clone().decide(team, now)).await?;
    undecided.approve(device, companion);
    Ok(written.position)
}

/// Refuses the device.
#[utoipa::path(post, path = "/desktop/pair/deny", tag = "pairing", request_body = inline(CodeBody), params(crate::http::openapi::TeamHeader),
    responses((status = 204), (status = 400, body = crate::http::problem::ProblemBody), (status = 401, body = crate::http::problem::ProblemBody), (status = 404, body = crate::http::problem::ProblemBody), (status = 429, body = crate::http::problem::ProblemBody)))]
async fn deny(
    State(app): State<Shared>,
    caller: Caller,
    ApiJson(body): ApiJson<CodeBody>,
) -> Result<Response, Problem> {
    let position = refuse(&app, &caller, &body.user_code).await?;
    Ok(at_position(StatusCode::NO_CONTENT.into_response(), position))
}

/// Refuses the device behind a code.
///
/// # Errors
/// [`Undecided`]; the pairing then waits on.
pub async fn refuse(app: &App, caller: &Caller, user_code: &str) -> Result<Position, Undecided> {
    let undecided = app.pairings.claim(user_code, caller.person.session, app.now())?;
    let person = caller.person.id;
    let command = DenyPairing { actor: person, device_name: app.seal_name(person, &undecided.facing.device_name) };
    let write = Write::new(caller.team, caller.person.who(app));
    let written = write.run(app, move |team, _| command.clone().decide(team)).await?;
    undecided.deny();
    Ok(written.position)
}

/// Ends the device that asks, and its companion.
#[utoipa::path(post, path = "/auth/device/revoke", tag = "pairing",
    responses((status = 204), (status = 401, body = crate::http::problem::ProblemBody), (status = 403, body = crate::http::problem::ProblemBody)))]
async fn revoke_self(State(app): State<Shared>, origin: Origin, headers: HeaderMap) -> Result<Response, Problem> {
    let presented = bearer(&headers)?.ok_or_else(|| Problem::unauthorized(Challenge::Missing))?;
    let verdict = app
        .verify_key(presented.as_bytes(), None, None, || origin.address)
        .map_err(|_| Problem::unauthorized(Challenge::InvalidToken))?;
    if verdict.kind != Kind::Device {
        return Err(Problem::insufficient_scope("device"));
    }
    let position = end_itself(&app, &origin, &verdict).await?;
    Ok(at_position(StatusCode::NO_CONTENT.into_response(), position))
}

/// Ends the credential that was presented, a device with its companion.
///
/// # Errors
/// When it can't be written.
pub async fn end_itself(app: &App, origin: &Origin, verdict: &Verdict) -> Result<Position, Problem> {
    let who = origin.who(app, Actor::Credential(verdict.credential), AuthMethod::Secret, verdict.holder);
    let command =
        Revoke { by: Revoker::Holder, credential: verdict.credential, reason: RevokeReason::SelfRevoked, note: None };
    let write = Write::new(verdict.team, who).essential();
    let written = write.run(app, move |team, now| command.clone().decide(team, now)).await?;
    Ok(written.position)
}

impl From<Undecided> for Problem {
    fn from(undecided: Undecided) -> Self {
        match undecided {
            Undecided::Code(error) => error.into(),
            Undecided::Problem(problem) => problem,
        }
    }
}

impl From<CodeError> for Problem {
    fn from(error: CodeError) -> Self {
        match error {
            CodeError::Unknown | CodeError::Decided | CodeError::Expired => Self::new(
                StatusCode::NOT_FOUND,
                "unknown_code",
                "No device waits under this code; it may have run out or been used.",
            ),
            CodeError::TooManyGuesses => Self::too_many_requests(PAIRING_TTL),
        }
    }
}
