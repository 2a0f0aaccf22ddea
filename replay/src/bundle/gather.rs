//! What a bundle needs, read from a log that nobody serves: one pass over all of it.

use std::{collections::HashMap, ops::ControlFlow};

use keyledger_events::{
    CommitNumber, Event, Position, TeamId, event::HistorySealedV1, record::StreamHead, store::ReadLog,
    stream_map::StreamMap,
};

use super::{format::SealShown, nodes::LogNodes};
use crate::{Moment, Progress, ReplayError, walk};

/// A log's tree, and one team in it.
pub struct Gathered<'a> {
    /// The tree of the first events, as many as were asked for.
    pub nodes: LogNodes<'a>,
    /// The numbers of the team's commits in it.
    pub numbers: Vec<CommitNumber>,
    /// The team's last event in it, and its position; none if it has none.
    pub end: Option<(StreamHead, Position)>,
    /// The last seal in it that knows the team.
    pub seal: Option<SealShown>,
}

/// Reads the first `size` events of `log`. The seals are believed as far as they agree with it.
///
/// # Errors
/// [`ReplayError`].
pub fn gather<'a>(
    log: &'a dyn ReadLog,
    size: u64,
    team: TeamId,
    progress: Progress<'_>,
) -> Result<Gathered<'a>, ReplayError> {
    let mut nodes = LogNodes::new(log);
    let (mut numbers, mut end) = (Vec::new(), None);
    let mut seals: Vec<(Position, HistorySealedV1)> = Vec::new();
    walk::commits(log, Moment::default(), progress, |commit| {
        if commit.end().0 > size {
            return Ok(ControlFlow::Break(()));
        }
        nodes.push(commit);
        let header = walk::first(commit)?;
        if header.team == team {
            numbers.push(commit.number);
            end = Some((walk::left(commit, &header), Position(commit.end().0 - 1)));
        }
        if header.team == TeamId::SYSTEM {
            for placed in commit.records() {
                let at = commit.first_position;
                let placed = placed.map_err(|error| ReplayError::Record { position: at, error })?;
                if let Event::HistorySealed(seal) = placed.record.event {
                    seals.push((placed.position, seal));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let seal = match seals.pop() {
        Some((position, seal)) => shown(log, team, position, &seal)?,
        None => None,
    };
    Ok(Gathered { nodes, numbers, end, seal })
}

/// The seal, with the proof of what it says of the team; none if its map can't be made again, or has no such team.
fn shown(
    log: &dyn ReadLog,
    team: TeamId,
    position: Position,
    seal: &HistorySealedV1,
) -> Result<Option<SealShown>, ReplayError> {
    let mut heads: HashMap<TeamId, StreamHead> = HashMap::new();
    walk::commits(log, Moment::default(), &crate::quiet, |commit| {
        if commit.end() > seal.through {
            return Ok(ControlFlow::Break(()));
        }
        let header = walk::first(commit)?;
        heads.insert(header.team, walk::left(commit, &header));
        Ok(ControlFlow::Continue(()))
    })?;
    let mut map = StreamMap::new();
    heads.into_iter().for_each(|(team, head)| map.insert(team, head));
    if map.root() != seal.root {
        return Ok(None);
    }
    Ok(map.prove(team).map(|(head, proof)| SealShown::new(position, seal, head, proof)))
}
