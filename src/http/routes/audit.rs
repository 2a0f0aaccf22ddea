//! `/api/v1/audit`: what happened, in order.

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use garde::Validate;
use http::{HeaderName, HeaderValue, header};
use keyledger_events::{CredentialId, Event, Position, Timestamp, commit::PlacedRecord, record::Actor};
use keyledger_projections::team_view::{
    Until,
    audit::{Found, Query},
};
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    app::{App, Shared},
    http::{
        ApiQuery, Problem,
        auth::Caller,
        export::Format,
        openapi::TeamHeader,
        problem::ProblemBody,
        views::{EventBody, event_body},
    },
};

/// The most events a page may hold.
const LIMIT_MAX: u32 = 1_000;
/// How many it holds if nobody says.
const LIMIT_DEFAULT: u32 = 100;

/// How many events a team's stream has, for whoever shows progress.
const STREAM_EVENTS_HEADER: HeaderName = HeaderName::from_static("ledger-stream-events");

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(query)).routes(routes!(export))
}

#[derive(Clone, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// About this credential.
    #[garde(skip)]
    credential: Option<Uuid>,
    /// Done by this person or credential; `system` for the ledger itself.
    #[garde(length(max = 64))]
    actor: Option<String>,
    /// Of this type, such as `credential_revoked`.
    #[serde(rename = "type")]
    #[garde(length(max = 64))]
    kind: Option<String>,
    /// Recorded at this instant or later (RFC 3339).
    #[garde(skip)]
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Recorded before this instant (RFC 3339).
    #[garde(skip)]
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// The cursor: `next` of the page before. Without it, the page begins at the first event.
    #[garde(skip)]
    after: Option<u64>,
    /// At most 1,000; 100 if not given.
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
    /// `asc` (the default) or `desc`.
    #[garde(length(max = 4))]
    order: Option<String>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
struct Page {
    events: Vec<EventBody>,
    /// What `after` of the next page is; none on the last.
    next: Option<u64>,
    position: u64,
}

/// Lists the team's events in order.
#[utoipa::path(get, path = "/audit", tag = "audit", params(AuditQuery, TeamHeader),
    responses((status = 200, body = Page), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn query(
    State(app): State<Shared>,
    caller: Caller,
    ApiQuery(query): ApiQuery<AuditQuery>,
) -> Result<Json<Page>, Problem> {
    caller.sees_all()?;
    let (events, found) = page(&app, &caller, &query)?;
    let events = events.into_iter().map(|placed| event_body(&app, &caller, placed)).collect();
    let position = app.ledger.position().unwrap_or_default().0;
    Ok(Json(Page { events, next: found.next.map(|next| next.0), position }))
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ExportQuery {
    /// `jsonl` (one event a line, as the list shows it; the default), `csv` (RFC 4180) or `ocsf` (one OCSF 1.8.0 object a
    /// line). Each line carries its position.
    #[garde(length(max = 16))]
    format: Option<String>,
    /// Recorded at this instant or later (RFC 3339).
    #[garde(skip)]
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Recorded before this instant (RFC 3339).
    #[garde(skip)]
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Behind this position: an export that was cut off goes on where it ended. Then CSV has no heading.
    #[garde(skip)]
    after: Option<u64>,
}

/// Streams the team's events, one a line. `Ledger-Stream-Events` says how many the team has in all.
#[utoipa::path(get, path = "/audit/export", tag = "audit", params(ExportQuery, TeamHeader),
    responses((status = 200, content((String = "application/x-ndjson"), (String = "text/csv"))), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn export(
    State(app): State<Shared>,
    caller: Caller,
    ApiQuery(query): ApiQuery<ExportQuery>,
) -> Result<Response, Problem> {
    caller.sees_all()?;
    let format = match query.format.as_deref() {
        None => Format::Jsonl,
        Some(name) => {
            Format::named(name).ok_or_else(|| Problem::bad_request("invalid_query", "format is jsonl, csv or ocsf."))?
        }
    };
    let stream_events = app.team_at(caller.team, Until::Now, |view, _| view.audit.len())?;
    let team = caller.team;
    let mut heading = if query.after.is_none() { format.heading() } else { Vec::new() };
    let mut query = AuditQuery {
        credential: None,
        actor: None,
        kind: None,
        from: query.from,
        to: query.to,
        after: query.after,
        limit: Some(LIMIT_MAX),
        order: None,
    };
    // A page at a time, and the next only once the client has taken this one: memory stays bounded.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    tokio::spawn(async move {
        loop {
            let (lines, next) = match page(&app, &caller, &query) {
                Ok((events, found)) => {
                    let mut lines = std::mem::take(&mut heading);
                    lines.extend(format.lines(&app, &caller, events));
                    (lines, found.next)
                }
                // Half a file must not look like a whole one.
                Err(problem) => {
                    let _ = sender.send(Err(std::io::Error::other(problem))).await;
                    return;
                }
            };
            if sender.send(Ok(lines.into())).await.is_err() || next.is_none() {
                return;
            }
            query.after = next.map(|next| next.0);
        }
    });
    let mut response = Body::from_stream(ReceiverStream::new(receiver)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, format.content_type());
    headers.insert(STREAM_EVENTS_HEADER, HeaderValue::from(stream_events));
    if let Some(disposition) = format.disposition(team) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

fn page(app: &App, caller: &Caller, query: &AuditQuery) -> Result<(Vec<PlacedRecord>, Found), Problem> {
    let kind = match query.kind.as_deref() {
        None => None,
        Some(name) => Some(
            Event::type_named(name)
                .ok_or_else(|| Problem::bad_request("invalid_query", "type is no type of event."))?,
        ),
    };
    let newest_first = match query.order.as_deref() {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err(Problem::bad_request("invalid_query", "order is asc or desc.")),
    };
    let actor_id = match query.actor.as_deref() {
        None | Some("system") => None,
        Some(id) => {
            Some(id.parse::<Uuid>().map_err(|_| Problem::bad_request("invalid_query", "actor is a UUID, or system."))?)
        }
    };
    let found = app.team_at(caller.team, Until::Now, |view, _| {
        let actor = match (&query.actor, actor_id) {
            (None, _) => None,
            (Some(_), None) => Some(Actor::System),
            (Some(_), Some(id)) => match view.audit.actor(id.into_bytes()) {
                Some(actor) => Some(actor),
                // Whoever never did anything here has no events.
                None => return Found::default(),
            },
        };
        view.audit(&Query {
            credential: query.credential.map(CredentialId::from),
            actor,
            kind,
            from: query.from,
            to: query.to,
            after: query.after.map(Position),
            newest_first,
            limit: query.limit.unwrap_or(LIMIT_DEFAULT) as usize,
        })
    })?;
    Ok((app.events(&found.positions)?, found))
}
