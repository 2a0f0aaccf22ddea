//! Whether the bytes still prove what the ledger says: everything is derived anew, nothing that was derived is believed.
//!
//! Checked are every frame's checksum, number and position; every team's chain, revision by revision; that recorded time
//! never goes backwards; that every record decodes to its last byte; that the history is possible at all; every seal of
//! the map of streams; the Merkle root against every signed tree head, cosigned as a policy demands; that the
//! certificates of the signing keys beside the log are those in it; the tree's stored tiles; the store's own checkpoint;
//! and the digests of the projections against those that are served.

mod evidence;
mod history;
mod live;
pub(crate) mod part;
mod piece;
mod pipeline;
mod seals;
mod sources;
mod subtrees;
mod tiles;
mod witnessed;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use keyledger_events::{
    CommitNumber, Position, Timestamp,
    head::{HeadVerifier, TreeHead},
    rotation::KeyChain,
    store::{
        Head, ReadError, ReadLog,
        file::{Checked, LogFiles},
    },
    tree::{Frontier, NodeHash},
    witness::Policy,
};
use serde::Serialize;

pub(crate) use self::evidence::served_digests;
pub(crate) use self::witnessed::witnessed;
pub use self::{evidence::Served, witnessed::COSIGNED};
use self::{
    evidence::ServedDigests,
    history::{Facts, Flaw, History},
    piece::Piece,
    pipeline::Source,
    seals::Seals,
    sources::{Commits, Files},
    tiles::Stored,
    witnessed::cosigned_note,
};
use crate::Progress;

/// How to verify a directory.
#[derive(Default)]
pub struct Options<'a> {
    /// The key that an auditor has pinned, in force still or replaced since; without it the directory's own are believed,
    /// and the report says so.
    pub key: Option<HeadVerifier>,
    /// Signed tree heads kept elsewhere, as notes: what a witness or an older audit has seen.
    pub known_heads: Vec<String>,
    /// Who must have cosigned one of the heads.
    pub policy: Option<Policy>,
    /// Told how many of how many bytes are done.
    pub progress: Option<Progress<'a>>,
}

/// What held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The ledger's name.
    pub origin: String,
    /// Whether the key came from whoever asked. Else it is the directory's own, which whoever can rewrite the log can
    /// replace.
    pub key_pinned: bool,
    /// How many rotations of the signing key lead from that key, or else from the ledger's first, to the one in force.
    pub key_rotations: u64,
    /// Whether a crash has left a rotation after its event: the server's next start finishes it.
    pub key_rotation_unfinished: bool,
    /// How many commits there are.
    pub commits: u64,
    /// How many events.
    pub events: u64,
    /// How many teams, the system stream included.
    pub teams: u64,
    /// How many credentials no event has ended.
    pub live_credentials: u64,
    /// How many seals of the map of streams were made anew.
    pub seals: u64,
    /// How many events the last of them is of.
    pub sealed_through: u64,
    /// The Merkle root over all events.
    pub root: String,
    /// The sizes of the signed tree heads that were compared, ascending.
    pub signed_sizes: Vec<u64>,
    /// How many events the newest of them does not cover yet.
    pub unsigned_events: u64,
    /// How many events the served digests that were compared are of; none if there were none.
    pub digests_position: Option<u64>,
    /// The largest head that met the witness policy; none if none was given.
    pub witnessed: Option<Witnessed>,
    /// How many events the tree's tiles that were compared are of; none if there are none, or the ledger was still making
    /// them.
    pub tiles_size: Option<u64>,
    /// Whether a server had the directory open: then the log's very end may have been under way.
    pub live: bool,
}

/// A tree head that enough witnesses have seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Witnessed {
    /// Of how many events it is.
    pub size: u64,
    /// Whose cosignatures hold, by their names in the policy, and when they saw it.
    pub by: Vec<(String, Timestamp)>,
}

/// The first thing that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Broken {
    /// In which file.
    pub file: Option<PathBuf>,
    /// Where in it, in bytes.
    pub offset: Option<u64>,
    /// The first position that can't be trusted.
    pub position: Position,
    /// What is wrong, as one clause.
    pub what: String,
}

impl Broken {
    /// Something beside the log. Nothing in the log can be trusted for it.
    fn beside(file: &Path, what: impl Into<String>) -> Self {
        Self { file: Some(file.to_path_buf()), offset: None, position: Position(0), what: what.into() }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        if let Some(offset) = self.offset {
            write!(f, "offset {offset}, ")?;
        }
        write!(f, "position {}: {}", self.position, self.what)
    }
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged { file, offset, position, what } => {
                Self { file: Some(file), offset: Some(offset), position, what: what.to_string() }
            }
            ReadError::BehindHead { found, .. } => {
                Self { file: None, offset: None, position: found, what: error.to_string() }
            }
            ReadError::OtherRoot { .. } => {
                Self { file: None, offset: None, position: Position(0), what: error.to_string() }
            }
            ReadError::Keys { file, what } => Self::beside(&file, what.to_string()),
            ReadError::TreeHead { file, what } => Self::beside(&file, what.to_string()),
            ReadError::Io { file, error } => Self::beside(&file, error.to_string()),
            ReadError::Locked { file } => Self::beside(&file, "in use by another process"),
        }
    }
}

/// Verifies a data directory, or a copy of one, with or without a server running on it.
///
/// # Errors
/// [`Broken`]: the first thing that does not hold.
pub fn verify(dir: &Path, options: &Options<'_>) -> Result<Report, Broken> {
    // In this order: the log then reaches at least as far as what was read of it before.
    let served = served_digests(dir)?;
    let checked = Checked::read(dir)?.map(|checked| (Checked::file(dir), checked));
    let tiles = Stored::open(dir)?;
    let files = LogFiles::open(dir, options.key.as_ref())?;
    let keys = files.keys();
    let mut notes = given(&options.known_heads);
    notes.extend(cosigned_note(dir)?);
    let mut heads = known_heads(&notes, keys)?;
    let witnessed = options.policy.as_ref().map(|policy| witnessed(policy, &notes, keys)).transpose()?;
    let file = dir.join("log");
    heads.extend(files.tree_heads().iter().map(|head| SignedHead { file: file.clone(), head: *head }));
    let quiet: Progress<'_> = &crate::quiet;
    let mut source = Files::new(&files)?;
    let total = source.total_bytes();
    let mut fold = Fold::new(heads, served, checked);
    fold.tiles_size = tiles.as_ref().map(Stored::size);
    let progress = options.progress.unwrap_or(quiet);
    fold.run(
        &mut source,
        |index| Some(files.segments()[index].path().to_path_buf()),
        |done| progress(done, total),
    )?;
    progress(total, total);
    let unfinished = fold.compare_keys(keys, &LogFiles::keys_file(dir))?;
    let (tree, signed) = (fold.tiles_tree.take(), files.tree_heads().last().map_or(0, |head| head.size));
    let mut report = fold.finish(keys, options.key.is_some(), files.is_live())?;
    if let Some(tiles) = tiles {
        report.tiles_size = tiles.compare(tree.as_ref(), report.events, signed, &files)?;
    }
    Ok(Report { key_rotation_unfinished: unfinished, witnessed, ..report })
}

/// Verifies any log there is, against signed tree heads; digests are not compared.
///
/// # Errors
/// [`Broken`].
pub fn verify_log(log: &dyn ReadLog, verifier: &HeadVerifier, heads: &[String]) -> Result<Report, Broken> {
    let keys = verifier.clone().into();
    let mut fold = Fold::new(known_heads(&given(heads), &keys)?, None, None);
    fold.run(&mut Commits::new(log)?, |_| None, |_| {})?;
    fold.finish(&keys, true, false)
}

/// Notes that whoever asks has brought along.
fn given(notes: &[String]) -> Vec<(PathBuf, String)> {
    notes.iter().map(|note| (PathBuf::from("the given tree head"), note.clone())).collect()
}

/// Heads from elsewhere can only speak against the log: those of keys before the pinned one are compared, too.
fn known_heads(notes: &[(PathBuf, String)], keys: &KeyChain) -> Result<Vec<SignedHead>, Broken> {
    notes
        .iter()
        .map(|(file, note)| match keys.verify_known(note) {
            Ok(head) => Ok(SignedHead { file: file.clone(), head }),
            Err(error) => Err(Broken::beside(file, error.to_string())),
        })
        .collect()
}

/// A signed head and where it was found.
struct SignedHead {
    file: PathBuf,
    head: TreeHead,
}

/// The ordered end of the pipeline.
struct Fold {
    history: History,
    seals: Seals,
    frontier: Frontier,
    commits: CommitNumber,
    position: Position,
    /// Still to be met, the smallest first.
    heads: Vec<SignedHead>,
    /// Met already.
    signed_sizes: Vec<u64>,
    served: Option<(PathBuf, ServedDigests)>,
    /// What the store says of its own hashing, until both halves of it are met.
    checked: Option<(PathBuf, Checked)>,
    digests_position: Option<u64>,
    /// How many leaves the stored tiles are of, and the tree over so many, once that is reached.
    tiles_size: Option<u64>,
    tiles_tree: Option<Frontier>,
}

impl Fold {
    fn new(
        mut heads: Vec<SignedHead>,
        served: Option<(PathBuf, ServedDigests)>,
        checked: Option<(PathBuf, Checked)>,
    ) -> Self {
        heads.sort_by_key(|signed| signed.head.size);
        Self {
            history: History::new(served.is_some()),
            seals: Seals::default(),
            frontier: Frontier::new(),
            commits: CommitNumber(0),
            position: Position(0),
            heads,
            signed_sizes: Vec::new(),
            served,
            checked,
            digests_position: None,
            tiles_size: None,
            tiles_tree: None,
        }
    }

    fn run(
        &mut self,
        source: &mut dyn Source,
        file: impl Fn(usize) -> Option<PathBuf>,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Broken> {
        let mut cuts: Vec<u64> = self.heads.iter().map(|signed| signed.head.size).collect();
        cuts.extend(self.checked.as_ref().map(|(_, checked)| checked.head.position.0));
        cuts.extend(self.tiles_size);
        cuts.sort_unstable();
        cuts.dedup();
        self.meet_heads()?;
        self.meet_checked_tree()?;
        self.meet_tiles();
        self.meet_position()?;
        pipeline::run(source, &cuts, |piece| {
            self.piece(piece, &file)?;
            progress(piece.done);
            Ok(())
        })
    }

    fn piece(&mut self, piece: &mut Piece, file: &impl Fn(usize) -> Option<PathBuf>) -> Result<(), Broken> {
        let index = piece.file;
        let broken =
            |offset, Flaw { position, what }| Broken { file: file(index), offset: Some(offset), position, what };
        for commit in piece.commits() {
            if (commit.number, commit.first_position) != (self.commits, self.position) {
                let what = format!(
                    "commit {} at position {} where commit {} at position {} must follow",
                    commit.number, commit.first_position, self.commits, self.position
                );
                return Err(broken(commit.offset, Flaw { position: self.position, what }));
            }
            let facts = Facts {
                number: commit.number,
                first_position: commit.first_position,
                first: commit.first,
                last_hash: commit.last_hash,
                records: commit.records,
            };
            let team = self.history.apply(&facts).map_err(|flaw| broken(commit.offset, flaw))?;
            self.seals.apply(&facts, team).map_err(|flaw| broken(commit.offset, flaw))?;
            self.commits = self.commits.next();
            self.position.0 += commit.records.len() as u64;
            self.meet_position()?;
        }
        // Before a flaw in the piece itself is told: what is signed and does not hold lies before it.
        for (level, node) in piece.nodes() {
            if !self.frontier.push_subtree(*level, *node) {
                let what = "the tree does not fit together".to_owned();
                return Err(broken(0, Flaw { position: Position(self.frontier.size()), what }));
            }
            self.meet_heads()?;
            self.meet_checked_tree()?;
            self.meet_tiles();
        }
        if let Some((offset, flaw)) = piece.take_flaw() {
            return Err(broken(offset, flaw));
        }
        match piece.end.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Compares the heads of the size the tree has reached.
    fn meet_heads(&mut self) -> Result<(), Broken> {
        while self.heads.first().is_some_and(|signed| signed.head.size == self.frontier.size()) {
            let SignedHead { file, head: TreeHead { size, root } } = self.heads.remove(0);
            let found = self.frontier.root();
            if found != root {
                let last = self.signed_sizes.last().copied().unwrap_or(0);
                let what = format!(
                    "the log's root over {size} events is {found}, the signed tree head says {root}: \
                     history was changed at or after this position"
                );
                return Err(Broken { file: Some(file), offset: None, position: Position(last), what });
            }
            self.signed_sizes.push(size);
        }
        Ok(())
    }

    /// Compares the store's own tree if it is of the size reached.
    fn meet_checked_tree(&mut self) -> Result<(), Broken> {
        match &self.checked {
            Some((file, checked)) if checked.head.position.0 == self.frontier.size() => {
                if checked.frontier == self.frontier {
                    return Ok(());
                }
                let what = "the store's own checkpoint is of another tree".to_owned();
                Err(Broken { file: Some(file.clone()), offset: None, position: checked.head.position, what })
            }
            _ => Ok(()),
        }
    }

    /// Keeps the tree that the stored tiles must be of.
    fn meet_tiles(&mut self) {
        if self.tiles_size == Some(self.frontier.size()) {
            self.tiles_tree = Some(self.frontier.clone());
        }
    }

    /// Compares what says of itself that it is of the position reached.
    fn meet_position(&mut self) -> Result<(), Broken> {
        if let Some((file, checked)) = &self.checked
            && checked.head.position == self.position
        {
            let head = Head { commits: self.commits, position: self.position, recorded_at: self.history.recorded_at() };
            let same = checked.head == head
                && checked.streams.len() as u64 == self.history.teams()
                && checked.streams.iter().all(|(team, head)| self.history.stream_head(*team) == Some(*head));
            if !same {
                let what = "the store's own checkpoint has other streams".to_owned();
                return Err(Broken { file: Some(file.clone()), offset: None, position: self.position, what });
            }
        }
        self.meet_digests()
    }

    /// Compares the served digests if they are of the position reached.
    fn meet_digests(&mut self) -> Result<(), Broken> {
        match &self.served {
            Some((_, served)) if served.position == self.position => {}
            Some((file, ServedDigests { position, .. })) if *position < self.position => {
                let what = format!("the served digests are of position {position}, in the middle of a commit");
                return Err(Broken { file: Some(file.clone()), offset: None, position: *position, what });
            }
            _ => return Ok(()),
        }
        let Some((file, served)) = self.served.take() else { return Ok(()) };
        let at = served.position;
        if let Some((name, served, derived)) = served.digests.differs(&self.history.take_digests(at)) {
            let what = format!("the projection {name} served digest {served}, the log gives {derived}");
            return Err(Broken { file: Some(file), offset: None, position: at, what });
        }
        self.digests_position = Some(at.0);
        Ok(())
    }

    /// The certificates beside the log must be those in it. Says whether the log has one more, which a crash has kept
    /// from being brought into force: the log's last event then, and nothing signed by its new key.
    fn compare_keys(&self, keys: &KeyChain, file: &Path) -> Result<bool, Broken> {
        let (recorded, beside) = (self.history.certificates(), keys.certificates());
        let broken = |position, what: &str| {
            Err(Broken { file: Some(file.to_path_buf()), offset: None, position, what: what.to_owned() })
        };
        let same = recorded.iter().zip(beside).take_while(|(recorded, beside)| recorded == beside).count();
        match (recorded.get(same), beside.get(same)) {
            (None, None) => Ok(false),
            (Some(last), None) if last.position().0 + 1 == self.position.0 && last.old() == keys.newest() => Ok(true),
            (Some(event), None) => {
                broken(event.position(), "the log has a rotation of the signing key whose certificate is missing here")
            }
            (None, Some(certificate)) => {
                broken(certificate.position(), "the certificate of a signing key that is no event of the log")
            }
            (Some(event), Some(_)) => {
                broken(event.position(), "the certificate of a signing key is another than the log's event")
            }
        }
    }

    fn finish(self, keys: &KeyChain, key_pinned: bool, live: bool) -> Result<Report, Broken> {
        let position = self.position;
        if let Some(SignedHead { file, head }) = self.heads.into_iter().next() {
            let what =
                format!("the log ends here, the signed tree head is of {} events: history is missing", head.size);
            return Err(Broken { file: Some(file), offset: None, position, what });
        }
        if let Some((file, checked)) = self.checked.filter(|(_, checked)| checked.head.position > position) {
            let at = checked.head.position;
            let what = format!("the log ends here, the store's own checkpoint is of {at} events: history is missing");
            return Err(Broken { file: Some(file), offset: None, position, what });
        }
        if let Some((file, served)) = self.served {
            let at = served.position;
            let what = format!("the log ends here, the served digests are of {at} events: history is missing");
            return Err(Broken { file: Some(file), offset: None, position, what });
        }
        let root: NodeHash = self.frontier.root();
        let newest = self.signed_sizes.last().copied().unwrap_or(0);
        Ok(Report {
            origin: keys.origin().to_owned(),
            key_pinned,
            key_rotations: keys.rotations() as u64,
            key_rotation_unfinished: false,
            commits: self.commits.0,
            events: position.0,
            teams: self.history.teams(),
            live_credentials: self.history.live(),
            seals: self.seals.count(),
            sealed_through: self.seals.through().0,
            root: root.to_string(),
            signed_sizes: self.signed_sizes,
            unsigned_events: position.0 - newest,
            digests_position: self.digests_position,
            witnessed: None,
            tiles_size: None,
            live,
        })
    }
}
