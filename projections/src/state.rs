//! The eager projections together, standing at one place of the log.

use std::{sync::mpsc, time::Duration};

use keyledger_events::{
    Commit, CommitNumber, Event, Position, TeamId, commit::PlacedRecord, record::StreamHead, store::ReadLog,
};

use crate::{Active, People, Streams, team_view::FoldError};

/// Commits that are handed from the reader to the applier at once.
const BATCH_COMMITS: usize = 512;

pub(crate) struct State {
    pub active: Active,
    pub streams: Streams,
    pub people: People,
    /// How many commits are applied.
    pub commits: CommitNumber,
    /// How many events are.
    pub position: Position,
}

/// A commit, read.
pub(crate) struct Decoded {
    pub number: CommitNumber,
    pub team: TeamId,
    /// The stream behind it.
    pub head: StreamHead,
    /// The position behind it.
    pub end: Position,
    pub records: Vec<PlacedRecord>,
}

impl Decoded {
    pub(crate) fn of(commit: &Commit) -> Result<Self, FoldError> {
        let unreadable = |error| FoldError::Record { first_position: commit.first_position, error };
        let records: Vec<_> = commit.records().collect::<Result<_, _>>().map_err(unreadable)?;
        // A commit has at least one event; one that has none is none.
        let last = records.last().ok_or(FoldError::Missing(commit.number))?;
        Ok(Self {
            number: commit.number,
            team: last.record.team,
            head: StreamHead { revision: last.record.revision, hash: last.hash },
            end: commit.end(),
            records,
        })
    }

    /// Feeds the index. A companion goes before its device, so that nobody ever finds the device ended and the companion
    /// alive.
    pub(crate) fn apply_to_index(&self, active: &Active) {
        let is_cascade = |placed: &&PlacedRecord| matches!(placed.record.event, Event::CredentialCascadeRevoked(_));
        self.records.iter().filter(is_cascade).for_each(|placed| active.apply(placed));
        self.records.iter().filter(|placed| !is_cascade(placed)).for_each(|placed| active.apply(placed));
    }

    pub(crate) fn apply_to_people(&self, people: &mut People) {
        self.records.iter().for_each(|placed| people.apply(&placed.record));
    }

    pub(crate) fn apply_to_streams(&self, streams: &mut Streams) {
        streams.apply(self.team, self.number, self.head, self.records.len() as u64);
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            active: Active::default(),
            streams: Streams::default(),
            people: People::default(),
            commits: CommitNumber(0),
            position: Position(0),
        }
    }
}

impl State {
    /// Applies what the log has beyond this state, up to its head as it is now. `progress` hears how many events are
    /// applied and how many there are.
    pub(crate) fn catch_up(
        &mut self,
        log: &dyn ReadLog,
        progress: &mut dyn FnMut(Position, Position),
    ) -> Result<(), FoldError> {
        let (from, head) = (self.commits, log.head());
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(8);
            let reader = scope.spawn(move || {
                let mut follow = log.follow(from)?;
                let mut number = from;
                while number < head.commits {
                    let mut batch = Vec::with_capacity(BATCH_COMMITS);
                    while batch.len() < BATCH_COMMITS && number < head.commits {
                        let commit = follow.next(Duration::ZERO)?.ok_or(FoldError::Missing(number))?;
                        if commit.number != number {
                            return Err(FoldError::Missing(number));
                        }
                        batch.push(Decoded::of(&commit)?);
                        number = number.next();
                    }
                    if sender.send(batch).is_err() {
                        break;
                    }
                }
                Ok(())
            });
            for batch in receiver {
                batch.into_iter().for_each(|commit| self.apply(&commit));
                progress(self.position, head.position);
            }
            reader.join().unwrap_or(Err(FoldError::Missing(self.commits)))
        })
    }

    fn apply(&mut self, commit: &Decoded) {
        commit.apply_to_index(&self.active);
        commit.apply_to_people(&mut self.people);
        commit.apply_to_streams(&mut self.streams);
        self.commits = commit.number.next();
        self.position = commit.end;
    }
}
