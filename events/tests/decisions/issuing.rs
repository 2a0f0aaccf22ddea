//! Integration and agent keys, lifetimes, and what a team's policy makes stricter.

use keyledger_events::{event::PolicyV1, secret::Kind, team::Refusal};

use crate::story::{ADMIN, DAY, MEMBER, MICROSECOND, OWNER, Story, issue, pair, policy, rotate, sk};

#[test]
fn a_lifetime_is_1_to_365_days_or_never() {
    Story::acme().table([
        (issue(MEMBER, Kind::Integration, None, 1), Ok(&["integration k1 for member never"])),
        (issue(MEMBER, Kind::Agent, None, 1), Ok(&["agent k1 for member never"])),
        (issue(MEMBER, Kind::Integration, 1, 1), Ok(&["integration k1 for member until +1d"])),
        (issue(MEMBER, Kind::Integration, 365, 1), Ok(&["integration k1 for member until +365d"])),
        (issue(MEMBER, Kind::Integration, 0, 1), Err(Refusal::LifetimeOutOfRange)),
        (issue(MEMBER, Kind::Integration, 366, 1), Err(Refusal::LifetimeOutOfRange)),
        (issue(MEMBER, Kind::Integration, u16::MAX, 1), Err(Refusal::LifetimeOutOfRange)),
    ]);
}

#[test]
fn a_policy_makes_issuing_stricter() {
    let too_long = Refusal::LifetimeTooLong { days_max: 30 };
    let story = Story::acme().given([sk(MEMBER, 1), policy(ADMIN, 30, false, false)]);
    story.table([
        (issue(OWNER, Kind::Agent, 30, 2), Ok(&["agent k2 for owner until +30d"])),
        (issue(OWNER, Kind::Agent, 31, 2), Err(too_long)),
        (issue(OWNER, Kind::Agent, 366, 2), Err(Refusal::LifetimeOutOfRange)),
        (issue(OWNER, Kind::Agent, None, 2), Err(Refusal::NeverNotAllowed)),
        (
            pair(MEMBER, 2),
            Ok(&["device k2 for member until +30d", "agent k3 for member until +30d of k2 <- 0"]),
        ),
    ]);
    assert!(story.after(DAY * 400).alive(1), "a policy is for new keys");

    let story = Story::acme().given([sk(MEMBER, 1), policy(ADMIN, 365, true, true)]);
    story.table([
        (sk(ADMIN, 2), Ok(&["integration k2 for admin never"])),
        (sk(MEMBER, 2), Err(Refusal::Forbidden)),
        (pair(MEMBER, 2), Err(Refusal::Forbidden)),
        (rotate(MEMBER, 1, 0, 2), Err(Refusal::Forbidden)),
    ]);
}

#[test]
fn a_policy_is_never_looser_than_the_ledgers_rules() {
    Story::acme().table([
        (policy(OWNER, 365, true, false), Ok(&[])),
        (policy(OWNER, 365, false, false), Ok(&["policy 365d never=false admins_only=false"])),
        (policy(OWNER, 1, false, true), Ok(&["policy 1d never=false admins_only=true"])),
        (policy(OWNER, 0, true, false), Err(Refusal::LifetimeOutOfRange)),
        (policy(OWNER, 366, true, false), Err(Refusal::LifetimeOutOfRange)),
        (policy(OWNER, u16::MAX, true, false), Err(Refusal::LifetimeOutOfRange)),
    ]);
    assert_eq!(Story::acme().state.policy, PolicyV1::default());
}

/// Zitadel let expiry slide and Keycloak mixed units: here the end is the same microsecond for everybody.
#[test]
fn a_key_lives_until_the_microsecond_of_its_end() {
    let story = Story::acme().given([issue(MEMBER, Kind::Integration, 1, 1)]);
    let day_less_one_us = DAY - MICROSECOND;
    assert!(story.alive(1));
    let story = story.after(day_less_one_us);
    assert!(story.alive(1));
    let story = story.after(MICROSECOND);
    assert!(!story.alive(1));
    assert!(!story.after(MICROSECOND).alive(1));
}
