//! Expiry holds at the instant; the event that records it comes later and says since when.

use std::time::Duration;

use keyledger_events::{secret::Kind, team::Refusal};

use crate::story::{DAY, MEMBER, MICROSECOND, OWNER, Story, When, issue, key, pair, policy, revoke, rotate, sk};

fn expire(key: u32) -> When {
    When::Expire { key }
}

#[test]
fn the_record_comes_after_the_instant_and_never_before() {
    let story = Story::acme().given([issue(MEMBER, Kind::Integration, 1, 1), sk(MEMBER, 2)]);
    story.clone().after(DAY - MICROSECOND).table([(expire(1), Ok(&[]))]);
    story.clone().after(DAY).table([(expire(1), Ok(&["expired k1 at now"]))]);
    story.clone().after(DAY + MICROSECOND).table([(expire(1), Ok(&["expired k1 at -1us"]))]);
    story.clone().after(DAY * 9).table([(expire(1), Ok(&["expired k1 at -8d"]))]);
    story.after(DAY * 9).table([(expire(2), Ok(&[])), (expire(99), Err(Refusal::UnknownCredential))]);
}

#[test]
fn it_is_recorded_once() {
    let story = Story::acme().given([issue(MEMBER, Kind::Agent, 1, 1)]).after(DAY).given([expire(1)]);
    story.table([(expire(1), Ok(&[])), (revoke(MEMBER, 1), Ok(&[]))]);
    assert!(!story.alive(1));
}

#[test]
fn an_expired_device_takes_its_companion_along_whichever_the_sweeper_finds_first() {
    let story = Story::acme().given([policy(OWNER, 1, false, false), pair(MEMBER, 1)]);
    assert!(story.alive(1) && story.alive(2));
    let story = story.after(DAY);
    assert!(!story.alive(1) && !story.alive(2), "both by the clock, before anything is recorded");
    for found in [1, 2] {
        story.table([(expire(found), Ok(&["expired k1 at now", "cascade k2 of k1 at now <- 0"]))]);
    }
    let late = story.after(Duration::from_secs(90));
    for found in [1, 2] {
        late.table([(expire(found), Ok(&["expired k1 at -90s", "cascade k2 of k1 at -90s <- 0"]))]);
    }
    let swept = late.given([expire(2)]);
    swept.table([(expire(1), Ok(&[])), (expire(2), Ok(&[]))]);
}

#[test]
fn a_companion_that_ended_before_does_not_end_again() {
    let story = Story::acme().given([policy(OWNER, 1, false, false), pair(MEMBER, 1), revoke(MEMBER, 2)]).after(DAY);
    story.table([(expire(1), Ok(&["expired k1 at now"])), (expire(2), Ok(&["expired k1 at now"]))]);
}

#[test]
fn a_device_revoked_in_its_last_microsecond_is_revoked() {
    let story = Story::acme().given([policy(OWNER, 1, false, false), pair(MEMBER, 1)]);
    let last = story.clone().after(DAY - MICROSECOND);
    last.table([(revoke(MEMBER, 1), Ok(&["revoked k1 Requested", "cascade k2 of k1 at now <- 0"]))]);
    story.after(DAY).table([(revoke(MEMBER, 1), Ok(&[]))]);
}

#[test]
fn a_shortened_expiry_is_the_one_that_counts() {
    let story = Story::acme().given([issue(MEMBER, Kind::Integration, 30, 1), rotate(MEMBER, 1, 60, 2)]);
    let story = story.after(Duration::from_secs(60));
    assert!(!story.alive(1) && story.alive(2));
    story.table([(expire(1), Ok(&["expired k1 at now"]))]);
    assert_eq!(story.state.credentials[&key(1)].lifetime_days, Some(30), "what it was issued for stays known");
}
