//! Opening a log: with its own checkpoint, without one (everything hashed), and as a reader does; and going through all
//! frames on all cores, which is what replay begins with.
//!
//! `cargo bench -p keyledger-events --features contract --bench open [-- EVENTS [DIR]]`

#![allow(clippy::unwrap_used)]

use std::{path::PathBuf, time::Instant};

use keyledger_events::{
    CommitNumber, Position,
    head::HeadSigner,
    store::{
        ReadLog, Store,
        contract::Author,
        file::{FileLog, FileStore, LogFiles, Options},
    },
};

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let events: u64 = args.next().map_or(1_000_000, |events| events.parse().unwrap());
    let root = args.next().map_or_else(tempfile::tempdir, |dir| tempfile::tempdir_in(PathBuf::from(dir))).unwrap();
    let dir = root.path();
    let open = || {
        let signer = HeadSigner::new("ledger.example/bench", &[3; 32]).unwrap();
        FileStore::open(dir, signer, &Options::default()).unwrap()
    };
    let begun = Instant::now();
    write(&open().0, events);
    let bytes: u64 = LogFiles::open(dir, None).unwrap().segments().iter().map(|s| s.len_bytes().unwrap()).sum();
    println!("{events} events, {} MiB, written in {:.1?}", bytes >> 20, begun.elapsed());

    for round in 0..3 {
        time("open, with its checkpoint", events, || drop(open()));
        std::fs::remove_file(dir.join("log/checked")).unwrap();
        time("open, without", events, || drop(open()));
        time("open as a reader", events, || drop(FileLog::open(dir).unwrap()));
        time("all frames, all cores", events, || {
            let files = LogFiles::open(dir, None).unwrap();
            std::thread::scope(|scope| {
                for half in 0..2 {
                    let segments = files.segments();
                    scope.spawn(move || {
                        for segment in segments.iter().skip(half).step_by(2) {
                            let mut frames = segment.frames();
                            while frames.next().unwrap().is_some() {}
                        }
                    });
                }
            });
        });
        if round == 2 {
            let log = FileLog::open(dir).unwrap();
            let head = log.head();
            let draws = 200_000;
            let mut at = 1u64;
            let mut draw = || {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                at >> 20
            };
            time("commit, at random", draws, || {
                for _ in 0..draws {
                    assert!(log.commit(CommitNumber(draw() % head.commits.0)).unwrap().is_some());
                }
            });
            time("locate, at random", draws, || {
                for _ in 0..draws {
                    assert!(log.locate(Position(draw() % head.position.0)).unwrap().is_some());
                }
            });
        }
    }
}

fn write(store: &FileStore, events: u64) {
    let mut authors: Vec<_> = (0..10_000).map(Author::new).collect();
    for batch in 0..events / 1000 {
        let tickets: Vec<_> = (0..1000)
            .map(|n| store.submit(authors[((batch * 1000 + n) % 10_000) as usize].propose_sample(1)))
            .collect();
        tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
    }
}

fn time(what: &str, count: u64, work: impl FnOnce()) {
    let begun = Instant::now();
    work();
    let taken = begun.elapsed();
    println!("{what:<28} {taken:>10.2?}  {:>8.2} M/s", count as f64 / taken.as_secs_f64() / 1e6);
}
