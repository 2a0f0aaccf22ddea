//! Projections at rest: one sled database a generation, each in its own folder, written whole and never changed.
//!
//! sled 0.34.7 may, after a power cut, reopen empty, give back other bytes or panic. So nothing that it says is trusted:
//! a generation is a few values of about 1 MB and, in the same batch as the last of them, a table of their hashes; it is
//! opened where a panic is caught, and used only if every hash holds and it fits the log. Else the log is read anew.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc,
};

use keyledger_events::{
    CommitNumber, Position,
    store::{ReadError, ReadLog},
};
use serde::{Deserialize, Serialize};

use crate::{Active, Digests, People, Streams, state::State};

/// The layout of a generation. Another number means another program's: discarded and rebuilt.
const FORMAT: u16 = 1;
/// What values of a generation are cut to, in bytes.
const VALUE_LEN: usize = 1_000_000;
/// Values in a batch.
const BATCH_VALUES: usize = 8;
/// sled's cache, in bytes: every value is read once.
const CACHE_BYTES: u64 = 16 << 20;
/// At most so many streams are compared with the log at open.
const STREAMS_CHECKED_MAX: usize = 4_096;
const META: &[u8] = b"meta";

/// The table of contents: what was written, and what it must be again.
#[derive(Serialize, Deserialize)]
struct Meta {
    format: u16,
    /// How many commits are applied.
    commits: CommitNumber,
    /// How many events are.
    position: Position,
    credentials: u64,
    /// Key and BLAKE3 of each value, in order.
    values: Vec<(Part, u32, [u8; 32])>,
}

/// Which projection a value is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Part {
    Streams,
    People,
    Active,
}

/// Why a checkpoint could not be written. The one before stays.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// sled refused.
    #[error(transparent)]
    Sled(#[from] sled::Error),
    /// The operating system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// On which file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// sled panicked.
    #[error("the database panicked")]
    Panicked,
}

/// The generations in `dir`, newest first.
pub(crate) fn generations(dir: &Path) -> Vec<u64> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut found: Vec<u64> = names.filter_map(|name| name.to_str()?.strip_prefix("gen-")?.parse().ok()).collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    found
}

fn folder(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("gen-{generation}"))
}

/// What is written, held fast: readers and the projector go on meanwhile.
pub(crate) struct Frozen<'a> {
    pub active: crate::active::Frozen<'a>,
    pub streams: Vec<Vec<u8>>,
    pub people: Vec<Vec<u8>>,
    pub commits: CommitNumber,
    pub position: Position,
}

impl<'a> Frozen<'a> {
    pub(crate) fn of(active: &'a Active, streams: &Streams, people: &People, at: (CommitNumber, Position)) -> Self {
        Self {
            active: active.freeze(),
            streams: streams.chunks(VALUE_LEN),
            people: people.chunks(VALUE_LEN),
            commits: at.0,
            position: at.1,
        }
    }
}

/// Writes a generation and removes all others. Returns how many bytes it has.
pub(crate) fn write(dir: &Path, generation: u64, frozen: Frozen<'_>) -> Result<u64, CheckpointError> {
    fs::create_dir_all(dir).map_err(|error| CheckpointError::Io { path: dir.to_owned(), error })?;
    let path = folder(dir, generation);
    let bytes = catch_unwind(AssertUnwindSafe(|| write_values(&path, frozen)))
        .unwrap_or(Err(CheckpointError::Panicked))
        .inspect_err(|_| remove(&path))?;
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| CheckpointError::Io { path: dir.to_owned(), error })?;
    generations(dir).into_iter().filter(|other| *other != generation).for_each(|other| remove(&folder(dir, other)));
    Ok(bytes)
}

fn write_values(path: &Path, frozen: Frozen<'_>) -> Result<u64, CheckpointError> {
    let db = open(path)?;
    let mut meta = Meta {
        format: FORMAT,
        commits: frozen.commits,
        position: frozen.position,
        credentials: frozen.active.len() as u64,
        values: Vec::new(),
    };
    let (mut batch, mut in_batch, mut bytes) = (sled::Batch::default(), 0, 0);
    let values = [(Part::Streams, frozen.streams), (Part::People, frozen.people)]
        .into_iter()
        .flat_map(|(part, values)| values.into_iter().map(move |value| (part, value)))
        .chain(frozen.active.chunks(VALUE_LEN).map(|value| (Part::Active, value)));
    for ((part, value), number) in values.zip(0..) {
        if in_batch == BATCH_VALUES {
            db.apply_batch(std::mem::take(&mut batch))?;
            in_batch = 0;
        }
        bytes += value.len() as u64;
        meta.values.push((part, number, *blake3::hash(&value).as_bytes()));
        batch.insert(&key(number), value);
        in_batch += 1;
    }
    let mut table = postcard::to_allocvec(&meta).unwrap_or_default();
    let hash = blake3::hash(&table);
    table.extend_from_slice(hash.as_bytes());
    batch.insert(META, table);
    db.apply_batch(batch)?;
    db.flush()?;
    Ok(bytes)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "an old checkpoint could not be removed");
    }
}

fn open(path: &Path) -> Result<sled::Db, sled::Error> {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .use_compression(false)
        .flush_every_ms(None)
        .mode(sled::Mode::HighThroughput)
        .open()
}

fn key(number: u32) -> [u8; 5] {
    let [a, b, c, d] = number.to_be_bytes();
    [b'v', a, b, c, d]
}

/// Reads a generation; the error says why it is not used.
pub(crate) fn read(dir: &Path, generation: u64, log: &dyn ReadLog) -> Result<State, String> {
    let path = folder(dir, generation);
    // Opening would create what is missing.
    if !path.join("db").exists() {
        return Err("it has no database".to_owned());
    }
    let state = catch_unwind(AssertUnwindSafe(|| read_values(&path, log)))
        .unwrap_or_else(|_| Err("the database panicked".to_owned()))?;
    fits(&state, log)?;
    Ok(state)
}

fn read_values(path: &Path, log: &dyn ReadLog) -> Result<State, String> {
    let db = open(path).map_err(|error| error.to_string())?;
    let get = |key: &[u8]| {
        let value = db.get(key).map_err(|error| error.to_string())?;
        value.ok_or_else(|| format!("value {} is missing", key.escape_ascii()))
    };
    let table = get(META)?;
    let (table, hash) = table.split_last_chunk::<32>().ok_or("its table of contents is cut off")?;
    if blake3::hash(table).as_bytes() != hash {
        return Err("its table of contents has changed".to_owned());
    }
    let meta: Meta = postcard::from_bytes(table).map_err(|_| "its table of contents can't be read")?;
    if meta.format != FORMAT {
        return Err(format!("it has format {}, this program's is {FORMAT}", meta.format));
    }
    let head = log.head();
    if meta.position > head.position || meta.commits > head.commits {
        return Err(format!("it is ahead of the log: {} events, the log has {}", meta.position, head.position));
    }
    let checked = |(number, hash): (u32, &[u8; 32])| {
        let value = get(&key(number))?;
        let unchanged = blake3::hash(&value).as_bytes() == hash;
        if unchanged { Ok(value) } else { Err(format!("value {number} has changed")) }
    };
    let of = |part| meta.values.iter().filter(move |(of, ..)| *of == part).map(|(_, number, hash)| (*number, hash));
    let streams: Vec<_> = of(Part::Streams).map(checked).collect::<Result<_, String>>()?;
    let people: Vec<_> = of(Part::People).map(checked).collect::<Result<_, String>>()?;
    let credentials = usize::try_from(meta.credentials).map_err(|_| "it has too many credentials")?;
    // One thread reads and checks values while another fills the index.
    let active = std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(4);
        let index = scope.spawn(move || Active::restore(credentials, receiver));
        for entry in of(Part::Active) {
            // The receiver goes away only when it has found a flaw of its own.
            if sender.send(checked(entry)?).is_err() {
                break;
            }
        }
        drop(sender);
        index.join().map_err(|_| "the index could not be filled".to_owned())?.map_err(|error| error.to_string())
    })?;
    Ok(State {
        active,
        streams: Streams::restore(streams).ok_or("its streams can't be read")?,
        people: People::restore(people).ok_or("its people can't be read")?,
        commits: meta.commits,
        position: meta.position,
    })
}

/// Whether the log continues what the checkpoint saw: its last commit and the heads of (if there are very many: some of)
/// its streams must stand in the log. The hash of a stream's last event covers the stream's whole past.
fn fits(state: &State, log: &dyn ReadLog) -> Result<(), String> {
    let unreadable = |error: ReadError| error.to_string();
    let other = || "the log has another past".to_owned();
    let end = match state.commits.0.checked_sub(1) {
        None => Position(0),
        Some(last) => log.commit(CommitNumber(last)).map_err(unreadable)?.ok_or_else(other)?.end(),
    };
    if end != state.position {
        return Err(other());
    }
    let step = state.streams.len().div_ceil(STREAMS_CHECKED_MAX).max(1);
    let latest = state.streams.iter().filter(|(_, stream)| stream.last.next() == state.commits);
    for (_, stream) in state.streams.iter().step_by(step).chain(latest) {
        let commit = log.commit(stream.last).map_err(unreadable)?.ok_or_else(other)?;
        let last = commit.body.view().records().last();
        if last.is_none_or(|last| last.hash() != stream.head.hash) {
            return Err(other());
        }
    }
    Ok(())
}

/// The digests, as the server says them, beside the generations.
pub(crate) fn write_digests(dir: &Path, digests: &Digests) -> Result<(), CheckpointError> {
    let (path, fresh) = (dir.join("digests"), dir.join("digests.new"));
    let write = || {
        let mut file = fs::File::create(&fresh)?;
        io::Write::write_all(&mut file, digests.to_json().as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|error| CheckpointError::Io { path: path.clone(), error })
}

/// Rows written one behind the other into chunks of about `target_len` bytes; no row is split.
pub(crate) fn chunked<R>(
    rows: impl Iterator<Item = R>,
    target_len: usize,
    mut append: impl FnMut(R, Vec<u8>) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let mut chunks = vec![];
    let mut chunk = Vec::new();
    for row in rows {
        chunk = append(row, chunk);
        if chunk.len() >= target_len {
            chunks.push(std::mem::take(&mut chunk));
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}
