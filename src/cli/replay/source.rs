//! Where history is asked: a directory, or a running server.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    str::FromStr,
};

use keyledger_events::{CredentialId, Timestamp};

use crate::{cli::client, side::Side};

/// A data directory, or a server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A data directory, or a copy of one.
    Dir(PathBuf),
    /// `http://` or `https://` and a host.
    Server(String),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Ok(Self::Dir(text.into()));
        }
        client::checked(text).map(Self::Server).map_err(|_| "not a server's address".to_owned())
    }
}

/// When each credential of a data directory was last used, or why nobody knows. The side store is read from a copy of
/// its own: opening it would change what an auditor was given.
pub fn last_uses(dir: &Path, is_live: bool) -> Result<HashMap<CredentialId, Timestamp>, String> {
    let side = dir.join("side");
    if is_live {
        return Err(format!("{} is in use by a server; ask that by its URL instead", side.display()));
    }
    if !side.is_dir() {
        return Err(format!("{} is not here", side.display()));
    }
    let unreadable = |error: String| format!("{} can't be read: {error}", side.display());
    let copy = copy_of(&side).map_err(|error| unreadable(error.to_string()))?;
    Side::last_uses(copy.path()).map_err(unreadable)
}

/// A copy of a folder's files that goes when it is dropped.
fn copy_of(folder: &Path) -> std::io::Result<tempfile::TempDir> {
    let copy = tempfile::tempdir()?;
    let mut folders = vec![(folder.to_owned(), copy.path().to_owned())];
    while let Some((from, to)) = folders.pop() {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                std::fs::create_dir(&target)?;
                folders.push((entry.path(), target));
            } else if kind.is_file() {
                std::fs::copy(entry.path(), target)?;
            }
        }
    }
    Ok(copy)
}
