//! `/api/v1/feed`: every change that a verifier needs, in order, from any position, as server-sent events.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use garde::Validate;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use keyledger_events::{Position, TeamId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::Shared,
    feed::{Follower, Refused},
    http::{ApiQuery, Problem, auth::Service, problem::ProblemBody},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// So many teams with commas between them fit a request's head.
const TEAMS_LEN_MAX: usize = 37 * 500;

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(feed))
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FeedQuery {
    /// Begin behind this position; without it, with the first event.
    #[garde(skip)]
    after: Option<u64>,
    /// Only the keys of these teams: their ids, with commas between them.
    #[garde(length(max = TEAMS_LEN_MAX))]
    team: Option<String>,
}

/// Where a follower that has lost its connection goes on.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the document is all it is for")]
struct ResumeHeader {
    /// The last message's `id`; it wins over `after`.
    #[param(rename = "Last-Event-ID")]
    last_event_id: Option<u64>,
}

/// Tells a service every change of the keys it verifies, in order and without a gap, until it hangs up: an event
/// `changes` for each commit that concerns it and, once it has caught up and then each second, an event `head` with what
/// its own index must sum up to. Each message's `id` is the last position it covers, and its `after` that of the message before.
#[utoipa::path(get, path = "/feed", tag = "verify", params(FeedQuery, ResumeHeader),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 409, description = "`position_beyond_log`: this ledger's history ends before that position", body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn feed(
    State(app): State<Shared>,
    service: Service,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<FeedQuery>,
) -> Result<Response, Problem> {
    let after = resumed(&headers)?.or(query.after.map(Position));
    let teams = teams(query.team.as_deref())?.map(Arc::new);
    let follower = Follower::begin(&app.feed, service.hash, after, teams).await.map_err(refused)?;
    let messages = stream::unfold(follower, Follower::next).map(Ok::<_, Infallible>);
    let mut response = Body::from_stream(messages).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // nginx and others of its kind would keep messages until there are more.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// The teams that a follower, or a snapshot, is limited to.
///
/// # Errors
/// 400 for what is no list of ids.
pub fn teams(list: Option<&str>) -> Result<Option<BTreeSet<TeamId>>, Problem> {
    let parsed = list.map(|list| list.split(',').map(|id| id.trim().parse::<TeamId>()).collect::<Result<_, _>>());
    parsed
        .transpose()
        .map_err(|_| Problem::bad_request("invalid_query", "team is not a list of UUIDs with commas between them."))
}

fn resumed(headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    let mut ids = headers.get_all(LAST_EVENT_ID).iter();
    let Some(id) = ids.next() else { return Ok(None) };
    let digits = id.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let position = digits.and_then(|digits| digits.parse().ok()).filter(|_| ids.next().is_none());
    position.map(Some).ok_or_else(|| Problem::bad_request("invalid_event_id", "Last-Event-ID is not a position."))
}

fn refused(refused: Refused) -> Problem {
    let later = |code, detail| Problem::unavailable(code, detail).with_retry_after(Duration::from_secs(5));
    match refused {
        Refused::Beyond(last) => {
            let what = "This ledger's history ends before that position: it is not the one that was followed, or has \
                        lost its end.";
            Problem::conflict("position_beyond_log", what).with_member("position", last.map(|last| last.0))
        }
        Refused::Full => later("too_many_followers", "There are as many followers as this server takes."),
        Refused::Closing => later("closing", "The service is about to end."),
        Refused::Failed => Problem::internal(),
    }
}
