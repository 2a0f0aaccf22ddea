//! Credential id → entry, for what names a credential by its id: events, and questions about its last use.

use keyledger_events::CredentialId;

/// At most this much of the table is filled.
const LOAD_PERCENT_MAX: usize = 80;
const CAPACITY_MIN: usize = 1 << 10;

/// Open addressing over entry numbers; the ids themselves stand in the entries.
#[derive(Debug)]
pub(super) struct Ids {
    /// 0: empty; else the entry's number and 1.
    slots: Vec<u32>,
}

impl Ids {
    pub(super) fn for_entries(entries: usize) -> Self {
        let capacity = (entries * 100 / LOAD_PERCENT_MAX + 1).next_power_of_two().max(CAPACITY_MIN);
        Self { slots: vec![0; capacity] }
    }

    /// The entry with this id; `id_of` says an entry's.
    pub(super) fn find(&self, id: CredentialId, id_of: impl Fn(u32) -> Option<CredentialId>) -> Option<u32> {
        let mut at = self.start(id);
        while let Some(entry) = self.slots[at].checked_sub(1) {
            if id_of(entry) == Some(id) {
                return Some(entry);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }

    /// Adds an entry that is not in it, as the `len`-th: entries 0 to `len` − 1 are.
    pub(super) fn insert(&mut self, id: CredentialId, len: usize, id_of: impl Fn(u32) -> Option<CredentialId>) {
        if (len + 1) * 100 > self.slots.len() * LOAD_PERCENT_MAX {
            *self = Self::for_entries(self.slots.len());
            for entry in 0..len as u32 {
                if let Some(id) = id_of(entry) {
                    self.put(id, entry);
                }
            }
        }
        self.put(id, len as u32);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }

    fn put(&mut self, id: CredentialId, entry: u32) {
        let mut at = self.start(id);
        while self.slots[at] != 0 {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = entry + 1;
    }

    /// Ids are UUIDv7: their first bits are a time, so all bits are mixed (the finalizer of MurmurHash3).
    fn start(&self, id: CredentialId) -> usize {
        let (high, low) = id.as_bytes().split_at(8);
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let mut mixed = word(high) ^ word(low).rotate_left(32);
        mixed = (mixed ^ mixed >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (mixed ^ mixed >> 33) as usize & (self.slots.len() - 1)
    }
}
