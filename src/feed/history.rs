//! What a follower is told from the log, a stretch at a time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use keyledger_events::{Position, Record, TeamId, store::ReadLog};
use keyledger_projections::{Active, feed::PlacedChange};

use super::text;

/// A stretch is no longer than this, so that a follower's end is noticed, whatever there is to skip.
const STRETCH: Duration = Duration::from_millis(100);
/// How many commits are read between two looks at the clock.
const COMMITS_UNTIMED: u64 = 256;

/// What was read.
#[derive(Debug)]
pub(super) struct Stretch {
    /// The messages.
    pub text: Vec<u8>,
    /// How many.
    pub messages: u64,
    /// The last message's position; if there is none, that of the message before.
    pub told: Option<Position>,
    /// How far the log was looked through.
    pub covered: Option<Position>,
}

/// Reads on behind `covered` up to `until`, or until there are about `len` bytes to send. `told` is the position of the
/// message before.
///
/// # Errors
/// What is wrong with the log.
pub(super) fn read(
    log: &dyn ReadLog,
    active: &Active,
    teams: Option<&BTreeSet<TeamId>>,
    (mut told, mut covered): (Option<Position>, Option<Position>),
    until: Position,
    len: usize,
) -> Result<Stretch, String> {
    let began = Instant::now();
    let next = covered.map_or(Position(0), Position::next);
    let missing = || format!("the log has no commit at position {next}");
    let number = log.locate(next).map_err(|error| error.to_string())?.ok_or_else(missing)?;
    let mut log = log.follow(number).map_err(|error| error.to_string())?;
    let (mut text, mut messages, mut commits) = (Vec::with_capacity(len + len / 4), 0, 0_u64);
    let mut changes = Vec::new();
    while covered < Some(until) && text.len() < len {
        commits += 1;
        if commits.is_multiple_of(COMMITS_UNTIMED) && began.elapsed() > STRETCH {
            break;
        }
        let commit = log.next(Duration::ZERO).map_err(|error| error.to_string())?.ok_or_else(missing)?;
        let view = commit.body.view();
        let team = view.first().map_err(|error| error.to_string())?.team;
        let last = Position(commit.end().0.saturating_sub(1));
        if teams.is_none_or(|teams| teams.contains(&team)) {
            changes.clear();
            for (record, position) in view.records().zip((commit.first_position.0..).map(Position)) {
                // Of a commit that the follower has in part, the rest.
                if Some(position) > covered {
                    let record = Record::decode(record.bytes()).map_err(|error| error.to_string())?;
                    changes.extend(
                        text::told(active, team, &record.event).map(|change| PlacedChange { position, change }),
                    );
                }
            }
            if !changes.is_empty() {
                text::push_new_changes(&mut text, told, last, team, &changes);
                messages += 1;
                told = Some(last);
            }
        }
        covered = Some(last);
    }
    Ok(Stretch { text, messages, told, covered })
}
