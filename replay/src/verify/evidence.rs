//! What a server says of its projections, beside the log: it must agree with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use keyledger_events::Position;
use keyledger_projections::Digests;
use serde::{Deserialize, Serialize};

use super::Broken;

/// Where the server says what it serves, in a data directory.
const DIGESTS: &str = "projections/digests";
/// The longest that file may be, in bytes.
const LEN_MAX: u64 = 64 * 1024;

/// What a server has last said of its projections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServedDigests {
    /// How many events they are of.
    pub position: Position,
    pub digests: Served,
}

/// Digests in 64 hexadecimal digits each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// The active-credential index's.
    pub active: String,
    /// The streams'.
    pub streams: String,
    /// The people's.
    pub people: String,
}

impl Served {
    /// The same as text.
    pub(crate) fn of(digests: &Digests) -> Self {
        let Digests { active, streams, people, .. } = digests;
        Self { active: active.to_string(), streams: streams.to_string(), people: people.to_string() }
    }

    /// The first projection that is not as derived: its name, what was served, what was derived.
    pub(crate) fn differs(&self, derived: &Digests) -> Option<(&'static str, String, String)> {
        let derived = Self::of(derived);
        [
            ("active", &self.active, derived.active),
            ("streams", &self.streams, derived.streams),
            ("people", &self.people, derived.people),
        ]
        .into_iter()
        .find(|(_, served, derived)| *served != derived)
        .map(|(name, served, derived)| (name, served.clone(), derived))
    }
}

/// The served digests, if the directory has them, and their file.
pub(crate) fn served_digests(dir: &Path) -> Result<Option<(PathBuf, ServedDigests)>, Broken> {
    let file = dir.join(DIGESTS);
    let Some(bytes) = read(&file)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(served) => Ok(Some((file, served))),
        Err(error) => Err(Broken::beside(&file, format!("not the digests of projections: {error}"))),
    }
}

/// A small file; none if there is none.
pub(super) fn read(file: &Path) -> Result<Option<Vec<u8>>, Broken> {
    let bytes = fs::metadata(file).and_then(|metadata| {
        if metadata.len() > LEN_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { fs::read(file) }
    });
    match bytes {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Broken::beside(file, error.to_string())),
    }
}
