//! Histories that no decision writes: the fold refuses each, so a replay proves the rules.

use keyledger_events::{
    CorrelationId, Event, EventId, Meta, PersonId, PlaceId, Position, Record, RecordHash, Revision, TeamId, Timestamp,
    event::{
        CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialHandedOverV1, CredentialIssuedV1,
        CredentialLeakedV1, CredentialRevokedV1, DeadKeyPresentedV1, ExpiryShortenedV1, HistorySealedV1,
        MemberDepartedV1, MemberJoinedV1, PersonErasedV1, PolicyChangedV1, PolicyV1, RevokeReason, Role, RoleChangedV1,
        ServiceCredentialIssuedV1, SigningKeyRotatedV1, TeamCreatedV1, WebhookAddedV1, WebhookChangedV1,
        WebhookRemovedV1,
    },
    presented::AddressClass,
    record::{Actor, AuthMethod},
    seal::Label,
    secret::Kind,
    stream_map::MapRoot,
    team::{Impossible, SealHistory, TeamState},
};

use crate::webhooks::hook;

use crate::story::{
    ACME, ADMIN, DAY, Key, MEMBER, OTHER, OWNER, START, STRANGER, Story, VIEWER, issue, key, material, pair, revoke, sk,
};

/// k1: the member's for ever, k2: the member's dead one, k3/k4: their device and companion, k5: a day's.
fn story() -> Story {
    let day = issue(MEMBER, Kind::Agent, 1, 5);
    Story::acme().given([sk(MEMBER, 1), sk(MEMBER, 2), revoke(MEMBER, 2), pair(MEMBER, 3), day])
}

fn apply(state: &mut TeamState, team: TeamId, actor: Actor, at: Timestamp, event: Event) -> Result<(), Impossible> {
    let meta = Meta {
        actor,
        auth: AuthMethod::Internal,
        cause: None,
        correlation: CorrelationId::from_bytes([0; 16]),
        context: None,
    };
    let revision = state.head.map_or(Revision(0), |head| head.revision.next());
    let previous = RecordHash::default();
    let (id, salt) = (EventId::from_bytes([0; 16]), [0; 16]);
    let record = Record { team, revision, id, recorded_at: at, previous, salt, meta, event };
    state.apply(&record, RecordHash::default())
}

fn issued(number: Key, kind: Kind, holder: PersonId, companion_of: Option<Key>) -> Event {
    let key_material = material(kind, number);
    Event::CredentialIssued(CredentialIssuedV1 {
        credential: key(number),
        kind,
        hash: key_material.hash,
        prefix: key_material.prefix,
        name: Label::Clear("x".into()),
        purpose: None,
        holder,
        expires_at: None,
        rotated_from: None,
        companion_of: companion_of.map(key),
    })
}

fn successor(number: Key, kind: Kind, old: Key) -> Event {
    match issued(number, kind, MEMBER, None) {
        Event::CredentialIssued(e) => Event::CredentialIssued(CredentialIssuedV1 { rotated_from: Some(key(old)), ..e }),
        other => other,
    }
}

fn joined(member: PersonId, role: Role) -> Event {
    Event::MemberJoined(MemberJoinedV1 { member, role, name: Label::Clear("x".into()), invited_by: None })
}

fn revoked(number: Key) -> Event {
    let reason = RevokeReason::Requested;
    Event::CredentialRevoked(CredentialRevokedV1 { credential: key(number), reason, note: None })
}

fn cascade(number: Key, device: Key) -> Event {
    let effective_at = START;
    Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
        credential: key(number),
        device: key(device),
        effective_at,
    })
}

fn expired(number: Key, effective_at: Timestamp) -> Event {
    Event::CredentialExpired(CredentialExpiredV1 { credential: key(number), effective_at })
}

fn shortened(number: Key, from: Option<Timestamp>, to: Timestamp) -> Event {
    Event::ExpiryShortened(ExpiryShortenedV1 { credential: key(number), from, to })
}

fn handed_over(number: Key, from: PersonId, to: PersonId) -> Event {
    Event::CredentialHandedOver(CredentialHandedOverV1 { credential: key(number), from, to })
}

fn role_changed(member: PersonId, from: Role, to: Role) -> Event {
    Event::RoleChanged(RoleChangedV1 { member, from, to })
}

fn departed(member: PersonId) -> Event {
    Event::MemberDeparted(MemberDepartedV1 { member, left_by_themselves: false })
}

fn policy(lifetime_days_max: u16) -> Event {
    let policy = PolicyV1 { lifetime_days_max, never_allowed: true, admins_only: false };
    Event::PolicyChanged(PolicyChangedV1 { policy })
}

fn service(number: Key) -> Event {
    let key_material = material(Kind::Service, number);
    Event::ServiceCredentialIssued(ServiceCredentialIssuedV1 {
        credential: key(number),
        hash: key_material.hash,
        prefix: key_material.prefix,
        name: "edge".into(),
        holder: OWNER,
        expires_at: None,
    })
}

#[test]
fn no_history_breaks_a_rule() {
    let (end, late) = (START.plus(DAY), START.plus(DAY * 2));
    let rows = [
        ("a team begins twice", Event::TeamCreated(TeamCreatedV1 { name: "x".into() })),
        ("a policy of no days", policy(0)),
        ("a policy of more than a year", policy(366)),
        ("a member joins twice", joined(MEMBER, Role::Admin)),
        ("a second owner joins", joined(STRANGER, Role::Owner)),
        ("a stranger's role changes", role_changed(STRANGER, Role::Member, Role::Admin)),
        ("a role that they did not have", role_changed(MEMBER, Role::Admin, Role::Viewer)),
        ("a stranger departs", departed(STRANGER)),
        ("the owner departs", departed(OWNER)),
        ("a credential is issued again", issued(1, Kind::Integration, MEMBER, None)),
        ("a dead one is revived", issued(2, Kind::Integration, MEMBER, None)),
        ("for a stranger", issued(9, Kind::Integration, STRANGER, None)),
        ("for a viewer", issued(9, Kind::Integration, VIEWER, None)),
        ("a service for a team", issued(9, Kind::Service, OWNER, None)),
        ("a service credential in a team", service(9)),
        ("a companion of nothing", issued(9, Kind::Agent, MEMBER, Some(99))),
        ("a second companion", issued(9, Kind::Agent, MEMBER, Some(3))),
        ("a companion of a key", issued(9, Kind::Agent, MEMBER, Some(1))),
        ("a successor of nothing", successor(9, Kind::Integration, 99)),
        ("a successor of another kind", successor(9, Kind::Agent, 1)),
        ("a successor of a device", successor(9, Kind::Integration, 3)),
        ("what never was ends", revoked(99)),
        ("what has ended ends", revoked(2)),
        ("a cascade without a device", cascade(1, 3)),
        ("a cascade from another's", cascade(4, 1)),
        ("a cascade from another's dead one", cascade(4, 2)),
        ("a cascade from a dead key to a key", cascade(1, 2)),
        ("a cascade from a living device", cascade(4, 3)),
        ("an expiry of what never expires", expired(1, START)),
        ("an expiry at another time", expired(5, start_of(&end))),
        ("an expiry of what has ended", expired(2, START)),
        ("an expiry put off", shortened(5, Some(end), late)),
        ("an expiry shortened to itself", shortened(5, Some(end), end)),
        ("an expiry it did not have", shortened(5, None, START)),
        ("shortened after its end", shortened(2, None, START)),
        ("handed over by another", handed_over(1, OTHER, ADMIN)),
        ("handed over to a stranger", handed_over(1, MEMBER, STRANGER)),
        ("handed over to a viewer", handed_over(1, MEMBER, VIEWER)),
        ("a device handed over", handed_over(3, MEMBER, OTHER)),
        ("a companion handed over", handed_over(4, MEMBER, OTHER)),
        ("a dead key handed over", handed_over(2, MEMBER, OTHER)),
        ("erased outside the system stream", Event::PersonErased(PersonErasedV1 { person: STRANGER })),
        (
            "rotated outside the system stream",
            Event::SigningKeyRotated(SigningKeyRotatedV1 { certificate: String::new() }),
        ),
        ("sealed outside the system stream", sealed(1)),
        ("a leak of what never was", leaked(99, 1)),
        ("a knock of what never was", knocked(99, late)),
        ("a knock of what lives", knocked(1, late)),
        ("a webhook to nowhere", webhook_added(1, "http://x.example/")),
        ("a webhook that never was changes", webhook_changed(1, 0)),
        ("a webhook that never was is removed", Event::WebhookRemoved(WebhookRemovedV1 { webhook: hook(1) })),
    ];
    for (name, event) in rows {
        let mut state = story().state;
        let revision = state.head.unwrap().revision.next();
        let refused = apply(&mut state, ACME, Actor::System, late, event);
        assert_eq!(refused.map_err(|impossible| impossible.revision), Err(revision), "{name}");
    }
}

fn webhook_added(number: u8, url: &str) -> Event {
    Event::WebhookAdded(WebhookAddedV1 { webhook: hook(number), url: url.into(), types: vec![] })
}

fn webhook_changed(number: u8, generation: u32) -> Event {
    let (webhook, url) = (hook(number), "https://y.example/".into());
    Event::WebhookChanged(WebhookChangedV1 { webhook, url, types: vec![], generation })
}

#[test]
fn a_webhook_changes_as_it_was_and_by_people_only() {
    let added = || webhook_added(1, "https://x.example/");
    let mut state = story().state;
    let mut by = |actor, event| apply(&mut state, ACME, actor, START, event).is_ok();
    assert!(by(Actor::Person(OWNER), added()));
    assert!(!by(Actor::Person(OWNER), added()), "twice");
    assert!(!by(Actor::Credential(key(1)), added()));
    // Each row on a team that has the webhook with its second secret.
    let mut team = story().state;
    for event in [added(), webhook_changed(1, 1)] {
        apply(&mut team, ACME, Actor::Person(OWNER), START, event).unwrap();
    }
    for (generation, may) in [(0, false), (1, true), (2, true), (3, false)] {
        let may_be = apply(&mut team.clone(), ACME, Actor::Person(OWNER), START, webhook_changed(1, generation));
        assert_eq!(may_be.is_ok(), may, "{generation}");
    }
    for number in 2..=10 {
        let one_more = webhook_added(number, "https://x.example/");
        apply(&mut team, ACME, Actor::Person(OWNER), START, one_more).unwrap();
    }
    assert!(apply(&mut team, ACME, Actor::Person(OWNER), START, webhook_added(11, "https://x.example/")).is_err());
}

fn sealed(through: u64) -> Event {
    Event::HistorySealed(HistorySealedV1 { through: Position(through), teams: 1, root: MapRoot([1; 32]) })
}

#[test]
fn a_seal_is_the_ledgers_own_and_never_of_less() {
    let seal = |through| SealHistory { through: Position(through), teams: 1, root: MapRoot([1; 32]) };
    let mut system = Story::system().state;
    assert_eq!(seal(5).decide(&system).unwrap(), vec![sealed(5).into()]);
    let mut by = |actor, through| apply(&mut system, TeamId::SYSTEM, actor, START, sealed(through)).is_ok();
    assert!(!by(Actor::Person(OWNER), 5));
    assert!(by(Actor::System, 5));
    assert!(!by(Actor::System, 4));
    assert!(by(Actor::System, 5), "two that sealed at once");
    assert_eq!(seal(5).decide(&system), Ok(vec![]), "sealed by somebody else meanwhile");
}

fn leaked(number: u32, place: u8) -> Event {
    let (place, place_id) = (None, PlaceId::from_bytes([place; 16]));
    Event::CredentialLeaked(CredentialLeakedV1 { credential: key(number), place, place_id, source: None })
}

fn knocked(number: u32, presented_at: Timestamp) -> Event {
    let (credential, address) = (key(number), AddressClass::Public);
    Event::DeadKeyPresented(DeadKeyPresentedV1 { credential, presented_at, surface: None, address })
}

#[test]
fn a_place_is_told_once_and_a_knock_once_a_day_by_the_ledger_alone() {
    let mut state = story().given([crate::story::revoke(OWNER, 1)]).state;
    let mut by = |actor, at, event| apply(&mut state, ACME, actor, at, event).is_ok();
    let late = START.plus(DAY * 4);
    assert!(by(Actor::System, late, leaked(1, 1)) && by(Actor::System, late, leaked(1, 2)));
    assert!(!by(Actor::System, late, leaked(1, 1)), "the same place again");
    assert!(!by(Actor::Person(OWNER), late, knocked(1, late)), "somebody hears a knock");
    assert!(!by(Actor::System, late, knocked(1, late.plus(DAY))), "a knock in the future");
    assert!(by(Actor::System, late, knocked(1, late)));
    assert!(!by(Actor::System, late, knocked(1, late)), "twice a day");
    assert!(by(Actor::System, late.plus(DAY), knocked(1, late.plus(DAY))));
}

fn start_of(end: &Timestamp) -> Timestamp {
    Timestamp::from_micros(end.micros() - 1)
}

#[test]
fn an_expiry_is_not_recorded_before_its_instant() {
    let end = START.plus(DAY);
    let at = |at| apply(&mut story().state, ACME, Actor::System, at, expired(5, end)).is_ok();
    assert_eq!([start_of(&end), end].map(at), [false, true]);
}

#[test]
fn a_stream_begins_with_its_team_and_stays_with_it() {
    let created = || Event::TeamCreated(TeamCreatedV1 { name: "x".into() });
    let mut state = TeamState::default();
    assert!(apply(&mut state, ACME, Actor::System, START, joined(OWNER, Role::Owner)).is_err());
    let mut state = TeamState::default();
    assert!(apply(&mut state, ACME, Actor::System, START, created()).is_ok());
    let elsewhere = TeamId::from_bytes([0xbe; 16]);
    assert!(apply(&mut state, elsewhere, Actor::System, START, joined(OWNER, Role::Owner)).is_err());
}

/// Rule 5, proven by the fold: whatever wrote the log, no credential has managed credentials in it.
#[test]
fn no_credential_manages_credentials() {
    let mut rows = vec![
        issued(9, Kind::Integration, MEMBER, None),
        issued(9, Kind::Agent, MEMBER, None),
        issued(9, Kind::Device, MEMBER, None),
        shortened(1, None, START.plus(DAY)),
        handed_over(1, MEMBER, OTHER),
    ];
    for event in rows.drain(..) {
        for by in [1, 3, 4, 5] {
            let mut state = story().state;
            let refused = apply(&mut state, ACME, Actor::Credential(key(by)), START, event.clone());
            assert_eq!(refused.map_err(|impossible| impossible.why), Err("a credential manages credentials"));
        }
        let mut state = story().state;
        assert!(apply(&mut state, ACME, Actor::Person(MEMBER), START, event).is_ok());
    }
    let mut system = Story::system().state;
    assert!(apply(&mut system, TeamId::SYSTEM, Actor::Credential(key(1)), START, service(9)).is_err());
}
