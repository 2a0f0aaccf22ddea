//! The saved sign-in: one file of the user's own, 0600, in their configuration directory.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Failure;

/// A sign-in. Its token is sent to its own server only.
#[derive(Clone, Serialize, Deserialize)]
pub struct Saved {
    /// Where it is good.
    pub server: String,
    /// An access token (`eyJ…`) or a device's key (`dk-`).
    pub token: String,
    /// The chosen team.
    pub team: Option<Uuid>,
    /// When it ends, as the server said.
    pub expires_at: Option<String>,
}

/// Shows no token.
impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saved").field("server", &self.server).field("team", &self.team).finish_non_exhaustive()
    }
}

/// Where it lies: `$KEYLEDGER_CONFIG_DIR`, `$XDG_CONFIG_HOME/keyledger` or `~/.config/keyledger`, in `login.json`.
pub fn path() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("KEYLEDGER_CONFIG_DIR")
        .or_else(|| Some(set("XDG_CONFIG_HOME")?.join("keyledger")))
        .or_else(|| Some(set("HOME")?.join(".config/keyledger")))
        .map(|dir| dir.join("login.json"))
        .ok_or_else(|| {
            Failure::Refused("there is no place for the sign-in: set HOME or KEYLEDGER_CONFIG_DIR".to_owned())
        })
}

/// Reads it, if there is one. A file that others may read is refused: its token may be theirs already.
pub fn load() -> Result<Option<Saved>, Failure> {
    // Without a home there can be no saved sign-in, and KEYLEDGER_TOKEN may be all that is needed.
    let Ok(path) = path() else { return Ok(None) };
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(path.display())(error)),
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Failure::Refused(format!(
            "{} may be read by others; make it 0600, or sign in again after `keyledger logout`",
            path.display()
        )));
    }
    let text = fs::read_to_string(&path).map_err(Failure::io(path.display()))?;
    // The parser's message would repeat the text.
    let unusable =
        |_| Failure::Refused(format!("{} is not a saved sign-in; remove it and sign in again", path.display()));
    serde_json::from_str(&text).map(Some).map_err(unusable)
}

/// Saves it: whole or not at all, and never readable for others, not even for a moment.
pub fn save(saved: &Saved) -> Result<PathBuf, Failure> {
    let path = path()?;
    let text =
        serde_json::to_string_pretty(saved).map_err(|_| Failure::Refused("the sign-in can't be written".to_owned()))?;
    write_private(&path, &text).map_err(Failure::io(path.display()))?;
    Ok(path)
}

/// Writes a file that only its owner may read, in place of what is there.
pub fn write_private(path: &std::path::Path, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Removes it; whether there was one.
pub fn remove() -> Result<bool, Failure> {
    let path = path()?;
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::io(path.display())(error)),
    }
}
