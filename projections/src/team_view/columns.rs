//! What filters of the directory look at, row by row: a long list is scanned without touching the rows themselves.

use std::collections::HashMap;

use keyledger_events::{PersonId, Timestamp, secret::Kind};

use super::directory::{Filter, Row, Status};

/// What filters look at: 24 bytes a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// In microseconds; `u64::MAX`: never.
    expires_at: u64,
    holder: u32,
    /// `u32::MAX`: no person.
    issued_by: u32,
    kind: Kind,
    ended: Option<Status>,
    is_personal: bool,
}

impl Column {
    pub(super) fn of(row: &Row, persons: &mut Persons) -> Self {
        Self {
            expires_at: row.expires_at.map_or(u64::MAX, Timestamp::micros),
            holder: persons.number(row.holder),
            issued_by: row.issuer().map_or(u32::MAX, |person| persons.number(person)),
            kind: row.kind,
            ended: row.ended.as_ref().map(|_| row.status(row.issued_at)),
            is_personal: row.is_personal(),
        }
    }
}

/// The persons that a team's rows name, by number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Persons {
    numbers: HashMap<PersonId, u32>,
    pub(super) departed: Vec<bool>,
}

impl Persons {
    pub(super) fn number(&mut self, person: PersonId) -> u32 {
        let next = self.departed.len() as u32;
        let number = *self.numbers.entry(person).or_insert(next);
        if number == next {
            self.departed.push(false);
        }
        number
    }

    /// The filter in numbers; `None` if it names a person whom no row names, so that none can pass.
    pub(super) fn resolve(&self, filter: &Filter<'_>) -> Option<FastFilter> {
        let number = |person: Option<PersonId>| match person {
            None => Some(None),
            Some(person) => self.numbers.get(&person).map(|number| Some(*number)),
        };
        Some(FastFilter {
            kind: filter.kind,
            status: filter.status,
            issued_by: number(filter.issued_by)?,
            holder: number(filter.holder)?,
            departed: filter.departed,
            expires_before: filter.expires_before.map(Timestamp::micros),
            own_devices_of: filter.own_devices_of.map(|person| self.numbers.get(&person).copied()),
        })
    }
}

/// The part of a filter that columns answer.
pub(super) struct FastFilter {
    kind: Option<Kind>,
    status: Option<Status>,
    issued_by: Option<u32>,
    holder: Option<u32>,
    departed: bool,
    expires_before: Option<u64>,
    /// The inner `None`: somebody who has no devices.
    own_devices_of: Option<Option<u32>>,
}

impl FastFilter {
    pub(super) fn passes(&self, column: &Column, persons: &Persons, now: Timestamp) -> bool {
        let status =
            column.ended.unwrap_or(if column.expires_at <= now.micros() { Status::Expired } else { Status::Active });
        self.kind.is_none_or(|kind| kind == column.kind)
            && self.status.is_none_or(|wanted| wanted == status)
            && self.issued_by.is_none_or(|person| person == column.issued_by)
            && self.holder.is_none_or(|person| person == column.holder)
            && (!self.departed || persons.departed[column.holder as usize])
            && self.expires_before.is_none_or(|before| column.expires_at < before)
            && self.own_devices_of.is_none_or(|person| !column.is_personal || person == Some(column.holder))
    }
}
