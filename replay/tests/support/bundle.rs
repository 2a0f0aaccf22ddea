//! Bundles for tests: exported by the crate, and taken apart by the format's words alone, so that they can be made wrong.

use std::path::{Path, PathBuf};

use keyledger_events::{
    Commit, Event, Position, TeamId,
    head::{HeadSigner, TreeHead},
    record::StreamHead,
    statement::TeamStatement,
    store::memory::MemoryStore,
    tree::proof,
};
use keyledger_replay::bundle::{Exported, Gathered, Material, Selection, export, gather};
use serde_json::Value;

use super::{START, Town, directory, store};

/// A ledger with a seal in it, and its log.
pub struct Scene {
    pub commits: Vec<Commit>,
    pub log: MemoryStore,
    pub town: Town,
}

impl Scene {
    /// About `events` events; the last seal is of the first two thirds.
    pub fn new(seed: u64, events: u64) -> Self {
        let mut town = Town::new(seed);
        let mut commits = town.history(events * 2 / 3);
        town.seal(&mut commits);
        commits.extend(town.history(events));
        let log = store(&commits);
        Self { commits, log, town }
    }

    /// The team with the most events.
    pub fn team(&self) -> TeamId {
        let events = |team: &&TeamId| self.town.heads[*team].revision;
        *self.town.founded[1..].iter().max_by_key(events).unwrap()
    }

    pub fn head(&self) -> TreeHead {
        let tree = directory::tree(&self.commits);
        TreeHead { size: tree.size(), root: tree.root() }
    }

    /// Exports as an honest ledger does.
    pub fn export(&self, team: TeamId, selection: &Selection) -> Vec<u8> {
        let gathered = gather(&self.log, self.head().size, team, &keyledger_replay::quiet).unwrap();
        let (head, position) = gathered.end.unwrap();
        self.export_as(team, selection, gathered, head, position, &directory::signer()).0
    }

    /// Exports with any statement, by any key.
    pub fn export_as(
        &self,
        team: TeamId,
        selection: &Selection,
        gathered: Gathered<'_>,
        head: StreamHead,
        position: Position,
        signer: &HeadSigner,
    ) -> (Vec<u8>, Exported) {
        let (tree, key, time) = (self.head(), signer.verifier(), START.parse().unwrap());
        let origin = key.origin().to_owned();
        assert_eq!(proof::root(&gathered.nodes, tree.size).unwrap(), tree.root);
        let statement = TeamStatement { origin: origin.clone(), team, head, position, tree, time };
        let material = Material {
            log: &self.log,
            nodes: &gathered.nodes,
            origin,
            key: key.to_string(),
            key_rotations: vec![],
            team,
            numbers: gathered.numbers,
            tree,
            tree_head: signer.sign(&tree),
            statement: statement.sign(signer),
            seal: gathered.seal,
            last_used: None,
            exported_at: time,
        };
        let mut out = Vec::new();
        let exported = export(material, selection, &mut out, &keyledger_replay::quiet).unwrap();
        assert_eq!(exported.bytes, out.len() as u64);
        (out, exported)
    }

    /// How many of a team's events are in the log.
    pub fn events_of(&self, team: TeamId) -> u64 {
        let own = |commit: &&Commit| commit.body.view().first().unwrap().team == team;
        self.commits.iter().filter(own).map(|commit| commit.body.view().count()).sum()
    }

    /// Where the last seal is.
    pub fn seal(&self) -> Position {
        let mut placed =
            self.commits.iter().flat_map(|commit| commit.records().map(Result::unwrap).collect::<Vec<_>>());
        placed.rfind(|placed| matches!(placed.record.event, Event::HistorySealed(_))).unwrap().position
    }
}

/// A bundle in its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    pub header: Value,
    pub items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Node { level: u8, hash: [u8; 32] },
    Commit { number: u64, first_position: u64, body: Vec<u8> },
}

impl Item {
    /// How many leaves it stands for.
    pub fn leaves(&self) -> u64 {
        match self {
            Self::Node { level, .. } => 1 << level,
            Self::Commit { body, .. } => u64::from(u16::from_le_bytes([body[1], body[2]])),
        }
    }
}

impl Parts {
    pub fn of(bytes: &[u8]) -> Self {
        assert_eq!(&bytes[..8], b"KLBUNDL1");
        let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[12..12 + len]).unwrap();
        let (mut rest, mut items) = (&bytes[12 + len..bytes.len() - 32], Vec::new());
        let take = |rest: &mut &[u8], len: usize| {
            let (taken, behind) = rest.split_at(len);
            *rest = behind;
            taken.to_vec()
        };
        loop {
            match take(&mut rest, 1)[0] {
                0 => break,
                1 => {
                    let level = take(&mut rest, 1)[0];
                    items.push(Item::Node { level, hash: take(&mut rest, 32).try_into().unwrap() });
                }
                2 => {
                    let word = |bytes: Vec<u8>| u64::from_le_bytes(bytes.try_into().unwrap());
                    let (number, first_position) = (word(take(&mut rest, 8)), word(take(&mut rest, 8)));
                    let len = u32::from_le_bytes(take(&mut rest, 4).try_into().unwrap()) as usize;
                    items.push(Item::Commit { number, first_position, body: take(&mut rest, len) });
                }
                tag => panic!("tag {tag}"),
            }
        }
        assert!(rest.is_empty());
        Self { header, items }
    }

    /// The bytes again, with a hash that fits.
    pub fn bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).unwrap();
        let mut out = b"KLBUNDL1".to_vec();
        out.extend((header.len() as u32).to_le_bytes());
        out.extend(header);
        for item in &self.items {
            match item {
                Item::Node { level, hash } => {
                    out.extend([1, *level]);
                    out.extend(hash);
                }
                Item::Commit { number, first_position, body } => {
                    out.push(2);
                    out.extend(number.to_le_bytes());
                    out.extend(first_position.to_le_bytes());
                    out.extend((body.len() as u32).to_le_bytes());
                    out.extend(body);
                }
            }
        }
        out.push(0);
        let hash = blake3::hash(&out);
        out.extend(hash.as_bytes());
        out
    }

    /// The places of the commits that are shown.
    pub fn commits(&self) -> Vec<usize> {
        (0..self.items.len()).filter(|at| matches!(self.items[*at], Item::Commit { .. })).collect()
    }

    /// Hides a commit: its leaves stand in its place.
    pub fn hide(&mut self, at: usize) {
        let Item::Commit { number, first_position, body } = self.items[at].clone() else { panic!("no commit") };
        let commit = Commit {
            number: keyledger_events::CommitNumber(number),
            first_position: Position(first_position),
            body: keyledger_events::CommitBody::parse(body).unwrap(),
        };
        let leaves = commit.records().map(Result::unwrap).map(|placed| {
            use keyledger_events::tree::{leaf_data, leaf_hash};
            let leaf = leaf_data(placed.position, placed.record.recorded_at, &placed.hash);
            Item::Node { level: 0, hash: leaf_hash(&leaf).0 }
        });
        self.items.splice(at..=at, leaves.collect::<Vec<_>>());
    }
}

/// A file of these bytes.
pub fn file(dir: &Path, bytes: &[u8]) -> PathBuf {
    let file = dir.join("team.bundle");
    std::fs::write(&file, bytes).unwrap();
    file
}
