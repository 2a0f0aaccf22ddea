//! The signing key's rotation as an auditor meets it, and every way its certificates can be wrong.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::HashMap, fs, path::Path};

use keyledger_events::{
    Commit, CorrelationId, EventId, OperationId, Position, TeamId, Timestamp,
    head::{HeadSigner, HeadVerifier, TreeHead},
    record::{Actor, StreamHead},
    rotation::Certificate,
    store::{
        Proposal, ReadLog, Store,
        file::{FileStore, Fresh, Options as StoreOptions, rotate_signing_key},
    },
    tree::NodeHash,
};
use keyledger_replay::verify::{Broken, Options, Report, verify};
use support::{Town, directory};
use tempfile::TempDir;

fn signer(number: u8) -> HeadSigner {
    HeadSigner::new("ledger.example/test", &[number; 32]).unwrap()
}

/// A ledger that keys 1, 2 and 3 have signed, by turns.
struct Rotated {
    dir: TempDir,
    certificates: Vec<Certificate>,
    /// A head by each key, of the size it then had.
    heads: Vec<(u64, String)>,
}

impl Rotated {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("keys")).unwrap();
        fs::write(dir.path().join("keys/signing.key"), [1; 32]).unwrap();
        let mut rotated = Self { dir, certificates: Vec::new(), heads: Vec::new() };
        let mut streams = HashMap::new();
        let commits = Town::new(21).history(90);
        for (commits, key) in commits.chunks(30).zip(1..) {
            rotated.write(commits, key, &mut streams);
            if key < 3 {
                rotated.rotate(key + 1);
            }
        }
        rotated
    }

    fn write(&mut self, commits: &[Commit], key: u8, streams: &mut HashMap<TeamId, StreamHead>) {
        let (store, _) = FileStore::open(self.dir.path(), signer(key), &StoreOptions::default()).unwrap();
        for commit in commits {
            let team = commit.body.view().first().unwrap().team;
            let body = commit.body.clone();
            // A rotation has taken the place of what the town would have written there.
            if team == TeamId::SYSTEM && key > 1 {
                continue;
            }
            store.append(Proposal { team, expected: streams.get(&team).copied(), body, essential: false }).unwrap();
            streams.insert(team, store.stream_head(team).unwrap().unwrap());
        }
        let size = store.head().position.0;
        drop(store);
        let note = fs::read_to_string(self.dir.path().join("log/head.0")).unwrap();
        self.heads.push((size, note.trim_end_matches('\0').to_owned()));
    }

    fn rotate(&mut self, to: u8) {
        let fresh = Fresh {
            seed: [to; 32].into(),
            event: EventId::from_bytes([to; 16]),
            salt: [to; 16],
            operation: OperationId::from_bytes([to; 16]),
            correlation: CorrelationId::from_bytes([to; 16]),
            now: Timestamp::default(),
        };
        let certificate = rotate_signing_key(self.dir.path(), &fresh, &StoreOptions::default()).unwrap();
        self.certificates.push(certificate);
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn verify(&self, key: Option<HeadVerifier>, heads: &[&str]) -> Result<Report, Broken> {
        let known_heads = heads.iter().map(|head| (*head).to_owned()).collect();
        verify(self.path(), &Options { key, known_heads, progress: None })
    }
}

#[test]
fn whoever_has_pinned_any_of_the_keys_goes_on_with_it() {
    let ledger = Rotated::new();
    let all: Vec<&str> = ledger.heads.iter().map(|(_, note)| note.as_str()).collect();
    for key in 1..=3u8 {
        let report = ledger.verify(Some(signer(key).verifier()), &all).unwrap();
        assert_eq!((report.key_rotations, report.key_pinned), (u64::from(3 - key), true), "key {key}");
        assert!(!report.key_rotation_unfinished && report.unsigned_events == 0);
        for (size, _) in &ledger.heads {
            assert!(report.signed_sizes.contains(size), "the head of {size} events was compared");
        }
    }
    let report = ledger.verify(None, &all).unwrap();
    assert_eq!((report.key_rotations, report.key_pinned), (2, false));
    for stranger in [signer(9), HeadSigner::new("other.example", &[1; 32]).unwrap()] {
        let broken = ledger.verify(Some(stranger.verifier()), &[]).unwrap_err();
        assert!(broken.what.contains("no certificate leads from the key"), "{broken}");
    }
}

#[test]
fn a_head_by_a_key_that_was_not_in_force_then_counts_as_none() {
    let ledger = Rotated::new();
    let bound = ledger.certificates[0].position().0 + 1;
    let forge = |key, size| signer(key).sign(&TreeHead { size, root: NodeHash([7; 32]) });
    let broken = |note: &str| ledger.verify(Some(signer(1).verifier()), &[note]).unwrap_err();
    assert!(broken(&forge(1, bound + 1)).what.contains("not in force"));
    assert!(broken(&forge(2, bound - 1)).what.contains("not in force"));
    // In its time it counts: then it is the tree that is another.
    assert!(broken(&forge(1, bound)).what.contains("history was changed"));
    assert!(broken(&forge(9, bound)).what.contains("signature does not hold"));
    // Whoever has got hold of an old key can't put a head of their own in place.
    for slot in ["log/head.0", "log/head.1"] {
        fs::write(ledger.path().join(slot), directory::slot(&forge(1, bound + 1))).unwrap();
    }
    assert!(ledger.verify(None, &[]).unwrap_err().what.contains("not in force"));
}

#[test]
fn certificates_that_are_not_the_logs_own_are_found() {
    let ledger = Rotated::new();
    let file = ledger.path().join("ledger.keys");
    let honest = fs::read_to_string(&file).unwrap();
    let [first, second] = [0, 1].map(|number| ledger.certificates[number].note().to_owned());
    assert_eq!(honest, format!("{first}{second}"));
    let end = ledger.heads[2].0;
    let sign = |old, new, position| {
        let at = ledger.certificates[1].at();
        Certificate::sign(&signer(old), &signer(new).verifier(), Position(position), at).note().to_owned()
    };
    let position = |number: usize| ledger.certificates[number].position().0;
    for (what, text, sentence) in [
        ("missing", None, "no certificate leads from the key"),
        ("empty", Some(String::new()), "no certificate leads from the key"),
        ("not a certificate", Some("hello\n".to_owned()), "not a certificate"),
        ("cut", Some(honest[..honest.len() - 9].to_owned()), "not a certificate"),
        ("without the last", Some(first.clone()), "no certificate leads from the key"),
        ("without the first", Some(second.clone()), "no certificate leads from the key"),
        ("swapped", Some(format!("{second}{first}")), "does not follow the one before"),
        ("one twice", Some(format!("{honest}{second}")), "does not follow the one before"),
        ("one more, never recorded", Some(honest.clone() + &sign(3, 4, end)), "no event of the log"),
        ("by another key", Some(first.clone() + &sign(9, 3, position(1))), "does not follow the one before"),
        (
            "of an earlier position",
            Some(first.clone() + &sign(2, 3, position(1) - 1)),
            "another than the log's event",
        ),
        (
            "signed by a stranger",
            Some(forged(&first, &sign(9, 2, position(0))) + &second),
            "not signed by the key",
        ),
    ] {
        match text {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let broken = ledger.verify(Some(signer(1).verifier()), &[]).expect_err(what);
        assert!(broken.what.contains(sentence), "{what}: {broken}");
    }
    // Who goes by the newest key notices, too: the log has what the file lacks.
    let newest = || ledger.verify(Some(signer(3).verifier()), &[]);
    fs::remove_file(&file).unwrap();
    let broken = newest().unwrap_err();
    assert!(broken.what.contains("whose certificate is missing"), "{broken}");
    assert_eq!(broken.position, ledger.certificates[0].position());
    fs::write(&file, &second).unwrap();
    assert!(newest().unwrap_err().what.contains("another than the log's event"));
    fs::write(&file, &honest).unwrap();
    newest().unwrap();
    // A public key that was replaced long ago.
    fs::write(ledger.path().join("ledger.vkey"), signer(1).verifier().to_string()).unwrap();
    assert!(ledger.verify(None, &[]).unwrap_err().what.contains("no certificate leads"));
}

/// A certificate's text under another's signature.
fn forged(text: &str, signature: &str) -> String {
    let (text, _) = text.trim_end().rsplit_once('\n').unwrap();
    format!("{text}\n{}\n", signature.trim_end().rsplit_once('\n').unwrap().1)
}

#[test]
fn a_rotation_can_not_have_been_otherwise_in_the_log() {
    let commits = Town::new(22).history(40);
    let end = commits.last().unwrap().end();
    // Key 7 is the directory's.
    let own = |town: &Town, old, new, position| {
        Certificate::sign(&signer(old), &signer(new).verifier(), position, town.now).event()
    };
    let log = |event: &dyn Fn(&Town) -> (TeamId, Vec<keyledger_events::Event>)| {
        let mut town = Town::new(22);
        let mut commits = town.history(40);
        let (team, events) = event(&town);
        commits.push(town.forge(team, Actor::System, events.into_iter().map(Into::into).collect()));
        let dir = tempfile::tempdir().unwrap();
        directory::write(dir.path(), &commits);
        verify(dir.path(), &Options::default())
    };
    let system = TeamId::SYSTEM;
    let next = Position(end.0 + 1);
    // As a crash leaves it: the event is the last one, and nothing else has been done.
    let report = log(&|town| (system, vec![own(town, 7, 8, end)])).unwrap();
    assert!(report.key_rotation_unfinished && report.key_rotations == 0);
    for (what, sentence, broken) in [
        ("another position", "of position", log(&|town| (system, vec![own(town, 7, 8, Position(3))]))),
        (
            "another time",
            "of position",
            log(&|town| {
                let at = town.now.plus(std::time::Duration::from_micros(1));
                (system, vec![Certificate::sign(&signer(7), &signer(8).verifier(), end, at).event()])
            }),
        ),
        ("a team's stream", "outside the system", log(&|town| (town.founded[1], vec![own(town, 7, 8, end)]))),
        (
            "no certificate",
            "not a certificate",
            log(&|_| {
                let certificate = "x".to_owned();
                let event = keyledger_events::event::SigningKeyRotatedV1 { certificate };
                (system, vec![keyledger_events::Event::SigningKeyRotated(event)])
            }),
        ),
        (
            "two that do not follow",
            "does not follow",
            log(&|town| (system, vec![own(town, 7, 8, end), own(town, 7, 9, next)])),
        ),
        ("by a stranger", "certificate is missing", log(&|town| (system, vec![own(town, 9, 8, end)]))),
        (
            "not the last event",
            "certificate is missing",
            log(&|town| (system, vec![own(town, 7, 8, end), own(town, 8, 9, next)])),
        ),
    ] {
        let broken = broken.expect_err(what);
        assert!(broken.what.contains(sentence), "{what}: {broken}");
    }
}
