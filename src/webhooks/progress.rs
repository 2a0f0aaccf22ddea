//! How far each endpoint has got, and how its last attempts went: in the side store, which may be lost.

use std::io;

use keyledger_events::{CredentialId, Position, TeamId, Timestamp, WebhookId};
use serde::{Deserialize, Serialize};

use super::Settings;
use crate::side::{Side, Table};

/// How many attempts are shown.
const ATTEMPTS_MAX: u64 = 50;
const SNAPSHOT: &[u8] = b"endpoints";
const SNAPSHOT_CONTEXT: &str = "keyledger 2026-11 webhook snapshot v1";

/// How far an endpoint has got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Everything before this position is delivered, or not wanted.
    pub cursor: Position,
    /// How often the message at hand has failed.
    pub failures: u32,
    /// No attempt before this.
    pub next_at: Timestamp,
    /// Since when, and why, nothing is tried any more.
    pub parked: Option<Parked>,
    /// When the receiver last had something.
    pub last_success_at: Option<Timestamp>,
    /// Since when the message at hand waits, if it has failed.
    pub waiting_since: Option<Timestamp>,
    /// How many attempts there ever were.
    pub attempts: u64,
}

/// Nothing is tried any more until somebody says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Since when.
    pub at: Timestamp,
    /// Why, in words.
    pub why: String,
}

impl Progress {
    /// Of an endpoint that is sent what comes after this position.
    pub fn behind(position: Position) -> Self {
        Self { cursor: position.next(), ..Self::default() }
    }
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// The message's id.
    pub message: String,
    /// Its type.
    pub kind: String,
    /// The event it is of; a notice and a test have none.
    pub position: Option<Position>,
    /// The receiver's answer.
    pub status: Option<u16>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What went wrong, in words.
    pub error: Option<String>,
}

/// An endpoint of a team.
type Known = (TeamId, WebhookId, Settings);

#[derive(Serialize, Deserialize)]
struct Snapshot {
    position: Position,
    endpoints: Vec<Known>,
    /// Of the two above: half a snapshot would be an endpoint forgotten.
    digest: [u8; 32],
}

/// The parts of the side store.
pub(super) struct Kept {
    endpoints: Table,
    progress: Table,
    attempts: Table,
    notices: Table,
}

impl Kept {
    pub fn open(side: &Side) -> io::Result<Self> {
        Ok(Self {
            endpoints: side.table("webhooks")?,
            progress: side.table("webhook_progress")?,
            attempts: side.table("webhook_attempts")?,
            notices: side.table("webhook_notices")?,
        })
    }

    /// The endpoints of all events before the position; none that is whole and not beyond `head`.
    pub fn snapshot(&self, head: Position) -> Option<(Vec<Known>, Position)> {
        let Snapshot { position, endpoints, digest } = self.endpoints.get(SNAPSHOT)?;
        (position <= head && digest == snapshot_digest(position, &endpoints)).then_some((endpoints, position))
    }

    pub fn put_snapshot(&self, endpoints: Vec<Known>, position: Position) {
        let digest = snapshot_digest(position, &endpoints);
        self.endpoints.put(SNAPSHOT, &Snapshot { position, endpoints, digest });
    }

    pub fn progress(&self, id: WebhookId) -> Option<Progress> {
        self.progress.get(id.as_bytes())
    }

    pub fn put_progress(&self, id: WebhookId, progress: &Progress) {
        self.progress.put(id.as_bytes(), progress);
    }

    /// Keeps an attempt, the `number`-th of its endpoint, and drops the one that is too old by now.
    pub fn put_attempt(&self, id: WebhookId, number: u64, attempt: &Attempt) {
        self.attempts.put(&attempt_key(id, number), attempt);
        if let Some(old) = number.checked_sub(ATTEMPTS_MAX) {
            self.attempts.remove(&attempt_key(id, old));
        }
    }

    pub fn attempts(&self, id: WebhookId) -> Vec<Attempt> {
        let mut attempts: Vec<_> = self.attempts.under(id.as_bytes()).map(|(_, attempt)| attempt).collect();
        attempts.reverse();
        attempts
    }

    /// The smallest number of days before its end at which an endpoint was told of a key, or need not be.
    pub fn told(&self, id: WebhookId, credential: CredentialId) -> Option<u8> {
        self.notices.get(&notice_key(id, credential))
    }

    pub fn put_told(&self, id: WebhookId, credential: CredentialId, days: u8) {
        self.notices.put(&notice_key(id, credential), &days);
    }

    /// Drops what is known of keys that have ended.
    pub fn forget_told(&self, is_over: impl Fn(CredentialId) -> bool) {
        for (key, _) in self.notices.all::<u8>() {
            let credential = key.get(16..).and_then(|id| id.try_into().ok()).map(CredentialId::from_bytes);
            if credential.is_none_or(&is_over) {
                self.notices.remove(&key);
            }
        }
    }

    /// Drops everything about an endpoint.
    pub fn forget(&self, id: WebhookId) {
        self.progress.remove(id.as_bytes());
        self.attempts.remove_under(id.as_bytes());
        self.notices.remove_under(id.as_bytes());
    }

    /// Drops everything about endpoints that are not there any more.
    pub fn forget_all_but(&self, is_there: impl Fn(WebhookId) -> bool) {
        for (key, _) in self.progress.all::<Progress>() {
            match <[u8; 16]>::try_from(key.as_slice()).map(WebhookId::from_bytes) {
                Ok(id) if is_there(id) => {}
                Ok(id) => self.forget(id),
                Err(_) => self.progress.remove(&key),
            }
        }
    }
}

fn snapshot_digest(position: Position, endpoints: &[Known]) -> [u8; 32] {
    // Nothing in it has a type that postcard refuses.
    let bytes = postcard::to_allocvec(&(position, endpoints)).unwrap_or_default();
    blake3::derive_key(SNAPSHOT_CONTEXT, &bytes)
}

fn attempt_key(id: WebhookId, number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(id.as_bytes());
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

fn notice_key(id: WebhookId, credential: CredentialId) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(id.as_bytes());
    key[16..].copy_from_slice(credential.as_bytes());
    key
}
