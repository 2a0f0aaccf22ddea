//! Notices that a key is about to end: 30, 7 and 1 day before, each once for a key and an endpoint.
//!
//! They stand in no log, so they are found by looking: which keys end within 30 days, and what has been said of them.
//! Whoever starts late says what is still true, once.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering::Relaxed};

use keyledger_events::{CredentialId, TeamId, Timestamp, team::EXPIRING, time::DAY_US};
use keyledger_projections::Until;
use serde_json::json;

use super::{Endpoint, message::Message};
use crate::{
    app::{App, Shared},
    http::views::clear,
};

/// So many days before a key's end, in the order they come closer.
const DAYS: [u8; 3] = [30, 7, 1];
/// How many notices wait in memory for one endpoint; the rest is found again.
const DUE_MAX: usize = 256;

/// A key of which an endpoint must hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    credential: CredentialId,
    ends_at: Timestamp,
}

/// An endpoint, and what was found for it.
type Wanting = (Arc<Endpoint>, Vec<Notice>);

/// The closest of the thresholds that a key has passed on the way to its end.
fn passed(ends_at: Timestamp, now: Timestamp) -> Option<u8> {
    let left_us = ends_at.micros().checked_sub(now.micros()).filter(|left| *left > 0)?;
    DAYS.into_iter().rev().find(|days| left_us <= u64::from(*days) * DAY_US)
}

/// When it was so many days to the end.
fn passed_at(ends_at: Timestamp, days: u8) -> Timestamp {
    Timestamp::from_micros(ends_at.micros().saturating_sub(u64::from(days) * DAY_US))
}

/// Gives every endpoint that has nothing due what is due by now.
pub async fn find(app: &Shared) {
    let mut wanting: HashMap<TeamId, Vec<Wanting>> = HashMap::new();
    for endpoint in app.webhooks.all() {
        let wants = endpoint.settings.read().wants(EXPIRING) && endpoint.progress.lock().parked.is_none();
        if wants && endpoint.due.lock().is_empty() {
            wanting.entry(endpoint.team).or_default().push((endpoint, Vec::new()));
        }
    }
    if wanting.is_empty() {
        return;
    }
    let app = app.clone();
    // A look at every key there is. A panic in it has been logged; the next round tries again.
    let _ = tokio::task::spawn_blocking(move || {
        let now = app.now();
        for (team, credential, ends_at) in app.projections.active().ending() {
            let Some(days) = passed(ends_at, now) else { continue };
            for (endpoint, found) in wanting.get_mut(&team).into_iter().flatten() {
                let told = || app.webhooks.kept.told(endpoint.id, credential);
                if found.len() < DUE_MAX && told().is_none_or(|told| told > days) {
                    found.push(Notice { credential, ends_at });
                }
            }
        }
        for (endpoint, mut found) in wanting.into_values().flatten().filter(|(_, found)| !found.is_empty()) {
            found.sort_by_key(|notice| notice.ends_at);
            *endpoint.due.lock() = found.into();
            endpoint.wake.notify_one();
        }
    })
    .await;
}

/// Drops what is kept of keys that have ended.
pub fn clean_up(app: &App) {
    let now = app.now();
    let is_over = |credential| app.projections.active().end_of(credential).is_none_or(|end| end <= now);
    app.webhooks.kept.forget_told(is_over);
}

/// The next notice for an endpoint, if what it would say is still true.
pub fn next(app: &App, endpoint: &Endpoint) -> Option<Message> {
    loop {
        let Notice { credential, ends_at } = *endpoint.due.lock().front()?;
        if let Some(message) = message(app, endpoint, credential, ends_at) {
            return Some(message);
        }
        done(app, endpoint);
    }
}

/// The first notice is said, or need not be.
pub fn done(app: &App, endpoint: &Endpoint) {
    let mut due = endpoint.due.lock();
    due.pop_front();
    if due.is_empty() && !endpoint.removed.load(Relaxed) {
        // There may be more than fitted.
        app.webhooks.news.notify_one();
    }
}

fn message(app: &App, endpoint: &Endpoint, credential: CredentialId, ends_at: Timestamp) -> Option<Message> {
    let active = app.projections.active();
    if active.end_of(credential) != Some(ends_at) || !endpoint.settings.read().wants(EXPIRING) {
        return None;
    }
    let days = passed(ends_at, app.now())?;
    let since = passed_at(ends_at, days);
    let told = app.webhooks.kept.told(endpoint.id, credential);
    if told.is_some_and(|told| told <= days) {
        return None;
    }
    let found = app.team_at(endpoint.team, Until::Now, |view, _| {
        let row = view.directory.get(credential)?;
        let data = json!({
            "credential_id": row.id,
            "team_id": endpoint.team,
            "kind": row.kind,
            "display_name": clear(&row.label),
            "key_prefix": row.prefix.to_string(),
            "user_id": row.holder,
            "issued_at": row.issued_at,
            "expires_at": ends_at,
            "days": days,
            "last_used_at": active.last_used(row.id),
        });
        Some((row.issued_at, data))
    });
    let (issued_at, data) = found.ok().flatten()?;
    if since < issued_at {
        // It was never so far from its end: whoever issued it knows.
        app.webhooks.kept.put_told(endpoint.id, credential, days);
        return None;
    }
    Some(Message::of_notice(endpoint.id, credential, days, since, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_passed_at_its_instant_and_until_the_end() {
        let end = Timestamp::from_micros(100 * DAY_US);
        for (days_before_us, expected) in [
            (31 * DAY_US, None),
            (30 * DAY_US + 1, None),
            (30 * DAY_US, Some(30)),
            (7 * DAY_US + 1, Some(30)),
            (7 * DAY_US, Some(7)),
            (DAY_US + 1, Some(7)),
            (DAY_US, Some(1)),
            (1, Some(1)),
            (0, None),
        ] {
            let now = Timestamp::from_micros(end.micros() - days_before_us);
            assert_eq!(passed(end, now), expected, "{days_before_us}");
        }
        assert_eq!(passed(end, end.plus_days(1)), None);
        assert_eq!(passed_at(end, 7).micros(), 93 * DAY_US);
    }
}
