//! The newest signed tree heads, beside the log: what says that an acknowledged tail is missing.
//!
//! Two files of a fixed length, rewritten in place by turns, so that a torn write leaves the other one: the note, then
//! zeros.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::disk::{self, Disk, DiskFile};
use crate::{
    Position,
    head::{HeadError, HeadVerifier, TreeHead},
    rotation::{KeyChain, RotationError},
    store::{Damage, ReadError},
};

/// Of each slot, in bytes.
const SLOT_LEN: usize = 1024;
/// The public key, in a data directory.
pub(super) const VERIFIER: &str = "ledger.vkey";
/// The certificates that lead from the ledger's first key to that one, in a data directory.
pub(super) const KEYS: &str = "ledger.keys";
/// Half a million rotations do not come to pass.
const KEYS_LEN_MAX: u64 = 64 << 20;
const NAMES: [&str; 2] = ["head.0", "head.1"];

/// What the slots of a log say.
#[derive(Debug, Default)]
pub(super) struct Signed {
    /// The valid heads, the smallest first.
    pub heads: Vec<TreeHead>,
    /// The note of the largest.
    pub note: Option<String>,
    /// Which slots hold something else, and what is wrong with each.
    pub unreadable: Vec<(PathBuf, HeadError)>,
    /// Which slot holds it.
    newest_in: Option<usize>,
}

impl Signed {
    /// Reads both slots.
    pub fn load(disk: &dyn Disk, log: &Path, keys: &KeyChain) -> Result<Self, ReadError> {
        let mut signed = Self::default();
        for (slot, name) in NAMES.into_iter().enumerate() {
            let path = log.join(name);
            let bytes = match disk.open(&path, false).and_then(|file| file.read_all(4 * SLOT_LEN as u64)) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Vec::new(),
                Err(error) => return Err(ReadError::Io { file: path, error }),
            };
            match parse(&bytes, keys) {
                Ok((head, note)) => {
                    if signed.heads.last().is_none_or(|newest| newest.size <= head.size) {
                        signed.heads.push(head);
                        signed.note = Some(note.to_owned());
                        signed.newest_in = Some(slot);
                    } else {
                        signed.heads.insert(0, head);
                    }
                }
                Err(what) => signed.unreadable.push((path, what)),
            }
        }
        Ok(signed)
    }

    /// The newest head.
    ///
    /// # Errors
    /// If there is none that can be read: then nothing says whether the log is whole.
    pub fn newest(&self, log: &Path) -> Result<TreeHead, ReadError> {
        match (self.heads.last(), self.unreadable.first()) {
            (Some(head), _) => Ok(*head),
            (None, Some((file, what))) => Err(ReadError::TreeHead { file: file.clone(), what: *what }),
            (None, None) => Err(ReadError::Damaged {
                file: log.join(NAMES[0]),
                offset: 0,
                position: Position(0),
                what: Damage::Missing,
            }),
        }
    }
}

/// The verifier key beside the log; none if there is no such file.
pub(super) fn load_verifier(disk: &dyn Disk, dir: &Path) -> Result<Option<HeadVerifier>, ReadError> {
    let file = dir.join(VERIFIER);
    let bytes = match disk.open(&file, false).and_then(|file| file.read_all(SLOT_LEN as u64)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadError::Io { file, error }),
    };
    let key = std::str::from_utf8(&bytes).map_err(|_| HeadError::Key).and_then(str::parse);
    key.map(Some).map_err(|what| ReadError::TreeHead { file, what })
}

/// Writes the verifier key. Durable on return.
pub(super) fn save_verifier(disk: &dyn Disk, dir: &Path, verifier: &HeadVerifier) -> io::Result<()> {
    disk::replace(disk, dir, VERIFIER, format!("{verifier}\n").as_bytes())
}

/// The certificates beside the log; none if there is no such file, or nothing in it.
pub(super) fn load_keys(disk: &dyn Disk, dir: &Path) -> Result<Option<KeyChain>, ReadError> {
    let file = dir.join(KEYS);
    let bytes = match disk.open(&file, false).and_then(|file| file.read_all(KEYS_LEN_MAX)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadError::Io { file, error }),
    };
    let keys = std::str::from_utf8(&bytes).map_err(|_| RotationError::Shape).and_then(KeyChain::parse);
    keys.map_err(|what| ReadError::Keys { file, what })
}

/// Writes the certificates. Durable on return.
pub(super) fn save_keys(disk: &dyn Disk, dir: &Path, keys: &KeyChain) -> io::Result<()> {
    disk::replace(disk, dir, KEYS, keys.to_string().as_bytes())
}

fn parse<'a>(bytes: &'a [u8], keys: &KeyChain) -> Result<(TreeHead, &'a str), HeadError> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if bytes.len() != SLOT_LEN {
        return Err(HeadError::Note);
    }
    let note = std::str::from_utf8(&bytes[..end]).map_err(|_| HeadError::Note)?;
    keys.verify(note).map(|head| (head, note))
}

/// The slots, open for writing. Owned by the one thread that signs.
pub(super) struct Slots {
    files: [Arc<dyn DiskFile>; 2],
    /// Which is written next.
    turn: usize,
}

impl Slots {
    /// Opens or makes the slots. The one that does not hold the newest head is written first.
    pub fn open(disk: &dyn Disk, log: &Path, signed: &Signed) -> io::Result<Self> {
        let files = [disk.create(&log.join(NAMES[0]))?, disk.create(&log.join(NAMES[1]))?];
        Ok(Self { files, turn: signed.newest_in.map_or(0, |slot| 1 - slot) })
    }

    /// Writes a note into the older slot. Durable on return.
    pub fn write(&mut self, note: &str) -> io::Result<()> {
        let mut bytes = note.as_bytes().to_vec();
        if bytes.len() > SLOT_LEN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        bytes.resize(SLOT_LEN, 0);
        let file = &self.files[self.turn];
        file.write_all_at(&bytes, 0)?;
        file.sync()?;
        self.turn = 1 - self.turn;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{head::HeadSigner, tree::NodeHash};

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_slot_is_noticed() {
        let signer = HeadSigner::new("ledger.example/1", &[3; 32]).unwrap();
        let head = TreeHead { size: 7, root: NodeHash([1; 32]) };
        let mut bytes = signer.sign(&head).into_bytes();
        bytes.resize(SLOT_LEN, 0);
        assert_eq!(parse(&bytes, &signer.verifier().into()).map(|(head, _)| head), Ok(head));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bytes, &signer.verifier().into()).is_err(), "bit {bit}");
        }
        for len in 0..SLOT_LEN {
            assert!(parse(&bytes[..len], &signer.verifier().into()).is_err(), "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..SLOT_LEN + 9)) {
            let signer = HeadSigner::new("ledger.example/1", &[3; 32]).unwrap();
            prop_assert!(parse(&bytes, &signer.verifier().into()).is_err());
        }
    }
}
