//! What may happen at all: the ledger's history folded as the rules of its domain demand, in memory that grows with what
//! is alive.
//!
//! Every rule is judged anew from the events alone; the code that decided them is not asked. Two things it can't see,
//! because what has ended is forgotten: an id that is used again after its credential's end, and whether an unknown
//! credential never was or has ended.

use std::collections::HashMap;

use keyledger_events::{
    CommitNumber, CredentialId, Event, EventId, PersonId, Position, Record, RecordHash, Revision, TeamId, Timestamp,
    WebhookId,
    event::{CredentialIssuedV1, PolicyV1, Role},
    record::{Actor, RecordHeader, StreamHead, follow_chain},
    rotation::{Certificate, KeyChain},
    seal::Label,
    secret::{Kind, SecretHash},
    store::Damage,
};
use keyledger_projections::{
    Digest, Digests, People,
    active::{self, State},
    streams,
};

use super::live::{LiveSet, Slot, Spread};

/// Something that can't have happened, or does not follow.
#[derive(Debug)]
pub(super) struct Flaw {
    /// Where.
    pub position: Position,
    /// What, as one clause.
    pub what: String,
}

/// A commit's own account of itself, as checked and hashed from its bytes alone.
pub(super) struct Facts<'a> {
    /// Its number.
    pub number: CommitNumber,
    /// The position of its first event.
    pub first_position: Position,
    /// Its first record's header.
    pub first: RecordHeader,
    /// Its last record's hash.
    pub last_hash: RecordHash,
    /// Its events, in order; at least one.
    pub records: &'a [Record],
}

/// The ledger as far as it has been read.
pub(super) struct History {
    team_numbers: HashMap<TeamId, u32, Spread>,
    teams: Vec<Team>,
    /// Present members only; in which team by its number.
    roles: HashMap<(u32, PersonId), Role, Spread>,
    /// Members of all times, for their digest.
    people: People,
    /// How many devices of a person in a team no event has ended.
    devices: HashMap<(u32, PersonId), u32, Spread>,
    /// The endpoints of each team that ever had one, and which of its secrets signs.
    webhooks: HashMap<u32, HashMap<WebhookId, u32>, Spread>,
    live: LiveSet,
    /// The latest recorded time.
    recorded_at: Timestamp,
    /// The signing keys, as far as the events tell of them.
    keys: Option<KeyChain>,
    /// Rows of `active` that can't change any more; only kept while a digest is still to be compared.
    ended_rows: Option<Digest>,
    row: Vec<u8>,
    /// What must still happen in the commit being read.
    open: Open,
}

struct Team {
    id: TeamId,
    head: Option<StreamHead>,
    owners: u32,
    policy: PolicyV1,
    events: u64,
    commits: u64,
    /// The wrapping sum of its commits' numbers, and that of their squares.
    numbers: [u64; 2],
}

/// What a commit has begun and must finish.
#[derive(Default)]
struct Open {
    /// Devices issued, still without a companion.
    lone_devices: Vec<(Position, CredentialId)>,
    /// Devices ended whose companion lives on.
    cascades: Vec<Cascade>,
    departed: Vec<(Position, PersonId)>,
    /// Living credentials whose secret was found, by the event that says so: it must end them.
    leaked: Vec<(Position, CredentialId, EventId)>,
}

struct Cascade {
    position: Position,
    device: CredentialId,
    companion: Slot,
    cause: EventId,
    /// When the device ended.
    at: Timestamp,
}

impl History {
    /// An empty ledger. `digests` says whether [`History::digests`] will be asked for.
    pub fn new(digests: bool) -> Self {
        Self {
            team_numbers: HashMap::default(),
            roles: HashMap::default(),
            teams: Vec::new(),
            people: People::default(),
            devices: HashMap::default(),
            webhooks: HashMap::default(),
            live: LiveSet::default(),
            recorded_at: Timestamp::default(),
            keys: None,
            ended_rows: digests.then(Digest::default),
            row: Vec::new(),
            open: Open::default(),
        }
    }

    /// How many credentials no event has ended.
    pub fn live(&self) -> u64 {
        self.live.len() as u64
    }

    /// How many teams there are, the system stream included.
    pub fn teams(&self) -> u64 {
        self.teams.len() as u64
    }

    /// The latest recorded time.
    pub fn recorded_at(&self) -> Timestamp {
        self.recorded_at
    }

    /// The certificates that are events, the oldest first.
    pub fn certificates(&self) -> &[Certificate] {
        self.keys.as_ref().map_or(&[], KeyChain::certificates)
    }

    /// The last event of a stream.
    pub fn stream_head(&self, team: TeamId) -> Option<StreamHead> {
        self.teams[*self.team_numbers.get(&team)? as usize].head
    }

    /// Takes in the next commit. Returns the number of its team: how many teams came before it.
    pub fn apply(&mut self, facts: &Facts<'_>) -> Result<u32, Flaw> {
        let header = &facts.first;
        let at = |what: Damage| Flaw { position: facts.first_position, what: what.to_string() };
        if header.recorded_at < self.recorded_at {
            return Err(at(Damage::Time { previous: self.recorded_at, found: header.recorded_at }));
        }
        self.recorded_at = header.recorded_at;
        let team = self.team(header.team);
        let head = self.teams[team as usize].head;
        follow_chain(head, header).map_err(|error| at(Damage::Chain { team: header.team, error }))?;
        for (record, position) in facts.records.iter().zip(facts.first_position.0..) {
            let position = Position(position);
            let founded = head.is_some() || position != facts.first_position;
            self.event(team, founded, position, record).map_err(|what| Flaw { position, what })?;
            self.people.apply(record);
        }
        self.finish_commit(team, facts.first_position)?;
        let events = facts.records.len() as u64;
        let (row, number) = (&mut self.teams[team as usize], facts.number.0);
        row.head = Some(StreamHead { revision: Revision(header.revision.0 + events - 1), hash: facts.last_hash });
        row.events += events;
        row.commits += 1;
        row.numbers[0] = row.numbers[0].wrapping_add(number);
        row.numbers[1] = row.numbers[1].wrapping_add(number.wrapping_mul(number));
        Ok(team)
    }

    fn team(&mut self, id: TeamId) -> u32 {
        let next = self.teams.len() as u32;
        *self.team_numbers.entry(id).or_insert_with(|| {
            self.teams.push(Team {
                id,
                head: None,
                owners: 0,
                policy: PolicyV1::default(),
                events: 0,
                commits: 0,
                numbers: [0; 2],
            });
            next
        })
    }

    fn event(&mut self, team: u32, founded: bool, position: Position, record: &Record) -> Result<(), String> {
        let event = &record.event;
        match event {
            Event::TeamCreated(_) if founded => return Err("a team that exists is created".into()),
            Event::TeamCreated(_) => {}
            _ if !founded => return Err(format!("{} in a team that was never created", event.name())),
            Event::PolicyChanged(e) => {
                if !(1..=365).contains(&e.policy.lifetime_days_max) {
                    return Err(format!("a policy of {} days", e.policy.lifetime_days_max));
                }
                self.teams[team as usize].policy = e.policy;
            }
            Event::MemberJoined(e) => {
                if self.roles.insert((team, e.member), e.role).is_some() {
                    return Err(format!("person {} joins twice", e.member));
                }
                self.teams[team as usize].owners += u32::from(e.role == Role::Owner);
            }
            Event::RoleChanged(e) => {
                let before = self.roles.insert((team, e.member), e.to);
                if before != Some(e.from) || e.from == e.to {
                    let (from, to, is) = (e.from.name(), e.to.name(), before.map_or("no member", Role::name));
                    return Err(format!("person {}, who is {is}, changes from {from} to {to}", e.member));
                }
                let owners = &mut self.teams[team as usize].owners;
                *owners = *owners + u32::from(e.to == Role::Owner) - u32::from(e.from == Role::Owner);
            }
            Event::MemberDeparted(e) => match self.roles.remove(&(team, e.member)) {
                None => return Err(format!("person {}, who is no member, departs", e.member)),
                Some(Role::Owner) => return Err(format!("person {}, who owns the team, departs", e.member)),
                Some(_) => self.open.departed.push((position, e.member)),
            },
            Event::CredentialIssued(e) => self.issued(team, position, e)?,
            Event::ServiceCredentialIssued(e) => {
                if self.teams[team as usize].id != TeamId::SYSTEM {
                    return Err(format!("service credential {} outside the system stream", e.credential));
                }
                let name = Label::Clear(e.name.clone());
                self.born(team, e.credential, e.hash, Kind::Service, e.holder, e.expires_at, &name)?;
            }
            Event::CredentialRevoked(e) => {
                let slot = self.alive(team, e.credential, "is revoked")?;
                let because = |leak: &(_, _, EventId)| record.meta.cause == Some(leak.2);
                self.open.leaked.retain(|leak| leak.1 != e.credential || !because(leak));
                self.end(slot, position, record.id, State::Revoked, self.recorded_at, None);
            }
            Event::CredentialExpired(e) => {
                let slot = self.alive(team, e.credential, "expires")?;
                let ends_at = self.live.get(slot).and_then(|live| live.ends_at);
                if ends_at != Some(e.effective_at) || e.effective_at > self.recorded_at {
                    return Err(format!(
                        "credential {} expires at {}, which is not its time",
                        e.credential, e.effective_at
                    ));
                }
                self.end(slot, position, record.id, State::Expired, e.effective_at, Some(e.effective_at));
            }
            Event::CredentialCascadeRevoked(e) => {
                let slot = self.alive(team, e.credential, "is cascade-revoked")?;
                let found =
                    self.open.cascades.iter().position(|open| open.device == e.device && open.companion == slot);
                let cascade = found.map(|found| self.open.cascades.swap_remove(found)).ok_or_else(|| {
                    format!(
                        "credential {} ends with device {}, which does not end in this commit",
                        e.credential, e.device
                    )
                })?;
                if record.meta.cause != Some(cascade.cause) {
                    return Err(format!(
                        "the cascade of credential {} does not name its device's end as its cause",
                        e.credential
                    ));
                }
                if e.effective_at > cascade.at {
                    return Err(format!(
                        "credential {} ends at {}, later than its device",
                        e.credential, e.effective_at
                    ));
                }
                self.end(slot, position, record.id, State::Revoked, e.effective_at, Some(e.effective_at));
            }
            Event::ExpiryShortened(e) => {
                let slot = self.alive(team, e.credential, "is shortened")?;
                let Some(live) = self.live.get_mut(slot) else { return Ok(()) };
                if live.ends_at != e.from || e.from.is_some_and(|from| from <= e.to) {
                    return Err(format!("the expiry of credential {} is not shortened but misstated", e.credential));
                }
                live.ends_at = Some(e.to);
            }
            Event::CredentialHandedOver(e) => {
                let slot = self.alive(team, e.credential, "is handed over")?;
                if !self.roles.contains_key(&(team, e.to)) {
                    return Err(format!("credential {} is handed to {}, who is no member", e.credential, e.to));
                }
                let Some(live) = self.live.get_mut(slot) else { return Ok(()) };
                if live.kind == Kind::Device || live.partner.is_some() {
                    return Err(format!("credential {} is a device's and handed over", e.credential));
                }
                if live.holder != e.from {
                    return Err(format!(
                        "credential {} is handed over by {}, who does not hold it",
                        e.credential, e.from
                    ));
                }
                live.holder = e.to;
            }
            Event::SigningKeyRotated(e) => self.rotated(team, position, &e.certificate)?,
            Event::HistorySealed(_) => {
                if self.teams[team as usize].id != TeamId::SYSTEM {
                    return Err("history is sealed outside the system stream".into());
                }
                if record.meta.actor != Actor::System {
                    return Err("history is sealed by somebody who is not the ledger".into());
                }
            }
            Event::CredentialLeaked(e) => {
                if self.living(team, e.credential, "is leaked")? {
                    self.open.leaked.push((position, e.credential, record.id));
                }
            }
            Event::DeadKeyPresented(e) => {
                if record.meta.actor != Actor::System {
                    return Err("a dead key is noticed by somebody who is not the ledger".into());
                }
                if e.presented_at > self.recorded_at {
                    return Err(format!("credential {} is presented in the future", e.credential));
                }
                if self.living(team, e.credential, "is presented as dead")? {
                    return Err(format!("credential {} is presented as dead, but lives", e.credential));
                }
            }
            Event::WebhookAdded(e) => {
                if self.webhooks.entry(team).or_default().insert(e.webhook, 0).is_some() {
                    return Err(format!("webhook {} is added twice", e.webhook));
                }
            }
            Event::WebhookChanged(e) => {
                let found = self.webhooks.get_mut(&team).and_then(|webhooks| webhooks.get_mut(&e.webhook));
                let generation = found.ok_or_else(|| format!("webhook {} changes, but there is none", e.webhook))?;
                if e.generation < *generation || e.generation - *generation > 1 {
                    let (is, says) = (*generation, e.generation);
                    return Err(format!("the secret of webhook {} changes from number {is} to {says}", e.webhook));
                }
                *generation = e.generation;
            }
            Event::WebhookRemoved(e) => {
                let found = self.webhooks.get_mut(&team).and_then(|webhooks| webhooks.remove(&e.webhook));
                found.ok_or_else(|| format!("webhook {} is removed, but there is none", e.webhook))?;
            }
            Event::PairingDenied(_) | Event::PersonErased(_) => {}
        }
        Ok(())
    }

    fn rotated(&mut self, team: u32, position: Position, certificate: &str) -> Result<(), String> {
        if self.teams[team as usize].id != TeamId::SYSTEM {
            return Err("the signing key is rotated outside the system stream".into());
        }
        let certificate = Certificate::parse(certificate).map_err(|error| error.to_string())?;
        if (certificate.position(), certificate.at()) != (position, self.recorded_at) {
            let (says, at) = (certificate.position(), certificate.at());
            return Err(format!("the certificate of a signing key is of position {says} at {at}"));
        }
        match &mut self.keys {
            Some(keys) => keys.push(certificate).map_err(|error| error.to_string()),
            None => {
                self.keys = Some(KeyChain::begun_by(certificate));
                Ok(())
            }
        }
    }

    fn issued(&mut self, team: u32, position: Position, e: &CredentialIssuedV1) -> Result<(), String> {
        let id = e.credential;
        if e.kind == Kind::Service {
            return Err(format!("service credential {id} issued like a team's own"));
        }
        if let Some(old) = e.rotated_from {
            let slot = self.alive(team, old, "is rotated")?;
            if self.live.get(slot).is_some_and(|live| live.kind != e.kind) {
                return Err(format!("credential {id} takes over from one of another kind"));
            }
        }
        let mut ends_at = e.expires_at;
        let mut device_slot = None;
        if let Some(device) = e.companion_of {
            let slot = self.alive(team, device, "gets a companion")?;
            let lone = self.open.lone_devices.iter().position(|(_, lone)| *lone == device);
            let lone = lone.filter(|_| e.kind == Kind::Agent);
            let lone = lone.ok_or_else(|| format!("credential {id} can't be the companion of {device}"))?;
            self.open.lone_devices.swap_remove(lone);
            let device_ends = self.live.get(slot).and_then(|live| live.ends_at);
            ends_at = [ends_at, device_ends].into_iter().flatten().min();
            device_slot = Some(slot);
        }
        let slot = self.born(team, id, e.hash, e.kind, e.holder, ends_at, &e.name)?;
        if let Some(device) = device_slot {
            if let Some(companion) = self.live.get_mut(slot) {
                companion.partner = Some(device);
            }
            if let Some(device) = self.live.get_mut(device) {
                device.partner = Some(slot);
            }
        }
        if e.kind == Kind::Device {
            self.open.lone_devices.push((position, id));
            *self.devices.entry((team, e.holder)).or_default() += 1;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // A credential has so many sides.
    fn born(
        &mut self,
        team: u32,
        id: CredentialId,
        hash: SecretHash,
        kind: Kind,
        holder: PersonId,
        ends_at: Option<Timestamp>,
        name: &Label,
    ) -> Result<Slot, String> {
        if !self.roles.contains_key(&(team, holder)) {
            return Err(format!("credential {id} is issued for {holder}, who is no member"));
        }
        let policy = &self.teams[team as usize].policy;
        match ends_at {
            None if !policy.never_allowed => {
                return Err(format!("credential {id} never expires, against the team's policy"));
            }
            Some(end) if end > self.recorded_at.plus_days(policy.lifetime_days_max) => {
                return Err(format!("credential {id} lives until {end}, longer than the team's policy allows"));
            }
            Some(end) if end <= self.recorded_at => return Err(format!("credential {id} is issued dead")),
            _ => {}
        }
        self.row.clear();
        active::write_name(name, &mut self.row);
        self.live
            .insert(id, hash, holder, team, kind, ends_at, &self.row)
            .ok_or_else(|| format!("credential {id} is issued twice"))
    }

    /// The live credential that something happens to.
    fn alive(&self, team: u32, id: CredentialId, what: &str) -> Result<Slot, String> {
        let slot = self.live.find(id).ok_or_else(|| format!("credential {id} {what}, but none of that id is alive"))?;
        match self.live.get(slot) {
            Some(live) if live.team == team => Ok(slot),
            _ => Err(format!("credential {id} {what} in another team's stream")),
        }
    }

    /// Whether a credential lives, by the events and the clock. One that is not known may have ended.
    fn living(&self, team: u32, id: CredentialId, what: &str) -> Result<bool, String> {
        match self.live.find(id).and_then(|slot| self.live.get(slot)) {
            Some(live) if live.team != team => Err(format!("credential {id} {what} in another team's stream")),
            Some(live) => Ok(live.ends_at.is_none_or(|end| end > self.recorded_at)),
            None => Ok(false),
        }
    }

    fn end(
        &mut self,
        slot: Slot,
        position: Position,
        event: EventId,
        state: State,
        at: Timestamp,
        ends_at: Option<Timestamp>,
    ) {
        let Some(live) = self.live.get_mut(slot) else { return };
        live.ends_at = [live.ends_at, ends_at].into_iter().flatten().min();
        let live = &*live;
        if live.kind == Kind::Device {
            let owned = (live.team, live.holder);
            if let Some(devices) = self.devices.get_mut(&owned) {
                *devices -= 1;
                if *devices == 0 {
                    self.devices.remove(&owned);
                }
            }
            if let Some(companion) = live.partner {
                let device = live.credential;
                self.open.cascades.push(Cascade { position, device, companion, cause: event, at });
            }
        }
        if let Some(digest) = &mut self.ended_rows {
            let live = self.live.get(slot);
            if let Some(live) = live {
                self.row.clear();
                let team = self.teams[live.team as usize].id;
                row(&self.live, live, team, state, &mut self.row);
                digest.add(&self.row);
            }
        }
        self.live.remove(slot);
    }

    /// What a commit must leave true.
    fn finish_commit(&mut self, team: u32, first: Position) -> Result<(), Flaw> {
        if let Some(cascade) = self.open.cascades.first() {
            let what = format!("device {} ends, but its companion does not end with it", cascade.device);
            return Err(Flaw { position: cascade.position, what });
        }
        if let Some((position, credential, _)) = self.open.leaked.first() {
            let what = format!("credential {credential} is leaked, but not ended because of it");
            return Err(Flaw { position: *position, what });
        }
        if let Some((position, device)) = self.open.lone_devices.first() {
            return Err(Flaw { position: *position, what: format!("device {device} is issued without its companion") });
        }
        for (position, member) in self.open.departed.drain(..) {
            if !self.devices.contains_key(&(team, member)) {
                continue;
            }
            // Devices end in the departure's own commit, but for those whose time was up already.
            let survivor = self.live.iter().find(|live| {
                live.team == team
                    && live.kind == Kind::Device
                    && live.holder == member
                    && live.ends_at.is_none_or(|end| end > self.recorded_at)
            });
            if let Some(device) = survivor {
                let what = format!("person {member} departs, but their device {} lives on", device.credential);
                return Err(Flaw { position, what });
            }
        }
        match self.teams[team as usize].owners {
            1 => Ok(()),
            owners => {
                let what = format!("team {} has {owners} owners after this commit", self.teams[team as usize].id);
                Err(Flaw { position: first, what })
            }
        }
    }

    /// The digests as it stands now, `position` events in. No more will be asked for: rows of what ends are not kept from here on.
    pub fn take_digests(&mut self, position: Position) -> Digests {
        let mut active = self.ended_rows.take().unwrap_or_default();
        let mut bytes = Vec::new();
        for live in self.live.iter() {
            bytes.clear();
            row(&self.live, live, self.teams[live.team as usize].id, State::Alive, &mut bytes);
            active.add(&bytes);
        }
        let mut streams = Digest::default();
        for team in &self.teams {
            let Some(head) = team.head else { continue };
            bytes.clear();
            streams::write_row(
                &mut bytes,
                team.id,
                head,
                [team.events, team.commits, team.numbers[0], team.numbers[1]],
            );
            streams.add(&bytes);
        }
        Digests { position, active, streams, people: self.people.digest() }
    }
}

fn row(set: &LiveSet, live: &super::live::Live, team: TeamId, state: State, out: &mut Vec<u8>) {
    let life = (live.kind, state, live.ends_at);
    active::write_row(out, &live.hash, live.credential, (team, live.holder), life, set.name(live));
}
