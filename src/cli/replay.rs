//! `keyledger replay`: looks at a data directory, or a copy of one, or a bundle, without a server and without trusting an
//! index; or asks a running server the same questions about one team.

mod source;
mod text;

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use keyledger_events::{
    Position, TeamId,
    head::HeadVerifier,
    note::Note,
    store::{ReadError, ReadLog, file::FileLog},
    witness,
};
use keyledger_replay::{
    Moment, Point, ReplayError,
    as_of::{self, AsOf},
    diff::{self, Diff},
    explain::{self, Explanation},
    rebuild::{self, RebuildError},
    verify::{self, Options},
    what_if::{self, Period, Policy, WhatIf},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use self::source::Source;
pub(super) use self::text::{rotations, witnessed};
use super::{
    Failure, Global,
    bar::Bar,
    bundle_report,
    client::Client,
    output::{Output, plain},
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
        /// The data directory or a copy of one; or a bundle; or a running server's URL, to ask it about one team.
        #[arg(value_name = "DIR|FILE|URL")]
        source: Source,
        /// When: an instant (what held then, by all that is known now) or a position (what was known there).
        #[arg(long, value_name = "POSITION|INSTANT", required_unless_present = "known_at")]
        at: Option<Point>,
        /// Use no more of the log than up to this position.
        #[arg(long, value_name = "POSITION")]
        known_at: Option<Position>,
    },
    /// Tell one credential's life: when it was alive, at which position it died, and why.
    Explain {
        /// The data directory or a copy of one; or a bundle; or a running server's URL, to ask it about one team.
        #[arg(value_name = "DIR|FILE|URL")]
        source: Source,
        /// The credential: its id, or the first 12 characters of its key.
        credential: explain::Name,
        /// When: an instant or a position [default: the log's end].
        #[arg(long, value_name = "POSITION|INSTANT")]
        at: Option<Point>,
    },
    /// List what changed between two points.
    Diff {
        /// The data directory or a copy of one; or a bundle; or a running server's URL, to ask it about one team.
        #[arg(value_name = "DIR|FILE|URL")]
        source: Source,
        /// The earlier point: an instant or a position.
        from: Point,
        /// The later point.
        to: Point,
    },
    /// List which credentials a policy would have ended, when, and which of them were used afterwards.
    ///
    /// The policy is laid over what really happened; give at least one rule. Uses are no events: of each credential only
    /// the last use is known, to the minute, from the folder `side` beside the log or from the running server. So for
    /// idle credentials only the time since that last use can be judged, and a longer pause before it can't be seen.
    /// Without `side` nothing is known of uses: --idle is refused, and whether a credential was used afterwards is
    /// "not known" (null).
    WhatIf {
        /// The data directory or a copy of one; or a bundle; or a running server's URL, to ask it about one team.
        #[arg(value_name = "DIR|FILE|URL")]
        source: Source,
        /// A credential ends so long after its issue, such as 90d or 12h; a companion follows its device.
        #[arg(long, value_name = "SPAN")]
        max_lifetime: Option<Period>,
        /// A credential ends when it was not used for so long, since its issue or its last use.
        #[arg(long, value_name = "SPAN")]
        idle: Option<Period>,
        /// The `sk-` and `ak-` that a member answers for end the instant they depart.
        #[arg(long)]
        revoke_on_departure: bool,
    },
    /// Throw the projections away and rebuild them; the digests must match those that were served.
    Rebuild {
        /// The data directory, or a copy of one, without a server on it.
        dir: PathBuf,
    },
}

/// Runs a replay command; the team narrows down lists of a directory, and is the one a server is asked about.
///
/// # Errors
/// What did not hold, or could not be read.
pub(super) fn run(command: Command, output: Output, global: &Global) -> Result<(), Failure> {
    let team = global.team.map(TeamId::from);
    match command {
        Command::Verify { dir, key, head, policy } => run_verify(output, &dir, key, &head, policy.as_ref(), team),
        Command::AsOf { source, at, known_at } => {
            let moment = moment(at, known_at)?;
            let found = match source {
                Source::Dir(dir) => as_of_in(&dir, moment, team)?,
                Source::Server(url) => {
                    let query = [("at", at.map(spelled)), ("known_at", known_at.map(|at| at.to_string()))];
                    asked(&url, global, "as-of", query)?
                }
            };
            output.print(&value(&found), |answer| text::as_of_text(answer, &found, team));
            Ok(())
        }
        Command::Explain { source, credential, at } => {
            let told = match source {
                Source::Dir(dir) => explain_in(&dir, &credential, at, team)?,
                Source::Server(url) => {
                    let query = [("credential", Some(credential.to_string())), ("at", at.map(spelled))];
                    asked(&url, global, "explain", query)?
                }
            };
            let mut answer = value(&told);
            answer["sentence"] = json!(told.sentence());
            output.print(&answer, |_| plain(told.to_string().trim_end()));
            Ok(())
        }
        Command::Diff { source, from, to } => {
            let found = match source {
                Source::Dir(dir) => diff_in(&dir, from, to, team)?,
                Source::Server(url) => {
                    asked(&url, global, "diff", [("from", Some(spelled(from))), ("to", Some(spelled(to)))])?
                }
            };
            output.print(&value(&found), |answer| text::diff_text(answer, &found));
            Ok(())
        }
        Command::WhatIf { source, max_lifetime, idle, revoke_on_departure } => {
            let policy = Policy { max_lifetime, idle, revoke_on_departure };
            if policy == Policy::default() {
                return Err(Failure::Usage("give --max-lifetime, --idle or --revoke-on-departure".to_owned()));
            }
            let found = match source {
                Source::Dir(dir) => what_if_in(&dir, policy, team)?,
                Source::Server(url) => {
                    let query = [
                        ("max_lifetime", max_lifetime.map(|max| max.to_string())),
                        ("idle", idle.map(|idle| idle.to_string())),
                        ("revoke_on_departure", revoke_on_departure.then(|| "true".to_owned())),
                    ];
                    asked(&url, global, "what-if", query)?
                }
            };
            output.print(&value(&found), |answer| text::what_if_text(answer, &found));
            Ok(())
        }
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
    if !dir.is_dir() {
        return Err(Failure::Refused(format!("{}: no such directory or bundle", dir.display())));
    }
    let bar = Bar::of_bytes();
    let checked =
        bar.during(|progress| verify::verify(dir, &Options { key, known_heads, policy, progress: Some(progress) }));
    match checked {
        Ok(report) => {
            let mut answer = value(&report);
            answer["holds"] = json!(true);
            output.print(&answer, |answer| text::report_text(answer, &report));
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

/// Asks a server about the team of the sign-in, or of --team.
fn asked<T: DeserializeOwned, const N: usize>(
    url: &str,
    global: &Global,
    what: &str,
    query: [(&str, Option<String>); N],
) -> Result<T, Failure> {
    let client = Client::new(&Global { server: Some(url.to_owned()), ..global.clone() })?;
    let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let answer = client.get(&format!("/history/{what}"), &query)?;
    serde_json::from_value(answer)
        .map_err(|error| Failure::Refused(format!("{url}: the answer is not of the form expected: {error}")))
}

fn spelled(point: Point) -> String {
    match point {
        Point::Instant(at) => at.to_string(),
        Point::Position(position) => position.to_string(),
    }
}

fn as_of_in(dir: &Path, moment: Moment, team: Option<TeamId>) -> Result<AsOf, Failure> {
    let log = open(dir, team)?;
    Bar::of_events().during(|progress| as_of::as_of(log.as_ref(), moment, team, progress)).map_err(failure)
}

fn what_if_in(dir: &Path, policy: Policy, team: Option<TeamId>) -> Result<WhatIf, Failure> {
    let (log, usage): (Box<dyn ReadLog>, _) = if dir.is_file() {
        let log = bundle_report::open(dir, team)?;
        let usage = log.last_used().cloned().ok_or_else(|| format!("{} tells of no uses", dir.display()));
        (Box::new(log), usage)
    } else {
        let log = open_dir(dir)?;
        let usage = source::last_uses(dir, log.files().is_live());
        (Box::new(log), usage)
    };
    let (usage, why) = match usage {
        Ok(usage) => (Some(usage), None),
        Err(why) if policy.idle.is_some() => {
            return Err(Failure::Refused(format!(
                "{why}: when keys were last used is not known here, so --idle can't be judged"
            )));
        }
        Err(why) => (None, Some(why)),
    };
    let last_used = usage.as_ref().map(|usage| move |id| usage.get(&id).copied());
    let last_used = last_used.as_ref().map(|last_used| last_used as what_if::LastUsed<'_>);
    let bar = Bar::of_events();
    let found = bar.during(|progress| what_if::what_if(log.as_ref(), policy, last_used, team, None, progress));
    let mut found = found.map_err(failure)?;
    found.not_known.extend(why.map(|why| format!("Why not: {why}.")));
    Ok(found)
}

fn explain_in(
    dir: &Path,
    name: &explain::Name,
    at: Option<Point>,
    team: Option<TeamId>,
) -> Result<Explanation, Failure> {
    let log = open(dir, team)?;
    let moment = at.map(Moment::from).unwrap_or_default();
    let bar = Bar::of_events();
    bar.during(|progress| explain::explain(log.as_ref(), name, moment, &|_| None, progress)).map_err(failure)
}

fn diff_in(dir: &Path, from: Point, to: Point, team: Option<TeamId>) -> Result<Diff, Failure> {
    let log = open(dir, team)?;
    Bar::of_events().during(|progress| diff::diff(log.as_ref(), from, to, team, progress)).map_err(failure)
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

fn open(dir: &Path, team: Option<TeamId>) -> Result<Box<dyn ReadLog>, Failure> {
    if dir.is_file() {
        return Ok(Box::new(bundle_report::open(dir, team)?));
    }
    Ok(Box::new(open_dir(dir)?))
}

fn open_dir(dir: &Path) -> Result<FileLog, Failure> {
    if !dir.is_dir() {
        return Err(Failure::Refused(format!("{}: no such directory or bundle", dir.display())));
    }
    FileLog::open(dir).map_err(|error| unreadable(&error))
}

pub(super) fn failure(error: ReplayError) -> Failure {
    match error {
        ReplayError::Read(error) => unreadable(&error),
        ReplayError::Record { .. } => Failure::Damaged(error.to_string()),
        ReplayError::Backwards | ReplayError::Ambiguous(_) | ReplayError::NoRule => Failure::Usage(error.to_string()),
        ReplayError::NoPosition { .. } | ReplayError::NoCredential(_) | ReplayError::NoUsage => {
            Failure::Refused(error.to_string())
        }
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
    let read = |file: &PathBuf| {
        let text = read_text(file)?;
        let note = Note::parse(&text).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())));
        note.map(|_| text)
    };
    files.iter().map(read).collect()
}

fn read_policy(file: &PathBuf) -> Result<witness::Policy, Failure> {
    witness::Policy::parse(&read_text(file)?).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
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
