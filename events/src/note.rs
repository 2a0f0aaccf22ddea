//! Signed notes: a text and who signed it, in the C2SP [signed-note](https://c2sp.org/signed-note) form that existing
//! logs, witnesses and verifiers read.
//!
//! What a text means is its first line's business: a [tree head](crate::head) begins with the ledger's name, everything
//! else the ledger signs with a name of its own kind, so that no signature can be used for another purpose.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier as _, VerifyingKey};
use sha2::{Digest, Sha256};

/// The longest note that is read, in bytes.
pub const NOTE_LEN_MAX: usize = 64 * 1024;
/// How many signatures a note may have.
const SIGNATURES_MAX: usize = 64;

/// How a signature is made; its number in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 over the text: a ledger's own.
    Ed25519 = 1,
    /// A witness's, with the time it saw the tree head: [tlog-cosignature](https://c2sp.org/tlog-cosignature) v1.
    Cosignature = 4,
}

/// A note as it was received, nothing of it believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// A line of a note that says who signed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NoteSignature {
    name: String,
    key_id: [u8; 4],
    signature: Vec<u8>,
}

impl Note {
    /// Takes a note apart.
    ///
    /// # Errors
    /// [`NoteError::Shape`].
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_LEN_MAX || note.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Shape);
        }
        // The text may itself have empty lines: the last one ends it.
        let at = note.rfind("\n\n").ok_or(NoteError::Shape)?;
        let (text, signatures) = (&note[..=at], &note[at + 2..]);
        let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Shape)?;
        let signatures: Vec<_> =
            signatures.split('\n').map(NoteSignature::parse).collect::<Option<_>>().ok_or(NoteError::Shape)?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(NoteError::Shape);
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// What was signed, with its last line feed.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl NoteSignature {
    fn parse(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix("— ")?.split_once(' ')?;
        check_name(name).ok()?;
        let bytes = BASE64.decode(signature).ok()?;
        let (key_id, signature) = bytes.split_first_chunk::<4>()?;
        Some(Self { name: name.to_owned(), key_id: *key_id, signature: signature.to_vec() })
    }
}

/// A name and its secret key.
pub struct NoteSigner {
    name: String,
    key: SigningKey,
}

impl NoteSigner {
    /// `seed` is 32 random bytes.
    ///
    /// # Errors
    /// [`NoteError::Name`]: it is empty, too long, or has spaces, plus signs or control characters.
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(seed) })
    }

    /// Whoever holds this can check the signatures.
    pub fn verifier(&self) -> NoteVerifier {
        NoteVerifier { name: self.name.clone(), algorithm: Algorithm::Ed25519, key: self.key.verifying_key() }
    }

    /// The name that signatures carry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `text` as a note. It must end with a line feed.
    pub fn sign(&self, text: &str) -> String {
        let mut signature = self.verifier().key_id().to_vec();
        signature.extend_from_slice(&self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n— {} {}\n", self.name, BASE64.encode(signature))
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteSigner({})", self.name)
    }
}

/// A witness's name and secret key: it signs what it has seen, and when.
pub struct WitnessSigner(NoteSigner);

impl WitnessSigner {
    /// `seed` is 32 random bytes. Never the seed of anything else that signs: the message does not name the signer.
    ///
    /// # Errors
    /// [`NoteError::Name`].
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        NoteSigner::new(name, seed).map(Self)
    }

    /// Whoever holds this can check the cosignatures.
    pub fn verifier(&self) -> NoteVerifier {
        NoteVerifier { algorithm: Algorithm::Cosignature, ..self.0.verifier() }
    }

    /// The signature line for a tree head that was seen `seconds` after 1970 began.
    pub fn cosign(&self, note: &Note, seconds: u64) -> String {
        let signature = self.0.key.sign(cosigned_message(note, seconds).as_bytes()).to_bytes();
        let bytes = [self.verifier().key_id().as_slice(), &seconds.to_be_bytes(), &signature].concat();
        format!("— {} {}\n", self.0.name, BASE64.encode(bytes))
    }
}

fn cosigned_message(note: &Note, seconds: u64) -> String {
    format!("cosignature/v1\ntime {seconds}\n{}", note.text)
}

/// A name and its public key. Its text is a signed-note verifier key, `name+keyid+base64`.
#[derive(Clone, PartialEq, Eq)]
pub struct NoteVerifier {
    name: String,
    algorithm: Algorithm,
    key: VerifyingKey,
}

impl NoteVerifier {
    /// Whose.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it signs.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether it is the same key, under whatever name.
    pub fn has_key_of(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// The first 4 bytes of SHA-256(name ‖ 0x0A ‖ algorithm ‖ key).
    pub fn key_id(&self) -> [u8; 4] {
        let digest = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', self.algorithm as u8])
            .chain_update(self.key.as_bytes())
            .finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// Whether this key has signed the note's text. Other signatures than its own may stand there.
    ///
    /// # Errors
    /// [`NoteError::Signature`]. Also for a witness's key, whose signatures [`NoteVerifier::cosigned_at`] checks.
    pub fn verify(&self, note: &Note) -> Result<(), NoteError> {
        let signed = self.algorithm == Algorithm::Ed25519
            && self.own(note).any(|signature| self.holds(note.text.as_bytes(), signature));
        if signed { Ok(()) } else { Err(NoteError::Signature) }
    }

    /// When this witness saw the tree head in the note, in seconds since 1970; none if it has not signed it.
    pub fn cosigned_at(&self, note: &Note) -> Option<u64> {
        if self.algorithm != Algorithm::Cosignature {
            return None;
        }
        self.own(note).find_map(|signature| {
            let (time, signature) = signature.split_first_chunk::<8>()?;
            let time = u64::from_be_bytes(*time);
            // The document's limit: POSIX time is signed.
            let in_range = i64::try_from(time).is_ok();
            (in_range && self.holds(cosigned_message(note, time).as_bytes(), signature)).then_some(time)
        })
    }

    fn own<'a>(&self, note: &'a Note) -> impl Iterator<Item = &'a [u8]> {
        let (name, key_id) = (self.name.clone(), self.key_id());
        note.signatures
            .iter()
            .filter(move |signature| signature.name == name && signature.key_id == key_id)
            .map(|signature| signature.signature.as_slice())
    }

    fn holds(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.key.verify(message, &signature).is_ok())
    }
}

impl fmt::Display for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.key_id());
        let key = [&[self.algorithm as u8], self.key.as_bytes().as_slice()].concat();
        write!(f, "{}+{id:08x}+{}", self.name, BASE64.encode(key))
    }
}

impl fmt::Debug for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NoteVerifier {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key);
        };
        check_name(name)?;
        let key = BASE64.decode(key).map_err(|_| NoteError::Key)?;
        let (algorithm, key) = key.split_first().ok_or(NoteError::Key)?;
        let algorithm =
            [Algorithm::Ed25519, Algorithm::Cosignature].into_iter().find(|known| *known as u8 == *algorithm);
        let algorithm = algorithm.ok_or(NoteError::Key)?;
        let key = key.try_into().ok().and_then(|key| VerifyingKey::from_bytes(key).ok()).ok_or(NoteError::Key)?;
        let verifier = Self { name: name.to_owned(), algorithm, key };
        let own = format!("{:08x}", u32::from_be_bytes(verifier.key_id()));
        if own == id { Ok(verifier) } else { Err(NoteError::Key) }
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), NoteError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.len() > 200 || name.contains(bad) { Err(NoteError::Name) } else { Ok(()) }
}

/// What is wrong with a note, a key or a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a name that can sign.
    #[error("a name has no spaces, plus signs or control characters, and at most 200 bytes")]
    Name,
    /// Not a note.
    #[error("not a signed note")]
    Shape,
    /// No valid signature by the key.
    #[error("not signed by the key it must be signed by")]
    Signature,
    /// Not a verifier key.
    #[error("not a verifier key of the form name+id+base64")]
    Key,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer() -> NoteSigner {
        NoteSigner::new("ledger.example/1", &[3; 32]).unwrap()
    }

    /// The example of the signed-note document's Go implementation (golang.org/x/mod/sumdb/note).
    #[test]
    fn a_note_of_another_implementation_holds() {
        let key: NoteVerifier = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let line = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let note = Note::parse(&format!("{text}\n{line}")).unwrap();
        assert_eq!((note.text(), key.verify(&note)), (text, Ok(())));
        assert_eq!(key.to_string(), "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
    }

    #[test]
    fn a_text_with_empty_lines_comes_back() {
        let note = signer().sign("one\n\nthree\n");
        let parsed = Note::parse(&note).unwrap();
        assert_eq!((parsed.text(), signer().verifier().verify(&parsed)), ("one\n\nthree\n", Ok(())));
    }

    #[test]
    fn a_witness_says_when_and_nobody_else_does() {
        let note = signer().sign("ledger.example/1\n7\nAAAA\n");
        let text = Note::parse(&note).unwrap().text().to_owned();
        let witness = WitnessSigner::new("witness.example", &[5; 32]).unwrap();
        let line = witness.cosign(&Note::parse(&note).unwrap(), 1_700_000_000);
        let witness = witness.verifier();
        let note = Note::parse(&format!("{note}{line}")).unwrap();
        assert_eq!(witness.cosigned_at(&note), Some(1_700_000_000));
        assert_eq!(witness.to_string().parse::<NoteVerifier>().unwrap().cosigned_at(&note), Some(1_700_000_000));
        assert_eq!(witness.verify(&note), Err(NoteError::Signature));
        assert_eq!((signer().verifier().cosigned_at(&note), signer().verifier().verify(&note)), (None, Ok(())));
        let other = Note { text: text.replace('7', "8"), ..note };
        assert_eq!(witness.cosigned_at(&other), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,300}|(\\PC{0,20}\n){0,4}\n(— [a-z]{1,9} [A-Za-z0-9+/]{0,12}={0,2}\n){0,3}") {
            let _ = text.parse::<NoteVerifier>();
            if let Ok(note) = Note::parse(&text) {
                prop_assert!(signer().verifier().verify(&note).is_err());
            }
        }
    }
}
