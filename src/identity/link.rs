//! One-time links: a way in for the owner of a fresh ledger, for the invited, and for people who lost their session.

use std::time::Duration;

use keyledger_events::{PersonId, TeamId, Timestamp, event::Role};
use serde::{Deserialize, Serialize};

use super::token_hash;
use crate::{random, side::Table};

/// How a link's token begins, so that the access log can scrub it.
pub const LINK_TAG: &str = "lk-";
/// How long a sign-in link lives.
pub const SIGN_IN_TTL: Duration = Duration::from_secs(3_600);
/// How long an invitation lives.
pub const INVITATION_TTL: Duration = Duration::from_secs(7 * 86_400);

/// The key under which it is noted that somebody has signed in. Links lie under 32-byte hashes.
const USED: &[u8] = b"used";

/// What a link is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Signs this person in.
    SignIn {
        /// Whom.
        person: PersonId,
    },
    /// Lets whoever follows it join a team.
    Invitation {
        /// Which team.
        team: TeamId,
        /// As what.
        role: Role,
        /// Who invites.
        invited_by: PersonId,
    },
}

#[derive(Serialize, Deserialize)]
struct Link {
    purpose: Purpose,
    expires_at: Timestamp,
}

/// The links that have not been followed yet.
#[derive(Clone, Debug)]
pub struct Links(Table);

impl Links {
    /// Over a table of the side store.
    pub const fn new(table: Table) -> Self {
        Self(table)
    }

    /// A new link's token and its end. Only its hash is kept.
    pub fn make(&self, purpose: Purpose, now: Timestamp) -> (String, Timestamp) {
        let (token, expires_at) = (random::token(LINK_TAG), now.plus(ttl(&purpose)));
        self.0.put(&token_hash(&token), &Link { purpose, expires_at });
        (token, expires_at)
    }

    /// What a token is for, while it is good. It stays good.
    pub fn peek(&self, token: &str, now: Timestamp) -> Option<Purpose> {
        self.0.get::<Link>(&token_hash(token)).filter(|link| now < link.expires_at).map(|link| link.purpose)
    }

    /// Uses a link up. Of two at once, one gets it.
    pub fn redeem(&self, token: &str, now: Timestamp) -> Option<Purpose> {
        let link = self.0.take::<Link>(&token_hash(token)).filter(|link| now < link.expires_at)?;
        if matches!(link.purpose, Purpose::SignIn { .. }) {
            self.0.put(USED, &());
        }
        Some(link.purpose)
    }

    /// Whether any sign-in link was ever followed: until then, each start prints a new one.
    pub fn has_been_used(&self) -> bool {
        self.0.get::<()>(USED).is_some()
    }

    /// Makes a link good again that was used up for nothing; it lives as long as a new one.
    pub fn put_back(&self, token: &str, purpose: Purpose, now: Timestamp) {
        let expires_at = now.plus(ttl(&purpose));
        self.0.put(&token_hash(token), &Link { purpose, expires_at });
    }
}

fn ttl(purpose: &Purpose) -> Duration {
    match purpose {
        Purpose::SignIn { .. } => SIGN_IN_TTL,
        Purpose::Invitation { .. } => INVITATION_TTL,
    }
}
