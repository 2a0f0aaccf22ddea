//! The active-credential index: secret hash → verdict, in memory.
//!
//! A credential `k` is active at `t` ⇔ issued ≤ `t` < min(expires_at, revoked_at): at `t == expires_at` it is dead,
//! whether or not an event says so yet. Any number of readers verify without a lock while one writer applies events; a
//! verification that begins after [`Active::apply`] has returned sees what it applied. Credentials that have ended
//! stay, so that services get the precise reason.

mod chunks;
pub(crate) mod entry;
mod expiries;
mod ids;
mod nameless;
mod slots;
mod snapshot;
mod verdict;

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use keyledger_events::{
    CredentialId, Event, PersonId, TeamId, Timestamp,
    commit::PlacedRecord,
    seal::Label,
    secret::{Kind, Presented, SecretHash},
};
use parking_lot::RwLock;

use self::{
    chunks::{Chunks, Words},
    entry::{Binding, Entry, Life, hash_words},
    expiries::Expiries,
    ids::Ids,
    nameless::{NO_NAME, Nameless, NamelessRow},
    slots::Slots,
};
pub use self::{
    entry::State,
    snapshot::{ActiveRow, Frozen, RestoreError, write_name, write_row},
    verdict::{Denied, Handle, Known, Surface, UnknownSurface, Verdict},
};
use crate::{Digest, feed::Change};

/// The index. Shared by reference; [`Active::apply`] is called by one projector, in the log's order.
#[derive(Debug)]
pub struct Active {
    /// Replaced by a bigger one when full; the entries never move. Readers take it from [`TABLE`].
    slots: RwLock<Arc<Slots>>,
    /// Which table `slots` is, among all tables of all indexes. Published after it.
    version: AtomicU64,
    pub(crate) entries: Chunks<Entry>,
    /// How many entries are filled. Published after their slots.
    len: AtomicUsize,
    /// Where each entry's name begins in `names`.
    name_starts: Chunks<AtomicU32>,
    /// Postcard of [`Label`]s.
    names: Words,
    /// Each (team, holder) once; entries hold its number.
    bindings: Chunks<Binding>,
    /// One bit an entry: used since the last drain of `usage`.
    pub(crate) used: Chunks<AtomicU64>,
    pub(crate) writer: RwLock<Writer>,
    /// Set once somebody has asked for the nameless digest, which is then kept.
    keeps_nameless: OnceLock<()>,
}

/// What only the writer needs, and who asks by credential id.
#[derive(Debug)]
pub(crate) struct Writer {
    ids: Ids,
    expiries: Expiries,
    binding_numbers: HashMap<(TeamId, PersonId), u32>,
    names_end: u32,
    /// None until somebody asks for it.
    nameless: Option<Nameless>,
}

/// What the index holds in memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBytes {
    /// Everything but names: entries, tables, expiries, bindings.
    pub index: usize,
    /// Names, and where each begins.
    pub names: usize,
}

/// In `name_starts`: the name is empty and takes no room. No name begins there, for none could end behind it.
const NAMELESS: u32 = u32::MAX;

/// The version of the next table.
static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The table this thread searched last, and its version. Who finds the version unchanged writes to no memory that
    /// others read: no reference count, no hazard pointer.
    static TABLE: RefCell<(u64, Option<Arc<Slots>>)> = const { RefCell::new((0, None)) };
}

impl Default for Active {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Active {
    /// An empty index with tables for so many credentials.
    pub fn with_capacity(credentials: usize) -> Self {
        Self {
            slots: RwLock::new(Arc::new(Slots::for_entries(credentials))),
            version: AtomicU64::new(NEXT_VERSION.fetch_add(1, Relaxed)),
            entries: Chunks::default(),
            len: AtomicUsize::new(0),
            name_starts: Chunks::default(),
            names: Words::default(),
            bindings: Chunks::default(),
            used: Chunks::default(),
            writer: RwLock::new(Writer {
                ids: Ids::for_entries(credentials),
                expiries: Expiries::default(),
                binding_numbers: HashMap::new(),
                names_end: 0,
                nameless: None,
            }),
            keeps_nameless: OnceLock::new(),
        }
    }

    /// Judges what somebody presents at `now`, the ledger's own monotone clock. `team` and `surface` are what the asker
    /// expects; without them any will do. No lock, no allocation, no disk.
    ///
    /// # Errors
    /// [`Denied`]. Every doubt denies.
    #[inline]
    pub fn verify(
        &self,
        presented: &[u8],
        surface: Option<Surface>,
        team: Option<TeamId>,
        now: Timestamp,
    ) -> Result<Verdict, Denied> {
        let presented = Presented::parse(presented).map_err(|_| Denied::Malformed)?;
        self.judge(&presented.hash(), surface, team, now)
    }

    /// As [`Active::verify`], for who has the hash already.
    ///
    /// # Errors
    /// [`Denied`].
    #[inline]
    pub fn judge(
        &self,
        hash: &SecretHash,
        surface: Option<Surface>,
        team: Option<TeamId>,
        now: Timestamp,
    ) -> Result<Verdict, Denied> {
        let words = hash_words(hash);
        let (number, entry) = self.find(&words).ok_or(Denied::Unknown)?;
        // The writer ends a credential in `life` alone, in one word: after it there is nothing to tear.
        let life = entry.life();
        let (of_team, holder) = self.bindings.get(entry.binding()).ok_or(Denied::Unknown)?.get();
        if team.is_some_and(|team| team != of_team) {
            return Err(Denied::WrongTeam);
        }
        match life.state() {
            State::Revoked => return Err(Denied::Revoked),
            State::Expired => return Err(Denied::Expired),
            State::Alive if life.is_over(now) => return Err(Denied::Expired),
            State::Alive => {}
        }
        let verdict = Verdict {
            credential: entry.credential(),
            kind: life.kind(),
            team: of_team,
            holder,
            expires_at: life.ends_at(),
            handle: Handle(number),
        };
        if surface.is_some_and(|surface| !surface.takes(verdict.kind)) {
            return Err(Denied::WrongSurface(verdict));
        }
        Ok(verdict)
    }

    /// What is known of a secret by its hash, dead or alive.
    pub fn known(&self, hash: &SecretHash, now: Timestamp) -> Option<Known> {
        let (_, entry) = self.find(&hash_words(hash))?;
        self.known_entry(entry, now)
    }

    /// The same by a credential's id.
    pub fn known_by_id(&self, credential: CredentialId, now: Timestamp) -> Option<Known> {
        let (_, entry) = self.entry_of(&self.writer.read(), credential)?;
        self.known_entry(entry, now)
    }

    fn known_entry(&self, entry: &Entry, now: Timestamp) -> Option<Known> {
        let (team, holder) = self.bindings.get(entry.binding())?.get();
        let life = entry.life();
        let alive = life.state() == State::Alive && !life.is_over(now);
        Some(Known { credential: entry.credential(), kind: life.kind(), team, holder, alive })
    }

    #[inline]
    fn find(&self, words: &[u64; 4]) -> Option<(u32, &Entry)> {
        let search = |slots: &Slots| {
            slots.find(words[0], |number| {
                self.entries.get(number).filter(|entry| entry.has_hash(words)).map(|entry| (number, entry))
            })
        };
        let version = self.version.load(Acquire);
        let found = TABLE.try_with(|table| {
            let mut table = table.borrow_mut();
            if table.0 != version {
                *table = (version, Some(self.slots.read().clone()));
            }
            table.1.as_deref().and_then(search)
        });
        // A thread that is ending has no table of its own any more.
        found.unwrap_or_else(|_| search(&self.slots.read()))
    }

    /// What people call the credential.
    pub fn name(&self, handle: Handle) -> Label {
        let mut bytes = Vec::new();
        self.read_name(handle.0, &mut bytes);
        // Only this index's own handles exist, and what it wrote it can read.
        postcard::from_bytes(&bytes).unwrap_or(Label::Clear(String::new()))
    }

    /// Takes in one event. Events that are not about a credential change nothing.
    pub fn apply(&self, placed: &PlacedRecord) {
        self.apply_event(placed.record.team, &placed.record.event);
    }

    /// As [`Active::apply`], for who has no position at hand.
    pub fn apply_event(&self, team: TeamId, event: &Event) {
        let Some(change) = Change::of(event) else { return };
        match event {
            Event::CredentialIssued(e) => self.apply_named(team, &change, &e.name),
            Event::ServiceCredentialIssued(e) => self.apply_named(team, &change, &Label::Clear(e.name.clone())),
            _ => self.apply_change(team, &change),
        }
    }

    /// Takes in what a follower of the feed is told: as [`Active::apply_event`], but nothing has a name.
    pub fn apply_change(&self, team: TeamId, change: &Change) {
        self.apply_named(team, change, &Label::Clear(String::new()));
    }

    fn apply_named(&self, team: TeamId, change: &Change, name: &Label) {
        match *change {
            Change::CredentialIssued { credential, kind, ref hash, holder, expires_at, companion_of } => {
                let mut writer = self.writer.write();
                // A companion never outlives its device, whatever the log says of its own end.
                let device_ends = companion_of
                    .and_then(|id| self.entry_of(&writer, id))
                    .and_then(|(_, device)| device.life().ends_at());
                let life = Life::new(kind, State::Alive, earlier(expires_at, device_ends));
                self.insert(&mut writer, hash, credential, life, (team, holder), &label_bytes(name));
            }
            Change::CredentialRevoked { credential } => {
                self.change(credential, team, |life| (State::Revoked, life.ends_at()));
            }
            // A companion whose own end had come by then has expired, as the clock had said all along.
            Change::CredentialCascadeRevoked { credential, effective_at } => self.change(credential, team, |life| {
                let state = if life.is_over(effective_at) { State::Expired } else { State::Revoked };
                (state, earlier(life.ends_at(), Some(effective_at)))
            }),
            Change::CredentialExpired { credential, effective_at } => {
                self.change(credential, team, |life| (State::Expired, earlier(life.ends_at(), Some(effective_at))));
            }
            Change::ExpiryShortened { credential, to } => {
                self.change(credential, team, |life| (State::Alive, earlier(life.ends_at(), Some(to))));
            }
            Change::CredentialHandedOver { credential, to } => {
                let mut writer = self.writer.write();
                if let Some((_, entry)) = self.entry_of(&writer, credential)
                    && self.is_alive_in(entry, team)
                {
                    let binding = self.binding(&mut writer, (team, to));
                    self.changing(&mut writer, entry, || entry.set_binding(binding));
                }
            }
        }
    }

    /// A credential's kind, if it knows it.
    pub fn kind_of(&self, credential: CredentialId) -> Option<Kind> {
        let writer = self.writer.read();
        self.entry_of(&writer, credential).map(|(_, entry)| entry.life().kind())
    }

    /// How many credentials it knows, alive or not.
    pub fn len(&self) -> usize {
        self.len.load(Acquire)
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most `max` credentials that have ended by `now` without an event that says so, with the time each ended at:
    /// the sweeper's work. They come again until the event is applied.
    pub fn due(&self, now: Timestamp, max: usize) -> Vec<(TeamId, CredentialId, Timestamp)> {
        let due = self.writer.write().expiries.due(now, max, |number| {
            self.entries.get(number).map(Entry::life).filter(|life| life.state() == State::Alive)?.ends_at()
        });
        due.into_iter()
            .filter_map(|(number, ended_at)| {
                let entry = self.entries.get(number)?;
                let (team, _) = self.bindings.get(entry.binding())?.get();
                Some((team, entry.credential(), ended_at))
            })
            .collect()
    }

    /// When to ask [`Active::due`] again: no other credential than it has named ends before. None: no other has an end.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.writer.read().expiries.next()
    }

    /// All credentials that are alive by the events and have an end, with it.
    pub fn ending(&self) -> impl Iterator<Item = (TeamId, CredentialId, Timestamp)> + '_ {
        (0..self.len() as u32).filter_map(|number| {
            let entry = self.entries.get(number)?;
            let ends_at = Some(entry.life()).filter(|life| life.state() == State::Alive)?.ends_at()?;
            let (team, _) = self.bindings.get(entry.binding())?.get();
            Some((team, entry.credential(), ends_at))
        })
    }

    /// When a credential ends that is alive by the events; `None` if it is not, or never ends by itself.
    pub fn end_of(&self, credential: CredentialId) -> Option<Timestamp> {
        let (_, entry) = self.entry_of(&self.writer.read(), credential)?;
        Some(entry.life()).filter(|life| life.state() == State::Alive)?.ends_at()
    }

    /// The digest of its state: the sum over [`ActiveRow::write_bytes`] of all rows, computed from what is in memory now.
    pub fn digest(&self) -> Digest {
        self.freeze().digest()
    }

    /// What it holds in memory.
    pub fn memory_bytes(&self) -> MemoryBytes {
        let (len, writer) = (self.len(), self.writer.read());
        MemoryBytes {
            index: self.slots.read().memory_bytes()
                + self.entries.memory_bytes(len)
                + self.used.memory_bytes(len.div_ceil(64))
                + self.bindings.memory_bytes(writer.binding_numbers.len())
                + writer.binding_numbers.capacity() * 37
                + writer.ids.memory_bytes()
                + writer.expiries.memory_bytes(),
            names: self.names.memory_bytes(writer.names_end as usize) + self.name_starts.memory_bytes(len),
        }
    }

    fn insert(
        &self,
        writer: &mut Writer,
        hash: &SecretHash,
        credential: CredentialId,
        life: Life,
        binding: (TeamId, PersonId),
        name: &[u8],
    ) {
        // An id issued twice: the first stands, which events can still end; the second is never accepted.
        if self.entry_of(writer, credential).is_some() {
            return;
        }
        let binding = self.binding(writer, binding);
        self.insert_new(writer, hash, credential, life, binding, name);
    }

    fn insert_new(
        &self,
        writer: &mut Writer,
        hash: &SecretHash,
        credential: CredentialId,
        life: Life,
        binding: u32,
        name: &[u8],
    ) {
        let len = self.len.load(Relaxed);
        let Some(number) = u32::try_from(len).ok().filter(|number| *number < u32::MAX - 1) else { return };
        let name_start = self.name_starts.reserve(number);
        if name == NO_NAME {
            name_start.store(NAMELESS, Relaxed);
        } else if let Some(end) = self.names.write(writer.names_end, name) {
            name_start.store(writer.names_end, Relaxed);
            writer.names_end = end;
        }
        self.used.reserve(number / 64);
        let entry = self.entries.reserve(number);
        entry.fill(hash, credential, life, binding);
        if let Some(nameless) = &mut writer.nameless
            && let Some(row) = self.nameless_row(entry)
        {
            nameless.add(&row);
        }
        writer.ids.insert(credential, len, |number| self.entries.get(number).map(Entry::credential));
        if let Some(ends_at) = life.ends_at()
            && life.state() == State::Alive
        {
            writer.expiries.file(ends_at, number);
        }
        self.publish(len, entry);
    }

    fn read_name(&self, number: u32, out: &mut Vec<u8>) {
        match self.name_starts.get(number).map(|start| start.load(Relaxed)) {
            Some(NAMELESS) => out.extend_from_slice(NO_NAME),
            Some(start) => self.names.read(start, out),
            None => {}
        }
    }

    /// Makes entry number `len` findable.
    fn publish(&self, len: usize, entry: &Entry) {
        let slots = self.slots.read().clone();
        if slots.is_full(len) {
            let bigger = Slots::for_entries(len * 2);
            for number in 0..len as u32 {
                if let Some(entry) = self.entries.get(number) {
                    bigger.insert(entry.hash_word(), number);
                }
            }
            bigger.insert(entry.hash_word(), len as u32);
            *self.slots.write() = Arc::new(bigger);
            self.version.store(NEXT_VERSION.fetch_add(1, Relaxed), Release);
        } else {
            slots.insert(entry.hash_word(), len as u32);
        }
        self.len.store(len + 1, Release);
    }

    /// Gives a credential that is alive by the events another state or end.
    fn change(&self, credential: CredentialId, team: TeamId, change: impl FnOnce(Life) -> (State, Option<Timestamp>)) {
        let mut writer = self.writer.write();
        let Some((number, entry)) = self.entry_of(&writer, credential) else { return };
        if !self.is_alive_in(entry, team) {
            return;
        }
        let before = entry.life();
        let (state, ends_at) = change(before);
        self.changing(&mut writer, entry, || entry.set_life(Life::new(before.kind(), state, ends_at)));
        if let (State::Alive, Some(ends_at)) = (state, ends_at)
            && Some(ends_at) != before.ends_at()
        {
            writer.expiries.file(ends_at, number);
        }
    }

    /// Changes a row, and what is kept of it.
    fn changing(&self, writer: &mut Writer, entry: &Entry, change: impl FnOnce()) {
        let Some(nameless) = &mut writer.nameless else { return change() };
        let before = self.nameless_row(entry);
        change();
        if let (Some(before), Some(after)) = (before, self.nameless_row(entry)) {
            nameless.replace(&before, &after);
        }
    }

    fn nameless_row(&self, entry: &Entry) -> Option<NamelessRow> {
        NamelessRow::of(entry, self.bindings.get(entry.binding())?.get(), entry.life())
    }

    /// What has ended stays as it ended, and no team's events touch another's credentials.
    fn is_alive_in(&self, entry: &Entry, team: TeamId) -> bool {
        let of_team = self.bindings.get(entry.binding()).map(|binding| binding.get().0);
        entry.life().state() == State::Alive && of_team == Some(team)
    }

    pub(crate) fn entry_of(&self, writer: &Writer, credential: CredentialId) -> Option<(u32, &Entry)> {
        let number = writer.ids.find(credential, |number| self.entries.get(number).map(Entry::credential))?;
        Some((number, self.entries.get(number)?))
    }

    fn binding(&self, writer: &mut Writer, binding: (TeamId, PersonId)) -> u32 {
        let next = writer.binding_numbers.len() as u32;
        *writer.binding_numbers.entry(binding).or_insert_with(|| {
            self.bindings.reserve(next).fill(binding);
            next
        })
    }
}

/// The earlier of two ends, either of which may be never.
fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn label_bytes(label: &Label) -> Vec<u8> {
    // No label has a type that postcard refuses.
    postcard::to_allocvec(label).unwrap_or_default()
}

#[cfg(test)]
mod tests;
