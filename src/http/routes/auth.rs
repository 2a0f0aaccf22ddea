//! `/api/v1/auth/*` and `/api/v1/whoami`: signing in by a one-time link, access tokens, signing out.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use keyledger_events::{PersonId, TeamId, Timestamp, event::Role, secret::Kind, team::Join};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    app::{App, Shared},
    http::{
        ApiJson, Challenge, Name, Problem,
        auth::{Origin, Person, SESSION_COOKIE, bearer},
        write::Write,
    },
    identity::{
        link::Purpose,
        session::{SESSION_TTL, Session},
    },
};
use keyledger_events::record::{Actor, AuthMethod};

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(follow_link))
        .routes(routes!(renew))
        .routes(routes!(sign_out))
        .routes(routes!(whoami))
}

/// A one-time link that is followed.
#[derive(Deserialize, Validate, ToSchema)]
pub struct LinkBody {
    /// The link's token.
    #[garde(length(max = 200))]
    pub token: String,
    /// What to call you, when the link is an invitation.
    #[serde(default)]
    #[garde(dive)]
    pub name: Option<Name>,
}

/// A team of yours.
#[derive(Serialize, ToSchema)]
pub struct TeamSeat {
    /// For `X-Team-ID`.
    #[schema(value_type = Uuid)]
    pub id: TeamId,
    /// What its people call it.
    pub name: String,
    /// Yours in it.
    #[schema(value_type = String)]
    pub role: Role,
}

/// An access token, and whose it is.
#[derive(Serialize, ToSchema)]
pub struct SignedIn {
    /// For `Authorization: Bearer`.
    access_token: String,
    token_type: &'static str,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    #[schema(value_type = Uuid)]
    user_id: PersonId,
    teams: Vec<TeamSeat>,
}

/// Follows a one-time link: signs in, or joins a team and signs in. Sets the browser's cookie, too.
#[utoipa::path(post, path = "/auth/link", tag = "people", security(()), request_body = inline(LinkBody),
    responses((status = 200, body = SignedIn), (status = 400, body = crate::http::problem::ProblemBody), (status = 401, description = "used, run out, or never made", body = crate::http::problem::ProblemBody), (status = 409, body = crate::http::problem::ProblemBody)))]
async fn follow_link(
    State(app): State<Shared>,
    headers: HeaderMap,
    origin: Origin,
    ApiJson(body): ApiJson<LinkBody>,
) -> Result<Response, Problem> {
    app.rates.anonymous(origin.address)?;
    let present = signed_in_as(&app, &headers);
    let (session, cookie) = redeem(&app, &origin, present, body).await?;
    let mut response = signed_in(&app, &session)?.into_response();
    response
        .headers_mut()
        .insert(header::SET_COOKIE, site_cookie(&app, SESSION_COOKIE, &cookie, SESSION_TTL.as_secs()));
    Ok(response)
}

/// Uses a link up and starts a session. `present` is who follows it, if they are signed in already.
///
/// # Errors
/// 401 for a link that is not good; the refusal if the invited can't join.
pub async fn redeem(
    app: &App,
    origin: &Origin,
    present: Option<PersonId>,
    body: LinkBody,
) -> Result<(Session, String), Problem> {
    let now = app.now();
    let bad_link = || Problem::unauthorized(Challenge::InvalidToken);
    let person = match app.links.peek(&body.token, now).ok_or_else(bad_link)? {
        Purpose::SignIn { person } => {
            app.links.redeem(&body.token, now).ok_or_else(bad_link)?;
            person
        }
        Purpose::Invitation { team, role, invited_by } => {
            let name = body.name.as_ref().map(Name::as_str);
            let name = match (name, present) {
                (Some(name), _) => name.to_owned(),
                (None, Some(_)) => "Member".to_owned(),
                (None, None) => return Err(Problem::bad_request("name_required", "An invitation wants your name.")),
            };
            let link = app.links.redeem(&body.token, now).ok_or_else(bad_link)?;
            let person = match present {
                Some(person) => person,
                None => app.new_person().map_err(|error| {
                    tracing::error!(%error, "the keyring could not be written");
                    Problem::insufficient_storage()
                })?,
            };
            let command = Join { member: person, name: app.seal_name(person, &name), role, invited_by };
            let who = origin.who(app, Actor::Person(person), AuthMethod::Link, person);
            let joined = Write::new(team, who).run(app, move |team, _| command.clone().decide(team)).await;
            // Whoever could not join for a passing reason must not need a new invitation.
            joined.inspect_err(|_| app.links.put_back(&body.token, link, now))?;
            person
        }
    };
    Ok(app.sessions.start(person, now))
}

/// A fresh access token for the session that asks.
#[utoipa::path(post, path = "/auth/token", tag = "people",
    responses((status = 200, body = SignedIn), (status = 401, body = crate::http::problem::ProblemBody)))]
async fn renew(State(app): State<Shared>, person: Person) -> Result<Response, Problem> {
    let session = app.sessions.get(person.session).ok_or_else(|| Problem::unauthorized(Challenge::InvalidToken))?;
    signed_in(&app, &session).map(IntoResponse::into_response)
}

/// Ends the session that asks; its access tokens end with it.
#[utoipa::path(post, path = "/auth/logout", tag = "people",
    responses((status = 204), (status = 401, body = crate::http::problem::ProblemBody)))]
async fn sign_out(State(app): State<Shared>, person: Person) -> Response {
    app.sessions.end(person.session);
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::SET_COOKIE, site_cookie(&app, SESSION_COOKIE, "", 0));
    response
}

/// Who asks: a person with their teams, or a credential.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum WhoAmI {
    /// A signed-in person.
    Person {
        #[schema(value_type = Uuid)]
        user_id: PersonId,
        teams: Vec<TeamSeat>,
    },
    /// A live credential.
    Credential {
        credential_id: Uuid,
        #[schema(value_type = String)]
        kind: Kind,
        #[schema(value_type = Uuid)]
        team_id: TeamId,
        #[schema(value_type = Uuid)]
        user_id: PersonId,
        #[schema(value_type = Option<String>, format = DateTime)]
        expires_at: Option<Timestamp>,
    },
}

/// Says who asks.
#[utoipa::path(get, path = "/whoami", tag = "people",
    responses((status = 200, body = WhoAmI), (status = 401, body = crate::http::problem::ProblemBody)))]
async fn whoami(
    State(app): State<Shared>,
    headers: HeaderMap,
    person: Result<Person, Problem>,
) -> Result<Json<WhoAmI>, Problem> {
    let refused = match person {
        Ok(person) => return Ok(Json(WhoAmI::Person { user_id: person.id, teams: seats(&app, person.id) })),
        Err(refused) => refused,
    };
    let presented = bearer(&headers)?.unwrap_or_default();
    match app.projections.active().verify(presented.as_bytes(), None, None, app.now()) {
        Ok(verdict) => Ok(Json(WhoAmI::Credential {
            credential_id: verdict.credential.uuid(),
            kind: verdict.kind,
            team_id: verdict.team,
            user_id: verdict.holder,
            expires_at: verdict.expires_at,
        })),
        Err(_) => Err(refused),
    }
}

fn signed_in(app: &App, session: &Session) -> Result<impl IntoResponse + use<>, Problem> {
    let (access_token, expires_at) = app.tokens.issue(session, app.now()).ok_or_else(Problem::internal)?;
    let teams = seats(app, session.person);
    let body = SignedIn { access_token, token_type: "Bearer", expires_at, user_id: session.person, teams };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)))
}

/// Who sends this request, if they are signed in.
fn signed_in_as(app: &App, headers: &HeaderMap) -> Option<PersonId> {
    let token = app.tokens.read(bearer(headers).ok()??, app.now())?;
    app.sessions.is_live(token.session).then_some(token.person)
}

/// A person's teams; the system stream is not one.
pub fn seats(app: &App, person: PersonId) -> Vec<TeamSeat> {
    let people = app.projections.people();
    let teams = people.teams_of(person).into_iter().filter(|(team, _)| *team != TeamId::SYSTEM);
    let name = |team| people.team(team).map(|team| team.name.clone()).unwrap_or_default();
    teams.map(|(id, role)| TeamSeat { id, name: name(id), role }).collect()
}

/// A cookie for the browser: for this host only, unreadable for scripts, sent along by this site's own pages only.
pub fn site_cookie(app: &App, name: &str, value: &str, max_age_seconds: u64) -> HeaderValue {
    let secure = if app.config.public_url().starts_with("https:") { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_seconds}{secure}");
    HeaderValue::try_from(cookie).unwrap_or_else(|_| HeaderValue::from_static(""))
}
