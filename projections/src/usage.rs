//! When each credential was last used, on which surface and from where: to the minute, beside the log, and not worth a
//! durable write. A crash may lose the last minute of it.
//!
//! A verification stamps the credential's entry in the index; once a minute [`Usage::save`] takes the entries stamped
//! since and writes them as one value. When the values of many minutes have become as big as the whole, they are
//! written anew as a whole.

use std::{
    collections::HashMap,
    sync::atomic::Ordering::{AcqRel, Relaxed},
};

use keyledger_events::{
    CredentialId, Timestamp,
    presented::{AddressClass, Surface},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sled::{Batch, Tree};

use crate::active::{Active, Handle, entry::Entry};

const MINUTE_US: u64 = 60_000_000;
/// An id and a stamp.
const PAIR_LEN: usize = 20;
/// Values of about 1 MB: sled is slow with many small ones.
const PAIRS_PER_VALUE: usize = 50_000;
const WHOLE: u8 = b'W';
const MINUTE: u8 = b'M';
/// Values under these were written before stamps said where: their numbers are bare minutes.
const BARE: [u8; 2] = [b'w', b'm'];

/// One use of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// When; in the index to the minute.
    pub at: Timestamp,
    /// On which surface, if it was said.
    pub surface: Option<Surface>,
    /// From where.
    pub address: AddressClass,
}

/// A use in 32 bits: minutes since the Unix epoch (26 bits, until the year 2097) ‖ surface (3) ‖ address class (3). Of two
/// stamps the greater is the later; of the same minute's, either will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u32);

impl Stamp {
    const MINUTES_MAX: u64 = (1 << 26) - 1;

    fn new(minute: u32, surface: Option<Surface>, address: AddressClass) -> Self {
        let surface = surface.map_or(0, |surface| surface as u32 + 1);
        Self(minute << 6 | surface << 3 | address as u32)
    }

    const fn minute(self) -> u32 {
        self.0 >> 6
    }

    /// The use it is of; none for "never". A number that no program of today writes says nothing of where.
    fn read(self) -> Option<Use> {
        let surface = Surface::ALL.get((self.0 >> 3 & 7).wrapping_sub(1) as usize).copied();
        let address = AddressClass::ALL.get((self.0 & 7) as usize).copied().unwrap_or_default();
        (self.minute() > 0).then(|| Use { at: instant(self.minute()), surface, address })
    }
}

fn minute_of(at: Timestamp) -> u32 {
    (at.micros() / MINUTE_US).min(Stamp::MINUTES_MAX) as u32
}

fn instant(minute: u32) -> Timestamp {
    Timestamp::from_micros(u64::from(minute) * MINUTE_US)
}

impl Active {
    /// Notes that an accepted credential is used at `now`. A few nanoseconds, at most one write a minute and credential;
    /// `address` is asked for only then.
    #[inline]
    pub fn touch(
        &self,
        handle: Handle,
        now: Timestamp,
        surface: Option<Surface>,
        address: impl FnOnce() -> AddressClass,
    ) {
        let minute = minute_of(now);
        let Some(entry) = self.entries.get(handle.number()) else { return };
        if Stamp(entry.used.load(Relaxed)).minute() < minute {
            self.stamp(handle.number(), entry, Stamp::new(minute, surface, address()));
        }
    }

    /// Notes a use that somebody reports later, such as an edge. An older one than is known changes nothing; whether the
    /// credential is known.
    pub fn note_use(&self, credential: CredentialId, used: Use) -> bool {
        let Some((number, entry)) = self.entry_of(&self.writer.read(), credential) else { return false };
        let minute = minute_of(used.at);
        if Stamp(entry.used.load(Relaxed)).minute() < minute {
            self.stamp(number, entry, Stamp::new(minute, used.surface, used.address));
        }
        true
    }

    fn stamp(&self, number: u32, entry: &Entry, stamp: Stamp) {
        entry.used.fetch_max(stamp.0, AcqRel);
        if let Some(word) = self.used.get(number / 64) {
            word.fetch_or(1 << (number % 64), AcqRel);
        }
    }

    /// A credential's last use; `None` if it is not known to have been used.
    pub fn last_use(&self, credential: CredentialId) -> Option<Use> {
        let (_, entry) = self.entry_of(&self.writer.read(), credential)?;
        Stamp(entry.used.load(Relaxed)).read()
    }

    /// When a credential was last used, to the minute.
    pub fn last_used(&self, credential: CredentialId) -> Option<Timestamp> {
        self.last_use(credential).map(|used| used.at)
    }

    /// The credentials used since it was last asked, each with its last use. One asker an index: who reports to a ledger
    /// asks this, and the ledger's own [`Usage`] does.
    pub fn take_uses(&self) -> Vec<(CredentialId, Use)> {
        self.take_used().into_iter().filter_map(|(credential, stamp)| Some((credential, stamp.read()?))).collect()
    }

    fn take_used(&self) -> Vec<(CredentialId, Stamp)> {
        let mut used = Vec::new();
        for number in (0..self.len() as u32).step_by(64) {
            let Some(word) = self.used.get(number / 64) else { continue };
            if word.load(Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, AcqRel);
            while bits != 0 {
                if let Some(entry) = self.entries.get(number + bits.trailing_zeros()) {
                    used.push((entry.credential(), Stamp(entry.used.load(Relaxed))));
                }
                bits &= bits - 1;
            }
        }
        used
    }

    fn all_used(&self) -> impl Iterator<Item = (CredentialId, Stamp)> + '_ {
        (0..self.len() as u32).filter_map(|number| {
            let entry = self.entries.get(number)?;
            let stamp = Stamp(entry.used.load(Relaxed));
            (stamp.minute() > 0).then(|| (entry.credential(), stamp))
        })
    }

    /// Takes a stamp over from the side store.
    fn set_used(&self, credential: CredentialId, stamp: Stamp) {
        if let Some((_, entry)) = self.entry_of(&self.writer.read(), credential) {
            entry.used.fetch_max(stamp.0, AcqRel);
        }
    }
}

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
    use super::*;
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
