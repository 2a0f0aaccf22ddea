//! One team's part of a log, for questions on a running ledger: nothing of another team can get into an answer, and only
//! the team's own commits are read.

use std::{sync::Arc, time::Duration};

use keyledger_events::{
    Commit, CommitNumber, Position, Timestamp,
    store::{Follow, Head, ReadError, ReadLog},
};

use crate::{
    Point, ReplayError,
    point::{Moment, ResolvedMoment},
};

/// The commits of one team, whose numbers a projection of the whole ledger has. Positions stay those of the whole log.
pub struct TeamLog {
    log: Arc<dyn ReadLog>,
    /// Ascending.
    numbers: Arc<[CommitNumber]>,
    head: Head,
}

impl TeamLog {
    /// The part of `log` up to `head` that `numbers` name: all of the team's commits up to there, in ascending order.
    pub fn new(log: Arc<dyn ReadLog>, head: Head, mut numbers: Vec<CommitNumber>) -> Self {
        numbers.truncate(numbers.partition_point(|number| *number < head.commits));
        Self { log, numbers: numbers.into(), head }
    }

    /// A moment with both its times, as a question to the whole log would resolve it. Of other teams this tells how many
    /// events there were and when, which signed tree heads tell everybody.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn resolve(&self, moment: Moment) -> Result<ResolvedMoment, ReplayError> {
        let (known_at, recorded_at) = match moment.known_at {
            Some(asked) => self.end_of(asked)?,
            None => (self.head.position.0.checked_sub(1).map(Position), self.head.recorded_at),
        };
        Ok(ResolvedMoment { at: moment.at.unwrap_or(recorded_at), known_at })
    }

    /// A point to compare with another: of an instant, `known_at` is the last position recorded by then.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn point(&self, point: Point) -> Result<ResolvedMoment, ReplayError> {
        match point {
            Point::Position(_) => self.resolve(point.into()),
            Point::Instant(at) => Ok(ResolvedMoment { at, known_at: self.last_by(at)? }),
        }
    }

    /// The last position of the commit that holds `asked`, and when that was recorded.
    fn end_of(&self, asked: Position) -> Result<(Option<Position>, Timestamp), ReplayError> {
        let beyond = || ReplayError::NoPosition { asked, events: self.head.position.0 };
        if asked >= self.head.position {
            return Err(beyond());
        }
        let number = self.log.locate(asked)?.ok_or_else(beyond)?;
        let commit = self.log.commit(number)?.ok_or_else(beyond)?;
        Ok((commit.end().0.checked_sub(1).map(Position), crate::walk::recorded_at(&commit)?))
    }

    /// The last position recorded at or before `at`. Recorded times never go back, so the log is halved.
    fn last_by(&self, at: Timestamp) -> Result<Option<Position>, ReplayError> {
        let (mut from, mut to, mut last) = (0, self.head.commits.0, None);
        while from < to {
            let middle = from + (to - from) / 2;
            let Some(commit) = self.log.commit(CommitNumber(middle))? else { break };
            if crate::walk::recorded_at(&commit)? <= at {
                last = commit.end().0.checked_sub(1).map(Position);
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        Ok(last)
    }
}

impl ReadLog for TeamLog {
    /// The whole log's.
    fn head(&self) -> Head {
        self.head
    }

    /// Only the team's.
    fn commit(&self, number: CommitNumber) -> Result<Option<Commit>, ReadError> {
        if self.numbers.binary_search(&number).is_ok() { self.log.commit(number) } else { Ok(None) }
    }

    /// Only the team's.
    fn locate(&self, position: Position) -> Result<Option<CommitNumber>, ReadError> {
        Ok(self.log.locate(position)?.filter(|number| self.numbers.binary_search(number).is_ok()))
    }

    /// The team's commits that there were when this was made. It never waits.
    fn follow(&self, from: CommitNumber) -> Result<Box<dyn Follow>, ReadError> {
        let next = self.numbers.partition_point(|number| *number < from);
        Ok(Box::new(TeamFollow { log: self.log.clone(), numbers: self.numbers.clone(), next }))
    }
}

struct TeamFollow {
    log: Arc<dyn ReadLog>,
    numbers: Arc<[CommitNumber]>,
    next: usize,
}

impl Follow for TeamFollow {
    fn next(&mut self, _wait: Duration) -> Result<Option<Commit>, ReadError> {
        let Some(number) = self.numbers.get(self.next) else { return Ok(None) };
        let commit = self.log.commit(*number)?;
        self.next += usize::from(commit.is_some());
        Ok(commit)
    }
}
