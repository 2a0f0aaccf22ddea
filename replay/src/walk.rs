//! Going through a log from its beginning, once, in order.

use std::{ops::ControlFlow, sync::mpsc, thread, time::Duration};

use keyledger_events::{
    Commit, CommitNumber, Position, Revision, Timestamp,
    record::{RecordError, RecordHeader, StreamHead},
    store::{Follow, ReadError, ReadLog},
};

use crate::point::{Moment, ResolvedMoment};

/// Told how many of how many units are done: events, or bytes where a function says so. Called from any thread, often
/// enough for a progress bar.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Tells nobody.
pub fn quiet(_done: u64, _total: u64) {}

/// How many commits pass between two calls of a [`Progress`].
const PROGRESS_COMMITS: u64 = 4096;
/// How many commits are handed over at once, and how many such batches may wait: a few MB.
const BATCH_COMMITS: usize = 512;
const BATCHES_AHEAD: usize = 4;

/// Why a question about history has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An event can't be read.
    #[error("position {position}: {error}")]
    Record {
        /// Where.
        position: Position,
        /// Why.
        error: RecordError,
    },
    /// The log has not got there.
    #[error("there is no position {asked}: the log has {events} events")]
    NoPosition {
        /// What was asked for.
        asked: Position,
        /// How many there are.
        events: u64,
    },
    /// No credential of that name was ever issued, as far as may be known.
    #[error("no credential {0} in this log")]
    NoCredential(String),
    /// Several credentials share the prefix.
    #[error("several credentials begin with {0}; name one by its id")]
    Ambiguous(String),
    /// The second point lies before the first.
    #[error("the second point lies before the first")]
    Backwards,
    /// A policy that does nothing.
    #[error("the policy has no rule: give a longest lifetime, an idle time, or what a departure ends")]
    NoRule,
    /// A question about uses, where none are known.
    #[error("when credentials were last used is not known here, so nobody can say which of them were idle")]
    NoUsage,
}

/// Hands over every commit that `moment` may know of, in order, until `visit` breaks off.
pub(crate) fn commits(
    log: &dyn ReadLog,
    moment: Moment,
    progress: Progress<'_>,
    mut visit: impl FnMut(&Commit) -> Result<ControlFlow<()>, ReplayError>,
) -> Result<(), ReplayError> {
    // The end is fixed now: a log that a server is appending to would else never end.
    let head = log.head();
    let events = head.position.0;
    if let Some(asked) = moment.known_at.filter(|asked| asked.0 >= events) {
        return Err(ReplayError::NoPosition { asked, events });
    }
    let total = moment.known_at.map_or(events, |last| last.0 + 1);
    let follow = log.follow(CommitNumber(0))?;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(BATCHES_AHEAD);
        scope.spawn(move || read(follow, total, &sender));
        // Dropped with this closure, the receiver tells the reader that nobody wants more.
        for batch in receiver {
            for commit in batch? {
                if commit.number.0 % PROGRESS_COMMITS == 0 {
                    progress(commit.end().0.min(total), total);
                }
                if visit(&commit)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    })
    .inspect(|()| progress(total, total))
}

/// Reads ahead of whoever visits: checking the frames takes as long as folding what they hold.
fn read(mut follow: Box<dyn Follow>, total: u64, sender: &mpsc::SyncSender<Result<Vec<Commit>, ReadError>>) {
    let mut done = 0;
    while done < total {
        let mut batch = Vec::with_capacity(BATCH_COMMITS);
        let mut failed = None;
        while done < total && batch.len() < BATCH_COMMITS {
            match follow.next(Duration::ZERO) {
                // A log that shows a part only has gaps.
                Ok(Some(commit)) if commit.first_position.0 < total => {
                    done = commit.end().0;
                    batch.push(commit);
                }
                Ok(_) => done = total,
                Err(error) => {
                    done = total;
                    failed = Some(error);
                }
            }
        }
        // What was read before the damage is visited first: the answer may lie there.
        if sender.send(Ok(batch)).is_err() || failed.is_some_and(|error| sender.send(Err(error)).is_err()) {
            return;
        }
    }
}

/// Keeps what a [`ResolvedMoment`] needs while commits go by.
#[derive(Default)]
pub(crate) struct Clock {
    last: Option<(Position, Timestamp)>,
}

impl Clock {
    /// Takes note of a commit.
    pub(crate) fn tick(&mut self, commit: &Commit, recorded_at: Timestamp) {
        self.last = Some((Position(commit.end().0 - 1), recorded_at));
    }

    /// Both times of `moment`, if the noted commits are all it may know of.
    pub(crate) fn resolve(&self, moment: Moment) -> ResolvedMoment {
        let (known_at, recorded_at) = self.last.unzip();
        ResolvedMoment { at: moment.at.or(recorded_at).unwrap_or_default(), known_at }
    }
}

/// A commit's recorded time.
pub(crate) fn recorded_at(commit: &Commit) -> Result<Timestamp, ReplayError> {
    first(commit).map(|header| header.recorded_at)
}

/// The header of a commit's first record.
pub(crate) fn first(commit: &Commit) -> Result<RecordHeader, ReplayError> {
    let position = commit.first_position;
    commit.body.view().first().map_err(|error| ReplayError::Record { position, error })
}

/// Where a commit leaves its team's stream.
pub(crate) fn left(commit: &Commit, first: &RecordHeader) -> StreamHead {
    let view = commit.body.view();
    let hash = view.records().last().map(|record| record.hash()).unwrap_or_default();
    StreamHead { revision: Revision(first.revision.0 + view.count() - 1), hash }
}
