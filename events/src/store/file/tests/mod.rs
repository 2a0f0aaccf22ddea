//! The file store under everything that may happen to it.

mod faults;
mod lock;
mod power;
mod released;
mod rot;
mod rotate;
mod sim;
mod tiles;

use std::time::Instant;

use super::{files::file_name, *};
use crate::{
    Position,
    head::HeadError,
    store::{
        Appended, Damage,
        contract::{self, Author, read_whole},
    },
};

/// Where the simulated ledger lies.
const DIR: &str = "/ledger";

fn signer() -> HeadSigner {
    HeadSigner::new("ledger.example/1", &[3; 32]).unwrap()
}

/// Segments of a few commits, so that there are several; the tree head is signed at the first event and at the end.
fn small() -> Options {
    Options { segment_bytes: 1024, reserve_bytes: 1024, head_interval: Duration::from_secs(3600) }
}

fn open_sim(disk: &sim::SimDisk) -> Result<(FileStore, Recovery), ReadError> {
    FileStore::open_on(Arc::new(disk.clone()), Path::new(DIR), signer(), &small())
}

/// Opens as [`FileStore::open`] does, up to where its threads would begin.
fn recover_sim(disk: &sim::SimDisk) -> Result<(Recovered, Recovery), ReadError> {
    let (signer, options, dir) = (signer(), small(), Path::new(DIR));
    let log = dir.join(LOG_DIR);
    let opening = Opening { disk: Arc::new(disk.clone()), dir, log: &log, signer: &signer, options: &options };
    opening.open().map(|opened| (opened.recovered, opened.recovery))
}

/// A log of so many commits of two teams, cleanly closed, and the commits.
fn written(commits: u64) -> (sim::SimDisk, Vec<Commit>) {
    let disk = sim::SimDisk::default();
    let (store, recovery) = open_sim(&disk).unwrap();
    assert!(recovery.created);
    let mut authors = [Author::new(1), Author::new(2)];
    for number in 0..commits {
        store.append(authors[number as usize % 2].propose_sample(1 + number % 2)).unwrap();
    }
    let commits = read_whole(&store);
    drop(store);
    (disk, commits)
}

fn segment_path(first_commit: u64) -> PathBuf {
    Path::new(DIR).join(LOG_DIR).join(file_name(CommitNumber(first_commit)))
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    /// The next number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

#[test]
fn it_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let made = std::cell::Cell::new(0);
    for options in [Options::default(), small()] {
        contract::run(|| {
            made.set(made.get() + 1);
            Box::new(FileStore::open(&root.path().join(made.get().to_string()), signer(), &options).unwrap().0)
        });
    }
}

#[test]
fn a_closed_log_opens_again_with_everything_and_without_hashing_it_anew() {
    let (disk, commits) = written(25);
    let (store, recovery) = open_sim(&disk).unwrap();
    assert_eq!((recovery.created, recovery.trimmed), (false, None));
    assert_eq!(recovery.hashed_from.0, 25, "the checkpoint reached to the end");
    assert_eq!(recovery.signed.unwrap().size, recovery.head.position.0);
    assert_eq!(read_whole(&store), commits);
    assert_eq!(store.commit(CommitNumber(13)).unwrap().as_ref(), commits.get(13));
    for commit in &commits {
        for position in commit.first_position.0..commit.end().0 {
            assert_eq!(store.locate(Position(position)).unwrap(), Some(commit.number));
        }
    }
    let mut author = Author::new(1);
    author.head = store.stream_head(author.team).unwrap();
    author.written = 1000;
    let proposal = author.propose_sample(1);
    let first = store.append(proposal.clone()).unwrap();
    assert_eq!(first.number.0, 25);
    drop(store);

    let (store, _) = open_sim(&disk).unwrap();
    let again = store.append(proposal).unwrap();
    assert_eq!((again.number, again.repeated), (first.number, true), "a retry after a restart is recognised");
    let log = FileLog::open_on(&disk, Path::new(DIR), None).unwrap();
    assert_eq!(read_whole(&log), read_whole(&store));
    assert_eq!(signer().verifier().verify(&store.tree_head()).unwrap().size, store.head().position.0);
}

#[test]
fn whatever_is_derived_may_be_missing_or_damaged() {
    let (disk, commits) = written(12);
    let checked = Path::new(DIR).join(LOG_DIR).join("checked");
    let (whole, stale) = (disk.bytes(&checked), written(4).0.bytes(&checked));
    let other = {
        let disk = sim::SimDisk::default();
        let (store, _) = open_sim(&disk).unwrap();
        let mut author = Author::new(9);
        for _ in 0..12 {
            store.append(author.propose_sample(1)).unwrap();
        }
        drop(store);
        disk.bytes(&checked)
    };
    let cut = whole[..whole.len() - 1].to_vec();
    for (what, bytes, hashed_from) in [
        ("whole", Some(whole), 12),
        ("missing", None, 0),
        ("cut", Some(cut), 0),
        ("empty", Some(Vec::new()), 0),
        ("of this log, but older", Some(stale), 4),
        ("of another log", Some(other), 0),
    ] {
        let disk = disk.image();
        match bytes {
            Some(bytes) => disk.set_bytes(&checked, bytes),
            None => disk.forget(&checked),
        }
        let (store, recovery) = open_sim(&disk).unwrap();
        assert_eq!(recovery.hashed_from.0, hashed_from, "{what}");
        assert_eq!(read_whole(&store), commits, "{what}");
    }
}

#[test]
fn a_reader_beside_a_busy_writer_never_sees_damage() {
    let root = tempfile::tempdir().unwrap();
    let (store, _) = FileStore::open(root.path(), signer(), &Options { segment_bytes: 1 << 16, ..small() }).unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut author = Author::new(1);
            for _ in 0..40 {
                let tickets: Vec<_> = (0..20).map(|_| store.submit(author.propose_sample(2))).collect();
                tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
            }
        });
        let mut seen = 0;
        while !writing.is_finished() {
            let acknowledged = store.head().commits;
            let log = FileLog::open(root.path()).unwrap();
            assert!(log.files().is_live());
            let commits = read_whole(&log).len() as u64;
            assert!(commits >= acknowledged.0.max(seen), "what was acknowledged is read");
            seen = commits;
        }
    });
    assert_eq!(read_whole(&FileLog::open(root.path()).unwrap()).len(), 800);
}

#[test]
fn the_tree_head_follows_by_itself() {
    let disk = sim::SimDisk::default();
    let options = Options { head_interval: Duration::from_millis(60), ..small() };
    let (store, _) = FileStore::open_on(Arc::new(disk), Path::new(DIR), signer(), &options).unwrap();
    let mut author = Author::new(1);
    for round in 1..=3 {
        store.append(author.propose_sample(1)).unwrap();
        store.append(author.propose_sample(1)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while signer().verifier().verify(&store.tree_head()).unwrap().size < 2 * round {
            assert!(Instant::now() < deadline, "no tree head over {} events", 2 * round);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
