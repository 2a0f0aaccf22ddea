//! What is derived from the log: everything here can be deleted and comes out the same again.
//!
//! Three projections are kept for the whole ledger and checkpointed: [`active`] (verification), `streams` (where each
//! team's events lie) and `people` (who is in which team). What a team's own pages show is folded from its stream when
//! somebody asks, and kept for a while.
//!
//! Feature `ledger` (default): what the ledger itself keeps, with its stores. Feature `edge`: [`edge`], verification inside
//! another process; alone (`default-features = false`) it needs no database.

pub mod active;
#[cfg(feature = "ledger")]
mod checkpoint;
mod digest;
#[cfg(feature = "edge")]
pub mod edge;
pub mod feed;
#[cfg(feature = "ledger")]
pub mod people;
#[cfg(feature = "ledger")]
mod projections;
#[cfg(feature = "ledger")]
mod state;
#[cfg(feature = "ledger")]
pub mod streams;
#[cfg(feature = "ledger")]
pub mod team_view;
#[cfg(test)]
#[cfg_attr(not(feature = "ledger"), allow(dead_code, reason = "some of it is for the ledger's own parts"))]
mod testing;
pub mod usage;
#[cfg(feature = "ledger")]
mod views;

pub use active::{Active, Denied, Handle, Known, Surface, Verdict};
#[cfg(feature = "ledger")]
pub use checkpoint::CheckpointError;
pub use digest::Digest;
#[cfg(feature = "ledger")]
pub use people::People;
#[cfg(feature = "ledger")]
pub use projections::{Checkpoint, Digests, Opened, Projections};
#[cfg(feature = "ledger")]
pub use streams::Streams;
#[cfg(feature = "ledger")]
pub use team_view::{FoldError, TeamView, Until};
#[cfg(feature = "ledger")]
pub use views::SharedView;
