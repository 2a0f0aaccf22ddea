//! A team's events by credential, actor, type and time: where they are, not what they say.
//!
//! Each event has a number within the team. For every value of a filter, and for every pair of actor and type, there is
//! the ascending list of the events it fits. A query takes one list that all its filters (but a credential's, whose own
//! list is short) have been cut into, and halves its way to the first event wanted: no filter makes it scan.

use std::collections::{BTreeMap, HashMap};

use keyledger_events::{CredentialId, PersonId, Position, Timestamp, commit::PlacedRecord, record::Actor};

/// All events of one team. Changed by its [`super::TeamView`] only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    events: Vec<Entry>,
    actors: HashMap<Actor, u32>,
    of_credential: Vec<Vec<u32>>,
    of_actor: Vec<Vec<u32>>,
    of_type: BTreeMap<u16, Vec<u32>>,
    of_actor_and_type: HashMap<(u32, u16), Vec<u32>>,
}

/// What a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    position: Position,
    recorded_at: Timestamp,
    actor: u32,
    kind: u16,
}

/// Which events are asked for. What is `None` does not restrict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// About this credential.
    pub credential: Option<CredentialId>,
    /// Done by this actor.
    pub actor: Option<Actor>,
    /// Of this type: the number in the record's header.
    pub kind: Option<u16>,
    /// Recorded at this instant or later.
    pub from: Option<Timestamp>,
    /// Recorded before this instant.
    pub to: Option<Timestamp>,
    /// Behind this position in the order asked for: where the page before ended.
    pub after: Option<Position>,
    /// Whether the newest come first.
    pub newest_first: bool,
    /// At most so many.
    pub limit: usize,
}

/// A page of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where the events are, in the order asked for.
    pub positions: Vec<Position>,
    /// What `after` of the next page is; `None` if this is the last.
    pub next: Option<Position>,
}

impl super::TeamView {
    /// Answers a query.
    pub fn audit(&self, query: &Query) -> Found {
        let credential = match query.credential {
            None => None,
            Some(id) => match self.directory.number(id) {
                Some(number) => Some(number),
                None => return Found::default(),
            },
        };
        self.audit.query(query, credential)
    }
}

impl Audit {
    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The actor with these 16 bytes as id, a person or a credential, if it ever did anything here.
    pub fn actor(&self, id: [u8; 16]) -> Option<Actor> {
        let actors = [Actor::Person(PersonId::from_bytes(id)), Actor::Credential(CredentialId::from_bytes(id))];
        actors.into_iter().find(|actor| self.actors.contains_key(actor))
    }

    /// Where the events about the credential with this row number are.
    pub(super) fn about(&self, credential: u32) -> Vec<Position> {
        let numbers = self.of_credential.get(credential as usize).into_iter().flatten();
        numbers.filter_map(|number| self.events.get(*number as usize)).map(|event| event.position).collect()
    }

    pub(super) fn apply(&mut self, placed: &PlacedRecord, credential: Option<u32>) {
        let number = self.events.len() as u32;
        let next_actor = self.actors.len() as u32;
        let actor = *self.actors.entry(placed.record.meta.actor).or_insert(next_actor);
        let (kind, _) = placed.record.event.header();
        self.events.push(Entry { position: placed.position, recorded_at: placed.record.recorded_at, actor, kind });
        if let Some(credential) = credential {
            list(&mut self.of_credential, credential).push(number);
        }
        list(&mut self.of_actor, actor).push(number);
        self.of_type.entry(kind).or_default().push(number);
        self.of_actor_and_type.entry((actor, kind)).or_default().push(number);
    }

    fn query(&self, query: &Query, credential: Option<u32>) -> Found {
        let actor = match query.actor {
            None => None,
            Some(actor) => match self.actors.get(&actor) {
                Some(number) => Some(*number),
                None => return Found::default(),
            },
        };
        // The events in question, as numbers: a list, or all.
        let list = match (credential, actor, query.kind) {
            (Some(credential), ..) => Some(self.of_credential.get(credential as usize)),
            (None, Some(actor), Some(kind)) => Some(self.of_actor_and_type.get(&(actor, kind))),
            (None, Some(actor), None) => Some(self.of_actor.get(actor as usize)),
            (None, None, Some(kind)) => Some(self.of_type.get(&kind)),
            (None, None, None) => None,
        };
        let fits = |event: &&Entry| {
            actor.is_none_or(|actor| actor == event.actor) && query.kind.is_none_or(|kind| kind == event.kind)
        };
        match list {
            Some(None) => Found::default(),
            Some(Some(numbers)) => {
                let (from, to) = self.bounds(query, |is_before| {
                    numbers.partition_point(|number| self.events.get(*number as usize).is_some_and(is_before))
                });
                let wanted = numbers.get(from..to).unwrap_or_default();
                page(query, wanted.iter().filter_map(|number| self.events.get(*number as usize)).filter(fits))
            }
            None => {
                let (from, to) = self.bounds(query, |is_before| self.events.partition_point(is_before));
                page(query, self.events.get(from..to).unwrap_or_default().iter())
            }
        }
    }

    /// Where the wanted events begin and end, given how to find the first that is not before something.
    fn bounds(&self, query: &Query, first_not: impl Fn(&dyn Fn(&Entry) -> bool) -> usize) -> (usize, usize) {
        let mut from = query.from.map_or(0, |from| first_not(&|event| event.recorded_at < from));
        let mut to = query.to.map_or(usize::MAX, |to| first_not(&|event| event.recorded_at < to));
        match query.after {
            Some(after) if query.newest_first => to = to.min(first_not(&|event| event.position < after)),
            Some(after) => from = from.max(first_not(&|event| event.position <= after)),
            None => {}
        }
        to = to.min(first_not(&|_| true));
        (from, to.max(from))
    }
}

/// Cuts a page off what is left of the wanted events.
fn page<'a>(query: &Query, events: impl DoubleEndedIterator<Item = &'a Entry>) -> Found {
    let mut positions: Vec<Position> = if query.newest_first {
        events.rev().take(query.limit.saturating_add(1)).map(|event| event.position).collect()
    } else {
        events.take(query.limit.saturating_add(1)).map(|event| event.position).collect()
    };
    let more = positions.len() > query.limit;
    positions.truncate(query.limit);
    Found { next: positions.last().copied().filter(|_| more), positions }
}

fn list(lists: &mut Vec<Vec<u32>>, number: u32) -> &mut Vec<u32> {
    let number = number as usize;
    if lists.len() <= number {
        lists.resize_with(number + 1, Vec::new);
    }
    &mut lists[number]
}
