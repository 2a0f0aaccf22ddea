//! A credential's life: issued, shortened, handed over, ended. Every rule of the contract's section 2 that is a decision.

use std::time::Duration;

use crate::{
    CredentialId, Event, PersonId, Revision, Timestamp,
    event::{
        CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialIssuedV1, CredentialRevokedV1, ExpiryShortenedV1,
        RevokeReason, Role, ServiceCredentialIssuedV1,
    },
    seal::Label,
    secret::{KeyPrefix, Kind, Secret, SecretHash},
    team::{DEVICES_PER_MEMBER_MAX, Decision, Fact, Refusal, TeamState, may_hold},
    time::DAY_US,
};

/// The longest lifetime of any key, in days.
pub const LIFETIME_DAYS_MAX: u16 = 365;
/// The longest time an old and a new key live side by side, in seconds.
pub const OVERLAP_SECONDS_MAX: u32 = 2_592_000;

/// What decisions know of a credential.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its kind.
    pub kind: Kind,
    /// Who answers for it.
    pub holder: PersonId,
    /// Who issued it.
    pub issued_by: PersonId,
    /// When.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// What it was issued for, in whole days; none: for ever. Shortening leaves this as it is.
    pub lifetime_days: Option<u16>,
    /// Its name.
    pub name: Label,
    /// What it is for.
    pub purpose: Option<String>,
    /// A device's companion.
    pub companion: Option<CredentialId>,
    /// A companion's device.
    pub companion_of: Option<CredentialId>,
    /// Whether an event has ended it.
    pub ended: bool,
    /// The last event about it.
    pub revision: Revision,
}

impl Credential {
    /// active(k,t): issued ≤ t < min(expires_at, revoked_at).
    pub fn alive(&self, now: Timestamp) -> bool {
        !self.ended && self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether a departure leaves it for somebody to decide on.
    pub fn survives_departure(&self) -> bool {
        matches!(self.kind, Kind::Integration | Kind::Agent) && self.companion_of.is_none()
    }

    /// Whether this is a device that lacks just this companion.
    pub(crate) fn takes_companion(&self, kind: Kind, holder: PersonId) -> bool {
        let free = self.kind == Kind::Device && self.companion.is_none() && !self.ended;
        free && kind == Kind::Agent && self.holder == holder
    }

    pub(crate) fn is_live_device_of(&self, member: PersonId, now: Timestamp) -> bool {
        self.kind == Kind::Device && self.holder == member && self.alive(now)
    }
}

/// A new secret, as far as the log may know it.
#[derive(Clone, Debug)]
pub struct KeyMaterial {
    /// The new credential's id.
    pub id: CredentialId,
    /// Its secret's hash.
    pub hash: SecretHash,
    /// Its secret's first characters.
    pub prefix: KeyPrefix,
}

impl KeyMaterial {
    /// Of a secret that was just drawn.
    pub fn new(id: CredentialId, secret: &Secret) -> Self {
        Self { id, hash: secret.hash(), prefix: secret.prefix() }
    }
}

/// Issues an integration or agent key.
#[derive(Clone, Debug)]
pub struct Issue {
    /// Who, and who will answer for it.
    pub actor: PersonId,
    /// Integration or agent.
    pub kind: Kind,
    /// What to call it.
    pub name: Label,
    /// What it is for.
    pub purpose: Option<String>,
    /// Its lifetime; none: never.
    pub expires_in_days: Option<u16>,
    /// Its secret.
    pub key: KeyMaterial,
}

impl Issue {
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        may_issue(team, self.actor)?;
        if !matches!(self.kind, Kind::Integration | Kind::Agent) {
            return Err(Refusal::Forbidden);
        }
        let expires_at = lifetime(team, self.expires_in_days, now)?;
        Ok(vec![
            Event::CredentialIssued(CredentialIssuedV1 {
                credential: self.key.id,
                kind: self.kind,
                hash: self.key.hash,
                prefix: self.key.prefix,
                name: self.name,
                purpose: self.purpose,
                holder: self.actor,
                expires_at,
                rotated_from: None,
                companion_of: None,
            })
            .into(),
        ])
    }
}

/// Issues a device key and its companion, by confirming a pairing.
#[derive(Clone, Debug)]
pub struct PairDevice {
    /// Who confirms, and whose device it is.
    pub actor: PersonId,
    /// What the device is called.
    pub name: Label,
    /// What the companion is called.
    pub companion_name: Label,
    /// The device's secret.
    pub device: KeyMaterial,
    /// The companion's secret.
    pub companion: KeyMaterial,
}

impl PairDevice {
    /// The device lives as long as the team's policy allows: for ever, where "never" is allowed.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        may_issue(team, self.actor)?;
        if team.credentials.values().filter(|key| key.is_live_device_of(self.actor, now)).count()
            >= DEVICES_PER_MEMBER_MAX
        {
            return Err(Refusal::TooManyDevices);
        }
        let days = (!team.policy.never_allowed).then_some(team.policy.lifetime_days_max);
        let expires_at = lifetime(team, days, now)?;
        let device = self.device.id;
        let issued = |key: KeyMaterial, kind, name, companion_of| {
            Event::CredentialIssued(CredentialIssuedV1 {
                credential: key.id,
                kind,
                hash: key.hash,
                prefix: key.prefix,
                name,
                purpose: None,
                holder: self.actor,
                expires_at,
                rotated_from: None,
                companion_of,
            })
        };
        Ok(vec![
            issued(self.device, Kind::Device, self.name, None).into(),
            Fact { event: issued(self.companion, Kind::Agent, self.companion_name, Some(device)), cause: Some(0) },
        ])
    }
}

/// Issues an `sv-` in the system stream.
#[derive(Clone, Debug)]
pub struct IssueService {
    /// Who: an operator.
    pub actor: PersonId,
    /// Which gateway, edge or scraper it is for.
    pub name: String,
    /// Its lifetime; none: never.
    pub expires_in_days: Option<u16>,
    /// Its secret.
    pub key: KeyMaterial,
}

impl IssueService {
    /// # Errors
    /// [`Refusal`]. `system` is the system stream's state.
    pub fn decide(self, system: &TeamState, now: Timestamp) -> Decision {
        system.operator(self.actor)?;
        let expires_at = lifetime(system, self.expires_in_days, now)?;
        Ok(vec![
            Event::ServiceCredentialIssued(ServiceCredentialIssuedV1 {
                credential: self.key.id,
                hash: self.key.hash,
                prefix: self.key.prefix,
                name: self.name,
                holder: self.actor,
                expires_at,
            })
            .into(),
        ])
    }
}

/// Who ends a credential.
#[derive(Clone, Copy, Debug)]
pub enum Revoker {
    /// A person of the team.
    Person(PersonId),
    /// Whoever presented the secret.
    Holder,
}

/// Ends a credential; a device takes its companion along.
#[derive(Clone, Debug)]
pub struct Revoke {
    /// Who.
    pub by: Revoker,
    /// Which.
    pub credential: CredentialId,
    /// Why.
    pub reason: RevokeReason,
    /// In their words.
    pub note: Option<String>,
}

impl Revoke {
    /// No facts if it has ended already: ending is idempotent.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        let key = team.credentials.get(&self.credential);
        if let Revoker::Person(person) = self.by {
            let role = team.role(person)?;
            let key = key.filter(|key| may_see(role, person, key)).ok_or(Refusal::UnknownCredential)?;
            may_end(role, person, key)?;
        }
        let key = key.ok_or(Refusal::UnknownCredential)?;
        if !key.alive(now) {
            return Ok(Vec::new());
        }
        let mut facts = Vec::with_capacity(2);
        let event = revoked(self.credential, self.reason, self.note);
        end_with_companion(team, self.credential, event.into(), now, &mut facts);
        Ok(facts)
    }
}

/// Issues a successor and lets the old key live on for a while, never longer than it would have.
#[derive(Clone, Debug)]
pub struct Rotate {
    /// Who.
    pub actor: PersonId,
    /// Which.
    pub credential: CredentialId,
    /// How long both live, in seconds; beyond [`OVERLAP_SECONDS_MAX`] it is that.
    pub overlap_seconds: u32,
    /// The successor's lifetime; none: as long as the old one was issued for, or as the policy now allows.
    pub expires_in_days: Option<u16>,
    /// The successor's secret.
    pub key: KeyMaterial,
}

impl Rotate {
    /// # Errors
    /// [`Refusal`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        let role = team.role(self.actor)?;
        let old = team
            .credentials
            .get(&self.credential)
            .filter(|key| may_see(role, self.actor, key))
            .ok_or(Refusal::UnknownCredential)?;
        may_rotate(role, self.actor, old)?;
        may_issue(team, self.actor)?;
        if !old.survives_departure() {
            return Err(Refusal::NotRotatable);
        }
        if !old.alive(now) {
            return Err(Refusal::Ended);
        }
        let expires_at = match self.expires_in_days {
            None => lifetime(team, inherited_days(team, old), now)?,
            days => lifetime(team, days, now)?,
        };
        // Whoever has left or may hold no key any more answers for no new one.
        let holder = if team.present(old.holder).is_some_and(may_hold) { old.holder } else { self.actor };
        let mut facts = vec![
            Event::CredentialIssued(CredentialIssuedV1 {
                credential: self.key.id,
                kind: old.kind,
                hash: self.key.hash,
                prefix: self.key.prefix,
                name: old.name.clone(),
                purpose: old.purpose.clone(),
                holder,
                expires_at,
                rotated_from: Some(self.credential),
                companion_of: None,
            })
            .into(),
        ];
        let to = now.plus(Duration::from_secs(u64::from(self.overlap_seconds.min(OVERLAP_SECONDS_MAX))));
        if old.expires_at.is_none_or(|end| to < end) {
            let event =
                Event::ExpiryShortened(ExpiryShortenedV1 { credential: self.credential, from: old.expires_at, to });
            facts.push(Fact { event, cause: Some(0) });
        }
        Ok(facts)
    }
}

/// Records that a credential's time has come. The expiry itself has held since `expires_at`.
#[derive(Clone, Copy, Debug)]
pub struct Expire {
    /// Which.
    pub credential: CredentialId,
}

impl Expire {
    /// No facts if there is nothing to record, or not yet.
    ///
    /// # Errors
    /// [`Refusal::UnknownCredential`].
    pub fn decide(self, team: &TeamState, now: Timestamp) -> Decision {
        let key = team.credentials.get(&self.credential).ok_or(Refusal::UnknownCredential)?;
        let due = |key: &Credential| key.expires_at.filter(|end| !key.ended && *end <= now);
        // A companion whose device is due too ends as the device's cascade, so that the record names its cause.
        let (id, key) = match key.companion_of.and_then(|device| Some((device, team.credentials.get(&device)?))) {
            Some((device, state)) if due(state).is_some() => (device, state),
            _ => (self.credential, key),
        };
        let Some(effective_at) = due(key) else { return Ok(Vec::new()) };
        let mut facts = vec![Event::CredentialExpired(CredentialExpiredV1 { credential: id, effective_at }).into()];
        if let Some(companion) = key.companion.filter(|id| team.credentials.get(id).is_some_and(|key| !key.ended)) {
            let event = Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
                credential: companion,
                device: id,
                effective_at,
            });
            facts.push(Fact { event, cause: Some(0) });
        }
        Ok(facts)
    }
}

/// Whether a role sees a credential at all: a member and a viewer see no devices (nor companions) but their own.
pub fn may_see(role: Role, person: PersonId, key: &Credential) -> bool {
    let personal = key.kind == Kind::Device || key.companion_of.is_some();
    !personal || key.holder == person || matches!(role, Role::Owner | Role::Admin | Role::Auditor)
}

pub(crate) fn revoked(credential: CredentialId, reason: RevokeReason, note: Option<String>) -> Event {
    Event::CredentialRevoked(CredentialRevokedV1 { credential, reason, note })
}

/// Adds the end of `credential` to `facts`, and behind it that of its live companion.
pub(crate) fn end_with_companion(
    team: &TeamState,
    credential: CredentialId,
    end: Fact,
    now: Timestamp,
    facts: &mut Vec<Fact>,
) {
    let cause = facts.len();
    facts.push(end);
    let companion = team.credentials.get(&credential).and_then(|key| key.companion);
    if let Some(companion) = companion.filter(|id| team.credentials.get(id).is_some_and(|key| !key.ended)) {
        let event = Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
            credential: companion,
            device: credential,
            effective_at: now,
        });
        facts.push(Fact { event, cause: Some(cause) });
    }
}

/// The issuer, whoever answers for it, an admin or the owner; auditors change nothing.
fn may_end(role: Role, person: PersonId, key: &Credential) -> Result<(), Refusal> {
    let own = key.holder == person || key.issued_by == person;
    match role {
        Role::Owner | Role::Admin => Ok(()),
        Role::Member | Role::Viewer if own => Ok(()),
        _ => Err(Refusal::Forbidden),
    }
}

/// Whoever answers for it, an admin or the owner. Not a former holder: they would get a secret that another answers for.
fn may_rotate(role: Role, person: PersonId, key: &Credential) -> Result<(), Refusal> {
    if key.holder == person || matches!(role, Role::Owner | Role::Admin) { Ok(()) } else { Err(Refusal::Forbidden) }
}

fn may_issue(team: &TeamState, actor: PersonId) -> Result<(), Refusal> {
    let role = team.role(actor)?;
    let allowed = if team.policy.admins_only { matches!(role, Role::Owner | Role::Admin) } else { may_hold(role) };
    if allowed { Ok(()) } else { Err(Refusal::Forbidden) }
}

fn lifetime(team: &TeamState, days: Option<u16>, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    match days {
        None if !team.policy.never_allowed => Err(Refusal::NeverNotAllowed),
        None => Ok(None),
        Some(days) if !(1..=LIFETIME_DAYS_MAX).contains(&days) => Err(Refusal::LifetimeOutOfRange),
        Some(days) if days > team.policy.lifetime_days_max => {
            Err(Refusal::LifetimeTooLong { days_max: team.policy.lifetime_days_max })
        }
        Some(days) => Ok(Some(now.plus_days(days))),
    }
}

/// A successor lives as long as its predecessor was issued for, as far as the policy still allows.
fn inherited_days(team: &TeamState, old: &Credential) -> Option<u16> {
    match old.lifetime_days {
        None if team.policy.never_allowed => None,
        days => Some(days.unwrap_or(LIFETIME_DAYS_MAX).min(team.policy.lifetime_days_max)),
    }
}

/// The lifetime between two instants in whole days, at least one.
pub(crate) fn days_between(from: Timestamp, to: Timestamp) -> u16 {
    (to.since(from).as_micros() as u64).div_ceil(DAY_US).clamp(1, u64::from(LIFETIME_DAYS_MAX)) as u16
}
