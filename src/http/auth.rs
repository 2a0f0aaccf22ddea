//! Who is asking. A handler that wants to know takes one of these types as an argument; without it there is no team and
//! no person, and so nothing to read or write: an unauthenticated request can't reach a handler's body.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::FromRequestParts;
use http::{HeaderMap, header, request::Parts};
use keyledger_events::{
    CorrelationId, OperationId, PersonId, Revision, TeamId,
    commit::RequestDigest,
    event::Role,
    record::{Actor, AuthMethod},
    secret::{Kind, Presented, SecretHash},
};
use uuid::Uuid;

use super::{
    Challenge, Problem,
    middleware::{ClientAddress, RequestId},
};
use crate::{
    app::{App, Shared},
    ledger::Who,
    scrub::scrub,
};

/// The browser's cookie.
pub const SESSION_COOKIE: &str = "keyledger_session";
const TEAM_HEADER: &str = "x-team-id";
const IDEMPOTENCY_HEADER: &str = "idempotency-key";
const IDEMPOTENCY_KEY_LEN_MAX: usize = 255;
/// In bytes. Escaped and with an address beside it, it stays below what a record takes of a request's context.
const USER_AGENT_LEN_MAX: usize = 200;

/// Where a request came from, and its id.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address.
    pub address: IpAddr,
    user_agent: String,
    /// The request's id, as answered in `X-Request-Id`.
    pub correlation: CorrelationId,
}

impl Origin {
    fn of(parts: &Parts) -> Self {
        let address = parts.extensions.get::<ClientAddress>();
        let address = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |client| client.0);
        let user_agent = text(&parts.headers, header::USER_AGENT.as_str()).unwrap_or_default();
        // Header text that converts to a string is visible ASCII: a byte is a character.
        let user_agent =
            scrub(user_agent).chars().filter(|c| c.is_ascii() && !c.is_control()).take(USER_AGENT_LEN_MAX).collect();
        let correlation = parts.extensions.get::<RequestId>().map_or_else(Uuid::nil, |id| id.0);
        Self { address, user_agent, correlation: correlation.into() }
    }

    /// The event's side of a request made by `actor`, its place sealed for `person`.
    pub fn who(&self, app: &App, actor: Actor, auth: AuthMethod, person: PersonId) -> Who {
        let context = serde_json::json!({ "ip": self.address, "user_agent": self.user_agent }).to_string();
        Who { actor, auth, correlation: self.correlation, context: app.seal(person, &context) }
    }
}

impl FromRequestParts<Shared> for Origin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        Ok(Self::of(parts))
    }
}

/// A signed-in person.
#[derive(Clone, Debug)]
pub struct Person {
    /// Who.
    pub id: PersonId,
    /// How they are known.
    pub auth: AuthMethod,
    /// Their session.
    pub session: Uuid,
    /// Where the request came from.
    pub origin: Origin,
}

impl Person {
    /// The event's side of this request.
    pub fn who(&self, app: &App) -> Who {
        self.origin.who(app, Actor::Person(self.id), self.auth, self.id)
    }
}

impl FromRequestParts<Shared> for Person {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let now = app.now();
        let (id, auth, session) = if let Some(bearer) = bearer(&parts.headers)? {
            if let Some(token) = app.tokens.read(bearer, now).filter(|token| app.sessions.is_live(token.session)) {
                (token.person, AuthMethod::Token, token.session)
            } else {
                return Err(not_a_person(app, bearer));
            }
        } else {
            let cookie =
                cookie(&parts.headers, SESSION_COOKIE).ok_or_else(|| Problem::unauthorized(Challenge::Missing))?;
            let session = app.sessions.by_cookie(cookie, now);
            let session = session.ok_or_else(|| Problem::unauthorized(Challenge::InvalidToken))?;
            (session.person, AuthMethod::Session, session.id)
        };
        app.rates.key(id.as_bytes())?;
        Ok(Self { id, auth, session, origin: Origin::of(parts) })
    }
}

/// A live credential where a person must be: it manages nothing, whatever its kind (contract, rule 5).
fn not_a_person(app: &App, bearer: &str) -> Problem {
    match app.projections.active().verify(bearer.as_bytes(), None, None, app.now()) {
        Ok(_) => Problem::insufficient_scope("person"),
        Err(_) => Problem::unauthorized(Challenge::InvalidToken),
    }
}

/// A signed-in person in a team of theirs, named by `X-Team-ID`.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub person: Person,
    /// Where.
    pub team: TeamId,
    /// As what.
    pub role: Role,
}

impl Caller {
    /// A person in a team of theirs.
    ///
    /// # Errors
    /// 404 if it is none of theirs.
    pub fn new(app: &App, person: Person, team: TeamId) -> Result<Self, Problem> {
        let role = app.projections.people().role(person.id, team).ok_or_else(Problem::not_found)?;
        Ok(Self { person, team, role })
    }

    /// Lets owner and admins pass.
    ///
    /// # Errors
    /// 403.
    pub fn admin(&self) -> Result<(), Problem> {
        match self.role {
            Role::Owner | Role::Admin => Ok(()),
            _ => Err(Problem::forbidden("forbidden", "Only the team's owner and admins may do this.")),
        }
    }

    /// Lets whoever may read everything of the team pass.
    ///
    /// # Errors
    /// 403.
    pub fn sees_all(&self) -> Result<(), Problem> {
        match self.role {
            Role::Owner | Role::Admin | Role::Auditor => Ok(()),
            _ => Err(Problem::forbidden("forbidden", "Only the team's owner, admins and auditors may read this.")),
        }
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let person = Person::from_request_parts(parts, app).await?;
        let team = text(&parts.headers, TEAM_HEADER)
            .ok_or_else(|| Problem::bad_request("team_required", "X-Team-ID must name the team."))?
            .parse()
            .map_err(|_| Problem::bad_request("invalid_team_id", "X-Team-ID is not a UUID."))?;
        Self::new(app, person, team)
    }
}

/// A live `sv-` credential.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// What it is known by, for who must see later whether it still lives.
    pub hash: SecretHash,
}

impl FromRequestParts<Shared> for Service {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let presented = bearer(&parts.headers)?.ok_or_else(|| Problem::unauthorized(Challenge::Missing))?;
        let presented =
            Presented::parse(presented.as_bytes()).map_err(|_| Problem::unauthorized(Challenge::InvalidToken))?;
        let hash = presented.hash();
        match app.verify_hash(&hash, None, None, || Origin::of(parts).address) {
            Ok(verdict) if verdict.kind == Kind::Service => Ok(Self { hash }),
            Ok(_) => Err(Problem::insufficient_scope("service")),
            Err(_) => Err(Problem::unauthorized(Challenge::InvalidToken)),
        }
    }
}

/// What a write may carry: an idempotency key, and the revision it expects (`If-Match`).
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    key: Option<String>,
    /// The ETag's revision, if the client sent one.
    pub if_match: Option<Revision>,
}

impl Conditions {
    /// The operation id and the digest of what is asked. The key belongs to its team and person: nobody meets another's.
    pub fn operation(
        &self,
        scope: TeamId,
        person: PersonId,
        asked: &impl serde::Serialize,
    ) -> Option<(OperationId, RequestDigest)> {
        let key = self.key.as_ref()?;
        let mut hasher = blake3::Hasher::new_derive_key("keyledger 2026-11 idempotency key v1");
        hasher.update(scope.as_bytes()).update(person.as_bytes()).update(key.as_bytes());
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        let asked = serde_json::to_vec(asked).unwrap_or_default();
        let digest = blake3::derive_key("keyledger 2026-11 idempotent request v1", &asked);
        Some((OperationId::from_bytes(id), RequestDigest(digest)))
    }
}

impl FromRequestParts<Shared> for Conditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        let key = match parts.headers.get(IDEMPOTENCY_HEADER) {
            None => None,
            Some(value) => Some(
                value
                    .to_str()
                    .ok()
                    .filter(|key| (1..=IDEMPOTENCY_KEY_LEN_MAX).contains(&key.len()))
                    .ok_or_else(|| {
                        Problem::bad_request(
                            "invalid_idempotency_key",
                            "Idempotency-Key has 1 to 255 visible ASCII characters.",
                        )
                    })?
                    .to_owned(),
            ),
        };
        let if_match = match text(&parts.headers, header::IF_MATCH.as_str()) {
            None | Some("*") => None,
            // Another ETag than ours can't match anything (RFC 9110 §13.1.1).
            Some(etag) => Some(etag.trim_matches('"').parse().map_err(|_| Problem::precondition_failed())?),
        };
        Ok(Self { key, if_match })
    }
}

/// The bearer token, if there is an `Authorization` header.
///
/// # Errors
/// 401 for any other scheme, or more than one header.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match (token, values.next()) {
        (Some(token), None) => Ok(Some(token)),
        _ => Err(Problem::unauthorized(Challenge::InvalidToken)),
    }
}

/// A cookie's value.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(given, value)| (given == name).then_some(value))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}
