//! The log's files as a whole.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    disk::{Disk, DiskFile, RealDisk},
    frame::{SEGMENT_HEADER_LEN, SegmentHeader},
    segment::Segment,
    slots::{self, Signed},
};
use crate::{
    CommitNumber, Position,
    head::{HeadVerifier, TreeHead},
    rotation::{KeyChain, RotationError},
    store::{Damage, ReadError},
};

/// The folder of the log in a data directory.
pub(super) const LOG_DIR: &str = "log";
/// The owner's lock in a data directory.
pub(super) const LOCK: &str = "lock";
const SUFFIX: &str = ".seg";

/// A log's files as they lie on disk, none of the frames looked at yet: what replay goes through on all cores.
pub struct LogFiles {
    keys: KeyChain,
    tree_heads: Vec<TreeHead>,
    segments: Vec<Segment>,
    live: bool,
}

impl LogFiles {
    /// Lists the log of a data directory, or of a copy of one, and reads its signed tree heads. Their key is `pinned` or
    /// one that follows it by the certificates beside the log; without `pinned`, the directory's own keys are believed. If a process owns it right now, its end may be a write under way; otherwise
    /// anything behind the last whole frame is damage.
    ///
    /// # Errors
    /// [`ReadError`]: a missing file, a segment that does not say what it must, a tree head that can't be read.
    pub fn open(dir: &Path, pinned: Option<&HeadVerifier>) -> Result<Self, ReadError> {
        Self::open_on(&RealDisk, dir, pinned)
    }

    pub(super) fn open_on(disk: &dyn Disk, dir: &Path, pinned: Option<&HeadVerifier>) -> Result<Self, ReadError> {
        let log = dir.join(LOG_DIR);
        let keys = keys(disk, dir, pinned)?;
        let tail = Tail::of_reader(disk, dir)?;
        // Before the segments: what was signed when these were read must be in the log when that is.
        let signed = Signed::load(disk, &log, &keys)?;
        if let Err(error) = signed.newest(&log) {
            return Err(not_led(disk, dir, &keys).unwrap_or(error));
        }
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
        Ok(Self { keys, tree_heads: signed.heads, segments, live: tail == Tail::Live })
    }

    /// The ledger's keys that its tree heads were checked with, and the certificates beside the log.
    pub fn keys(&self) -> &KeyChain {
        &self.keys
    }

    /// Where those certificates lie in a data directory.
    pub fn keys_file(dir: &Path) -> PathBuf {
        dir.join(slots::KEYS)
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

/// The keys a reader goes by.
fn keys(disk: &dyn Disk, dir: &Path, pinned: Option<&HeadVerifier>) -> Result<KeyChain, ReadError> {
    let certified = slots::load_keys(disk, dir)?;
    let not_led = |what| ReadError::Keys { file: dir.join(slots::KEYS), what };
    match (pinned, certified) {
        (Some(pinned), Some(keys)) => keys.trusted_from(pinned).map_err(not_led),
        (Some(pinned), None) => Ok(pinned.clone().into()),
        (None, certified) => {
            let own = slots::load_verifier(disk, dir)?.ok_or_else(|| missing(dir.join(slots::VERIFIER)))?;
            let Some(keys) = certified else { return Ok(own.into()) };
            // A rotation that a crash has cut short leaves the key that was about to give way.
            let in_force = keys.keys().rev().take(2).any(|key| *key == own);
            if in_force { Ok(keys) } else { Err(not_led(RotationError::NotLed)) }
        }
    }
}

/// Whether no head can be read because another key than the trusted ones signs them.
fn not_led(disk: &dyn Disk, dir: &Path, keys: &KeyChain) -> Option<ReadError> {
    let own = slots::load_verifier(disk, dir).ok()??;
    let led = own == *keys.newest();
    (!led).then(|| ReadError::Keys { file: dir.join(slots::VERIFIER), what: RotationError::NotLed })
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
