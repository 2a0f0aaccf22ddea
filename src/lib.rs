//! keyledger, the service: the only owner of HTTP, the command line, the wall clock and randomness.
//!
//! The decisions and the log live in `keyledger-events`, what is derived from the log in `keyledger-projections`, the
//! auditor's read-only view in `keyledger-replay`.

pub mod config;
pub mod http;
pub mod scrub;
pub mod telemetry;
