//! The answers in words and tables.

use keyledger_events::TeamId;
use keyledger_replay::{
    as_of::AsOf,
    diff::{Died, Diff},
    verify::{Report, Witnessed},
    what_if::{Rule, WhatIf},
};
use serde_json::Value;

use super::{
    super::output::{self, facts, plain, table, text, when},
    value,
};

/// The report of a verification.
pub fn report_text(answer: &Value, report: &Report) -> String {
    let mut lines = vec![
        "Everything holds: every frame, chain, position, record, seal, signed tree head, tile and served digest."
            .to_owned(),
        facts(answer, &["origin", "events", "commits", "teams", "live_credentials", "root"]),
    ];
    let sizes = report.signed_sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    lines.push(match report.unsigned_events {
        0 => format!("The signed tree heads, of {sizes} events, cover everything."),
        unsigned => {
            let last = if unsigned == 1 { "the last one is".to_owned() } else { format!("the last {unsigned} are") };
            let now = if report.live { " The server signs within a second." } else { "" };
            format!("The signed tree heads are of {sizes} events; {last} not signed yet.{now}")
        }
    });
    lines.push(match report.digests_position {
        Some(position) => format!("The served digests, of {position} events, are the log's."),
        None => "No digests are served from this directory; none were compared.".to_owned(),
    });
    lines.push(match report.seals {
        0 => "There are no seals of the map of streams.".to_owned(),
        seals => format!(
            "The map of all streams was made anew for {seals} seal{}, the last of {} events.",
            if seals == 1 { "" } else { "s" },
            report.sealed_through
        ),
    });
    lines.push(match report.tiles_size {
        Some(size) => format!("The tree's tiles, of {size} events, are the log's."),
        None => "This directory has no finished tiles of the tree; none were compared.".to_owned(),
    });
    lines.extend(report.witnessed.as_ref().map(witnessed));
    lines.extend(rotations(report.key_rotations, report.key_pinned));
    if report.key_rotation_unfinished {
        lines.push(
            "A rotation of the signing key was cut short after its event; the next start finishes it.".to_owned(),
        );
    }
    if !report.key_pinned {
        lines.push(
            "The key is the directory's own. Whoever could rewrite the log could replace it: keep ledger.vkey elsewhere \
             and give it with --key."
                .to_owned(),
        );
    }
    lines.join("\n")
}

/// Who has cosigned a tree head, as a sentence.
pub fn witnessed(Witnessed { size, by }: &Witnessed) -> String {
    let by = by.iter().map(|(name, at)| format!("{name} at {at}")).collect::<Vec<_>>().join(", ");
    let by = if by.is_empty() { "nobody, whom the policy does not demand".to_owned() } else { plain(&by) };
    format!("The tree head of {size} events meets the witness policy: cosigned by {by}.")
}

/// How the signing key that counts was found, as a sentence; none if there was only one.
pub fn rotations(count: u64, pinned: bool) -> Option<String> {
    Some(match (count, pinned) {
        (0, _) => return None,
        (1, true) => "One rotation of the signing key was followed from the key you gave.".to_owned(),
        (count, true) => format!("{count} rotations of the signing key were followed from the key you gave."),
        (1, false) => "The signing key was rotated once; its certificate is there.".to_owned(),
        (count, false) => format!("The signing key was rotated {count} times; the certificates are there."),
    })
}

/// What was alive.
pub fn as_of_text(answer: &Value, found: &AsOf, team: Option<TeamId>) -> String {
    let of_team = team.map_or(String::new(), |team| format!(" of team {team}"));
    let known = found.moment.known_at.map_or(String::new(), |known| format!(", by all up to position {known}"));
    let count = found.credentials.len();
    let sentence = match count {
        1 => format!("1 credential{of_team} was alive at {}{known}.", found.moment.at),
        _ => format!("{count} credentials{of_team} were alive at {}{known}.", found.moment.at),
    };
    if count == 0 {
        return sentence;
    }
    format!("{}\n{sentence}", standings(output::rows(answer, "credentials"), answer))
}

/// A table of credentials; `answer` has the teams' names.
fn standings(rows: &[Value], answer: &Value) -> String {
    table(
        rows,
        &[
            ("CREDENTIAL", &|row| text(row, "credential")),
            ("KIND", &|row| text(row, "kind")),
            ("KEY", &|row| format!("{}…", text(row, "prefix"))),
            ("NAME", &|row| row["name"].as_str().map_or("(sealed)".to_owned(), str::to_owned)),
            ("TEAM", &|row| team_name(answer, &text(row, "team"))),
            ("HELD BY", &|row| text(row, "holder")),
            ("ISSUED", &|row| when(row, "issued_at")),
            ("EXPIRES", &|row| {
                Some(when(row, "expires_at")).filter(|at| !at.is_empty()).unwrap_or("never".to_owned())
            }),
            ("POSITION", &|row| text(row, "position")),
        ],
    )
}

fn team_name(answer: &Value, team: &str) -> String {
    answer["teams"][team].as_str().map_or_else(|| team.to_owned(), str::to_owned)
}

/// What changed.
pub fn diff_text(answer: &Value, found: &Diff) -> String {
    let mut parts = vec![format!("From {} to {}: {} events.", found.from.at, found.to.at, found.events)];
    let mut section = |heading: &str, count: usize, body: String| {
        if count > 0 {
            parts.push(format!("\n{heading} ({count})\n{body}"));
        }
    };
    let rows = |name| output::rows(answer, name);
    section("Issued and alive at the end", found.born.len(), standings(rows("born"), answer));
    section("Ended", found.died.len(), deaths(&found.died, answer));
    section("Issued and ended in between", found.passed.len(), deaths(&found.passed, answer));
    section("Made to end earlier", found.shortened.len(), changes(rows("shortened"), answer));
    section("Handed over", found.handed_over.len(), changes(rows("handed_over"), answer));
    let role = |row: &Value, name| Some(text(row, name)).filter(|role| !role.is_empty()).unwrap_or("—".to_owned());
    let members = table(
        rows("members"),
        &[
            ("TEAM", &|row| team_name(answer, &text(row, "team"))),
            ("MEMBER", &|row| text(row, "member")),
            ("WAS", &|row| role(row, "from")),
            ("IS", &|row| role(row, "to")),
        ],
    );
    section("Members", found.members.len(), members);
    let names = |teams: &[TeamId]| teams.iter().map(|team| team_name(answer, &team.to_string())).collect::<Vec<_>>();
    section("Teams created", found.teams_created.len(), plain(&names(&found.teams_created).join("\n")));
    section("Policies changed", found.policies_changed.len(), plain(&names(&found.policies_changed).join("\n")));
    if parts.len() == 1 {
        parts.push("Nothing changed.".to_owned());
    }
    parts.join("\n")
}

fn deaths(died: &[Died], answer: &Value) -> String {
    let rows: Vec<Value> = died.iter().map(value).collect();
    table(
        &rows,
        &[
            ("CREDENTIAL", &|row| text(&row["credential"], "credential")),
            ("KIND", &|row| text(&row["credential"], "kind")),
            ("TEAM", &|row| team_name(answer, &text(&row["credential"], "team"))),
            ("ENDED", &|row| when(row, "effective_at")),
            ("HOW", &|row| match text(&row["end"]["death"], "type") {
                how if how.is_empty() => "expired, not recorded yet".to_owned(),
                how => how,
            }),
            ("POSITION", &|row| text(&row["end"], "position")),
        ],
    )
}

fn changes(rows: &[Value], answer: &Value) -> String {
    let side = |row: &Value, name| Some(text(row, name)).filter(|side| !side.is_empty()).unwrap_or("never".to_owned());
    table(
        rows,
        &[
            ("CREDENTIAL", &|row| text(row, "credential")),
            ("TEAM", &|row| team_name(answer, &text(row, "team"))),
            ("WAS", &|row| side(row, "from")),
            ("IS", &|row| side(row, "to")),
        ],
    )
}

/// What a policy would have done.
pub fn what_if_text(answer: &Value, found: &WhatIf) -> String {
    let policy = &found.policy;
    let rules: Vec<String> = [
        policy.max_lifetime.map(|max| format!("no key lives longer than {max}")),
        policy.idle.map(|idle| format!("a key not used for {idle} ends")),
        policy.revoke_on_departure.then(|| "what a member answers for ends when they depart".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let used = match found.used_afterwards {
        Some(used) => format!("{used} of them were used after that"),
        None => "whether they were used after that is not known".to_owned(),
    };
    let mut parts = Vec::new();
    if !found.ended.is_empty() {
        parts.push(would_end(found, answer));
    }
    parts.push(format!(
        "Had it been so that {}: of {} keys ever issued, {} would have ended earlier by {}; {used}.",
        rules.join(", and "),
        found.judged,
        found.ended.len(),
        found.moment.at
    ));
    parts.extend(found.not_known.iter().map(|sentence| plain(sentence)));
    parts.join("\n")
}

fn would_end(found: &WhatIf, answer: &Value) -> String {
    let rows: Vec<Value> = found.ended.iter().map(value).collect();
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    table(
        &rows,
        &[
            ("CREDENTIAL", &|row| text(&row["credential"], "credential")),
            ("KIND", &|row| text(&row["credential"], "kind")),
            ("NAME", &|row| row["credential"]["name"].as_str().map_or("(sealed)".to_owned(), str::to_owned)),
            ("TEAM", &|row| team_name(answer, &text(&row["credential"], "team"))),
            ("WOULD HAVE ENDED", &|row| when(row, "would_end_at")),
            ("BY", &|row| match (rule(row), text(row, "with_device").is_empty()) {
                (rule, true) => rule.to_owned(),
                (rule, false) => format!("its device's {rule}"),
            }),
            ("ENDED", &|row| or(when(row, "ended_at"), "alive")),
            ("LIVED ON", &|row| days(row["lived_on_seconds"].as_u64().unwrap_or(0))),
            ("LAST USED", &|row| or(when(row, "last_used_at"), "—")),
            ("USED AFTER", &|row| match row["used_afterwards"].as_bool() {
                Some(true) => "yes".to_owned(),
                Some(false) => "no".to_owned(),
                None => "not known".to_owned(),
            }),
        ],
    )
}

fn rule(row: &Value) -> &'static str {
    match serde_json::from_value(row["rule"].clone()) {
        Ok(Rule::MaxLifetime) => "lifetime",
        Ok(Rule::Idle) => "idleness",
        Ok(Rule::Departure) => "departure",
        Err(_) => "",
    }
}

fn days(seconds: u64) -> String {
    match seconds {
        0..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
