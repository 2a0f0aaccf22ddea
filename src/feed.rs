//! The live feed: tells followers every change of the index, in order and without a gap, and each second how far the
//! ledger has got.
//!
//! A follower first reads the log up to where the projections stand (`history`), then what the projector's thread
//! hands over: each commit is encoded once, before its write is answered, into a ring that all followers read. Nobody
//! queues anything for a follower: it takes from the ring when its socket takes more, and who has fallen behind the ring
//! goes on from the log. So its memory is bounded, and none can slow down the ledger or another follower.
//!
//! The digest of a head message is the follower's own: what it was when the follower joined, and with every commit what
//! that has changed.

mod follower;
mod history;
mod text;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use keyledger_events::{Position, TeamId, commit::PlacedRecord, store::Store};
use keyledger_projections::{Digest, Projections, feed::PlacedChange};
use parking_lot::RwLock;
use tokio::sync::{Notify, Semaphore, watch};

pub use self::follower::{Follower, Refused};
use crate::{clock::Clock, http::metrics::Metrics, ledger::Observer};

/// Commits in the ring, and their messages' bytes: whichever is full first.
const RING_LEN_MAX: usize = 16_384;
const RING_BYTES_MAX: usize = 8 << 20;
/// Rest between two rounds of waking everybody, for each follower: it keeps a flood of commits from taking the processors
/// away from verifications. The first commit after a rest wakes at once.
const REST_PER_FOLLOWER: Duration = Duration::from_micros(10);
/// Stretches of the log that are read at once.
const READS_AT_ONCE: usize = 2;
/// Stretches of [`follower::LARGE`] bytes that may wait for their followers at once; others get small ones.
const LARGE_AT_ONCE: usize = 128;
/// Snapshots under way at once: each holds a thread and 12 bytes a credential.
const SNAPSHOTS_AT_ONCE: usize = 4;

/// The set of teams that a follower follows.
pub type Teams = Arc<BTreeSet<TeamId>>;

/// The feed of one ledger, shared by all followers.
pub struct Feed {
    store: Arc<dyn Store>,
    projections: Arc<Projections>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    followers_max: usize,
    /// Whether anybody has ever followed. Until then nothing is encoded and no digest kept.
    followed: AtomicBool,
    live: RwLock<Live>,
    /// There is something new in the ring.
    pushed: Notify,
    /// The same for the followers, and whether the service ends.
    news: watch::Sender<bool>,
    reads: Arc<Semaphore>,
    large: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
}

/// What was last applied. Written by the projector's thread alone, and by the first follower.
struct Live {
    ring: VecDeque<Item>,
    /// How many items it holds.
    len_max: usize,
    /// How many items have left it.
    gone: u64,
    bytes: usize,
    /// The last position applied.
    position: Option<Position>,
    /// The nameless digest of everything at `position`.
    digest: Digest,
}

/// One commit that concerns the index.
struct Item {
    position: Position,
    team: TeamId,
    /// See [`text::rest`].
    rest: Vec<u8>,
    /// What it has changed of the nameless digest, of its team's as of all teams'.
    difference: Digest,
}

/// Where a follower has joined.
#[derive(Clone, Copy, Debug)]
struct Joined {
    /// The first item of the ring that may be news.
    next: u64,
    /// Everything up to here is in the log, and in `digest`.
    until: Option<Position>,
    /// Of the follower's teams.
    digest: Digest,
}

/// What a follower finds in the ring.
enum Taken {
    /// Everything there is, or as much as was asked for.
    Messages(u64),
    /// The ring has gone on without it.
    Lagged,
}

/// Why a follower's feed has ended, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedEnd {
    /// The follower left.
    Left,
    /// It took nothing for so long that its connection was cut.
    Stalled,
    /// Its credential has ended.
    Revoked,
    /// The service ends.
    Shutdown,
    /// The log could not be read.
    Failed,
}

impl FeedEnd {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Left, Self::Stalled, Self::Revoked, Self::Shutdown, Self::Failed];

    /// Its label in the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Stalled => "stalled",
            Self::Revoked => "revoked",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
        }
    }
}

impl Feed {
    /// A feed that nobody follows yet. At most seven eighths of `connections_max` may be followers: the rest is for
    /// everybody else.
    pub fn new(
        store: Arc<dyn Store>,
        projections: Arc<Projections>,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
        connections_max: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            projections,
            clock,
            metrics,
            followers_max: (connections_max - connections_max / 8).max(1),
            followed: AtomicBool::new(false),
            live: RwLock::new(Live::new(RING_LEN_MAX)),
            pushed: Notify::new(),
            news: watch::Sender::new(false),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE)),
        })
    }

    /// What the projector tells of every commit.
    pub fn observer(self: &Arc<Self>) -> Observer {
        let feed = self.clone();
        Box::new(move |records| feed.applied(records))
    }

    /// Wakes the followers when there is something new, until the task is dropped.
    pub async fn wake(self: Arc<Self>) {
        loop {
            self.pushed.notified().await;
            self.news.send_modify(|_| {});
            let rest = REST_PER_FOLLOWER * self.news.receiver_count().try_into().unwrap_or(u32::MAX);
            if rest >= Duration::from_millis(1) {
                tokio::time::sleep(rest).await;
            }
        }
    }

    /// The turns of those who take a snapshot.
    pub fn snapshots(&self) -> Arc<Semaphore> {
        self.snapshots.clone()
    }

    /// Ends all feeds, and lets nobody follow any more.
    pub fn close(&self) {
        self.news.send_replace(true);
    }

    fn applied(&self, records: &[PlacedRecord]) {
        // Who follows from now on joins at a position that has this commit already.
        let (true, Some(last)) = (self.followed.load(SeqCst), records.last()) else { return };
        let active = self.projections.active();
        let team = last.record.team;
        let changes = records.iter().filter_map(|placed| {
            let change = text::told(active, team, &placed.record.event)?;
            Some(PlacedChange { position: placed.position, change })
        });
        let changes: Vec<_> = changes.collect();
        let rest = (!changes.is_empty()).then(|| text::rest(last.position, team, &changes));
        let digest = active.nameless_digest(None);
        let mut live = self.live.write();
        let mut difference = digest;
        difference.remove_all(live.digest);
        live.digest = digest;
        live.position = live.position.max(Some(last.position));
        if let Some(rest) = rest {
            live.push(Item { position: last.position, team, rest, difference });
            drop(live);
            self.pushed.notify_one();
        }
    }

    /// Lets a follower of these teams (none: of all) join where the projections stand. The very first time it reads the
    /// whole index.
    fn join(&self, teams: Option<&BTreeSet<TeamId>>) -> Joined {
        self.projections.nameless_at_rest(teams, |until, digest| {
            let mut live = self.live.write();
            // Nothing is applied at this moment: what the projector tells next is the commit behind `until`, or `until`
            // itself, which changes nothing of this.
            if !self.followed.swap(true, SeqCst) {
                live.position = until;
                live.digest = self.projections.active().nameless_digest(None);
            }
            Joined { next: live.gone + live.ring.len() as u64, until, digest }
        })
    }
}

impl Live {
    fn new(len_max: usize) -> Self {
        let (ring, digest) = (VecDeque::new(), Digest::default());
        Self { ring, len_max, gone: 0, bytes: 0, position: None, digest }
    }

    fn push(&mut self, item: Item) {
        self.bytes += item.rest.len();
        self.ring.push_back(item);
        while self.ring.len() > 1 && (self.ring.len() > self.len_max || self.bytes > RING_BYTES_MAX) {
            if let Some(gone) = self.ring.pop_front() {
                self.bytes -= gone.rest.len();
                self.gone += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
