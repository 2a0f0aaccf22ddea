//! The index at rest: its rows, its digest, its checkpoint.

use std::{collections::BTreeSet, hint::black_box};

use keyledger_events::{
    CredentialId, PersonId, TeamId, Timestamp,
    seal::Label,
    secret::{Kind, SecretHash},
};

use super::{
    Active, State, Writer,
    entry::{Binding, Entry, Life, hash_words},
    label_bytes,
    nameless::NO_NAME,
};
use crate::Digest;

/// Bytes of a checkpoint's row before its name: hash, id, life, binding, length of the name.
const ROW_LEN: usize = 32 + 16 + 8 + 4 + 4;
const BINDING_LEN: usize = 32;
const BINDINGS: u8 = 1;
const ROWS: u8 = 2;
/// Rows of a checkpoint whose places in the tables are fetched together.
const ROWS_AT_ONCE: usize = 64;

/// One credential of the index, spelt out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveRow {
    /// Its secret's hash.
    pub hash: SecretHash,
    /// Its id.
    pub credential: CredentialId,
    /// Its team.
    pub team: TeamId,
    /// Who answers for it.
    pub holder: PersonId,
    /// Its kind.
    pub kind: Kind,
    /// What the events say of it.
    pub state: State,
    /// When it ends, or ended, by itself or with its device.
    pub ends_at: Option<Timestamp>,
    /// What people call it.
    pub name: Label,
}

impl ActiveRow {
    /// Appends the bytes that the index's digest counts for this row: hash, id, team, holder, then in one little-endian
    /// word the end in microseconds (all ones for never, bits 0–57), the kind's number (58, 59) and the state's (60–63:
    /// alive 0, revoked 1, expired 2), then the name as postcard.
    pub fn write_bytes(&self, out: &mut Vec<u8>) {
        let life = (self.kind, self.state, self.ends_at);
        write_row(out, &self.hash, self.credential, (self.team, self.holder), life, &label_bytes(&self.name));
    }
}

/// The bytes of [`ActiveRow::write_bytes`], for who keeps rows in a shape of their own: a name is as
/// [`write_name`] wrote it.
pub fn write_row(
    out: &mut Vec<u8>,
    hash: &SecretHash,
    credential: CredentialId,
    binding: (TeamId, PersonId),
    (kind, state, ends_at): (Kind, State, Option<Timestamp>),
    name: &[u8],
) {
    write_fixed(out, hash, credential, binding, Life::new(kind, state, ends_at));
    out.extend_from_slice(name);
}

/// Appends a name as rows have it.
pub fn write_name(name: &Label, out: &mut Vec<u8>) {
    // No label has a type that postcard refuses.
    *out = postcard::to_extend(name, std::mem::take(out)).unwrap_or_default();
}

pub(super) fn write_fixed(
    out: &mut Vec<u8>,
    hash: &SecretHash,
    id: CredentialId,
    binding: (TeamId, PersonId),
    life: Life,
) {
    out.extend_from_slice(&hash.0);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(binding.0.as_bytes());
    out.extend_from_slice(binding.1.as_bytes());
    out.extend_from_slice(&life.word().to_le_bytes());
}

/// The index as it stood when it was frozen, while it lives on. Only what can change was copied: 12 bytes a credential.
#[derive(Debug)]
pub struct Frozen<'a> {
    active: &'a Active,
    /// Life and binding of each entry.
    changing: Vec<(Life, u32)>,
    bindings: usize,
}

impl Active {
    /// Holds its present state fast. The writer waits for the copy, readers don't.
    pub fn freeze(&self) -> Frozen<'_> {
        self.freeze_under(&self.writer.read())
    }

    /// As [`Active::freeze`], for who holds the writer's lock.
    pub(super) fn freeze_under(&self, writer: &Writer) -> Frozen<'_> {
        let changing = (0..self.len() as u32)
            .filter_map(|number| self.entries.get(number))
            .map(|entry| (entry.life(), entry.binding()))
            .collect();
        Frozen { active: self, changing, bindings: writer.binding_numbers.len() }
    }

    /// An index from the chunks of [`Frozen::chunks`], in their order.
    ///
    /// # Errors
    /// [`RestoreError`] when they are not that. It is not the place to find a changed bit: check the chunks' hashes before.
    pub fn restore<B: AsRef<[u8]>>(
        credentials: usize,
        chunks: impl IntoIterator<Item = B>,
    ) -> Result<Self, RestoreError> {
        // A wrong count must not make the tables huge; they grow by themselves.
        let active = Self::with_capacity(credentials.min(1 << 26));
        for chunk in chunks {
            active.restore_chunk(chunk.as_ref())?;
        }
        if active.len() == credentials { Ok(active) } else { Err(RestoreError) }
    }

    /// Takes in the next chunk.
    pub(crate) fn restore_chunk(&self, chunk: &[u8]) -> Result<(), RestoreError> {
        let (kind, rest) = chunk.split_first().ok_or(RestoreError)?;
        match *kind {
            BINDINGS => self.restore_bindings(rest),
            ROWS => self.restore_rows(rest),
            _ => Err(RestoreError),
        }
    }

    fn restore_bindings(&self, chunk: &[u8]) -> Result<(), RestoreError> {
        let (bindings, []) = chunk.as_chunks::<BINDING_LEN>() else { return Err(RestoreError) };
        let mut writer = self.writer.write();
        for bytes in bindings {
            let (mut team, mut person) = ([0; 16], [0; 16]);
            team.copy_from_slice(&bytes[..16]);
            person.copy_from_slice(&bytes[16..]);
            let before = writer.binding_numbers.len();
            self.binding(&mut writer, (TeamId::from_bytes(team), PersonId::from_bytes(person)));
            if writer.binding_numbers.len() == before {
                return Err(RestoreError);
            }
        }
        Ok(())
    }

    fn restore_rows(&self, mut chunk: &[u8]) -> Result<(), RestoreError> {
        let mut writer = self.writer.write();
        let mut rows = Vec::with_capacity(ROWS_AT_ONCE);
        while !chunk.is_empty() {
            rows.clear();
            while !chunk.is_empty() && rows.len() < ROWS_AT_ONCE {
                let (row, rest) = Row::split_from(chunk).ok_or(RestoreError)?;
                if row.binding as usize >= writer.binding_numbers.len() {
                    return Err(RestoreError);
                }
                rows.push(row);
                chunk = rest;
            }
            // Filling a place decides by what is there, and the processor can't go on to the next row meanwhile. So it
            // fetches the places of many rows first, all at once.
            let slots = self.slots.read().clone();
            black_box(
                rows.iter()
                    .fold(0, |seen, row| seen ^ writer.ids.peek(row.credential) ^ slots.peek(hash_words(&row.hash)[0])),
            );
            for row in &rows {
                self.insert_new(&mut writer, &row.hash, row.credential, row.life, row.binding, row.name);
            }
        }
        Ok(())
    }
}

/// A checkpoint's row.
struct Row<'a> {
    hash: SecretHash,
    credential: CredentialId,
    life: Life,
    binding: u32,
    name: &'a [u8],
}

impl<'a> Row<'a> {
    /// The first row of a chunk, and the rest.
    fn split_from(chunk: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (row, rest) = chunk.split_at_checked(ROW_LEN)?;
        let (name, rest) = rest.split_at_checked(u32::from_le_bytes(array(row, 60)) as usize)?;
        let row = Self {
            hash: SecretHash(array(row, 0)),
            credential: CredentialId::from_bytes(array(row, 32)),
            life: Life::from_word(u64::from_le_bytes(array(row, 48)))?,
            binding: u32::from_le_bytes(array(row, 56)),
            name,
        };
        Some((row, rest))
    }
}

impl Frozen<'_> {
    /// How many credentials it has.
    pub fn len(&self) -> usize {
        self.changing.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.changing.is_empty()
    }

    /// All rows, in the order they were issued in.
    pub fn rows(&self) -> impl Iterator<Item = ActiveRow> + '_ {
        self.parts().map(|(number, entry, life, binding)| {
            let (team, holder) = self.binding(binding);
            ActiveRow {
                hash: entry.hash(),
                credential: entry.credential(),
                team,
                holder,
                kind: life.kind(),
                state: life.state(),
                ends_at: life.ends_at(),
                name: self.active.name(super::Handle(number)),
            }
        })
    }

    /// The digest: the sum over [`ActiveRow::write_bytes`] of all rows.
    pub fn digest(&self) -> Digest {
        let (mut digest, mut row) = (Digest::default(), Vec::with_capacity(256));
        for (number, entry, life, binding) in self.parts() {
            row.clear();
            write_fixed(&mut row, &entry.hash(), entry.credential(), self.binding(binding), life);
            self.active.read_name(number, &mut row);
            digest.add(&row);
        }
        digest
    }

    /// The checkpoint: chunks of about `target_len` bytes, for [`Active::restore`].
    pub fn chunks(&self, target_len: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
        let mut bindings = (0..self.bindings as u32).map(|number| self.binding(number));
        let mut parts = self.parts();
        let bindings = chunked(target_len, BINDINGS, move |chunk| {
            bindings.next().map(|binding| write_binding(chunk, binding)).is_some()
        });
        let rows = chunked(target_len, ROWS, move |chunk| {
            let Some((number, entry, life, binding)) = parts.next() else { return false };
            write_packed(chunk, entry, life, binding, |chunk| self.active.read_name(number, chunk));
            true
        });
        bindings.chain(rows)
    }

    /// How many rows followers of these teams (none: of all) are told of.
    pub fn nameless_len(&self, teams: Option<&BTreeSet<TeamId>>) -> usize {
        self.told(teams).count()
    }

    /// As [`Frozen::chunks`], of what followers of these teams (none: of all) are told: no `sv-` keys, no names, and no
    /// person who answers for none of these keys.
    pub fn nameless_chunks<'a>(
        &'a self,
        target_len: usize,
        teams: Option<&'a BTreeSet<TeamId>>,
    ) -> impl Iterator<Item = Vec<u8>> + 'a {
        // New numbers for the bindings that are left, in the order of the old ones.
        let mut numbers = vec![u32::MAX; self.bindings];
        self.told(teams).for_each(|(.., binding)| numbers[binding as usize] = 0);
        let left: Vec<u32> = (0..).zip(&numbers).filter(|(_, number)| **number == 0).map(|(old, _)| old).collect();
        left.iter().zip(0..).for_each(|(old, new)| numbers[*old as usize] = new);
        let mut left = left.into_iter();
        let mut told = self.told(teams);
        let bindings = chunked(target_len, BINDINGS, move |chunk| {
            left.next().map(|binding| write_binding(chunk, self.binding(binding))).is_some()
        });
        let rows = chunked(target_len, ROWS, move |chunk| {
            let Some((entry, life, binding)) = told.next() else { return false };
            let binding = numbers[binding as usize];
            write_packed(chunk, entry, life, binding, |chunk| chunk.extend_from_slice(NO_NAME));
            true
        });
        bindings.chain(rows)
    }

    fn told<'a>(&'a self, teams: Option<&'a BTreeSet<TeamId>>) -> impl Iterator<Item = (&'a Entry, Life, u32)> + 'a {
        let of_these = move |binding| teams.is_none_or(|teams| teams.contains(&self.binding(binding).0));
        self.parts()
            .filter(move |(_, _, life, binding)| life.kind() != Kind::Service && of_these(*binding))
            .map(|(_, entry, life, binding)| (entry, life, binding))
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = (u32, &Entry, Life, u32)> + '_ {
        self.changing.iter().zip(0..).filter_map(|((life, binding), number)| {
            self.active.entries.get(number).map(|entry| (number, entry, *life, *binding))
        })
    }

    pub(super) fn binding(&self, number: u32) -> (TeamId, PersonId) {
        // Every entry's binding was set before the entry was published.
        let none = (TeamId::SYSTEM, PersonId::from_bytes([0; 16]));
        self.active.bindings.get(number).map_or(none, Binding::get)
    }
}

/// Chunks of one kind, filled by `next` until it has nothing more to add.
fn chunked(target_len: usize, kind: u8, mut next: impl FnMut(&mut Vec<u8>) -> bool) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(target_len + 512);
        chunk.push(kind);
        while next(&mut chunk) && chunk.len() < target_len {}
        (chunk.len() > 1).then_some(chunk)
    })
}

fn write_binding(chunk: &mut Vec<u8>, (team, person): (TeamId, PersonId)) {
    chunk.extend_from_slice(team.as_bytes());
    chunk.extend_from_slice(person.as_bytes());
}

/// Appends a checkpoint's row.
fn write_packed(chunk: &mut Vec<u8>, entry: &Entry, life: Life, binding: u32, name: impl FnOnce(&mut Vec<u8>)) {
    chunk.extend_from_slice(&entry.hash().0);
    chunk.extend_from_slice(entry.credential().as_bytes());
    chunk.extend_from_slice(&life.word().to_le_bytes());
    chunk.extend_from_slice(&binding.to_le_bytes());
    let len_at = chunk.len();
    chunk.extend_from_slice(&[0; 4]);
    name(chunk);
    let name_len = (chunk.len() - len_at - 4) as u32;
    chunk[len_at..len_at + 4].copy_from_slice(&name_len.to_le_bytes());
}

/// `N` bytes of a row whose length was checked.
fn array<const N: usize>(row: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&row[at..at + N]);
    bytes
}

/// The bytes are not a checkpoint of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a checkpoint of the active-credential index")]
pub struct RestoreError;
