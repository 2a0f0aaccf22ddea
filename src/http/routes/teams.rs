//! `/api/v1/teams` and `/api/v1/policy`: making a team, and its rules for new keys.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::StatusCode;
use keyledger_events::{
    OperationId, TeamId,
    event::PolicyV1,
    team::{ChangePolicy, CreateTeam},
};
use keyledger_projections::Until;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::Shared,
    http::{
        ApiJson, Name, Problem,
        auth::{Caller, Conditions, Person},
        problem::ProblemBody,
        routes::auth::{TeamSeat, seats},
        write::{Write, at_position},
    },
    random,
};

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show_policy, change_policy))
}

/// Your teams.
#[derive(Serialize, ToSchema)]
struct Teams {
    teams: Vec<TeamSeat>,
}

/// Lists the teams of whoever asks.
#[utoipa::path(get, path = "/teams", tag = "people", responses((status = 200, body = Teams), (status = 401, body = ProblemBody)))]
async fn list(State(app): State<Shared>, person: Person) -> Json<Teams> {
    Json(Teams { teams: seats(&app, person.id) })
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    /// What its people call it.
    #[garde(dive)]
    name: Name,
}

/// A team that was just made.
#[derive(Serialize, ToSchema)]
struct Created {
    #[schema(value_type = Uuid)]
    id: TeamId,
    name: String,
    role: &'static str,
    position: u64,
}

/// Makes a team; whoever makes it owns it.
#[utoipa::path(post, path = "/teams", tag = "people", request_body = CreateBody, params(crate::http::openapi::IdempotencyHeader),
    responses((status = 201, body = Created), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 422, body = ProblemBody)))]
async fn create(
    State(app): State<Shared>,
    person: Person,
    conditions: Conditions,
    ApiJson(body): ApiJson<CreateBody>,
) -> Result<Response, Problem> {
    let idempotency = conditions.operation(TeamId::SYSTEM, person.id, &("create_team", &body));
    // A retry must reach the same stream, or it would make a second team.
    let id =
        idempotency.map_or_else(|| TeamId::from(random::uuid_v7(app.now())), |(operation, _)| named_after(operation));
    let owner_name = app.projections.people().label(person.id).unwrap_or_else(|| app.seal_name(person.id, "Owner"));
    let command = CreateTeam { name: body.name.clone().into_string(), owner: person.id, owner_name };
    let write = Write::new(id, person.who(&app)).idempotent(idempotency);
    let written = write.run(&app, move |_, _| command.clone().decide()).await?;
    let created = Created { id, name: body.name.into_string(), role: "owner", position: written.position.0 };
    Ok(at_position((StatusCode::CREATED, Json(created)).into_response(), written.position))
}

fn named_after(operation: OperationId) -> TeamId {
    TeamId::from(uuid::Builder::from_custom_bytes(*operation.as_bytes()).into_uuid())
}

/// A team's rules for new keys.
#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct Policy {
    /// The longest lifetime of a new key, in days.
    #[garde(range(min = 1, max = 365))]
    #[schema(minimum = 1, maximum = 365)]
    lifetime_days_max: u16,
    /// Whether a new key may live for ever.
    #[garde(skip)]
    never_allowed: bool,
    /// Whether only the owner and admins may issue.
    #[garde(skip)]
    admins_only: bool,
}

/// Shows the team's rules for new keys.
#[utoipa::path(get, path = "/policy", tag = "people", params(crate::http::openapi::TeamHeader),
    responses((status = 200, body = Policy), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn show_policy(State(app): State<Shared>, caller: Caller) -> Result<Json<Policy>, Problem> {
    let PolicyV1 { lifetime_days_max, never_allowed, admins_only } =
        app.team_at(caller.team, Until::Now, |view, _| view.policy)?;
    Ok(Json(Policy { lifetime_days_max, never_allowed, admins_only }))
}

/// Sets the team's rules for new keys. Keys that exist stay as they are.
#[utoipa::path(put, path = "/policy", tag = "people", request_body = Policy, params(crate::http::openapi::TeamHeader, crate::http::openapi::IdempotencyHeader),
    responses((status = 200, body = Policy), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn change_policy(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiJson(body): ApiJson<Policy>,
) -> Result<Response, Problem> {
    let policy = PolicyV1 {
        lifetime_days_max: body.lifetime_days_max,
        never_allowed: body.never_allowed,
        admins_only: body.admins_only,
    };
    let command = ChangePolicy { actor: caller.person.id, policy };
    let write = Write::by(&app, &caller, &conditions, &("policy", &body));
    let written = write.run(&app, move |team, _| command.clone().decide(team)).await?;
    Ok(at_position(Json(body).into_response(), written.position))
}
