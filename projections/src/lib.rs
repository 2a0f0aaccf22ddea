//! What is derived from the log: everything here can be deleted and comes out the same again.
//!
//! Three projections are kept for the whole ledger and checkpointed: [`active`] (verification), `streams` (where each
//! team's events lie) and `people` (who is in which team). What a team's own pages show is folded from its stream when
//! somebody asks, and kept for a while.

pub mod active;
mod digest;
pub mod people;
pub mod streams;
pub mod team_view;
#[cfg(test)]
mod testing;
pub mod usage;

pub use active::{Active, Denied, Handle, Surface, Verdict};
pub use digest::Digest;
pub use people::People;
pub use streams::Streams;
pub use team_view::{TeamView, Until};
