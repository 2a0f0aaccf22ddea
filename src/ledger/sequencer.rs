//! Decides what has queued up, a batch at a time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroUsize,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use keyledger_events::{
    Commit, CommitBody, CommitNumber, EventId, OperationId, Position, TeamId, Timestamp,
    commit::{Envelope, NewEvent, RequestDigest},
    store::{AppendError, Appended, NotWritten, Proposal, ReadError, Store, Ticket},
    team::{Fact, TeamState},
};
use keyledger_projections::Projections;
use lru::LruCache;

use super::{Health, Job, LedgerError, Written, projector::Answers};
use crate::{clock::Clock, random};

/// How many requests one batch takes: enough to share a sync, few enough to answer soon.
const BATCH_LEN_MAX: usize = 512;
/// How often a request is decided again because another writer was faster.
const ATTEMPTS_MAX: u32 = 8;
/// How many teams' states are kept between requests; a state is folded from the log again when it is needed.
const TEAMS_KEPT: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// How many of the newest commits' idempotency keys are remembered.
const OPERATIONS_KEPT: usize = 65_536;
/// How often the store is asked again for an outcome that is not known.
const OUTCOME_ASKED_MAX: u32 = 3;

/// Owns the decision states. Nobody else decides in this process; another process may, and the store then says
/// [`AppendError::Conflict`].
pub(super) struct Sequencer {
    store: Arc<dyn Store>,
    projections: Arc<Projections>,
    clock: Arc<Clock>,
    answers: Arc<Answers>,
    health: Arc<Health>,
    teams: LruCache<TeamId, TeamState>,
    operations: Operations,
}

/// A request that has been decided and waits for the store.
enum Decided {
    /// A commit is under way.
    Submitted { job: Job, proposal: Proposal, ticket: Ticket },
    /// There is nothing to append; the answer still waits for what it rests on.
    Settled { job: Job, outcome: Result<Written, LedgerError> },
}

impl Sequencer {
    pub(super) fn new(
        store: Arc<dyn Store>,
        projections: Arc<Projections>,
        clock: Arc<Clock>,
        answers: Arc<Answers>,
        health: Arc<Health>,
    ) -> Result<Self, ReadError> {
        let operations = Operations::load(store.as_ref())?;
        let teams = LruCache::new(TEAMS_KEPT);
        Ok(Self { store, projections, clock, answers, health, teams, operations })
    }

    /// Works until every handle to the queue is gone.
    pub(super) fn start(mut self, queue: mpsc::Receiver<Job>) {
        let health = self.health.clone();
        let spawned = std::thread::Builder::new().name("sequencer".to_owned()).spawn(move || {
            let mut again = VecDeque::new();
            loop {
                if again.is_empty() {
                    match queue.recv() {
                        Ok(job) => again.push_back(job),
                        Err(_) => return,
                    }
                }
                let room = BATCH_LEN_MAX.saturating_sub(again.len());
                again.extend(queue.try_iter().take(room));
                again = self.batch(again);
            }
        });
        if let Err(error) = spawned {
            health.fail(&error);
        }
    }

    /// Decides and appends a batch; what must be decided again comes back.
    fn batch(&mut self, jobs: VecDeque<Job>) -> VecDeque<Job> {
        let mut again = VecDeque::new();
        let mut under_way = HashSet::new();
        let mut decided = Vec::with_capacity(jobs.len());
        let alone = jobs.len() == 1;
        for job in jobs {
            // The same idempotency key twice in a batch: the second learns the first's outcome in the next round.
            if job.request.idempotency.is_some_and(|(operation, _)| !under_way.insert(operation)) {
                again.push_back(job);
                continue;
            }
            decided.push(self.decide(job, alone));
        }
        // What was decided may rest on anything that is durable, also where the projector has not got to yet.
        let mut durable = self.store.head().position;
        let began = Instant::now();
        let mut failed_teams = HashSet::new();
        for entry in decided {
            match entry {
                // It may rest on events of this batch that did not become durable.
                Decided::Settled { job, .. } if failed_teams.contains(&job.request.team) => again.push_back(job),
                Decided::Settled { job, outcome } => {
                    let outcome = outcome.map(|written| Written { position: last(durable), ..written });
                    self.answers.send_at(durable, job.reply, outcome);
                }
                Decided::Submitted { job, proposal, ticket } => match self.outcome(&proposal, ticket) {
                    Ok((commit, repeated)) => {
                        durable = durable.max(commit.end());
                        if repeated {
                            self.teams.pop(&proposal.team);
                        }
                        self.operations.remember(&commit);
                        self.count(&commit, began.elapsed());
                        let position = last(commit.end());
                        let written = Written { commit: Some(commit), repeated, position };
                        self.answers.send_at(durable, job.reply, Ok(written));
                    }
                    Err(error) => {
                        self.teams.pop(&proposal.team);
                        failed_teams.insert(proposal.team);
                        match self.refused(error) {
                            None if job.attempts < ATTEMPTS_MAX => {
                                again.push_back(Job { attempts: job.attempts + 1, ..job });
                            }
                            error => job.answer(Err(error.unwrap_or(LedgerError::Busy))),
                        }
                    }
                },
            }
        }
        again
    }

    fn count(&self, commit: &Commit, took: Duration) {
        let metrics = &self.health.metrics;
        metrics.commits_appended.increment(1);
        metrics.events_appended.increment(commit.body.view().count());
        metrics.append_seconds.record(took);
        metrics.log_positions.set(commit.end().0 as f64);
    }

    fn decide(&mut self, job: Job, alone: bool) -> Decided {
        match self.try_decide(&job) {
            Ok(Ok(proposal)) => {
                // With nobody to share a sync, the store may do it on this thread.
                let ticket = match alone {
                    true => Ticket::settled(self.store.append(proposal.clone())),
                    false => self.store.submit(proposal.clone()),
                };
                Decided::Submitted { job, proposal, ticket }
            }
            Ok(Err(outcome)) => Decided::Settled { job, outcome: Ok(outcome) },
            Err(outcome) => Decided::Settled { job, outcome: Err(outcome) },
        }
    }

    /// A proposal; or what is answered without one.
    fn try_decide(&mut self, job: &Job) -> Result<Result<Proposal, Written>, LedgerError> {
        let request = &job.request;
        if let Some((operation, digest)) = request.idempotency
            && let Some((known, number)) = self.operations.get(operation)
        {
            if known != digest {
                return Err(LedgerError::KeyReused);
            }
            let commit = self.store.commit(number).map_err(|error| self.fail(&error))?;
            return Ok(Err(Written { commit, repeated: true, position: Position(0) }));
        }
        self.load(request.team)?;
        let log_time = self.store.head().recorded_at;
        let Some(team) = self.teams.get_mut(&request.team) else { return Err(LedgerError::Busy) };
        let now = self.clock.now().max(log_time).max(team.recorded_at);
        let facts = (request.decide)(team, now)?;
        if facts.is_empty() {
            return Ok(Err(Written { commit: None, repeated: false, position: Position(0) }));
        }
        let (operation, digest) =
            request.idempotency.unwrap_or_else(|| (OperationId::from(random::uuid_v7(now)), RequestDigest::default()));
        let envelope = Envelope {
            team: request.team,
            recorded_at: now,
            actor: request.who.actor,
            auth: request.who.auth,
            correlation: request.who.correlation,
            context: request.who.context.clone(),
            operation,
            request: digest,
        };
        let expected = team.head;
        let (body, _) = CommitBody::build(expected, &envelope, name_events(facts, now));
        if let Err(why) = fold(team, &body) {
            // The log must not take what no reader could follow.
            tracing::error!(why, "a decision contradicts its team's history");
            self.teams.pop(&request.team);
            return Err(LedgerError::Unsound);
        }
        Ok(Ok(Proposal { team: request.team, expected, body, essential: request.essential }))
    }

    /// Makes sure the team's state is there, folded from the log if need be.
    fn load(&mut self, team: TeamId) -> Result<(), LedgerError> {
        if self.teams.contains(&team) {
            return Ok(());
        }
        // What is durable but not projected yet is missing from the stream's list of commits.
        self.answers.wait_applied(self.store.head().position);
        let mut state = TeamState::default();
        for number in self.projections.team_commits(team) {
            let commit = self.store.commit(number).map_err(|error| self.fail(&error))?;
            let Some(commit) = commit else { continue };
            fold(&mut state, &commit.body).map_err(|why| self.fail(&why))?;
        }
        self.teams.put(team, state);
        Ok(())
    }

    /// Waits for the store. An outcome it does not know is asked for again under the same operation id.
    fn outcome(&self, proposal: &Proposal, ticket: Ticket) -> Result<(Commit, bool), AppendError> {
        let mut outcome = ticket.wait();
        for _ in 0..OUTCOME_ASKED_MAX {
            if !matches!(outcome, Err(AppendError::Unknown)) {
                break;
            }
            outcome = self.store.append(proposal.clone());
        }
        let Appended { number, first_position, repeated } = outcome?;
        if !repeated {
            return Ok((Commit { number, first_position, body: proposal.body.clone() }, false));
        }
        match self.store.commit(number) {
            // Our own earlier attempt, whose outcome got lost: it is the first time for whoever asked.
            Ok(Some(commit)) => {
                let repeated = commit.body != proposal.body;
                Ok((commit, repeated))
            }
            Ok(None) => Err(AppendError::Unknown),
            Err(error) => Err(AppendError::Fatal(error.to_string())),
        }
    }

    /// What to tell the caller; `None`: decide again.
    fn refused(&self, error: AppendError) -> Option<LedgerError> {
        Some(match error {
            AppendError::Conflict { .. } => return None,
            AppendError::NotWritten(NotWritten::Full) => LedgerError::Full,
            AppendError::NotWritten(NotWritten::Other(_)) => LedgerError::Busy,
            AppendError::Unknown => LedgerError::Unknown,
            AppendError::TooLarge { .. } => LedgerError::TooLarge,
            AppendError::Malformed(_) | AppendError::Fatal(_) => self.fail(&error),
        })
    }

    fn fail(&self, why: &dyn std::fmt::Display) -> LedgerError {
        self.health.fail(why);
        LedgerError::Failed
    }
}

/// Gives the facts ids and salts, and turns the indices of their causes into ids.
fn name_events(facts: Vec<Fact>, now: Timestamp) -> Vec<NewEvent> {
    let ids: Vec<EventId> = facts.iter().map(|_| EventId::from(random::uuid_v7(now))).collect();
    facts
        .into_iter()
        .zip(&ids)
        .map(|(fact, id)| NewEvent {
            id: *id,
            salt: random::bytes(),
            cause: fact.cause.and_then(|index| ids.get(index).copied()),
            event: fact.event,
        })
        .collect()
}

fn fold(state: &mut TeamState, body: &CommitBody) -> Result<(), String> {
    let commit = Commit { number: CommitNumber(0), first_position: Position(0), body: body.clone() };
    for placed in commit.records() {
        let placed = placed.map_err(|error| error.to_string())?;
        state.apply(&placed.record, placed.hash).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn last(events: Position) -> Position {
    Position(events.0.saturating_sub(1))
}

/// The idempotency keys of the newest commits.
#[derive(Default)]
struct Operations {
    known: HashMap<OperationId, (RequestDigest, CommitNumber)>,
    oldest_first: VecDeque<OperationId>,
}

impl Operations {
    fn load(store: &dyn Store) -> Result<Self, ReadError> {
        let mut operations = Self::default();
        let end = store.head().commits;
        // In one go: asking for each would read it, and check it, with calls of its own.
        let mut newest = store.follow(CommitNumber(end.0.saturating_sub(OPERATIONS_KEPT as u64)))?;
        while let Some(commit) = newest.next(Duration::ZERO)? {
            operations.remember(&commit);
            if commit.number.next() >= end {
                break;
            }
        }
        Ok(operations)
    }

    fn get(&self, operation: OperationId) -> Option<(RequestDigest, CommitNumber)> {
        self.known.get(&operation).copied()
    }

    fn remember(&mut self, commit: &Commit) {
        let view = commit.body.view();
        if view.request() == RequestDigest::default() {
            return;
        }
        if self.known.insert(view.operation(), (view.request(), commit.number)).is_none() {
            self.oldest_first.push_back(view.operation());
        }
        if self.oldest_first.len() > OPERATIONS_KEPT
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
