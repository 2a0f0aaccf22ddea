//! Verification inside the service's own process: the ledger's index, followed live, with a bound on how old it may be.
//!
//! ```no_run
//! use keyledger_projections::{Surface, edge::Edge};
//!
//! # fn key_of_the_request() -> String { String::new() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let edge = Edge::connect("https://ledger.example", &std::env::var("KEYLEDGER_TOKEN")?)?;
//! edge.wait_until_ready(std::time::Duration::from_secs(10));
//! match edge.verify(&key_of_the_request(), Some(Surface::Runtime), edge.now()) {
//!     Ok(verdict) => println!("{} of team {}", verdict.credential, verdict.team),
//!     // 401, or 403 for a live key on the wrong surface: see `Denied`.
//!     Err(denied) => println!("no: {denied}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A thread of its own fetches a snapshot, follows the feed and watches the ledger's tree. Verifying takes no lock, makes
//! no allocation and touches no network. Whatever is in doubt is denied:
//!
//! * Under [`Policy::Strict`] nothing is accepted on news older than `max`. News is a head that the ledger has made, and is
//!   as old as it says: messages that are held up on their way make the edge stale, not late. The caller's `now`
//!   counts too, so that a machine that was suspended denies at once; and where the caller's clock is slower than
//!   the ledger's, keys end by the ledger's.
//! * A gap, a duplicate, another order or an unreadable message closes the gate until the ledger has confirmed the state;
//!   a digest that differs discards the state and fetches another.
//! * A ledger that has less history than it had ([`EdgeState::Behind`]), whose tree does not continue the remembered one
//!   ([`EdgeState::Forked`]) or is not signed by a pinned key ([`EdgeState::WrongKey`]) is not believed, under either policy.
//!
//! The connection goes straight to the ledger, past any proxy of the environment, and follows no redirect. TLS roots
//! are the system's.

mod counters;
mod disk;
mod ends;
mod gate;
mod machine;
#[cfg(test)]
mod model;
mod reports;
mod run;
mod sse;
mod tree;
mod upstream;

use std::{
    collections::BTreeSet,
    fmt,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use keyledger_events::{
    Position, TeamId, Timestamp,
    head::HeadVerifier,
    presented::AddressClass,
    secret::{Kind, Presented, SecretHash},
};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

pub use self::ends::{Ended, EndedReceiver};
use self::{
    counters::{Counters, Outcome},
    ends::Ends,
    gate::{Barred, Gate},
    reports::DeadKeys,
};
use crate::{Denied, Surface, Verdict};

/// How old the news may be that an edge still accepts keys on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Older than this denies everything.
    Strict {
        /// The ledger tells something each second: less than two leaves no room for a slow network.
        max: Duration,
    },
    /// As old as it may be: for services that must go on without the ledger. What was revoked meanwhile is accepted.
    BestEffort,
}

impl Default for Policy {
    /// Strict, five seconds.
    fn default() -> Self {
        Self::Strict { max: Duration::from_secs(5) }
    }
}

/// How an edge stands to its ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeState {
    /// Nothing is known yet. Denies.
    Starting,
    /// The ledger is heard.
    Following,
    /// The ledger is not heard; the policy decides.
    Disconnected,
    /// The ledger does not take the token; the policy decides.
    Refused,
    /// What was told did not fit; denies until the ledger has confirmed the state.
    Resyncing(ResyncCause),
    /// The ledger has less history than it was known to have: a restored backup, or a lie. Denies until it has it again.
    Behind,
    /// The ledger's tree does not continue the one that is remembered. Denies; for an operator to look at.
    Forked,
    /// The ledger's tree is not signed by a pinned key: a rotation, or another ledger. Denies; pin the new key beside the old.
    WrongKey,
}

impl EdgeState {
    /// Whether nothing is accepted, under whatever policy.
    pub const fn denies(self) -> bool {
        !matches!(self, Self::Following | Self::Disconnected | Self::Refused)
    }

    /// A word for it, as in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Following => "following",
            Self::Disconnected => "disconnected",
            Self::Refused => "refused",
            Self::Resyncing(_) => "resyncing",
            Self::Behind => "behind",
            Self::Forked => "forked",
            Self::WrongKey => "wrong_key",
        }
    }
}

impl fmt::Display for EdgeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "nothing is known of the ledger yet",
            Self::Following => "the ledger is followed",
            Self::Disconnected => "the ledger can't be reached",
            Self::Refused => "the ledger does not take the token",
            Self::Resyncing(ResyncCause::Gap) => "a message of the ledger's is missing or came twice; asking again",
            Self::Resyncing(ResyncCause::Malformed) => "what the ledger told can't be read; asking again",
            Self::Resyncing(ResyncCause::Digest) => "the index is not what the ledger's is; fetching another",
            Self::Behind => "the ledger has less history than it had",
            Self::Forked => "the ledger's tree does not continue the one that is remembered",
            Self::WrongKey => "the ledger's tree is not signed by a pinned key",
        })
    }
}

/// What did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResyncCause {
    /// A message that does not come right after what is held.
    Gap,
    /// A message that can't be read, or contradicts itself.
    Malformed,
    /// A digest that is not the index's.
    Digest,
}

impl ResyncCause {
    const fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Malformed => "malformed",
            Self::Digest => "digest",
        }
    }
}

/// Why a key is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EdgeDenied {
    /// The key itself is not good.
    #[error(transparent)]
    Key(Denied),
    /// The news is older than the policy allows, so no key is.
    #[error("nothing new from the ledger for too long")]
    Stale,
    /// No key is accepted, for this reason.
    #[error("{0}")]
    Closed(EdgeState),
}

/// How far an edge is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// Positions that the ledger is known to have and the edge has not applied.
    pub positions: u64,
    /// How old the news is; none if there was none.
    pub age: Option<Duration>,
}

/// What a key is checked against, and where it was presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The surface it must be good for; none: any.
    pub surface: Option<Surface>,
    /// The team it must belong to; none: any.
    pub team: Option<TeamId>,
    /// From which part of the network, for the key's last use.
    pub address: AddressClass,
}

/// Why an edge was not made.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// Not an address to ask.
    #[error("not an http or https URL without user, query and fragment")]
    Url,
    /// Not a token for services.
    #[error("the token is not an sv- key")]
    Token,
    /// There is no usable TLS on this machine.
    #[error("TLS: {0}")]
    Tls(String),
    /// The thread could not be started.
    #[error("the edge's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What an edge is made of. [`EdgeBuilder::connect`] makes it.
#[derive(Clone)]
pub struct EdgeBuilder {
    url: String,
    token: String,
    teams: Option<BTreeSet<TeamId>>,
    policy: Policy,
    snapshot_file: Option<PathBuf>,
    pins: Vec<HeadVerifier>,
    silence_max: Duration,
    reports: bool,
}

impl EdgeBuilder {
    /// Only these teams' keys: all others are unknown. Also what the edge keeps in memory.
    #[must_use]
    pub fn teams(mut self, teams: impl IntoIterator<Item = TeamId>) -> Self {
        self.teams = Some(teams.into_iter().collect());
        self
    }

    /// How old the news may be.
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Where to keep the state between starts (mode 0600): each minute, and when the edge is dropped.
    #[must_use]
    pub fn snapshot_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.snapshot_file = Some(file.into());
        self
    }

    /// A key that may sign the ledger's tree (its `ledger.vkey`). Call it for each: a rotation's new key is pinned before
    /// the rotation. Without any, the tree is still compared with the one that is remembered.
    #[must_use]
    pub fn ledger_key(mut self, key: HeadVerifier) -> Self {
        self.pins.push(key);
        self
    }

    /// How long the ledger may be silent, or take to connect or to begin an answer, until another connection is made: 3 s
    /// unless said otherwise.
    #[must_use]
    pub const fn silence_max(mut self, silence_max: Duration) -> Self {
        self.silence_max = silence_max;
        self
    }

    /// Whether last uses, and dead keys that were presented, are reported to the ledger: they are unless said otherwise.
    #[must_use]
    pub const fn reports(mut self, reports: bool) -> Self {
        self.reports = reports;
        self
    }

    /// Starts following. It returns at once: see [`Edge::wait_until_ready`].
    ///
    /// # Errors
    /// [`EdgeError`]. A ledger that can't be reached is none: it is tried until it can.
    pub fn connect(self) -> Result<Edge, EdgeError> {
        let is_service = Presented::parse(self.token.as_bytes()).is_ok_and(|token| token.kind == Kind::Service);
        if !is_service {
            return Err(EdgeError::Token);
        }
        let upstream = upstream::Upstream::new(&self.url, &self.token, self.teams.as_ref(), self.silence_max)?;
        let (stop, stopped) = oneshot::channel();
        let (dead, dead_keys) = DeadKeys::new(self.reports);
        let follower = run::Follower::new(&self, upstream)?;
        let shared = Arc::new(Shared {
            gate: Gate::new(self.policy, Arc::default()),
            state: watch::Sender::new(EdgeState::Starting),
            known: Mutex::default(),
            ends: Ends::default(),
            counters: Counters::default(),
            dead,
            reports: self.reports,
        });
        let thread = std::thread::Builder::new().name("keyledger-edge".to_owned()).spawn({
            let shared = shared.clone();
            move || follower.run(&shared, dead_keys, stopped)
        })?;
        let guard = Guard { stop: Some(stop), thread: Some(thread) };
        Ok(Edge { shared, _guard: Arc::new(guard) })
    }
}

/// Shows no token.
impl fmt::Debug for EdgeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeBuilder").field("url", &self.url).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// An index that follows a ledger. Clones share it; with the last one the following ends, which waits for the thread to
/// save its state.
#[derive(Clone)]
pub struct Edge {
    shared: Arc<Shared>,
    _guard: Arc<Guard>,
}

/// What verifications read and the edge's thread writes.
struct Shared {
    gate: Gate,
    state: watch::Sender<EdgeState>,
    known: Mutex<Known>,
    ends: Ends,
    counters: Counters,
    dead: DeadKeys,
    reports: bool,
}

/// Two positions: what is held, and the highest that the ledger is known to have.
#[derive(Clone, Copy, Default)]
struct Known {
    held: Option<Position>,
    highest: Option<Position>,
}

impl Edge {
    /// Follows the ledger at `url` with an `sv-` key, strictly. It returns at once.
    ///
    /// # Errors
    /// [`EdgeError`].
    pub fn connect(url: &str, token: &str) -> Result<Self, EdgeError> {
        Self::builder(url, token).connect()
    }

    /// The same with settings.
    pub fn builder(url: &str, token: &str) -> EdgeBuilder {
        EdgeBuilder {
            url: url.to_owned(),
            token: token.to_owned(),
            teams: None,
            policy: Policy::default(),
            snapshot_file: None,
            pins: Vec::new(),
            silence_max: Duration::from_secs(3),
            reports: true,
        }
    }

    /// Judges what somebody presents at `now`, the caller's clock ([`Edge::now`] for who has none at hand). No lock, no
    /// allocation, no network.
    ///
    /// # Errors
    /// [`EdgeDenied`]. Every doubt denies.
    #[inline]
    pub fn verify(
        &self,
        presented: &(impl AsRef<[u8]> + ?Sized),
        surface: Option<Surface>,
        now: Timestamp,
    ) -> Result<Verdict, EdgeDenied> {
        self.verify_for(presented, &Question { surface, ..Question::default() }, now)
    }

    /// The same with a team, and with where the key was presented.
    ///
    /// # Errors
    /// [`EdgeDenied`].
    #[inline]
    pub fn verify_for(
        &self,
        presented: &(impl AsRef<[u8]> + ?Sized),
        question: &Question,
        now: Timestamp,
    ) -> Result<Verdict, EdgeDenied> {
        match Presented::parse(presented.as_ref()) {
            Ok(presented) => self.verify_hash(&presented.hash(), question, now),
            Err(_) => Err(self.denied(EdgeDenied::Key(Denied::Malformed))),
        }
    }

    /// The same by the secret's hash, for who keeps that of a key it has accepted, to ask again.
    ///
    /// # Errors
    /// [`EdgeDenied`].
    #[inline]
    pub fn verify_hash(&self, hash: &SecretHash, question: &Question, now: Timestamp) -> Result<Verdict, EdgeDenied> {
        let Shared { gate, counters, dead, .. } = &*self.shared;
        let judged = gate.pass(now, |index, now| {
            let judged = index.judge(hash, question.surface, question.team, now);
            match &judged {
                Ok(verdict) => index.touch(verdict.handle, now, question.surface, || question.address),
                Err(Denied::Revoked | Denied::Expired) => dead.heard(*hash, question, now),
                Err(_) => {}
            }
            judged
        });
        match judged {
            Ok(Ok(verdict)) => {
                counters.count(Outcome::Valid);
                Ok(verdict)
            }
            Ok(Err(denied)) => Err(self.denied(EdgeDenied::Key(denied))),
            Err(Barred::Stale) => Err(self.denied(EdgeDenied::Stale)),
            Err(Barred::Closed) => Err(self.denied(EdgeDenied::Closed(self.state()))),
        }
    }

    fn denied(&self, denied: EdgeDenied) -> EdgeDenied {
        self.shared.counters.count(Outcome::of(&denied));
        denied
    }

    /// The wall clock's time, or the ledger's if that is later.
    pub fn now(&self) -> Timestamp {
        self.shared.gate.now()
    }

    /// How it stands to its ledger.
    pub fn state(&self) -> EdgeState {
        *self.shared.state.borrow()
    }

    /// How far it is behind.
    pub fn staleness(&self) -> Staleness {
        let Known { held, highest } = *self.shared.known.lock();
        let count = |position: Option<Position>| position.map_or(0, |position| position.0.saturating_add(1));
        Staleness { positions: count(highest).saturating_sub(count(held)), age: self.shared.gate.age() }
    }

    /// The last position that verdicts rest on.
    pub fn position(&self) -> Option<Position> {
        self.shared.known.lock().held
    }

    /// Whether it accepts keys now: it is not closed, and not stale.
    pub fn is_ready(&self) -> bool {
        self.shared.gate.pass(self.shared.gate.now(), |_, _| ()).is_ok()
    }

    /// Waits, blocking, until it accepts keys; false if it does not within `patience`.
    pub fn wait_until_ready(&self, patience: Duration) -> bool {
        let began = Instant::now();
        while !self.is_ready() {
            if began.elapsed() >= patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Waits until it accepts keys.
    pub async fn ready(&self) {
        let mut state = self.shared.state.subscribe();
        while !self.is_ready() {
            // Its other end is in our hands, so that it can't have gone.
            let _ = tokio::time::timeout(Duration::from_millis(100), state.changed()).await;
        }
    }

    /// Tells which keys end from now on, as soon as the edge knows: for who keeps something open on a key's word.
    pub fn ended(&self) -> EndedReceiver {
        self.shared.ends.subscribe()
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("state", &self.state()).field("position", &self.position()).finish_non_exhaustive()
    }
}

/// Ends the thread when the last [`Edge`] is dropped.
struct Guard {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the edge's thread had panicked");
        }
    }
}

#[cfg(test)]
mod tests;
