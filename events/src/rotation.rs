//! The signing key's rotation: what the old key says of the new one, and the chain of keys that makes.
//!
//! A [`Certificate`] is an event of the system stream. The same certificates lie beside the log, so that whoever has
//! pinned a key, however old, gets from there to the newest by signatures alone. Each names its event's position: from
//! there on the old key signs nothing more, and a tree head of more events under it is refused, whoever has got hold of it.

use std::{fmt, str::FromStr};

use crate::{
    Event, Position, Timestamp,
    event::SigningKeyRotatedV1,
    head::{HeadError, HeadSigner, HeadVerifier, TreeHead},
    note::Note,
};

/// The first line of every certificate. No ledger is named so, hence no certificate is a tree head.
const KIND: &str = "keyledger-key-rotation/v1";
/// Lines of a certificate: six of text, an empty one, the signature.
const LINES: usize = 8;

/// What a ledger's key says of the one that follows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    note: String,
    old: HeadVerifier,
    new: HeadVerifier,
    position: Position,
    at: Timestamp,
}

impl Certificate {
    /// Has the old key say that the new one follows it. `position` is where the event will stand.
    pub fn sign(old: &HeadSigner, new: &HeadVerifier, position: Position, at: Timestamp) -> Self {
        let text = text(&old.verifier(), new, position, at);
        Self { note: old.sign_text(&text), old: old.verifier(), new: new.clone(), position, at }
    }

    /// Reads a certificate and checks that the key it replaces has signed it.
    ///
    /// # Errors
    /// [`RotationError::Shape`] or [`RotationError::Signature`].
    pub fn parse(note: &str) -> Result<Self, RotationError> {
        let signed = Note::parse(note).map_err(|_| RotationError::Shape)?;
        let mut lines = signed.text().lines();
        if lines.next() != Some(KIND) {
            return Err(RotationError::Shape);
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let origin = field("origin").ok_or(RotationError::Shape)?;
        let old: HeadVerifier = parsed(field("old"))?;
        let new: HeadVerifier = parsed(field("new"))?;
        let position = Position(parsed(field("position"))?);
        let at = parsed(field("time"))?;
        // One way to write it, so that nobody reads another thing out of it than we do.
        let canonical = signed.text() == text(&old, &new, position, at) && note.lines().count() == LINES;
        if !canonical || old.origin() != origin || new.origin() != origin || old == new {
            return Err(RotationError::Shape);
        }
        if !old.has_signed(&signed) {
            return Err(RotationError::Signature);
        }
        Ok(Self { note: note.to_owned(), old, new, position, at })
    }

    /// The key that gives way.
    pub fn old(&self) -> &HeadVerifier {
        &self.old
    }

    /// The key that signs from then on.
    pub fn new_key(&self) -> &HeadVerifier {
        &self.new
    }

    /// Where its event stands in the log.
    pub fn position(&self) -> Position {
        self.position
    }

    /// When the event was recorded.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The signed note.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The fact, for the system stream.
    pub fn event(&self) -> Event {
        Event::SigningKeyRotated(SigningKeyRotatedV1 { certificate: self.note.clone() })
    }

    /// How many events there are up to and with its own: the largest tree the old key signs, the smallest the new one does.
    fn size(&self) -> u64 {
        self.position.0.saturating_add(1)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} to {} at position {})", self.old, self.new, self.position)
    }
}

fn text(old: &HeadVerifier, new: &HeadVerifier, position: Position, at: Timestamp) -> String {
    format!("{KIND}\norigin {}\nold {old}\nnew {new}\nposition {position}\ntime {at}\n", old.origin())
}

fn parsed<T: FromStr>(text: Option<&str>) -> Result<T, RotationError> {
    text.and_then(|text| text.parse().ok()).ok_or(RotationError::Shape)
}

/// A ledger's keys in the order they were in force, each but the first with its predecessor's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChain {
    first: HeadVerifier,
    certificates: Vec<Certificate>,
    /// How many certificates stand before the key that is trusted.
    trusted_from: usize,
}

impl From<HeadVerifier> for KeyChain {
    /// Of one key, nothing known of others.
    fn from(first: HeadVerifier) -> Self {
        Self { first, certificates: Vec::new(), trusted_from: 0 }
    }
}

impl KeyChain {
    /// Reads certificates that stand one after the other, nothing between them; none if there are none.
    ///
    /// # Errors
    /// [`RotationError`].
    pub fn parse(text: &str) -> Result<Option<Self>, RotationError> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let mut chain: Option<Self> = None;
        for note in lines.chunks(LINES) {
            let certificate = Certificate::parse(&note.concat())?;
            match &mut chain {
                Some(chain) => chain.push(certificate)?,
                None => chain = Some(Self::begun_by(certificate)),
            }
        }
        Ok(chain)
    }

    /// The chain that a first certificate makes.
    pub fn begun_by(certificate: Certificate) -> Self {
        Self { first: certificate.old.clone(), certificates: vec![certificate], trusted_from: 0 }
    }

    /// Takes in the next certificate.
    ///
    /// # Errors
    /// [`RotationError::Order`] if it is not by the newest key, brings back an older one, or stands earlier in the log
    /// than the one before.
    pub fn push(&mut self, certificate: Certificate) -> Result<(), RotationError> {
        let later = self.certificates.last().is_none_or(|last| last.position < certificate.position);
        if certificate.old != *self.newest() || self.keys().any(|key| *key == certificate.new) || !later {
            return Err(RotationError::Order);
        }
        self.certificates.push(certificate);
        Ok(())
    }

    /// The same, trusted from this key on: what keys before it have signed counts no more.
    ///
    /// # Errors
    /// [`RotationError::NotLed`] if it is none of these keys.
    pub fn trusted_from(mut self, key: &HeadVerifier) -> Result<Self, RotationError> {
        let number = self.keys().position(|known| known == key);
        self.trusted_from = number.ok_or(RotationError::NotLed)?;
        Ok(self)
    }

    /// The ledger's name.
    pub fn origin(&self) -> &str {
        self.first.origin()
    }

    /// The key in force.
    pub fn newest(&self) -> &HeadVerifier {
        self.certificates.last().map_or(&self.first, |last| &last.new)
    }

    /// The smallest tree whose head the key in force signs.
    pub fn signs_from(&self) -> u64 {
        self.certificates.last().map_or(0, Certificate::size)
    }

    /// All keys, the oldest first.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &HeadVerifier> {
        std::iter::once(&self.first).chain(self.certificates.iter().map(|certificate| &certificate.new))
    }

    /// All certificates, the oldest first.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// How many rotations lead from the trusted key to the newest.
    pub fn rotations(&self) -> usize {
        self.certificates.len() - self.trusted_from
    }

    /// Reads and checks a signed tree head by the trusted key or one that follows it, each in its time.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn verify(&self, note: &str) -> Result<TreeHead, HeadError> {
        self.verify_by(self.trusted_from, note)
    }

    /// The same for a head that can only speak against a log, never for it: it may also be by a key before the trusted
    /// one.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn verify_known(&self, note: &str) -> Result<TreeHead, HeadError> {
        self.verify_by(0, note)
    }

    fn verify_by(&self, from: usize, note: &str) -> Result<TreeHead, HeadError> {
        for (number, key) in self.keys().enumerate().skip(from) {
            let head = match key.verify(note) {
                Err(HeadError::Signature) => continue,
                head => head?,
            };
            let since = number.checked_sub(1).map_or(0, |before| self.certificates[before].size());
            let until = self.certificates.get(number).map_or(u64::MAX, Certificate::size);
            return if (since..=until).contains(&head.size) { Ok(head) } else { Err(HeadError::NotInForce) };
        }
        Err(HeadError::Signature)
    }
}

/// As it lies beside the log: all certificates, one after the other.
impl fmt::Display for KeyChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.certificates.iter().try_for_each(|certificate| f.write_str(&certificate.note))
    }
}

/// Why certificates do not lead from one key to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// Not a certificate.
    #[error("not a certificate of a key's rotation")]
    Shape,
    /// Signed by somebody else, or not at all.
    #[error("a key's certificate is not signed by the key it replaces")]
    Signature,
    /// Not the certificate that must follow.
    #[error("a key's certificate does not follow the one before it")]
    Order,
    /// A key that is not in the chain.
    #[error("no certificate leads from the key that is trusted to the ledger's")]
    NotLed,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::NodeHash;

    fn signer(number: u8) -> HeadSigner {
        HeadSigner::new("ledger.example/1", &[number; 32]).unwrap()
    }

    fn certificate(old: u8, new: u8, position: u64) -> Certificate {
        let at = Timestamp::from_micros(1_800_000_000_000_000 + position);
        Certificate::sign(&signer(old), &signer(new).verifier(), Position(position), at)
    }

    /// Key 1, from position 4 on key 2, from 9 on key 3.
    fn chain() -> KeyChain {
        let mut chain = KeyChain::begun_by(certificate(1, 2, 4));
        chain.push(certificate(2, 3, 9)).unwrap();
        chain
    }

    fn head(key: u8, size: u64) -> String {
        signer(key).sign(&TreeHead { size, root: NodeHash([size as u8; 32]) })
    }

    #[test]
    fn certificates_come_back_one_by_one_and_as_a_chain() {
        let certificate = certificate(1, 2, 4);
        assert_eq!(Certificate::parse(certificate.note()), Ok(certificate.clone()));
        assert_eq!(KeyChain::parse(&chain().to_string()), Ok(Some(chain())));
        assert_eq!(KeyChain::parse(""), Ok(None));
        assert_eq!(chain().newest(), &signer(3).verifier());
        assert!(signer(1).verifier().verify(certificate.note()).is_err(), "a certificate is no tree head");
    }

    #[test]
    fn each_key_counts_in_its_time_only() {
        let sizes =
            |key, chain: &KeyChain| (0..20).filter(|size| chain.verify(&head(key, *size)).is_ok()).collect::<Vec<_>>();
        let all = chain();
        assert_eq!(sizes(1, &all), (0..=5).collect::<Vec<_>>());
        assert_eq!(sizes(2, &all), (5..=10).collect::<Vec<_>>());
        assert_eq!(sizes(3, &all), (10..20).collect::<Vec<_>>());
        assert_eq!(all.verify(&head(1, 6)), Err(HeadError::NotInForce));
        assert_eq!(all.verify(&head(4, 6)), Err(HeadError::Signature));
        assert_eq!(all.rotations(), 2);
        let pinned = all.trusted_from(&signer(2).verifier()).unwrap();
        assert_eq!(sizes(1, &pinned), Vec::<u64>::new());
        assert_eq!(sizes(2, &pinned).len() + sizes(3, &pinned).len(), 16);
        assert_eq!(pinned.verify_known(&head(1, 5)).map(|head| head.size), Ok(5));
        assert_eq!(pinned.verify_known(&head(1, 6)), Err(HeadError::NotInForce));
        assert_eq!(pinned.rotations(), 1);
        assert_eq!(pinned.trusted_from(&signer(4).verifier()), Err(RotationError::NotLed));
    }

    #[test]
    fn what_does_not_follow_is_refused() {
        for (what, old, new, position) in [
            ("by a key that was never in force", 7, 4, 12),
            ("by a key that was replaced", 1, 4, 12),
            ("back to an older key", 3, 1, 12),
            ("earlier in the log", 3, 4, 9),
        ] {
            assert_eq!(chain().push(certificate(old, new, position)), Err(RotationError::Order), "{what}");
        }
        let forged = certificate(1, 2, 4).note().replace(
            certificate(1, 2, 4).note().lines().last().unwrap(),
            certificate(7, 2, 4).note().lines().last().unwrap(),
        );
        assert_eq!(Certificate::parse(&forged), Err(RotationError::Signature));
        let twice = chain().to_string() + certificate(2, 3, 9).note();
        assert_eq!(KeyChain::parse(&twice), Err(RotationError::Order));
        let elsewhere = HeadSigner::new("other.example", &[2; 32]).unwrap().verifier();
        let elsewhere = Certificate::sign(&signer(1), &elsewhere, Position(4), Timestamp::from_micros(1));
        assert_eq!(Certificate::parse(elsewhere.note()), Err(RotationError::Shape));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let text = chain().to_string();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(KeyChain::parse(&text).is_err(), "bit {bit}: {text}");
            }
        }
        let first = certificate(1, 2, 4).note().len();
        for len in (1..text.len()).filter(|len| *len != first && text.is_char_boundary(*len)) {
            assert!(KeyChain::parse(&text[..len]).is_err(), "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,300}", cut in 0usize..600, at in 0usize..600) {
            prop_assert!(Certificate::parse(&text).is_err());
            prop_assert!(text.is_empty() || KeyChain::parse(&text).is_err());
            let mut broken = chain().to_string();
            let boundary = |at: usize| (0..=at).rev().find(|at| broken.is_char_boundary(*at)).unwrap_or(0);
            let (from, to) = (boundary(at.min(cut)), boundary(at.max(cut)));
            broken.replace_range(from..to, &text);
            let _ = KeyChain::parse(&broken);
        }
    }
}
