//! The tree as the world may see it: the newest head whose tiles are all there, and whatever can be proven under it.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    keeper::Inbox,
    leaves,
    proven::{Mended, Reading, Tiles, TreeError},
};
use crate::{
    head::{HeadSigner, TreeHead},
    tree::{
        Frontier, NodeHash, leaf_hash,
        proof::{self, Nodes},
        tile::{TILE_WIDTH, TileKind, TilePath},
    },
};

/// A signed head that the stored tiles prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedHead {
    /// Size and root.
    pub head: TreeHead,
    /// The signed note.
    pub note: String,
}

/// The published part of a ledger's tree. Usable from any thread; proofs and tiles are read from disk, and proven before
/// they are given away.
///
/// The head that is published may be older than the newest signed one beside the log: while tiles lag, because the disk
/// is full or they are being made anew, heads are signed from memory, so that no acknowledged event stays without one,
/// and published once the tiles have caught up.
pub struct PublishedTree {
    tiles: Tiles,
    inbox: Arc<Inbox>,
    signer: Arc<HeadSigner>,
    /// The smallest tree whose head the signer may sign: the key before it has signed smaller ones.
    signs_from: u64,
    newest: Mutex<Option<Arc<Newest>>>,
    changed: Condvar,
}

/// The newest published head and the tree it is of.
struct Newest {
    published: PublishedHead,
    tree: Frontier,
}

impl PublishedTree {
    pub(super) fn new(tiles: Tiles, inbox: Arc<Inbox>, signer: Arc<HeadSigner>, signs_from: u64) -> Self {
        Self { tiles, inbox, signer, signs_from, newest: Mutex::default(), changed: Condvar::new() }
    }

    /// The newest published head; none while the tiles of an older ledger are still being made.
    pub fn head(&self) -> Option<PublishedHead> {
        self.newest().map(|newest| newest.published.clone())
    }

    /// A published head of at least `size` events, which is signed now if need be; none if there is none in time.
    pub fn wait_for(&self, size: u64, at_most: Duration) -> Option<PublishedHead> {
        let deadline = Instant::now() + at_most;
        let mut newest = self.lock();
        loop {
            if let Some(newest) = newest.as_ref().filter(|newest| newest.published.head.size >= size) {
                return Some(newest.published.clone());
            }
            self.inbox.want_head();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            newest = self.changed.wait_timeout(newest, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A signed head of exactly this size: the published one, or an older one signed now.
    ///
    /// # Errors
    /// [`TreeError`]; [`TreeError::BeforeKey`] for a tree of an older key's time.
    pub fn signed_at(&self, size: u64) -> Result<PublishedHead, TreeError> {
        let newest = self.at_least(size)?;
        if size < self.signs_from {
            return Err(TreeError::BeforeKey { asked: size, from: self.signs_from });
        }
        if newest.published.head.size == size {
            return Ok(newest.published.clone());
        }
        let root = proof::root(&Reading::new(&self.tiles, &newest.tree), size)?;
        let head = TreeHead { size, root };
        Ok(PublishedHead { head, note: self.signer.sign(&head) })
    }

    /// The hashes that lead from the leaf at `position` to the root over the first `size` events.
    ///
    /// # Errors
    /// [`TreeError`]; [`TreeError::Outside`] for a position outside that tree.
    pub fn inclusion(&self, position: u64, size: u64) -> Result<Vec<NodeHash>, TreeError> {
        let newest = self.at_least(size)?;
        if position >= size {
            return Err(TreeError::Outside { asked: position.saturating_add(1), tree: size });
        }
        proof::inclusion(&Reading::new(&self.tiles, &newest.tree), position, size)
    }

    /// The hashes that lead from the root over `old` events to the one over `new`.
    ///
    /// # Errors
    /// [`TreeError`]; [`TreeError::Outside`] if the old tree is the larger one.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<NodeHash>, TreeError> {
        let newest = self.at_least(new)?;
        if old > new {
            return Err(TreeError::Outside { asked: old, tree: new });
        }
        proof::consistency(&Reading::new(&self.tiles, &newest.tree), old, new)
    }

    /// A tile or a bundle of entries, as C2SP tlog-tiles has it; none if the published tree has no such one.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn tile(&self, path: &TilePath) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(newest) = self.newest().filter(|newest| path.is_in(newest.tree.size())) else { return Ok(None) };
        let (reading, width) = (Reading::new(&self.tiles, &newest.tree), usize::from(path.width));
        let level = match path.kind {
            TileKind::Hashes { level } => u32::from(level),
            TileKind::Entries => 0,
        };
        let hashes = reading.tile(level, path.index)?;
        let hashes = hashes.get(..width).unwrap_or_default();
        match path.kind {
            TileKind::Hashes { .. } => Ok(Some(hashes.iter().flat_map(|hash| hash.0).collect())),
            TileKind::Entries => self.entries(path.index * TILE_WIDTH, hashes).map(Some),
        }
    }

    /// The entries whose leaf hashes these are: of each its length, big-endian, and its bytes.
    fn entries(&self, first: u64, hashes: &[NodeHash]) -> Result<Vec<u8>, TreeError> {
        let (mut bytes, mut expected, mut holds) = (Vec::with_capacity(hashes.len() * 50), hashes.iter(), true);
        leaves::each_leaf(&self.tiles.shared, first..first + hashes.len() as u64, |data| {
            holds &= expected.next() == Some(&leaf_hash(data));
            bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
            bytes.extend_from_slice(data);
        })?;
        let size = first + hashes.len() as u64;
        if holds { Ok(bytes) } else { Err(TreeError::Contradiction { size }) }
    }

    /// The tiles that were found wrong and made again since somebody last asked.
    pub fn take_mended(&self) -> Vec<Mended> {
        self.tiles.take_mended()
    }

    /// Shows a head whose tiles are there.
    pub(super) fn publish(&self, head: TreeHead, note: String, tree: Frontier) {
        *self.lock() = Some(Arc::new(Newest { published: PublishedHead { head, note }, tree }));
        self.changed.notify_all();
    }

    /// Whether the tiles prove that `new`, over `tree`, begins with `old`.
    pub(super) fn proves(&self, old: &TreeHead, new: &TreeHead, tree: &Frontier) -> Result<bool, TreeError> {
        let proof = proof::consistency(&Reading::new(&self.tiles, tree), old.size, new.size)?;
        Ok(proof::verify_consistency(old.size, &old.root, new.size, &new.root, &proof))
    }

    fn newest(&self) -> Option<Arc<Newest>> {
        self.lock().clone()
    }

    fn at_least(&self, size: u64) -> Result<Arc<Newest>, TreeError> {
        let newest = self.newest();
        let published = newest.as_ref().map_or(0, |newest| newest.tree.size());
        newest.filter(|_| size <= published).ok_or(TreeError::Beyond { asked: size, published })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Newest>>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes for PublishedTree {
    type Error = TreeError;

    fn node(&self, level: u32, index: u64) -> Result<NodeHash, TreeError> {
        let newest = self.newest().ok_or(TreeError::Beyond { asked: 1, published: 0 })?;
        Reading::new(&self.tiles, &newest.tree).node(level, index)
    }
}
