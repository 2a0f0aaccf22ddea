//! What the tests of this crate share: credentials by number, events about them.

use keyledger_events::{
    CorrelationId, CredentialId, Event, EventId, Meta, PersonId, Record, RecordHash, Revision, TeamId, Timestamp,
    event::{CredentialIssuedV1, CredentialRevokedV1, RevokeReason},
    record::{Actor, AuthMethod},
    seal::Label,
    secret::{Kind, RANDOM_LEN, Secret, SecretHash},
};

use crate::Active;

pub(crate) fn id(number: u64) -> CredentialId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[8] = 0x80;
    CredentialId::from_bytes(bytes)
}

pub(crate) fn team(number: u8) -> TeamId {
    TeamId::from_bytes([number + 1; 16])
}

pub(crate) fn person(number: u8) -> PersonId {
    PersonId::from_bytes([number + 101; 16])
}

pub(crate) fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(crate) fn secret(kind: Kind, mut number: u64) -> Secret {
    let mut random = [0; RANDOM_LEN];
    for digit in &mut random {
        *digit = (number % 62) as u8;
        number /= 62;
    }
    Secret::new(kind, &random)
}

/// A credential to be issued: number `n` of team 0 and person 0, an integration key without an end.
#[derive(Clone)]
pub(crate) struct Issue {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) team: TeamId,
    pub(crate) holder: PersonId,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) companion_of: Option<CredentialId>,
    pub(crate) name: Label,
}

impl Issue {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            kind: Kind::Integration,
            team: team(0),
            holder: person(0),
            expires_at: None,
            companion_of: None,
            name: Label::Clear(format!("key {number}")),
        }
    }

    pub(crate) fn secret(&self) -> Secret {
        secret(self.kind, self.number)
    }

    pub(crate) fn hash(&self) -> SecretHash {
        self.secret().hash()
    }

    pub(crate) fn event(&self) -> Event {
        Event::CredentialIssued(CredentialIssuedV1 {
            credential: id(self.number),
            kind: self.kind,
            hash: self.hash(),
            prefix: self.secret().prefix(),
            name: self.name.clone(),
            purpose: None,
            holder: self.holder,
            expires_at: self.expires_at,
            rotated_from: None,
            companion_of: self.companion_of,
        })
    }

    pub(crate) fn apply(&self, active: &Active) {
        active.apply_event(self.team, &self.event());
    }
}

pub(crate) fn revoked(number: u64) -> Event {
    Event::CredentialRevoked(CredentialRevokedV1 {
        credential: id(number),
        reason: RevokeReason::Requested,
        note: None,
    })
}

/// A record of `team` at `micros`, by person 0.
pub(crate) fn record(team: TeamId, micros: u64, event: Event) -> Record {
    record_by(Actor::Person(person(0)), team, micros, event)
}

pub(crate) fn record_by(actor: Actor, team: TeamId, micros: u64, event: Event) -> Record {
    Record {
        team,
        revision: Revision(0),
        id: EventId::from_bytes([0; 16]),
        recorded_at: at(micros),
        previous: RecordHash::default(),
        salt: [0; 16],
        meta: Meta {
            actor,
            auth: AuthMethod::Internal,
            cause: None,
            correlation: CorrelationId::from_bytes([0; 16]),
            context: None,
        },
        event,
    }
}
