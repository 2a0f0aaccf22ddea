//! When each credential was last used: to the minute, beside the log, and not worth a durable write. A crash may lose
//! the last minute of it.
//!
//! A verification stamps the credential's entry in the index; once a minute [`Usage::save`] takes the entries stamped
//! since and writes them as one value. When the values of many minutes have become as big as the whole, they are
//! written anew as a whole.

use std::{
    collections::HashMap,
    sync::atomic::Ordering::{AcqRel, Relaxed},
};

use keyledger_events::{CredentialId, Timestamp};
use parking_lot::Mutex;
use sled::{Batch, Tree};

use crate::active::{Active, Handle};

const MINUTE_US: u64 = 60_000_000;
/// An id and a minute.
const PAIR_LEN: usize = 20;
/// Values of about 1 MB: sled is slow with many small ones.
const PAIRS_PER_VALUE: usize = 50_000;
const WHOLE: u8 = b'w';
const MINUTE: u8 = b'm';

impl Active {
    /// Notes that an accepted credential is used at `now`. A few nanoseconds, at most one write a minute and credential.
    #[inline]
    pub fn touch(&self, handle: Handle, now: Timestamp) {
        let minute = (now.micros() / MINUTE_US) as u32;
        let Some(entry) = self.entries.get(handle.number()) else { return };
        if entry.used_minute.load(Relaxed) < minute {
            entry.used_minute.fetch_max(minute, AcqRel);
            if let Some(word) = self.used.get(handle.number() / 64) {
                word.fetch_or(1 << (handle.number() % 64), AcqRel);
            }
        }
    }

    /// When a credential was last used, to the minute; `None` if it is not known to have been.
    pub fn last_used(&self, credential: CredentialId) -> Option<Timestamp> {
        let (_, entry) = self.entry_of(&self.writer.read(), credential)?;
        instant(entry.used_minute.load(Relaxed))
    }

    /// The credentials used since it was last asked, each with the minute.
    fn take_used(&self) -> Vec<(CredentialId, u32)> {
        let mut used = Vec::new();
        for number in (0..self.len() as u32).step_by(64) {
            let Some(word) = self.used.get(number / 64) else { continue };
            if word.load(Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, AcqRel);
            while bits != 0 {
                if let Some(entry) = self.entries.get(number + bits.trailing_zeros()) {
                    used.push((entry.credential(), entry.used_minute.load(Relaxed)));
                }
                bits &= bits - 1;
            }
        }
        used
    }

    fn all_used(&self) -> impl Iterator<Item = (CredentialId, u32)> + '_ {
        (0..self.len() as u32).filter_map(|number| {
            let entry = self.entries.get(number)?;
            let minute = entry.used_minute.load(Relaxed);
            (minute > 0).then(|| (entry.credential(), minute))
        })
    }

    /// Takes a stamp over from the side store.
    fn set_used(&self, credential: CredentialId, minute: u32) {
        if let Some((_, entry)) = self.entry_of(&self.writer.read(), credential) {
            entry.used_minute.fetch_max(minute, AcqRel);
        }
    }
}

fn instant(minute: u32) -> Option<Timestamp> {
    (minute > 0).then(|| Timestamp::from_micros(u64::from(minute) * MINUTE_US))
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
            read_pairs(&value).for_each(|(credential, minute)| active.set_used(credential, minute));
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
    for value in tree.iter().values() {
        for (credential, minute) in read_pairs(&value?) {
            let newest = minutes.entry(credential).or_default();
            *newest = minute.max(*newest);
        }
    }
    Ok(minutes.into_iter().filter_map(|(credential, minute)| Some((credential, instant(minute)?))).collect())
}

fn read_pairs(value: &[u8]) -> impl Iterator<Item = (CredentialId, u32)> + '_ {
    value.chunks_exact(PAIR_LEN).map(|pair| {
        let (mut id, mut minute) = ([0; 16], [0; 4]);
        id.copy_from_slice(&pair[..16]);
        minute.copy_from_slice(&pair[16..]);
        (CredentialId::from_bytes(id), u32::from_le_bytes(minute))
    })
}

fn key(kind: u8, number: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn pairs(used: impl Iterator<Item = (CredentialId, u32)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, minute) in used {
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(&minute.to_le_bytes());
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
                handles.iter().step_by(minute as usize).for_each(|handle| active.touch(*handle, at(minute)));
                usage.save(&active).unwrap();
            }
            // A use that is reported late does not turn the stamp back.
            active.touch(handles[0], at(3));
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
}
