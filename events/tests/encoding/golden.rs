//! Released bytes, for ever: `tests/fixtures/events-v1.txt` has a line for each event type, meta, record and commit.
//!
//! A line that stands there is never edited: a changed V1 type fails here, because logs in that shape exist. A new type
//! or version gets a new sample below; the failing test prints the line to add.

use std::collections::BTreeSet;

use keyledger_events::{
    CommitBody, CorrelationId, CredentialId, Event, EventId, Meta, OperationId, PersonId, PlaceId, Position, Record,
    RecordHash, Revision, TeamId, Timestamp, WebhookId,
    commit::{Envelope, NewEvent, RequestDigest},
    event::{
        CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialHandedOverV1, CredentialIssuedV1,
        CredentialLeakedV1, CredentialRevokedV1, DeadKeyPresentedV1, ExpiryShortenedV1, HistorySealedV1,
        MemberDepartedV1, MemberJoinedV1, PairingDeniedV1, PersonErasedV1, PolicyChangedV1, PolicyV1, Role,
        RoleChangedV1, ServiceCredentialIssuedV1, TeamCreatedV1, WebhookAddedV1, WebhookChangedV1, WebhookRemovedV1,
    },
    head::HeadSigner,
    presented::{AddressClass, Surface},
    record::{Actor, StreamHead},
    rotation::Certificate,
    seal::{Label, Sealed},
    secret::{Kind, RANDOM_LEN, Secret},
    stream_map::MapRoot,
};

use crate::strategies::{AUTH_METHODS, REASONS};

const RELEASED: &str = include_str!("../fixtures/events-v1.txt");

const PERSON: PersonId = PersonId::from_bytes([0x11; 16]);
const ANOTHER: PersonId = PersonId::from_bytes([0x12; 16]);
const KEY: CredentialId = CredentialId::from_bytes([0x21; 16]);
const DEVICE: CredentialId = CredentialId::from_bytes([0x22; 16]);
const HOOK: WebhookId = WebhookId::from_bytes([0x23; 16]);
const AT: Timestamp = Timestamp::from_micros(1_772_539_200_000_001);

fn label() -> Label {
    Label::Sealed(Sealed { person: PERSON, nonce: [0x31; 24], ciphertext: vec![0x32; 20] })
}

fn secret(kind: Kind) -> Secret {
    Secret::new(kind, &std::array::from_fn(|place| (place % RANDOM_LEN) as u8))
}

fn issued(kind: Kind, full: bool) -> Event {
    let secret = secret(kind);
    Event::CredentialIssued(CredentialIssuedV1 {
        credential: KEY,
        kind,
        hash: secret.hash(),
        prefix: secret.prefix(),
        name: if full { label() } else { Label::Clear("CI".into()) },
        purpose: full.then(|| "deploys".into()),
        holder: PERSON,
        expires_at: full.then_some(AT),
        rotated_from: full.then_some(DEVICE),
        companion_of: full.then_some(DEVICE),
    })
}

fn service(expires_at: Option<Timestamp>) -> Event {
    let secret = secret(Kind::Service);
    Event::ServiceCredentialIssued(ServiceCredentialIssuedV1 {
        credential: KEY,
        hash: secret.hash(),
        prefix: secret.prefix(),
        name: "edge".into(),
        holder: PERSON,
        expires_at,
    })
}

fn rotated() -> Event {
    let signer = |byte| HeadSigner::new("ledger.example/1", &[byte; 32]).unwrap();
    Certificate::sign(&signer(0x71), &signer(0x72).verifier(), Position(73), AT).event()
}

/// Every event type, and every number of every enum in one.
fn events() -> Vec<Event> {
    let (credential, effective_at) = (KEY, AT);
    let policy = |lifetime_days_max, never_allowed, admins_only| {
        let policy = PolicyV1 { lifetime_days_max, never_allowed, admins_only };
        Event::PolicyChanged(PolicyChangedV1 { policy })
    };
    let shortened = |from| Event::ExpiryShortened(ExpiryShortenedV1 { credential, from, to: AT });
    let mut events = vec![
        Event::TeamCreated(TeamCreatedV1 { name: "Ünïcode & Söhne".into() }),
        policy(365, true, false),
        policy(1, false, true),
    ];
    events.extend(Role::ALL.map(|role| {
        let (name, invited_by) = (label(), (role != Role::Owner).then_some(ANOTHER));
        Event::MemberJoined(MemberJoinedV1 { member: PERSON, role, name, invited_by })
    }));
    events.push(Event::RoleChanged(RoleChangedV1 { member: PERSON, from: Role::Member, to: Role::Admin }));
    events.extend(
        [true, false]
            .map(|left_by_themselves| Event::MemberDeparted(MemberDepartedV1 { member: PERSON, left_by_themselves })),
    );
    events.extend(Kind::ALL.map(|kind| issued(kind, false)));
    events.push(issued(Kind::Agent, true));
    events.extend(REASONS.map(|reason| {
        let note = Some("lost".into());
        Event::CredentialRevoked(CredentialRevokedV1 { credential, reason, note })
    }));
    events.extend([
        Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 { credential, device: DEVICE, effective_at }),
        Event::CredentialExpired(CredentialExpiredV1 { credential, effective_at }),
        shortened(None),
        shortened(Some(Timestamp::MAX)),
        Event::CredentialHandedOver(CredentialHandedOverV1 { credential, from: PERSON, to: ANOTHER }),
        Event::PairingDenied(PairingDeniedV1 { device_name: label() }),
        service(None),
        service(Some(AT)),
        Event::PersonErased(PersonErasedV1 { person: PERSON }),
        Event::HistorySealed(HistorySealedV1 { through: Position(300), teams: 7, root: MapRoot([0x71; 32]) }),
        rotated(),
    ]);
    let place_id = PlaceId::from_bytes([0x73; 16]);
    events.extend([
        Event::CredentialLeaked(CredentialLeakedV1 {
            credential,
            place: Some(label()),
            place_id,
            source: Some("commit".into()),
        }),
        Event::CredentialLeaked(CredentialLeakedV1 { credential, place: None, place_id, source: None }),
    ]);
    let surfaces = Surface::ALL.into_iter().map(Some).chain([None]);
    events.extend(surfaces.zip(AddressClass::ALL).map(|(surface, address)| {
        Event::DeadKeyPresented(DeadKeyPresentedV1 { credential, presented_at: AT, surface, address })
    }));
    events.extend([
        Event::WebhookAdded(WebhookAddedV1 { webhook: HOOK, url: "https://hooks.example/in".into(), types: vec![] }),
        Event::WebhookChanged(WebhookChangedV1 {
            webhook: HOOK,
            url: "https://hooks.example/in".into(),
            types: vec!["credential.expiring".into(), "credential.revoked".into()],
            generation: 300,
        }),
        Event::WebhookRemoved(WebhookRemovedV1 { webhook: HOOK }),
    ]);
    events
}

/// Every actor, every method, with and without what is optional.
fn metas() -> Vec<Meta> {
    let correlation = CorrelationId::from_bytes([0x41; 16]);
    let actors = [Actor::Person(PERSON), Actor::Credential(KEY), Actor::System];
    let full = AUTH_METHODS.iter().zip(actors.iter().cycle()).map(|(auth, actor)| Meta {
        actor: *actor,
        auth: *auth,
        cause: Some(EventId::from_bytes([0x42; 16])),
        correlation,
        context: Some(Sealed { person: PERSON, nonce: [0x31; 24], ciphertext: vec![0x33; 130] }),
    });
    let bare = Meta { actor: Actor::System, auth: AUTH_METHODS[4], cause: None, correlation, context: None };
    full.chain([bare]).collect()
}

fn record(meta: Meta) -> Record {
    Record {
        team: TeamId::from_bytes([0x51; 16]),
        revision: Revision(0x0102_0304_0506_0708),
        id: EventId::from_bytes([0x52; 16]),
        recorded_at: AT,
        previous: RecordHash([0x53; 32]),
        salt: [0x54; 16],
        meta,
        event: Event::PersonErased(PersonErasedV1 { person: PERSON }),
    }
}

fn commit() -> CommitBody {
    let Meta { actor, auth, cause, correlation, context } = metas().remove(0);
    let envelope = Envelope {
        team: TeamId::from_bytes([0x51; 16]),
        recorded_at: AT,
        actor,
        auth,
        correlation,
        context,
        operation: OperationId::from_bytes([0x61; 16]),
        request: RequestDigest([0x62; 32]),
    };
    let head = StreamHead { revision: Revision(41), hash: RecordHash([0x63; 32]) };
    let new = |byte, event| NewEvent { id: EventId::from_bytes([byte; 16]), salt: [byte; 16], cause, event };
    let revoked = CredentialRevokedV1 { credential: DEVICE, reason: REASONS[0], note: None };
    let cascade = CredentialCascadeRevokedV1 { credential: KEY, device: DEVICE, effective_at: AT };
    let events =
        vec![new(0x64, Event::CredentialRevoked(revoked)), new(0x65, Event::CredentialCascadeRevoked(cascade))];
    CommitBody::build(Some(head), &envelope, events).0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// What this program writes, one line a sample: what it is, and its bytes.
fn written() -> Vec<String> {
    let events = events().into_iter().map(|event| {
        let (kind, version) = event.header();
        format!("event {kind}.{version} {} {}", event.name(), hex(&event.encode(Vec::new())))
    });
    let records = metas().into_iter().map(|meta| format!("record {}", hex(&record(meta).encode())));
    events.chain(records).chain([format!("commit {}", hex(commit().bytes()))]).collect()
}

#[test]
fn released_bytes_are_written_as_ever() {
    let released: Vec<&str> = RELEASED.lines().filter(|line| !line.starts_with('#')).collect();
    for line in written() {
        assert!(released.contains(&line.as_str()), "not in the fixture; add it only if it is of a new type:\n{line}");
    }
    assert_eq!(released.len(), written().len(), "a released line whose sample is gone");
}

#[test]
fn released_bytes_are_read_as_ever() {
    let (mut events, mut metas) = (events().into_iter(), metas().into_iter());
    for line in RELEASED.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = unhex(words[words.len() - 1]);
        match words[0] {
            "event" => {
                let (kind, version) = words[1].split_once('.').unwrap();
                let event = Event::decode(kind.parse().unwrap(), version.parse().unwrap(), &bytes).unwrap();
                assert_eq!(Some(event), events.next(), "{line}");
            }
            "record" => assert_eq!(Record::decode(&bytes).unwrap(), record(metas.next().unwrap()), "{line}"),
            "commit" => assert_eq!(CommitBody::parse(bytes).unwrap(), commit()),
            other => panic!("a line about {other}"),
        }
    }
    assert!(events.next().is_none() && metas.next().is_none());
}

#[test]
fn every_type_has_a_sample_and_a_number_of_its_own() {
    let sampled: BTreeSet<_> =
        events().iter().map(|event| (event.header().0, event.header().1, event.name())).collect();
    assert_eq!(sampled, Event::TYPES.iter().copied().collect());
    let numbers: BTreeSet<_> = Event::TYPES.iter().map(|(kind, ..)| kind).collect();
    let names: BTreeSet<_> = Event::TYPES.iter().map(|(.., name)| name).collect();
    assert_eq!((numbers.len(), names.len()), (Event::TYPES.len(), Event::TYPES.len()));
}
