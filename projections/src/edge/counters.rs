//! How verifications ended. Counted where no two threads meet, and told to the `metrics` recorder each second: a
//! verification never looks a recorder up.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use metrics::{Counter, counter};

use super::EdgeDenied;
use crate::Denied;

const SHARDS: usize = 16;

/// How a verification ended, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Valid,
    Malformed,
    Unknown,
    Revoked,
    Expired,
    WrongTeam,
    WrongSurface,
    Stale,
    Closed,
}

impl Outcome {
    const ALL: [Self; 9] = [
        Self::Valid,
        Self::Malformed,
        Self::Unknown,
        Self::Revoked,
        Self::Expired,
        Self::WrongTeam,
        Self::WrongSurface,
        Self::Stale,
        Self::Closed,
    ];

    pub(super) fn of(denied: &EdgeDenied) -> Self {
        match denied {
            EdgeDenied::Key(Denied::Malformed) => Self::Malformed,
            EdgeDenied::Key(Denied::Unknown) => Self::Unknown,
            EdgeDenied::Key(Denied::Revoked) => Self::Revoked,
            EdgeDenied::Key(Denied::Expired) => Self::Expired,
            EdgeDenied::Key(Denied::WrongTeam) => Self::WrongTeam,
            EdgeDenied::Key(Denied::WrongSurface(_)) => Self::WrongSurface,
            EdgeDenied::Stale => Self::Stale,
            EdgeDenied::Closed(_) => Self::Closed,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::WrongTeam => "wrong_team",
            Self::WrongSurface => "wrong_surface",
            Self::Stale => "stale",
            Self::Closed => "closed",
        }
    }
}

/// Two cache lines, so that no two threads write to the same one, nor to one that is fetched with it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard([AtomicU64; Outcome::ALL.len()]);

#[derive(Debug, Default)]
pub(super) struct Counters([Shard; SHARDS]);

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: Cell<usize> = Cell::new(NEXT_SHARD.fetch_add(1, Relaxed) % SHARDS);
}

impl Counters {
    #[inline]
    pub(super) fn count(&self, outcome: Outcome) {
        // A thread that is ending has no shard of its own any more.
        let shard = SHARD.try_with(Cell::get).unwrap_or(0);
        self.0[shard].0[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn sum(&self, outcome: Outcome) -> u64 {
        self.0.iter().map(|shard| shard.0[outcome as usize].load(Relaxed)).sum()
    }
}

/// The recorder's counters, and what they were told.
pub(super) struct Told([(Outcome, Counter, u64); Outcome::ALL.len()]);

impl Told {
    pub(super) fn new() -> Self {
        Self(
            Outcome::ALL.map(|outcome| {
                (outcome, counter!("keyledger_edge_verifications_total", "outcome" => outcome.name()), 0)
            }),
        )
    }

    /// Adds what has come since; several edges of one process share the recorder's counters.
    pub(super) fn tell(&mut self, counters: &Counters) {
        for (outcome, counter, told) in &mut self.0 {
            let sum = counters.sum(*outcome);
            counter.increment(sum - std::mem::replace(told, sum));
        }
    }
}
