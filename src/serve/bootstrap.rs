//! A fresh ledger: the system stream, its owner, a first team, and what is printed so that somebody can begin.

use keyledger_events::{
    CorrelationId, PersonId, TeamId,
    record::{Actor, AuthMethod},
    team::CreateTeam,
};

use super::ServeError;
use crate::{
    app::App,
    identity::link::Purpose,
    ledger::{Request, Who},
    random,
};

/// Makes the system stream and a first team where they are missing. Each step is one commit; a crash between them is
/// made good at the next start.
pub async fn ensure(app: &App) -> Result<(), ServeError> {
    let owner = match owner(app) {
        Some(owner) => owner,
        None => {
            let owner = app.new_person()?;
            create(app, TeamId::SYSTEM, "keyledger", owner).await?;
            owner
        }
    };
    if app.projections.people().team_count() == 1 {
        create(app, TeamId::from(random::uuid_v7(app.now())), "First team", owner).await?;
    }
    Ok(())
}

/// The system's owner.
pub fn owner(app: &App) -> Option<PersonId> {
    app.projections.people().owner(TeamId::SYSTEM)
}

async fn create(app: &App, team: TeamId, name: &str, owner: PersonId) -> Result<(), ServeError> {
    let command = CreateTeam { name: name.to_owned(), owner, owner_name: app.seal_name(owner, "Owner") };
    let correlation = CorrelationId::from(random::uuid_v7(app.now()));
    let request = Request {
        team,
        who: Who { actor: Actor::System, auth: AuthMethod::Internal, correlation, context: None },
        idempotency: None,
        essential: false,
        decide: Box::new(move |_, _| command.clone().decide()),
    };
    app.ledger.write(request).await.map(drop).map_err(|error| ServeError::Bootstrap(error.to_string()))
}

/// What is printed until the owner has signed in for the first time, and whenever `--sign-in-link` asks for it.
pub fn welcome(app: &App) -> Option<String> {
    let owner = owner(app)?;
    let now = app.now();
    let (link, _) = app.links.make(Purpose::SignIn { person: owner }, now);
    let (session, _) = app.sessions.start(owner, now);
    let (token, _) = app.tokens.issue(&session, now)?;
    let teams = app.projections.people().teams_of(owner);
    let (team, _) = teams.into_iter().find(|(team, _)| *team != TeamId::SYSTEM)?;
    let url = app.config.public_url();
    Some(format!(
        "Sign in as the owner (once, within an hour):\n\n  {}\n\n\
         Issue a first key (within an hour), ready to paste:\n\n  \
         curl -sS {url}/api/v1/credentials -H 'Authorization: Bearer {token}' -H 'X-Team-ID: {team}' \
         -H 'Content-Type: application/json' -d '{{\"kind\":\"integration\",\"display_name\":\"first key\",\"expires_in_days\":30}}'\n\n\
         Check it, with the raw_key of the answer:\n\n  \
         curl -sS -X POST {url}/api/v1/verify -H 'Authorization: Bearer RAW_KEY'\n",
        app.sign_in_url(&link)
    ))
}
