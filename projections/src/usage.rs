//! When each credential was last used, on which surface and from where: to the minute, beside the log, and not worth a
//! durable write. A crash may lose the last minute of it.
//!
//! A verification stamps the credential's entry in the index; once a minute [`Usage::save`] takes the entries stamped
//! since and writes them as one value. When the values of many minutes have become as big as the whole, they are
//! written anew as a whole.

#[cfg(feature = "ledger")]
mod store;

use std::sync::atomic::Ordering::{AcqRel, Relaxed};

use keyledger_events::{
    CredentialId, Timestamp,
    presented::{AddressClass, Surface},
};
use serde::{Deserialize, Serialize};

#[cfg(feature = "ledger")]
pub use self::store::{Usage, last_uses};
use crate::active::{Active, Handle, entry::Entry};

const MINUTE_US: u64 = 60_000_000;

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

    #[cfg(feature = "ledger")]
    fn all_used(&self) -> impl Iterator<Item = (CredentialId, Stamp)> + '_ {
        (0..self.len() as u32).filter_map(|number| {
            let entry = self.entries.get(number)?;
            let stamp = Stamp(entry.used.load(Relaxed));
            (stamp.minute() > 0).then(|| (entry.credential(), stamp))
        })
    }

    #[cfg(feature = "ledger")]
    /// Takes a stamp over from the side store.
    fn set_used(&self, credential: CredentialId, stamp: Stamp) {
        if let Some((_, entry)) = self.entry_of(&self.writer.read(), credential) {
            entry.used.fetch_max(stamp.0, AcqRel);
        }
    }
}
