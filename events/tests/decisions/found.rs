//! What is noticed of a secret from outside: a leak ends it and says where, a dead key's knock is told once a day.

use std::time::Duration;

use keyledger_events::{Record, credential::LEAK_PLACES_MAX, record::Actor, secret::Kind, team::Refusal};

use crate::story::{ADMIN, AUDITOR, DAY, MEMBER, OTHER, OWNER, STRANGER, Story, VIEWER, When, issue, pair, revoke, sk};

fn leak(key: u32, place: u8) -> When {
    When::Leak { by: None, key, place }
}

fn knock(key: u32, ago: Duration) -> When {
    When::Knock { key, ago }
}

#[test]
fn a_leak_ends_a_living_key_and_is_the_end_s_cause() {
    let story = Story::acme().given([sk(MEMBER, 1), pair(MEMBER, 2)]);
    story.table([
        (leak(1, 7), Ok(&["leaked k1 at place 7", "revoked k1 Leaked <- 0"])),
        (leak(2, 7), Ok(&["leaked k2 at place 7", "revoked k2 Leaked <- 0", "cascade k3 of k2 at now <- 1"])),
        (leak(3, 7), Ok(&["leaked k3 at place 7", "revoked k3 Leaked <- 0"])),
        (leak(99, 7), Err(Refusal::UnknownCredential)),
    ]);
    let story = story.given([leak(2, 7)]);
    assert!(!story.alive(2) && !story.alive(3) && story.alive(1));
    let records: Vec<_> =
        story.commits.last().unwrap().view().records().map(|record| Record::decode(record.bytes()).unwrap()).collect();
    assert_eq!(records[1].meta.cause, Some(records[0].id));
    assert_eq!(records[0].meta.actor, Actor::System);
    let service = Story::system().given([When::IssueService { by: OWNER, days: None, new: 1 }]);
    service.table([(leak(1, 7), Ok(&["leaked k1 at place 7", "revoked k1 Leaked <- 0"]))]);
}

#[test]
fn each_place_of_a_dead_key_is_told_once_and_only_so_many() {
    let story = Story::acme().given([sk(MEMBER, 1), issue(MEMBER, Kind::Agent, 1, 2), leak(1, 7)]);
    story.table([(leak(1, 7), Ok(&[])), (leak(1, 8), Ok(&["leaked k1 at place 8"]))]);
    let expired = story.after(DAY);
    expired.table([(leak(2, 7), Ok(&["leaked k2 at place 7"]))]);
    let mut full = expired;
    for place in 0..u8::MAX {
        full.run(leak(1, place)).unwrap();
    }
    let told = &full.state.credentials[&crate::story::key(1)].leaks;
    assert_eq!(told.len(), LEAK_PLACES_MAX);
    full.table([(leak(1, 250), Ok(&[]))]);
}

#[test]
fn a_person_reports_a_leak_by_the_right_to_revoke() {
    let story = Story::acme().given([sk(MEMBER, 1), pair(MEMBER, 2)]);
    let by = |person, key| When::Leak { by: Some(person), key, place: 7 };
    for person in [MEMBER, ADMIN, OWNER] {
        story.table([(by(person, 1), Ok(&["leaked k1 at place 7", "revoked k1 Leaked <- 0"]))]);
    }
    for person in [OTHER, VIEWER, AUDITOR] {
        story.table([(by(person, 1), Err(Refusal::Forbidden))]);
    }
    story.table([
        (by(OTHER, 2), Err(Refusal::UnknownCredential)),
        (by(AUDITOR, 2), Err(Refusal::Forbidden)),
        (by(STRANGER, 1), Err(Refusal::UnknownTeam)),
        (by(OWNER, 9), Err(Refusal::UnknownCredential)),
    ]);
    let story = story.given([by(ADMIN, 1)]);
    let first = Record::decode(story.commits.last().unwrap().view().records().next().unwrap().bytes()).unwrap();
    assert_eq!(first.meta.actor, Actor::Person(ADMIN));
}

#[test]
fn a_dead_key_knocks_once_a_utc_day() {
    // Noon; the day turns twelve hours later.
    let story = Story::acme().given([sk(MEMBER, 1), pair(MEMBER, 2), issue(MEMBER, Kind::Agent, 2, 4)]);
    story.table([(knock(1, Duration::ZERO), Ok(&[])), (knock(99, Duration::ZERO), Err(Refusal::UnknownCredential))]);
    let story = story.given([revoke(MEMBER, 1), revoke(MEMBER, 2)]).after(Duration::from_secs(60));
    story.table([
        (knock(1, Duration::ZERO), Ok(&["dead k1 on runtime from private at now"])),
        (knock(1, Duration::from_secs(9)), Ok(&["dead k1 on runtime from private at -9s"])),
        // A companion knocks for itself.
        (knock(3, Duration::ZERO), Ok(&["dead k3 on runtime from private at now"])),
        (knock(4, Duration::ZERO), Ok(&[])),
    ]);
    let story = story.given([knock(1, Duration::ZERO)]);
    story.table([(knock(1, Duration::ZERO), Ok(&[]))]);
    let before_midnight = story.after(Duration::from_secs(12 * 3600 - 61));
    before_midnight.table([(knock(1, Duration::ZERO), Ok(&[]))]);
    let midnight = before_midnight.after(Duration::from_secs(1));
    midnight.table([
        (knock(1, Duration::ZERO), Ok(&["dead k1 on runtime from private at now"])),
        // What an edge reports of the day before.
        (knock(1, Duration::from_secs(1)), Ok(&[])),
    ]);
    // By the clock alone, before any event says that it has expired.
    let later = midnight.after(DAY * 2);
    later.table([(knock(4, Duration::ZERO), Ok(&["dead k4 on runtime from private at now"]))]);
    // The future counts as now.
    let ahead = When::KnockAhead { key: 4, by: DAY };
    later.table([(ahead, Ok(&["dead k4 on runtime from private at now"]))]);
}
