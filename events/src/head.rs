//! The signed tree head: what the ledger says of its whole log, in public formats.
//!
//! The text is a C2SP tlog-checkpoint (origin, size, base64 root) in a C2SP signed-note with an Ed25519 signature, so
//! existing witnesses and verifiers read it. In code it is a tree head; "checkpoint" is a projection's.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::tree::NodeHash;

/// Signed-note's number for Ed25519.
const ED25519: u8 = 1;

/// Size and root of the tree over all positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// How many events.
    pub size: u64,
    /// Their root.
    pub root: NodeHash,
}

/// A ledger's name and signing key.
pub struct HeadSigner {
    origin: String,
    key: SigningKey,
}

impl HeadSigner {
    /// `origin` is the ledger's name, without spaces, plus signs or line breaks; `seed` is 32 random bytes.
    ///
    /// # Errors
    /// [`HeadError::Origin`].
    pub fn new(origin: &str, seed: &[u8; 32]) -> Result<Self, HeadError> {
        check_origin(origin)?;
        Ok(Self { origin: origin.to_owned(), key: SigningKey::from_bytes(seed) })
    }

    /// Whoever holds this can check the signatures.
    pub fn verifier(&self) -> HeadVerifier {
        HeadVerifier { origin: self.origin.clone(), key: self.key.verifying_key() }
    }

    /// The head as a signed note.
    pub fn sign(&self, head: &TreeHead) -> String {
        let text = format!("{}\n{}\n{}\n", self.origin, head.size, BASE64.encode(head.root.0));
        let verifier = self.verifier();
        let mut signature = verifier.key_id().to_vec();
        signature.extend_from_slice(&self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n— {} {}\n", self.origin, BASE64.encode(signature))
    }
}

impl fmt::Debug for HeadSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeadSigner({})", self.origin)
    }
}

/// A ledger's name and public key: what an auditor pins. Its text is a signed-note verifier key,
/// `origin+keyid+base64`.
#[derive(Clone, PartialEq, Eq)]
pub struct HeadVerifier {
    origin: String,
    key: VerifyingKey,
}

impl HeadVerifier {
    /// The ledger's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    fn key_id(&self) -> [u8; 4] {
        let digest = Sha256::new()
            .chain_update(&self.origin)
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.as_bytes())
            .finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// Reads and checks a signed note. Other signatures than ours (witnesses') may stand in it.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn verify(&self, note: &str) -> Result<TreeHead, HeadError> {
        let (text, signatures) = note.split_once("\n\n").ok_or(HeadError::Note)?;
        let text = &note[..=text.len()];
        if !signatures.ends_with('\n') {
            return Err(HeadError::Note);
        }
        let signed = signatures
            .lines()
            .filter_map(|line| self.own_signature(line))
            .any(|signature| self.key.verify(text.as_bytes(), &signature).is_ok());
        if !signed {
            return Err(HeadError::Signature);
        }
        let mut lines = text.lines();
        if lines.next() != Some(&self.origin) {
            return Err(HeadError::Origin);
        }
        let size = lines.next().and_then(canonical_number).ok_or(HeadError::Note)?;
        let root = lines.next().and_then(|line| BASE64.decode(line).ok()).ok_or(HeadError::Note)?;
        Ok(TreeHead { size, root: NodeHash(root.try_into().map_err(|_| HeadError::Note)?) })
    }

    fn own_signature(&self, line: &str) -> Option<Signature> {
        let (name, signature) = line.strip_prefix("— ")?.split_once(' ')?;
        let signature = BASE64.decode(signature).ok()?;
        let signature = signature.strip_prefix(&self.key_id())?;
        (name == self.origin).then(|| Signature::from_slice(signature).ok())?
    }
}

impl fmt::Display for HeadVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.key_id();
        let mut key = vec![ED25519];
        key.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{:02x}{:02x}{:02x}{:02x}+{}", self.origin, id[0], id[1], id[2], id[3], BASE64.encode(key))
    }
}

impl fmt::Debug for HeadVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for HeadVerifier {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(origin), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(HeadError::Key);
        };
        check_origin(origin)?;
        let key = BASE64.decode(key).map_err(|_| HeadError::Key)?;
        let key: [u8; 32] = key.strip_prefix(&[ED25519]).and_then(|key| key.try_into().ok()).ok_or(HeadError::Key)?;
        let verifier =
            Self { origin: origin.to_owned(), key: VerifyingKey::from_bytes(&key).map_err(|_| HeadError::Key)? };
        let own = verifier.key_id().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if own == id { Ok(verifier) } else { Err(HeadError::Key) }
    }
}

fn check_origin(origin: &str) -> Result<(), HeadError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if origin.is_empty() || origin.len() > 200 || origin.contains(bad) { Err(HeadError::Origin) } else { Ok(()) }
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
        let witnessed = format!("{note}— witness.example AAAA\n");
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

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,300}") {
            let _ = text.parse::<HeadVerifier>();
            let _ = signer().verifier().verify(&text);
        }
    }
}
