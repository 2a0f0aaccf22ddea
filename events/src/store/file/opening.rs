//! Becoming a log's owner: look at everything, then mend what a crash has left half-way.

use std::{
    io,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    Options, Recovery, Trimmed,
    checked::Checked,
    disk::{Disk, DiskFile, Lock},
    files::{LOCK, Tail, file_name, list},
    frame::SegmentHeader,
    frames::Torn,
    index::SegmentIndex,
    io_error,
    recover::{self, Recovered},
    slots::{self, Signed},
    space::Spare,
};
use crate::{
    CommitNumber, Position,
    head::{HeadError, HeadSigner},
    store::{
        Appended, Damage, ReadError,
        sequence::{OPERATIONS_MAX, Operations},
    },
};

/// How long an opening waits for the lock: a reader may hold it for an instant to see whether it is free.
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// What an opening works with.
pub(super) struct Opening<'a> {
    pub disk: Arc<dyn Disk>,
    pub dir: &'a Path,
    pub log: &'a Path,
    pub signer: &'a HeadSigner,
    pub options: &'a Options,
}

/// A log that was found whole, and mended where a crash had left it unfinished.
pub(super) struct Opened {
    pub recovered: Recovered,
    pub signed: Signed,
    pub recovery: Recovery,
    pub spare: Arc<Spare>,
}

impl Opening<'_> {
    /// Looks at everything first, and only then writes.
    pub fn open(&self) -> Result<Opened, ReadError> {
        let Self { disk, dir, log, .. } = self;
        let disk: &dyn Disk = &**disk;
        let verifier = self.signer.verifier();
        let known = slots::load_verifier(disk, dir)?;
        if known.as_ref().is_some_and(|known| *known != verifier) {
            return Err(ReadError::TreeHead { file: dir.join(slots::VERIFIER), what: HeadError::Key });
        }
        let signed = Signed::load(disk, log, &verifier)?;
        let mut segments = list(disk, dir, Tail::Torn)?;
        // The key is written last, when a log is made: without it and without commits, the making was cut short.
        let created = known.is_none() && signed.heads.iter().all(|head| head.size == 0);
        let signed_head = match signed.newest(log) {
            Err(_) if created => None,
            newest => Some(newest?),
        };
        let missing = |number| ReadError::Damaged {
            file: log.join(file_name(number)),
            offset: 0,
            position: Position(0),
            what: Damage::Missing,
        };
        if segments.is_empty() && !created {
            return Err(missing(CommitNumber(0)));
        }
        let recovered = (!segments.is_empty())
            .then(|| recover::recover(&segments, &signed.heads, Checked::load(disk, log)))
            .transpose()?;
        if let Some(recovered) = &recovered
            && signed_head.is_none()
            && recovered.head.commits.0 > 0
        {
            // Commits were acknowledged only when there was a signed head.
            signed.newest(log)?;
        }
        // From here on the disk is written to.
        let io = |error| io_error(log, error);
        let spare = Arc::new(Spare::open(self.disk.clone(), log, self.options).map_err(io)?);
        let recovered = match recovered {
            Some(recovered) => recovered,
            None => {
                self.begin(&spare).map_err(io)?;
                segments = list(disk, dir, Tail::Torn)?;
                recover::recover(&segments, &signed.heads, None)?
            }
        };
        let trimmed = self.mend(&recovered, signed_head.map_or(0, |head| head.size))?;
        let recovery = Recovery {
            created,
            head: recovered.head,
            trimmed,
            signed: signed_head,
            unreadable_heads: signed.unreadable.iter().map(|(path, _)| path.clone()).collect(),
            hashed_from: recovered.hashed_from,
            ..Recovery::default()
        };
        Ok(Opened { recovered, signed, recovery, spare })
    }

    /// Makes the first segment.
    fn begin(&self, spare: &Spare) -> io::Result<()> {
        let header = SegmentHeader { first_commit: CommitNumber(0), first_position: Position(0) };
        let path = self.log.join(file_name(CommitNumber(0)));
        spare.take(&header, &path)?.map(drop).ok_or_else(|| io::ErrorKind::StorageFull.into())
    }

    /// Makes durable what the last process may have left half-way.
    fn mend(&self, recovered: &Recovered, signed_size: u64) -> Result<Option<Trimmed>, ReadError> {
        let Some(last) = recovered.segments.last() else { return Ok(None) };
        let path = last.segment.path();
        let io = |error| io_error(path, error);
        let file = self.disk.open(path, true).map_err(io)?;
        let trimmed = recovered.torn.as_ref().map(|Torn { offset, end, .. }| Trimmed {
            file: path.to_owned(),
            offset: *offset,
            len: end - offset,
            position: recovered.head.position,
        });
        if let Some(Trimmed { offset, len, .. }) = trimmed {
            file.zero(offset, offset + len).map_err(io)?;
        }
        if recovered.head.position.0 > signed_size {
            // These frames can be read, but may never have reached the disk: their sync had not returned, or had
            // failed, and a second sync of unchanged pages says nothing. So they are written again.
            let batch_start = recovered.batch_start.max(last.segment.first_commit());
            let start = last.place(batch_start).map_or(last.end, |place| place.offset());
            rewrite(&*file, start, last.end).map_err(io)?;
        }
        file.sync().map_err(io)?;
        Ok(trimmed)
    }
}

fn rewrite(file: &dyn DiskFile, start: u64, end: u64) -> io::Result<()> {
    let mut bytes = vec![0; (end - start) as usize];
    if file.read_full_at(&mut bytes, start)? < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.write_all_at(&bytes, start)
}

/// Makes the folders of a data directory, durably.
pub(super) fn create_dirs(disk: &dyn Disk, dir: &Path, log: &Path) -> io::Result<()> {
    if disk.list(log).is_ok() {
        return Ok(());
    }
    disk.create_dir(log)?;
    disk.sync_dir(dir)?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => disk.sync_dir(parent),
        _ => Ok(()),
    }
}

/// Becomes the log's owner.
pub(super) fn take_lock(disk: &dyn Disk, dir: &Path) -> Result<Lock, ReadError> {
    let file = dir.join(LOCK);
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match disk.try_lock(&file) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            Ok(None) => return Err(ReadError::Locked { file }),
            Err(error) => return Err(ReadError::Io { file, error }),
        }
    }
}

/// Where the newest commits' operations went, so that a retry after a restart is recognised.
pub(super) fn newest_operations(segments: &[SegmentIndex], commits: CommitNumber) -> Result<Operations, ReadError> {
    let mut operations = Operations::default();
    let from = CommitNumber(commits.0.saturating_sub(OPERATIONS_MAX as u64));
    for index in segments.iter().filter(|index| index.end_commit() > from) {
        let Some(place) = index.place(from.max(index.segment.first_commit())) else { continue };
        let mut frames = place.frames(place.read()?.first_position, index.end);
        while let Some(frame) = frames.next()? {
            let (number, first_position) = (frame.number, frame.first_position);
            operations.insert(frame.commit.operation(), Appended { number, first_position, repeated: false });
        }
    }
    Ok(operations)
}
