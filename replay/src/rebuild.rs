//! Throwing the projections away and making them anew from the log.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use keyledger_events::{
    Commit, CommitNumber, Position,
    store::{Follow, Head, ReadError, ReadLog, file::FileLog},
};
use keyledger_projections::{CheckpointError, Digests, FoldError, Projections};
use serde::Serialize;

use crate::{
    Progress,
    verify::{Broken, Served, served_digests},
};

/// What a rebuild did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// How many events the projections are of now.
    pub events: u64,
    /// Their digests, in hexadecimal.
    pub digests: Served,
    /// Of how many events digests had been served, if any had; they were the same.
    pub served_position: Option<u64>,
    /// How long the new checkpoint is, in bytes.
    pub checkpoint_bytes: u64,
}

/// Why projections were not rebuilt, or are other than they were.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A server has the directory.
    #[error("{}: a server is running on this directory; stop it first", .0.display())]
    Locked(PathBuf),
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log can't be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// The new ones can't be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The old ones can't be removed.
    #[error("{}: {error}", file.display())]
    Io {
        /// What.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The served digests can't be read, or are of more events than there are.
    #[error(transparent)]
    Served(#[from] Broken),
    /// They were rebuilt, and the log gives others than were served.
    #[error(
        "the projection {projection} had served digest {served} at position {position}, the log gives {derived}; it is rebuilt now"
    )]
    Differs {
        /// Which.
        projection: &'static str,
        /// Of how many events.
        position: Position,
        /// What was served.
        served: String,
        /// What the log gives.
        derived: String,
    },
}

/// Rebuilds the projections of a data directory that no server has. The log itself is read, not proved: that is
/// [`crate::verify`]'s work.
///
/// # Errors
/// [`RebuildError`]. After [`RebuildError::Differs`] the new projections are in place all the same.
pub fn rebuild(dir: &Path, progress: Progress<'_>) -> Result<Rebuilt, RebuildError> {
    // Before the lock is taken here: a log that is being written to may end in a write under way.
    let log = FileLog::open(dir)?;
    let lock = dir.join("lock");
    if log.files().is_live() {
        return Err(RebuildError::Locked(lock));
    }
    let _lock = take(&lock)?;
    let served = served_digests(dir)?;
    let served_at = served.as_ref().map_or(log.head().position, |(_, served)| served.position);
    let total = log.head().position.0;
    if served_at.0 > total {
        let what = format!("the log ends here, the served digests are of {served_at} events: history is missing");
        return Err(Broken { file: None, offset: None, position: Position(total), what }.into());
    }
    let part = Part { log: &log, head: head_at(&log, served_at)? };
    let folder = dir.join("projections");
    discard(&folder)?;
    let projections = Projections::rebuild(&part, &folder, &mut |Position(done), _| progress(done, total))?;
    let then = projections.digests();
    catch_up(&log, &projections, progress)?;
    let written = projections.checkpoint()?;
    let now = written.map_or_else(|| projections.digests(), |written| written.digests);
    if let Some((_, says)) = &served {
        differs(&says.digests, &then)?;
    }
    Ok(Rebuilt {
        events: now.position.0,
        digests: Served::of(&now),
        served_position: served.map(|(_, served)| served.position.0),
        checkpoint_bytes: written.map_or(0, |written| written.bytes),
    })
}

fn take(lock: &Path) -> Result<File, RebuildError> {
    let io = |error| RebuildError::Io { file: lock.to_path_buf(), error };
    let file = File::options().read(true).write(true).create(true).truncate(false).open(lock).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RebuildError::Locked(lock.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

fn discard(folder: &Path) -> Result<(), RebuildError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RebuildError::Io { file: folder.to_path_buf(), error })
        }
        _ => fs::create_dir_all(folder).map_err(|error| RebuildError::Io { file: folder.to_path_buf(), error }),
    }
}

/// Where the log stood when it had so many events, which must be at a commit's end.
fn head_at(log: &dyn ReadLog, position: Position) -> Result<Head, RebuildError> {
    let head = log.head();
    if position == head.position {
        return Ok(head);
    }
    let commits = log.locate(position)?.unwrap_or(head.commits);
    match log.commit(commits)? {
        Some(commit) if commit.first_position != position => {
            let what = format!("the served digests are of position {position}, in the middle of a commit");
            Err(Broken { file: None, offset: None, position, what }.into())
        }
        _ => Ok(Head { commits, position, recorded_at: head.recorded_at }),
    }
}

fn catch_up(log: &FileLog, projections: &Projections, progress: Progress<'_>) -> Result<(), RebuildError> {
    let total = log.head().position.0;
    let mut follow = log.follow(projections.applied().0)?;
    while let Some(commit) = follow.next(std::time::Duration::ZERO)? {
        projections.apply(&commit)?;
        if commit.number.0 % 4096 == 0 {
            progress(commit.end().0, total);
        }
    }
    progress(total, total);
    Ok(())
}

fn differs(served: &Served, derived: &Digests) -> Result<(), RebuildError> {
    match served.differs(derived) {
        None => Ok(()),
        Some((projection, served, derived_digest)) => {
            Err(RebuildError::Differs { projection, position: derived.position, served, derived: derived_digest })
        }
    }
}

/// A log as it was when it was shorter.
struct Part<'a> {
    log: &'a FileLog,
    head: Head,
}

impl ReadLog for Part<'_> {
    fn head(&self) -> Head {
        self.head
    }

    fn commit(&self, number: CommitNumber) -> Result<Option<Commit>, ReadError> {
        if number < self.head.commits { self.log.commit(number) } else { Ok(None) }
    }

    fn locate(&self, position: Position) -> Result<Option<CommitNumber>, ReadError> {
        if position < self.head.position { self.log.locate(position) } else { Ok(None) }
    }

    fn follow(&self, from: CommitNumber) -> Result<Box<dyn Follow>, ReadError> {
        self.log.follow(from)
    }
}
