//! The credentials that are alive by the events: about 120 bytes each, freed when one ends.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;
use keyledger_events::{
    CredentialId, PersonId, Timestamp,
    secret::{Kind, SecretHash},
};

/// Where a live credential stands. Given to another once it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// A credential that no event has ended.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub hash: SecretHash,
    pub credential: CredentialId,
    pub holder: PersonId,
    /// The number of its team.
    pub team: u32,
    pub kind: Kind,
    /// When it ends by itself, or with its device.
    pub ends_at: Option<Timestamp>,
    /// A device's companion, a companion's device; none once that has ended.
    pub partner: Option<Slot>,
    name: Name,
}

/// A place in the arena of names.
#[derive(Clone, Copy, Debug)]
struct Name {
    granule: u32,
    len: u16,
}

/// How many credentials are allocated at once: growing never copies.
const BLOCK_LEN: usize = 1 << 14;

/// All live credentials, by id.
#[derive(Default)]
pub(super) struct LiveSet {
    table: HashTable<u32>,
    blocks: Vec<Vec<Option<Live>>>,
    free: Vec<u32>,
    used: u32,
    names: Names,
}

impl LiveSet {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Adds one, with its name's bytes; none if the id is taken.
    #[allow(clippy::too_many_arguments)] // A credential has so many sides.
    pub fn insert(
        &mut self,
        credential: CredentialId,
        hash: SecretHash,
        holder: PersonId,
        team: u32,
        kind: Kind,
        ends_at: Option<Timestamp>,
        name: &[u8],
    ) -> Option<Slot> {
        if self.find(credential).is_some() {
            return None;
        }
        let name = self.names.insert(name);
        let live = Live { hash, credential, holder, team, kind, ends_at, partner: None, name };
        let number = self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        let (block, at) = (number as usize / BLOCK_LEN, number as usize % BLOCK_LEN);
        if block == self.blocks.len() {
            self.blocks.push(Vec::with_capacity(BLOCK_LEN));
        }
        if at == self.blocks[block].len() {
            self.blocks[block].push(Some(live));
        } else {
            self.blocks[block][at] = Some(live);
        }
        let blocks = &self.blocks;
        self.table.insert_unique(spread(credential), number, |number| id_at(blocks, *number).map_or(0, spread));
        Some(Slot(number))
    }

    /// The live credential of that id.
    pub fn find(&self, credential: CredentialId) -> Option<Slot> {
        let blocks = &self.blocks;
        self.table
            .find(spread(credential), |number| id_at(blocks, *number) == Some(credential))
            .map(|number| Slot(*number))
    }

    /// What stands there, if it lives.
    pub fn get(&self, slot: Slot) -> Option<&Live> {
        self.blocks.get(slot.0 as usize / BLOCK_LEN)?.get(slot.0 as usize % BLOCK_LEN)?.as_ref()
    }

    /// What stands there, if it lives, to be changed.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Live> {
        self.blocks.get_mut(slot.0 as usize / BLOCK_LEN)?.get_mut(slot.0 as usize % BLOCK_LEN)?.as_mut()
    }

    /// The bytes of its name.
    pub fn name(&self, live: &Live) -> &[u8] {
        self.names.get(live.name)
    }

    /// Forgets one. Its name's bytes are overwritten by a later one's.
    pub fn remove(&mut self, slot: Slot) {
        let Some(live) = self.get(slot) else { return };
        let (credential, name, partner) = (live.credential, live.name, live.partner);
        if let Ok(entry) = self.table.find_entry(spread(credential), |number| *number == slot.0) {
            entry.remove();
        }
        if let Some(partner) = partner.and_then(|partner| self.get_mut(partner)) {
            partner.partner = None;
        }
        self.names.remove(name);
        self.blocks[slot.0 as usize / BLOCK_LEN][slot.0 as usize % BLOCK_LEN] = None;
        self.free.push(slot.0);
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Live> {
        self.blocks.iter().flatten().flatten()
    }
}

fn id_at(blocks: &[Vec<Option<Live>>], number: u32) -> Option<CredentialId> {
    Some(blocks.get(number as usize / BLOCK_LEN)?.get(number as usize % BLOCK_LEN)?.as_ref()?.credential)
}

/// Ids are random, or begin with a time: their last bytes are as good as a hash, spread over all bits.
fn spread(id: CredentialId) -> u64 {
    let mut tail = [0; 8];
    tail.copy_from_slice(&id.as_bytes()[8..]);
    let product = u64::from_le_bytes(tail).wrapping_mul(MULTIPLIER);
    // The table takes its place from the low bits, the product's good ones are high.
    product ^ (product >> 32)
}

/// The 64-bit golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hasher for keys made of ids. Who writes the log could make it slow, and would only waste an auditor's time.
#[derive(Clone, Copy, Default)]
pub(super) struct Spread(u64);

impl BuildHasher for Spread {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self::default()
    }
}

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.rchunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.write_u64(u64::from_le_bytes(padded));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER);
    }

    fn finish(&self) -> u64 {
        // The table takes its place from the low bits, the product's good ones are high.
        self.0 ^ (self.0 >> 32)
    }
}

/// How names are rounded up, in bytes.
const GRANULE: usize = 16;

/// Names of all lengths in one vector; a freed place is used again for a name of as many granules.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    free: Vec<Vec<u32>>,
}

impl Names {
    fn insert(&mut self, name: &[u8]) -> Name {
        // A record's meta and event fit 16 bits of length only in part, but no label does more than 4 KiB and a bit.
        let name = &name[..name.len().min(usize::from(u16::MAX))];
        let granules = name.len().div_ceil(GRANULE);
        let granule = match self.free.get_mut(granules).and_then(Vec::pop) {
            Some(granule) => granule,
            None => {
                let granule = self.bytes.len() / GRANULE;
                self.bytes.resize(self.bytes.len() + granules * GRANULE, 0);
                granule as u32
            }
        };
        let start = granule as usize * GRANULE;
        self.bytes[start..start + name.len()].copy_from_slice(name);
        Name { granule, len: name.len() as u16 }
    }

    fn get(&self, name: Name) -> &[u8] {
        let start = name.granule as usize * GRANULE;
        &self.bytes[start..start + usize::from(name.len)]
    }

    fn remove(&mut self, name: Name) {
        let granules = usize::from(name.len).div_ceil(GRANULE);
        if self.free.len() <= granules {
            self.free.resize_with(granules + 1, Vec::new);
        }
        self.free[granules].push(name.granule);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_whatever_comes_and_goes(steps in proptest::collection::vec((any::<bool>(), 0u8..40, 0usize..70), 0..400)) {
            let (mut live, mut model) = (LiveSet::default(), HashMap::new());
            for (insert, id, len) in steps {
                let credential = CredentialId::from_bytes([id; 16]);
                if insert {
                    let name = vec![len as u8; len];
                    let (hash, holder) = (SecretHash([id; 32]), PersonId::from_bytes([id; 16]));
                    let slot = live.insert(credential, hash, holder, u32::from(id), Kind::Agent, None, &name);
                    prop_assert_eq!(slot.is_some(), !model.contains_key(&credential));
                    model.entry(credential).or_insert(name);
                } else if let Some(slot) = live.find(credential) {
                    live.remove(slot);
                    prop_assert!(model.remove(&credential).is_some());
                }
            }
            prop_assert_eq!(live.len(), model.len());
            prop_assert_eq!(live.iter().count(), model.len());
            for id in 0..40 {
                let credential = CredentialId::from_bytes([id; 16]);
                let name = live.find(credential).and_then(|slot| live.get(slot)).map(|found| live.name(found));
                prop_assert_eq!(name, model.get(&credential).map(Vec::as_slice));
            }
        }
    }

    #[test]
    fn a_credential_takes_little_room() {
        assert!(size_of::<Option<Live>>() <= 104, "{}", size_of::<Option<Live>>());
    }
}
