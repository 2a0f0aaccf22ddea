//! Tiles as they may be shown: each one read is folded up to a tree that is held in memory, and whatever does not fit is
//! made from the log again. Rot on the disk is never passed on.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    leaves::{self, ExtendError},
    tiles::{TileFiles, fold},
    view::Shared,
};
use crate::{
    store::ReadError,
    tree::{
        Frontier, NodeHash, leaf_hash,
        proof::Nodes,
        tile::{TILE_HEIGHT, TILE_WIDTH},
    },
};

/// How many mended tiles are remembered until somebody asks.
const MENDED_MAX: usize = 64;

/// A tile that was not what it must be, and was made from the log again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// In which file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
}

/// Why something of the tree can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// More was asked for than is published.
    #[error("{asked} events are asked for, {published} are published")]
    Beyond {
        /// How many events.
        asked: u64,
        /// How many there are.
        published: u64,
    },
    /// Something that the tree asked about can't hold, however large the ledger's has become.
    #[error("{asked} events are asked for in a tree of {tree}")]
    Outside {
        /// How many events.
        asked: u64,
        /// How many that tree has.
        tree: u64,
    },
    /// A head of a time when another key signed was asked for.
    #[error("the key in force signs heads of {from} events and more, {asked} are asked for")]
    BeforeKey {
        /// How many events.
        asked: u64,
        /// From how many events on it signs.
        from: u64,
    },
    /// The tiles are wrong and the log that would mend them can't be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The tiles are wrong and can't be written.
    #[error("{}: {error}", file.display())]
    Io {
        /// In which file.
        file: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// The log has another tree than the one that was signed.
    #[error("the log gives another tree over {size} events than the one in memory")]
    Contradiction {
        /// Of the tree that was asked for.
        size: u64,
    },
}

/// The log and its tiles, for reading.
pub(super) struct Tiles {
    pub shared: Arc<Shared>,
    pub files: Arc<TileFiles>,
    /// One mends at a time. What was mended and not told yet.
    mended: Mutex<Vec<Mended>>,
}

impl Tiles {
    pub fn new(shared: Arc<Shared>, files: Arc<TileFiles>) -> Self {
        Self { shared, files, mended: Mutex::default() }
    }

    /// What has been mended since somebody last asked.
    pub fn take_mended(&self) -> Vec<Mended> {
        std::mem::take(&mut *self.mended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a tile again that does not give `peaks`, from what lies below it or else from the log.
    fn mend(&self, tile: Tile, peaks: &[NodeHash], anchor: &Frontier) -> Result<Vec<NodeHash>, TreeError> {
        let mut mended = self.mended.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may just have done so.
        if let Some(hashes) = self.read(tile, peaks) {
            return Ok(hashes);
        }
        let contradiction = TreeError::Contradiction { size: anchor.size() };
        let hashes = match tile.level {
            0 => {
                let mut hashes = Vec::with_capacity(tile.width as usize);
                let range = tile.first()..tile.first() + tile.width;
                leaves::each_leaf(&self.shared, range, |data| hashes.push(leaf_hash(data)))?;
                Some(hashes)
            }
            _ => tile.children().map(|child| Some(fold(&self.read_any(child)?).root())).collect(),
        };
        let hashes = match hashes.filter(|hashes| fold(hashes).peaks() == peaks) {
            Some(hashes) => {
                let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
                // What can't be written is right all the same.
                let _ = self.files.write(tile.level, tile.first(), &bytes);
                hashes
            }
            None if tile.level == 0 => return Err(contradiction),
            None => {
                let remade = leaves::extend(&self.shared, &self.files, &Frontier::new(), anchor.size());
                let remade = remade.map_err(|error| match error {
                    ExtendError::Log(error) => TreeError::Log(error),
                    ExtendError::Tiles(error) => TreeError::Io { file: self.files.path(tile.level), error },
                })?;
                if remade != *anchor {
                    return Err(contradiction);
                }
                self.read(tile, peaks).ok_or(contradiction)?
            }
        };
        if mended.len() < MENDED_MAX {
            mended.push(Mended { file: self.files.path(tile.level), offset: tile.first() * 32 });
        }
        Ok(hashes)
    }

    /// The tile, if it gives these peaks.
    fn read(&self, tile: Tile, peaks: &[NodeHash]) -> Option<Vec<NodeHash>> {
        self.read_any(tile).filter(|hashes| fold(hashes).peaks() == peaks)
    }

    /// The tile as it stands there. One that can't be read is as good as a wrong one.
    fn read_any(&self, tile: Tile) -> Option<Vec<NodeHash>> {
        self.files.read(tile.level, tile.first(), tile.width).ok()
    }
}

/// A tile's place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Tile {
    level: u32,
    index: u64,
    width: u64,
}

impl Tile {
    /// The first of its hashes, counted over its level.
    fn first(self) -> u64 {
        self.index * TILE_WIDTH
    }

    /// The tiles below, of which its hashes are the roots.
    fn children(self) -> impl Iterator<Item = Self> {
        let first = self.first();
        (first..first + self.width).map(move |index| Self { level: self.level - 1, index, width: TILE_WIDTH })
    }
}

/// Reads tiles of the tree that `anchor` is, and proves each before it gives it away. Each is read once.
pub(super) struct Reading<'a> {
    tiles: &'a Tiles,
    anchor: &'a Frontier,
    read: RefCell<Read>,
}

/// By level and index.
type Read = HashMap<(u32, u64), Rc<Vec<NodeHash>>>;

impl<'a> Reading<'a> {
    pub fn new(tiles: &'a Tiles, anchor: &'a Frontier) -> Self {
        Self { tiles, anchor, read: RefCell::default() }
    }

    /// All that the tree has of a tile.
    pub fn tile(&self, level: u32, index: u64) -> Result<Rc<Vec<NodeHash>>, TreeError> {
        if let Some(read) = self.read.borrow().get(&(level, index)) {
            return Ok(read.clone());
        }
        let count = self.anchor.size().checked_shr(level * TILE_HEIGHT).unwrap_or(0);
        let first = index.checked_mul(TILE_WIDTH).filter(|first| *first < count);
        let width = first.map(|first| (count - first).min(TILE_WIDTH)).ok_or_else(|| self.beyond())?;
        let tile = Tile { level, index, width };
        let hashes = if width == TILE_WIDTH {
            let above = self.tile(level + 1, index / TILE_WIDTH)?;
            let root = above.get((index % TILE_WIDTH) as usize).copied().ok_or_else(|| self.beyond())?;
            self.proven(tile, &[root])?
        } else {
            // It is not hashed into anything: its own full subtrees are among the tree's.
            let larger = self.anchor.size().checked_shr((level + 1) * TILE_HEIGHT).unwrap_or(0).count_ones() as usize;
            let peaks = self.anchor.peaks().get(larger..larger + width.count_ones() as usize).unwrap_or_default();
            self.proven(tile, peaks)?
        };
        let hashes = Rc::new(hashes);
        self.read.borrow_mut().insert((level, index), hashes.clone());
        Ok(hashes)
    }

    fn proven(&self, tile: Tile, peaks: &[NodeHash]) -> Result<Vec<NodeHash>, TreeError> {
        match self.tiles.read(tile, peaks) {
            Some(hashes) => Ok(hashes),
            None => self.tiles.mend(tile, peaks, self.anchor),
        }
    }

    fn beyond(&self) -> TreeError {
        TreeError::Beyond { asked: u64::MAX, published: self.anchor.size() }
    }
}

impl Nodes for Reading<'_> {
    type Error = TreeError;

    fn node(&self, level: u32, index: u64) -> Result<NodeHash, TreeError> {
        let published = self.anchor.size();
        let end = index.checked_add(1).and_then(|end| end.checked_mul(1_u64.checked_shl(level)?));
        if end.is_none_or(|end| end > published) {
            return Err(TreeError::Beyond { asked: end.unwrap_or(u64::MAX), published });
        }
        let within = level % TILE_HEIGHT;
        let first = index << within;
        let tile = self.tile(level / TILE_HEIGHT, first / TILE_WIDTH)?;
        let begin = (first % TILE_WIDTH) as usize;
        tile.get(begin..begin + (1 << within)).map(|hashes| fold(hashes).root()).ok_or_else(|| self.beyond())
    }
}
