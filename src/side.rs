//! What may be lost: sessions, links, last use. A sled folder of its own, beside the log and never part of the truth.

use std::{collections::HashMap, path::Path};

use keyledger_events::{CredentialId, Timestamp};
use serde::{Serialize, de::DeserializeOwned};

/// The part that holds last uses.
pub const USAGE: &str = "usage";

/// The side store. Writes are buffered by sled; a power cut may lose the newest.
#[derive(Clone, Debug)]
pub struct Side {
    db: sled::Db,
}

impl Side {
    /// Opens the folder. One that can't be opened is moved out of the way and said: people sign in again.
    ///
    /// # Errors
    /// Only if not even an empty one can be made.
    pub fn open(dir: &Path) -> std::io::Result<Self> {
        match open_sled(dir) {
            Ok(db) => Ok(Self { db }),
            Err(why) => {
                tracing::warn!(%why, "the side store could not be opened: sessions and last-use times start anew");
                let aside = dir.with_extension("damaged");
                if aside.exists() {
                    std::fs::remove_dir_all(&aside)?;
                }
                std::fs::rename(dir, &aside)?;
                open_sled(dir).map(|db| Self { db }).map_err(std::io::Error::other)
            }
        }
    }

    /// When credentials were last used, from a folder that nobody serves. The folder is changed by being opened: give a
    /// copy.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn last_uses(dir: &Path) -> Result<HashMap<CredentialId, Timestamp>, String> {
        let db = open_sled(dir)?;
        if !db.tree_names().iter().any(|name| name.as_ref() == USAGE.as_bytes()) {
            return Err("it holds no last uses".to_owned());
        }
        let tree = db.open_tree(USAGE).map_err(|error| error.to_string())?;
        keyledger_projections::usage::last_uses(&tree).map_err(|error| error.to_string())
    }

    /// A named part of it.
    ///
    /// # Errors
    /// When sled can't open it.
    pub fn table(&self, name: &str) -> std::io::Result<Table> {
        self.tree(name).map(Table)
    }

    /// The same, for who keeps it in a form of their own.
    ///
    /// # Errors
    /// When sled can't open it.
    pub fn tree(&self, name: &str) -> std::io::Result<sled::Tree> {
        self.db.open_tree(name).map_err(std::io::Error::other)
    }

    /// Hands everything to the operating system.
    pub fn flush(&self) {
        if let Err(error) = self.db.flush() {
            tracing::warn!(%error, "the side store could not be flushed");
        }
    }
}

/// sled 0.34 may panic on a folder that a power cut has left behind.
fn open_sled(dir: &Path) -> Result<sled::Db, String> {
    let config = sled::Config::new().path(dir).cache_capacity(64 << 20).use_compression(false);
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("sled panicked on it".to_owned()),
    }
}

/// Values of one type under byte keys. What can't be read counts as absent, what can't be written is said and dropped.
#[derive(Clone, Debug)]
pub struct Table(sled::Tree);

impl Table {
    /// The value under `key`.
    pub fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Option<T> {
        let bytes = self.0.get(key).ok()??;
        postcard::from_bytes(&bytes).ok()
    }

    /// Sets the value under `key`.
    pub fn put<T: Serialize>(&self, key: &[u8], value: &T) {
        let written = postcard::to_allocvec(value).map_err(|error| error.to_string());
        if let Err(why) = written.and_then(|bytes| self.0.insert(key, bytes).map_err(|error| error.to_string())) {
            tracing::warn!(%why, "the side store did not take a value");
        }
    }

    /// Takes the value under `key` away and returns it.
    pub fn take<T: DeserializeOwned>(&self, key: &[u8]) -> Option<T> {
        let bytes = self.0.remove(key).ok()??;
        postcard::from_bytes(&bytes).ok()
    }

    /// Takes the value under `key` away, whatever it is.
    pub fn remove(&self, key: &[u8]) {
        if let Err(error) = self.0.remove(key) {
            tracing::warn!(%error, "the side store did not let go of a value");
        }
    }

    /// Takes everything away whose key begins with `prefix`.
    pub fn remove_under(&self, prefix: &[u8]) {
        self.0.scan_prefix(prefix).keys().flatten().for_each(|key| self.remove(&key));
    }

    /// Everything whose key begins with `prefix`, in the order of the keys.
    pub fn under<T: DeserializeOwned>(&self, prefix: &[u8]) -> impl Iterator<Item = (Vec<u8>, T)> {
        self.0.scan_prefix(prefix).filter_map(|entry| {
            let (key, value) = entry.ok()?;
            Some((key.to_vec(), postcard::from_bytes(&value).ok()?))
        })
    }

    /// Everything, in the order of the keys.
    pub fn all<T: DeserializeOwned>(&self) -> impl Iterator<Item = (Vec<u8>, T)> {
        self.under(&[])
    }
}
