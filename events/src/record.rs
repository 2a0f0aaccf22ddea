//! The bytes of one event: envelope, chain, hash. `FORMAT.md` §3 is this file in prose.
//!
//! A record knows its team, its revision and its predecessor's hash, but not its position: positions are the log's to
//! give, and the same record keeps its bytes and its hash when a ledger moves from one back end to another.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    CorrelationId, CredentialId, Event, EventId, PersonId, Revision, TeamId, Timestamp,
    event::{EventError, exact},
    seal::Sealed,
};

/// The record format this crate writes.
pub const RECORD_FORMAT: u8 = 1;
/// The longest text of a request's context, in bytes. Every event of a commit carries it, and the biggest commits have
/// more than a thousand: whoever writes it cuts the user agent to fit.
pub const CONTEXT_LEN_MAX: usize = 512;
/// Bytes before the meta's length.
const FIXED_LEN: usize = 101;

/// BLAKE3 of a record in its commit: [`RecordRef::hash`](crate::commit::RecordRef::hash). The record carries 16 random
/// bytes, so a published hash betrays nothing of it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordHash(pub [u8; 32]);

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hexadecimal in JSON, 32 bare bytes in postcard.
impl Serialize for RecordHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

/// The same way back.
impl<'de> Deserialize<'de> for RecordHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(serde::de::Error::custom("not 64 hexadecimal digits"));
        }
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(serde::de::Error::custom)?;
        }
        Ok(Self(hash))
    }
}

/// The last event of a team's stream: what the next one must name as its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHead {
    /// Its revision.
    pub revision: Revision,
    /// Its hash.
    pub hash: RecordHash,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A person.
    Person(PersonId),
    /// Whoever held this credential's secret.
    Credential(CredentialId),
    /// The ledger itself: bootstrap, the expiry sweeper.
    System,
}

/// An [`Actor`] in JSON: `{"type":"person","id":"…"}`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Actor", rename_all = "snake_case", tag = "type", content = "id")]
enum ActorText {
    Person(PersonId),
    Credential(CredentialId),
    System,
}

/// An [`Actor`] in postcard, which can't read a tag beside its content.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Actor")]
enum ActorBytes {
    Person(PersonId),
    Credential(CredentialId),
    System,
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            ActorText::serialize(self, serializer)
        } else {
            ActorBytes::serialize(self, serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            ActorText::deserialize(deserializer)
        } else {
            ActorBytes::deserialize(deserializer)
        }
    }
}

/// How the actor was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// A session's cookie.
    Session,
    /// A short-lived signed token of a session.
    Token,
    /// Possession of a credential's secret.
    Secret,
    /// A one-time link.
    Link,
    /// Nobody asked: the ledger's own doing.
    Internal,
}

/// What every event says beside its fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Who did it.
    pub actor: Actor,
    /// How the actor was known.
    pub auth: AuthMethod,
    /// The event this one follows from.
    pub cause: Option<EventId>,
    /// The request it belongs to.
    pub correlation: CorrelationId,
    /// Where the request came from (a JSON object with `ip` and `user_agent`), sealed for the person it is about.
    pub context: Option<Sealed>,
}

/// One event, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The team whose stream it is in.
    pub team: TeamId,
    /// Its place in that stream.
    pub revision: Revision,
    /// Its id.
    pub id: EventId,
    /// When it was appended.
    pub recorded_at: Timestamp,
    /// The hash of the team's event before it; zeros for the first.
    pub previous: RecordHash,
    /// 16 random bytes.
    pub salt: [u8; 16],
    /// Who, how, why.
    pub meta: Meta,
    /// The fact.
    pub event: Event,
}

impl Record {
    /// The record's bytes, as hashed and kept for ever.
    ///
    /// # Panics
    /// If the meta has more than 65,535 bytes: what can't be read again must not be written. A context of
    /// [`crate::seal::SEALED_MAX`] bytes is far from it.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, version) = self.event.header();
        let mut out = Vec::with_capacity(320);
        out.push(RECORD_FORMAT);
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(self.team.as_bytes());
        out.extend_from_slice(&self.revision.0.to_le_bytes());
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&self.recorded_at.micros().to_le_bytes());
        out.extend_from_slice(&self.previous.0);
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&[0, 0]);
        out = postcard::to_extend(&self.meta, out).unwrap_or_default();
        let meta_len = u16::try_from(out.len() - FIXED_LEN - 2).expect("a meta has at most 65,535 bytes");
        out[FIXED_LEN..FIXED_LEN + 2].copy_from_slice(&meta_len.to_le_bytes());
        self.event.encode(out)
    }

    /// Reads a record of any released format.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        RecordHeader::decode(bytes)?.decode_rest(bytes)
    }
}

/// The fixed part of a record: enough to follow the chain without decoding what happened.
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// The event's type number.
    pub kind: u16,
    /// The event type's version.
    pub version: u16,
    /// See [`Record::team`].
    pub team: TeamId,
    /// See [`Record::revision`].
    pub revision: Revision,
    /// See [`Record::id`].
    pub id: EventId,
    /// See [`Record::recorded_at`].
    pub recorded_at: Timestamp,
    /// See [`Record::previous`].
    pub previous: RecordHash,
    /// See [`Record::salt`].
    pub salt: [u8; 16],
    meta_len: usize,
}

impl RecordHeader {
    /// Reads the first 103 bytes.
    ///
    /// # Errors
    /// [`RecordError::Short`], [`RecordError::Format`] or [`RecordError::Time`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() < FIXED_LEN + 2 {
            return Err(RecordError::Short);
        }
        if bytes[0] != RECORD_FORMAT {
            return Err(RecordError::Format(bytes[0]));
        }
        let mut input = &bytes[1..];
        let recorded_at;
        let header = Self {
            kind: u16::from_le_bytes(take(&mut input)),
            version: u16::from_le_bytes(take(&mut input)),
            team: TeamId::from_bytes(take(&mut input)),
            revision: Revision(u64::from_le_bytes(take(&mut input))),
            id: EventId::from_bytes(take(&mut input)),
            recorded_at: {
                recorded_at = u64::from_le_bytes(take(&mut input));
                Timestamp::from_micros(recorded_at)
            },
            previous: RecordHash(take(&mut input)),
            salt: take(&mut input),
            meta_len: usize::from(u16::from_le_bytes(take(&mut input))),
        };
        if header.recorded_at.micros() == recorded_at { Ok(header) } else { Err(RecordError::Time) }
    }

    /// Reads what follows the header in the `bytes` it was read from.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode_rest(&self, bytes: &[u8]) -> Result<Record, RecordError> {
        let rest = bytes.get(FIXED_LEN + 2..).ok_or(RecordError::Short)?;
        let (meta, body) = rest.split_at_checked(self.meta_len).ok_or(RecordError::Short)?;
        Ok(Record {
            team: self.team,
            revision: self.revision,
            id: self.id,
            recorded_at: self.recorded_at,
            previous: self.previous,
            salt: self.salt,
            meta: exact(meta).map_err(RecordError::Meta)?,
            event: Event::decode(self.kind, self.version, body).map_err(RecordError::Event)?,
        })
    }
}

/// Splits `N` bytes off; the caller has checked the length.
fn take<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let (head, rest) = input.split_at(N);
    bytes.copy_from_slice(head);
    *input = rest;
    bytes
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Cut off.
    #[error("record cut off")]
    Short,
    /// Written by a newer program, or not a record.
    #[error("unknown record format {0}")]
    Format(u8),
    /// Beyond the year 9999.
    #[error("recorded time out of range")]
    Time,
    /// Not a meta.
    #[error("record's meta: {0}")]
    Meta(EventError),
    /// Not an event.
    #[error("record's event: {0}")]
    Event(EventError),
}

/// Follows one team's chain: each record must name the one before by revision and hash.
///
/// # Errors
/// [`ChainError`], with what was expected.
pub fn follow_chain(head: Option<StreamHead>, record: &RecordHeader) -> Result<(), ChainError> {
    let revision = head.map_or(Revision(0), |head| head.revision.next());
    if record.revision != revision {
        return Err(ChainError::Revision { expected: revision, found: record.revision });
    }
    let hash = head.map_or(RecordHash::default(), |head| head.hash);
    if record.previous != hash {
        return Err(ChainError::Previous { expected: hash, found: record.previous });
    }
    Ok(())
}

/// A record that does not follow the one before it in its team's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A revision missing or twice.
    #[error("revision {found} where {expected} must follow")]
    Revision {
        /// What must follow.
        expected: Revision,
        /// What stands there.
        found: Revision,
    },
    /// The predecessor is not the one named.
    #[error("the record names predecessor {found}, the stream's last is {expected}")]
    Previous {
        /// The stream's last hash.
        expected: RecordHash,
        /// What the record names.
        found: RecordHash,
    },
}
