//! The Merkle tree in pieces: full subtrees that any thread can build, put together in order by one.

use keyledger_events::tree::{NodeHash, node_hash};

/// A run of leaves folded into as few full subtrees as its place in the tree allows.
pub(super) struct Subtrees {
    /// The index of the next leaf.
    next: u64,
    /// Level and root of each subtree, in order.
    nodes: Vec<(u32, NodeHash)>,
    /// How many of them are closed: nothing to their right is merged into them.
    closed: usize,
    /// Sizes at which the tree's root is wanted, ascending: no subtree spans one.
    cuts: Vec<u64>,
}

impl Subtrees {
    /// A run that begins with the leaf of index `first`.
    pub fn new(first: u64, cuts: &[u64]) -> Self {
        Self {
            next: first,
            nodes: Vec::new(),
            closed: 0,
            cuts: cuts.iter().copied().filter(|cut| *cut > first).collect(),
        }
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: NodeHash) {
        if self.cuts.first() == Some(&self.next) {
            self.closed = self.nodes.len();
            self.cuts.remove(0);
        }
        let (mut level, mut node) = (0, leaf);
        // A node is a right child where its index is odd; its left sibling is the last one, if this run holds it.
        while (self.next >> level) & 1 == 1 && self.nodes.len() > self.closed {
            match self.nodes.last() {
                Some((left_level, left)) if *left_level == level => {
                    node = node_hash(left, &node);
                    self.nodes.pop();
                    level += 1;
                }
                _ => break,
            }
        }
        self.nodes.push((level, node));
        self.next += 1;
    }

    /// The subtrees, in order.
    pub fn into_nodes(self) -> Vec<(u32, NodeHash)> {
        self.nodes
    }
}

#[cfg(test)]
mod tests {
    use keyledger_events::tree::{Frontier, leaf_hash};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_of_any_length_make_the_same_tree_and_stop_at_every_cut(
            runs in proptest::collection::vec(1u64..70, 1..9), mut cuts in proptest::collection::vec(0u64..300, 0..5),
        ) {
            cuts.sort_unstable();
            cuts.dedup();
            let (mut whole, mut pieces, mut roots) = (Frontier::new(), Frontier::new(), Vec::new());
            for run in runs {
                let mut subtrees = Subtrees::new(whole.size(), &cuts);
                for _ in 0..run {
                    let leaf = leaf_hash(&whole.size().to_le_bytes());
                    whole.push(leaf);
                    subtrees.push(leaf);
                    roots.push(whole.root());
                }
                for (level, node) in subtrees.into_nodes() {
                    prop_assert!(pieces.push_subtree(level, node));
                    if cuts.contains(&pieces.size()) {
                        prop_assert_eq!(pieces.root(), roots[pieces.size() as usize - 1]);
                        cuts.retain(|cut| *cut != pieces.size());
                    }
                }
            }
            prop_assert_eq!(pieces, whole.clone());
            cuts.retain(|cut| *cut > 0 && *cut <= whole.size());
            prop_assert_eq!(cuts, Vec::<u64>::new(), "every cut was met");
        }
    }
}
