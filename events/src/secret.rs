//! The secrets the ledger hands out: their text, their checksum, their hash.
//!
//! A secret is `KIND-kl1` + 43 base62 characters of operating-system randomness + 6 base62 characters of CRC-32 over
//! all that stands before: 55 ASCII characters. The shape follows GitHub's token format ("Behind GitHub's new
//! authentication token formats", 2021): a scanner finds it by pattern and refuses a typo by checksum, without a look-up.

use std::{fmt, sync::LazyLock};

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The length of every secret, in bytes and in characters.
pub const SECRET_LEN: usize = 55;
/// How much of a secret the ledger keeps and shows.
pub const PREFIX_LEN: usize = 12;
/// Random characters in a secret: 43 × log2(62) = 256 bits.
pub const RANDOM_LEN: usize = 43;
/// What a scanner looks for.
pub const PATTERN: &str = r"\b(?:sk|ak|dk|sv)-kl1[0-9A-Za-z]{49}\b";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const MARK: &[u8; 3] = b"kl1";
const BODY_LEN: usize = SECRET_LEN - 6;
/// BLAKE3 `derive_key` context: other hashes of the same text can never be confused with a credential's.
const HASH_CONTEXT: &str = "keyledger 2026-11 credential secret v1";

/// What a credential is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    /// `sk-`: scripts, CI, partners.
    Integration = 0,
    /// `ak-`: long-lived agents.
    Agent = 1,
    /// `dk-`: a person's device.
    Device = 2,
    /// `sv-`: gateways, edges and scrapers that talk to the ledger itself.
    Service = 3,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Integration, Self::Agent, Self::Device, Self::Service];

    /// The first three characters of its secrets.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Integration => "sk-",
            Self::Agent => "ak-",
            Self::Device => "dk-",
            Self::Service => "sv-",
        }
    }

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Integration => "integration",
            Self::Agent => "agent",
            Self::Device => "device",
            Self::Service => "service",
        }
    }

    const fn from_tag(tag: [u8; 3]) -> Option<Self> {
        match &tag {
            b"sk-" => Some(Self::Integration),
            b"ak-" => Some(Self::Agent),
            b"dk-" => Some(Self::Device),
            b"sv-" => Some(Self::Service),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Kind {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or(())
    }
}

/// A whole secret. It has no `Display` and no `Serialize`, its `Debug` shows only its kind, and it is wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; SECRET_LEN]);

impl Secret {
    /// Makes a secret of 43 random numbers below 62, which the caller draws from the operating system.
    ///
    /// # Panics
    /// If a number is 62 or more: that is a defect of the caller's sampling, and a biased secret must not leave.
    pub fn new(kind: Kind, random: &[u8; RANDOM_LEN]) -> Self {
        let mut text = [0; SECRET_LEN];
        text[..3].copy_from_slice(kind.tag().as_bytes());
        text[3..6].copy_from_slice(MARK);
        for (character, number) in text[6..BODY_LEN].iter_mut().zip(random) {
            *character = ALPHABET[usize::from(*number)];
        }
        let sum = checksum(&text[..BODY_LEN]);
        text[BODY_LEN..].copy_from_slice(&sum);
        Self(text)
    }

    /// Reads what somebody presents. Length, kind, alphabet and checksum are looked at; whether the ledger issued it is not.
    ///
    /// # Errors
    /// [`Malformed`], which says nothing of what was presented.
    pub fn parse(presented: &[u8]) -> Result<Self, Malformed> {
        Presented::parse(presented).map(|presented| Self(*presented.text))
    }

    /// What the log keeps of it.
    pub fn hash(&self) -> SecretHash {
        hash(&self.0)
    }

    /// The first 12 characters.
    pub fn prefix(&self) -> KeyPrefix {
        let mut prefix = [0; PREFIX_LEN];
        prefix.copy_from_slice(&self.0[..PREFIX_LEN]);
        KeyPrefix(prefix)
    }

    /// The text, for the one answer that hands it over. Call it nowhere else.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0[..3]).unwrap_or_default())?;
        f.write_str("[redacted]")
    }
}

/// A well-formed secret where it lies in somebody's buffer: the verifier's way in, which copies nothing.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    text: &'a [u8; SECRET_LEN],
    /// The kind its first characters claim.
    pub kind: Kind,
}

impl<'a> Presented<'a> {
    /// As [`Secret::parse`], without the copy.
    ///
    /// # Errors
    /// [`Malformed`].
    #[inline]
    pub fn parse(presented: &'a [u8]) -> Result<Self, Malformed> {
        let text: &[u8; SECRET_LEN] = presented.try_into().map_err(|_| Malformed)?;
        let kind = Kind::from_tag([text[0], text[1], text[2]]).ok_or(Malformed)?;
        // No early exit: without one the compiler looks at many characters at once.
        let alphanumeric = text[6..].iter().fold(true, |all, character| all & character.is_ascii_alphanumeric());
        if &text[3..6] != MARK || !alphanumeric {
            return Err(Malformed);
        }
        if checksum(&text[..BODY_LEN]) != text[BODY_LEN..] {
            return Err(Malformed);
        }
        Ok(Self { text, kind })
    }

    /// What the index is asked for.
    #[inline]
    pub fn hash(&self) -> SecretHash {
        hash(self.text)
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[redacted]", self.kind.tag())
    }
}

/// What was presented is not a secret of this ledger's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed credential")]
pub struct Malformed;

/// BLAKE3 `derive_key` of a secret. It identifies the credential and can't be turned back: the secret has 256 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretHash(pub [u8; 32]);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretHash({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// The first 12 characters of a secret: enough to recognise it, useless to guess it (220 bits are missing).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix([u8; PREFIX_LEN]);

impl KeyPrefix {
    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text in JSON, 12 bare bytes in postcard.
impl Serialize for KeyPrefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(self.as_str())
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for KeyPrefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: [u8; PREFIX_LEN] = if deserializer.is_human_readable() {
            String::deserialize(deserializer)?
                .into_bytes()
                .try_into()
                .map_err(|_| serde::de::Error::custom(Malformed))?
        } else {
            <[u8; PREFIX_LEN]>::deserialize(deserializer)?
        };
        // It is printed as it is, to terminals too: a log of somebody else's making must not speak to them through it.
        if bytes.iter().all(u8::is_ascii_graphic) { Ok(Self(bytes)) } else { Err(serde::de::Error::custom(Malformed)) }
    }
}

#[inline]
fn hash(text: &[u8; SECRET_LEN]) -> SecretHash {
    // The context is hashed once: `new_derive_key` does it each time, and a clone of a whole hasher copies more than this.
    static CONTEXT_KEY: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context(HASH_CONTEXT));
    let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT_KEY);
    hasher.update(text);
    SecretHash(*hasher.finalize().as_bytes())
}

/// CRC-32 (ISO-HDLC, the one of zip and PNG) as six base62 digits, most significant first. 62⁶ > 2³².
#[inline]
fn checksum(body: &[u8]) -> [u8; 6] {
    let mut sum = crc32fast::hash(body);
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(sum % 62) as usize];
        sum /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(kind: Kind) -> Secret {
        Secret::new(kind, &std::array::from_fn(|i| (i * 7 % 62) as u8))
    }

    #[test]
    fn a_secret_has_the_published_shape() {
        for kind in Kind::ALL {
            let secret = secret(kind);
            let text = secret.expose();
            assert_eq!(text.len(), SECRET_LEN);
            assert!(text.starts_with(&format!("{}kl1", kind.tag())));
            assert_eq!(Secret::parse(text.as_bytes()).unwrap().hash(), secret.hash());
            assert_eq!(Presented::parse(text.as_bytes()).unwrap().kind, kind);
            assert_eq!(secret.prefix().as_str(), &text[..PREFIX_LEN]);
        }
    }

    #[test]
    fn the_checksum_is_pinned() {
        // Computed with Python: zlib.crc32(text[:49]) in base62, digits 0-9A-Za-z.
        let secret = Secret::new(Kind::Integration, &[0; RANDOM_LEN]);
        assert_eq!(secret.expose(), "sk-kl100000000000000000000000000000000000000000001d2j2b");
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = secret(Kind::Device);
        let random = &secret.expose()[6..];
        let shown =
            format!("{secret:?} {:?} {:?}", Presented::parse(secret.expose().as_bytes()).unwrap(), secret.hash());
        assert_eq!(&shown[..13], "dk-[redacted]");
        assert!(!shown.contains(&random[..6]));
    }

    #[test]
    fn every_single_edit_and_truncation_is_refused() {
        let good = secret(Kind::Agent);
        let text = good.expose().as_bytes();
        for len in 0..SECRET_LEN {
            assert!(Secret::parse(&text[..len]).is_err(), "truncated to {len}");
        }
        for at in 0..SECRET_LEN {
            for byte in 0..=255u8 {
                let mut edited = text.to_vec();
                if edited[at] == byte {
                    continue;
                }
                edited[at] = byte;
                assert!(Secret::parse(&edited).is_err(), "byte {at} set to {byte}");
            }
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_accepts_only_what_new_makes(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Secret::parse(&bytes).is_err());
        }

        #[test]
        fn what_new_makes_is_accepted(random in proptest::array::uniform32(0u8..62), kind in 0usize..4) {
            let mut numbers = [0; RANDOM_LEN];
            numbers[..32].copy_from_slice(&random);
            let secret = Secret::new(Kind::ALL[kind], &numbers);
            prop_assert!(Secret::parse(secret.expose().as_bytes()).is_ok());
        }
    }
}
