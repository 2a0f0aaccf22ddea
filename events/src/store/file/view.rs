//! What has become durable, as everybody sees it: shared by the writer, readers and followers.

use std::{
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    frames::Frames,
    index::{Place, SegmentIndex},
};
use crate::{
    Commit, CommitNumber, Position,
    store::{Follow, Head, ReadError, sequence::Books},
};

/// The durable log.
pub(super) struct View {
    pub segments: Vec<SegmentIndex>,
    pub books: Books,
}

impl View {
    fn segment_of(&self, number: CommitNumber) -> Option<&SegmentIndex> {
        let after = self.segments.partition_point(|index| index.segment.first_commit() <= number);
        self.segments.get(after.checked_sub(1)?)
    }
}

/// The view and what waits for it. Changed only by the writer.
pub(super) struct Shared {
    view: RwLock<View>,
    gate: Mutex<()>,
    grown: Condvar,
    waiting: AtomicUsize,
    /// How many proposals were handed in and not answered yet.
    pub in_flight: AtomicUsize,
    fatal: OnceLock<String>,
}

impl Shared {
    pub fn new(view: View) -> Self {
        Self {
            view: RwLock::new(view),
            gate: Mutex::default(),
            grown: Condvar::new(),
            waiting: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            fatal: OnceLock::new(),
        }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the log has failed, if it has.
    pub fn fatal(&self) -> Option<&str> {
        self.fatal.get().map(String::as_str)
    }

    /// From here on the log has failed. The first reason stays.
    pub fn poison(&self, why: String) {
        let _ = self.fatal.set(why);
    }

    /// Wakes the followers that wait for more.
    pub fn announce(&self) {
        // A follower counts itself before it looks at the view, so none that saw the old one is missed.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
            self.grown.notify_all();
        }
    }

    pub fn head(&self) -> Head {
        self.read().books.head
    }

    pub fn commit(&self, number: CommitNumber) -> Result<Option<Commit>, ReadError> {
        let place = |number| self.read().segment_of(number).and_then(|index| index.place(number));
        let Some(asked) = place(number) else { return Ok(None) };
        asked.read().map(Some).map_err(|error| {
            match (error, number.0.checked_sub(1).map(CommitNumber).and_then(place)) {
                // Only every so many positions are kept in memory; the commit before tells this one's.
                (ReadError::Damaged { file, offset, position, what }, Some(before)) => {
                    let position = before.read().map_or(position, |before| before.end());
                    ReadError::Damaged { file, offset, position, what }
                }
                (error, _) => error,
            }
        })
    }

    pub fn locate(&self, position: Position) -> Result<Option<CommitNumber>, ReadError> {
        let run = {
            let view = self.read();
            let after = view.segments.partition_point(|index| index.segment.first_position() <= position);
            after.checked_sub(1).and_then(|at| view.segments[at].run(position))
        };
        run.map(|run| run.locate(position)).transpose()
    }

    /// Where this commit stands, and where its segment's frames end; none at or beyond the head.
    pub fn place(&self, number: CommitNumber) -> Option<(Place, u64)> {
        let view = self.read();
        let index = view.segment_of(number)?;
        index.place(number).map(|place| (place, index.end))
    }

    /// Waits until there are more commits than `number`, or the deadline.
    fn wait_beyond(&self, number: CommitNumber, deadline: Option<Instant>) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        while self.head().commits <= number {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            gate = self.grown.wait_timeout(gate, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(gate);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Goes through the durable log, and waits at its end.
pub(super) struct FileFollow {
    shared: Arc<Shared>,
    next: CommitNumber,
    frames: Option<Frames>,
}

impl FileFollow {
    pub fn new(shared: Arc<Shared>, from: CommitNumber) -> Self {
        Self { shared, next: from, frames: None }
    }

    /// The next commit, if it is durable.
    fn advance(&mut self) -> Result<Option<Commit>, ReadError> {
        if let Some(commit) = self.take()? {
            return Ok(Some(commit));
        }
        let (index_end, in_this_segment, index) = {
            let view = self.shared.read();
            if self.next >= view.books.head.commits {
                return Ok(None);
            }
            let Some(index) = view.segment_of(self.next) else { return Ok(None) };
            let same = self.frames.as_ref().is_some_and(|frames| frames.is_of(&index.segment));
            (index.end, same, (!same).then(|| index.place(self.next)).flatten())
        };
        match &mut self.frames {
            Some(frames) if in_this_segment => frames.extend_limit(index_end),
            frames => {
                let Some(commit) = self.shared.commit(self.next)? else { return Ok(None) };
                *frames = index.map(|place| place.frames(commit.first_position, index_end));
            }
        }
        self.take()
    }

    fn take(&mut self) -> Result<Option<Commit>, ReadError> {
        let Some(frames) = &mut self.frames else { return Ok(None) };
        let frame = frames.next()?;
        Ok(frame.map(|frame| {
            self.next = frame.number.next();
            let (number, first_position) = (frame.number, frame.first_position);
            Commit { number, first_position, body: frame.commit.to_body() }
        }))
    }
}

impl Follow for FileFollow {
    fn next(&mut self, wait: Duration) -> Result<Option<Commit>, ReadError> {
        let deadline = Instant::now().checked_add(wait);
        loop {
            match self.advance() {
                Ok(None) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                    self.shared.wait_beyond(self.next, deadline);
                }
                Err(error) => {
                    // Read anew next time: it says the same again, or has been mended.
                    self.frames = None;
                    return Err(error);
                }
                outcome => return outcome,
            }
        }
    }
}
