//! What the ledger signs about one team, beside the tree head that covers it.

use std::time::{Duration, Instant};

use keyledger_events::{
    CommitNumber, Position, TeamId, head::TreeHead, record::StreamHead, statement::TeamStatement, store::ReadError,
};

use crate::app::App;

/// How long a statement waits for a signed tree head: one comes every second while there are new events.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);

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

/// The newest signed tree head, once it covers `position`: size and root, and the note. None if none does in time.
pub async fn covering_head(app: &App, position: Position) -> Option<(TreeHead, String)> {
    let (began, verifier) = (Instant::now(), app.signer.verifier());
    loop {
        let note = app.log.tree_head();
        match verifier.verify(&note) {
            Ok(head) if head.size > position.0 => return Some((head, note)),
            _ if began.elapsed() > HEAD_WITHIN => return None,
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// The signed statement that this is where the team's stream ends.
pub fn sign(app: &App, team: TeamId, end: &End, tree: TreeHead) -> String {
    let origin = app.signer.verifier().origin().to_owned();
    let statement = TeamStatement { origin, team, head: end.head, position: end.position, tree, time: app.now() };
    statement.sign(&app.signer)
}
