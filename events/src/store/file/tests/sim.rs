//! A disk in memory that loses power, space and syncs where a test says so.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use crate::store::disk::{Disk, DiskFile, Lock};

const SECTOR_LEN: usize = 512;

/// What goes wrong, at which of the calls that change something, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// That call says the disk is full, wherever it writes.
    FullOnce(u64),
    /// From that call on nothing can grow.
    FullFrom(u64),
    /// That write takes half of the bytes, and the next call says the disk is full.
    ShortThenFull(u64),
    /// That sync fails, and what it was to save is forgotten without a further word.
    SyncLost(u64),
    /// That sync fails, but everything is saved.
    SyncPersisted(u64),
    /// From that call on the power is off.
    PowerOff(u64),
}

/// Clones share the disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Clone, Default)]
struct Sim {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Since the folder's last sync, in order; none: removed.
    renamed: Vec<(PathBuf, Option<usize>)>,
    locked: HashSet<PathBuf>,
    calls: u64,
    fault: Option<Fault>,
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Written since the last sync.
    dirty: Vec<(usize, Vec<u8>)>,
}

impl Inode {
    fn write(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
        if bytes.len() < offset + new.len() {
            bytes.resize(offset + new.len(), 0);
        }
        bytes[offset..offset + new.len()].copy_from_slice(new);
    }
}

impl SimDisk {
    /// Something goes wrong from now on; the calls are counted anew.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut sim = self.lock();
        sim.fault = fault;
        sim.calls = 0;
    }

    /// How many calls have changed something since.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// A copy as it is now, nobody having it open.
    pub fn image(&self) -> Self {
        let sim = Sim { locked: HashSet::new(), fault: None, calls: 0, ..self.lock().clone() };
        Self(Arc::new(Mutex::new(sim)))
    }

    /// A copy as a power loss leaves it: of what was not synced, `keep` decides sector by sector. What was done to the
    /// folder is kept up to some point.
    pub fn after_power_loss(&self, mut keep: impl FnMut() -> bool) -> Self {
        let mut sim = Sim { locked: HashSet::new(), fault: None, calls: 0, ..self.lock().clone() };
        for (path, inode) in std::mem::take(&mut sim.renamed) {
            if !keep() {
                break;
            }
            sim.make_name_durable(path, inode);
        }
        sim.names = sim.durable_names.clone();
        for inode in &mut sim.inodes {
            for (offset, bytes) in std::mem::take(&mut inode.dirty) {
                let mut at = 0;
                while at < bytes.len() {
                    let len = (SECTOR_LEN - (offset + at) % SECTOR_LEN).min(bytes.len() - at);
                    if keep() {
                        Inode::write(&mut inode.durable, offset + at, &bytes[at..at + len]);
                    }
                    at += len;
                }
            }
            inode.now = inode.durable.clone();
        }
        Self(Arc::new(Mutex::new(sim)))
    }

    /// All files' names.
    pub fn names(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// A file's bytes.
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let sim = self.lock();
        sim.inodes[sim.names[path]].now.clone()
    }

    /// Replaces a file's bytes, behind everybody's back.
    pub fn set_bytes(&self, path: &Path, bytes: Vec<u8>) {
        let mut sim = self.lock();
        let inode = sim.names[path];
        sim.inodes[inode] = Inode { now: bytes.clone(), durable: bytes, dirty: Vec::new() };
    }

    /// Removes a file, behind everybody's back.
    pub fn forget(&self, path: &Path) {
        self.lock().names.remove(path);
    }

    fn lock(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().unwrap()
    }

    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode })
    }
}

/// What becomes of a call.
enum Outcome {
    Done,
    Half,
    Lost(io::Error),
    Persisted(io::Error),
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

fn eio() -> io::Error {
    io::Error::other("injected EIO")
}

impl Sim {
    fn call(&mut self, grows: bool, sync: bool) -> Outcome {
        let call = self.calls;
        self.calls += 1;
        match self.fault {
            Some(Fault::FullOnce(at)) if at == call && !sync => Outcome::Lost(full()),
            Some(Fault::FullFrom(at)) if at <= call && grows => Outcome::Lost(full()),
            Some(Fault::ShortThenFull(at)) if at == call && !sync => Outcome::Half,
            Some(Fault::ShortThenFull(at)) if at + 1 == call && !sync => Outcome::Lost(full()),
            Some(Fault::SyncLost(at)) if at == call && sync => Outcome::Lost(eio()),
            Some(Fault::SyncPersisted(at)) if at == call && sync => Outcome::Persisted(eio()),
            Some(Fault::PowerOff(at)) if at <= call => Outcome::Lost(eio()),
            _ => Outcome::Done,
        }
    }

    fn plain_call(&mut self, grows: bool) -> io::Result<()> {
        match self.call(grows, false) {
            Outcome::Done | Outcome::Half => Ok(()),
            Outcome::Lost(error) | Outcome::Persisted(error) => Err(error),
        }
    }

    fn set_name(&mut self, path: &Path, inode: Option<usize>) {
        match inode {
            Some(inode) => self.names.insert(path.to_owned(), inode),
            None => self.names.remove(path),
        };
        self.renamed.push((path.to_owned(), inode));
    }
}

impl Sim {
    fn make_name_durable(&mut self, path: PathBuf, inode: Option<usize>) {
        self.durable_names.retain(|_, other| Some(*other) != inode);
        match inode {
            Some(inode) => self.durable_names.insert(path, inode),
            None => self.durable_names.remove(&path),
        };
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.lock().names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(inode))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut sim = self.lock();
        if let Some(inode) = sim.names.get(path).copied() {
            drop(sim);
            return Ok(self.file(inode));
        }
        sim.plain_call(true)?;
        let inode = sim.inodes.len();
        sim.inodes.push(Inode::default());
        sim.set_name(path, Some(inode));
        drop(sim);
        Ok(self.file(inode))
    }

    fn create_private(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sim = self.lock();
        sim.plain_call(false)?;
        let inode = sim.names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        // A rename is one step, for a crash as well.
        let kept = sim.renamed.len();
        sim.set_name(from, None);
        sim.set_name(to, Some(inode));
        sim.renamed.truncate(kept);
        sim.renamed.push((to.to_owned(), Some(inode)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.lock();
        if !sim.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        sim.plain_call(false)?;
        sim.set_name(path, None);
        Ok(())
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        self.lock().plain_call(false)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.lock();
        let outcome = sim.call(false, true);
        if matches!(outcome, Outcome::Done | Outcome::Persisted(_)) {
            let (here, elsewhere) = std::mem::take(&mut sim.renamed)
                .into_iter()
                .partition::<Vec<_>, _>(|(name, _)| name.parent() == Some(path));
            sim.renamed = elsewhere;
            for (name, inode) in here {
                sim.make_name_durable(name, inode);
            }
        }
        match outcome {
            Outcome::Lost(error) | Outcome::Persisted(error) => Err(error),
            _ => Ok(()),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let sim = self.lock();
        let here = sim.names.keys().filter(|name| name.parent() == Some(path));
        Ok(here.filter_map(|name| name.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let free = self.lock().locked.insert(path.to_owned());
        Ok(free.then(|| -> Lock { Box::new(SimLock { disk: self.clone(), path: path.to_owned() }) }))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        Ok(self.lock().locked.contains(path))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.lock().locked.remove(&self.path);
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let sim = self.disk.lock();
        let bytes = sim.inodes[self.inode].now.get(offset as usize..).unwrap_or_default();
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut sim = self.disk.lock();
        let grows = offset as usize + bytes.len() > sim.inodes[self.inode].now.len();
        let bytes = match sim.call(grows, false) {
            Outcome::Done => bytes,
            Outcome::Half => &bytes[..bytes.len().div_ceil(2)],
            Outcome::Lost(error) | Outcome::Persisted(error) => return Err(error),
        };
        let inode = &mut sim.inodes[self.inode];
        Inode::write(&mut inode.now, offset as usize, bytes);
        inode.dirty.push((offset as usize, bytes.to_vec()));
        Ok(bytes.len())
    }

    fn allocate(&self, _offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.disk.lock().plain_call(true)
    }

    fn sync(&self) -> io::Result<()> {
        // Long enough for a few proposals to gather behind it.
        std::thread::yield_now();
        let mut sim = self.disk.lock();
        let outcome = sim.call(false, true);
        let power_is_off = matches!(sim.fault, Some(Fault::PowerOff(_)));
        let inode = &mut sim.inodes[self.inode];
        match outcome {
            // As Linux does it: the pages count as clean from here on, whatever the disk holds.
            Outcome::Lost(error) => {
                if !power_is_off {
                    inode.dirty.clear();
                }
                Err(error)
            }
            outcome => {
                for (offset, bytes) in std::mem::take(&mut inode.dirty) {
                    Inode::write(&mut inode.durable, offset, &bytes);
                }
                if let Outcome::Persisted(error) = outcome { Err(error) } else { Ok(()) }
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inodes[self.inode].now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut sim = self.disk.lock();
        let grows = len as usize > sim.inodes[self.inode].now.len();
        sim.plain_call(grows)?;
        let inode = &mut sim.inodes[self.inode];
        inode.now.resize(len as usize, 0);
        // Durable at once, which a file system may do; what was written behind the cut is gone with it.
        inode.durable.truncate(len as usize);
        inode.dirty.retain(|(offset, bytes)| offset + bytes.len() <= len as usize);
        Ok(())
    }
}
