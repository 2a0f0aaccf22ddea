//! How a bundle is to be verified, what held, and why it does not.

use std::{fmt, path::PathBuf};

use keyledger_events::{Position, Revision, TeamId, Timestamp, head::HeadVerifier, witness::Policy};
use serde::Serialize;

use crate::{Progress, verify::Witnessed};

/// How to verify a bundle.
#[derive(Default)]
pub struct Options<'a> {
    /// The key that an auditor has pinned; without it the bundle's own is believed, and the report says so.
    pub key: Option<HeadVerifier>,
    /// The team that the bundle must be of.
    pub team: Option<TeamId>,
    /// Signed tree heads kept elsewhere, as notes: the bundle's tree must begin with theirs.
    pub known_heads: Vec<String>,
    /// Who must have cosigned the bundle's tree head.
    pub policy: Option<Policy>,
    /// Told how many of how many bytes are done.
    pub progress: Option<Progress<'a>>,
}

/// What held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The ledger's name.
    pub origin: String,
    /// Whether the key came from whoever asked. Else it is the bundle's own, which whoever made the bundle chose.
    pub key_pinned: bool,
    /// How many rotations of the signing key lead from the key that is believed to the one that signs.
    pub key_rotations: u64,
    /// The tree head's cosignatures; none if no policy was given.
    pub witnessed: Option<Witnessed>,
    /// Whose stream.
    pub team: TeamId,
    /// Whether it is all of it: from the first event to the one that the ledger has stated as the last.
    pub whole: bool,
    /// The first revision shown.
    pub from: Revision,
    /// The last revision shown.
    pub to: Revision,
    /// The stream's last revision, as stated.
    pub last: Revision,
    /// How many commits are shown.
    pub commits: u64,
    /// How many events are shown.
    pub events: u64,
    /// How many credentials no event has ended; none if the stream is not shown from its beginning.
    pub live_credentials: Option<u64>,
    /// How many events the ledger had.
    pub tree_size: u64,
    /// Their root.
    pub root: String,
    /// The signed tree head, a note to keep for the next audit.
    pub tree_head: String,
    /// When the ledger stated where the stream ends.
    pub stated_at: Timestamp,
    /// What the seal bears out; none if there is none in the bundle.
    pub seal: Option<Sealed>,
    /// The sizes of the kept tree heads that this tree begins with, ascending.
    pub compared_sizes: Vec<u64>,
    /// How many last uses it tells of. Nothing proves them.
    pub last_uses: u64,
    /// When it was exported. Nothing proves it.
    pub exported_at: Timestamp,
}

/// What a seal bears out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sealed {
    /// The seal's own position.
    pub position: Position,
    /// It is of all events before this position.
    pub through: Position,
    /// The team's last revision in it.
    pub revision: Revision,
    /// Whether the bundle shows that event. Else the seal could not be compared.
    pub compared: bool,
}

/// Why a bundle does not prove what it should.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Something in it does not hold.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// It holds, but was not exported for this older tree head.
    #[error("the bundle can't be compared with the tree head of {0} events: export it again with --head")]
    NotComparable(u64),
    /// It does not begin where a question must.
    #[error("the bundle begins with revision {0}: what was alive before can't be known from it")]
    Partial(Revision),
    /// The kept tree head is newer than the bundle.
    #[error(
        "the bundle's tree has {has} events, the kept tree head {kept}: it shows less than has been seen; export it again"
    )]
    Older {
        /// What the bundle's tree has.
        has: u64,
        /// What was kept.
        kept: u64,
    },
    /// It can't be read.
    #[error("{}: {error}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
}

/// The first thing in a bundle that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Broken {
    /// In which file.
    pub file: PathBuf,
    /// The first position that can't be trusted, if one can be named.
    pub position: Option<Position>,
    /// What is wrong, as one clause.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(position) = self.position {
            write!(f, "position {position}: ")?;
        }
        f.write_str(&self.what)
    }
}
