//! Bundles: what an honest one shows, and that nothing in one can be changed, dropped, added, reordered or hidden.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use keyledger_events::{
    Commit, CommitBody, CommitNumber, Position, Revision,
    head::{HeadSigner, TreeHead},
    record::StreamHead,
    store::ReadLog,
    tree::NodeHash,
};
use keyledger_replay::{
    Point,
    as_of::as_of,
    bundle::{Bound, BundleError, BundleLog, Options, Report, Selection, gather, verify},
    diff::diff,
    explain::{Name, explain},
    quiet,
};
use proptest::prelude::*;
use serde_json::json;
use support::{
    Random,
    bundle::{Item, Parts, Scene, file},
    directory::signer,
};

fn pinned() -> Options<'static> {
    Options { key: Some(signer().verifier()), ..Options::default() }
}

fn verified(dir: &Path, bytes: &[u8], options: &Options<'_>) -> Result<Report, BundleError> {
    verify(&file(dir, bytes), options)
}

/// What is said against it, in one line.
fn refused(dir: &Path, bytes: &[u8], options: &Options<'_>) -> String {
    let error = verified(dir, bytes, options).map(|_| "it was believed").unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn an_honest_bundle_holds_and_shows_nobody_else() {
    let (scene, dir) = (Scene::new(5, 600), tempfile::tempdir().unwrap());
    let mut sealed = 0;
    for team in scene.town.founded.clone() {
        let bytes = scene.export(team, &Selection::default());
        let report = verified(dir.path(), &bytes, &Options { team: Some(team), ..pinned() }).unwrap();
        assert!(report.whole && report.key_pinned);
        assert_eq!((report.from, report.to, report.last), (Revision(0), scene.town.heads[&team].revision, report.to));
        assert_eq!((report.events, report.tree_size), (scene.events_of(team), scene.head().size));
        assert_eq!(report.root, scene.head().root.to_string());
        // Who was founded behind the seal is not in it.
        let Some(seal) = report.seal else { continue };
        sealed += 1;
        assert!(seal.compared && seal.position == scene.seal() && seal.through == seal.position, "{seal:?}");
        let state = &scene.town.teams[&team];
        assert_eq!(report.live_credentials, Some(state.credentials.values().filter(|key| !key.ended).count() as u64));
        let others =
            scene.town.founded.iter().filter(|other| **other != team && !other.as_bytes().iter().all(|b| *b == 0));
        for other in others {
            assert!(!bytes.windows(16).any(|window| window == other.as_bytes()), "{other} stands in {team}'s bundle");
        }
    }
    assert!(sealed > 3, "{sealed} were sealed");
}

#[test]
fn a_part_says_that_it_is_one() {
    let (scene, dir) = (Scene::new(5, 600), tempfile::tempdir().unwrap());
    let team = scene.team();
    let last = scene.town.heads[&team].revision;
    let (from, to) = (Revision(last.0 / 3), Revision(last.0 / 2));
    let part = |from, to| scene.export(team, &Selection { from, to, since: vec![] });
    let revision = |revision| Some(Bound::Revision(revision));
    for (name, bytes, from, to) in [
        ("middle", part(revision(from), revision(to)), from, to),
        ("tail", part(revision(from), None), from, last),
        ("beginning", part(None, revision(to)), Revision(0), to),
    ] {
        let report = verified(dir.path(), &bytes, &pinned()).expect(name);
        assert!(!report.whole && report.from <= from && report.to >= to && report.last == last, "{name}: {report:?}");
        assert!(from.0 - report.from.0 < 5 && report.to.0 - to.0 < 5, "{name}: whole commits, no more");
        assert_eq!(report.live_credentials.is_some(), report.from == Revision(0), "{name}");
    }
    // By time, both ends count.
    let own = |commit: &&Commit| commit.body.view().first().unwrap().team == team;
    let own: Vec<_> = scene.commits.iter().filter(own).map(|commit| commit.body.view().first().unwrap()).collect();
    let (one, other) = (&own[own.len() / 4], &own[own.len() / 2]);
    let instant = |at| Some(Bound::Instant(at));
    let report = verified(dir.path(), &part(instant(one.recorded_at), instant(other.recorded_at)), &pinned()).unwrap();
    assert!(report.from <= one.revision && report.to >= other.revision, "{report:?}");
    let after = Selection { from: instant(scene.town.now.plus_days(1)), ..Selection::default() };
    let gathered = gather(&scene.log, scene.head().size, team, &quiet).unwrap();
    assert!(gathered.end.is_some() && std::panic::catch_unwind(|| scene.export(team, &after)).is_err());
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let (scene, dir) = (Scene::new(7, 120), tempfile::tempdir().unwrap());
    let bytes = scene.export(scene.team(), &Selection::default());
    verified(dir.path(), &bytes, &pinned()).unwrap();
    let mut random = Random(11);
    for _ in 0..3000 {
        let (mut flipped, bit) = (bytes.clone(), random.below(bytes.len() * 8));
        flipped[bit / 8] ^= 1 << (bit % 8);
        refused(dir.path(), &flipped, &pinned());
    }
    for _ in 0..1000 {
        let cut = random.below(bytes.len());
        let said = refused(dir.path(), &bytes[..cut], &pinned());
        assert!(said.contains("cut off") || said.contains("not a keyledger bundle"), "{cut}: {said}");
    }
    refused(dir.path(), &[bytes.as_slice(), b"\0"].concat(), &pinned());
}

/// Changes that keep the file's own hash right: whoever makes them knows the format.
#[test]
fn thousands_of_changes_by_somebody_who_knows_the_format_are_found() {
    let (scene, dir) = (Scene::new(9, 150), tempfile::tempdir().unwrap());
    let (team, mut random) = (scene.team(), Random(13));
    let honest = Parts::of(&scene.export(team, &Selection::default()));
    assert!(Parts::of(&honest.bytes()) == honest);
    verified(dir.path(), &honest.bytes(), &pinned()).unwrap();
    let mut named = 0;
    for round in 0..4000 {
        let mut parts = honest.clone();
        let (at, other) = (random.below(parts.items.len()), random.below(parts.items.len()));
        let shown = parts.commits();
        let commit = shown[random.below(shown.len())];
        let what = random.below(10);
        match what {
            0 => drop(parts.items.remove(at)),
            1 => parts.items.swap(at, other),
            2 => parts.items.insert(other, honest.items[at].clone()),
            3 => parts.items[at] = honest.items[other].clone(),
            4 => parts.items.truncate(at),
            5 => match &mut parts.items[at] {
                Item::Node { level, hash } if round % 3 == 0 => {
                    (*level, hash[0]) = (*level ^ 1 << random.below(8), hash[0])
                }
                Item::Node { hash, .. } => hash[random.below(32)] ^= 1 << random.below(8),
                Item::Commit { first_position, .. } => *first_position ^= 1 << random.below(64),
            },
            6 | 7 => {
                let Item::Commit { body, .. } = &mut parts.items[commit] else { panic!("a commit") };
                let bit = random.below(body.len() * 8);
                body[bit / 8] ^= 1 << (bit % 8);
            }
            // A commit hidden behind its own leaves: the tree still fits.
            8 => parts.hide(commit),
            _ => {
                // Two nodes become their parent: what is proven stays so, and nothing is shown less.
                let header = parts.header.as_object_mut().unwrap();
                let names: Vec<_> = header
                    .keys()
                    .filter(|name| !matches!(name.as_str(), "exported_at" | "last_used" | "key_rotations" | "seal"))
                    .cloned()
                    .collect();
                let name = &names[random.below(names.len())];
                let changed = match &header[name] {
                    serde_json::Value::String(text) => {
                        let mut bytes = text.clone().into_bytes();
                        let place = random.below(bytes.len());
                        bytes[place] = if bytes[place] == b'1' { b'2' } else { b'1' };
                        json!(String::from_utf8_lossy(&bytes))
                    }
                    number => json!(number.as_u64().unwrap() + 1),
                };
                header[name] = changed;
            }
        }
        if parts == honest {
            continue;
        }
        let said = refused(dir.path(), &parts.bytes(), &pinned());
        named += u64::from(said.contains("position"));
    }
    assert!(named > 2000, "{named} were named by their position");
}

#[test]
fn what_a_seal_says_cannot_be_changed() {
    let (scene, dir) = (Scene::new(9, 150), tempfile::tempdir().unwrap());
    let honest = Parts::of(&scene.export(scene.team(), &Selection::default()));
    for (name, value) in [
        ("position", json!(1)),
        ("position", json!(u64::MAX)),
        ("through", json!(0)),
        ("teams", json!(1)),
        ("root", json!("00".repeat(32))),
        ("revision", json!(0)),
        ("head", json!("11".repeat(32))),
        ("proof", json!("")),
        ("proof", json!("AAAA")),
    ] {
        let mut parts = honest.clone();
        parts.header["seal"][name] = value;
        refused(dir.path(), &parts.bytes(), &pinned());
    }
    // Without a seal nothing is proven by one, and another's commit has no place.
    let mut parts = honest.clone();
    parts.header["seal"] = json!(null);
    assert!(refused(dir.path(), &parts.bytes(), &pinned()).contains("a commit of team"));
    let seal = scene.seal().0;
    let is_seal = |item: &Item| matches!(item, Item::Commit { first_position, .. } if *first_position == seal);
    let at = parts.items.iter().position(is_seal).unwrap();
    parts.hide(at);
    assert_eq!(verified(dir.path(), &parts.bytes(), &pinned()).unwrap().seal, None);
}

/// The ledger itself lies, with its own key: it states an older end, and shows no more.
#[test]
fn a_tail_that_the_ledger_hides_contradicts_its_seal() {
    let (scene, dir) = (Scene::new(21, 400), tempfile::tempdir().unwrap());
    let team = scene.team();
    let gathered = || gather(&scene.log, scene.head().size, team, &quiet).unwrap();
    let sealed = gathered().seal.unwrap();
    // The last commits that the seal knows are hidden.
    let mut cut = gathered();
    let known: Vec<CommitNumber> = cut.numbers.clone();
    let before =
        known.iter().position(|number| scene.log.commit(*number).unwrap().unwrap().first_position >= sealed.through);
    cut.numbers.truncate(before.unwrap_or(known.len()) - 1);
    let end = scene.log.commit(*cut.numbers.last().unwrap()).unwrap().unwrap();
    let last = end.records().last().unwrap().unwrap();
    let head = StreamHead { revision: last.record.revision, hash: last.hash };
    let (bytes, _) = scene.export_as(team, &Selection::default(), cut, head, last.position, &signer());
    let said = refused(dir.path(), &bytes, &pinned());
    assert!(said.contains("a tail is hidden") && said.contains(&format!("position {}", last.position)), "{said}");

    // The statement names another hash than the chain's.
    let (mut head, position) = gathered().end.unwrap();
    head.hash.0[0] ^= 1;
    let (bytes, _) = scene.export_as(team, &Selection::default(), gathered(), head, position, &signer());
    assert!(refused(dir.path(), &bytes, &pinned()).contains("has stated that the stream ends"));

    // Hidden by whoever passes it on: what is left is a part, and says so.
    let mut parts = Parts::of(&scene.export(team, &Selection::default()));
    let shown = parts.commits();
    let hidden = *shown.last().unwrap();
    parts.hide(hidden);
    refused(dir.path(), &parts.bytes(), &pinned());
    let last = scene.log.commit(*known.get(known.len() - 2).unwrap()).unwrap().unwrap();
    parts.header["to"] = json!(last.records().last().unwrap().unwrap().record.revision);
    assert!(!verified(dir.path(), &parts.bytes(), &pinned()).unwrap().whole);
}

#[test]
fn another_key_another_team_and_another_ledger_are_refused() {
    let (scene, dir) = (Scene::new(5, 200), tempfile::tempdir().unwrap());
    let (team, other_team) = (scene.team(), scene.town.founded[0]);
    let bytes = scene.export(team, &Selection::default());
    assert!(refused(dir.path(), &bytes, &Options { team: Some(other_team), ..pinned() }).contains("not of team"));

    // The same history, signed by somebody else under the same name.
    let forger = HeadSigner::new(signer().verifier().origin(), &[8; 32]).unwrap();
    let gathered = gather(&scene.log, scene.head().size, team, &quiet).unwrap();
    let (head, position) = gathered.end.unwrap();
    let (forged, _) = scene.export_as(team, &Selection::default(), gathered, head, position, &forger);
    assert!(refused(dir.path(), &forged, &pinned()).contains("not by the given key"));
    let report = verified(dir.path(), &forged, &Options::default()).unwrap();
    assert!(!report.key_pinned, "without a key to compare, the report must say so");

    // With the pinned key in the header, but not its signatures.
    let mut parts = Parts::of(&forged);
    parts.header["key"] = json!(signer().verifier().to_string());
    assert!(refused(dir.path(), &parts.bytes(), &pinned()).contains("signature does not hold"));

    // Another's statement, another's head, a statement for another tree.
    let later = Scene::new(5, 260);
    let (mine, theirs) = (Parts::of(&bytes), Parts::of(&later.export(team, &Selection::default())));
    let other = Parts::of(&scene.export(other_team, &Selection::default()));
    for (name, from) in [("statement", &theirs), ("tree_head", &theirs), ("statement", &other)] {
        let mut parts = mine.clone();
        parts.header[name] = from.header[name].clone();
        refused(dir.path(), &parts.bytes(), &pinned());
    }
}

#[test]
fn older_tree_heads_are_compared_and_a_fork_is_found() {
    let (scene, dir) = (Scene::new(5, 400), tempfile::tempdir().unwrap());
    let bytes = scene.export(scene.team(), &Selection::default());
    let head_at = |commits: &[Commit]| support::directory::head(commits, &signer());
    let halves = [1, scene.commits.len() / 3, scene.commits.len() / 2, scene.commits.len()];
    let known_heads: Vec<_> = halves.iter().map(|len| head_at(&scene.commits[..*len])).collect();
    let report = verified(dir.path(), &bytes, &Options { known_heads, ..pinned() }).unwrap();
    assert_eq!(report.compared_sizes, halves.map(|len| scene.commits[len - 1].end().0));

    let size = scene.commits[halves[1] - 1].end().0;
    let forked = signer().sign(&TreeHead { size, root: NodeHash([1; 32]) });
    let said = refused(dir.path(), &bytes, &Options { known_heads: vec![forked], ..pinned() });
    assert!(said.contains("changed or forked"), "{said}");
    let newer = signer().sign(&TreeHead { size: scene.head().size + 1, root: NodeHash([1; 32]) });
    let error = verified(dir.path(), &bytes, &Options { known_heads: vec![newer], ..pinned() }).unwrap_err();
    assert!(matches!(error, BundleError::Older { .. }), "{error}");
}

#[test]
fn a_large_log_is_cut_at_the_sizes_it_is_told() {
    let (scene, dir) = (Scene::new(5, 20_000), tempfile::tempdir().unwrap());
    let team = scene.town.founded[2];
    let size = scene.commits[scene.commits.len() / 3].end().0;
    let older = support::directory::head(&scene.commits[..=scene.commits.len() / 3], &signer());
    let options = || Options { known_heads: vec![older.clone()], ..pinned() };
    // A node that spans that size is very likely, as the team is one of twenty.
    let uncut = scene.export(team, &Selection::default());
    assert!(verified(dir.path(), &uncut, &pinned()).unwrap().whole);
    let error = verified(dir.path(), &uncut, &options()).unwrap_err();
    assert!(matches!(error, BundleError::NotComparable(at) if at == size), "{error}");
    let cut = scene.export(team, &Selection { since: vec![size], ..Selection::default() });
    assert_eq!(verified(dir.path(), &cut, &options()).unwrap().compared_sizes, [size]);
    assert!(cut.len() < scene.commits.iter().map(|commit| commit.body.bytes().len()).sum::<usize>() / 4);
}

#[test]
fn questions_are_answered_as_the_whole_log_answers_them() {
    let (scene, dir) = (Scene::new(5, 500), tempfile::tempdir().unwrap());
    let team = scene.team();
    let path = file(dir.path(), &scene.export(team, &Selection::default()));
    let (bundle, report) = BundleLog::open(&path, &pinned()).unwrap();
    assert!(report.whole && bundle.head().position.0 == report.tree_size);
    let middle = scene.commits[scene.commits.len() / 2].body.view().first().unwrap().recorded_at;
    for at in [Point::Instant(middle), Point::Position(Position(250)), Point::Position(Position(499))] {
        let (one, other) =
            (as_of(&bundle, at.into(), Some(team), &quiet), as_of(&scene.log, at.into(), Some(team), &quiet));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!((one.credentials, one.teams), (other.credentials, other.teams), "{at:?}");
    }
    let credential = *scene.town.teams[&team].credentials.keys().min().unwrap();
    let told = |log: &dyn ReadLog| {
        explain(log, &Name::Id(credential), Point::Instant(scene.town.now).into(), &|_| None, &quiet)
            .unwrap()
            .to_string()
    };
    assert_eq!(told(&bundle), told(&scene.log));
    let between = |log: &dyn ReadLog| {
        diff(log, Point::Position(Position(100)), Point::Instant(middle), Some(team), &quiet).unwrap()
    };
    let (one, other) = (between(&bundle), between(&scene.log));
    assert_eq!((one.born, one.died, one.members), (other.born, other.died, other.members));

    let tail = Selection { from: Some(Bound::Revision(Revision(9))), ..Selection::default() };
    let path = file(dir.path(), &scene.export(team, &tail));
    assert!(matches!(BundleLog::open(&path, &pinned()), Err(BundleError::Partial(_))));
}

#[test]
fn what_is_no_bundle_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    for (bytes, why) in [
        (&b""[..], "not a keyledger bundle"),
        (b"KLBUNDL", "not a keyledger bundle"),
        (b"something else, and long enough", "not a keyledger bundle"),
        (b"KLBUNDL1\xff\xff\xff\xff{}", "header"),
        (b"KLBUNDL1\x02\x00\x00\x00{}", "header"),
        (b"KLBUNDL1\x0c\x00\x00\x00{\"format\":2}", "format 2"),
    ] {
        let said = refused(dir.path(), bytes, &pinned());
        assert!(said.contains(why), "{said}");
    }
    assert!(matches!(verify(&dir.path().join("none"), &pinned()), Err(BundleError::Io { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..400), tags in proptest::collection::vec((0u8..4, any::<[u8; 40]>()), 0..8)) {
        let dir = tempfile::tempdir().unwrap();
        let scene = Scene::new(5, 60);
        let mut bytes = scene.export(scene.team(), &Selection::default());
        let len = 12 + u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
        bytes.truncate(len);
        for (tag, more) in tags {
            bytes.push(tag);
            bytes.extend(more);
        }
        bytes.extend(tail);
        prop_assert!(verify(&file(dir.path(), &bytes), &Options::default()).is_err());
        fs::remove_file(dir.path().join("team.bundle")).unwrap();
    }
}

#[test]
fn a_foreign_commit_has_no_place() {
    let (scene, dir) = (Scene::new(5, 300), tempfile::tempdir().unwrap());
    let team = scene.team();
    let mut parts = Parts::of(&scene.export(team, &Selection::default()));
    // In a small log every node is a leaf: another team's commit fits exactly.
    let foreign = |commit: &&Commit| commit.body.view().first().unwrap().team != team && commit.number.0 > 20;
    let commit = scene.commits.iter().find(foreign).unwrap();
    let mut position = 0;
    let at = parts.items.iter().position(|item| {
        position += item.leaves();
        position > commit.first_position.0
    });
    let count = commit.body.view().count() as usize;
    let shown = Item::Commit {
        number: commit.number.0,
        first_position: commit.first_position.0,
        body: commit.body.bytes().to_vec(),
    };
    let at = at.unwrap();
    parts.items.splice(at..at + count, [shown]);
    let said = refused(dir.path(), &parts.bytes(), &pinned());
    assert!(
        said.contains("which this bundle is not of") && said.contains(&format!("position {}", commit.first_position)),
        "{said}"
    );
    assert!(CommitBody::parse(commit.body.bytes().to_vec()).is_ok());
}
