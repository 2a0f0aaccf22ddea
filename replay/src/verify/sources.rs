//! The logs a verification can read: a directory's files, and anything that implements the read half of a log.

use std::time::Duration;

use keyledger_events::{
    CommitNumber, Position,
    store::{
        Follow, ReadError, ReadLog,
        file::{Frames, LogFiles, Segment},
    },
};

use super::{piece::Piece, pipeline::Source};

/// The segments of a directory, one after the other.
pub(super) struct Files {
    segments: Vec<Segment>,
    /// The length of all segments before each, in bytes.
    starts: Vec<u64>,
    total: u64,
    at: usize,
    frames: Option<Frames>,
}

impl Files {
    pub fn new(files: &LogFiles) -> Result<Self, ReadError> {
        let segments = files.segments().to_vec();
        let (mut starts, mut total) = (Vec::with_capacity(segments.len()), 0);
        for segment in &segments {
            starts.push(total);
            total += segment.len_bytes()?;
        }
        Ok(Self { segments, starts, total, at: 0, frames: None })
    }

    /// The length of all segments, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }
}

impl Source for Files {
    fn fill(&mut self, piece: &mut Piece) -> Result<bool, ReadError> {
        // A piece is of one file, so that an offset says where.
        while let Some(segment) = self.segments.get(self.at) {
            piece.file = self.at;
            let frames = self.frames.get_or_insert_with(|| segment.frames());
            let mut any = false;
            while !piece.is_full() {
                let Some(frame) = frames.next()? else { break };
                any = true;
                piece.push(frame.number, frame.first_position, frame.offset, frame.body);
            }
            piece.done = self.starts[self.at] + frames.offset();
            if any {
                return Ok(true);
            }
            self.frames = None;
            self.at += 1;
        }
        Ok(false)
    }
}

/// Any log, up to where it ended when this was made.
pub(super) struct Commits {
    follow: Box<dyn Follow>,
    end: Position,
    at: Position,
}

impl Commits {
    pub fn new(log: &dyn ReadLog) -> Result<Self, ReadError> {
        Ok(Self { end: log.head().position, at: Position(0), follow: log.follow(CommitNumber(0))? })
    }
}

impl Source for Commits {
    fn fill(&mut self, piece: &mut Piece) -> Result<bool, ReadError> {
        let mut any = false;
        while !piece.is_full() && self.at < self.end {
            let Some(commit) = self.follow.next(Duration::ZERO)? else { break };
            piece.push(commit.number, commit.first_position, 0, commit.body.bytes());
            self.at = commit.end();
            any = true;
        }
        piece.done = self.at.0;
        Ok(any)
    }
}
