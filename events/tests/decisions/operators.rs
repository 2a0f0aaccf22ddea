//! The system stream: operators, service credentials, erasure.

use keyledger_events::{secret::Kind, team::Refusal};

use crate::story::{ADMIN, AUDITOR, DAY, MEMBER, OWNER, STRANGER, Story, VIEWER, When, policy, remove, revoke, rotate};

fn service(by: keyledger_events::PersonId, days: Option<u16>) -> When {
    When::IssueService { by, days, new: 1 }
}

#[test]
fn only_operators_issue_service_credentials() {
    Story::system().table([
        (service(OWNER, None), Ok(&["service k1 for owner never"])),
        (service(ADMIN, Some(90)), Ok(&["service k1 for admin until +90d"])),
        (service(ADMIN, Some(366)), Err(Refusal::LifetimeOutOfRange)),
        (service(MEMBER, None), Err(Refusal::Forbidden)),
        (service(VIEWER, None), Err(Refusal::Forbidden)),
        (service(AUDITOR, None), Err(Refusal::Forbidden)),
        (service(STRANGER, None), Err(Refusal::UnknownTeam)),
    ]);
    let strict = Story::system().given([policy(OWNER, 30, false, false)]);
    strict.table([
        (service(OWNER, None), Err(Refusal::NeverNotAllowed)),
        (service(OWNER, Some(31)), Err(Refusal::LifetimeTooLong { days_max: 30 })),
    ]);
    // An owner of any other team is nobody here.
    Story::acme().table([(service(OWNER, None), Err(Refusal::Forbidden))]);
}

#[test]
fn a_service_credential_ends_like_any_other_and_stays_when_its_operator_goes() {
    let story = Story::system().given([service(ADMIN, Some(1))]);
    assert_eq!(story.state.credentials[&crate::story::key(1)].kind, Kind::Service);
    story.table([
        (revoke(ADMIN, 1), Ok(&["revoked k1 Requested"])),
        (revoke(OWNER, 1), Ok(&["revoked k1 Requested"])),
        (revoke(MEMBER, 1), Err(Refusal::Forbidden)),
        (rotate(ADMIN, 1, 0, 2), Err(Refusal::NotRotatable)),
        (remove(OWNER, ADMIN), Ok(&["admin removed"])),
    ]);
    story.after(DAY).table([(When::Expire { key: 1 }, Ok(&["expired k1 at now"]))]);
}

#[test]
fn a_person_is_erased_by_an_operator_once_they_are_nobodys_member() {
    let erase = |by, still_member| When::Erase { by, person: STRANGER, still_member };
    Story::system().table([
        (erase(OWNER, false), Ok(&["stranger erased"])),
        (erase(ADMIN, false), Ok(&["stranger erased"])),
        (erase(ADMIN, true), Err(Refusal::StillMember)),
        (erase(MEMBER, false), Err(Refusal::Forbidden)),
        (erase(AUDITOR, false), Err(Refusal::Forbidden)),
        (erase(STRANGER, false), Err(Refusal::UnknownTeam)),
    ]);
    Story::acme().table([(erase(OWNER, false), Err(Refusal::Forbidden))]);
}
