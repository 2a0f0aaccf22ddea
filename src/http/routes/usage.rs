//! `/api/v1/usage`: what edges, which verify by themselves, tell of the keys they have seen.

use axum::{
    Json,
    extract::{DefaultBodyLimit, State},
};
use garde::Validate;
use keyledger_events::{
    CredentialId, Timestamp,
    presented::{AddressClass, Surface},
    secret::SecretHash,
};
use keyledger_projections::usage::Use;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::Shared,
    dead_keys::Place,
    http::{ApiJson, Problem, auth::Service, problem::ProblemBody, server::BODY_BYTES_MAX, text::hex_hash},
};

/// How many uses, and how many dead keys, one report may hold.
const REPORT_LEN_MAX: usize = 10_000;

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(report)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// What an edge has seen since its last report.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct UsageBody {
    /// Keys that were accepted, the last use of each. At most 10,000; the whole body at most 1 MiB.
    #[serde(default)]
    #[garde(length(max = REPORT_LEN_MAX))]
    #[schema(max_items = 10000)]
    uses: Vec<UsedKey>,
    /// Keys that were denied because they have ended. At most 10,000.
    #[serde(default)]
    #[garde(length(max = REPORT_LEN_MAX))]
    #[schema(max_items = 10000)]
    dead: Vec<DeadKey>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UsedKey {
    #[schema(value_type = Uuid)]
    credential_id: CredentialId,
    /// Kept to the minute; in the future it counts as now.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `runtime`, `mcp`, `agent` or `management`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    surface: Option<Surface>,
    /// `loopback`, `private`, `shared`, `public` or `unknown`: never the address itself.
    #[serde(default)]
    #[schema(value_type = String)]
    address: AddressClass,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeadKey {
    /// This, or the hash.
    #[serde(default)]
    #[schema(value_type = Option<Uuid>)]
    credential_id: Option<CredentialId>,
    /// BLAKE3 `derive_key` of the secret, 64 hexadecimal digits, as in the feed.
    #[serde(default)]
    hash: Option<String>,
    /// In the future it counts as now.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `runtime`, `mcp`, `agent` or `management`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    surface: Option<Surface>,
    /// `loopback`, `private`, `shared`, `public` or `unknown`: never the address itself.
    #[serde(default)]
    #[schema(value_type = String)]
    address: AddressClass,
}

/// What became of a report.
#[derive(Serialize, ToSchema)]
struct UsageAnswer {
    /// How many of its lines are about keys that this ledger knows, and, of the dead, that have ended.
    accepted: usize,
}

/// Notes what an edge has seen. Keys that the ledger does not know are passed over.
#[utoipa::path(post, path = "/usage", tag = "verify", request_body = UsageBody,
    responses((status = 200, body = UsageAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 413, body = ProblemBody)))]
async fn report(
    State(app): State<Shared>,
    _: Service,
    ApiJson(body): ApiJson<UsageBody>,
) -> Result<Json<UsageAnswer>, Problem> {
    let (active, now) = (app.projections.active(), app.now());
    // All of it is read before any of it counts.
    let dead = body.dead.iter().map(DeadKey::which).collect::<Result<Vec<_>, _>>()?;
    let used = body.uses.iter().filter(|used| {
        let UsedKey { credential_id, at, surface, address } = **used;
        active.note_use(credential_id, Use { at: at.min(now), surface, address })
    });
    let mut accepted = used.count();
    for (which, line) in dead.iter().zip(&body.dead) {
        let known = match which {
            Which::Id(id) => active.known_by_id(*id, now),
            Which::Hash(hash) => active.known(hash, now),
        };
        if let Some(known) = known.filter(|known| !known.alive) {
            let place = Place { surface: line.surface, address: line.address, client: None };
            app.dead_keys.heard_at(&known, line.at.min(now), now, || place);
            accepted += 1;
        }
    }
    Ok(Json(UsageAnswer { accepted }))
}

/// How a dead key is named.
enum Which {
    Id(CredentialId),
    Hash(SecretHash),
}

impl DeadKey {
    fn which(&self) -> Result<Which, Problem> {
        match (self.credential_id, &self.hash) {
            (Some(id), None) => Ok(Which::Id(id)),
            (None, Some(hash)) => hex_hash(hash).map(Which::Hash),
            _ => Err(Problem::bad_request("invalid_field", "A dead key is named by credential_id or by hash.")),
        }
    }
}
