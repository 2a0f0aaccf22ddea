//! `keyledger replay`: looks at a data directory, or a copy of one, or a bundle, without a server and without trusting an
//! index.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use keyledger_events::{
    Position, TeamId,
    head::HeadVerifier,
    store::file::FileLog,
    store::{ReadError, ReadLog},
    witness::Policy,
};
use keyledger_replay::{
    Moment, Point, Progress, ReplayError,
    as_of::{self, AsOf},
    diff::{self, Died, Diff},
    explain,
    rebuild::{self, RebuildError},
    verify::{self, Options, Report, Witnessed},
};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Failure, bundle_report,
    output::{Output, facts, plain, table, text, when},
};

/// What can be asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check every frame, chain, position, tree head, seal and projection digest. Exit 0 only if all of them hold.
    Verify {
        /// The data directory, or a copy of one, or a bundle.
        dir: PathBuf,
        /// The verifier key to believe, or a file of it, in force still or replaced since; without it the directory's
        /// own is believed, and said so.
        #[arg(long, value_name = "VKEY")]
        key: Option<String>,
        /// A signed tree head seen elsewhere, as a note in a file; may be given often.
        #[arg(long, value_name = "FILE")]
        head: Vec<PathBuf>,
        /// Who must have cosigned one of the heads: a file in the C2SP tlog-policy form.
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
    /// List which credentials were alive.
    AsOf {
        /// The data directory, or a copy of one, or a bundle.
        dir: PathBuf,
        /// When: an instant (what held then, by all that is known now) or a position (what was known there).
        #[arg(long, value_name = "POSITION|INSTANT", required_unless_present = "known_at")]
        at: Option<Point>,
        /// Use no more of the log than up to this position.
        #[arg(long, value_name = "POSITION")]
        known_at: Option<Position>,
    },
    /// Tell one credential's life: when it was alive, at which position it died, and why.
    Explain {
        /// The data directory, or a copy of one, or a bundle.
        dir: PathBuf,
        /// The credential: its id, or the first 12 characters of its key.
        credential: explain::Name,
        /// When: an instant or a position [default: the log's end].
        #[arg(long, value_name = "POSITION|INSTANT")]
        at: Option<Point>,
    },
    /// List what changed between two points.
    Diff {
        /// The data directory, or a copy of one, or a bundle.
        dir: PathBuf,
        /// The earlier point: an instant or a position.
        from: Point,
        /// The later point.
        to: Point,
    },
    /// Throw the projections away and rebuild them; the digests must match those that were served.
    Rebuild {
        /// The data directory, or a copy of one, without a server on it.
        dir: PathBuf,
    },
}

/// Runs a replay command; `team` narrows down lists.
///
/// # Errors
/// What did not hold, or could not be read.
pub fn run(command: Command, output: Output, team: Option<Uuid>) -> Result<(), Failure> {
    let team = team.map(TeamId::from);
    match command {
        Command::Verify { dir, key, head, policy } => run_verify(output, &dir, key, &head, policy.as_ref(), team),
        Command::AsOf { dir, at, known_at } => run_as_of(output, &dir, moment(at, known_at)?, team),
        Command::Explain { dir, credential, at } => run_explain(output, &dir, &credential, at, team),
        Command::Diff { dir, from, to } => run_diff(output, &dir, from, to, team),
        Command::Rebuild { dir } => run_rebuild(output, &dir),
    }
}

fn run_verify(
    output: Output,
    dir: &Path,
    key: Option<String>,
    heads: &[PathBuf],
    policy: Option<&PathBuf>,
    team: Option<TeamId>,
) -> Result<(), Failure> {
    let key = key.map(|key| read_key(&key)).transpose()?;
    let known_heads = known_heads(heads)?;
    let policy = policy.map(read_policy).transpose()?;
    if dir.is_file() {
        return bundle_report::verify(output, dir, key, known_heads, policy, team);
    }
    let bar = Bar::of_bytes();
    let checked =
        bar.during(|progress| verify::verify(dir, &Options { key, known_heads, policy, progress: Some(progress) }));
    match checked {
        Ok(report) => {
            let mut answer = value(&report);
            answer["holds"] = json!(true);
            output.print(&answer, |answer| report_text(answer, &report));
            Ok(())
        }
        Err(broken) => {
            if output.json {
                let answer = json!({ "holds": false, "broken": value(&broken) });
                output.print(&answer, |_| String::new());
            }
            Err(Failure::Refused(format!("broken: {broken}")))
        }
    }
}

fn report_text(answer: &Value, report: &Report) -> String {
    let mut lines = vec![
        "Everything holds: every frame, chain, position, record, seal, signed tree head, tile and served digest."
            .to_owned(),
        facts(answer, &["origin", "events", "commits", "teams", "live_credentials", "root"]),
    ];
    let sizes = report.signed_sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    lines.push(match report.unsigned_events {
        0 => format!("The signed tree heads, of {sizes} events, cover everything."),
        unsigned => {
            let last = if unsigned == 1 { "the last one is".to_owned() } else { format!("the last {unsigned} are") };
            let now = if report.live { " The server signs within a second." } else { "" };
            format!("The signed tree heads are of {sizes} events; {last} not signed yet.{now}")
        }
    });
    lines.push(match report.digests_position {
        Some(position) => format!("The served digests, of {position} events, are the log's."),
        None => "No digests are served from this directory; none were compared.".to_owned(),
    });
    lines.push(match report.seals {
        0 => "There are no seals of the map of streams.".to_owned(),
        seals => format!(
            "The map of all streams was made anew for {seals} seals, the last of {} events.",
            report.sealed_through
        ),
    });
    lines.push(match report.tiles_size {
        Some(size) => format!("The tree's tiles, of {size} events, are the log's."),
        None => "This directory has no finished tiles of the tree; none were compared.".to_owned(),
    });
    lines.extend(report.witnessed.as_ref().map(witnessed));
    lines.extend(rotations(report.key_rotations, report.key_pinned));
    if report.key_rotation_unfinished {
        lines.push(
            "A rotation of the signing key was cut short after its event; the next start finishes it.".to_owned(),
        );
    }
    if !report.key_pinned {
        lines.push(
            "The key is the directory's own. Whoever could rewrite the log could replace it: keep ledger.vkey elsewhere \
             and give it with --key."
                .to_owned(),
        );
    }
    lines.join("\n")
}

/// Who has cosigned a tree head, as a sentence.
pub(super) fn witnessed(Witnessed { size, by }: &Witnessed) -> String {
    let by = by.iter().map(|(name, at)| format!("{name} at {at}")).collect::<Vec<_>>().join(", ");
    let by = if by.is_empty() { "nobody, whom the policy does not demand".to_owned() } else { plain(&by) };
    format!("The tree head of {size} events meets the witness policy: cosigned by {by}.")
}

/// How the signing key that counts was found, as a sentence; none if there was only one.
pub(super) fn rotations(count: u64, pinned: bool) -> Option<String> {
    Some(match (count, pinned) {
        (0, _) => return None,
        (1, true) => "One rotation of the signing key was followed from the key you gave.".to_owned(),
        (count, true) => format!("{count} rotations of the signing key were followed from the key you gave."),
        (1, false) => "The signing key was rotated once; its certificate is there.".to_owned(),
        (count, false) => format!("The signing key was rotated {count} times; the certificates are there."),
    })
}

fn run_as_of(output: Output, dir: &Path, moment: Moment, team: Option<TeamId>) -> Result<(), Failure> {
    let log = open(dir, team)?;
    let bar = Bar::of_events();
    let found = bar.during(|progress| as_of::as_of(log.as_ref(), moment, team, progress)).map_err(failure)?;
    output.print(&value(&found), |answer| as_of_text(answer, &found, team));
    Ok(())
}

fn as_of_text(answer: &Value, found: &AsOf, team: Option<TeamId>) -> String {
    let of_team = team.map_or(String::new(), |team| format!(" of team {team}"));
    let known = found.moment.known_at.map_or(String::new(), |known| format!(", by all up to position {known}"));
    let count = found.credentials.len();
    let sentence = match count {
        1 => format!("1 credential{of_team} was alive at {}{known}.", found.moment.at),
        _ => format!("{count} credentials{of_team} were alive at {}{known}.", found.moment.at),
    };
    if count == 0 {
        return sentence;
    }
    format!("{}\n{sentence}", standings(super::output::rows(answer, "credentials"), answer))
}

/// A table of credentials; `answer` has the teams' names.
fn standings(rows: &[Value], answer: &Value) -> String {
    table(
        rows,
        &[
            ("CREDENTIAL", &|row| text(row, "credential")),
            ("KIND", &|row| text(row, "kind")),
            ("KEY", &|row| format!("{}…", text(row, "prefix"))),
            ("NAME", &|row| row["name"].as_str().map_or("(sealed)".to_owned(), str::to_owned)),
            ("TEAM", &|row| team_name(answer, &text(row, "team"))),
            ("HELD BY", &|row| text(row, "holder")),
            ("ISSUED", &|row| when(row, "issued_at")),
            ("EXPIRES", &|row| {
                Some(when(row, "expires_at")).filter(|at| !at.is_empty()).unwrap_or("never".to_owned())
            }),
            ("POSITION", &|row| text(row, "position")),
        ],
    )
}

fn team_name(answer: &Value, team: &str) -> String {
    answer["teams"][team].as_str().map_or_else(|| team.to_owned(), str::to_owned)
}

fn run_explain(
    output: Output,
    dir: &Path,
    name: &explain::Name,
    at: Option<Point>,
    team: Option<TeamId>,
) -> Result<(), Failure> {
    let log = open(dir, team)?;
    let moment = at.map(Moment::from).unwrap_or_default();
    let bar = Bar::of_events();
    let told =
        bar.during(|progress| explain::explain(log.as_ref(), name, moment, &|_| None, progress)).map_err(failure)?;
    let mut answer = value(&told);
    answer["sentence"] = json!(told.sentence());
    output.print(&answer, |_| plain(told.to_string().trim_end()));
    Ok(())
}

fn run_diff(output: Output, dir: &Path, from: Point, to: Point, team: Option<TeamId>) -> Result<(), Failure> {
    let log = open(dir, team)?;
    let bar = Bar::of_events();
    let found = bar.during(|progress| diff::diff(log.as_ref(), from, to, team, progress)).map_err(failure)?;
    output.print(&value(&found), |answer| diff_text(answer, &found));
    Ok(())
}

fn diff_text(answer: &Value, found: &Diff) -> String {
    let mut parts = vec![format!("From {} to {}: {} events.", found.from.at, found.to.at, found.events)];
    let mut section = |heading: &str, count: usize, body: String| {
        if count > 0 {
            parts.push(format!("\n{heading} ({count})\n{body}"));
        }
    };
    let rows = |name| super::output::rows(answer, name);
    section("Issued and alive at the end", found.born.len(), standings(rows("born"), answer));
    section("Ended", found.died.len(), deaths(&found.died, answer));
    section("Issued and ended in between", found.passed.len(), deaths(&found.passed, answer));
    section("Made to end earlier", found.shortened.len(), changes(rows("shortened"), answer));
    section("Handed over", found.handed_over.len(), changes(rows("handed_over"), answer));
    let role = |row: &Value, name| Some(text(row, name)).filter(|role| !role.is_empty()).unwrap_or("—".to_owned());
    let members = table(
        rows("members"),
        &[
            ("TEAM", &|row| team_name(answer, &text(row, "team"))),
            ("MEMBER", &|row| text(row, "member")),
            ("WAS", &|row| role(row, "from")),
            ("IS", &|row| role(row, "to")),
        ],
    );
    section("Members", found.members.len(), members);
    let names = |teams: &[TeamId]| teams.iter().map(|team| team_name(answer, &team.to_string())).collect::<Vec<_>>();
    section("Teams created", found.teams_created.len(), plain(&names(&found.teams_created).join("\n")));
    section("Policies changed", found.policies_changed.len(), plain(&names(&found.policies_changed).join("\n")));
    if parts.len() == 1 {
        parts.push("Nothing changed.".to_owned());
    }
    parts.join("\n")
}

fn deaths(died: &[Died], answer: &Value) -> String {
    let rows: Vec<Value> = died.iter().map(value).collect();
    table(
        &rows,
        &[
            ("CREDENTIAL", &|row| text(&row["credential"], "credential")),
            ("KIND", &|row| text(&row["credential"], "kind")),
            ("TEAM", &|row| team_name(answer, &text(&row["credential"], "team"))),
            ("ENDED", &|row| when(row, "effective_at")),
            ("HOW", &|row| match text(&row["end"]["death"], "type") {
                how if how.is_empty() => "expired, not recorded yet".to_owned(),
                how => how,
            }),
            ("POSITION", &|row| text(&row["end"], "position")),
        ],
    )
}

fn changes(rows: &[Value], answer: &Value) -> String {
    let side = |row: &Value, name| Some(text(row, name)).filter(|side| !side.is_empty()).unwrap_or("never".to_owned());
    table(
        rows,
        &[
            ("CREDENTIAL", &|row| text(row, "credential")),
            ("TEAM", &|row| team_name(answer, &text(row, "team"))),
            ("WAS", &|row| side(row, "from")),
            ("IS", &|row| side(row, "to")),
        ],
    )
}

fn run_rebuild(output: Output, dir: &Path) -> Result<(), Failure> {
    let bar = Bar::of_events();
    match bar.during(|progress| rebuild::rebuild(dir, progress)) {
        Ok(rebuilt) => {
            output.print(&value(&rebuilt), |_| {
                let against = match rebuilt.served_position {
                    Some(position) => format!("the digests served at {position} events were the same"),
                    None => "no digests had been served".to_owned(),
                };
                format!("Rebuilt from {} events; {against}.", rebuilt.events)
            });
            Ok(())
        }
        Err(RebuildError::Read(error)) => Err(unreadable(&error)),
        Err(error) => Err(Failure::Refused(error.to_string())),
    }
}

/// A bare position may be given either way; an instant and a position ask what was known there of that instant.
fn moment(at: Option<Point>, known_at: Option<Position>) -> Result<Moment, Failure> {
    match (at, known_at) {
        (Some(Point::Position(_)), Some(_)) => {
            Err(Failure::Usage("--at is a position already; give an instant with --known-at".to_owned()))
        }
        (Some(Point::Instant(at)), known_at) => Ok(Moment { at: Some(at), known_at }),
        (Some(point), None) => Ok(point.into()),
        (None, known_at) => Ok(Moment { at: None, known_at }),
    }
}

/// The log of a directory, or a bundle, which must be of the team if one is named.
fn open(dir: &Path, team: Option<TeamId>) -> Result<Box<dyn ReadLog>, Failure> {
    if dir.is_file() {
        return Ok(Box::new(bundle_report::open(dir, team)?));
    }
    if !dir.is_dir() {
        return Err(Failure::Refused(format!("{}: no such directory or bundle", dir.display())));
    }
    Ok(Box::new(FileLog::open(dir).map_err(|error| unreadable(&error))?))
}

pub(super) fn failure(error: ReplayError) -> Failure {
    match error {
        ReplayError::Read(error) => unreadable(&error),
        ReplayError::Record { .. } => Failure::Damaged(error.to_string()),
        ReplayError::Backwards | ReplayError::Ambiguous(_) => Failure::Usage(error.to_string()),
        ReplayError::NoPosition { .. } | ReplayError::NoCredential(_) => Failure::Refused(error.to_string()),
    }
}

pub(super) fn unreadable(error: &ReadError) -> Failure {
    match error {
        ReadError::Io { .. } | ReadError::Locked { .. } => Failure::Refused(error.to_string()),
        _ => Failure::Damaged(format!("{error}; `keyledger replay verify` says more")),
    }
}

/// A key by its text, or in a file of that name.
fn read_key(key: &str) -> Result<HeadVerifier, Failure> {
    match key.parse() {
        Ok(key) => Ok(key),
        Err(error) if !Path::new(key).exists() => {
            Err(Failure::Usage(format!("--key is neither a file nor a key: {error}")))
        }
        Err(_) => {
            let text = read_text(&PathBuf::from(key))?;
            text.parse().map_err(|error| Failure::Usage(format!("{key}: {error}")))
        }
    }
}

/// Tree heads kept in files.
pub(super) fn known_heads(files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    files.iter().map(read_text).collect()
}

fn read_policy(file: &PathBuf) -> Result<Policy, Failure> {
    Policy::parse(&read_text(file)?).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}

fn read_text(file: &PathBuf) -> Result<String, Failure> {
    let text = fs::read_to_string(file).map_err(Failure::io(file.display()))?;
    // As the ledger keeps heads beside its log: the note, then zeros.
    Ok(text.trim_end_matches('\0').to_owned())
}

pub(super) fn value(answer: &impl Serialize) -> Value {
    // Answers are structs of texts, numbers and lists: JSON refuses none of them.
    serde_json::to_value(answer).unwrap_or_default()
}

/// A progress bar on standard error, where that is a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn of_bytes() -> Self {
        Self::new("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
    }

    pub(super) fn of_events() -> Self {
        Self::new("{bar:40} {human_pos} of {human_len} events, {per_sec}, {eta} left")
    }

    pub(super) fn of_commits() -> Self {
        Self::new("{bar:40} {human_pos} of {human_len} commits, {per_sec}, {eta} left")
    }

    fn new(template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        Self(bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    /// Shows the bar while `work` lasts, and leaves nothing of it.
    pub(super) fn during<T>(self, work: impl FnOnce(Progress<'_>) -> T) -> T {
        let done = work(&|done, total| {
            self.0.set_length(total);
            self.0.set_position(done);
        });
        self.0.finish_and_clear();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_times_are_kept_apart() {
        let (at, position) = ("2026-03-03T12:00:00Z", Position(7));
        let point = |text: &str| Some(text.parse::<Point>().expect(text));
        let instant = Some(at.parse().expect(at));
        for (given, known_at, expected) in [
            (point(at), None, Ok(Moment { at: instant, known_at: None })),
            (point("7"), None, Ok(Moment { at: None, known_at: Some(position) })),
            (point(at), Some(position), Ok(Moment { at: instant, known_at: Some(position) })),
            (None, Some(position), Ok(Moment { at: None, known_at: Some(position) })),
            (point("7"), Some(position), Err(())),
        ] {
            assert_eq!(moment(given, known_at).map_err(|_| ()), expected);
        }
    }
}
