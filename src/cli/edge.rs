//! `keyledger edge`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use keyledger_events::{TeamId, head::HeadVerifier};
use keyledger_projections::edge::{Edge, Policy};
use uuid::Uuid;

use super::{Failure, client::environment};
use crate::{
    config::{Config, LogFormat},
    sidecar::{self, Listen},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to answer: unix:PATH (mode 0660) or ADDRESS:PORT.
    #[arg(long, value_name = "PLACE", default_value = "127.0.0.1:7471")]
    listen: Listen,
    /// The ledger to follow.
    #[arg(long, value_name = "URL")]
    upstream: String,
    /// What to do without news: strict denies every key, best-effort goes on with what is known.
    #[arg(long, default_value = "strict")]
    policy: PolicyName,
    /// How old the news may be under the strict policy.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    stale_after_seconds: u64,
    /// Where to keep the state between starts (mode 0600).
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Only these teams' keys, with commas between them.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    teams: Vec<Uuid>,
    /// A file with a key that may sign the ledger's tree, such as its ledger.vkey. Repeat it for a rotation's new key.
    #[arg(long, value_name = "FILE")]
    ledger_key: Vec<PathBuf>,
    /// A file (mode 0600) with the `sv-` key to ask with [default: KEYLEDGER_TOKEN].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How log lines are written.
    #[arg(long, default_value = "text")]
    log_format: LogFormat,
    /// Which log lines are written.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log_filter: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PolicyName {
    Strict,
    BestEffort,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let config = Config { log_format: args.log_format, log_filter: args.log_filter.clone(), ..Config::default() };
    crate::telemetry::init(&config);
    let policy = match args.policy {
        PolicyName::Strict => Policy::Strict { max: Duration::from_secs(args.stale_after_seconds) },
        PolicyName::BestEffort => Policy::BestEffort,
    };
    let mut builder = Edge::builder(&args.upstream, &token(args)?).policy(policy);
    if let Some(file) = &args.snapshot {
        builder = builder.snapshot_file(file);
    }
    if !args.teams.is_empty() {
        builder = builder.teams(args.teams.iter().map(|id| TeamId::from_bytes(id.into_bytes())));
    }
    for file in &args.ledger_key {
        let text = fs::read_to_string(file).map_err(Failure::io(file.display()))?;
        let key: HeadVerifier = text.parse().map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
        builder = builder.ledger_key(key);
    }
    let counted = sidecar::recorder().map_err(Failure::Refused)?;
    let edge = builder.connect().map_err(|error| Failure::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::io("runtime"))?;
    println!("keyledger edge {} on {}, following {}", env!("CARGO_PKG_VERSION"), args.listen, args.upstream);
    runtime.block_on(sidecar::serve(edge, &args.listen, counted)).map_err(Failure::io(&args.listen))
}

/// From the environment or a private file, never from an argument.
fn token(args: &Args) -> Result<String, Failure> {
    let Some(file) = &args.token_file else {
        let missing =
            || Failure::Usage("an sv- key is needed: in KEYLEDGER_TOKEN, or a file for --token-file".to_owned());
        return environment("KEYLEDGER_TOKEN").ok_or_else(missing);
    };
    let found = fs::metadata(file).map_err(Failure::io(file.display()))?;
    if found.permissions().mode() & 0o077 != 0 {
        return Err(Failure::Refused(format!("{} may be read by others; make it 0600", file.display())));
    }
    fs::read_to_string(file).map(|text| text.trim().to_owned()).map_err(Failure::io(file.display()))
}
