//! Inclusion and consistency proofs of RFC 6962 §2.1.1 and §2.1.2: made from the roots of full subtrees, checked from
//! hashes alone.

use super::{NodeHash, node_hash};

/// Where the roots of a tree's full subtrees can be had.
pub trait Nodes {
    /// Why one can't be had.
    type Error;

    /// The root of the full subtree of `2^level` leaves that begins with leaf `index << level`.
    ///
    /// # Errors
    /// If it can't be had.
    fn node(&self, level: u32, index: u64) -> Result<NodeHash, Self::Error>;
}

/// The root over the first `size` leaves; of none, SHA-256 of nothing.
///
/// # Errors
/// Those of `nodes`.
pub fn root<N: Nodes>(nodes: &N, size: u64) -> Result<NodeHash, N::Error> {
    let mut frontier = super::Frontier::new();
    for (level, index) in peaks(size) {
        frontier.push_subtree(level, nodes.node(level, index)?);
    }
    Ok(frontier.root())
}

/// Level and index of each full subtree of a tree of `size` leaves, largest first.
pub fn peaks(size: u64) -> impl Iterator<Item = (u32, u64)> {
    (0..u64::BITS).rev().filter(move |level| size >> level & 1 == 1).map(move |level| (level, (size >> level) - 1))
}

/// The hashes that lead from the leaf at `index` to the root over `size` leaves, from the leaf up.
///
/// # Errors
/// Those of `nodes`.
///
/// # Panics
/// If there is no such leaf.
pub fn inclusion<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<NodeHash>, N::Error> {
    assert!(index < size, "leaf {index} of a tree of {size}");
    let (mut start, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(range(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(range(nodes, start, middle)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The hashes that lead from the root over `old` leaves to the root over `new`: none if they are the same tree, or the
/// old one is empty.
///
/// # Errors
/// Those of `nodes`.
///
/// # Panics
/// If the old tree is the larger one.
pub fn consistency<N: Nodes>(nodes: &N, old: u64, new: u64) -> Result<Vec<NodeHash>, N::Error> {
    assert!(old <= new, "a tree of {old} in one of {new}");
    let mut proof = Vec::new();
    if old == 0 || old == new {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(range(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(range(nodes, start, middle)?);
            start = middle;
        }
    }
    // What is left is a subtree of the old tree; if it is all of it, whoever checks has its root already.
    if start > 0 {
        proof.push(range(nodes, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// The root over the leaves `start..end` of a tree in which they are a subtree, full or at its right edge.
fn range<N: Nodes>(nodes: &N, start: u64, end: u64) -> Result<NodeHash, N::Error> {
    let len = end - start;
    if len.is_power_of_two() {
        let level = len.trailing_zeros();
        return nodes.node(level, start >> level);
    }
    let middle = start + split(len);
    Ok(node_hash(&range(nodes, start, middle)?, &range(nodes, middle, end)?))
}

/// The largest power of two below `len`, which is at least 2.
fn split(len: u64) -> u64 {
    1 << (u64::BITS - 1 - (len - 1).leading_zeros())
}

/// Whether `proof` leads from this leaf hash at `index` to this root over `size` leaves.
pub fn verify_inclusion(leaf: &NodeHash, index: u64, size: u64, root: &NodeHash, proof: &[NodeHash]) -> bool {
    if index >= size {
        return false;
    }
    // RFC 9162 §2.1.3.2, the same tree.
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `new` leaves begins with the one of `old`.
pub fn verify_consistency(old: u64, old_root: &NodeHash, new: u64, new_root: &NodeHash, proof: &[NodeHash]) -> bool {
    if old == 0 {
        return proof.is_empty() && *old_root == super::Frontier::new().root();
    }
    if old >= new {
        return old == new && proof.is_empty() && old_root == new_root;
    }
    // RFC 9162 §2.1.4.2, the same tree.
    let (mut node, mut last) = (old - 1, new - 1);
    let shift = node.trailing_ones();
    (node, last) = (node >> shift, last >> shift);
    let mut rest = proof.iter();
    let mut hashes = if node == 0 { Some((*old_root, *old_root)) } else { rest.next().map(|first| (*first, *first)) };
    for sibling in rest {
        let Some((old_hash, new_hash)) = &mut hashes else { return false };
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            *old_hash = node_hash(sibling, old_hash);
            *new_hash = node_hash(sibling, new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            *new_hash = node_hash(new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hashes == Some((*old_root, *new_root))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::{Frontier, leaf_hash};

    struct Leaves(Vec<NodeHash>);

    impl Leaves {
        fn new(count: u64) -> Self {
            Self((0..count).map(|n| leaf_hash(&n.to_le_bytes())).collect())
        }

        fn root(&self, size: u64) -> NodeHash {
            let mut frontier = Frontier::new();
            self.0[..size as usize].iter().for_each(|leaf| frontier.push(*leaf));
            frontier.root()
        }
    }

    impl Nodes for Leaves {
        type Error = Infallible;

        fn node(&self, level: u32, index: u64) -> Result<NodeHash, Infallible> {
            if level == 0 {
                return Ok(self.0[index as usize]);
            }
            Ok(node_hash(&self.node(level - 1, 2 * index)?, &self.node(level - 1, 2 * index + 1)?))
        }
    }

    #[test]
    fn every_proof_of_every_small_tree_holds_and_fits_nothing_else() {
        let leaves = Leaves::new(66);
        for size in 0..=66 {
            let new_root = root(&leaves, size).unwrap();
            assert_eq!(new_root, leaves.root(size));
            for index in 0..size {
                let proof = inclusion(&leaves, index, size).unwrap();
                let leaf = &leaves.0[index as usize];
                assert!(verify_inclusion(leaf, index, size, &new_root, &proof), "{index} of {size}");
                assert!(!verify_inclusion(leaf, index ^ 1, size, &new_root, &proof) || size == 1);
                let other = &leaves.0[(index as usize + 1) % 66];
                assert!(!verify_inclusion(other, index, size, &new_root, &proof));
            }
            for old in 0..=size {
                let (old_root, proof) = (leaves.root(old), consistency(&leaves, old, size).unwrap());
                assert!(verify_consistency(old, &old_root, size, &new_root, &proof), "{old} in {size}");
                let wrong = leaf_hash(b"another tree");
                assert!(!verify_consistency(old, &wrong, size, &new_root, &proof));
                assert!(old == 0 || !verify_consistency(old, &old_root, size, &wrong, &proof));
                for cut in 0..proof.len() {
                    assert!(!verify_consistency(old, &old_root, size, &new_root, &proof[..cut]));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_proof_makes_the_verifiers_panic(
            index in any::<u64>(), old in any::<u64>(), size in any::<u64>(),
            proof in prop::collection::vec(any::<[u8; 32]>().prop_map(NodeHash), 0..70), root in any::<[u8; 32]>(),
        ) {
            let root = NodeHash(root);
            prop_assert!(!verify_inclusion(&root, index, size, &root, &proof) || size == 1);
            prop_assert!(!verify_consistency(old, &root, size, &root, &proof) || old == size);
        }
    }
}
