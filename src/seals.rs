//! Seals: the map of all streams, appended to the system stream by schedule, on demand and at a clean end.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keyledger_events::{
    CorrelationId, Event, Position, RecordHash, Revision, TeamId,
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
        let (heads, through) = app.projections.stream_heads();
        if let Some(sealed) = newest.as_ref().filter(|sealed| sealed.is_of_all(through)) {
            return Ok((sealed.clone(), false));
        }
        let (sealed, is_new) = match tokio::task::block_in_place(|| written_before(app, &heads, through))? {
            Some(sealed) => (sealed, false),
            None => (append(app, heads, through).await?, true),
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

fn map(heads: Vec<(TeamId, StreamHead)>) -> StreamMap {
    let mut map = StreamMap::new();
    heads.into_iter().for_each(|(team, head)| map.insert(team, head));
    map
}

/// The seal that an earlier run of this ledger has ended with, if nothing has happened since.
fn written_before(app: &App, heads: &[(TeamId, StreamHead)], events: Position) -> Result<Option<Sealed>, ReadError> {
    let Some(position) = events.0.checked_sub(1).map(Position) else { return Ok(None) };
    let Some(number) = app.store.locate(position)? else { return Ok(None) };
    let Some(commit) = app.store.commit(number)? else { return Ok(None) };
    // A commit that can't be decoded has stopped the projector: it is not here.
    let Some(Ok(PlacedRecord { record, .. })) = commit.records().last() else { return Ok(None) };
    let Event::HistorySealed(seal) = record.event else { return Ok(None) };
    // The map is of what stood before the seal itself.
    let before = |(team, head): &(TeamId, StreamHead)| match record.revision.0.checked_sub(1) {
        Some(revision) if *team == TeamId::SYSTEM => {
            (*team, StreamHead { revision: Revision(revision), hash: RecordHash(record.previous.0) })
        }
        _ => (*team, *head),
    };
    let mut map = map(heads.iter().map(before).collect());
    let is_it = seal.through == position && map.root() == seal.root;
    Ok(is_it.then(|| Sealed { seal, position, map: Mutex::new(map) }))
}

async fn append(app: &App, heads: Vec<(TeamId, StreamHead)>, through: Position) -> Result<Sealed, SealError> {
    if heads.is_empty() {
        return Err(SealError::Empty);
    }
    let (mut map, teams) = (tokio::task::block_in_place(|| map(heads)), TeamId::SYSTEM);
    let root = tokio::task::block_in_place(|| map.root());
    let seal = SealHistory { through, teams: map.teams(), root };
    let who = Who {
        actor: Actor::System,
        auth: AuthMethod::Internal,
        correlation: CorrelationId::from(random::uuid_v7(app.now())),
        context: None,
    };
    let decide = Box::new(move |system: &_, _| seal.decide(system));
    let request = Request { team: teams, who, idempotency: None, essential: false, decide };
    let written = app.ledger.write(request).await?;
    let placed = written.records().next();
    // Another process on the same log has sealed more: its map is not here, the next attempt makes one.
    let placed = placed.ok_or(LedgerError::Busy)?;
    let seal = HistorySealedV1 { through, teams: seal.teams, root };
    Ok(Sealed { seal, position: placed.position, map: Mutex::new(map) })
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
