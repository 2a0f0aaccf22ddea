//! The log: what every back end promises, and the back ends.
//!
//! The unit is the [commit](crate::commit). A back end may be one file on one machine or a replicated log that several
//! processes append to at once: nothing above this trait may assume to be the only writer. The whole contract is a test
//! suite, `contract`, that every back end runs (with the feature of that name).

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod disk;
pub mod file;
pub mod keyring;
pub mod memory;
mod sequence;

use std::{sync::mpsc, time::Duration};

use crate::{
    Commit, CommitBody, CommitNumber, OperationId, Position, TeamId, Timestamp,
    record::{ChainError, RecordError, StreamHead},
    tree::NodeHash,
};

/// How far a log has got: everything below is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// How many commits there are, and so the next one's number.
    pub commits: CommitNumber,
    /// How many events there are, and so the next one's position.
    pub position: Position,
    /// The latest recorded time in the log.
    pub recorded_at: Timestamp,
}

/// The read half of a log. Replay gets this and nothing more.
pub trait ReadLog: Send + Sync {
    /// How far the log has durably got.
    fn head(&self) -> Head;

    /// The commit with this number, from the durable part; `None` at or beyond the head.
    ///
    /// # Errors
    /// [`ReadError`]: damage is named, never skipped.
    fn commit(&self, number: CommitNumber) -> Result<Option<Commit>, ReadError>;

    /// The number of the commit that holds this position; `None` at or beyond the head.
    ///
    /// # Errors
    /// [`ReadError`].
    fn locate(&self, position: Position) -> Result<Option<CommitNumber>, ReadError>;

    /// All commits from `from` on, in order and without a gap: first history, then live ones as they become durable.
    ///
    /// # Errors
    /// [`ReadError`].
    fn follow(&self, from: CommitNumber) -> Result<Box<dyn Follow>, ReadError>;
}

/// A reader that goes through the log in order.
pub trait Follow: Send {
    /// The next commit. Waits for one at most this long at the log's end (zero: not at all), then says `None`.
    ///
    /// # Errors
    /// [`ReadError`]; the same again on every later call.
    fn next(&mut self, wait: Duration) -> Result<Option<Commit>, ReadError>;
}

/// A log that can be appended to.
pub trait Store: ReadLog {
    /// Hands a commit over and returns at once; the [`Ticket`] tells the outcome. Commits handed over one after the
    /// other by one thread are tried in that order, and one may build on another that is still under way: its
    /// `expected` is the head the other will leave.
    fn submit(&self, proposal: Proposal) -> Ticket;

    /// [`Store::submit`], then wait. On `Ok` the commit is durable: no crash and no power loss undoes it.
    ///
    /// # Errors
    /// [`AppendError`].
    fn append(&self, proposal: Proposal) -> Result<Appended, AppendError> {
        self.submit(proposal).wait()
    }

    /// The last event of a team's stream, as durable now; `None` if the team has none.
    ///
    /// # Errors
    /// [`ReadError`].
    fn stream_head(&self, team: TeamId) -> Result<Option<StreamHead>, ReadError>;
}

/// A commit on its way into the log.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The team whose stream it extends.
    pub team: TeamId,
    /// The last event of that stream, as the decision knew it.
    pub expected: Option<StreamHead>,
    /// The bytes.
    pub body: CommitBody,
    /// Whether it ends credentials: then it may use space that is kept free for just that when the disk is full.
    pub essential: bool,
}

impl Proposal {
    /// The retry identity, from the body.
    pub fn operation(&self) -> OperationId {
        self.body.view().operation()
    }
}

/// Where a commit went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its number.
    pub number: CommitNumber,
    /// Its first event's position.
    pub first_position: Position,
    /// Whether it was there already: an earlier attempt of the same operation had reached the log. What it holds is
    /// that attempt's body, not this one's.
    pub repeated: bool,
}

/// The outcome of a [`Store::submit`], once there is one.
#[derive(Debug)]
pub struct Ticket(mpsc::Receiver<Result<Appended, AppendError>>);

impl Ticket {
    /// A ticket and the end that settles it. An end dropped unsettled counts as [`AppendError::Unknown`].
    pub fn new() -> (mpsc::SyncSender<Result<Appended, AppendError>>, Self) {
        let (sender, receiver) = mpsc::sync_channel(1);
        (sender, Self(receiver))
    }

    /// A ticket that is settled already.
    pub fn settled(outcome: Result<Appended, AppendError>) -> Self {
        let (sender, ticket) = Self::new();
        let _ = sender.send(outcome);
        ticket
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn wait(self) -> Result<Appended, AppendError> {
        self.0.recv().unwrap_or(Err(AppendError::Unknown))
    }
}

/// Why an append was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The team's stream has another last event than `expected`. Nothing was written; decide again.
    #[error("the team's stream has moved on")]
    Conflict {
        /// Its last event.
        actual: Option<StreamHead>,
    },
    /// Nothing was written, and a later attempt may succeed: no room, for one.
    #[error("nothing was written: {0}")]
    NotWritten(NotWritten),
    /// Whether it was written is not known. Retry with the same operation id: it is written at most once.
    #[error("the outcome is not known; retry the same operation")]
    Unknown,
    /// The commit is longer than the log takes. Nothing was written.
    #[error("the commit has {len} bytes, the log takes {max}")]
    TooLarge {
        /// What it has.
        len: usize,
        /// What may be.
        max: usize,
    },
    /// The commit does not follow from `expected` by its own bytes, or is no commit. Nothing was written.
    #[error("the commit is not well formed: {0}")]
    Malformed(String),
    /// The log has failed and takes nothing more, by anybody, until it is opened anew.
    #[error("the log has failed: {0}")]
    Fatal(String),
}

/// Why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    /// The disk is full.
    #[error("no room on the disk")]
    Full,
    /// Something else that may pass.
    #[error("{0}")]
    Other(String),
}

/// Why a log, or a part of it, can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Bytes that are not what was written. The first bad place is named.
    #[error("{}: damaged at offset {offset}, position {position}: {what}", file.display())]
    Damaged {
        /// In which file.
        file: std::path::PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// The first position that can't be trusted.
        position: Position,
        /// What is wrong.
        what: Damage,
    },
    /// The log ends before what the ledger has signed.
    #[error("the log ends at position {found}, the signed tree head says {signed}: history is missing")]
    BehindHead {
        /// Where it ends: the first missing position.
        found: Position,
        /// How many events were signed.
        signed: u64,
    },
    /// The log has other contents than the ledger has signed.
    #[error("at size {size} the log's root is {found}, the signed tree head says {signed}: history was changed")]
    OtherRoot {
        /// The head's size.
        size: u64,
        /// What the log gives.
        found: NodeHash,
        /// What was signed.
        signed: NodeHash,
    },
    /// The signed tree head itself can't be read or is not this ledger's.
    #[error("{}: {what}", file.display())]
    TreeHead {
        /// In which file.
        file: std::path::PathBuf,
        /// What is wrong.
        what: crate::head::HeadError,
    },
    /// The certificates of the ledger's keys do not lead where they must.
    #[error("{}: {what}", file.display())]
    Keys {
        /// Where they stand.
        file: std::path::PathBuf,
        /// What is wrong.
        what: crate::rotation::RotationError,
    },
    /// The operating system refused.
    #[error("{}: {error}", file.display())]
    Io {
        /// On which file.
        file: std::path::PathBuf,
        /// What it said.
        error: std::io::Error,
    },
    /// Another process has the log open for writing.
    #[error("{}: in use by another process", file.display())]
    Locked {
        /// The lock.
        file: std::path::PathBuf,
    },
}

/// What is wrong with bytes of the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The frame's checksum does not hold, or it is cut off.
    #[error("checksum mismatch")]
    Checksum,
    /// Not a frame, a commit or a record.
    #[error("{0}")]
    Shape(String),
    /// Not the number or position that must follow.
    #[error("commit {found} where {expected} must follow")]
    Sequence {
        /// What must follow.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// A broken team chain.
    #[error("team {team}: {error}")]
    Chain {
        /// Whose.
        team: TeamId,
        /// How.
        error: ChainError,
    },
    /// Recorded time goes backwards.
    #[error("recorded at {found}, before its predecessor's {previous}")]
    Time {
        /// The one before.
        previous: Timestamp,
        /// This one.
        found: Timestamp,
    },
    /// A record that can't be decoded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Bytes behind the last whole frame.
    #[error("an unfinished write follows the last whole frame")]
    TornTail,
    /// Bytes behind the log's end, where nothing was ever written.
    #[error("bytes behind the log's end")]
    Trailing,
    /// A file of the log is missing.
    #[error("file missing")]
    Missing,
}
