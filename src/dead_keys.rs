//! A dead key that is still knocking: an old key lives on somewhere, and its team should know where.
//!
//! A verification that is denied as revoked or expired leaves a note in a bounded queue and goes on; a background task
//! makes an event of it, one a credential and UTC day. What was noted today is remembered, so that a flood costs a look-up
//! each; after a restart the log remembers. A queue that is full, or a ledger that does not take the event, loses the
//! note and counts it: the next knock brings another.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use keyledger_events::{
    CorrelationId, CredentialId, PersonId, TeamId, Timestamp,
    credential::{NoteDeadKey, day},
    presented::{AddressClass, Surface},
    record::{Actor, AuthMethod},
};
use keyledger_projections::Known;
use metrics::Counter;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    app::{App, Shared},
    ledger::{LedgerError, Request, Who},
    random,
};

/// How many notes may wait to become events.
const QUEUE_LEN_MAX: usize = 1_024;
/// How many notes of one day are remembered: 24 MB at most. What comes beyond is dropped until the day is over.
const REMEMBERED_MAX: usize = 1 << 19;
/// How long nothing is tried after the ledger has not taken an event.
const PAUSE: Duration = Duration::from_secs(10);

/// Where a key was presented.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// On which surface, if it was said.
    pub surface: Option<Surface>,
    /// From where.
    pub address: AddressClass,
    /// The address itself, if it is known here.
    pub client: Option<IpAddr>,
}

impl Place {
    /// Of a client that stands before the ledger itself.
    pub const fn of(surface: Option<Surface>, client: IpAddr) -> Self {
        Self { surface, address: AddressClass::of(client), client: Some(client) }
    }
}

/// A dead key's knock, on its way into the log.
#[derive(Clone, Copy, Debug)]
pub struct Knock {
    team: TeamId,
    credential: CredentialId,
    holder: PersonId,
    at: Timestamp,
    place: Place,
}

/// Where verifications leave their notes.
pub struct DeadKeys {
    queue: mpsc::Sender<Knock>,
    noted: Mutex<Noted>,
    dropped: Counter,
}

/// What was noted since the day began, by credential and the day it speaks of.
#[derive(Default)]
struct Noted {
    today: u64,
    marks: HashSet<(CredentialId, u64)>,
}

impl DeadKeys {
    /// With the other end of its queue, for [`record`]. `dropped` counts the notes that are lost.
    pub fn new(dropped: Counter) -> (Self, mpsc::Receiver<Knock>) {
        let (queue, knocks) = mpsc::channel(QUEUE_LEN_MAX);
        (Self { queue, noted: Mutex::default(), dropped }, knocks)
    }

    /// Notes that `known`, which has ended, is presented at `now`. It never waits; `place` is asked for only if it is news.
    pub fn heard(&self, known: &Known, now: Timestamp, place: impl FnOnce() -> Place) {
        self.heard_at(known, now, now, place);
    }

    /// The same of an earlier instant, as an edge reports it.
    pub fn heard_at(&self, known: &Known, at: Timestamp, now: Timestamp, place: impl FnOnce() -> Place) {
        let mark = (known.credential, day(at));
        let mut noted = self.noted.lock();
        if noted.today != day(now) {
            *noted = Noted { today: day(now), marks: HashSet::new() };
        }
        if noted.marks.contains(&mark) {
            return;
        }
        let (team, credential, holder) = (known.team, known.credential, known.holder);
        let there_is_room = noted.marks.len() < REMEMBERED_MAX;
        if there_is_room && self.queue.try_send(Knock { team, credential, holder, at, place: place() }).is_ok() {
            noted.marks.insert(mark);
        } else {
            self.dropped.increment(1);
        }
    }

    /// Lets the next knock try again.
    fn forget(&self, knock: &Knock) {
        self.noted.lock().marks.remove(&(knock.credential, day(knock.at)));
        self.dropped.increment(1);
    }
}

/// Makes events of notes until the task is dropped.
pub async fn record(app: Shared, mut knocks: mpsc::Receiver<Knock>) {
    while let Some(knock) = knocks.recv().await {
        match app.ledger.write(request(&app, knock)).await {
            Ok(_) => {}
            // It would be refused again.
            Err(LedgerError::Refused(refusal)) => tracing::warn!(%refusal, "a dead key's knock could not be recorded"),
            Err(error) => {
                tracing::warn!(%error, "a dead key's knock could not be recorded; the next one is tried");
                app.dead_keys.forget(&knock);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn request(app: &App, knock: Knock) -> Request {
    let Knock { team, credential, holder, at, place: Place { surface, address, client } } = knock;
    let context = client.and_then(|ip| app.seal(holder, &serde_json::json!({ "ip": ip }).to_string()));
    let who = Who {
        actor: Actor::System,
        auth: AuthMethod::Internal,
        correlation: CorrelationId::from(random::uuid_v7(app.now())),
        context,
    };
    let command = NoteDeadKey { credential, at, surface, address };
    let decide = Box::new(move |team: &_, now| command.decide(team, now));
    Request { team, who, idempotency: None, essential: false, decide }
}

#[cfg(test)]
mod tests {
    use keyledger_events::{secret::Kind, time::DAY_US};

    use super::*;

    fn known(n: u32) -> Known {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        Known {
            credential: CredentialId::from_bytes(id),
            kind: Kind::Agent,
            team: TeamId::from_bytes([1; 16]),
            holder: PersonId::from_bytes([2; 16]),
            alive: false,
        }
    }

    #[test]
    fn a_flood_leaves_one_note_a_day_and_a_full_queue_loses_the_rest() {
        let (dead_keys, mut knocks) = DeadKeys::new(Counter::noop());
        let place = || Place::of(None, "192.0.2.1".parse().unwrap());
        let noon = Timestamp::from_micros(DAY_US * 20_000 + DAY_US / 2);
        for _ in 0..10_000 {
            dead_keys.heard(&known(1), noon, place);
        }
        assert_eq!(knocks.len(), 1);
        dead_keys.heard(&known(1), noon, || panic!("it is no news"));
        dead_keys.heard(&known(1), noon.plus_days(1), place);
        dead_keys.heard_at(&known(1), noon, noon.plus_days(1), place);
        assert_eq!(knocks.len(), 3);
        for n in 0..QUEUE_LEN_MAX as u32 * 2 {
            dead_keys.heard(&known(n + 2), noon, place);
        }
        assert_eq!(knocks.len(), QUEUE_LEN_MAX);
        // What was lost is not remembered.
        let knock = knocks.try_recv().unwrap();
        dead_keys.heard(&known(QUEUE_LEN_MAX as u32 * 2), noon, place);
        assert_eq!(knocks.len(), QUEUE_LEN_MAX);
        // What the ledger did not take comes again.
        while knocks.try_recv().is_ok() {}
        dead_keys.heard(&known(1), noon, place);
        assert_eq!(knocks.len(), 1);
        dead_keys.forget(&knock);
        dead_keys.heard(&known(1), noon, place);
        assert_eq!(knocks.len(), 2);
    }
}
