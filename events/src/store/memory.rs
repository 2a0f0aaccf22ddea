//! A log in memory: for tests, and the plainest reading of the contract.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    AppendError, Appended, Follow, Head, Proposal, ReadError, ReadLog, Store, Ticket,
    sequence::{Books, Pending, Prepared},
};
use crate::{Commit, CommitNumber, Position, TeamId, record::StreamHead};

/// A log that lasts as long as its last clone: "durable" means "in the vector". Clones share it.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Shared>);

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    grown: Condvar,
}

#[derive(Default)]
struct Log {
    books: Books,
    commits: Vec<Commit>,
}

impl MemoryStore {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    fn try_append(&self, proposal: Proposal) -> Result<Appended, AppendError> {
        let prepared = Prepared::new(proposal)?;
        let log = &mut *self.0.lock();
        let mut pending = Pending::behind(&log.books);
        let at = pending.judge(&log.books, &prepared)?;
        if !at.repeated {
            pending.push(&prepared, at);
            log.commits.push(Commit { number: at.number, first_position: at.first_position, body: prepared.body });
            log.books.settle(&mut pending);
            self.0.grown.notify_all();
        }
        Ok(at)
    }
}

impl Shared {
    /// The log; a panic in another thread left it whole, as nothing in a critical section fails half-way.
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadLog for MemoryStore {
    fn head(&self) -> Head {
        self.0.lock().books.head
    }

    fn commit(&self, number: CommitNumber) -> Result<Option<Commit>, ReadError> {
        Ok(self.0.lock().commits.get(number.0 as usize).cloned())
    }

    fn locate(&self, position: Position) -> Result<Option<CommitNumber>, ReadError> {
        let log = self.0.lock();
        let within = position < log.books.head.position;
        Ok(within.then(|| {
            let after = log.commits.partition_point(|commit| commit.first_position <= position);
            CommitNumber(after as u64 - 1)
        }))
    }

    fn follow(&self, from: CommitNumber) -> Result<Box<dyn Follow>, ReadError> {
        Ok(Box::new(MemoryFollow { shared: self.0.clone(), next: from }))
    }
}

impl Store for MemoryStore {
    fn submit(&self, proposal: Proposal) -> Ticket {
        Ticket::settled(self.try_append(proposal))
    }

    fn stream_head(&self, team: TeamId) -> Result<Option<StreamHead>, ReadError> {
        Ok(self.0.lock().books.streams.get(&team).copied())
    }
}

struct MemoryFollow {
    shared: Arc<Shared>,
    next: CommitNumber,
}

impl Follow for MemoryFollow {
    fn next(&mut self, wait: Duration) -> Result<Option<Commit>, ReadError> {
        let deadline = Instant::now().checked_add(wait);
        let mut log = self.shared.lock();
        loop {
            if let Some(commit) = log.commits.get(self.next.0 as usize) {
                self.next = self.next.next();
                return Ok(Some(commit.clone()));
            }
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            log = self.shared.grown.wait_timeout(log, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_contract() {
        crate::store::contract::run(|| Box::new(MemoryStore::new()));
    }
}
