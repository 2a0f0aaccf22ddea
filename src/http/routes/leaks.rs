//! `/api/v1/leaks`: secrets that were found where they must not be. Anybody may report one; a team's own people may ask
//! which of the hashes that a scan has found are theirs, and end those.

use axum::{
    Json,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
};
use garde::Validate;
use http::{HeaderMap, StatusCode};
use keyledger_client::types::Credential;
use keyledger_events::{
    Event,
    credential::Revoker,
    event::Role,
    record::{Actor, AuthMethod},
    secret::SecretHash,
};
use keyledger_projections::{Known, team_view::Until};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::credentials::visible;
use crate::{
    app::{App, Shared},
    http::{
        ApiJson, Note, Problem,
        auth::{Caller, Origin},
        extract::{check_content_type, read_json_array},
        openapi::TeamHeader,
        problem::ProblemBody,
        server::BODY_BYTES_MAX,
        text::hex_hash,
        views::credential_body,
        write::at_position,
    },
    leaks::{
        FoundAt, Leak,
        github::{Signed, token_hash},
        hash_of,
    },
    ledger::{LedgerError, Written},
};

/// How many secrets an unsigned report may name.
const REPORT_LEN_MAX: usize = 100;
/// How many a signed one may name; its body is bounded, too.
const SIGNED_LEN_MAX: usize = 5_000;
/// How many finds of a scan one request may hold.
const FINDS_LEN_MAX: usize = 1_000;
/// The longest text that is looked at as a token.
const TOKEN_LEN_MAX: usize = 1_000;

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(report))
        .routes(routes!(check))
        .routes(routes!(revoke))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// One secret that was found. Properties that are not named here are passed over.
#[derive(Deserialize, Validate, ToSchema)]
struct LeakReport {
    /// The secret.
    #[garde(length(max = TOKEN_LEN_MAX))]
    #[schema(max_length = 1000)]
    token: String,
    /// What the scanner calls its form; it comes back in a signed report's answer.
    #[serde(default, rename = "type")]
    #[garde(dive)]
    kind: Option<Note>,
    /// Where it was found; may be empty.
    #[serde(default)]
    #[garde(skip)]
    #[schema(max_length = 2000)]
    url: Option<String>,
    /// Who found it, or where of all places, such as `commit`.
    #[serde(default)]
    #[garde(dive)]
    source: Option<Note>,
}

/// What a find was, for a scanner that learns from it.
#[derive(Serialize, ToSchema)]
struct Feedback {
    /// SHA-256 of the token, in base64.
    token_hash: String,
    token_type: String,
    /// `true_positive`: this ledger has issued it, whether or not it has ended; `false_positive`: it has not.
    label: &'static str,
}

/// Reports secrets that were found where they must not be: what lives ends at once, and its team is told where it was.
///
/// The answer is 202 and says nothing of what was known. A report that GitHub has signed (secret scanning partner
/// program) may name more than 100 secrets, and is answered with a label for each.
#[utoipa::path(post, path = "/leaks", tag = "credentials", security(()), request_body = Vec<LeakReport>,
    responses((status = 202, description = "taken"), (status = 200, description = "of a signed report", body = Vec<Feedback>), (status = 400, body = ProblemBody), (status = 413, body = ProblemBody), (status = 429, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn report(
    State(app): State<Shared>,
    origin: Origin,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    app.rates.anonymous(origin.address)?;
    check_content_type(&headers)?;
    let signed = app.leak_keys.judge(&headers, &body).await;
    if signed == Signed::Bad {
        return Err(Problem::bad_request("invalid_signature", "The report's signature is not good."));
    }
    let len_max = if signed == Signed::Good { SIGNED_LEN_MAX } else { REPORT_LEN_MAX };
    let reports: Vec<LeakReport> = read_json_array(&body, len_max)?;
    // All of it is read before any of it counts.
    let finds = reports.iter().map(|report| find(&app, report)).collect::<Result<Vec<_>, _>>()?;
    let (living, ended): (Vec<_>, Vec<_>) = finds.iter().flatten().cloned().partition(|leak| leak.known.alive);
    let written = record_all(&app, &origin, living);
    if signed == Signed::Good {
        let (living, ended) = tokio::join!(written, record_all(&app, &origin, ended));
        living.and(ended)?;
        let feedback = reports.iter().zip(&finds).map(|(report, find)| Feedback {
            token_hash: token_hash(&report.token),
            token_type: report.kind.clone().unwrap_or_default().into_string(),
            label: if find.is_some() { "true_positive" } else { "false_positive" },
        });
        return Ok(Json(feedback.collect::<Vec<_>>()).into_response());
    }
    // What has ended looks like what never was, also to a clock: nobody waits for its record. What lives is what anybody
    // with the secret can ask `/verify` about.
    if !ended.is_empty() {
        let (app, origin) = (app.clone(), origin.clone());
        tokio::spawn(async move {
            if let Err(error) = record_all(&app, &origin, ended).await {
                tracing::warn!(%error, "a leak of a key that has ended could not be recorded");
            }
        });
    }
    written.await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// A report's secret, if this ledger has issued it.
fn find(app: &App, report: &LeakReport) -> Result<Option<Leak>, Problem> {
    let place = place(report.url.as_deref())?;
    let known = hash_of(&report.token).and_then(|hash| app.projections.active().known(&hash, app.now()));
    Ok(known.map(|known| Leak { known, place, source: source(report.source.clone()) }))
}

fn place(text: Option<&str>) -> Result<Option<FoundAt>, Problem> {
    FoundAt::read(text.unwrap_or_default())
        .map_err(|why| Problem::bad_request("invalid_field", format!("The body is not of its type: {why}.")))
}

fn source(note: Option<Note>) -> Option<String> {
    note.map(Note::into_string).filter(|source| !source.is_empty())
}

/// Records leaks that nobody of the team reports.
async fn record_all(app: &Shared, origin: &Origin, leaks: Vec<Leak>) -> Result<(), LedgerError> {
    let mut writes = JoinSet::new();
    for leak in leaks {
        let (app, origin) = (app.clone(), origin.clone());
        writes.spawn(async move {
            let who = origin.who(&app, Actor::System, AuthMethod::Internal, leak.known.holder);
            app.report_leak(Revoker::Holder, who, leak).await
        });
    }
    writes.join_all().await.into_iter().try_for_each(|written| written.map(drop))
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckBody {
    /// BLAKE3 `derive_key` of each secret, 64 hexadecimal digits; at most 1,000.
    #[garde(length(max = FINDS_LEN_MAX))]
    #[schema(max_items = 1000)]
    hashes: Vec<String>,
}

/// What a hash is of.
#[derive(Serialize, ToSchema)]
struct Checked {
    hash: String,
    /// None: of no key of this team that you may see.
    credential: Option<Credential>,
}

/// The hashes, in the order they were asked in.
#[derive(Serialize, ToSchema)]
struct CheckAnswer {
    results: Vec<Checked>,
    position: u64,
}

/// Tells which hashes of secrets are of the team's keys, and what those are worth. Another team's are as good as unknown.
#[utoipa::path(post, path = "/leaks/check", tag = "credentials", request_body = CheckBody, params(TeamHeader),
    responses((status = 200, body = CheckAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
async fn check(
    State(app): State<Shared>,
    caller: Caller,
    ApiJson(body): ApiJson<CheckBody>,
) -> Result<Json<CheckAnswer>, Problem> {
    let hashes = body.hashes.iter().map(|digits| hex_hash(digits)).collect::<Result<Vec<_>, _>>()?;
    let results = app.team_at(caller.team, Until::Now, |view, now| {
        let checked = hashes.iter().zip(body.hashes).map(|(hash, digits)| {
            let known = app.projections.active().known(hash, now).filter(|known| known.team == caller.team);
            let row = known.and_then(|known| visible(view, &caller, known.credential));
            Checked { hash: digits, credential: row.map(|row| credential_body(&app, view, row, now)) }
        });
        checked.collect()
    })?;
    Ok(Json(CheckAnswer { results, position: app.ledger.position().unwrap_or_default().0 }))
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    /// At most 1,000.
    #[garde(length(max = FINDS_LEN_MAX), dive)]
    #[schema(max_items = 1000)]
    finds: Vec<Find>,
    /// What has found them.
    #[serde(default)]
    #[garde(dive)]
    source: Option<Note>,
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct Find {
    /// BLAKE3 `derive_key` of the secret, 64 hexadecimal digits.
    #[garde(skip)]
    hash: String,
    /// Where it was found, such as a file and line.
    #[serde(default)]
    #[garde(skip)]
    #[schema(max_length = 2000)]
    place: Option<String>,
}

/// What became of a find.
#[derive(Serialize, ToSchema)]
struct Outcome {
    hash: String,
    /// `revoked`, `ended_before`, `forbidden` (you may not end it) or `unknown` (no key of this team that you may see).
    outcome: &'static str,
}

/// The finds, in the order they came in.
#[derive(Serialize, ToSchema)]
struct RevokeAnswer {
    results: Vec<Outcome>,
    position: u64,
}

/// Ends the team's keys whose secrets a scan has found, as leaked, and records where. Whoever may end a key may do this.
#[utoipa::path(post, path = "/leaks/revoke", tag = "credentials", request_body = RevokeBody, params(TeamHeader),
    responses((status = 200, body = RevokeAnswer), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn revoke(
    State(app): State<Shared>,
    caller: Caller,
    ApiJson(body): ApiJson<RevokeBody>,
) -> Result<Response, Problem> {
    if caller.role == Role::Auditor {
        return Err(Problem::forbidden("forbidden", "An auditor changes nothing."));
    }
    let source = source(body.source);
    let read = |find: &Find| Ok((hex_hash(&find.hash)?, place(find.place.as_deref())?));
    let finds = body.finds.iter().map(read).collect::<Result<Vec<(SecretHash, _)>, Problem>>()?;
    let mut outcomes = vec!["unknown"; finds.len()];
    let mut writes = JoinSet::new();
    for (number, (hash, place)) in finds.into_iter().enumerate() {
        let Some(known) = known_to(&app, &caller, &hash) else { continue };
        let leak = Leak { known, place, source: source.clone() };
        let (app, caller) = (app.clone(), caller.clone());
        writes.spawn(async move {
            let who = caller.person.who(&app);
            (number, app.report_leak(Revoker::Person(caller.person.id), who, leak).await)
        });
    }
    let mut failed = None;
    for (number, written) in writes.join_all().await {
        match written {
            Ok(written) if has_ended_one(&written) => outcomes[number] = "revoked",
            Ok(_) => outcomes[number] = "ended_before",
            Err(LedgerError::Refused(refusal)) => {
                outcomes[number] =
                    if Problem::from(refusal).status() == StatusCode::NOT_FOUND { "unknown" } else { "forbidden" };
            }
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    let position = app.ledger.position().unwrap_or_default();
    let results = body.finds.into_iter().zip(outcomes).map(|(find, outcome)| Outcome { hash: find.hash, outcome });
    let answer = RevokeAnswer { results: results.collect(), position: position.0 };
    Ok(at_position(Json(answer).into_response(), position))
}

/// A hash's credential, if it is the team's. Whether the caller may see it is for the decision.
fn known_to(app: &App, caller: &Caller, hash: &SecretHash) -> Option<Known> {
    app.projections.active().known(hash, app.now()).filter(|known| known.team == caller.team)
}

fn has_ended_one(written: &Written) -> bool {
    written.records().any(|placed| matches!(placed.record.event, Event::CredentialRevoked(_)))
}
