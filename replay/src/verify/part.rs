//! A part of a log that is not in its directory: decoded, hashed and judged by the same code as a whole one.

use keyledger_events::{CommitNumber, Position, Record, RecordHash, record::RecordHeader, tree::NodeHash};

use super::{
    history::{Facts, Flaw, History},
    piece::Piece,
};

/// What does not hold, and at which position.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// Where.
    pub position: Position,
    /// What, as one clause.
    pub what: String,
}

impl From<Flaw> for Wrong {
    fn from(Flaw { position, what }: Flaw) -> Self {
        Self { position, what }
    }
}

/// Decodes and hashes commits one by one.
#[derive(Default)]
pub(crate) struct Decoder(Piece);

/// A commit whose own bytes hold.
pub(crate) struct Decoded<'a> {
    /// Its number.
    pub number: CommitNumber,
    /// The position of its first event.
    pub first_position: Position,
    /// Its first record's header.
    pub first: RecordHeader,
    /// Its last record's hash.
    pub last_hash: RecordHash,
    /// Its events, in order; at least one.
    pub records: &'a [Record],
    /// The full subtrees over its leaves, in order: level and root.
    pub nodes: &'a [(u32, NodeHash)],
}

impl Decoder {
    /// Takes a commit apart. No tree node spans one of the sizes in `cuts`.
    pub fn decode(
        &mut self,
        number: CommitNumber,
        first_position: Position,
        body: &[u8],
        cuts: &[u64],
    ) -> Result<Decoded<'_>, Wrong> {
        let piece = &mut self.0;
        piece.reset();
        piece.push(number, first_position, 0, body);
        piece.derive(cuts);
        if let Some((_, flaw)) = piece.take_flaw() {
            return Err(flaw.into());
        }
        let ready = piece.commits().next();
        let ready = ready.ok_or_else(|| Wrong { position: first_position, what: "commit without events".into() })?;
        Ok(Decoded {
            number,
            first_position,
            first: ready.first,
            last_hash: ready.last_hash,
            records: ready.records,
            nodes: piece.nodes(),
        })
    }
}

/// Judges whether one stream, from its beginning on, can have happened.
pub(crate) struct Judge(History);

impl Judge {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self(History::new(false))
    }

    /// Takes in the stream's next commit.
    pub fn apply(&mut self, commit: &Decoded<'_>) -> Result<(), Wrong> {
        let &Decoded { number, first_position, first, last_hash, records, .. } = commit;
        self.0.apply(&Facts { number, first_position, first, last_hash, records })?;
        Ok(())
    }

    /// How many credentials no event has ended.
    pub fn live(&self) -> u64 {
        self.0.live()
    }
}
