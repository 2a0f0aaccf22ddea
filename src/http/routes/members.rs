//! `/api/v1/members` and invitations.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::StatusCode;
use keyledger_events::{
    PersonId, TeamId, Timestamp,
    event::Role,
    team::{ChangeRole, ErasePerson, RemoveMember},
};
use keyledger_projections::team_view::Until;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    app::{App, Shared},
    http::{
        ApiJson, ApiPath, Problem,
        auth::{Caller, Conditions, Person},
        problem::ProblemBody,
        write::{Write, at_position},
    },
    identity::link::Purpose,
};

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(invite))
        .routes(routes!(change_role, remove))
        .routes(routes!(sign_in_link))
        .routes(routes!(erase))
}

/// A person in the team, now or once.
#[derive(Serialize, ToSchema)]
pub struct Member {
    #[schema(value_type = Uuid)]
    id: PersonId,
    /// None once the person has been erased.
    name: Option<String>,
    #[schema(value_type = String)]
    role: Role,
    #[schema(value_type = String, format = DateTime)]
    joined_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    departed_at: Option<Timestamp>,
}

/// The team's people.
#[derive(Serialize, ToSchema)]
struct Members {
    members: Vec<Member>,
    /// The team's last revision.
    revision: u64,
}

/// Lists the team's people; who has left is listed for those who may read everything.
#[utoipa::path(get, path = "/members", tag = "people", params(crate::http::openapi::TeamHeader),
    responses((status = 200, body = Members), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn list(State(app): State<Shared>, caller: Caller) -> Result<Json<Members>, Problem> {
    let sees_departed = caller.sees_all().is_ok();
    let members = app.team_at(caller.team, Until::Now, |view, _| Members {
        members: view
            .members
            .values()
            .filter(|member| sees_departed || member.departed_at.is_none())
            .map(|member| member_body(&app, member))
            .collect(),
        revision: view.head.map_or(0, |head| head.revision.0),
    })?;
    Ok(Json(members))
}

/// Writes a member out.
pub fn member_body(app: &App, member: &keyledger_projections::team_view::Member) -> Member {
    Member {
        id: member.person,
        name: app.open(&member.label),
        role: member.role,
        joined_at: member.joined_at,
        departed_at: member.departed_at,
    }
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct InviteBody {
    /// As what: `admin`, `member`, `viewer` or `auditor`.
    #[garde(skip)]
    #[schema(value_type = String, example = "member")]
    role: Role,
}

/// A link that lets one person in.
#[derive(Serialize, ToSchema)]
struct Invitation {
    /// Whoever opens it first joins.
    url: String,
    #[schema(value_type = String)]
    role: Role,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Makes an invitation: a link, good for one person and seven days.
#[utoipa::path(post, path = "/members/invitations", tag = "people", request_body = InviteBody, params(crate::http::openapi::TeamHeader),
    responses((status = 201, body = Invitation), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn invite(
    State(app): State<Shared>,
    caller: Caller,
    ApiJson(body): ApiJson<InviteBody>,
) -> Result<Response, Problem> {
    caller.admin()?;
    if body.role == Role::Owner {
        return Err(Problem::forbidden("forbidden", "Nobody is invited as owner; transfer the ownership instead."));
    }
    let InviteBody { role } = body;
    let purpose = Purpose::Invitation { team: caller.team, role, invited_by: caller.person.id };
    let (token, expires_at) = app.links.make(purpose, app.now());
    let url = app.sign_in_url(&token);
    Ok((
        StatusCode::CREATED,
        [(http::header::CACHE_CONTROL, "no-store")],
        Json(Invitation { url, role, expires_at }),
    )
        .into_response())
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleBody {
    /// `owner` transfers the ownership: the owner becomes an admin.
    #[garde(skip)]
    #[schema(value_type = String, example = "admin")]
    role: Role,
}

/// Gives a member another role.
#[utoipa::path(patch, path = "/members/{id}", tag = "people", request_body = RoleBody, params(("id" = Uuid, Path), crate::http::openapi::TeamHeader, crate::http::openapi::IdempotencyHeader),
    responses((status = 204), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
async fn change_role(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiPath(id): ApiPath<Uuid>,
    ApiJson(body): ApiJson<RoleBody>,
) -> Result<Response, Problem> {
    let command = ChangeRole { actor: caller.person.id, member: id.into(), role: body.role };
    let write = Write::by(&app, &caller, &conditions, &("role", id, &body));
    let written = write.run(&app, move |team, _| command.clone().decide(team)).await?;
    Ok(at_position(StatusCode::NO_CONTENT.into_response(), written.position))
}

/// Removes a member, or lets whoever asks leave. Their sessions and devices end with it; the other keys they answer for
/// wait on the departures queue.
#[utoipa::path(delete, path = "/members/{id}", tag = "people", params(("id" = Uuid, Path), crate::http::openapi::TeamHeader, crate::http::openapi::IdempotencyHeader),
    responses((status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
async fn remove(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Response, Problem> {
    let command = RemoveMember { actor: caller.person.id, member: id.into() };
    let write = Write::by(&app, &caller, &conditions, &("remove", id)).essential();
    let written = write.run(&app, move |team, now| command.clone().decide(team, now)).await?;
    Ok(at_position(StatusCode::NO_CONTENT.into_response(), written.position))
}

/// A link that signs a person in again.
#[derive(Serialize, ToSchema)]
struct SignInLink {
    url: String,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Makes a sign-in link for a person who has lost their session. For the ledger's operators.
#[utoipa::path(post, path = "/persons/{id}/sign-in-link", tag = "operators", params(("id" = Uuid, Path)),
    responses((status = 201, body = SignInLink), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn sign_in_link(
    State(app): State<Shared>,
    person: Person,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Response, Problem> {
    app.operator(&person)?;
    let subject = PersonId::from(id);
    if app.projections.people().teams_of(subject).is_empty() {
        return Err(Problem::not_found());
    }
    let (token, expires_at) = app.links.make(Purpose::SignIn { person: subject }, app.now());
    let link = SignInLink { url: app.sign_in_url(&token), expires_at };
    Ok((StatusCode::CREATED, [(http::header::CACHE_CONTROL, "no-store")], Json(link)).into_response())
}

/// Erases a person who is in no team any more: destroys the key of everything personal that the log holds of them.
/// For the ledger's operators; it can't be undone.
#[utoipa::path(post, path = "/persons/{id}/erase", tag = "operators", params(("id" = Uuid, Path)),
    responses((status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
async fn erase(State(app): State<Shared>, person: Person, ApiPath(id): ApiPath<Uuid>) -> Result<Response, Problem> {
    app.operator(&person)?;
    let subject = PersonId::from(id);
    if app.keyring.get(subject).is_none() {
        return Err(Problem::not_found());
    }
    let still_member = !app.projections.people().teams_of(subject).is_empty();
    let command = ErasePerson { actor: person.id, person: subject, still_member };
    let write = Write::new(TeamId::SYSTEM, person.who(&app));
    let written = write.run(&app, move |system, _| command.clone().decide(system)).await?;
    app.keyring.erase(subject).map_err(|error| {
        tracing::error!(%error, "a person's key could not be erased; it is tried again at the next start");
        Problem::unavailable("erasure_pending", "The erasure is recorded; the key is destroyed at the next start.")
    })?;
    Ok(at_position(StatusCode::NO_CONTENT.into_response(), written.position))
}
