//! The wall clock, read here and nowhere else.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use keyledger_events::Timestamp;

/// A clock that jumps further than this against the monotonic clock is reported.
const JUMP_REPORTED: Duration = Duration::from_secs(60);

/// The wall clock, never going backwards within a process nor behind the log: what has expired stays expired.
///
/// The log itself is the persisted high-water mark. Its newest recorded time is the floor at start, and the sweeper
/// records every expiry within a second of its instant.
#[derive(Debug)]
pub struct Clock {
    /// Added to the wall clock, in microseconds: drills and tests.
    offset_us: i64,
    /// The latest instant handed out, in microseconds.
    floor_us: AtomicU64,
    /// A wall-clock reading and the monotonic one taken with it.
    anchor: (u64, Instant),
    /// The jump last reported, in microseconds.
    reported_us: AtomicU64,
}

impl Clock {
    /// A clock that starts no earlier than `floor`, shifted by `offset_seconds`.
    pub fn new(floor: Timestamp, offset_seconds: i64) -> Self {
        let offset_us = offset_seconds.saturating_mul(1_000_000);
        let wall = wall_us(offset_us);
        if Duration::from_micros(floor.micros().saturating_sub(wall)) > JUMP_REPORTED {
            tracing::warn!(
                clock = %Timestamp::from_micros(wall), log = %floor,
                "the clock is behind the log; time stands still until it has caught up"
            );
        }
        Self {
            offset_us,
            floor_us: AtomicU64::new(floor.micros()),
            anchor: (wall, Instant::now()),
            reported_us: AtomicU64::new(0),
        }
    }

    /// Now: at least as late as every instant handed out before.
    pub fn now(&self) -> Timestamp {
        let wall = wall_us(self.offset_us);
        let before = self.floor_us.fetch_max(wall, Ordering::Relaxed);
        Timestamp::from_micros(wall.max(before))
    }

    /// Compares the wall clock with the monotonic one and reports a jump, once for each. Called about once a second.
    pub fn watch(&self) {
        let wall = wall_us(self.offset_us);
        let steady = self.anchor.0.saturating_add(self.anchor.1.elapsed().as_micros() as u64);
        let jump = wall.abs_diff(steady);
        let new = jump.abs_diff(self.reported_us.load(Ordering::Relaxed));
        if Duration::from_micros(new) > JUMP_REPORTED {
            self.reported_us.store(jump, Ordering::Relaxed);
            let direction = if wall > steady { "forward" } else { "backward" };
            tracing::warn!(direction, seconds = new / 1_000_000, "the clock has jumped");
        }
    }
}

fn wall_us(offset_us: i64) -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since_epoch.as_micros() as u64).saturating_add_signed(offset_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_backwards_nor_behind_the_log() {
        let ahead = Timestamp::from_micros(wall_us(0)).plus_days(365);
        let clock = Clock::new(ahead, 0);
        assert_eq!(clock.now(), ahead);
        let clock = Clock::new(Timestamp::default(), -3600);
        let first = clock.now();
        assert!(first.micros() < wall_us(0) - 3_000_000_000);
        assert!(clock.now() >= first);
    }
}
