//! What a server says of its projections, beside the log: it must agree with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use keyledger_events::Position;
use serde::Deserialize;

use super::Broken;

/// Where the server says what it serves, in a data directory.
const DIGESTS: &str = "projections/digests";
/// The longest that file may be, in bytes.
const LEN_MAX: u64 = 64 * 1024;

/// What the server has last said of its projections.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServedDigests {
    /// How many events they are of.
    pub position: Position,
    pub digests: DigestTexts,
}

/// Each in 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DigestTexts {
    pub active: String,
    pub streams: String,
    pub people: String,
}

/// The served digests, if the directory has them, and their file.
pub(super) fn served_digests(dir: &Path) -> Result<Option<(PathBuf, ServedDigests)>, Broken> {
    let file = dir.join(DIGESTS);
    let Some(bytes) = read(&file)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(served) => Ok(Some((file, served))),
        Err(error) => Err(Broken::beside(&file, format!("not the digests of projections: {error}"))),
    }
}

/// A small file; none if there is none.
fn read(file: &Path) -> Result<Option<Vec<u8>>, Broken> {
    let bytes = fs::metadata(file).and_then(|metadata| {
        if metadata.len() > LEN_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { fs::read(file) }
    });
    match bytes {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Broken::beside(file, error.to_string())),
    }
}
