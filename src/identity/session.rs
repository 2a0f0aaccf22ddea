//! Sessions of signed-in people.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use keyledger_events::{PersonId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::token_hash;
use crate::{random, side::Table};

/// How a session cookie's value begins, so that the access log can scrub it.
pub const SESSION_TAG: &str = "ss-kl1";
/// How long a session lives from its sign-in.
pub const SESSION_TTL: Duration = Duration::from_secs(30 * 86_400);

/// One signed-in browser or program.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Names it in access tokens; not a secret.
    pub id: Uuid,
    /// Whose.
    pub person: PersonId,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// All live sessions, in memory and in the side store.
#[derive(Debug)]
pub struct Sessions {
    table: Table,
    live: RwLock<Live>,
}

#[derive(Debug, Default)]
struct Live {
    by_hash: HashMap<[u8; 32], Session>,
    by_id: HashMap<Uuid, Session>,
}

impl Sessions {
    /// Over a table of the side store, whose sessions go on.
    pub fn load(table: Table) -> Self {
        let mut live = Live::default();
        for (hash, session) in table.all::<Session>() {
            if let Ok(hash) = hash.try_into() {
                live.by_id.insert(session.id, session);
                live.by_hash.insert(hash, session);
            }
        }
        Self { table, live: RwLock::new(live) }
    }

    /// Signs a person in. The text is the cookie's value; only its hash is kept.
    pub fn start(&self, person: PersonId, now: Timestamp) -> (Session, String) {
        let session = Session { id: random::uuid_v7(now), person, expires_at: now.plus(SESSION_TTL) };
        let token = random::token(SESSION_TAG);
        let hash = token_hash(&token);
        self.table.put(&hash, &session);
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.by_id.insert(session.id, session);
        live.by_hash.insert(hash, session);
        (session, token)
    }

    /// The session of a cookie.
    pub fn by_cookie(&self, token: &str, now: Timestamp) -> Option<Session> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.by_hash.get(&token_hash(token)).copied().filter(|session| now < session.expires_at)
    }

    /// Whether a session goes on.
    pub fn is_live(&self, id: Uuid) -> bool {
        self.get(id).is_some()
    }

    /// A session that goes on.
    pub fn get(&self, id: Uuid) -> Option<Session> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).copied()
    }

    /// Ends one session.
    pub fn end(&self, id: Uuid) {
        self.end_where(|session| session.id == id);
    }

    /// Ends all of a person's sessions.
    pub fn end_all(&self, person: PersonId) {
        self.end_where(|session| session.person == person);
    }

    /// Forgets what has run out.
    pub fn sweep(&self, now: Timestamp) {
        self.end_where(|session| session.expires_at <= now);
    }

    fn end_where(&self, ends: impl Fn(&Session) -> bool) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let ended: Vec<_> = live.by_hash.iter().filter(|(_, session)| ends(session)).map(|(hash, _)| *hash).collect();
        for hash in ended {
            if let Some(session) = live.by_hash.remove(&hash) {
                live.by_id.remove(&session.id);
            }
            self.table.take::<Session>(&hash);
        }
    }
}
