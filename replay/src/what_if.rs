//! What another policy would have done: which credentials it would have ended, when, and which of them lived on and were
//! used all the same.
//!
//! The policy is laid over what really happened; nobody's answer to it is guessed. A credential it ends is not replaced,
//! and whatever that credential did afterwards still stands.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::ControlFlow,
    str::FromStr,
    time::Duration,
};

use keyledger_events::{
    Commit, CredentialId, Event, PersonId, Position, Record, TeamId, Timestamp, record::RecordHeader, secret::Kind,
    store::ReadLog,
};
use serde::{Deserialize, Serialize};

use crate::{
    End, Progress, ReplayError, Standing,
    point::{Moment, ResolvedMoment},
    walk::{self, Clock},
};

/// The rules laid over a history. At least one must be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// A credential ends so long after it was issued.
    #[serde(rename = "max_lifetime_seconds")]
    pub max_lifetime: Option<Period>,
    /// A credential ends when it was not used for so long, since its issue or its last use.
    #[serde(rename = "idle_seconds")]
    pub idle: Option<Period>,
    /// The `sk-` and `ak-` that a member answers for end the instant they depart, whatever was decided on them.
    pub revoke_on_departure: bool,
}

/// A span of at least a second, in whole seconds: `90d`, `12h`, `30m`, `1d12h`, ISO 8601's `P90D`. A day has 24 hours;
/// months and years have no length and are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Period(u64);

impl Period {
    /// So many seconds; none for zero.
    pub const fn of_seconds(seconds: u64) -> Option<Self> {
        if seconds == 0 { None } else { Some(Self(seconds)) }
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let span: jiff::Span = text.parse().map_err(|_| PeriodError)?;
        let span = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| PeriodError)?;
        if span.subsec_nanos() != 0 {
            return Err(PeriodError);
        }
        u64::try_from(span.as_secs()).ok().and_then(Self::of_seconds).ok_or(PeriodError)
    }
}

/// In the largest units that leave no rest: `90d`, `1d 12h`.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut space = "";
        for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            let count = rest / seconds;
            rest %= seconds;
            if count > 0 {
                write!(f, "{space}{count}{unit}")?;
                space = " ";
            }
        }
        Ok(())
    }
}

/// The text is no span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a span of whole seconds, such as 90d, 12h, 30m or 1d12h")]
pub struct PeriodError;

/// When a credential was last used, as far as is known; uses are no events, and only the newest is kept, to the minute.
pub type LastUsed<'a> = &'a dyn Fn(CredentialId) -> Option<Timestamp>;

/// What the policy would have done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhatIf {
    /// Up to when the policy is thought to have been in force, and the last position taken into account.
    pub moment: ResolvedMoment,
    /// The policy.
    pub policy: Policy,
    /// How many credentials it was laid over: all that were ever issued.
    pub judged: u64,
    /// Those it would have ended earlier than they really ended, by team and instant.
    pub ended: Vec<WouldEnd>,
    /// How many of them were used after that instant; none if nothing is known of uses.
    pub used_afterwards: Option<u64>,
    /// What this answer can't know, in sentences.
    pub not_known: Vec<String>,
    /// The names of the teams mentioned.
    pub teams: BTreeMap<TeamId, String>,
}

/// A credential that the policy would have ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WouldEnd {
    /// The credential as it last stood.
    pub credential: Standing,
    /// The earliest instant at which the policy ends it.
    pub would_end_at: Timestamp,
    /// By which rule.
    pub rule: Rule,
    /// The device it follows, if the rule ended that.
    pub with_device: Option<CredentialId>,
    /// When it really ended; none if it was still alive.
    pub ended_at: Option<Timestamp>,
    /// How much longer it really lived.
    pub lived_on_seconds: u64,
    /// When it was last used, to the minute; none if that is not known or it never was.
    pub last_used_at: Option<Timestamp>,
    /// Whether it was used after the policy would have ended it; none if nothing is known of uses.
    pub used_afterwards: Option<bool>,
}

/// A rule of a [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It had lived for too long.
    MaxLifetime,
    /// It had not been used for too long.
    Idle,
    /// Who answered for it departed.
    Departure,
}

/// Lays a policy over the history of one team or of all. It is thought to have been in force up to `until`, and at
/// least to the log's last event. Memory grows with the credentials alive and with those the policy would have ended.
///
/// # Errors
/// [`ReplayError`]; also for a policy without a rule, and for one on idle credentials where nothing is known of uses.
pub fn what_if(
    log: &dyn ReadLog,
    policy: Policy,
    usage: Option<LastUsed<'_>>,
    team: Option<TeamId>,
    until: Option<Timestamp>,
    progress: Progress<'_>,
) -> Result<WhatIf, ReplayError> {
    if policy == Policy::default() {
        return Err(ReplayError::NoRule);
    }
    if policy.idle.is_some() && usage.is_none() {
        return Err(ReplayError::NoUsage);
    }
    // What the log already says happened under the policy's eyes.
    let until = until.unwrap_or_default().max(log.head().recorded_at);
    let mut clock = Clock::default();
    let mut book = Book::new(policy, usage, team, until);
    walk::commits(log, Moment::default(), progress, |commit| {
        let at = walk::recorded_at(commit)?;
        clock.tick(commit, at);
        book.read(commit)?;
        Ok(ControlFlow::Continue(()))
    })?;
    let moment = clock.resolve(Moment { at: Some(until), known_at: None });
    Ok(book.close(moment))
}

struct Book<'a> {
    policy: Policy,
    usage: Option<LastUsed<'a>>,
    team: Option<TeamId>,
    until: Timestamp,
    /// Those no event has ended.
    alive: HashMap<CredentialId, Key>,
    /// What each member may answer for. A key that was handed on stays listed; its holder tells.
    held: HashMap<(TeamId, PersonId), Vec<CredentialId>>,
    judged: u64,
    ended: Vec<WouldEnd>,
    teams: BTreeMap<TeamId, String>,
}

struct Key {
    standing: Standing,
    /// When who answered for it first departed.
    departed_at: Option<Timestamp>,
}

impl<'a> Book<'a> {
    fn new(policy: Policy, usage: Option<LastUsed<'a>>, team: Option<TeamId>, until: Timestamp) -> Self {
        Self {
            policy,
            usage,
            team,
            until,
            alive: HashMap::new(),
            held: HashMap::new(),
            judged: 0,
            ended: Vec::new(),
            teams: BTreeMap::new(),
        }
    }

    fn read(&mut self, commit: &Commit) -> Result<(), ReplayError> {
        let mut ends = Vec::new();
        for (found, position) in commit.body.view().records().zip(commit.first_position.0..) {
            let position = Position(position);
            let bad = |error| ReplayError::Record { position, error };
            let header = RecordHeader::decode(found.bytes()).map_err(bad)?;
            if self.team.is_some_and(|team| team != header.team) {
                return Ok(());
            }
            let record = Record::decode(found.bytes()).map_err(bad)?;
            match End::stated(position, &record) {
                Some(end) => ends.push(end),
                None => self.apply(position, &record),
            }
        }
        // A device and its companion end in one commit, and the companion's fate is its device's: both are judged before
        // either is forgotten.
        let judged: Vec<_> = ends.iter().filter_map(|(id, end)| self.judge(*id, Some(end.effective_at))).collect();
        self.ended.extend(judged);
        for (id, _) in ends {
            self.alive.remove(&id);
        }
        Ok(())
    }

    fn apply(&mut self, position: Position, record: &Record) {
        if let Some(standing) = Standing::born(position, record) {
            self.judged += 1;
            if survives_departure(&standing) {
                self.hold(&standing);
            }
            self.alive.insert(standing.credential, Key { standing, departed_at: None });
            return;
        }
        match &record.event {
            Event::TeamCreated(e) => {
                self.teams.insert(record.team, e.name.clone());
            }
            Event::ExpiryShortened(e) => {
                self.alive.entry(e.credential).and_modify(|key| key.standing.expires_at = Some(e.to));
            }
            Event::CredentialHandedOver(e) => {
                let Some(key) = self.alive.get_mut(&e.credential) else { return };
                key.standing.holder = e.to;
                let standing = key.standing.clone();
                self.hold(&standing);
            }
            Event::MemberDeparted(e) => {
                for id in self.held.remove(&(record.team, e.member)).unwrap_or_default() {
                    let Some(key) = self.alive.get_mut(&id).filter(|key| key.standing.holder == e.member) else {
                        continue;
                    };
                    key.departed_at.get_or_insert(record.recorded_at);
                }
            }
            _ => {}
        }
    }

    fn hold(&mut self, standing: &Standing) {
        if self.policy.revoke_on_departure {
            self.held.entry((standing.team, standing.holder)).or_default().push(standing.credential);
        }
    }

    /// What the policy does to a credential that an event ended at `recorded`, if it does it any sooner.
    fn judge(&self, id: CredentialId, recorded: Option<Timestamp>) -> Option<WouldEnd> {
        let key = self.alive.get(&id)?;
        let standing = &key.standing;
        let device = standing.companion_of.and_then(|device| self.alive.get(&device));
        let own = self.earliest(key).map(|(at, rule)| (at, rule, None));
        let with_device = device.and_then(|device| self.earliest(device));
        let with_device = with_device.map(|(at, rule)| (at, rule, standing.companion_of));
        let (would_end_at, rule, with_device) = own.into_iter().chain(with_device).min()?;
        // What the clock has ended is dead whether or not an event says so.
        let device_expiry = device.and_then(|device| device.standing.expires_at);
        let by_clock = [standing.expires_at, device_expiry].into_iter().flatten().filter(|end| *end <= self.until);
        let ended_at = recorded.into_iter().chain(by_clock).min();
        if would_end_at > self.until || ended_at.is_some_and(|ended_at| ended_at <= would_end_at) {
            return None;
        }
        let last_used_at = self.usage.and_then(|last_used| last_used(id));
        Some(WouldEnd {
            credential: standing.clone(),
            would_end_at,
            rule,
            with_device,
            ended_at,
            lived_on_seconds: ended_at.unwrap_or(self.until).since(would_end_at).as_secs(),
            last_used_at,
            used_afterwards: self.usage.map(|_| last_used_at.is_some_and(|used| used > would_end_at)),
        })
    }

    /// The first thing the policy does to a credential by itself.
    fn earliest(&self, key: &Key) -> Option<(Timestamp, Rule)> {
        let standing = &key.standing;
        // A companion's lifetime is its device's.
        let lifetime = self.policy.max_lifetime.filter(|_| standing.companion_of.is_none());
        let lifetime = lifetime.map(|max| (standing.issued_at.plus(max.duration()), Rule::MaxLifetime));
        let idle = self.policy.idle.map(|idle| {
            let used = self.usage.and_then(|last_used| last_used(standing.credential)).unwrap_or_default();
            (standing.issued_at.max(used).plus(idle.duration()), Rule::Idle)
        });
        let departure = key.departed_at.map(|at| (at, Rule::Departure));
        lifetime.into_iter().chain(idle).chain(departure).min()
    }

    fn close(mut self, moment: ResolvedMoment) -> WhatIf {
        let left: Vec<_> = self.alive.keys().filter_map(|id| self.judge(*id, None)).collect();
        self.ended.extend(left);
        self.ended.sort_unstable_by_key(|would| (would.credential.team, would.would_end_at, would.credential.position));
        let mut teams = BTreeMap::new();
        for would in &self.ended {
            if let Some((team, name)) = self.teams.remove_entry(&would.credential.team) {
                teams.insert(team, name);
            }
        }
        let used = self.ended.iter().filter(|would| would.used_afterwards == Some(true)).count() as u64;
        WhatIf {
            moment,
            policy: self.policy,
            judged: self.judged,
            used_afterwards: self.usage.map(|_| used),
            not_known: not_known(&self.policy, self.usage.is_some()),
            ended: self.ended,
            teams,
        }
    }
}

/// A device ends by itself when its person departs, a companion with it, and an `sv-` is the operator's.
fn survives_departure(standing: &Standing) -> bool {
    standing.companion_of.is_none() && matches!(standing.kind, Kind::Integration | Kind::Agent)
}

fn not_known(policy: &Policy, usage_known: bool) -> Vec<String> {
    let mut sentences = Vec::new();
    if usage_known {
        sentences.push(
            "Of each credential only the last use is known, to the minute, and a crash may have lost the last minute."
                .to_owned(),
        );
    } else {
        sentences.push("Nothing is known of uses: whether a credential was used afterwards can't be said.".to_owned());
    }
    if policy.idle.is_some() {
        sentences.push(
            "For idle credentials only the time since that last use can be judged: a longer pause before it can't be \
             seen, and so no credential counts as idle first and used afterwards."
                .to_owned(),
        );
    }
    sentences
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn periods_are_whole_seconds_of_a_fixed_length() {
        for (text, seconds, shown) in [
            ("90d", 7_776_000, "90d"),
            ("12h", 43_200, "12h"),
            ("30m", 1_800, "30m"),
            ("1d12h", 129_600, "1d 12h"),
            ("2w", 1_209_600, "14d"),
            ("P1D", 86_400, "1d"),
            ("90 days", 7_776_000, "90d"),
            ("61s", 61, "1m 1s"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!((period.0, period.to_string().as_str()), (seconds, shown), "{text}");
        }
        for text in ["", "90", "d", "-1d", "0s", "1mo", "1y", "1ms", "1.5s", "99999999999999999999d", "yesterday"] {
            assert_eq!(text.parse::<Period>(), Err(PeriodError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_period_panic(text in "\\PC{0,40}", digits in "[0-9]{0,25}[a-zA-Z .:+-]{0,8}") {
            let _ = text.parse::<Period>();
            if let Ok(period) = digits.parse::<Period>() {
                prop_assert_eq!(period.to_string().parse::<Period>(), Ok(period));
            }
        }
    }
}
