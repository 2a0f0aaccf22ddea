//! The hash table of the index: open addressing over words of 32 bits, a piece of the hash and an entry's number.
//!
//! The words lie in buckets of one cache line each, and a bucket is looked at as a whole: which of its words fits is
//! arithmetic and not a branch. A branch there can't be predicted, and a processor that waits for the bucket to decide it
//! does not go on to the next token meanwhile.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};

/// At most this much of the table is filled.
const LOAD_PERCENT_MAX: usize = 80;
const BUCKET_LEN: usize = 16;
const BUCKETS_MIN: usize = 1 << 6;

/// One size of the table. Readers search it while the one writer adds to it; a bigger one replaces it as a whole.
#[derive(Debug)]
pub(super) struct Slots {
    buckets: Box<[Bucket]>,
    /// The bits of a word that hold an entry's number and 1; the others hold as many bits of the hash.
    entry_mask: u32,
}

/// 0: empty. Filled from the front.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU32; BUCKET_LEN]);

impl Slots {
    /// A table with room for `entries`.
    pub(super) fn for_entries(entries: usize) -> Self {
        let words = entries * 100 / LOAD_PERCENT_MAX + 1;
        let buckets = words.div_ceil(BUCKET_LEN).next_power_of_two().max(BUCKETS_MIN);
        // There are fewer entries than words, so their numbers and 1 fit.
        let entry_mask = u32::try_from(buckets * BUCKET_LEN - 1).unwrap_or(u32::MAX);
        Self { buckets: (0..buckets).map(|_| Bucket::default()).collect(), entry_mask }
    }

    /// Whether one more entry than `entries` would fill it too much.
    pub(super) fn is_full(&self, entries: usize) -> bool {
        (entries + 1) * 100 > self.buckets.len() * BUCKET_LEN * LOAD_PERCENT_MAX
    }

    /// Publishes an entry under the first word of its hash: who finds it sees all that was written to it before.
    pub(super) fn insert(&self, hash: u64, entry: u32) {
        let word = self.piece(hash) | (entry + 1);
        let mut at = self.start(hash);
        loop {
            if let Some(empty) = self.buckets[at].0.iter().find(|word| word.load(Acquire) == 0) {
                return empty.store(word, Release);
            }
            at = (at + 1) & (self.buckets.len() - 1);
        }
    }

    /// The first entry under this hash word that `matches`. Entries inserted earlier are tried earlier.
    #[inline]
    pub(super) fn find<T>(&self, hash: u64, mut matches: impl FnMut(u32) -> Option<T>) -> Option<T> {
        let (mut at, piece) = (self.start(hash), self.piece(hash));
        loop {
            let words = &self.buckets[at].0;
            let mut fitting = 0u32;
            for (place, word) in words.iter().enumerate() {
                fitting |= u32::from(word.load(Acquire) & !self.entry_mask == piece) << place;
            }
            while fitting != 0 {
                let word = words[fitting.trailing_zeros() as usize % BUCKET_LEN].load(Acquire);
                // An empty word fits a piece of zeros.
                if let Some(found) = (word & self.entry_mask).checked_sub(1).and_then(&mut matches) {
                    return Some(found);
                }
                fitting &= fitting - 1;
            }
            if words[BUCKET_LEN - 1].load(Acquire) == 0 {
                return None;
            }
            at = (at + 1) & (self.buckets.len() - 1);
        }
    }

    /// What stands where this hash is looked for first: to have it in the cache.
    pub(super) fn peek(&self, hash: u64) -> u32 {
        self.buckets[self.start(hash)].0[0].load(Acquire)
    }

    /// Memory held, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    #[inline]
    fn start(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// The bits of the hash that stand in a word.
    #[inline]
    fn piece(&self, hash: u64) -> u32 {
        (hash >> 32) as u32 & !self.entry_mask
    }
}
