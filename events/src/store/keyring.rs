//! What must stay secret and must not be lost: the persons' sealing keys and the ledger's signing key. They lie outside
//! the log, so that erasing a person's key erases the person and no hash changes.
//!
//! The keyring is a file of 64-byte slots behind a 64-byte header; no slot crosses a disk sector. A slot is appended once
//! and changes once at most, when its key is overwritten. `FORMAT.md` §8 describes it.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use zeroize::Zeroizing;

use super::disk::{self, Disk, DiskFile, RealDisk};
use crate::{PersonId, seal::PersonKey};

const MAGIC: [u8; 8] = *b"KLEDGKEY";
const FORMAT: u32 = 1;
/// Of the header and of each slot, in bytes.
const SLOT_LEN: usize = 64;
/// 67 million persons.
const LEN_MAX: u64 = 1 << 32;
const ALIVE: u8 = 1;
const ERASED: u8 = 2;
/// Of the signing key's file, in bytes.
const SEED_LEN: usize = 32;

/// The persons' sealing keys. Looking one up touches no disk; whoever shares the file must hold the ledger's lock.
pub struct Keyring {
    path: PathBuf,
    keys: RwLock<HashMap<PersonId, Entry>>,
    file: Mutex<KeyFile>,
}

struct Entry {
    slot: u64,
    /// None once it is erased.
    key: Option<PersonKey>,
}

struct KeyFile {
    file: Arc<dyn DiskFile>,
    slot_count: u64,
    /// Whether a sync has failed: then nothing is known of what the disk holds.
    failed: bool,
}

impl Keyring {
    /// Opens a keyring, or makes an empty one that only this user may read. A last slot that a crash cut short was never
    /// answered and is overwritten by the next.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        Self::open_on(&RealDisk, path)
    }

    fn open_on(disk: &dyn Disk, path: &Path) -> Result<Self, KeyringError> {
        let io = |error| KeyringError::Io { file: path.to_owned(), error };
        let file = disk.create_private(path).map_err(io)?;
        let bytes = Zeroizing::new(file.read_all(LEN_MAX).map_err(io)?);
        // A file as a crash may leave it while it is made: empty, or zeros that were to be the header.
        if bytes.len() <= SLOT_LEN && bytes.iter().all(|byte| *byte == 0) {
            let made = file.write_all_at(&header(), 0).and_then(|()| file.sync());
            made.and_then(|()| disk.sync_dir(path.parent().unwrap_or(Path::new(".")))).map_err(io)?;
            let file = Mutex::new(KeyFile { file, slot_count: 0, failed: false });
            return Ok(Self { path: path.to_owned(), keys: RwLock::default(), file });
        }
        let keys =
            parse(&bytes).map_err(|(offset, what)| KeyringError::Damaged { file: path.to_owned(), offset, what })?;
        let slot_count = keys.len() as u64;
        // What was read may never have reached the disk: a key that seals must be there to stay.
        file.write_all_at(&bytes[..SLOT_LEN * (1 + keys.len())], 0).and_then(|()| file.sync()).map_err(io)?;
        let file = Mutex::new(KeyFile { file, slot_count, failed: false });
        Ok(Self { path: path.to_owned(), keys: RwLock::new(keys), file })
    }

    /// The person's key, if they have one that was not erased.
    pub fn get(&self, person: PersonId) -> Option<PersonKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(&person)?.key.clone()
    }

    /// Whether the person's key was erased: they will never have one again.
    pub fn is_erased(&self, person: PersonId) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(&person).is_some_and(|entry| entry.key.is_none())
    }

    /// Gives a person a key, durably on return. If they have one already, that one stays. Returns the one that stands:
    /// `key` must not have sealed anything before.
    ///
    /// # Errors
    /// [`KeyringError::Erased`], [`KeyringError::Failed`] or [`KeyringError::Io`].
    pub fn insert(&self, person: PersonId, key: PersonKey) -> Result<PersonKey, KeyringError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match self.keys.read().unwrap_or_else(PoisonError::into_inner).get(&person) {
            Some(Entry { key: Some(key), .. }) => return Ok(key.clone()),
            Some(Entry { key: None, .. }) => return Err(KeyringError::Erased(person)),
            None => {}
        }
        let slot = file.slot_count;
        self.write(&mut file, slot, &encode(ALIVE, person, key.expose()))?;
        file.slot_count += 1;
        let entry = Entry { slot, key: Some(key.clone()) };
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(person, entry);
        Ok(key)
    }

    /// Overwrites a person's key with zeros, durably on return, and forgets it. False if they have none to erase.
    ///
    /// The bytes are overwritten where they stand; a disk that writes elsewhere may keep the old ones until it reuses
    /// them, so a keyring belongs on an encrypted disk.
    ///
    /// # Errors
    /// [`KeyringError::Failed`] or [`KeyringError::Io`]: then it may be erased on the disk, and still be here.
    pub fn erase(&self, person: PersonId) -> Result<bool, KeyringError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match self.keys.read().unwrap_or_else(PoisonError::into_inner).get(&person) {
            Some(Entry { slot, key: Some(_) }) => *slot,
            _ => return Ok(false),
        };
        self.write(&mut file, slot, &encode(ERASED, person, &[0; 32]))?;
        let erased = Entry { slot, key: None };
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(person, erased);
        Ok(true)
    }

    fn write(&self, file: &mut KeyFile, slot: u64, bytes: &[u8; SLOT_LEN]) -> Result<(), KeyringError> {
        if file.failed {
            return Err(KeyringError::Failed { file: self.path.clone() });
        }
        let io = |error| KeyringError::Io { file: self.path.clone(), error };
        file.file.write_all_at(bytes, (slot + 1) * SLOT_LEN as u64).map_err(io)?;
        file.file.sync().map_err(|error| {
            file.failed = true;
            io(error)
        })
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({})", self.path.display())
    }
}

fn header() -> [u8; SLOT_LEN] {
    let mut out = [0; SLOT_LEN];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let crc = crc32c::crc32c(&out[16..]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// CRC-32C of all that follows, state, 3 zeros, person, key, 8 zeros.
fn encode(state: u8, person: PersonId, key: &[u8; 32]) -> Zeroizing<[u8; SLOT_LEN]> {
    let mut out = Zeroizing::new([0; SLOT_LEN]);
    out[4] = state;
    out[8..24].copy_from_slice(person.as_bytes());
    out[24..56].copy_from_slice(key);
    let crc = crc32c::crc32c(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads a whole keyring; where something is wrong, its offset.
fn parse(bytes: &[u8]) -> Result<HashMap<PersonId, Entry>, (u64, &'static str)> {
    if !bytes.starts_with(&header()) {
        return Err((0, "not a keyring, or of an unknown format"));
    }
    // A slot lies in one sector, so a crash leaves it whole, missing, cut short or all zeros.
    let (slots, _cut_short) = bytes[SLOT_LEN..].as_chunks::<SLOT_LEN>();
    let mut keys = HashMap::with_capacity(slots.len());
    for (slot, bytes) in slots.iter().enumerate() {
        if slot + 1 == slots.len() && *bytes == [0; SLOT_LEN] {
            break;
        }
        let offset = (slot as u64 + 1) * SLOT_LEN as u64;
        let mut person = [0; 16];
        person.copy_from_slice(&bytes[8..24]);
        let person = PersonId::from_bytes(person);
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&bytes[24..56]);
        let state = bytes[4];
        if *encode(state, person, &key) != *bytes {
            return Err((offset, "checksum mismatch"));
        }
        let key = match state {
            ALIVE => Some(PersonKey::from_bytes(*key)),
            ERASED if *key == [0; 32] => None,
            _ => return Err((offset, "a slot of unknown state")),
        };
        if keys.insert(person, Entry { slot: slot as u64, key }).is_some() {
            return Err((offset, "a person twice"));
        }
    }
    Ok(keys)
}

/// Why the keyring can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Bytes that are not what was written.
    #[error("{}: damaged at offset {offset}: {what}", file.display())]
    Damaged {
        /// In which file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The operating system refused. Nothing was changed, unless it was a sync.
    #[error("{}: {error}", file.display())]
    Io {
        /// On which file.
        file: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// A sync has failed before; the keyring must be opened anew.
    #[error("{}: an earlier write has failed", file.display())]
    Failed {
        /// The file.
        file: PathBuf,
    },
    /// The person was erased and gets no key again.
    #[error("person {0} was erased")]
    Erased(PersonId),
}

/// Reads the seed of the ledger's signing key; none if there is no such file.
///
/// # Errors
/// [`KeyringError::Io`], or [`KeyringError::Damaged`] if it has another length.
pub fn load_signing_seed(path: &Path) -> Result<Option<Zeroizing<[u8; SEED_LEN]>>, KeyringError> {
    load_seed_on(&RealDisk, path)
}

pub(super) fn load_seed_on(disk: &dyn Disk, path: &Path) -> Result<Option<Zeroizing<[u8; SEED_LEN]>>, KeyringError> {
    let io = |error| KeyringError::Io { file: path.to_owned(), error };
    let bytes = match disk.open(path, false).and_then(|file| file.read_all(4096)) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    match <[u8; SEED_LEN]>::try_from(bytes.as_slice()) {
        Ok(seed) => Ok(Some(Zeroizing::new(seed))),
        Err(_) => Err(KeyringError::Damaged { file: path.to_owned(), offset: 0, what: "a signing key has 32 bytes" }),
    }
}

/// Writes the seed of a new ledger's signing key, for only this user to read. Durable on return; an existing file is
/// left alone.
///
/// # Errors
/// [`KeyringError::Io`], of kind `AlreadyExists` if there is one.
pub fn create_signing_seed(path: &Path, seed: &[u8; SEED_LEN]) -> Result<(), KeyringError> {
    if path.exists() {
        return Err(KeyringError::Io { file: path.to_owned(), error: io::ErrorKind::AlreadyExists.into() });
    }
    save_seed_on(&RealDisk, path, seed)
}

pub(super) fn save_seed_on(disk: &dyn Disk, path: &Path, seed: &[u8; SEED_LEN]) -> Result<(), KeyringError> {
    let io = |error| KeyringError::Io { file: path.to_owned(), error };
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(io(io::ErrorKind::InvalidFilename.into()));
    };
    disk::replace_private(disk, dir, name, seed).map_err(io)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn person(number: u8) -> PersonId {
        PersonId::from_bytes([number; 16])
    }

    fn key(number: u8) -> PersonKey {
        PersonKey::from_bytes([number; 32])
    }

    fn bytes_of(ring: &Keyring, number: u8) -> Option<[u8; 32]> {
        ring.get(person(number)).map(|key| *key.expose())
    }

    #[test]
    fn keys_come_back_until_they_are_erased() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("persons.keys");
        let ring = Keyring::open(&path).unwrap();
        for number in 1..=5 {
            ring.insert(person(number), key(number)).unwrap();
        }
        assert_eq!(ring.insert(person(3), key(99)).unwrap().expose(), &[3; 32], "the first key stands");
        assert!(ring.erase(person(2)).unwrap());
        assert!(!ring.erase(person(2)).unwrap() && !ring.erase(person(77)).unwrap());
        drop(ring);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!std::fs::read(&path).unwrap().windows(32).any(|bytes| bytes == [2; 32]));
        let ring = Keyring::open(&path).unwrap();
        for number in [1, 3, 4, 5] {
            assert_eq!(bytes_of(&ring, number), Some([number; 32]));
        }
        assert_eq!(bytes_of(&ring, 2), None);
        assert!(ring.is_erased(person(2)) && !ring.is_erased(person(1)) && !ring.is_erased(person(77)));
        assert!(matches!(ring.insert(person(2), key(2)), Err(KeyringError::Erased(_))));
        let shown = format!("{ring:?}");
        assert!(!shown.contains("3, 3, 3") && !shown.contains("030303"), "{shown}");
    }

    #[test]
    fn threads_share_one_ring() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("persons.keys");
        let ring = Keyring::open(&path).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let ring = &ring;
                scope.spawn(move || {
                    for number in 1..=20 {
                        let stands = ring.insert(person(number), key(thread)).unwrap();
                        assert_eq!(bytes_of(ring, number), Some(*stands.expose()));
                    }
                });
            }
        });
        let before: Vec<_> = (1..=20).map(|number| bytes_of(&ring, number)).collect();
        let ring = Keyring::open(&path).unwrap();
        assert_eq!(before, (1..=20).map(|number| bytes_of(&ring, number)).collect::<Vec<_>>());
    }

    #[test]
    fn every_flipped_bit_is_refused_and_every_cut_loses_only_what_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("persons.keys");
        let ring = Keyring::open(&path).unwrap();
        for number in 1..=3 {
            ring.insert(person(number), key(number)).unwrap();
        }
        ring.erase(person(2)).unwrap();
        drop(ring);
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let refused = parse(&bytes).map(drop).unwrap_err();
            assert_eq!(refused.0, (bit / 8 / SLOT_LEN * SLOT_LEN) as u64, "bit {bit}");
        }
        for len in 1..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            let opened = Keyring::open(&path);
            if len < SLOT_LEN {
                assert!(opened.is_err(), "cut to {len}");
                continue;
            }
            let ring = opened.unwrap();
            assert_eq!(bytes_of(&ring, 1).is_some(), len >= 2 * SLOT_LEN, "cut to {len}");
            ring.insert(person(9), key(9)).unwrap();
            assert_eq!(bytes_of(&Keyring::open(&path).unwrap(), 9), Some([9; 32]), "cut to {len}");
        }
    }

    #[test]
    fn a_signing_seed_is_written_once_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        assert!(load_signing_seed(&path).unwrap().is_none());
        create_signing_seed(&path, &[7; 32]).unwrap();
        assert_eq!(*load_signing_seed(&path).unwrap().unwrap(), [7; 32]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create_signing_seed(&path, &[8; 32]), Err(KeyringError::Io { .. })));
        std::fs::write(&path, [7; 31]).unwrap();
        assert!(matches!(load_signing_seed(&path), Err(KeyringError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&tail);
            let mut bytes = header().to_vec();
            bytes.extend_from_slice(&tail);
            let _ = parse(&bytes);
        }
    }
}
