//! Facts in words, for the tables.

use keyledger_events::{CredentialId, Event, PersonId, Timestamp, WebhookId, event::PolicyV1, team::Fact};

use crate::story::PEOPLE;

/// A fact in words; times relative to `now`, and behind `<-` the index of its cause.
pub fn show(fact: &Fact, now: Timestamp) -> String {
    let ends = |end: Option<Timestamp>| end.map_or("never".to_owned(), |end| format!("until {}", relative(end, now)));
    let event = match &fact.event {
        Event::TeamCreated(_) => "team created".to_owned(),
        Event::PolicyChanged(e) => {
            let PolicyV1 { lifetime_days_max, never_allowed, admins_only } = e.policy;
            format!("policy {lifetime_days_max}d never={never_allowed} admins_only={admins_only}")
        }
        Event::MemberJoined(e) => format!("{} joined as {}", who(e.member), e.role.name()),
        Event::RoleChanged(e) => format!("{} {} -> {}", who(e.member), e.from.name(), e.to.name()),
        Event::MemberDeparted(e) if e.left_by_themselves => format!("{} left", who(e.member)),
        Event::MemberDeparted(e) => format!("{} removed", who(e.member)),
        Event::CredentialIssued(e) => {
            let mut text = format!("{} {} for {} {}", e.kind, which(e.credential), who(e.holder), ends(e.expires_at));
            for (word, key) in [("from", e.rotated_from), ("of", e.companion_of)] {
                if let Some(key) = key {
                    text += &format!(" {word} {}", which(key));
                }
            }
            text
        }
        Event::CredentialRevoked(e) => format!("revoked {} {:?}", which(e.credential), e.reason),
        Event::CredentialCascadeRevoked(e) => {
            format!("cascade {} of {} at {}", which(e.credential), which(e.device), relative(e.effective_at, now))
        }
        Event::CredentialExpired(e) => format!("expired {} at {}", which(e.credential), relative(e.effective_at, now)),
        Event::ExpiryShortened(e) => {
            format!("shortened {} from {} to {}", which(e.credential), ends(e.from), relative(e.to, now))
        }
        Event::CredentialHandedOver(e) => {
            format!("handed over {} from {} to {}", which(e.credential), who(e.from), who(e.to))
        }
        Event::CredentialLeaked(e) => {
            let place = e.place.as_ref().map(|place| match place {
                keyledger_events::seal::Label::Clear(place) => place.as_str(),
                keyledger_events::seal::Label::Sealed(_) => "somewhere",
            });
            format!("leaked {} at {}", which(e.credential), place.unwrap_or("nowhere"))
        }
        Event::DeadKeyPresented(e) => {
            let surface = e.surface.map_or("any", keyledger_events::presented::Surface::name);
            format!(
                "dead {} on {surface} from {} at {}",
                which(e.credential),
                e.address.name(),
                relative(e.presented_at, now)
            )
        }
        Event::PairingDenied(_) => "pairing denied".to_owned(),
        Event::ServiceCredentialIssued(e) => {
            format!("service {} for {} {}", which(e.credential), who(e.holder), ends(e.expires_at))
        }
        Event::PersonErased(e) => format!("{} erased", who(e.person)),
        Event::SigningKeyRotated(_) => "signing key rotated".to_owned(),
        Event::HistorySealed(e) => format!("history sealed before {}", e.through),
        Event::WebhookAdded(e) => format!("webhook {} to {} for {:?}", hook(e.webhook), e.url, e.types),
        Event::WebhookChanged(e) => {
            format!("webhook {} now to {} for {:?}, secret {}", hook(e.webhook), e.url, e.types, e.generation)
        }
        Event::WebhookRemoved(e) => format!("webhook {} removed", hook(e.webhook)),
    };
    match fact.cause {
        Some(cause) => format!("{event} <- {cause}"),
        None => event,
    }
}

fn who(person: PersonId) -> &'static str {
    let names = ["owner", "admin", "member", "other", "viewer", "auditor", "stranger"];
    PEOPLE.iter().position(|known| *known == person).map_or("somebody", |at| names[at])
}

fn which(id: CredentialId) -> String {
    let mut number = [0; 4];
    number.copy_from_slice(&id.as_bytes()[12..]);
    format!("k{}", u32::from_be_bytes(number))
}

fn hook(id: WebhookId) -> String {
    format!("w{}", id.as_bytes()[15])
}

fn relative(at: Timestamp, now: Timestamp) -> String {
    let us = at.micros() as i64 - now.micros() as i64;
    match us {
        0 => "now".to_owned(),
        us if us % 86_400_000_000 == 0 => format!("{:+}d", us / 86_400_000_000),
        us if us % 1_000_000 == 0 => format!("{:+}s", us / 1_000_000),
        us => format!("{us:+}us"),
    }
}
