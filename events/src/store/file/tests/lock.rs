//! Several processes, or threads, on the same data.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;

const CHILD_DIR: &str = "KEYLEDGER_TEST_LOCKED_DIR";

#[test]
fn of_many_that_open_at_once_one_wins_and_the_others_change_nothing() {
    const RACES: usize = 200;
    let root = tempfile::tempdir().unwrap();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let race @ 0..RACES = next.fetch_add(1, Ordering::Relaxed) {
                    let dir = root.path().join(race.to_string());
                    let ready = Barrier::new(3);
                    // Nobody gives the log back before all have tried.
                    let outcomes: Vec<_> = std::thread::scope(|scope| {
                        let racers: Vec<_> = (0..3)
                            .map(|_| {
                                scope.spawn(|| {
                                    ready.wait();
                                    FileStore::open(&dir, signer(), &small())
                                })
                            })
                            .collect();
                        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
                    });
                    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
                    assert_eq!(won.len(), 1, "race {race}");
                    for outcome in lost {
                        assert!(matches!(outcome, Err(ReadError::Locked { .. })), "race {race}");
                    }
                }
            });
        }
    });
}

#[test]
fn a_second_process_is_refused_within_a_second_and_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (store, _) = FileStore::open(root.path(), signer(), &small()).unwrap();
    store.append(Author::new(1).propose_sample(1)).unwrap();
    let contents = || -> BTreeMap<PathBuf, Vec<u8>> {
        let names = [root.path().to_owned(), root.path().join(LOG_DIR)].into_iter().flat_map(|dir| {
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
        });
        names.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    };
    // The tree head of the first event is on its way; what the others do is looked at once that is written.
    let deadline = Instant::now() + Duration::from_secs(10);
    while signer().verifier().verify(&store.tree_head()).unwrap().size < 1 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let before = contents();
    let begun = Instant::now();
    let refused = FileStore::open(root.path(), signer(), &small());
    assert!(matches!(refused, Err(ReadError::Locked { .. })));
    assert!(begun.elapsed() < Duration::from_secs(1));
    for _ in 0..5 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::file::tests::lock::child", "--ignored", "--test-threads=1"])
            .env(CHILD_DIR, root.path())
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    }
    assert_eq!(contents(), before);
    drop(store);
    FileStore::open(root.path(), signer(), &small()).unwrap();
}

/// The other process of the test above.
#[test]
#[ignore = "started by another test"]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let refused = FileStore::open(Path::new(&dir), signer(), &small());
    assert!(matches!(refused, Err(ReadError::Locked { .. })), "another process has the log");
}
