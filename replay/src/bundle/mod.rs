//! Bundles: one team's history in one file, with everything that proves it but the ledger's key.
//!
//! A bundle shows the team's commits and, in place of everybody else's, the roots of the subtrees that hold them; so its
//! reader can build the whole ledger's tree and sees nothing of it but their number. `FORMAT.md` §10 describes every byte.
//!
//! * [`export`] — puts one together.
//! * [`verify`] — whether it proves what it shows.
//! * [`BundleLog`] — the same as a log, for [`crate::as_of`], [`crate::explain`] and [`crate::diff`].

mod export;
mod format;
mod gather;
mod log;
mod nodes;
mod report;
mod verify;

pub use self::{
    export::{Bound, BoundError, ExportError, Exported, Material, Selection, export},
    format::{Header, SealShown},
    gather::{Gathered, gather},
    log::BundleLog,
    nodes::{LogNodes, NodeError},
    report::{Broken, BundleError, Options, Report, Sealed},
    verify::verify,
};
