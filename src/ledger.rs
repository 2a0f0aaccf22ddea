//! The one write path: decide → append → apply → answer.
//!
//! Requests queue; one sequencer thread takes what has queued up, decides each against its team's state (which includes
//! what was decided before it in the same batch), and hands the commits to the store, which makes a batch durable with
//! one sync. One projector thread follows the log and applies what is durable. An answer leaves only when the
//! projector has applied its commit, so whoever reads after it reads what it speaks of. A refusal or an idle repeat
//! waits for the batch too: it may rest on events that are not durable yet.

mod projector;
mod sequencer;

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use keyledger_events::{
    Commit, CorrelationId, OperationId, Position, TeamId, Timestamp,
    commit::{PlacedRecord, RequestDigest},
    record::{Actor, AuthMethod},
    seal::Sealed,
    store::Store,
    team::{Decision, Refusal, TeamState},
};
use keyledger_projections::Projections;
use tokio::sync::{oneshot, watch};

use self::{projector::Answers, sequencer::Sequencer};
use crate::{clock::Clock, http::metrics::Metrics};

/// How many requests may wait for the sequencer. Beyond that a request is turned away at once.
const QUEUE_LEN_MAX: usize = 4096;

/// Who asks, and in which request.
#[derive(Clone, Debug)]
pub struct Who {
    /// The actor.
    pub actor: Actor,
    /// How the actor was known.
    pub auth: AuthMethod,
    /// The request.
    pub correlation: CorrelationId,
    /// Where it came from, sealed for the person it is about.
    pub context: Option<Sealed>,
}

/// A decision on a team's state at an instant: pure, so that it may be called again.
pub type Decide = Box<dyn Fn(&TeamState, Timestamp) -> Decision + Send>;

/// One thing to decide.
pub struct Request {
    /// Whose stream it is about.
    pub team: TeamId,
    /// Who asks.
    pub who: Who,
    /// The idempotency key with the digest of what was asked, if the client sent one.
    pub idempotency: Option<(OperationId, RequestDigest)>,
    /// Whether it ends credentials: it may use what is kept free for that on a full disk.
    pub essential: bool,
    /// The decision. It is called again when another writer was faster.
    pub decide: Decide,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Written {
    /// What was appended; none if there was nothing to do.
    pub commit: Option<Commit>,
    /// Whether an earlier request with the same idempotency key had done it.
    pub repeated: bool,
    /// The last position the answer speaks of; it is durable and applied.
    pub position: Position,
}

impl Written {
    /// The events of the commit, in order; none if there is none.
    pub fn records(&self) -> impl Iterator<Item = PlacedRecord> + '_ {
        // The bytes were decoded when they were projected; what does not decode there stops the ledger.
        self.commit.iter().flat_map(|commit| commit.records().flatten())
    }
}

/// Why a write was not done, or is not known to be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// The decision was no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The idempotency key was used for another request.
    #[error("this idempotency key was used for another request")]
    KeyReused,
    /// The disk is full.
    #[error("the disk is full; nothing was written")]
    Full,
    /// Too much is waiting, or the team is written to from elsewhere faster than we decide. Nothing was written.
    #[error("the ledger is busy; nothing was written")]
    Busy,
    /// More events than one commit takes.
    #[error("this decision is larger than one commit may be; decide on fewer keys at once")]
    TooLarge,
    /// The outcome is not known. A retry with the same idempotency key tells it.
    #[error("the outcome is not known; retry with the same idempotency key")]
    Unknown,
    /// The decision contradicts the team's own history: a defect of this program. Nothing was written.
    #[error("the decision was not sound; nothing was written")]
    Unsound,
    /// The log takes nothing more; the process is about to exit.
    #[error("the ledger has failed")]
    Failed,
}

/// The handle to the write path. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    jobs: mpsc::SyncSender<Job>,
    applied: watch::Receiver<Position>,
    failure: watch::Receiver<Option<String>>,
    answer_within: Duration,
}

/// Told of every commit's events once they are applied, in order, on the projector's thread, before the write is answered.
pub type Observer = Box<dyn Fn(&[PlacedRecord]) + Send>;

impl Ledger {
    /// Starts sequencer and projector. `projections` must stand at the log's head; they are applied to from here only.
    pub fn start(
        store: Arc<dyn Store>,
        projections: Arc<Projections>,
        clock: Arc<Clock>,
        observers: Vec<Observer>,
        metrics: Arc<Metrics>,
        answer_within: Duration,
    ) -> Result<Self, keyledger_events::store::ReadError> {
        let (jobs, queue) = mpsc::sync_channel(QUEUE_LEN_MAX);
        let (applied_sender, applied) = watch::channel(store.head().position);
        let (failure_sender, failure) = watch::channel(None);
        let health = Arc::new(Health { failure: failure_sender, metrics });
        let answers = Arc::new(Answers::new(applied_sender));
        projector::start(store.clone(), projections.clone(), answers.clone(), observers, health.clone())?;
        Sequencer::new(store, projections, clock, answers, health)?.start(queue);
        Ok(Self { jobs, applied, failure, answer_within })
    }

    /// Decides, appends, applies.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn write(&self, request: Request) -> Result<Written, LedgerError> {
        if self.has_failed() {
            return Err(LedgerError::Failed);
        }
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job { request, reply, attempts: 0 }).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => LedgerError::Busy,
            mpsc::TrySendError::Disconnected(_) => LedgerError::Failed,
        })?;
        match tokio::time::timeout(self.answer_within, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(LedgerError::Unknown),
        }
    }

    /// The last position that is durable and applied; `None` while the log is empty.
    pub fn position(&self) -> Option<Position> {
        self.applied.borrow().0.checked_sub(1).map(Position)
    }

    /// Waits until this position is applied, at most so long; whether it is.
    pub async fn wait_for(&self, position: Position, at_most: Duration) -> bool {
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| applied.0 > position.0);
        matches!(tokio::time::timeout(at_most, reached).await, Ok(Ok(_)))
    }

    /// Whether the log has failed.
    pub fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Resolves when the log has failed, with what it said: the process must exit.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let said = failure.wait_for(Option::is_some).await.ok().and_then(|said| said.clone());
        said.unwrap_or_else(|| "the write path has stopped".to_owned())
    }
}

/// What both threads report to: counters, and the failure that ends the process.
struct Health {
    failure: watch::Sender<Option<String>>,
    metrics: Arc<Metrics>,
}

impl Health {
    fn fail(&self, why: &dyn std::fmt::Display) {
        tracing::error!(%why, "the ledger has failed");
        self.metrics.log_poisoned.set(1);
        self.failure.send_replace(Some(why.to_string()));
    }
}

/// A request with its way back.
struct Job {
    request: Request,
    reply: oneshot::Sender<Result<Written, LedgerError>>,
    attempts: u32,
}

impl Job {
    fn answer(self, outcome: Result<Written, LedgerError>) {
        // Nobody may be waiting any more; the outcome stands all the same.
        let _ = self.reply.send(outcome);
    }
}
