//! The hash table of the index: open addressing over words of 32 bits of hash and 32 bits of entry number.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

/// At most this much of the table is filled.
const LOAD_PERCENT_MAX: usize = 80;
const CAPACITY_MIN: usize = 1 << 10;

/// One size of the table. Readers search it while the one writer adds to it; a bigger one replaces it as a whole.
#[derive(Debug)]
pub(super) struct Slots {
    /// 0: empty; else the upper half of the hash's first word, then the entry's number and 1.
    words: Box<[AtomicU64]>,
}

impl Slots {
    /// A table with room for `entries`.
    pub(super) fn for_entries(entries: usize) -> Self {
        let capacity = (entries * 100 / LOAD_PERCENT_MAX + 1).next_power_of_two().max(CAPACITY_MIN);
        Self { words: (0..capacity).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether one more entry than `entries` would fill it too much.
    pub(super) fn is_full(&self, entries: usize) -> bool {
        (entries + 1) * 100 > self.words.len() * LOAD_PERCENT_MAX
    }

    /// Publishes an entry under the first word of its hash: who finds it sees all that was written to it before.
    pub(super) fn insert(&self, hash: u64, entry: u32) {
        let word = hash >> 32 << 32 | u64::from(entry + 1);
        let mut at = hash as usize & (self.words.len() - 1);
        while self.words[at].load(Acquire) != 0 {
            at = (at + 1) & (self.words.len() - 1);
        }
        self.words[at].store(word, Release);
    }

    /// The first entry under this hash word that `matches`. Entries inserted earlier are tried earlier.
    #[inline]
    pub(super) fn find<T>(&self, hash: u64, mut matches: impl FnMut(u32) -> Option<T>) -> Option<T> {
        let mut at = hash as usize & (self.words.len() - 1);
        loop {
            let word = self.words[at].load(Acquire);
            if word == 0 {
                return None;
            }
            if word >> 32 == hash >> 32
                && let Some(found) = matches(word as u32 - 1)
            {
                return Some(found);
            }
            at = (at + 1) & (self.words.len() - 1);
        }
    }

    /// Memory held, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}
