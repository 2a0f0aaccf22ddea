//! The verifier against every way the tree's tiles, heads and log of a small ledger can be changed.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::HashMap, fs, path::Path, time::Duration};

use keyledger_events::{
    Commit,
    record::StreamHead,
    store::{
        Proposal, Store,
        file::{FileStore, Options as StoreOptions},
    },
};
use keyledger_replay::verify::{Broken, Options, Report, verify};
use support::{Random, Town, directory::signer};
use tempfile::TempDir;

fn check(dir: &Path) -> Result<Report, Broken> {
    verify(dir, &Options::default())
}

/// Appends commits to a ledger and closes it.
fn append(dir: &Path, commits: &[Commit], heads: &mut HashMap<keyledger_events::TeamId, StreamHead>) {
    let options =
        StoreOptions { segment_bytes: 64 << 10, head_interval: Duration::from_secs(60), ..Default::default() };
    let (log, _) = FileStore::open(dir, signer(), &options).unwrap();
    for commit in commits {
        let team = commit.body.view().first().unwrap().team;
        let expected = heads.get(&team).copied();
        log.append(Proposal { team, expected, body: commit.body.clone(), essential: false }).unwrap();
        let last = commit.records().last().unwrap().unwrap();
        heads.insert(team, StreamHead { revision: last.record.revision, hash: last.hash });
    }
}

/// A closed ledger of about 1,400 events, and how it was at about 700.
fn ledger() -> (TempDir, HashMap<String, Vec<u8>>) {
    let commits = Town::new(11).history(1_400);
    let (dir, mut heads) = (tempfile::tempdir().unwrap(), HashMap::new());
    let (first, rest) = commits.split_at(commits.len() / 2);
    append(dir.path(), first, &mut heads);
    let older = files(dir.path());
    append(dir.path(), rest, &mut heads);
    (dir, older)
}

/// All files that an auditor looks at, the zeros behind the log's end left out.
fn files(dir: &Path) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    for folder in ["tiles", "log"] {
        for entry in fs::read_dir(dir.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name == "spare" || name == "checked" {
                continue;
            }
            let mut bytes = fs::read(dir.join(folder).join(&name)).unwrap();
            if folder == "log" && name.ends_with(".seg") {
                let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                bytes.truncate(end.next_multiple_of(8));
            }
            files.insert(format!("{folder}/{name}"), bytes);
        }
    }
    files
}

fn write(dir: &Path, files: &HashMap<String, Vec<u8>>) {
    let _ = fs::remove_file(dir.join("log/checked"));
    files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
}

#[test]
fn whatever_is_changed_in_the_tiles_the_heads_or_the_log_is_found_with_its_position() {
    let rounds = if std::env::var_os("KEYLEDGER_SOAK").is_some() { 100_000 } else { 3_000 };
    let (dir, older) = ledger();
    let dir = dir.path();
    let whole = files(dir);
    write(dir, &whole);
    let events = check(dir).unwrap().events;
    assert_eq!(check(dir).unwrap().tiles_size, Some(events));
    let mut names: Vec<_> = whole.keys().collect();
    names.sort();
    assert!(names.len() >= 6, "{names:?}");
    let mut random = Random(3);
    let (mut tried, mut in_leaves) = (0, 0);
    while tried < rounds {
        // Half of them where this file is about.
        let name = names[random.below(names.len())];
        let name = if random.below(2) == 0 { ["tiles/0", "tiles/1"][random.below(2)] } else { name };
        let old = &whole[name];
        let mut bytes = old.clone();
        let (at, other) = (random.below(bytes.len()), random.below(bytes.len()));
        let len_max = if random.below(3) == 0 { 32 } else { (bytes.len() - at.max(other)).min(900) };
        let len = 1 + random.below(len_max);
        let end = (at + len).min(bytes.len());
        let kind = random.below(6);
        let what = match kind {
            0 => {
                bytes[at] ^= 1 << random.below(8);
                "altered"
            }
            1 => {
                bytes.drain(at..end);
                "dropped"
            }
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(other..other, piece);
                "duplicated"
            }
            3 => {
                let len = (bytes.len() - at.max(other)).min(len);
                for offset in 0..len {
                    bytes.swap(at + offset, other + offset);
                }
                "swapped"
            }
            4 => {
                bytes.truncate(at);
                "truncated"
            }
            _ => {
                // An older log or older tiles; an older head beside the newest is what there always is.
                let Some(older) = older.get(name).filter(|_| !name.contains("head")) else { continue };
                bytes.clone_from(older);
                "rolled back"
            }
        };
        // Zeros at the end of a log or a slot say nothing.
        let meaning = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let same = bytes == *old || (name.starts_with("log/0") && bytes[..meaning(&bytes)] == old[..meaning(old)]);
        if same {
            continue;
        }
        tried += 1;
        fs::write(dir.join(name), &bytes).unwrap();
        let broken = match check(dir) {
            Err(broken) => broken,
            Ok(report) => panic!("{name}, {what} at {at}..{end} or {other}: {report:?}"),
        };
        assert!(broken.to_string().contains("position "), "{broken}");
        assert!(broken.position.0 <= events, "{name}, {what}: {broken}");
        if name == "tiles/0" {
            let first = bytes.iter().zip(old).position(|(new, old)| new != old).unwrap_or(bytes.len().min(old.len()));
            let is_longer = bytes.len() / 32 > old.len() / 32;
            assert_eq!(broken.file, Some(dir.join(name)), "{what}: {broken}");
            let shorter = bytes.len() < old.len();
            if !is_longer && !shorter && bytes.len() == old.len() {
                assert_eq!(broken.position.0, first as u64 / 32, "{what}: {broken}");
                in_leaves += 1;
            }
        }
        if name == "tiles/1" && bytes.len() == old.len() {
            let first = bytes.iter().zip(old).position(|(new, old)| new != old).unwrap() as u64 / 32;
            assert_eq!((broken.file.clone(), broken.position.0), (Some(dir.join(name)), first * 256), "{what}");
        }
        fs::write(dir.join(name), old).unwrap();
    }
    assert!(in_leaves > 200, "{in_leaves}");
    check(dir).unwrap();
}

#[test]
fn files_of_tiles_that_are_missing_exchanged_or_too_many_are_found() {
    let (dir, older) = ledger();
    let dir = dir.path();
    let whole = files(dir);
    let (zero, one) = (whole["tiles/0"].clone(), whole["tiles/1"].clone());
    type Changes<'a> = &'a [(&'a str, Option<&'a [u8]>)];
    let cases: [(&str, Changes<'_>); 7] = [
        ("no leaves", &[("tiles/0", None)]),
        ("no level 1", &[("tiles/1", None)]),
        ("exchanged", &[("tiles/0", Some(&one)), ("tiles/1", Some(&zero))]),
        ("a level too many", &[("tiles/2", Some(&one[..32]))]),
        ("a level far away", &[("tiles/6", Some(&one[..32]))]),
        ("all rolled back", &[("tiles/0", Some(&older["tiles/0"])), ("tiles/1", Some(&older["tiles/1"]))]),
        ("all empty", &[("tiles/0", Some(&[])), ("tiles/1", Some(&[]))]),
    ];
    for (what, changes) in cases {
        for (name, bytes) in changes {
            match bytes {
                Some(bytes) => fs::write(dir.join(name), bytes).unwrap(),
                None => fs::remove_file(dir.join(name)).unwrap(),
            }
        }
        let broken = check(dir).expect_err(what);
        assert!(broken.file.as_ref().is_some_and(|file| file.starts_with(dir.join("tiles"))), "{what}: {broken}");
        for name in ["tiles/2", "tiles/6"] {
            let _ = fs::remove_file(dir.join(name));
        }
        write(dir, &whole);
    }
    // Who makes tiles says so, and none are no damage.
    fs::write(dir.join("tiles/unfinished"), []).unwrap();
    fs::write(dir.join("tiles/0"), &zero[32..]).unwrap();
    assert_eq!(check(dir).unwrap().tiles_size, None);
    fs::remove_dir_all(dir.join("tiles")).unwrap();
    assert_eq!(check(dir).unwrap().tiles_size, None);
}

#[test]
fn a_ledger_that_was_rolled_back_whole_is_found_by_a_head_that_somebody_kept() {
    let (dir, older) = ledger();
    let dir = dir.path();
    let note = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let kept = note(&fs::read(dir.join("log/head.0")).unwrap());
    for name in files(dir).keys() {
        fs::remove_file(dir.join(name)).unwrap();
    }
    write(dir, &older);
    check(dir).unwrap();
    let broken = verify(dir, &Options { known_heads: vec![kept], ..Options::default() }).unwrap_err();
    assert_eq!(broken.position.0, check(dir).unwrap().events, "{broken}");
}
