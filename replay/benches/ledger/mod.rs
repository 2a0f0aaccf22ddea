//! Big ledgers for benches.

use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use keyledger_events::{
    PersonId, Position,
    head::TreeHead,
    record::StreamHead,
    seal::PersonKey,
    tree::{Frontier, leaf_data, leaf_hash},
};
use keyledger_projections::{Active, Digests, People, Streams};

use crate::support::{Town, directory};

const SEGMENT_LEN: usize = 64 << 20;

/// Writes a directory as a server would leave it, without keeping it in memory.
pub fn make(dir: &Path, events: u64, teams: usize) {
    let began = Instant::now();
    let mut town = Town::new(2026);
    town.live_max = (events as usize / 20).max(1000);
    let text = r#"{"ip":"203.0.113.77","user_agent":"keyledger-cli/0.1"}"#;
    let context = PersonKey::from_bytes([5; 32]).seal(PersonId::from_bytes([6; 16]), [7; 24], text).unwrap();
    let (active, mut streams, mut people) = (Active::default(), Streams::default(), People::default());
    let (mut tree, mut segment, mut bytes) = (Frontier::new(), Vec::new(), 0);
    fs::create_dir_all(dir.join("log")).unwrap();
    let mut file = None;
    while town.events < events {
        // What the ledger does by itself has none.
        town.context = town.commits.is_multiple_of(2).then(|| context.clone());
        let Some(commit) = town.step_after(Duration::from_millis(200), teams) else { continue };
        let mut last = None;
        for placed in commit.records().map(Result::unwrap) {
            active.apply(&placed);
            people.apply(&placed.record);
            tree.push(leaf_hash(&leaf_data(placed.position, placed.record.recorded_at, &placed.hash)));
            let head = StreamHead { revision: placed.record.revision, hash: placed.hash };
            last = Some((placed.record.team, head));
        }
        let (team, head) = last.unwrap();
        streams.apply(team, commit.number, head, commit.body.view().count());
        if file.is_none() {
            let path = dir.join(format!("log/{:016}.seg", commit.number.0));
            file = Some(fs::File::create(path).unwrap());
            segment = directory::segment_header(commit.number.0, commit.first_position.0);
        }
        segment.extend(directory::frame(commit.number.0, commit.first_position.0, commit.body.bytes()));
        if segment.len() >= SEGMENT_LEN {
            file.take().unwrap().write_all(&segment).unwrap();
            bytes += segment.len();
        }
    }
    if let Some(mut file) = file {
        file.write_all(&segment).unwrap();
        bytes += segment.len();
    }
    let head = TreeHead { size: tree.size(), root: tree.root() };
    let note = directory::signer().sign(&head);
    for name in ["log/head.0", "log/head.1"] {
        fs::write(dir.join(name), directory::slot(&note)).unwrap();
    }
    fs::write(dir.join("ledger.vkey"), directory::signer().verifier().to_string()).unwrap();
    let position = Position(town.events);
    let (active, streams, people) = (active.digest(), streams.digest(), people.digest());
    directory::write_digests(dir, &Digests { position, active, streams, people }.to_json());
    let (events, took) = (town.events, began.elapsed().as_secs_f64());
    println!(
        "made {events} events, {} live credentials, {} B an event, in {took:.1} s",
        town.live,
        bytes as u64 / events
    );
}
