//! Data directories written byte by byte from the format's description, so that they can also be written wrong.

use std::{fs, path::Path};

use keyledger_events::{
    Commit,
    head::{HeadSigner, TreeHead},
    tree::{Frontier, leaf_data, leaf_hash},
};
use keyledger_projections::{Active, People, Streams};

/// The ledger's signer in all tests.
pub fn signer() -> HeadSigner {
    HeadSigner::new("ledger.example/test", &[7; 32]).unwrap()
}

/// A segment's header.
pub fn segment_header(first_commit: u64, first_position: u64) -> Vec<u8> {
    let mut out = vec![0; 64];
    out[..8].copy_from_slice(b"KLEDGSEG");
    out[8..12].copy_from_slice(&1u32.to_le_bytes());
    out[16..24].copy_from_slice(&first_commit.to_le_bytes());
    out[24..32].copy_from_slice(&first_position.to_le_bytes());
    let crc = crc32c::crc32c(&out[16..]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// A frame, each the last of its batch.
pub fn frame(number: u64, first_position: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(40 + body.len());
    out.extend_from_slice(b"KLF1\0\0\0\0");
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&first_position.to_le_bytes());
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(8), 0);
    let crc = crc32c::crc32c(&out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

/// One segment of these commits, as they number themselves.
pub fn segment(commits: &[Commit]) -> Vec<u8> {
    let first = commits.first().map_or((0, 0), |first| (first.number.0, first.first_position.0));
    let mut out = segment_header(first.0, first.1);
    for commit in commits {
        out.extend(frame(commit.number.0, commit.first_position.0, commit.body.bytes()));
    }
    out
}

/// The tree over all events of these commits.
pub fn tree(commits: &[Commit]) -> Frontier {
    let mut frontier = Frontier::new();
    for placed in commits.iter().flat_map(|commit| commit.records().map(Result::unwrap).collect::<Vec<_>>()) {
        frontier.push(leaf_hash(&leaf_data(placed.position, placed.record.recorded_at, &placed.hash)));
    }
    frontier
}

/// The signed head over these commits.
pub fn head(commits: &[Commit], signer: &HeadSigner) -> String {
    let tree = tree(commits);
    signer.sign(&TreeHead { size: tree.size(), root: tree.root() })
}

/// A head's file.
pub fn slot(note: &str) -> Vec<u8> {
    let mut bytes = note.as_bytes().to_vec();
    bytes.resize(1024, 0);
    bytes
}

/// A whole directory of these commits in one segment, signed at half and at the end.
pub fn write(dir: &Path, commits: &[Commit]) {
    write_beside(dir, commits);
    fs::write(dir.join("log/0000000000000000.seg"), segment(commits)).unwrap();
}

/// Everything but the segments.
pub fn write_beside(dir: &Path, commits: &[Commit]) {
    fs::create_dir_all(dir.join("log")).unwrap();
    fs::write(dir.join("ledger.vkey"), format!("{}\n", signer().verifier())).unwrap();
    fs::write(dir.join("log/head.0"), slot(&head(&commits[..commits.len() / 2], &signer()))).unwrap();
    fs::write(dir.join("log/head.1"), slot(&head(commits, &signer()))).unwrap();
}

/// What a server of these commits says of its projections.
pub fn digests(commits: &[Commit]) -> String {
    let (active, mut streams, mut people) = (Active::default(), Streams::default(), People::default());
    for commit in commits {
        let mut last = None;
        for placed in commit.records().map(Result::unwrap) {
            active.apply(&placed);
            people.apply(&placed.record);
            let revision = placed.record.revision;
            last = Some((placed.record.team, keyledger_events::record::StreamHead { revision, hash: placed.hash }));
        }
        let (team, head) = last.unwrap();
        streams.apply(team, commit.number, head, commit.body.view().count());
    }
    let position = commits.last().map_or(0, |commit| commit.end().0);
    let (active, streams, people) = (active.digest(), streams.digest(), people.digest());
    format!(r#"{{"position":{position},"digests":{{"active":"{active}","streams":"{streams}","people":"{people}"}}}}"#)
}

/// Writes what a server says.
pub fn write_digests(dir: &Path, text: &str) {
    fs::create_dir_all(dir.join("projections")).unwrap();
    fs::write(dir.join("projections/digests"), text).unwrap();
}
