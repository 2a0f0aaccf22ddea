//! The pages there are so far: following a one-time link, and where it leads. They work without scripts.

use axum::{
    Form, Router,
    extract::State,
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header};
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;

use crate::{
    app::Shared,
    http::{
        ApiQuery, Name, Problem,
        auth::{Origin, Person, SESSION_COOKIE},
        routes::{
            auth::{LinkBody, redeem, seats, site_cookie},
            pair,
        },
    },
    identity::{link::Purpose, session::SESSION_TTL},
};

/// The routes of this file.
pub fn router() -> Router<Shared> {
    Router::new().route("/", get(home)).route("/sign-in", get(ask).post(sign_in)).route("/style.css", get(style))
}

#[derive(Deserialize, garde::Validate)]
struct LinkQuery {
    #[garde(length(max = 200))]
    token: String,
}

/// Opening a link changes nothing: programs that preview links must not use it up.
async fn ask(State(app): State<Shared>, ApiQuery(query): ApiQuery<LinkQuery>) -> Response {
    let Some(purpose) = app.links.peek(&query.token, app.now()) else { return bad_link() };
    let (title, invited) = match purpose {
        Purpose::SignIn { .. } => ("Sign in".to_owned(), false),
        Purpose::Invitation { team, .. } => {
            let name = app.projections.people().team(team).map(|team| team.name.clone());
            (format!("Join {}", name.unwrap_or_default()), true)
        }
    };
    let form = html! {
        form method="post" action="/sign-in" {
            input type="hidden" name="token" value=(query.token);
            @if invited {
                label for="name" { "Your name" }
                input id="name" name="name" required maxlength="100" autocomplete="name";
            }
            button type="submit" { (title) }
        }
        p { "This link works once." }
    };
    page(StatusCode::OK, &title, &form)
}

#[derive(Deserialize)]
struct SignInForm {
    token: String,
    name: Option<String>,
}

async fn sign_in(
    State(app): State<Shared>,
    origin: Origin,
    present: Result<Person, Problem>,
    headers: HeaderMap,
    Form(form): Form<SignInForm>,
) -> Response {
    let name = match form.name.as_deref().filter(|name| !name.trim().is_empty()).map(Name::new).transpose() {
        Ok(name) => name,
        Err(error) => {
            return page(
                StatusCode::BAD_REQUEST,
                "That name can't be used",
                &html! { p { "It " (error.message()) "." } },
            );
        }
    };
    let body = LinkBody { token: form.token, name };
    match redeem(&app, &origin, present.ok().map(|person| person.id), body).await {
        Ok((_, cookie)) => {
            let next = pair::where_to_return(&headers).unwrap_or_else(|| "/".to_owned());
            let mut response = Redirect::to(&next).into_response();
            let headers = response.headers_mut();
            headers.append(header::SET_COOKIE, site_cookie(&app, SESSION_COOKIE, &cookie, SESSION_TTL.as_secs()));
            headers.append(header::SET_COOKIE, pair::forget_return(&app));
            response
        }
        Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => bad_link(),
        Err(problem) => page(problem.status(), "That did not work", &html! { p { (problem.detail()) } }),
    }
}

async fn home(State(app): State<Shared>, person: Result<Person, Problem>) -> Response {
    let Ok(person) = person else {
        let body = html! { p { "Open the sign-in link you were given. A fresh ledger prints one when it starts." } };
        return page(StatusCode::UNAUTHORIZED, "Not signed in", &body);
    };
    let teams = seats(&app, person.id);
    let body = html! {
        p { "You are signed in." }
        @if teams.is_empty() { p { "You are in no team." } }
        @else {
            table {
                thead { tr { th { "Team" } th { "Your role" } th { "Id, for X-Team-ID" } } }
                tbody { @for team in &teams { tr { td { (team.name) } td { (team.role.name()) } td { code { (team.id) } } } } }
            }
        }
        p { a href="/pair" { "Let a device in" } " by the code it shows." }
        p { "The pages for keys are still to come; until then: " a href="/docs" { "the API" } " and the command line." }
    };
    page(StatusCode::OK, "keyledger", &body)
}

fn bad_link() -> Response {
    let body = html! { p { "It was used, has run out, or was never made. Ask for a new one." } };
    page(StatusCode::UNAUTHORIZED, "This link does not work", &body)
}

/// A page: its title, and what stands under it.
pub fn page(status: StatusCode, title: &str, body: &Markup) -> Response {
    let html = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (title) }
                link rel="stylesheet" href="/style.css";
            }
            body { main { h1 { (title) } (body) } }
        }
    };
    const POLICY: &str =
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (status, headers, Html(html.into_string())).into_response()
}

async fn style() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=3600")],
        include_str!("style.css"),
    )
}
