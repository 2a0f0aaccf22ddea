//! Each role × each command.

use keyledger_events::{PersonId, event::Role, secret::Kind, team::Refusal};

use crate::story::{
    ADMIN, AUDITOR, MEMBER, OTHER, OWNER, STRANGER, Story, VIEWER, When, issue, join, pair, policy, remove, revoke,
    role, rotate, sk,
};

/// What a cell of the matrix stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    /// Granted, with facts.
    Y,
    /// `Forbidden`.
    F,
    /// `UnknownTeam`.
    T,
    /// `UnknownCredential`.
    C,
    /// `NotRotatable`.
    N,
    /// `OwnerStays`.
    S,
}
use Cell::{C, F, N, S, T, Y};

const ACTORS: [PersonId; 6] = [OWNER, ADMIN, MEMBER, VIEWER, AUDITOR, STRANGER];
type Row = (&'static str, fn(PersonId) -> When, [Cell; 6]);

/// k1: the member's key, k2: the other member's, k4 and k5: the other's device and companion, k6 and k7 the member's own.
#[rustfmt::skip]
const MATRIX: [Row; 26] = [
    //                                                                                owner admin member viewer auditor stranger
    ("issue integration",         |by| sk(by, 9),                                      [Y, Y, Y, F, F, T]),
    ("issue agent",               |by| issue(by, Kind::Agent, 1, 9),                   [Y, Y, Y, F, F, T]),
    ("issue a device by itself",  |by| issue(by, Kind::Device, None, 9),               [F, F, F, F, F, T]),
    ("issue a service by itself", |by| issue(by, Kind::Service, None, 9),              [F, F, F, F, F, T]),
    ("pair",                      |by| pair(by, 9),                                    [Y, Y, Y, F, F, T]),
    ("issue service",             |by| When::IssueService { by, days: None, new: 9 },  [F, F, F, F, F, T]),
    ("revoke the member's",       |by| revoke(by, 1),                                  [Y, Y, Y, F, F, T]),
    ("revoke the other's",        |by| revoke(by, 2),                                  [Y, Y, F, F, F, T]),
    ("revoke the other's device", |by| revoke(by, 4),                                  [Y, Y, C, C, F, T]),
    ("revoke its companion",      |by| revoke(by, 5),                                  [Y, Y, C, C, F, T]),
    ("revoke the member's device",|by| revoke(by, 6),                                  [Y, Y, Y, C, F, T]),
    ("revoke what is not there",  |by| revoke(by, 99),                                 [C, C, C, C, C, T]),
    ("rotate the member's",       |by| rotate(by, 1, 0, 9),                            [Y, Y, Y, F, F, T]),
    ("rotate the other's",        |by| rotate(by, 2, 0, 9),                            [Y, Y, F, F, F, T]),
    ("rotate the other's device", |by| rotate(by, 4, 0, 9),                            [N, N, C, C, F, T]),
    ("rotate the own device",     |by| rotate(by, 6, 0, 9),                            [N, N, N, C, F, T]),
    ("rotate what is not there",  |by| rotate(by, 99, 0, 9),                           [C, C, C, C, C, T]),
    ("change the policy",         |by| policy(by, 30, false, true),                    [Y, Y, F, F, F, T]),
    ("invite",                    |by| join(PersonId::from_bytes([9; 16]), Role::Admin, by), [Y, Y, F, F, F, T]),
    ("invite an owner",           |by| join(PersonId::from_bytes([9; 16]), Role::Owner, by), [F, F, F, F, F, T]),
    ("change a role",             |by| role(by, OTHER, Role::Admin),                   [Y, Y, F, F, F, T]),
    ("transfer the ownership",    |by| role(by, OTHER, Role::Owner),                   [Y, F, F, F, F, T]),
    ("remove",                    |by| remove(by, OTHER),                              [Y, Y, F, F, F, T]),
    ("leave",                     |by| remove(by, by),                                 [S, Y, Y, Y, Y, T]),
    ("deny a pairing",            |by| When::Deny { by },                              [Y, Y, Y, Y, Y, T]),
    ("erase a person",            |by| When::Erase { by, person: STRANGER, still_member: false }, [F, F, F, F, F, T]),
];

fn story() -> Story {
    Story::acme().given([sk(MEMBER, 1), sk(OTHER, 2), pair(OTHER, 4), pair(MEMBER, 6)])
}

fn cell(story: &Story, command: When) -> Cell {
    match story.when(command) {
        Ok(facts) => {
            assert!(!facts.is_empty());
            Y
        }
        Err(Refusal::Forbidden) => F,
        Err(Refusal::UnknownTeam) => T,
        Err(Refusal::UnknownCredential) => C,
        Err(Refusal::NotRotatable) => N,
        Err(Refusal::OwnerStays) => S,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_role_with_every_command() {
    let story = story();
    for (name, command, cells) in MATRIX {
        assert_eq!(ACTORS.map(|by| cell(&story, command(by))), cells, "{name}");
    }
}

#[test]
fn departing_somebody_takes_an_admin() {
    let story = story();
    let depart = |by| When::Depart { by, member: OTHER, revoke: vec![2], hand_over: vec![], revision: None };
    assert_eq!(ACTORS.map(|by| cell(&story, depart(by))), [Y, Y, F, F, F, T]);
}

/// Whoever has left may do what a stranger may: nothing, and without learning that the team exists.
#[test]
fn the_departed_are_strangers() {
    for gone in [ADMIN, MEMBER, VIEWER, AUDITOR] {
        let story = story().given([remove(gone, gone)]);
        for (name, command, cells) in MATRIX {
            assert_eq!(cell(&story, command(gone)), cells[5], "{name}");
        }
    }
}

/// Who may do what goes by the role at the moment, not by the one at the time of issue.
#[test]
fn a_new_role_counts_at_once() {
    for (name, command, cells) in MATRIX {
        let promoted = story().given([role(OWNER, VIEWER, Role::Admin)]);
        assert_eq!(cell(&promoted, command(VIEWER)), cells[1], "promoted: {name}");
        let demoted = story().given([role(OWNER, ADMIN, Role::Auditor)]);
        assert_eq!(cell(&demoted, command(ADMIN)), cells[4], "demoted: {name}");
    }
}

#[test]
fn a_viewer_ends_what_they_issued_as_a_member_and_an_auditor_nothing() {
    let story = story().given([role(OWNER, MEMBER, Role::Viewer)]);
    story.table([
        (revoke(MEMBER, 1), Ok(&["revoked k1 Requested"])),
        (revoke(MEMBER, 6), Ok(&["revoked k6 Requested", "cascade k7 of k6 at now <- 0"])),
        (revoke(MEMBER, 2), Err(Refusal::Forbidden)),
        (rotate(MEMBER, 1, 0, 9), Err(Refusal::Forbidden)),
    ]);
    let story = story.given([role(OWNER, MEMBER, Role::Auditor)]);
    story.table([(revoke(MEMBER, 1), Err(Refusal::Forbidden)), (revoke(MEMBER, 6), Err(Refusal::Forbidden))]);
}
