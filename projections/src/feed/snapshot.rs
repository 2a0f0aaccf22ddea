//! The index in one stream, for a follower to start from: everything that the feed has told up to a position.
//!
//! # Format
//!
//! ```text
//! keyledger snapshot 1\n     the magic line, 21 bytes of ASCII
//! frame                      the header, JSON as UTF-8: see Header
//! frame …                    chunks, as below
//! 00 00 00 00                the frame of length 0: there is nothing more
//! 32 bytes                   BLAKE3 of all bytes before them
//! ```
//!
//! A frame is its length in bytes (`u32`, little-endian, 1 to 4 MiB) and as many bytes. Nothing follows the hash.
//!
//! A chunk begins with a byte that says of what it is. All numbers are little-endian.
//!
//! | first byte | then any number of |
//! | --- | --- |
//! | 1: bindings | team (16 bytes), holder (16 bytes). Bindings are numbered from 0 across all chunks; none comes twice |
//! | 2: rows | hash (32 bytes), credential id (16), life (8), number of its binding (4), length of its name (4), its name |
//!
//! `life` is the end in microseconds since the Unix epoch (bits 0–57, all ones: never), the kind's number (bits 58 and
//! 59) and the state's (bits 60–63: alive 0, revoked 1, expired 2). The name is always the two bytes 00 00, an empty one
//! in the index's own checkpoints. A binding stands before the rows that name it. There are no `sv-` keys, no
//! names, and no person who answers for none of the keys.
//!
//! The header's digest is what the feed's head messages tell at the same position; who reads a snapshot computes it anew
//! from the rows. Compression, if any, is applied around the whole.

use std::{
    collections::BTreeSet,
    io::{self, Read},
};

use keyledger_events::{Position, TeamId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Active, Digest,
    active::{Frozen, RestoreError},
};

/// The first line.
pub const MAGIC: &[u8; 21] = b"keyledger snapshot 1\n";
/// A longer frame is refused, in bytes: whoever reads holds one at a time.
pub const FRAME_LEN_MAX: usize = 4 << 20;
/// What chunks are cut to, in bytes.
const CHUNK_LEN: usize = 1 << 18;
/// Tables are made for at most so many credentials on the header's word alone; then they grow with what arrives.
const CREDENTIALS_TRUSTED: u64 = 1 << 23;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The last position it covers: the feed goes on after it. None: the log was empty.
    pub position: Option<Position>,
    /// How many rows it has.
    pub credentials: u64,
    /// [`Active::nameless_digest`] of these teams at `position`.
    #[serde(with = "hex_digest")]
    pub digest: Digest,
    /// The teams whose keys it has; none: all teams'.
    pub teams: Option<BTreeSet<TeamId>>,
    /// The ledger's clock when it was made.
    pub at: Timestamp,
}

/// The bytes of a snapshot, in pieces of about 256 KiB. `header` says of which teams; its `credentials` are
/// [`Frozen::nameless_len`], and its position and digest those at which the index was frozen.
pub fn write<'a>(frozen: &'a Frozen<'_>, header: &'a Header) -> impl Iterator<Item = Vec<u8>> + 'a {
    // A header has no type that serde_json refuses.
    let first = serde_json::to_vec(header).unwrap_or_default();
    let mut frames = std::iter::once(first).chain(frozen.nameless_chunks(CHUNK_LEN, header.teams.as_ref()));
    let mut hasher = blake3::Hasher::new();
    let mut piece = MAGIC.to_vec();
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let frame = frames.next().unwrap_or_default();
        done = frame.is_empty();
        piece.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        piece.extend_from_slice(&frame);
        hasher.update(&piece);
        if done {
            piece.extend_from_slice(hasher.finalize().as_bytes());
        }
        Some(std::mem::take(&mut piece))
    })
}

/// Reads a snapshot to its end, and believes nothing of it: the hash must hold, and the rows must sum up to the digest.
/// Holds one frame at a time beside the index.
///
/// # Errors
/// [`SnapshotError`].
pub fn read(from: impl Read) -> Result<(Header, Active), SnapshotError> {
    let mut from = Hashed { from, hasher: blake3::Hasher::new() };
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(SnapshotError::Other);
    }
    let mut frame = Vec::new();
    if !from.read_frame(&mut frame)? {
        return Err(SnapshotError::Malformed);
    }
    let header: Header = serde_json::from_slice(&frame).map_err(|_| SnapshotError::Malformed)?;
    let active = Active::with_capacity(header.credentials.min(CREDENTIALS_TRUSTED) as usize);
    while from.read_frame(&mut frame)? {
        active.restore_chunk(&frame)?;
    }
    let Hashed { mut from, hasher } = from;
    let mut hash = [0; 32];
    from.read_exact(&mut hash)?;
    // blake3's comparison takes constant time, which does not matter here.
    if hasher.finalize() != hash || from.read(&mut [0])? != 0 {
        return Err(SnapshotError::Damaged);
    }
    let told = active.freeze().nameless_len(header.teams.as_ref()) as u64;
    if told != header.credentials || told != active.len() as u64 || active.nameless_digest(None) != header.digest {
        return Err(SnapshotError::Digest);
    }
    Ok((header, active))
}

/// Why a snapshot was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It could not be read to its end.
    #[error("the snapshot can't be read: {0}")]
    Io(#[from] io::Error),
    /// Another format, or another version of it.
    #[error("not a snapshot of this format")]
    Other,
    /// The bytes have not the form of a snapshot.
    #[error("the snapshot is malformed")]
    Malformed,
    /// Its hash does not hold.
    #[error("the snapshot is damaged: its hash does not hold")]
    Damaged,
    /// Its rows are not what its header says.
    #[error("the snapshot's rows do not sum up to its digest")]
    Digest,
}

impl From<RestoreError> for SnapshotError {
    fn from(_: RestoreError) -> Self {
        Self::Malformed
    }
}

/// A reader that hashes what it has read.
struct Hashed<R> {
    from: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Hashed<R> {
    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.from.read_exact(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// The next frame; `false` for the last, which is empty.
    fn read_frame(&mut self, frame: &mut Vec<u8>) -> Result<bool, SnapshotError> {
        let mut len = [0; 4];
        self.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > FRAME_LEN_MAX {
            return Err(SnapshotError::Malformed);
        }
        frame.resize(len, 0);
        self.read_exact(frame)?;
        Ok(len > 0)
    }
}

pub(super) mod hex_digest {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::Digest;

    pub(in crate::feed) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    pub(in crate::feed) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        let digits = std::borrow::Cow::<str>::deserialize(from)?;
        Digest::from_hex(&digits).ok_or_else(|| D::Error::custom("not 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use keyledger_events::secret::Kind;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Issue, at, id, person, revoked, team};

    fn index(credentials: u64) -> Active {
        let active = Active::default();
        for number in 0..credentials {
            let issue = Issue {
                team: team((number % 3) as u8),
                holder: person((number % 5) as u8),
                kind: Kind::ALL[(number % 7 % 4) as usize],
                expires_at: (number % 2 == 0).then(|| at(number * 1_000)),
                ..Issue::new(number)
            };
            issue.apply(&active);
            if number % 4 == 0 {
                active.apply_event(issue.team, &revoked(number));
            }
        }
        active
    }

    fn header(active: &Active, frozen: &Frozen<'_>, teams: Option<BTreeSet<TeamId>>) -> Header {
        Header {
            position: Some(Position(41)),
            credentials: frozen.nameless_len(teams.as_ref()) as u64,
            digest: active.nameless_digest(teams.as_ref()),
            teams,
            at: at(77),
        }
    }

    fn snapshot(active: &Active, teams: Option<BTreeSet<TeamId>>) -> Vec<u8> {
        let frozen = active.freeze();
        write(&frozen, &header(active, &frozen, teams)).flatten().collect()
    }

    #[test]
    fn it_gives_back_what_a_follower_knows_and_nothing_else() {
        for (credentials, teams) in [
            (0, None),
            (9_000, None),
            (9_000, Some([team(1)].into())),
            (300, Some([team(0), team(2), team(9)].into())),
            (300, Some(BTreeSet::new())),
        ] {
            let active = index(credentials);
            let bytes = snapshot(&active, teams.clone());
            let (header, read) = read(&bytes[..]).unwrap();
            assert_eq!((header.position, &header.teams), (Some(Position(41)), &teams));
            assert_eq!(read.nameless_digest(None), active.nameless_digest(teams.as_ref()));
            let all: Vec<_> = active.freeze().rows().collect();
            let told = all.iter().filter(|row| {
                row.kind != Kind::Service && teams.as_ref().is_none_or(|teams| teams.contains(&row.team))
            });
            let nameless = told.map(|row| crate::active::ActiveRow {
                name: keyledger_events::seal::Label::Clear(String::new()),
                ..row.clone()
            });
            assert!(read.freeze().rows().eq(nameless), "{teams:?}");
            assert!(!bytes.windows(4).any(|four| four == b"key "), "a name was told");
            for row in all.iter().filter(|_| credentials < 1_000) {
                let of_other = teams.as_ref().is_some_and(|teams| !teams.contains(&row.team));
                let found = bytes.windows(16).any(|bytes| bytes == row.credential.as_bytes());
                assert_eq!(found, !(of_other || row.kind == Kind::Service));
            }
        }
    }

    #[test]
    fn its_bytes_are_these() {
        let active = Active::default();
        Issue { expires_at: Some(at(5)), kind: Kind::Agent, ..Issue::new(1) }.apply(&active);
        Issue { kind: Kind::Service, holder: person(9), ..Issue::new(2) }.apply(&active);
        let json = format!(
            r#"{{"position":41,"credentials":1,"digest":"{}","teams":null,"at":"1970-01-01T00:00:00.000077Z"}}"#,
            active.nameless_digest(None)
        );
        let mut expected = b"keyledger snapshot 1\n".to_vec();
        let mut frame = |parts: &[&[u8]]| {
            expected.extend_from_slice(&(parts.concat().len() as u32).to_le_bytes());
            parts.iter().for_each(|part| expected.extend_from_slice(part));
        };
        frame(&[json.as_bytes()]);
        frame(&[&[1], team(0).as_bytes(), person(0).as_bytes()]);
        let life = (5u64 | 1 << 58).to_le_bytes();
        let hash = Issue { kind: Kind::Agent, ..Issue::new(1) }.hash();
        frame(&[&[2], &hash.0, id(1).as_bytes(), &life, &[0; 4], &[2, 0, 0, 0], &[0, 0]]);
        frame(&[]);
        let hash = blake3::hash(&expected);
        expected.extend_from_slice(hash.as_bytes());
        assert_eq!(snapshot(&active, None), expected);
    }

    /// Whoever can write the hash can lie; the digest is computed all the same.
    #[test]
    fn a_lie_with_a_right_hash_is_found() {
        let active = index(40);
        let frozen = active.freeze();
        let honest = header(&active, &frozen, None);
        let lies = [
            Header { digest: Digest::default(), ..honest.clone() },
            Header { credentials: honest.credentials + 1, ..honest.clone() },
            Header { credentials: u64::MAX >> 40, ..honest.clone() },
            Header { teams: Some([team(0)].into()), ..honest.clone() },
        ];
        for lie in lies {
            // All rows under another header.
            let true_bytes: Vec<u8> = write(&frozen, &honest).flatten().collect();
            let header_len = 4 + serde_json::to_vec(&honest).unwrap().len();
            let json = serde_json::to_vec(&lie).unwrap();
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&json);
            bytes.extend_from_slice(&true_bytes[MAGIC.len() + header_len..true_bytes.len() - 32]);
            let hash = blake3::hash(&bytes);
            bytes.extend_from_slice(hash.as_bytes());
            assert!(matches!(read(&bytes[..]), Err(SnapshotError::Digest)), "{lie:?}");
        }
        // Nor is one with service keys taken in, which the digest does not count.
        let mut with_service = MAGIC.to_vec();
        let frames: Vec<Vec<u8>> = frozen.chunks(1 << 16).collect();
        let all = Header { credentials: active.len() as u64, ..honest };
        for frame in [&serde_json::to_vec(&all).unwrap(), &frames[0], &frames[1], &vec![]] {
            with_service.extend_from_slice(&(frame.len() as u32).to_le_bytes());
            with_service.extend_from_slice(frame);
        }
        let hash = blake3::hash(&with_service);
        with_service.extend_from_slice(hash.as_bytes());
        assert!(matches!(read(&with_service[..]), Err(SnapshotError::Digest)));
    }

    proptest! {
        #[test]
        fn one_changed_byte_or_a_missing_end_is_found(
            credentials in 0u64..60, place in any::<proptest::sample::Index>(), with in 1u8..=255, cut in any::<bool>(),
        ) {
            let mut bytes = snapshot(&index(credentials), None);
            let place = place.index(bytes.len());
            if cut {
                bytes.truncate(place);
            } else {
                bytes[place] ^= with;
            }
            prop_assert!(read(&bytes[..]).is_err());
        }

        #[test]
        fn hostile_bytes_are_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in any::<bool>(), framed in any::<bool>(),
        ) {
            let mut hostile = if magic { MAGIC.to_vec() } else { vec![] };
            if framed {
                let header = br#"{"position":null,"credentials":3,"digest":"0000000000000000000000000000000000000000000000000000000000000000","teams":null,"at":"1970-01-01T00:00:00Z"}"#;
                hostile.extend_from_slice(&(header.len() as u32).to_le_bytes());
                hostile.extend_from_slice(header);
                hostile.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            }
            hostile.extend_from_slice(&bytes);
            prop_assert!(read(&hostile[..]).is_err());
        }
    }

    #[test]
    fn bytes_behind_the_hash_are_refused() {
        let mut bytes = snapshot(&index(3), None);
        bytes.push(0);
        assert!(matches!(read(&bytes[..]), Err(SnapshotError::Damaged)));
    }
}
