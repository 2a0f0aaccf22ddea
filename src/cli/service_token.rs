//! `keyledger service-token`: an `sv-` key, by an operator.

use serde_json::json;

use super::{
    Failure,
    client::Client,
    credentials::{issued, set},
    output::Output,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which gateway, edge or scraper it is for.
    name: String,
    /// Its lifetime in days; without it, it never ends by itself.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=365))]
    expires_in_days: Option<u16>,
}

pub fn run(client: &Client, output: Output, args: &Args) -> Result<(), Failure> {
    let mut body = json!({ "display_name": args.name });
    set(&mut body, "expires_in_days", args.expires_in_days);
    issued(output, &client.write("POST", "/service-credentials", &body)?);
    Ok(())
}
