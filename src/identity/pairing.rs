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
/// How many wrong codes one session may try within a pairing's life.
pub const GUESSES_PER_SESSION_MAX: u32 = 5;
/// How many wrong codes all sessions together may try within a pairing's life. Of 20⁸ codes, a guesser with all of
/// these and a thousand pairings open hits one with a chance of 4 in 100,000.
pub const GUESSES_MAX: u32 = 1_000;
/// How many pairings may be in flight.
const PAIRINGS_MAX: usize = 10_000;

/// What a device is told when it asks.
#[derive(Debug)]
pub enum Polled {
    /// Nobody has decided yet.
    Pending,
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

/// Why a user code is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeError {
    /// No such code, used, or run out.
    Unknown,
    /// Too many wrong ones.
    TooManyGuesses,
}

struct Pairing {
    user_code: String,
    facing: Facing,
    expires_at: Timestamp,
    state: State,
}

enum State {
    Pending,
    Deciding,
    Denied,
    Approved { device: Secret, companion: Secret },
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
    pub fn start(&self, device_name: String, address: String, now: Timestamp) -> Option<(String, String)> {
        let mut inner = self.lock(now);
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
        let facing = Facing { device_name, address, started_at: now };
        let expires_at = now.plus(PAIRING_TTL);
        inner.by_user_code.insert(user_code.clone(), hash);
        let pairing = Pairing { user_code: user_code.clone(), facing, expires_at, state: State::Pending };
        inner.by_device.insert(hash, pairing);
        let (left, right) = user_code.split_at(random::CODE_LEN / 2);
        Some((device_code, format!("{left}-{right}")))
    }

    /// What the device gets; `None` once it has fetched its secrets, or when there is no such pairing.
    pub fn poll(&self, device_code: &str, now: Timestamp) -> Option<Polled> {
        let mut inner = self.lock(now);
        let hash = token_hash(device_code);
        match inner.by_device.get(&hash).filter(|pairing| now < pairing.expires_at)?.state {
            State::Pending | State::Deciding => Some(Polled::Pending),
            State::Denied => Some(Polled::Denied),
            State::Approved { .. } => match inner.remove(&hash)?.state {
                State::Approved { device, companion } => Some(Polled::Approved { device, companion }),
                _ => None,
            },
        }
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
        let pending = |hash: &&[u8; 32]| {
            let pairing = self.by_device.get(*hash).filter(|pairing| now < pairing.expires_at);
            pairing.is_some_and(|pairing| matches!(pairing.state, State::Pending))
        };
        let found = self.by_user_code.get(&code).filter(pending).copied();
        found.ok_or_else(|| {
            *self.guesses.entry(session).or_default() += 1;
            self.guesses_all += 1;
            CodeError::Unknown
        })
    }

    fn sweep(&mut self, now: Timestamp) {
        if now.since(self.guesses_since) >= PAIRING_TTL {
            self.guesses.clear();
            self.guesses_all = 0;
            self.guesses_since = now;
            self.by_device.retain(|_, pairing| now < pairing.expires_at);
            let by_device = &self.by_device;
            self.by_user_code.retain(|_, hash| by_device.contains_key(hash));
        }
    }

    fn remove(&mut self, hash: &[u8; 32]) -> Option<Pairing> {
        let pairing = self.by_device.remove(hash)?;
        self.by_user_code.remove(&pairing.user_code);
        Some(pairing)
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
mod tests {
    use keyledger_events::secret::Kind;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn session(n: u8) -> Uuid {
        Uuid::from_bytes([n; 16])
    }

    fn start(pairings: &Pairings) -> (String, String) {
        pairings.start("laptop".into(), "192.0.2.1".into(), NOW).unwrap()
    }

    #[test]
    fn secrets_are_handed_over_once() {
        let pairings = Pairings::default();
        let (device_code, user_code) = start(&pairings);
        assert!(matches!(pairings.poll(&device_code, NOW), Some(Polled::Pending)));
        let typed = format!(" {} ", user_code.to_lowercase().replace('-', " "));
        let undecided = pairings.claim(&typed, session(1), NOW).unwrap();
        assert_eq!(pairings.claim(&user_code, session(2), NOW).err(), Some(CodeError::Unknown), "decided once");
        undecided.approve(random::secret(Kind::Device), random::secret(Kind::Agent));
        assert!(matches!(pairings.poll(&device_code, NOW), Some(Polled::Approved { .. })));
        assert!(pairings.poll(&device_code, NOW).is_none());
        assert!(pairings.look_up(&user_code, session(1), NOW).is_err());
    }

    #[test]
    fn a_decision_that_fails_leaves_the_pairing_pending() {
        let pairings = Pairings::default();
        let (_, user_code) = start(&pairings);
        drop(pairings.claim(&user_code, session(1), NOW).unwrap());
        assert!(pairings.claim(&user_code, session(1), NOW).is_ok());
    }

    #[test]
    fn a_pairing_ends_at_its_instant() {
        let pairings = Pairings::default();
        let (device_code, user_code) = start(&pairings);
        let end = NOW.plus(PAIRING_TTL);
        let before = Timestamp::from_micros(end.micros() - 1);
        assert!(pairings.look_up(&user_code, session(1), before).is_ok());
        assert!(pairings.look_up(&user_code, session(1), end).is_err());
        assert!(pairings.poll(&device_code, end).is_none());
    }

    #[test]
    fn guesses_run_out() {
        let pairings = Pairings::default();
        let (_, user_code) = start(&pairings);
        for _ in 0..GUESSES_PER_SESSION_MAX {
            assert_eq!(pairings.look_up("BBBB-BBBB", session(1), NOW), Err(CodeError::Unknown));
        }
        assert_eq!(pairings.look_up(&user_code, session(1), NOW), Err(CodeError::TooManyGuesses));
        assert!(pairings.look_up(&user_code, session(2), NOW).is_ok(), "others are not locked out");
    }
}
