//! Ending credentials: final, once, and a device never without its companion.

use std::time::Duration;

use keyledger_events::{
    Event, Record,
    event::RevokeReason,
    record::{Actor, AuthMethod},
    secret::Kind,
    team::Refusal,
};

use crate::story::{ADMIN, DAY, MEMBER, OTHER, OWNER, STRANGER, Story, When, issue, key, pair, revoke, rotate, sk};

#[test]
fn a_stolen_laptop_takes_its_agent_along() {
    let story = Story::acme().given([pair(MEMBER, 1)]).after(Duration::from_secs(5));
    for by in [MEMBER, ADMIN, OWNER] {
        story.table([(revoke(by, 1), Ok(&["revoked k1 Requested", "cascade k2 of k1 at now <- 0"]))]);
    }
    let story = story.given([revoke(ADMIN, 1)]);
    assert!(!story.alive(1) && !story.alive(2));
    // The cascade is an event of its own in the same commit, and names its cause by id.
    let records: Vec<_> =
        story.commits.last().unwrap().view().records().map(|record| Record::decode(record.bytes()).unwrap()).collect();
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].meta.cause, Some(records[0].id));
    assert_eq!(records[0].meta.cause, None);
}

#[test]
fn a_companion_can_go_before_its_device() {
    let story = Story::acme().given([pair(MEMBER, 1), revoke(MEMBER, 2)]);
    assert!(story.alive(1) && !story.alive(2));
    // What has ended does not end again with the device.
    story.table([(revoke(MEMBER, 1), Ok(&["revoked k1 Requested"]))]);
}

#[test]
fn revoking_again_is_granted_and_adds_nothing() {
    let story = Story::acme().given([sk(MEMBER, 1), pair(MEMBER, 2), revoke(MEMBER, 1), revoke(MEMBER, 2)]);
    story.table([
        (revoke(MEMBER, 1), Ok(&[])),
        (revoke(OWNER, 1), Ok(&[])),
        (revoke(MEMBER, 2), Ok(&[])),
        (revoke(MEMBER, 3), Ok(&[])),
        (When::RevokeSelf { key: 1 }, Ok(&[])),
        (When::RevokeSelf { key: 2 }, Ok(&[])),
        // It is not a way to learn of other people's keys, dead or alive.
        (revoke(OTHER, 1), Err(Refusal::Forbidden)),
        (revoke(OTHER, 2), Err(Refusal::UnknownCredential)),
        (revoke(STRANGER, 1), Err(Refusal::UnknownTeam)),
    ]);
}

#[test]
fn an_expired_key_is_not_revoked_after_its_end() {
    let story = Story::acme().given([issue(MEMBER, Kind::Agent, 1, 1)]).after(DAY);
    story.table([(revoke(MEMBER, 1), Ok(&[])), (When::RevokeSelf { key: 1 }, Ok(&[]))]);
}

#[test]
fn possession_of_the_secret_is_enough_to_end_it() {
    let story = Story::acme().given([sk(MEMBER, 1), issue(MEMBER, Kind::Agent, 9, 2), pair(MEMBER, 3)]);
    story.table([
        (When::RevokeSelf { key: 1 }, Ok(&["revoked k1 SelfRevoked"])),
        (When::RevokeSelf { key: 2 }, Ok(&["revoked k2 SelfRevoked"])),
        (When::RevokeSelf { key: 3 }, Ok(&["revoked k3 SelfRevoked", "cascade k4 of k3 at now <- 0"])),
        (When::RevokeSelf { key: 4 }, Ok(&["revoked k4 SelfRevoked"])),
        (When::RevokeSelf { key: 99 }, Err(Refusal::UnknownCredential)),
    ]);
    let service = Story::system().given([When::IssueService { by: OWNER, days: None, new: 1 }]);
    service.table([(When::RevokeSelf { key: 1 }, Ok(&["revoked k1 SelfRevoked"]))]);

    let story = story.given([When::RevokeSelf { key: 3 }]);
    let first = story.commits.last().unwrap().view().records().next().unwrap();
    let record = Record::decode(first.bytes()).unwrap();
    assert_eq!((record.meta.actor, record.meta.auth), (Actor::Credential(key(3)), AuthMethod::Secret));
    assert!(matches!(record.event, Event::CredentialRevoked(e) if e.reason == RevokeReason::SelfRevoked));
}

#[test]
fn ending_is_final() {
    let story = Story::acme().given([sk(MEMBER, 1), revoke(MEMBER, 1)]);
    story.table([
        (rotate(MEMBER, 1, 60, 2), Err(Refusal::Ended)),
        (When::Expire { key: 1 }, Ok(&[])),
        (
            When::Depart { by: OWNER, member: MEMBER, revoke: vec![], hand_over: vec![(1, OWNER)], revision: None },
            Err(Refusal::NotTheirs(key(1))),
        ),
    ]);
    assert!(!story.after(DAY * 1000).alive(1));
}

/// The issuer may end what somebody else answers for by now; a former issuer who has left may not.
#[test]
fn the_issuer_may_end_what_was_handed_over() {
    let hand_over =
        When::Depart { by: OWNER, member: MEMBER, revoke: vec![], hand_over: vec![(1, OTHER)], revision: None };
    let story = Story::acme().given([sk(MEMBER, 1), hand_over]);
    story.table([(revoke(MEMBER, 1), Err(Refusal::UnknownTeam)), (revoke(OTHER, 1), Ok(&["revoked k1 Requested"]))]);
    let back = crate::story::join(MEMBER, keyledger_events::event::Role::Member, OWNER);
    story.given([back]).table([(revoke(MEMBER, 1), Ok(&["revoked k1 Requested"]))]);
}
