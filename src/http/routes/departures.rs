//! `/api/v1/members/{id}/departure` and `/api/v1/departures`: a person leaves, and somebody decides on every key.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::{HeaderValue, header};
use keyledger_client::types::Credential;
use keyledger_events::{CredentialId, PersonId, Revision, Timestamp, team::Depart};
use keyledger_projections::team_view::{TeamView, Until, departures::Undecided};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    app::{App, Shared},
    http::{
        ApiJson, ApiPath, Problem,
        auth::{Caller, Conditions},
        openapi::{IdempotencyHeader, TeamHeader},
        problem::ProblemBody,
        routes::members::{Member, member_body},
        views::{EventBody, credential_body, event_body},
        write::{Write, at_position},
    },
};

/// How many keys one decision may name.
const DECIDED_LEN_MAX: usize = 1_000;

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(dossier, decide)).routes(routes!(queue))
}

/// Everything that a member's departure is about.
#[derive(Serialize, ToSchema)]
struct Dossier {
    member: Member,
    /// What the decision must expect: `expected_revision`.
    revision: u64,
    /// Devices and companions: these end by themselves when the member goes.
    ends_by_itself: Vec<Credential>,
    /// The live keys they answer for, riskiest first: used within 30 days (the latest first), then those that never end,
    /// then the oldest.
    to_decide: Vec<Credential>,
    position: u64,
}

/// Shows what a member's departure would end by itself, and what somebody must decide on.
#[utoipa::path(get, path = "/members/{id}/departure", tag = "people", params(("id" = Uuid, Path), TeamHeader),
    responses((status = 200, body = Dossier), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn dossier(State(app): State<Shared>, caller: Caller, ApiPath(id): ApiPath<Uuid>) -> Result<Response, Problem> {
    caller.sees_all()?;
    let last_used = |id| app.projections.active().last_used(id);
    let dossier = app.team_at(caller.team, Until::Now, |view, now| {
        let found = view.dossier(PersonId::from(id), now, &last_used)?;
        Some(Dossier {
            member: member_body(&app, found.member),
            revision: found.head.map_or(0, |head| head.revision.0),
            ends_by_itself: found.ending.iter().map(|row| credential_body(&app, view, row, now)).collect(),
            to_decide: bodies(&app, view, &found.to_decide, now),
            position: app.ledger.position().unwrap_or_default().0,
        })
    })?;
    let dossier = dossier.ok_or_else(Problem::not_found)?;
    let etag = HeaderValue::try_from(format!("\"{}\"", dossier.revision)).ok();
    let mut response = Json(dossier).into_response();
    if let Some(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct DecideBody {
    /// Keys to end.
    #[serde(default)]
    #[garde(length(max = DECIDED_LEN_MAX))]
    revoke: Vec<Uuid>,
    /// Keys that somebody else answers for from now on.
    #[serde(default)]
    #[garde(length(max = DECIDED_LEN_MAX), dive)]
    hand_over: Vec<HandOver>,
    /// The dossier's revision; or the ETag as `If-Match`.
    #[serde(default)]
    #[garde(skip)]
    expected_revision: Option<u64>,
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct HandOver {
    /// The key.
    #[garde(skip)]
    id: Uuid,
    /// A present member who may issue keys.
    #[garde(skip)]
    to: Uuid,
}

/// What a departure has done, for the records: events that an auditor can look up.
#[derive(Serialize, ToSchema)]
struct Receipt {
    events: Vec<EventBody>,
    /// How many keys of the member still wait for a decision.
    undecided: usize,
    position: u64,
}

/// Removes the member (if they are still there), ends and hands over the keys named, all in one commit. 409 with the
/// team's newer `revision` if something has changed since the dossier was read.
#[utoipa::path(post, path = "/members/{id}/departure", tag = "people", request_body = DecideBody, params(("id" = Uuid, Path), TeamHeader, IdempotencyHeader),
    responses((status = 200, body = Receipt), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
async fn decide(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiPath(id): ApiPath<Uuid>,
    ApiJson(body): ApiJson<DecideBody>,
) -> Result<Response, Problem> {
    caller.admin()?;
    let expected = body.expected_revision.map(Revision).or(conditions.if_match);
    let expected_revision = expected.ok_or_else(|| {
        Problem::bad_request(
            "revision_required",
            "expected_revision must be the revision of the dossier you decided on.",
        )
    })?;
    let member = PersonId::from(id);
    let write = Write::by(&app, &caller, &conditions, &("departure", id, &body)).essential();
    let command = Depart {
        actor: caller.person.id,
        member,
        revoke: body.revoke.iter().copied().map(CredentialId::from).collect(),
        hand_over: body.hand_over.iter().map(|key| (key.id.into(), key.to.into())).collect(),
        expected_revision,
    };
    let written = write.run(&app, move |team, now| command.clone().decide(team, now)).await?;
    let last_used = |id| app.projections.active().last_used(id);
    let undecided = app.team_at(caller.team, Until::Now, |view, now| {
        view.dossier(member, now, &last_used).map_or(0, |dossier| dossier.to_decide.len())
    })?;
    let events = written.records().map(|placed| event_body(&app, &caller, placed)).collect();
    let receipt = Receipt { events, undecided, position: written.position.0 };
    Ok(at_position(Json(receipt).into_response(), written.position))
}

/// The team's live keys whose holder has left and nobody has decided on.
#[derive(Serialize, ToSchema)]
struct Queue {
    /// Riskiest first. It should be empty.
    credentials: Vec<Credential>,
    total_count: usize,
    position: u64,
}

/// Lists the team's live keys whose holder has left and nobody has decided on.
#[utoipa::path(get, path = "/departures", tag = "people", params(TeamHeader),
    responses((status = 200, body = Queue), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn queue(State(app): State<Shared>, caller: Caller) -> Result<Json<Queue>, Problem> {
    caller.sees_all()?;
    let last_used = |id| app.projections.active().last_used(id);
    let credentials =
        app.team_at(caller.team, Until::Now, |view, now| bodies(&app, view, &view.undecided(now, &last_used), now))?;
    let position = app.ledger.position().unwrap_or_default().0;
    Ok(Json(Queue { total_count: credentials.len(), credentials, position }))
}

fn bodies(app: &App, view: &TeamView, keys: &[Undecided<'_>], now: Timestamp) -> Vec<Credential> {
    keys.iter().map(|key| credential_body(app, view, key.row, now)).collect()
}
