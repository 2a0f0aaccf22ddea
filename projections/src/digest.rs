//! What a projection boils down to: one number that is equal exactly when the states are.
//!
//! The sum, modulo 2^256, of the BLAKE3 hashes of all rows. Order does not matter, a row can be taken out again, and who
//! only follows a log may forget a row whose bytes can no longer change and still arrive at the same sum.

use std::{fmt, iter::Sum};

/// The digest of a projection's state.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Counts a row in.
    pub fn add(&mut self, row: &[u8]) {
        self.add_all(Self::of(row));
    }

    /// Counts a row out.
    pub fn remove(&mut self, row: &[u8]) {
        self.remove_all(Self::of(row));
    }

    /// Counts in all that the other counts.
    pub fn add_all(&mut self, other: Self) {
        let mut carry = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            let (sum, over) = word.overflowing_add(other);
            let (sum, over_carry) = sum.overflowing_add(u64::from(carry));
            *word = sum;
            carry = over | over_carry;
        }
    }

    /// Counts out all that the other counts.
    pub fn remove_all(&mut self, other: Self) {
        let mut borrow = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            let (difference, under) = word.overflowing_sub(other);
            let (difference, under_borrow) = difference.overflowing_sub(u64::from(borrow));
            *word = difference;
            borrow = under | under_borrow;
        }
    }

    /// What a row adds.
    pub fn of(row: &[u8]) -> Self {
        Self::from_bytes(blake3::hash(row).as_bytes())
    }

    /// The number, least significant byte first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// From [`Digest::to_bytes`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*chunk);
        }
        Self(words)
    }

    /// From its [`fmt::Display`] text.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).ok()?;
        Some(Self::from_bytes(&bytes))
    }
}

impl Sum for Digest {
    fn sum<I: Iterator<Item = Self>>(digests: I) -> Self {
        digests.fold(Self::default(), |mut sum, digest| {
            sum.add_all(digest);
            sum
        })
    }
}

/// 64 hexadecimal digits of [`Digest::to_bytes`].
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_does_not_matter_and_a_row_comes_out_again(rows in proptest::collection::vec(any::<u64>(), 1..40)) {
            let (mut forth, mut back) = (Digest::default(), Digest::default());
            rows.iter().for_each(|row| forth.add(&row.to_le_bytes()));
            rows.iter().rev().for_each(|row| back.add(&row.to_le_bytes()));
            prop_assert_eq!(forth, back);
            prop_assert_eq!(Digest::from_bytes(&forth.to_bytes()), forth);
            prop_assert_eq!(Digest::from_hex(&forth.to_string()), Some(forth));
            prop_assert_eq!(rows.iter().map(|row| Digest::of(&row.to_le_bytes())).sum::<Digest>(), forth);
            let mut without = Digest::default();
            rows[1..].iter().for_each(|row| without.add(&row.to_le_bytes()));
            prop_assert_ne!(forth, without);
            forth.remove(&rows[0].to_le_bytes());
            prop_assert_eq!(forth, without);
        }
    }
}
