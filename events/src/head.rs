//! The signed tree head: what the ledger says of its whole log, in public formats.
//!
//! The text is a C2SP tlog-checkpoint (origin, size, base64 root) in a C2SP signed-note with an Ed25519 signature, so
//! existing witnesses and verifiers read it. In code it is a tree head; "checkpoint" is a projection's.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::{
    note::{self, Algorithm, Note, NoteError, NoteSigner, NoteVerifier},
    tree::NodeHash,
};

/// Size and root of the tree over all positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// How many events.
    pub size: u64,
    /// Their root.
    pub root: NodeHash,
}

impl TreeHead {
    /// Name and head in a note's text, whoever has signed it.
    ///
    /// # Errors
    /// [`HeadError::Note`].
    pub fn parse(note: &Note) -> Result<(&str, Self), HeadError> {
        let mut lines = note.text().lines();
        let origin = lines.next().ok_or(HeadError::Note)?;
        let size = lines.next().and_then(canonical_number).ok_or(HeadError::Note)?;
        let root = lines.next().and_then(|line| BASE64.decode(line).ok()).ok_or(HeadError::Note)?;
        Ok((origin, Self { size, root: NodeHash(root.try_into().map_err(|_| HeadError::Note)?) }))
    }
}

/// A ledger's name and signing key.
#[derive(Debug)]
pub struct HeadSigner(NoteSigner);

/// How the first line of everything begins that the ledger signs and that is no tree head; a `/` and a version follow.
const RESERVED: &str = "keyledger-";

/// Whether a ledger may be named so: no spaces, plus signs or control characters, at most 200 bytes, and not like the
/// kind of another note: `keyledger-` with a `/` behind it. A host's name alone, such as keyledger-1.example, is none.
pub fn is_origin(name: &str) -> bool {
    note::check_name(name).is_ok() && !name.strip_prefix(RESERVED).is_some_and(|rest| rest.contains('/'))
}

impl HeadSigner {
    /// `origin` is the ledger's name, see [`is_origin`]; `seed` is 32 random bytes.
    ///
    /// # Errors
    /// [`HeadError::Origin`].
    pub fn new(origin: &str, seed: &[u8; 32]) -> Result<Self, HeadError> {
        if !is_origin(origin) {
            return Err(HeadError::Origin);
        }
        NoteSigner::new(origin, seed).map(Self).map_err(|_| HeadError::Origin)
    }

    /// Whoever holds this can check the signatures.
    pub fn verifier(&self) -> HeadVerifier {
        HeadVerifier(self.0.verifier())
    }

    /// The head as a signed note.
    pub fn sign(&self, head: &TreeHead) -> String {
        self.0.sign(&format!("{}\n{}\n{}\n", self.0.name(), head.size, BASE64.encode(head.root.0)))
    }

    /// A text of another kind as a signed note: its first line begins as [`is_origin`] refuses it.
    pub(crate) fn sign_text(&self, text: &str) -> String {
        self.0.sign(text)
    }
}

/// A ledger's name and public key: what an auditor pins. Its text is a signed-note verifier key,
/// `origin+keyid+base64`.
#[derive(Clone, PartialEq, Eq)]
pub struct HeadVerifier(NoteVerifier);

impl HeadVerifier {
    /// The ledger's name.
    pub fn origin(&self) -> &str {
        self.0.name()
    }

    /// Reads and checks a signed note. Other signatures than ours (witnesses') may stand in it.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn verify(&self, note: &str) -> Result<TreeHead, HeadError> {
        let note = Note::parse(note).map_err(|_| HeadError::Note)?;
        self.0.verify(&note).map_err(|_| HeadError::Signature)?;
        let (origin, head) = TreeHead::parse(&note)?;
        if origin == self.origin() { Ok(head) } else { Err(HeadError::Origin) }
    }

    /// Whether the ledger has signed the note, whatever it says.
    pub(crate) fn has_signed(&self, note: &Note) -> bool {
        self.0.verify(note).is_ok()
    }
}

impl fmt::Display for HeadVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for HeadVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for HeadVerifier {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let verifier: NoteVerifier = text.parse().map_err(|error| match error {
            NoteError::Name => HeadError::Origin,
            _ => HeadError::Key,
        })?;
        match verifier.algorithm() {
            Algorithm::Ed25519 if is_origin(verifier.name()) => Ok(Self(verifier)),
            Algorithm::Ed25519 => Err(HeadError::Origin),
            Algorithm::Cosignature => Err(HeadError::Key),
        }
    }
}

/// Decimal without sign or leading zeros, as tlog-checkpoint demands.
fn canonical_number(line: &str) -> Option<u64> {
    let number: u64 = line.parse().ok()?;
    (number.to_string() == line).then_some(number)
}

/// Why a text is not this ledger's tree head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not the ledger's name, or no name at all.
    #[error("the tree head is not of this ledger, or its name is not valid")]
    Origin,
    /// Not the shape of a signed tree head.
    #[error("not a signed tree head")]
    Note,
    /// No valid signature by the ledger's key.
    #[error("the tree head's signature does not hold")]
    Signature,
    /// Signed by a key of the ledger's that was not in force at that size.
    #[error("the tree head is signed by a key that was not in force at its size")]
    NotInForce,
    /// Not a verifier key.
    #[error("not a verifier key of the form name+id+base64")]
    Key,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer() -> HeadSigner {
        HeadSigner::new("ledger.example/1", &[3; 32]).unwrap()
    }

    #[test]
    fn a_head_comes_back_and_its_key_as_text_too() {
        let head = TreeHead { size: 42, root: NodeHash([9; 32]) };
        let note = signer().sign(&head);
        assert_eq!(signer().verifier().verify(&note), Ok(head));
        let pinned: HeadVerifier = signer().verifier().to_string().parse().unwrap();
        assert_eq!(pinned.verify(&note), Ok(head));
        let witnessed = format!("{note}— witness.example AAAAAAAA\n");
        assert_eq!(pinned.verify(&witnessed), Ok(head));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let note = signer().sign(&TreeHead { size: 7, root: NodeHash([1; 32]) });
        for bit in 0..note.len() * 8 {
            let mut bytes = note.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(signer().verifier().verify(&text).is_err(), "bit {bit}: {text}");
            }
        }
    }

    #[test]
    fn another_ledgers_head_is_refused() {
        let note =
            HeadSigner::new("other.example/1", &[3; 32]).unwrap().sign(&TreeHead { size: 1, root: NodeHash([0; 32]) });
        assert!(signer().verifier().verify(&note).is_err());
    }

    #[test]
    fn no_ledger_is_named_like_another_kind_of_note() {
        assert!(matches!(HeadSigner::new("keyledger-key-rotation/v1", &[3; 32]), Err(HeadError::Origin)));
        let note = NoteSigner::new("keyledger-x/v2", &[3; 32]).unwrap();
        assert_eq!(note.verifier().to_string().parse::<HeadVerifier>(), Err(HeadError::Origin));
        assert!(HeadSigner::new("keyledger-1.example", &[3; 32]).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,300}") {
            let _ = text.parse::<HeadVerifier>();
            let _ = signer().verifier().verify(&text);
        }
    }
}
