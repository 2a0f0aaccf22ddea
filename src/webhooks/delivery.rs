//! Following: each endpoint has a task that reads its team's stream from where it stands and sends one message after
//! the other. One that is slow or gone holds up no other.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use keyledger_events::{CommitNumber, Timestamp, store::ReadError};
use tokio::task::JoinSet;

use super::{
    Endpoint, Webhooks,
    message::{Message, Subject},
    notices,
    progress::{Attempt, Parked},
    sending::{Envelope, Outcome},
};
use crate::{
    app::{App, Shared},
    random,
};

/// How often keys that end soon are looked for.
const NOTICES_EVERY: Duration = Duration::from_secs(60);
/// How often what has been said of keys that have ended is dropped.
const CLEAN_UP_EVERY: Duration = Duration::from_secs(86_400);
/// How often what waits is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// How often the endpoints are written down.
const SAVE_EVERY: Duration = Duration::from_secs(300);
/// The longest a task sleeps: clocks may jump.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// How many of a team's commits are looked up at once.
const COMMITS_AHEAD: usize = 64;
/// After so many events that nobody wanted, how far an endpoint has got is written down all the same.
const SKIPPED_MAX: u64 = 1_000;

/// Sends until the task is dropped. What was under way then is sent again.
pub async fn run(app: Shared) {
    let mut followers = JoinSet::new();
    let mut look = tokio::time::interval(NOTICES_EVERY);
    let mut clean_up = tokio::time::interval(CLEAN_UP_EVERY);
    let mut measure = tokio::time::interval(MEASURE_EVERY);
    let mut save = tokio::time::interval(SAVE_EVERY);
    let mut saved = None;
    loop {
        for endpoint in std::mem::take(&mut *app.webhooks.fresh.lock()) {
            followers.spawn(follow(app.clone(), endpoint));
        }
        tokio::select! {
            () = app.webhooks.news.notified() => notices::find(&app).await,
            _ = look.tick() => notices::find(&app).await,
            _ = clean_up.tick() => tokio::task::block_in_place(|| notices::clean_up(&app)),
            _ = measure.tick() => app.webhooks.measure(app.now()),
            _ = save.tick() => {
                let position = app.ledger.position();
                if let Some(last) = position.filter(|_| position != saved) {
                    app.webhooks.save(last.next());
                    saved = position;
                }
            }
            Some(ended) = followers.join_next() => {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(%error, "a webhook is not followed any more until the next start");
                }
            }
        }
    }
}

/// What to do next.
enum Next {
    /// Look again.
    Again,
    /// Wait for news, at most so long.
    Wait(Duration),
}

async fn follow(app: Shared, endpoint: Arc<Endpoint>) {
    let mut ahead = Ahead::default();
    while !endpoint.removed.load(Relaxed) {
        // The large future of an attempt exists only while there is one.
        match Box::pin(step(&app, &endpoint, &mut ahead)).await {
            Next::Again => {}
            Next::Wait(at_most) => tokio::select! {
                () = endpoint.wake.notified() => {}
                () = tokio::time::sleep(at_most.min(SLEEP_MAX)) => {}
            },
        }
    }
    app.webhooks.kept.forget(endpoint.id);
}

async fn step(app: &App, endpoint: &Endpoint, ahead: &mut Ahead) -> Next {
    if let Some(wait) = is_resting(endpoint, app.now()) {
        return Next::Wait(wait);
    }
    match tokio::task::block_in_place(|| ahead.fill(app, endpoint)) {
        Ok(()) if ahead.commits.is_empty() && endpoint.due.lock().is_empty() => return Next::Wait(SLEEP_MAX),
        Ok(()) => {}
        Err(error) => return unreadable(endpoint, &error),
    }
    // A turn first and the message then: what waits is no more than a number.
    let Ok(_of_team) = endpoint.turns.acquire().await else { return Next::Wait(SLEEP_MAX) };
    let Ok(_of_all) = app.webhooks.in_flight.acquire().await else { return Next::Wait(SLEEP_MAX) };
    if endpoint.removed.load(Relaxed) || is_resting(endpoint, app.now()).is_some() {
        return Next::Again;
    }
    let message = match tokio::task::block_in_place(|| next_message(app, endpoint, ahead)) {
        Ok(Some(message)) => message,
        Ok(None) => return Next::Again,
        Err(error) => return unreadable(endpoint, &error),
    };
    let tried = attempt(app, endpoint, &message).await;
    settle(app, endpoint, &message, &tried);
    Next::Again
}

/// How long nothing is tried with an endpoint; none: something may be.
fn is_resting(endpoint: &Endpoint, now: Timestamp) -> Option<Duration> {
    let progress = endpoint.progress.lock();
    match &progress.parked {
        Some(_) => Some(SLEEP_MAX),
        None => (progress.next_at > now).then(|| progress.next_at.since(now)),
    }
}

fn unreadable(endpoint: &Endpoint, error: &ReadError) -> Next {
    tracing::error!(%error, webhook = %endpoint.id, "the log could not be read for a webhook");
    Next::Wait(SLEEP_MAX)
}

/// What an endpoint has not read of its team's stream: the numbers of its next commits.
#[derive(Default)]
struct Ahead {
    commits: VecDeque<CommitNumber>,
    /// Where to look for more; none before the first look.
    next: Option<CommitNumber>,
}

impl Ahead {
    /// Looks for more, if there is nothing left.
    fn fill(&mut self, app: &App, endpoint: &Endpoint) -> Result<(), ReadError> {
        if !self.commits.is_empty() {
            return Ok(());
        }
        let from = match self.next {
            Some(next) => next,
            None => {
                // The head is read first: what comes after it is not passed over.
                let (head, cursor) = (app.store.head(), endpoint.progress.lock().cursor);
                app.store.locate(cursor)?.unwrap_or(head.commits).min(head.commits)
            }
        };
        self.commits = app.projections.team_commits_from(endpoint.team, from, COMMITS_AHEAD).into();
        self.next = Some(self.commits.back().map_or(from, |last| last.next()));
        Ok(())
    }
}

/// The next event that the endpoint wants; once there is none, the next notice.
fn next_message(app: &App, endpoint: &Endpoint, ahead: &mut Ahead) -> Result<Option<Message>, ReadError> {
    let began_at = endpoint.progress.lock().cursor;
    while let Some(number) = ahead.commits.front() {
        let cursor = endpoint.progress.lock().cursor;
        if let Some(commit) = app.store.commit(*number)? {
            // What does not decode has stopped the ledger before.
            let mut records = commit.records().flatten().filter(|placed| placed.position >= cursor);
            if let Some(wanted) = records.find(|placed| endpoint.wants_event(&placed.record.event)) {
                return Ok(Some(Message::of_event(endpoint.id, wanted)));
            }
            let mut progress = endpoint.progress.lock();
            progress.cursor = progress.cursor.max(commit.end());
            if progress.cursor.0 - began_at.0 >= SKIPPED_MAX {
                app.webhooks.kept.put_progress(endpoint.id, &progress);
                ahead.commits.pop_front();
                return Ok(None);
            }
        }
        ahead.commits.pop_front();
    }
    Ok(notices::next(app, endpoint))
}

/// An attempt that was made.
pub struct Tried {
    /// What became of it.
    pub outcome: Outcome,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
}

async fn attempt(app: &App, endpoint: &Endpoint, message: &Message) -> Tried {
    let (at, began) = (app.now(), Instant::now());
    let settings = endpoint.settings();
    let timestamp_seconds = at.micros() / 1_000_000;
    let sign = |generation| {
        let secret = app.webhooks.secret(endpoint.team, endpoint.id, generation);
        secret.sign(&message.id, timestamp_seconds, &message.body)
    };
    let mut signature = sign(settings.generation);
    if settings.previous_until.is_some_and(|until| at < until) {
        signature = format!("{signature} {}", sign(settings.generation.saturating_sub(1)));
    }
    let envelope = Envelope { id: message.id.clone(), timestamp_seconds, signature, body: message.body.clone() };
    let outcome = app.webhooks.sender.send(&settings.url, envelope, at).await;
    app.metrics.webhook_tried(&outcome);
    Tried { outcome, at, took: began.elapsed() }
}

/// Takes the outcome of an attempt in: on, again later, or not any more.
fn settle(app: &App, endpoint: &Endpoint, message: &Message, tried: &Tried) {
    let Webhooks { kept, retry, .. } = &*app.webhooks;
    let mut progress = endpoint.progress.lock();
    if let Outcome::Delivered(_) = tried.outcome {
        (progress.failures, progress.next_at, progress.waiting_since) = (0, Timestamp::default(), None);
        progress.last_success_at = Some(tried.at);
        match message.subject {
            Subject::Event(position) => progress.cursor = progress.cursor.max(position.next()),
            Subject::Notice(credential, days) => {
                kept.put_told(endpoint.id, credential, days);
                notices::done(app, endpoint);
            }
            Subject::Test => {}
        }
    } else {
        let failures = progress.failures.saturating_add(1);
        progress.failures = failures;
        progress.waiting_since.get_or_insert(message.since);
        let delay = retry.get(failures as usize - 1).filter(|_| tried.outcome != Outcome::Gone);
        match delay {
            Some(delay) => {
                let asked = match tried.outcome {
                    Outcome::Refused { retry_after, .. } => retry_after.unwrap_or_default(),
                    _ => Duration::ZERO,
                };
                progress.next_at = app.now().plus(jittered(*delay).max(asked));
            }
            None => {
                let why = tried.outcome.error().unwrap_or_default();
                tracing::warn!(webhook = %endpoint.id, team = %endpoint.team, why, "a webhook is parked");
                if progress.parked.replace(Parked { at: tried.at, why }).is_none() {
                    app.metrics.webhooks_parked.increment(1);
                }
            }
        }
    }
    progress.attempts += 1;
    if !endpoint.removed.load(Relaxed) {
        kept.put_attempt(endpoint.id, progress.attempts, &shown(message, tried));
        kept.put_progress(endpoint.id, &progress);
    }
}

/// Up to a tenth longer: receivers that came back are not asked by everybody at once.
fn jittered(delay: Duration) -> Duration {
    let [byte] = random::bytes::<1>();
    delay + delay * u32::from(byte) / 2_560
}

fn shown(message: &Message, tried: &Tried) -> Attempt {
    Attempt {
        at: tried.at,
        message: message.id.clone(),
        kind: message.kind.clone(),
        position: match message.subject {
            Subject::Event(position) => Some(position),
            Subject::Notice(..) | Subject::Test => None,
        },
        status: tried.outcome.status(),
        duration_ms: tried.took.as_millis() as u64,
        error: tried.outcome.error(),
    }
}

/// Sends a message that says nothing, at once, parked or not; it changes nothing of how far the endpoint has got.
pub async fn test(app: &App, endpoint: &Endpoint) -> Option<Attempt> {
    let _of_team = endpoint.turns.acquire().await.ok()?;
    let _of_all = app.webhooks.in_flight.acquire().await.ok()?;
    let message = Message::test(endpoint.id, app.now());
    let tried = Box::pin(attempt(app, endpoint, &message)).await;
    let attempt = shown(&message, &tried);
    let mut progress = endpoint.progress.lock();
    progress.attempts += 1;
    if !endpoint.removed.load(Relaxed) {
        app.webhooks.kept.put_attempt(endpoint.id, progress.attempts, &attempt);
        app.webhooks.kept.put_progress(endpoint.id, &progress);
    }
    drop(progress);
    Some(attempt)
}
