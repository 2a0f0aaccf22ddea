//! Any value of every type that reaches the log.

use keyledger_events::{
    CorrelationId, CredentialId, Event, EventId, Meta, OperationId, PersonId, PlaceId, Position, Record, RecordHash,
    Revision, TeamId, Timestamp, WebhookId,
    commit::{Envelope, NewEvent, RequestDigest},
    event::{
        CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialHandedOverV1, CredentialIssuedV1,
        CredentialLeakedV1, CredentialRevokedV1, DeadKeyPresentedV1, ExpiryShortenedV1, HistorySealedV1,
        MemberDepartedV1, MemberJoinedV1, PairingDeniedV1, PersonErasedV1, PolicyChangedV1, PolicyV1, RevokeReason,
        Role, RoleChangedV1, ServiceCredentialIssuedV1, SigningKeyRotatedV1, TeamCreatedV1, WebhookAddedV1,
        WebhookChangedV1, WebhookRemovedV1,
    },
    presented::{AddressClass, Surface},
    record::{Actor, AuthMethod, StreamHead},
    seal::{Label, Sealed},
    secret::{KeyPrefix, Kind, RANDOM_LEN, Secret, SecretHash},
    stream_map::MapRoot,
};
use proptest::{array::uniform, collection::vec, option, prelude::*, sample::select};

pub const REASONS: [RevokeReason; 4] =
    [RevokeReason::Requested, RevokeReason::SelfRevoked, RevokeReason::MemberDeparted, RevokeReason::Leaked];
pub const AUTH_METHODS: [AuthMethod; 5] =
    [AuthMethod::Session, AuthMethod::Token, AuthMethod::Secret, AuthMethod::Link, AuthMethod::Internal];

fn bytes<const N: usize>() -> impl Strategy<Value = [u8; N]> {
    uniform(any::<u8>())
}

fn person() -> impl Strategy<Value = PersonId> {
    bytes().prop_map(PersonId::from_bytes)
}

fn credential() -> impl Strategy<Value = CredentialId> {
    bytes().prop_map(CredentialId::from_bytes)
}

fn event_id() -> impl Strategy<Value = EventId> {
    bytes().prop_map(EventId::from_bytes)
}

fn instant() -> impl Strategy<Value = Timestamp> {
    prop_oneof![Just(0), Just(127), Just(128), Just(Timestamp::MAX.micros()), any::<u64>()]
        .prop_map(Timestamp::from_micros)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), ".{0,200}"]
}

fn sealed() -> impl Strategy<Value = Sealed> {
    (person(), bytes(), vec(any::<u8>(), 0..300)).prop_map(|(person, nonce, ciphertext)| Sealed {
        person,
        nonce,
        ciphertext,
    })
}

fn label() -> impl Strategy<Value = Label> {
    prop_oneof![text().prop_map(Label::Clear), sealed().prop_map(Label::Sealed)]
}

fn kind() -> impl Strategy<Value = Kind> {
    select(&Kind::ALL[..])
}

fn role() -> impl Strategy<Value = Role> {
    select(&Role::ALL[..])
}

fn prefix() -> impl Strategy<Value = KeyPrefix> {
    (kind(), uniform(0..62u8)).prop_map(|(kind, random): (_, [u8; RANDOM_LEN])| Secret::new(kind, &random).prefix())
}

fn hash() -> impl Strategy<Value = SecretHash> {
    bytes().prop_map(SecretHash)
}

fn issued() -> impl Strategy<Value = Event> {
    let key = (credential(), kind(), hash(), prefix());
    let names = (label(), option::of(text()), person());
    let ties = (option::of(instant()), option::of(credential()), option::of(credential()));
    (key, names, ties).prop_map(|(key, names, ties)| {
        Event::CredentialIssued(CredentialIssuedV1 {
            credential: key.0,
            kind: key.1,
            hash: key.2,
            prefix: key.3,
            name: names.0,
            purpose: names.1,
            holder: names.2,
            expires_at: ties.0,
            rotated_from: ties.1,
            companion_of: ties.2,
        })
    })
}

fn service_issued() -> impl Strategy<Value = Event> {
    (credential(), hash(), prefix(), text(), person(), option::of(instant())).prop_map(
        |(credential, hash, prefix, name, holder, expires_at)| {
            Event::ServiceCredentialIssued(ServiceCredentialIssuedV1 {
                credential,
                hash,
                prefix,
                name,
                holder,
                expires_at,
            })
        },
    )
}

fn webhook() -> impl Strategy<Value = WebhookId> {
    bytes().prop_map(WebhookId::from_bytes)
}

fn policy() -> impl Strategy<Value = PolicyV1> {
    (any::<u16>(), any::<bool>(), any::<bool>()).prop_map(|(lifetime_days_max, never_allowed, admins_only)| PolicyV1 {
        lifetime_days_max,
        never_allowed,
        admins_only,
    })
}

/// Any event, each type as often as any other.
pub fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        text().prop_map(|name| Event::TeamCreated(TeamCreatedV1 { name })),
        policy().prop_map(|policy| Event::PolicyChanged(PolicyChangedV1 { policy })),
        (person(), role(), label(), option::of(person())).prop_map(|(member, role, name, invited_by)| {
            Event::MemberJoined(MemberJoinedV1 { member, role, name, invited_by })
        }),
        (person(), role(), role()).prop_map(|(member, from, to)| Event::RoleChanged(RoleChangedV1 {
            member,
            from,
            to
        })),
        (person(), any::<bool>()).prop_map(|(member, left_by_themselves)| {
            Event::MemberDeparted(MemberDepartedV1 { member, left_by_themselves })
        }),
        issued(),
        (credential(), select(&REASONS[..]), option::of(text())).prop_map(|(credential, reason, note)| {
            Event::CredentialRevoked(CredentialRevokedV1 { credential, reason, note })
        }),
        (credential(), credential(), instant()).prop_map(|(credential, device, effective_at)| {
            Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 { credential, device, effective_at })
        }),
        (credential(), instant()).prop_map(|(credential, effective_at)| {
            Event::CredentialExpired(CredentialExpiredV1 { credential, effective_at })
        }),
        (credential(), option::of(instant()), instant())
            .prop_map(|(credential, from, to)| { Event::ExpiryShortened(ExpiryShortenedV1 { credential, from, to }) }),
        (credential(), person(), person()).prop_map(|(credential, from, to)| {
            Event::CredentialHandedOver(CredentialHandedOverV1 { credential, from, to })
        }),
        label().prop_map(|device_name| Event::PairingDenied(PairingDeniedV1 { device_name })),
        service_issued(),
        person().prop_map(|person| Event::PersonErased(PersonErasedV1 { person })),
        text().prop_map(|certificate| Event::SigningKeyRotated(SigningKeyRotatedV1 { certificate })),
        (credential(), option::of(label()), bytes(), option::of(text())).prop_map(
            |(credential, place, place_id, source)| {
                let place_id = PlaceId::from_bytes(place_id);
                Event::CredentialLeaked(CredentialLeakedV1 { credential, place, place_id, source })
            }
        ),
        (credential(), instant(), option::of(select(&Surface::ALL[..])), select(&AddressClass::ALL[..])).prop_map(
            |(credential, presented_at, surface, address)| {
                Event::DeadKeyPresented(DeadKeyPresentedV1 { credential, presented_at, surface, address })
            }
        ),
        (any::<u64>(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(through, teams, root)| {
            Event::HistorySealed(HistorySealedV1 { through: Position(through), teams, root: MapRoot(root) })
        }),
        (webhook(), text(), vec(text(), 0..4)).prop_map(|(webhook, url, types)| Event::WebhookAdded(WebhookAddedV1 {
            webhook,
            url,
            types
        })),
        (webhook(), text(), vec(text(), 0..4), any::<u32>()).prop_map(|(webhook, url, types, generation)| {
            Event::WebhookChanged(WebhookChangedV1 { webhook, url, types, generation })
        }),
        webhook().prop_map(|webhook| Event::WebhookRemoved(WebhookRemovedV1 { webhook })),
    ]
}

fn actor() -> impl Strategy<Value = Actor> {
    prop_oneof![person().prop_map(Actor::Person), credential().prop_map(Actor::Credential), Just(Actor::System)]
}

pub fn meta() -> impl Strategy<Value = Meta> {
    (actor(), select(&AUTH_METHODS[..]), option::of(event_id()), bytes(), option::of(sealed())).prop_map(
        |(actor, auth, cause, correlation, context)| Meta {
            actor,
            auth,
            cause,
            correlation: CorrelationId::from_bytes(correlation),
            context,
        },
    )
}

pub fn record() -> impl Strategy<Value = Record> {
    let place = (bytes(), any::<u64>(), event_id(), instant());
    (place, bytes(), bytes(), meta(), event()).prop_map(
        |((team, revision, id, recorded_at), previous, salt, meta, event)| Record {
            team: TeamId::from_bytes(team),
            revision: Revision(revision),
            id,
            recorded_at,
            previous: RecordHash(previous),
            salt,
            meta,
            event,
        },
    )
}

pub fn envelope() -> impl Strategy<Value = Envelope> {
    (bytes(), instant(), meta(), bytes(), bytes()).prop_map(|(team, recorded_at, meta, operation, request)| Envelope {
        team: TeamId::from_bytes(team),
        recorded_at,
        actor: meta.actor,
        auth: meta.auth,
        correlation: meta.correlation,
        context: meta.context,
        operation: OperationId::from_bytes(operation),
        request: RequestDigest(request),
    })
}

pub fn new_events() -> impl Strategy<Value = Vec<NewEvent>> {
    let one = (event_id(), bytes(), option::of(event_id()), event());
    vec(one.prop_map(|(id, salt, cause, event)| NewEvent { id, salt, cause, event }), 1..6)
}

/// A stream's last event, or none yet; not so far on that a commit's revisions would not fit.
pub fn head() -> impl Strategy<Value = Option<StreamHead>> {
    let head = (0..u64::MAX - 100, bytes());
    option::of(head.prop_map(|(revision, hash)| StreamHead { revision: Revision(revision), hash: RecordHash(hash) }))
}
