//! What appends: one batch at a time, one write, one sync, then everybody in it is answered. A thread does it, or, where
//! only one waits, that one itself.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, TryRecvError},
    },
    time::{Duration, Instant},
};

use super::{
    frame,
    keeper::Inbox,
    segment::Segment,
    space::{Room, Space, WriteError},
    view::Shared,
};
use crate::store::{
    AppendError, Appended, NotWritten,
    sequence::{Pending, Prepared},
};

/// A batch is written when it has grown to so many bytes, whoever else is waiting.
const BATCH_LEN_MAX: usize = 4 << 20;

/// How long a batch waits at most for those who were under way together with the last one.
const GATHER: Duration = Duration::from_micros(100);

pub(super) type Settler = SyncSender<Result<Appended, AppendError>>;

/// A proposal that is well formed, and whom to tell.
pub(super) struct Submitted {
    pub prepared: Prepared,
    pub settler: Settler,
}

/// What the one who writes has.
pub(super) struct Writer {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    space: Space,
    /// What is in the batch, in front of the durable log.
    pending: Pending,
    /// The batch's frames.
    frames: Vec<u8>,
    batch: Vec<Batched>,
    /// Retries of what is in the batch: answered with it.
    repeats: Vec<(Settler, Appended)>,
    /// How many proposals were under way when the last sync returned.
    in_flight: usize,
    /// Whether the spare was asked for since the segment was begun.
    spare_wanted: bool,
}

/// The thread: works until nobody can submit any more. It holds the writer only while it has something to write.
pub(super) fn run(writer: &Mutex<Writer>, receiver: &Receiver<Submitted>) {
    let mut gathered = Vec::new();
    loop {
        if gathered.is_empty() {
            match receiver.recv() {
                Ok(submitted) => gathered.push(submitted),
                Err(_) => return,
            }
        }
        let expected = {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            gathered.drain(..).for_each(|submitted| writer.take(submitted));
            while let Ok(submitted) = receiver.try_recv() {
                writer.take(submitted);
            }
            writer.flush();
            writer.in_flight
        };
        // Whoever has just been answered often comes back at once. Met awake, and together with the others, they share
        // one sync and cost no wake-up of this thread.
        let begun = Instant::now();
        while gathered.len() < expected {
            match receiver.try_recv() {
                Ok(submitted) => gathered.push(submitted),
                Err(TryRecvError::Empty) if begun.elapsed() < GATHER => std::thread::yield_now(),
                Err(_) => break,
            }
        }
    }
}

/// A commit in the batch.
struct Batched {
    prepared: Prepared,
    settler: Settler,
    at: Appended,
    frame_len: usize,
}

impl Writer {
    /// Goes on where `space` and `pending` stand.
    pub fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, space: Space, pending: Pending) -> Self {
        let (frames, batch, repeats) = (Vec::new(), Vec::new(), Vec::new());
        Self { shared, inbox, space, pending, frames, batch, repeats, in_flight: 0, spare_wanted: false }
    }

    /// Appends one proposal on the caller's thread, when nobody else has handed one in: two changes of thread less.
    pub fn append_lone(&mut self, submitted: Submitted) {
        self.take(submitted);
        self.flush();
    }

    /// Refuses a proposal or puts it into the batch.
    fn take(&mut self, Submitted { prepared, settler }: Submitted) {
        let judged = match self.shared.fatal() {
            Some(why) => Err(AppendError::Fatal(why.to_owned())),
            None => self.pending.judge(&self.shared.read().books, &prepared),
        };
        let at = match judged {
            Err(refused) => return self.settle(&settler, Err(refused)),
            Ok(known) if known.repeated && self.batch.first().is_some_and(|first| known.number >= first.at.number) => {
                return self.repeats.push((settler, known));
            }
            Ok(known) if known.repeated => return self.settle(&settler, Ok(known)),
            Ok(at) => at,
        };
        let frame_len = frame::frame_len(prepared.body.bytes().len());
        if let Err(refused) = self.make_room(frame_len, &prepared, at) {
            return self.settle(&settler, Err(refused));
        }
        let body = prepared.body.bytes();
        frame::encode(&mut self.frames, at.number, at.first_position, self.batch.len() as u32, body);
        self.pending.push(&prepared, at);
        self.batch.push(Batched { prepared, settler, at, frame_len });
        if self.frames.len() >= BATCH_LEN_MAX {
            self.flush();
        }
    }

    /// Has room for a frame behind the batch's, in a new segment if need be.
    fn make_room(&mut self, frame_len: usize, prepared: &Prepared, at: Appended) -> Result<(), AppendError> {
        loop {
            let room = self.space.room(self.frames.len(), frame_len, prepared.essential);
            match room.map_err(|error| self.poison(&error))? {
                Room::Here => return Ok(()),
                Room::Nowhere => return Err(AppendError::NotWritten(NotWritten::Full)),
                Room::InNext if !self.batch.is_empty() => {
                    // A batch lies in one segment, and all of a segment is durable before the next is begun.
                    self.flush();
                    if let Some(why) = self.shared.fatal() {
                        return Err(AppendError::Fatal(why.to_owned()));
                    }
                    // If there was no room for it, nothing may build on it.
                    let next = self.pending.judge(&self.shared.read().books, prepared)?;
                    if next != at {
                        return Err(AppendError::NotWritten(NotWritten::Full));
                    }
                }
                Room::InNext => {
                    let header = frame::SegmentHeader { first_commit: at.number, first_position: at.first_position };
                    match self.space.roll(header).map_err(|error| self.poison(&error))? {
                        Some(segment) => self.begin(segment),
                        None => return Err(AppendError::NotWritten(NotWritten::Full)),
                    }
                }
            }
        }
    }

    fn begin(&mut self, segment: Segment) {
        self.shared.write().segments.push(super::index::SegmentIndex::new(segment));
        self.inbox.want_checkpoint();
        self.spare_wanted = false;
    }

    /// Writes the batch, syncs it, shows it and answers.
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let outcome = match self.space.write(&self.frames) {
            Ok(()) => self.space.sync(self.frames.len()).map_err(|error| self.poison(&error)),
            Err(WriteError::Full) => Err(AppendError::NotWritten(NotWritten::Full)),
            Err(WriteError::Failed(error)) => Err(self.poison(&error)),
        };
        self.frames.clear();
        self.in_flight = self.shared.in_flight.load(Ordering::Relaxed);
        match outcome {
            Ok(()) => self.publish(),
            Err(error) => {
                self.pending.reset(&self.shared.read().books);
                let batch = std::mem::take(&mut self.batch);
                batch.iter().for_each(|batched| self.settle(&batched.settler, Err(error.clone())));
                let repeats = std::mem::take(&mut self.repeats);
                repeats.iter().for_each(|(settler, _)| self.settle(settler, Err(error.clone())));
            }
        }
    }

    fn publish(&mut self) {
        let mut hashes = Vec::with_capacity(self.batch.len());
        let mut answers = Vec::with_capacity(self.batch.len() + self.repeats.len());
        let mut view = self.shared.write();
        view.books.settle(&mut self.pending);
        if let Some(index) = view.segments.last_mut() {
            for Batched { prepared, settler, at, frame_len } in self.batch.drain(..) {
                index.push(frame_len as u64, prepared.count());
                hashes.push((prepared.recorded_at, prepared.hashes));
                answers.push((settler, at));
            }
        }
        self.inbox.push(hashes.into_iter());
        drop(view);
        self.shared.announce();
        answers.append(&mut self.repeats);
        answers.into_iter().for_each(|(settler, at)| self.settle(&settler, Ok(at)));
        if !self.spare_wanted && self.space.wants_spare() {
            self.spare_wanted = true;
            self.inbox.want_spare();
        }
    }

    /// After this nothing more is acknowledged: what the disk holds is no longer known.
    fn poison(&self, error: &io::Error) -> AppendError {
        self.shared.poison(format!("the log can't be written: {error}"));
        AppendError::Fatal(self.shared.fatal().unwrap_or_default().to_owned())
    }

    fn settle(&self, settler: &Settler, outcome: Result<Appended, AppendError>) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        // Whoever gave the ticket up is not told.
        let _ = settler.send(outcome);
    }
}
