//! Logs of every released format, read for ever.

use super::*;

const V1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/log-v1");

/// What the fixture holds: two teams, commits of one and two events, several segments.
fn write_v1(dir: &Path) -> Vec<Proposal> {
    let (store, _) = FileStore::open(dir, signer(), &small()).unwrap();
    let mut authors = [Author::new(1), Author::new(2)];
    (0..7)
        .map(|number| {
            let proposal = authors[number as usize % 2].propose_sample(1 + number % 2);
            store.append(proposal.clone()).unwrap();
            proposal
        })
        .collect()
}

#[test]
fn the_log_of_format_1_is_read_and_written_byte_by_byte() {
    let root = tempfile::tempdir().unwrap();
    let proposals = write_v1(root.path());
    let log = FileLog::open_pinned(Path::new(V1), &signer().verifier()).unwrap();
    let commits = read_whole(&log);
    assert_eq!(commits.len(), proposals.len());
    for (commit, proposal) in commits.iter().zip(&proposals) {
        assert_eq!(commit.body, proposal.body);
    }
    assert_eq!(log.files().tree_heads()[0].size, 10);
    let mut files = vec!["ledger.vkey".to_owned(), "log/head.0".into(), "log/head.1".into()];
    files.extend(log.files().segments().iter().map(|segment| format!("log/{}", file_name(segment.first_commit()))));
    assert_eq!(files.len(), 3 + 4);
    for file in files {
        let (released, written) = (std::fs::read(Path::new(V1).join(&file)), std::fs::read(root.path().join(&file)));
        assert!(released.unwrap() == written.unwrap(), "{file} is written in other bytes than format 1");
    }
}

/// Run once a format: `cargo test -p keyledger-events --lib write_the_fixture -- --ignored`.
#[test]
#[ignore = "writes the fixture"]
fn write_the_fixture() {
    write_v1(Path::new(V1));
    for derived in ["lock", "log/checked", "log/spare"] {
        std::fs::remove_file(Path::new(V1).join(derived)).unwrap();
    }
}
