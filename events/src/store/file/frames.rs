//! Going through a segment, and deciding what it means where no frame follows.

use super::{
    files::Tail,
    frame::{self, ALIGNMENT, FRAME_HEADER_LEN, FRAME_LEN_MAX, Frame, FrameHeader},
    segment::Segment,
};
use crate::{
    CommitNumber, Position,
    store::{Damage, ReadError},
};

/// How much is read at once: little enough to stay in a core's own cache.
const READ_LEN: usize = 256 * 1024;
/// How much is looked through at once behind the last whole frame: more than a frame, and aligned.
const WINDOW_LEN: usize = 2 * FRAME_LEN_MAX;
static ZEROS: [u8; 4096] = [0; 4096];

/// What a crash left behind the last whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Torn {
    /// Where the last whole frame ends.
    pub offset: u64,
    /// Behind the last byte that is not zero.
    pub end: u64,
    /// What is wrong with the bytes at `offset`: [`Damage::TornTail`] if they are cut off, not changed.
    pub what: Damage,
}

/// Goes through a segment's frames with one buffer. Each frame's checksum, number, position and shape are checked;
/// records are not decoded and nothing is hashed.
pub struct Frames {
    segment: Segment,
    buffer: Vec<u8>,
    /// Where the buffer's first byte stands in the file.
    buffer_offset: u64,
    /// Where the next frame begins in the buffer.
    at: usize,
    number: CommitNumber,
    position: Position,
    /// Where to stop without looking further.
    limit: u64,
    torn: Option<Torn>,
    /// Where a live log's frame was read a second time.
    retried: Option<u64>,
}

/// What stands where the next frame must.
enum Found {
    Frame(FrameHeader),
    Limit,
    /// A whole frame that does not belong here: no crash does that.
    Foreign(Damage),
    /// Zeros, or the file's end.
    Nothing,
    Bad(Damage),
}

impl Frames {
    pub(super) fn new(segment: Segment, offset: u64, number: CommitNumber, position: Position, limit: u64) -> Self {
        let (buffer, torn, retried) = (Vec::new(), None, None);
        Self { segment, buffer, buffer_offset: offset, at: 0, number, position, limit, torn, retried }
    }

    /// The next frame; none at the segment's end.
    ///
    /// # Errors
    /// [`ReadError`]; the same again if called again.
    #[allow(clippy::should_implement_trait)] // It lends its buffer, which an iterator can't.
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        loop {
            match self.look()? {
                Found::Frame(header) => return self.take(&header).map(Some),
                Found::Limit => return Ok(None),
                Found::Foreign(what) => return Err(self.damaged(what)),
                Found::Nothing => {
                    if !self.stop(None)? {
                        return Ok(None);
                    }
                }
                Found::Bad(what) => {
                    if !self.stop(Some(what))? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The number of the next frame's commit.
    pub fn number(&self) -> CommitNumber {
        self.number
    }

    /// The position of the next frame's first event.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Where the next frame begins in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.buffer_offset + self.at as u64
    }

    /// What stood behind the last whole frame, once that is reached.
    pub(super) fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// Whether these are the frames of this segment.
    pub(super) fn is_of(&self, segment: &Segment) -> bool {
        self.segment.first_commit == segment.first_commit
    }

    /// Lets it go on up to a later offset.
    pub(super) fn extend_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    fn look(&mut self) -> Result<Found, ReadError> {
        if self.offset() >= self.limit {
            return Ok(Found::Limit);
        }
        self.fill(FRAME_HEADER_LEN)?;
        let Some(bytes) = self.buffer[self.at..].first_chunk::<FRAME_HEADER_LEN>() else {
            let rest = &self.buffer[self.at..];
            return Ok(if last_nonzero(rest).is_none() { Found::Nothing } else { Found::Bad(Damage::TornTail) });
        };
        if bytes == &[0; FRAME_HEADER_LEN] {
            return Ok(Found::Nothing);
        }
        let header = match FrameHeader::parse(bytes) {
            Ok(header) => header,
            Err(what) => return Ok(Found::Bad(what)),
        };
        self.fill(header.frame_len())?;
        let Some(bytes) = self.buffer[self.at..].get(..header.frame_len()) else {
            return Ok(Found::Bad(Damage::TornTail));
        };
        if !header.checks(bytes) {
            return Ok(Found::Bad(Damage::Checksum));
        }
        if header.number != self.number {
            return Ok(Found::Foreign(Damage::Sequence { expected: self.number.0, found: header.number.0 }));
        }
        if header.first_position != self.position {
            let (expected, found) = (self.position, header.first_position);
            return Ok(Found::Foreign(Damage::Shape(format!("position {found} where {expected} must follow"))));
        }
        Ok(Found::Frame(header))
    }

    /// Steps over a frame whose checksum holds.
    fn take(&mut self, header: &FrameHeader) -> Result<Frame<'_>, ReadError> {
        let (start, offset) = (self.at, self.offset());
        let bytes = &self.buffer[start..start + header.frame_len()];
        match frame::shape(header, bytes, offset) {
            Ok(frame) => {
                self.at += header.frame_len();
                self.number = self.number.next();
                self.position.0 += frame.commit.count();
                Ok(frame)
            }
            Err(what) => {
                Err(ReadError::Damaged { file: self.segment.path.to_path_buf(), offset, position: self.position, what })
            }
        }
    }

    /// Decides what it means that no frame follows; `what` is none where there are only zeros or nothing. True: look
    /// again, the owner was writing just then.
    fn stop(&mut self, what: Option<Damage>) -> Result<bool, ReadError> {
        if self.limit != u64::MAX {
            return Err(self.damaged(what.unwrap_or(Damage::Checksum)));
        }
        let found = match self.segment.next {
            Some(next) if what.is_none() && next != (self.number, self.position) => {
                Err(Damage::Sequence { expected: self.number.0, found: next.0.0 })
            }
            // The next segment is begun only when all of this one is durable.
            Some(_) => match what {
                Some(what) => Err(what),
                None if self.rest()?.end.is_some() => Err(Damage::Trailing),
                None => Ok(None),
            },
            None => {
                let rest = self.rest()?;
                if rest.later_batch {
                    if self.segment.tail == Tail::Live && self.retried.replace(self.offset()) != Some(self.offset()) {
                        self.forget_buffer();
                        return Ok(true);
                    }
                    Err(what.unwrap_or(Damage::Checksum))
                } else {
                    Ok(rest.end.map(|end| Torn { offset: self.offset(), end, what: what.unwrap_or(Damage::Trailing) }))
                }
            }
        };
        match (found, self.segment.tail) {
            (Ok(None), _) | (Ok(Some(_)), Tail::Live) => Ok(false),
            (Ok(torn), Tail::Torn) => {
                self.torn = torn;
                Ok(false)
            }
            (Ok(Some(_)), Tail::Strict) => Err(self.damaged(Damage::TornTail)),
            (Err(what), _) => Err(self.damaged(what)),
        }
    }

    /// Looks through everything from here to the file's end.
    fn rest(&self) -> Result<Rest, ReadError> {
        let mut rest = Rest { end: None, later_batch: false };
        let (mut bytes, mut offset) = (vec![0; WINDOW_LEN], self.offset());
        loop {
            let filled = self.segment.file.read_full_at(&mut bytes, offset).map_err(|error| self.segment.io(error))?;
            let read = &bytes[..filled];
            if let Some(last) = last_nonzero(read) {
                rest.end = Some(offset + last as u64 + 1);
                rest.later_batch |= self.has_later_batch(read, last);
            }
            if filled < bytes.len() {
                return Ok(rest);
            }
            // A frame may span two windows.
            offset += (WINDOW_LEN - FRAME_LEN_MAX) as u64;
        }
    }

    /// Whether a whole frame begins in `bytes` up to `last` that was written when the one missing here was durable.
    fn has_later_batch(&self, bytes: &[u8], last: usize) -> bool {
        (0..=last).step_by(ALIGNMENT).any(|at| {
            let Some(header) = bytes[at..].first_chunk().and_then(|header| FrameHeader::parse(header).ok()) else {
                return false;
            };
            header.batch_start() > self.number.0
                && bytes[at..].get(..header.frame_len()).is_some_and(|frame| header.checks(frame))
        })
    }

    /// Has at least `need` bytes of the next frame in the buffer, or all there are.
    fn fill(&mut self, need: usize) -> Result<(), ReadError> {
        if self.buffer.len() - self.at >= need {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.buffer_offset += self.at as u64;
        self.at = 0;
        let start = self.buffer.len();
        let offset = self.buffer_offset + start as u64;
        let len = need
            .max(READ_LEN)
            .min(usize::try_from(self.limit.saturating_sub(self.buffer_offset)).unwrap_or(usize::MAX));
        self.buffer.resize(len.max(start), 0);
        let filled = self.segment.file.read_full_at(&mut self.buffer[start..], offset);
        self.buffer.truncate(start + *filled.as_ref().unwrap_or(&0));
        filled.map(|_| ()).map_err(|error| self.segment.io(error))
    }

    fn forget_buffer(&mut self) {
        self.buffer_offset = self.offset();
        self.buffer.clear();
        self.at = 0;
    }

    fn damaged(&self, what: Damage) -> ReadError {
        let file = self.segment.path.to_path_buf();
        ReadError::Damaged { file, offset: self.offset(), position: self.position, what }
    }
}

/// What stands behind the last whole frame.
struct Rest {
    /// Behind the last byte that is not zero, if there is one.
    end: Option<u64>,
    /// Whether a frame of a later batch is there: then what is missing was durable.
    later_batch: bool,
}

fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    // Block by block, because most of what is looked at is zeros.
    let block = bytes.chunks(ZEROS.len()).rposition(|block| block != &ZEROS[..block.len()])?;
    let start = block * ZEROS.len();
    let end = bytes.len().min(start + ZEROS.len());
    bytes[start..end].iter().rposition(|byte| *byte != 0).map(|at| start + at)
}
