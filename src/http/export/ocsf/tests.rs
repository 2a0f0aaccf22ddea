//! Every type of event, as the published schema judges it.

use std::collections::BTreeSet;

use jsonschema::Validator;
use keyledger_events::{
    CorrelationId, EventId, PlaceId, Position, RecordHash,
    event::{
        CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialHandedOverV1, CredentialIssuedV1,
        CredentialLeakedV1, CredentialRevokedV1, DeadKeyPresentedV1, ExpiryShortenedV1, HistorySealedV1,
        MemberDepartedV1, MemberJoinedV1, PairingDeniedV1, PersonErasedV1, PolicyChangedV1, PolicyV1, RoleChangedV1,
        ServiceCredentialIssuedV1, SigningKeyRotatedV1, TeamCreatedV1, WebhookAddedV1, WebhookChangedV1,
        WebhookRemovedV1,
    },
    presented::{AddressClass, Surface},
    record::{Actor, AuthMethod},
    seal::{Label, Sealed},
    secret::{RANDOM_LEN, Secret},
    stream_map::MapRoot,
};

use super::*;
use crate::http::views::ActorBody;

/// Classes 3001 and 3004 of the schema, as JSON schemas; the file says where they are from.
const SCHEMA: &str = include_str!("../../../../tests/fixtures/ocsf-1.8.0.json");

fn validator(class: &str) -> Validator {
    let mut schema: Value = serde_json::from_str(SCHEMA).unwrap();
    schema["$ref"] = json!(format!("#/$defs/{class}"));
    jsonschema::draft202012::new(&schema).unwrap()
}

/// Class, activity, severity and status.
type Row = (Event, u64, u64, u64, u64);

fn table() -> Vec<Row> {
    let credential = CredentialId::from_bytes([1; 16]);
    let device = CredentialId::from_bytes([2; 16]);
    let (person, other) = (PersonId::from_bytes([3; 16]), PersonId::from_bytes([4; 16]));
    let secret = Secret::new(Kind::Integration, &[7; RANDOM_LEN]);
    let (hash, prefix) = (secret.hash(), secret.prefix());
    let at: Timestamp = "2026-03-03T12:00:00Z".parse().unwrap();
    let clear = |text: &str| Label::Clear(text.to_owned());
    let sealed = Label::Sealed(Sealed { person, nonce: [0; 24], ciphertext: vec![9; 20] });
    let issued = CredentialIssuedV1 {
        credential,
        kind: Kind::Integration,
        hash,
        prefix,
        name: clear("CI"),
        purpose: Some("builds".to_owned()),
        holder: person,
        expires_at: Some(at),
        rotated_from: None,
        companion_of: None,
    };
    let companion =
        CredentialIssuedV1 { kind: Kind::Agent, name: sealed.clone(), companion_of: Some(device), ..issued.clone() };
    let revoked = |reason, note: Option<&str>| {
        Event::CredentialRevoked(CredentialRevokedV1 { credential, reason, note: note.map(str::to_owned) })
    };
    let joined =
        |name| Event::MemberJoined(MemberJoinedV1 { member: person, role: Role::Member, name, invited_by: None });
    let webhook = WebhookId::from_bytes([4; 16]);
    let (url, types) = ("https://hooks.example/in".to_owned(), vec!["credential.revoked".to_owned()]);
    vec![
        (Event::TeamCreated(TeamCreatedV1 { name: "One".to_owned() }), 3004, 1, 1, 1),
        (Event::PolicyChanged(PolicyChangedV1 { policy: PolicyV1::default() }), 3004, 3, 1, 1),
        (joined(clear("Ada")), 3001, 1, 1, 1),
        (joined(sealed), 3001, 1, 1, 1),
        (
            Event::RoleChanged(RoleChangedV1 { member: person, from: Role::Member, to: Role::Admin }),
            3001,
            99,
            1,
            1,
        ),
        (Event::MemberDeparted(MemberDepartedV1 { member: person, left_by_themselves: true }), 3001, 6, 1, 1),
        (Event::CredentialIssued(issued), 3004, 1, 1, 1),
        (Event::CredentialIssued(companion), 3004, 1, 1, 1),
        (revoked(RevokeReason::Requested, Some("old")), 3004, 4, 1, 1),
        (revoked(RevokeReason::SelfRevoked, None), 3004, 4, 1, 1),
        (revoked(RevokeReason::MemberDeparted, None), 3004, 4, 1, 1),
        (revoked(RevokeReason::Leaked, None), 3004, 4, 4, 1),
        (
            Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 { credential, device, effective_at: at }),
            3004,
            4,
            1,
            1,
        ),
        (Event::CredentialExpired(CredentialExpiredV1 { credential, effective_at: at }), 3004, 4, 1, 1),
        (Event::ExpiryShortened(ExpiryShortenedV1 { credential, from: None, to: at }), 3004, 3, 1, 1),
        (
            Event::CredentialHandedOver(CredentialHandedOverV1 { credential, from: person, to: other }),
            3004,
            3,
            1,
            1,
        ),
        (Event::PairingDenied(PairingDeniedV1 { device_name: clear("laptop") }), 3004, 6, 1, 2),
        (
            Event::ServiceCredentialIssued(ServiceCredentialIssuedV1 {
                credential,
                hash,
                prefix,
                name: "edge".to_owned(),
                holder: person,
                expires_at: None,
            }),
            3004,
            1,
            1,
            1,
        ),
        (Event::PersonErased(PersonErasedV1 { person }), 3001, 99, 1, 1),
        (
            Event::HistorySealed(HistorySealedV1 { through: Position(9), teams: 2, root: MapRoot([7; 32]) }),
            3004,
            99,
            1,
            1,
        ),
        (
            Event::CredentialLeaked(CredentialLeakedV1 {
                credential,
                place: Some(clear("https://paste.example/1")),
                place_id: PlaceId::from_bytes([4; 16]),
                source: Some("commit".to_owned()),
            }),
            3004,
            99,
            4,
            1,
        ),
        (
            Event::DeadKeyPresented(DeadKeyPresentedV1 {
                credential,
                presented_at: at,
                surface: Some(Surface::Runtime),
                address: AddressClass::Private,
            }),
            3004,
            99,
            3,
            2,
        ),
        (Event::SigningKeyRotated(SigningKeyRotatedV1 { certificate: "a note".to_owned() }), 3004, 3, 1, 1),
        (Event::WebhookAdded(WebhookAddedV1 { webhook, url: url.clone(), types: vec![] }), 3004, 1, 1, 1),
        (Event::WebhookChanged(WebhookChangedV1 { webhook, url, types, generation: 1 }), 3004, 3, 1, 1),
        (Event::WebhookRemoved(WebhookRemovedV1 { webhook }), 3004, 4, 1, 1),
    ]
}

/// As `event_body` writes it; a sealed name counts as erased.
fn body(event: &Event, actor: Actor, context: Option<Value>) -> EventBody {
    let Value::Object(mut data) = serde_json::to_value(event).unwrap() else { panic!("{event:?} is no object") };
    data.remove("hash");
    if let Some((field, label)) = event.label() {
        let name = match label {
            Label::Clear(text) => json!(text),
            Label::Sealed(_) => Value::Null,
        };
        data.insert(field.to_owned(), name);
    }
    EventBody {
        position: 70,
        revision: 7,
        id: EventId::from_bytes([5; 16]),
        team_id: TeamId::from_bytes([6; 16]),
        kind: event.name(),
        recorded_at: "2026-03-03T12:00:01.5Z".parse().unwrap(),
        hash: RecordHash([8; 32]),
        previous: RecordHash([9; 32]),
        actor: match actor {
            Actor::Person(id) => ActorBody { kind: "person", id: Some(id.uuid()) },
            Actor::Credential(id) => ActorBody { kind: "credential", id: Some(id.uuid()) },
            Actor::System => ActorBody { kind: "system", id: None },
        },
        auth: AuthMethod::Session,
        cause: None,
        correlation_id: CorrelationId::from_bytes([1; 16]).uuid(),
        context,
        data,
    }
}

#[test]
fn every_type_of_event_is_valid_under_the_published_schema() {
    let validators = [(3001, validator("account_change")), (3004, validator("entity_management"))];
    let actors = [
        Actor::Person(PersonId::from_bytes([3; 16])),
        Actor::Credential(CredentialId::from_bytes([1; 16])),
        Actor::System,
    ];
    let at: Timestamp = "2026-03-03T12:00:00Z".parse().unwrap();
    let mut seen = BTreeSet::new();
    for (event, class, activity, severity, status) in table() {
        seen.insert(event.name());
        for actor in actors {
            for context in [None, Some(json!({ "ip": "203.0.113.7", "user_agent": "curl/8" }))] {
                let object = super::event(&body(&event, actor, context), &event, at);
                let (_, validator) = validators.iter().find(|(uid, _)| *uid == class).unwrap();
                let wrong: Vec<_> = validator.iter_errors(&object).map(|error| error.to_string()).collect();
                assert!(wrong.is_empty(), "{}: {wrong:?}\n{object:#}", event.name());
                let number = |name: &str| object[name].as_u64().unwrap();
                assert_eq!(
                    ["class_uid", "activity_id", "type_uid", "severity_id", "status_id", "time"].map(number),
                    [class, activity, class * 100 + activity, severity, status, at.micros() / 1_000],
                    "{}",
                    event.name()
                );
                assert_eq!(object["metadata"]["sequence"], 70);
                assert_eq!(object["unmapped"]["revision"], 7);
                assert!(!object.to_string().contains("secret_hash"));
            }
        }
    }
    let all: BTreeSet<_> = Event::TYPES.iter().map(|(.., name)| *name).collect();
    assert_eq!(seen, all, "each type of event has a row");
}

#[test]
fn the_schema_judges() {
    let (event, ..) = table().into_iter().next().unwrap();
    let at = Timestamp::from_micros(1);
    let object = super::event(&body(&event, Actor::System, None), &event, at);
    let validator = validator("entity_management");
    assert!(validator.is_valid(&object));
    for spoil in [
        |object: &mut Value| object["activity_id"] = json!(77),
        |object: &mut Value| object["time"] = json!("now"),
        |object: &mut Value| object["surprise"] = json!(1),
        |object: &mut Value| object["metadata"]["product"] = Value::Null,
        |object: &mut Value| drop(object.as_object_mut().unwrap().remove("entity")),
    ] {
        let mut spoiled = object.clone();
        spoil(&mut spoiled);
        assert!(!validator.is_valid(&spoiled), "{spoiled}");
    }
}
