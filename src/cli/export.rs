//! `keyledger export`: a team's history in a file, as a bundle that proves itself or for other people's tools.

use std::path::PathBuf;

use clap::ValueEnum;
use keyledger_events::Timestamp;
use keyledger_replay::bundle::Bound;

use super::{Failure, Global, bundle, client::Client, output::Output, trail};
use crate::http::export;

/// What is exported, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The form: `bundle` is what `replay verify` checks without a server; `jsonl` is one event a line, as the audit list
    /// shows it; `csv` is RFC 4180, its cells safe to open in a spreadsheet; `ocsf` is one OCSF 1.8.0 object a line
    /// (Account Change, Entity Management). Each line has its event's position; FILE.statement is left beside it, where the
    /// history ends, signed.
    #[arg(long, value_enum, default_value_t = Format::Bundle)]
    format: Format,
    /// From this instant on; of a bundle also from this revision of the team on [default: the first event].
    #[arg(long, value_name = "INSTANT|REVISION")]
    pub from: Option<Bound>,
    /// Up to this instant, not included; of a bundle, up to this instant or revision, included [default: the last event].
    #[arg(long, value_name = "INSTANT|REVISION")]
    pub to: Option<Bound>,
    /// For a bundle: a signed tree head kept from before, as a note in a file, that it shall compare with; may be given
    /// often.
    #[arg(long, value_name = "FILE")]
    pub head: Vec<PathBuf>,
    /// For a bundle: read this data directory instead of asking a server; needs its signing key.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// For jsonl, csv and ocsf: go on behind the last whole line of a file that was cut off; give the same form and times
    /// as before.
    #[arg(long)]
    resume: bool,
    /// The file to write. A bundle appears once it is whole; for the other forms `-` is standard output.
    pub file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Bundle,
    Jsonl,
    Csv,
    Ocsf,
}

/// Exports.
///
/// # Errors
/// What was refused or could not be written.
pub(super) fn run(global: &Global, output: Output, args: &Args) -> Result<(), Failure> {
    let format = match args.format {
        Format::Bundle if args.resume => {
            return Err(Failure::Usage("a bundle is whole or not there; it can't be resumed".to_owned()));
        }
        Format::Bundle => return bundle::export(global, output, args),
        Format::Jsonl => export::Format::Jsonl,
        Format::Csv => export::Format::Csv,
        Format::Ocsf => export::Format::Ocsf,
    };
    if args.data.is_some() || !args.head.is_empty() {
        return Err(Failure::Usage("--data and --head are for bundles".to_owned()));
    }
    let (from, to) = (instant(args.from)?, instant(args.to)?);
    let trail = trail::Trail { format, from, to, resume: args.resume, file: &args.file };
    trail::export(&Client::new(global)?, output, &trail)
}

fn instant(bound: Option<Bound>) -> Result<Option<Timestamp>, Failure> {
    match bound {
        None => Ok(None),
        Some(Bound::Instant(at)) => Ok(Some(at)),
        Some(Bound::Revision(_)) => Err(Failure::Usage("of this form --from and --to are instants".to_owned())),
    }
}
