//! Durable appends through the file store, against bare files that do the least that durability takes, in turns:
//!
//! * 64 writers: a preallocated, zeroed file; whoever comes first writes and syncs what all have handed in.
//! * 1 writer: the same file, one write and one fdatasync each.
//!
//! `cargo bench -p keyledger-events --features contract --bench append [-- DIR]`. Rates are medians over the rounds.

#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex},
    time::Instant,
};

use keyledger_events::{
    head::HeadSigner,
    store::{
        Proposal, Store,
        contract::Author,
        file::{FileStore, Options},
    },
};

const ROUNDS: usize = 9;

fn main() {
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let root = dir.map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    println!("{:>8} {:>14} {:>14} {:>7}", "writers", "bare file/s", "store/s", "ratio");
    for (writers, appends, goal) in [(64, 60_000, 0.75), (1, 500, 0.85)] {
        let store_dir = root.path().join(writers.to_string());
        let signer = HeadSigner::new("ledger.example/bench", &[3; 32]).unwrap();
        let (store, _) = FileStore::open(&store_dir, signer, &Options::default()).unwrap();
        let mut authors: Vec<_> = (0..writers).map(Author::new).collect();
        let (mut bare_rates, mut store_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let work: Vec<Vec<Proposal>> = authors
                .iter_mut()
                .map(|author| (0..appends / writers).map(|_| author.propose_sample(1)).collect())
                .collect();
            let payloads: Vec<Vec<Vec<u8>>> = work
                .iter()
                .map(|proposals| proposals.iter().map(|proposal| proposal.body.bytes().to_vec()).collect())
                .collect();
            let bare = bare_rate(&root.path().join("bare"), payloads);
            let stored = rate(work, |proposal| assert!(store.append(proposal).is_ok()));
            bare_rates.push(bare);
            store_rates.push(stored);
            ratios.push(stored / bare);
        }
        let ratio = median(ratios);
        let verdict = if ratio >= goal { "reached" } else { "MISSED" };
        let (bare, stored) = (median(bare_rates), median(store_rates));
        println!("{writers:>8} {bare:>14.0} {stored:>14.0} {ratio:>7.2} (goal {goal}: {verdict})");
    }
}

/// Appends a second, each of `work`'s lists done by a thread of its own.
fn rate<T: Send>(work: Vec<Vec<T>>, append: impl Fn(T) + Sync) -> f64 {
    let count: usize = work.iter().map(Vec::len).sum();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for list in work {
            let append = &append;
            scope.spawn(move || list.into_iter().for_each(append));
        }
    });
    count as f64 / start.elapsed().as_secs_f64()
}

fn bare_rate(path: &Path, payloads: Vec<Vec<Vec<u8>>>) -> f64 {
    let len: usize = payloads.iter().flatten().map(Vec::len).sum();
    let file = File::options().create(true).truncate(true).write(true).open(path).unwrap();
    file.write_all_at(&vec![0; len], 0).unwrap();
    file.sync_all().unwrap();
    let bare = Bare { file, state: Mutex::default(), changed: Condvar::new() };
    rate(payloads, |payload| bare.append(&payload))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Group commit and nothing else.
struct Bare {
    file: File,
    state: Mutex<BareState>,
    changed: Condvar,
}

#[derive(Default)]
struct BareState {
    waiting: Vec<u8>,
    handed_in: u64,
    durable: u64,
    offset: u64,
    syncing: bool,
}

impl Bare {
    fn append(&self, payload: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.waiting.extend_from_slice(payload);
        state.handed_in += 1;
        let mine = state.handed_in;
        while state.durable < mine {
            if state.syncing {
                state = self.changed.wait(state).unwrap();
                continue;
            }
            state.syncing = true;
            let batch = std::mem::take(&mut state.waiting);
            let (upto, offset) = (state.handed_in, state.offset);
            state.offset += batch.len() as u64;
            drop(state);
            self.file.write_all_at(&batch, offset).unwrap();
            self.file.sync_data().unwrap();
            state = self.state.lock().unwrap();
            state.durable = upto;
            state.syncing = false;
            self.changed.notify_all();
        }
    }
}
