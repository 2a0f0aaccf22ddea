//! The domain and the log of keyledger.
//!
//! Everything here is deterministic: time, randomness and key material arrive as arguments, so that a decision can be
//! tested as a table and a replay gives the same state on every machine. The layers, from the inside out:
//!
//! * [`secret`] — what a credential's secret looks like and how it is hashed.
//! * [`presented`] — where and from where one is presented.
//! * [`event`] — the facts, one frozen type a version.
//! * [`team`] and [`credential`] — (state, command, now) → events or a named refusal.
//! * [`record`] — the bytes of one event: envelope, chain, hash. [`commit`] — the bytes of one decision.
//! * [`tree`], [`note`] and [`head`] — the Merkle tree over all positions, and what the ledger signs of it.
//! * [`witness`] — who must have seen a tree head before it is believed.
//! * [`rotation`] — how the signing key gives way to another, and the chain of keys that makes.
//! * [`stream_map`] — all streams' last events under one root, and [`statement`] — what the ledger signs about one team.
//! * [`store`] — the trait every log implements, and its back ends.
//! * [`seal`] — personal data under a key that lies outside the log.
//!
//! `FORMAT.md` beside this crate describes every byte.

pub mod commit;
pub mod credential;
pub mod event;
pub mod head;
pub mod id;
pub mod note;
pub mod presented;
pub mod record;
pub mod rotation;
pub mod seal;
pub mod secret;
pub mod statement;
pub mod store;
pub mod stream_map;
pub mod team;
pub mod time;
pub mod tree;
pub mod witness;

pub use commit::{Commit, CommitBody};
pub use event::Event;
pub use id::{
    CommitNumber, CorrelationId, CredentialId, EventId, OperationId, PersonId, PlaceId, Position, Revision, TeamId,
    WebhookId,
};
pub use record::{Meta, Record, RecordHash};
pub use time::Timestamp;
