//! A credential as far as the log tells, and how one ends.

use keyledger_events::{
    CredentialId, Event, EventId, PersonId, Position, Record, TeamId, Timestamp,
    event::RevokeReason,
    record::Actor,
    seal::{Label, Sealed},
    secret::{KeyPrefix, Kind},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeStruct};

/// A credential that has been issued and, as far as is known, not ended by an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Its id.
    pub credential: CredentialId,
    /// Its team.
    pub team: TeamId,
    /// Its kind.
    pub kind: Kind,
    /// The first characters of its secret.
    pub prefix: KeyPrefix,
    /// What its people call it. As JSON: the text, or `{"sealed_for": person}`, without what is sealed.
    #[serde(serialize_with = "name", deserialize_with = "read_name")]
    pub name: Label,
    /// Who answers for it.
    pub holder: PersonId,
    /// Who issued it.
    pub issued_by: Actor,
    /// When.
    pub issued_at: Timestamp,
    /// At which position.
    pub position: Position,
    /// When it ends by itself; none: never.
    pub expires_at: Option<Timestamp>,
    /// The device it dies with.
    pub companion_of: Option<CredentialId>,
    /// The credential it takes over from.
    pub rotated_from: Option<CredentialId>,
}

impl Standing {
    /// What the event at `position` brings to life, if it issues a credential.
    pub(crate) fn born(position: Position, record: &Record) -> Option<Self> {
        let (issued_by, issued_at, team) = (record.meta.actor, record.recorded_at, record.team);
        match &record.event {
            Event::CredentialIssued(e) => Some(Self {
                credential: e.credential,
                team,
                kind: e.kind,
                prefix: e.prefix,
                name: e.name.clone(),
                holder: e.holder,
                issued_by,
                issued_at,
                position,
                expires_at: e.expires_at,
                companion_of: e.companion_of,
                rotated_from: e.rotated_from,
            }),
            Event::ServiceCredentialIssued(e) => Some(Self {
                credential: e.credential,
                team,
                kind: Kind::Service,
                prefix: e.prefix,
                name: Label::Clear(e.name.clone()),
                holder: e.holder,
                issued_by,
                issued_at,
                position,
                expires_at: e.expires_at,
                companion_of: None,
                rotated_from: None,
            }),
            _ => None,
        }
    }

    /// Whether its own expiry leaves it alive at `at`. Expiry holds at its very instant.
    pub(crate) fn unexpired(&self, at: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| at < expires_at)
    }
}

fn name<S: Serializer>(name: &Label, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Label::Clear(text) => serializer.serialize_str(text),
        Label::Sealed(sealed) => {
            let mut object = serializer.serialize_struct("Sealed", 1)?;
            object.serialize_field("sealed_for", &sealed.person)?;
            object.end()
        }
    }
}

/// Of a sealed name only whose it is comes back.
fn read_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Label, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Name {
        Clear(String),
        Sealed { sealed_for: PersonId },
    }
    Ok(match Name::deserialize(deserializer)? {
        Name::Clear(text) => Label::Clear(text),
        Name::Sealed { sealed_for } => {
            Label::Sealed(Sealed { person: sealed_for, nonce: [0; 24], ciphertext: Vec::new() })
        }
    })
}

/// Why a credential ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Death {
    /// Somebody ended it.
    Revoked {
        /// Why.
        reason: RevokeReason,
        /// Who.
        by: Actor,
    },
    /// Its device ended.
    Cascaded {
        /// The device.
        device: CredentialId,
    },
    /// Its time was up.
    Expired,
}

/// A credential's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// From when on it was dead.
    pub effective_at: Timestamp,
    /// Why.
    pub death: Death,
    /// The event that says so.
    pub position: Position,
    /// That event's id.
    pub event: EventId,
    /// Whether that event is the end's own. Else it is the one that had set the expiry, and none has recorded it yet.
    pub recorded: bool,
}

impl End {
    /// The end that the event at `position` states, and of which credential.
    pub(crate) fn stated(position: Position, record: &Record) -> Option<(CredentialId, Self)> {
        let (credential, effective_at, death) = match &record.event {
            Event::CredentialRevoked(e) => {
                (e.credential, record.recorded_at, Death::Revoked { reason: e.reason, by: record.meta.actor })
            }
            Event::CredentialCascadeRevoked(e) => (e.credential, e.effective_at, Death::Cascaded { device: e.device }),
            Event::CredentialExpired(e) => (e.credential, e.effective_at, Death::Expired),
            _ => return None,
        };
        Some((credential, Self { effective_at, death, position, event: record.id, recorded: true }))
    }
}
