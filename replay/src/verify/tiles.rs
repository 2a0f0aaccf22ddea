//! The tree's stored tiles against the tree that the log gives.
//!
//! The leaves' file is folded on all cores to the tree over as many leaves as it has; if that is the log's tree of that size,
//! every hash in it is the log's, and what stands above is compared on the way. Only if something differs is the log gone
//! through once more, for the place.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use keyledger_events::{
    Position,
    store::file::LogFiles,
    tree::{Frontier, NodeHash, leaf_data, leaf_hash, tile::TILE_HEIGHT},
};

use super::Broken;

const HASH_LEN: u64 = 32;
/// The level of the subtrees that threads share the work by.
const CHUNK_LEVEL: u32 = 2 * TILE_HEIGHT;
/// How many levels of tiles a tree of 64-bit size has.
const LEVELS: u32 = u64::BITS / TILE_HEIGHT;

/// The tiles of a directory, as they were when it was opened.
pub(super) struct Stored {
    dir: PathBuf,
    files: Vec<File>,
    /// How many whole hashes each has.
    counts: Vec<u64>,
    /// A level whose file has not the length of whole hashes, and that length.
    ragged: Option<(u32, u64)>,
    /// The file of a level though one below has none.
    stray: Option<PathBuf>,
}

impl Stored {
    /// Opens them; none if there are none, or the ledger is making them and says so.
    pub fn open(dir: &Path) -> Result<Option<Self>, Broken> {
        let dir = dir.join("tiles");
        let broken = |path: &Path, error: io::Error| Broken::beside(path, error.to_string());
        let names = match fs::read_dir(&dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(broken(&dir, error)),
        };
        let mut levels = Vec::new();
        for name in names {
            let name = name.map_err(|error| broken(&dir, error))?.file_name();
            levels.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        levels.sort_unstable();
        if unfinished(&dir) || levels.is_empty() {
            return Ok(None);
        }
        let whole = (0..LEVELS).zip(&levels).take_while(|(expected, found)| expected == *found).count();
        let stray = levels.get(whole).map(|level| dir.join(level.to_string()));
        let open = |level: usize| {
            let path = dir.join(level.to_string());
            File::open(&path).map_err(|error| broken(&path, error))
        };
        let files = (0..whole).map(open).collect::<Result<Vec<_>, _>>()?;
        let (mut counts, mut ragged) = (vec![0; whole], None);
        // From the top: whoever writes just now begins at the bottom.
        for (level, file) in files.iter().enumerate().rev() {
            let path = dir.join(level.to_string());
            let len = file.metadata().map_err(|error| broken(&path, error))?.len();
            counts[level] = len / HASH_LEN;
            if !len.is_multiple_of(HASH_LEN) {
                ragged = Some((level as u32, len));
            }
        }
        Ok(Some(Self { dir, files, counts, ragged, stray }))
    }

    /// How many leaves they are of.
    pub fn size(&self) -> u64 {
        self.counts.first().copied().unwrap_or(0)
    }

    /// Compares them with the log: `tree` is what it gives over as many leaves as there are here, none if it has fewer,
    /// `events` how many it has, `signed` how many of these the newest head covers. How many leaves were compared; none
    /// if the ledger is making them.
    pub fn compare(
        &self,
        tree: Option<&Frontier>,
        events: u64,
        signed: u64,
        log: &LogFiles,
    ) -> Result<Option<u64>, Broken> {
        match self.try_compare(tree, events, signed, log) {
            Err(_) if log.is_live() && unfinished(&self.dir) => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    fn try_compare(&self, tree: Option<&Frontier>, events: u64, signed: u64, log: &LogFiles) -> Result<u64, Broken> {
        let size = self.size();
        if let Some(path) = &self.stray {
            return Err(self.broken(path.clone(), None, 0, "a file of the tree's tiles is missing below this one"));
        }
        let Some(tree) = tree else {
            let what = format!("the tree's tiles are of {size} events, the log has {events}");
            return Err(self.broken(self.path(0), Some(events * HASH_LEN), events, what));
        };
        if size < signed && !log.is_live() {
            let what = format!("the tree's tiles end at {size} events, the signed tree head covers {signed}");
            return Err(self.broken(self.path(0), Some(size * HASH_LEN), size, what));
        }
        for level in 0..LEVELS {
            let shift = level * TILE_HEIGHT;
            let (wanted, found) = (size >> shift, self.counts.get(level as usize).copied().unwrap_or(0));
            // What no head covers yet may be about to be written, or a crash has cut it short.
            if found > wanted || (found < signed >> shift && !log.is_live()) {
                let at = found.min(wanted);
                let what = format!("{found} hashes where {size} events give {wanted}");
                return Err(self.broken(self.path(level), Some(at * HASH_LEN), at << shift, what));
            }
        }
        if let Some((level, len)) = self.ragged.filter(|(level, len)| len / HASH_LEN >= events >> (level * TILE_HEIGHT))
        {
            let what = "bytes behind the last hash that the log gives";
            return Err(self.broken(self.path(level), Some(len / HASH_LEN * HASH_LEN), events, what));
        }
        let folded = self.fold().map_err(|error| Broken::beside(&self.dir, error.to_string()))?;
        if folded.as_ref() == Some(tree) {
            return Ok(size);
        }
        Err(self
            .first_difference(log)?
            .unwrap_or_else(|| self.broken(self.path(0), None, 0, "the tree's tiles give another tree than the log")))
    }

    /// The tree that the leaves give; none if what stands above them does not fit.
    fn fold(&self) -> io::Result<Option<Frontier>> {
        let size = self.size();
        let chunks = size >> CHUNK_LEVEL;
        let roots = Mutex::new(vec![None; chunks as usize]);
        let (next, wrong) = (AtomicU64::new(0), AtomicBool::new(false));
        let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64).min(chunks);
        thread::scope(|scope| {
            let work = || -> io::Result<()> {
                while !wrong.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= chunks {
                        break;
                    }
                    match self.fold_run(Frontier::new(), index << CHUNK_LEVEL, (index + 1) << CHUNK_LEVEL)? {
                        Some(tree) => {
                            roots.lock().unwrap_or_else(PoisonError::into_inner)[index as usize] = Some(tree.root());
                        }
                        None => wrong.store(true, Ordering::Relaxed),
                    }
                }
                Ok(())
            };
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a hashing thread has died")))
            })
        })?;
        let roots = roots.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(roots) = roots.into_iter().collect::<Option<Vec<NodeHash>>>() else { return Ok(None) };
        let (mut tree, mut fits) = (Frontier::new(), Ok(true));
        for root in roots {
            let end = tree.size() + (1 << CHUNK_LEVEL);
            tree.push_subtree_each(CHUNK_LEVEL, root, |level, node| self.meet(level, end, node, &mut fits));
        }
        if !fits? {
            return Ok(None);
        }
        let begin = tree.size();
        self.fold_run(tree, begin, size)
    }

    /// Appends a run of leaves to a tree that stands in front of them, or, for a whole chunk, to one of its own.
    fn fold_run(&self, mut tree: Frontier, begin: u64, end: u64) -> io::Result<Option<Frontier>> {
        let offset = begin - tree.size();
        let mut fits = Ok(true);
        let mut bytes = vec![0; ((1 << TILE_HEIGHT) * HASH_LEN) as usize];
        let mut at = begin;
        while at < end {
            let len = (end - at).min(1 << TILE_HEIGHT);
            let bytes = &mut bytes[..(len * HASH_LEN) as usize];
            self.files[0].read_exact_at(bytes, at * HASH_LEN)?;
            for leaf in hashes(bytes) {
                at += 1;
                tree.push_subtree_each(0, leaf, |level, node| {
                    // A chunk's own root is met where it is put in its place.
                    if level > 0 && (offset == 0 || level < CHUNK_LEVEL) {
                        self.meet(level, at, node, &mut fits);
                    }
                });
            }
        }
        Ok(fits?.then_some(tree))
    }

    /// Compares a node above the leaves, which ends before leaf `end`, with the one stored.
    fn meet(&self, level: u32, end: u64, node: &NodeHash, fits: &mut io::Result<bool>) {
        let (tiles, index) = ((level / TILE_HEIGHT) as usize, (end >> level) - 1);
        if !level.is_multiple_of(TILE_HEIGHT) || self.counts.get(tiles).is_none_or(|count| index >= *count) {
            return;
        }
        let mut bytes = [0; 32];
        let same = self.files[tiles].read_exact_at(&mut bytes, index * HASH_LEN).map(|()| bytes == node.0);
        if let Ok(so_far) = fits {
            match same {
                Ok(same) => *so_far &= same,
                Err(error) => *fits = Err(error),
            }
        }
    }

    /// The first hash that is not what the log gives.
    fn first_difference(&self, log: &LogFiles) -> Result<Option<Broken>, Broken> {
        let mut tree = Frontier::new();
        for segment in log.segments() {
            let mut frames = segment.frames();
            while let Some(frame) = frames.next()? {
                let Ok(first) = frame.commit.first() else { return Ok(None) };
                for record in frame.commit.records().take((self.size() - tree.size()) as usize) {
                    let position = tree.size();
                    let leaf = leaf_hash(&leaf_data(Position(position), first.recorded_at, &record.hash()));
                    let mut found = None;
                    tree.push_subtree_each(0, leaf, |level, node| {
                        let mut fits = Ok(true);
                        self.meet(level, position + 1, node, &mut fits);
                        if !fits.unwrap_or(false) {
                            found.get_or_insert(level);
                        }
                    });
                    if let Some(level) = found {
                        let index = ((position + 1) >> level) - 1;
                        let what = format!("hash {index} of the tree's tiles is not what the log gives");
                        let file = self.path(level / TILE_HEIGHT);
                        return Ok(Some(self.broken(file, Some(index * HASH_LEN), index << level, what)));
                    }
                }
            }
        }
        Ok(None)
    }

    fn path(&self, level: u32) -> PathBuf {
        self.dir.join(level.to_string())
    }

    fn broken(&self, file: PathBuf, offset: Option<u64>, position: u64, what: impl Into<String>) -> Broken {
        Broken { file: Some(file), offset, position: Position(position), what: what.into() }
    }
}

fn unfinished(dir: &Path) -> bool {
    dir.join("unfinished").exists()
}

fn hashes(bytes: &[u8]) -> impl Iterator<Item = NodeHash> {
    bytes.chunks_exact(HASH_LEN as usize).filter_map(|hash| hash.first_chunk().copied().map(NodeHash))
}
