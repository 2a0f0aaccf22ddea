//! Where a team's events are sent: which endpoints there are, and what each is told of.
//!
//! Sending is no decision and leaves no event. A secret is in no event either: it is derived, outside the log, from the
//! endpoint's id and the generation that stands here.

use super::{Decision, Refusal, TeamState};
use crate::{
    Event, PersonId, WebhookId,
    event::{WebhookAddedV1, WebhookChangedV1, WebhookRemovedV1},
};

/// How many endpoints a team may have.
pub const WEBHOOKS_PER_TEAM_MAX: usize = 10;

/// The longest URL, in bytes.
pub const WEBHOOK_URL_LEN_MAX: usize = 2048;

/// The type of the notice that a key is about to end: the one thing sent that is no event.
pub const EXPIRING: &str = "credential.expiring";

/// One endpoint, as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where to.
    pub url: String,
    /// Which types, in ascending order; none: all.
    pub types: Vec<String>,
    /// Which of its secrets signs.
    pub generation: u32,
}

impl Webhook {
    /// Whether it has the form of what was once decided. Which types there are depends on the program's age.
    pub(super) fn is_possible(&self) -> bool {
        is_url(&self.url) && self.types.is_sorted_by(|one, next| one < next)
    }
}

/// What an event's name is called where it is sent: `credential_revoked` is `credential.revoked`.
pub fn webhook_type(name: &str) -> String {
    name.replacen('_', ".", 1)
}

/// Everything an endpoint can be told of.
pub fn webhook_types() -> impl Iterator<Item = String> {
    Event::TYPES.iter().map(|(_, _, name)| webhook_type(name)).chain([EXPIRING.to_owned()])
}

/// Sends the team's events to one more place.
#[derive(Clone, Debug)]
pub struct AddWebhook {
    /// Who.
    pub actor: PersonId,
    /// The new endpoint's id.
    pub webhook: WebhookId,
    /// Where to, as a URL parser has written it out.
    pub url: String,
    /// Which types; none: all.
    pub types: Vec<String>,
}

impl AddWebhook {
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState) -> Decision {
        team.admin(self.actor)?;
        let types = checked(&self.url, self.types)?;
        if team.webhooks.len() >= WEBHOOKS_PER_TEAM_MAX {
            return Err(Refusal::TooManyWebhooks);
        }
        Ok(vec![Event::WebhookAdded(WebhookAddedV1 { webhook: self.webhook, url: self.url, types }).into()])
    }
}

/// What of an endpoint changes; what is none stays.
#[derive(Clone, Debug, Default)]
pub struct WebhookChange {
    /// Where to, as a URL parser has written it out.
    pub url: Option<String>,
    /// Which types; an empty list: all.
    pub types: Option<Vec<String>>,
    /// Whether another secret signs from now on.
    pub rotate: bool,
}

/// Changes what is sent to an endpoint, where to, or under which secret.
#[derive(Clone, Debug)]
pub struct ChangeWebhook {
    /// Who.
    pub actor: PersonId,
    /// Which endpoint.
    pub webhook: WebhookId,
    /// What.
    pub change: WebhookChange,
}

impl ChangeWebhook {
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState) -> Decision {
        team.admin(self.actor)?;
        let before = team.webhooks.get(&self.webhook).ok_or(Refusal::UnknownWebhook)?;
        let WebhookChange { url, types, rotate } = self.change;
        let url = url.unwrap_or_else(|| before.url.clone());
        let types = match types {
            Some(types) => checked(&url, types)?,
            None => {
                checked(&url, Vec::new())?;
                before.types.clone()
            }
        };
        // After four milliards of rotations the secret stays.
        let generation = before.generation.saturating_add(u32::from(rotate));
        if (&url, &types, generation) == (&before.url, &before.types, before.generation) {
            return Ok(Vec::new());
        }
        Ok(vec![
            Event::WebhookChanged(WebhookChangedV1 { webhook: self.webhook, url, types, generation }).into(),
        ])
    }
}

/// Sends nothing more to an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct RemoveWebhook {
    /// Who.
    pub actor: PersonId,
    /// Which endpoint.
    pub webhook: WebhookId,
}

impl RemoveWebhook {
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState) -> Decision {
        team.admin(self.actor)?;
        if !team.webhooks.contains_key(&self.webhook) {
            return Err(Refusal::UnknownWebhook);
        }
        Ok(vec![Event::WebhookRemoved(WebhookRemovedV1 { webhook: self.webhook }).into()])
    }
}

/// The types in their order, each once, if they and the URL are of the right form. Where the host is, and whether it may
/// be asked, is for the one who sends.
fn checked(url: &str, mut types: Vec<String>) -> Result<Vec<String>, Refusal> {
    if !is_url(url) {
        return Err(Refusal::NotAWebhookUrl);
    }
    types.sort_unstable();
    types.dedup();
    let is_known = |name: &String| webhook_types().any(|known| known == *name);
    if types.iter().all(is_known) { Ok(types) } else { Err(Refusal::UnknownEventType) }
}

fn is_url(url: &str) -> bool {
    url.len() <= WEBHOOK_URL_LEN_MAX
        && url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty())
        && url.bytes().all(|byte| byte.is_ascii_graphic())
}
