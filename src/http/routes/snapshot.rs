//! `/api/v1/snapshot`: the index at one position, for a follower to start from.

use std::{collections::BTreeSet, io::Write, time::Duration};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use garde::Validate;
use http::{HeaderValue, header};
use keyledger_events::{Position, TeamId};
use keyledger_projections::feed::snapshot::{self, Header};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::feed::teams;
use crate::{
    app::{App, Shared},
    http::{ApiQuery, Problem, auth::Service, problem::ProblemBody, write::POSITION_HEADER},
};

/// What the bytes are: the format of [`snapshot`], as one Zstandard stream (RFC 8878).
const MEDIA_TYPE: &str = "application/vnd.keyledger.snapshot+zstd";
/// Zstandard's fastest: hashes and ids do not get smaller, and the rest is easy.
const LEVEL: i32 = 1;
/// Pieces under way: what a slow reader makes us keep.
const PIECES: usize = 2;
/// How long one waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// The routes of this file.
pub fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(take))
}

#[derive(Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SnapshotQuery {
    /// Only the keys of these teams: their ids, with commas between them.
    #[garde(length(max = 18_500))]
    team: Option<String>,
}

/// The index at one position, which `Ledger-Position` names, without names and `sv-` keys: a service starts from it and
/// goes on with the feed after that position. A Zstandard stream.
#[utoipa::path(get, path = "/snapshot", tag = "verify", params(SnapshotQuery),
    responses((status = 200, content_type = "application/vnd.keyledger.snapshot+zstd", body = Vec<u8>), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 503, body = ProblemBody)))]
async fn take(
    State(app): State<Shared>,
    _: Service,
    ApiQuery(query): ApiQuery<SnapshotQuery>,
) -> Result<Response, Problem> {
    let teams = teams(query.team.as_deref())?;
    let turn = tokio::time::timeout(TURN_WAIT, app.feed.snapshots().acquire_owned()).await;
    let turn = turn.ok().and_then(Result::ok).ok_or_else(|| {
        Problem::unavailable("busy", "Others are taking snapshots.").with_retry_after(Duration::from_secs(5))
    })?;
    let (pieces, receiver) = mpsc::channel(PIECES);
    let (frozen, position) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let failed = pieces.clone();
        if let Err(error) = write(&app, teams, frozen, pieces) {
            // Half a snapshot has no hash; nobody may be listening any more.
            tracing::debug!(%error, "a snapshot broke off");
            let _ = failed.blocking_send(Err(error));
        }
        drop(turn);
    });
    let position = position.await.map_err(|_| Problem::internal())?;
    let mut response = Body::from_stream(ReceiverStream::new(receiver)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if let Some(position) = position {
        headers.insert(POSITION_HEADER, HeaderValue::from(position.0));
    }
    Ok(response)
}

/// Writes a snapshot as the index stands now. `frozen` hears where that is.
fn write(
    app: &App,
    teams: Option<BTreeSet<TeamId>>,
    told: oneshot::Sender<Option<Position>>,
    pieces: mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    let (position, frozen, digest) = app.projections.freeze_nameless(teams.as_ref());
    let credentials = frozen.nameless_len(teams.as_ref()) as u64;
    // Nobody listens any more: then nobody takes the first piece either.
    let _ = told.send(position);
    let header = Header { position, credentials, digest, teams, at: app.now() };
    let mut out = zstd::stream::write::Encoder::new(Pieces(pieces), LEVEL)?;
    out.include_checksum(true)?;
    for bytes in snapshot::write(&frozen, &header) {
        out.write_all(&bytes)?;
    }
    out.finish().map(drop)
}

/// Hands on what is written, as fast as it is taken.
struct Pieces(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
