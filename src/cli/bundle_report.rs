//! What `keyledger replay verify` says of a bundle: sentences that an auditor can quote.

use std::path::Path;

use keyledger_events::{TeamId, head::HeadVerifier, witness::Policy};
use keyledger_replay::bundle::{self, BundleError, BundleLog, Options, Report};
use serde_json::{Value, json};

use super::{
    Failure,
    bar::Bar,
    output::{Output, facts},
    replay::{rotations, value, witnessed},
};

/// Verifies a bundle and says how it went.
pub fn verify(
    output: Output,
    file: &Path,
    key: Option<HeadVerifier>,
    known_heads: Vec<String>,
    policy: Option<Policy>,
    team: Option<TeamId>,
) -> Result<(), Failure> {
    let verified = Bar::of_bytes()
        .during(|progress| bundle::verify(file, &Options { key, team, known_heads, policy, progress: Some(progress) }));
    match verified {
        Ok(report) => {
            let mut answer = value(&report);
            answer["holds"] = json!(true);
            output.print(&answer, |answer| text(answer, &report));
            Ok(())
        }
        Err(error) => {
            if output.json {
                let broken = match &error {
                    BundleError::Broken(broken) => value(broken),
                    other => json!({ "what": other.to_string() }),
                };
                output.print(&json!({ "holds": false, "broken": broken }), |_| String::new());
            }
            Err(failure(error))
        }
    }
}

/// A bundle as a log to ask; verified by the key it names itself, and that is said.
pub fn open(file: &Path, team: Option<TeamId>) -> Result<BundleLog, Failure> {
    let opened = Bar::of_bytes()
        .during(|progress| BundleLog::open(file, &Options { team, progress: Some(progress), ..Options::default() }));
    let (log, _) = opened.map_err(failure)?;
    eprintln!("keyledger: the bundle's own key was believed; `keyledger replay verify FILE --key VKEY` does not");
    Ok(log)
}

fn failure(error: BundleError) -> Failure {
    Failure::Refused(match error {
        BundleError::Broken(broken) => format!("broken: {broken}"),
        other => other.to_string(),
    })
}

fn text(answer: &Value, report: &Report) -> String {
    let Report { from, to, last, .. } = report;
    let mut lines = vec![if report.whole {
        "Everything holds, and this is the team's whole history as the ledger has stated it.".to_owned()
    } else {
        format!("Everything holds, but this is a part: revisions {from} to {to} of 0 to {last}.")
    }];
    lines.push(facts(
        answer,
        &["origin", "team", "events", "commits", "live_credentials", "tree_size", "root", "stated_at", "exported_at"],
    ));
    lines.push(format!(
        "No event of revisions {from} to {to} was changed, dropped, added or reordered: they are chained, and the signed \
         tree head of {} events holds each at its position.",
        report.tree_size
    ));
    if report.from.0 > 0 {
        lines.push(format!(
            "What came before revision {from} is not shown, so nothing is said of which keys were alive."
        ));
    }
    if to < last {
        lines.push(format!(
            "What came after revision {to} is not shown; the ledger has stated that it goes on to {last}."
        ));
    }
    lines.push(match report.seal {
        None => "There is no seal of the map of streams in it: only the statement says where the history ends.".to_owned(),
        Some(seal) if seal.compared => format!(
            "The seal at position {} says the same as this history: of all events before position {}, the team's last is \
             revision {}.",
            seal.position, seal.through, seal.revision
        ),
        Some(seal) => format!(
            "The seal at position {} names revision {}, which is not shown; it could not be compared.",
            seal.position, seal.revision
        ),
    });
    for size in &report.compared_sizes {
        lines.push(format!("The kept tree head of {size} events is the beginning of this one."));
    }
    lines.extend(report.witnessed.as_ref().map(witnessed));
    lines.extend(rotations(report.key_rotations, report.key_pinned));
    if report.last_uses > 0 {
        lines.push(format!("Last uses it tells of, which nothing proves: {}.", report.last_uses));
    }
    if !report.key_pinned {
        lines.push(
            "The key is the bundle's own. Whoever made the bundle could have made it: get the ledger's key elsewhere and \
             give it with --key."
                .to_owned(),
        );
    }
    lines.join("\n")
}
