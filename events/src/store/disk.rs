//! The seam between what is kept in files and the operating system, so that tests can lose power, space and bytes.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

/// A file system, or what a test takes for one.
pub(in crate::store) trait Disk: Send + Sync {
    /// Opens an existing file, for writing as well if so asked.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for writing and makes it if it is missing. It is durable once its folder is synced.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// [`Disk::create`], for nobody but this user to read or write.
    fn create_private(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Replaces `to`. Durable once their folder is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder and those above it.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the folder's entries durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder that are text, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Takes the exclusive lock on a file, making it if it is missing; none if somebody has it.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Lock>>;
    /// Whether somebody has that lock.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
}

/// Held as long as it lives.
pub(in crate::store) type Lock = Box<dyn Send + Sync>;

/// An open file.
pub(in crate::store) trait DiskFile: Send + Sync {
    /// Reads what is there, perhaps less than asked for; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes some of `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Reserves room, so that writing there can't fail for want of it.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes contents and length durable.
    fn sync(&self) -> io::Result<()>;
    /// In bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file off, or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

impl dyn DiskFile + '_ {
    /// Writes all of `bytes`.
    pub fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills `buffer` as far as the file reaches and says how far.
    pub fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// The whole file, if it is no longer than `len_max`.
    pub fn read_all(&self, len_max: u64) -> io::Result<Vec<u8>> {
        let len = self.len()?;
        if len > len_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; len as usize];
        let read = self.read_full_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Writes zeros over a range.
    pub fn zero(&self, mut offset: u64, end: u64) -> io::Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        while offset < end {
            let len = (end - offset).min(ZEROS.len() as u64);
            self.write_all_at(&ZEROS[..len as usize], offset)?;
            offset += len;
        }
        Ok(())
    }
}

/// Writes a whole small file under its final name, or leaves what was there: a temporary file, synced, renamed, and the
/// folder synced.
pub(in crate::store) fn replace(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    replace_with(disk, dir, name, bytes, |path| disk.create(path))
}

/// [`replace`], for nobody but this user to read or write.
pub(in crate::store) fn replace_private(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    replace_with(disk, dir, name, bytes, |path| disk.create_private(path))
}

fn replace_with(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    bytes: &[u8],
    create: impl Fn(&Path) -> io::Result<Arc<dyn DiskFile>>,
) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    // What an earlier attempt left must not show through behind a shorter text.
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = create(&temporary).and_then(|file| {
        file.write_all_at(bytes, 0)?;
        file.sync()
    });
    if let Err(error) = written.and_then(|()| disk.rename(&temporary, &dir.join(name))) {
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    disk.sync_dir(dir)
}

/// Whether an error says that the disk or the quota is full.
pub(in crate::store) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The operating system's files.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::options().read(true).write(write).open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::options().read(true).write(true).create(true).truncate(false).open(path)?))
    }

    fn create_private(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = File::options();
        Ok(Arc::new(options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, rustix::fs::FallocateFlags::empty(), offset, len) {
            // A file system without reservations says so when it is written to.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
}
