//! Folding a team's stream. Whatever a decision can't have written is refused, so that a replay proves the rules.

use super::{Member, TeamState, WEBHOOKS_PER_TEAM_MAX, Webhook, may_hold};
use crate::{
    CredentialId, Event, PersonId, Record, RecordHash, Revision, TeamId, Timestamp,
    credential::{self, Credential, LEAK_PLACES_MAX},
    event::Role,
    record::{Actor, StreamHead},
    seal::Label,
    secret::Kind,
};

impl TeamState {
    /// Folds one more event in. `hash` is the record's. The chain itself is [`crate::record::follow_chain`]'s to check.
    ///
    /// # Errors
    /// [`Impossible`] if the event can't follow what came before: the log was not written by decisions. The state is
    /// then of no use.
    pub fn apply(&mut self, record: &Record, hash: RecordHash) -> Result<(), Impossible> {
        let first = self.head.is_none();
        let team = *self.team.get_or_insert(record.team);
        self.head = Some(StreamHead { revision: record.revision, hash });
        self.recorded_at = record.recorded_at;
        self.fold(record, team, first).map_err(|why| Impossible { revision: record.revision, why })
    }

    fn fold(&mut self, record: &Record, team: TeamId, first: bool) -> Result<(), &'static str> {
        ensure(record.team == team, "an event of another team")?;
        ensure(matches!(record.event, Event::TeamCreated(_)) == first, "a team begins once, and first of all")?;
        match &record.event {
            Event::TeamCreated(_) | Event::PairingDenied(_) => {}
            Event::PersonErased(_) => ensure(team == TeamId::SYSTEM, "a person is erased outside the system stream")?,
            Event::SigningKeyRotated(_) => {
                ensure(team == TeamId::SYSTEM, "the signing key is rotated outside the system stream")?;
            }
            Event::HistorySealed(e) => {
                ensure(team == TeamId::SYSTEM, "history is sealed outside the system stream")?;
                ensure(record.meta.actor == Actor::System, "history is sealed by somebody")?;
                ensure(e.through >= self.sealed_through, "a seal of less than the one before")?;
                self.sealed_through = e.through;
            }
            Event::PolicyChanged(e) => {
                ensure(e.policy.is_possible(), "a policy looser than the ledger's")?;
                self.policy = e.policy;
            }
            Event::MemberJoined(e) => {
                let joined = Member { role: e.role, departed: false };
                let before = self.members.insert(e.member, joined);
                ensure(before.is_none_or(|before| before.departed), "a member joins twice")?;
                ensure(e.role != Role::Owner || self.members.len() == 1, "somebody joins as a second owner")?;
            }
            Event::RoleChanged(e) => {
                let member = self.members.get_mut(&e.member).ok_or("a stranger's role changes")?;
                ensure(!member.departed && member.role == e.from, "a role changes that nobody had")?;
                member.role = e.to;
            }
            Event::MemberDeparted(e) => {
                let member = self.members.get_mut(&e.member).ok_or("a stranger departs")?;
                ensure(!member.departed && member.role != Role::Owner, "the owner, or a member who has left, departs")?;
                member.departed = true;
            }
            Event::CredentialIssued(e) => {
                ensure(e.kind != Kind::Service, "a service credential is issued to a team")?;
                let old = e.rotated_from.map(|old| self.credentials.get(&old).is_some_and(|old| old.kind == e.kind));
                ensure(old.unwrap_or(true), "a successor of nothing, or of another kind")?;
                if let Some(device) = e.companion_of {
                    let device = self.credentials.get_mut(&device).filter(|key| key.takes_companion(e.kind, e.holder));
                    device.ok_or("a companion without its device")?.companion = Some(e.credential);
                }
                let key = Credential {
                    name: e.name.clone(),
                    purpose: e.purpose.clone(),
                    companion_of: e.companion_of,
                    ..issued(record, e.kind, e.holder, e.expires_at)
                };
                self.issue(record, e.credential, key)?;
            }
            Event::ServiceCredentialIssued(e) => {
                ensure(team == TeamId::SYSTEM, "a service credential is issued outside the system stream")?;
                let name = Label::Clear(e.name.clone());
                let key = Credential { name, ..issued(record, Kind::Service, e.holder, e.expires_at) };
                self.issue(record, e.credential, key)?;
            }
            Event::CredentialRevoked(_) => self.live(record)?.ended = true,
            Event::CredentialCascadeRevoked(e) => {
                let key = self.live(record)?;
                ensure(key.companion_of == Some(e.device), "a cascade from another's device")?;
                key.ended = true;
                let device = self.credentials.get(&e.device);
                ensure(device.is_some_and(|device| device.ended), "a cascade from a living device")?;
            }
            Event::CredentialExpired(e) => {
                let due = e.effective_at <= record.recorded_at;
                let key = self.live(record)?;
                ensure(due && key.expires_at == Some(e.effective_at), "an expiry before its time")?;
                key.ended = true;
            }
            Event::ExpiryShortened(e) => {
                by_people_only(record)?;
                let key = self.live(record)?;
                let shorter = key.expires_at.is_none_or(|end| e.to < end);
                ensure(shorter && key.expires_at == e.from, "an expiry that is not shortened")?;
                key.expires_at = Some(e.to);
            }
            Event::CredentialLeaked(e) => {
                let key = self.credentials.get_mut(&e.credential).ok_or("a leak of what never was")?;
                ensure(key.leaks.len() < LEAK_PLACES_MAX, "too many leaks of one credential")?;
                ensure(!key.leaks.contains(&e.place_id), "the same leak twice")?;
                key.leaks.push(e.place_id);
            }
            Event::DeadKeyPresented(e) => {
                ensure(record.meta.actor == Actor::System, "a dead key's knock is heard by somebody")?;
                ensure(e.presented_at <= record.recorded_at, "a dead key knocks in the future")?;
                let key = self.credentials.get_mut(&e.credential).ok_or("what never was is presented")?;
                ensure(!key.alive(record.recorded_at), "a living key is presented as dead")?;
                ensure(key.is_first_of_its_day(e.presented_at), "a dead key knocks twice a day")?;
                key.dead_presented_at = Some(e.presented_at);
            }
            Event::CredentialHandedOver(e) => {
                by_people_only(record)?;
                let heir = self.present(e.to).is_some_and(may_hold);
                let key = self.live(record)?;
                ensure(heir && key.holder == e.from && key.survives_departure(), "handed over by or to the wrong one")?;
                key.holder = e.to;
            }
            Event::WebhookAdded(e) => {
                by_people_only(record)?;
                let webhook = Webhook { url: e.url.clone(), types: e.types.clone(), generation: 0 };
                ensure(webhook.is_possible(), "a webhook to nowhere")?;
                ensure(self.webhooks.insert(e.webhook, webhook).is_none(), "a webhook is added twice")?;
                ensure(self.webhooks.len() <= WEBHOOKS_PER_TEAM_MAX, "a webhook too many")?;
            }
            Event::WebhookChanged(e) => {
                by_people_only(record)?;
                let before = self.webhooks.get_mut(&e.webhook).ok_or("a webhook changes that is not there")?;
                let next = before.generation.checked_add(1);
                ensure(e.generation == before.generation || Some(e.generation) == next, "a secret is skipped")?;
                *before = Webhook { url: e.url.clone(), types: e.types.clone(), generation: e.generation };
                ensure(before.is_possible(), "a webhook to nowhere")?;
            }
            Event::WebhookRemoved(e) => {
                by_people_only(record)?;
                ensure(self.webhooks.remove(&e.webhook).is_some(), "a webhook is removed that is not there")?;
            }
        }
        Ok(())
    }

    fn issue(&mut self, record: &Record, id: CredentialId, key: Credential) -> Result<(), &'static str> {
        by_people_only(record)?;
        ensure(self.present(key.holder).is_some_and(may_hold), "issued for somebody who may hold no key")?;
        ensure(self.credentials.insert(id, key).is_none(), "a credential is issued twice")
    }

    fn live(&mut self, record: &Record) -> Result<&mut Credential, &'static str> {
        let id = record.event.credential().ok_or("about no credential")?;
        let key = self.credentials.get_mut(&id).filter(|key| !key.ended);
        let key = key.ok_or("what has ended, or never was, changes")?;
        key.revision = record.revision;
        Ok(key)
    }
}

fn ensure(holds: bool, why: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(why) }
}

/// Rule 5: a stolen key can't mint another, nor let one live on under somebody else's name.
fn by_people_only(record: &Record) -> Result<(), &'static str> {
    ensure(!matches!(record.meta.actor, Actor::Credential(_)), "a credential manages credentials")
}

/// A credential as every kind of issue leaves it.
fn issued(record: &Record, kind: Kind, holder: PersonId, expires_at: Option<Timestamp>) -> Credential {
    let issued_by = match record.meta.actor {
        Actor::Person(person) => person,
        Actor::Credential(_) | Actor::System => holder,
    };
    Credential {
        kind,
        holder,
        issued_by,
        issued_at: record.recorded_at,
        expires_at,
        lifetime_days: expires_at.map(|end| credential::days_between(record.recorded_at, end)),
        name: Label::Clear(String::new()),
        purpose: None,
        companion: None,
        companion_of: None,
        ended: false,
        revision: record.revision,
        leaks: Vec::new(),
        dead_presented_at: None,
    }
}

/// An event that can't follow what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {revision}: {why}")]
pub struct Impossible {
    /// Where in the team's stream.
    pub revision: Revision,
    /// What is wrong.
    pub why: &'static str,
}
