//! Opening a log: every frame is looked at, what was not hashed before is hashed, and the whole must bear out what the
//! ledger has signed. There is no other way in: recovery after a crash is this.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{checked::Checked, frames::Torn, index::SegmentIndex, segment::Segment};
use crate::{
    CommitNumber, Position, TeamId, Timestamp,
    commit::RecordRef,
    head::TreeHead,
    record::{RecordHeader, StreamHead, follow_chain},
    store::{Damage, Head, ReadError},
    tree::{Frontier, NodeHash, leaf_data, leaf_hash},
};

/// Fewer segments are not worth a thread.
const PARALLEL_MIN: usize = 4;

/// A log that was gone through.
pub(super) struct Recovered {
    pub segments: Vec<SegmentIndex>,
    pub head: Head,
    /// What a crash left behind the last whole frame.
    pub torn: Option<Torn>,
    /// The first commit of the last batch: what was written but perhaps not synced.
    pub batch_start: CommitNumber,
    /// Up to `head`, if it was hashed.
    pub frontier: Frontier,
    pub streams: HashMap<TeamId, StreamHead>,
    /// The first commit that was hashed now.
    pub hashed_from: CommitNumber,
}

/// What to hash.
pub(super) enum Hashing {
    /// Nothing: numbers, positions and checksums only.
    Nothing,
    /// Everything behind this.
    Behind(Box<Checked>),
}

/// Goes through the log. A checkpoint that does not fit is dropped, and everything hashed.
pub(super) fn recover(
    segments: &[Segment],
    tree_heads: &[TreeHead],
    checked: Option<Checked>,
) -> Result<Recovered, ReadError> {
    if let Some(checked) = checked
        // A head before the checkpoint could not be compared: the tree's earlier states can't be had from it.
        && tree_heads.iter().any(|head| head.size >= checked.head.position.0)
        && let Ok(recovered) = scan(segments, tree_heads, Hashing::Behind(Box::new(checked)))
    {
        return Ok(recovered);
    }
    scan(segments, tree_heads, Hashing::Behind(Box::default()))
}

/// Goes through the log on all cores.
pub(super) fn scan(segments: &[Segment], tree_heads: &[TreeHead], hashing: Hashing) -> Result<Recovered, ReadError> {
    let hash_from = match &hashing {
        Hashing::Nothing => CommitNumber(u64::MAX),
        Hashing::Behind(checked) => checked.head.commits,
    };
    let mut join = Join::new(tree_heads, hashing);
    if segments.len() < PARALLEL_MIN {
        for segment in segments {
            join.add(scan_segment(segment, hash_from)?)?;
        }
        return join.finish();
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(segments.len());
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        for _ in 0..threads {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(segment) = segments.get(at) else { break };
                    if sender.send((at, scan_segment(segment, hash_from))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut outcome = Ok(());
        for (expected, segment) in segments.iter().enumerate() {
            let scanned = loop {
                if let Some(scanned) = early.remove(&expected) {
                    break Some(scanned);
                }
                match receiver.recv() {
                    Ok((at, scanned)) => early.insert(at, scanned),
                    Err(_) => break None,
                };
            };
            outcome = match scanned {
                Some(scanned) => scanned.and_then(|scanned| join.add(scanned)),
                None => Err(segment.io(std::io::Error::other("a scanning thread has died"))),
            };
            if outcome.is_err() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        drop(receiver);
        outcome
    })?;
    join.finish()
}

/// What one segment has given.
struct Scanned {
    index: SegmentIndex,
    torn: Option<Torn>,
    /// Of the first and the last commit.
    times: Option<(Timestamp, Timestamp)>,
    batch_start: Option<u64>,
    /// The commit behind which nothing is known to be hashed stands here, at this position.
    hashed_position: Option<Position>,
    leaves: Vec<NodeHash>,
    /// Where each team's stream goes on in this segment: to be compared with where it ended before.
    openings: Vec<Opening>,
    streams: HashMap<TeamId, StreamHead>,
}

struct Opening {
    header: RecordHeader,
    offset: u64,
    position: Position,
}

fn scan_segment(segment: &Segment, hash_from: CommitNumber) -> Result<Scanned, ReadError> {
    let mut scanned = Scanned {
        index: SegmentIndex::new(segment.clone()),
        torn: None,
        times: None,
        batch_start: None,
        hashed_position: None,
        leaves: Vec::new(),
        openings: Vec::new(),
        streams: HashMap::new(),
    };
    let mut frames = segment.frames();
    let mut start = frames.offset();
    while let Some(frame) = frames.next()? {
        let damaged = |position, what| ReadError::Damaged {
            file: segment.path().to_path_buf(),
            offset: frame.offset,
            position,
            what,
        };
        let first = frame.commit.first().map_err(|error| damaged(frame.first_position, error.into()))?;
        let (earliest, previous) = scanned.times.unwrap_or((first.recorded_at, first.recorded_at));
        if first.recorded_at < previous {
            let what = Damage::Time { previous, found: first.recorded_at };
            return Err(damaged(frame.first_position, what));
        }
        scanned.times = Some((earliest, first.recorded_at));
        scanned.batch_start = Some(frame.number.0.saturating_sub(u64::from(frame.batch_distance)));
        if frame.number >= hash_from {
            scanned.hashed_position.get_or_insert(frame.first_position);
            for (record, position) in frame.commit.records().zip(frame.first_position.0..) {
                let position = Position(position);
                scanned.hash(&record, frame.offset, position).map_err(|what| damaged(position, what))?;
            }
        }
        let events = frame.commit.count();
        let end = frames.offset();
        scanned.index.push(end - start, events);
        start = end;
    }
    scanned.torn = frames.torn().cloned();
    Ok(scanned)
}

impl Scanned {
    fn hash(&mut self, record: &RecordRef<'_>, offset: u64, position: Position) -> Result<(), Damage> {
        let header = RecordHeader::decode(record.bytes()).map_err(Damage::Record)?;
        let hash = record.hash();
        let after = StreamHead { revision: header.revision, hash };
        match self.streams.entry(header.team) {
            Entry::Occupied(mut head) => {
                follow_chain(Some(*head.get()), &header).map_err(|error| Damage::Chain { team: header.team, error })?;
                head.insert(after);
            }
            Entry::Vacant(head) => {
                self.openings.push(Opening { header, offset, position });
                head.insert(after);
            }
        }
        self.leaves.push(leaf_hash(&leaf_data(position, header.recorded_at, &hash)));
        Ok(())
    }
}

/// Puts the segments' results together, in order.
struct Join<'a> {
    recovered: Recovered,
    hashing: bool,
    /// Signed heads that are still to be reached.
    tree_heads: &'a [TreeHead],
}

impl<'a> Join<'a> {
    fn new(tree_heads: &'a [TreeHead], hashing: Hashing) -> Self {
        let (hashing, checked) = match hashing {
            Hashing::Nothing => (false, Box::default()),
            Hashing::Behind(checked) => (true, checked),
        };
        let recovered = Recovered {
            segments: Vec::new(),
            head: Head::default(),
            torn: None,
            batch_start: CommitNumber(0),
            hashed_from: checked.head.commits,
            frontier: checked.frontier,
            streams: checked.streams,
        };
        Self { recovered, hashing, tree_heads }
    }

    fn add(&mut self, scanned: Scanned) -> Result<(), ReadError> {
        let Self { recovered, .. } = self;
        let segment = &scanned.index.segment;
        let damaged =
            |offset, position, what| ReadError::Damaged { file: segment.path().to_path_buf(), offset, position, what };
        if let Some((first, last)) = scanned.times {
            let previous = recovered.head.recorded_at;
            if first < previous {
                let offset = super::frame::SEGMENT_HEADER_LEN as u64;
                let what = Damage::Time { previous, found: first };
                return Err(damaged(offset, segment.first_position(), what));
            }
            recovered.head.recorded_at = last;
        }
        for Opening { header, offset, position } in &scanned.openings {
            let head = recovered.streams.get(&header.team).copied();
            follow_chain(head, header)
                .map_err(|error| damaged(*offset, *position, Damage::Chain { team: header.team, error }))?;
        }
        if let Some(position) = scanned.hashed_position.filter(|position| position.0 != recovered.frontier.size()) {
            // Only a checkpoint of another log can say so; it is dropped then.
            let what = Damage::Shape(format!("position {position} where {} was hashed", recovered.frontier.size()));
            return Err(damaged(0, position, what));
        }
        recovered.streams.extend(scanned.streams);
        self.push_leaves(&scanned.leaves)?;
        let Self { recovered, .. } = self;
        recovered.batch_start = scanned.batch_start.map_or(recovered.batch_start, CommitNumber);
        recovered.head.commits = scanned.index.end_commit();
        recovered.head.position = scanned.index.end_position;
        recovered.torn = scanned.torn;
        recovered.segments.push(scanned.index);
        Ok(())
    }

    fn push_leaves(&mut self, leaves: &[NodeHash]) -> Result<(), ReadError> {
        let frontier = &mut self.recovered.frontier;
        let mut rest = leaves;
        while let [head, later @ ..] = self.tree_heads {
            let Some(before) = head.size.checked_sub(frontier.size()) else {
                // Before what was hashed now; a later head bears it out.
                self.tree_heads = later;
                continue;
            };
            let (now, behind) = rest.split_at(rest.len().min(usize::try_from(before).unwrap_or(usize::MAX)));
            now.iter().for_each(|leaf| frontier.push(*leaf));
            rest = behind;
            if frontier.size() < head.size {
                return Ok(());
            }
            let found = frontier.root();
            if found != head.root {
                return Err(ReadError::OtherRoot { size: head.size, found, signed: head.root });
            }
            self.tree_heads = later;
        }
        rest.iter().for_each(|leaf| frontier.push(*leaf));
        Ok(())
    }

    fn finish(mut self) -> Result<Recovered, ReadError> {
        if self.hashing {
            self.push_leaves(&[])?;
        }
        let Self { recovered, hashing, tree_heads } = self;
        let found = recovered.head.position;
        if let Some(newest) = tree_heads.last().filter(|newest| newest.size > found.0) {
            return Err(match (&recovered.torn, recovered.segments.last()) {
                // Bytes stand there, but not those that were written.
                (Some(Torn { offset, what, .. }), Some(index)) if *what != Damage::TornTail => ReadError::Damaged {
                    file: index.segment.path().to_path_buf(),
                    offset: *offset,
                    position: found,
                    what: what.clone(),
                },
                _ => ReadError::BehindHead { found, signed: newest.size },
            });
        }
        if hashing && recovered.frontier.size() != found.0 {
            return Err(ReadError::BehindHead { found, signed: recovered.frontier.size() });
        }
        Ok(recovered)
    }
}
