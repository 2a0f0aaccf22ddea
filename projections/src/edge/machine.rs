//! What an edge does with what it hears, without any network, disk or clock: each input says what happened and when, each
//! answer says what follows from it. All rules of trust stand here.
//!
//! 1. Only what comes right after what is held is applied. Anything else (a gap, a duplicate, another order, what can't be
//!    read) closes the gate and ends the connection; the next one goes on from what is held, which is still sound. If that
//!    does not help, what is held is thrown away.
//! 2. A head whose digest is not that of the rows held says that they are not sound: they are thrown away.
//! 3. The gate is opened by a head alone, and only after the tree of this connection was found to be the remembered one
//!    or to continue it.
//! 4. No snapshot is taken that lacks a key which a believed head has covered, or has one alive again that had ended.
//! 5. A ledger that has less than it had is not believed until it has more again, and then must continue the tree.
//!
//! A head is as old as the ledger's clock says, not as its arrival does: whatever delays the messages makes the edge
//! stale. The clocks are compared where they can be: the first head of a connection was made after the request was
//! sent ([`Machine::connecting`]), and each later one as much later as it says.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use keyledger_events::{CredentialId, Position, TeamId, Timestamp};

use super::{
    EdgeState, ResyncCause,
    tree::{TreeCheck, TreeFault},
};
use crate::{
    Active,
    active::State,
    feed::{Change, Changes, HeadMessage, snapshot::Header},
};

/// So many times it is gone on from what is held; then a snapshot is fetched.
const RESYNCS_MAX: u32 = 2;

/// A reading of the monotonic clock: microseconds since the edge began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub u64);

impl Moment {
    pub(super) fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(micros(later)))
    }

    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read together. The wall clock tells what the monotonic one does not: that the machine was suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub mono: Moment,
    pub wall: Timestamp,
}

impl Reading {
    fn plus(self, later: Duration) -> Self {
        Self { mono: self.mono.plus(later), wall: self.wall.plus(later) }
    }

    fn min(self, other: Self) -> Self {
        Self { mono: self.mono.min(other.mono), wall: self.wall.min(other.wall) }
    }

    /// By whichever clock says more.
    fn since(self, earlier: Self) -> Duration {
        self.mono.since(earlier.mono).max(self.wall.since(earlier.wall))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What the ledger is known to have been like, and when: a head that was believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// The edge knows everything that had happened by then.
    pub as_of: Reading,
    /// When the head came.
    pub heard: Reading,
    /// The ledger's clock, as the head said it.
    pub at: Timestamp,
}

/// What follows from an input, in order.
#[derive(Debug)]
pub(super) enum Effect {
    /// These keys were ended by events.
    Ended(Vec<CredentialId>),
    /// The index is another one. The gate is closed, or this is the first.
    Replaced,
    /// Accept nothing, for this reason.
    Close,
    /// A head was believed: accept, within the policy.
    Open(News),
    /// End the connection.
    Disconnect,
}

/// What to try next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Get a snapshot.
    Snapshot,
    /// Follow the feed from behind this position; none: from the log's beginning.
    Feed(Option<Position>),
}

/// Why the ledger did not give what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its history ends before the position asked for.
    Shorter,
    /// The token is not good for this.
    Token,
    /// Anything else: it is away, busy, or answers what can't be read.
    Away,
}

/// See the module. Owned by the edge's thread.
pub(super) struct Machine {
    teams: Option<BTreeSet<TeamId>>,
    /// How old a head may be on arrival until another connection is worth a try; none: as old as it likes.
    late: Option<Duration>,
    index: Arc<Active>,
    /// Whether `index` is the ledger's at `held`.
    sound: bool,
    /// Whether a head was ever believed over `index` …
    confirmed: bool,
    /// … and what was changed since the last one.
    unconfirmed: HashSet<CredentialId>,
    held: Option<Position>,
    /// The highest position of a head that was believed.
    highest: Option<Position>,
    /// The last position of the tree that was looked at last.
    tree_end: Option<Position>,
    connection: Option<Connection>,
    /// Connections that have ended in a resync since a head was believed: what is held may be what does not fit.
    resyncs: u32,
    /// Whether the ledger's tree was found good since the last connection was made.
    tree_good: bool,
    state: EdgeState,
}

struct Connection {
    /// Before its request was sent.
    began: Reading,
    /// What the ledger was known to have by then. (What the tree says meanwhile may overtake the messages.)
    floor: Option<Position>,
    /// The ledger's clock in its first head, which was made after that.
    first_at: Option<Timestamp>,
}

/// What a machine begins with: what was left on the disk.
pub(super) struct Left {
    pub index: Active,
    pub held: Option<Position>,
    pub highest: Option<Position>,
}

impl Machine {
    pub(super) fn new(teams: Option<BTreeSet<TeamId>>, late: Option<Duration>, left: Option<Left>) -> Self {
        let sound = left.is_some();
        let state = if sound { EdgeState::Disconnected } else { EdgeState::Starting };
        let left = left.unwrap_or_else(|| Left { index: Active::default(), held: None, highest: None });
        let Left { index, held, highest } = left;
        let (index, connection, unconfirmed) = (Arc::new(index), None, HashSet::new());
        Self {
            teams,
            late,
            index,
            sound,
            confirmed: sound && held <= highest,
            unconfirmed,
            held,
            highest,
            connection,
            tree_end: None,
            resyncs: 0,
            tree_good: false,
            state,
        }
    }

    pub(super) fn index(&self) -> &Arc<Active> {
        &self.index
    }

    pub(super) fn held(&self) -> Option<Position> {
        self.held
    }

    pub(super) fn highest(&self) -> Option<Position> {
        self.highest
    }

    /// How far the ledger is, as far as is known.
    pub(super) fn ledger_end(&self) -> Option<Position> {
        self.highest.max(self.tree_end).max(self.held)
    }

    /// Whether the index is the ledger's at `held`, as far as is known.
    pub(super) fn is_sound(&self) -> bool {
        self.sound
    }

    pub(super) fn state(&self) -> EdgeState {
        self.state
    }

    /// Whether the tree must be looked at (again) before heads of this connection are believed.
    pub(super) fn wants_tree(&self) -> bool {
        !self.tree_good
    }

    pub(super) fn next(&self) -> Next {
        if self.sound { Next::Feed(self.held) } else { Next::Snapshot }
    }

    /// What is said about the tree.
    pub(super) fn tree(&mut self, check: &TreeCheck) -> Vec<Effect> {
        match check {
            TreeCheck::Continues { size } => {
                self.tree_good = true;
                self.tree_end = size.checked_sub(1).map(Position);
                vec![]
            }
            // Not yet, perhaps. Meanwhile no head is believed.
            TreeCheck::Unknown => {
                self.tree_good = false;
                vec![]
            }
            TreeCheck::Fault(fault) => {
                self.tree_good = false;
                let state = match fault {
                    TreeFault::Shorter => EdgeState::Behind,
                    // What such a ledger has told is not the remembered one's.
                    TreeFault::Forked => {
                        self.sound = false;
                        EdgeState::Forked
                    }
                    TreeFault::WrongKey => EdgeState::WrongKey,
                };
                self.close(state)
            }
        }
    }

    /// A snapshot has come, checked in itself.
    pub(super) fn snapshot(&mut self, header: &Header, index: Active) -> Vec<Effect> {
        if header.teams != self.teams {
            return self.close(EdgeState::Resyncing(ResyncCause::Malformed));
        }
        if header.position < self.highest {
            return self.close(EdgeState::Behind);
        }
        // Between two looks at the tree a ledger could take back what it has told, and go on with something else.
        if self.confirmed && !self.is_kept_by(&index) {
            return self.close(EdgeState::Forked);
        }
        self.index = Arc::new(index);
        self.held = header.position;
        (self.sound, self.confirmed) = (true, false);
        self.unconfirmed.clear();
        vec![Effect::Replaced]
    }

    /// A snapshot has come that can't be one.
    pub(super) fn snapshot_malformed(&mut self) -> Vec<Effect> {
        match self.state {
            EdgeState::Starting => vec![],
            _ => self.close(EdgeState::Resyncing(ResyncCause::Malformed)),
        }
    }

    /// The feed is about to be asked for.
    pub(super) fn connecting(&mut self, now: Reading) {
        self.connection = Some(Connection { began: now, floor: self.highest.max(self.tree_end), first_at: None });
    }

    /// A request was not answered as hoped.
    pub(super) fn refused(&mut self, refusal: Refusal) -> Vec<Effect> {
        self.connection = None;
        self.tree_good = false;
        match refusal {
            Refusal::Shorter => {
                // What no head has confirmed need never have been: a snapshot will tell.
                self.sound &= self.held <= self.highest;
                self.close(EdgeState::Behind)
            }
            Refusal::Token => {
                self.unreached(EdgeState::Refused);
                vec![]
            }
            Refusal::Away => {
                self.unreached(EdgeState::Disconnected);
                vec![]
            }
        }
    }

    /// The connection has ended, or nothing came for too long. Nothing is wrong with what is held.
    pub(super) fn lost(&mut self) {
        self.connection = None;
        self.tree_good = false;
        self.unreached(EdgeState::Disconnected);
    }

    /// A commit's changes.
    pub(super) fn changes(&mut self, changes: &Changes) -> Vec<Effect> {
        if self.connection.is_none() {
            return vec![Effect::Disconnect];
        }
        if changes.after != self.held {
            return self.resync(ResyncCause::Gap);
        }
        if !self.is_whole(changes) {
            return self.resync(ResyncCause::Malformed);
        }
        // A companion goes before its device, so that nobody ever finds the device ended and the companion alive.
        let (cascades, others): (Vec<_>, Vec<_>) = changes
            .changes
            .iter()
            .map(|placed| &placed.change)
            .partition(|change| matches!(change, Change::CredentialCascadeRevoked { .. }));
        cascades.iter().chain(&others).for_each(|change| self.index.apply_change(changes.team, change));
        self.unconfirmed.extend(changes.changes.iter().map(|placed| placed.change.credential()));
        self.held = Some(changes.position);
        let ended: Vec<_> = cascades.iter().chain(&others).filter_map(|change| ended(*change)).collect();
        if ended.is_empty() { vec![] } else { vec![Effect::Ended(ended)] }
    }

    /// How far the ledger is, and what the index must sum up to.
    pub(super) fn head(&mut self, now: Reading, head: &HeadMessage) -> Vec<Effect> {
        let Some(floor) = self.connection.as_ref().map(|connection| connection.floor) else {
            return vec![Effect::Disconnect];
        };
        if head.after != self.held || head.position < self.held {
            return self.resync(ResyncCause::Gap);
        }
        if head.position < floor {
            let mut effects = self.close(EdgeState::Behind);
            effects.push(Effect::Disconnect);
            return effects;
        }
        if self.index.nameless_digest(None) != head.digest {
            self.sound = false;
            return self.resync(ResyncCause::Digest);
        }
        self.held = head.position;
        let Some(connection) = &mut self.connection else { return vec![] };
        let first_at = *connection.first_at.get_or_insert(head.at);
        if !self.tree_good {
            return vec![];
        }
        let as_of = connection.began.plus(head.at.since(first_at)).min(now);
        let began = connection.began;
        self.state = EdgeState::Following;
        self.highest = self.highest.max(head.position);
        self.resyncs = 0;
        self.confirmed = true;
        self.unconfirmed.clear();
        let mut effects = vec![Effect::Open(News { as_of, heard: now, at: head.at })];
        // It can't be told whether the messages are late or the connection began late: another one tells.
        if self.late.is_some_and(|late| now.since(as_of) > late && now.since(began) > late * 2) {
            effects.push(Effect::Disconnect);
        }
        effects
    }

    /// Something came that is no message.
    pub(super) fn malformed(&mut self) -> Vec<Effect> {
        self.resync(ResyncCause::Malformed)
    }

    fn is_whole(&self, changes: &Changes) -> bool {
        let mut last = changes.after;
        let in_order = changes.changes.iter().all(|placed| {
            let later = last < Some(placed.position);
            last = Some(placed.position);
            later
        });
        let ours = self.teams.as_ref().is_none_or(|teams| teams.contains(&changes.team));
        in_order && ours && !changes.changes.is_empty() && last <= Some(changes.position)
    }

    /// Whether every key that a believed head has covered is in `other`, and what had ended has.
    fn is_kept_by(&self, other: &Active) -> bool {
        let before = self.index.freeze();
        before.rows().filter(|row| !self.unconfirmed.contains(&row.credential)).all(|row| {
            let now = other.known(&row.hash, Timestamp::default());
            now.is_some_and(|now| now.credential == row.credential && (row.state == State::Alive || !now.alive))
        })
    }

    fn resync(&mut self, cause: ResyncCause) -> Vec<Effect> {
        self.resyncs += 1;
        self.sound &= self.resyncs < RESYNCS_MAX;
        let mut effects = self.close(EdgeState::Resyncing(cause));
        effects.push(Effect::Disconnect);
        effects
    }

    fn close(&mut self, state: EdgeState) -> Vec<Effect> {
        self.state = state;
        self.connection = None;
        self.tree_good = false;
        vec![Effect::Close]
    }

    /// Who is denying goes on to: only a head changes that.
    fn unreached(&mut self, state: EdgeState) {
        if !self.state.denies() {
            self.state = state;
        }
    }
}

fn ended(change: Change) -> Option<CredentialId> {
    match change {
        Change::CredentialRevoked { credential }
        | Change::CredentialCascadeRevoked { credential, .. }
        | Change::CredentialExpired { credential, .. } => Some(credential),
        // Its end is watched by the clock.
        Change::ExpiryShortened { .. } | Change::CredentialIssued { .. } | Change::CredentialHandedOver { .. } => None,
    }
}
