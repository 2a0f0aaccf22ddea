//! `/forward-auth`: a proxy asks on behalf of each request that it holds whether to let it pass (nginx `auth_request`,
//! Caddy `forward_auth`, Traefik `ForwardAuth`, Envoy `ext_authz`, HAProxy by Lua; a working configuration of each is in
//! `deploy/`).
//!
//! A proxy understands 200, 401 and 403. nginx turns anything else into a 500 of its own, so nothing else is ever
//! answered: no rate limit, no waiting for a position, no refusal of a method, a body or a URL. What a client may have
//! written into the request, the proxy may have passed on; none of it can make a question wider than the operator
//! configured it.

use std::{
    str::FromStr as _,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header, request::Parts};
use keyledger_events::{CredentialId, PersonId, TeamId, secret::Kind};
use keyledger_projections::{Denied, Surface, Verdict};
use parking_lot::Mutex;
use uuid::fmt::Hyphenated;

use super::{Challenge, Problem, auth::bearer, body::RequestBody, problem::ProblemBody};

const PATH: &str = "/forward-auth";
const CREDENTIAL_ID: HeaderName = HeaderName::from_static("x-credential-id");
const CREDENTIAL_KIND: HeaderName = HeaderName::from_static("x-credential-kind");
const TEAM_ID: HeaderName = HeaderName::from_static("x-team-id");
const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// How often the same misconfiguration is told: a proxy asks thousands of times a second.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Whether this path is `/forward-auth` or below it.
pub fn is_asked(path_and_query: &str) -> bool {
    path_and_query.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with(['?', '/']))
}

/// What a proxy asks besides the key: whether it is good on this surface, in this team.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// None: on any.
    pub surface: Option<Surface>,
    /// None: in any.
    pub team: Option<TeamId>,
}

impl Question {
    /// Reads `?surface=&team=`. At `/forward-auth` itself the query is the operator's, and what it does not know is
    /// refused: a typing error must not widen the question. Below it, path and query are those of the client's request,
    /// appended by the proxy (Envoy's `path_prefix`): only the two names count, and they can only narrow it.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn read(path_and_query: &str) -> Result<Self, Unusable> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let mut question = Self::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let repeated = match name {
                "surface" => {
                    let surface = Surface::from_str(value).map_err(|_| Unusable::Surface)?;
                    question.surface.replace(surface).is_some()
                }
                "team" => question.team.replace(value.parse().map_err(|_| Unusable::Team)?).is_some(),
                _ if path == PATH => return Err(Unusable::Parameter),
                _ => false,
            };
            if repeated {
                return Err(Unusable::Repeated);
            }
        }
        Ok(question)
    }
}

/// A question that can't be answered, by the operator's mistake. Nobody passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No such surface.
    #[error("?surface= must be runtime, mcp, agent or management")]
    Surface,
    /// No team's id.
    #[error("?team= must be a team's id, a UUID")]
    Team,
    /// One of the two stands there twice.
    #[error("surface and team may stand in the query once each")]
    Repeated,
    /// A parameter that is neither.
    #[error("the query may hold surface and team, and nothing else")]
    Parameter,
}

/// Who a good key belongs to: what the proxy is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `X-Credential-Id`.
    pub credential: CredentialId,
    /// `X-Credential-Kind`.
    pub kind: Kind,
    /// `X-Team-Id`.
    pub team: TeamId,
    /// `X-User-Id`: who answers for it.
    pub holder: PersonId,
}

impl From<Verdict> for Identity {
    fn from(verdict: Verdict) -> Self {
        Self { credential: verdict.credential, kind: verdict.kind, team: verdict.team, holder: verdict.holder }
    }
}

/// The answer to a question, whoever has judged the key: `judge` is given what was presented and what was asked.
pub fn answer(head: &Parts, judge: impl FnOnce(&[u8], Question) -> Result<Identity, Denied>) -> Response<Bytes> {
    match judged(head, judge) {
        Ok(identity) => accepted(&identity),
        Err(problem) => problem.into_http::<Vec<u8>>().map(Bytes::from),
    }
}

fn judged(head: &Parts, judge: impl FnOnce(&[u8], Question) -> Result<Identity, Denied>) -> Result<Identity, Problem> {
    let question = Question::read(asked(head)).map_err(misconfigured)?;
    let presented = bearer(&head.headers)?.ok_or_else(|| Problem::unauthorized(Challenge::Missing))?;
    judge(presented.as_bytes(), question).map_err(|denied| match denied {
        Denied::WrongSurface(_) => Problem::insufficient_scope(question.surface.map_or("", Surface::name)),
        _ => Problem::unauthorized(Challenge::InvalidToken),
    })
}

fn asked(head: &Parts) -> &str {
    head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str)
}

/// 403, since no key would do; the words are for whoever debugs the proxy by hand.
fn misconfigured(unusable: Unusable) -> Problem {
    Problem::forbidden("forward_auth_misconfigured", format!("The proxy asks for what can't be answered: {unusable}."))
        .with_challenge(Challenge::InvalidRequest)
}

fn accepted(identity: &Identity) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.reserve(8);
    for (name, id) in [
        (CREDENTIAL_ID, identity.credential.uuid()),
        (TEAM_ID, identity.team.uuid()),
        (USER_ID, identity.holder.uuid()),
    ] {
        let mut text = [0; Hyphenated::LENGTH];
        // Hexadecimal figures and dashes are a header's value.
        if let Ok(value) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
            headers.insert(name, value);
        }
    }
    headers.insert(CREDENTIAL_KIND, HeaderValue::from_static(identity.kind.name()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Tells the operator in the log what a proxy can't be answered, each mistake once a minute at most.
#[derive(Debug, Default)]
pub struct Complaints([Mutex<Option<Instant>>; 4]);

impl Complaints {
    /// Tells it, if there is something to tell and it was not told just now.
    pub fn hear(&self, head: &Parts) {
        let Err(unusable) = Question::read(asked(head)) else { return };
        let mut told = self.0[unusable as usize].lock();
        if told.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(reason = %unusable, "a proxy asks /forward-auth for what can't be answered; all its requests are refused");
        }
    }
}

/// Deals with a body that a proxy has passed on, or whose length it has announced without sending it: what came with the
/// head is dropped; if more is to come, the connection can't be used again, and the answer says so.
pub async fn without_body(body: RequestBody, mut response: Response<Bytes>) -> Response<Bytes> {
    if !body.is_there_whole().await {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether a proxy may let a request pass.
///
/// For every method and every path below, with a body or without. The key is the one in `Authorization`, as the proxy
/// passes it on. The answer is 200, 401 or 403, and never anything else; `Ledger-Min-Position` and rate limits do not apply.
#[utoipa::path(get, path = "/forward-auth", tag = "verify",
    params(
        ("surface" = Option<String>, Query, description = "`runtime`, `mcp`, `agent` or `management`; none: any"),
        ("team" = Option<uuid::Uuid>, Query, description = "the team it must belong to; none: any"),
    ),
    responses(
        (status = 200, description = "good; no body", headers(
            ("X-Credential-Id" = uuid::Uuid, description = "the credential"),
            ("X-Credential-Kind" = String, description = "`integration`, `agent`, `device` or `service`"),
            ("X-Team-Id" = uuid::Uuid, description = "its team"),
            ("X-User-Id" = uuid::Uuid, description = "who answers for it"))),
        (status = 401, description = "none, malformed, unknown, expired, revoked, or another team's: told apart only from none", body = ProblemBody),
        (status = 403, description = "alive, and not for this surface; or the proxy's question can't be answered, which the ledger's log explains", body = ProblemBody)))]
#[allow(dead_code, reason = "the document is all it is for: what is asked never reaches the router")]
pub fn forward_auth() {}

#[cfg(test)]
mod tests {
    use http::{Method, Request, StatusCode};
    use proptest::prelude::*;

    use super::*;

    fn head(method: &str, target: &str, authorizations: &[&[u8]]) -> Option<Parts> {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).ok()?).uri(target);
        for value in authorizations {
            request = request.header(header::AUTHORIZATION, HeaderValue::from_bytes(value).ok()?);
        }
        Some(request.body(()).ok()?.into_parts().0)
    }

    #[test]
    fn whose_paths_are_taken() {
        for (target, taken) in [
            ("/forward-auth", true),
            ("/forward-auth?surface=agent", true),
            ("/forward-auth/", true),
            ("/forward-auth/a/b?c", true),
            ("/forward-auth//", true),
            ("/forward-authority", false),
            ("/forward-auth%2f", false),
            ("/Forward-Auth", false),
            ("/api/forward-auth", false),
            ("", false),
        ] {
            assert_eq!(is_asked(target), taken, "{target}");
        }
    }

    #[test]
    fn questions() {
        let team: TeamId = "0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a".parse().unwrap();
        let on = |surface| Question { surface: Some(surface), team: None };
        let any = Question::default();
        for (target, read) in [
            ("/forward-auth", Ok(any)),
            ("/forward-auth?", Ok(any)),
            ("/forward-auth?surface=agent", Ok(on(Surface::Agent))),
            ("/forward-auth?&surface=mcp&", Ok(on(Surface::Mcp))),
            (
                "/forward-auth?team=0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a",
                Ok(Question { surface: None, team: Some(team) }),
            ),
            (
                "/forward-auth?team=0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a&surface=runtime",
                Ok(Question { surface: Some(Surface::Runtime), team: Some(team) }),
            ),
            ("/forward-auth?surface=", Err(Unusable::Surface)),
            ("/forward-auth?surface", Err(Unusable::Surface)),
            ("/forward-auth?surface=Agent", Err(Unusable::Surface)),
            ("/forward-auth?surface=agent&surface=agent", Err(Unusable::Repeated)),
            ("/forward-auth?surface=agent&surface=runtime", Err(Unusable::Repeated)),
            ("/forward-auth?team=mine", Err(Unusable::Team)),
            ("/forward-auth?surfcae=agent", Err(Unusable::Parameter)),
            ("/forward-auth?surface=agent&x=1", Err(Unusable::Parameter)),
            ("/forward-auth/orders?page=2", Ok(any)),
            ("/forward-auth/orders?page=2&surface=agent", Ok(on(Surface::Agent))),
            ("/forward-auth/orders?surface=agent&surface=runtime", Err(Unusable::Repeated)),
            ("/forward-auth/orders?surface=water", Err(Unusable::Surface)),
        ] {
            assert_eq!(Question::read(target), read, "{target}");
        }
    }

    #[test]
    fn a_mistake_is_told_once_a_minute() {
        let complaints = Complaints::default();
        let told = |target| {
            complaints.hear(&head("GET", target, &[]).unwrap());
            complaints.0.each_ref().map(|told| told.lock().is_some())
        };
        assert_eq!(told("/forward-auth?surface=agent"), [false; 4]);
        assert_eq!(told("/forward-auth?surface=x"), [true, false, false, false]);
        assert_eq!(told("/forward-auth?x"), [true, false, false, true]);
        let first = *complaints.0[0].lock();
        told("/forward-auth?surface=y");
        assert_eq!(*complaints.0[0].lock(), first);
    }

    fn identities() -> impl Strategy<Value = Identity> {
        (any::<[[u8; 16]; 3]>(), prop::sample::select(&Kind::ALL[..])).prop_map(|([credential, team, holder], kind)| {
            Identity {
                credential: CredentialId::from_bytes(credential),
                kind,
                team: TeamId::from_bytes(team),
                holder: PersonId::from_bytes(holder),
            }
        })
    }

    proptest! {
        /// Whatever is asked in whatever way: 200 for who is judged good, else 401 or 403 with a challenge.
        #[test]
        fn nothing_but_200_401_and_403(
            method in "[A-Z]{1,12}|[!#-'*+.^_`|~0-9A-Za-z-]{1,20}",
            below in "(/[!-~]{0,20}){0,3}",
            query in "(\\?([!-~]{0,20}|surface=(agent|runtime|x)|team=[0-9a-f-]{0,36}|surface=agent&surface=agent))?",
            authorizations in prop::collection::vec(prop_oneof![
                Just(b"Bearer key".to_vec()), Just(b"bearer  key ".to_vec()), Just(b"Basic a2V5".to_vec()),
                prop::collection::vec(0x20_u8..=0xff, 0..40),
            ], 0..3),
            good in any::<bool>(),
            identity in identities(),
        ) {
            let values: Vec<&[u8]> = authorizations.iter().map(Vec::as_slice).collect();
            let Some(head) = head(&method, &format!("/forward-auth{below}{query}"), &values) else { return Ok(()) };
            prop_assume!(is_asked(asked(&head)));
            let mut judged = false;
            let answer = answer(&head, |presented, question| {
                judged = true;
                assert_eq!(Ok(question), Question::read(asked(&head)));
                if good && presented == b"key" { Ok(identity) } else { Err(Denied::Unknown) }
            });
            let get = |name: HeaderName| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            prop_assert_eq!(get(header::CACHE_CONTROL), Some("no-store".to_owned()));
            match answer.status() {
                StatusCode::OK => {
                    prop_assert!(judged && good && answer.body().is_empty());
                    prop_assert_eq!(get(CREDENTIAL_ID), Some(identity.credential.uuid().to_string()));
                    prop_assert_eq!(get(CREDENTIAL_KIND), Some(identity.kind.name().to_owned()));
                    prop_assert_eq!(get(TEAM_ID), Some(identity.team.uuid().to_string()));
                    prop_assert_eq!(get(USER_ID), Some(identity.holder.uuid().to_string()));
                    prop_assert_eq!(get(header::WWW_AUTHENTICATE), None);
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    prop_assert!(get(header::WWW_AUTHENTICATE).unwrap().starts_with("Bearer realm="));
                    prop_assert_eq!(get(CREDENTIAL_ID), None);
                    prop_assert_eq!(get(USER_ID), None);
                    let misconfigured = Question::read(asked(&head)).is_err();
                    prop_assert_eq!(answer.status() == StatusCode::FORBIDDEN, misconfigured);
                    prop_assert!(!(misconfigured && judged));
                }
                other => prop_assert!(false, "{other}"),
            }
        }
    }
}
