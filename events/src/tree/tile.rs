//! The names of C2SP [tlog-tiles](https://c2sp.org/tlog-tiles): how a tree is cut into files that anybody can fetch.

use std::{fmt, str::FromStr};

/// How many hashes a full tile has, and how many entries a full bundle of entries.
pub const TILE_WIDTH: u64 = 256;
/// How many levels of the tree one level of tiles spans.
pub const TILE_HEIGHT: u32 = 8;
/// The highest level of tiles.
const LEVEL_MAX: u8 = 63;

/// One file of a tree: which, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TilePath {
    /// What it holds.
    pub kind: TileKind,
    /// Its place in its level.
    pub index: u64,
    /// How many hashes or entries; [`TILE_WIDTH`] if it is full.
    pub width: u16,
}

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TileKind {
    /// Hashes of one level of tiles: roots of full subtrees of `2^(8 × level)` leaves.
    Hashes {
        /// From 0, the leaves', to 63.
        level: u8,
    },
    /// The leaves' own data.
    Entries,
}

impl TilePath {
    /// Whether it is full, and so will never change.
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// The first of its hashes or entries, counted over its whole level. None if there can't be so many.
    pub fn first(&self) -> Option<u64> {
        self.index.checked_mul(TILE_WIDTH)
    }

    /// Whether a tree of `size` leaves has all of it.
    pub fn is_in(&self, size: u64) -> bool {
        let shift = match self.kind {
            TileKind::Hashes { level } => u32::from(level) * TILE_HEIGHT,
            TileKind::Entries => 0,
        };
        let have = size.checked_shr(shift).unwrap_or(0);
        self.first().and_then(|first| first.checked_add(u64::from(self.width))).is_some_and(|end| end <= have)
    }
}

/// The part of the address behind `/tile/`, such as `0/x001/234` or `entries/067.p/8`.
impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes { level } => write!(f, "{level}")?,
            TileKind::Entries => f.write_str("entries")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        while let Some(group) = groups.pop() {
            write!(f, "/{}{group:03}", if groups.is_empty() { "" } else { "x" })?;
        }
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

impl FromStr for TilePath {
    type Err = TilePathError;

    /// Reads what [`fmt::Display`] writes, and nothing else: one file has one name.
    fn from_str(text: &str) -> Result<Self, TilePathError> {
        // No name of a tile that a 64-bit size allows is longer.
        if text.len() > 64 {
            return Err(TilePathError);
        }
        let (kind, rest) = text.split_once('/').ok_or(TilePathError)?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => TileKind::Hashes { level: level.parse().map_err(|_| TilePathError)? },
        };
        let (groups, width) = match rest.split_once(".p/") {
            Some((groups, width)) => (groups, width.parse().map_err(|_| TilePathError)?),
            None => (rest, TILE_WIDTH as u16),
        };
        let mut index = 0_u64;
        for group in groups.split('/') {
            let digits: u64 = group.trim_start_matches('x').parse().map_err(|_| TilePathError)?;
            index = index.checked_mul(1000).and_then(|index| index.checked_add(digits)).ok_or(TilePathError)?;
        }
        let path = Self { kind, index, width };
        let in_range = !matches!(kind, TileKind::Hashes { level } if level > LEVEL_MAX)
            && (1..=TILE_WIDTH).contains(&u64::from(width));
        if in_range && path.to_string() == text { Ok(path) } else { Err(TilePathError) }
    }
}

/// Not the name of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a tile")]
pub struct TilePathError;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_those_of_the_document() {
        let hashes = |level, index, width| TilePath { kind: TileKind::Hashes { level }, index, width };
        for (text, path) in [
            ("0/000", hashes(0, 0, 256)),
            ("0/x001/234", hashes(0, 1234, 256)),
            ("3/x001/x234/067", hashes(3, 1_234_067, 256)),
            ("63/x001/x234/067.p/8", hashes(63, 1_234_067, 8)),
            ("entries/999.p/255", TilePath { kind: TileKind::Entries, index: 999, width: 255 }),
        ] {
            assert_eq!(text.parse(), Ok(path), "{text}");
            assert_eq!(path.to_string(), text);
        }
        for text in [
            "",
            "0",
            "0/",
            "0/0",
            "0/00",
            "0/0000",
            "0/1234",
            "0/x000/001",
            "0/x1/234",
            "0/001/234",
            "0/x001/x234",
            "00/000",
            "64/000",
            "-1/000",
            "+1/000",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/00",
            "0/000.p/1/",
            "0/000.p",
            "0/000/",
            "0/+00",
            "entries/",
            "entry/000",
            "8/0/000",
            "0/x18446744073709551/616",
            "0/000.p/-1",
        ] {
            assert_eq!(text.parse::<TilePath>(), Err(TilePathError), "{text}");
        }
    }

    #[test]
    fn a_tree_has_the_tiles_it_can_fill() {
        for (text, size, has) in [
            ("0/000", 255, false),
            ("0/000", 256, true),
            ("0/000.p/255", 255, true),
            ("0/000.p/7", 6, false),
            ("0/000.p/7", 1_000_000, true),
            ("1/000.p/1", 255, false),
            ("1/000.p/1", 256, true),
            ("63/000.p/1", u64::MAX, false),
            ("entries/003.p/232", 1000, true),
            ("entries/003.p/233", 1000, false),
        ] {
            assert_eq!(text.parse::<TilePath>().unwrap().is_in(size), has, "{text} of {size}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back(level in 0..64u8, index in any::<u64>(), width in 1..=256u16, entries: bool) {
            let kind = if entries { TileKind::Entries } else { TileKind::Hashes { level } };
            let path = TilePath { kind, index, width };
            prop_assert_eq!(path.to_string().parse(), Ok(path));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}|[0-9x/.p]{0,40}") {
            if let Ok(path) = text.parse::<TilePath>() {
                prop_assert_eq!(path.to_string(), text);
                let _ = path.is_in(u64::MAX);
            }
        }
    }
}
