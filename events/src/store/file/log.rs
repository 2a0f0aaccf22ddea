//! The read half: a log on disk, whole and checked, without its owner.

use std::{path::Path, sync::Arc};

use super::{
    disk::{Disk, RealDisk},
    files::LogFiles,
    recover::{self, Hashing, Recovered},
    view::{FileFollow, Shared, View},
};
use crate::{
    Commit, CommitNumber, Position,
    head::HeadVerifier,
    store::{
        Damage, Follow, Head, ReadError, ReadLog,
        sequence::{Books, Operations},
    },
};

/// A log on disk as it was when it was opened. It takes no lock and writes nothing.
pub struct FileLog {
    shared: Arc<Shared>,
    files: LogFiles,
}

impl FileLog {
    /// Opens the log of a data directory, or of a copy of one. Every frame's checksum, number, position and shape is
    /// checked, and that the log reaches as far as the newest signed tree head; hashes are not: that is replay's work.
    /// A write that the log's owner has under way is not damage, and not part of what is read.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        Self::open_on(&RealDisk, dir, None)
    }

    /// [`FileLog::open`], its tree heads signed by a key that is known beforehand.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open_pinned(dir: &Path, verifier: &HeadVerifier) -> Result<Self, ReadError> {
        Self::open_on(&RealDisk, dir, Some(verifier))
    }

    pub(super) fn open_on(disk: &dyn Disk, dir: &Path, pinned: Option<&HeadVerifier>) -> Result<Self, ReadError> {
        let files = LogFiles::open_on(disk, dir, pinned)?;
        let (files, recovered) = match recover::scan(files.segments(), files.tree_heads(), Hashing::Nothing) {
            // Its owner may have begun between the look at the lock and the end of the log.
            Err(ReadError::Damaged { what: Damage::TornTail, .. }) if !files.is_live() => {
                let files = LogFiles::open_on(disk, dir, pinned)?;
                let recovered = recover::scan(files.segments(), files.tree_heads(), Hashing::Nothing)?;
                (files, recovered)
            }
            recovered => (files, recovered?),
        };
        let Recovered { segments, head, .. } = recovered;
        let books = Books { head, streams: Default::default(), operations: Operations::default() };
        Ok(Self { shared: Arc::new(Shared::new(View { segments, books })), files })
    }

    /// The files it was read from.
    pub fn files(&self) -> &LogFiles {
        &self.files
    }
}

impl ReadLog for FileLog {
    fn head(&self) -> Head {
        self.shared.head()
    }

    fn commit(&self, number: CommitNumber) -> Result<Option<Commit>, ReadError> {
        self.shared.commit(number)
    }

    fn locate(&self, position: Position) -> Result<Option<CommitNumber>, ReadError> {
        self.shared.locate(position)
    }

    /// Up to where the log ended when it was opened.
    fn follow(&self, from: CommitNumber) -> Result<Box<dyn Follow>, ReadError> {
        Ok(Box::new(FileFollow::new(self.shared.clone(), from)))
    }
}
