//! All projections of one ledger, fed by one projector, read by everybody.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use keyledger_events::{
    Commit, CommitNumber, Position, TeamId,
    record::StreamHead,
    store::{ReadError, ReadLog},
};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::{
    Active, Digest, People, SharedView, Streams, active,
    checkpoint::{self, CheckpointError, Frozen},
    state::{Decoded, State},
    team_view::{FoldError, TeamView, Until},
    views::Views,
};

/// The projections. [`Projections::apply`] is called by one projector in the log's order, and has taken everything in
/// when it returns; everything else is for any thread.
#[derive(Debug)]
pub struct Projections {
    dir: PathBuf,
    active: Active,
    people: RwLock<People>,
    streams: RwLock<Located>,
    views: Mutex<Views>,
    /// Held while a commit is applied and while a checkpoint is frozen: nothing is frozen half-way through a commit.
    whole_commits: Mutex<()>,
    /// Where the last checkpoint stands, and its generation. Held while one is written.
    checkpointed: Mutex<Checkpointed>,
}

#[derive(Debug)]
struct Located {
    streams: Streams,
    commits: CommitNumber,
    position: Position,
}

#[derive(Debug)]
struct Checkpointed {
    generation: u64,
    position: Option<Position>,
}

/// How the projections were opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The checkpoint that was used, by generation and number of events; none: everything was read from the log.
    pub checkpoint: Option<(u64, Position)>,
    /// The checkpoints that were not used, and why.
    pub discarded: Vec<(u64, String)>,
    /// How many events were read from the log.
    pub applied: u64,
    /// How long all of it took.
    pub took: Duration,
}

/// The digests of all projections that are kept, at one place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// How many events they are of.
    pub position: Position,
    /// The active-credential index's.
    pub active: Digest,
    /// The streams'.
    pub streams: Digest,
    /// The people's.
    pub people: Digest,
}

impl Digests {
    /// The text of the file that lies beside the checkpoints.
    pub fn to_json(&self) -> String {
        let Self { position, active, streams, people } = self;
        format!(
            "{{\"position\":{position},\"digests\":{{\"active\":\"{active}\",\"streams\":\"{streams}\",\"people\":\"{people}\"}}}}\n"
        )
    }
}

/// A checkpoint that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which.
    pub generation: u64,
    /// The digests at it.
    pub digests: Digests,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Projections {
    /// Opens the projections of `log` that are kept in `dir`: from the newest checkpoint that is whole and fits the log,
    /// else from the log alone. Either way they stand at the log's head, and the report says what was done.
    ///
    /// # Errors
    /// [`FoldError`] when the log can't be read. What lies in `dir` is never a reason to fail.
    pub fn open(log: &dyn ReadLog, dir: &Path) -> Result<(Self, Opened), FoldError> {
        let began = Instant::now();
        let generations = checkpoint::generations(dir);
        let newest = generations.first().copied().unwrap_or(0);
        let (mut discarded, mut found) = (vec![], None);
        for generation in generations {
            match checkpoint::read(dir, generation, log) {
                Ok(state) => {
                    found = Some((generation, state));
                    break;
                }
                Err(why) => {
                    tracing::warn!(generation, why, "a checkpoint of the projections is discarded");
                    discarded.push((generation, why));
                }
            }
        }
        let checkpoint = found.as_ref().map(|(generation, state)| (*generation, state.position));
        let mut state = found.map(|(_, state)| state).unwrap_or_default();
        let before = state.position;
        state.catch_up(log, &mut |_, _| {})?;
        let opened = Opened { checkpoint, discarded, applied: state.position.0 - before.0, took: began.elapsed() };
        Ok((Self::of(state, dir, newest, checkpoint.map(|(_, position)| position)), opened))
    }

    /// Makes the projections from the log alone, whatever lies in `dir`. `progress` hears how many events are applied and
    /// how many there are.
    ///
    /// # Errors
    /// [`FoldError`] when the log can't be read.
    pub fn rebuild(
        log: &dyn ReadLog,
        dir: &Path,
        progress: &mut dyn FnMut(Position, Position),
    ) -> Result<Self, FoldError> {
        let mut state = State::default();
        state.catch_up(log, progress)?;
        Ok(Self::of(state, dir, checkpoint::generations(dir).first().copied().unwrap_or(0), None))
    }

    fn of(state: State, dir: &Path, generation: u64, checkpointed: Option<Position>) -> Self {
        let State { active, streams, people, commits, position } = state;
        Self {
            dir: dir.to_owned(),
            active,
            people: RwLock::new(people),
            streams: RwLock::new(Located { streams, commits, position }),
            views: Mutex::default(),
            whole_commits: Mutex::new(()),
            checkpointed: Mutex::new(Checkpointed { generation, position: checkpointed }),
        }
    }

    /// Takes in the next commit. One that was taken in before changes nothing.
    ///
    /// # Errors
    /// [`FoldError`]; then nothing of it was taken in.
    pub fn apply(&self, commit: &Commit) -> Result<(), FoldError> {
        let decoded = Decoded::of(commit)?;
        let _whole = self.whole_commits.lock();
        let next = self.applied().0;
        if commit.number < next {
            return Ok(());
        }
        if commit.number > next {
            return Err(FoldError::Missing(next));
        }
        decoded.apply_to_index(&self.active);
        decoded.apply_to_people(&mut self.people.write());
        {
            let mut located = self.streams.write();
            decoded.apply_to_streams(&mut located.streams);
            located.commits = commit.number.next();
            located.position = decoded.end;
        }
        self.apply_to_view(&decoded);
        Ok(())
    }

    /// Keeps the team's view up to date, if it is in memory. No other lock is held meanwhile: who reads the view may ask
    /// for anything else.
    fn apply_to_view(&self, decoded: &Decoded) {
        let Some(view) = self.views.lock().peek(decoded.team) else { return };
        let weight = {
            let mut view = view.write();
            // A view that was folded since the stream grew has this commit already.
            let known = view.position;
            decoded.records.iter().filter(|placed| known < Some(placed.position)).for_each(|placed| view.apply(placed));
            view.weight()
        };
        self.views.lock().reweigh(decoded.team, weight);
    }

    /// How many commits, and how many events, are applied.
    pub fn applied(&self) -> (CommitNumber, Position) {
        let located = self.streams.read();
        (located.commits, located.position)
    }

    /// The active-credential index.
    pub const fn active(&self) -> &Active {
        &self.active
    }

    /// The index as it stands behind a whole commit, for a follower's snapshot: the last position it has, and the nameless
    /// digest of these teams (none: of all). The projector waits only for a short copy.
    pub fn freeze_nameless(&self, teams: Option<&BTreeSet<TeamId>>) -> (Option<Position>, active::Frozen<'_>, Digest) {
        self.nameless_at_rest(teams, |position, digest| (position, self.active.freeze(), digest))
    }

    /// Looks at the last position and the nameless digest of these teams (none: of all) behind a whole commit. Nothing is
    /// applied until `look` returns.
    pub fn nameless_at_rest<T>(
        &self,
        teams: Option<&BTreeSet<TeamId>>,
        look: impl FnOnce(Option<Position>, Digest) -> T,
    ) -> T {
        // The first time takes long, and no lock is held meanwhile.
        self.active.nameless_digest(teams);
        let _whole = self.whole_commits.lock();
        look(self.applied().1.0.checked_sub(1).map(Position), self.active.nameless_digest(teams))
    }

    /// The people. Don't ask for anything else while holding this: the projector may be waiting in between.
    pub fn people(&self) -> RwLockReadGuard<'_, People> {
        self.people.read()
    }

    /// The numbers of a team's commits, in order.
    pub fn team_commits(&self, team: TeamId) -> Vec<CommitNumber> {
        self.streams.read().streams.get(team).map(|stream| stream.numbers().collect()).unwrap_or_default()
    }

    /// The numbers of a team's next commits from `from` on, at most `max`.
    pub fn team_commits_from(&self, team: TeamId, from: CommitNumber, max: usize) -> Vec<CommitNumber> {
        let located = self.streams.read();
        // Who follows a stream asks far more often than there is news.
        let Some(stream) = located.streams.get(team).filter(|stream| stream.last >= from) else { return Vec::new() };
        stream.numbers().skip_while(|number| *number < from).take(max).collect()
    }

    /// Every team's last event, of all that is applied, and how many commits and events that is.
    pub fn stream_heads(&self) -> (Vec<(TeamId, StreamHead)>, (CommitNumber, Position)) {
        let located = self.streams.read();
        let heads = located.streams.iter().map(|(team, stream)| (team, stream.head)).collect();
        (heads, (located.commits, located.position))
    }

    /// A team's last event, and the number of the commit that holds it; none if the team has none.
    pub fn stream_end(&self, team: TeamId) -> Option<(StreamHead, CommitNumber)> {
        self.streams.read().streams.get(team).map(|stream| (stream.head, stream.last))
    }

    /// A team's view as it is now, from memory or folded from the log; `None` if there is no such team.
    ///
    /// # Errors
    /// [`FoldError`] when the log can't be read.
    pub fn team_view(&self, log: &dyn ReadLog, team: TeamId) -> Result<Option<SharedView>, FoldError> {
        if let Some(view) = self.views.lock().get(team) {
            return Ok(Some(view));
        }
        let numbers = self.team_commits(team);
        let mut view = TeamView::fold(read(log, numbers.iter().copied()), Until::Now)?;
        // Nothing more is applied from here on until the view is among the others.
        let located = self.streams.read();
        let Some(stream) = located.streams.get(team) else { return Ok(None) };
        for commit in read(log, stream.numbers_after(numbers.len() as u64)) {
            view.apply_commit(&commit?)?;
        }
        let mut views = self.views.lock();
        Ok(Some(match views.get(team) {
            Some(view) => view,
            None => views.put(team, view),
        }))
    }

    /// A team's view as it was; `None` if there is no such team.
    ///
    /// # Errors
    /// [`FoldError`] when the log can't be read.
    pub fn team_view_until(
        &self,
        log: &dyn ReadLog,
        team: TeamId,
        until: Until,
    ) -> Result<Option<TeamView>, FoldError> {
        let numbers = self.team_commits(team);
        if numbers.is_empty() {
            return Ok(None);
        }
        TeamView::fold(read(log, numbers.into_iter()), until).map(Some)
    }

    /// The digests of all projections that are kept, computed from what is in memory now. The projector waits meanwhile.
    pub fn digests(&self) -> Digests {
        let _whole = self.whole_commits.lock();
        let located = self.streams.read();
        Digests {
            position: located.position,
            active: self.active.digest(),
            streams: located.streams.digest(),
            people: self.people.read().digest(),
        }
    }

    /// Writes a new generation and its digests, then removes the older ones. The projector waits only for a short copy.
    /// `None`: the last checkpoint stands here already.
    ///
    /// # Errors
    /// [`CheckpointError`]; the last checkpoint stays.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut last = self.checkpointed.lock();
        let whole = self.whole_commits.lock();
        let located = self.streams.read();
        if last.position == Some(located.position) && self.dir.join("digests").exists() {
            return Ok(None);
        }
        let people = self.people.read();
        let at = (located.commits, located.position);
        let frozen = Frozen::of(&self.active, &located.streams, &people, at);
        let (streams, people_digest) = (located.streams.digest(), people.digest());
        drop((people, located, whole));
        let digests = Digests { position: at.1, active: frozen.active.digest(), streams, people: people_digest };
        let generation = last.generation + 1;
        // Not again under the same number, even if it fails half-way.
        last.generation = generation;
        let bytes = checkpoint::write(&self.dir, generation, frozen)?;
        checkpoint::write_digests(&self.dir, &digests)?;
        last.position = Some(at.1);
        Ok(Some(Checkpoint { generation, digests, bytes }))
    }
}

fn read(
    log: &dyn ReadLog,
    numbers: impl Iterator<Item = CommitNumber>,
) -> impl Iterator<Item = Result<Commit, ReadError>> {
    numbers.filter_map(|number| log.commit(number).transpose())
}

#[cfg(test)]
mod tests;
