//! Which credentials were alive, asked in two ways that must not be mixed up.
//!
//! * *What held at time T, by all we know now*: the whole log is used, and an expiry or a cascade that was recorded
//!   later counts from the instant it was effective.
//! * *What was known at position P*: only events up to there are used, and the instant is that of the last of them.
//!
//! Both may be given at once: what somebody who knew the log up to P had to answer at T.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
};

use keyledger_events::{
    CredentialId, Event, Position, Record, TeamId, Timestamp, record::RecordHeader, store::ReadLog,
};
use serde::{Deserialize, Serialize};

use crate::{
    End, Progress, ReplayError, Standing,
    point::{Moment, ResolvedMoment},
    walk::{self, Clock},
};

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AsOf {
    /// Both times of the question, resolved.
    pub moment: ResolvedMoment,
    /// The credentials alive, by team and then in the order they were issued.
    pub credentials: Vec<Standing>,
    /// The names of their teams.
    pub teams: BTreeMap<TeamId, String>,
}

/// Answers for one team or for all. Memory grows with the credentials and teams alive at the moment asked about.
///
/// # Errors
/// [`ReplayError`].
pub fn as_of(
    log: &dyn ReadLog,
    moment: Moment,
    team: Option<TeamId>,
    progress: Progress<'_>,
) -> Result<AsOf, ReplayError> {
    let mut clock = Clock::default();
    let mut book = Book { at: moment.at, team, alive: HashMap::new(), teams: BTreeMap::new() };
    walk::commits(log, moment, progress, |commit| {
        clock.tick(commit, walk::recorded_at(commit)?);
        for (record, position) in commit.body.view().records().zip(commit.first_position.0..) {
            let position = Position(position);
            book.read(position, record.bytes()).map_err(|error| ReplayError::Record { position, error })?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let moment = clock.resolve(moment);
    let (credentials, teams) = book.close(moment.at);
    Ok(AsOf { moment, credentials, teams })
}

struct Book {
    /// The instant asked about, if the question names it; else everything read lies at or before it.
    at: Option<Timestamp>,
    team: Option<TeamId>,
    alive: HashMap<CredentialId, Standing>,
    teams: BTreeMap<TeamId, String>,
}

impl Book {
    fn read(&mut self, position: Position, bytes: &[u8]) -> Result<(), keyledger_events::record::RecordError> {
        let header = RecordHeader::decode(bytes)?;
        if self.team.is_some_and(|team| team != header.team) {
            return Ok(());
        }
        self.apply(position, &Record::decode(bytes)?);
        Ok(())
    }

    fn apply(&mut self, position: Position, record: &Record) {
        if let Some((credential, end)) = End::stated(position, record) {
            if self.at.is_none_or(|at| end.effective_at <= at) {
                self.alive.remove(&credential);
            }
            return;
        }
        if self.at.is_some_and(|at| record.recorded_at > at) {
            return;
        }
        if let Some(standing) = Standing::born(position, record) {
            self.alive.insert(standing.credential, standing);
            return;
        }
        match &record.event {
            Event::TeamCreated(e) => {
                self.teams.insert(record.team, e.name.clone());
            }
            Event::ExpiryShortened(e) => {
                self.alive.entry(e.credential).and_modify(|standing| standing.expires_at = Some(e.to));
            }
            Event::CredentialHandedOver(e) => {
                self.alive.entry(e.credential).and_modify(|standing| standing.holder = e.to);
            }
            _ => {}
        }
    }

    fn close(mut self, at: Timestamp) -> (Vec<Standing>, BTreeMap<TeamId, String>) {
        let mut credentials: Vec<_> = self
            .alive
            .values()
            .filter(|standing| standing.unexpired(at))
            // A device whose time is up takes its companion along, before any event says so.
            .filter(|standing| {
                standing
                    .companion_of
                    .and_then(|device| self.alive.get(&device))
                    .is_none_or(|device| device.unexpired(at))
            })
            .cloned()
            .collect();
        credentials.sort_unstable_by_key(|standing| (standing.team, standing.position));
        let mut teams = BTreeMap::new();
        for standing in &credentials {
            if let Some(name) = self.teams.remove(&standing.team) {
                teams.insert(standing.team, name);
            }
        }
        (credentials, teams)
    }
}
