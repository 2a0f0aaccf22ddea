//! What is sent: one JSON object a message, `type`, `timestamp` and `data`.

use keyledger_events::{CredentialId, Position, Timestamp, WebhookId, commit::PlacedRecord, team::webhook_type};
use serde_json::{Value, json};

use crate::{http::views::sent_event_body, random};

/// The type of a message that somebody has asked for.
pub const TEST: &str = "webhook.test";
const ID_CONTEXT: &str = "keyledger 2026-11 webhook message id v1";

/// A message, before it is signed.
#[derive(Clone, Debug)]
pub struct Message {
    /// The same at every attempt, and another for each endpoint: by it a receiver knows what it has already.
    pub id: String,
    /// Its type, such as `credential.revoked`.
    pub kind: String,
    /// Since when there is something to say.
    pub since: Timestamp,
    /// What it is of.
    pub subject: Subject,
    /// The JSON.
    pub body: Vec<u8>,
}

/// What a message is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An event.
    Event(Position),
    /// A key that ends in at most so many days.
    Notice(CredentialId, u8),
    /// Nothing.
    Test,
}

impl Message {
    fn new(id: String, kind: String, since: Timestamp, subject: Subject, data: Value) -> Self {
        let body = json!({ "type": kind, "timestamp": since, "data": data }).to_string().into_bytes();
        Self { id, kind, since, subject, body }
    }

    /// Of an event.
    pub fn of_event(webhook: WebhookId, placed: PlacedRecord) -> Self {
        let (at, position) = (placed.record.recorded_at, placed.position);
        let (id, kind) = (message_id(webhook, placed.record.id.as_bytes()), webhook_type(placed.record.event.name()));
        Self::new(id, kind, at, Subject::Event(position), json!(sent_event_body(placed)))
    }

    /// Of a key's end to come. `since` is when it was so many days away.
    pub fn of_notice(webhook: WebhookId, credential: CredentialId, days: u8, since: Timestamp, data: Value) -> Self {
        let id = message_id(webhook, &[credential.as_bytes().as_slice(), &[days]].concat());
        Self::new(id, keyledger_events::team::EXPIRING.to_owned(), since, Subject::Notice(credential, days), data)
    }

    /// To try out a receiver.
    pub fn test(webhook: WebhookId, now: Timestamp) -> Self {
        let id = message_id(webhook, &random::bytes::<16>());
        Self::new(id, TEST.to_owned(), now, Subject::Test, json!({ "webhook_id": webhook }))
    }
}

/// Without a dot, which the signature puts between id and time.
fn message_id(webhook: WebhookId, subject: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
    let hash = hasher.update(webhook.as_bytes()).update(subject).finalize();
    format!("msg_{}", hash.to_hex().get(..32).unwrap_or_default())
}
