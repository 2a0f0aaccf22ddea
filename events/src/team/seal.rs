//! The ledger's own decision to seal its history.

use super::{Decision, TeamState};
use crate::{Event, Position, event::HistorySealedV1, stream_map::MapRoot};

/// Appends the map of all streams to the system stream.
#[derive(Clone, Copy, Debug)]
pub struct SealHistory {
    /// The map is of all events before this position.
    pub through: Position,
    /// How many teams it has.
    pub teams: u64,
    /// Its root.
    pub root: MapRoot,
}

impl SealHistory {
    /// Nothing, if somebody else has sealed as much already.
    ///
    /// # Errors
    /// None at present. `system` is the system stream's state.
    pub fn decide(self, system: &TeamState) -> Decision {
        let Self { through, teams, root } = self;
        if through <= system.sealed_through {
            return Ok(Vec::new());
        }
        Ok(vec![Event::HistorySealed(HistorySealedV1 { through, teams, root }).into()])
    }
}
