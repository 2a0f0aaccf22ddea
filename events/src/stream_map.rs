//! The map of all streams: each team's last event at one place of the log, under one root that is appended to the log.
//!
//! Whoever holds the root can be shown one team's entry and sees nothing of the others; whoever hides a team's newest
//! events from its auditor contradicts a root that everybody else has. The map is a binary trie over SHA-256(team), so
//! a team has one possible place: a second, older entry can't hide in it. `FORMAT.md` §4 describes the hashes.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::{TeamId, record::StreamHead};

/// How deep a trie can be: the bits of SHA-256.
const DEPTH_MAX: usize = 256;
/// The index of no node: an empty side.
const NONE: u32 = u32::MAX;
/// The hash of an empty side.
const EMPTY: [u8; 32] = [0; 32];

/// What a map's entries are hashed to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MapRoot(pub [u8; 32]);

impl fmt::Display for MapRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MapRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hexadecimal in JSON, 32 bare bytes in postcard.
impl Serialize for MapRoot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for MapRoot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        let mut root = [0; 32];
        let digits = text.as_bytes().chunks_exact(2);
        if text.len() != 64 || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(de::Error::custom("a map's root is 64 hexadecimal digits"));
        }
        for (byte, digits) in root.iter_mut().zip(digits) {
            let value = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
            *byte = value(digits[0]) << 4 | value(digits[1]);
        }
        Ok(Self(root))
    }
}

/// The map. Entries are put in one by one; what they change is hashed when the root is asked for.
#[derive(Clone, Debug, Default)]
pub struct StreamMap {
    nodes: Vec<Node>,
    teams: u64,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf {
        team: TeamId,
        head: StreamHead,
    },
    Inner {
        /// Left and right; [`NONE`] where there is nothing.
        sides: [u32; 2],
        /// None since something below has changed.
        hash: Option<[u8; 32]>,
    },
}

impl StreamMap {
    /// A map without teams.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many teams.
    pub fn teams(&self) -> u64 {
        self.teams
    }

    /// Sets a team's last event.
    pub fn insert(&mut self, team: TeamId, head: StreamHead) {
        if self.nodes.is_empty() {
            self.push(Node::Leaf { team, head });
            self.teams = 1;
            return;
        }
        let path = Path::of(team);
        // The root is always node 0: what grows above an old leaf takes its place.
        let (mut at, mut depth) = (0, 0);
        loop {
            match &mut self.nodes[at as usize] {
                Node::Inner { sides, hash } => {
                    *hash = None;
                    let side = sides[path.bit(depth)];
                    depth += 1;
                    if side == NONE {
                        let leaf = self.push(Node::Leaf { team, head });
                        self.set_side(at, path.bit(depth - 1), leaf);
                        self.teams += 1;
                        return;
                    }
                    at = side;
                }
                Node::Leaf { team: found, head: old } if *found == team => {
                    *old = head;
                    return;
                }
                Node::Leaf { team: found, .. } => {
                    let other = Path::of(*found);
                    return self.split(at, depth, &path, &other, Node::Leaf { team, head });
                }
            }
        }
    }

    /// Puts inner nodes above the leaf `at` until its path and `leaf`'s part.
    fn split(&mut self, mut at: u32, mut depth: usize, path: &Path, other: &Path, leaf: Node) {
        self.teams += 1;
        let empty = || Node::Inner { sides: [NONE; 2], hash: None };
        let old = std::mem::replace(&mut self.nodes[at as usize], empty());
        while path.bit(depth) == other.bit(depth) {
            let below = self.push(empty());
            self.set_side(at, path.bit(depth), below);
            at = below;
            depth += 1;
            // Two teams of one SHA-256: nobody can make them, and a map that could hold them would be unsound.
            assert!(depth < DEPTH_MAX, "two teams have one path");
        }
        let (old, new) = (self.push(old), self.push(leaf));
        self.set_side(at, other.bit(depth), old);
        self.set_side(at, path.bit(depth), new);
    }

    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
    }

    fn set_side(&mut self, at: u32, bit: usize, below: u32) {
        if let Node::Inner { sides, .. } = &mut self.nodes[at as usize] {
            sides[bit] = below;
        }
    }

    /// The root; zeros for the empty map.
    pub fn root(&mut self) -> MapRoot {
        MapRoot(if self.nodes.is_empty() { EMPTY } else { self.refresh(0) })
    }

    fn refresh(&mut self, at: u32) -> [u8; 32] {
        if at == NONE {
            return EMPTY;
        }
        match self.nodes[at as usize] {
            Node::Leaf { ref team, ref head } => leaf_hash(*team, head),
            Node::Inner { hash: Some(hash), .. } => hash,
            Node::Inner { sides: [left, right], hash: None } => {
                let fresh = inner_hash(&self.refresh(left), &self.refresh(right));
                if let Node::Inner { hash, .. } = &mut self.nodes[at as usize] {
                    *hash = Some(fresh);
                }
                fresh
            }
        }
    }

    /// A team's entry, and what leads from it to the root; none if the team is not in the map.
    pub fn prove(&mut self, team: TeamId) -> Option<(StreamHead, MapProof)> {
        if self.nodes.is_empty() {
            return None;
        }
        let path = Path::of(team);
        let (mut at, mut siblings) = (0, Vec::new());
        loop {
            match self.nodes[at as usize] {
                Node::Leaf { team: found, head } => {
                    siblings.reverse();
                    return (found == team).then_some((head, MapProof { siblings }));
                }
                Node::Inner { sides, .. } => {
                    let bit = path.bit(siblings.len());
                    siblings.push(self.refresh(sides[1 - bit]));
                    at = sides[bit];
                    if at == NONE {
                        return None;
                    }
                }
            }
        }
    }
}

/// The hashes that lead from one team's entry to a map's root, from the entry up: about as many as the number of teams
/// has bits. They tell nothing of the teams they stand for. As text: their bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapProof {
    siblings: Vec<[u8; 32]>,
}

impl MapProof {
    /// Whether the map of this root says that this is the team's last event. No map can say two things of one team.
    pub fn verify(&self, team: TeamId, head: &StreamHead, root: &MapRoot) -> bool {
        let path = Path::of(team);
        let mut hash = leaf_hash(team, head);
        for (sibling, depth) in self.siblings.iter().zip((0..self.siblings.len()).rev()) {
            let (left, right) = if path.bit(depth) == 0 { (&hash, sibling) } else { (sibling, &hash) };
            hash = inner_hash(left, right);
        }
        hash == root.0
    }

    /// How many hashes it has.
    pub fn len(&self) -> usize {
        self.siblings.len()
    }

    /// Whether it has none: the map holds this team only.
    pub fn is_empty(&self) -> bool {
        self.siblings.is_empty()
    }
}

impl fmt::Display for MapProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.siblings.concat()))
    }
}

impl FromStr for MapProof {
    type Err = MapProofError;

    fn from_str(text: &str) -> Result<Self, MapProofError> {
        let bytes = BASE64.decode(text).map_err(|_| MapProofError)?;
        let (siblings, rest) = bytes.as_chunks::<32>();
        if rest.is_empty() && siblings.len() <= DEPTH_MAX {
            Ok(Self { siblings: siblings.to_vec() })
        } else {
            Err(MapProofError)
        }
    }
}

impl Serialize for MapProof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MapProof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Not a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a proof in the map of streams")]
pub struct MapProofError;

/// A team's place: the bits of its SHA-256, the highest of each byte first.
struct Path([u8; 32]);

impl Path {
    fn of(team: TeamId) -> Self {
        Self(Sha256::digest(team.as_bytes()).into())
    }

    fn bit(&self, depth: usize) -> usize {
        usize::from(self.0[depth / 8] >> (7 - depth % 8) & 1)
    }
}

/// SHA-256(0x02 ‖ team ‖ revision ‖ hash).
fn leaf_hash(team: TeamId, head: &StreamHead) -> [u8; 32] {
    let hash = Sha256::new().chain_update([2]).chain_update(team.as_bytes());
    hash.chain_update(head.revision.0.to_le_bytes()).chain_update(head.hash.0).finalize().into()
}

/// SHA-256(0x03 ‖ left ‖ right).
fn inner_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([3]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{RecordHash, Revision};

    fn team(n: u16) -> TeamId {
        let mut bytes = [7; 16];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        TeamId::from_bytes(bytes)
    }

    fn head(n: u64) -> StreamHead {
        StreamHead { revision: Revision(n), hash: RecordHash([n as u8; 32]) }
    }

    /// The format's words: an empty side is zeros, one leaf stands for itself, else both halves by the next bit.
    fn model(entries: &[(TeamId, StreamHead)], depth: usize) -> [u8; 32] {
        match entries {
            [] => [0; 32],
            [(team, head)] => leaf_hash(*team, head),
            _ => {
                let side = |bit| {
                    let of = |(team, _): &&(TeamId, StreamHead)| Path::of(*team).bit(depth) == bit;
                    model(&entries.iter().filter(of).copied().collect::<Vec<_>>(), depth + 1)
                };
                inner_hash(&side(0), &side(1))
            }
        }
    }

    #[test]
    fn the_hashes_are_the_formats() {
        let mut map = StreamMap::new();
        assert_eq!((map.root(), map.teams()), (MapRoot::default(), 0));
        map.insert(TeamId::SYSTEM, head(1));
        let leaf = [&[2][..], &[0; 16], &1u64.to_le_bytes(), &[1; 32]].concat();
        assert_eq!(map.root().0, <[u8; 32]>::from(Sha256::digest(leaf)));
        let (found, proof) = map.prove(TeamId::SYSTEM).unwrap();
        assert!(proof.is_empty() && proof.verify(TeamId::SYSTEM, &found, &map.root()));
        assert!(map.prove(team(1)).is_none());
    }

    #[test]
    fn proofs_are_short() {
        let mut map = StreamMap::new();
        (0..10_000).for_each(|n| map.insert(team(n), head(1)));
        let longest = (0..10_000).filter_map(|n| map.prove(team(n))).map(|(_, proof)| proof.len()).max();
        assert!(longest < Some(40), "{longest:?}");
    }

    proptest! {
        #[test]
        fn it_is_the_models_map_whatever_is_put_in(
            steps in proptest::collection::vec((0u16..300, 0u64..9, any::<bool>()), 0..200),
        ) {
            let (mut map, mut entries) = (StreamMap::new(), BTreeMap::new());
            for (n, revision, look) in steps {
                map.insert(team(n), head(revision));
                entries.insert(team(n), head(revision));
                if look {
                    let all: Vec<_> = entries.iter().map(|(team, head)| (*team, *head)).collect();
                    prop_assert_eq!(map.root().0, model(&all, 0));
                }
            }
            prop_assert_eq!(map.teams(), entries.len() as u64);
            let root = map.root();
            for n in 0..300 {
                let (found, entry) = (map.prove(team(n)), entries.get(&team(n)));
                prop_assert_eq!(found.as_ref().map(|(head, _)| head), entry);
                let Some((entry, proof)) = found else { continue };
                prop_assert!(proof.verify(team(n), &entry, &root));
                prop_assert_eq!(proof.to_string().parse(), Ok(proof.clone()));
                let other = StreamHead { revision: entry.revision.next(), ..entry };
                prop_assert!(!proof.verify(team(n), &other, &root));
                prop_assert!(!proof.verify(team(n + 1), &entry, &root));
                prop_assert!(!proof.verify(team(n), &entry, &MapRoot([9; 32])));
                for at in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed.siblings[at][at % 32] ^= 1;
                    prop_assert!(!changed.verify(team(n), &entry, &root));
                    changed.siblings.truncate(at);
                    prop_assert!(!changed.verify(team(n), &entry, &root));
                }
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[A-Za-z0-9+/]{0,99}={0,2}|\\PC{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            for text in [text, BASE64.encode(bytes)] {
                if let Ok(proof) = text.parse::<MapProof>() {
                    prop_assert_eq!(proof.to_string(), text);
                    prop_assert!(!proof.verify(team(1), &head(1), &MapRoot::default()));
                }
            }
        }

        #[test]
        fn a_root_comes_back_from_json(root: [u8; 32], text in "[0-9a-f]{64}|\\PC{0,70}") {
            let json = serde_json::to_string(&MapRoot(root)).unwrap();
            prop_assert_eq!(serde_json::from_str::<MapRoot>(&json).unwrap(), MapRoot(root));
            if let Ok(root) = serde_json::from_value::<MapRoot>(text.clone().into()) {
                prop_assert_eq!(root.to_string(), text);
            }
        }
    }
}
