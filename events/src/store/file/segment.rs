//! Reading segments in order: what recovery, followers and replay share.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    disk::{Disk, DiskFile, RealDisk},
    frame::{self, ALIGNMENT, FRAME_HEADER_LEN, FRAME_LEN_MAX, Frame, FrameHeader, SEGMENT_HEADER_LEN, SegmentHeader},
    slots::{self, Signed},
};
use crate::{
    CommitNumber, Position,
    head::{HeadVerifier, TreeHead},
    store::{Damage, ReadError},
};

/// How much is read at once: little enough to stay in a core's own cache.
const READ_LEN: usize = 256 * 1024;
/// The folder of the log in a data directory.
pub(super) const LOG_DIR: &str = "log";
/// The owner's lock in a data directory.
pub(super) const LOCK: &str = "lock";
const SUFFIX: &str = ".seg";
/// How much is looked through at once behind the last whole frame: more than a frame, and aligned.
const WINDOW_LEN: usize = 2 * FRAME_LEN_MAX;
static ZEROS: [u8; 4096] = [0; 4096];

/// A log's files as they lie on disk, none of the frames looked at yet: what replay goes through on all cores.
pub struct LogFiles {
    verifier: HeadVerifier,
    tree_heads: Vec<TreeHead>,
    segments: Vec<Segment>,
    live: bool,
}

impl LogFiles {
    /// Lists the log of a data directory, or of a copy of one, and reads its signed tree heads, whose key is `pinned`
    /// or else what the directory says. If a process owns it right now, its end may be a write under way; otherwise
    /// anything behind the last whole frame is damage.
    ///
    /// # Errors
    /// [`ReadError`]: a missing file, a segment that does not say what it must, a tree head that can't be read.
    pub fn open(dir: &Path, pinned: Option<&HeadVerifier>) -> Result<Self, ReadError> {
        Self::open_on(&RealDisk, dir, pinned)
    }

    pub(super) fn open_on(disk: &dyn Disk, dir: &Path, pinned: Option<&HeadVerifier>) -> Result<Self, ReadError> {
        let log = dir.join(LOG_DIR);
        let verifier = match pinned {
            Some(pinned) => pinned.clone(),
            None => slots::load_verifier(disk, dir)?.ok_or_else(|| missing(dir.join(slots::VERIFIER)))?,
        };
        let tail = Tail::of_reader(disk, dir)?;
        // Before the segments: what was signed when these were read must be in the log when that is.
        let signed = Signed::load(disk, &log, &verifier)?;
        signed.newest(&log)?;
        match signed.unreadable.first() {
            // The owner may be writing this one just now.
            _ if tail == Tail::Live => {}
            Some((file, what)) => return Err(ReadError::TreeHead { file: file.clone(), what: *what }),
            None => {}
        }
        let segments = list(disk, dir, tail)?;
        if segments.is_empty() {
            return Err(missing(log.join(file_name(CommitNumber(0)))));
        }
        Ok(Self { verifier, tree_heads: signed.heads, segments, live: tail == Tail::Live })
    }

    /// The ledger's name and the key its tree heads were checked with.
    pub fn verifier(&self) -> &HeadVerifier {
        &self.verifier
    }

    /// The signed tree heads beside the log, the smallest first; at least one. Only their signatures were checked.
    pub fn tree_heads(&self) -> &[TreeHead] {
        &self.tree_heads
    }

    /// All segments, the first commit's first; at least one.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether a process owned the log when it was listed.
    pub fn is_live(&self) -> bool {
        self.live
    }
}

/// The segments of a data directory, the first commit's first; none if there are none.
pub(super) fn list(disk: &dyn Disk, dir: &Path, tail: Tail) -> Result<Vec<Segment>, ReadError> {
    let log = dir.join(LOG_DIR);
    let names = match disk.list(&log) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(ReadError::Io { file: log, error }),
    };
    let mut numbers: Vec<_> = names.iter().filter_map(|name| number_in(name)).collect();
    numbers.sort_unstable();
    let mut segments: Vec<Segment> = Vec::with_capacity(numbers.len());
    for number in numbers {
        if segments.is_empty() && number != CommitNumber(0) {
            return Err(missing(log.join(file_name(CommitNumber(0)))));
        }
        let path = log.join(file_name(number));
        let (file, header) = match open_segment(disk, &path, number) {
            Ok(opened) => opened,
            Err(SegmentError::Io(error)) => return Err(ReadError::Io { file: path, error }),
            Err(SegmentError::Damage(what)) => {
                let position = segments.last().map_or(Ok(Position(0)), Segment::end_position)?;
                return Err(ReadError::Damaged { file: path, offset: 0, position, what });
            }
        };
        if let Some(previous) = segments.last_mut() {
            previous.next = Some((header.first_commit, header.first_position));
        }
        let (first_commit, first_position) = (header.first_commit, header.first_position);
        segments.push(Segment { path: path.into(), file, first_commit, first_position, next: None, tail });
    }
    Ok(segments)
}

enum SegmentError {
    Io(io::Error),
    Damage(Damage),
}

fn open_segment(
    disk: &dyn Disk,
    path: &Path,
    number: CommitNumber,
) -> Result<(Arc<dyn DiskFile>, SegmentHeader), SegmentError> {
    let file = disk.open(path, false).map_err(SegmentError::Io)?;
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    let filled = file.read_full_at(&mut bytes, 0).map_err(SegmentError::Io)?;
    let header = SegmentHeader::parse(&bytes[..filled]).map_err(SegmentError::Damage)?;
    if header.first_commit != number {
        return Err(SegmentError::Damage(Damage::Sequence { expected: number.0, found: header.first_commit.0 }));
    }
    if number.0 == 0 && header.first_position.0 != 0 {
        return Err(SegmentError::Damage(Damage::Shape("the log does not begin at position 0".into())));
    }
    Ok((file, header))
}

/// The name of the segment that begins with this commit.
pub(super) fn file_name(first_commit: CommitNumber) -> String {
    format!("{:016}{SUFFIX}", first_commit.0)
}

fn number_in(name: &str) -> Option<CommitNumber> {
    let number = name.strip_suffix(SUFFIX)?.parse().ok().map(CommitNumber)?;
    (file_name(number) == name).then_some(number)
}

fn missing(file: PathBuf) -> ReadError {
    ReadError::Damaged { file, offset: 0, position: Position(0), what: Damage::Missing }
}

/// What may stand behind the log's last whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    Strict,
    /// A write that a crash cut short: the reader stops and says so in [`Frames::torn`].
    Torn,
    /// A write under way by the log's owner: the reader stops.
    Live,
}

impl Tail {
    /// What a reader without the lock must expect.
    pub fn of_reader(disk: &dyn Disk, dir: &Path) -> Result<Self, ReadError> {
        let lock = dir.join(LOCK);
        match disk.is_locked(&lock) {
            Ok(owned) => Ok(if owned { Self::Live } else { Self::Strict }),
            Err(error) => Err(ReadError::Io { file: lock, error }),
        }
    }
}

/// One file of the log.
#[derive(Clone)]
pub struct Segment {
    path: Arc<Path>,
    file: Arc<dyn DiskFile>,
    first_commit: CommitNumber,
    first_position: Position,
    /// Where the segment after this one begins.
    next: Option<(CommitNumber, Position)>,
    tail: Tail,
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
        Frames {
            segment: self.clone(),
            buffer: Vec::new(),
            buffer_offset: offset,
            at: 0,
            number,
            position: first,
            limit,
            torn: None,
            retried: None,
        }
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

    fn end_position(&self) -> Result<Position, ReadError> {
        let lenient = Self { tail: Tail::Torn, ..self.clone() };
        let mut frames = lenient.frames();
        while frames.next()?.is_some() {}
        Ok(frames.position)
    }

    pub(super) fn io(&self, error: io::Error) -> ReadError {
        ReadError::Io { file: self.path.to_path_buf(), error }
    }
}

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
