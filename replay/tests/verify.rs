//! The verifier against every way a directory can be wrong.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path, time::Duration};

use keyledger_events::{
    Commit, CommitBody, CommitNumber, Position,
    head::HeadSigner,
    note::{Note, WitnessSigner},
    store::{
        Proposal, ReadLog, Store,
        file::{FileStore, Options as StoreOptions},
    },
    witness::Policy,
};
use keyledger_replay::verify::{Broken, Options, Report, verify, verify_log};
use support::{
    Random, Town,
    directory::{self, signer},
    store,
};
use tempfile::TempDir;

fn check(dir: &Path) -> Result<Report, Broken> {
    verify(dir, &Options::default())
}

fn directory_of(commits: &[Commit]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    directory::write(dir.path(), commits);
    dir
}

fn segment_of(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("log/0000000000000000.seg")
}

#[test]
fn a_sound_directory_holds_with_its_digests() {
    let commits = Town::new(1).history(600);
    let dir = directory_of(&commits);
    let report = check(dir.path()).unwrap();
    let events = commits.last().unwrap().end().0;
    assert_eq!((report.events, report.commits, report.unsigned_events), (events, commits.len() as u64, 0));
    assert_eq!(report.root, directory::tree(&commits).root().to_string());
    assert_eq!((report.key_pinned, report.live, report.digests_position), (false, false, None));
    assert_eq!(report.signed_sizes.len(), 2);

    for part in [0, 1, commits.len() / 3, commits.len()] {
        directory::write_digests(dir.path(), &directory::digests(&commits[..part]));
        let at = commits[..part].last().map_or(0, |commit| commit.end().0);
        assert_eq!(check(dir.path()).unwrap().digests_position, Some(at));
    }
    let options = Options { key: Some(signer().verifier()), ..Options::default() };
    assert!(verify(dir.path(), &options).unwrap().key_pinned);

    let log = store(&commits);
    let heads = [directory::head(&commits[..9], &signer()), directory::head(&commits, &signer())];
    let of_log = verify_log(&log, &signer().verifier(), &heads).unwrap();
    assert_eq!((of_log.root, of_log.live_credentials), (report.root, report.live_credentials));
}

#[test]
fn what_the_file_store_writes_holds_while_it_lives_and_after() {
    let commits = Town::new(2).history(900);
    let dir = tempfile::tempdir().unwrap();
    let options =
        StoreOptions { segment_bytes: 64 << 10, reserve_bytes: 1 << 20, head_interval: Duration::from_millis(5) };
    let (log, _) = FileStore::open(dir.path(), signer(), &options).unwrap();
    let mut heads = std::collections::HashMap::new();
    for (at, commit) in commits.iter().enumerate() {
        let team = commit.body.view().first().unwrap().team;
        let expected = heads.get(&team).copied();
        log.append(Proposal { team, expected, body: commit.body.clone(), essential: false }).unwrap();
        let last = commit.records().last().unwrap().unwrap();
        let (revision, hash) = (last.record.revision, last.hash);
        heads.insert(team, keyledger_events::record::StreamHead { revision, hash });
        if at % 100 == 50 {
            let report = check(dir.path()).unwrap();
            assert!(report.live && report.events == commit.end().0, "{report:?}");
        }
    }
    let head = log.head();
    drop(log);
    let report = check(dir.path()).unwrap();
    assert_eq!((report.events, report.unsigned_events, report.live), (head.position.0, 0, false));

    let path = dir.path().join("log/checked");
    let honest = fs::read(&path).unwrap();
    for at in (0..honest.len()).step_by(7) {
        let mut bytes = honest.clone();
        bytes[at] ^= 2;
        fs::write(&path, &bytes).unwrap();
        let broken = check(dir.path()).expect_err("its checksum");
        assert_eq!(broken.file.as_deref(), Some(&*path));
        // With its checksum made right again it is still not what the log gives.
        let crc = crc32c::crc32c(&bytes[12..]).to_le_bytes();
        bytes[8..12].copy_from_slice(&crc);
        fs::write(&path, &bytes).unwrap();
        assert!(check(dir.path()).is_err() || bytes == honest, "byte {at}");
    }
    fs::remove_file(&path).unwrap();
    check(dir.path()).unwrap();
    assert!(fs::read_dir(dir.path().join("log")).unwrap().count() > 4, "several segments were written");
}

/// Where the frame of each commit begins, and where the last one ends.
fn offsets(commits: &[Commit]) -> Vec<usize> {
    (0..=commits.len()).map(|n| directory::segment(&commits[..n]).len().max(64)).collect()
}

#[test]
fn every_flipped_bit_of_the_log_is_found_where_it_is() {
    let mut town = Town::new(3);
    let mut commits = vec![town.found(), town.found()];
    while commits.len() < 4 {
        commits.extend(town.step());
    }
    let dir = directory_of(&commits);
    let (path, offsets) = (segment_of(&dir), offsets(&commits));
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([0; 24]);
    fs::write(&path, &bytes).unwrap();
    check(dir.path()).unwrap();
    for bit in 0..bytes.len() * 8 {
        let at = bit / 8;
        bytes[at] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        let broken = check(dir.path()).expect_err(&format!("bit {bit}"));
        let expected = match offsets.iter().rposition(|start| *start <= at) {
            None => 0,
            Some(commit) => commits.get(commit).map_or_else(|| commits.last().unwrap().end().0, |c| c.first_position.0),
        };
        assert_eq!(broken.position.0, expected, "bit {bit}: {broken}");
        assert_eq!(broken.file.as_ref(), Some(&path), "bit {bit}: {broken}");
        bytes[at] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_flipped_bit_beside_the_log_is_found() {
    let commits = Town::new(4).history(6);
    let dir = directory_of(&commits);
    directory::write_digests(dir.path(), &directory::digests(&commits));
    check(dir.path()).unwrap();
    for name in ["log/head.0", "log/head.1", "projections/digests", "ledger.vkey"] {
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        // The last byte of the key's file is a line break, which may be any white space.
        let len = if name == "ledger.vkey" { bytes.len() - 1 } else { bytes.len() };
        for bit in (0..len * 8).filter(|bit| bit / 8 < 400 || bit % 61 == 0) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            let broken = check(dir.path());
            assert!(broken.is_err(), "{name}, bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn every_truncation_is_found() {
    let commits = Town::new(5).history(9);
    let dir = directory_of(&commits);
    let (path, offsets) = (segment_of(&dir), offsets(&commits));
    let bytes = fs::read(&path).unwrap();
    for len in 0..bytes.len() {
        fs::write(&path, &bytes[..len]).unwrap();
        let broken = check(dir.path()).expect_err(&format!("cut to {len}"));
        let whole = offsets.iter().rposition(|end| *end <= len).unwrap_or(0);
        assert_eq!(broken.position, commits[whole].first_position, "cut to {len}: {broken}");
    }
    fs::remove_file(&path).unwrap();
    assert!(check(dir.path()).is_err());
    assert!(check(&dir.path().join("nowhere")).is_err());
}

/// The commits renumbered as they now follow, so that every frame is sound in itself.
fn renumbered(commits: &[Commit]) -> Vec<Commit> {
    let (mut number, mut position) = (0, 0);
    commits
        .iter()
        .map(|commit| {
            let placed =
                Commit { number: CommitNumber(number), first_position: Position(position), body: commit.body.clone() };
            number += 1;
            position = placed.end().0;
            placed
        })
        .collect()
}

/// The body with one byte changed and still parsed, or none. Not in its first 51 bytes: they are for whoever retries, and
/// no hash covers the operation id and the request's digest.
fn bent(commit: &Commit, at: usize, with: u8) -> Option<Commit> {
    let mut bytes = commit.body.bytes().to_vec();
    let at = 51 + at % (bytes.len() - 51);
    bytes[at] ^= with.max(1);
    Some(Commit { body: CommitBody::parse(bytes).ok()?, ..commit.clone() })
}

#[test]
fn whoever_rewrites_frames_and_their_checksums_is_found_by_chain_or_tree() {
    let commits = Town::new(6).history(60);
    let other = Town::new(6006).history(60);
    let dir = directory_of(&commits);
    let path = segment_of(&dir);
    let mut random = Random(66);
    let (mut found, mut by_tree) = (0, 0);
    for round in 0..1500 {
        let mut forged = commits.clone();
        let (at, to) = (random.below(commits.len()), random.below(commits.len()));
        let first = match round % 6 {
            0 => {
                forged.remove(at);
                at
            }
            1 => {
                forged.insert(to, commits[at].clone());
                to
            }
            2 => {
                forged.swap(at, to);
                at.min(to)
            }
            3 => {
                // A fork: another history goes on from here.
                forged.truncate(at);
                forged.extend(other[at.min(other.len())..].iter().cloned());
                at
            }
            4 => {
                let Some(bent) = bent(&commits[at], random.next() as usize, random.next() as u8) else { continue };
                forged[at] = bent;
                at
            }
            _ => {
                // The tail cut off at a frame, cleanly.
                forged.truncate(at);
                at
            }
        };
        let forged = renumbered(&forged);
        if forged == commits {
            continue;
        }
        fs::write(&path, directory::segment(&forged)).unwrap();
        let broken = check(dir.path()).expect_err(&format!("round {round}"));
        let place = commits.get(first).map_or(u64::MAX, |commit| commit.first_position.0);
        if broken.what.contains("root") {
            // The tree only tells between which two signed sizes it was changed.
            by_tree += 1;
            assert!(broken.position.0 <= place, "round {round}: {broken}");
        } else {
            assert!(broken.position.0 >= place, "round {round}: {broken}");
        }
        found += 1;
    }
    assert!(found > 1200 && by_tree > 5, "{found} found, {by_tree} by the tree alone");
}

#[test]
fn heads_replaced_or_missing_are_found() {
    let commits = Town::new(8).history(80);
    let half = &commits[..commits.len() / 2];
    let others = HeadSigner::new("ledger.example/test", &[8; 32]).unwrap();
    let elsewhere = HeadSigner::new("ledger.example/other", &[7; 32]).unwrap();
    let write = |dir: &TempDir, notes: [&str; 2]| {
        fs::write(dir.path().join("log/head.0"), directory::slot(notes[0])).unwrap();
        fs::write(dir.path().join("log/head.1"), directory::slot(notes[1])).unwrap();
    };
    let whole_note = directory::head(&commits, &signer());
    let half_note = directory::head(half, &signer());

    // By another key, or of another ledger.
    for stranger in [&others, &elsewhere] {
        let dir = directory_of(&commits);
        write(&dir, [&half_note, &directory::head(&commits, stranger)]);
        assert!(check(dir.path()).unwrap_err().what.contains("tree head"));
        // With the key replaced too: only whoever has pinned the key can tell.
        write(&dir, [&directory::head(half, stranger), &directory::head(&commits, stranger)]);
        fs::write(dir.path().join("ledger.vkey"), stranger.verifier().to_string()).unwrap();
        assert!(!check(dir.path()).unwrap().key_pinned);
        let pinned = Options { key: Some(signer().verifier()), ..Options::default() };
        assert!(verify(dir.path(), &pinned).is_err());
    }

    // Both older: the bytes hold, and how much nobody has signed is said.
    let dir = directory_of(&commits);
    write(&dir, [&half_note, &half_note]);
    let report = check(dir.path()).unwrap();
    assert_eq!(report.unsigned_events, report.events - half.last().unwrap().end().0);
    // Older, with the log cut back to it: only a head kept elsewhere can tell.
    directory::write(dir.path(), half);
    check(dir.path()).unwrap();
    let known = Options { known_heads: vec![whole_note.clone()], ..Options::default() };
    let broken = verify(dir.path(), &known).unwrap_err();
    assert!(broken.what.contains("history is missing"), "{broken}");
    assert_eq!(broken.position, half.last().unwrap().end());

    // Missing.
    let dir = directory_of(&commits);
    fs::remove_file(dir.path().join("log/head.0")).unwrap();
    check(dir.path()).unwrap();
    fs::remove_file(dir.path().join("log/head.1")).unwrap();
    assert!(check(dir.path()).is_err());
}

#[test]
fn a_policy_is_met_by_cosigned_heads_of_this_very_log() {
    let commits = Town::new(11).history(60);
    let (dir, half) = (directory_of(&commits), &commits[..30]);
    let witnesses = [1, 2].map(|n: u8| WitnessSigner::new(&format!("witness.example/{n}"), &[n; 32]).unwrap());
    let lines: String = (1..3).zip(&witnesses).map(|(n, w)| format!("witness w{n} {}\n", w.verifier())).collect();
    let cosigned = |note: &str, by: &[WitnessSigner]| {
        let parsed = Note::parse(note).unwrap();
        by.iter().fold(note.to_owned(), |note, witness| note + &witness.cosign(&parsed, 1_800_000_000))
    };
    let with = |rest: &str| {
        let policy = Some(Policy::parse(&format!("{lines}{rest}")).unwrap());
        verify(dir.path(), &Options { policy, ..Options::default() })
    };
    let both = "group q all w1 w2\nquorum q\n";
    let says = |rest: &str, what: &str| {
        let broken = with(rest).unwrap_err();
        assert!(broken.what.contains(what), "{broken}");
    };
    let file = dir.path().join("ledger.cosigned");

    says(both, "no tree head here is cosigned");
    fs::write(&file, cosigned(&directory::head(half, &signer()), &witnesses[..1])).unwrap();
    says(both, "no tree head here is cosigned");
    assert_eq!(with("quorum w1\n").unwrap().witnessed.unwrap().by[0].0, "w1");
    fs::write(&file, cosigned(&directory::head(half, &signer()), &witnesses)).unwrap();
    let witnessed = with(both).unwrap().witnessed.unwrap();
    assert_eq!((witnessed.size, witnessed.by.len()), (half.last().unwrap().end().0, 2));
    assert_eq!(witnessed.by[1].1.to_string(), "2027-01-15T08:00:00.000000Z");
    let stranger = HeadSigner::new("elsewhere.example", &[8; 32]).unwrap();
    says(&format!("log {}\n{both}", stranger.verifier()), "about other ledgers");
    with(&format!("log {}\n{both}", signer().verifier())).unwrap();
    // Cosigned, and not this log's: the witnesses have seen another one.
    let fork = Town::new(12).history(60);
    fs::write(&file, cosigned(&directory::head(&fork[..30], &signer()), &witnesses)).unwrap();
    says(both, "history was changed");
    fs::write(&file, "not a head").unwrap();
    says(both, "not a signed tree head");
}

#[test]
fn digests_that_are_not_the_logs_are_found() {
    let commits = Town::new(9).history(120);
    let dir = directory_of(&commits);
    let honest = directory::digests(&commits);
    let others = directory::digests(&Town::new(10).history(120));
    let part = |text: &str, name: &str| {
        let start = text.find(name).unwrap() + name.len() + 3;
        text[start..start + 64].to_owned()
    };
    for name in ["active", "streams", "people"] {
        let forged = honest.replace(&part(&honest, name), &part(&others, name));
        directory::write_digests(dir.path(), &forged);
        let broken = check(dir.path()).unwrap_err();
        assert!(broken.what.contains(name), "{broken}");
        assert_eq!(broken.position, commits.last().unwrap().end());
    }
    let events = commits.last().unwrap().end().0;
    for (position, says) in [(events + 1, "history is missing"), (events - 1, "digest"), (1, "middle of a commit")] {
        let forged = honest.replace(&format!(":{events},"), &format!(":{position},"));
        directory::write_digests(dir.path(), &forged);
        let broken = check(dir.path()).unwrap_err();
        assert!(broken.what.contains(says), "{broken}");
    }
    for text in ["", "{}", "{\"position\":0}", "null"] {
        directory::write_digests(dir.path(), text);
        assert!(check(dir.path()).is_err(), "{text}");
    }
}
