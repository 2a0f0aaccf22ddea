//! The thread that signs: it hashes what has become durable into the tree, off the way of whoever waits for an append,
//! writes the tree's tiles, and then the signed tree head, at least once a second while there are new events. It also
//! fills up the spare segment.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    checked::Checked,
    disk::{Disk, is_full},
    leaves::ExtendError,
    published::PublishedTree,
    slots::Slots,
    space::Spare,
    tiles::{Grown, Growth},
    view::Shared,
};
use crate::{
    RecordHash, Timestamp,
    head::{HeadSigner, TreeHead},
    store::ReadError,
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
    /// Whether somebody waits for a head.
    head_due: bool,
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

    /// Somebody waits for a head over everything that is durable.
    pub fn want_head(&self) {
        self.lock().head_due = true;
        self.changed.notify_all();
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
    pub signer: Arc<HeadSigner>,
    pub slots: Slots,
    /// Over everything that was taken from the inbox.
    pub frontier: Frontier,
    /// Its tiles.
    pub growth: Growth,
    /// Whom the heads are shown to that tiles prove.
    pub tree: Arc<PublishedTree>,
    /// The newest signed head.
    pub signed: TreeHead,
    pub interval: Duration,
}

/// What the keeper found to do.
struct Work {
    unhashed: Vec<Durable>,
    stopping: bool,
    spare_due: bool,
    head_due: bool,
}

impl Keeper {
    /// Works until it is told to stop.
    pub fn run(mut self) {
        let mut signed_at: Option<Instant> = None;
        let mut stuck_at: Option<Instant> = None;
        let mut checkpoint_due = false;
        loop {
            let work = self.wait(signed_at, stuck_at);
            self.hash(&work.unhashed);
            checkpoint_due |= std::mem::take(&mut self.inbox.lock().checkpoint_due);
            if work.stopping {
                break;
            }
            if work.spare_due {
                self.fill_spare();
            }
            if self.is_unsigned() && (work.head_due || signed_at.is_none_or(|at| at.elapsed() >= self.interval)) {
                self.sign();
                signed_at = Some(Instant::now());
                if std::mem::take(&mut checkpoint_due) {
                    self.checkpoint();
                }
            }
            if self.growth.is_behind() && stuck_at.is_none_or(|at| at.elapsed() >= self.interval) {
                stuck_at = if self.catch_up() { None } else { Some(Instant::now()) };
            }
        }
        if self.growth.is_behind() {
            // Little is left out after an ordinary start; much of it is made at the next one.
            self.catch_up();
        }
        if self.is_unsigned() {
            self.sign();
        }
        // The same in both slots: then no single damaged one hides how far the log had got.
        self.sign();
        self.checkpoint();
    }

    fn is_unsigned(&self) -> bool {
        self.frontier.size() > self.signed.size
    }

    /// Sleeps until there is something to do, and takes it.
    fn wait(&self, signed_at: Option<Instant>, stuck_at: Option<Instant>) -> Work {
        let left =
            |since: Option<Instant>| since.map_or(Duration::ZERO, |at| self.interval.saturating_sub(at.elapsed()));
        let mut state = self.inbox.lock();
        while !state.stopping && !state.spare_due {
            let news = self.is_unsigned() || !state.unhashed.is_empty();
            let to_sign = news.then(|| if state.head_due { Duration::ZERO } else { left(signed_at) });
            let to_catch_up = self.growth.is_behind().then(|| left(stuck_at));
            let due = to_sign.into_iter().chain(to_catch_up).min();
            if due.is_some_and(|due| due.is_zero()) {
                break;
            }
            // Nobody waits in vain: what there is to sign is signed.
            state.head_due &= news;
            let timeout = match due {
                Some(due) => {
                    let (guard, timeout) = self
                        .inbox
                        .changed
                        .wait_timeout(state, due.min(HASH_INTERVAL))
                        .unwrap_or_else(PoisonError::into_inner);
                    state = guard;
                    timeout.timed_out()
                }
                None => {
                    state.idle = true;
                    state = self.inbox.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    false
                }
            };
            if timeout && !state.unhashed.is_empty() {
                break;
            }
        }
        Work {
            unhashed: std::mem::take(&mut state.unhashed),
            stopping: state.stopping,
            spare_due: std::mem::take(&mut state.spare_due),
            head_due: std::mem::take(&mut state.head_due),
        }
    }

    fn hash(&mut self, commits: &[Durable]) {
        for (recorded_at, hashes) in commits {
            for hash in hashes {
                let position = crate::Position(self.frontier.size());
                let leaf = leaf_hash(&leaf_data(position, *recorded_at, hash));
                let growth = &mut self.growth;
                self.frontier.push_subtree_each(0, leaf, |level, node| growth.take(level, node));
            }
        }
    }

    /// Signs everything that was hashed, once the tiles prove that it begins with what was signed last. Tiles that lag
    /// don't hold it up: without a head, an acknowledged event would have no anchor. Then only the tree in memory bears
    /// it out, and it is not shown to anybody until the tiles do. A full disk is tried again; anything else means that
    /// the anchor is lost.
    fn sign(&mut self) {
        let head = TreeHead { size: self.frontier.size(), root: self.frontier.root() };
        let provable = match self.growth.flush(&self.frontier) {
            Ok(Grown::Whole) => true,
            Ok(Grown::Behind | Grown::Stuck) => false,
            Err(error) => return self.shared.poison(format!("the tree's tiles can't be written: {error}")),
        };
        if provable && !self.proves(&head) {
            return;
        }
        let note = self.signer.sign(&head);
        match self.slots.write(&note) {
            Ok(()) => {
                self.signed = head;
                self.inbox.lock().note.clone_from(&note);
                if provable {
                    self.tree.publish(head, note, self.frontier.clone());
                }
            }
            Err(error) if is_full(&error) => {}
            Err(error) => self.shared.poison(format!("the tree head can't be written: {error}")),
        }
    }

    /// Whether the stored tiles prove that `head` begins with what was signed last. If not, nothing more is signed.
    fn proves(&self, head: &TreeHead) -> bool {
        let why = match self.tree.proves(&self.signed, head, &self.frontier) {
            Ok(true) => return true,
            Ok(false) => "it does not begin with the one signed last".to_owned(),
            Err(error) => error.to_string(),
        };
        self.shared.poison(format!("the tree of {} events can't be signed: {why}", head.size));
        false
    }

    /// Makes a slice of the tiles that are missing, from the log. Whether it may go on at once.
    fn catch_up(&mut self) -> bool {
        match self.growth.catch_up(&self.shared, &self.frontier) {
            Ok(Grown::Behind) => true,
            Ok(Grown::Stuck) => false,
            Ok(Grown::Whole) if *self.growth.covered() != self.frontier => {
                self.shared.poison("the log gives another tree than the one that was signed".to_owned());
                false
            }
            Ok(Grown::Whole) => {
                if self.signed.size == self.frontier.size() && self.proves(&self.signed) {
                    let note = self.inbox.note();
                    self.tree.publish(self.signed, note, self.frontier.clone());
                }
                true
            }
            Err(ExtendError::Tiles(error)) => {
                self.shared.poison(format!("the tree's tiles can't be written: {error}"));
                false
            }
            Err(ExtendError::Log(ReadError::Io { file, error })) => {
                self.shared.poison(format!("the log can't be read: {}: {error}", file.display()));
                false
            }
            Err(ExtendError::Log(error)) => {
                self.shared.poison(format!("the log is damaged: {error}"));
                false
            }
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
        if self.is_unsigned() {
            self.sign();
        }
        if self.frontier.size() == head.position.0 && self.signed.size == head.position.0 {
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
