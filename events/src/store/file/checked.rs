//! The store's own derived checkpoint: how far everything has been hashed, so that opening need not do it again.
//!
//! It may be deleted at any time. It is believed only as far as a signed tree head bears it out.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    disk::{self, Disk, RealDisk},
    files::LOG_DIR,
};
use crate::{
    CommitNumber, Position, RecordHash, Revision, TeamId, Timestamp,
    record::StreamHead,
    store::{Damage, Head, ReadError},
    tree::{Frontier, NodeHash},
};

const MAGIC: [u8; 8] = *b"KLCHECK1";
const NAME: &str = "checked";
const FIXED_LEN: usize = 48;
const STREAM_LEN: usize = 56;
/// 38 million teams.
const LEN_MAX: u64 = 1 << 31;

/// Everything that hashing the log up to `head` has given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// How far that is.
    pub head: Head,
    /// Over all positions before `head`.
    pub frontier: Frontier,
    /// The last event of every stream.
    pub streams: HashMap<TeamId, StreamHead>,
}

impl Checked {
    /// Where it lies in a data directory.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join(LOG_DIR).join(NAME)
    }

    /// Reads the one of a data directory, for who wants to see it proved; none if there is none.
    ///
    /// # Errors
    /// [`ReadError`]: it can't be read, or has changed. The store itself would do without it.
    pub fn read(dir: &Path) -> Result<Option<Self>, ReadError> {
        let file = Self::file(dir);
        match RealDisk.open(&file, false).and_then(|opened| opened.read_all(LEN_MAX)) {
            Ok(bytes) => match Self::parse(&bytes) {
                Some(checked) => Ok(Some(checked)),
                None => Err(ReadError::Damaged { file, offset: 0, position: Position(0), what: Damage::Checksum }),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ReadError::Io { file, error }),
        }
    }

    /// Reads the one beside the log. One that is missing, damaged or of another format is as good as none.
    pub(super) fn load(disk: &dyn Disk, log: &Path) -> Option<Self> {
        let bytes = disk.open(&log.join(NAME), false).and_then(|file| file.read_all(LEN_MAX)).ok()?;
        Self::parse(&bytes)
    }

    /// Replaces the one beside the log.
    pub(super) fn save(&self, disk: &dyn Disk, log: &Path) -> std::io::Result<()> {
        disk::replace(disk, log, NAME, &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let peaks = self.frontier.peaks();
        let mut out = Vec::with_capacity(FIXED_LEN + peaks.len() * 32 + self.streams.len() * STREAM_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(peaks.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.head.commits.0.to_le_bytes());
        out.extend_from_slice(&self.head.position.0.to_le_bytes());
        out.extend_from_slice(&self.head.recorded_at.micros().to_le_bytes());
        out.extend_from_slice(&(self.streams.len() as u64).to_le_bytes());
        for peak in peaks {
            out.extend_from_slice(&peak.0);
        }
        for (team, head) in &self.streams {
            out.extend_from_slice(team.as_bytes());
            out.extend_from_slice(&head.revision.0.to_le_bytes());
            out.extend_from_slice(&head.hash.0);
        }
        let crc = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = bytes.split_at_checked(FIXED_LEN)?;
        let crc = u32::from_le_bytes(*fixed[8..].first_chunk()?);
        if fixed[..8] != MAGIC || crc != crc32c::crc32c(&bytes[12..]) {
            return None;
        }
        let peak_count = u32::from_le_bytes(*fixed[12..].first_chunk()?) as usize;
        let mut fields = fixed[16..].chunks(8).map(|field| field.first_chunk().map_or(0, |b| u64::from_le_bytes(*b)));
        let mut field = || fields.next().unwrap_or(0);
        let head = Head {
            commits: CommitNumber(field()),
            position: Position(field()),
            recorded_at: Timestamp::from_micros(field()),
        };
        let stream_count = usize::try_from(field()).ok()?;
        let len = peak_count.checked_mul(32)?.checked_add(stream_count.checked_mul(STREAM_LEN)?)?;
        if rest.len() != len {
            return None;
        }
        let mut peaks = Vec::with_capacity(peak_count);
        for _ in 0..peak_count {
            peaks.push(NodeHash(take(&mut rest)?));
        }
        let mut streams = HashMap::with_capacity(stream_count);
        for _ in 0..stream_count {
            let team = TeamId::from_bytes(take(&mut rest)?);
            let revision = Revision(u64::from_le_bytes(take(&mut rest)?));
            streams.insert(team, StreamHead { revision, hash: RecordHash(take(&mut rest)?) });
        }
        Some(Self { head, frontier: Frontier::from_parts(head.position.0, peaks)?, streams })
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::leaf_hash;

    fn sample(events: u64) -> Checked {
        let mut checked = Checked::default();
        for n in 0..events {
            checked.frontier.push(leaf_hash(&n.to_le_bytes()));
            let head = StreamHead { revision: Revision(n), hash: RecordHash([n as u8; 32]) };
            checked.streams.insert(TeamId::from_bytes([n as u8; 16]), head);
        }
        checked.head = Head {
            commits: CommitNumber(events / 2),
            position: Position(events),
            recorded_at: Timestamp::from_micros(events * 7),
        };
        checked
    }

    #[test]
    fn it_comes_back_and_no_bit_of_it_may_change() {
        for events in [0, 1, 7, 64] {
            let checked = sample(events);
            assert_eq!(Checked::parse(&checked.encode()), Some(checked));
        }
        let bytes = sample(3).encode();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Checked::parse(&bytes), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Checked::parse(&bytes[..len]), None, "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Checked::parse(&bytes);
            if bytes.len() >= FIXED_LEN {
                bytes[..8].copy_from_slice(&MAGIC);
                let crc = crc32c::crc32c(&bytes[12..]);
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
                let _ = Checked::parse(&bytes);
            }
        }
    }
}
