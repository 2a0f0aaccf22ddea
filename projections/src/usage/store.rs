//! Last uses at rest, in a sled database of the ledger's.

use std::collections::HashMap;

use keyledger_events::{CredentialId, Timestamp, presented::AddressClass};
use parking_lot::Mutex;
use sled::{Batch, Tree};

use super::{Stamp, instant};
use crate::Active;

/// An id and a stamp.
const PAIR_LEN: usize = 20;
/// Values of about 1 MB: sled is slow with many small ones.
const PAIRS_PER_VALUE: usize = 50_000;
const WHOLE: u8 = b'W';
const MINUTE: u8 = b'M';
/// Values under these were written before stamps said where: their numbers are bare minutes.
const BARE: [u8; 2] = [b'w', b'm'];

/// The side store of last uses: one tree of a sled database that may be lost.
#[derive(Debug)]
pub struct Usage {
    tree: Tree,
    sizes: Mutex<Sizes>,
}

#[derive(Debug, Default)]
struct Sizes {
    /// Pairs in the values of single minutes.
    minutes: usize,
    /// Pairs in the values of the whole.
    whole: usize,
    next_minute: u64,
}

impl Usage {
    /// Reads all stamps into the index. What can't be read is forgotten: it may be.
    ///
    /// # Errors
    /// What sled says; the caller goes on without.
    pub fn load(tree: Tree, active: &Active) -> Result<Self, sled::Error> {
        let mut sizes = Sizes::default();
        for item in tree.iter() {
            let (key, value) = item?;
            let pairs = value.len() / PAIR_LEN;
            match key.split_first() {
                Some((&MINUTE, number)) => {
                    sizes.minutes += pairs;
                    sizes.next_minute = number.try_into().map_or(0, u64::from_be_bytes).saturating_add(1);
                }
                _ => sizes.whole += pairs,
            }
            read_pairs(&key, &value).for_each(|(credential, stamp)| active.set_used(credential, stamp));
        }
        Ok(Self { tree, sizes: Mutex::new(sizes) })
    }

    /// Writes what was stamped since the last time. Call it once a minute and at shutdown.
    ///
    /// # Errors
    /// What sled says; these stamps may then be missing after a restart.
    pub fn save(&self, active: &Active) -> Result<(), sled::Error> {
        let used = active.take_used();
        if used.is_empty() {
            return Ok(());
        }
        let mut sizes = self.sizes.lock();
        if sizes.minutes + used.len() > sizes.whole.max(PAIRS_PER_VALUE) {
            self.save_whole(active, &mut sizes)?;
        } else {
            let mut batch = Batch::default();
            for chunk in used.chunks(PAIRS_PER_VALUE) {
                batch.insert(key(MINUTE, sizes.next_minute), pairs(chunk.iter().copied()));
                sizes.next_minute += 1;
            }
            sizes.minutes += used.len();
            self.tree.apply_batch(batch)?;
        }
        self.tree.flush().map(|_| ())
    }

    fn save_whole(&self, active: &Active, sizes: &mut Sizes) -> Result<(), sled::Error> {
        let before: Vec<_> = self.tree.iter().keys().collect::<Result<_, _>>()?;
        let all: Vec<_> = active.all_used().collect();
        let mut batch = Batch::default();
        before.into_iter().for_each(|key| batch.remove(key));
        for (chunk, number) in all.chunks(PAIRS_PER_VALUE).zip(0..) {
            batch.insert(key(WHOLE, number), pairs(chunk.iter().copied()));
        }
        self.tree.apply_batch(batch)?;
        *sizes = Sizes { minutes: 0, whole: all.len(), next_minute: 0 };
        Ok(())
    }
}

/// All stamps of a side store: when each credential was last used, to the minute.
///
/// # Errors
/// What sled says.
pub fn last_uses(tree: &Tree) -> Result<HashMap<CredentialId, Timestamp>, sled::Error> {
    let mut minutes: HashMap<CredentialId, u32> = HashMap::new();
    for item in tree.iter() {
        let (key, value) = item?;
        for (credential, stamp) in read_pairs(&key, &value) {
            let newest = minutes.entry(credential).or_default();
            *newest = stamp.minute().max(*newest);
        }
    }
    Ok(minutes.into_iter().filter(|(_, minute)| *minute > 0).map(|(id, minute)| (id, instant(minute))).collect())
}

fn read_pairs(key: &[u8], value: &[u8]) -> impl Iterator<Item = (CredentialId, Stamp)> {
    let bare = key.first().is_some_and(|kind| BARE.contains(kind));
    value.chunks_exact(PAIR_LEN).map(move |pair| {
        let (mut id, mut number) = ([0; 16], [0; 4]);
        id.copy_from_slice(&pair[..16]);
        number.copy_from_slice(&pair[16..]);
        let number = u32::from_le_bytes(number);
        let stamp = if bare { Stamp::new(number, None, AddressClass::Unknown) } else { Stamp(number) };
        (CredentialId::from_bytes(id), stamp)
    })
}

fn key(kind: u8, number: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn pairs(used: impl Iterator<Item = (CredentialId, Stamp)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, stamp) in used {
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(&stamp.0.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use keyledger_events::presented::Surface;

    use super::{super::*, *};
    use crate::testing::{Issue, id};

    fn index(credentials: u8) -> (Active, Vec<Handle>) {
        let active = Active::default();
        let handles = (0..credentials)
            .map(|n| {
                let issue = Issue::new(n.into());
                issue.apply(&active);
                active.judge(&issue.hash(), None, None, Timestamp::from_micros(1)).unwrap().handle
            })
            .collect();
        (active, handles)
    }

    #[test]
    fn last_use_is_kept_to_the_minute_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |minute: u64| Timestamp::from_micros(minute * MINUTE_US + 59_999_999);
        {
            let (active, handles) = index(100);
            let db = sled::open(dir.path()).unwrap();
            let usage = Usage::load(db.open_tree("used").unwrap(), &active).unwrap();
            for minute in 10..14 {
                handles
                    .iter()
                    .step_by(minute as usize)
                    .for_each(|handle| active.touch(*handle, at(minute), None, || AddressClass::Private));
                usage.save(&active).unwrap();
            }
            // A use that is reported late does not turn the stamp back.
            active.touch(handles[0], at(3), None, || panic!("nobody wants to know"));
            assert_eq!(active.last_used(id(0)), Some(Timestamp::from_micros(13 * MINUTE_US)));
            assert_eq!(active.last_used(id(1)), None);
        }
        let (active, _) = index(100);
        let db = sled::open(dir.path()).unwrap();
        let usage = Usage::load(db.open_tree("used").unwrap(), &active).unwrap();
        assert_eq!(active.last_used(id(0)), Some(Timestamp::from_micros(13 * MINUTE_US)));
        assert_eq!(active.last_used(id(10)), Some(Timestamp::from_micros(10 * MINUTE_US)));
        assert_eq!(active.last_used(id(1)), None);
        let read = last_uses(&usage.tree).unwrap();
        assert_eq!(read.get(&id(0)), active.last_used(id(0)).as_ref());
        assert!(read.len() > 10 && !read.contains_key(&id(1)));
        let pieces = usage.tree.len();
        usage.save_whole(&active, &mut usage.sizes.lock()).unwrap();
        assert_eq!((pieces, usage.tree.len()), (4, 1));
    }
    #[test]
    fn a_stamp_says_when_where_and_from_where() {
        let surfaces = Surface::ALL.into_iter().map(Some).chain([None]);
        for (surface, address) in surfaces.flat_map(|surface| AddressClass::ALL.map(|address| (surface, address))) {
            let used = Use { at: instant(29_900_000), surface, address };
            assert_eq!(Stamp::new(minute_of(used.at), surface, address).read(), Some(used));
            // Whatever the rest says, the later minute is the greater number.
            assert!(Stamp::new(8, surface, address).0 < Stamp::new(9, None, AddressClass::Unknown).0);
        }
        assert_eq!(Stamp(63).read(), None);
        assert_eq!(minute_of(Timestamp::MAX), (1 << 26) - 1);
        let unknown = Use { at: instant(1), surface: None, address: AddressClass::Unknown };
        assert_eq!(Stamp(1 << 6 | 63).read(), Some(unknown));
        let (active, _) = index(2);
        let at = |minute| Use { at: instant(minute), surface: Some(Surface::Mcp), address: AddressClass::Public };
        assert!(active.note_use(id(1), at(7)) && active.note_use(id(1), at(6)) && !active.note_use(id(9), at(7)));
        assert_eq!(active.last_use(id(1)), Some(at(7)));
        assert_eq!(active.take_uses(), [(id(1), at(7))]);
        assert!(active.take_uses().is_empty());
    }

    #[test]
    fn bare_minutes_of_an_older_program_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let tree = sled::open(dir.path()).unwrap().open_tree("used").unwrap();
        let mut value = id(1).as_bytes().to_vec();
        value.extend_from_slice(&29_900_000_u32.to_le_bytes());
        tree.insert(key(b'w', 0), value).unwrap();
        let (active, handles) = index(2);
        let usage = Usage::load(tree, &active).unwrap();
        let bare = Use { at: instant(29_900_000), surface: None, address: AddressClass::Unknown };
        assert_eq!(active.last_use(id(1)), Some(bare));
        assert_eq!(last_uses(&usage.tree).unwrap()[&id(1)], bare.at);
        active.touch(handles[1], instant(29_900_001), Some(Surface::Runtime), || AddressClass::Shared);
        usage.save(&active).unwrap();
        assert_eq!(last_uses(&usage.tree).unwrap()[&id(1)], instant(29_900_001));
    }

    proptest::proptest! {
        #[test]
        fn no_side_store_makes_it_panic(key in proptest::collection::vec(0u8.., 0..12), value in proptest::collection::vec(0u8.., 0..100)) {
            read_pairs(&key, &value).for_each(|(_, stamp)| assert!(stamp.read().is_none_or(|used| used.at <= Timestamp::MAX)));
        }
    }
}
