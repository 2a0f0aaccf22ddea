//! A piece of the log on its way through the verifier: read by one thread at a time, hashed and decoded by any, folded
//! in order by one.

use std::ops::Range;

use keyledger_events::{
    CommitNumber, Position, Record, RecordHash, Revision,
    commit::CommitRef,
    record::{RecordHeader, StreamHead, follow_chain},
    store::{Damage, ReadError},
    tree::{NodeHash, leaf_data, leaf_hash},
};

use super::{history::Flaw, subtrees::Subtrees};

/// How many bytes of commits a piece is filled with: enough to share the work, and still in a core's cache.
pub(super) const PIECE_LEN: usize = 512 * 1024;

/// See the module. Its vectors are used again and again.
#[derive(Default)]
pub(super) struct Piece {
    /// Which thread fills it.
    pub owner: usize,
    /// Its place in the order.
    pub sequence: u64,
    /// Which file of the source it is from.
    pub file: usize,
    /// How far reading has got, in the units of the source's total.
    pub done: u64,
    /// Why nothing follows, if something is wrong.
    pub end: Option<ReadError>,
    bytes: Vec<u8>,
    commits: Vec<Placed>,
    records: Vec<Record>,
    /// The tree over its positions, as full subtrees.
    nodes: Vec<(u32, NodeHash)>,
    /// What is wrong with it, and where in the file; its commits end before that.
    flaw: Option<(u64, Flaw)>,
}

/// A commit's place.
struct Placed {
    number: CommitNumber,
    first_position: Position,
    offset: u64,
    body: Range<usize>,
    derived: Option<Derived>,
}

/// What a commit's bytes give.
struct Derived {
    first: RecordHeader,
    last_hash: RecordHash,
    records: Range<usize>,
}

/// A commit that has been hashed and decoded.
pub(super) struct Ready<'a> {
    pub number: CommitNumber,
    pub first_position: Position,
    pub offset: u64,
    pub first: RecordHeader,
    pub last_hash: RecordHash,
    pub records: &'a [Record],
}

impl Piece {
    /// An empty one.
    pub fn of(owner: usize) -> Self {
        Self { owner, ..Self::default() }
    }

    /// Makes room for other commits.
    pub fn reset(&mut self) {
        self.end = None;
        self.flaw = None;
        self.bytes.clear();
        self.commits.clear();
    }

    /// Whether it holds as much as it should.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= PIECE_LEN
    }

    /// Takes in the next commit.
    pub fn push(&mut self, number: CommitNumber, first_position: Position, offset: u64, body: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(body);
        self.commits.push(Placed { number, first_position, offset, body: start..self.bytes.len(), derived: None });
    }

    /// Hashes and decodes everything. No tree node spans one of the sizes in `cuts`.
    pub fn derive(&mut self, cuts: &[u64]) {
        // Here and not in `reset`, which one thread does at a time.
        self.records.clear();
        self.nodes.clear();
        let Some(first) = self.commits.first() else { return };
        let mut subtrees = Subtrees::new(first.first_position.0, cuts);
        for placed in &mut self.commits {
            match derive(placed, &self.bytes[placed.body.clone()], &mut self.records, &mut subtrees) {
                Ok(derived) => placed.derived = Some(derived),
                Err(flaw) => {
                    self.flaw = Some((placed.offset, flaw));
                    break;
                }
            }
        }
        self.nodes = subtrees.into_nodes();
    }

    /// Its commits up to the first that is flawed.
    pub fn commits(&self) -> impl Iterator<Item = Ready<'_>> {
        self.commits.iter().map_while(|placed| {
            let derived = placed.derived.as_ref()?;
            Some(Ready {
                number: placed.number,
                first_position: placed.first_position,
                offset: placed.offset,
                first: derived.first,
                last_hash: derived.last_hash,
                records: &self.records[derived.records.clone()],
            })
        })
    }

    /// The full subtrees over its positions, in order: level and root.
    pub fn nodes(&self) -> &[(u32, NodeHash)] {
        &self.nodes
    }

    /// What is wrong with its own bytes, and where in the file.
    pub fn take_flaw(&mut self) -> Option<(u64, Flaw)> {
        self.flaw.take()
    }
}

fn derive(placed: &Placed, body: &[u8], records: &mut Vec<Record>, subtrees: &mut Subtrees) -> Result<Derived, Flaw> {
    let start = records.len();
    let flaw = |position, what: Damage| Flaw { position, what: what.to_string() };
    let commit =
        CommitRef::parse(body).map_err(|error| flaw(placed.first_position, Damage::Shape(error.to_string())))?;
    let mut opening: Option<RecordHeader> = None;
    let mut last_hash = RecordHash::default();
    for (found, position) in commit.records().zip(placed.first_position.0..) {
        let position = Position(position);
        let at = |error| flaw(position, Damage::Record(error));
        let (bytes, hash) = (found.bytes(), found.hash());
        let header = RecordHeader::decode(bytes).map_err(at)?;
        match &opening {
            None => opening = Some(header),
            Some(first) => {
                let revision = Revision(first.revision.0 + (records.len() - start) as u64 - 1);
                follow_chain(Some(StreamHead { revision, hash: last_hash }), &header)
                    .map_err(|error| flaw(position, Damage::Chain { team: header.team, error }))?;
            }
        }
        // A record is large: it is built where it stays.
        records.push(header.decode_rest(bytes).map_err(at)?);
        subtrees.push(leaf_hash(&leaf_data(position, header.recorded_at, &hash)));
        last_hash = hash;
    }
    let first = opening.ok_or_else(|| flaw(placed.first_position, Damage::Shape("commit without events".into())))?;
    Ok(Derived { first, last_hash, records: start..records.len() })
}
