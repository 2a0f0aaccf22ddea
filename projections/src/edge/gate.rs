//! What a verification reads: the index, whether it may be used, and how old it is. Written by the edge's thread alone.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicI64, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use keyledger_events::Timestamp;

use super::{
    Policy,
    machine::{Moment, News, Reading},
};
use crate::Active;

#[derive(Debug)]
pub(super) struct Gate {
    /// Where the monotonic clock's microseconds begin.
    began: Instant,
    index: ArcSwap<Active>,
    /// Nothing is accepted. Opened after everything below was written.
    closed: AtomicBool,
    /// No head has been believed yet.
    never: AtomicBool,
    /// How old the news may be, in microseconds.
    max_us: u64,
    /// When the news was made, by the monotonic clock …
    as_of_us: AtomicU64,
    /// … and by the wall clock.
    as_of_wall_us: AtomicU64,
    /// The ledger's clock less the monotonic one, at least.
    ledger_ahead_us: AtomicI64,
}

/// Why the gate does not let anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barred {
    Closed,
    Stale,
}

impl Gate {
    pub(super) fn new(policy: Policy, index: Arc<Active>) -> Self {
        let max_us = match policy {
            Policy::Strict { max } => u64::try_from(max.as_micros()).unwrap_or(u64::MAX),
            Policy::BestEffort => u64::MAX,
        };
        Self {
            began: Instant::now(),
            index: ArcSwap::new(index),
            closed: AtomicBool::new(true),
            never: AtomicBool::new(true),
            max_us,
            as_of_us: AtomicU64::new(0),
            as_of_wall_us: AtomicU64::new(0),
            ledger_ahead_us: AtomicI64::new(i64::MIN),
        }
    }

    /// Both clocks now.
    pub(super) fn reading(&self) -> Reading {
        Reading { mono: Moment(self.mono_us()), wall: wall() }
    }

    /// Gives `judge` the index and the time to judge by, if anything may be accepted at `now`.
    #[inline]
    pub(super) fn pass<T>(&self, now: Timestamp, judge: impl FnOnce(&Active, Timestamp) -> T) -> Result<T, Barred> {
        if self.closed.load(Acquire) {
            return Err(Barred::Closed);
        }
        let mono = self.mono_us();
        let by_wall = now.micros().saturating_sub(self.as_of_wall_us.load(Relaxed));
        if mono.saturating_sub(self.as_of_us.load(Relaxed)).max(by_wall) > self.max_us {
            return Err(Barred::Stale);
        }
        Ok(judge(&self.index.load(), self.latest(now, mono)))
    }

    /// What time it is at least: the caller's clock may lag behind the ledger's.
    #[inline]
    fn latest(&self, now: Timestamp, mono_us: u64) -> Timestamp {
        let ledger = self.ledger_ahead_us.load(Relaxed).saturating_add(mono_us as i64);
        now.max(Timestamp::from_micros(ledger.max(0) as u64))
    }

    /// The wall clock's time, or the ledger's if that is later.
    pub(super) fn now(&self) -> Timestamp {
        self.latest(wall(), self.mono_us())
    }

    /// How old the news is by the clock that says more; none if there was none.
    pub(super) fn age(&self) -> Option<Duration> {
        if self.never.load(Acquire) {
            return None;
        }
        let by_wall = wall().micros().saturating_sub(self.as_of_wall_us.load(Relaxed));
        Some(Duration::from_micros(self.mono_us().saturating_sub(self.as_of_us.load(Relaxed)).max(by_wall)))
    }

    /// How long until nothing is accepted any more if no news comes; zero if that is now.
    pub(super) fn fresh_for(&self) -> Duration {
        match self.age() {
            Some(age) if !self.closed.load(Acquire) => Duration::from_micros(self.max_us).saturating_sub(age),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn replace(&self, index: Arc<Active>) -> Arc<Active> {
        self.index.swap(index)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Release);
    }

    pub(super) fn open(&self, news: &News) {
        self.as_of_us.store(news.as_of.mono.0, Relaxed);
        self.as_of_wall_us.store(news.as_of.wall.micros(), Relaxed);
        self.ledger_ahead_us.fetch_max(news.at.micros() as i64 - news.heard.mono.0 as i64, Relaxed);
        self.never.store(false, Release);
        self.closed.store(false, Release);
    }

    #[inline]
    fn mono_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

/// The wall clock; before 1970 it is 1970.
pub(super) fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
