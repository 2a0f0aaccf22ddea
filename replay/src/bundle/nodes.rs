//! The tree of a log that has no stored one at hand: the roots of every 256 leaves are kept, the leaves made again when
//! they are asked for.

use std::cell::RefCell;

use keyledger_events::{
    Commit, Position,
    store::{ReadError, ReadLog},
    tree::{NodeHash, leaf_data, leaf_hash, node_hash, proof::Nodes},
};

/// Leaves under one kept root.
const WIDTH: u64 = 256;
/// The level of those roots.
const LEVEL: u32 = WIDTH.trailing_zeros();

/// The tree of the first `size` events of a log. Takes 64 bytes for 256 events.
pub struct LogNodes<'a> {
    log: &'a dyn ReadLog,
    size: u64,
    /// `kept[n]` has the roots of level `LEVEL + n`.
    kept: Vec<Vec<NodeHash>>,
    /// The leaves that are still under no kept root.
    open: Vec<NodeHash>,
    /// The leaves that were made last, and under which root.
    last: RefCell<Option<(u64, Vec<NodeHash>)>>,
}

impl<'a> LogNodes<'a> {
    /// Nothing of it yet.
    pub fn new(log: &'a dyn ReadLog) -> Self {
        Self { log, size: 0, kept: Vec::new(), open: Vec::new(), last: RefCell::default() }
    }

    /// Takes in the log's next commit.
    pub fn push(&mut self, commit: &Commit) {
        for leaf in leaves(commit) {
            self.open.push(leaf);
            self.size += 1;
            if self.open.len() as u64 == WIDTH {
                let mut node = fold(&self.open);
                self.open.clear();
                for level in 0.. {
                    if self.kept.len() == level {
                        self.kept.push(Vec::new());
                    }
                    let row = &mut self.kept[level];
                    row.push(node);
                    if row.len() % 2 == 1 {
                        break;
                    }
                    node = node_hash(&row[row.len() - 2], &row[row.len() - 1]);
                }
            }
        }
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn leaves(&self, block: u64) -> Result<Vec<NodeHash>, ReadError> {
        if block == self.size / WIDTH {
            return Ok(self.open.clone());
        }
        let (start, end) = (block * WIDTH, (block + 1) * WIDTH);
        let mut found = Vec::with_capacity(WIDTH as usize);
        let Some(mut number) = self.log.locate(Position(start))? else { return Ok(found) };
        while let Some(commit) = self.log.commit(number)? {
            if commit.first_position.0 >= end {
                break;
            }
            let skipped = start.saturating_sub(commit.first_position.0) as usize;
            found.extend(leaves(&commit).skip(skipped).take(WIDTH as usize - found.len()));
            number = number.next();
        }
        Ok(found)
    }
}

fn leaves(commit: &Commit) -> impl Iterator<Item = NodeHash> + '_ {
    let recorded_at = commit.body.view().first().map(|first| first.recorded_at).unwrap_or_default();
    let records = commit.body.view().records().zip(commit.first_position.0..);
    records.map(move |(record, position)| leaf_hash(&leaf_data(Position(position), recorded_at, &record.hash())))
}

fn fold(leaves: &[NodeHash]) -> NodeHash {
    let mut row = leaves.to_vec();
    while row.len() > 1 {
        row = row.chunks(2).map(|pair| node_hash(&pair[0], &pair[pair.len() - 1])).collect();
    }
    row[0]
}

impl Nodes for LogNodes<'_> {
    type Error = NodeError;

    fn node(&self, level: u32, index: u64) -> Result<NodeHash, NodeError> {
        if let Some(row) = level.checked_sub(LEVEL).and_then(|row| self.kept.get(row as usize)) {
            return row.get(index as usize).copied().ok_or(NodeError::Missing);
        }
        let (first, count) = (index << level, 1 << level);
        let block = first / WIDTH;
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|(made, _)| *made != block) {
            *last = Some((block, self.leaves(block)?));
        }
        let at = (first % WIDTH) as usize;
        let found = last.as_ref().and_then(|(_, leaves)| leaves.get(at..at + count));
        found.map(fold).ok_or(NodeError::Missing)
    }
}

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The tree has none there.
    #[error("the tree has no such node")]
    Missing,
}
