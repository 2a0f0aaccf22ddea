//! A team's credentials: one row each, whatever became of it, and the list that pages and scripts ask for.

use std::collections::HashMap;

use keyledger_events::{
    CredentialId, Event, PersonId, Position, Revision, Timestamp,
    commit::PlacedRecord,
    event::RevokeReason,
    record::Actor,
    seal::{Label, Sealed},
    secret::{KeyPrefix, Kind},
    time::DAY_US,
};

use super::columns::{Column, Persons};
use crate::usage::Use;

/// All credentials of one team. Changed by its [`super::TeamView`] only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Directory {
    /// In the order they were issued in.
    rows: Vec<Row>,
    /// What filters look at, row by row: a long list is scanned without touching the rows.
    columns: Vec<Column>,
    numbers: HashMap<CredentialId, u32>,
    persons: Persons,
}

/// One credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: CredentialId,
    /// Its kind.
    pub kind: Kind,
    /// What its people call it.
    pub label: Label,
    /// The first characters of its secret.
    pub prefix: KeyPrefix,
    /// What it is for.
    pub purpose: Option<String>,
    /// Who answers for it now; for a device, whose it is.
    pub holder: PersonId,
    /// Who issued it.
    pub issued_by: Actor,
    /// When.
    pub issued_at: Timestamp,
    /// Where the log says so.
    pub issued_position: Position,
    /// When it ends by itself; none: never.
    pub expires_at: Option<Timestamp>,
    /// How it ended, if an event says so.
    pub ended: Option<Ended>,
    /// The device it belongs to: itself for a device, its device for a companion.
    pub device: Option<CredentialId>,
    /// A device's companion.
    pub companion: Option<CredentialId>,
    /// The credential it took over from.
    pub rotated_from: Option<CredentialId>,
    /// The credential that took over from it.
    pub rotated_to: Option<CredentialId>,
    /// The last event about it, for its `ETag`.
    pub last_position: Position,
    /// When and from where it was last presented after its end, as far as that is recorded: at most once a UTC day.
    pub dead_presented: Option<Use>,
    /// The revision of the last event that changed what it is worth or who answers for it: its ETag.
    pub revision: Revision,
}

/// The end of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Since when that holds.
    pub at: Timestamp,
    /// Why.
    pub reason: EndReason,
    /// What whoever did it wrote about it.
    pub note: Option<String>,
    /// Who did it.
    pub by: Actor,
    /// Where the log says so.
    pub position: Position,
}

/// Why a credential has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Somebody ended it.
    Revoked(RevokeReason),
    /// Its device was ended.
    DeviceEnded,
    /// Its time had come.
    Expired,
}

impl EndReason {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Revoked(RevokeReason::Requested) => "requested",
            Self::Revoked(RevokeReason::SelfRevoked) => "self_revoked",
            Self::Revoked(RevokeReason::MemberDeparted) => "member_departed",
            Self::Revoked(RevokeReason::Leaked) => "leaked",
            Self::DeviceEnded => "device_ended",
            Self::Expired => "expired",
        }
    }
}

/// What a credential is worth at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It is accepted.
    Active,
    /// Somebody ended it, or its device.
    Revoked,
    /// Its time has come.
    Expired,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Active, Self::Revoked, Self::Expired];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|status| status.name() == text).ok_or(())
    }
}

impl Row {
    /// What it is worth at `now`: by the clock, whether or not an event records an expiry yet.
    pub fn status(&self, now: Timestamp) -> Status {
        match &self.ended {
            Some(Ended { reason: EndReason::Expired, .. }) => Status::Expired,
            Some(_) => Status::Revoked,
            None if self.expires_at.is_some_and(|end| end <= now) => Status::Expired,
            None => Status::Active,
        }
    }

    /// Whether it was born with a device and dies with it.
    pub fn is_companion(&self) -> bool {
        self.device.is_some_and(|device| device != self.id)
    }

    /// Whether it is a member's own thing, a device or its companion, and not the team's.
    pub fn is_personal(&self) -> bool {
        self.device.is_some()
    }

    /// The person who issued it; `None` if no person did.
    pub fn issuer(&self) -> Option<PersonId> {
        match self.issued_by {
            Actor::Person(person) => Some(person),
            Actor::Credential(_) | Actor::System => None,
        }
    }
}

/// Which rows are asked for. What is `None` or `false` does not restrict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter<'a> {
    /// This very one.
    pub id: Option<CredentialId>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Worth this now.
    pub status: Option<Status>,
    /// Issued by this person.
    pub issued_by: Option<PersonId>,
    /// Held by this person.
    pub holder: Option<PersonId>,
    /// Whose holder has left the team.
    pub departed: bool,
    /// Ending by themselves before this.
    pub expires_before: Option<Timestamp>,
    /// Neither issued nor used in this many days.
    pub unused_days: Option<u32>,
    /// With this in the name or at the start of the secret, in any case of letters.
    pub q: Option<&'a str>,
    /// What this person may see who sees no devices but their own.
    pub own_devices_of: Option<PersonId>,
}

/// What a filter asks others for.
pub struct Lookups<'a> {
    /// When a credential was last used.
    pub last_used: &'a dyn Fn(CredentialId) -> Option<Timestamp>,
    /// Opens a sealed name; `None` if its key is gone.
    pub open: &'a dyn Fn(&Sealed) -> Option<String>,
}

/// A page of the list.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// Its rows.
    pub rows: Vec<&'a Row>,
    /// How many rows there are on all pages.
    pub total: u64,
}

impl Directory {
    /// A credential.
    pub fn get(&self, id: CredentialId) -> Option<&Row> {
        self.rows.get(self.number(id)? as usize)
    }

    /// All rows, in the order they were issued in.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The page (from 1) of the rows that pass, newest first, as they stand at `now`.
    pub fn page(
        &self,
        filter: &Filter<'_>,
        now: Timestamp,
        lookups: &Lookups<'_>,
        page: u64,
        per_page: u64,
    ) -> Page<'_> {
        let skip = page.saturating_sub(1).saturating_mul(per_page);
        if *filter == Filter::default() {
            let clamp = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
            let rows = self.rows.iter().rev().skip(clamp(skip)).take(clamp(per_page)).collect();
            return Page { rows, total: self.rows.len() as u64 };
        }
        let (mut rows, mut total) = (Vec::new(), 0);
        for row in self.select(filter, now, lookups) {
            if total >= skip && total - skip < per_page {
                rows.push(row);
            }
            total += 1;
        }
        Page { rows, total }
    }

    /// All rows that pass, newest first, as they stand at `now`.
    pub fn select<'s, 'q>(
        &'s self,
        filter: &Filter<'_>,
        now: Timestamp,
        lookups: &'q Lookups<'q>,
    ) -> impl Iterator<Item = &'s Row> + use<'s, 'q> {
        let candidates = match filter.id {
            Some(id) => self.number(id).map_or(0..0, |number| number as usize..number as usize + 1),
            None => 0..self.rows.len(),
        };
        let fast = self.persons.resolve(filter);
        let q = filter.q.map(str::to_lowercase);
        let unused_since = filter
            .unused_days
            .map(|days| Timestamp::from_micros(now.micros().saturating_sub(u64::from(days).saturating_mul(DAY_US))));
        candidates.rev().filter_map(move |number| {
            let column = self.columns.get(number)?;
            if !fast.as_ref()?.passes(column, &self.persons, now) {
                return None;
            }
            let row = self.rows.get(number)?;
            let found =
                q.as_ref().is_none_or(|q| row.prefix.as_str().to_lowercase().starts_with(q) || named(row, q, lookups));
            let unused = unused_since.is_none_or(|since| {
                row.issued_at <= since && (lookups.last_used)(row.id).is_none_or(|used| used <= since)
            });
            (found && unused).then_some(row)
        })
    }

    /// The rows, newest first, that are alive at `now` and whose holder has left, or is `holder` if one is given.
    pub(super) fn live_of(&self, holder: Option<PersonId>, now: Timestamp) -> impl Iterator<Item = &Row> {
        let filter = Filter { status: Some(Status::Active), holder, departed: holder.is_none(), ..Filter::default() };
        let fast = self.persons.resolve(&filter);
        (0..self.rows.len()).rev().filter_map(move |number| {
            let passes = fast.as_ref()?.passes(self.columns.get(number)?, &self.persons, now);
            if passes { self.rows.get(number) } else { None }
        })
    }

    pub(super) fn number(&self, id: CredentialId) -> Option<u32> {
        self.numbers.get(&id).copied()
    }

    pub(super) fn note_departed(&mut self, person: PersonId, departed: bool) {
        let number = self.persons.number(person) as usize;
        self.persons.departed[number] = departed;
    }

    pub(super) fn apply(&mut self, placed: &PlacedRecord) {
        let (position, record) = (placed.position, &placed.record);
        let (by, at) = (record.meta.actor, record.recorded_at);
        match &record.event {
            Event::CredentialIssued(e) => {
                let device = if e.kind == Kind::Device { Some(e.credential) } else { e.companion_of };
                self.issue(Row {
                    id: e.credential,
                    kind: e.kind,
                    label: e.name.clone(),
                    prefix: e.prefix,
                    purpose: e.purpose.clone(),
                    holder: e.holder,
                    issued_by: by,
                    issued_at: at,
                    issued_position: position,
                    expires_at: e.expires_at,
                    ended: None,
                    device,
                    companion: None,
                    rotated_from: e.rotated_from,
                    rotated_to: None,
                    last_position: position,
                    dead_presented: None,
                    revision: placed.record.revision,
                });
                if let Some(device) = e.companion_of.and_then(|id| self.row_mut(id)) {
                    device.companion = Some(e.credential);
                    device.last_position = position;
                }
                if let Some(old) = e.rotated_from.and_then(|id| self.row_mut(id)) {
                    old.rotated_to = Some(e.credential);
                    old.last_position = position;
                }
            }
            Event::ServiceCredentialIssued(e) => self.issue(Row {
                id: e.credential,
                kind: Kind::Service,
                label: Label::Clear(e.name.clone()),
                prefix: e.prefix,
                purpose: None,
                holder: e.holder,
                issued_by: by,
                issued_at: at,
                issued_position: position,
                expires_at: e.expires_at,
                ended: None,
                device: None,
                companion: None,
                rotated_from: None,
                rotated_to: None,
                last_position: position,
                dead_presented: None,
                revision: placed.record.revision,
            }),
            Event::CredentialRevoked(e) => self.change(e.credential, placed, |row| {
                let reason = EndReason::Revoked(e.reason);
                row.ended.get_or_insert(Ended { at, reason, note: e.note.clone(), by, position });
            }),
            Event::CredentialCascadeRevoked(e) => self.change(e.credential, placed, |row| {
                // A companion whose own end had come by then has expired, as the clock had said all along.
                let was_over = row.expires_at.is_some_and(|end| end <= e.effective_at);
                let reason = if was_over { EndReason::Expired } else { EndReason::DeviceEnded };
                row.ended.get_or_insert(Ended { at: e.effective_at, reason, note: None, by, position });
            }),
            Event::CredentialExpired(e) => self.change(e.credential, placed, |row| {
                let reason = EndReason::Expired;
                row.ended.get_or_insert(Ended { at: e.effective_at, reason, note: None, by, position });
            }),
            Event::ExpiryShortened(e) => self.change(e.credential, placed, |row| {
                row.expires_at = Some(row.expires_at.map_or(e.to, |end| end.min(e.to)));
            }),
            Event::CredentialHandedOver(e) => self.change(e.credential, placed, |row| row.holder = e.to),
            Event::CredentialLeaked(e) => {
                if let Some(row) = self.row_mut(e.credential) {
                    row.last_position = position;
                }
            }
            Event::DeadKeyPresented(e) => {
                if let Some(row) = self.row_mut(e.credential) {
                    row.dead_presented = Some(Use { at: e.presented_at, surface: e.surface, address: e.address });
                    row.last_position = position;
                }
            }
            _ => {}
        }
    }

    fn issue(&mut self, row: Row) {
        let number = self.rows.len() as u32;
        // An id issued twice: the first stands, as in the active-credential index.
        if *self.numbers.entry(row.id).or_insert(number) != number {
            return;
        }
        self.columns.push(Column::of(&row, &mut self.persons));
        self.rows.push(row);
    }

    fn change(&mut self, id: CredentialId, placed: &PlacedRecord, change: impl FnOnce(&mut Row)) {
        let Some(number) = self.number(id) else { return };
        if let Some(row) = self.rows.get_mut(number as usize) {
            change(row);
            row.last_position = placed.position;
            row.revision = placed.record.revision;
            self.columns[number as usize] = Column::of(row, &mut self.persons);
        }
    }

    fn row_mut(&mut self, id: CredentialId) -> Option<&mut Row> {
        let number = self.number(id)?;
        self.rows.get_mut(number as usize)
    }
}

fn named(row: &Row, lowercase: &str, lookups: &Lookups<'_>) -> bool {
    match &row.label {
        Label::Clear(name) => name.to_lowercase().contains(lowercase),
        Label::Sealed(sealed) => (lookups.open)(sealed).is_some_and(|name| name.to_lowercase().contains(lowercase)),
    }
}
