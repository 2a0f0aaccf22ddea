//! What-if, against a model that looks at every event for every credential and rule; and one team's part of a log, which
//! must answer every question as the whole log does.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use keyledger_events::{
    Commit, CommitNumber, CredentialId, Event, PersonId, Position, TeamId, Timestamp,
    commit::PlacedRecord,
    credential::PairDevice,
    record::Actor,
    secret::Kind,
    store::ReadLog,
    team::{Join, RemoveMember},
};
use keyledger_replay::{
    Moment, Point, ReplayError, ResolvedMoment, TeamLog,
    as_of::{AsOf, as_of},
    diff::{Diff, diff},
    explain::{Explanation, Name, explain},
    quiet,
    what_if::{LastUsed, Period, Policy, Rule, WhatIf, what_if},
};
use proptest::prelude::*;
use support::{Random, Town, clear, store};

fn records(commits: &[Commit]) -> Vec<PlacedRecord> {
    commits.iter().flat_map(|commit| commit.records().map(Result::unwrap).collect::<Vec<_>>()).collect()
}

/// One credential by everything the log says of it.
#[derive(Clone)]
struct Life {
    team: TeamId,
    kind: Kind,
    born: Timestamp,
    device: Option<CredentialId>,
    /// From when on who answers for it.
    holders: Vec<(Position, PersonId)>,
    expires_at: Option<Timestamp>,
    recorded_end: Option<Timestamp>,
}

fn lives(records: &[PlacedRecord]) -> BTreeMap<CredentialId, Life> {
    let mut lives = BTreeMap::new();
    for placed in records {
        let born = placed.record.recorded_at;
        let life = |kind, device, holder, expires_at| Life {
            team: placed.record.team,
            kind,
            born,
            device,
            holders: vec![(placed.position, holder)],
            expires_at,
            recorded_end: None,
        };
        match &placed.record.event {
            Event::CredentialIssued(e) => {
                lives.insert(e.credential, life(e.kind, e.companion_of, e.holder, e.expires_at));
            }
            Event::ServiceCredentialIssued(e) => {
                lives.insert(e.credential, life(Kind::Service, None, e.holder, e.expires_at));
            }
            Event::ExpiryShortened(e) => lives.get_mut(&e.credential).unwrap().expires_at = Some(e.to),
            Event::CredentialHandedOver(e) => {
                lives.get_mut(&e.credential).unwrap().holders.push((placed.position, e.to));
            }
            Event::CredentialRevoked(e) => lives.get_mut(&e.credential).unwrap().recorded_end = Some(born),
            Event::CredentialCascadeRevoked(e) => {
                lives.get_mut(&e.credential).unwrap().recorded_end = Some(e.effective_at);
            }
            Event::CredentialExpired(e) => lives.get_mut(&e.credential).unwrap().recorded_end = Some(e.effective_at),
            _ => {}
        }
    }
    lives
}

type Row = (CredentialId, Timestamp, Rule, Option<Timestamp>, Option<bool>);

/// The definition, without any cleverness.
fn model(
    records: &[PlacedRecord],
    policy: Policy,
    used: Option<&HashMap<CredentialId, Timestamp>>,
    team: Option<TeamId>,
    until: Timestamp,
) -> Vec<Row> {
    let lives = lives(records);
    let own = |id: &CredentialId| -> Vec<(Timestamp, Rule)> {
        let life = &lives[id];
        let mut instants = Vec::new();
        if let Some(max) = policy.max_lifetime.filter(|_| life.device.is_none()) {
            instants.push((life.born.plus(max.duration()), Rule::MaxLifetime));
        }
        if let Some(idle) = policy.idle {
            let last = used.unwrap().get(id).copied().unwrap_or(life.born).max(life.born);
            instants.push((last.plus(idle.duration()), Rule::Idle));
        }
        let decided_on = life.device.is_none() && matches!(life.kind, Kind::Integration | Kind::Agent);
        if policy.revoke_on_departure && decided_on {
            for placed in records {
                let Event::MemberDeparted(e) = &placed.record.event else { continue };
                let holder = life.holders.iter().rev().find(|(since, _)| *since < placed.position);
                let gone = life.recorded_end.is_some_and(|end| end <= placed.record.recorded_at);
                if placed.record.team == life.team && holder.is_some_and(|(_, holder)| *holder == e.member) && !gone {
                    instants.push((placed.record.recorded_at, Rule::Departure));
                }
            }
        }
        instants
    };
    let mut rows = Vec::new();
    for (id, life) in &lives {
        if team.is_some_and(|team| team != life.team) {
            continue;
        }
        let device = life.device.as_ref();
        let Some((at, rule)) = own(id).into_iter().chain(device.map(own).unwrap_or_default()).min() else { continue };
        let clock = [life.expires_at, device.and_then(|device| lives[device].expires_at)];
        let ends = clock.into_iter().flatten().filter(|end| *end <= until).chain(life.recorded_end);
        let ended = ends.min();
        if at <= until && ended.is_none_or(|ended| at < ended) {
            let used_after = used.map(|used| used.get(id).is_some_and(|used| *used > at));
            rows.push((*id, at, rule, ended, used_after));
        }
    }
    rows.sort();
    rows
}

fn rows(found: &WhatIf) -> Vec<Row> {
    let mut rows: Vec<Row> = (found.ended.iter())
        .map(|would| {
            (would.credential.credential, would.would_end_at, would.rule, would.ended_at, would.used_afterwards)
        })
        .collect();
    rows.sort();
    rows
}

fn hours(hours: u64) -> Option<Period> {
    Period::of_seconds(hours * 3600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_if_is_the_model(
        seed: u64,
        lifetime in proptest::option::of(1u64..600),
        idle in proptest::option::of(1u64..400),
        revoke_on_departure: bool,
        later in 0u64..400,
        of_team: bool,
    ) {
        let policy = Policy { max_lifetime: lifetime.and_then(hours), idle: idle.and_then(hours), revoke_on_departure };
        let commits = Town::new(seed).history(300);
        let records = records(&commits);
        let log = store(&commits);
        let end = log.head().recorded_at;
        let until = end.plus(std::time::Duration::from_secs(later * 3600));
        // Two of three were used, at some minute of their lives.
        let mut random = Random(seed);
        let start: Timestamp = support::START.parse().unwrap();
        let used: HashMap<CredentialId, Timestamp> = lives(&records)
            .into_keys()
            .filter_map(|id| {
                let minute = random.next() % (end.since(start).as_secs() / 60 + 1);
                (random.below(3) > 0).then(|| (id, start.plus(std::time::Duration::from_secs(minute * 60))))
            })
            .collect();
        let team = of_team.then(|| records[seed as usize % records.len()].record.team);
        let last_used = |id| used.get(&id).copied();
        let known: Option<LastUsed<'_>> = Some(&last_used);
        if policy == Policy::default() {
            prop_assert!(matches!(what_if(&log, policy, known, team, Some(until), &quiet), Err(ReplayError::NoRule)));
            return Ok(());
        }
        let found = what_if(&log, policy, known, team, Some(until), &quiet).unwrap();
        prop_assert_eq!(rows(&found), model(&records, policy, Some(&used), team, until));
        prop_assert_eq!(found.used_afterwards, Some(found.ended.iter().filter(|w| w.used_afterwards == Some(true)).count() as u64));
        for would in &found.ended {
            let lived_on = would.ended_at.unwrap_or(until).since(would.would_end_at).as_secs();
            prop_assert_eq!(would.lived_on_seconds, lived_on);
        }
        // The same again from its own JSON.
        prop_assert_eq!(&serde_json::from_value::<WhatIf>(serde_json::to_value(&found).unwrap()).unwrap(), &found);
        // Without an instant it is the log's end.
        let at_the_end = what_if(&log, policy, known, team, None, &quiet).unwrap();
        prop_assert_eq!(rows(&at_the_end), model(&records, policy, Some(&used), team, end));

        let without = what_if(&log, policy, None, team, Some(until), &quiet);
        match policy.idle {
            Some(_) => prop_assert!(matches!(without, Err(ReplayError::NoUsage))),
            None => {
                let without = without.unwrap();
                prop_assert_eq!(rows(&without), model(&records, policy, None, team, until));
                prop_assert_eq!(without.used_afterwards, None);
                prop_assert!(without.not_known[0].contains("Nothing is known of uses"));
            }
        }
    }

    #[test]
    fn a_teams_part_of_the_log_answers_as_the_whole_log_does(seed: u64, picks in proptest::array::uniform4(any::<u64>())) {
        let commits = Town::new(seed).history(300);
        let records = records(&commits);
        let whole: Arc<dyn ReadLog> = Arc::new(store(&commits));
        let events = whole.head().position.0;
        let team = records[picks[0] as usize % records.len()].record.team;
        let of = |team: TeamId| -> Vec<CommitNumber> {
            let theirs = commits.iter().filter(|commit| commit.body.view().first().unwrap().team == team);
            theirs.map(|commit| commit.number).collect()
        };
        let part = TeamLog::new(whole.clone(), whole.head(), of(team));
        let instant = records[picks[1] as usize % records.len()].record.recorded_at.plus(std::time::Duration::from_secs(picks[1] % 90_000));
        let position = |pick: u64| Position(pick % events);

        for moment in [
            Moment { at: Some(instant), known_at: None },
            Moment { at: None, known_at: Some(position(picks[2])) },
            Moment { at: Some(instant), known_at: Some(position(picks[2])) },
        ] {
            let expected = as_of(whole.as_ref(), moment, Some(team), &quiet).unwrap();
            let resolved = part.resolve(moment).unwrap();
            prop_assert_eq!(resolved, expected.moment);
            let asked = Moment { known_at: moment.known_at.and(resolved.known_at), ..resolved.into() };
            let found = as_of(&part, asked, Some(team), &quiet).unwrap();
            prop_assert_eq!(&AsOf { moment: resolved, ..found }, &expected);
            prop_assert_eq!(&serde_json::from_value::<AsOf>(serde_json::to_value(&expected).unwrap()).unwrap(), &expected);
        }

        let asked = |point, resolved: ResolvedMoment| match point {
            Point::Instant(at) => Moment { at: Some(at), known_at: None },
            Point::Position(_) => resolved.into(),
        };
        let (low, high) = (position(picks[2]).min(position(picks[3])), position(picks[2]).max(position(picks[3])));
        for (from, to) in [
            (Point::Position(low), Point::Position(high)),
            (Point::Instant(support::START.parse().unwrap()), Point::Instant(instant)),
            (Point::Position(Position(0)), Point::Instant(instant)),
        ] {
            let expected = diff(whole.as_ref(), from, to, Some(team), &quiet).unwrap();
            let (earlier, later) = (part.point(from).unwrap(), part.point(to).unwrap());
            let found = diff(&part, asked(from, earlier), asked(to, later), Some(team), &quiet).unwrap();
            prop_assert_eq!(&Diff { from: earlier, to: later, ..found }, &expected);
            prop_assert_eq!(&serde_json::from_value::<Diff>(serde_json::to_value(&expected).unwrap()).unwrap(), &expected);
        }

        for (id, life) in lives(&records).into_iter().take(30) {
            let moment = Moment { at: Some(instant), known_at: None };
            let told = explain(&part, &Name::Id(id), moment, &|_| None, &quiet);
            if life.team != team {
                prop_assert!(matches!(told, Err(ReplayError::NoCredential(_))), "another team's key was found");
                continue;
            }
            let expected = explain(whole.as_ref(), &Name::Id(id), moment, &|_| None, &quiet).unwrap();
            let told = Explanation { moment: part.resolve(moment).unwrap(), ..told.unwrap() };
            prop_assert_eq!(&told, &expected);
            prop_assert_eq!(&serde_json::from_value::<Explanation>(serde_json::to_value(&expected).unwrap()).unwrap(), &expected);
        }

        // Of other teams it has nothing, whatever it is asked.
        for commit in &commits {
            let theirs = commit.body.view().first().unwrap().team == team;
            prop_assert_eq!(part.commit(commit.number).unwrap().is_some(), theirs);
            prop_assert_eq!(part.locate(commit.first_position).unwrap().is_some(), theirs);
        }
        let beyond = part.resolve(Point::Position(Position(events)).into());
        prop_assert!(matches!(beyond, Err(ReplayError::NoPosition { .. })), "there is no such position");
    }
}

#[test]
fn a_companion_follows_its_device_and_what_ends_anyway_is_not_listed() {
    let mut town = Town::new(7);
    let mut commits = vec![town.found(), town.found()];
    let team = town.founded[1];
    let owner = *town.teams[&team].members.keys().next().unwrap();
    let member = town.person();
    let join = Join { member, name: clear("Mara"), role: keyledger_events::event::Role::Member, invited_by: owner };
    let joined = join.decide(&town.teams[&team]);
    commits.push(town.must(team, Actor::Person(member), joined));
    let (device, companion) = (town.key(Kind::Device), town.key(Kind::Agent));
    let (device_id, companion_id) = (device.id, companion.id);
    let pair = PairDevice { actor: member, name: clear("laptop"), companion_name: clear("agent"), device, companion };
    let paired = pair.decide(&town.teams[&team], town.now);
    commits.push(town.must(team, Actor::Person(member), paired));
    town.wait(std::time::Duration::from_secs(10 * 86_400));
    let remove = RemoveMember { actor: owner, member };
    let removed = remove.decide(&town.teams[&team], town.now);
    commits.push(town.must(team, Actor::Person(owner), removed));
    let log = store(&commits);

    let policy = Policy { max_lifetime: Period::of_seconds(86_400), ..Policy::default() };
    let found = what_if(&log, policy, None, Some(team), None, &quiet).unwrap();
    assert_eq!(found.judged, 2);
    let rows: Vec<_> = (found.ended.iter())
        .map(|would| (would.credential.credential, would.rule, would.with_device, would.lived_on_seconds))
        .collect();
    assert_eq!(
        rows,
        [
            (device_id, Rule::MaxLifetime, None, 9 * 86_400),
            (companion_id, Rule::MaxLifetime, Some(device_id), 9 * 86_400)
        ]
    );
    // Both ended with the departure anyway.
    let policy = Policy { revoke_on_departure: true, ..Policy::default() };
    assert_eq!(what_if(&log, policy, None, Some(team), None, &quiet).unwrap().ended, []);
}
