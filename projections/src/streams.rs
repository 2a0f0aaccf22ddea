//! Where each team's events lie: the numbers of its commits, so that any team can be folded from the log alone.

use std::collections::HashMap;

use keyledger_events::{CommitNumber, RecordHash, Revision, TeamId, record::StreamHead};

use crate::{Digest, checkpoint::chunked};

/// Bytes of a checkpoint's row before its commit numbers.
const ROW_LEN: usize = 16 + 8 + 32 + 8 + 8 + 8 + 4;

/// All streams. Changed by the projector only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    teams: HashMap<TeamId, Stream>,
}

/// One team's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its last event.
    pub head: StreamHead,
    /// How many events it has.
    pub events: u64,
    /// How many commits it has.
    pub commits: u64,
    /// The number of its last commit.
    pub last: CommitNumber,
    /// The distance of each commit number from the one before it, as LEB128: two or three bytes a commit.
    distances: Vec<u8>,
}

impl Stream {
    /// The numbers of its commits, in order.
    pub fn numbers(&self) -> impl Iterator<Item = CommitNumber> + '_ {
        self.numbers_after(0)
    }

    /// The numbers of its commits behind the first `known` ones.
    pub fn numbers_after(&self, known: u64) -> impl Iterator<Item = CommitNumber> + '_ {
        let (mut rest, mut number) = (&self.distances[..], 0u64);
        let numbers = std::iter::from_fn(move || {
            number = number.wrapping_add(take_leb128(&mut rest)?);
            Some(CommitNumber(number))
        });
        numbers.skip(known as usize)
    }

    fn push(&mut self, number: CommitNumber) {
        put_leb128(&mut self.distances, number.0 - self.last.0);
        self.last = number;
        self.commits += 1;
    }

    fn write_bytes(&self, team: TeamId, out: &mut Vec<u8>) {
        let (sum, squares) = self.numbers().fold((0u64, 0u64), |(sum, squares), CommitNumber(number)| {
            (sum.wrapping_add(number), squares.wrapping_add(number.wrapping_mul(number)))
        });
        write_row(out, team, self.head, [self.events, self.commits, sum, squares]);
    }
}

/// Appends the bytes that the digest counts for one team: team, last revision, last hash, number of events, number of
/// commits, and, so that a reader needs no list, the wrapping sums of the commit numbers and of their squares. All
/// little-endian.
pub fn write_row(out: &mut Vec<u8>, team: TeamId, head: StreamHead, words: [u64; 4]) {
    out.extend_from_slice(team.as_bytes());
    out.extend_from_slice(&head.revision.0.to_le_bytes());
    out.extend_from_slice(&head.hash.0);
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

impl Streams {
    /// Takes in a commit of `team` that leaves its stream at `head`, `events` events longer.
    pub fn apply(&mut self, team: TeamId, number: CommitNumber, head: StreamHead, events: u64) {
        let stream = self.teams.entry(team).or_insert_with(|| Stream {
            head,
            events: 0,
            commits: 0,
            last: CommitNumber(0),
            distances: Vec::new(),
        });
        stream.head = head;
        stream.events += events;
        stream.push(number);
    }

    /// A team's stream, if it has events.
    pub fn get(&self, team: TeamId) -> Option<&Stream> {
        self.teams.get(&team)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (TeamId, &Stream)> {
        self.teams.iter().map(|(team, stream)| (*team, stream))
    }

    /// How many teams have events.
    pub fn len(&self) -> usize {
        self.teams.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.teams.is_empty()
    }

    /// The digest of all streams.
    pub fn digest(&self) -> Digest {
        let (mut digest, mut row) = (Digest::default(), Vec::new());
        for (team, stream) in self.iter() {
            row.clear();
            stream.write_bytes(team, &mut row);
            digest.add(&row);
        }
        digest
    }

    /// The checkpoint: chunks of about `target_len` bytes (more if one team's list is longer), for [`Streams::restore`].
    pub(crate) fn chunks(&self, target_len: usize) -> Vec<Vec<u8>> {
        chunked(self.iter(), target_len, |(team, stream), mut chunk| {
            chunk.extend_from_slice(team.as_bytes());
            chunk.extend_from_slice(&stream.head.revision.0.to_le_bytes());
            chunk.extend_from_slice(&stream.head.hash.0);
            chunk.extend_from_slice(&stream.events.to_le_bytes());
            chunk.extend_from_slice(&stream.commits.to_le_bytes());
            chunk.extend_from_slice(&stream.last.0.to_le_bytes());
            chunk.extend_from_slice(&(stream.distances.len() as u32).to_le_bytes());
            chunk.extend_from_slice(&stream.distances);
            chunk
        })
    }

    /// The streams of a checkpoint; `None` if the bytes are not one.
    pub(crate) fn restore<B: AsRef<[u8]>>(chunks: impl IntoIterator<Item = B>) -> Option<Self> {
        let mut streams = Self::default();
        for chunk in chunks {
            let mut rest = chunk.as_ref();
            while !rest.is_empty() {
                let (row, behind) = rest.split_at_checked(ROW_LEN)?;
                let word = |at: usize| row[at..at + 8].try_into().ok().map(u64::from_le_bytes);
                let len = u32::from_le_bytes(row[80..84].try_into().ok()?) as usize;
                let (distances, behind) = behind.split_at_checked(len)?;
                rest = behind;
                let stream = Stream {
                    head: StreamHead { revision: Revision(word(16)?), hash: RecordHash(row[24..56].try_into().ok()?) },
                    events: word(56)?,
                    commits: word(64)?,
                    last: CommitNumber(word(72)?),
                    distances: distances.to_vec(),
                };
                streams.teams.insert(TeamId::from_bytes(row[..16].try_into().ok()?), stream);
            }
        }
        Some(streams)
    }
}

fn put_leb128(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_leb128(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::team;

    proptest! {
        #[test]
        fn the_numbers_come_back_and_a_checkpoint_holds_them(
            steps in proptest::collection::vec((0u8..4, 1u64..100_000), 1..60), target_len in 1usize..400,
        ) {
            let (mut streams, mut number, mut expected) = (Streams::default(), 0, vec![vec![]; 4]);
            for (at, distance) in steps {
                let head = StreamHead { revision: Revision(distance), hash: RecordHash([at; 32]) };
                streams.apply(team(at), CommitNumber(number), head, 2);
                expected[usize::from(at)].push(CommitNumber(number));
                number += distance;
            }
            for (at, numbers) in expected.iter().enumerate().filter(|(_, numbers)| !numbers.is_empty()) {
                let stream = streams.get(team(at as u8)).unwrap();
                prop_assert_eq!(&stream.numbers().collect::<Vec<_>>(), numbers);
                prop_assert_eq!(stream.numbers_after(1).count(), numbers.len() - 1);
                prop_assert_eq!((stream.events, stream.commits), (numbers.len() as u64 * 2, numbers.len() as u64));
            }
            let restored = Streams::restore(streams.chunks(target_len)).unwrap();
            prop_assert_eq!(restored.digest(), streams.digest());
            prop_assert_eq!(restored, streams);
        }

        #[test]
        fn restoring_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(streams) = Streams::restore([bytes]) {
                prop_assert!(streams.iter().all(|(_, stream)| stream.numbers().take(9).count() < 10));
            }
        }
    }
}
