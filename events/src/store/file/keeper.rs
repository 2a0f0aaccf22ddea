//! The thread that signs: it hashes what has become durable into the tree, off the way of whoever waits for an append,
//! and writes the signed tree head at least once a second while there are new events. It also fills up the spare segment.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    checked::Checked,
    disk::{Disk, is_full},
    slots::Slots,
    space::Spare,
    view::Shared,
};
use crate::{
    RecordHash, Timestamp,
    head::{HeadSigner, TreeHead},
    tree::{Frontier, leaf_data, leaf_hash},
};

/// How long events wait at most to be hashed: little enough that no burst of work builds up.
const HASH_INTERVAL: Duration = Duration::from_millis(50);

/// A durable commit's recorded time, and the hash of each of its records.
pub(super) type Durable = (Timestamp, Box<[RecordHash]>);

/// What the writer hands to the keeper.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// In order.
    unhashed: Vec<Durable>,
    checkpoint_due: bool,
    spare_due: bool,
    stopping: bool,
    /// Whether the keeper sleeps until it is woken.
    idle: bool,
    /// The newest signed note.
    note: String,
}

impl Inbox {
    /// With the note that is on disk.
    pub fn new(note: String) -> Self {
        Self { state: Mutex::new(State { note, ..State::default() }), changed: Condvar::new() }
    }

    /// Hands over what has become durable.
    pub fn push(&self, commits: impl Iterator<Item = Durable>) {
        let mut state = self.lock();
        state.unhashed.extend(commits);
        self.wake(&mut state);
    }

    /// A segment is full: a good moment to write down how far everything is hashed.
    pub fn want_checkpoint(&self) {
        self.lock().checkpoint_due = true;
    }

    /// The next segment will be needed before long.
    pub fn want_spare(&self) {
        let mut state = self.lock();
        state.spare_due = true;
        self.wake(&mut state);
    }

    /// Sign everything, then end.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    /// The newest signed tree head, as a signed note.
    pub fn note(&self) -> String {
        self.lock().note.clone()
    }

    fn wake(&self, state: &mut State) {
        if std::mem::take(&mut state.idle) {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own.
pub(super) struct Keeper {
    pub disk: Arc<dyn Disk>,
    pub log: PathBuf,
    pub shared: Arc<Shared>,
    pub inbox: Arc<Inbox>,
    pub spare: Arc<Spare>,
    pub signer: HeadSigner,
    pub slots: Slots,
    /// Over everything that was taken from the inbox.
    pub frontier: Frontier,
    /// The size of the newest signed head.
    pub signed_size: u64,
    pub interval: Duration,
}

impl Keeper {
    /// Works until it is told to stop.
    pub fn run(mut self) {
        let mut signed_at: Option<Instant> = None;
        let mut checkpoint_due = false;
        loop {
            let (unhashed, stopping, spare_due) = self.wait(signed_at);
            self.hash(&unhashed);
            checkpoint_due |= std::mem::take(&mut self.inbox.lock().checkpoint_due);
            if stopping {
                break;
            }
            if spare_due {
                self.fill_spare();
            }
            if self.frontier.size() > self.signed_size && signed_at.is_none_or(|at| at.elapsed() >= self.interval) {
                self.sign();
                signed_at = Some(Instant::now());
                if std::mem::take(&mut checkpoint_due) {
                    self.checkpoint();
                }
            }
        }
        if self.frontier.size() > self.signed_size {
            self.sign();
        }
        // The same in both slots: then no single damaged one hides how far the log had got.
        self.sign();
        self.checkpoint();
    }

    /// Sleeps until there is something to do, and takes it.
    fn wait(&self, signed_at: Option<Instant>) -> (Vec<Durable>, bool, bool) {
        let mut state = self.inbox.lock();
        while !state.stopping && !state.spare_due {
            let unsigned = self.frontier.size() > self.signed_size;
            let due = signed_at.map_or(Duration::ZERO, |at| self.interval.saturating_sub(at.elapsed()));
            if (unsigned || !state.unhashed.is_empty()) && due.is_zero() {
                break;
            }
            let (guard, timeout) = if unsigned || !state.unhashed.is_empty() {
                let (guard, timeout) = self
                    .inbox
                    .changed
                    .wait_timeout(state, due.min(HASH_INTERVAL))
                    .unwrap_or_else(PoisonError::into_inner);
                (guard, timeout.timed_out())
            } else {
                state.idle = true;
                (self.inbox.changed.wait(state).unwrap_or_else(PoisonError::into_inner), false)
            };
            state = guard;
            if timeout && !state.unhashed.is_empty() {
                break;
            }
        }
        let unhashed = std::mem::take(&mut state.unhashed);
        (unhashed, state.stopping, std::mem::take(&mut state.spare_due))
    }

    fn hash(&mut self, commits: &[Durable]) {
        for (recorded_at, hashes) in commits {
            for hash in hashes {
                let position = crate::Position(self.frontier.size());
                self.frontier.push(leaf_hash(&leaf_data(position, *recorded_at, hash)));
            }
        }
    }

    /// Signs everything that was hashed. A full disk is tried again; anything else means that the anchor is lost.
    fn sign(&mut self) {
        let head = TreeHead { size: self.frontier.size(), root: self.frontier.root() };
        let note = self.signer.sign(&head);
        match self.slots.write(&note) {
            Ok(()) => {
                self.signed_size = head.size;
                self.inbox.lock().note = note;
            }
            Err(error) if is_full(&error) => {}
            Err(error) => self.shared.poison(format!("the tree head can't be written: {error}")),
        }
    }

    /// Writes down how far everything is hashed. It is only a convenience: a failure leaves the older one.
    fn checkpoint(&mut self) {
        let (head, streams) = {
            // The writer hands over what it publishes while it holds the view, so both stand at the same commit.
            let shared = self.shared.clone();
            let view = shared.read();
            let unhashed = std::mem::take(&mut self.inbox.lock().unhashed);
            self.hash(&unhashed);
            (view.books.head, view.books.streams.clone())
        };
        // A checkpoint ahead of every signed head could not be borne out at the next opening.
        if self.frontier.size() > self.signed_size {
            self.sign();
        }
        if self.frontier.size() == head.position.0 && self.signed_size == head.position.0 {
            let _ = Checked { head, frontier: self.frontier.clone(), streams }.save(&*self.disk, &self.log);
        }
    }

    fn fill_spare(&self) {
        loop {
            match self.spare.fill() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.shared.poison(format!("the next segment can't be written: {error}")),
            }
            // Signing does not wait for it.
            let state = self.inbox.lock();
            if state.stopping || !state.unhashed.is_empty() {
                drop(state);
                return self.inbox.lock().spare_due = true;
            }
        }
    }
}
