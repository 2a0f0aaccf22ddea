//! The tree's hashes as files beside the log: `tiles/0`, `tiles/1` …, one a level of tiles, each a dense row of hashes. That of
//! level L holds the roots of the full subtrees of 256^L leaves, in order, so tile N stands at byte N × 8192.
//!
//! They are derived: written by the keeper behind the log, made anew from the log where they are missing, and read only
//! through [`Reading`](super::proven::Reading), which believes none of them. What makes a crash harmless:
//!
//! * In ordinary times they are synced before a head is signed over them. So whatever the newest signed head covers is
//!   there after a crash; what is behind it may be torn and is made again from the log.
//! * While they are made anew, or lag because the disk was full, heads are signed ahead of them. Then the file
//!   `tiles/unfinished` says that they are good for nothing yet. It is made before the first such write and removed
//!   after the last one is synced.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    disk::{Disk, DiskFile, is_full},
    leaves::{CHUNK_LEVEL, ExtendError, Hashes, extend},
    view::Shared,
};
use crate::{
    head::TreeHead,
    tree::{
        Frontier, NodeHash,
        proof::{Nodes, peaks},
        tile::TILE_HEIGHT,
    },
};

/// The folder of the tiles in a data directory.
pub(super) const TILES_DIR: &str = "tiles";
/// The mark that the tiles are being made.
pub(super) const UNFINISHED: &str = "unfinished";
/// How many levels of tiles a tree of 64-bit size has.
const LEVELS: u32 = u64::BITS / TILE_HEIGHT;
/// How long a hash is, in bytes.
const HASH_LEN: u64 = 32;
/// How many leaves are caught up at once, so that signing does not wait long.
const SLICE: u64 = 4 << CHUNK_LEVEL;

/// What an opening found of the tree's tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TilesFound {
    /// As many as the log gives.
    #[default]
    Whole,
    /// Those of the newest signed head, but none of what came behind it: that is being added from the log.
    Short {
        /// The head's size.
        covered: u64,
    },
    /// More than the log gives; those were cut off.
    Long,
    /// None.
    Missing,
    /// Such as are not of this tree, or not finished: all are being made anew from the log.
    Useless,
}

/// The files. Anybody may read; the keeper appends, and whoever finds rot overwrites it.
pub(super) struct TileFiles {
    disk: Arc<dyn Disk>,
    data: PathBuf,
    dir: PathBuf,
    /// One a level of tiles, as many as there are.
    levels: RwLock<Vec<Arc<Level>>>,
    /// Whether files were made since the folder was synced.
    made: AtomicBool,
}

struct Level {
    file: Arc<dyn DiskFile>,
    dirty: AtomicBool,
}

impl TileFiles {
    /// Opens those that are there.
    fn open(disk: Arc<dyn Disk>, data: &Path) -> io::Result<Self> {
        let dir = data.join(TILES_DIR);
        let mut levels = Vec::new();
        for level in 0..LEVELS {
            match disk.open(&dir.join(level.to_string()), true) {
                Ok(file) => levels.push(Level::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        let (levels, made) = (RwLock::new(levels), AtomicBool::new(false));
        Ok(Self { disk, data: data.to_owned(), dir, levels, made })
    }

    /// Where a level lies.
    pub fn path(&self, level: u32) -> PathBuf {
        self.dir.join(level.to_string())
    }

    /// Hashes of a level from the `first` on.
    ///
    /// # Errors
    /// Also if there are not so many.
    pub fn read(&self, level: u32, first: u64, count: u64) -> io::Result<Vec<NodeHash>> {
        let found = self.levels.read().unwrap_or_else(PoisonError::into_inner).get(level as usize).cloned();
        let found = found.ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; (count * HASH_LEN) as usize];
        let offset = first.checked_mul(HASH_LEN).ok_or(io::ErrorKind::InvalidInput)?;
        if found.file.read_full_at(&mut bytes, offset)? < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let hashes = bytes.chunks_exact(HASH_LEN as usize);
        Ok(hashes.filter_map(|hash| hash.first_chunk().copied().map(NodeHash)).collect())
    }

    /// Writes hashes of a level from the `first` on. They are durable once everything is synced.
    pub fn write(&self, level: u32, first: u64, bytes: &[u8]) -> io::Result<()> {
        let level = self.level(level)?;
        level.dirty.store(true, Ordering::Release);
        level.file.write_all_at(bytes, first * HASH_LEN)
    }

    /// Makes all that was written durable.
    pub fn sync(&self) -> io::Result<()> {
        let levels = self.levels.read().unwrap_or_else(PoisonError::into_inner).clone();
        for level in levels.iter().filter(|level| level.dirty.swap(false, Ordering::AcqRel)) {
            level.file.sync()?;
        }
        if self.made.swap(false, Ordering::AcqRel) { self.disk.sync_dir(&self.dir) } else { Ok(()) }
    }

    fn level(&self, level: u32) -> io::Result<Arc<Level>> {
        let found = self.levels.read().unwrap_or_else(PoisonError::into_inner).get(level as usize).cloned();
        if let Some(found) = found {
            return Ok(found);
        }
        let mut levels = self.levels.write().unwrap_or_else(PoisonError::into_inner);
        self.make_dir()?;
        while levels.len() <= level as usize {
            let file = self.disk.create(&self.dir.join(levels.len().to_string()))?;
            self.made.store(true, Ordering::Release);
            levels.push(Level::new(file));
        }
        Ok(levels[level as usize].clone())
    }

    fn make_dir(&self) -> io::Result<()> {
        if self.disk.list(&self.dir).is_err() {
            self.disk.create_dir(&self.dir)?;
            self.disk.sync_dir(&self.data)?;
        }
        Ok(())
    }

    /// Forgets the files, which somebody has removed, and makes others when they are written.
    fn forget(&self) {
        self.levels.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn is_unfinished(&self) -> bool {
        self.disk.open(&self.dir.join(UNFINISHED), false).is_ok()
    }

    fn mark_unfinished(&self) -> io::Result<()> {
        self.make_dir()?;
        self.disk.create(&self.dir.join(UNFINISHED))?;
        self.disk.sync_dir(&self.dir)
    }

    fn mark_finished(&self) -> io::Result<()> {
        match self.disk.remove(&self.dir.join(UNFINISHED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.disk.sync_dir(&self.dir),
        }
    }

    /// How many hashes each level has.
    fn counts(&self) -> io::Result<Vec<u64>> {
        let levels = self.levels.read().unwrap_or_else(PoisonError::into_inner);
        levels.iter().map(|level| level.file.len().map(|len| len / HASH_LEN)).collect()
    }

    /// Cuts off whatever a tree of `size` leaves does not have. Whether there was anything.
    fn trim(&self, size: u64) -> io::Result<bool> {
        let mut trimmed = false;
        let mut levels = self.levels.write().unwrap_or_else(PoisonError::into_inner);
        let needed = wanted(size).count();
        levels.truncate(needed);
        for (level, count) in levels.iter().zip(wanted(size)) {
            if level.file.len()? > count * HASH_LEN {
                level.file.set_len(count * HASH_LEN)?;
                level.dirty.store(true, Ordering::Release);
                trimmed = true;
            }
        }
        let names = match self.disk.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(trimmed),
            names => names?,
        };
        // Also those of levels that no file below leads to.
        for name in names.iter().filter(|name| name.parse().is_ok_and(|level: usize| level >= levels.len())) {
            self.disk.remove(&self.dir.join(name))?;
            self.made.store(true, Ordering::Release);
            trimmed = true;
        }
        Ok(trimmed)
    }
}

impl Level {
    fn new(file: Arc<dyn DiskFile>) -> Arc<Self> {
        Arc::new(Self { file, dirty: AtomicBool::new(false) })
    }
}

/// As they stand there, for an opening that compares what they give with what was signed.
impl Nodes for TileFiles {
    type Error = io::Error;

    fn node(&self, level: u32, index: u64) -> io::Result<NodeHash> {
        let within = level % TILE_HEIGHT;
        Ok(fold(&self.read(level / TILE_HEIGHT, index << within, 1 << within)?).root())
    }
}

/// How many hashes each level of tiles has in a tree of this size; levels without any are left out.
pub(super) fn wanted(size: u64) -> impl Iterator<Item = u64> {
    (0..LEVELS).map(move |level| size >> (level * TILE_HEIGHT)).take_while(|count| *count > 0)
}

/// The tree over these hashes.
pub(super) fn fold(hashes: &[NodeHash]) -> Frontier {
    let mut frontier = Frontier::new();
    hashes.iter().for_each(|hash| frontier.push(*hash));
    frontier
}

/// The keeper's half: how far the files have got, and what comes next.
pub(super) struct Growth {
    pub files: Arc<TileFiles>,
    /// The tree that the files hold, durably.
    covered: Frontier,
    /// What follows on it, as long as nothing is left out.
    pending: Hashes,
    /// Whether something was left out: it must come from the log.
    behind: bool,
    /// Whether the mark is there.
    marked: bool,
}

/// What became of tiles that were to be written.
#[derive(Debug)]
pub(super) enum Grown {
    /// They cover all that was hashed.
    Whole,
    /// They lag: more of them are to be made from the log.
    Behind,
    /// They lag, and can't be made just now: the disk is full.
    Stuck,
}

impl Growth {
    /// Looks at the tiles of a log that has been recovered up to `frontier`, and cuts off what it does not give.
    /// `signed` is the newest head that was signed before.
    pub fn open(
        disk: Arc<dyn Disk>,
        data: &Path,
        signed: Option<&TreeHead>,
        frontier: &Frontier,
    ) -> io::Result<(Self, TilesFound)> {
        let files = TileFiles::open(disk, data)?;
        let counts = files.counts()?;
        let long = files.trim(frontier.size())?;
        let unfinished = files.is_unfinished();
        let empty = TreeHead { size: 0, root: Frontier::new().root() };
        let covered = stored(&files, &counts, signed.unwrap_or(&empty)).filter(|_| !unfinished);
        let found = match &covered {
            _ if frontier.size() == 0 && !unfinished => {
                if long {
                    TilesFound::Long
                } else {
                    TilesFound::Whole
                }
            }
            Some(covered) if covered.size() == frontier.size() && long => TilesFound::Long,
            Some(covered) if covered.size() == frontier.size() => TilesFound::Whole,
            Some(covered) if covered.size() > 0 => TilesFound::Short { covered: covered.size() },
            _ if counts.is_empty() => TilesFound::Missing,
            _ => TilesFound::Useless,
        };
        let covered = covered.unwrap_or_default();
        let behind = covered.size() < frontier.size() || unfinished;
        let pending = Hashes::behind(covered.size());
        Ok((Self { files: Arc::new(files), covered, pending, behind, marked: unfinished }, found))
    }

    /// The tree that the files hold, durably.
    pub fn covered(&self) -> &Frontier {
        &self.covered
    }

    /// Whether more of them must be made from the log.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Takes in the next node of its level.
    pub fn take(&mut self, level: u32, node: &NodeHash) {
        if !self.behind {
            self.pending.take(level, node);
        }
    }

    /// Writes what has been taken in, up to `frontier`, durably.
    ///
    /// # Errors
    /// The disk fails; a full one does not.
    pub fn flush(&mut self, frontier: &Frontier) -> io::Result<Grown> {
        if self.behind {
            return Ok(Grown::Behind);
        }
        if self.covered.size() == frontier.size() {
            return Ok(Grown::Whole);
        }
        if let Err(error) = self.pending.write(&self.files).and_then(|()| self.files.sync()) {
            return self.excuse(error);
        }
        self.covered = frontier.clone();
        self.pending = Hashes::behind(frontier.size());
        Ok(Grown::Whole)
    }

    /// Writes a slice of what was left out, from the log. [`Grown::Whole`] once nothing is left out any more.
    ///
    /// # Errors
    /// [`ExtendError`]: the log can't be read, or the disk fails; a full one does not.
    pub fn catch_up(&mut self, shared: &Shared, frontier: &Frontier) -> Result<Grown, ExtendError> {
        match self.try_catch_up(shared, frontier) {
            Err(ExtendError::Tiles(error)) => self.excuse(error).map_err(ExtendError::Tiles),
            outcome => outcome,
        }
    }

    fn try_catch_up(&mut self, shared: &Shared, frontier: &Frontier) -> Result<Grown, ExtendError> {
        if !self.marked {
            self.files.mark_unfinished().map_err(ExtendError::Tiles)?;
            self.marked = true;
        }
        let size = self.covered.size();
        let end = ((size / SLICE + 1) * SLICE).min(frontier.size());
        let covered = extend(shared, &self.files, &self.covered, end)?;
        // A little at a time, so that no sync of the log waits behind a large one.
        self.files.sync().map_err(ExtendError::Tiles)?;
        self.covered = covered;
        if end < frontier.size() {
            return Ok(Grown::Behind);
        }
        self.files.trim(end).and_then(|_| self.files.sync()).map_err(ExtendError::Tiles)?;
        self.files.mark_finished().map_err(ExtendError::Tiles)?;
        self.marked = false;
        self.behind = false;
        self.pending = Hashes::behind(end);
        Ok(Grown::Whole)
    }

    /// A full disk and files that somebody has removed are no failures: what is missing comes from the log, later.
    fn excuse(&mut self, error: io::Error) -> io::Result<Grown> {
        let grown = match error.kind() {
            _ if is_full(&error) => Grown::Stuck,
            io::ErrorKind::NotFound => {
                self.files.forget();
                self.covered = Frontier::new();
                self.marked = false;
                Grown::Behind
            }
            _ => return Err(error),
        };
        self.behind = true;
        self.pending = Hashes::behind(self.covered.size());
        Ok(grown)
    }
}

/// The tree of a signed head, if the files hold it.
fn stored(files: &TileFiles, counts: &[u64], signed: &TreeHead) -> Option<Frontier> {
    let has_all = wanted(signed.size).enumerate().all(|(level, count)| counts.get(level).is_some_and(|n| *n >= count));
    if !has_all {
        return None;
    }
    let peaks = peaks(signed.size).map(|(level, index)| files.node(level, index)).collect::<io::Result<_>>().ok()?;
    Frontier::from_parts(signed.size, peaks).filter(|stored| stored.root() == signed.root)
}
