//! What a team's own pages show: its stream, folded. Made when somebody asks and kept while it is asked for.

pub mod audit;
mod columns;
pub mod departures;
pub mod directory;

use std::collections::BTreeMap;

use keyledger_events::{
    Commit, Event, PersonId, Position, TeamId, Timestamp,
    commit::PlacedRecord,
    event::{PolicyV1, Role},
    record::{RecordError, StreamHead},
    seal::Label,
    store::ReadError,
};

use self::{audit::Audit, directory::Directory};

/// One team, folded so far. Whoever holds it mutably feeds it the team's events in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeamView {
    /// Whose it is; `None` before the first event.
    pub team: Option<TeamId>,
    /// The last event folded in; `None` before the first.
    pub head: Option<StreamHead>,
    /// Where that is.
    pub position: Option<Position>,
    /// When that was recorded.
    pub recorded_at: Timestamp,
    /// What the team is called.
    pub name: String,
    /// Its rules for new keys.
    pub policy: PolicyV1,
    /// Everybody who ever was a member.
    pub members: BTreeMap<PersonId, Member>,
    /// Its credentials.
    pub directory: Directory,
    /// Its events.
    pub audit: Audit,
}

/// A person in the team, now or once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub person: PersonId,
    /// Their role, or the last they had.
    pub role: Role,
    /// What to call them.
    pub label: Label,
    /// When they joined last.
    pub joined_at: Timestamp,
    /// Whose invitation they followed.
    pub invited_by: Option<PersonId>,
    /// When they left, if they have.
    pub departed_at: Option<Timestamp>,
}

/// How far to fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Everything there is.
    Now,
    /// What was known when this position was the log's last: the events up to it, and it. Ask such a view with the time
    /// at which that position was recorded.
    Position(Position),
    /// What held at this instant by all that is known now: the facts whose effect had begun, also those that were
    /// recorded late. Ask such a view with this same instant.
    Instant(Timestamp),
}

impl Until {
    fn includes(self, placed: &PlacedRecord) -> bool {
        match self {
            Self::Now => true,
            Self::Position(last) => placed.position <= last,
            Self::Instant(at) => effective_at(placed) <= at,
        }
    }

    /// Whether nothing behind this event can be included any more.
    fn is_past(self, placed: &PlacedRecord) -> bool {
        matches!(self, Self::Position(last) if placed.position > last)
    }
}

/// Since when a fact holds.
pub fn effective_at(placed: &PlacedRecord) -> Timestamp {
    match &placed.record.event {
        Event::CredentialExpired(e) => e.effective_at,
        Event::CredentialCascadeRevoked(e) => e.effective_at,
        _ => placed.record.recorded_at,
    }
}

/// Why a team can't be folded.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An event can't be read.
    #[error("commit at position {first_position}: {error}")]
    Record {
        /// Where its commit begins.
        first_position: Position,
        /// What is wrong.
        error: RecordError,
    },
    /// A commit that the streams projection names is not in the log.
    #[error("commit {0} is missing")]
    Missing(keyledger_events::CommitNumber),
}

impl TeamView {
    /// Folds a team's commits, in order, as far as `until`.
    ///
    /// # Errors
    /// [`FoldError`].
    pub fn fold(commits: impl IntoIterator<Item = Result<Commit, ReadError>>, until: Until) -> Result<Self, FoldError> {
        let mut view = Self::default();
        for commit in commits {
            let commit = commit?;
            for placed in commit.records() {
                let placed =
                    placed.map_err(|error| FoldError::Record { first_position: commit.first_position, error })?;
                if until.is_past(&placed) {
                    return Ok(view);
                }
                if until.includes(&placed) {
                    view.apply(&placed);
                }
            }
        }
        Ok(view)
    }

    /// Takes in a whole commit.
    ///
    /// # Errors
    /// [`FoldError::Record`]; what came before the bad event is taken in.
    pub fn apply_commit(&mut self, commit: &Commit) -> Result<(), FoldError> {
        for placed in commit.records() {
            let placed = placed.map_err(|error| FoldError::Record { first_position: commit.first_position, error })?;
            self.apply(&placed);
        }
        Ok(())
    }

    /// Takes in the team's next event.
    pub fn apply(&mut self, placed: &PlacedRecord) {
        let record = &placed.record;
        self.team = Some(record.team);
        self.head = Some(StreamHead { revision: record.revision, hash: placed.hash });
        self.position = Some(placed.position);
        self.recorded_at = record.recorded_at;
        match &record.event {
            Event::TeamCreated(e) => self.name.clone_from(&e.name),
            Event::PolicyChanged(e) => self.policy = e.policy,
            Event::MemberJoined(e) => {
                let member = Member {
                    person: e.member,
                    role: e.role,
                    label: e.name.clone(),
                    joined_at: record.recorded_at,
                    invited_by: e.invited_by,
                    departed_at: None,
                };
                self.members.insert(e.member, member);
                self.directory.note_departed(e.member, false);
            }
            Event::RoleChanged(e) => {
                if let Some(member) = self.members.get_mut(&e.member) {
                    member.role = e.to;
                }
            }
            Event::MemberDeparted(e) => {
                if let Some(member) = self.members.get_mut(&e.member) {
                    member.departed_at = Some(record.recorded_at);
                    self.directory.note_departed(e.member, true);
                }
            }
            _ => {}
        }
        self.directory.apply(placed);
        let credential = record.event.credential().and_then(|id| self.directory.number(id));
        self.audit.apply(placed, credential);
    }

    /// The members who are in the team now.
    pub fn present(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.departed_at.is_none())
    }

    /// Where the events about a credential are, in order.
    pub fn history(&self, credential: keyledger_events::CredentialId) -> Vec<Position> {
        self.directory.number(credential).map(|number| self.audit.about(number)).unwrap_or_default()
    }

    /// Roughly what it holds in memory, in events and rows: what a cache of views is bounded by.
    pub fn weight(&self) -> usize {
        self.audit.len() + 4 * self.directory.len() + self.members.len() + 64
    }
}

#[cfg(test)]
mod tests;
