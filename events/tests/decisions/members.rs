//! Who is in a team, as what, and whose it is.

use keyledger_events::{event::Role, team::Refusal};

use crate::story::{ADMIN, AUDITOR, MEMBER, OTHER, OWNER, STRANGER, Story, VIEWER, join, pair, remove, role, sk};

fn owners(story: &Story) -> usize {
    story.state.members.values().filter(|member| !member.departed && member.role == Role::Owner).count()
}

#[test]
fn an_invitation_holds_while_its_inviter_may_invite() {
    let story = Story::acme();
    story.table([
        (join(STRANGER, Role::Member, ADMIN), Ok(&["stranger joined as member"])),
        (join(STRANGER, Role::Admin, ADMIN), Ok(&["stranger joined as admin"])),
        (join(STRANGER, Role::Owner, OWNER), Err(Refusal::Forbidden)),
        (join(MEMBER, Role::Admin, OWNER), Err(Refusal::AlreadyMember)),
        (join(OWNER, Role::Admin, OWNER), Err(Refusal::AlreadyMember)),
        (join(STRANGER, Role::Member, MEMBER), Err(Refusal::Forbidden)),
        (join(STRANGER, Role::Member, STRANGER), Err(Refusal::UnknownTeam)),
    ]);
    let demoted = story.clone().given([role(OWNER, ADMIN, Role::Member)]);
    demoted.table([(join(STRANGER, Role::Member, ADMIN), Err(Refusal::Forbidden))]);
    let gone = story.given([remove(OWNER, ADMIN)]);
    gone.table([(join(STRANGER, Role::Member, ADMIN), Err(Refusal::UnknownTeam))]);
}

#[test]
fn roles_change_by_admins_and_only_the_owner_gives_the_team_away() {
    let story = Story::acme();
    story.table([
        (role(ADMIN, MEMBER, Role::Viewer), Ok(&["member member -> viewer"])),
        (role(ADMIN, ADMIN, Role::Member), Ok(&["admin admin -> member"])),
        (role(OWNER, MEMBER, Role::Member), Ok(&[])),
        (role(OWNER, OWNER, Role::Owner), Ok(&[])),
        (role(OWNER, MEMBER, Role::Owner), Ok(&["member member -> owner", "owner owner -> admin <- 0"])),
        (role(OWNER, AUDITOR, Role::Owner), Ok(&["auditor auditor -> owner", "owner owner -> admin <- 0"])),
        (role(ADMIN, ADMIN, Role::Owner), Err(Refusal::Forbidden)),
        (role(ADMIN, MEMBER, Role::Owner), Err(Refusal::Forbidden)),
        (role(ADMIN, OWNER, Role::Member), Err(Refusal::OwnerStays)),
        (role(OWNER, OWNER, Role::Admin), Err(Refusal::OwnerStays)),
        (role(OWNER, STRANGER, Role::Member), Err(Refusal::UnknownMember)),
        (role(MEMBER, MEMBER, Role::Admin), Err(Refusal::Forbidden)),
        (role(MEMBER, STRANGER, Role::Admin), Err(Refusal::Forbidden)),
    ]);
    let story = story.given([role(OWNER, MEMBER, Role::Owner)]);
    assert_eq!(owners(&story), 1);
    story.table([
        (role(OWNER, OWNER, Role::Owner), Err(Refusal::Forbidden)),
        (remove(MEMBER, OWNER), Ok(&["owner removed"])),
        (remove(MEMBER, MEMBER), Err(Refusal::OwnerStays)),
    ]);
}

#[test]
fn leaving_ends_devices_and_nothing_else() {
    let story = Story::acme().given([sk(MEMBER, 1), pair(MEMBER, 2), pair(MEMBER, 4), pair(OTHER, 6)]);
    let facts = [
        "revoked k2 MemberDeparted <- 0",
        "cascade k3 of k2 at now <- 1",
        "revoked k4 MemberDeparted <- 0",
        "cascade k5 of k4 at now <- 3",
    ];
    let all = |first| [&[first], facts.as_slice()].concat();
    story.table([
        (remove(MEMBER, MEMBER), Ok(&all("member left"))),
        (remove(ADMIN, MEMBER), Ok(&all("member removed"))),
        (remove(OWNER, VIEWER), Ok(&["viewer removed"])),
        (remove(ADMIN, OWNER), Err(Refusal::OwnerStays)),
        (remove(OWNER, OWNER), Err(Refusal::OwnerStays)),
        (remove(OWNER, STRANGER), Err(Refusal::UnknownMember)),
        (remove(MEMBER, OTHER), Err(Refusal::Forbidden)),
        (remove(MEMBER, STRANGER), Err(Refusal::Forbidden)),
        (remove(STRANGER, STRANGER), Err(Refusal::UnknownTeam)),
    ]);
    let story = story.given([remove(ADMIN, MEMBER)]);
    assert_eq!([1, 2, 3, 4, 5, 6, 7].map(|key| story.alive(key)), [true, false, false, false, false, true, true]);
    story.table([
        (remove(ADMIN, MEMBER), Err(Refusal::UnknownMember)),
        (role(OWNER, MEMBER, Role::Owner), Err(Refusal::UnknownMember)),
    ]);
}

#[test]
fn whoever_comes_back_has_their_keys_but_not_their_devices() {
    let story = Story::acme().given([sk(MEMBER, 1), pair(MEMBER, 2), remove(MEMBER, MEMBER)]);
    let story = story.given([join(MEMBER, Role::Viewer, OWNER)]);
    assert_eq!(story.state.present(MEMBER), Some(Role::Viewer), "in the role of the new invitation");
    assert_eq!([1, 2, 3].map(|key| story.alive(key)), [true, false, false]);
}
