//! Storage that only grows and never moves: one writer extends it while any number of readers read, without a lock.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Elements in a chunk.
const CHUNK_LEN: usize = 1 << 12;
/// Chunks in a group, and groups: together 2^32 elements.
const FANOUT: usize = 1 << 10;

type Chunk<T> = Box<[T]>;
type Group<T> = Box<[OnceLock<Chunk<T>>]>;

/// A vector of atomics. An element is published by something else that the writer releases after filling it.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    groups: Box<[OnceLock<Group<T>>]>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { groups: (0..FANOUT).map(|_| OnceLock::new()).collect() }
    }
}

impl<T: Default> Chunks<T> {
    /// The element, if its chunk exists.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        let group = self.groups[index / (CHUNK_LEN * FANOUT)].get()?;
        let chunk = group[index / CHUNK_LEN % FANOUT].get()?;
        chunk.get(index % CHUNK_LEN)
    }

    /// The element, making room for it.
    pub(super) fn reserve(&self, index: u32) -> &T {
        let index = index as usize;
        let group =
            self.groups[index / (CHUNK_LEN * FANOUT)].get_or_init(|| (0..FANOUT).map(|_| OnceLock::new()).collect());
        let chunk = group[index / CHUNK_LEN % FANOUT].get_or_init(|| (0..CHUNK_LEN).map(|_| T::default()).collect());
        &chunk[index % CHUNK_LEN]
    }

    /// Memory held for the first `len` elements, in bytes.
    pub(super) fn memory_bytes(&self, len: usize) -> usize {
        let chunks = len.div_ceil(CHUNK_LEN);
        let directory = size_of::<OnceLock<Chunk<T>>>();
        chunks * CHUNK_LEN * size_of::<T>()
            + chunks.div_ceil(FANOUT) * FANOUT * directory
            + FANOUT * size_of::<OnceLock<Group<T>>>()
    }
}

/// Byte strings, one behind the other, in whole words. A string is known by the number of its first word.
#[derive(Debug, Default)]
pub(super) struct Words(Chunks<AtomicU64>);

impl Words {
    /// Writes `bytes` from word `at` on and returns the first word behind them, or `None` if there is no more room.
    pub(super) fn write(&self, at: u32, bytes: &[u8]) -> Option<u32> {
        let end = at.checked_add(u32::try_from(1 + bytes.len().div_ceil(8)).ok()?)?;
        self.0.reserve(at).store(bytes.len() as u64, Relaxed);
        for (word, chunk) in (at + 1..end).zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            self.0.reserve(word).store(u64::from_le_bytes(padded), Relaxed);
        }
        Some(end)
    }

    /// Appends the string that starts at word `at` to `out`.
    pub(super) fn read(&self, at: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let word = |index| self.0.get(index).map_or(0, |word| word.load(Relaxed));
        let len = word(at) as usize;
        for index in (at + 1..).take(len.div_ceil(8)) {
            out.extend_from_slice(&word(index).to_le_bytes());
        }
        out.truncate(start + len);
    }

    /// Memory held for the first `len` words, in bytes.
    pub(super) fn memory_bytes(&self, len: usize) -> usize {
        self.0.memory_bytes(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_across_chunk_borders() {
        let (words, mut at) = (Words::default(), 0);
        let strings: Vec<Vec<u8>> = (0..3000).map(|i| vec![i as u8; i % 77]).collect();
        let starts: Vec<u32> = strings
            .iter()
            .map(|string| {
                let start = at;
                at = words.write(at, string).unwrap();
                start
            })
            .collect();
        assert!(at as usize > 2 * CHUNK_LEN);
        for (start, string) in starts.into_iter().zip(strings) {
            let mut out = b"kept".to_vec();
            words.read(start, &mut out);
            assert_eq!(out[4..], string);
        }
    }
}
