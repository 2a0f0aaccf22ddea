//! `/api/v1/history`: the auditor's questions, asked of the running ledger about one team. The answers are those of
//! `keyledger replay … --json` over a directory, with the names opened that the caller may read.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, State},
};
use garde::Validate;
use http::request::Parts;
use keyledger_events::{Position, seal::Label, store::ReadLog};
use keyledger_replay::{
    Moment, Point, ReplayError, Standing, TeamLog,
    as_of::as_of,
    diff::diff,
    explain::{Name, explain},
    quiet,
    what_if::{Period, Policy, what_if},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{App, Shared},
    http::{ApiQuery, Problem, auth::Caller, openapi::TeamHeader, problem::ProblemBody},
};

/// How many questions are answered at once: each folds a whole stream, and verification needs the cores.
static UNDER_WAY: Semaphore = Semaphore::const_new(2);
/// How long a question waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// The most credentials an answer may name; whoever needs more asks a copy of the directory.
const CREDENTIALS_MAX: usize = 100_000;

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(alive_as_of))
        .routes(routes!(explanation))
        .routes(routes!(difference))
        .routes(routes!(policy_what_if))
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AsOfQuery {
    /// When: an instant (what held then, by all that is known now) or a position (what was known there).
    #[garde(length(max = 64))]
    at: Option<String>,
    /// Use no more than what was known at this position.
    #[garde(skip)]
    known_at: Option<u64>,
}

/// Lists which of the team's credentials were alive.
#[utoipa::path(get, path = "/history/as-of", tag = "audit", params(AsOfQuery, TeamHeader),
    responses((status = 200, description = "`moment`, `credentials`, `teams`", body = Value), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn alive_as_of(
    State(app): State<Shared>,
    Auditor(caller): Auditor,
    ApiQuery(query): ApiQuery<AsOfQuery>,
) -> Result<Json<Value>, Problem> {
    let moment = match (query.at.as_deref().map(point).transpose()?, query.known_at.map(Position)) {
        (Some(Point::Position(_)), Some(_)) => {
            return Err(Problem::bad_request(
                "invalid_query",
                "at is a position already; give an instant with known_at.",
            ));
        }
        (Some(Point::Instant(at)), known_at) => Moment { at: Some(at), known_at },
        (Some(at), None) => at.into(),
        (None, Some(known_at)) => Moment { at: None, known_at: Some(known_at) },
        (None, None) => return Err(Problem::bad_request("invalid_query", "Give at, or known_at.")),
    };
    ask(app, caller, move |app, caller, log| {
        let resolved = log.resolve(moment)?;
        let known = Moment { known_at: moment.known_at.and(resolved.known_at), ..resolved.into() };
        let mut found = as_of(log, known, Some(caller.team), &quiet)?;
        found.moment = resolved;
        found.credentials.iter_mut().for_each(|standing| open(app, standing));
        answer(&found, found.credentials.len())
    })
    .await
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ExplainQuery {
    /// Which credential: its id, or the first 12 characters of its key.
    #[garde(length(max = 64))]
    credential: String,
    /// When: an instant or a position; now if not given.
    #[garde(length(max = 64))]
    at: Option<String>,
}

/// Tells one credential's life: when it was alive, at which position it died, and why.
#[utoipa::path(get, path = "/history/explain", tag = "audit", params(ExplainQuery, TeamHeader),
    responses((status = 200, description = "`moment`, `credential`, `team_name`, `verdict`, `steps`, `sentence`", body = Value), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn explanation(
    State(app): State<Shared>,
    Auditor(caller): Auditor,
    ApiQuery(query): ApiQuery<ExplainQuery>,
) -> Result<Json<Value>, Problem> {
    let name: Name = query.credential.parse().map_err(|_| {
        Problem::bad_request("invalid_query", "credential is an id, or the first 12 characters of a key.")
    })?;
    let moment = query.at.as_deref().map(point).transpose()?.map(Moment::from).unwrap_or_default();
    ask(app, caller, move |app, _, log| {
        let resolved = log.resolve(moment)?;
        let known = Moment { known_at: moment.known_at.and(resolved.known_at), ..resolved.into() };
        let mut told = explain(log, &name, known, &|sealed| app.open_sealed(sealed), &quiet)?;
        told.moment = resolved;
        open(app, &mut told.credential);
        let mut answer = answer(&told, 1)?;
        answer["sentence"] = json!(told.sentence());
        Ok(answer)
    })
    .await
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DiffQuery {
    /// The earlier point: an instant or a position.
    #[garde(length(max = 64))]
    from: String,
    /// The later point.
    #[garde(length(max = 64))]
    to: String,
}

/// Lists what changed in the team between two points.
#[utoipa::path(get, path = "/history/diff", tag = "audit", params(DiffQuery, TeamHeader),
    responses((status = 200, description = "`from`, `to`, `events`, `born`, `died`, `passed`, `shortened`, `handed_over`, `members`, `teams_created`, `policies_changed`, `teams`", body = Value), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn difference(
    State(app): State<Shared>,
    Auditor(caller): Auditor,
    ApiQuery(query): ApiQuery<DiffQuery>,
) -> Result<Json<Value>, Problem> {
    let (from, to) = (point(&query.from)?, point(&query.to)?);
    ask(app, caller, move |app, caller, log| {
        let [earlier, later] = [log.point(from)?, log.point(to)?];
        // An instant is compared by the clock alone.
        let of = |point, resolved: keyledger_replay::ResolvedMoment| match point {
            Point::Instant(at) => Moment { at: Some(at), known_at: None },
            Point::Position(_) => resolved.into(),
        };
        let mut found = diff(log, of(from, earlier), of(to, later), Some(caller.team), &quiet)?;
        (found.from, found.to) = (earlier, later);
        let died = found.died.iter_mut().chain(&mut found.passed).map(|died| &mut died.credential);
        found.born.iter_mut().chain(died).for_each(|standing| open(app, standing));
        answer(&found, found.born.len() + found.died.len() + found.passed.len())
    })
    .await
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WhatIfQuery {
    /// A credential ends so long after it was issued, such as `90d` or `12h`; a companion with its device.
    #[garde(length(max = 64))]
    max_lifetime: Option<String>,
    /// A credential ends when it was not used for so long, since its issue or its last use. Only the last use is known.
    #[garde(length(max = 64))]
    idle: Option<String>,
    /// The `sk-` and `ak-` that a member answers for end the instant they depart.
    #[serde(default)]
    #[garde(skip)]
    revoke_on_departure: bool,
}

/// Lays a policy over what happened: which credentials it would have ended, when, and which were used afterwards.
#[utoipa::path(get, path = "/history/what-if", tag = "audit", params(WhatIfQuery, TeamHeader),
    responses((status = 200, description = "`moment`, `policy`, `judged`, `ended`, `used_afterwards`, `not_known`, `teams`", body = Value), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn policy_what_if(
    State(app): State<Shared>,
    Auditor(caller): Auditor,
    ApiQuery(query): ApiQuery<WhatIfQuery>,
) -> Result<Json<Value>, Problem> {
    let policy = Policy {
        max_lifetime: query.max_lifetime.as_deref().map(period).transpose()?,
        idle: query.idle.as_deref().map(period).transpose()?,
        revoke_on_departure: query.revoke_on_departure,
    };
    if policy == Policy::default() {
        return Err(Problem::bad_request("invalid_query", "Give max_lifetime, idle or revoke_on_departure."));
    }
    ask(app, caller, move |app, caller, log| {
        let last_used = |id| app.projections.active().last_used(id);
        let mut found = what_if(log, policy, Some(&last_used), Some(caller.team), Some(app.now()), &quiet)?;
        found.moment.known_at = log.resolve(Moment::default())?.known_at;
        found.ended.iter_mut().for_each(|would| open(app, &mut would.credential));
        answer(&found, found.ended.len())
    })
    .await
}

/// Somebody who may read everything of their team. Looked at before the query: whoever may not ask is not told how to.
struct Auditor(Caller);

impl FromRequestParts<Shared> for Auditor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.sees_all()?;
        Ok(Self(caller))
    }
}

/// Asks the team's part of the log, off the threads that serve requests, a few questions at a time.
async fn ask(
    app: Shared,
    caller: Caller,
    question: impl FnOnce(&App, &Caller, &TeamLog) -> Result<Value, Unanswered> + Send + 'static,
) -> Result<Json<Value>, Problem> {
    let busy = || {
        let problem = Problem::unavailable("busy", "Other questions about history are being answered; ask again.");
        problem.with_retry_after(Duration::from_secs(1))
    };
    let turn = tokio::time::timeout(TURN_WAIT, UNDER_WAY.acquire()).await;
    let turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
    let log: Arc<dyn ReadLog> = app.store.clone();
    let head = log.head();
    if let Some(last) = head.position.0.checked_sub(1).map(Position)
        && !app.ledger.wait_for(last, TURN_WAIT).await
    {
        return Err(busy());
    }
    let work = move || {
        // Held until the work ends, even if whoever asked has gone.
        let _turn = turn;
        let log = TeamLog::new(log, head, app.projections.team_commits(caller.team));
        question(&app, &caller, &log)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(answered) => answered.map(Json).map_err(Problem::from),
        Err(error) => {
            tracing::error!(%error, "a question about history ended");
            Err(Problem::internal())
        }
    }
}

/// Why a question has no answer.
enum Unanswered {
    Replay(ReplayError),
    TooMany(usize),
}

impl From<ReplayError> for Unanswered {
    fn from(error: ReplayError) -> Self {
        Self::Replay(error)
    }
}

impl From<Unanswered> for Problem {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::TooMany(count) => {
                let detail =
                    format!("The answer has {count} credentials, {CREDENTIALS_MAX} are the most here; ask a copy.");
                Self::unprocessable("answer_too_large", detail).with_member("credentials", count)
            }
            Unanswered::Replay(error) => match error {
                ReplayError::Read(error) => error.into(),
                ReplayError::Record { .. } => crate::app::unreadable(&error),
                ReplayError::NoCredential(_) => Self::not_found(),
                ReplayError::NoPosition { .. } => Self::bad_request("no_such_position", "The log has not got there."),
                ReplayError::Backwards => Self::bad_request("invalid_query", "to lies before from."),
                ReplayError::Ambiguous(_) => {
                    Self::bad_request("ambiguous_credential", "Several credentials begin so; name one by its id.")
                }
                ReplayError::NoRule | ReplayError::NoUsage => {
                    Self::bad_request("invalid_query", "The policy has no rule.")
                }
            },
        }
    }
}

fn answer(answer: &impl Serialize, credentials: usize) -> Result<Value, Unanswered> {
    if credentials > CREDENTIALS_MAX {
        return Err(Unanswered::TooMany(credentials));
    }
    // Answers are structs of texts, numbers and lists: JSON refuses none of them.
    Ok(serde_json::to_value(answer).unwrap_or_default())
}

/// Opens a sealed name where its key still exists.
fn open(app: &App, standing: &mut Standing) {
    if let Some(name) = app.open(&standing.name) {
        standing.name = Label::Clear(name);
    }
}

fn point(text: &str) -> Result<Point, Problem> {
    text.parse().map_err(|_| {
        Problem::bad_request("invalid_query", "A point is a position, or an instant such as 2026-03-03T12:00:00Z.")
    })
}

fn period(text: &str) -> Result<Period, Problem> {
    text.parse()
        .map_err(|_| Problem::bad_request("invalid_query", "A span is of whole seconds, such as 90d, 12h or 30m."))
}
