//! What the tree's tiles cost and give, each beside its limit of the same run:
//!
//! * appends of 64 writers with tiles and heads written every second, and as good as never, in turns;
//! * all tiles of a large log made anew, on all cores, against bare SHA-256 of as many leaves, of the whole tree, and of
//!   all that the log's records take (BLAKE3 too);
//! * proofs over that log, from the tiles on disk.
//!
//! `cargo bench -p keyledger-events --features contract --bench tiles [-- DIR]`; `KEYLEDGER_BENCH_EVENTS` says how many
//! events the large log has (a million).

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use keyledger_events::{
    Position, RecordHash, Timestamp,
    head::HeadSigner,
    store::{
        Proposal, ReadLog, Store,
        contract::Author,
        file::{FileStore, Options, PublishedTree, Recovery},
    },
    tree::{NodeHash, leaf_data, leaf_hash, node_hash},
};

const WRITERS: u64 = 64;
const ROUNDS: usize = 7;
/// Enough of them that every round sees some heads signed.
const APPENDS: u64 = 250_000;
const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let root = dir.map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    appending(root.path());
    let events = std::env::var("KEYLEDGER_BENCH_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let log = root.path().join("large");
    fill(&log, events);
    rebuilding(&log);
    proving(&open(&log, Duration::from_secs(1)).0.tree());
}

fn open(dir: &Path, head_interval: Duration) -> (FileStore, Recovery) {
    let signer = HeadSigner::new("ledger.example/bench", &[3; 32]).unwrap();
    FileStore::open(dir, signer, &Options { head_interval, ..Options::default() }).unwrap()
}

fn appending(root: &Path) {
    let stores = [("often", Duration::from_secs(1)), ("never", Duration::from_secs(3600))]
        .map(|(name, interval)| open(&root.join(name), interval).0);
    let mut authors = [(); 2].map(|()| (0..WRITERS).map(Author::new).collect::<Vec<_>>());
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut rates = [0.0; 2];
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let work: Vec<Vec<Proposal>> = authors[which]
                .iter_mut()
                .map(|author| (0..APPENDS / WRITERS).map(|_| author.propose_sample(1)).collect())
                .collect();
            let (store, start) = (&stores[which], Instant::now());
            thread::scope(|scope| {
                for list in work {
                    scope.spawn(move || list.into_iter().for_each(|proposal| assert!(store.append(proposal).is_ok())));
                }
            });
            rates[which] = APPENDS as f64 / start.elapsed().as_secs_f64();
        }
        println!("append: {:>9.0}/s with tiles and heads, {:>9.0}/s without", rates[0], rates[1]);
        ratios.push(rates[0] / rates[1]);
    }
    verdict("append, with tiles and heads / without", median(ratios), 0.95);
}

fn fill(log: &Path, events: u64) {
    let (store, _) = open(log, Duration::from_secs(1));
    let mut authors: Vec<_> = (0..50).map(Author::new).collect();
    while store.head().position.0 < events {
        let tickets: Vec<_> = authors.iter_mut().map(|author| store.submit(author.propose_sample(200))).collect();
        tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
    }
}

fn rebuilding(log: &Path) {
    let (mut leaves_only, mut whole_tree, mut everything) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        fs::remove_dir_all(log.join("tiles")).unwrap();
        let (store, _) = open(log, Duration::from_secs(1));
        let (start, size) = (Instant::now(), store.head().position.0);
        store.tree().wait_for(size, PATIENCE).unwrap();
        let rate = size as f64 / start.elapsed().as_secs_f64();
        drop(store);
        let leaf = |n: u64| leaf_hash(&leaf_data(Position(n), Timestamp::from_micros(n), &RecordHash([7; 32])));
        let leaves = on_all_cores(size, |n| {
            black_box(leaf(n));
        });
        // One node a leaf.
        let tree = on_all_cores(size, |n| {
            black_box(node_hash(&leaf(n), &NodeHash([9; 32])));
        });
        let record = [5; 250];
        let all = on_all_cores(size, |n| {
            black_box(blake3::hash(&record));
            black_box(node_hash(&leaf(n), &NodeHash([9; 32])));
        });
        println!(
            "rebuild: {rate:>10.0}/s; leaves {leaves:>10.0}/s, whole tree {tree:>10.0}/s, with BLAKE3 {all:>10.0}/s"
        );
        leaves_only.push(rate / leaves);
        whole_tree.push(rate / tree);
        everything.push(rate / all);
    }
    verdict("rebuild / SHA-256 of the leaves alone", median(leaves_only), 0.8);
    verdict("rebuild / SHA-256 of leaves and nodes", median(whole_tree), 0.8);
    verdict("rebuild / SHA-256 of leaves and nodes, BLAKE3 of the records", median(everything), 0.8);
}

/// How many a second.
fn on_all_cores(count: u64, work: impl Fn(u64) + Sync) -> f64 {
    let (threads, start) = (thread::available_parallelism().unwrap().get() as u64, Instant::now());
    thread::scope(|scope| {
        for which in 0..threads {
            let work = &work;
            scope.spawn(move || (which..count).step_by(threads as usize).for_each(work));
        }
    });
    count as f64 / start.elapsed().as_secs_f64()
}

fn proving(tree: &PublishedTree) {
    let size = tree.head().unwrap().head.size;
    let mut random = 1_u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 20) % size
    };
    let mut time = |what: &str, prove: &dyn Fn(u64)| {
        let times: Vec<f64> = (0..2_000)
            .map(|_| {
                let (position, start) = (next(), Instant::now());
                prove(position);
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        let (median, slowest) = (median(times.clone()), times.iter().copied().fold(0.0, f64::max));
        println!("{what} at {size} events: median {median:.3} ms, slowest {slowest:.3} ms (goal 1 ms)");
    };
    time("inclusion proof", &|position| drop(tree.inclusion(position, size).unwrap()));
    time("inclusion proof in an older tree", &|position| {
        drop(tree.inclusion(position / 2, position + 1).unwrap())
    });
    time("consistency proof", &|position| drop(tree.consistency(position, size).unwrap()));
}

fn verdict(what: &str, ratio: f64, goal: f64) {
    println!("{what}: {ratio:.2} (goal {goal}: {})", if ratio >= goal { "reached" } else { "MISSED" });
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
