//! How fast a bundle is verified: of a team that has the log for itself, and of one that is a hundredth of it.
//!
//! `cargo bench -p keyledger-replay --bench bundle`; `KEYLEDGER_BENCH_EVENTS` says how many events the team has (200,000 if
//! unset). Events a second are the team's; bytes are the bundle's.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::HashMap,
    env, fs,
    fs::File,
    io::BufWriter,
    path::Path,
    time::{Duration, Instant},
};

use keyledger_events::{
    Commit, CommitNumber, PersonId, Position, TeamId,
    head::TreeHead,
    record::StreamHead,
    seal::PersonKey,
    statement::TeamStatement,
    store::{Follow, Head, ReadError, ReadLog},
    tree::proof,
};
use keyledger_replay::{
    bundle::{LogNodes, Material, Options, Selection, export, verify},
    quiet,
};
use support::{START, Town, directory::signer};

/// What the service itself is built with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let events: u64 = env::var("KEYLEDGER_BENCH_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let dir = tempfile::tempdir().unwrap();
    let commits = history(events);
    for (name, others) in [("the team alone", 0), ("one event in ten", 9), ("one event in a hundred", 99)] {
        let file = dir.path().join("team.bundle");
        let size = write(&file, &commits, others);
        // By turns with a bare read and BLAKE3 of the same bytes.
        for _ in 0..3 {
            let began = Instant::now();
            std::hint::black_box(blake3::hash(&fs::read(&file).unwrap()));
            let bare = began.elapsed().as_secs_f64();
            let began = Instant::now();
            let report = verify(&file, &Options { key: Some(signer().verifier()), ..Options::default() }).unwrap();
            let took = began.elapsed().as_secs_f64();
            assert!(report.whole && report.tree_size == size);
            println!(
                "{name:<24} {} of {size} events, {} MB: {:.2} M events/s, {:.0} MB/s (bare BLAKE3 {:.0} MB/s)",
                report.events,
                fs::metadata(&file).unwrap().len() >> 20,
                report.events as f64 / took / 1e6,
                fs::metadata(&file).unwrap().len() as f64 / took / 1e6,
                fs::metadata(&file).unwrap().len() as f64 / bare / 1e6,
            );
        }
    }
}

/// One team's commits, numbered as if it were alone.
fn history(events: u64) -> Vec<Commit> {
    let mut town = Town::new(2026);
    town.live_max = (events as usize / 20).max(1000);
    let text = r#"{"ip":"203.0.113.77","user_agent":"keyledger-cli/0.1"}"#;
    let context = PersonKey::from_bytes([5; 32]).seal(PersonId::from_bytes([6; 16]), [7; 24], text).unwrap();
    let mut commits = Vec::new();
    while town.events < events {
        town.context = town.commits.is_multiple_of(2).then(|| context.clone());
        commits.extend(town.step_after(Duration::from_millis(200), 0));
    }
    let team = town.founded[1];
    commits.retain(|commit: &Commit| commit.body.view().first().unwrap().team == team);
    commits
}

/// Writes the bundle of these commits with so many events of others before each; how many events the tree has.
fn write(file: &Path, commits: &[Commit], others: u64) -> u64 {
    let log = Spread::new(commits, others);
    let mut nodes = LogNodes::new(&log);
    log.commits.iter().for_each(|commit| nodes.push(commit));
    let size = nodes.size();
    let tree = TreeHead { size, root: proof::root(&nodes, size).unwrap() };
    let last = log.commits.iter().rev().find(|commit| log.own.contains_key(&commit.number)).unwrap();
    let placed = last.records().last().unwrap().unwrap();
    let (team, origin, time) = (placed.record.team, signer().verifier().origin().to_owned(), START.parse().unwrap());
    let head = StreamHead { revision: placed.record.revision, hash: placed.hash };
    let statement = TeamStatement { origin: origin.clone(), team, head, position: placed.position, tree, time };
    let mut numbers: Vec<CommitNumber> = log.own.keys().copied().collect();
    numbers.sort_unstable();
    let material = Material {
        log: &log,
        nodes: &nodes,
        origin,
        key: signer().verifier().to_string(),
        key_rotations: vec![],
        team,
        numbers,
        tree,
        tree_head: signer().sign(&tree),
        statement: statement.sign(&signer()),
        seal: None,
        last_used: None,
        exported_at: time,
    };
    export(material, &Selection::default(), &mut BufWriter::new(File::create(file).unwrap()), &quiet).unwrap();
    size
}

/// The commits with room between them, filled with one foreign commit again and again.
struct Spread {
    commits: Vec<Commit>,
    own: HashMap<CommitNumber, ()>,
}

impl Spread {
    fn new(own_commits: &[Commit], others: u64) -> Self {
        let mut town = Town::new(7);
        let foreign = town.found();
        let (mut commits, mut own, mut position) = (Vec::new(), HashMap::new(), 0);
        let mut push = |commit: &Commit, commits: &mut Vec<Commit>| {
            let number = CommitNumber(commits.len() as u64);
            let placed = Commit { number, first_position: Position(position), body: commit.body.clone() };
            position = placed.end().0;
            commits.push(placed);
            number
        };
        for commit in own_commits {
            let wanted = others * commit.body.view().count();
            for _ in 0..wanted.div_ceil(foreign.body.view().count()) {
                push(&foreign, &mut commits);
            }
            own.insert(push(commit, &mut commits), ());
        }
        assert!(foreign.body.view().first().unwrap().team == TeamId::SYSTEM);
        Self { commits, own }
    }
}

impl ReadLog for Spread {
    fn head(&self) -> Head {
        let last = self.commits.last();
        Head {
            commits: CommitNumber(self.commits.len() as u64),
            position: last.map_or(Position(0), Commit::end),
            ..Head::default()
        }
    }

    fn commit(&self, number: CommitNumber) -> Result<Option<Commit>, ReadError> {
        Ok(self.commits.get(number.0 as usize).cloned())
    }

    fn locate(&self, position: Position) -> Result<Option<CommitNumber>, ReadError> {
        let after = self.commits.partition_point(|commit| commit.first_position <= position);
        Ok(after.checked_sub(1).map(|at| CommitNumber(at as u64)))
    }

    fn follow(&self, _: CommitNumber) -> Result<Box<dyn Follow>, ReadError> {
        unimplemented!("a bundle is made by number")
    }
}
