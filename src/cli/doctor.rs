//! `keyledger doctor`: looks at the settings, the data directory and the server, and says what it found. Exit 0 if
//! nothing is wrong, 3 if the log is damaged, else 1.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use keyledger_events::{
    head::HeadSigner,
    store::{file::LogFiles, keyring::load_signing_seed},
};
use keyledger_replay::verify::{self, verify};
use serde_json::{Value, json};

use super::{
    Failure, Global,
    client::{Client, refusal},
    output::{Output, table, text},
};
use crate::config::Config;

/// Below this an operator should act; revoking has a reserve of its own.
const OPEN_FILES_MIN: usize = 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data directory [default: that of the settings].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Do not ask the server.
    #[arg(long)]
    offline: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Ok,
    Warning,
    Bad,
    Damaged,
}

struct Finding {
    what: &'static str,
    grade: Grade,
    found: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: &'static str, grade: Grade, found: impl Into<String>) {
        self.0.push(Finding { what, grade, found: found.into() });
    }
}

pub fn run(global: &Global, output: Output, args: &Args) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let config = Config::of_environment();
    match &config {
        Ok(config) => findings.add("settings", Grade::Ok, format!("listen {}, {}", config.listen, config.public_url())),
        Err(error) => findings.add("settings", Grade::Bad, error.to_string()),
    }
    open_files(&mut findings);
    let data = args.data.clone().or_else(|| config.ok().map(|config| config.data));
    if let Some(data) = data {
        data_directory(&mut findings, &data);
    }
    if !args.offline {
        server(&mut findings, global);
    }
    let worst = findings.0.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
    let rows: Vec<Value> = findings
        .0
        .iter()
        .map(|finding| json!({ "check": finding.what, "result": name(finding.grade), "found": finding.found }))
        .collect();
    output.print(&json!({ "healthy": worst <= Grade::Warning, "checks": rows }), |_| {
        table(
            &rows,
            &[
                ("CHECK", &|row| text(row, "check")),
                ("RESULT", &|row| text(row, "result")),
                ("FOUND", &|row| text(row, "found")),
            ],
        )
    });
    match worst {
        Grade::Ok | Grade::Warning => Ok(()),
        Grade::Bad => Err(Failure::Said(1)),
        Grade::Damaged => Err(Failure::Said(3)),
    }
}

const fn name(grade: Grade) -> &'static str {
    match grade {
        Grade::Ok => "ok",
        Grade::Warning => "warning",
        Grade::Bad => "bad",
        Grade::Damaged => "damaged",
    }
}

fn open_files(findings: &mut Findings) {
    // As the service does.
    crate::http::server::raise_open_files();
    if let Some(open_files_max) = crate::http::server::open_files_max() {
        let grade = if open_files_max < OPEN_FILES_MIN { Grade::Warning } else { Grade::Ok };
        findings.add("open files", grade, format!("at most {open_files_max}"));
    }
}

fn data_directory(findings: &mut Findings, data: &Path) {
    let metadata = match fs::metadata(data) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return findings.add("data directory", Grade::Bad, format!("{} is not a directory", data.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = format!("{} does not exist yet; `keyledger serve` makes it", data.display());
            return findings.add("data directory", Grade::Warning, found);
        }
        Err(error) => return findings.add("data directory", Grade::Bad, format!("{}: {error}", data.display())),
    };
    let grade = if metadata.permissions().mode() & 0o022 == 0 { Grade::Ok } else { Grade::Bad };
    let found = format!("{}, mode {:o}", data.display(), metadata.permissions().mode() & 0o777);
    findings.add("data directory", grade, found);
    for (what, file) in [("signing key", "keys/signing.key"), ("persons' keys", "keys/persons.keys")] {
        private_file(findings, what, &data.join(file), metadata.uid());
    }
    key_in_force(findings, data);
    match verify(data, &verify::Options::default()) {
        Ok(report) => findings.add(
            "log",
            Grade::Ok,
            format!(
                "{} events in {} commits hold, {} not signed yet",
                report.events, report.commits, report.unsigned_events
            ),
        ),
        Err(broken) => findings.add("log", Grade::Damaged, broken.to_string()),
    }
}

/// A key that others can read is not a key.
fn private_file(findings: &mut Findings, what: &'static str, path: &Path, owner: u32) {
    match fs::metadata(path) {
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o777;
            let grade = if mode & 0o077 == 0 && metadata.uid() == owner { Grade::Ok } else { Grade::Bad };
            findings.add(what, grade, format!("mode {mode:o}"));
        }
        // A copy for an auditor has no keys, and needs none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => findings.add(what, Grade::Warning, "not there"),
        Err(error) => findings.add(what, Grade::Bad, error.to_string()),
    }
}

/// Which key signs, since when, and whether its seed is the one that is here.
fn key_in_force(findings: &mut Findings, data: &Path) {
    const WHAT: &str = "key in force";
    let files = match LogFiles::open(data, None) {
        Ok(files) => files,
        Err(error) => return findings.add(WHAT, Grade::Damaged, error.to_string()),
    };
    let keys = files.keys();
    let since = match keys.certificates().last() {
        Some(last) => format!("since {}, position {}", last.at(), last.position()),
        None => "since the ledger began".to_owned(),
    };
    if data.join("keys/signing.key.next").exists() {
        let found = "a rotation was cut short; the server's next start, or the next rotation, ends it";
        return findings.add(WHAT, Grade::Warning, found);
    }
    let (newest, seed) = (keys.newest(), load_signing_seed(&data.join("keys/signing.key")));
    let fits = match &seed {
        Ok(Some(seed)) => HeadSigner::new(keys.origin(), seed).is_ok_and(|signer| signer.verifier() == *newest),
        // That the seed is missing, or can't be read, is said where its file is looked at.
        Ok(None) | Err(_) => true,
    };
    if fits {
        findings.add(WHAT, Grade::Ok, format!("{newest}, {since}"));
    } else {
        findings.add(WHAT, Grade::Bad, format!("{newest}, {since}, but keys/signing.key is another key's"));
    }
}

fn server(findings: &mut Findings, global: &Global) {
    let client = match Client::new(global) {
        Ok(client) => client,
        Err(Failure::Refused(why) | Failure::Usage(why) | Failure::Damaged(why)) => {
            return findings.add("server", Grade::Bad, why);
        }
        Err(Failure::Said(_)) => return,
    };
    match client.get_outside("/readyz") {
        Ok(answer) if answer.status == 200 => {
            findings.add(
                "server",
                Grade::Ok,
                format!("{} is ready, version {}", client.server, text(&answer.body, "version")),
            );
        }
        Ok(answer) => findings.add("server", Grade::Bad, format!("{}: {}", client.server, refusal(&answer))),
        Err(Failure::Refused(why) | Failure::Usage(why) | Failure::Damaged(why)) => {
            findings.add("server", Grade::Bad, why);
        }
        Err(Failure::Said(_)) => {}
    }
}
