//! Where a team's events are sent: who may say so, and what may be said.

use keyledger_events::{
    PersonId, WebhookId,
    record::Actor,
    team::{AddWebhook, ChangeWebhook, Refusal, RemoveWebhook, WebhookChange, webhook_types},
};

use crate::{
    story::{ADMIN, AUDITOR, MEMBER, OWNER, STRANGER, Story, VIEWER},
    words::show,
};

pub fn hook(number: u8) -> WebhookId {
    let mut bytes = [0; 16];
    bytes[15] = number;
    WebhookId::from_bytes(bytes)
}

fn add(actor: PersonId, number: u8, url: &str, types: &[&str]) -> AddWebhook {
    let types = types.iter().map(|name| (*name).to_owned()).collect();
    AddWebhook { actor, webhook: hook(number), url: url.to_owned(), types }
}

fn change(actor: PersonId, number: u8, change: WebhookChange) -> ChangeWebhook {
    ChangeWebhook { actor, webhook: hook(number), change }
}

const URL: &str = "https://hooks.example/in";

fn said(decision: keyledger_events::team::Decision, story: &Story) -> Result<Vec<String>, Refusal> {
    decision.map(|facts| facts.iter().map(|fact| show(fact, story.now)).collect())
}

#[test]
fn an_endpoint_comes_changes_and_goes() {
    let mut story = Story::acme();
    let decided = add(ADMIN, 1, URL, &["team.created", "credential.revoked", "team.created"]).decide(&story.state);
    assert_eq!(
        said(decided.clone(), &story).unwrap(),
        [r#"webhook w1 to https://hooks.example/in for ["credential.revoked", "team.created"]"#]
    );
    story.append(Actor::Person(ADMIN), decided.unwrap());
    for (what, expected) in [
        (WebhookChange::default(), None),
        (WebhookChange { url: Some(URL.to_owned()), ..WebhookChange::default() }, None),
        (
            WebhookChange { rotate: true, ..WebhookChange::default() },
            Some(r#"webhook w1 now to https://hooks.example/in for ["credential.revoked", "team.created"], secret 1"#),
        ),
        (
            WebhookChange { types: Some(vec![]), url: Some("https://x.example/".to_owned()), rotate: false },
            Some("webhook w1 now to https://x.example/ for [], secret 0"),
        ),
    ] {
        let decided = said(change(OWNER, 1, what).decide(&story.state), &story).unwrap();
        assert_eq!(decided.first().map(String::as_str), expected);
    }
    let decided = RemoveWebhook { actor: OWNER, webhook: hook(1) }.decide(&story.state);
    assert_eq!(said(decided.clone(), &story).unwrap(), ["webhook w1 removed"]);
    story.append(Actor::Person(OWNER), decided.unwrap());
    assert!(story.state.webhooks.is_empty());
}

#[test]
fn only_owner_and_admins_and_only_of_this_team() {
    let mut story = Story::acme();
    let one = add(OWNER, 1, URL, &[]).decide(&story.state).unwrap();
    story.append(Actor::Person(OWNER), one);
    let team = &story.state;
    for (actor, refusal) in [
        (MEMBER, Refusal::Forbidden),
        (VIEWER, Refusal::Forbidden),
        (AUDITOR, Refusal::Forbidden),
        (STRANGER, Refusal::UnknownTeam),
    ] {
        assert_eq!(add(actor, 2, URL, &[]).decide(team), Err(refusal.clone()));
        assert_eq!(change(actor, 1, WebhookChange::default()).decide(team), Err(refusal.clone()));
        assert_eq!(RemoveWebhook { actor, webhook: hook(1) }.decide(team), Err(refusal));
    }
    for unknown in [
        change(OWNER, 2, WebhookChange::default()).decide(team),
        RemoveWebhook { actor: OWNER, webhook: hook(2) }.decide(team),
    ] {
        assert_eq!(unknown, Err(Refusal::UnknownWebhook));
    }
}

#[test]
fn what_may_be_said() {
    let mut story = Story::acme();
    let long = |len: usize| format!("https://{}", "x".repeat(len - 8));
    for (url, may) in [
        (URL, true),
        (&*long(2048), true),
        (&*long(2049), false),
        ("https://", false),
        ("http://hooks.example/", false),
        ("HTTPS://hooks.example/", false),
        ("https://hooks.example/ä", false),
        ("https://hooks.example/ x", false),
        ("https://hooks.example/\n", false),
    ] {
        let decided = add(OWNER, 1, url, &[]).decide(&story.state);
        let expected = if may { Ok(()) } else { Err(Refusal::NotAWebhookUrl) };
        assert_eq!(decided.map(drop), expected, "{url}");
    }
    let unknown = add(OWNER, 1, URL, &["credential.revoked", "credential_revoked"]).decide(&story.state);
    assert_eq!(unknown, Err(Refusal::UnknownEventType));
    let all: Vec<_> = webhook_types().collect();
    assert!(all.iter().any(|name| name == "credential.cascade_revoked") && all.len() > 17, "{all:?}");
    for number in 1..=10 {
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let one = add(OWNER, number, URL, &all).decide(&story.state).unwrap();
        story.append(Actor::Person(OWNER), one);
    }
    assert_eq!(add(OWNER, 11, URL, &[]).decide(&story.state), Err(Refusal::TooManyWebhooks));
}
