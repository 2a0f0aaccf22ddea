//! `keyledger members`: list, invite, remove, role.

use clap::{Subcommand, ValueEnum};
use serde_json::json;
use uuid::Uuid;

use super::{
    Failure,
    client::Client,
    output::{Output, facts, rows, table, text, when},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the team's people; what `members` alone does.
    List,
    /// Make a link that lets one person in.
    Invite {
        /// As what.
        #[arg(long)]
        role: Role,
    },
    /// Remove a member: their sessions and devices end at once.
    Remove {
        /// The member's id.
        id: Uuid,
    },
    /// Give a member another role.
    Role {
        /// The member's id.
        id: Uuid,
        /// The new role; `owner` hands the ownership over.
        role: Role,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Owner,
    Admin,
    Member,
    Viewer,
    Auditor,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
        }
    }
}

pub fn run(client: &Client, output: Output, args: Args) -> Result<(), Failure> {
    match args.command.unwrap_or(Command::List) {
        Command::List => output.print(&client.get("/members", &[])?, |answer| {
            table(
                rows(answer, "members"),
                &[
                    ("ID", &|row| text(row, "id")),
                    ("NAME", &|row| text(row, "name")),
                    ("ROLE", &|row| text(row, "role")),
                    ("JOINED", &|row| when(row, "joined_at")),
                    ("DEPARTED", &|row| when(row, "departed_at")),
                ],
            )
        }),
        Command::Invite { role } => {
            let answer = client.write("POST", "/members/invitations", &json!({ "role": role.name() }))?;
            output.print(&answer, |answer| facts(answer, &["url", "role", "expires_at"]));
        }
        Command::Remove { id } => {
            client.done(client.send("DELETE", &format!("/members/{id}"), &[], None)?)?;
            output.done(
                &format!("{id} is no member any more; see `keyledger depart {id}`."),
                json!({ "id": id, "removed": true }),
            );
        }
        Command::Role { id, role } => {
            client.write("PATCH", &format!("/members/{id}"), &json!({ "role": role.name() }))?;
            output.done(&format!("{id} is {}.", role.name()), json!({ "id": id, "role": role.name() }));
        }
    }
    Ok(())
}
