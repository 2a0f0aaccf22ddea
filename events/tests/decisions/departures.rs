//! The departure page's one decision: everything or nothing, on what the decision knew.

use keyledger_events::{
    CommitBody, EventId, PersonId,
    commit::{COMMIT_LEN_MAX, Envelope, NewEvent, RequestDigest},
    event::Role,
    record::{Actor, AuthMethod, CONTEXT_LEN_MAX},
    seal::PersonKey,
    secret::Kind,
    team::{DEPARTURE_KEYS_MAX, DEVICES_PER_MEMBER_MAX, Refusal},
};

use crate::story::{
    ACME, ADMIN, AUDITOR, DAY, Key, MEMBER, OTHER, OWNER, STRANGER, Story, VIEWER, When, issue, key, pair, remove,
    revoke, role, sk,
};

/// k1–k3: the member's, k4/k5: their device and companion, k6: the other's, k7: the member's dead one, k8: a day's.
fn story() -> Story {
    Story::acme().given([
        sk(MEMBER, 1),
        sk(MEMBER, 2),
        issue(MEMBER, Kind::Agent, 90, 3),
        pair(MEMBER, 4),
        sk(OTHER, 6),
        sk(MEMBER, 7),
        revoke(MEMBER, 7),
        issue(MEMBER, Kind::Agent, 1, 8),
    ])
}

fn depart<const R: usize, const H: usize>(revoke: [Key; R], hand_over: [(Key, PersonId); H]) -> When {
    let (revoke, hand_over) = (revoke.to_vec(), hand_over.to_vec());
    When::Depart { by: ADMIN, member: MEMBER, revoke, hand_over, revision: None }
}

const GONE: [&str; 3] = ["member removed", "revoked k4 MemberDeparted <- 0", "cascade k5 of k4 at now <- 1"];

#[test]
fn revocations_hand_overs_and_the_removal_are_one_commit() {
    let story = story();
    let facts = [
        "revoked k1 MemberDeparted <- 0",
        "handed over k2 from member to other <- 0",
        "handed over k3 from member to owner <- 0",
    ];
    let decision = depart([1], [(2, OTHER), (3, OWNER)]);
    story.table([(decision.clone(), Ok(&[GONE, facts].concat())), (depart([], []), Ok(&GONE))]);
    let before = story.commits.len();
    let story = story.given([decision]);
    assert_eq!(story.commits.len(), before + 1);
    assert_eq!([1, 2, 3, 4, 5, 6, 8].map(|key| story.alive(key)), [false, true, true, false, false, true, true]);
    assert_eq!(story.state.credentials[&key(2)].holder, OTHER);
    assert_eq!(story.state.credentials[&key(2)].issued_by, MEMBER, "who issued it does not change");
}

#[test]
fn every_doubt_refuses_the_whole_decision() {
    let (start, revision) = (story(), story().revision());
    let at = |revision| When::Depart {
        by: ADMIN,
        member: MEMBER,
        revoke: vec![1],
        hand_over: vec![],
        revision: Some(revision),
    };
    let of = |member| When::Depart { by: ADMIN, member, revoke: vec![], hand_over: vec![], revision: None };
    let story = start;
    story.table([
        (at(revision - 1), Err(Refusal::Stale { actual: keyledger_events::Revision(revision) })),
        (at(revision + 1), Err(Refusal::Stale { actual: keyledger_events::Revision(revision) })),
        (of(OWNER), Err(Refusal::OwnerStays)),
        (of(STRANGER), Err(Refusal::UnknownMember)),
        (of(VIEWER), Ok(&["viewer removed"])),
        (depart([99], []), Err(Refusal::UnknownCredential)),
        (depart([], [(99, OTHER)]), Err(Refusal::UnknownCredential)),
        (depart([6], []), Err(Refusal::NotTheirs(key(6)))),
        (depart([], [(6, OWNER)]), Err(Refusal::NotTheirs(key(6)))),
        (depart([7], []), Err(Refusal::NotTheirs(key(7)))),
        (depart([4], []), Err(Refusal::NotTheirs(key(4)))),
        (depart([5], []), Err(Refusal::NotTheirs(key(5)))),
        (depart([], [(5, OTHER)]), Err(Refusal::NotTheirs(key(5)))),
        (depart([1, 2, 1], []), Err(Refusal::DecidedTwice(key(1)))),
        (depart([1], [(1, OTHER)]), Err(Refusal::DecidedTwice(key(1)))),
        (depart([], [(1, OTHER), (1, OWNER)]), Err(Refusal::DecidedTwice(key(1)))),
        (depart([], [(1, STRANGER)]), Err(Refusal::NotAHeir)),
        (depart([], [(1, MEMBER)]), Err(Refusal::NotAHeir)),
        (depart([], [(1, VIEWER)]), Err(Refusal::NotAHeir)),
        (depart([], [(1, AUDITOR)]), Err(Refusal::NotAHeir)),
    ]);
    let gone = story.clone().given([remove(OTHER, OTHER)]);
    gone.table([(depart([], [(1, OTHER)]), Err(Refusal::NotAHeir))]);
    let next_day = story.after(DAY);
    next_day.table([(depart([8], []), Err(Refusal::NotTheirs(key(8))))]);
}

#[test]
fn what_is_left_is_decided_on_later() {
    let story = story().given([remove(MEMBER, MEMBER)]);
    story.table([
        (depart([1], [(2, ADMIN)]), Ok(&["revoked k1 MemberDeparted", "handed over k2 from member to admin"])),
        (depart([], []), Ok(&[])),
        (depart([4], []), Err(Refusal::NotTheirs(key(4)))),
    ]);
    let decision = depart([1, 3, 8], [(2, ADMIN)]);
    let story = story.given([decision]);
    let undecided = story.state.credentials.values().filter(|key| key.alive(story.now) && key.holder == MEMBER).count();
    assert_eq!(undecided, 0, "the queue reads zero");
}

/// A key that was handed over is the heir's, and the heir's own departure is about it.
#[test]
fn an_inherited_key_departs_with_the_heir() {
    let story = story();
    let decision = depart([], [(1, OTHER)]);
    let story = story.given([decision]);
    let of_heir =
        |revoke: Vec<Key>| When::Depart { by: OWNER, member: OTHER, revoke, hand_over: vec![], revision: None };
    story.table([
        (
            of_heir(vec![1, 6]),
            Ok(&["other removed", "revoked k1 MemberDeparted <- 0", "revoked k6 MemberDeparted <- 0"]),
        ),
        (of_heir(vec![2]), Err(Refusal::NotTheirs(key(2)))),
    ]);
}

/// An admin may decide on their own keys and go: the record then says that they left by themselves.
#[test]
fn an_admin_departs_themselves() {
    let story = Story::acme().given([role(OWNER, MEMBER, Role::Admin), sk(MEMBER, 1)]);
    let (revoke, hand_over) = (vec![], vec![(1, OWNER)]);
    let decision = When::Depart { by: MEMBER, member: MEMBER, revoke, hand_over, revision: None };
    story.table([(decision, Ok(&["member left", "handed over k1 from member to owner <- 0"]))]);
}

/// The most devices, the most keys, the longest context: one commit still.
#[test]
fn the_biggest_departure_fits_the_longest_commit() {
    let devices = DEVICES_PER_MEMBER_MAX as Key;
    let keys = DEPARTURE_KEYS_MAX as Key;
    let base = Story::acme()
        .given((0..devices).map(|n| pair(MEMBER, 100_000 + n * 2)))
        .given((0..=keys).map(|n| sk(MEMBER, n)));
    let hand_over: Vec<_> = (0..keys).map(|n| (n, OTHER)).collect();
    let depart = |hand_over| When::Depart { by: ADMIN, member: MEMBER, revoke: vec![], hand_over, revision: None };
    let one_more = [hand_over.as_slice(), &[(keys, OTHER)]].concat();
    base.table([(depart(one_more), Err(Refusal::TooManyKeys))]);

    let facts = depart(hand_over).decide(&base.state, base.now).unwrap();
    assert_eq!(facts.len(), 1 + 2 * DEVICES_PER_MEMBER_MAX + DEPARTURE_KEYS_MAX);
    let context = PersonKey::from_bytes([1; 32]).seal(ADMIN, [0xff; 24], &"x".repeat(CONTEXT_LEN_MAX)).unwrap();
    let envelope = Envelope {
        team: ACME,
        recorded_at: base.now,
        actor: Actor::Person(ADMIN),
        auth: AuthMethod::Session,
        correlation: keyledger_events::CorrelationId::from_bytes([0xff; 16]),
        context: Some(context),
        operation: keyledger_events::OperationId::from_bytes([0xff; 16]),
        request: RequestDigest([0xff; 32]),
    };
    let id = EventId::from_bytes([0xff; 16]);
    let events =
        facts.into_iter().map(|fact| NewEvent { id, salt: [0xff; 16], cause: Some(id), event: fact.event }).collect();
    let (body, _) = CommitBody::build(base.state.head, &envelope, events);
    assert!(body.bytes().len() <= COMMIT_LEN_MAX, "{} bytes", body.bytes().len());
}
