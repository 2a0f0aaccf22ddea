//! What the server answers. The server makes its answers of these very types, so that they can't drift apart.

use std::fmt;

use keyledger_events::{
    CredentialId, PersonId, TeamId, Timestamp,
    presented::{AddressClass, Surface},
    secret::Kind,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;
use zeroize::Zeroizing;

/// A secret on its one way from the server to whoever asked for it. `Debug` doesn't show it, and it is wiped when
/// dropped.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(value_type = String))]
pub struct RawKey(Zeroizing<String>);

impl RawKey {
    /// Wraps a secret's text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text. Store it where secrets are kept, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RawKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// `POST /api/v1/verify`: a key that is good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Accepted {
    /// Always true.
    pub valid: bool,
    /// Which credential.
    pub credential_id: Uuid,
    /// Its kind.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub kind: Kind,
    /// Its team.
    #[cfg_attr(feature = "schema", schema(value_type = Uuid))]
    pub team_id: TeamId,
    /// Who answers for it.
    #[cfg_attr(feature = "schema", schema(value_type = Uuid))]
    pub user_id: PersonId,
    /// What people call it. None once its person has been erased, and where the answer comes from an edge.
    pub display_name: Option<String>,
    /// When it ends by itself; none: never.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// The last position the verdict rests on.
    pub position: u64,
}

/// `POST /api/v1/verify/batch`: the verdicts, in the order of the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BatchAnswer {
    /// One a key.
    pub results: Vec<BatchVerdict>,
    /// The last position they rest on.
    pub position: u64,
}

/// One key's verdict, with the precise code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BatchVerdict {
    /// Whether it is good.
    pub valid: bool,
    /// `valid`, `malformed`, `unknown`, `revoked`, `expired` or `insufficient_scope`.
    pub code: String,
    /// What is known of a key that is good.
    #[serde(flatten)]
    pub accepted: Option<BatchAccepted>,
}

/// What is known of a key that is good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BatchAccepted {
    /// Which credential.
    pub credential_id: Uuid,
    /// Its kind.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub kind: Kind,
    /// Its team.
    #[cfg_attr(feature = "schema", schema(value_type = Uuid))]
    pub team_id: TeamId,
    /// Who answers for it.
    #[cfg_attr(feature = "schema", schema(value_type = Uuid))]
    pub user_id: PersonId,
    /// When it ends by itself; none: never.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

/// A credential that was just issued, with its secret: here and nowhere else.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Issued {
    /// Its id.
    #[cfg_attr(feature = "schema", schema(value_type = Uuid))]
    pub id: CredentialId,
    /// Its kind.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub kind: Kind,
    /// What people call it.
    pub display_name: Option<String>,
    /// The first 12 characters of its secret.
    pub key_prefix: String,
    /// The secret. Absent when the idempotency key shows that it was answered before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_key: Option<RawKey>,
    /// When it ends by itself; none: never.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// The credential it takes over from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Uuid>))]
    pub rotated_from: Option<CredentialId>,
    /// The position of the event.
    pub position: u64,
}

/// Where a page lies in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PageMeta {
    /// From 1.
    pub current_page: u32,
    /// Rows a page.
    pub per_page: u32,
    /// Rows on all pages.
    pub total_count: u64,
}

/// A page of credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(as = Credentials))]
pub struct CredentialPage {
    /// The rows.
    pub credentials: Vec<Credential>,
    /// Where the page lies.
    pub page_meta: PageMeta,
    /// The last position the page rests on.
    pub position: u64,
}

/// A credential, as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(as = CredentialBody))]
pub struct Credential {
    /// Its id.
    #[cfg_attr(feature = "schema", schema(value_type = Uuid))]
    pub id: CredentialId,
    /// Its kind.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub kind: Kind,
    /// None once its person has been erased.
    pub display_name: Option<String>,
    /// The first 12 characters of its secret.
    pub key_prefix: String,
    /// What it is for.
    pub purpose: Option<String>,
    /// Who answers for it; for a device, whose it is.
    #[cfg_attr(feature = "schema", schema(value_type = Uuid))]
    pub user_id: PersonId,
    /// Who issued it.
    #[cfg_attr(feature = "schema", schema(value_type = Option<Uuid>))]
    pub issued_by: Option<PersonId>,
    /// Whether whoever answers for it has left the team.
    pub departed: bool,
    /// `active`, `expired` or `revoked`. What is expired is as dead as what is revoked.
    pub key_status: String,
    /// When it was issued.
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// To the minute.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub last_used_at: Option<Timestamp>,
    /// The same use, with where it was.
    pub last_used: Option<Use>,
    /// When and where it was last presented after its end, if it was: at most one a UTC day is noted.
    pub dead_presented: Option<Use>,
    /// When it ends by itself; none: never.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// When it ended, by whatever cause.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub revoked_at: Option<Timestamp>,
    /// `requested`, `self_revoked`, `member_departed`, `leaked`, `device_ended` or `expired`.
    pub revoke_reason: Option<String>,
    /// What whoever ended it wrote about it.
    pub revoke_note: Option<String>,
    /// For a companion, its device; for a device, itself.
    #[cfg_attr(feature = "schema", schema(value_type = Option<Uuid>))]
    pub device_id: Option<CredentialId>,
    /// For a device, its companion.
    #[cfg_attr(feature = "schema", schema(value_type = Option<Uuid>))]
    pub companion_id: Option<CredentialId>,
    /// The credential it took over from.
    #[cfg_attr(feature = "schema", schema(value_type = Option<Uuid>))]
    pub rotated_from: Option<CredentialId>,
    /// The credential that took over from it.
    #[cfg_attr(feature = "schema", schema(value_type = Option<Uuid>))]
    pub rotated_to: Option<CredentialId>,
}

/// Where a key was presented, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(as = UseBody))]
pub struct Use {
    /// A use to the minute.
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// `runtime`, `mcp`, `agent` or `management`; none: nobody said.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub surface: Option<Surface>,
    /// `loopback`, `private`, `shared` (a provider's address translation), `public` or `unknown`.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub address: AddressClass,
}

/// What a device needs to go on with its pairing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PairingStarted {
    /// For polling; a secret.
    pub device_code: RawKey,
    /// For the person to type or compare.
    #[cfg_attr(feature = "schema", schema(example = "BCDF-GHJK"))]
    pub user_code: String,
    /// Where they do.
    pub verification_uri: String,
    /// The same with the code filled in.
    pub verification_uri_complete: String,
    /// Seconds until the pairing ends.
    pub expires_in: u64,
    /// Seconds between polls.
    pub interval: u64,
}

/// What became of a pairing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum PairingPolled {
    /// Nobody has decided.
    Pending,
    /// Somebody refused.
    Denied,
    /// Approved; the secrets are answered this once.
    Approved {
        /// The device's key.
        raw_key: RawKey,
        /// Its companion's.
        agent_key: RawKey,
    },
}

/// The shape of a refusal (RFC 9457).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(as = Problem))]
pub struct ProblemBody {
    /// Names the kind of problem; it holds the code.
    #[serde(rename = "type", default)]
    #[cfg_attr(feature = "schema", schema(example = "urn:keyledger:problem:not_found"))]
    pub kind: String,
    /// The status in words.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(example = "Not Found"))]
    pub title: String,
    /// The status in figures.
    #[cfg_attr(feature = "schema", schema(example = 404))]
    pub status: u16,
    /// What is wrong and what to do, for people.
    #[serde(default)]
    pub detail: String,
    /// Stable: programs decide by it.
    #[cfg_attr(feature = "schema", schema(example = "not_found"))]
    pub code: String,
    /// Further members, by code: `errors` (`invalid_field`), `revision` (conflicts), `limit_bytes`.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}
