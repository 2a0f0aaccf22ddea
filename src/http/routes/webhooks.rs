//! `/api/v1/webhooks`: where the team's events are sent, how that goes, and what the receiver needs to check them.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::StatusCode;
use keyledger_events::{
    Event, Timestamp, WebhookId,
    team::{AddWebhook, ChangeWebhook, RemoveWebhook, WEBHOOK_URL_LEN_MAX, WebhookChange, webhook_types},
};
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
        write::{Write, at_position},
    },
    ledger::Written,
    random,
    webhooks::{Endpoint, delivery, progress::Attempt},
};

/// More types than there are.
const TYPES_LEN_MAX: usize = 100;
const TYPE_LEN_MAX: usize = 64;

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(event_types))
        .routes(routes!(show, change, remove))
        .routes(routes!(rotate_secret))
        .routes(routes!(resume))
        .routes(routes!(test))
        .routes(routes!(deliveries))
}

/// An endpoint, and how sending to it goes.
#[derive(Serialize, ToSchema)]
struct WebhookBody {
    #[schema(value_type = Uuid)]
    id: WebhookId,
    url: String,
    /// What it is told of; none: everything.
    event_types: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// `active`, `retrying` or `parked`. With a parked one nothing is tried until somebody resumes or changes it.
    state: &'static str,
    /// Why it is parked, in words.
    parked_reason: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    parked_at: Option<Timestamp>,
    /// How often the message at hand has failed.
    failures: u32,
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_success_at: Option<Timestamp>,
    /// Every event up to this position is delivered, or not wanted. Further on there may be some that wait.
    position_reached: u64,
    /// Until when the secret before the last rotation signs, too.
    #[schema(value_type = Option<String>, format = DateTime)]
    previous_secret_until: Option<Timestamp>,
}

fn webhook_body(app: &App, endpoint: &Endpoint) -> WebhookBody {
    let (settings, progress, now) = (endpoint.settings(), endpoint.progress(), app.now());
    let state = match (&progress.parked, progress.failures) {
        (Some(_), _) => "parked",
        (None, 0) => "active",
        (None, _) => "retrying",
    };
    WebhookBody {
        id: endpoint.id,
        url: settings.url,
        event_types: settings.types,
        created_at: settings.added_at,
        state,
        parked_at: progress.parked.as_ref().map(|parked| parked.at),
        failures: progress.failures,
        next_attempt_at: Some(progress.next_at).filter(|at| progress.parked.is_none() && *at > now),
        parked_reason: progress.parked.map(|parked| parked.why),
        last_success_at: progress.last_success_at,
        position_reached: progress.cursor.0.saturating_sub(1),
        previous_secret_until: settings.previous_until.filter(|until| *until > now),
    }
}

/// The team's endpoints.
#[derive(Serialize, ToSchema)]
struct Webhooks {
    /// The oldest first.
    webhooks: Vec<WebhookBody>,
    position: u64,
}

/// Lists where the team's events are sent, and how that goes.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", params(TeamHeader),
    responses((status = 200, body = Webhooks), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn list(State(app): State<Shared>, caller: Caller) -> Result<Json<Webhooks>, Problem> {
    caller.sees_all()?;
    let webhooks = app.webhooks.of_team(caller.team).iter().map(|endpoint| webhook_body(&app, endpoint)).collect();
    Ok(Json(Webhooks { webhooks, position: app.ledger.position().unwrap_or_default().0 }))
}

/// What an endpoint can be told of.
#[derive(Serialize, ToSchema)]
struct EventTypes {
    event_types: Vec<String>,
}

/// Lists what an endpoint can be told of.
#[utoipa::path(get, path = "/webhooks/event-types", tag = "webhooks", params(TeamHeader),
    responses((status = 200, body = EventTypes), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn event_types(caller: Caller) -> Result<Json<EventTypes>, Problem> {
    caller.sees_all()?;
    Ok(Json(EventTypes { event_types: webhook_types().collect() }))
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddBody {
    /// Where to: `https://`, a public host, port 443 or one above 1023.
    #[garde(length(max = WEBHOOK_URL_LEN_MAX))]
    #[schema(example = "https://hooks.example/keyledger")]
    url: String,
    /// What to be told of, such as `credential.revoked`; none: everything.
    #[serde(default)]
    #[garde(length(max = TYPES_LEN_MAX), inner(length(max = TYPE_LEN_MAX)))]
    event_types: Vec<String>,
}

/// An endpoint with a new secret.
#[derive(Serialize, ToSchema)]
struct WithSecret {
    #[serde(flatten)]
    webhook: WebhookBody,
    /// What its receiver checks signatures with (Standard Webhooks, `whsec_…`). It is shown this once; a repeated request
    /// is answered without it.
    secret: Option<String>,
    position: u64,
}

/// Sends the team's events, from now on, to one more place. A team has at most 10.
#[utoipa::path(post, path = "/webhooks", tag = "webhooks", request_body = AddBody, params(TeamHeader, IdempotencyHeader),
    responses((status = 201, body = WithSecret), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody), (status = 507, body = ProblemBody)))]
async fn add(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiJson(body): ApiJson<AddBody>,
) -> Result<Response, Problem> {
    caller.admin()?;
    let write = Write::by(&app, &caller, &conditions, &("add_webhook", &body));
    let command = AddWebhook {
        actor: caller.person.id,
        webhook: WebhookId::from(random::uuid_v7(app.now())),
        url: allowed(&app, &body.url)?,
        types: body.event_types,
    };
    let written = write.run(&app, move |team, _| command.clone().decide(team)).await?;
    let id = written.records().find_map(|placed| match placed.record.event {
        Event::WebhookAdded(e) => Some(e.webhook),
        _ => None,
    });
    let endpoint = endpoint(&app, &caller, id.ok_or_else(Problem::internal)?)?;
    Ok(with_secret(&app, &endpoint, &written, StatusCode::CREATED))
}

/// Shows one endpoint.
#[utoipa::path(get, path = "/webhooks/{id}", tag = "webhooks", params(("id" = Uuid, Path), TeamHeader),
    responses((status = 200, body = WebhookBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn show(
    State(app): State<Shared>,
    caller: Caller,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Json<WebhookBody>, Problem> {
    caller.sees_all()?;
    Ok(Json(webhook_body(&app, &*endpoint(&app, &caller, id.into())?)))
}

#[derive(Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    /// Where to, from now on; none: as before.
    #[serde(default)]
    #[garde(inner(length(max = WEBHOOK_URL_LEN_MAX)))]
    url: Option<String>,
    /// What to be told of, from now on; an empty list: everything; none: as before.
    #[serde(default)]
    #[garde(inner(length(max = TYPES_LEN_MAX), inner(length(max = TYPE_LEN_MAX))))]
    event_types: Option<Vec<String>>,
}

/// Changes where to, or what. What waits for the endpoint is tried again at once, parked or not.
#[utoipa::path(patch, path = "/webhooks/{id}", tag = "webhooks", request_body = ChangeBody, params(("id" = Uuid, Path), TeamHeader, IdempotencyHeader),
    responses((status = 200, body = WebhookBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody), (status = 507, body = ProblemBody)))]
async fn change(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiPath(id): ApiPath<Uuid>,
    ApiJson(body): ApiJson<ChangeBody>,
) -> Result<Response, Problem> {
    caller.admin()?;
    let write = Write::by(&app, &caller, &conditions, &("change_webhook", id, &body));
    let url = body.url.as_deref().map(|url| allowed(&app, url)).transpose()?;
    let change = WebhookChange { url, types: body.event_types, rotate: false };
    let command = ChangeWebhook { actor: caller.person.id, webhook: id.into(), change };
    let written = write.run(&app, move |team, _| command.clone().decide(team)).await?;
    let endpoint = endpoint(&app, &caller, id.into())?;
    Ok(at_position(Json(webhook_body(&app, &endpoint)).into_response(), written.position))
}

/// Sends nothing more to an endpoint, and forgets how sending to it went.
#[utoipa::path(delete, path = "/webhooks/{id}", tag = "webhooks", params(("id" = Uuid, Path), TeamHeader, IdempotencyHeader),
    responses((status = 204), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
async fn remove(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Response, Problem> {
    caller.admin()?;
    let write = Write::by(&app, &caller, &conditions, &("remove_webhook", id));
    let command = RemoveWebhook { actor: caller.person.id, webhook: id.into() };
    let written = write.run(&app, move |team, _| command.decide(team)).await?;
    Ok(at_position(StatusCode::NO_CONTENT.into_response(), written.position))
}

/// Gives an endpoint another secret. For 24 hours deliveries carry two signatures, the new one's and the old one's.
#[utoipa::path(post, path = "/webhooks/{id}/rotate-secret", tag = "webhooks", params(("id" = Uuid, Path), TeamHeader, IdempotencyHeader),
    responses((status = 200, body = WithSecret), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody), (status = 507, body = ProblemBody)))]
async fn rotate_secret(
    State(app): State<Shared>,
    caller: Caller,
    conditions: Conditions,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Response, Problem> {
    caller.admin()?;
    let write = Write::by(&app, &caller, &conditions, &("rotate_webhook", id));
    let change = WebhookChange { rotate: true, ..WebhookChange::default() };
    let command = ChangeWebhook { actor: caller.person.id, webhook: id.into(), change };
    let written = write.run(&app, move |team, _| command.clone().decide(team)).await?;
    let endpoint = endpoint(&app, &caller, id.into())?;
    Ok(with_secret(&app, &endpoint, &written, StatusCode::OK))
}

/// Tries a parked endpoint again, from where it stopped.
#[utoipa::path(post, path = "/webhooks/{id}/resume", tag = "webhooks", params(("id" = Uuid, Path), TeamHeader),
    responses((status = 200, body = WebhookBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn resume(
    State(app): State<Shared>,
    caller: Caller,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Json<WebhookBody>, Problem> {
    caller.admin()?;
    let endpoint = endpoint(&app, &caller, id.into())?;
    app.webhooks.resume(&endpoint);
    Ok(Json(webhook_body(&app, &endpoint)))
}

/// An attempt to deliver.
#[derive(Serialize, ToSchema)]
struct DeliveryBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `webhook-id`, the same at every attempt.
    message_id: String,
    #[serde(rename = "type")]
    kind: String,
    /// Of which event; a notice and a test have none.
    position: Option<u64>,
    delivered: bool,
    /// What the receiver answered.
    status: Option<u16>,
    duration_ms: u64,
    /// What went wrong, in words.
    error: Option<String>,
}

fn delivery_body(attempt: Attempt) -> DeliveryBody {
    DeliveryBody {
        at: attempt.at,
        message_id: attempt.message,
        kind: attempt.kind,
        position: attempt.position.map(|position| position.0),
        delivered: attempt.error.is_none(),
        status: attempt.status,
        duration_ms: attempt.duration_ms,
        error: attempt.error,
    }
}

/// Sends a `webhook.test` at once, and says how it went. It changes nothing of how far the endpoint has got.
#[utoipa::path(post, path = "/webhooks/{id}/test", tag = "webhooks", params(("id" = Uuid, Path), TeamHeader),
    responses((status = 200, body = DeliveryBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn test(
    State(app): State<Shared>,
    caller: Caller,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Json<DeliveryBody>, Problem> {
    caller.admin()?;
    let endpoint = endpoint(&app, &caller, id.into())?;
    let attempt = delivery::test(&app, &endpoint).await.ok_or_else(Problem::internal)?;
    Ok(Json(delivery_body(attempt)))
}

/// The last attempts.
#[derive(Serialize, ToSchema)]
struct Deliveries {
    /// At most 50, the newest first.
    deliveries: Vec<DeliveryBody>,
}

/// Lists the last attempts to deliver.
#[utoipa::path(get, path = "/webhooks/{id}/deliveries", tag = "webhooks", params(("id" = Uuid, Path), TeamHeader),
    responses((status = 200, body = Deliveries), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn deliveries(
    State(app): State<Shared>,
    caller: Caller,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Json<Deliveries>, Problem> {
    caller.sees_all()?;
    let endpoint = endpoint(&app, &caller, id.into())?;
    let deliveries = app.webhooks.attempts(&endpoint).into_iter().map(delivery_body).collect();
    Ok(Json(Deliveries { deliveries }))
}

fn endpoint(app: &App, caller: &Caller, id: WebhookId) -> Result<Arc<Endpoint>, Problem> {
    app.webhooks.get(caller.team, id).ok_or_else(Problem::not_found)
}

/// The URL as a parser writes it out, so that what was judged is what is asked.
fn allowed(app: &App, url: &str) -> Result<String, Problem> {
    let url = app.webhooks.sender.allowed().url(url);
    url.map(String::from).map_err(|why| {
        let detail = why.to_string();
        Problem::bad_request("invalid_webhook_url", format!("{}{}.", detail[..1].to_uppercase(), &detail[1..]))
    })
}

/// The endpoint with its newest secret; without it, if an earlier request was answered with it.
fn with_secret(app: &App, endpoint: &Endpoint, written: &Written, status: StatusCode) -> Response {
    let generation = written.records().find_map(|placed| match placed.record.event {
        Event::WebhookAdded(_) => Some(0),
        Event::WebhookChanged(e) => Some(e.generation),
        _ => None,
    });
    let secret = generation
        .filter(|_| !written.repeated)
        .map(|generation| app.webhooks.secret(endpoint.team, endpoint.id, generation).expose().to_string());
    let body = WithSecret { webhook: webhook_body(app, endpoint), secret, position: written.position.0 };
    at_position((status, Json(body)).into_response(), written.position)
}
