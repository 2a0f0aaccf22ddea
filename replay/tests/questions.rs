//! As-of, explain and diff, against a model that looks at every event for every question.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use keyledger_events::{
    Commit, CredentialId, Event, PersonId, Position, TeamId, Timestamp, commit::PlacedRecord, store::ReadLog,
};
use keyledger_replay::{
    Moment, Point, ReplayError,
    as_of::as_of,
    diff::diff,
    explain::{Name, Verdict, explain},
    quiet,
};
use proptest::prelude::*;
use support::{Town, store};

type Row = (CredentialId, TeamId, PersonId, Option<Timestamp>);

fn records(commits: &[Commit]) -> Vec<PlacedRecord> {
    commits.iter().flat_map(|commit| commit.records().map(Result::unwrap).collect::<Vec<_>>()).collect()
}

/// Every credential alive at `at`, by the events up to `known`: the definition, without any cleverness.
fn model(records: &[PlacedRecord], at: Timestamp, known: Position) -> BTreeSet<Row> {
    let seen: Vec<_> = records.iter().filter(|placed| placed.position <= known).collect();
    let held: Vec<_> = seen.iter().filter(|placed| placed.record.recorded_at <= at).collect();
    let expiry = |id: CredentialId, issued: Option<Timestamp>| {
        let shortened = held.iter().rev().find_map(|placed| match &placed.record.event {
            Event::ExpiryShortened(e) if e.credential == id => Some(e.to),
            _ => None,
        });
        shortened.or(issued)
    };
    let mut rows = BTreeSet::new();
    for placed in &held {
        let (id, mut holder, issued, device) = match &placed.record.event {
            Event::CredentialIssued(e) => (e.credential, e.holder, e.expires_at, e.companion_of),
            Event::ServiceCredentialIssued(e) => (e.credential, e.holder, e.expires_at, None),
            _ => continue,
        };
        let ended = seen.iter().any(|placed| match &placed.record.event {
            Event::CredentialRevoked(e) => e.credential == id && placed.record.recorded_at <= at,
            Event::CredentialCascadeRevoked(e) => e.credential == id && e.effective_at <= at,
            Event::CredentialExpired(e) => e.credential == id && e.effective_at <= at,
            _ => false,
        });
        for placed in &held {
            match &placed.record.event {
                Event::CredentialHandedOver(e) if e.credential == id => holder = e.to,
                _ => {}
            }
        }
        let expires_at = expiry(id, issued);
        let device_issued = held.iter().find_map(|placed| match &placed.record.event {
            Event::CredentialIssued(e) if Some(e.credential) == device => Some(e.expires_at),
            _ => None,
        });
        let device_expiry = device.and_then(|device| expiry(device, device_issued.flatten()));
        if !ended && [expires_at, device_expiry].into_iter().flatten().all(|end| at < end) {
            rows.insert((id, placed.record.team, holder, expires_at));
        }
    }
    rows
}

fn rows(log: &dyn ReadLog, moment: Moment, team: Option<TeamId>) -> BTreeSet<Row> {
    let answer = as_of(log, moment, team, &quiet).unwrap();
    let rows: BTreeSet<Row> = (answer.credentials.iter())
        .map(|standing| (standing.credential, standing.team, standing.holder, standing.expires_at))
        .collect();
    assert_eq!(rows.len(), answer.credentials.len());
    rows
}

/// The last position of the commit that holds `position`, and its time.
fn commit_end(commits: &[Commit], position: Position) -> (Position, Timestamp) {
    let commit = commits.iter().find(|commit| commit.end() > position).unwrap();
    (Position(commit.end().0 - 1), commit.body.view().first().unwrap().recorded_at)
}

fn some_instant(commits: &[Commit], numerator: u64) -> Timestamp {
    let start: Timestamp = support::START.parse().unwrap();
    let end = commits.last().unwrap().body.view().first().unwrap().recorded_at;
    // A little before the beginning to a little after the end, and often right on an event's microsecond.
    match numerator % 3 {
        0 => commits[numerator as usize % commits.len()].body.view().first().unwrap().recorded_at,
        _ => Timestamp::from_micros(
            start.micros() - 5 + numerator % (end.micros() + 40_000_000_000_000 - start.micros()),
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn as_of_is_the_model_and_diff_and_explain_agree(seed: u64, picks in proptest::array::uniform8(any::<u64>())) {
        let commits = Town::new(seed).history(400);
        let records = records(&commits);
        let log = store(&commits);
        let last = Position(log.head().position.0 - 1);
        let position = |pick: u64| Position(pick % log.head().position.0);

        let (at, later) = (some_instant(&commits, picks[0]), some_instant(&commits, picks[1]));
        let (at, later) = (at.min(later), at.max(later));
        prop_assert_eq!(rows(&log, Moment { at: Some(at), known_at: None }, None), model(&records, at, last));

        let (known, then) = commit_end(&commits, position(picks[2]));
        let known_rows = rows(&log, Moment { at: None, known_at: Some(position(picks[2])) }, None);
        prop_assert_eq!(&known_rows, &model(&records, then, known));
        prop_assert_eq!(
            rows(&log, Moment { at: Some(at), known_at: Some(position(picks[2])) }, None),
            model(&records, at, known)
        );

        let team = records[picks[3] as usize % records.len()].record.team;
        let of_team: BTreeSet<Row> = known_rows.into_iter().filter(|row| row.1 == team).collect();
        prop_assert_eq!(rows(&log, Moment { at: None, known_at: Some(position(picks[2])) }, Some(team)), of_team);

        let (a, b) = (position(picks[4]).min(position(picks[5])), position(picks[4]).max(position(picks[5])));
        for (from, to) in [
            (Point::Instant(at), Point::Instant(later)),
            (Point::Position(a), Point::Position(b)),
        ] {
            let difference = diff(&log, from, to, None, &quiet).unwrap();
            let before = rows(&log, from.into(), None);
            let after = rows(&log, to.into(), None);
            let ids = |rows: &BTreeSet<Row>| rows.iter().map(|row| row.0).collect::<BTreeSet<_>>();
            let born: BTreeSet<_> = difference.born.iter().map(|standing| standing.credential).collect();
            let died: BTreeSet<_> = difference.died.iter().map(|died| died.credential.credential).collect();
            prop_assert_eq!(born, ids(&after).difference(&ids(&before)).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(died, ids(&before).difference(&ids(&after)).copied().collect::<BTreeSet<_>>());
            for row in &before {
                let Some(now) = after.iter().find(|now| now.0 == row.0) else { continue };
                let moved = difference.handed_over.iter().find(|changed| changed.credential == row.0);
                prop_assert_eq!(moved.map(|changed| (changed.from, changed.to)), (row.2 != now.2).then_some((row.2, now.2)));
                let shortened = difference.shortened.iter().find(|changed| changed.credential == row.0);
                prop_assert_eq!(shortened.map(|changed| (changed.from, changed.to)), (row.3 != now.3).then_some((row.3, now.3)));
            }
        }

        let issued: Vec<CredentialId> = records
            .iter()
            .filter(|placed| matches!(placed.record.event, Event::CredentialIssued(_)))
            .filter_map(|placed| placed.record.event.credential())
            .collect();
        for pick in [picks[6], picks[7]] {
            let id = issued[pick as usize % issued.len()];
            for moment in [Moment { at: Some(at), known_at: None }, Moment { at: None, known_at: Some(last) }] {
                let told = explain(&log, &Name::Id(id), moment, &|_| None, &quiet).unwrap();
                let alive = rows(&log, moment, None).iter().any(|row| row.0 == id);
                prop_assert_eq!(matches!(told.verdict, Verdict::Alive { .. }), alive, "{}", told.sentence());
                if let Verdict::Dead { end } = told.verdict {
                    prop_assert!(end.effective_at <= told.moment.at);
                    prop_assert!(told.steps.iter().any(|step| step.position == end.position));
                }
            }
        }
    }
}

#[test]
fn what_does_not_exist_is_said_so() {
    let commits = Town::new(7).history(60);
    let events = commits.last().unwrap().end().0;
    let log = store(&commits);
    let beyond = Moment { at: None, known_at: Some(Position(events)) };
    assert!(matches!(as_of(&log, beyond, None, &quiet), Err(ReplayError::NoPosition { .. })));
    let nobody = Name::Id(CredentialId::from_bytes([9; 16]));
    let now = Moment::default();
    assert!(matches!(explain(&log, &nobody, now, &|_| None, &quiet), Err(ReplayError::NoCredential(_))));
    let position = |n| Point::Position(Position(n));
    assert!(matches!(diff(&log, position(9), position(2), None, &quiet), Err(ReplayError::Backwards)));
    assert!(matches!(
        diff(&log, position(events), position(events), None, &quiet),
        Err(ReplayError::NoPosition { .. })
    ));
    assert_eq!(as_of(&store(&[]), now, None, &quiet).unwrap().credentials, []);
}
