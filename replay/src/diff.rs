//! What changed between two points: keys born, dead, shortened, handed over; people joined, gone, in another role.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
};

use keyledger_events::{
    Commit, CredentialId, Event, PersonId, Position, Record, TeamId, Timestamp, event::Role, store::ReadLog,
};
use serde::{Deserialize, Serialize};

use crate::{
    End, Progress, ReplayError, Standing,
    point::{Moment, ResolvedMoment},
    walk::{self, Clock},
};

/// The difference between two points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// The earlier point, resolved.
    pub from: ResolvedMoment,
    /// The later point, resolved.
    pub to: ResolvedMoment,
    /// How many events lie between: the team's, if one was asked about.
    pub events: u64,
    /// Alive at the later point only, by team and issue.
    pub born: Vec<Standing>,
    /// Alive at the earlier point only.
    pub died: Vec<Died>,
    /// Alive at neither, but in between.
    pub passed: Vec<Died>,
    /// Alive at both, to end at another instant.
    pub shortened: Vec<Changed<Option<Timestamp>>>,
    /// Alive at both, with another holder.
    pub handed_over: Vec<Changed<PersonId>>,
    /// Members that came, went or changed their role.
    pub members: Vec<MemberChange>,
    /// Teams founded.
    pub teams_created: Vec<TeamId>,
    /// Teams whose policy for new keys changed.
    pub policies_changed: Vec<TeamId>,
    /// The names of all teams mentioned.
    pub teams: BTreeMap<TeamId, String>,
}

/// A credential and its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Died {
    /// What it last was.
    pub credential: Standing,
    /// When it ended.
    pub effective_at: Timestamp,
    /// By which event; none where only the clock has told so far.
    pub end: Option<End>,
}

/// One value of a credential at both points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed<T> {
    /// Whose.
    pub credential: CredentialId,
    /// Its team.
    pub team: TeamId,
    /// At the earlier point.
    pub from: T,
    /// At the later point.
    pub to: T,
}

/// A membership at both points; none: no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberChange {
    /// Where.
    pub team: TeamId,
    /// Who.
    pub member: PersonId,
    /// Their role at the earlier point.
    pub from: Option<Role>,
    /// Their role at the later point.
    pub to: Option<Role>,
}

/// Compares two points, of one team or of all. Memory grows with what is alive at the first and what changes after it.
///
/// A point is an instant, or a position. A log that shows a part only needs to be told when a position was recorded: give
/// such a position as [`TeamLog::point`](crate::TeamLog::point) resolves it.
///
/// # Errors
/// [`ReplayError`].
pub fn diff(
    log: &dyn ReadLog,
    from: impl Into<Moment>,
    to: impl Into<Moment>,
    team: Option<TeamId>,
    progress: Progress<'_>,
) -> Result<Diff, ReplayError> {
    let (from, to) = (from.into(), to.into());
    match (from.known_at, to.known_at) {
        (Some(from), Some(to)) if from > to => return Err(ReplayError::Backwards),
        (None, None) if from.at > to.at => return Err(ReplayError::Backwards),
        (Some(asked), _) if asked >= log.head().position => {
            return Err(ReplayError::NoPosition { asked, events: log.head().position.0 });
        }
        _ => {}
    }
    let mut clock = Clock::default();
    let mut book = Book { team, by_position: from.known_at.is_some(), ..Book::default() };
    let mut crossed_from = None;
    let mut crossed_to = None;
    walk::commits(log, Moment { at: None, known_at: to.known_at }, progress, |commit| {
        let recorded_at = walk::recorded_at(commit)?;
        if crossed_to.is_none() && !reaches(to, commit, recorded_at) {
            crossed_to = Some(clock.resolve(to));
        }
        if crossed_from.is_none() && !reaches(from, commit, recorded_at) {
            let moment = clock.resolve(from);
            book.cross(moment.at);
            crossed_from = Some(moment);
        }
        if crossed_to.is_none() {
            clock.tick(commit, recorded_at);
            book.count(commit, crossed_from.is_some());
        }
        book.read(commit, crossed_from.as_ref(), crossed_to.as_ref())?;
        Ok(ControlFlow::Continue(()))
    })?;
    let to = crossed_to.unwrap_or_else(|| clock.resolve(to));
    let from = crossed_from.unwrap_or_else(|| {
        let moment = clock.resolve(from);
        book.cross(moment.at);
        moment
    });
    if from.at > to.at {
        return Err(ReplayError::Backwards);
    }
    Ok(book.close(from, to))
}

/// Whether the commit lies at or before the point.
fn reaches(point: Moment, commit: &Commit, recorded_at: Timestamp) -> bool {
    match point.known_at {
        Some(position) => commit.first_position <= position,
        None => point.at.is_none_or(|at| recorded_at <= at),
    }
}

#[derive(Default)]
struct Book {
    team: Option<TeamId>,
    /// Whether the earlier point is a position: then nothing appended after it counts before it.
    by_position: bool,
    events: u64,
    credentials: HashMap<CredentialId, Tracked>,
    roles: HashMap<(TeamId, PersonId), Role>,
    /// Who was touched between the points, with the role before.
    touched: HashMap<(TeamId, PersonId), Option<Role>>,
    teams_created: Vec<TeamId>,
    policies_changed: Vec<TeamId>,
    teams: BTreeMap<TeamId, String>,
}

struct Tracked {
    standing: Standing,
    /// Expiry and holder at the earlier point, if it was alive then.
    before: Option<(Option<Timestamp>, PersonId)>,
    end: Option<End>,
}

impl Book {
    /// Everything read so far lies at or before the earlier point, which is at `at`.
    fn cross(&mut self, at: Timestamp) {
        let devices: HashMap<CredentialId, Option<Timestamp>> = self.device_expiries();
        self.credentials.retain(|_, tracked| alive(tracked, &devices, at));
        for tracked in self.credentials.values_mut() {
            tracked.before = Some((tracked.standing.expires_at, tracked.standing.holder));
        }
    }

    fn count(&mut self, commit: &Commit, between: bool) {
        let view = commit.body.view();
        if between && self.team.is_none_or(|team| view.first().is_ok_and(|first| first.team == team)) {
            self.events += view.count();
        }
    }

    fn read(
        &mut self,
        commit: &Commit,
        from: Option<&ResolvedMoment>,
        to: Option<&ResolvedMoment>,
    ) -> Result<(), ReplayError> {
        for (record, position) in commit.body.view().records().zip(commit.first_position.0..) {
            let position = Position(position);
            let record = Record::decode(record.bytes()).map_err(|error| ReplayError::Record { position, error })?;
            if self.team.is_some_and(|team| team != record.team) {
                break;
            }
            match (End::stated(position, &record), to) {
                (Some((credential, end)), _) => self.end(credential, end, from, to),
                (None, None) => self.apply(position, &record, from.is_some()),
                // Behind the later point only ends count that held before it.
                (None, Some(_)) => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, credential: CredentialId, end: End, from: Option<&ResolvedMoment>, to: Option<&ResolvedMoment>) {
        let held_by = |moment: &ResolvedMoment| end.effective_at <= moment.at;
        if from.is_none_or(|from| !self.by_position && held_by(from)) {
            // Dead before the earlier point, even if it was recorded after it.
            self.credentials.remove(&credential);
        } else if to.is_none_or(held_by) {
            self.credentials.entry(credential).and_modify(|tracked| tracked.end = Some(end));
        }
    }

    fn apply(&mut self, position: Position, record: &Record, between: bool) {
        if let Some(standing) = Standing::born(position, record) {
            self.credentials.insert(standing.credential, Tracked { standing, before: None, end: None });
            return;
        }
        let team = record.team;
        match &record.event {
            Event::TeamCreated(e) => {
                self.teams.insert(team, e.name.clone());
                self.teams_created.extend(between.then_some(team));
            }
            Event::PolicyChanged(_) if between && !self.policies_changed.contains(&team) => {
                self.policies_changed.push(team);
            }
            Event::MemberJoined(e) => self.role(team, e.member, Some(e.role), between),
            Event::RoleChanged(e) => self.role(team, e.member, Some(e.to), between),
            Event::MemberDeparted(e) => self.role(team, e.member, None, between),
            Event::ExpiryShortened(e) => {
                self.credentials.entry(e.credential).and_modify(|tracked| tracked.standing.expires_at = Some(e.to));
            }
            Event::CredentialHandedOver(e) => {
                self.credentials.entry(e.credential).and_modify(|tracked| tracked.standing.holder = e.to);
            }
            _ => {}
        }
    }

    fn role(&mut self, team: TeamId, member: PersonId, role: Option<Role>, between: bool) {
        let before = match role {
            Some(role) => self.roles.insert((team, member), role),
            None => self.roles.remove(&(team, member)),
        };
        if between {
            self.touched.entry((team, member)).or_insert(before);
        }
    }

    fn device_expiries(&self) -> HashMap<CredentialId, Option<Timestamp>> {
        let devices = self.credentials.values().filter_map(|tracked| tracked.standing.companion_of);
        devices.filter_map(|id| Some((id, self.credentials.get(&id)?.standing.expires_at))).collect()
    }

    fn close(mut self, from: ResolvedMoment, to: ResolvedMoment) -> Diff {
        let devices = self.device_expiries();
        let mut tracked: Vec<Tracked> = std::mem::take(&mut self.credentials).into_values().collect();
        tracked.sort_unstable_by_key(|tracked| (tracked.standing.team, tracked.standing.position));
        let mut diff = Diff {
            from,
            to,
            events: self.events,
            born: Vec::new(),
            died: Vec::new(),
            passed: Vec::new(),
            shortened: Vec::new(),
            handed_over: Vec::new(),
            members: Vec::new(),
            teams_created: self.teams_created,
            policies_changed: self.policies_changed,
            teams: BTreeMap::new(),
        };
        for tracked in tracked {
            let alive = alive(&tracked, &devices, to.at);
            let Tracked { standing, before, end } = tracked;
            let (credential, team) = (standing.credential, standing.team);
            match (before, alive) {
                (None, true) => diff.born.push(standing),
                (Some((expires_at, holder)), true) => {
                    if standing.expires_at != expires_at {
                        let (from, to) = (expires_at, standing.expires_at);
                        diff.shortened.push(Changed { credential, team, from, to });
                    }
                    if standing.holder != holder {
                        diff.handed_over.push(Changed { credential, team, from: holder, to: standing.holder });
                    }
                }
                (before, false) => {
                    let own = standing.expires_at;
                    let device = standing.companion_of.and_then(|device| *devices.get(&device)?);
                    let recorded = end.map(|end| end.effective_at);
                    let effective_at = [recorded, own, device].into_iter().flatten().min().unwrap_or(to.at);
                    let end = end.filter(|end| end.effective_at == effective_at);
                    let died = Died { credential: standing, effective_at, end };
                    if before.is_some() { &mut diff.died } else { &mut diff.passed }.push(died);
                }
            }
        }
        let roles = &self.roles;
        diff.members = self
            .touched
            .into_iter()
            .map(|((team, member), from)| MemberChange { team, member, from, to: roles.get(&(team, member)).copied() })
            .filter(|change| change.from != change.to)
            .collect();
        diff.members.sort_unstable_by_key(|change| (change.team, change.member));
        let mentioned = (diff.born.iter().map(|standing| standing.team))
            .chain(diff.died.iter().chain(&diff.passed).map(|died| died.credential.team))
            .chain(diff.shortened.iter().map(|changed| changed.team))
            .chain(diff.handed_over.iter().map(|changed| changed.team))
            .chain(diff.members.iter().map(|change| change.team))
            .chain(diff.teams_created.iter().chain(&diff.policies_changed).copied());
        for team in mentioned {
            if let Some((team, name)) = self.teams.remove_entry(&team) {
                diff.teams.insert(team, name);
            }
        }
        diff
    }
}

/// Whether it is alive at `at` by all that was read.
fn alive(tracked: &Tracked, devices: &HashMap<CredentialId, Option<Timestamp>>, at: Timestamp) -> bool {
    let ended = tracked.end.is_some_and(|end| end.effective_at <= at);
    let device_gone = tracked
        .standing
        .companion_of
        .and_then(|device| *devices.get(&device)?)
        .is_some_and(|expires_at| expires_at <= at);
    !ended && !device_gone && tracked.standing.unexpired(at)
}
