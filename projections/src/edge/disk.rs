//! The edge's state between starts: one file, written whole or not at all, readable by its owner alone.
//!
//! ```text
//! keyledger edge 1\n         the magic line
//! u32                        length of the header, little-endian
//! header                     JSON: see Header
//! 32 bytes                   BLAKE3 of all bytes before them
//! snapshot                   crate::feed::snapshot's format, as one Zstandard stream
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use keyledger_events::{Position, Timestamp};
use serde::{Deserialize, Serialize};

use super::tree::Remembered;
use crate::{
    Active,
    feed::snapshot::{self, SnapshotError},
};

const MAGIC: &[u8] = b"keyledger edge 1\n";
const HEADER_LEN_MAX: usize = 64 * 1024;
/// Hashes and ids do not get smaller; the rest does with the least effort.
const LEVEL: i32 = 1;

/// What an edge knows besides the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Of which ledger.
    pub url: String,
    /// The highest position it is known to have.
    pub highest: Option<Position>,
    /// The newest tree head found good.
    pub tree: Option<Remembered>,
    /// When the news was made, by this machine's wall clock.
    pub as_of: Timestamp,
}

/// Writes the state in place of what is there. `frozen` hears when the index may change again.
pub(super) fn write(
    file: &Path,
    header: &Header,
    index: &Arc<Active>,
    of: &mut snapshot::Header,
    frozen: &mpsc::SyncSender<()>,
) -> io::Result<()> {
    let state = index.freeze();
    let _ = frozen.try_send(());
    of.credentials = state.nameless_len(None) as u64;
    let fresh = beside(file);
    let written = create(&fresh).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&head(header)?)?;
        let mut out = zstd::stream::write::Encoder::new(out, LEVEL)?;
        snapshot::write(&state, of).try_for_each(|piece| out.write_all(&piece))?;
        out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&fresh, file)).and_then(|()| sync_folder(file));
    if replaced.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    replaced
}

fn head(header: &Header) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(header)?;
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&u32::try_from(json.len()).map_err(io::Error::other)?.to_le_bytes());
    head.extend_from_slice(&json);
    let hash = blake3::hash(&head);
    head.extend_from_slice(hash.as_bytes());
    Ok(head)
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    PathBuf::from(name)
}

fn create(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Reads a state; none if there is no file.
pub(super) fn read(file: &Path) -> Result<Option<(Header, snapshot::Header, Active)>, SnapshotError> {
    match File::open(file) {
        Ok(file) => read_from(BufReader::with_capacity(1 << 20, file)).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_from(mut from: impl io::BufRead) -> Result<(Header, snapshot::Header, Active), SnapshotError> {
    let mut head = vec![0; MAGIC.len() + 4];
    from.read_exact(&mut head)?;
    let (magic, len) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(SnapshotError::Other);
    }
    let len = len.try_into().map_or(usize::MAX, |len| u32::from_le_bytes(len) as usize);
    if len > HEADER_LEN_MAX {
        return Err(SnapshotError::Malformed);
    }
    let json_at = head.len();
    head.resize(json_at + len, 0);
    from.read_exact(&mut head[json_at..])?;
    let mut hash = [0; 32];
    from.read_exact(&mut hash)?;
    if blake3::hash(&head) != hash {
        return Err(SnapshotError::Damaged);
    }
    let header = serde_json::from_slice(&head[json_at..]).map_err(|_| SnapshotError::Malformed)?;
    let mut from = zstd::stream::read::Decoder::with_buffer(from)?.single_frame();
    let (of, index) = snapshot::read(&mut from)?;
    match io::Read::read(&mut from.finish(), &mut [0])? {
        0 => Ok((header, of, index)),
        _ => Err(SnapshotError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Issue, at};

    fn written(credentials: u64) -> (Header, Arc<Active>, Vec<u8>) {
        let index = Arc::new(Active::default());
        (0..credentials).for_each(|number| {
            let issue = Issue { name: keyledger_events::seal::Label::Clear(String::new()), ..Issue::new(number) };
            issue.apply(&index);
        });
        let header = Header {
            url: "http://ledger.example".to_owned(),
            highest: Some(Position(9)),
            tree: Some(Remembered { origin: "ledger.example/1".to_owned(), size: 10, root: [7; 32] }),
            as_of: at(5),
        };
        let digest = index.nameless_digest(None);
        let mut of = snapshot::Header { position: Some(Position(8)), credentials: 0, digest, teams: None, at: at(4) };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("edge.state");
        let (sender, _receiver) = mpsc::sync_channel(1);
        // Over what is there already.
        (0..2).for_each(|_| write(&file, &header, &index, &mut of, &sender).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        (header, index, fs::read(&file).unwrap())
    }

    #[test]
    fn a_state_comes_back_and_a_damaged_one_does_not() {
        let (header, index, bytes) = written(50);
        let (read_header, of, read) = read_from(&bytes[..]).unwrap();
        assert_eq!((read_header, of.position), (header, Some(Position(8))));
        assert_eq!(read.nameless_digest(None), index.nameless_digest(None));
        for len in 0..bytes.len() {
            assert!(read_from(&bytes[..len]).is_err(), "cut to {len}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            if let Ok((_, _, read)) = read_from(&damaged[..]) {
                // Bits of a Zstandard frame's own header may change nothing.
                assert_eq!(read.nameless_digest(None), index.nameless_digest(None), "byte {at}");
            }
        }
        assert!(read_from(&[&bytes[..], b"x"].concat()[..]).is_err());
        assert!(super::read(Path::new("/nonexistent/state")).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read_from(&tail[..]).is_err());
            prop_assert!(read_from(&[MAGIC, &tail].concat()[..]).is_err());
        }
    }
}
