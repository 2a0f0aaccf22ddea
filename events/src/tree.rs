//! The Merkle tree over all positions: RFC 6962 §2.1, SHA-256.
//!
//! A leaf's data is 48 bytes: position, recorded time, record hash. It never holds the record, so it may be public.
//! [`proof`] makes and checks proofs, [`wire`] writes them down, [`tile`] names the files the tree is published in.

pub mod proof;
pub mod tile;
pub mod wire;

use std::{fmt, slice};

use sha2::{Digest, Sha256, compress256, digest::generic_array::GenericArray};

use crate::{Position, RecordHash, Timestamp};

/// A node of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeHash(pub [u8; 32]);

impl fmt::Display for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 48 bytes a position contributes: position and recorded µs, little-endian u64 each, then the record's hash.
pub fn leaf_data(position: Position, recorded_at: Timestamp, hash: &RecordHash) -> [u8; 48] {
    let mut data = [0; 48];
    data[..8].copy_from_slice(&position.0.to_le_bytes());
    data[8..16].copy_from_slice(&recorded_at.micros().to_le_bytes());
    data[16..].copy_from_slice(&hash.0);
    data
}

/// SHA-256(0x00 ‖ leaf).
pub fn leaf_hash(data: &[u8]) -> NodeHash {
    // Every leaf of a log fits one block with its padding.
    if data.len() > BLOCK_LEN - 10 {
        return NodeHash(Sha256::new().chain_update([0]).chain_update(data).finalize().into());
    }
    let mut block = [0; BLOCK_LEN];
    block[1..=data.len()].copy_from_slice(data);
    pad(&mut block, 1 + data.len());
    sha256_of_padded(&block)
}

/// SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &NodeHash, right: &NodeHash) -> NodeHash {
    let mut blocks = [0; 2 * BLOCK_LEN];
    blocks[0] = 1;
    blocks[1..33].copy_from_slice(&left.0);
    blocks[33..65].copy_from_slice(&right.0);
    pad(&mut blocks, 65);
    sha256_of_padded(&blocks)
}

const BLOCK_LEN: usize = 64;
/// SHA-256's first state (FIPS 180-4 §5.3.3).
const SHA256_START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Ends a message of `len` bytes as FIPS 180-4 §5.1.1 says; the rest of `blocks` is zeros.
fn pad(blocks: &mut [u8], len: usize) {
    let end = blocks.len();
    blocks[len] = 0x80;
    blocks[end - 8..].copy_from_slice(&(8 * len as u64).to_be_bytes());
}

/// SHA-256 without the buffers and cases that messages of any length need: they cost half as much again.
fn sha256_of_padded(blocks: &[u8]) -> NodeHash {
    let mut state = SHA256_START;
    for block in blocks.chunks_exact(BLOCK_LEN) {
        compress256(&mut state, slice::from_ref(GenericArray::from_slice(block)));
    }
    let mut hash = [0; 32];
    for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    NodeHash(hash)
}

/// The right edge of a growing tree: the roots of its full subtrees, largest first. All that appending needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<NodeHash>,
}

impl Frontier {
    /// A tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// From a size and its full subtrees' roots, largest first; none if their number does not fit the size.
    pub fn from_parts(size: u64, peaks: Vec<NodeHash>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// How many leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The full subtrees' roots, largest first.
    pub fn peaks(&self) -> &[NodeHash] {
        &self.peaks
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: NodeHash) {
        self.push_subtree_each(0, leaf, |_, _| {});
    }

    /// Appends a full subtree of `2^level` leaves, if the tree's size is a multiple of that; else returns false.
    pub fn push_subtree(&mut self, level: u32, root: NodeHash) -> bool {
        self.push_subtree_each(level, root, |_, _| {})
    }

    /// [`Frontier::push_subtree`], telling of it and of every full subtree that it completes: level and root, from the
    /// smallest up.
    pub fn push_subtree_each(&mut self, level: u32, root: NodeHash, mut each: impl FnMut(u32, &NodeHash)) -> bool {
        if self.size.trailing_zeros() < level {
            return false;
        }
        let mut node = root;
        each(level, &node);
        for above in 1..=(self.size >> level).trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                node = node_hash(&left, &node);
                each(level + above, &node);
            }
        }
        self.peaks.push(node);
        self.size += 1 << level;
        true
    }

    /// The tree's root; SHA-256 of nothing for the empty tree.
    pub fn root(&self) -> NodeHash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => NodeHash(Sha256::digest([]).into()),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962 §2.1, word by word.
    fn reference(leaves: &[NodeHash]) -> NodeHash {
        match leaves {
            [] => NodeHash(Sha256::digest([]).into()),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&reference(left), &reference(right))
            }
        }
    }

    #[test]
    fn hashes_of_every_length_are_sha256s() {
        let bytes: Vec<u8> = (1..=200).collect();
        for len in 0..=bytes.len() {
            let plain = Sha256::new().chain_update([0]).chain_update(&bytes[..len]).finalize();
            assert_eq!(leaf_hash(&bytes[..len]).0, *plain, "{len} bytes");
        }
        let (left, right) = (leaf_hash(b"left"), leaf_hash(b"right"));
        let plain = Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize();
        assert_eq!(node_hash(&left, &right).0, *plain);
    }

    #[test]
    fn the_frontier_is_the_rfcs_tree_at_every_size() {
        let leaves: Vec<_> = (0..300u64).map(|n| leaf_hash(&n.to_le_bytes())).collect();
        let mut frontier = Frontier::new();
        for size in 0..leaves.len() {
            assert_eq!(frontier.root(), reference(&leaves[..size]), "size {size}");
            assert_eq!(Frontier::from_parts(frontier.size(), frontier.peaks().to_vec()), Some(frontier.clone()));
            frontier.push(leaves[size]);
        }
    }

    #[test]
    fn whole_subtrees_may_be_pushed_where_they_fit() {
        let leaves: Vec<_> = (0..64u64).map(|n| leaf_hash(&n.to_le_bytes())).collect();
        let mut frontier = Frontier::new();
        for eight in leaves.chunks(8) {
            assert!(frontier.push_subtree(3, reference(eight)));
        }
        assert_eq!(frontier.root(), reference(&leaves));
        frontier.push(leaves[0]);
        assert!(!frontier.push_subtree(3, leaves[0]));
    }

    #[test]
    fn the_empty_tree_is_the_rfcs() {
        assert_eq!(
            Frontier::new().root().to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
