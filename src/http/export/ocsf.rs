//! The audit trail as OCSF (schema.ocsf.io): what happened to people is an Account Change (3001), what happened to keys,
//! teams and policies an Entity Management event (3004). What OCSF has no place for stands in `unmapped`.

use keyledger_events::{
    CredentialId, Event, PersonId, TeamId, Timestamp, WebhookId,
    event::{RevokeReason, Role},
    secret::Kind,
};
use serde_json::{Map, Value, json};

use crate::http::views::EventBody;

/// The version of the schema that is written.
pub const VERSION: &str = "1.8.0";

/// Category, Identity & Access Management.
const CATEGORY: u64 = 3;
const SUCCESS: (u64, &str) = (1, "Success");
const FAILURE: (u64, &str) = (2, "Failure");
const INFORMATIONAL: (u64, &str) = (1, "Informational");
const MEDIUM: (u64, &str) = (3, "Medium");
const HIGH: (u64, &str) = (4, "High");

/// What of an event the schema has words for.
struct Mapped {
    class: (u64, &'static str),
    activity: (u64, &'static str),
    severity: (u64, &'static str),
    status: (u64, &'static str),
    /// What it is about: `user` or `entity`, and what became of it.
    about: Vec<(&'static str, Value)>,
    /// What whoever did it wrote about it.
    comment: Option<String>,
    message: String,
}

/// One event as one OCSF object.
pub fn event(body: &EventBody, event: &Event, effective_at: Timestamp) -> Value {
    let mapped = mapped(body, event);
    let (class_uid, class_name) = mapped.class;
    let (activity_id, activity_name) = mapped.activity;
    let mut object = json!({
        "category_uid": CATEGORY,
        "category_name": "Identity & Access Management",
        "class_uid": class_uid,
        "class_name": class_name,
        "activity_id": activity_id,
        "activity_name": activity_name,
        "type_uid": class_uid * 100 + activity_id,
        "type_name": format!("{class_name}: {activity_name}"),
        "severity_id": mapped.severity.0,
        "severity": mapped.severity.1,
        "status_id": mapped.status.0,
        "status": mapped.status.1,
        "time": effective_at.micros() / 1_000,
        "message": mapped.message,
        "metadata": {
            "version": VERSION,
            "product": { "name": "keyledger", "vendor_name": "keyledger", "version": env!("CARGO_PKG_VERSION") },
            "uid": body.id,
            "sequence": body.position,
            "correlation_uid": body.correlation_id,
            "event_code": body.kind,
            "log_name": "audit",
            "logged_time": body.recorded_at.micros() / 1_000,
            "original_time": effective_at.to_string(),
            "tenant_uid": body.team_id,
        },
        "actor": actor(body),
        "unmapped": {
            "position": body.position,
            "revision": body.revision,
            "hash": body.hash,
            "previous": body.previous,
            "cause": body.cause,
            "auth": body.auth,
            "data": body.data,
        },
    });
    for (name, value) in mapped.about {
        object[name] = value;
    }
    if let Some(comment) = mapped.comment.filter(|_| class_uid == ENTITY_MANAGEMENT.0) {
        object["comment"] = json!(comment);
    }
    let context =
        |name: &str| body.context.as_ref().and_then(|context| context.get(name)).filter(|one| one.is_string());
    if let Some(ip) = context("ip") {
        object["src_endpoint"] = json!({ "ip": ip });
    }
    if let Some(user_agent) = context("user_agent") {
        object["http_request"] = json!({ "user_agent": user_agent });
    }
    object
}

const ACCOUNT_CHANGE: (u64, &str) = (3001, "Account Change");
const ENTITY_MANAGEMENT: (u64, &str) = (3004, "Entity Management");

/// Without a wildcard: a new type of event must be decided on here.
fn mapped(body: &EventBody, event: &Event) -> Mapped {
    let team = body.team_id;
    // As far as the caller may read it and its key still exists.
    let name = |field: &str| body.data.get(field).and_then(Value::as_str);
    match event {
        Event::TeamCreated(e) => {
            let group = json!({ "uid": team, "name": e.name, "type": "team" });
            let entity = json!({ "uid": team, "name": e.name, "type": "Group", "type_id": 3, "group": group });
            managed((1, "Create"), entity, "Team created.")
        }
        Event::PolicyChanged(e) => {
            let policy = json!({ "uid": team, "name": "rules for new keys", "is_applied": true, "data": e.policy });
            let entity =
                json!({ "uid": team, "name": "rules for new keys", "type": "Policy", "type_id": 5, "policy": policy });
            managed((3, "Update"), entity, "The team's rules for new keys changed.")
        }
        Event::MemberJoined(e) => {
            account((1, "Create"), user(e.member, name("name"), team, Some(e.role)), "A person joined the team.")
        }
        Event::RoleChanged(e) => {
            let message = format!("A member's role changed from {} to {}.", e.from.name(), e.to.name());
            let mut change = account((99, "Role Change"), user(e.member, None, team, Some(e.from)), message);
            change.about.push(("user_result", user(e.member, None, team, Some(e.to))));
            change
        }
        Event::MemberDeparted(e) => account((6, "Delete"), user(e.member, None, team, None), "A member left the team."),
        Event::CredentialIssued(e) => {
            let mut entity = credential(e.credential, Some(e.kind), name("name"));
            entity["data"] = json!({
                "key_prefix": e.prefix, "holder": e.holder, "expires_at": e.expires_at,
                "rotated_from": e.rotated_from, "companion_of": e.companion_of,
            });
            let mut issued = managed((1, "Create"), entity, "A key was issued.");
            issued.comment.clone_from(&e.purpose);
            issued
        }
        Event::ServiceCredentialIssued(e) => {
            let mut entity = credential(e.credential, Some(Kind::Service), name("name"));
            entity["data"] = json!({ "key_prefix": e.prefix, "holder": e.holder, "expires_at": e.expires_at });
            managed((1, "Create"), entity, "A service key was issued.")
        }
        Event::CredentialRevoked(e) => {
            let (severity, message) = match e.reason {
                RevokeReason::Requested => (INFORMATIONAL, "A key was revoked on request."),
                RevokeReason::SelfRevoked => (INFORMATIONAL, "A key was revoked by possession of its secret."),
                RevokeReason::MemberDeparted => (INFORMATIONAL, "A key was revoked because its person left the team."),
                RevokeReason::Leaked => (HIGH, "A key was revoked as leaked."),
            };
            let mut revoked = managed((4, "Delete"), credential(e.credential, None, None), message);
            revoked.severity = severity;
            revoked.comment.clone_from(&e.note);
            revoked
        }
        Event::CredentialCascadeRevoked(e) => {
            managed((4, "Delete"), credential(e.credential, None, None), "A companion ended together with its device.")
        }
        Event::CredentialExpired(e) => managed((4, "Delete"), credential(e.credential, None, None), "A key expired."),
        Event::ExpiryShortened(e) => {
            let mut change =
                managed((3, "Update"), credential(e.credential, None, None), "A key was made to end earlier.");
            change.about.push(("entity_result", changed(e.credential, json!({ "expires_at": e.to }))));
            change
        }
        Event::CredentialHandedOver(e) => {
            let mut change =
                managed((3, "Update"), credential(e.credential, None, None), "Somebody else answers for a key.");
            change.about.push(("entity_result", changed(e.credential, json!({ "holder": e.to }))));
            change
        }
        Event::CredentialLeaked(e) => {
            let mut entity = credential(e.credential, None, None);
            entity["data"] = json!({ "place": name("place"), "source": e.source });
            let leaked = managed((99, "Leak"), entity, "A key's secret was found where it must not be.");
            Mapped { severity: HIGH, ..leaked }
        }
        Event::DeadKeyPresented(e) => {
            let mut entity = credential(e.credential, None, None);
            entity["data"] = json!({ "presented_at": e.presented_at, "surface": e.surface, "address": e.address });
            let presented = managed((99, "Present"), entity, "A key was presented after its end.");
            Mapped { severity: MEDIUM, status: FAILURE, ..presented }
        }
        Event::PairingDenied(_) => {
            let device = json!({ "name": name("device_name").unwrap_or("unknown"), "type": "device", "type_id": 99 });
            Mapped { status: FAILURE, ..managed((6, "Enroll"), device, "A pairing was denied.") }
        }
        Event::HistorySealed(e) => {
            let entity = json!({ "uid": team, "name": "history", "type": "history", "type_id": 99, "data": e });
            managed((99, "Seal"), entity, "The ends of all teams' histories were sealed under one root.")
        }
        Event::SigningKeyRotated(e) => {
            let entity = json!({ "uid": team, "name": "signing key", "type": "signing key", "type_id": 99, "data": e });
            managed((3, "Update"), entity, "The ledger's signing key gave way to another.")
        }
        Event::WebhookAdded(e) => {
            let data = json!({ "url": e.url, "types": e.types });
            managed((1, "Create"), webhook(e.webhook, Some(data)), "The team's events are sent to one more place.")
        }
        Event::WebhookChanged(e) => {
            let data = json!({ "url": e.url, "types": e.types, "generation": e.generation });
            let mut change = managed((3, "Update"), webhook(e.webhook, None), "A webhook changed.");
            change.about.push(("entity_result", webhook(e.webhook, Some(data))));
            change
        }
        Event::WebhookRemoved(e) => managed((4, "Delete"), webhook(e.webhook, None), "A webhook was removed."),
        Event::PersonErased(e) => {
            account((99, "Erase"), user(e.person, None, team, None), "A person's sealing key was erased.")
        }
    }
}

fn managed(activity: (u64, &'static str), entity: Value, message: impl Into<String>) -> Mapped {
    about(ENTITY_MANAGEMENT, activity, ("entity", entity), message)
}

fn account(activity: (u64, &'static str), user: Value, message: impl Into<String>) -> Mapped {
    about(ACCOUNT_CHANGE, activity, ("user", user), message)
}

fn about(
    class: (u64, &'static str),
    activity: (u64, &'static str),
    object: (&'static str, Value),
    message: impl Into<String>,
) -> Mapped {
    let (severity, status, comment) = (INFORMATIONAL, SUCCESS, None);
    Mapped { class, activity, severity, status, about: vec![object], comment, message: message.into() }
}

fn user(person: PersonId, name: Option<&str>, team: TeamId, role: Option<Role>) -> Value {
    let mut group = json!({ "uid": team, "type": "team" });
    if let Some(role) = role {
        group["privileges"] = json!([role]);
    }
    let mut user = json!({ "uid": person, "type": "User", "type_id": 1, "groups": [group] });
    if let Some(name) = name {
        user["name"] = json!(name);
    }
    user
}

fn credential(id: CredentialId, kind: Option<Kind>, name: Option<&str>) -> Value {
    let kind = kind.map_or("credential".to_owned(), |kind| format!("{kind} credential"));
    let mut entity = Map::from_iter([
        ("uid".to_owned(), json!(id)),
        ("type".to_owned(), json!(kind)),
        ("type_id".to_owned(), json!(99)),
    ]);
    if let Some(name) = name {
        entity.insert("name".to_owned(), json!(name));
    }
    Value::Object(entity)
}

fn changed(id: CredentialId, data: Value) -> Value {
    let mut entity = credential(id, None, None);
    entity["data"] = data;
    entity
}

fn webhook(id: WebhookId, data: Option<Value>) -> Value {
    let mut entity = json!({ "uid": id, "type": "webhook", "type_id": 99 });
    if let Some(data) = data {
        entity["data"] = data;
    }
    entity
}

fn actor(body: &EventBody) -> Value {
    match (body.actor.kind, body.actor.id) {
        ("person", Some(id)) => json!({ "user": { "uid": id, "type": "User", "type_id": 1 } }),
        // Whoever held its secret.
        ("credential", Some(id)) => {
            json!({ "user": { "uid": id, "type": "Service", "type_id": 4, "credential_uid": id } })
        }
        _ => json!({ "app_name": "keyledger" }),
    }
}

#[cfg(test)]
mod tests;
