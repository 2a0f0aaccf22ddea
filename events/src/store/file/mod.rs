//! The log in files: segments of checksummed frames, written in batches by one thread, and the signed tree head beside
//! them. `FORMAT.md` describes every byte.
//!
//! * [`FileStore`] owns a log: it holds the lock and appends. [`FileLog`] only reads. [`LogFiles`] is what lies on disk.
//! * An append is answered when a sync has returned that covers its frame. A sync that fails ends the log's life in this
//!   process: nothing is known of what is on the disk then, so nothing more is acknowledged.
//! * Opening is recovery: every frame is checked, an unfinished last write is trimmed and reported, and everything else
//!   that is not as it was written is refused, with file, offset and position.

mod checked;
mod files;
mod frame;
mod frames;
mod index;
mod keeper;
mod leaves;
mod log;
mod opening;
mod proven;
mod published;
mod recover;
mod rotate;
mod segment;
mod slots;
mod space;
mod tiles;
mod view;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

pub use self::{
    checked::Checked,
    files::LogFiles,
    frame::Frame,
    frames::Frames,
    log::FileLog,
    proven::{Mended, TreeError},
    published::{PublishedHead, PublishedTree},
    rotate::{Fresh, RotateError, Settled, rotate_signing_key, settle_rotation},
    segment::Segment,
    tiles::TilesFound,
};
use self::{
    files::LOG_DIR,
    keeper::{Inbox, Keeper},
    opening::{Opened, Opening, create_dirs, newest_operations, take_lock},
    proven::Tiles,
    recover::Recovered,
    slots::Slots,
    space::Space,
    tiles::Growth,
    view::{FileFollow, Shared, View},
    writer::{Submitted, Writer},
};
use super::{
    AppendError, Appended, Follow, Head, Proposal, ReadError, ReadLog, Store, Ticket,
    disk::{self, Disk, Lock, RealDisk},
    sequence::{Books, Pending, Prepared},
};
use crate::{
    Commit, CommitNumber, Position, TeamId,
    head::{HeadSigner, TreeHead},
    record::StreamHead,
};

/// The longest segment, in bytes: offsets in it have 32 bits.
const SEGMENT_LEN_MAX: u64 = 1 << 31;

/// How a log is laid out. Any values read any log.
#[derive(Clone, Debug)]
pub struct Options {
    /// The length at which a new segment is begun, in bytes.
    pub segment_bytes: u64,
    /// How much room is kept for what ends credentials when the disk is full, in bytes. At least one commit of any
    /// length fits into the default.
    pub reserve_bytes: u64,
    /// How long events may stay unsigned while more come.
    pub head_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, reserve_bytes: 1 << 20, head_interval: Duration::from_secs(1) }
    }
}

/// What an opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Whether the log was made just now.
    pub created: bool,
    /// How far the log goes.
    pub head: Head,
    /// An unfinished last write that was cut off. Nothing of it had been acknowledged, nor signed.
    pub trimmed: Option<Trimmed>,
    /// The newest signed tree head that the log was compared with.
    pub signed: Option<TreeHead>,
    /// Tree head files that could not be read, torn by a power loss perhaps; the other one held, and they are rewritten.
    pub unreadable_heads: Vec<PathBuf>,
    /// The first commit whose hashes were checked now: those before were, when the log's own checkpoint was written.
    pub hashed_from: CommitNumber,
    /// What was found of the tree's tiles.
    pub tiles: TilesFound,
}

/// What was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// In which file.
    pub file: PathBuf,
    /// From where, in bytes.
    pub offset: u64,
    /// How many bytes, up to the last one that was not zero.
    pub len: u64,
    /// The position that comes next instead.
    pub position: Position,
}

/// A log in files that this process owns. Dropping it answers what is under way, signs the last tree head and gives the
/// lock back.
pub struct FileStore {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    tree: Arc<PublishedTree>,
    writer: Arc<Mutex<Writer>>,
    /// None only while it is dropped.
    sender: Option<mpsc::Sender<Submitted>>,
    threads: Vec<JoinHandle<()>>,
    /// None only once it was taken out.
    lock: Option<Lock>,
}

impl FileStore {
    /// Opens the log of a data directory, or makes one. `signer` must be the ledger's own.
    ///
    /// # Errors
    /// [`ReadError`]: in use, damaged, behind or other than what the ledger has signed. Nothing was changed then,
    /// except for [`ReadError::Io`].
    pub fn open(dir: &Path, signer: HeadSigner, options: &Options) -> Result<(Self, Recovery), ReadError> {
        Self::open_on(Arc::new(RealDisk), dir, signer, options)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        signer: HeadSigner,
        options: &Options,
    ) -> Result<(Self, Recovery), ReadError> {
        let log = dir.join(LOG_DIR);
        create_dirs(&*disk, dir, &log).map_err(|error| io_error(&log, error))?;
        let lock = take_lock(&*disk, dir)?;
        Self::open_locked(disk, dir, signer, options, lock)
    }

    fn open_locked(
        disk: Arc<dyn Disk>,
        dir: &Path,
        signer: HeadSigner,
        options: &Options,
        lock: Lock,
    ) -> Result<(Self, Recovery), ReadError> {
        let options = Options { segment_bytes: options.segment_bytes.min(SEGMENT_LEN_MAX), ..options.clone() };
        let log = dir.join(LOG_DIR);
        let opening = Opening { disk: disk.clone(), dir, log: &log, signer: &signer, options: &options };
        let Opened { recovered, signed, mut recovery, spare } = opening.open()?;

        let io = |error| io_error(&log, error);
        let Recovered { segments, head, frontier, streams, .. } = recovered;
        let (path, offset) = match segments.last() {
            Some(last) => (last.segment.path().to_owned(), last.end),
            None => return Err(io(io::ErrorKind::NotFound.into())),
        };
        let current = disk.open(&path, true).map_err(|error| io_error(&path, error))?;
        let space = Space::open(disk.clone(), &log, &options, current, offset, spare.clone()).map_err(io)?;
        let operations = newest_operations(&segments, head.commits)?;
        let books = Books { head, streams, operations };
        let pending = Pending::behind(&books);
        let shared = Arc::new(Shared::new(View { segments, books }));

        let mut slots = Slots::open(&*disk, &log, &signed).map_err(io)?;
        let mut note = signed.note.unwrap_or_default();
        let signed_before = signed.heads.last().copied();
        let (growth, found) = Growth::open(disk.clone(), dir, signed_before.as_ref(), &frontier)
            .map_err(|error| io_error(&dir.join(tiles::TILES_DIR), error))?;
        recovery.tiles = found;
        let note_before = note.clone();
        let signed_size = signed_before.map(|head| head.size);
        if signed_size != Some(frontier.size()) || signed.heads.len() < 2 {
            // What was recovered is on record from here on, and in both slots.
            note = signer.sign(&TreeHead { size: frontier.size(), root: frontier.root() });
            slots.write(&note).and_then(|()| slots.write(&note)).and_then(|()| disk.sync_dir(&log)).map_err(io)?;
        }
        if slots::load_verifier(&*disk, dir)?.is_none() {
            slots::save_verifier(&*disk, dir, &signer.verifier()).map_err(|error| io_error(dir, error))?;
        }
        recovery.head = head;

        let inbox = Arc::new(Inbox::new(note.clone()));
        let signed = TreeHead { size: frontier.size(), root: frontier.root() };
        let signer = Arc::new(signer);
        let tiles = Tiles::new(shared.clone(), growth.files.clone());
        // Without certificates that can be read, nothing older than what is there now is signed.
        let signs_from =
            slots::load_keys(&*disk, dir).map_or(frontier.size(), |keys| keys.map_or(0, |keys| keys.signs_from()));
        let tree = Arc::new(PublishedTree::new(tiles, inbox.clone(), signer.clone(), signs_from));
        match signed_before {
            _ if !growth.is_behind() => tree.publish(signed, note, frontier.clone()),
            Some(before) if growth.covered().size() == before.size && before.size > 0 => {
                tree.publish(before, note_before, growth.covered().clone());
            }
            _ => {}
        }
        let keeper = Keeper {
            disk,
            log: log.clone(),
            shared: shared.clone(),
            inbox: inbox.clone(),
            spare,
            signer,
            slots,
            frontier,
            growth,
            tree: tree.clone(),
            signed,
            interval: options.head_interval,
        };
        let writer = Arc::new(Mutex::new(Writer::new(shared.clone(), inbox.clone(), space, pending)));
        let (sender, receiver) = mpsc::channel();
        let threads = vec![
            spawn("log-writer", {
                let writer = writer.clone();
                move || writer::run(&writer, &receiver)
            })
            .map_err(io)?,
            spawn("log-keeper", move || keeper.run()).map_err(io)?,
        ];
        Ok((Self { shared, inbox, tree, writer, sender: Some(sender), threads, lock: Some(lock) }, recovery))
    }

    /// Why the log has failed, if it has: then nothing more is acknowledged, and the process should end.
    pub fn fatal(&self) -> Option<String> {
        self.shared.fatal().map(str::to_owned)
    }

    /// The newest signed tree head, as a C2SP signed note. It may be a second behind the log.
    pub fn tree_head(&self) -> String {
        self.inbox.note()
    }

    /// The part of the tree that tiles prove: what may be shown to the world.
    pub fn tree(&self) -> Arc<PublishedTree> {
        self.tree.clone()
    }

    /// Ends as dropping it does, and says how that went.
    ///
    /// # Errors
    /// Why the log has failed, now or before: all that was acknowledged is there, but its tree head may not be signed.
    pub fn close(mut self) -> Result<(), String> {
        self.end();
        self.fatal().map_or(Ok(()), Err)
    }

    /// The same, keeping the directory for the caller.
    fn hand_over(mut self) -> Result<Lock, ReadError> {
        self.end();
        match (self.fatal(), self.lock.take()) {
            (None, Some(lock)) => Ok(lock),
            (why, _) => Err(io_error(Path::new(LOG_DIR), io::Error::other(why.unwrap_or_default()))),
        }
    }

    fn end(&mut self) {
        self.sender = None;
        // The writer ends first, so that the keeper signs all it has written.
        let mut threads = self.threads.drain(..);
        if let Some(writer) = threads.next() {
            let _ = writer.join();
        }
        self.inbox.stop();
        threads.for_each(|thread| drop(thread.join()));
    }
}

impl FileStore {
    /// Checks a proposal by its own bytes and counts it as under way; also says whether it is so alone.
    fn take_in(&self, proposal: Proposal) -> Result<(Submitted, Ticket, bool), AppendError> {
        if let Some(why) = self.shared.fatal() {
            return Err(AppendError::Fatal(why.to_owned()));
        }
        let prepared = Prepared::new(proposal)?;
        let (settler, ticket) = Ticket::new();
        let alone = self.shared.in_flight.fetch_add(1, Ordering::Relaxed) == 0;
        Ok((Submitted { prepared, settler }, ticket, alone))
    }

    /// Leaves a proposal to the writing thread.
    fn hand_in(&self, submitted: Submitted, ticket: Ticket) -> Ticket {
        match self.sender.as_ref().map(|sender| sender.send(submitted)) {
            Some(Ok(())) => ticket,
            _ => Ticket::settled(Err(AppendError::Fatal("the writing thread has died".into()))),
        }
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.end();
    }
}

impl ReadLog for FileStore {
    fn head(&self) -> Head {
        self.shared.head()
    }

    fn commit(&self, number: CommitNumber) -> Result<Option<Commit>, ReadError> {
        self.shared.commit(number)
    }

    fn locate(&self, position: Position) -> Result<Option<CommitNumber>, ReadError> {
        self.shared.locate(position)
    }

    fn follow(&self, from: CommitNumber) -> Result<Box<dyn Follow>, ReadError> {
        Ok(Box::new(FileFollow::new(self.shared.clone(), from)))
    }
}

impl Store for FileStore {
    fn submit(&self, proposal: Proposal) -> Ticket {
        match self.take_in(proposal) {
            Ok((submitted, ticket, _)) => self.hand_in(submitted, ticket),
            Err(refused) => Ticket::settled(Err(refused)),
        }
    }

    fn append(&self, proposal: Proposal) -> Result<Appended, AppendError> {
        let (submitted, ticket, alone) = self.take_in(proposal)?;
        // Nobody else is under way, so no order is broken and no batch is split.
        if alone {
            self.writer.lock().unwrap_or_else(PoisonError::into_inner).append_lone(submitted);
            return ticket.wait();
        }
        self.hand_in(submitted, ticket).wait()
    }

    fn stream_head(&self, team: TeamId) -> Result<Option<StreamHead>, ReadError> {
        Ok(self.shared.read().books.streams.get(&team).copied())
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(run)
}

fn io_error(file: &Path, error: io::Error) -> ReadError {
    ReadError::Io { file: file.to_owned(), error }
}

#[cfg(test)]
mod tests;
