//! Rotation: a successor, and the old key's end brought forward, never put off.

use std::time::Duration;

use keyledger_events::{credential::OVERLAP_SECONDS_MAX, event::Role, secret::Kind, team::Refusal};

use crate::story::{
    ADMIN, DAY, MEMBER, MICROSECOND, OTHER, OWNER, Story, When, issue, join, key, policy, remove, role, rotate, sk,
};

#[test]
fn the_old_key_ends_with_the_overlap_and_never_later_than_it_would_have() {
    let forever = Story::acme().given([sk(MEMBER, 1)]);
    let new = "integration k2 for member never from k1";
    forever.table([
        (rotate(MEMBER, 1, 0, 2), Ok(&[new, "shortened k1 from never to now <- 0"])),
        (rotate(MEMBER, 1, 1, 2), Ok(&[new, "shortened k1 from never to +1s <- 0"])),
        (rotate(MEMBER, 1, OVERLAP_SECONDS_MAX, 2), Ok(&[new, "shortened k1 from never to +30d <- 0"])),
        (rotate(MEMBER, 1, OVERLAP_SECONDS_MAX + 1, 2), Ok(&[new, "shortened k1 from never to +30d <- 0"])),
        (rotate(MEMBER, 1, u32::MAX, 2), Ok(&[new, "shortened k1 from never to +30d <- 0"])),
    ]);
    let a_day = Story::acme().given([issue(MEMBER, Kind::Agent, 1, 1)]);
    let new = "agent k2 for member until +1d from k1";
    a_day.table([
        (rotate(MEMBER, 1, 86_399, 2), Ok(&[new, "shortened k1 from until +1d to +86399s <- 0"])),
        (rotate(MEMBER, 1, 86_400, 2), Ok(&[new])),
        (rotate(MEMBER, 1, 86_401, 2), Ok(&[new])),
    ]);
    // One microsecond less than the overlap is left: nothing to shorten; one more: shortened by it.
    a_day.clone().after(MICROSECOND).table([(rotate(MEMBER, 1, 86_400, 2), Ok(&[new]))]);
}

#[test]
fn no_overlap_ends_the_old_key_at_once() {
    let story = Story::acme().given([sk(MEMBER, 1), rotate(MEMBER, 1, 0, 2)]);
    assert!(!story.alive(1) && story.alive(2));
    story.table([(rotate(MEMBER, 1, 0, 3), Err(Refusal::Ended))]);
}

#[test]
fn both_live_for_the_overlap_and_the_second_rotation_does_not_prolong_it() {
    let story = Story::acme().given([sk(MEMBER, 1), rotate(MEMBER, 1, 60, 2)]);
    story.table([(rotate(MEMBER, 1, 3600, 3), Ok(&["integration k3 for member never from k1"]))]);
    let story = story.after(Duration::from_secs(60) - MICROSECOND);
    assert!(story.alive(1) && story.alive(2));
    let story = story.after(MICROSECOND);
    assert!(!story.alive(1) && story.alive(2));
}

#[test]
fn a_successor_lives_as_long_as_the_old_one_was_issued_for_within_todays_policy() {
    let with = |days: Option<u16>| When::Rotate { by: MEMBER, key: 1, overlap_seconds: 0, days, new: 2 };
    let shortened = |from: &str| format!("shortened k1 from {from} to now <- 0");
    let thirty = Story::acme().given([issue(MEMBER, Kind::Integration, 30, 1)]).after(DAY * 20);
    let ends = shortened("until +10d");
    thirty.table([
        (with(None), Ok(&["integration k2 for member until +30d from k1", &ends])),
        (with(Some(90)), Ok(&["integration k2 for member until +90d from k1", &ends])),
        (with(Some(0)), Err(Refusal::LifetimeOutOfRange)),
        (with(Some(366)), Err(Refusal::LifetimeOutOfRange)),
    ]);
    let stricter = thirty.given([policy(OWNER, 7, false, false)]);
    stricter.table([
        (with(None), Ok(&["integration k2 for member until +7d from k1", &ends])),
        (with(Some(8)), Err(Refusal::LifetimeTooLong { days_max: 7 })),
    ]);
    let forever = Story::acme().given([sk(MEMBER, 1), policy(OWNER, 7, false, false)]);
    forever.table([(with(None), Ok(&["integration k2 for member until +7d from k1", &shortened("never")]))]);
    // A chain of rotations does not wear the lifetime down.
    let again = Story::acme().given([issue(MEMBER, Kind::Integration, 30, 1), rotate(MEMBER, 1, 60, 2)]);
    let ends = "shortened k2 from until +30d to now <- 0";
    again.table([(rotate(MEMBER, 2, 0, 3), Ok(&["integration k3 for member until +30d from k2", ends]))]);
}

#[test]
fn the_holder_stays_and_whoever_has_left_or_may_hold_nothing_is_replaced() {
    let ends = "shortened k1 from never to now <- 0";
    let story = Story::acme().given([sk(MEMBER, 1)]);
    story.table([(rotate(ADMIN, 1, 0, 2), Ok(&["integration k2 for member never from k1", ends]))]);
    let replaced: &[&str] = &["integration k2 for admin never from k1", ends];
    let gone = story.clone().given([remove(MEMBER, MEMBER)]);
    gone.table([(rotate(ADMIN, 1, 0, 2), Ok(replaced))]);
    let demoted = story.given([role(OWNER, MEMBER, Role::Auditor)]);
    demoted.table([(rotate(ADMIN, 1, 0, 2), Ok(replaced))]);
}

/// They would hold a secret that somebody else answers for.
#[test]
fn a_former_holder_does_not_rotate() {
    let hand_over =
        When::Depart { by: OWNER, member: MEMBER, revoke: vec![], hand_over: vec![(1, OTHER)], revision: None };
    let story = Story::acme().given([sk(MEMBER, 1), hand_over, join(MEMBER, Role::Member, OWNER)]);
    assert_eq!(story.state.credentials[&key(1)].issued_by, MEMBER);
    story.table([
        (rotate(MEMBER, 1, 0, 2), Err(Refusal::Forbidden)),
        (
            rotate(OTHER, 1, 0, 2),
            Ok(&["integration k2 for other never from k1", "shortened k1 from never to now <- 0"]),
        ),
    ]);
}
