//! The tree's tiles: what lies in them, what becomes of them when they are lost, cut, changed or can't be written, and
//! that nobody is ever shown a wrong one.

use super::{
    sim::{Fault, SimDisk},
    *,
};
use crate::{
    store::file::tiles::{TILES_DIR, UNFINISHED},
    tree::{
        Frontier, NodeHash, leaf_data, leaf_hash, node_hash,
        proof::{self, Nodes},
        tile::{TileKind, TilePath},
    },
};

const PATIENCE: Duration = Duration::from_secs(30);

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(TILES_DIR).join(name)
}

/// The leaves' data, from the log alone.
fn leaves(log: &dyn ReadLog) -> Vec<[u8; 48]> {
    let commits = read_whole(log);
    let records = commits.iter().flat_map(|commit| commit.records().map(Result::unwrap).collect::<Vec<_>>());
    records.map(|placed| leaf_data(placed.position, placed.record.recorded_at, &placed.hash)).collect()
}

/// What must lie in each level's file, computed as the document says it, level by level.
fn levels(leaves: &[[u8; 48]]) -> Vec<Vec<NodeHash>> {
    let mut levels: Vec<Vec<NodeHash>> = vec![leaves.iter().map(|data| leaf_hash(data)).collect()];
    while let Some(last) = levels.last().filter(|last| last.len() >= 256) {
        let mut nodes = last.chunks_exact(256).map(<[_]>::to_vec).collect::<Vec<_>>();
        for _ in 0..8 {
            nodes.iter_mut().for_each(|n| *n = n.chunks(2).map(|pair| node_hash(&pair[0], &pair[1])).collect());
        }
        levels.push(nodes.concat());
    }
    levels.retain(|level| !level.is_empty());
    levels
}

/// Nothing is missing in the tiles of a log at rest, nothing is wrong, nothing is too much.
pub fn assert_whole(disk: &SimDisk, what: &str) {
    let log = FileLog::open_on(disk, Path::new(DIR), None).unwrap();
    let levels = levels(&leaves(&log));
    let names: Vec<_> = disk.names().into_iter().filter(|name| name.parent() == Some(&path(""))).collect();
    let expected: Vec<_> = (0..levels.len()).map(|level| path(&level.to_string())).collect();
    let expected: Vec<_> = expected.iter().map(|name| name.components().collect::<PathBuf>()).collect();
    assert_eq!(names, expected, "{what}");
    for (level, hashes) in levels.iter().enumerate() {
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        assert!(disk.bytes(&path(&level.to_string())) == bytes, "{what}: level {level}");
    }
}

/// A closed log of at least so many events, in commits of twenty.
fn grown(events: u64) -> SimDisk {
    let disk = SimDisk::default();
    let (store, _) = open_large(&disk).unwrap();
    let mut author = Author::new(1);
    while store.head().position.0 < events {
        store.append(author.propose_sample(20)).unwrap();
    }
    disk
}

fn open_large(disk: &SimDisk) -> Result<(FileStore, Recovery), ReadError> {
    let options = Options { segment_bytes: 1 << 16, ..small() };
    FileStore::open_on(Arc::new(disk.clone()), Path::new(DIR), signer(), &options)
}

/// Everything that is published is what the log gives: all tiles of the last size, some proofs.
fn assert_shown(store: &FileStore, what: &str) {
    let (tree, size) = (store.tree(), store.head().position.0);
    let published = tree.wait_for(size, PATIENCE).unwrap_or_else(|| panic!("{what}: not published"));
    assert_eq!(published.head.size, size, "{what}");
    assert_eq!(signer().verifier().verify(&published.note), Ok(published.head), "{what}");
    let leaves = leaves(store);
    let levels = levels(&leaves);
    for (level, hashes) in levels.iter().enumerate() {
        for (index, tile) in hashes.chunks(256).enumerate() {
            for width in [tile.len(), 1 + tile.len() / 2] {
                let kind = TileKind::Hashes { level: level as u8 };
                let asked = TilePath { kind, index: index as u64, width: width as u16 };
                let bytes: Vec<u8> = tile[..width].iter().flat_map(|hash| hash.0).collect();
                assert!(tree.tile(&asked).unwrap() == Some(bytes), "{what}: {asked}");
            }
        }
    }
    for (index, bundle) in leaves.chunks(256).enumerate() {
        let asked = TilePath { kind: TileKind::Entries, index: index as u64, width: bundle.len() as u16 };
        let bytes: Vec<u8> = bundle.iter().flat_map(|data| [&[0, 48], data.as_slice()].concat()).collect();
        assert!(tree.tile(&asked).unwrap() == Some(bytes), "{what}: {asked}");
    }
    for position in (0..size).step_by(1 + size as usize / 23) {
        let proof = tree.inclusion(position, size).unwrap();
        let (leaf, root) = (levels[0][position as usize], published.head.root);
        assert!(proof::verify_inclusion(&leaf, position, size, &root, &proof), "{what}: {position}");
        let old = tree.signed_at(position + 1).unwrap().head;
        let proof = tree.consistency(old.size, size).unwrap();
        assert!(proof::verify_consistency(old.size, &old.root, size, &root, &proof), "{what}: from {}", old.size);
    }
}

#[test]
fn the_tiles_are_the_trees_and_nothing_beyond_the_published_size_is_shown() {
    let disk = grown(700);
    assert_whole(&disk, "closed");
    let (store, recovery) = open_large(&disk).unwrap();
    assert_eq!(recovery.tiles, TilesFound::Whole);
    assert_shown(&store, "opened");
    let tree = store.tree();
    let size = tree.head().unwrap().head.size;
    for (name, is_there) in [
        ("0/000", true),
        ("0/002.p/188", true),
        ("0/002.p/189", false),
        ("0/002", false),
        ("0/003.p/1", false),
        ("1/000.p/2", true),
        ("1/000.p/3", false),
        ("2/000.p/1", false),
        ("63/000.p/1", false),
        ("entries/002.p/188", true),
        ("entries/002.p/189", false),
    ] {
        assert_eq!(tree.tile(&name.parse().unwrap()).unwrap().is_some(), is_there, "{name} of {size}");
    }
    assert!(matches!(tree.inclusion(size, size), Err(TreeError::Outside { .. })));
    assert!(matches!(tree.inclusion(0, size + 1), Err(TreeError::Beyond { .. })));
    assert!(matches!(tree.consistency(2, 1), Err(TreeError::Outside { .. })));
    assert!(matches!(tree.consistency(0, size + 1), Err(TreeError::Beyond { .. })));
    assert_eq!(tree.consistency(0, size).unwrap(), []);
    assert!(matches!(tree.node(u32::MAX, u64::MAX), Err(TreeError::Beyond { .. })));
    assert!(matches!(tree.node(63, u64::MAX), Err(TreeError::Beyond { .. })));
    assert_eq!(tree.take_mended(), []);
}

#[test]
fn whoever_waits_for_a_head_gets_one_at_once() {
    let (store, _) = open_sim(&SimDisk::default()).unwrap();
    let (tree, mut author) = (store.tree(), Author::new(1));
    assert_eq!(tree.head().unwrap().head.size, 0);
    for size in 1..=5 {
        store.append(author.propose_sample(1)).unwrap();
        // The interval is an hour.
        let published = tree.wait_for(size, PATIENCE).unwrap();
        assert_eq!(published.head.size, size);
        assert_eq!(signer().verifier().verify(&published.note), Ok(published.head));
        assert_eq!(tree.signed_at(size).unwrap(), published);
    }
    assert_eq!(tree.wait_for(6, Duration::from_millis(20)), None);
}

#[test]
fn a_head_that_does_not_begin_with_the_last_one_is_not_proven() {
    let disk = grown(300);
    let (store, _) = open_large(&disk).unwrap();
    let (tree, size) = (store.tree(), store.head().position.0);
    let (mut frontier, leaves) = (Frontier::new(), leaves(&store));
    leaves.iter().for_each(|data| frontier.push(leaf_hash(data)));
    let new = TreeHead { size, root: frontier.root() };
    let old = tree.signed_at(100).unwrap().head;
    assert!(tree.proves(&old, &new, &frontier).unwrap());
    assert!(!tree.proves(&TreeHead { root: new.root, ..old }, &new, &frontier).unwrap());
    // A tree in memory that the log does not give: tiles are made from the log again, and still say no.
    let mut other = Frontier::new();
    leaves.iter().for_each(|data| other.push(leaf_hash(&data[1..])));
    let new = TreeHead { size, root: other.root() };
    assert!(matches!(tree.proves(&old, &new, &other), Err(TreeError::Contradiction { .. })));
}

#[test]
fn tiles_that_were_lost_or_changed_while_nobody_ran_are_made_again() {
    let disk = grown(1100);
    let other = {
        let disk = SimDisk::default();
        let (store, _) = open_large(&disk).unwrap();
        let mut author = Author::new(2);
        while store.head().position.0 < 1100 {
            store.append(author.propose_sample(20)).unwrap();
        }
        drop(store);
        disk
    };
    let (zero, one) = (disk.bytes(&path("0")), disk.bytes(&path("1")));
    type Change = Box<dyn Fn(&SimDisk)>;
    let set = |name: &'static str, bytes: Vec<u8>| -> Change {
        Box::new(move |disk| {
            drop(disk.create(&path(name)));
            disk.sync_dir(&path("")).unwrap();
            disk.set_bytes(&path(name), bytes.clone());
        })
    };
    let forget = |names: &'static [&'static str]| -> Change {
        Box::new(move |disk| names.iter().for_each(|name| disk.forget(&path(name))))
    };
    let cases: Vec<(&str, TilesFound, Change)> = vec![
        ("untouched", TilesFound::Whole, forget(&[])),
        ("all gone", TilesFound::Missing, forget(&["0", "1"])),
        ("no leaves", TilesFound::Missing, forget(&["0"])),
        ("no level 1", TilesFound::Useless, forget(&["1"])),
        ("empty", TilesFound::Useless, set("0", Vec::new())),
        ("a leaf short", TilesFound::Useless, set("0", zero[..zero.len() - 32].to_vec())),
        ("a byte short", TilesFound::Useless, set("1", one[..one.len() - 1].to_vec())),
        ("a byte long", TilesFound::Long, set("1", [&one, &b"x"[..]].concat())),
        ("a tile long", TilesFound::Long, set("0", [zero.clone(), vec![7; 8192]].concat())),
        ("a level too many", TilesFound::Long, set("2", vec![7; 32])),
        ("a level far away", TilesFound::Long, set("7", vec![7; 32])),
        ("leaves of another tree", TilesFound::Useless, set("0", other.bytes(&path("0")))),
        ("level 1 of another tree", TilesFound::Useless, set("1", other.bytes(&path("1")))),
        ("unfinished", TilesFound::Useless, set(UNFINISHED, Vec::new())),
    ];
    for (what, found, change) in cases {
        let disk = disk.image();
        change(&disk);
        let (store, recovery) = open_large(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(recovery.tiles, found, "{what}");
        assert_shown(&store, what);
        let mut author = Author::new(3);
        store.append(author.propose_sample(300)).unwrap();
        assert_shown(&store, what);
        drop(store);
        assert_whole(&disk, what);
        assert_eq!(open_large(&disk).unwrap().1.tiles, TilesFound::Whole, "{what}");
    }
}

#[test]
fn rot_is_never_shown_whenever_it_comes() {
    let disk = grown(600);
    let mut dice = Dice(7);
    let mut mended = 0;
    for round in 0..120 {
        let disk = disk.image();
        let rot = |dice: &mut Dice| {
            let name = path(["0", "1"][dice.roll(2) as usize]);
            let mut bytes = disk.bytes(&name);
            let bit = dice.roll(bytes.len() as u64 * 8) as usize;
            match dice.roll(4) {
                0 => bytes.truncate(bit / 8),
                1 => bytes[bit / 8 / 32 * 32..].fill(0),
                _ => bytes[bit / 8] ^= 1 << (bit % 8),
            }
            disk.set_bytes(&name, bytes);
        };
        let what = format!("round {round}");
        let running = dice.roll(2) == 0;
        if !running {
            rot(&mut dice);
        }
        let (store, _) = open_large(&disk).unwrap();
        if running {
            rot(&mut dice);
            if dice.roll(3) == 0 {
                rot(&mut dice);
            }
        }
        if dice.roll(2) == 0 {
            store.append(Author::new(5).propose_sample(1 + dice.roll(300))).unwrap();
        }
        assert_shown(&store, &what);
        assert_eq!(store.fatal(), None, "{what}");
        mended += store.tree().take_mended().len();
        assert_shown(&store, &what);
        assert_eq!(store.tree().take_mended(), [], "{what}: mended once");
        drop(store);
        assert_whole(&disk, &what);
    }
    assert!(mended > 60, "{mended}");
}

#[test]
fn while_the_disk_is_full_heads_are_signed_and_tiles_follow_once_there_is_room() {
    let disk = grown(300);
    let (store, _) = open_large(&disk).unwrap();
    let (tree, before) = (store.tree(), store.head().position.0);
    disk.set_fault(Some(Fault::FullFrom(0)));
    let mut author = Author::new(9);
    for _ in 0..5 {
        let proposal = Proposal { essential: true, ..author.propose_sample(2) };
        store.append(proposal).unwrap();
        tree.wait_for(u64::MAX, Duration::from_millis(30));
    }
    assert_eq!(store.fatal(), None);
    let deadline = Instant::now() + PATIENCE;
    while signer().verifier().verify(&store.tree_head()).unwrap().size < before + 10 {
        assert!(Instant::now() < deadline, "no event stays without an anchor");
        tree.wait_for(u64::MAX, Duration::from_millis(30));
    }
    assert_eq!(tree.head().unwrap().head.size, before, "nothing is published that no tile proves");
    // The power goes, with the disk still full: nothing is lost, and what the tiles hold is made good.
    let lost = disk.after_power_loss(|| false);
    let (after, recovery) = open_large(&lost).unwrap();
    assert_eq!(recovery.signed.unwrap().size, before + 10);
    assert_eq!(recovery.tiles, TilesFound::Useless);
    assert_shown(&after, "after the power loss");
    drop(after);
    assert_whole(&lost, "after the power loss");

    disk.set_fault(None);
    drop(store);
    let (store, _) = open_large(&disk).unwrap();
    assert_shown(&store, "with room again");
    drop(store);
    assert_whole(&disk, "with room again");
}

#[test]
fn a_large_log_gets_the_same_tiles_from_all_cores() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(TILES_DIR);
    let open = || FileStore::open(root.path(), signer(), &Options { segment_bytes: 8 << 20, ..Options::default() });
    let (store, _) = open().unwrap();
    let mut author = Author::new(1);
    while store.head().position.0 < 200_000 {
        store.append(author.propose_sample(3_000)).unwrap();
    }
    drop(store);
    let written: Vec<_> = (0..3).map(|level: u8| std::fs::read(dir.join(level.to_string())).unwrap()).collect();
    std::fs::remove_dir_all(&dir).unwrap();
    let (store, recovery) = open().unwrap();
    assert_eq!(recovery.tiles, TilesFound::Missing);
    let size = store.head().position.0;
    let published = store.tree().wait_for(size, PATIENCE).unwrap();
    assert_eq!(published.head.size, size);
    drop(store);
    for (level, bytes) in written.iter().enumerate() {
        assert!(*bytes == std::fs::read(dir.join(level.to_string())).unwrap(), "level {level}");
    }
    assert_eq!(written[2].len(), 3 * 32);
    assert!(!dir.join(UNFINISHED).exists() && !dir.join("3").exists());
}

#[test]
fn whenever_the_power_goes_no_published_head_is_contradicted_and_the_tiles_are_whole_again() {
    let seeds = if std::env::var_os("KEYLEDGER_SOAK").is_some() { 20_000 } else { 400 };
    let options = Options { segment_bytes: 1 << 16, head_interval: Duration::ZERO, ..small() };
    let open = |disk: &SimDisk| FileStore::open_on(Arc::new(disk.clone()), Path::new(DIR), signer(), &options);
    let mut found = std::collections::HashMap::new();
    for seed in 0..seeds {
        let mut dice = Dice(seed);
        let disk = SimDisk::default();
        let mut author = Author::new(1);
        let mut shown = Vec::new();
        let mut write = |store: &FileStore, commits: u64, dice: &mut Dice| {
            for _ in 0..commits {
                if store.append(author.propose_sample(1 + dice.roll(90))).is_err() {
                    return;
                }
                if dice.roll(2) == 0 {
                    store.tree().wait_for(store.head().position.0, Duration::from_millis(1));
                }
                shown.extend(store.tree().head());
            }
        };
        let (store, _) = open(&disk).unwrap();
        write(&store, dice.roll(8), &mut dice);
        let remade = dice.roll(4) == 0;
        if remade {
            // They are being made again when it happens.
            drop(store);
            disk.forget(&path("0"));
            disk.set_fault(Some(Fault::PowerOff(dice.roll(30))));
            let Ok((store, _)) = open(&disk) else { continue };
            write(&store, 6, &mut dice);
        } else {
            disk.set_fault(Some(Fault::PowerOff(dice.roll(60))));
            write(&store, 12, &mut dice);
        }
        let mut keep = Dice(!seed);
        let keeping = keep.roll(5);
        let disk = disk.after_power_loss(|| keep.roll(4) < keeping);
        let (store, recovery) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        *found.entry(format!("{:?}", recovery.tiles).split(' ').next().unwrap_or_default().to_owned()).or_insert(0) +=
            1;
        // Whatever was signed in ordinary times had its tiles on the disk before.
        let holds = remade || matches!(recovery.tiles, TilesFound::Whole | TilesFound::Short { .. } | TilesFound::Long);
        assert!(holds || recovery.signed.is_none_or(|head| head.size == 0), "seed {seed}: {recovery:?}");
        let (tree, size) = (store.tree(), store.head().position.0);
        let newest = tree.wait_for(size, PATIENCE).unwrap_or_else(|| panic!("seed {seed}: not published"));
        for older in shown {
            let old = older.head;
            let proof = tree.consistency(old.size, size).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let holds = proof::verify_consistency(old.size, &old.root, size, &newest.head.root, &proof);
            assert!(holds, "seed {seed}: from {}", old.size);
        }
        drop(store);
        assert_whole(&disk, &format!("seed {seed}"));
    }
    for kind in ["Whole", "Short", "Useless", "Missing"] {
        assert!(found.contains_key(kind), "{found:?}");
    }
}
