//! Putting a bundle together: the team's commits, and the tree around them.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    str::FromStr,
};

use keyledger_events::{
    Commit, CommitNumber, CredentialId, Revision, TeamId, Timestamp,
    head::TreeHead,
    record::RecordError,
    store::{ReadError, ReadLog},
    tree::proof::Nodes,
};

use super::format::{Header, SealShown, Writer};
use crate::Progress;

/// In a tree of at most so many leaves, every node is a leaf, so that the bundle compares with any older tree head.
const LEAVES_MAX: u64 = 16_384;

/// What a bundle is made of.
pub struct Material<'a, N> {
    /// The log.
    pub log: &'a dyn ReadLog,
    /// Its tree.
    pub nodes: &'a N,
    /// The ledger's name.
    pub origin: String,
    /// The ledger's verifier key.
    pub key: String,
    /// Notes by which older keys named their successors.
    pub key_rotations: Vec<String>,
    /// Whose stream.
    pub team: TeamId,
    /// The numbers of all its commits in order, up to the end that the statement names.
    pub numbers: Vec<CommitNumber>,
    /// The tree that covers all of them and the seal.
    pub tree: TreeHead,
    /// The same as a signed note.
    pub tree_head: String,
    /// The signed statement where the stream ends, in that tree.
    pub statement: String,
    /// What a seal in that tree says of the team.
    pub seal: Option<SealShown>,
    /// What is known of the last use of the team's credentials.
    pub last_used: Option<BTreeMap<CredentialId, Timestamp>>,
    /// Now.
    pub exported_at: Timestamp,
}

/// Which part of a stream, and which older trees it must compare with.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// From the commit that holds this on; none: from the first.
    pub from: Option<Bound>,
    /// Up to the commit that holds this; none: to the last.
    pub to: Option<Bound>,
    /// Sizes of older tree heads, in any order.
    pub since: Vec<u64>,
}

/// An end of a part: a revision, or an instant at or after (for a beginning), at or before (for an end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A revision of the team.
    Revision(Revision),
    /// A recorded time.
    Instant(Timestamp),
}

impl FromStr for Bound {
    type Err = BoundError;

    /// Digits are a revision, anything else an RFC 3339 instant.
    fn from_str(text: &str) -> Result<Self, BoundError> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            text.parse().map(Self::Revision).map_err(|_| BoundError)
        } else {
            text.parse().map(Self::Instant).map_err(|_| BoundError)
        }
    }
}

/// Neither a revision nor an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a revision of the team nor an RFC 3339 instant, such as 2026-03-03T12:00:00Z")]
pub struct BoundError;

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision(revision) => revision.fmt(f),
            Self::Instant(at) => at.fmt(f),
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The first revision shown.
    pub from: Revision,
    /// The last revision shown.
    pub to: Revision,
    /// The bundle's length in bytes.
    pub bytes: u64,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record can't be read.
    #[error("commit {number}: {error}")]
    Record {
        /// In which commit.
        number: CommitNumber,
        /// Why.
        error: RecordError,
    },
    /// The tree can't be read.
    #[error("the tree can't be read: {0}")]
    Tree(String),
    /// The part has no events.
    #[error("the team has no events in that part of its history")]
    Nothing,
    /// The bundle can't be written.
    #[error("the bundle can't be written: {0}")]
    Io(#[from] io::Error),
}

/// Writes a bundle to `out`. `progress` hears how many of the team's commits are written.
///
/// # Errors
/// [`ExportError`]; what was written is then no bundle.
pub fn export<N: Nodes<Error: fmt::Display>>(
    material: Material<'_, N>,
    selection: &Selection,
    out: &mut dyn Write,
    progress: Progress<'_>,
) -> Result<Exported, ExportError> {
    let log = material.log;
    let (numbers, from, to) = select(log, &material.numbers, selection)?;
    // The seal's commit is shown too; it may be among the team's, if that is the system stream.
    let seal = material.seal.as_ref().and_then(|seal| log.locate(seal.position).transpose()).transpose()?;
    let mut shown = numbers.to_vec();
    shown.extend(seal);
    shown.sort_unstable();
    shown.dedup();
    let header = Header {
        format: 1,
        origin: material.origin,
        key: material.key,
        key_rotations: material.key_rotations,
        team: material.team,
        from,
        to,
        tree_head: material.tree_head,
        statement: material.statement,
        seal: material.seal,
        last_used: material.last_used,
        exported_at: material.exported_at,
    };
    let size = material.tree.size;
    let mut cuts = selection.since.clone();
    cuts.sort_unstable();
    let mut rest = Rest { nodes: material.nodes, at: 0, cuts, leaves_only: size <= LEAVES_MAX };
    let mut writer = Writer::new(out, &header)?;
    let total = shown.len() as u64;
    for (number, done) in shown.into_iter().zip(0..) {
        let commit = read(log, number)?;
        rest.fill(commit.first_position.0, &mut writer)?;
        writer.commit(number, commit.first_position, commit.body.bytes())?;
        rest.at = commit.end().0;
        if done % 256 == 0 {
            progress(done, total);
        }
    }
    rest.fill(size, &mut writer)?;
    progress(total, total);
    Ok(Exported { from, to, bytes: writer.finish()? })
}

/// The commits of a part, and its first and last revision.
fn select<'a>(
    log: &dyn ReadLog,
    numbers: &'a [CommitNumber],
    selection: &Selection,
) -> Result<(&'a [CommitNumber], Revision, Revision), ExportError> {
    let begin = match selection.from {
        None => 0,
        // The first commit that ends at or behind the bound.
        Some(bound) => search(log, numbers, |_, last, at| match bound {
            Bound::Revision(revision) => last < revision,
            Bound::Instant(instant) => at < instant,
        })?,
    };
    let end = match selection.to {
        None => numbers.len(),
        // Behind the last commit that begins at or before the bound.
        Some(bound) => search(log, numbers, |first, _, at| match bound {
            Bound::Revision(revision) => first <= revision,
            Bound::Instant(instant) => at <= instant,
        })?,
    };
    let part = numbers.get(begin..end).unwrap_or_default();
    let (Some(first), Some(last)) = (part.first(), part.last()) else { return Err(ExportError::Nothing) };
    Ok((part, span(log, *first)?.0, span(log, *last)?.1))
}

/// How many commits from the first on are `before`, which is told a commit's first and last revision and its time.
fn search(
    log: &dyn ReadLog,
    numbers: &[CommitNumber],
    before: impl Fn(Revision, Revision, Timestamp) -> bool,
) -> Result<usize, ExportError> {
    let (mut low, mut high) = (0, numbers.len());
    while low < high {
        let middle = (low + high) / 2;
        let (first, last, at) = span(log, numbers[middle])?;
        if before(first, last, at) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn span(log: &dyn ReadLog, number: CommitNumber) -> Result<(Revision, Revision, Timestamp), ExportError> {
    let commit = read(log, number)?;
    let first = commit.body.view().first().map_err(|error| ExportError::Record { number, error })?;
    Ok((first.revision, Revision(first.revision.0 + commit.body.view().count() - 1), first.recorded_at))
}

fn read(log: &dyn ReadLog, number: CommitNumber) -> Result<Commit, ExportError> {
    log.commit(number)?.ok_or(ExportError::Nothing)
}

/// What is not shown: nodes in place of commits.
struct Rest<'a, N> {
    nodes: &'a N,
    /// The next leaf.
    at: u64,
    /// Sizes that no node spans, ascending.
    cuts: Vec<u64>,
    leaves_only: bool,
}

impl<N: Nodes<Error: fmt::Display>> Rest<'_, N> {
    /// Writes as few nodes as lead to `end`.
    fn fill(&mut self, end: u64, writer: &mut Writer<'_>) -> Result<(), ExportError> {
        while self.at < end {
            let stop = self.cuts.iter().copied().find(|cut| *cut > self.at).map_or(end, |cut| cut.min(end));
            let fits = (stop - self.at).ilog2().min(self.at.trailing_zeros());
            let level = if self.leaves_only { 0 } else { fits };
            let node = self.nodes.node(level, self.at >> level);
            let node = node.map_err(|error| ExportError::Tree(error.to_string()))?;
            writer.node(level, &node)?;
            self.at += 1 << level;
        }
        Ok(())
    }
}
