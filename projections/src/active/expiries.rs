//! Which credentials end next. Cheap however many there are: minutes that lie ahead hold bare entry numbers, only
//! the minutes that have begun are kept in order.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use keyledger_events::Timestamp;

const MINUTE_US: u64 = 60_000_000;

/// Entry numbers by the time they end at. Nothing is ever taken out early: what has died meanwhile, or ends at another
/// time than it was filed under, is sorted out when its time comes.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    ahead: BTreeMap<u32, Vec<u32>>,
    begun: BinaryHeap<Reverse<(u64, u32)>>,
    /// Past their end, and no event says so yet.
    ripe: BTreeSet<u32>,
}

impl Expiries {
    pub(super) fn file(&mut self, ends_at: Timestamp, entry: u32) {
        self.ahead.entry((ends_at.micros() / MINUTE_US) as u32).or_default().push(entry);
    }

    /// At most `max` entries that have ended by `now`. `ends` tells the end of an entry that is still alive by the events.
    pub(super) fn due(
        &mut self,
        now: Timestamp,
        max: usize,
        ends: impl Fn(u32) -> Option<Timestamp>,
    ) -> Vec<(u32, Timestamp)> {
        while let Some(minute) = self.ahead.first_entry()
            && u64::from(*minute.key()) * MINUTE_US <= now.micros()
        {
            for entry in minute.remove() {
                if let Some(at) = ends(entry) {
                    self.begun.push(Reverse((at.micros(), entry)));
                }
            }
        }
        while let Some(Reverse((at, entry))) = self.begun.peek().copied()
            && at <= now.micros()
        {
            self.begun.pop();
            self.ripe.insert(entry);
        }
        self.ripe.retain(|entry| ends(*entry).is_some());
        self.ripe
            .iter()
            .filter_map(|entry| ends(*entry).filter(|at| *at <= now).map(|at| (*entry, at)))
            .take(max)
            .collect()
    }

    /// Nothing that is not ripe yet ends before; none: nothing has an end.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let begun = self.begun.peek().map(|Reverse((at, _))| *at);
        let ahead = self.ahead.keys().next().map(|minute| u64::from(*minute) * MINUTE_US);
        begun.into_iter().chain(ahead).min().map(Timestamp::from_micros)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let filed: usize = self.ahead.values().map(|entries| entries.capacity() * 4 + 32).sum();
        filed + self.begun.capacity() * 16 + self.ripe.len() * 8
    }
}
