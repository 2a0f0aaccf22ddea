//! One credential's life: every event about it in order and in words, and at which position it died and why.

use std::{collections::HashMap, fmt, ops::ControlFlow, str::FromStr};

use keyledger_events::{
    Commit, CredentialId, Event, EventId, Position, Record, RecordHash, Revision, TeamId, Timestamp,
    commit::PlacedRecord,
    event::RevokeReason,
    presented::Surface,
    record::{Actor, AuthMethod},
    seal::{Label, Sealed},
    secret::{PREFIX_LEN, SECRET_LEN},
    store::ReadLog,
};
use serde::{Deserialize, Serialize};

use crate::{
    Death, End, Progress, ReplayError, Standing,
    point::{Moment, ResolvedMoment},
    walk::{self, Clock},
};

/// How a question names a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// By its id.
    Id(CredentialId),
    /// By the first characters of its secret, as lists show them.
    Prefix(String),
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        match text.len() {
            PREFIX_LEN if text.is_ascii() => Ok(Self::Prefix(text.to_owned())),
            // A whole secret has no business on a command line, and must not be echoed.
            SECRET_LEN => Err(NameError::Secret),
            _ => Err(NameError::Shape),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Prefix(prefix) => f.write_str(prefix),
        }
    }
}

/// The text names no credential. It never repeats what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It looks like a whole secret.
    #[error(
        "that looks like a whole secret: treat it as leaked, and name the credential by its id or first 12 characters"
    )]
    Secret,
    /// Anything else.
    #[error("name a credential by its id or by the first 12 characters of its secret")]
    Shape,
}

/// A credential's life, and what it comes to at the moment asked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Both times of the question, resolved.
    pub moment: ResolvedMoment,
    /// The credential as it stood at that moment; before its birth, as it was born.
    pub credential: Standing,
    /// Its team's name.
    pub team_name: Option<String>,
    /// Dead or alive.
    pub verdict: Verdict,
    /// All that happened to it and, for a companion, to its device; in order.
    pub steps: Vec<Step>,
}

/// Dead or alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// It had not been issued yet.
    Unborn,
    /// It was accepted.
    Alive {
        /// When it was to end by itself; none: never.
        until: Option<Timestamp>,
    },
    /// It was refused.
    Dead {
        /// When, why and where that stands.
        end: End,
    },
}

/// One event of a credential's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its place in the log.
    pub position: Position,
    /// Its place in the team's stream.
    pub revision: Revision,
    /// Its id.
    pub event: EventId,
    /// Its record's hash.
    pub hash: RecordHash,
    /// When it was appended.
    pub recorded_at: Timestamp,
    /// When it holds, where that is another instant.
    pub effective_at: Option<Timestamp>,
    /// Which credential it is about: the one asked for or its device.
    pub credential: CredentialId,
    /// Whether it counts at the moment asked about.
    pub counts: bool,
    /// What happened, in words.
    pub what: String,
    /// Who did it and how they were known, in words.
    pub who: String,
    /// What it follows from.
    pub cause: Option<Cause>,
}

/// The event another one follows from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// Its id.
    pub event: EventId,
    /// Its place in the log; none if it is not in the part that may be known.
    pub position: Option<Position>,
    /// What it was, in words.
    pub what: Option<String>,
}

/// Explains one credential. Memory grows with its own events only.
///
/// `open` gives the text of what is sealed for a person, if the reader has that person's key.
///
/// # Errors
/// [`ReplayError`].
pub fn explain(
    log: &dyn ReadLog,
    name: &Name,
    moment: Moment,
    open: &dyn Fn(&Sealed) -> Option<String>,
    progress: Progress<'_>,
) -> Result<Explanation, ReplayError> {
    let mut clock = Clock::default();
    let mut life =
        Life { name, open, found: None, team_names: HashMap::new(), steps: Vec::new(), causes: HashMap::new() };
    walk::commits(log, moment, progress, |commit| {
        clock.tick(commit, walk::recorded_at(commit)?);
        life.read(commit)?;
        Ok(ControlFlow::Continue(()))
    })?;
    let Some(born) = life.found else { return Err(ReplayError::NoCredential(name.to_string())) };
    let resolved = clock.resolve(moment);
    let (mut steps, mut causes) = (life.steps, life.causes);
    let mut missing: Vec<_> =
        steps.iter().filter_map(|told| told.record.meta.cause).filter(|cause| !causes.contains_key(cause)).collect();
    if !missing.is_empty() {
        find_causes(log, moment, &mut missing, &mut causes, open)?;
    }
    let (credential, verdict) = judge(&born, &steps, resolved.at);
    let team_name = life.team_names.remove(&born.team);
    let steps = steps.drain(..).map(|told| told.step(&credential, resolved.at, &causes)).collect();
    Ok(Explanation { moment: resolved, credential, team_name, verdict, steps })
}

struct Life<'a> {
    name: &'a Name,
    open: &'a dyn Fn(&Sealed) -> Option<String>,
    found: Option<Standing>,
    team_names: HashMap<TeamId, String>,
    steps: Vec<Told>,
    causes: HashMap<EventId, (Position, String)>,
}

impl Life<'_> {
    fn read(&mut self, commit: &Commit) -> Result<(), ReplayError> {
        // Only a commit that speaks of the credential is hashed and told.
        let mut records = Vec::new();
        for (found, position) in commit.body.view().records().zip(commit.first_position.0..) {
            let position = Position(position);
            let record = Record::decode(found.bytes()).map_err(|error| ReplayError::Record { position, error })?;
            if let Event::TeamCreated(e) = &record.event {
                self.team_names.insert(record.team, e.name.clone());
            }
            if let Some(standing) = Standing::born(position, &record).filter(|standing| self.is_asked_for(standing)) {
                if self.found.as_ref().is_some_and(|found| found.credential != standing.credential) {
                    return Err(ReplayError::Ambiguous(self.name.to_string()));
                }
                self.found = Some(standing);
            }
            records.push((position, found, record));
        }
        let Some(found) = &self.found else { return Ok(()) };
        let about = [Some(found.credential), found.companion_of];
        let is_about = |record: &Record| record.event.credential().is_some_and(|id| about.contains(&Some(id)));
        if !records.iter().any(|(.., record)| is_about(record)) {
            return Ok(());
        }
        let successor = records.iter().find_map(|(.., record)| match &record.event {
            Event::CredentialIssued(e) if e.rotated_from == Some(found.credential) => Some(e.credential),
            _ => None,
        });
        for (position, found, record) in records {
            let what = describe(&record, self.open, successor);
            self.causes.insert(record.id, (position, what.clone()));
            if is_about(&record) {
                let hash = found.hash();
                self.steps.push(Told { position, hash, record, what });
            }
        }
        Ok(())
    }

    fn is_asked_for(&self, standing: &Standing) -> bool {
        match self.name {
            Name::Id(id) => standing.credential == *id,
            Name::Prefix(prefix) => standing.prefix.as_str() == prefix,
        }
    }
}

/// A second pass, for causes that lie in other commits. Ends as soon as all are found.
fn find_causes(
    log: &dyn ReadLog,
    moment: Moment,
    missing: &mut Vec<EventId>,
    causes: &mut HashMap<EventId, (Position, String)>,
    open: &dyn Fn(&Sealed) -> Option<String>,
) -> Result<(), ReplayError> {
    walk::commits(log, moment, &walk::quiet, |commit| {
        for placed in commit.records() {
            let PlacedRecord { position, record, .. } =
                placed.map_err(|error| ReplayError::Record { position: commit.first_position, error })?;
            if missing.contains(&record.id) {
                missing.retain(|id| *id != record.id);
                causes.insert(record.id, (position, describe(&record, open, None)));
            }
        }
        Ok(if missing.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
}

/// The credential as it stood at `at`, and whether it was alive then.
fn judge(born: &Standing, steps: &[Told], at: Timestamp) -> (Standing, Verdict) {
    let mut standing = born.clone();
    // When the clock ends it and its device, and which event has set that.
    let (mut own_expiry, mut device_expiry) = (None, None);
    let mut ends: Vec<End> = Vec::new();
    for told in steps {
        let record = &told.record;
        let own = record.event.credential() == Some(born.credential);
        if let Some((_, end)) = End::stated(told.position, record) {
            ends.extend(Some(end).filter(|end| own && end.effective_at <= at));
            continue;
        }
        if record.recorded_at > at {
            continue;
        }
        let expiry = if own { &mut own_expiry } else { &mut device_expiry };
        let mut set = |death, expires_at: Option<Timestamp>| {
            *expiry = expires_at.map(|effective_at| End {
                effective_at,
                death,
                position: told.position,
                event: record.id,
                recorded: false,
            });
        };
        let death = match born.companion_of {
            Some(device) if !own => Death::Cascaded { device },
            _ => Death::Expired,
        };
        match &record.event {
            Event::CredentialIssued(e) => set(death, e.expires_at),
            Event::ServiceCredentialIssued(e) => set(death, e.expires_at),
            Event::ExpiryShortened(e) => set(death, Some(e.to)),
            Event::CredentialHandedOver(e) if own => standing.holder = e.to,
            _ => {}
        }
    }
    if at < born.issued_at {
        return (standing, Verdict::Unborn);
    }
    standing.expires_at = own_expiry.map(|end| end.effective_at);
    // A device whose time is up takes its companion along, before any event says so.
    let clock = own_expiry.into_iter().chain(device_expiry).min_by_key(|end| end.effective_at);
    // Among ends at the same instant the one that an event states comes first.
    let end = ends
        .into_iter()
        .chain(clock.filter(|end| end.effective_at <= at))
        .min_by_key(|end| (end.effective_at, !end.recorded, end.position));
    let verdict = match end {
        Some(end) => Verdict::Dead { end },
        None => Verdict::Alive { until: clock.map(|end| end.effective_at) },
    };
    (standing, verdict)
}

/// An event, before the verdict is known.
struct Told {
    position: Position,
    hash: RecordHash,
    record: Record,
    what: String,
}

impl Told {
    fn step(self, asked: &Standing, at: Timestamp, causes: &HashMap<EventId, (Position, String)>) -> Step {
        let effective_at = End::stated(self.position, &self.record)
            .map(|(_, end)| end.effective_at)
            .filter(|effective_at| *effective_at != self.record.recorded_at);
        let credential = self.record.event.credential().unwrap_or(asked.credential);
        let who = who(&self.record, credential);
        let cause = self.record.meta.cause.map(|event| {
            let (position, what) = causes.get(&event).cloned().unzip();
            Cause { event, position, what }
        });
        Step {
            position: self.position,
            revision: self.record.revision,
            event: self.record.id,
            hash: self.hash,
            recorded_at: self.record.recorded_at,
            effective_at,
            credential,
            counts: effective_at.unwrap_or(self.record.recorded_at) <= at,
            what: self.what,
            who,
            cause,
        }
    }
}

/// What happened, as a clause without a subject.
fn describe(record: &Record, open: &dyn Fn(&Sealed) -> Option<String>, successor: Option<CredentialId>) -> String {
    let until = |at: Option<Timestamp>| at.map_or("never expires".to_owned(), |at| format!("expires {at}"));
    match &record.event {
        Event::TeamCreated(e) => format!("team {:?} created", e.name),
        Event::PolicyChanged(_) => "the team's policy for new keys changed".to_owned(),
        Event::MemberJoined(e) => format!("person {} joined as {}", e.member, e.role.name()),
        Event::RoleChanged(e) => {
            format!("person {} became {} instead of {}", e.member, e.to.name(), e.from.name())
        }
        Event::MemberDeparted(e) if e.left_by_themselves => format!("person {} left the team", e.member),
        Event::MemberDeparted(e) => format!("person {} was removed from the team", e.member),
        Event::CredentialIssued(e) => {
            let mut what = format!(
                "issued as {} key {} ({}…) for person {}",
                e.kind,
                text(&e.name, "name", open),
                e.prefix,
                e.holder
            );
            if let Some(device) = e.companion_of {
                what += &format!(", companion of device {device}");
            }
            if let Some(old) = e.rotated_from {
                what += &format!(", taking over from {old}");
            }
            what + "; " + &until(e.expires_at)
        }
        Event::ServiceCredentialIssued(e) => {
            format!(
                "issued as service key {:?} ({}…) for person {}; {}",
                e.name,
                e.prefix,
                e.holder,
                until(e.expires_at)
            )
        }
        Event::CredentialRevoked(e) => {
            let why = match e.reason {
                RevokeReason::Requested => "revoked on request",
                RevokeReason::SelfRevoked => "revoked by possession of its own secret",
                RevokeReason::MemberDeparted => "revoked because its person left the team",
                RevokeReason::Leaked => "revoked as leaked",
            };
            e.note.as_ref().map_or(why.to_owned(), |note| format!("{why}, with the note {note:?}"))
        }
        Event::CredentialCascadeRevoked(e) => {
            format!("ended together with its device {}, effective {}", e.device, e.effective_at)
        }
        Event::CredentialExpired(e) => {
            let late = record.recorded_at.since(e.effective_at);
            format!("expired at {}, recorded {:.3} s later", e.effective_at, late.as_secs_f64())
        }
        Event::ExpiryShortened(e) => {
            let from = e.from.map_or("never".to_owned(), |from| from.to_string());
            let what = format!("expiry shortened from {from} to {}", e.to);
            successor.map_or(what.clone(), |new| format!("{what}, because {new} takes over"))
        }
        Event::CredentialHandedOver(e) => format!("handed over from person {} to person {}", e.from, e.to),
        Event::CredentialLeaked(e) => {
            let place = e.place.as_ref().map_or("a place nobody named".to_owned(), |place| text(place, "place", open));
            let source = e.source.as_ref().map(|source| format!(", as {source:?} says")).unwrap_or_default();
            format!("its secret was found at {place}{source}")
        }
        Event::DeadKeyPresented(e) => {
            let surface = e.surface.map_or("a surface nobody named", Surface::name);
            format!("still presented on {surface} from {}, at {}", e.address.words(), e.presented_at)
        }
        Event::PairingDenied(_) => "a pairing was denied".to_owned(),
        Event::PersonErased(e) => format!("person {}'s sealing key erased", e.person),
        Event::SigningKeyRotated(_) => "the ledger's signing key gave way to another".to_owned(),
        Event::HistorySealed(e) => format!("history sealed up to position {}", e.through),
        Event::WebhookAdded(e) => format!("events are sent to webhook {} from now on", e.webhook),
        Event::WebhookChanged(e) => format!("webhook {} changed", e.webhook),
        Event::WebhookRemoved(e) => format!("nothing more is sent to webhook {}", e.webhook),
    }
}

/// What stands in a label, quoted; `what` it is, if that can't be read.
fn text(label: &Label, what: &str, open: &dyn Fn(&Sealed) -> Option<String>) -> String {
    match label {
        Label::Clear(text) => format!("{text:?}"),
        Label::Sealed(sealed) => open(sealed).map_or(format!("[{what} sealed]"), |text| format!("{text:?}")),
    }
}

/// Who did it and how they were known.
fn who(record: &Record, about: CredentialId) -> String {
    let actor = match record.meta.actor {
        Actor::Person(person) => format!("person {person}"),
        Actor::Credential(credential) if credential == about => "whoever held its secret".to_owned(),
        Actor::Credential(credential) => format!("whoever held the secret of credential {credential}"),
        Actor::System => return "the ledger itself".to_owned(),
    };
    match record.meta.auth {
        AuthMethod::Session => actor + ", signed in by a browser session",
        AuthMethod::Token => actor + ", signed in by a short-lived token",
        AuthMethod::Link => actor + ", by a one-time link",
        AuthMethod::Secret | AuthMethod::Internal => actor,
    }
}

impl Explanation {
    /// The verdict as one sentence.
    pub fn sentence(&self) -> String {
        let (id, at) = (self.credential.credential, self.moment.at);
        match self.verdict {
            Verdict::Unborn => {
                format!(
                    "Credential {id} did not exist at {at}: it was issued at position {} ({}).",
                    self.credential.position, self.credential.issued_at
                )
            }
            Verdict::Alive { until: None } => format!("Credential {id} was alive at {at}, with no end set."),
            Verdict::Alive { until: Some(until) } => {
                format!("Credential {id} was alive at {at}, to end by itself at {until}.")
            }
            Verdict::Dead { end } => {
                let step = self.steps.iter().find(|step| step.position == end.position);
                let (what, who) = step.map_or(("", ""), |step| (&step.what, &step.who));
                let (since, position) = (end.effective_at, end.position);
                let why = match (end.recorded, end.death) {
                    (true, _) => format!("position {position} says so ({what}, by {who})"),
                    (false, Death::Cascaded { device }) => format!(
                        "its device {device} ends then by position {position} ({what}), though no event had recorded it yet"
                    ),
                    (false, _) => format!(
                        "its time is up then by position {position} ({what}), though no event had recorded it yet"
                    ),
                };
                format!("Credential {id} was dead at {at}, since {since}: {why}.")
            }
        }
    }
}

/// The whole explanation as text: the verdict, then every event.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credential = &self.credential;
        writeln!(f, "{}", self.sentence())?;
        let team = self.team_name.as_deref().unwrap_or_default();
        write!(f, "Team {team:?} ({}); {} key {}…; ", credential.team, credential.kind, credential.prefix)?;
        writeln!(f, "held by person {}", credential.holder)?;
        for step in &self.steps {
            let device = if step.credential == credential.credential { "" } else { "its device: " };
            let later = if step.counts { "" } else { " (after the moment asked about)" };
            writeln!(f, "\nposition {}, {}{later}", step.position, step.recorded_at)?;
            writeln!(f, "  {device}{}", step.what)?;
            writeln!(f, "  by {}", step.who)?;
            match &step.cause {
                Some(Cause { position: Some(position), what: Some(what), .. }) => {
                    writeln!(f, "  because of position {position}: {what}")?;
                }
                Some(cause) => writeln!(f, "  because of event {}", cause.event)?,
                None => {}
            }
            writeln!(f, "  revision {}, event {}, hash {}", step.revision, step.event, step.hash)?;
        }
        Ok(())
    }
}
