//! Personal data in the log, readable only while the person's key exists.
//!
//! The log never forgets; people must be forgettable. So names, e-mail and network addresses, user agents and device
//! names enter an event only as [`Sealed`]: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) under a random key of that
//! person that lies outside the log, in [`crate::store::keyring`]. Erasing the key erases the person, and every hash still holds.

use std::fmt;

use chacha20poly1305::{AeadInPlace, KeyInit, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{CredentialId, PersonId, PlaceId};

/// The longest text that may be sealed, in bytes.
pub const SEALED_MAX: usize = 4096;

/// BLAKE3 `derive_key` context of the key behind [`PlaceId`]s.
const PLACE_CONTEXT: &str = "keyledger 2026-11 leak place v1";

/// Bytes of authentication tag behind the text.
const TAG_LEN: usize = 16;

/// A person's key. Never shown, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PersonKey([u8; 32]);

impl PersonKey {
    /// Wraps 32 bytes from the operating system's generator.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the keyring's file.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals `text` for `person`. `nonce` is 24 random bytes, never used twice.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn seal(&self, person: PersonId, nonce: [u8; 24], text: &str) -> Result<Sealed, TooLong> {
        if text.len() > SEALED_MAX {
            return Err(TooLong);
        }
        let mut ciphertext = Vec::with_capacity(text.len() + TAG_LEN);
        ciphertext.extend_from_slice(text.as_bytes());
        XChaCha20Poly1305::new(&self.0.into())
            .encrypt_in_place(XNonce::from_slice(&nonce), person.as_bytes(), &mut ciphertext)
            .map_err(|_| TooLong)?;
        Ok(Sealed { person, nonce, ciphertext })
    }

    /// Tells the places where a credential's secret was found from one another. Without this key it says nothing of them.
    pub fn place_id(&self, credential: CredentialId, place: &str) -> PlaceId {
        let key = Zeroizing::new(blake3::derive_key(PLACE_CONTEXT, &self.0));
        let hash = blake3::Hasher::new_keyed(&key).update(credential.as_bytes()).update(place.as_bytes()).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        PlaceId::from_bytes(id)
    }

    /// Opens what was sealed for this key's person.
    ///
    /// # Errors
    /// [`Unreadable`] when the key is another's or a byte has changed.
    pub fn open(&self, sealed: &Sealed) -> Result<String, Unreadable> {
        let mut text = sealed.ciphertext.clone();
        XChaCha20Poly1305::new(&self.0.into())
            .decrypt_in_place(XNonce::from_slice(&sealed.nonce), sealed.person.as_bytes(), &mut text)
            .map_err(|_| Unreadable)?;
        String::from_utf8(text).map_err(|_| Unreadable)
    }
}

impl fmt::Debug for PersonKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PersonKey[redacted]")
    }
}

/// A text about a person, as the log keeps it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sealed {
    /// Whose key opens it.
    pub person: PersonId,
    /// 24 random bytes.
    pub nonce: [u8; 24],
    /// The text and 16 bytes of authentication tag.
    #[serde(with = "serde_bytes")]
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({}, {} bytes)", self.person, self.ciphertext.len())
    }
}

/// A name that may be about a person (a device's) or not (a CI key's).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Label {
    /// In clear.
    Clear(String),
    /// Under a person's key.
    Sealed(Sealed),
}

/// The key is gone, another's, or the bytes have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed data that this key does not open")]
pub struct Unreadable;

/// The text is longer than [`SEALED_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("personal data of more than {SEALED_MAX} bytes")]
pub struct TooLong;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_persons_key_opens_and_no_bit_may_change() {
        let (anna, key) = (PersonId::from_bytes([1; 16]), PersonKey::from_bytes([7; 32]));
        let sealed = key.seal(anna, [9; 24], "Anna's laptop").unwrap();
        assert_eq!(key.open(&sealed).unwrap(), "Anna's laptop");
        assert_eq!(PersonKey::from_bytes([8; 32]).open(&sealed), Err(Unreadable));
        assert_eq!(key.open(&Sealed { person: PersonId::from_bytes([2; 16]), ..sealed.clone() }), Err(Unreadable));
        for bit in 0..sealed.ciphertext.len() * 8 {
            let mut damaged = sealed.clone();
            damaged.ciphertext[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&damaged), Err(Unreadable));
        }
        assert_eq!(key.seal(anna, [9; 24], &"x".repeat(SEALED_MAX + 1)), Err(TooLong));
        assert!(!format!("{key:?} {sealed:?}").contains("Anna"));
        let (one, other) = (CredentialId::from_bytes([3; 16]), CredentialId::from_bytes([4; 16]));
        assert_eq!(key.place_id(one, "x"), key.place_id(one, "x"));
        assert_ne!(key.place_id(one, "x"), key.place_id(other, "x"));
        assert_ne!(key.place_id(one, "x"), key.place_id(one, "y"));
        assert_ne!(key.place_id(one, "x"), PersonKey::from_bytes([8; 32]).place_id(one, "x"));
    }
}
