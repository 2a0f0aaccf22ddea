//! New credentials: by people for the team, by pairing for a device, by operators for a service.

use super::{KeyMaterial, LIFETIME_DAYS_MAX};
use crate::{
    Event, PersonId, Timestamp,
    event::{CredentialIssuedV1, Role, ServiceCredentialIssuedV1},
    seal::Label,
    secret::Kind,
    team::{DEVICES_PER_MEMBER_MAX, Decision, Fact, Refusal, TeamState, may_hold},
};

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

/// Whoever may hold keys, unless the team's policy leaves issuing to admins.
pub(super) fn may_issue(team: &TeamState, actor: PersonId) -> Result<(), Refusal> {
    let role = team.role(actor)?;
    let allowed = if team.policy.admins_only { matches!(role, Role::Owner | Role::Admin) } else { may_hold(role) };
    if allowed { Ok(()) } else { Err(Refusal::Forbidden) }
}

/// When a key of so many days ends, as far as the ledger and the team's policy allow it; none: never.
pub(super) fn lifetime(team: &TeamState, days: Option<u16>, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
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
