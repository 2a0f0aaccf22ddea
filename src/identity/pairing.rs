//! Pairings in flight (the device side of RFC 8628). In memory only: an approved pairing holds two secrets until the
//! device fetches them, once.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use keyledger_events::{Timestamp, secret::Secret};
use uuid::Uuid;

use super::token_hash;
use crate::random;

/// How a device code begins, so that the access log can scrub it.
pub const DEVICE_CODE_TAG: &str = "dc-kl1";
/// How long a pairing lives.
pub const PAIRING_TTL: Duration = Duration::from_secs(300);
/// How often a device should ask, in seconds.
pub const POLL_INTERVAL_SECONDS: u64 = 5;
/// What is added to that for an OAuth client each time it asks too soon (RFC 8628 §3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);
/// How long after its end a pairing is still told from one that never was.
const REMEMBERED: Duration = PAIRING_TTL;
/// How many wrong codes one session may try within a pairing's life.
pub const GUESSES_PER_SESSION_MAX: u32 = 5;
/// How many wrong codes all sessions together may try within a pairing's life. Of 20⁸ codes, a guesser with all of
/// these and a thousand pairings open hits one with a chance of 4 in 100,000.
pub const GUESSES_MAX: u32 = 1_000;
/// How many pairings may be in flight.
const PAIRINGS_MAX: usize = 10_000;

/// Who asks for a pairing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// What the device calls itself.
    pub device_name: String,
    /// Where it asks from.
    pub address: String,
    /// The OAuth client that may fetch the secrets, and no other; none: whoever has the device code, by
    /// `/desktop/pair/poll`.
    pub client_id: Option<String>,
}

/// What a device is told when it asks.
#[derive(Debug)]
pub enum Polled {
    /// Nobody has decided yet.
    Pending,
    /// The same, and this OAuth client asks more often than it was told to. From now on it waits this long between polls.
    TooSoon {
        /// The new interval.
        interval: Duration,
    },
    /// Somebody refused.
    Denied,
    /// The two secrets, this once.
    Approved {
        /// The device's.
        device: Secret,
        /// Its companion's.
        companion: Secret,
    },
}

/// What a person who decides is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facing {
    /// What the device calls itself.
    pub device_name: String,
    /// Where it asked from.
    pub address: String,
    /// When.
    pub started_at: Timestamp,
}

/// Why a device code gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollError {
    /// Never made, of another client, or used: its secrets were fetched.
    Unknown,
    /// Its time ran out before anybody allowed it, or before the device fetched what it was allowed.
    Expired,
}

/// Why a user code is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeError {
    /// No such code.
    Unknown,
    /// Somebody has decided on it, or is about to.
    Decided,
    /// Its time has run out.
    Expired,
    /// Too many wrong ones.
    TooManyGuesses,
}

struct Pairing {
    client_id: Option<String>,
    facing: Facing,
    expires_at: Timestamp,
    pace: Pace,
    state: State,
}

/// How often an OAuth client may ask, and when it last did.
struct Pace {
    interval: Duration,
    polled_at: Option<Timestamp>,
}

enum State {
    Pending,
    Deciding,
    Denied,
    Approved { device: Secret, companion: Secret },
    Fetched,
}

#[derive(Default)]
struct Inner {
    by_device: HashMap<[u8; 32], Pairing>,
    by_user_code: HashMap<String, [u8; 32]>,
    guesses: HashMap<Uuid, u32>,
    guesses_all: u32,
    guesses_since: Timestamp,
}

/// All pairings in flight.
#[derive(Default)]
pub struct Pairings(Mutex<Inner>);

impl Pairings {
    /// A new pairing's device code and user code; none if there are too many.
    pub fn start(&self, asking: Asking, now: Timestamp) -> Option<(String, String)> {
        let mut inner = self.lock(now);
        if inner.by_device.len() >= PAIRINGS_MAX {
            inner.forget(|pairing| pairing.is_over(now) || matches!(pairing.state, State::Fetched));
        }
        if inner.by_device.len() >= PAIRINGS_MAX {
            return None;
        }
        let device_code = random::token(DEVICE_CODE_TAG);
        let user_code = loop {
            let code = random::user_code();
            if !inner.by_user_code.contains_key(&code) {
                break code;
            }
        };
        let hash = token_hash(&device_code);
        let Asking { device_name, address, client_id } = asking;
        let pairing = Pairing {
            client_id,
            facing: Facing { device_name, address, started_at: now },
            expires_at: now.plus(PAIRING_TTL),
            pace: Pace { interval: Duration::from_secs(POLL_INTERVAL_SECONDS), polled_at: None },
            state: State::Pending,
        };
        inner.by_device.insert(hash, pairing);
        let (left, right) = user_code.split_at(random::CODE_LEN / 2);
        let shown = format!("{left}-{right}");
        inner.by_user_code.insert(user_code, hash);
        Some((device_code, shown))
    }

    /// What the device gets, this once if it is its secrets. `client_id` is the OAuth client that asks.
    ///
    /// # Errors
    /// [`PollError`].
    pub fn poll(&self, device_code: &str, client_id: Option<&str>, now: Timestamp) -> Result<Polled, PollError> {
        let mut inner = self.lock(now);
        let pairing = inner.by_device.get_mut(&token_hash(device_code)).ok_or(PollError::Unknown)?;
        if pairing.client_id.as_deref() != client_id || matches!(pairing.state, State::Fetched) {
            return Err(PollError::Unknown);
        }
        if pairing.is_over(now) {
            return Err(PollError::Expired);
        }
        match &pairing.state {
            State::Denied => return Ok(Polled::Denied),
            State::Approved { .. } => {
                if let State::Approved { device, companion } = std::mem::replace(&mut pairing.state, State::Fetched) {
                    return Ok(Polled::Approved { device, companion });
                }
            }
            State::Pending | State::Deciding | State::Fetched => {}
        }
        let pace = &mut pairing.pace;
        let before = pace.polled_at.replace(now);
        if client_id.is_some() && before.is_some_and(|before| now.since(before) < pace.interval) {
            pace.interval += SLOW_DOWN;
            return Ok(Polled::TooSoon { interval: pace.interval });
        }
        Ok(Polled::Pending)
    }

    /// What stands behind a user code.
    ///
    /// # Errors
    /// [`CodeError`]; a wrong code counts against `session`'s tries.
    pub fn look_up(&self, user_code: &str, session: Uuid, now: Timestamp) -> Result<Facing, CodeError> {
        let mut inner = self.lock(now);
        let hash = inner.find(user_code, session, now)?;
        inner.by_device.get(&hash).map(|pairing| pairing.facing.clone()).ok_or(CodeError::Unknown)
    }

    /// Takes a pending pairing for deciding; nobody else can decide it meanwhile.
    ///
    /// # Errors
    /// [`CodeError`]; a wrong code counts against `session`'s tries.
    pub fn claim(&self, user_code: &str, session: Uuid, now: Timestamp) -> Result<Undecided<'_>, CodeError> {
        let mut inner = self.lock(now);
        let hash = inner.find(user_code, session, now)?;
        let pairing = inner.by_device.get_mut(&hash).ok_or(CodeError::Unknown)?;
        pairing.state = State::Deciding;
        Ok(Undecided { pairings: self, hash, facing: pairing.facing.clone(), outcome: State::Pending })
    }

    fn lock(&self, now: Timestamp) -> MutexGuard<'_, Inner> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sweep(now);
        inner
    }
}

impl Inner {
    /// A pending pairing by its code: letters of any case, dashes and spaces ignored.
    fn find(&mut self, user_code: &str, session: Uuid, now: Timestamp) -> Result<[u8; 32], CodeError> {
        let tried = self.guesses.get(&session).copied().unwrap_or_default();
        if tried >= GUESSES_PER_SESSION_MAX || self.guesses_all >= GUESSES_MAX {
            return Err(CodeError::TooManyGuesses);
        }
        let code: String = user_code
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            .take(random::CODE_LEN + 1)
            .map(|c| c.to_ascii_uppercase())
            .collect();
        let found = match self.by_user_code.get(&code).and_then(|hash| Some((*hash, self.by_device.get(hash)?))) {
            None => Err(CodeError::Unknown),
            Some((_, pairing)) if !matches!(pairing.state, State::Pending) => Err(CodeError::Decided),
            Some((_, pairing)) if pairing.is_over(now) => Err(CodeError::Expired),
            Some((hash, _)) => Ok(hash),
        };
        found.inspect_err(|_| {
            *self.guesses.entry(session).or_default() += 1;
            self.guesses_all += 1;
        })
    }

    fn sweep(&mut self, now: Timestamp) {
        if now.since(self.guesses_since) >= PAIRING_TTL {
            self.guesses.clear();
            self.guesses_all = 0;
            self.guesses_since = now;
            for pairing in self.by_device.values_mut().filter(|pairing| pairing.is_over(now)) {
                // What nobody can fetch any more is not kept.
                if matches!(pairing.state, State::Approved { .. }) {
                    pairing.state = State::Fetched;
                }
            }
            self.forget(|pairing| pairing.expires_at.plus(REMEMBERED) <= now);
        }
    }

    fn forget(&mut self, gone: impl Fn(&Pairing) -> bool) {
        self.by_device.retain(|_, pairing| !gone(pairing));
        let by_device = &self.by_device;
        self.by_user_code.retain(|_, hash| by_device.contains_key(hash));
    }
}

impl Pairing {
    fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }
}

/// A pairing that somebody is deciding on. Dropped undecided, it is pending again.
pub struct Undecided<'a> {
    pairings: &'a Pairings,
    hash: [u8; 32],
    /// What they were shown.
    pub facing: Facing,
    outcome: State,
}

impl Undecided<'_> {
    /// The device may fetch these.
    pub fn approve(mut self, device: Secret, companion: Secret) {
        self.outcome = State::Approved { device, companion };
    }

    /// The device is told no.
    pub fn deny(mut self) {
        self.outcome = State::Denied;
    }
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, State::Pending);
        let mut inner = self.pairings.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pairing) = inner.by_device.get_mut(&self.hash) {
            pairing.state = outcome;
        }
    }
}

#[cfg(test)]
mod tests;
