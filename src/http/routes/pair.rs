//! `/pair`: where a person lets a device in, or refuses it, by the code it shows. It works without scripts.
//!
//! Opening the page decides nothing, whatever its address holds: a link that somebody sends leads to a question. Against
//! device-code phishing (RFC 8628 §5.4) it shows who asks, from where and since when, and asks to compare the code.

use axum::{Form, Router, extract::State, response::Response, routing::get};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use keyledger_events::{Timestamp, event::Role};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    auth::{TeamSeat, seats, site_cookie},
    pages::page,
    pairing::{Undecided, allow, refuse},
};
use crate::{
    app::{App, Shared},
    http::{
        ApiQuery, Name, Problem,
        auth::{Caller, Person, cookie},
    },
    identity::pairing::{CodeError, Facing, PAIRING_TTL},
    random::{CODE_LEN, CODE_LETTERS},
};

/// Remembers through a sign-in which code somebody came with.
const RETURN_COOKIE: &str = "keyledger_pair";
/// What it holds where they came without one.
const NO_CODE: &str = "-";
/// As long as somebody may take to find their sign-in link.
const RETURN_TTL_SECONDS: u64 = 900;

/// The routes of this file.
pub fn router() -> Router<Shared> {
    Router::new().route("/pair", get(ask).post(decide))
}

#[derive(Default, Deserialize, garde::Validate)]
struct CodeQuery {
    #[serde(alias = "user_code")]
    #[garde(length(max = 40))]
    code: Option<String>,
}

async fn ask(
    State(app): State<Shared>,
    person: Result<Person, Problem>,
    query: Result<ApiQuery<CodeQuery>, Problem>,
) -> Response {
    let code = query.map(|ApiQuery(query)| query.code).unwrap_or_default().unwrap_or_default();
    let Ok(person) = person else { return not_signed_in(&app, &code) };
    if code.trim().is_empty() {
        return page(StatusCode::OK, "Let a device in", &code_form(true));
    }
    match app.pairings.look_up(&code, person.session, app.now()) {
        Ok(facing) => {
            let teams = seats(&app, person.id);
            page(StatusCode::OK, "Let this device in?", &question(&code, &facing, &teams, app.now()))
        }
        Err(error) => bad_code(error),
    }
}

#[derive(Deserialize)]
struct Decision {
    code: String,
    team: String,
    decision: Choice,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Choice {
    Allow,
    Deny,
}

async fn decide(
    State(app): State<Shared>,
    person: Result<Person, Problem>,
    form: Result<Form<Decision>, axum::extract::rejection::FormRejection>,
) -> Response {
    let Ok(person) = person else { return not_signed_in(&app, "") };
    let Ok(Form(form)) = form else {
        let body = html! { p { "The form was not complete. Nothing was decided." } (code_form(false)) };
        return page(StatusCode::BAD_REQUEST, "That did not work", &body);
    };
    match decided(&app, person, &form).await {
        Ok(Choice::Allow) => {
            let body = html! {
                p { "It fetches its key within seconds. You can close this page and go back to the device." }
                p { "If this was not your device after all, revoke it at once: it stands among your keys." }
            };
            page(StatusCode::OK, "The device is in", &body)
        }
        Ok(Choice::Deny) => {
            let body = html! { p { "It got nothing, and it is told so. The refusal is on the team's record." } };
            page(StatusCode::OK, "The device was refused", &body)
        }
        Err(Undecided::Code(error)) => bad_code(error),
        Err(Undecided::Problem(problem)) => {
            let body = html! { p { (problem.detail()) } p { "Nothing was decided." } (code_form(false)) };
            page(problem.status(), "That did not work", &body)
        }
    }
}

async fn decided(app: &App, person: Person, form: &Decision) -> Result<Choice, Undecided> {
    let team = form.team.parse().map_err(|_| Problem::not_found())?;
    let caller = Caller::new(app, person, team)?;
    match form.decision {
        Choice::Allow => {
            let name = form.name.as_deref().filter(|name| !name.trim().is_empty()).map(Name::new).transpose();
            let name = name.map_err(|error| {
                Problem::bad_request("invalid_field", format!("The device's name {}.", error.message()))
            })?;
            allow(app, &caller, &form.code, name).await?;
            Ok(Choice::Allow)
        }
        Choice::Deny => {
            refuse(app, &caller, &form.code).await?;
            Ok(Choice::Deny)
        }
    }
}

fn question(code: &str, facing: &Facing, teams: &[TeamSeat], now: Timestamp) -> Markup {
    // Only a policy of the team can still refuse these; a viewer or an auditor may not let a device in, but refuse one.
    let holds = |team: &&TeamSeat| matches!(team.role, Role::Owner | Role::Admin | Role::Member);
    let (may, first): (Vec<_>, _) = (teams.iter().filter(holds).collect(), teams.first());
    let seconds = now.since(facing.started_at).as_secs();
    html! {
        p { "The device must show this code. If it shows another one, or you did not start this yourself, deny it." }
        p.code { (shown(code)) }
        dl {
            dt { "It calls itself" } dd { (facing.device_name) }
            dt { "It asks from" } dd { (facing.address) }
            dt { "Since" } dd { time datetime=(facing.started_at) { (to_the_second(facing.started_at)) } ", " (seconds) " seconds ago" }
        }
        @if let Some(any) = may.first().copied().or(first) {
            form method="post" action="/pair" {
                // Enter in a field presses a form's first button (HTML §4.10.21.2): none that decides.
                button type="submit" disabled hidden {}
                input type="hidden" name="code" value=(shown(code));
                @if may.is_empty() {
                    input type="hidden" name="team" value=(any.id);
                    p { "You may let devices into none of your teams; you may refuse this one." }
                } @else {
                    @if may.len() == 1 {
                        input type="hidden" name="team" value=(any.id);
                        p { "It would act for you in " strong { (any.name) } "." }
                    } @else {
                        label for="team" { "It would act for you in" }
                        select id="team" name="team" { @for team in &may { option value=(team.id) { (team.name) } } }
                    }
                    label for="name" { "Another name for it, if you like" }
                    input id="name" name="name" maxlength="100" autocomplete="off";
                }
                div.choice {
                    @if !may.is_empty() { button type="submit" name="decision" value="allow" { "Allow" } }
                    button.deny type="submit" name="decision" value="deny" { "Deny" }
                }
            }
        } @else {
            p { "You are in no team, so there is nothing to let it into." }
        }
    }
}

/// The way to the question. It sends the code in the address, as the device's own link does: a code is no secret.
fn code_form(first: bool) -> Markup {
    html! {
        form method="get" action="/pair" {
            label for="code" { @if first { "The code that the device shows" } @else { "Another code" } }
            input #code name="code" required maxlength="40" autocomplete="off" autocapitalize="characters" spellcheck="false"
                autofocus[first] placeholder="XXXX-XXXX";
            button type="submit" { "Go on" }
        }
    }
}

fn bad_code(error: CodeError) -> Response {
    let minutes = PAIRING_TTL.as_secs() / 60;
    let (status, title, text) = match error {
        CodeError::Unknown => (
            StatusCode::NOT_FOUND,
            "No device has this code",
            "Compare it with what the device shows, letter by letter. After a few wrong codes you will have to wait."
                .to_owned(),
        ),
        CodeError::Decided => (
            StatusCode::CONFLICT,
            "This code was used",
            "Somebody has decided on it already. Each code works once; the device can ask for another one.".to_owned(),
        ),
        CodeError::Expired => (
            StatusCode::GONE,
            "This code has run out",
            format!("A code lives {minutes} minutes. Let the device ask for another one."),
        ),
        CodeError::TooManyGuesses => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many wrong codes",
            format!("No more codes are looked at for now. Try again in {minutes} minutes."),
        ),
    };
    let again = !matches!(error, CodeError::TooManyGuesses);
    page(status, title, &html! { p { (text) } @if again { (code_form(false)) } })
}

fn not_signed_in(app: &App, code: &str) -> Response {
    let body = html! {
        p { "Open your sign-in link in this browser; it leads back here. An operator of the ledger makes you one, and a fresh \
             ledger prints one when it starts." }
        @if is_code(code) { p { "The device's code, for later:" } p.code { (shown(code)) } }
    };
    let mut response = page(StatusCode::UNAUTHORIZED, "Sign in first", &body);
    let kept = if is_code(code) { shown(code) } else { NO_CODE.to_owned() };
    let cookie = site_cookie(app, RETURN_COOKIE, &kept, RETURN_TTL_SECONDS);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

/// Where somebody who was not signed in here wanted to go.
pub fn where_to_return(headers: &HeaderMap) -> Option<String> {
    match cookie(headers, RETURN_COOKIE)? {
        code if is_code(code) => Some(format!("/pair?code={}", shown(code))),
        NO_CODE => Some("/pair".to_owned()),
        _ => None,
    }
}

/// Ends what [`where_to_return`] reads.
pub fn forget_return(app: &App) -> HeaderValue {
    site_cookie(app, RETURN_COOKIE, "", 0)
}

/// A code as devices show it: only its letters count.
fn shown(code: &str) -> String {
    let letters: Vec<char> = letters(code).take(CODE_LEN).collect();
    let (left, right) = letters.split_at(letters.len().min(CODE_LEN / 2));
    format!("{}-{}", left.iter().collect::<String>(), right.iter().collect::<String>())
}

fn is_code(text: &str) -> bool {
    letters(text).count() == CODE_LEN && letters(text).all(|c| u8::try_from(c).is_ok_and(|c| CODE_LETTERS.contains(&c)))
}

fn letters(code: &str) -> impl Iterator<Item = char> + '_ {
    code.chars().filter(|c| !c.is_whitespace() && *c != '-').map(|c| c.to_ascii_uppercase())
}

fn to_the_second(at: Timestamp) -> String {
    at.datetime().format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_bad_code_has_its_own_words_and_status() {
        let all = [CodeError::Unknown, CodeError::Decided, CodeError::Expired, CodeError::TooManyGuesses];
        assert_eq!(all.map(|error| bad_code(error).status().as_u16()), [404, 409, 410, 429]);
    }

    proptest! {
        #[test]
        fn only_a_code_comes_back_after_a_sign_in(text in "\\PC{0,40}|[A-Za-z -]{0,12}") {
            let Ok(value) = HeaderValue::try_from(format!("a=b; {RETURN_COOKIE}={text}")) else { return Ok(()) };
            let headers = HeaderMap::from_iter([(header::COOKIE, value)]);
            if let Some(place) = where_to_return(&headers).filter(|place| place != "/pair") {
                let code = place.strip_prefix("/pair?code=").unwrap();
                prop_assert!(code.len() == CODE_LEN + 1 && is_code(code), "{place}");
            }
        }

        #[test]
        fn a_code_is_shown_as_devices_show_it(code in "[BCDFGHJKLMNPQRSTVWXZ]{8}", dashes in prop::collection::vec(0usize..9, 0..3)) {
            let mut typed = code.to_lowercase();
            dashes.into_iter().for_each(|at| typed.insert(at, if at % 2 == 0 { '-' } else { ' ' }));
            prop_assert!(is_code(&typed));
            prop_assert_eq!(shown(&typed), format!("{}-{}", &code[..4], &code[4..]));
            shown(&typed[..3]);
        }
    }
}
