//! `/api/v1/credentials`: issue, list, show, history, revoke, rotate.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::{HeaderValue, StatusCode, header};
use keyledger_client::types::{Credential, CredentialPage, Issued, PageMeta, RawKey};
use keyledger_events::{
    CredentialId, PersonId, Revision, TeamId, Timestamp,
    credential::{Issue, IssueService, KeyMaterial, OVERLAP_SECONDS_MAX, Revoke, Revoker, Rotate},
    event::{Event, RevokeReason},
    seal::{Label, Sealed},
    secret::{Kind, Secret},
    team::{Decision, Refusal, TeamState},
};
use keyledger_projections::team_view::{
    TeamView, Until,
    directory::{Filter, Lookups, Row, Status},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    app::{App, Shared},
    http::{
        ApiJson, ApiJsonOrDefault, ApiPath, ApiQuery, Name, Note, Problem,
        auth::{Caller, Conditions, Person},
        openapi::{IdempotencyHeader, IfMatchHeader, TeamHeader},
        problem::ProblemBody,
        views::{EventBody, as_of, credential_body, event_body},
        write::{Write, at_position},
    },
    ledger::Written,
    random,
};

/// The most credentials a page may hold.
const PER_PAGE_MAX: u32 = 100;
/// How many it holds if nobody says.
const PER_PAGE_DEFAULT: u32 = 20;

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, issue))
        .routes(routes!(show, revoke))
        .routes(routes!(history))
        .routes(routes!(rotate))
        .routes(routes!(issue_service))
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct IssueBody {
    /// `integration` or `agent`.
    #[garde(skip)]
    #[schema(value_type = String, example = "integration")]
    kind: Kind,
    /// What to call it.
    #[garde(dive)]
    display_name: Name,
    /// Its lifetime in days; none: never ends by itself.
    #[serde(default)]
    #[garde(range(min = 1, max = 365))]
    #[schema(minimum = 1, maximum = 365)]
    expires_in_days: Option<u16>,
    /// What it is for.
    #[serde(default)]
    #[garde(dive)]
    purpose: Option<Note>,
}

/// Issues a key for scripts or agents.
#[utoipa::path(post, path = "/credentials", tag = "credentials", request_body = IssueBody, params(TeamHeader, IdempotencyHeader),
    responses((status = 201, body = Issued), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody), (status = 507, body = ProblemBody)))]
async fn issue(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiJson(body): ApiJson<IssueBody>,
) -> Result<Response, Problem> {
    match body.kind {
        Kind::Integration | Kind::Agent => {}
        Kind::Device => {
            return Err(Problem::bad_request("device_by_pairing", "A device key is issued by confirming a pairing."));
        }
        Kind::Service => {
            return Err(Problem::bad_request("service_by_operator", "A service key is issued by the operator."));
        }
    }
    let (key, secret) = draw(&app, body.kind);
    let write = Write::by(&app, &caller, &conditions, &("issue", &body));
    let command = Issue {
        actor: caller.person.id,
        kind: body.kind,
        name: Label::Clear(body.display_name.into_string()),
        purpose: body.purpose.map(Note::into_string).filter(|purpose| !purpose.is_empty()),
        expires_in_days: body.expires_in_days,
        key,
    };
    let written = write.run(&app, move |team, now| command.clone().decide(team, now)).await?;
    issued(&app, &written, secret)
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct ServiceBody {
    /// Which gateway, edge or scraper it is for.
    #[garde(dive)]
    display_name: Name,
    /// Its lifetime in days; none: never ends by itself.
    #[serde(default)]
    #[garde(range(min = 1, max = 365))]
    #[schema(minimum = 1, maximum = 365)]
    expires_in_days: Option<u16>,
}

/// Issues an `sv-` key. For the ledger's operators.
#[utoipa::path(post, path = "/service-credentials", tag = "operators", request_body = ServiceBody, params(IdempotencyHeader),
    responses((status = 201, body = Issued), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 422, body = ProblemBody)))]
async fn issue_service(
    State(app): State<Shared>,
    person: Person,
    conditions: Conditions,
    ApiJson(body): ApiJson<ServiceBody>,
) -> Result<Response, Problem> {
    app.operator(&person)?;
    let (key, secret) = draw(&app, Kind::Service);
    let idempotency = conditions.operation(TeamId::SYSTEM, person.id, &("issue_service", &body));
    let command = IssueService {
        actor: person.id,
        name: body.display_name.into_string(),
        expires_in_days: body.expires_in_days,
        key,
    };
    let write = Write::new(TeamId::SYSTEM, person.who(&app)).idempotent(idempotency);
    let written = write.run(&app, move |system, now| command.clone().decide(system, now)).await?;
    issued(&app, &written, secret)
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    /// How long both keys live, in seconds.
    #[garde(range(max = OVERLAP_SECONDS_MAX))]
    #[schema(maximum = 2_592_000)]
    overlap_seconds: u32,
    /// The successor's lifetime in days; none: what the old key was issued for.
    #[serde(default)]
    #[garde(range(min = 1, max = 365))]
    #[schema(minimum = 1, maximum = 365)]
    expires_in_days: Option<u16>,
}

/// Issues a successor; the old key lives on for the overlap, never longer than it would have.
#[utoipa::path(post, path = "/credentials/{id}/rotate", tag = "credentials", request_body = RotateBody, params(("id" = Uuid, Path), TeamHeader, IdempotencyHeader, IfMatchHeader),
    responses((status = 201, body = Issued), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 412, body = ProblemBody), (status = 422, body = ProblemBody), (status = 507, body = ProblemBody)))]
async fn rotate(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiPath(id): ApiPath<Uuid>,
    ApiJson(body): ApiJson<RotateBody>,
) -> Result<Response, Problem> {
    let credential = CredentialId::from(id);
    let kind =
        app.team_at(caller.team, Until::Now, |view, _| visible(view, &caller, credential).map(|row| row.kind))?;
    let kind = kind.ok_or_else(Problem::not_found)?;
    let (key, secret) = draw(&app, kind);
    let write = Write::by(&app, &caller, &conditions, &("rotate", id, &body));
    let command = Rotate {
        actor: caller.person.id,
        credential,
        overlap_seconds: body.overlap_seconds,
        expires_in_days: body.expires_in_days,
        key,
    };
    let decide = move |team: &TeamState, now| command.clone().decide(team, now);
    let written = if_unchanged(&app, write, credential, conditions.if_match, decide).await?;
    issued(&app, &written, secret)
}

#[derive(Default, Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    /// Why, in your words.
    #[serde(default)]
    #[garde(dive)]
    reason: Option<Note>,
}

/// Ends a key, finally; a device takes its companion along. Ending it again changes nothing.
#[utoipa::path(delete, path = "/credentials/{id}", tag = "credentials", request_body = inline(Option<RevokeBody>), params(("id" = Uuid, Path), TeamHeader, IdempotencyHeader, IfMatchHeader),
    responses((status = 204), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 412, body = ProblemBody), (status = 422, body = ProblemBody)))]
async fn revoke(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiPath(id): ApiPath<Uuid>,
    ApiJsonOrDefault(body): ApiJsonOrDefault<RevokeBody>,
) -> Result<Response, Problem> {
    let credential = CredentialId::from(id);
    let write = Write::by(&app, &caller, &conditions, &("revoke", id, &body)).essential();
    let command = Revoke {
        by: Revoker::Person(caller.person.id),
        credential,
        reason: RevokeReason::Requested,
        note: body.reason.map(Note::into_string).filter(|reason| !reason.is_empty()),
    };
    let decide = move |team: &TeamState, now| command.clone().decide(team, now);
    let written = if_unchanged(&app, write, credential, conditions.if_match, decide).await?;
    Ok(at_position(StatusCode::NO_CONTENT.into_response(), written.position))
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// `integration`, `agent`, `device` or `service`.
    #[garde(skip)]
    #[param(value_type = Option<String>)]
    kind: Option<Kind>,
    /// `active`, `expired` or `revoked`.
    #[garde(skip)]
    status: Option<String>,
    /// Who issued it.
    #[garde(skip)]
    issued_by: Option<Uuid>,
    /// Whether whoever answers for it has left.
    #[serde(default)]
    #[garde(skip)]
    departed: bool,
    /// Ends by itself before this instant (RFC 3339).
    #[garde(skip)]
    #[param(value_type = Option<String>, format = DateTime)]
    expires_before: Option<Timestamp>,
    /// Not used for so many days.
    #[garde(range(max = 36_500))]
    unused_days: Option<u32>,
    /// A part of its name or prefix.
    #[garde(length(chars, max = 100))]
    q: Option<String>,
    /// The list as it stood: a position, or an instant (RFC 3339).
    #[garde(length(max = 64))]
    as_of: Option<String>,
    /// From 1.
    #[garde(range(min = 1, max = 1_000_000))]
    current_page: Option<u32>,
    /// At most 100; 20 if not given.
    #[garde(range(min = 1, max = PER_PAGE_MAX))]
    per_page: Option<u32>,
}

/// Lists the team's credentials, newest first. Members and viewers see no devices but their own.
#[utoipa::path(get, path = "/credentials", tag = "credentials", params(ListQuery, TeamHeader),
    responses((status = 200, body = CredentialPage), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    ApiQuery(query): ApiQuery<ListQuery>,
) -> Result<Response, Problem> {
    let status = query.status.as_deref().map(status_filter).transpose()?;
    let (current_page, per_page) = (query.current_page.unwrap_or(1), query.per_page.unwrap_or(PER_PAGE_DEFAULT));
    let until = query.as_of.as_deref().map_or(Ok(Until::Now), as_of)?;
    let own_devices_of = caller.sees_all().is_err().then_some(caller.person.id);
    let page = app.team_at(caller.team, until, |view, now| {
        let filter = Filter {
            kind: query.kind,
            status,
            issued_by: query.issued_by.map(PersonId::from),
            departed: query.departed,
            expires_before: query.expires_before,
            unused_days: query.unused_days,
            q: query.q.as_deref().filter(|q| !q.is_empty()),
            own_devices_of,
            ..Filter::default()
        };
        let last_used = |id| app.projections.active().last_used(id);
        let open = |sealed: &Sealed| app.open_sealed(sealed);
        let lookups = Lookups { last_used: &last_used, open: &open };
        let page = view.directory.page(&filter, now, &lookups, current_page.into(), per_page.into());
        CredentialPage {
            credentials: page.rows.into_iter().map(|row| credential_body(&app, view, row, now)).collect(),
            page_meta: PageMeta { current_page, per_page, total_count: page.total },
            position: app.ledger.position().unwrap_or_default().0,
        }
    })?;
    Ok(Json(page).into_response())
}

/// Shows one credential.
#[utoipa::path(get, path = "/credentials/{id}", tag = "credentials", params(("id" = Uuid, Path), TeamHeader),
    responses((status = 200, body = Credential), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn show(State(app): State<Shared>, caller: Caller, ApiPath(id): ApiPath<Uuid>) -> Result<Response, Problem> {
    let shown = app.team_at(caller.team, Until::Now, |view, now| {
        let row = visible(view, &caller, id.into())?;
        let etag = HeaderValue::try_from(format!("\"{}\"", row.revision)).ok();
        Some((Json(credential_body(&app, view, row, now)), etag))
    })?;
    let (body, etag) = shown.ok_or_else(Problem::not_found)?;
    let mut response = body.into_response();
    if let Some(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

/// The events about one credential, in order.
#[derive(Serialize, ToSchema)]
struct History {
    events: Vec<EventBody>,
    position: u64,
}

/// Shows what happened to one credential.
#[utoipa::path(get, path = "/credentials/{id}/history", tag = "credentials", params(("id" = Uuid, Path), TeamHeader),
    responses((status = 200, body = History), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn history(State(app): State<Shared>, caller: Caller, ApiPath(id): ApiPath<Uuid>) -> Result<Response, Problem> {
    let credential = CredentialId::from(id);
    let positions = app.team_at(caller.team, Until::Now, |view, _| {
        visible(view, &caller, credential).map(|_| view.history(credential))
    })?;
    let positions = positions.ok_or_else(Problem::not_found)?;
    let events = app.events(&positions)?.into_iter().map(|placed| event_body(&app, &caller, placed)).collect();
    Ok(Json(History { events, position: app.ledger.position().unwrap_or_default().0 }).into_response())
}

/// A row that the caller may see.
pub(super) fn visible<'a>(view: &'a TeamView, caller: &Caller, id: CredentialId) -> Option<&'a Row> {
    let own = |row: &Row| !row.is_personal() || row.holder == caller.person.id;
    view.directory.get(id).filter(|row| own(row) || caller.sees_all().is_ok())
}

fn status_filter(name: &str) -> Result<Status, Problem> {
    name.parse().map_err(|()| Problem::bad_request("invalid_query", "status is active, expired or revoked."))
}

fn draw(app: &App, kind: Kind) -> (KeyMaterial, Secret) {
    let secret = random::secret(kind);
    (KeyMaterial::new(CredentialId::from(random::uuid_v7(app.now())), &secret), secret)
}

/// The answer to an issue or a rotation, from what was appended: for a repeated request that is the first one's.
fn issued(app: &App, written: &Written, secret: Secret) -> Result<Response, Problem> {
    let record = written.records().next().ok_or_else(Problem::internal)?;
    let raw_key = (!written.repeated).then(|| RawKey::new(secret.expose()));
    let (id, kind, display_name, key_prefix, expires_at, rotated_from) = match record.record.event {
        Event::CredentialIssued(e) => (e.credential, e.kind, app.open(&e.name), e.prefix, e.expires_at, e.rotated_from),
        Event::ServiceCredentialIssued(e) => (e.credential, Kind::Service, Some(e.name), e.prefix, e.expires_at, None),
        _ => return Err(Problem::internal()),
    };
    let position = record.position;
    let key_prefix = key_prefix.to_string();
    let body = Issued { id, kind, display_name, key_prefix, raw_key, expires_at, rotated_from, position: position.0 };
    let mut response = (StatusCode::CREATED, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/credentials/{id}")) {
        headers.insert(header::LOCATION, location);
    }
    Ok(at_position(response, written.position))
}

/// Writes under `If-Match`, which is judged where the decision is made: nothing can come between.
async fn if_unchanged(
    app: &App,
    write: Write,
    credential: CredentialId,
    if_match: Option<Revision>,
    decide: impl Fn(&TeamState, Timestamp) -> Decision + Send + 'static,
) -> Result<Written, Problem> {
    let decide = move |team: &TeamState, now| match (if_match, team.credentials.get(&credential)) {
        (Some(expected), Some(key)) if key.revision != expected => Err(Refusal::Stale { actual: key.revision }),
        _ => decide(team, now),
    };
    // A stale `If-Match` is 412 (RFC 9110 §13.1.1), where a stale member of a body is 409.
    write.run(app, decide).await.map_err(|problem| match problem.code() {
        "stale_revision" if if_match.is_some() => Problem::precondition_failed(),
        _ => problem,
    })
}
