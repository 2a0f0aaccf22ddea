//! The command line: what it can be asked, and how it says how it went.
//!
//! Exit codes: 0 done, 1 refused or not found, 2 wrong use, 3 the ledger is damaged.

mod bar;
mod bundle;
mod bundle_report;
mod client;
mod completions;
mod credentials;
mod depart;
mod doctor;
mod edge;
mod export;
mod login;
mod members;
mod output;
pub mod replay;
mod rotate_signing_key;
mod saved;
mod scan;
mod serve;
mod service_token;
mod trail;
mod verify;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};
use uuid::Uuid;

use client::Client;
use output::Output;

/// An event-sourced credential ledger: issues, checks and ends API keys, and can prove every answer it ever gave.
#[derive(Debug, Parser)]
#[command(name = "keyledger", version, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 done, 1 refused or not found, 2 wrong use, 3 the ledger is damaged.\n\
                        Secrets are read from standard input or the environment, never from an argument.")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, clap::Args)]
struct Global {
    /// Print JSON: the server's answer as it came.
    #[arg(long, global = true)]
    json: bool,
    /// The server [default: the one of the saved sign-in, else http://127.0.0.1:7470].
    #[arg(long, global = true, env = "KEYLEDGER_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The team [default: the one chosen at sign-in].
    #[arg(long, global = true, env = "KEYLEDGER_TEAM", value_name = "ID")]
    team: Option<Uuid>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service over a data directory; creates what is missing.
    Serve(serve::Args),
    /// Verify keys beside a service, from this machine's own memory, following a running server.
    Edge(edge::Args),
    /// Issue a key for scripts (`integration`) or agents (`agent`); prints it, this once.
    Issue(credentials::IssueArgs),
    /// List the team's credentials.
    List(credentials::ListArgs),
    /// Show one credential.
    Show(credentials::ShowArgs),
    /// End a credential, finally.
    Revoke(credentials::RevokeArgs),
    /// Issue a successor; the old key lives on for the overlap.
    Rotate(credentials::RotateArgs),
    /// Check a key, read from standard input or KEYLEDGER_KEY.
    Verify(verify::Args),
    /// Sign in: by a one-time link, or by pairing this device.
    Login(login::LoginArgs),
    /// End the saved sign-in; of a device also its companion.
    Logout,
    /// Say who the saved sign-in or KEYLEDGER_TOKEN is.
    Whoami,
    /// List the team's people; invite, remove, change roles.
    Members(members::Args),
    /// Show what a member's departure is about, or decide on it.
    Depart(depart::Args),
    /// Export the team's history: as a bundle, one file that `replay verify` checks without a server, or for other tools.
    Export(export::Args),
    /// Print what the ledger signs about the team: where its history ends.
    Statement,
    /// Look at a data directory or a bundle without the server: verify, as-of, explain, diff, what-if, rebuild. As-of,
    /// explain, diff and what-if also ask a running server.
    Replay {
        #[command(subcommand)]
        command: replay::Command,
    },
    /// Look for this ledger's secrets in files and streams; signed in, tell which of them live, and end those.
    #[command(after_help = "Exit codes: 0 nothing found, 1 found, 2 wrong use or something could not be read.\n\
                            Git's history: git log -p --all | keyledger scan -")]
    Scan(scan::Args),
    /// Check the settings, the data directory and the server.
    Doctor(doctor::Args),
    /// Replace the key that signs tree heads; for operators, with the server stopped.
    RotateSigningKey(rotate_signing_key::Args),
    /// Issue an `sv-` key for a gateway, an edge or a scraper; for operators.
    ServiceToken(service_token::Args),
    /// Print a shell's completions.
    Completions(completions::Args),
}

/// How a command went wrong. What it says goes to standard error as one sentence.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Refused, not found, or not reachable: exit code 1.
    Refused(String),
    /// Asked in a way that can't be right: exit code 2.
    Usage(String),
    /// The ledger is damaged: exit code 3.
    Damaged(String),
    /// It has said everything itself; only the exit code is left.
    Said(u8),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Damaged(_) => 3,
            Self::Said(code) => *code,
        }
    }

    fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Refused(format!("{what}: {error}"))
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(failure) = secret_among(&arguments) {
        return finish(Err(failure));
    }
    match Cli::try_parse_from(arguments) {
        Ok(cli) => finish(run(cli)),
        Err(error) => {
            // Help and version are no errors; everything else is wrong use, 2.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let output = Output { json: global.json };
    let client = || Client::new(&global);
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Edge(args) => edge::run(&args),
        Command::Issue(args) => credentials::issue(&client()?, output, &args),
        Command::List(args) => credentials::list(&client()?, output, &args),
        Command::Show(args) => credentials::show(&client()?, output, &args),
        Command::Revoke(args) => credentials::revoke(&client()?, output, &args),
        Command::Rotate(args) => credentials::rotate(&client()?, output, &args),
        Command::Verify(args) => verify::run(&client()?, output, &args),
        Command::Login(args) => login::login(&global, output, args),
        Command::Logout => login::logout(&client()?, output),
        Command::Whoami => login::whoami(&client()?, output),
        Command::Members(args) => members::run(&client()?, output, args),
        Command::Depart(args) => depart::run(&client()?, output, &args),
        Command::Export(args) => export::run(&global, output, &args),
        Command::Statement => bundle::statement(&client()?, output),
        Command::Replay { command } => replay::run(command, output, &global),
        Command::Scan(args) => scan::run(&global, output, &args),
        Command::Doctor(args) => doctor::run(&global, output, &args),
        Command::RotateSigningKey(args) => rotate_signing_key::run(output, &args),
        Command::ServiceToken(args) => service_token::run(&client()?, output, &args),
        Command::Completions(args) => completions::run(&args, &mut Cli::command()),
    }
}

fn finish(result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    say(&failure);
    ExitCode::from(failure.code())
}

/// Says on standard error how a command went wrong.
fn say(failure: &Failure) {
    match failure {
        Failure::Refused(sentence) | Failure::Usage(sentence) | Failure::Damaged(sentence) => {
            eprintln!("keyledger: {}", crate::scrub::scrub(&output::plain(sentence)));
        }
        Failure::Said(_) => {}
    }
}

/// Arguments stand in the process list and in shells' histories. Of secrets only a link is taken there: it works once.
fn secret_among(arguments: &[OsString]) -> Option<Failure> {
    let mut previous = "";
    for argument in arguments.iter().skip(1).filter_map(|argument| argument.to_str()) {
        let is_link = previous == "--link" || argument.starts_with("--link=");
        if !is_link && crate::scrub::holds_secret(argument) {
            return Some(Failure::Usage(
                "a secret must not be an argument: other processes and the shell's history see it. Give it on standard \
                 input or in the environment, and revoke this one."
                    .to_owned(),
            ));
        }
        previous = argument;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_contract_parses_and_nothing_else_does() {
        let id = "0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a";
        for line in [
            "serve",
            "serve --data d --listen 127.0.0.1:0 --public-url https://x.example --config k.toml",
            "edge --upstream https://ledger.example",
            &format!(
                "edge --listen unix:/run/edge.sock --upstream http://x --policy best-effort --snapshot s --teams {id},{id} \
                 --ledger-key a.vkey --ledger-key b.vkey --token-file t --stale-after-seconds 3"
            ),
            "issue integration CI",
            "issue agent bot --expires-in-days 30 --purpose tests --json",
            "list",
            "list --kind integration --status active --departed --unused-days 30 --q ci --as-of 7 --page 2",
            &format!("show {id}"),
            &format!("show {id} --history"),
            &format!("revoke {id} --reason stolen"),
            &format!("rotate {id} --overlap-seconds 0"),
            "verify",
            "verify --surface runtime",
            "login",
            "login --link http://x/sign-in?token=lk-1",
            "logout",
            "whoami",
            "members",
            "members invite --role admin",
            &format!("members remove {id}"),
            &format!("members role {id} viewer"),
            &format!("depart {id}"),
            &format!("depart {id} --revoke {id} --hand-over {id}={id} --expected-revision 4"),
            "replay verify d",
            "replay as-of d --at 2026-03-03T12:00:00Z",
            &format!("replay explain d {id} --at 7"),
            "replay diff d 1 2",
            "replay rebuild d",
            "replay verify team.bundle --key ledger.vkey --head old.note --head older.note",
            "export team.bundle",
            "export team.bundle --from 3 --to 2026-03-03T12:00:00Z --head old.note --data d",
            "statement",
            "replay what-if d --max-lifetime 90d --idle 30d --revoke-on-departure",
            "replay what-if https://ledger.example --idle 1d12h",
            "replay as-of http://127.0.0.1:7470 --at 7",
            "export --format jsonl f",
            "export --format csv --from 2026-03-03T12:00:00Z --to 2026-04-03T12:00:00Z f --resume",
            "export --format ocsf -",
            "scan .",
            "scan - src --offline --respect-ignore --json",
            "scan . --revoke",
            "doctor",
            "doctor --data d",
            "rotate-signing-key",
            "rotate-signing-key --data d --json",
            "service-token edge --expires-in-days 365",
            "completions bash",
            "--json whoami",
            &format!("--team {id} list"),
        ] {
            let parsed = Cli::try_parse_from(format!("keyledger {line}").split_whitespace());
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in [
            "",
            "scan",
            "scan . --revoke --offline",
            "export",
            "export team.bundle --from yesterday",
            "statement x",
            "backup",
            "edge",
            "edge --upstream http://x --listen /run/edge.sock",
            "edge --upstream http://x --policy never",
            "restore",
            "issue",
            "issue device laptop",
            "issue service x",
            "issue integration",
            "issue integration x --expires-in-days 0",
            "issue integration x --expires-in-days 366",
            "show",
            "show x",
            "rotate x",
            &format!("rotate {id}"),
            &format!("rotate {id} --overlap-seconds 2592001"),
            "verify sk-x",
            &format!("depart {id} --hand-over {id}"),
            "members role",
            "members invite",
            "members invite --role god",
            "login --token x",
            "replay",
            "replay verify",
            "replay what-if d --max-lifetime 1y",
            "replay what-if d --idle 0d",
            "replay as-of http://u:p@x --at 7",
            "export --format xml f",
            "export --format csv",
            "export --format csv --from yesterday f",
            "completions cobol",
            "list --status dead",
        ] {
            let error = Cli::try_parse_from(format!("keyledger {line}").split_whitespace()).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_secret_is_refused_as_an_argument() {
        let secret = format!("sk-kl1{}", "a".repeat(49));
        let link = format!("http://x/sign-in?token=lk-{}", "Z9".repeat(22));
        let os = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for (arguments, refused) in [
            (os(&["keyledger", "verify", &secret]), true),
            (os(&["keyledger", "issue", "integration", &secret]), true),
            (os(&["keyledger", "--server", &format!("http://{secret}@x")]), true),
            (os(&["keyledger", "login", "--link", &link]), false),
            (os(&["keyledger", "login", &format!("--link={link}")]), false),
            (os(&["keyledger", "login", &link]), true),
            (os(&["keyledger", "list", "--q", &secret[..12]]), false),
        ] {
            assert_eq!(secret_among(&arguments).is_some(), refused, "{arguments:?}");
        }
    }
}
