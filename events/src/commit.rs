//! The bytes of one decision: the 1..n events of one team that become true together or not at all.
//!
//! A commit is one frame in the file store and one message in a networked log: a cascade can't be torn.

use std::sync::Arc;

use crate::{
    CommitNumber, CorrelationId, Event, EventId, OperationId, Position, Record, Revision, TeamId, Timestamp,
    record::{Actor, AuthMethod, Meta, RecordError, RecordHash, RecordHeader, StreamHead},
    seal::Sealed,
};

/// The commit format this crate writes. Never the number of a record format: what is hashed for a first record, which
/// begins with it, can't be taken for a record.
pub const COMMIT_FORMAT: u8 = 129;
/// Bytes before the first record.
const FIXED_LEN: usize = 51;
/// The longest commit body, in bytes. It fits a NATS message (1 MiB by default) with its headers.
pub const COMMIT_LEN_MAX: usize = 1_000_000;

/// BLAKE3 of what the caller asked for; zeros when nobody will ask again. The same operation id with another digest is
/// another request under a used idempotency key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDigest(pub [u8; 32]);

/// An event on its way into a commit.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its id, a UUIDv7.
    pub id: EventId,
    /// 16 random bytes.
    pub salt: [u8; 16],
    /// The event it follows from, in this commit or before.
    pub cause: Option<EventId>,
    /// The fact.
    pub event: Event,
}

/// What all events of one commit share.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The team whose stream it goes to.
    pub team: TeamId,
    /// When.
    pub recorded_at: Timestamp,
    /// Who did it.
    pub actor: Actor,
    /// How the actor was known.
    pub auth: AuthMethod,
    /// The request.
    pub correlation: CorrelationId,
    /// Where the request came from.
    pub context: Option<Sealed>,
    /// The retry identity.
    pub operation: OperationId,
    /// What was asked.
    pub request: RequestDigest,
}

/// A commit's body, whole and unframed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitBody(Arc<[u8]>);

impl CommitBody {
    /// Chains `events` behind `head` and encodes them. Also returns the stream's head once this is appended.
    ///
    /// # Panics
    /// If there are no events, or more than 65,535.
    pub fn build(head: Option<StreamHead>, envelope: &Envelope, events: Vec<NewEvent>) -> (Self, StreamHead) {
        assert!(!events.is_empty(), "a commit has at least one event");
        let count = u16::try_from(events.len()).expect("a commit has at most 65,535 events");
        let mut out = Vec::with_capacity(FIXED_LEN + events.len() * 360);
        out.push(COMMIT_FORMAT);
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(envelope.operation.as_bytes());
        out.extend_from_slice(&envelope.request.0);
        let mut next = head.map_or(Revision(0), |head| head.revision.next());
        let mut previous = head.map_or(RecordHash::default(), |head| head.hash);
        for new in events {
            let bytes = Record {
                team: envelope.team,
                revision: next,
                id: new.id,
                recorded_at: envelope.recorded_at,
                previous,
                salt: new.salt,
                meta: Meta {
                    actor: envelope.actor,
                    auth: envelope.auth,
                    cause: new.cause,
                    correlation: envelope.correlation,
                    context: envelope.context.clone(),
                },
                event: new.event,
            }
            .encode();
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            let start = out.len();
            out.extend_from_slice(&bytes);
            previous = RecordRef { commit: &out, start, end: out.len() }.hash();
            next = next.next();
        }
        (Self(out.into()), StreamHead { revision: Revision(next.0 - 1), hash: previous })
    }

    /// Takes bytes from a log. Only the shape is looked at (lengths, counts, one team); records are decoded later.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn parse(bytes: impl Into<Arc<[u8]>>) -> Result<Self, CommitError> {
        let body = Self(bytes.into());
        CommitRef::parse(&body.0)?;
        Ok(body)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A view of it.
    pub fn view(&self) -> CommitRef<'_> {
        CommitRef { bytes: &self.0 }
    }
}

/// A commit's body where it lies.
#[derive(Clone, Copy, Debug)]
pub struct CommitRef<'a> {
    bytes: &'a [u8],
}

impl<'a> CommitRef<'a> {
    /// Checks the shape of `bytes`.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CommitError> {
        if bytes.len() < FIXED_LEN {
            return Err(CommitError::Short);
        }
        if bytes[0] != COMMIT_FORMAT {
            return Err(CommitError::Format(bytes[0]));
        }
        let view = Self { bytes };
        let mut rest = &bytes[FIXED_LEN..];
        let mut first: Option<RecordHeader> = None;
        for _ in 0..view.count() {
            let len = rest.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize).ok_or(CommitError::Short)?;
            let record = rest.get(4..4 + len).ok_or(CommitError::Short)?;
            let header = RecordHeader::decode(record).map_err(CommitError::Record)?;
            let first = first.get_or_insert(header);
            if header.team != first.team || header.recorded_at != first.recorded_at {
                return Err(CommitError::Mixed);
            }
            rest = &rest[4 + len..];
        }
        match (first, rest) {
            (None, _) => Err(CommitError::Empty),
            (Some(_), []) => Ok(view),
            (Some(_), rest) => Err(CommitError::Trailing(rest.len())),
        }
    }

    /// A copy of its own.
    pub fn to_body(self) -> CommitBody {
        CommitBody(self.bytes.into())
    }

    /// How many events it holds; at least one.
    pub fn count(&self) -> u64 {
        u64::from(u16::from_le_bytes([self.bytes[1], self.bytes[2]]))
    }

    /// The retry identity.
    pub fn operation(&self) -> OperationId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.bytes[3..19]);
        OperationId::from_bytes(id)
    }

    /// What was asked.
    pub fn request(&self) -> RequestDigest {
        let mut digest = [0; 32];
        digest.copy_from_slice(&self.bytes[19..51]);
        RequestDigest(digest)
    }

    /// Its records, in order.
    pub fn records(&self) -> impl Iterator<Item = RecordRef<'a>> + use<'a> {
        let (commit, mut at) = (self.bytes, FIXED_LEN);
        std::iter::from_fn(move || {
            let len = u32::from_le_bytes(*commit.get(at..)?.first_chunk::<4>()?) as usize;
            let start = at + 4;
            at = start.checked_add(len).filter(|end| *end <= commit.len())?;
            Some(RecordRef { commit, start, end: at })
        })
    }

    /// The header of its first record: team, first revision, recorded time.
    ///
    /// # Errors
    /// [`RecordError`] if the view was not made by [`CommitRef::parse`].
    pub fn first(&self) -> Result<RecordHeader, RecordError> {
        RecordHeader::decode(self.records().next().map_or(&[], |record| record.bytes()))
    }
}

/// A record where it lies in its commit.
#[derive(Clone, Copy)]
pub struct RecordRef<'a> {
    commit: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> RecordRef<'a> {
    /// Its own bytes.
    pub fn bytes(&self) -> &'a [u8] {
        &self.commit[self.start..self.end]
    }

    /// BLAKE3 of it: what the next record of the team names, and what the tree's leaf holds. A commit's first record is
    /// hashed together with all that stands before it, so that the operation id, the digest of the request and where
    /// the commit ends are as provable as the events.
    pub fn hash(&self) -> RecordHash {
        let from = if self.start == FIXED_LEN + 4 { 0 } else { self.start };
        RecordHash(*blake3::hash(&self.commit[from..self.end]).as_bytes())
    }
}

/// A commit in its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its number.
    pub number: CommitNumber,
    /// The position of its first event.
    pub first_position: Position,
    /// Its bytes.
    pub body: CommitBody,
}

impl Commit {
    /// The position after its last event.
    pub fn end(&self) -> Position {
        Position(self.first_position.0 + self.body.view().count())
    }

    /// Its events, decoded, each with its position, hash and number of bytes.
    pub fn records(&self) -> impl Iterator<Item = Result<PlacedRecord, RecordError>> + '_ {
        self.body.view().records().zip(self.first_position.0..).map(|(record, position)| {
            Ok(PlacedRecord {
                position: Position(position),
                hash: record.hash(),
                record: Record::decode(record.bytes())?,
            })
        })
    }
}

/// An event in its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedRecord {
    /// Where.
    pub position: Position,
    /// See [`RecordRef::hash`].
    pub hash: RecordHash,
    /// What.
    pub record: Record,
}

/// Why bytes are not a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Cut off.
    #[error("commit cut off")]
    Short,
    /// Written by a newer program, or not a commit.
    #[error("unknown commit format {0}")]
    Format(u8),
    /// No events.
    #[error("commit without events")]
    Empty,
    /// Events of several teams or times.
    #[error("commit with events of several teams or times")]
    Mixed,
    /// Too long.
    #[error("{0} bytes too many after the commit's last record")]
    Trailing(usize),
    /// A record that can't be read.
    #[error(transparent)]
    Record(RecordError),
}
