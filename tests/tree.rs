//! The tree over HTTP: as C2SP's documents have it, checked by a library that is not ours (Cloudflare's `tlog_tiles` and
//! `signed_note`), whatever happens to the process and to the stored tiles.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use signed_note::{Note, StandardVerifier, VerifierList};
use support::ledger::{Api, Ledger, PATIENCE, said};
use tlog_tiles::{Checkpoint, Error, Hash, Tile, TileHashReader, TileReader};

/// A file of the server's, as bytes; none if there is no such one.
fn fetch(api: &Api, path: &str) -> Option<Vec<u8>> {
    let mut response = api.agent.get(format!("{}{path}", api.url)).call().unwrap();
    (response.status() == 200).then(|| response.body_mut().read_to_vec().unwrap())
}

/// Reads the server's tiles for the library, and can change one on the way.
struct Tiles<'a> {
    api: &'a Api,
    read: RefCell<HashMap<String, Vec<u8>>>,
    /// A tile's path and one of its bits.
    flipped: Option<(&'a str, usize)>,
}

impl<'a> Tiles<'a> {
    fn of(api: &'a Api) -> Self {
        Self { api, read: RefCell::default(), flipped: None }
    }

    fn tile(&self, path: &str) -> Option<Vec<u8>> {
        if let Some(bytes) = self.read.borrow().get(path) {
            return Some(bytes.clone());
        }
        let mut bytes = fetch(self.api, path)?;
        if let Some((_, bit)) = self.flipped.filter(|(flipped, _)| *flipped == path) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        self.read.borrow_mut().insert(path.to_owned(), bytes.clone());
        Some(bytes)
    }
}

impl TileReader for Tiles<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        // The library writes Go's paths, which have the height in front.
        let path = |tile: &Tile| tile.path().replacen("tile/8/", "/tile/", 1);
        tiles.iter().map(|tile| self.tile(&path(tile)).ok_or(Error::InvalidTile)).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// A checkpoint, if the library finds it signed by this key.
fn opened(vkey: &str, note: &[u8]) -> Option<Checkpoint> {
    let note = Note::from_bytes(note).ok()?;
    let verifier = StandardVerifier::new(vkey.trim()).unwrap();
    note.verify(&VerifierList::new(vec![Box::new(verifier)])).ok()?;
    Checkpoint::from_bytes(note.text()).ok().filter(|checkpoint| vkey.starts_with(checkpoint.origin()))
}

/// The published checkpoint, once it is of at least so many events.
fn published(api: &Api, vkey: &str, size: u64) -> Checkpoint {
    let began = Instant::now();
    loop {
        let note = fetch(api, "/checkpoint");
        if let Some(checkpoint) = note.and_then(|note| opened(vkey, &note)).filter(|found| found.size() >= size) {
            return checkpoint;
        }
        assert!(began.elapsed() < PATIENCE, "no checkpoint of {size} events");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All entries of a tree, each proven to be in it.
fn entries(tiles: &Tiles<'_>, head: &Checkpoint) -> Result<Vec<Vec<u8>>, Error> {
    let hashes = TileHashReader::new(head.size(), *head.hash(), tiles);
    let mut entries = Vec::new();
    while (entries.len() as u64) < head.size() {
        let first = entries.len() as u64;
        let width = (head.size() - first).min(256) as u32;
        let path = Tile::new(8, 0, first / 256, width, true).path().replacen("tile/8/data/", "/tile/entries/", 1);
        let bundle = tiles.tile(&path).ok_or(Error::InvalidTile)?;
        let mut rest = bundle.as_slice();
        while let Some((len, behind)) = rest.split_first_chunk() {
            let (entry, behind) = behind.split_at(u16::from_be_bytes(*len).into());
            let (index, hash) = (entries.len() as u64, tlog_tiles::record_hash(entry));
            let proof = tlog_tiles::prove_record(head.size(), index, &hashes)?;
            tlog_tiles::check_record(&proof, head.size(), *head.hash(), index, hash)?;
            entries.push(entry.to_vec());
            rest = behind;
        }
        assert_eq!(entries.len() as u64, first + u64::from(width));
    }
    Ok(entries)
}

fn assert_grown_from(api: &Api, old: &Checkpoint, new: &Checkpoint) {
    let tiles = Tiles::of(api);
    let hashes = TileHashReader::new(new.size(), *new.hash(), &tiles);
    let proof = tlog_tiles::prove_tree(new.size(), old.size(), &hashes).unwrap();
    tlog_tiles::check_tree(&proof, new.size(), *new.hash(), old.size(), *old.hash()).unwrap();
    // And as the server says it.
    let path = format!("/api/v1/proof/consistency?old={}&new={}", old.size(), new.size());
    let text = api.get(&path).expect(200).body;
    let (proof, _) = text.split_once("\n\n").unwrap();
    let (first, hashes) = proof.split_once('\n').unwrap_or((proof, ""));
    assert_eq!(first, format!("old {}", old.size()));
    let proof: Vec<Hash> = hashes.lines().map(|line| Hash::parse_hash(line).unwrap()).collect();
    tlog_tiles::check_tree(&proof, new.size(), *new.hash(), old.size(), *old.hash()).unwrap();
}

fn issue(owner: &Api, count: usize) {
    for number in 0..count {
        owner.issue("integration", &format!("key {number}"), None);
    }
}

#[test]
fn somebody_elses_library_proves_everything_across_crashes_and_rot_and_finds_every_flipped_bit() {
    let mut ledger = Ledger::started();
    let owner = ledger.owner();
    let vkey = fs::read_to_string(ledger.dir().join("ledger.vkey")).unwrap();
    let api = ledger.api();
    let first = published(&api, &vkey, 1);
    issue(&owner, 300);
    let second = published(&api, &vkey, first.size() + 300);
    assert_grown_from(&api, &first, &second);
    let before = entries(&Tiles::of(&api), &second).unwrap();
    for (index, entry) in before.iter().enumerate() {
        assert_eq!((entry.len(), entry.first_chunk().copied()), (48, Some((index as u64).to_le_bytes())));
    }

    // Whatever bit is flipped on the way, the library says no: not always where it reads tiles (it takes one it has not
    // compared with its parent where several subtrees share a tile, as does Go's), but where it checks the proof.
    for path in ["/tile/0/000", "/tile/1/000.p/1", &format!("/tile/0/001.p/{}", second.size() - 256)] {
        let len = fetch(&api, path).unwrap().len() * 8;
        for bit in (0..len).step_by(1 + len / 12) {
            let tiles = Tiles { flipped: Some((path, bit)), ..Tiles::of(&api) };
            assert!(entries(&tiles, &second).is_err(), "{path} bit {bit}");
        }
    }
    let note = fetch(&api, "/checkpoint").unwrap();
    for bit in 0..note.len() * 8 {
        let mut note = note.clone();
        note[bit / 8] ^= 1 << (bit % 8);
        assert!(opened(&vkey, &note).is_none(), "bit {bit}");
    }

    // Rot under a running server is never served.
    let leaves = ledger.dir().join("tiles/0");
    let mut bytes = fs::read(&leaves).unwrap();
    bytes[77] ^= 4;
    fs::write(&leaves, bytes).unwrap();
    assert_eq!(entries(&Tiles::of(&api), &second).unwrap(), before);
    let began = Instant::now();
    while !ledger.log().contains("made from the log again") {
        assert!(began.elapsed() < PATIENCE, "the mended tile is said");
        std::thread::sleep(Duration::from_millis(20));
    }

    for round in 0..3 {
        issue(&owner, 5);
        ledger.kill();
        match round {
            0 => {}
            1 => fs::remove_dir_all(ledger.dir().join("tiles")).unwrap(),
            _ => fs::write(ledger.dir().join("tiles/1"), [9; 40]).unwrap(),
        }
        ledger.start(&[]);
        let third = published(&api, &vkey, second.size() + 5 * (round + 1));
        assert_grown_from(&api, &second, &third);
        assert_eq!(entries(&Tiles::of(&api), &third).unwrap()[..before.len()], before);
    }
    assert!(ledger.stop().success());
    let verified = ledger.replay(&["verify"]);
    assert!(verified.status.success() && said(&verified).contains("The tree's tiles, of"), "{}", said(&verified));
}

#[test]
fn tiles_proofs_and_their_headers_are_as_the_documents_have_them() {
    let ledger = Ledger::started();
    let (owner, api) = (ledger.owner(), ledger.api());
    let vkey = fs::read_to_string(ledger.dir().join("ledger.vkey")).unwrap();
    issue(&owner, 260);
    let head = published(&api, &vkey, 260);
    let size = head.size();

    let checkpoint = api.get("/checkpoint").expect(200);
    assert_eq!(checkpoint.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(checkpoint.header("cache-control"), Some("no-cache"));
    let immutable = "public, max-age=31536000, immutable";
    for (path, len, cached) in [
        ("0/000", 8192, immutable),
        ("entries/000", 50 * 256, immutable),
        ("0/000.p/1", 32, "public, max-age=3600"),
        ("0/000.p/255", 255 * 32, "public, max-age=3600"),
        ("0/001.p/2", 64, "public, max-age=3600"),
        ("1/000.p/1", 32, "public, max-age=3600"),
        ("entries/001.p/2", 100, "public, max-age=3600"),
    ] {
        let path = format!("/tile/{path}");
        assert_eq!(fetch(&api, &path).map(|bytes| bytes.len()), Some(len), "{path}");
        for method in ["GET", "HEAD"] {
            let reply = api.send(method, &path, &[], b"").expect(200);
            assert_eq!(reply.header("content-type"), Some("application/octet-stream"), "{path}");
            assert_eq!(reply.header("cache-control"), Some(cached), "{path}");
        }
    }
    let beyond = format!("0/001.p/{}", size - 256 + 1);
    for path in [
        "",
        "0",
        "0/",
        "0/0",
        "0/001",
        "0/002.p/1",
        "1/000",
        "1/000.p/2",
        "2/000.p/1",
        "00/000",
        "64/000",
        "-1/000",
        "0/000.p/0",
        "0/000.p/256",
        "0/000.p/01",
        "0/x000/000",
        "0/000/",
        "entries/001",
        "entries/002.p/1",
        "data/000",
        "8/0/000",
        "0/x999/x999/x999/x999/x999/x999/999",
        "0/%2e%2e/000",
        "0/000%00",
        &beyond,
    ] {
        let reply = api.get(&format!("/tile/{path}")).expect(404);
        assert_eq!(
            (reply.header("content-type"), reply.code()),
            (Some("application/problem+json"), "not_found".into())
        );
    }
    api.send("POST", "/tile/0/000", &[], b"{}").expect(405);
    api.send("DELETE", "/checkpoint", &[], b"").expect(405);

    for (position, of) in [(0, size), (size - 1, size), (255, 256), (0, 1), (17, 200)] {
        let text = api.get(&format!("/api/v1/proof/inclusion?position={position}&size={of}")).expect(200);
        assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
        let (proof, note) = text.body.split_once("\n\n").unwrap();
        let mut lines = proof.lines();
        assert_eq!((lines.next(), lines.next()), (Some("c2sp.org/tlog-proof@v1"), Some(&*format!("index {position}"))));
        let proof: Vec<Hash> = lines.map(|line| Hash::parse_hash(line).unwrap()).collect();
        let signed = opened(&vkey, note.as_bytes()).unwrap();
        assert_eq!(signed.size(), of);
        let leaf = Hash(fetch(&api, "/tile/0/000").unwrap()[position as usize % 256 * 32..][..32].try_into().unwrap());
        if position < 256 {
            tlog_tiles::check_record(&proof, of, *signed.hash(), position, leaf).unwrap();
        }
    }
    for (query, status) in [
        ("inclusion", 400),
        ("inclusion?position=-1", 400),
        ("inclusion?position=x", 400),
        ("inclusion?position=0&more=1", 400),
        ("inclusion?position=18446744073709551615", 404),
        ("inclusion?position=18446744073709551616", 400),
        ("inclusion?position=5&size=5", 400),
        ("inclusion?position=0&size=0", 400),
        (&*format!("inclusion?position=0&size={}", size + 1), 404),
        ("inclusion?position=0&size=18446744073709551615", 404),
        ("consistency", 400),
        ("consistency?old=2&new=1", 400),
        ("consistency?old=0&new=18446744073709551615", 404),
        ("consistency?old=18446744073709551615", 404),
    ] {
        let reply = api.get(&format!("/api/v1/proof/{query}")).expect(status);
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{query}");
    }
    api.get("/api/v1/proof/consistency?old=0").expect(200);
}

#[test]
fn asking_for_tiles_counts_against_the_general_limit_of_an_address_alone() {
    let mut ledger = Ledger::new().with("RATE_ANONYMOUS_PER_MINUTE", "3").with("RATE_ADDRESS_PER_MINUTE", "200");
    ledger.start(&[]);
    let api = ledger.api();
    for _ in 0..50 {
        api.get("/checkpoint").expect(200);
    }
    assert!((0..400).any(|_| api.get("/tile/0/000.p/1").status == 429));
}
