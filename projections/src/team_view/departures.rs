//! Who leaves, and what stays behind: the dossier of a member, and the team's queue of keys that nobody has decided on.

use std::{cmp::Reverse, time::Duration};

use keyledger_events::{CredentialId, PersonId, Timestamp, record::StreamHead};

use super::{Member, TeamView, directory::Row};

/// A key used within this time counts as in use.
const RECENT: Duration = Duration::from_secs(30 * 86_400);

/// Everything that a member's departure is about.
#[derive(Clone, Debug)]
pub struct Dossier<'a> {
    /// Who.
    pub member: &'a Member,
    /// The team as this was prepared from it: its revision is what the decision expects.
    pub head: Option<StreamHead>,
    /// Their live devices and companions, newest first: these end by themselves when they go.
    pub ending: Vec<&'a Row>,
    /// The live keys they answer for, riskiest first: these need a decision.
    pub to_decide: Vec<Undecided<'a>>,
}

/// A live key that needs a decision.
#[derive(Clone, Copy, Debug)]
pub struct Undecided<'a> {
    /// The key.
    pub row: &'a Row,
    /// When it was last used.
    pub last_used: Option<Timestamp>,
}

impl TeamView {
    /// The dossier of a member, present or gone; `None` if they never were one.
    pub fn dossier(
        &self,
        person: PersonId,
        now: Timestamp,
        last_used: &dyn Fn(CredentialId) -> Option<Timestamp>,
    ) -> Option<Dossier<'_>> {
        let member = self.members.get(&person)?;
        let (ending, keys): (Vec<_>, Vec<_>) =
            self.directory.live_of(Some(person), now).partition(|row| row.is_personal());
        let to_decide = by_risk(keys.into_iter(), now, last_used);
        Some(Dossier { member, head: self.head, ending, to_decide })
    }

    /// The live keys whose holder has left and nobody has decided on, riskiest first: the queue that should be empty.
    pub fn undecided(
        &self,
        now: Timestamp,
        last_used: &dyn Fn(CredentialId) -> Option<Timestamp>,
    ) -> Vec<Undecided<'_>> {
        let keys = self.directory.live_of(None, now).filter(|row| !row.is_personal());
        by_risk(keys, now, last_used)
    }
}

/// Riskiest first. What was used within 30 days comes before the rest, the latest use first: something depends on it,
/// and somebody holds the secret. Of the rest, what never ends comes first, then the older before the newer: the longer
/// a secret has been about, the more places it may lie in.
fn by_risk<'a>(
    rows: impl Iterator<Item = &'a Row>,
    now: Timestamp,
    last_used: &dyn Fn(CredentialId) -> Option<Timestamp>,
) -> Vec<Undecided<'a>> {
    let mut keys: Vec<_> = rows.map(|row| Undecided { row, last_used: last_used(row.id) }).collect();
    keys.sort_by_key(|key| {
        let recent = key.last_used.filter(|used| now.since(*used) <= RECENT);
        (Reverse(recent), key.row.expires_at.is_some(), key.row.issued_at, key.row.issued_position)
    });
    keys
}
