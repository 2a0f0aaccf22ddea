//! Devices and their companions: born together, seen by few, few enough to depart in one commit.

use keyledger_events::{
    Event,
    event::Role,
    seal::Label,
    secret::Kind,
    team::{DEVICES_PER_MEMBER_MAX, Refusal},
};

use crate::story::{
    ADMIN, AUDITOR, MEMBER, OTHER, OWNER, Story, VIEWER, issue, key, pair, remove, revoke, role, rotate,
};

#[test]
fn a_device_is_issued_only_by_pairing_and_with_its_companion() {
    let story = Story::acme();
    story.table([
        (issue(OWNER, Kind::Device, None, 1), Err(Refusal::Forbidden)),
        (pair(MEMBER, 1), Ok(&["device k1 for member never", "agent k2 for member never of k1 <- 0"])),
    ]);
    let before = story.commits.len();
    let story = story.given([pair(MEMBER, 1)]);
    assert_eq!(story.commits.len(), before + 1, "one commit: neither is ever there without the other");
    assert_eq!(story.commits[before].view().count(), 2);
    assert_eq!(story.state.credentials[&key(1)].companion, Some(key(2)));
    assert_eq!(story.state.credentials[&key(2)].companion_of, Some(key(1)));
}

#[test]
fn nobody_but_its_person_admins_and_auditors_sees_a_device() {
    let story = Story::acme().given([pair(OTHER, 1)]);
    for device_or_companion in [1, 2] {
        let key = &story.state.credentials[&key(device_or_companion)];
        let sees = |person| {
            let role = story.state.role(person).unwrap();
            keyledger_events::credential::may_see(role, person, key)
        };
        assert_eq!([OWNER, ADMIN, AUDITOR, OTHER].map(sees), [true; 4]);
        assert_eq!([MEMBER, VIEWER].map(sees), [false; 2]);
    }
    // Ending it and asking for what does not exist look alike.
    story.table([
        (revoke(MEMBER, 1), Err(Refusal::UnknownCredential)),
        (revoke(MEMBER, 2), Err(Refusal::UnknownCredential)),
        (revoke(MEMBER, 99), Err(Refusal::UnknownCredential)),
        (rotate(MEMBER, 1, 0, 9), Err(Refusal::UnknownCredential)),
    ]);
}

#[test]
fn a_device_and_its_companion_are_not_rotated() {
    Story::acme().given([pair(MEMBER, 1)]).table([
        (rotate(MEMBER, 1, 0, 9), Err(Refusal::NotRotatable)),
        (rotate(OWNER, 2, 0, 9), Err(Refusal::NotRotatable)),
    ]);
}

#[test]
fn a_member_has_at_most_so_many_living_devices() {
    let max = DEVICES_PER_MEMBER_MAX as u32;
    let story = Story::acme().given((0..max).map(|n| pair(MEMBER, n * 2)));
    story.table([
        (pair(MEMBER, 1000), Err(Refusal::TooManyDevices)),
        (
            pair(OTHER, 1000),
            Ok(&["device k1000 for other never", "agent k1001 for other never of k1000 <- 0"]),
        ),
    ]);
    // Dead ones don't count, whatever they died of.
    story.given([revoke(MEMBER, 0), pair(MEMBER, 1000)]).table([(pair(MEMBER, 2000), Err(Refusal::TooManyDevices))]);
}

/// Somebody who may issue nothing any more keeps what they have; only leaving ends it.
#[test]
fn a_device_outlives_a_demotion_but_not_a_departure() {
    let story = Story::acme().given([pair(MEMBER, 1), role(OWNER, MEMBER, Role::Viewer)]);
    assert!(story.alive(1) && story.alive(2));
    let story = story.given([remove(MEMBER, MEMBER)]);
    assert!(!story.alive(1) && !story.alive(2));
}

#[test]
fn the_name_of_a_device_is_sealed_for_its_person() {
    let story = Story::acme().given([pair(MEMBER, 1)]);
    let body = story.commits.last().unwrap();
    for record in body.view().records() {
        let record = keyledger_events::Record::decode(record.bytes()).unwrap();
        assert!(matches!(record.event, Event::CredentialIssued(_)));
        let label = record.event.label();
        assert!(matches!(label, Some(("name", Label::Sealed(sealed))) if sealed.person == MEMBER));
    }
}
