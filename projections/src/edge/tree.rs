//! Whether the ledger is still the one it was: its tree of today must begin with the one that the edge remembers.
//!
//! The signature is checked against pinned keys. Without any, the first tree's name and head are remembered, and who is at
//! the other end is TLS's business: an edge that has seen one history takes no other, whoever serves it. When a ledger
//! rotates its key, its operator pins the new one beside the old (the key chain is not followed here).

use keyledger_events::{
    head::{HeadError, HeadVerifier, TreeHead},
    note::Note,
    tree::{NodeHash, proof::verify_consistency, wire::parse_consistency_file},
};
use serde::{Deserialize, Serialize};

/// The newest tree head that an edge has found good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// The ledger's name.
    pub origin: String,
    /// How many events.
    pub size: u64,
    /// Their root.
    pub root: [u8; 32],
}

/// How a look at the tree ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TreeCheck {
    /// It is the remembered one, or continues it, and has so many events now.
    Continues { size: u64 },
    /// Nothing can be said: the ledger was away, or has not published a tree yet.
    Unknown,
    /// It is another one.
    Fault(TreeFault),
}

/// What is wrong with a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TreeFault {
    /// It has less than it had.
    Shorter,
    /// It does not begin with the remembered one, or has another name.
    Forked,
    /// No pinned key has signed it.
    WrongKey,
}

/// Whom to believe, and what was believed last.
#[derive(Debug)]
pub(super) struct TreeWatch {
    pins: Vec<HeadVerifier>,
    remembered: Option<Remembered>,
    /// Continues it, and becomes it once the ledger's index was believed too.
    found: Option<Remembered>,
}

impl TreeWatch {
    pub(super) fn new(pins: Vec<HeadVerifier>, remembered: Option<Remembered>) -> Self {
        Self { pins, remembered, found: None }
    }

    pub(super) fn remembered(&self) -> Option<&Remembered> {
        self.remembered.as_ref()
    }

    /// A head of the feed was believed over the tree found last: a fork that is found out by its index is not remembered.
    pub(super) fn believe(&mut self) {
        if let Some(found) = self.found.take() {
            self.remembered = Some(found);
        }
    }

    /// Judges the newest head where nothing is remembered, or a proof of consistency with what is (the text that
    /// `/checkpoint` or `/api/v1/proof/consistency` answers); what is found good is remembered once it is believed.
    pub(super) fn judge(&mut self, text: &str) -> TreeCheck {
        match self.find(text) {
            Ok(found) => {
                let size = found.size;
                self.found = Some(found);
                TreeCheck::Continues { size }
            }
            Err(check) => {
                self.found = None;
                check
            }
        }
    }

    fn find(&self, text: &str) -> Result<Remembered, TreeCheck> {
        let Some(before) = &self.remembered else {
            let (origin, head) = self.head(text)?;
            return Ok(Remembered { origin, size: head.size, root: head.root.0 });
        };
        let (old, proof, note) = parse_consistency_file(text).ok_or(TreeCheck::Unknown)?;
        let (origin, head) = self.head(note)?;
        if origin != before.origin || old != before.size {
            return Err(TreeCheck::Fault(TreeFault::Forked));
        }
        if head.size < before.size {
            return Err(TreeCheck::Fault(TreeFault::Shorter));
        }
        if !verify_consistency(before.size, &NodeHash(before.root), head.size, &head.root, &proof) {
            return Err(TreeCheck::Fault(TreeFault::Forked));
        }
        Ok(Remembered { origin, size: head.size, root: head.root.0 })
    }

    fn head(&self, note: &str) -> Result<(String, TreeHead), TreeCheck> {
        if self.pins.is_empty() {
            let note = Note::parse(note).map_err(|_| TreeCheck::Unknown)?;
            let (origin, head) = TreeHead::parse(&note).map_err(|_| TreeCheck::Unknown)?;
            return Ok((origin.to_owned(), head));
        }
        let mut why = HeadError::Signature;
        for pin in &self.pins {
            match pin.verify(note) {
                Ok(head) => return Ok((pin.origin().to_owned(), head)),
                Err(error) => why = error,
            }
        }
        Err(if why == HeadError::Note { TreeCheck::Unknown } else { TreeCheck::Fault(TreeFault::WrongKey) })
    }
}

#[cfg(test)]
mod tests {
    use keyledger_events::{
        head::HeadSigner,
        tree::{Frontier, leaf_hash, node_hash, proof, wire::consistency_file},
    };

    use super::*;

    /// A ledger of so many leaves, the last of them of another content if it is `forked`.
    struct Leaves(Vec<NodeHash>);

    impl proof::Nodes for Leaves {
        type Error = std::convert::Infallible;

        fn node(&self, level: u32, index: u64) -> Result<NodeHash, Self::Error> {
            match level {
                0 => Ok(self.0[index as usize]),
                _ => Ok(node_hash(&self.node(level - 1, 2 * index)?, &self.node(level - 1, 2 * index + 1)?)),
            }
        }
    }

    fn leaves(salt: u8) -> Leaves {
        Leaves((0..40u8).map(|n| leaf_hash(&[n, if n > 8 { salt } else { 0 }])).collect())
    }

    fn head(leaves: &Leaves, size: u64) -> TreeHead {
        let mut frontier = Frontier::new();
        leaves.0[..size as usize].iter().for_each(|leaf| frontier.push(*leaf));
        TreeHead { size, root: frontier.root() }
    }

    fn signer(seed: u8) -> HeadSigner {
        HeadSigner::new("ledger.example/1", &[seed; 32]).unwrap()
    }

    fn told(signer: &HeadSigner, leaves: &Leaves, old: u64, size: u64) -> String {
        consistency_file(old, &proof::consistency(leaves, old, size).unwrap(), &signer.sign(&head(leaves, size)))
    }

    #[test]
    fn a_tree_is_taken_that_continues_the_remembered_one_and_no_other() {
        let (signer, ours, other) = (signer(3), leaves(0), leaves(1));
        for pins in [vec![], vec![self::signer(9).verifier(), signer.verifier()]] {
            let mut watch = TreeWatch::new(pins.clone(), None);
            assert_eq!(watch.judge("gibberish"), TreeCheck::Unknown);
            assert_eq!(watch.judge(&signer.sign(&head(&other, 40))), TreeCheck::Continues { size: 40 });
            assert_eq!(watch.judge(&signer.sign(&head(&ours, 12))), TreeCheck::Continues { size: 12 });
            watch.believe();
            assert_eq!(watch.judge(&told(&signer, &ours, 12, 12)), TreeCheck::Continues { size: 12 });
            assert_eq!(watch.judge(&told(&signer, &ours, 12, 30)), TreeCheck::Continues { size: 30 });
            watch.believe();
            let before = watch.remembered().cloned();
            let forked = TreeCheck::Fault(TreeFault::Forked);
            assert_eq!(watch.judge(&told(&signer, &other, 30, 40)), forked);
            assert_eq!(watch.judge(&told(&signer, &other, 30, 30)), forked);
            // A proof from a younger state than the remembered one says nothing about what lies between.
            assert_eq!(watch.judge(&told(&signer, &ours, 12, 40)), forked);
            let shorter = consistency_file(30, &[], &signer.sign(&head(&ours, 20)));
            assert_eq!(watch.judge(&shorter), TreeCheck::Fault(TreeFault::Shorter));
            let renamed = HeadSigner::new("other.example/1", &[3; 32]).unwrap();
            let check = watch.judge(&told(&renamed, &ours, 30, 40));
            assert_eq!(check, if pins.is_empty() { forked } else { TreeCheck::Fault(TreeFault::WrongKey) });
            assert_eq!(watch.remembered(), before.as_ref(), "what was refused is not remembered");
            assert_eq!(watch.judge(&told(&signer, &ours, 30, 40)), TreeCheck::Continues { size: 40 });
        }
        let mut watch = TreeWatch::new(vec![self::signer(4).verifier()], None);
        assert_eq!(watch.judge(&signer.sign(&head(&ours, 12))), TreeCheck::Fault(TreeFault::WrongKey));
    }
}
