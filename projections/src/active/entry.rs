//! One credential in the index: 64 bytes, one cache line, all of it atomic.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use keyledger_events::{
    CredentialId, PersonId, TeamId, Timestamp,
    secret::{Kind, SecretHash},
};

/// What has happened to a credential. What the clock says comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing.
    Alive,
    /// Ended by somebody, or with its device.
    Revoked,
    /// Its expiry is recorded.
    Expired,
}

const ENDS_BITS: u32 = 58;
/// No end. `Timestamp::MAX` needs 58 bits and is not all ones.
const NEVER: u64 = (1 << ENDS_BITS) - 1;

/// A credential's kind, state and end in one word, so that a reader never sees a mixture of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life(u64);

impl Life {
    pub(super) fn new(kind: Kind, state: State, ends_at: Option<Timestamp>) -> Self {
        let state = match state {
            State::Alive => 0,
            State::Revoked => 1,
            State::Expired => 2,
        };
        Self(state << (ENDS_BITS + 2) | (kind as u64) << ENDS_BITS | ends_at.map_or(NEVER, Timestamp::micros))
    }

    /// From a checkpoint; `None` if it can't be one.
    pub(super) fn from_word(word: u64) -> Option<Self> {
        let life = Self(word);
        let ends = word & NEVER;
        let known = word >> (ENDS_BITS + 4) == 0
            && word >> (ENDS_BITS + 2) < 3
            && (ends == NEVER || ends <= Timestamp::MAX.micros());
        known.then_some(life)
    }

    pub(super) const fn word(self) -> u64 {
        self.0
    }

    #[inline]
    pub(super) const fn kind(self) -> Kind {
        Kind::ALL[(self.0 >> ENDS_BITS & 3) as usize]
    }

    #[inline]
    pub(super) const fn state(self) -> State {
        match self.0 >> (ENDS_BITS + 2) {
            0 => State::Alive,
            1 => State::Revoked,
            _ => State::Expired,
        }
    }

    #[inline]
    pub(super) const fn ends_at(self) -> Option<Timestamp> {
        match self.0 & NEVER {
            NEVER => None,
            micros => Some(Timestamp::from_micros(micros)),
        }
    }

    /// Whether the end lies at or before `now`.
    #[inline]
    pub(super) const fn is_over(self, now: Timestamp) -> bool {
        let ends = self.0 & NEVER;
        ends != NEVER && ends <= now.micros()
    }
}

/// See the module. The writer alone writes hash, id, life and binding; readers stamp `used`.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Entry {
    hash: [AtomicU64; 4],
    credential: [AtomicU64; 2],
    life: AtomicU64,
    /// Which (team, holder).
    binding: AtomicU32,
    /// When and where it was last used: a [`crate::usage::Stamp`]; 0: never.
    pub(crate) used: AtomicU32,
}

impl Entry {
    /// Fills a fresh entry, before it is published.
    pub(super) fn fill(&self, hash: &SecretHash, credential: CredentialId, life: Life, binding: u32) {
        store_words(&self.hash, &hash.0);
        store_words(&self.credential, credential.as_bytes());
        self.life.store(life.word(), Relaxed);
        self.binding.store(binding, Relaxed);
    }

    #[inline]
    pub(super) fn has_hash(&self, words: &[u64; 4]) -> bool {
        self.hash.iter().zip(words).all(|(mine, word)| mine.load(Relaxed) == *word)
    }

    pub(super) fn hash(&self) -> SecretHash {
        SecretHash(load_words(&self.hash))
    }

    #[inline]
    pub(super) fn hash_word(&self) -> u64 {
        self.hash[0].load(Relaxed)
    }

    #[inline]
    pub(crate) fn credential(&self) -> CredentialId {
        CredentialId::from_bytes(load_words(&self.credential))
    }

    #[inline]
    pub(super) fn life(&self) -> Life {
        Life(self.life.load(Acquire))
    }

    pub(super) fn set_life(&self, life: Life) {
        self.life.store(life.word(), Release);
    }

    #[inline]
    pub(super) fn binding(&self) -> u32 {
        self.binding.load(Acquire)
    }

    pub(super) fn set_binding(&self, binding: u32) {
        self.binding.store(binding, Release);
    }
}

/// A team and a person: two in a cache line.
#[derive(Debug, Default)]
#[repr(align(32))]
pub(super) struct Binding {
    team: [AtomicU64; 2],
    person: [AtomicU64; 2],
}

impl Binding {
    /// Fills a fresh binding, before an entry that has it is published.
    pub(super) fn fill(&self, (team, person): (TeamId, PersonId)) {
        store_words(&self.team, team.as_bytes());
        store_words(&self.person, person.as_bytes());
    }

    #[inline]
    pub(super) fn get(&self) -> (TeamId, PersonId) {
        (TeamId::from_bytes(load_words(&self.team)), PersonId::from_bytes(load_words(&self.person)))
    }
}

/// The four words of a hash.
#[inline]
pub(super) fn hash_words(hash: &SecretHash) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(hash.0.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

fn store_words<const W: usize>(words: &[AtomicU64; W], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.as_chunks::<8>().0) {
        word.store(u64::from_le_bytes(*chunk), Relaxed);
    }
}

#[inline]
fn load_words<const W: usize, const B: usize>(words: &[AtomicU64; W]) -> [u8; B] {
    let mut bytes = [0; B];
    for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *chunk = word.load(Relaxed).to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_survives_its_word() {
        assert_eq!(size_of::<Entry>(), 64);
        for kind in Kind::ALL {
            for state in [State::Alive, State::Revoked, State::Expired] {
                for ends_at in [None, Some(Timestamp::from_micros(0)), Some(Timestamp::MAX)] {
                    let life = Life::new(kind, state, ends_at);
                    assert_eq!((life.kind(), life.state(), life.ends_at()), (kind, state, ends_at));
                    assert_eq!(Life::from_word(life.word()), Some(life));
                }
            }
        }
        assert_eq!(Life::from_word(3 << (ENDS_BITS + 2)), None);
        assert_eq!(Life::from_word(1 << 63), None);
        assert_eq!(Life::from_word(NEVER - 1), None);
    }
}
