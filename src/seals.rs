//! Seals: the map of all streams, appended to the system stream by schedule, on demand and at a clean end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keyledger_events::{
    CorrelationId, Event, Position, Revision, TeamId,
    commit::PlacedRecord,
    event::HistorySealedV1,
    record::{Actor, AuthMethod, StreamHead},
    store::ReadError,
    stream_map::{MapProof, StreamMap},
    team::SealHistory,
};
use tokio::time::MissedTickBehavior;

use crate::{
    app::{App, Shared},
    ledger::{LedgerError, Request, Who},
    random,
};

/// How many commits the log may be ahead of a map when its seal is handed over. Whoever verifies allows four times that.
const LAG_COMMITS_MAX: u64 = 16_384;
/// How often a map that has fallen behind is brought up to date before the attempt is given up.
const ROUNDS_MAX: usize = 16;

/// The seals of this process. One is made at a time.
#[derive(Default)]
pub struct Seals {
    newest: tokio::sync::Mutex<Option<Arc<Sealed>>>,
}

/// A seal with its map, for proofs.
pub struct Sealed {
    /// What the event says.
    pub seal: HistorySealedV1,
    /// The event's own position.
    pub position: Position,
    map: Mutex<StreamMap>,
}

impl Sealed {
    /// What the seal says of a team, and the proof; none if the team is younger than the seal.
    pub fn prove(&self, team: TeamId) -> Option<(StreamHead, MapProof)> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner).prove(team)
    }

    /// Whether nothing but this seal has happened, of so many events.
    fn is_of_all(&self, events: Position) -> bool {
        self.seal.through == self.position && self.position.next() == events
    }
}

/// Why there is no seal.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The seal could not be appended.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is nothing to seal.
    #[error("the ledger has no events")]
    Empty,
}

impl Seals {
    /// A seal of everything: the newest one, if nothing else has happened since. The second value says whether it is new.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn seal(&self, app: &App) -> Result<(Arc<Sealed>, bool), SealError> {
        let mut newest = self.newest.lock().await;
        let events = app.projections.applied().1;
        if let Some(sealed) = newest.as_ref().filter(|sealed| sealed.is_of_all(events)) {
            return Ok((sealed.clone(), false));
        }
        let (sealed, is_new) = match tokio::task::block_in_place(|| written_before(app))? {
            Some(sealed) => (sealed, false),
            None => (append(app).await?, true),
        };
        let sealed = Arc::new(sealed);
        *newest = Some(sealed.clone());
        Ok((sealed, is_new))
    }

    /// The newest seal that knows this team; a new one if there is none in memory.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn of(&self, app: &App, team: TeamId) -> Result<Arc<Sealed>, SealError> {
        let newest = self.newest.lock().await.clone();
        match newest.filter(|sealed| sealed.prove(team).is_some()) {
            Some(sealed) => Ok(sealed),
            None => Ok(self.seal(app).await?.0),
        }
    }
}

/// The seal that an earlier run of this ledger has ended with, if nothing has happened since.
fn written_before(app: &App) -> Result<Option<Sealed>, ReadError> {
    let (heads, (_, events)) = app.projections.stream_heads();
    let Some(position) = events.0.checked_sub(1).map(Position) else { return Ok(None) };
    let Some(number) = app.store.locate(position)? else { return Ok(None) };
    let Some(commit) = app.store.commit(number)? else { return Ok(None) };
    // A commit that can't be decoded has stopped the projector: it is not here.
    let Some(Ok(PlacedRecord { record, .. })) = commit.records().last() else { return Ok(None) };
    let Event::HistorySealed(seal) = record.event else { return Ok(None) };
    // The map is of what stood before the seal itself.
    let mut map = StreamMap::new();
    for (team, head) in heads {
        let before = record.revision.0.checked_sub(1).filter(|_| team == TeamId::SYSTEM).map(Revision);
        let before = before.map(|revision| StreamHead { revision, hash: record.previous });
        map.insert(team, before.unwrap_or(head));
    }
    let is_it = seal.through == position && map.root() == seal.root;
    Ok(is_it.then(|| Sealed { seal, position, map: Mutex::new(map) }))
}

/// Appends a seal of what is applied now.
async fn append(app: &App) -> Result<Sealed, SealError> {
    let (map, seal) = tokio::task::block_in_place(|| catch_up(app))?;
    let who = Who {
        actor: Actor::System,
        auth: AuthMethod::Internal,
        correlation: CorrelationId::from(random::uuid_v7(app.now())),
        context: None,
    };
    let decide = Box::new(move |system: &_, _| seal.decide(system));
    let request = Request { team: TeamId::SYSTEM, who, idempotency: None, essential: false, decide };
    let written = app.ledger.write(request).await?;
    // Another process on the same log has sealed more: its map is not here, the next attempt makes one.
    let placed = written.records().next().ok_or(LedgerError::Busy)?;
    let seal = HistorySealedV1 { through: seal.through, teams: seal.teams, root: seal.root };
    Ok(Sealed { seal, position: placed.position, map: Mutex::new(map) })
}

/// The map of what is applied. While a large one is hashed others write on: what they change is taken in until the log
/// is at most [`LAG_COMMITS_MAX`] ahead, for a seal that is far behind its own place counts as broken.
fn catch_up(app: &App) -> Result<(StreamMap, SealHistory), SealError> {
    let (mut map, mut known) = (StreamMap::new(), HashMap::new());
    for _ in 0..ROUNDS_MAX {
        let (heads, (commits, through)) = app.projections.stream_heads();
        for (team, head) in heads {
            if known.insert(team, head) != Some(head) {
                map.insert(team, head);
            }
        }
        if known.is_empty() {
            return Err(SealError::Empty);
        }
        let root = map.root();
        if app.store.head().commits.0.saturating_sub(commits.0) <= LAG_COMMITS_MAX {
            let seal = SealHistory { through, teams: map.teams(), root };
            return Ok((map, seal));
        }
    }
    Err(LedgerError::Busy.into())
}

/// Seals by schedule until the task is dropped.
pub async fn keep(app: Shared, every: Duration) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one is at once, and at a start there is nothing new to say.
    tick.tick().await;
    loop {
        tick.tick().await;
        seal_and_tell(&app).await;
    }
}

/// Seals once; a seal that could not be made is only missing.
pub async fn seal_and_tell(app: &App) {
    match app.seals.seal(app).await {
        Ok((sealed, true)) => {
            tracing::info!(position = sealed.position.0, teams = sealed.seal.teams, "history is sealed")
        }
        Ok((_, false)) | Err(SealError::Empty | SealError::Ledger(LedgerError::Failed)) => {}
        Err(error) => tracing::warn!(%error, "history could not be sealed; the next attempt makes up for it"),
    }
}
