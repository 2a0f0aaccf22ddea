//! `keyledger depart`: shows the dossier of a departure, or decides on it in one step.

use std::str::FromStr;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Failure,
    client::Client,
    credentials::{credentials, events},
    output::{Output, facts, plain, rows, text},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The member's id.
    member: Uuid,
    /// End this key of theirs; may be given often.
    #[arg(long, value_name = "ID")]
    revoke: Vec<Uuid>,
    /// Let somebody else answer for this key; may be given often.
    #[arg(long, value_name = "ID=MEMBER")]
    hand_over: Vec<HandOver>,
    /// Remove the member without deciding on any key.
    #[arg(long)]
    remove: bool,
    /// The revision of the dossier you decided on; without it, the present one.
    #[arg(long, value_name = "N")]
    expected_revision: Option<u64>,
}

#[derive(Clone, Debug)]
struct HandOver {
    key: Uuid,
    to: Uuid,
}

impl FromStr for HandOver {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "must be KEY=MEMBER, two ids";
        let (key, to) = text.split_once('=').ok_or(FORM)?;
        Ok(Self { key: key.parse().map_err(|_| FORM)?, to: to.parse().map_err(|_| FORM)? })
    }
}

pub fn run(client: &Client, output: Output, args: &Args) -> Result<(), Failure> {
    let path = format!("/members/{}/departure", args.member);
    if args.revoke.is_empty() && args.hand_over.is_empty() && !args.remove {
        output.print(&client.get(&path, &[])?, dossier);
        return Ok(());
    }
    let expected_revision = match args.expected_revision {
        Some(revision) => json!(revision),
        None => client.get(&path, &[])?["revision"].clone(),
    };
    let hand_over: Vec<Value> = args.hand_over.iter().map(|one| json!({ "id": one.key, "to": one.to })).collect();
    let body = json!({ "revoke": args.revoke, "hand_over": hand_over, "expected_revision": expected_revision });
    output.print(&client.write("POST", &path, &body)?, |receipt| {
        let undecided = match receipt["undecided"].as_u64() {
            None | Some(0) => "Nothing of theirs is left undecided.".to_owned(),
            Some(count) => format!("{count} of their keys still wait for a decision."),
        };
        format!("{}\n{undecided}", events(rows(receipt, "events")))
    });
    Ok(())
}

fn dossier(dossier: &Value) -> String {
    let section = |title: &str, name: &str| match rows(dossier, name) {
        [] => format!("{title}: none"),
        some => format!("{title}:\n{}", credentials(some)),
    };
    format!(
        "{}\nrevision: {}\n\n{}\n\n{}",
        facts(&dossier["member"], &["id", "name", "role", "joined_at", "departed_at"]),
        plain(&text(dossier, "revision")),
        section("End by themselves", "ends_by_itself"),
        section("To decide, riskiest first", "to_decide")
    )
}
