//! What the ledger is told of the keys an edge has seen: last uses, and dead keys that were presented. To the minute, in
//! batches, within bounds: what does not fit, or a crash, loses some of it, which is allowed.

use std::{
    collections::{HashMap, HashSet},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use keyledger_events::{CredentialId, Timestamp, presented::AddressClass, secret::SecretHash};
use serde::Serialize;

use super::Question;
use crate::{Active, Surface, feed::hex_hash, usage::Use};

/// Lines of one report: about 170 bytes each, and the ledger takes 1 MiB.
const LINES_MAX: usize = 5_000;
/// Keys that may wait to be reported while the ledger is away.
const WAITING_MAX: usize = 50_000;
/// Knocks that may wait for the edge's thread.
const KNOCKS_MAX: usize = 1_024;
const MINUTE_US: u64 = 60_000_000;

/// Where verifications leave their notes of dead keys.
#[derive(Debug)]
pub(super) struct DeadKeys(Option<SyncSender<DeadKey>>);

impl DeadKeys {
    /// With the other end of its queue. Who does not report notes nothing.
    pub(super) fn new(reports: bool) -> (Self, Receiver<DeadKey>) {
        let (sender, receiver) = sync_channel(KNOCKS_MAX);
        (Self(reports.then_some(sender)), receiver)
    }

    /// Never waits: a full queue loses it, and the next knock brings another.
    pub(super) fn heard(&self, hash: SecretHash, question: &Question, now: Timestamp) {
        if let Some(queue) = &self.0 {
            let at = Timestamp::from_micros(now.micros() / MINUTE_US * MINUTE_US);
            let _ = queue.try_send(DeadKey { hash, at, surface: question.surface, address: question.address });
        }
    }
}

/// `POST /api/v1/usage`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    uses: Vec<UsedKey>,
    dead: Vec<DeadKey>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct UsedKey {
    credential_id: CredentialId,
    #[serde(flatten)]
    used: Use,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct DeadKey {
    #[serde(with = "hex_hash")]
    hash: SecretHash,
    at: Timestamp,
    surface: Option<Surface>,
    address: AddressClass,
}

/// What is still to be reported. Owned by the edge's thread.
pub(super) struct Waiting {
    uses: HashMap<CredentialId, Use>,
    dead: Vec<DeadKey>,
    /// What was noted of the current minute: a flood of one key is one line.
    noted: HashSet<(SecretHash, Timestamp)>,
    queue: Receiver<DeadKey>,
}

impl Waiting {
    pub(super) fn new(queue: Receiver<DeadKey>) -> Self {
        Self { uses: HashMap::new(), dead: Vec::new(), noted: HashSet::new(), queue }
    }

    /// Takes what an index has been used for since the last time.
    pub(super) fn take_uses(&mut self, index: &Active) {
        for (credential, used) in index.take_uses() {
            if self.uses.len() < WAITING_MAX || self.uses.contains_key(&credential) {
                self.uses.insert(credential, used);
            }
        }
    }

    /// Takes the knocks that wait. Call it often: the queue is short.
    pub(super) fn take_knocks(&mut self) {
        while let Ok(knock) = self.queue.try_recv() {
            if self.noted.iter().next().is_some_and(|(_, at)| *at != knock.at) || self.noted.len() >= WAITING_MAX {
                self.noted.clear();
            }
            if self.dead.len() < WAITING_MAX && self.noted.insert((knock.hash, knock.at)) {
                self.dead.push(knock);
            }
        }
    }

    /// The next report; none if there is nothing to say.
    pub(super) fn next(&mut self) -> Option<Report> {
        let ids: Vec<_> = self.uses.keys().copied().take(LINES_MAX).collect();
        let take = |id| Some(UsedKey { credential_id: id, used: self.uses.remove(&id)? });
        let uses: Vec<_> = ids.into_iter().filter_map(take).collect();
        let dead: Vec<_> = self.dead.drain(..self.dead.len().min(LINES_MAX - uses.len())).collect();
        (uses.len() + dead.len() > 0).then_some(Report { uses, dead })
    }

    /// The ledger was away: another time.
    pub(super) fn put_back(&mut self, report: Report) {
        for UsedKey { credential_id, used } in report.uses {
            self.uses.entry(credential_id).or_insert(used);
        }
        self.dead.extend(report.dead);
    }
}
