//! What is derived from the log: everything here can be deleted and comes out the same again.
//!
//! Three projections are kept for the whole ledger and checkpointed: [`active`] (verification), `streams` (where each
//! team's events lie) and `people` (who is in which team). What a team's own pages show is folded from its stream when
//! somebody asks, and kept for a while.

pub mod active;
mod checkpoint;
mod digest;
pub mod feed;
pub mod people;
mod projections;
mod state;
pub mod streams;
pub mod team_view;
#[cfg(test)]
mod testing;
pub mod usage;
mod views;

pub use active::{Active, Denied, Handle, Known, Surface, Verdict};
pub use checkpoint::CheckpointError;
pub use digest::Digest;
pub use people::People;
pub use projections::{Checkpoint, Digests, Opened, Projections};
pub use streams::Streams;
pub use team_view::{FoldError, TeamView, Until};
pub use views::SharedView;
