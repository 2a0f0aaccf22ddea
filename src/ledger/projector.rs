//! Follows the log, applies each commit once and in order, and lets the answers go that waited for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keyledger_events::{
    CommitNumber, Position,
    store::{Follow, Store},
};
use keyledger_projections::Projections;
use tokio::sync::{oneshot, watch};

use super::{Health, LedgerError, Observer, Written};
use crate::http::metrics::Metrics;

/// How long the projector sleeps at the log's end before it looks whether it is still wanted.
const IDLE: Duration = Duration::from_millis(100);

type Reply = oneshot::Sender<Result<Written, LedgerError>>;

/// An answer that may be given once the projector has got to a position.
type Waiting = (Position, Reply, Result<Written, LedgerError>);

/// Answers that wait for the projector.
pub(super) struct Answers {
    waiting: Mutex<VecDeque<Waiting>>,
    applied: watch::Sender<Position>,
}

impl Answers {
    pub(super) fn new(applied: watch::Sender<Position>) -> Self {
        Self { waiting: Mutex::default(), applied }
    }

    /// How many events are applied.
    pub(super) fn applied(&self) -> Position {
        *self.applied.borrow()
    }

    /// Sends `outcome` once so many events are applied. Called with numbers that never fall.
    pub(super) fn send_at(&self, events: Position, reply: Reply, outcome: Result<Written, LedgerError>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.applied() >= events {
            let _ = reply.send(outcome);
        } else {
            waiting.push_back((events, reply, outcome));
        }
    }

    /// Waits until so many events are applied, or the projector is gone.
    pub(super) fn wait_applied(&self, events: Position) {
        while self.applied() < events && !self.applied.is_closed() {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn advance(&self, events: Position) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.applied.send_replace(events);
        while waiting.front().is_some_and(|(needed, ..)| *needed <= events) {
            if let Some((_, reply, outcome)) = waiting.pop_front() {
                let _ = reply.send(outcome);
            }
        }
    }
}

/// Starts the projector's thread at the projections' checkpoint. It ends when nobody holds the ledger any more.
pub(super) fn start(
    store: Arc<dyn Store>,
    projections: Arc<Projections>,
    answers: Arc<Answers>,
    observers: Vec<Observer>,
    health: Arc<Health>,
) -> Result<(), keyledger_events::store::ReadError> {
    let head = store.head();
    let mut log = store.follow(head.commits)?;
    let spawned = std::thread::Builder::new().name("projector".to_owned()).spawn(move || {
        let mut next = head.commits;
        if let Err(why) = run(log.as_mut(), &projections, &answers, &observers, &health.metrics, &mut next) {
            health.fail(&why);
        }
    });
    spawned.map(drop).map_err(|error| keyledger_events::store::ReadError::Io { file: "projector thread".into(), error })
}

fn run(
    log: &mut dyn Follow,
    projections: &Projections,
    answers: &Answers,
    observers: &[Observer],
    metrics: &Metrics,
    next: &mut CommitNumber,
) -> Result<(), String> {
    loop {
        let Some(commit) = log.next(IDLE).map_err(|error| error.to_string())? else {
            if answers.applied.is_closed() {
                return Ok(());
            }
            continue;
        };
        // A gap would be a lost revocation: apply the next one or nothing.
        if commit.number != *next {
            return Err(format!("the log gave commit {} where {next} must follow", commit.number));
        }
        projections.apply(&commit).map_err(|error| error.to_string())?;
        let records: Vec<_> = commit.records().collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        observers.iter().for_each(|observer| observer(&records));
        *next = next.next();
        metrics.projected_positions.set(commit.end().0 as f64);
        answers.advance(commit.end());
    }
}
