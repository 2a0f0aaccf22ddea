//! The facts. One frozen type a version: a released `…V1` never changes, a new shape is a `…V2` and an upcast.
//!
//! [`Event`] is what the rest of the program sees: the newest version of each. Outside its postcard body an event
//! carries its type and version in the record's fixed header, because postcard is not self-describing. An unknown type
//! or version, or a byte too many, stops the reader: guessing would change history.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    CredentialId, PersonId, PlaceId, Position, Timestamp, WebhookId,
    credential::LIFETIME_DAYS_MAX,
    presented::{AddressClass, Surface},
    seal::Label,
    secret::{KeyPrefix, Kind, SecretHash},
    stream_map::MapRoot,
};

/// What a person may do in a team. Declared from most to least powerful.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Exactly one a team; may do everything.
    Owner,
    /// Everything but changing who owns the team.
    Admin,
    /// Issues and ends their own keys.
    Member,
    /// Looks at the team's keys.
    Viewer,
    /// Reads everything of the team, changes nothing.
    Auditor,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Owner, Self::Admin, Self::Member, Self::Viewer, Self::Auditor];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
        }
    }
}

/// A team's rules for new keys: stricter than the ledger's, never looser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicyV1 {
    /// The longest lifetime of a new key, in days (1–365).
    pub lifetime_days_max: u16,
    /// Whether a new key may live for ever.
    pub never_allowed: bool,
    /// Whether only the owner and admins may issue.
    pub admins_only: bool,
}

impl PolicyV1 {
    /// Whether it is no looser than the ledger's own rules, and leaves any lifetime at all.
    pub const fn is_possible(&self) -> bool {
        1 <= self.lifetime_days_max && self.lifetime_days_max <= LIFETIME_DAYS_MAX
    }
}

impl Default for PolicyV1 {
    fn default() -> Self {
        Self { lifetime_days_max: LIFETIME_DAYS_MAX, never_allowed: true, admins_only: false }
    }
}

/// Why a credential was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeReason {
    /// By choice of somebody who may, nothing further said.
    Requested,
    /// Whoever held the secret ended it.
    SelfRevoked,
    /// Its person left the team.
    MemberDeparted,
    /// It was found where it must not be.
    Leaked,
}

/// A team came to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TeamCreatedV1 {
    /// What its people call it.
    pub name: String,
}

/// The team's rules for new keys changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicyChangedV1 {
    /// What holds from now on.
    pub policy: PolicyV1,
}

/// A person joined the team.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberJoinedV1 {
    /// Who.
    pub member: PersonId,
    /// As what.
    pub role: Role,
    /// What to call them.
    pub name: Label,
    /// Whose invitation they followed; none for a team's first owner.
    pub invited_by: Option<PersonId>,
}

/// A member's role changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoleChangedV1 {
    /// Whose.
    pub member: PersonId,
    /// What it was.
    pub from: Role,
    /// What it is.
    pub to: Role,
}

/// A member left or was removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberDepartedV1 {
    /// Who.
    pub member: PersonId,
    /// Whether they went by themselves.
    pub left_by_themselves: bool,
}

/// A credential was issued, of any kind but service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredentialIssuedV1 {
    /// Its id.
    pub credential: CredentialId,
    /// Its kind.
    pub kind: Kind,
    /// BLAKE3 `derive_key` of its secret.
    pub hash: SecretHash,
    /// The first 12 characters of its secret.
    pub prefix: KeyPrefix,
    /// What its people call it.
    pub name: Label,
    /// What it is for.
    pub purpose: Option<String>,
    /// Who answers for it; for a device, whose it is.
    pub holder: PersonId,
    /// When it ends by itself; none: never.
    pub expires_at: Option<Timestamp>,
    /// The credential it takes over from.
    pub rotated_from: Option<CredentialId>,
    /// The device it was born with and dies with.
    pub companion_of: Option<CredentialId>,
}

/// A credential was ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredentialRevokedV1 {
    /// Which.
    pub credential: CredentialId,
    /// Why.
    pub reason: RevokeReason,
    /// What whoever did it wrote about it.
    pub note: Option<String>,
}

/// A companion ended because its device did. The record's cause is the device's own event in the same commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredentialCascadeRevokedV1 {
    /// The companion.
    pub credential: CredentialId,
    /// Its device.
    pub device: CredentialId,
    /// When that holds: the device's own end.
    pub effective_at: Timestamp,
}

/// A credential's expiry was recorded. It held from `effective_at`, whenever this was appended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredentialExpiredV1 {
    /// Which.
    pub credential: CredentialId,
    /// Its `expires_at`.
    pub effective_at: Timestamp,
}

/// A credential will end earlier than it was issued for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExpiryShortenedV1 {
    /// Which.
    pub credential: CredentialId,
    /// When it would have ended.
    pub from: Option<Timestamp>,
    /// When it ends.
    pub to: Timestamp,
}

/// Somebody else answers for a credential from now on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredentialHandedOverV1 {
    /// Which.
    pub credential: CredentialId,
    /// Who did.
    pub from: PersonId,
    /// Who does.
    pub to: PersonId,
}

/// A person refused to pair a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PairingDeniedV1 {
    /// What the device called itself.
    pub device_name: Label,
}

/// The operator issued an `sv-`: only in the system stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceCredentialIssuedV1 {
    /// Its id.
    pub credential: CredentialId,
    /// BLAKE3 `derive_key` of its secret.
    pub hash: SecretHash,
    /// The first 12 characters of its secret.
    pub prefix: KeyPrefix,
    /// Which gateway, edge or scraper it is for.
    pub name: String,
    /// Who answers for it.
    pub holder: PersonId,
    /// When it ends by itself; none: never.
    pub expires_at: Option<Timestamp>,
}

/// A person's sealing key was erased: nothing sealed for them can be read again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PersonErasedV1 {
    /// Who.
    pub person: PersonId,
}

/// Every stream's last event, in one root: only in the system stream. See [`crate::stream_map`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HistorySealedV1 {
    /// The map is of all events before this position.
    pub through: Position,
    /// How many teams it has, the system stream included.
    pub teams: u64,
    /// Its root.
    pub root: MapRoot,
}

/// The ledger's signing key gave way to another: only in the system stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SigningKeyRotatedV1 {
    /// What the old key says of the new one: [`rotation::Certificate`](crate::rotation::Certificate), a signed note.
    pub certificate: String,
}

/// A secret was found where it must not be. If it was alive, the commit's next event ends it and names this as its cause.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredentialLeakedV1 {
    /// Whose.
    pub credential: CredentialId,
    /// Where; none: nobody said, or it can't be sealed any more.
    pub place: Option<Label>,
    /// The same place of the same credential has the same id.
    pub place_id: PlaceId,
    /// Who found it, such as a scanner's name.
    pub source: Option<String>,
}

/// A credential was presented after its end: the first time that UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeadKeyPresentedV1 {
    /// Which.
    pub credential: CredentialId,
    /// When.
    pub presented_at: Timestamp,
    /// On which surface, if it was said.
    pub surface: Option<Surface>,
    /// From where.
    pub address: AddressClass,
}

/// The team's events are sent to one more place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WebhookAddedV1 {
    /// The endpoint's id.
    pub webhook: WebhookId,
    /// Where to.
    pub url: String,
    /// Which types, such as `credential.revoked`, in ascending order; none: all.
    pub types: Vec<String>,
}

/// What is sent to an endpoint, where to, or under which secret, changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WebhookChangedV1 {
    /// Which endpoint.
    pub webhook: WebhookId,
    /// Where to.
    pub url: String,
    /// Which types, in ascending order; none: all.
    pub types: Vec<String>,
    /// Which of its secrets signs: 0 at first, one more with each rotation. The secret itself is in no event.
    pub generation: u32,
}

/// Nothing more is sent to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WebhookRemovedV1 {
    /// Which endpoint.
    pub webhook: WebhookId,
}

/// Why bytes are not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// No reader for this type and version: the log was written by a newer program.
    #[error("unknown event type {kind} version {version}")]
    Unknown {
        /// The header's type.
        kind: u16,
        /// The header's version.
        version: u16,
    },
    /// The body is not of the type's shape.
    #[error("event body that is not of its type's shape")]
    Body,
    /// The body is longer than its type.
    #[error("{0} bytes too many after the event's body")]
    Trailing(usize),
}

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident($body:ty) = $number:literal v $version:literal, $name:literal;)*) => {
        /// One fact, in its newest version.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
        #[serde(untagged)]
        pub enum Event {
            $($(#[$doc])* $variant($body),)*
        }

        impl Event {
            /// Every event's type number, newest version and name.
            pub const TYPES: &'static [(u16, u16, &'static str)] = &[$(($number, $version, $name),)*];

            /// The type and version in the record's header.
            pub const fn header(&self) -> (u16, u16) {
                match self { $(Self::$variant(_) => ($number, $version),)* }
            }

            /// The type's name in JSON, such as `credential_issued`.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// Appends the postcard body to `out`.
            pub fn encode(&self, out: Vec<u8>) -> Vec<u8> {
                // Appending to a Vec can't fail, and no body has a type that postcard refuses (a test encodes each).
                match self { $(Self::$variant(body) => postcard::to_extend(body, out).unwrap_or_default(),)* }
            }

            /// Reads a body of the given type and version.
            ///
            /// # Errors
            /// [`EventError`].
            pub fn decode(kind: u16, version: u16, body: &[u8]) -> Result<Self, EventError> {
                match (kind, version) {
                    $(($number, $version) => exact(body).map(Self::$variant),)*
                    _ => Err(EventError::Unknown { kind, version }),
                }
            }
        }
    };
}

events! {
    /// See [`TeamCreatedV1`].
    TeamCreated(TeamCreatedV1) = 1 v 1, "team_created";
    /// See [`PolicyChangedV1`].
    PolicyChanged(PolicyChangedV1) = 2 v 1, "policy_changed";
    /// See [`MemberJoinedV1`].
    MemberJoined(MemberJoinedV1) = 3 v 1, "member_joined";
    /// See [`RoleChangedV1`].
    RoleChanged(RoleChangedV1) = 4 v 1, "role_changed";
    /// See [`MemberDepartedV1`].
    MemberDeparted(MemberDepartedV1) = 5 v 1, "member_departed";
    /// See [`CredentialIssuedV1`].
    CredentialIssued(CredentialIssuedV1) = 6 v 1, "credential_issued";
    /// See [`CredentialRevokedV1`].
    CredentialRevoked(CredentialRevokedV1) = 7 v 1, "credential_revoked";
    /// See [`CredentialCascadeRevokedV1`].
    CredentialCascadeRevoked(CredentialCascadeRevokedV1) = 8 v 1, "credential_cascade_revoked";
    /// See [`CredentialExpiredV1`].
    CredentialExpired(CredentialExpiredV1) = 9 v 1, "credential_expired";
    /// See [`ExpiryShortenedV1`].
    ExpiryShortened(ExpiryShortenedV1) = 10 v 1, "expiry_shortened";
    /// See [`CredentialHandedOverV1`].
    CredentialHandedOver(CredentialHandedOverV1) = 11 v 1, "credential_handed_over";
    /// See [`PairingDeniedV1`].
    PairingDenied(PairingDeniedV1) = 12 v 1, "pairing_denied";
    /// See [`ServiceCredentialIssuedV1`].
    ServiceCredentialIssued(ServiceCredentialIssuedV1) = 13 v 1, "service_credential_issued";
    /// See [`PersonErasedV1`].
    PersonErased(PersonErasedV1) = 14 v 1, "person_erased";
    /// See [`HistorySealedV1`].
    HistorySealed(HistorySealedV1) = 15 v 1, "history_sealed";
    /// See [`SigningKeyRotatedV1`].
    SigningKeyRotated(SigningKeyRotatedV1) = 16 v 1, "signing_key_rotated";
    /// See [`CredentialLeakedV1`].
    CredentialLeaked(CredentialLeakedV1) = 17 v 1, "credential_leaked";
    /// See [`DeadKeyPresentedV1`].
    DeadKeyPresented(DeadKeyPresentedV1) = 18 v 1, "dead_key_presented";
    /// See [`WebhookAddedV1`].
    WebhookAdded(WebhookAddedV1) = 19 v 1, "webhook_added";
    /// See [`WebhookChangedV1`].
    WebhookChanged(WebhookChangedV1) = 20 v 1, "webhook_changed";
    /// See [`WebhookRemovedV1`].
    WebhookRemoved(WebhookRemovedV1) = 21 v 1, "webhook_removed";
}

impl Event {
    /// The credential it is about, if it is about one.
    pub const fn credential(&self) -> Option<CredentialId> {
        match self {
            Self::CredentialIssued(e) => Some(e.credential),
            Self::CredentialRevoked(e) => Some(e.credential),
            Self::CredentialCascadeRevoked(e) => Some(e.credential),
            Self::CredentialExpired(e) => Some(e.credential),
            Self::ExpiryShortened(e) => Some(e.credential),
            Self::CredentialHandedOver(e) => Some(e.credential),
            Self::ServiceCredentialIssued(e) => Some(e.credential),
            Self::CredentialLeaked(e) => Some(e.credential),
            Self::DeadKeyPresented(e) => Some(e.credential),
            _ => None,
        }
    }

    /// The person it is about, if it is about one.
    pub const fn person(&self) -> Option<PersonId> {
        match self {
            Self::MemberJoined(e) => Some(e.member),
            Self::RoleChanged(e) => Some(e.member),
            Self::MemberDeparted(e) => Some(e.member),
            Self::PersonErased(e) => Some(e.person),
            Self::CredentialHandedOver(e) => Some(e.to),
            _ => None,
        }
    }

    /// The name in it that may be sealed, and the field it stands in.
    pub const fn label(&self) -> Option<(&'static str, &Label)> {
        match self {
            Self::MemberJoined(e) => Some(("name", &e.name)),
            Self::CredentialIssued(e) => Some(("name", &e.name)),
            Self::PairingDenied(e) => Some(("device_name", &e.device_name)),
            Self::CredentialLeaked(CredentialLeakedV1 { place: Some(place), .. }) => Some(("place", place)),
            _ => None,
        }
    }

    /// The type number of a name in [`Event::TYPES`].
    pub fn type_named(name: &str) -> Option<u16> {
        Self::TYPES.iter().find(|(_, _, known)| *known == name).map(|(number, _, _)| *number)
    }
}

/// Decodes all of `bytes` as one `T`.
pub(crate) fn exact<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EventError> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|_| EventError::Body)?;
    if rest.is_empty() { Ok(value) } else { Err(EventError::Trailing(rest.len())) }
}
