//! Random people do random things at random times. Whatever was granted: nothing is impossible, every rule holds, and
//! the bytes alone give the same state.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use keyledger_events::{
    CredentialId, Event, PersonId, Timestamp,
    credential::Credential,
    event::{PolicyV1, Role},
    secret::Kind,
    team::{DEVICES_PER_MEMBER_MAX, Fact, TeamState},
};
use proptest::prelude::*;

use crate::story::{DAY, Key, MICROSECOND, PEOPLE, Story, When, fold, key, same, sorted};

/// New keys get the numbers above; commands speak of any number up to this.
const KEYS: Key = 24;

/// A step: some time passes, then a command. `to_an_end` moves to just about a key's end instead.
#[derive(Clone, Debug)]
struct Step {
    pause: Duration,
    to_an_end: Option<(prop::sample::Index, i64)>,
    command: When,
}

fn person() -> impl Strategy<Value = PersonId> {
    // The powerful more often: most of the others' commands are refused.
    prop_oneof![4 => prop::sample::select(&PEOPLE[..2]), 4 => prop::sample::select(&PEOPLE[..])]
}

fn role() -> impl Strategy<Value = Role> {
    prop::sample::select(&Role::ALL[..])
}

fn days() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![4 => Just(None), 2 => Just(Some(1)), 1 => (0..400u16).prop_map(Some)]
}

fn policy() -> impl Strategy<Value = PolicyV1> {
    (prop_oneof![Just(365), 0..400u16], prop::bool::weighted(0.8), prop::bool::weighted(0.1)).prop_map(
        |(lifetime_days_max, never_allowed, admins_only)| PolicyV1 { lifetime_days_max, never_allowed, admins_only },
    )
}

fn command() -> impl Strategy<Value = When> {
    let kind = || {
        prop::sample::select(
            &[Kind::Integration, Kind::Agent, Kind::Integration, Kind::Agent, Kind::Device, Kind::Service][..],
        )
    };
    let some_keys = || prop::collection::vec(0..KEYS, 0..4);
    let heirs = || prop::collection::vec((0..KEYS, person()), 0..3);
    prop_oneof![
        6 => (person(), kind(), days()).prop_map(|(by, kind, days)| When::Issue { by, kind, days, new: 0 }),
        4 => person().prop_map(|by| When::Pair { by, device: 0, companion: 0 }),
        1 => (person(), days()).prop_map(|(by, days)| When::IssueService { by, days, new: 0 }),
        4 => (person(), 0..KEYS).prop_map(|(by, key)| When::Revoke { by, key }),
        2 => (0..KEYS).prop_map(|key| When::RevokeSelf { key }),
        4 => (person(), 0..KEYS, prop_oneof![Just(0), 0..3_000_000u32], days())
            .prop_map(|(by, key, overlap_seconds, days)| When::Rotate { by, key, overlap_seconds, days, new: 0 }),
        5 => (0..KEYS).prop_map(|key| When::Expire { key }),
        1 => (person(), policy()).prop_map(|(by, policy)| When::Policy { by, policy }),
        4 => (person(), role(), person())
            .prop_map(|(member, role, invited_by)| When::Join { member, role, invited_by }),
        2 => (person(), person(), role()).prop_map(|(by, member, role)| When::Role { by, member, role }),
        1 => (person(), person()).prop_map(|(by, member)| When::Remove { by, member }),
        3 => (person(), person(), some_keys(), heirs()).prop_map(|(by, member, revoke, hand_over)| {
            When::Depart { by, member, revoke, hand_over, revision: None }
        }),
        3 => (prop::option::of(person()), 0..KEYS, 0..3u8).prop_map(|(by, key, place)| When::Leak { by, key, place }),
        3 => (0..KEYS, 0..100_000u64).prop_map(|(key, ago)| When::Knock { key, ago: Duration::from_secs(ago) }),
        1 => person().prop_map(|by| When::Deny { by }),
        1 => (person(), person(), any::<bool>())
            .prop_map(|(by, person, still_member)| When::Erase { by, person, still_member }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let pause = prop_oneof![
        Just(Duration::ZERO),
        Just(MICROSECOND),
        (0..100_000u64).prop_map(Duration::from_secs),
        (0..40u32).prop_map(|days| DAY * days),
    ];
    let to_an_end = prop::option::weighted(0.3, (any::<prop::sample::Index>(), -1..=1i64));
    (pause, to_an_end, command()).prop_map(|(pause, to_an_end, command)| Step { pause, to_an_end, command })
}

impl Step {
    /// The instant of the step, never before `story.now`.
    fn at(&self, story: &Story) -> Timestamp {
        let ends: Vec<_> = sorted(&story.state).iter().filter_map(|(_, key)| key.expires_at).collect();
        match &self.to_an_end {
            Some((which, off_by)) if !ends.is_empty() => {
                let end = which.get(&ends).micros().saturating_add_signed(*off_by);
                Timestamp::from_micros(end).max(story.now)
            }
            _ => story.now.plus(self.pause),
        }
    }

    /// The command with fresh numbers for what it issues, and mostly about keys that there are.
    fn command(&self, next: &mut Key, state: &TeamState) -> When {
        let issued = *next;
        let there = |number: &Key| state.credentials.contains_key(&key(*number));
        let known = |number: &mut Key| {
            let there: Vec<Key> = (0..issued).filter(there).collect();
            if !there.is_empty() && *number < KEYS - 2 {
                *number = there[*number as usize % there.len()];
            }
        };
        let mut fresh = || {
            *next += 1;
            *next - 1
        };
        let mut command = self.command.clone();
        match &mut command {
            When::Issue { new, .. } | When::IssueService { new, .. } => *new = fresh(),
            When::Pair { device, companion, .. } => (*device, *companion) = (fresh(), fresh()),
            When::Rotate { key, new, .. } => {
                known(key);
                *new = fresh();
            }
            When::Revoke { key, .. } | When::RevokeSelf { key } | When::Expire { key } => known(key),
            When::Leak { key, .. } | When::Knock { key, .. } => known(key),
            When::Depart { member, revoke, hand_over, .. } => {
                let theirs: Vec<Key> = (0..issued)
                    .filter(|number| state.credentials.get(&key(*number)).is_some_and(|key| key.holder == *member))
                    .collect();
                let numbers = revoke.iter_mut().chain(hand_over.iter_mut().map(|(number, _)| number));
                for number in numbers.filter(|number| !theirs.is_empty() && **number < KEYS - 2) {
                    *number = theirs[*number as usize % theirs.len()];
                }
            }
            _ => {}
        }
        command
    }
}

/// What must never change back, watched from outside.
#[derive(Default)]
struct Watch {
    dead: BTreeSet<CredentialId>,
    ends: BTreeMap<CredentialId, Timestamp>,
}

impl Watch {
    fn look(&mut self, state: &TeamState, now: Timestamp) {
        let present = |person: &PersonId| state.members.get(person).is_some_and(|member| !member.departed);
        let owners = state.members.values().filter(|member| !member.departed && member.role == Role::Owner).count();
        assert_eq!(owners, 1, "exactly one owner");
        let mut devices: BTreeMap<PersonId, usize> = BTreeMap::new();
        for (id, key) in sorted(state) {
            let alive = key.alive(now);
            assert!(!(alive && self.dead.contains(&id)), "{id} has come back");
            if !alive {
                self.dead.insert(id);
            }
            if let Some(end) = key.expires_at {
                let before = self.ends.insert(id, end);
                assert!(before.is_none_or(|before| end <= before), "{id} lives longer than it was to");
            } else {
                assert!(!self.ends.contains_key(&id), "{id} no longer ends");
            }
            if key.kind == Kind::Device && alive {
                assert!(present(&key.holder), "{id} outlives its person's membership");
                *devices.entry(key.holder).or_default() += 1;
            }
            if let Some(device) = key.companion_of {
                let device = &state.credentials[&device];
                assert_eq!((key.kind, device.kind, key.holder), (Kind::Agent, Kind::Device, device.holder));
                assert!(device.alive(now) || !alive, "{id} outlives its device");
                assert_eq!(key.expires_at, device.expires_at, "{id} and its device end together");
                assert!(!device.ended || key.ended, "{id}: the cascade is missing");
            } else if key.kind == Kind::Device {
                assert!(key.companion.is_some(), "{id} has no companion");
            }
        }
        assert!(devices.values().all(|count| *count <= DEVICES_PER_MEMBER_MAX));
    }
}

/// The contract's own words on one granted decision, written apart from the code that decided.
fn judge(command: &When, facts: &[Fact], before: &TeamState, now: Timestamp) {
    let role =
        |person: &PersonId| before.members.get(person).filter(|member| !member.departed).map(|member| member.role);
    let admin = |person: &PersonId| matches!(role(person), Some(Role::Owner | Role::Admin));
    let issuer =
        |person: &PersonId| matches!(role(person), Some(Role::Member)) && !before.policy.admins_only || admin(person);
    let credential = |number: &Key| -> &Credential { &before.credentials[&key(*number)] };
    let permitted = match command {
        When::Issue { by, kind, .. } => issuer(by) && matches!(kind, Kind::Integration | Kind::Agent),
        When::Pair { by, .. } => issuer(by),
        When::Rotate { by, key, .. } => issuer(by) && (admin(by) || credential(key).holder == *by),
        When::Revoke { by, key } | When::Leak { by: Some(by), key, .. } => {
            let own = credential(key).issued_by == *by || credential(key).holder == *by;
            admin(by) || (own && matches!(role(by), Some(Role::Member | Role::Viewer)))
        }
        When::RevokeSelf { .. } | When::Expire { .. } | When::Leak { by: None, .. } => true,
        When::Knock { .. } | When::KnockAhead { .. } => true,
        When::Role { by, role: new, .. } => {
            admin(by) && (*new != Role::Owner || facts.is_empty() || role(by) == Some(Role::Owner))
        }
        When::Policy { by, .. } | When::Depart { by, .. } => admin(by),
        When::Join { role: new, invited_by, .. } => admin(invited_by) && *new != Role::Owner,
        When::Remove { by, member } => (admin(by) || by == member) && role(member) != Some(Role::Owner),
        When::Deny { by } => role(by).is_some(),
        When::IssueService { .. } | When::Erase { .. } => false,
    };
    assert!(permitted, "{command:?} was granted");
    for (index, fact) in facts.iter().enumerate() {
        match &fact.event {
            Event::CredentialIssued(e) => {
                let policy = before.policy;
                match e.expires_at {
                    None => assert!(policy.never_allowed),
                    Some(end) => {
                        let days_max = u32::from(policy.lifetime_days_max.min(365));
                        assert!(end >= now.plus(DAY) && end <= now.plus(DAY * days_max));
                    }
                }
                assert!(before.members.get(&e.holder).is_some_and(|member| !member.departed));
                let companion = facts.iter().filter(|other| match &other.event {
                    Event::CredentialIssued(other) => other.companion_of == Some(e.credential),
                    _ => false,
                });
                assert_eq!(companion.count(), usize::from(e.kind == Kind::Device), "one companion, in this commit");
            }
            Event::ExpiryShortened(e) => {
                assert!(e.from.is_none_or(|from| e.to < from) && e.to >= now && e.to <= now.plus(DAY * 30));
            }
            Event::CredentialCascadeRevoked(e) => {
                let cause = &facts[fact.cause.expect("a cascade names its cause")].event;
                assert_eq!(cause.credential(), Some(e.device));
                assert!(matches!(cause, Event::CredentialRevoked(_) | Event::CredentialExpired(_)));
                assert!(e.effective_at <= now);
            }
            Event::CredentialExpired(e) => {
                assert!(e.effective_at <= now);
                assert_eq!(before.credentials[&e.credential].expires_at, Some(e.effective_at));
            }
            Event::CredentialRevoked(e) => {
                assert!(before.credentials[&e.credential].alive(now), "only what lives is revoked");
            }
            Event::CredentialLeaked(e) => {
                let ends = facts.iter().any(|fact| match &fact.event {
                    Event::CredentialRevoked(end) => end.credential == e.credential && fact.cause == Some(index),
                    _ => false,
                });
                assert_eq!(before.credentials[&e.credential].alive(now), ends, "a leak ends what lives");
            }
            Event::DeadKeyPresented(e) => {
                let day = |at: Timestamp| at.micros() / 86_400_000_000;
                let key = &before.credentials[&e.credential];
                assert!(!key.alive(now) && e.presented_at <= now);
                assert!(key.dead_presented_at.is_none_or(|last| day(last) < day(e.presented_at)));
            }
            _ => {}
        }
        assert!(fact.cause.is_none_or(|cause| cause < index));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_granted_keeps_every_rule(steps in prop::collection::vec(step(), 1..60)) {
        let (mut story, mut watch, mut next) = (Story::acme(), Watch::default(), 0);
        for step in steps {
            story.now = step.at(&story);
            let command = step.command(&mut next, &story.state);
            watch.look(&story.state, story.now);
            let before = story.state.clone();
            if let Ok(facts) = command.clone().decide(&before, story.now) {
                judge(&command, &facts, &before, story.now);
            }
            // Folding what was decided unwraps inside: an `Impossible` fails here.
            let _ = story.run(command);
            watch.look(&story.state, story.now);
        }
        let mut again = TeamState::default();
        for body in &story.commits {
            fold(&mut again, body);
        }
        prop_assert_eq!(same(&again), same(&story.state));
    }
}
