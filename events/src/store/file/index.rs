//! Where each commit stands in a segment: four bytes a commit, and the positions of every 32nd.

use std::path::Path;

use super::{frame::SEGMENT_HEADER_LEN, frames::Frames, segment::Segment};
use crate::{Commit, CommitNumber, Position, store::ReadError};

/// One position is kept for so many commits.
const STRIDE: usize = 32;

/// A segment and where its commits stand. Changed only by whoever appends, as commits become durable.
#[derive(Clone)]
pub(super) struct SegmentIndex {
    pub segment: Segment,
    /// Of each frame, in bytes.
    offsets: Vec<u32>,
    /// The first position of every [`STRIDE`]th commit.
    positions: Vec<Position>,
    /// Where the next frame will begin.
    pub end: u64,
    /// The position the next frame will begin with.
    pub end_position: Position,
}

impl SegmentIndex {
    /// Of a segment without frames.
    pub fn new(segment: Segment) -> Self {
        let end_position = segment.first_position();
        Self { segment, offsets: Vec::new(), positions: Vec::new(), end: SEGMENT_HEADER_LEN as u64, end_position }
    }

    /// Adds the next frame, at [`SegmentIndex::end`].
    pub fn push(&mut self, frame_len: u64, events: u64) {
        if self.offsets.len().is_multiple_of(STRIDE) {
            self.positions.push(self.end_position);
        }
        // A segment has at most `SEGMENT_LEN_MAX` bytes, which fits.
        self.offsets.push(self.end as u32);
        self.end += frame_len;
        self.end_position.0 += events;
    }

    /// The number of the next commit.
    pub fn end_commit(&self) -> CommitNumber {
        CommitNumber(self.segment.first_commit().0 + self.offsets.len() as u64)
    }

    /// Where the frame of this commit stands.
    pub fn place(&self, number: CommitNumber) -> Option<Place> {
        let at = usize::try_from(number.0.checked_sub(self.segment.first_commit().0)?).ok()?;
        let offset = u64::from(*self.offsets.get(at)?);
        let end = self.offsets.get(at + 1).map_or(self.end, |next| u64::from(*next));
        let nearby = *self.positions.get(at / STRIDE)?;
        Some(Place { segment: self.segment.clone(), number, nearby, offset, end })
    }

    /// The run of commits among which this position is.
    pub fn run(&self, position: Position) -> Option<Run> {
        if position < self.segment.first_position() || position >= self.end_position {
            return None;
        }
        let run = self.positions.partition_point(|first| *first <= position).checked_sub(1)?;
        let offset = u64::from(*self.offsets.get(run * STRIDE)?);
        let end = self.offsets.get((run + 1) * STRIDE).map_or(self.end, |next| u64::from(*next));
        let first = CommitNumber(self.segment.first_commit().0 + (run * STRIDE) as u64);
        Some(Run { segment: self.segment.clone(), first, offset, end })
    }
}

/// Where a commit stands.
pub(super) struct Place {
    segment: Segment,
    number: CommitNumber,
    /// A position not far before it, for error messages only.
    nearby: Position,
    offset: u64,
    end: u64,
}

impl Place {
    /// Reads it.
    pub fn read(&self) -> Result<Commit, ReadError> {
        let mut buffer = Vec::new();
        let frame = self.segment.read_frame(self.offset, self.end, (self.number, self.nearby), &mut buffer)?;
        let (number, first_position) = (frame.number, frame.first_position);
        Ok(Commit { number, first_position, body: frame.commit.to_body() })
    }

    /// Reads on from it, up to `limit`.
    pub fn frames(&self, first: Position, limit: u64) -> Frames {
        self.segment.frames_from(self.offset, self.number, first, limit)
    }

    /// In which file.
    pub fn path(&self) -> &Path {
        self.segment.path()
    }

    /// Where its frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// Up to [`STRIDE`] commits beside each other.
pub(super) struct Run {
    segment: Segment,
    first: CommitNumber,
    offset: u64,
    end: u64,
}

impl Run {
    /// The commit among them that holds this position.
    pub fn locate(&self, position: Position) -> Result<CommitNumber, ReadError> {
        let firsts = self.segment.first_positions(self.offset, self.end)?;
        let after = firsts.partition_point(|first| *first <= position) as u64;
        Ok(CommitNumber(self.first.0 + after.saturating_sub(1)))
    }
}
