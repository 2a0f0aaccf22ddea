//! `issue`, `list`, `show`, `revoke`, `rotate`.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Failure,
    client::Client,
    output::{Output, facts, rows, table, text, when},
};

/// What people may issue themselves.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum IssuedKind {
    /// For scripts, CI, partners (`sk-`).
    Integration,
    /// For long-lived agents (`ak-`).
    Agent,
}

#[derive(Debug, clap::Args)]
pub struct IssueArgs {
    kind: IssuedKind,
    /// What to call it, 1–100 characters.
    name: String,
    /// Its lifetime in days; without it, it never ends by itself.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=365))]
    expires_in_days: Option<u16>,
    /// What it is for.
    #[arg(long, value_name = "TEXT")]
    purpose: Option<String>,
}

pub fn issue(client: &Client, output: Output, args: &IssueArgs) -> Result<(), Failure> {
    let kind = match args.kind {
        IssuedKind::Integration => "integration",
        IssuedKind::Agent => "agent",
    };
    let mut body = json!({ "kind": kind, "display_name": args.name });
    set(&mut body, "expires_in_days", args.expires_in_days);
    set(&mut body, "purpose", args.purpose.as_deref());
    issued(output, &client.write("POST", "/credentials", &body)?);
    Ok(())
}

/// Prints an issued key: the key itself on standard output, so that `key=$(keyledger issue …)` works; the rest beside it.
pub fn issued(output: Output, answer: &Value) {
    if !output.json {
        eprintln!("{}", facts(answer, &["id", "kind", "display_name", "expires_at", "rotated_from"]));
        eprintln!("The key is shown this once:");
    }
    output.print(answer, |answer| text(answer, "raw_key"));
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AnyKind {
    Integration,
    Agent,
    Device,
    Service,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Status {
    Active,
    Expired,
    Revoked,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only of this kind.
    #[arg(long)]
    kind: Option<AnyKind>,
    /// Only in this state.
    #[arg(long)]
    status: Option<Status>,
    /// Only issued by this person.
    #[arg(long, value_name = "ID")]
    issued_by: Option<Uuid>,
    /// Only those whose holder has left.
    #[arg(long)]
    departed: bool,
    /// Only those that end by themselves before this instant (RFC 3339).
    #[arg(long, value_name = "INSTANT")]
    expires_before: Option<String>,
    /// Only those not used for so many days.
    #[arg(long, value_name = "N")]
    unused_days: Option<u32>,
    /// Only those with this in their name or prefix.
    #[arg(long, value_name = "TEXT")]
    q: Option<String>,
    /// As it stood at a position or an instant.
    #[arg(long, value_name = "POSITION|INSTANT")]
    as_of: Option<String>,
    /// Which page.
    #[arg(long, value_name = "N", default_value_t = 1)]
    page: u32,
    /// Rows a page.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    per_page: u32,
}

pub fn list(client: &Client, output: Output, args: &ListArgs) -> Result<(), Failure> {
    let lower = |value: &dyn std::fmt::Debug| format!("{value:?}").to_ascii_lowercase();
    let filters = [
        ("kind", args.kind.map(|kind| lower(&kind))),
        ("status", args.status.map(|status| lower(&status))),
        ("issued_by", args.issued_by.map(|id| id.to_string())),
        ("departed", args.departed.then(|| "true".to_owned())),
        ("expires_before", args.expires_before.clone()),
        ("unused_days", args.unused_days.map(|days| days.to_string())),
        ("q", args.q.clone()),
        ("as_of", args.as_of.clone()),
        ("current_page", Some(args.page.to_string())),
        ("per_page", Some(args.per_page.to_string())),
    ];
    let query: Vec<_> = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    output.print(&client.get("/credentials", &query)?, |page| {
        let meta = &page["page_meta"];
        let total = meta["total_count"].as_u64().unwrap_or(0);
        let pages = total.div_ceil(u64::from(args.per_page)).max(1);
        let plural = if total == 1 { "" } else { "s" };
        format!(
            "{}\n{total} credential{plural}, page {} of {pages}",
            credentials(rows(page, "credentials")),
            args.page
        )
    });
    Ok(())
}

/// Credentials as a table.
pub fn credentials(rows: &[Value]) -> String {
    table(
        rows,
        &[
            ("ID", &|row| text(row, "id")),
            ("NAME", &|row| text(row, "display_name")),
            ("KIND", &|row| text(row, "kind")),
            ("PREFIX", &|row| text(row, "key_prefix")),
            ("STATUS", &|row| text(row, "key_status")),
            ("CREATED", &|row| when(row, "created_at")),
            ("EXPIRES", &|row| when(row, "expires_at")),
            ("LAST USED", &|row| presented(&row["last_used"])),
        ],
    )
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The credential's id.
    id: Uuid,
    /// Its events, too.
    #[arg(long)]
    history: bool,
}

pub fn show(client: &Client, output: Output, args: &ShowArgs) -> Result<(), Failure> {
    let mut credential = client.get(&format!("/credentials/{}", args.id), &[])?;
    if args.history {
        let history = client.get(&format!("/credentials/{}/history", args.id), &[])?;
        credential["history"] = history["events"].clone();
    }
    output.print(&credential, |credential| {
        let names = [
            "id",
            "kind",
            "display_name",
            "purpose",
            "key_prefix",
            "key_status",
            "user_id",
            "issued_by",
            "departed",
            "created_at",
            "last_used_at",
            "last_used",
            "expires_at",
            "revoked_at",
            "revoke_reason",
            "revoke_note",
            "dead_presented",
            "device_id",
            "companion_id",
            "rotated_from",
            "rotated_to",
        ];
        let mut shown = credential.clone();
        for name in ["last_used", "dead_presented"] {
            shown[name] = json!(presented(&credential[name]));
        }
        let mut shown = facts(&shown, &names);
        if args.history {
            shown += "\n\n";
            shown += &events(rows(credential, "history"));
        }
        shown
    });
    Ok(())
}

/// Where a key was presented, and when, in a few words; nothing if it was not.
fn presented(place: &Value) -> String {
    if place.is_null() {
        return String::new();
    }
    let parts = [when(place, "at"), text(place, "surface"), text(place, "address")];
    parts
        .iter()
        .filter(|part| !matches!(part.as_str(), "" | "unknown"))
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Events as a table.
pub fn events(rows: &[Value]) -> String {
    table(
        rows,
        &[
            ("POSITION", &|row| text(row, "position")),
            ("RECORDED", &|row| when(row, "recorded_at")),
            ("TYPE", &|row| text(row, "type")),
            ("ACTOR", &|row| format!("{} {}", text(&row["actor"], "type"), text(&row["actor"], "id"))),
            ("AUTH", &|row| text(row, "auth")),
        ],
    )
}

#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// The credential's id.
    id: Uuid,
    /// Why, in your words.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub fn revoke(client: &Client, output: Output, args: &RevokeArgs) -> Result<(), Failure> {
    let mut body = json!({});
    set(&mut body, "reason", args.reason.as_deref());
    client.write("DELETE", &format!("/credentials/{}", args.id), &body)?;
    output.done(&format!("{} is revoked.", args.id), json!({ "id": args.id, "key_status": "revoked" }));
    Ok(())
}

#[derive(Debug, clap::Args)]
pub struct RotateArgs {
    /// The credential's id.
    id: Uuid,
    /// How long both keys live.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=2_592_000))]
    overlap_seconds: u32,
    /// The successor's lifetime in days; without it, what the old key was issued for.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=365))]
    expires_in_days: Option<u16>,
}

pub fn rotate(client: &Client, output: Output, args: &RotateArgs) -> Result<(), Failure> {
    let mut body = json!({ "overlap_seconds": args.overlap_seconds });
    set(&mut body, "expires_in_days", args.expires_in_days);
    issued(output, &client.write("POST", &format!("/credentials/{}/rotate", args.id), &body)?);
    Ok(())
}

/// Sets a member of an object if there is a value.
pub fn set(body: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body[name] = value.into();
    }
}
