//! A bundle's bytes: header, items in order of position, and a hash of everything. `FORMAT.md` §10 is this file in prose.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use keyledger_events::{
    CommitNumber, CredentialId, Position, RecordHash, Revision, TeamId, Timestamp,
    commit::COMMIT_LEN_MAX,
    event::HistorySealedV1,
    record::StreamHead,
    stream_map::{MapProof, MapRoot},
    tree::NodeHash,
};
use serde::{Deserialize, Serialize};

/// What a bundle begins with.
pub(crate) const MAGIC: &[u8; 8] = b"KLBUNDL1";
/// The header's format.
const FORMAT: u32 = 1;
/// The longest header, in bytes.
const HEADER_LEN_MAX: usize = 64 << 20;
/// How much is read, hashed and written at once, in bytes.
const CHUNK_LEN: usize = 256 * 1024;
/// Bytes of the hash at the end.
const HASH_LEN: usize = 32;

const TAG_END: u8 = 0;
const TAG_NODE: u8 = 1;
const TAG_COMMIT: u8 = 2;

/// What a bundle says of itself. The notes in it are signed, the seal is in the tree; the rest is believed only as far
/// as these bear it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The header's format: 1.
    pub format: u32,
    /// The ledger's name.
    pub origin: String,
    /// The ledger's verifier key.
    pub key: String,
    /// Notes by which older keys named their successors.
    pub key_rotations: Vec<String>,
    /// Whose stream this is.
    pub team: TeamId,
    /// The first revision shown.
    pub from: Revision,
    /// The last revision shown.
    pub to: Revision,
    /// The signed tree head that covers everything.
    pub tree_head: String,
    /// The signed statement where the team's stream ends.
    pub statement: String,
    /// What a seal says of the team.
    pub seal: Option<SealShown>,
    /// When the server last saw each credential used. Nothing proves it.
    pub last_used: Option<BTreeMap<CredentialId, Timestamp>>,
    /// When this was exported. Nothing proves it.
    pub exported_at: Timestamp,
}

/// A seal, and what it says of the bundle's team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealShown {
    /// The position of the seal's event.
    pub position: Position,
    /// The map is of all events before this position.
    pub through: Position,
    /// How many teams it has.
    pub teams: u64,
    /// Its root.
    pub root: MapRoot,
    /// The team's last revision in it.
    pub revision: Revision,
    /// That event's hash, in hexadecimal.
    pub head: MapRoot,
    /// What leads from there to the root.
    pub proof: MapProof,
}

impl SealShown {
    /// The seal at `position`, and what it says of a team.
    pub fn new(position: Position, seal: &HistorySealedV1, head: StreamHead, proof: MapProof) -> Self {
        let HistorySealedV1 { through, teams, root } = *seal;
        Self { position, through, teams, root, revision: head.revision, head: MapRoot(head.hash.0), proof }
    }

    /// The team's last event in the map.
    pub fn stream_head(&self) -> StreamHead {
        StreamHead { revision: self.revision, hash: RecordHash(self.head.0) }
    }

    /// What the event must say.
    pub(crate) fn event(&self) -> HistorySealedV1 {
        HistorySealedV1 { through: self.through, teams: self.teams, root: self.root }
    }
}

/// Writes a bundle, and hashes what it writes.
pub(crate) struct Writer<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    written: u64,
}

impl<'a> Writer<'a> {
    /// Writes the header.
    pub fn new(out: &'a mut dyn Write, header: &Header) -> io::Result<Self> {
        let json = serde_json::to_vec(header)?;
        let len = u32::try_from(json.len()).ok().filter(|_| json.len() <= HEADER_LEN_MAX);
        let len = len.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut writer = Self { out, buffer: Vec::with_capacity(CHUNK_LEN), hasher: blake3::Hasher::new(), written: 0 };
        writer.put(&[MAGIC, &len.to_le_bytes(), json.as_slice()])?;
        Ok(writer)
    }

    /// The root of the full subtree of `2^level` leaves that comes next.
    pub fn node(&mut self, level: u32, hash: &NodeHash) -> io::Result<()> {
        self.put(&[&[TAG_NODE, level as u8], &hash.0])
    }

    /// The commit that comes next.
    pub fn commit(&mut self, number: CommitNumber, first_position: Position, body: &[u8]) -> io::Result<()> {
        let (number, position) = (number.0.to_le_bytes(), first_position.0.to_le_bytes());
        self.put(&[&[TAG_COMMIT], &number, &position, &(body.len() as u32).to_le_bytes(), body])
    }

    /// Ends it; how many bytes it has.
    pub fn finish(mut self) -> io::Result<u64> {
        self.put(&[&[TAG_END]])?;
        self.flush()?;
        let hash = self.hasher.finalize();
        self.out.write_all(hash.as_bytes())?;
        self.out.flush()?;
        Ok(self.written + HASH_LEN as u64)
    }

    fn put(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        parts.iter().for_each(|part| self.buffer.extend_from_slice(part));
        if self.buffer.len() >= CHUNK_LEN { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// What stands in a bundle behind the header.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// The root of a full subtree.
    Node { level: u8, hash: NodeHash },
    /// A commit that is shown. `offset` is its body's place in the file.
    Commit { number: CommitNumber, first_position: Position, offset: u64, body: &'a [u8] },
}

/// Reads a bundle, and hashes what it reads. Memory is bounded by the header and the longest commit.
pub(crate) struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    /// Up to here it is hashed, taken, and filled.
    hashed: usize,
    taken: usize,
    filled: usize,
    /// The place of the buffer's first byte in the file.
    offset: u64,
    hasher: blake3::Hasher,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn open(input: R) -> Result<(Header, Self), FormatError> {
        let (buffer, hasher) = (vec![0; CHUNK_LEN], blake3::Hasher::new());
        let mut reader = Self { input, buffer, hashed: 0, taken: 0, filled: 0, offset: 0, hasher };
        if reader.take(MAGIC.len()).map_err(|error| error.or(FormatError::Magic))? != MAGIC {
            return Err(FormatError::Magic);
        }
        let len = u32::from_le_bytes(reader.array()?) as usize;
        if len > HEADER_LEN_MAX {
            return Err(FormatError::Header(format!("of {len} bytes")));
        }
        let json = reader.take(len)?;
        // The format's number before the rest: a newer one may have any shape.
        #[derive(Deserialize)]
        struct Number {
            format: u32,
        }
        match serde_json::from_slice(json) {
            Ok(Number { format: FORMAT }) => {}
            Ok(Number { format }) => return Err(FormatError::Format(format)),
            Err(error) => return Err(FormatError::Header(error.to_string())),
        }
        let header = serde_json::from_slice(json).map_err(|error| FormatError::Header(error.to_string()))?;
        Ok((header, reader))
    }

    /// The next item; none at the end, once the hash of everything has been compared.
    pub fn next(&mut self) -> Result<Option<Item<'_>>, FormatError> {
        match self.array::<1>()?[0] {
            TAG_NODE => {
                let [level] = self.array()?;
                Ok(Some(Item::Node { level, hash: NodeHash(self.array()?) }))
            }
            TAG_COMMIT => {
                let number = CommitNumber(u64::from_le_bytes(self.array()?));
                let first_position = Position(u64::from_le_bytes(self.array()?));
                let len = u32::from_le_bytes(self.array()?) as usize;
                if len > COMMIT_LEN_MAX {
                    return Err(FormatError::Item(self.place()));
                }
                let offset = self.place();
                let body = self.take(len)?;
                Ok(Some(Item::Commit { number, first_position, offset, body }))
            }
            TAG_END => {
                self.hash_taken();
                let derived = *self.hasher.finalize().as_bytes();
                if self.array::<HASH_LEN>()? != derived {
                    return Err(FormatError::Hash);
                }
                if self.fill(1)? { Err(FormatError::Trailing) } else { Ok(None) }
            }
            _ => Err(FormatError::Item(self.place() - 1)),
        }
    }

    /// How many bytes are read.
    pub fn place(&self) -> u64 {
        self.offset + self.taken as u64
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take(&mut self, len: usize) -> Result<&[u8], FormatError> {
        if !self.fill(len)? {
            return Err(FormatError::Short);
        }
        self.taken += len;
        Ok(&self.buffer[self.taken - len..self.taken])
    }

    /// Reads until so many bytes are there to be taken; false if the file ends before.
    fn fill(&mut self, len: usize) -> Result<bool, FormatError> {
        if self.filled - self.taken >= len {
            return Ok(true);
        }
        self.hash_taken();
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.offset += self.taken as u64;
        self.filled -= self.taken;
        (self.hashed, self.taken) = (0, 0);
        while self.filled < len {
            // A length may lie: room is made for what is really there.
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            match self.input.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FormatError::Io(error)),
            }
        }
        Ok(true)
    }

    fn hash_taken(&mut self) {
        self.hasher.update(&self.buffer[self.hashed..self.taken]);
        self.hashed = self.taken;
    }
}

/// Why a file is not a whole bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("not a keyledger bundle")]
    Magic,
    #[error("a bundle of format {0}, which this program does not know")]
    Format(u32),
    #[error("not a bundle's header: {0}")]
    Header(String),
    #[error("neither a node nor a commit at offset {0}")]
    Item(u64),
    #[error("the bundle is cut off")]
    Short,
    #[error("the hash at the bundle's end is of other bytes: the bundle was changed")]
    Hash,
    #[error("bytes behind the bundle's end")]
    Trailing,
    #[error("{0}")]
    Io(io::Error),
}

impl FormatError {
    /// This, unless the file could not be read at all.
    fn or(self, other: Self) -> Self {
        if matches!(self, Self::Io(_)) { self } else { other }
    }
}
