//! What happens by itself: expiries are recorded, sessions that ran out forgotten, last uses saved, checkpoints written,
//! mended tiles reported.

use std::{sync::Arc, time::Duration};

use keyledger_events::{
    CorrelationId,
    credential::Expire,
    record::{Actor, AuthMethod},
};
use keyledger_projections::usage::Usage;
use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::{
    app::Shared,
    ledger::{LedgerError, Request, Who},
    random,
};

/// How often expiries are looked for. They hold at their instant; this is how late their record may be.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How many expiries are recorded at once.
const SWEEP_LEN_MAX: usize = 256;
/// How often last uses are saved, and so how much of them a crash may lose.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// How often the projections are checkpointed while there are new events.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

/// Records expiries until the task is dropped.
pub async fn sweep(app: Shared) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        app.clock.watch();
        for mended in app.tree.take_mended() {
            let (file, offset) = (mended.file.display(), mended.offset);
            tracing::warn!(%file, offset, "a tile of the tree had changed on the disk; it was made from the log again");
        }
        while sweep_once(&app).await > 0 {}
    }
}

/// Records what is due, at most a round's worth; in how many commits.
async fn sweep_once(app: &Shared) -> usize {
    let due = app.projections.active().due(app.now(), SWEEP_LEN_MAX);
    let mut writes = JoinSet::new();
    for (team, credential, _) in due {
        let who = Who {
            actor: Actor::System,
            auth: AuthMethod::Internal,
            correlation: CorrelationId::from(random::uuid_v7(app.now())),
            context: None,
        };
        let decide = Box::new(move |team: &_, now| Expire { credential }.decide(team, now));
        let request = Request { team, who, idempotency: None, essential: true, decide };
        let ledger = app.ledger.clone();
        writes.spawn(async move { ledger.write(request).await });
    }
    let outcomes = writes.join_all().await;
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        if !matches!(error, LedgerError::Failed) {
            tracing::warn!(%error, "an expiry could not be recorded yet; it holds all the same");
        }
    }
    // A companion that ended with its device has nothing left to record.
    let recorded = outcomes.iter().flatten().filter(|written| written.commit.is_some()).count();
    app.metrics.expiries_swept.increment(recorded as u64);
    recorded
}

/// Saves what may be lost, and checkpoints what may be rebuilt, until the task is dropped.
pub async fn keep(app: Shared, usage: Arc<Usage>) {
    let mut save = tokio::time::interval(SAVE_EVERY);
    let mut checkpoint = tokio::time::interval(CHECKPOINT_EVERY);
    let mut checkpointed = app.ledger.position();
    loop {
        tokio::select! {
            _ = save.tick() => {
                app.sessions.sweep(app.now());
                let (app, usage) = (app.clone(), usage.clone());
                blocking(move || if let Err(error) = usage.save(app.projections.active()) {
                    tracing::warn!(%error, "last uses could not be saved");
                }).await;
            }
            _ = checkpoint.tick() => {
                let position = app.ledger.position();
                if position != checkpointed {
                    checkpointed = position;
                    let app = app.clone();
                    blocking(move || if let Err(error) = app.projections.checkpoint() {
                        tracing::warn!(%error, "the projections could not be checkpointed; the next start takes longer");
                    }).await;
                }
            }
        }
    }
}

async fn blocking(work: impl FnOnce() + Send + 'static) {
    // A panic in it has been logged by the panic hook; the next round tries again.
    let _ = tokio::task::spawn_blocking(work).await;
}
