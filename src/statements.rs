//! What the ledger signs about one team, beside the tree head that covers it.

use std::time::Duration;

use keyledger_events::{
    CommitNumber, Position, TeamId, head::TreeHead, record::StreamHead, statement::TeamStatement, store::ReadError,
};

use crate::{app::App, http::Problem};

/// How long a statement waits for a signed tree head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long it waits for one that enough witnesses have cosigned, before it takes one without.
const COSIGNED_WITHIN: Duration = Duration::from_secs(2);

/// Where a team's stream ends.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Its last event.
    pub head: StreamHead,
    /// The commit that holds it.
    pub commit: CommitNumber,
    /// Its position.
    pub position: Position,
}

/// The end of a team's stream, as far as it is applied; none if there is no such team.
///
/// # Errors
/// When the log can't be read.
pub fn end(app: &App, team: TeamId) -> Result<Option<End>, ReadError> {
    let Some((head, commit)) = app.projections.stream_end(team) else { return Ok(None) };
    let Some(found) = app.store.commit(commit)? else { return Ok(None) };
    Ok(Some(End { head, commit, position: Position(found.end().0 - 1) }))
}

/// A published tree head that covers `position`, signed now if need be: size and root, and the note. None if none can be
/// had in time.
pub async fn covering_head(app: &App, position: Position) -> Option<(TreeHead, String)> {
    let (tree, witnesses) = (app.tree.clone(), app.witnesses.clone());
    let found = tokio::task::spawn_blocking(move || {
        let size = position.0 + 1;
        let published = tree.wait_for(size, HEAD_WITHIN)?;
        Some(witnesses.and_then(|witnesses| witnesses.wait_for(size, COSIGNED_WITHIN)).unwrap_or(published))
    });
    found.await.ok().flatten().map(|published| (published.head, published.note))
}

/// No tree head came in time.
pub fn not_signed() -> Problem {
    Problem::unavailable("not_signed", "No signed tree head covers the team's last event yet.")
        .with_retry_after(Duration::from_secs(1))
}

/// The signed statement that this is where the team's stream ends.
pub fn sign(app: &App, team: TeamId, end: &End, tree: TreeHead) -> String {
    let origin = app.signer.verifier().origin().to_owned();
    let statement = TeamStatement { origin, team, head: end.head, position: end.position, tree, time: app.now() };
    statement.sign(&app.signer)
}
