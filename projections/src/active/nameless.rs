//! What a follower's index must sum up to: a digest a team over the rows that a follower is told of, without names.
//!
//! Kept once somebody has asked for it, and then with every change of a row. Digests are sums, so that the changes of
//! while the rows are summed up for the first time are added afterwards.

use std::collections::{BTreeSet, HashMap};

use keyledger_events::{
    CredentialId, PersonId, TeamId,
    secret::{Kind, SecretHash},
};

use super::{
    Active,
    entry::{Entry, Life},
    snapshot::{Frozen, write_fixed},
};
use crate::Digest;

/// `Label::Clear("")` as postcard: what a row has for a name where names don't matter.
pub(super) const NO_NAME: &[u8] = &[0, 0];

/// A digest a team.
#[derive(Debug, Default)]
pub(crate) struct Nameless {
    all: Digest,
    teams: HashMap<TeamId, Digest>,
}

impl Nameless {
    /// Of all teams, or of these.
    pub(crate) fn digest(&self, teams: Option<&BTreeSet<TeamId>>) -> Digest {
        match teams {
            None => self.all,
            Some(teams) => teams.iter().filter_map(|team| self.teams.get(team).copied()).sum(),
        }
    }

    pub(super) fn add(&mut self, row: &NamelessRow) {
        self.change(row.team, Digest::default(), row.digest());
    }

    pub(super) fn replace(&mut self, before: &NamelessRow, after: &NamelessRow) {
        self.change(before.team, before.digest(), after.digest());
    }

    fn change(&mut self, team: TeamId, before: Digest, after: Digest) {
        for digest in [&mut self.all, self.teams.entry(team).or_default()] {
            digest.remove_all(before);
            digest.add_all(after);
        }
    }

    fn merge(&mut self, other: Self) {
        self.all.add_all(other.all);
        for (team, digest) in other.teams {
            self.teams.entry(team).or_default().add_all(digest);
        }
    }
}

/// One row as a follower knows it.
pub(super) struct NamelessRow {
    hash: SecretHash,
    credential: CredentialId,
    team: TeamId,
    holder: PersonId,
    life: Life,
}

impl NamelessRow {
    /// None for `sv-` keys: they are presented to the ledger alone.
    pub(super) fn of(entry: &Entry, (team, holder): (TeamId, PersonId), life: Life) -> Option<Self> {
        (life.kind() != Kind::Service).then(|| Self {
            hash: entry.hash(),
            credential: entry.credential(),
            team,
            holder,
            life,
        })
    }

    fn digest(&self) -> Digest {
        let mut bytes = Vec::with_capacity(128);
        write_fixed(&mut bytes, &self.hash, self.credential, (self.team, self.holder), self.life);
        bytes.extend_from_slice(NO_NAME);
        Digest::of(&bytes)
    }
}

impl Active {
    /// The digest of what a follower of these teams (none: of all) has been told: the sum over
    /// [`super::ActiveRow::write_bytes`] of their rows with the name `Label::Clear("")`, without `sv-` keys. The first
    /// call reads all rows and takes as long, though the projector goes on meanwhile; from then on it is at hand.
    pub fn nameless_digest(&self, teams: Option<&BTreeSet<TeamId>>) -> Digest {
        self.keeps_nameless.get_or_init(|| {
            let frozen = {
                let mut writer = self.writer.write();
                writer.nameless = Some(Nameless::default());
                self.freeze_under(&writer)
            };
            let before = frozen.nameless();
            if let Some(since) = &mut self.writer.write().nameless {
                since.merge(before);
            }
        });
        self.writer.read().nameless.as_ref().map(|kept| kept.digest(teams)).unwrap_or_default()
    }
}

impl Frozen<'_> {
    /// Summed up from the rows.
    pub(crate) fn nameless(&self) -> Nameless {
        let mut nameless = Nameless::default();
        for (_, entry, life, binding) in self.parts() {
            if let Some(row) = NamelessRow::of(entry, self.binding(binding), life) {
                nameless.add(&row);
            }
        }
        nameless
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use keyledger_events::seal::Label;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        active::{
            label_bytes,
            tests::{Step, apply, event_of, step},
        },
        testing::{Issue, team},
    };

    /// From the definition, not from the code above.
    fn spelt_out(active: &Active, teams: Option<&BTreeSet<TeamId>>) -> Digest {
        let mut digest = Digest::default();
        for mut row in active.freeze().rows() {
            if row.kind != Kind::Service && teams.is_none_or(|teams| teams.contains(&row.team)) {
                row.name = Label::Clear(String::new());
                let mut bytes = Vec::new();
                row.write_bytes(&mut bytes);
                digest.add(&bytes);
            }
        }
        digest
    }

    fn check(active: &Active) {
        let filters = [None, Some([team(0)].into()), Some([team(1), team(2)].into()), Some(BTreeSet::new())];
        for teams in filters {
            assert_eq!(active.nameless_digest(teams.as_ref()), spelt_out(active, teams.as_ref()), "{teams:?}");
        }
    }

    #[test]
    fn no_name_is_what_an_empty_label_is() {
        assert_eq!(label_bytes(&Label::Clear(String::new())), NO_NAME);
    }

    proptest! {
        #[test]
        fn it_is_the_digest_of_the_rows_after_any_changes(
            steps in proptest::collection::vec((step(), 0..3u8), 0..120), asked in 0usize..120,
        ) {
            let (active, follower) = (Active::default(), Active::default());
            for (index, (step, of)) in steps.into_iter().enumerate() {
                if index == asked {
                    check(&active);
                }
                apply(&active, step, team(of));
                let event = event_of(step);
                if let Some(change) = crate::feed::Change::of(&event) {
                    follower.apply_change(team(of), &change);
                }
            }
            check(&active);
            // A follower knows no names: its whole index is what is counted, but for service keys.
            prop_assert_eq!(follower.nameless_digest(None), active.nameless_digest(None));
        }
    }

    #[test]
    fn it_may_be_asked_for_while_changes_are_applied() {
        const BEFORE: u64 = 20_000;
        const AFTERWARDS: u64 = 300;
        let active = Active::default();
        let of = |number: u64| team((number % 3) as u8);
        let issue = |number: u64| {
            let kind = Kind::ALL[(number % 4) as usize];
            Issue { team: of(number), kind, ..Issue::new(number) }.apply(&active);
        };
        (0..BEFORE).for_each(issue);
        let asked = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    active.nameless_digest(None);
                    asked.store(true, Ordering::Release);
                });
            }
            // Old rows and fresh ones change before, while and after it is summed up.
            let (mut number, mut left) = (0, AFTERWARDS);
            while left > 0 {
                if asked.load(Ordering::Acquire) {
                    left -= 1;
                }
                issue(BEFORE + number);
                for changed in [number % BEFORE, BEFORE + number] {
                    apply(&active, Step::HandOver(changed, 2), of(changed));
                    apply(&active, Step::Revoke(changed), of(changed));
                }
                number += 1;
            }
        });
        check(&active);
    }
}
