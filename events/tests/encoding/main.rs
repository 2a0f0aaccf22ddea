//! The bytes of events, records and commits: what is written is read, what is read was written, and no released byte
//! ever changes its meaning.
//!
//! postcard takes a number in more than its shortest varint, so some bytes that no writer made still decode. That is
//! harmless here: a record's hash is over the bytes as they lie in the log and they are kept for ever, so two spellings
//! of one event are two records, of which the chain and the signed tree admit only the one that was appended. The tests
//! hold that nothing but such longer spellings decodes to what would be written otherwise.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

mod golden;
mod hostile;
mod round_trip;
mod strategies;
mod text;
