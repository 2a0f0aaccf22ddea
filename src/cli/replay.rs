//! `keyledger replay`: looks at a data directory, or a copy of one, without a server and without trusting an index.

use std::path::PathBuf;

use clap::Subcommand;
use keyledger_events::Position;
use keyledger_replay::Point;

use super::Failure;

/// What can be asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check every frame, chain, position, tree head and projection digest. Exit 0 only if all of them hold.
    Verify {
        /// The data directory, or a copy of one.
        dir: PathBuf,
        /// The verifier key to believe, as text in a file; without it the directory's own is believed, and said so.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// A signed tree head seen elsewhere, as a note in a file; may be given often.
        #[arg(long, value_name = "FILE")]
        head: Vec<PathBuf>,
    },
    /// List which credentials were alive.
    AsOf {
        /// The data directory, or a copy of one.
        dir: PathBuf,
        /// When: an instant (what held then, by all that is known now) or a position (what was known there).
        #[arg(long, value_name = "POSITION|INSTANT")]
        at: Point,
        /// Use no more of the log than up to this position.
        #[arg(long, value_name = "POSITION")]
        known_at: Option<Position>,
    },
    /// Tell one credential's life: when it was alive, at which position it died, and why.
    Explain {
        /// The data directory, or a copy of one.
        dir: PathBuf,
        /// The credential: its id, or the first 12 characters of its key.
        credential: String,
        /// When: an instant or a position.
        #[arg(long, value_name = "POSITION|INSTANT")]
        at: Option<Point>,
    },
    /// List what changed between two points.
    Diff {
        /// The data directory, or a copy of one.
        dir: PathBuf,
        /// The earlier point: an instant or a position.
        from: Point,
        /// The later point.
        to: Point,
    },
    /// Throw the projections away and rebuild them; the digests must match those that were served.
    Rebuild {
        /// The data directory, or a copy of one, without a server on it.
        dir: PathBuf,
    },
}

/// Runs a replay command.
///
/// # Errors
/// What did not hold, or could not be read.
pub fn run(command: Command, json: bool) -> Result<(), Failure> {
    let _ = (command, json);
    Err(Failure::Refused("replay is not part of this build yet".to_owned()))
}
