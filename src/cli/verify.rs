//! `keyledger verify`: checks a key. Exit 0 only if it is good.

use std::io::{IsTerminal as _, Read as _};

use serde_json::json;
use uuid::Uuid;

use super::{
    Failure,
    client::{Client, environment},
    credentials::set,
    output::{Output, facts},
};

/// Longer than any key.
const KEY_LEN_MAX: u64 = 4096;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The surface it must be good for: runtime, mcp, agent or management.
    #[arg(long)]
    surface: Option<String>,
    /// The team it must belong to.
    #[arg(long, value_name = "ID")]
    in_team: Option<Uuid>,
}

pub fn run(client: &Client, output: Output, args: &Args) -> Result<(), Failure> {
    let key = match environment("KEYLEDGER_KEY") {
        Some(key) => key,
        None => read("Key: ")?,
    };
    let mut body = json!({});
    set(&mut body, "surface", args.surface.as_deref());
    set(&mut body, "team_id", args.in_team.map(|id| id.to_string()));
    let answer = client.with_token(key).write("POST", "/verify", &body)?;
    output.print(&answer, |answer| {
        format!(
            "valid\n{}",
            facts(answer, &["credential_id", "kind", "team_id", "user_id", "display_name", "expires_at", "position"])
        )
    });
    Ok(())
}

/// A secret from standard input: unseen at a terminal, else all of it.
pub fn read(prompt: &str) -> Result<String, Failure> {
    let text = if std::io::stdin().is_terminal() {
        rpassword::prompt_password(prompt).map_err(Failure::io("the terminal"))?
    } else {
        let mut text = String::new();
        std::io::stdin().take(KEY_LEN_MAX).read_to_string(&mut text).map_err(Failure::io("standard input"))?;
        text
    };
    match text.trim() {
        "" => Err(Failure::Usage("there is nothing on standard input".to_owned())),
        text => Ok(text.to_owned()),
    }
}
