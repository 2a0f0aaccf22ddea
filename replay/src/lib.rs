//! Read-only replay of a ledger: what held, why, what changed, and whether the bytes still prove it.
//!
//! Everything here works on the read half of a log, or on a directory that nobody has to serve. It shares the record,
//! commit and tree code with the writer, and neither its write path nor anything it has derived. Memory grows with the
//! credentials that are alive and with the teams, never with the number of events.
//!
//! * [`as_of`] — which credentials were alive at an instant, or as far as was known at a position.
//! * [`explain`] — one credential's life in sentences, and at which position it died and why.
//! * [`diff`] — what changed between two points.
//! * [`what_if`] — which credentials another policy would have ended, and which of them were used afterwards.
//! * [`rebuild`] — the projections thrown away and made anew, against those that were served.
//! * [`bundle`] — one team's history in one file, and whether it proves what it shows.
//! * [`verify`] — whether every byte still proves what the ledger has signed and serves.

pub mod as_of;
pub mod bundle;
pub mod diff;
pub mod explain;
mod point;
pub mod rebuild;
mod standing;
pub mod team_log;
pub mod verify;
mod walk;
pub mod what_if;

pub use point::{Moment, Point, PointError, ResolvedMoment};
pub use standing::{Death, End, Standing};
pub use team_log::TeamLog;
pub use walk::{Progress, ReplayError, quiet};
