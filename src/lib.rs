//! keyledger, the service: the only owner of HTTP, the command line, the wall clock and randomness.
//!
//! The decisions and the log live in `keyledger-events`, what is derived from the log in `keyledger-projections`, the
//! auditor's read-only view in `keyledger-replay`.

pub mod app;
pub mod bundles;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dead_keys;
pub mod feed;
pub mod http;
pub mod identity;
pub mod leaks;
pub mod ledger;
pub mod random;
pub mod scrub;
pub mod seals;
pub mod serve;
pub mod side;
pub mod sidecar;
pub mod statements;
pub mod sweeper;
pub mod telemetry;
mod verification;
pub mod webhooks;
pub mod witnesses;
