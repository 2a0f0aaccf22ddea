//! One file of the log.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    disk::DiskFile,
    files::Tail,
    frame::{self, Frame, FrameHeader, SEGMENT_HEADER_LEN, SegmentHeader},
    frames::Frames,
};
use crate::{
    CommitNumber, Position,
    store::{Damage, ReadError},
};

/// One file of the log.
#[derive(Clone)]
pub struct Segment {
    pub(super) path: Arc<Path>,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) first_commit: CommitNumber,
    pub(super) first_position: Position,
    /// Where the segment after this one begins.
    pub(super) next: Option<(CommitNumber, Position)>,
    pub(super) tail: Tail,
}

impl Segment {
    /// A segment that has just been begun.
    pub(super) fn begun(path: PathBuf, file: Arc<dyn DiskFile>, header: SegmentHeader) -> Self {
        let SegmentHeader { first_commit, first_position } = header;
        Self { path: path.into(), file, first_commit, first_position, next: None, tail: Tail::Torn }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of its first commit.
    pub fn first_commit(&self) -> CommitNumber {
        self.first_commit
    }

    /// The position of its first event.
    pub fn first_position(&self) -> Position {
        self.first_position
    }

    /// Whether no other segment follows.
    pub fn is_last(&self) -> bool {
        self.next.is_none()
    }

    /// Its length on disk, in bytes: what progress is measured against.
    ///
    /// # Errors
    /// [`ReadError::Io`].
    pub fn len_bytes(&self) -> Result<u64, ReadError> {
        self.file.len().map_err(|error| self.io(error))
    }

    /// Its frames, from the first one on. Nothing but this segment is read, so segments may be gone through in
    /// parallel; that one follows from another is checked here by what both say.
    pub fn frames(&self) -> Frames {
        self.frames_from(SEGMENT_HEADER_LEN as u64, self.first_commit, self.first_position, u64::MAX)
    }

    /// Its frames from a known one on, up to an offset known to be whole.
    pub(super) fn frames_from(&self, offset: u64, number: CommitNumber, first: Position, limit: u64) -> Frames {
        Frames::new(self.clone(), offset, number, first, limit)
    }

    /// Reads the frame at `offset`, which ends at `end`.
    pub(super) fn read_frame<'a>(
        &self,
        offset: u64,
        end: u64,
        (number, position): (CommitNumber, Position),
        buffer: &'a mut Vec<u8>,
    ) -> Result<Frame<'a>, ReadError> {
        let damaged = |what| ReadError::Damaged { file: self.path.to_path_buf(), offset, position, what };
        buffer.resize(end.saturating_sub(offset) as usize, 0);
        let filled = self.file.read_full_at(buffer, offset).map_err(|error| self.io(error))?;
        let header = buffer[..filled].first_chunk().ok_or_else(|| damaged(Damage::Checksum))?;
        let header = FrameHeader::parse(header).map_err(damaged)?;
        let bytes = buffer[..filled].get(..header.frame_len()).ok_or_else(|| damaged(Damage::Checksum))?;
        let frame = frame::check(&header, bytes, offset).map_err(damaged)?;
        if frame.number == number {
            Ok(frame)
        } else {
            Err(damaged(Damage::Sequence { expected: number.0, found: frame.number.0 }))
        }
    }

    /// The first positions of the commits whose frames stand in `offset..end`, in order.
    pub(super) fn first_positions(&self, offset: u64, end: u64) -> Result<Vec<Position>, ReadError> {
        let mut bytes = vec![0; (end - offset) as usize];
        let filled = self.file.read_full_at(&mut bytes, offset).map_err(|error| self.io(error))?;
        let (mut rest, mut positions) = (&bytes[..filled], Vec::new());
        while let Some(header) = rest.first_chunk() {
            let header = FrameHeader::parse(header).map_err(|what| {
                let offset = end - rest.len() as u64;
                let position = positions.last().copied().unwrap_or(self.first_position);
                ReadError::Damaged { file: self.path.to_path_buf(), offset, position, what }
            })?;
            positions.push(header.first_position);
            rest = rest.get(header.frame_len()..).unwrap_or_default();
        }
        Ok(positions)
    }

    /// Where its frames end, whatever stands behind them.
    pub(super) fn end_position(&self) -> Result<Position, ReadError> {
        let lenient = Self { tail: Tail::Torn, ..self.clone() };
        let mut frames = lenient.frames();
        while frames.next()?.is_some() {}
        Ok(frames.position())
    }

    pub(super) fn io(&self, error: io::Error) -> ReadError {
        ReadError::Io { file: self.path.to_path_buf(), error }
    }
}
