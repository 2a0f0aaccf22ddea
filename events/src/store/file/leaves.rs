//! The tree's leaves, made from the log's records: what brings missing or damaged tiles back.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use super::{tiles::TileFiles, view::Shared};
use crate::{
    Position,
    store::ReadError,
    tree::{Frontier, NodeHash, leaf_data, leaf_hash, tile::TILE_HEIGHT},
};

/// The level of the subtrees that threads share the work by: two levels of tiles, 65,536 leaves.
pub(super) const CHUNK_LEVEL: u32 = 2 * TILE_HEIGHT;

/// Why tiles could not be made from the log.
#[derive(Debug)]
pub(super) enum ExtendError {
    /// The log can't be read.
    Log(ReadError),
    /// The tiles can't be written.
    Tiles(io::Error),
}

impl From<ReadError> for ExtendError {
    fn from(error: ReadError) -> Self {
        Self::Log(error)
    }
}

/// The data of the leaves at these positions, which must be durable, in order.
pub(super) fn each_leaf(shared: &Shared, range: Range<u64>, mut each: impl FnMut(&[u8; 48])) -> Result<(), ReadError> {
    let mut at = range.start;
    while at < range.end {
        let missing = || ReadError::BehindHead { found: Position(at), signed: range.end };
        let number = shared.locate(Position(at))?.ok_or_else(missing)?;
        let (place, end) = shared.place(number).ok_or_else(missing)?;
        let mut frames = place.frames(place.read()?.first_position, end);
        let before = at;
        while at < range.end
            && let Some(frame) = frames.next()?
        {
            let first = frame.commit.first().map_err(|error| ReadError::Damaged {
                file: place.path().to_path_buf(),
                offset: frame.offset,
                position: frame.first_position,
                what: error.into(),
            })?;
            let wanted = frame.commit.records().zip(frame.first_position.0..);
            for (record, position) in wanted.filter(|(_, position)| (at..range.end).contains(position)) {
                each(&leaf_data(Position(position), first.recorded_at, &record.hash()));
            }
            at = (frame.first_position.0 + frame.commit.count()).min(range.end);
        }
        if at == before {
            // Its own bytes say what is wrong; else they are good and those of another place.
            shared.commit(number)?;
            return Err(ReadError::BehindHead { found: Position(at), signed: range.end });
        }
    }
    Ok(())
}

/// Writes the tiles between `from`, whose tiles are there, and `to`, on all cores. Nothing is synced. What it returns is
/// the tree over `to` leaves.
pub(super) fn extend(shared: &Shared, files: &TileFiles, from: &Frontier, to: u64) -> Result<Frontier, ExtendError> {
    let mut frontier = from.clone();
    while frontier.size() < to {
        let size = frontier.size();
        let (next, last) = (size.next_multiple_of(1 << CHUNK_LEVEL), to >> CHUNK_LEVEL);
        if size == next && size >> CHUNK_LEVEL < last {
            extend_by_chunks(shared, files, &mut frontier, last)?;
        } else {
            let end = if size == next { to } else { next.min(to) };
            extend_by_leaves(shared, files, &mut frontier, end)?;
        }
    }
    Ok(frontier)
}

fn extend_by_leaves(shared: &Shared, files: &TileFiles, frontier: &mut Frontier, end: u64) -> Result<(), ExtendError> {
    let mut hashes = Hashes::behind(frontier.size());
    each_leaf(shared, frontier.size()..end, |data| {
        frontier.push_subtree_each(0, leaf_hash(data), |level, node| hashes.take(level, node));
    })?;
    hashes.write(files).map_err(ExtendError::Tiles)
}

fn extend_by_chunks(shared: &Shared, files: &TileFiles, frontier: &mut Frontier, end: u64) -> Result<(), ExtendError> {
    let first = frontier.size() >> CHUNK_LEVEL;
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64).min(end - first);
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..threads {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= end || sender.send((index, chunk(shared, files, index))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let (mut early, mut expected) = (BTreeMap::new(), first);
        let mut hashes = Hashes::behind(frontier.size());
        for (index, root) in receiver {
            match root {
                Ok(root) => early.insert(index, root),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            };
            while let Some(root) = early.remove(&expected) {
                frontier.push_subtree_each(CHUNK_LEVEL, root, |level, node| hashes.take(level, node));
                expected += 1;
            }
        }
        if expected < end {
            return Err(ExtendError::Tiles(io::Error::other("a hashing thread has died")));
        }
        hashes.write(files).map_err(ExtendError::Tiles)
    })
}

/// Writes a chunk's tiles but for what stands above it, and returns its root.
fn chunk(shared: &Shared, files: &TileFiles, index: u64) -> Result<NodeHash, ExtendError> {
    let first = index << CHUNK_LEVEL;
    let (mut inside, mut hashes) = (Frontier::new(), Hashes::behind(first));
    each_leaf(shared, first..first + (1 << CHUNK_LEVEL), |data| {
        inside.push_subtree_each(0, leaf_hash(data), |level, node| {
            if level < CHUNK_LEVEL {
                hashes.take(level, node);
            }
        });
    })?;
    hashes.write(files).map_err(ExtendError::Tiles)?;
    Ok(inside.root())
}

/// Hashes of tiles on their way into the files, one run a level of tiles.
pub(super) struct Hashes {
    /// The size of the tree they follow on.
    behind: u64,
    levels: Vec<Vec<u8>>,
}

impl Hashes {
    /// None yet, behind a tree of this size.
    pub fn behind(size: u64) -> Self {
        Self { behind: size, levels: Vec::new() }
    }

    /// Takes in the next node of its level, if tiles hold that level.
    pub fn take(&mut self, level: u32, node: &NodeHash) {
        if !level.is_multiple_of(TILE_HEIGHT) {
            return;
        }
        let level = (level / TILE_HEIGHT) as usize;
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        self.levels[level].extend_from_slice(&node.0);
    }

    /// Writes them to where they belong.
    pub fn write(&self, files: &TileFiles) -> io::Result<()> {
        for (level, bytes) in (0..).zip(&self.levels).filter(|(_, bytes)| !bytes.is_empty()) {
            files.write(level, self.behind >> (level * TILE_HEIGHT), bytes)?;
        }
        Ok(())
    }
}
