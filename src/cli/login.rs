//! `login`, `logout`, `whoami`.

use std::{
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Failure, Global,
    client::{Client, SERVER_DEFAULT, checked, environment},
    credentials::set,
    output::{Output, facts, plain, rows, table, text},
    saved::{self, Saved},
    verify::read,
};

/// The slowest a server may ask to be polled.
const INTERVAL_SECONDS_MAX: u64 = 60;

#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// A one-time sign-in link or an invitation; `-` reads it from standard input, KEYLEDGER_LINK gives it, too. Without a
    /// link, this device is paired.
    #[arg(long, value_name = "URL", env = "KEYLEDGER_LINK", hide_env_values = true)]
    link: Option<String>,
    /// What to call you, when the link is an invitation; or this device, when it is paired.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where to write the agent's key that a pairing gives, 0600; without it, it is printed, once.
    #[arg(long, value_name = "FILE", conflicts_with = "link")]
    agent_key_file: Option<PathBuf>,
}

pub fn login(global: &Global, output: Output, args: LoginArgs) -> Result<(), Failure> {
    match args.link.as_deref() {
        Some("-") => by_link(global, output, &read("Link: ")?, args.name.as_deref()),
        Some(link) => by_link(global, output, link, args.name.as_deref()),
        None => by_pairing(global, output, &args),
    }
}

fn by_link(global: &Global, output: Output, link: &str, name: Option<&str>) -> Result<(), Failure> {
    let (of_link, token) = parse_link(link)?;
    let server = match &global.server {
        Some(server) => checked(server)?,
        None => of_link,
    };
    let client = Client::anonymous(&server)?;
    let mut body = json!({ "token": token });
    set(&mut body, "name", name);
    let mut answer = client.write("POST", "/auth/link", &body)?;
    let token = text(&answer, "access_token");
    if token.is_empty() {
        return Err(Failure::Refused("the server answered without a token".to_owned()));
    }
    let team = choose_team(global.team, rows(&answer, "teams"))?;
    let saved = Saved { server, token, team, expires_at: answer["expires_at"].as_str().map(str::to_owned) };
    let path = saved::save(&saved)?;
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("access_token");
        answer.insert("team".to_owned(), json!(team));
        answer.insert("saved".to_owned(), json!(path));
    }
    output.print(&answer, |answer| {
        let chosen = match team {
            Some(team) => format!("The team is {team}."),
            None => "Choose a team with --team or KEYLEDGER_TEAM.".to_owned(),
        };
        format!("Signed in until {}. {chosen}\n{}", plain(&text(answer, "expires_at")), teams(rows(answer, "teams")))
    });
    Ok(())
}

/// The one that was asked for, if it is one of theirs; the only one if there is only one.
fn choose_team(asked: Option<Uuid>, teams: &[Value]) -> Result<Option<Uuid>, Failure> {
    let theirs: Vec<Uuid> = teams.iter().filter_map(|team| team["id"].as_str()?.parse().ok()).collect();
    match (asked, theirs.as_slice()) {
        (Some(asked), _) if theirs.contains(&asked) => Ok(Some(asked)),
        (Some(asked), _) => Err(Failure::Refused(format!("{asked} is not one of your teams"))),
        (None, [only]) => Ok(Some(*only)),
        (None, _) => Ok(None),
    }
}

/// The server of a link and its token: what stands behind `#`, or the query's `token`.
fn parse_link(link: &str) -> Result<(String, String), Failure> {
    let wrong = || Failure::Usage("that is not a sign-in link".to_owned());
    let (address, fragment) =
        link.split_once('#').map_or((link, None), |(address, fragment)| (address, Some(fragment)));
    let uri: http::Uri = address.parse().map_err(|_| wrong())?;
    let server = format!("{}://{}", uri.scheme_str().ok_or_else(wrong)?, uri.authority().ok_or_else(wrong)?);
    let in_query = || uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="));
    let token = fragment.map(|fragment| fragment.strip_prefix("token=").unwrap_or(fragment)).or_else(in_query);
    let is_token =
        |token: &&str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let token = token.filter(is_token).ok_or_else(wrong)?;
    Ok((checked(&server)?, token.to_owned()))
}

fn by_pairing(global: &Global, output: Output, args: &LoginArgs) -> Result<(), Failure> {
    let client = Client::anonymous(global.server.as_deref().unwrap_or(SERVER_DEFAULT))?;
    let mut body = json!({});
    set(&mut body, "device_name", args.name.clone().or_else(|| environment("HOSTNAME")));
    let started = client.write("POST", "/desktop/pair/start", &body)?;
    eprintln!(
        "Open {} and confirm this code, if it is the one you see there:\n\n    {}\n",
        plain(&text(&started, "verification_uri")),
        plain(&text(&started, "user_code"))
    );
    let approved = poll(&client, &started)?;
    let (key, agent_key) = (text(&approved, "raw_key"), text(&approved, "agent_key"));
    if key.is_empty() {
        return Err(Failure::Refused("the server approved without a key".to_owned()));
    }
    let saved = Saved { server: client.server.clone(), token: key, team: global.team, expires_at: None };
    let path = saved::save(&saved)?;
    if let Some(file) = &args.agent_key_file {
        saved::write_private(file, &format!("{agent_key}\n")).map_err(Failure::io(file.display()))?;
        output.done(
            &format!("Paired. The agent's key is in {}.", file.display()),
            json!({ "saved": path, "agent_key_file": file }),
        );
    } else {
        if !output.json {
            eprintln!("Paired. The agent's key is shown this once:");
        }
        output.print(&json!({ "saved": path, "agent_key": agent_key }), |_| agent_key.clone());
    }
    Ok(())
}

/// Polls until somebody decides, as slowly as the server asks.
fn poll(client: &Client, started: &Value) -> Result<Value, Failure> {
    let seconds = |name, least: u64, most: u64| started[name].as_u64().unwrap_or(least).clamp(least, most);
    let mut interval = Duration::from_secs(seconds("interval", 1, INTERVAL_SECONDS_MAX));
    let until = Instant::now() + Duration::from_secs(seconds("expires_in", 1, 3600));
    let body = json!({ "device_code": started["device_code"] });
    while Instant::now() < until {
        sleep(interval);
        let answer = client.send("POST", "/desktop/pair/poll", &[], Some(&body))?;
        if answer.status == 429 {
            let wait = answer.retry_after_seconds.unwrap_or(INTERVAL_SECONDS_MAX).min(INTERVAL_SECONDS_MAX);
            interval = interval.max(Duration::from_secs(wait));
            continue;
        }
        let answer = client.done(answer)?;
        match answer["status"].as_str() {
            Some("pending") => {}
            Some("approved") => return Ok(answer),
            Some("denied") => return Err(Failure::Refused("the pairing was denied".to_owned())),
            _ => return Err(Failure::Refused("the server's answer to the poll is not known here".to_owned())),
        }
    }
    Err(Failure::Refused("nobody confirmed the code in time".to_owned()))
}

/// Ends the sign-in at its server and forgets it here, also when the server says that it had ended already.
pub fn logout(client: &Client, output: Output) -> Result<(), Failure> {
    let Some(token) = &client.token else {
        return Err(Failure::Refused("there is no sign-in to end".to_owned()));
    };
    let path = if token.starts_with("dk-") { "/auth/device/revoke" } else { "/auth/logout" };
    let answer = client.send("POST", path, &[], None)?;
    let had_ended = answer.status == 401;
    if !had_ended {
        client.done(answer)?;
    }
    if client.is_saved {
        saved::remove()?;
    }
    let sentence = if had_ended { "The sign-in had ended already; it is forgotten." } else { "Signed out." };
    output.done(sentence, json!({ "signed_out": true, "had_ended": had_ended }));
    Ok(())
}

pub fn whoami(client: &Client, output: Output) -> Result<(), Failure> {
    output.print(&client.get("/whoami", &[])?, |answer| {
        let known = facts(answer, &["type", "user_id", "credential_id", "kind", "team_id", "expires_at"]);
        match rows(answer, "teams") {
            [] => known,
            seats => format!("{known}\n\n{}", teams(seats)),
        }
    });
    Ok(())
}

fn teams(rows: &[Value]) -> String {
    table(
        rows,
        &[("TEAM", &|row| text(row, "id")), ("NAME", &|row| text(row, "name")), ("ROLE", &|row| text(row, "role"))],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        for (link, server, token) in [
            ("http://127.0.0.1:7470/sign-in?token=lk-Ab1", "http://127.0.0.1:7470", "lk-Ab1"),
            ("https://ledger.example/sign-in#lk-Ab1", "https://ledger.example", "lk-Ab1"),
            ("https://ledger.example/sign-in#token=lk-Ab1", "https://ledger.example", "lk-Ab1"),
            ("https://ledger.example/x?a=b&token=lk-Ab1", "https://ledger.example", "lk-Ab1"),
        ] {
            assert_eq!(parse_link(link), Ok((server.to_owned(), token.to_owned())), "{link}");
        }
        for link in [
            "",
            "lk-Ab1",
            "http://x/",
            "http://x/#",
            "http://x/?token=",
            "ftp://x/#t",
            "http://u:p@x/#t",
            "http://x/#a b",
        ] {
            assert!(parse_link(link).is_err(), "{link}");
        }
    }

    #[test]
    fn teams_are_chosen_only_when_there_is_no_doubt() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let seats = [json!({ "id": one }), json!({ "id": other })];
        assert_eq!(choose_team(None, &seats), Ok(None));
        assert_eq!(choose_team(None, &seats[..1]), Ok(Some(one)));
        assert_eq!(choose_team(Some(other), &seats), Ok(Some(other)));
        assert!(choose_team(Some(other), &seats[..1]).is_err());
    }
}
