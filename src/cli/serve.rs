//! `keyledger serve`.

use std::path::PathBuf;

use serde::Serialize;

use super::Failure;
use crate::config::{Config, LogFormat, environment};

/// Flags; each has the name of its setting. What is not given is null and lets the environment and the file speak.
#[derive(Debug, clap::Args, Serialize)]
pub struct Args {
    /// A TOML file of settings.
    #[arg(long, value_name = "FILE", env = "KEYLEDGER_CONFIG")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:7470].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The data directory [default: ./keyledger-data].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How people and programs reach the service [default: http:// and the address].
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Whom to ask to cosign the tree heads, and how many must: a file in the C2SP tlog-policy form.
    #[arg(long, value_name = "FILE")]
    witness_policy: Option<PathBuf>,
    /// How log lines are written [default: text].
    #[arg(long)]
    log_format: Option<LogFormat>,
    /// Which log lines are written [default: info].
    #[arg(long, value_name = "FILTER")]
    log_filter: Option<String>,
    /// Print a fresh sign-in link for the owner.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sign_in_link: bool,
    /// Seconds added to the clock, for rehearsals on a copy: what is written keeps that time for ever.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    clock_offset_seconds: Option<i64>,
    /// How often the map of all streams is sealed into the log; 0: only on demand [default: 3600].
    #[arg(long, value_name = "N")]
    seal_every_seconds: Option<u64>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::read(args.config.as_deref(), environment(), args);
    let config = config.map_err(|error| Failure::Usage(error.to_string()))?;
    crate::telemetry::init(&config);
    crate::serve::run(config).map_err(|error| match error.exit_code() {
        3 => Failure::Damaged(error.to_string()),
        _ => Failure::Refused(error.to_string()),
    })
}
