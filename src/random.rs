//! Randomness from the operating system, drawn here and nowhere else.

use keyledger_events::{
    Timestamp,
    secret::{Kind, RANDOM_LEN, Secret},
};
use uuid::Uuid;

/// The letters of a user code: no vowels and nothing that reads like a digit (RFC 8628 §6.1).
pub const CODE_LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Letters in a user code: 20⁸ ≈ 34.6 bits.
pub const CODE_LEN: usize = 8;

/// `N` random bytes.
///
/// # Panics
/// If the operating system has no randomness to give: then nothing may be issued, and nothing can go on.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// A new secret.
pub fn secret(kind: Kind) -> Secret {
    Secret::new(kind, &below::<RANDOM_LEN>(62))
}

/// A user code, without its dash.
pub fn user_code() -> String {
    below::<CODE_LEN>(20).iter().map(|number| char::from(CODE_LETTERS[usize::from(*number)])).collect()
}

/// A UUIDv7 (RFC 9562 §5.7) for this instant.
pub fn uuid_v7(now: Timestamp) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(now.micros() / 1000, &bytes()).into_uuid()
}

/// 256 random bits as 43 base62 characters behind `prefix`: a link's or a device code's token.
pub fn token(prefix: &str) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let random = below::<RANDOM_LEN>(62);
    prefix.chars().chain(random.iter().map(|number| char::from(ALPHABET[usize::from(*number)]))).collect()
}

/// Numbers below `limit`, each equally likely: bytes that would favour the small ones are thrown away.
fn below<const N: usize>(limit: u8) -> [u8; N] {
    let fair = u8::MAX - (u8::MAX % limit + 1) % limit;
    let mut numbers = [0; N];
    let mut filled = 0;
    while filled < N {
        for byte in bytes::<64>() {
            if byte <= fair && filled < N {
                numbers[filled] = byte % limit;
                filled += 1;
            }
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_equally_likely() {
        let mut counts = [0u32; 62];
        for _ in 0..2_000 {
            for number in below::<RANDOM_LEN>(62) {
                counts[usize::from(number)] += 1;
            }
        }
        // 86,000 draws over 62 values: 1,387 each; six standard deviations are 222.
        assert!(counts.iter().all(|count| count.abs_diff(1_387) < 222), "{counts:?}");
    }

    #[test]
    fn user_codes_use_only_their_letters() {
        let code = user_code();
        assert_eq!(code.len(), CODE_LEN);
        assert!(code.bytes().all(|letter| CODE_LETTERS.contains(&letter)));
    }
}
