//! How a handler writes: one call from command to outcome.

use axum::response::Response;
use http::{HeaderName, HeaderValue};
use keyledger_events::{
    OperationId, Position, TeamId, Timestamp,
    commit::RequestDigest,
    team::{Decision, TeamState},
};

use super::{
    Problem,
    auth::{Caller, Conditions},
};
use crate::{
    app::App,
    ledger::{Request, Who, Written},
};

/// Every answer says how far the reader has got.
pub const POSITION_HEADER: HeaderName = HeaderName::from_static("ledger-position");

/// A write that is being put together.
pub struct Write {
    team: TeamId,
    who: Who,
    idempotency: Option<(OperationId, RequestDigest)>,
    essential: bool,
}

impl Write {
    /// By a person in a team, under the request's conditions; `asked` is what makes two requests the same.
    pub fn by(app: &App, caller: &Caller, conditions: &Conditions, asked: &impl serde::Serialize) -> Self {
        let idempotency = conditions.operation(caller.team, caller.person.id, asked);
        Self { team: caller.team, who: caller.person.who(app), idempotency, essential: false }
    }

    /// By whoever `who` says.
    pub fn new(team: TeamId, who: Who) -> Self {
        Self { team, who, idempotency: None, essential: false }
    }

    /// It ends credentials: it may use the room that is kept for that on a full disk.
    #[must_use]
    pub fn essential(mut self) -> Self {
        self.essential = true;
        self
    }

    /// With an operation id and request digest of the caller's making.
    #[must_use]
    pub fn idempotent(mut self, idempotency: Option<(OperationId, RequestDigest)>) -> Self {
        self.idempotency = idempotency;
        self
    }

    /// Decides and appends.
    ///
    /// # Errors
    /// The refusal or fault, as a problem.
    pub async fn run(
        self,
        app: &App,
        decide: impl Fn(&TeamState, Timestamp) -> Decision + Send + 'static,
    ) -> Result<Written, Problem> {
        let Self { team, who, idempotency, essential } = self;
        let request = Request { team, who, idempotency, essential, decide: Box::new(decide) };
        Ok(app.ledger.write(request).await?)
    }
}

/// Says in the answer how far the log had got.
#[must_use]
pub fn at_position(mut response: Response, position: Position) -> Response {
    response.headers_mut().insert(POSITION_HEADER, HeaderValue::from(position.0));
    response
}
