//! Credential id → entry, for what names a credential by its id: events, and questions about its last use.

use keyledger_events::CredentialId;

/// At most this much of the table is filled.
const LOAD_PERCENT_MAX: usize = 80;
const CAPACITY_MIN: usize = 1 << 10;

/// Open addressing over words of 32 bits, a piece of the id's hash and an entry's number; the ids stand in the entries.
#[derive(Debug)]
pub(super) struct Ids {
    /// 0: empty; else a piece of the hash, and the entry's number and 1.
    words: Vec<u32>,
    /// The bits of a word that hold the number.
    entry_mask: u32,
}

impl Ids {
    pub(super) fn for_entries(entries: usize) -> Self {
        let capacity = (entries * 100 / LOAD_PERCENT_MAX + 1).next_power_of_two().max(CAPACITY_MIN);
        Self { words: vec![0; capacity], entry_mask: u32::try_from(capacity - 1).unwrap_or(u32::MAX) }
    }

    /// The entry with this id; `id_of` says an entry's.
    pub(super) fn find(&self, id: CredentialId, id_of: impl Fn(u32) -> Option<CredentialId>) -> Option<u32> {
        let mixed = mix(id);
        let (mut at, piece) = (self.start(mixed), self.piece(mixed));
        while self.words[at] != 0 {
            let entry = (self.words[at] & self.entry_mask) - 1;
            if self.words[at] & !self.entry_mask == piece && id_of(entry) == Some(id) {
                return Some(entry);
            }
            at = (at + 1) & (self.words.len() - 1);
        }
        None
    }

    /// Adds an entry that is not in it, as the `len`-th: entries 0 to `len` − 1 are.
    pub(super) fn insert(&mut self, id: CredentialId, len: usize, id_of: impl Fn(u32) -> Option<CredentialId>) {
        if (len + 1) * 100 > self.words.len() * LOAD_PERCENT_MAX {
            *self = Self::for_entries(self.words.len());
            for entry in 0..len as u32 {
                if let Some(id) = id_of(entry) {
                    self.put(id, entry);
                }
            }
        }
        self.put(id, len as u32);
    }

    /// What stands where this id is looked for first: to have it in the cache.
    pub(super) fn peek(&self, id: CredentialId) -> u32 {
        self.words[self.start(mix(id))]
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u32>()
    }

    fn put(&mut self, id: CredentialId, entry: u32) {
        let mixed = mix(id);
        let mut at = self.start(mixed);
        while self.words[at] != 0 {
            at = (at + 1) & (self.words.len() - 1);
        }
        self.words[at] = self.piece(mixed) | (entry + 1);
    }

    fn start(&self, mixed: u64) -> usize {
        mixed as usize & (self.words.len() - 1)
    }

    fn piece(&self, mixed: u64) -> u32 {
        (mixed >> 32) as u32 & !self.entry_mask
    }
}

/// Ids are UUIDv7: their first bits are a time, so all bits are mixed (the finalizer of MurmurHash3).
fn mix(id: CredentialId) -> u64 {
    let (high, low) = id.as_bytes().split_at(8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    let mut mixed = word(high) ^ word(low).rotate_left(32);
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}
