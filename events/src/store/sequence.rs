//! What decides whether a proposal is the log's next commit: the same for every back end of one writer.
//!
//! A proposal is first checked by its own bytes ([`Prepared`], on the caller's thread), then against the durable log
//! ([`Books`]) and what is already on its way into it ([`Pending`]).

use std::collections::{HashMap, VecDeque};

use super::{AppendError, Appended, Head, NotWritten, Proposal};
use crate::{
    CommitBody, OperationId, Record, RecordHash, TeamId, Timestamp,
    commit::COMMIT_LEN_MAX,
    record::{RecordHeader, StreamHead, follow_chain},
};

/// How many of the newest commits are remembered by operation id.
pub(crate) const OPERATIONS_MAX: usize = 65_536;

/// A proposal that is well formed by its own bytes: one team, every record decodable, chained behind `expected`.
pub(crate) struct Prepared {
    pub team: TeamId,
    pub expected: Option<StreamHead>,
    /// The stream's head once this is appended.
    pub after: StreamHead,
    pub recorded_at: Timestamp,
    pub operation: OperationId,
    /// Of each record, in order.
    pub hashes: Box<[RecordHash]>,
    pub body: CommitBody,
    pub essential: bool,
}

impl Prepared {
    /// Checks everything that does not depend on the log.
    pub fn new(proposal: Proposal) -> Result<Self, AppendError> {
        let Proposal { team, expected, body, essential } = proposal;
        let len = body.bytes().len();
        if len > COMMIT_LEN_MAX {
            return Err(AppendError::TooLarge { len, max: COMMIT_LEN_MAX });
        }
        let view = body.view();
        let (mut head, mut recorded_at) = (expected, Timestamp::default());
        let mut hashes = Vec::with_capacity(view.count() as usize);
        for record in view.records() {
            let header = RecordHeader::decode(record.bytes()).map_err(malformed)?;
            if header.team != team {
                return Err(AppendError::Malformed(format!("an event of team {} for team {team}", header.team)));
            }
            follow_chain(head, &header).map_err(malformed)?;
            // What can't be read back must not get in: it would stop every reader for ever.
            Record::decode(record.bytes()).map_err(malformed)?;
            let hash = record.hash();
            hashes.push(hash);
            head = Some(StreamHead { revision: header.revision, hash });
            recorded_at = header.recorded_at;
        }
        let after = head.filter(|_| !hashes.is_empty()).ok_or_else(|| malformed("no events"))?;
        let operation = view.operation();
        Ok(Self { team, expected, after, recorded_at, operation, hashes: hashes.into(), body, essential })
    }

    /// How many events.
    pub fn count(&self) -> u64 {
        self.hashes.len() as u64
    }
}

fn malformed(why: impl ToString) -> AppendError {
    AppendError::Malformed(why.to_string())
}

/// What the durable log says: changed only by what has become durable.
#[derive(Default)]
pub(crate) struct Books {
    pub head: Head,
    pub streams: HashMap<TeamId, StreamHead>,
    pub operations: Operations,
}

impl Books {
    /// Takes over what has become durable.
    pub fn settle(&mut self, pending: &mut Pending) {
        self.head = pending.head;
        self.streams.extend(pending.streams.drain());
        for (operation, at) in pending.order.drain(..) {
            self.operations.insert(operation, at);
        }
        pending.operations.clear();
    }
}

/// What is on its way into the log, in front of the [`Books`]. Owned by the one writer.
#[derive(Default)]
pub(crate) struct Pending {
    pub head: Head,
    streams: HashMap<TeamId, StreamHead>,
    operations: HashMap<OperationId, Appended>,
    order: Vec<(OperationId, Appended)>,
}

impl Pending {
    /// Nothing under way behind these books.
    pub fn behind(books: &Books) -> Self {
        Self { head: books.head, ..Self::default() }
    }

    /// Whether `prepared` is the log's next commit; [`Appended::repeated`] if its operation is in the log or on its
    /// way already. Changes nothing.
    pub fn judge(&self, books: &Books, prepared: &Prepared) -> Result<Appended, AppendError> {
        let known = self.operations.get(&prepared.operation).copied();
        if let Some(first) = known.or_else(|| books.operations.get(prepared.operation)) {
            return Ok(Appended { repeated: true, ..first });
        }
        let actual = self.streams.get(&prepared.team).or_else(|| books.streams.get(&prepared.team)).copied();
        if actual != prepared.expected {
            return Err(AppendError::Conflict { actual });
        }
        if prepared.recorded_at < self.head.recorded_at {
            return Err(AppendError::NotWritten(NotWritten::Other(format!(
                "recorded at {}, before the log's {}",
                prepared.recorded_at, self.head.recorded_at
            ))));
        }
        Ok(Appended { number: self.head.commits, first_position: self.head.position, repeated: false })
    }

    /// Drops everything under way: it did not get into the log.
    pub fn reset(&mut self, books: &Books) {
        self.head = books.head;
        self.streams.clear();
        self.operations.clear();
        self.order.clear();
    }

    /// Takes the place that [`Pending::judge`] gave.
    pub fn push(&mut self, prepared: &Prepared, at: Appended) {
        self.head.commits.0 += 1;
        self.head.position.0 += prepared.count();
        self.head.recorded_at = prepared.recorded_at;
        self.streams.insert(prepared.team, prepared.after);
        self.operations.insert(prepared.operation, at);
        self.order.push((prepared.operation, at));
    }
}

/// Where the newest commits' operations went.
#[derive(Default)]
pub(crate) struct Operations {
    places: HashMap<OperationId, Appended>,
    order: VecDeque<OperationId>,
}

impl Operations {
    /// The first outcome of this operation, if it is among the newest.
    pub fn get(&self, operation: OperationId) -> Option<Appended> {
        self.places.get(&operation).copied()
    }

    /// Remembers an operation, and forgets the oldest beyond [`OPERATIONS_MAX`].
    pub fn insert(&mut self, operation: OperationId, at: Appended) {
        if self.places.insert(operation, at).is_none() {
            self.order.push_back(operation);
        }
        if self.order.len() > OPERATIONS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommitNumber, Position};

    #[test]
    fn the_oldest_operation_is_forgotten_first() {
        let mut operations = Operations::default();
        let id = |n: u128| OperationId::from_bytes(n.to_be_bytes());
        for n in 0..=OPERATIONS_MAX as u128 {
            let at = Appended { number: CommitNumber(n as u64), first_position: Position(0), repeated: false };
            operations.insert(id(n), at);
        }
        assert_eq!(operations.get(id(0)), None);
        assert_eq!(operations.get(id(1)).map(|at| at.number), Some(CommitNumber(1)));
        assert_eq!(operations.places.len(), OPERATIONS_MAX);
    }
}
