//! What reads answer: the projections' rows and the log's events, written out by hand for the wire.

use keyledger_client::types::{Credential, Use as UseBody};
use keyledger_events::{
    Event, EventId, Position, TeamId, Timestamp,
    commit::PlacedRecord,
    record::{Actor, AuthMethod, RecordHash},
    seal::Label,
};
use keyledger_projections::team_view::{
    TeamView, Until,
    directory::{EndReason, Row, Status},
};
use keyledger_projections::usage::Use;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Problem, auth::Caller};
use crate::app::App;

fn use_body(Use { at, surface, address }: Use) -> UseBody {
    UseBody { at, surface, address }
}

/// Writes a row out, as it stands at `now`.
pub fn credential_body(app: &App, view: &TeamView, row: &Row, now: Timestamp) -> Credential {
    let status = row.status(now);
    let (revoked_at, revoke_reason, revoke_note) = match (&row.ended, status) {
        (Some(ended), _) => (Some(ended.at), Some(ended.reason.name()), ended.note.clone()),
        // It holds by the clock, whether or not it is on record yet.
        (None, Status::Expired) => (row.expires_at, Some(EndReason::Expired.name()), None),
        (None, _) => (None, None, None),
    };
    let last_used = app.projections.active().last_use(row.id);
    Credential {
        id: row.id,
        kind: row.kind,
        display_name: app.open(&row.label),
        key_prefix: row.prefix.to_string(),
        purpose: row.purpose.clone(),
        user_id: row.holder,
        issued_by: row.issuer(),
        departed: view.members.get(&row.holder).is_none_or(|member| member.departed_at.is_some()),
        key_status: status.name().to_owned(),
        created_at: row.issued_at,
        last_used_at: last_used.map(|used| used.at),
        last_used: last_used.map(use_body),
        dead_presented: row.dead_presented.map(use_body),
        expires_at: row.expires_at,
        revoked_at,
        revoke_reason: revoke_reason.map(str::to_owned),
        revoke_note,
        device_id: row.device,
        companion_id: row.companion,
        rotated_from: row.rotated_from,
        rotated_to: row.rotated_to,
    }
}

/// An event, as its team sees it.
#[derive(Serialize, ToSchema)]
pub struct EventBody {
    pub(super) position: u64,
    pub(super) revision: u64,
    #[schema(value_type = Uuid)]
    pub(super) id: EventId,
    #[schema(value_type = Uuid)]
    pub(super) team_id: TeamId,
    /// Such as `credential_issued`.
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    #[schema(value_type = String, format = DateTime)]
    pub(super) recorded_at: Timestamp,
    /// BLAKE3 of the record's bytes, in hexadecimal.
    #[schema(value_type = String)]
    pub(super) hash: RecordHash,
    /// The hash of the team's event before it.
    #[schema(value_type = String)]
    pub(super) previous: RecordHash,
    pub(super) actor: ActorBody,
    /// How the actor was known: `session`, `token`, `secret`, `link` or `internal`.
    #[schema(value_type = String)]
    pub(super) auth: AuthMethod,
    /// The event it follows from.
    #[schema(value_type = Option<Uuid>)]
    pub(super) cause: Option<EventId>,
    pub(super) correlation_id: Uuid,
    /// Where the request came from: `ip`, `user_agent`. None once its person has been erased, and for members who read
    /// of somebody else's.
    pub(super) context: Option<Value>,
    /// What happened, by type.
    pub(super) data: Map<String, Value>,
}

/// Who did it.
#[derive(Serialize, ToSchema)]
pub(super) struct ActorBody {
    /// `person`, `credential` or `system`.
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) id: Option<Uuid>,
}

/// Writes an event out for `caller`. What is sealed is opened where its key still exists; where a request came from is
/// for whoever made it and for those who may read everything.
pub fn event_body(app: &App, caller: &Caller, placed: PlacedRecord) -> EventBody {
    let context = placed.record.meta.context.as_ref();
    let context = context.filter(|sealed| sealed.person == caller.person.id || caller.sees_all().is_ok());
    let context = context.and_then(|sealed| app.open_sealed(sealed));
    let context = context.and_then(|text| serde_json::from_str(&text).ok());
    written_out(placed, context, &|label| app.open(label))
}

/// Writes an event out for a place outside. What is sealed stays so: what has left the house can't be erased any more.
pub fn sent_event_body(placed: PlacedRecord) -> EventBody {
    written_out(placed, None, &clear)
}

/// A name that was never sealed.
pub fn clear(label: &Label) -> Option<String> {
    match label {
        Label::Clear(name) => Some(name.clone()),
        Label::Sealed(_) => None,
    }
}

fn written_out(placed: PlacedRecord, context: Option<Value>, open: &dyn Fn(&Label) -> Option<String>) -> EventBody {
    let PlacedRecord { position, hash, record } = placed;
    EventBody {
        position: position.0,
        revision: record.revision.0,
        id: record.id,
        team_id: record.team,
        kind: record.event.name(),
        recorded_at: record.recorded_at,
        hash,
        previous: record.previous,
        actor: match record.meta.actor {
            Actor::Person(id) => ActorBody { kind: "person", id: Some(id.uuid()) },
            Actor::Credential(id) => ActorBody { kind: "credential", id: Some(id.uuid()) },
            Actor::System => ActorBody { kind: "system", id: None },
        },
        auth: record.meta.auth,
        cause: record.meta.cause,
        correlation_id: record.meta.correlation.uuid(),
        context,
        data: event_data(&record.event, open),
    }
}

/// The event's own fields, with names opened and without the secret's hash, which is nobody's business here.
fn event_data(event: &Event, open: &dyn Fn(&Label) -> Option<String>) -> Map<String, Value> {
    let Ok(Value::Object(mut data)) = serde_json::to_value(event) else { return Map::new() };
    data.remove("hash");
    if let Some((field, label)) = event.label() {
        data.insert(field.to_owned(), open(label).map_or(Value::Null, Value::String));
    }
    data
}

/// A team's view as it stood, and the instant to ask it with.
///
/// # Errors
/// 400 for what is neither a position nor an instant.
pub fn as_of(text: &str) -> Result<Until, Problem> {
    if let Ok(position) = text.parse::<Position>() {
        return Ok(Until::Position(position));
    }
    text.parse::<Timestamp>().map(Until::Instant).map_err(|_| {
        Problem::bad_request("invalid_as_of", "as_of is a position, or an instant such as 2026-03-03T12:00:00Z.")
    })
}
