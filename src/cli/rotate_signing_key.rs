//! `keyledger rotate-signing-key`: another key signs the tree heads from now on; the old one says so in the log.

use std::path::PathBuf;

use keyledger_events::{
    CorrelationId, EventId, OperationId, Timestamp,
    store::{
        ReadError,
        file::{Fresh, Options, RotateError, rotate_signing_key},
    },
};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Failure,
    output::{Output, text},
};
use crate::{clock::Clock, config::Config, random};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data directory [default: that of the settings].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub fn run(output: Output, args: &Args) -> Result<(), Failure> {
    let data = match &args.data {
        Some(data) => data.clone(),
        None => Config::of_environment().map_err(|error| Failure::Usage(error.to_string()))?.data,
    };
    let now = Clock::new(Timestamp::default(), 0).now();
    let fresh = Fresh {
        seed: Zeroizing::new(random::bytes()),
        event: EventId::from(random::uuid_v7(now)),
        salt: random::bytes(),
        operation: OperationId::from(random::uuid_v7(now)),
        correlation: CorrelationId::from(random::uuid_v7(now)),
        now,
    };
    let certificate = rotate_signing_key(&data, &fresh, &Options::default()).map_err(failure)?;
    let answer = json!({
        "old_key": certificate.old().to_string(),
        "new_key": certificate.new_key().to_string(),
        "position": certificate.position(),
        "at": certificate.at(),
    });
    output.print(&answer, |answer| {
        format!(
            "The signing key is replaced, at position {} of the log.\n\nnew: {}\nold: {}\n\n\
             Give auditors the new ledger.vkey. Whoever keeps the old one goes on with it: ledger.keys leads from it to \
             the new one.\nAccess tokens issued before have ended; sessions in browsers and keys have not.",
            text(answer, "position"),
            text(answer, "new_key"),
            text(answer, "old_key")
        )
    });
    Ok(())
}

fn failure(error: RotateError) -> Failure {
    match error {
        RotateError::Log(ReadError::Locked { .. }) => {
            Failure::Refused("a server is running on this directory: stop it first".to_owned())
        }
        RotateError::Log(ReadError::Io { .. }) => Failure::Refused(error.to_string()),
        RotateError::Log(_) | RotateError::Certificates(_) => Failure::Damaged(error.to_string()),
        _ => Failure::Refused(error.to_string()),
    }
}
