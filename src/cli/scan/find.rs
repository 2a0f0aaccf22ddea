//! Finds secrets in any stream of bytes, at the speed of its reader.
//!
//! What every secret has in common, `-kl1`, is searched for with the processor's widest instructions; only where it
//! stands the published pattern (`events::secret::PATTERN`) and the checksum are looked at.

use std::{
    io::{self, Read},
    sync::LazyLock,
};

use keyledger_events::secret::{KeyPrefix, Kind, Presented, SECRET_LEN, Secret, SecretHash};
use memchr::{memchr_iter, memmem, memrchr};

/// How much is read at once, in bytes.
pub const CHUNK_LEN: usize = 1 << 20;
/// What of a chunk must be seen again with the next one: a secret that is not whole, and the byte before it.
const KEPT_LEN: usize = SECRET_LEN + 1;
const MARK: &[u8] = b"-kl1";
/// What stands before the mark: a kind's two letters.
const BEFORE_MARK: usize = 2;

static MARKS: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(MARK));

/// A secret that was found: all but the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Find {
    /// From 1.
    pub line: u64,
    /// In bytes, from 1.
    pub column: u64,
    /// Its kind.
    pub kind: Kind,
    /// Its first characters.
    pub prefix: KeyPrefix,
    /// What the ledger knows it by.
    pub hash: SecretHash,
}

/// Searches all of `source`. `buffer` is used again for the next one; `read` hears how many bytes have come.
///
/// # Errors
/// What the reader says; what was found before stands.
pub fn search(
    mut source: impl Read,
    buffer: &mut Vec<u8>,
    read: &dyn Fn(u64),
    found: &mut dyn FnMut(Find),
) -> io::Result<()> {
    buffer.clear();
    let mut place = Place::default();
    // Where the first secret begins that was not judged yet, in the buffer.
    let mut next = 0;
    loop {
        let came = source.by_ref().take(CHUNK_LEN as u64).read_to_end(buffer)?;
        read(came as u64);
        let at_end = came == 0;
        // One that reaches the buffer's end may go on behind it, and then it is none.
        let judged_to = if at_end { buffer.len() } else { buffer.len().saturating_sub(SECRET_LEN) };
        for mark in MARKS.find_iter(buffer) {
            let Some(start) = mark.checked_sub(BEFORE_MARK).filter(|start| (next..judged_to).contains(start)) else {
                continue;
            };
            if let Some(presented) = secret_at(buffer, start) {
                let (line, column) = place.of(buffer, start);
                // A parsed secret is one, so that its first characters can be told.
                if let Ok(secret) = Secret::parse(&buffer[start..start + SECRET_LEN]) {
                    let (kind, hash) = (presented.kind, presented.hash());
                    found(Find { line, column, kind, prefix: secret.prefix(), hash });
                }
            }
        }
        if at_end {
            return Ok(());
        }
        let dropped = buffer.len().saturating_sub(KEPT_LEN);
        place.pass(buffer, dropped);
        buffer.drain(..dropped);
        next = judged_to - dropped;
    }
}

/// The well-formed secret that begins there, if it stands alone: `\b` on both sides.
fn secret_at(bytes: &[u8], start: usize) -> Option<Presented<'_>> {
    let is_word = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at)).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    };
    if is_word(start.checked_sub(1)) || is_word(Some(start + SECRET_LEN)) {
        return None;
    }
    Presented::parse(bytes.get(start..start + SECRET_LEN)?).ok()
}

/// How far lines are counted.
#[derive(Default)]
struct Place {
    /// Lines that have ended before the buffer's beginning, or before `counted`.
    lines: u64,
    /// Up to where in the buffer.
    counted: usize,
    /// Bytes of the line at the buffer's beginning that are dropped already.
    dropped_of_line: u64,
}

impl Place {
    /// Line and column of a place in the buffer, later than any before.
    fn of(&mut self, buffer: &[u8], at: usize) -> (u64, u64) {
        self.count(buffer, at);
        let column = match memrchr(b'\n', &buffer[..at]) {
            Some(newline) => (at - newline) as u64,
            None => self.dropped_of_line + at as u64 + 1,
        };
        (self.lines + 1, column)
    }

    fn count(&mut self, buffer: &[u8], to: usize) {
        if to > self.counted {
            self.lines += memchr_iter(b'\n', &buffer[self.counted..to]).count() as u64;
            self.counted = to;
        }
    }

    /// The buffer's first bytes are about to be dropped.
    fn pass(&mut self, buffer: &[u8], dropped: usize) {
        self.count(buffer, dropped);
        self.dropped_of_line = match memrchr(b'\n', &buffer[..dropped]) {
            Some(newline) => (dropped - newline - 1) as u64,
            None => self.dropped_of_line + dropped as u64,
        };
        self.counted -= dropped;
    }
}

#[cfg(test)]
mod tests {
    use keyledger_events::secret::{PATTERN, RANDOM_LEN};
    use proptest::prelude::*;
    use regex::bytes::Regex;

    use super::*;

    fn secret(kind: Kind, seed: u8) -> Vec<u8> {
        let random = std::array::from_fn(|at| (seed as usize * 7 + at) as u8 % 62);
        let _: &[u8; RANDOM_LEN] = &random;
        Secret::new(kind, &random).expose().as_bytes().to_vec()
    }

    /// Gives so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(into.len()).min(self.0.len());
            into[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn all(source: impl Read) -> Vec<Find> {
        let (mut finds, mut buffer) = (Vec::new(), Vec::new());
        search(source, &mut buffer, &|_| {}, &mut |find| finds.push(find)).unwrap();
        finds
    }

    /// The pattern as it is published, and the checksum.
    fn expected(bytes: &[u8]) -> Vec<(u64, u64, SecretHash)> {
        let pattern = Regex::new(&format!("(?-u){PATTERN}")).unwrap();
        let found = pattern.find_iter(bytes).filter_map(|found| {
            let presented = Presented::parse(found.as_bytes()).ok()?;
            let before = &bytes[..found.start()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() as u64 + 1;
            Some((line, column, presented.hash()))
        });
        found.collect()
    }

    fn told(finds: &[Find]) -> Vec<(u64, u64, SecretHash)> {
        finds.iter().map(|find| (find.line, find.column, find.hash)).collect()
    }

    #[test]
    fn across_every_border_of_a_chunk() {
        let secret = secret(Kind::Device, 3);
        for before in [0, 1, CHUNK_LEN - 60, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN - 30] {
            for at in before..before + 58 {
                let mut bytes = vec![b'.'; at];
                if at > 10 {
                    bytes[at / 2] = b'\n';
                }
                bytes.extend_from_slice(&secret);
                assert_eq!(told(&all(&bytes[..])), expected(&bytes), "{at}");
                bytes.push(b'x');
                assert!(all(&bytes[..]).is_empty(), "{at}: it goes on");
                if before == 0 {
                    bytes.truncate(bytes.len() - 2);
                    assert!(all(&bytes[..]).is_empty(), "{at}: cut off");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_the_published_pattern_finds(
            parts in proptest::collection::vec((0usize..9, 0u8..5, proptest::collection::vec(any::<u8>(), 0..6)), 0..12),
            step in 1usize..200,
        ) {
            let mut bytes = Vec::new();
            for (what, seed, noise) in parts {
                let good = secret(Kind::ALL[usize::from(seed) % 4], seed);
                match what {
                    0..3 => bytes.extend_from_slice(&good),
                    3 => bytes.extend_from_slice(&good[..50]),
                    4 => bytes.extend_from_slice(&good[1..]),
                    5 => { let mut typo = good; typo[20] ^= 1; bytes.extend_from_slice(&typo); }
                    6 => bytes.push(b'\n'),
                    7 => bytes.extend_from_slice(b" sk-kl1"),
                    _ => bytes.extend_from_slice(b"\r\n\t\"= "),
                }
                bytes.extend_from_slice(&noise);
            }
            let finds = all(Slow(&bytes, step));
            // The pattern's own matches don't overlap; a secret can't begin inside another.
            prop_assert_eq!(told(&finds), expected(&bytes));
        }
    }
}
