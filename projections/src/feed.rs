//! What the ledger tells those who verify by themselves: the changes of the index, and how far they go.
//!
//! A follower that has applied every [`Changes`] up to a position judges every key as the ledger does at that position.
//! It learns nothing else: no names, no persons' data, no `sv-` keys, which are presented to the ledger alone.
//!
//! Continuity is in the messages themselves. Each names the position it comes after (`after`) and the last one it
//! covers (`position`); between the two nothing that concerns the follower has happened but what it holds. Whoever
//! takes a message whose `after` is not the position they stand at would apply a gap.

pub mod snapshot;

use keyledger_events::{
    CredentialId, Event, PersonId, Position, TeamId, Timestamp,
    secret::{Kind, SecretHash},
};
use serde::{Deserialize, Serialize};

use crate::Digest;

/// One change of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Change {
    /// A key came to be.
    CredentialIssued {
        /// Its id.
        credential: CredentialId,
        /// Its kind.
        kind: Kind,
        /// BLAKE3 `derive_key` of its secret, in hexadecimal digits.
        #[serde(with = "hex_hash")]
        hash: SecretHash,
        /// Who answers for it.
        holder: PersonId,
        /// When it ends by itself; none: never.
        expires_at: Option<Timestamp>,
        /// The device it dies with.
        companion_of: Option<CredentialId>,
    },
    /// Somebody ended it.
    CredentialRevoked {
        /// Which.
        credential: CredentialId,
    },
    /// It ended with its device.
    CredentialCascadeRevoked {
        /// Which.
        credential: CredentialId,
        /// When: the device's own end.
        effective_at: Timestamp,
    },
    /// Its expiry was recorded.
    CredentialExpired {
        /// Which.
        credential: CredentialId,
        /// When it held.
        effective_at: Timestamp,
    },
    /// It will end earlier.
    ExpiryShortened {
        /// Which.
        credential: CredentialId,
        /// When.
        to: Timestamp,
    },
    /// Somebody else answers for it.
    CredentialHandedOver {
        /// Which.
        credential: CredentialId,
        /// Who.
        to: PersonId,
    },
}

impl Change {
    /// Which credential it is about.
    pub const fn credential(&self) -> CredentialId {
        match *self {
            Self::CredentialIssued { credential, .. }
            | Self::CredentialRevoked { credential }
            | Self::CredentialCascadeRevoked { credential, .. }
            | Self::CredentialExpired { credential, .. }
            | Self::ExpiryShortened { credential, .. }
            | Self::CredentialHandedOver { credential, .. } => credential,
        }
    }

    /// What of an event concerns the index.
    pub const fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::CredentialIssued(e) => Self::CredentialIssued {
                credential: e.credential,
                kind: e.kind,
                hash: e.hash,
                holder: e.holder,
                expires_at: e.expires_at,
                companion_of: e.companion_of,
            },
            Event::ServiceCredentialIssued(e) => Self::CredentialIssued {
                credential: e.credential,
                kind: Kind::Service,
                hash: e.hash,
                holder: e.holder,
                expires_at: e.expires_at,
                companion_of: None,
            },
            Event::CredentialRevoked(e) => Self::CredentialRevoked { credential: e.credential },
            Event::CredentialCascadeRevoked(e) => {
                Self::CredentialCascadeRevoked { credential: e.credential, effective_at: e.effective_at }
            }
            Event::CredentialExpired(e) => {
                Self::CredentialExpired { credential: e.credential, effective_at: e.effective_at }
            }
            Event::ExpiryShortened(e) => Self::ExpiryShortened { credential: e.credential, to: e.to },
            Event::CredentialHandedOver(e) => Self::CredentialHandedOver { credential: e.credential, to: e.to },
            _ => return None,
        })
    }
}

/// A change with its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedChange {
    /// Where.
    pub position: Position,
    /// What.
    #[serde(flatten)]
    pub change: Change,
}

/// SSE event `changes`: what one commit changes. It is applied whole: a device and its companion end together. Its
/// SSE id is its `position`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The position it comes after: the `position` of the message before it, or what the follower asked for; none:
    /// the log's beginning.
    pub after: Option<Position>,
    /// The last position it covers: its commit's last event.
    pub position: Position,
    /// Whose keys.
    pub team: TeamId,
    /// In order; never empty.
    pub changes: Vec<PlacedChange>,
}

/// SSE event `head`: how far the ledger has got, each second and once a follower has caught up. Its SSE id is its
/// `position`, if it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadMessage {
    /// The position it comes after, as in [`Changes`].
    pub after: Option<Position>,
    /// The log's last position; none while the log is empty.
    pub position: Option<Position>,
    /// What the follower's own index must sum up to at this position: [`Digest`] over all rows it has been
    /// told of, nameless, in hexadecimal digits: [`crate::Active::nameless_digest`].
    #[serde(with = "snapshot::hex_digest")]
    pub digest: Digest,
    /// The ledger's clock: a follower whose own clock lags behind judges by this one.
    pub at: Timestamp,
}

pub(crate) mod hex_hash {
    use keyledger_events::secret::SecretHash;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(hash: &SecretHash, to: S) -> Result<S::Ok, S::Error> {
        let mut digits = [0; 64];
        hex::encode_to_slice(hash.0, &mut digits).map_err(serde::ser::Error::custom)?;
        to.serialize_str(std::str::from_utf8(&digits).unwrap_or_default())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SecretHash, D::Error> {
        let digits = std::borrow::Cow::<str>::deserialize(from)?;
        let mut hash = [0; 32];
        hex::decode_to_slice(digits.as_ref(), &mut hash).map_err(|_| D::Error::custom("not 64 hexadecimal digits"))?;
        Ok(SecretHash(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_this_shape_and_are_read_back() {
        let id = |n: u8| [n; 16];
        let changes = Changes {
            after: Some(Position(6)),
            position: Position(8),
            team: TeamId::from_bytes(id(1)),
            changes: vec![
                PlacedChange {
                    position: Position(7),
                    change: Change::CredentialIssued {
                        credential: CredentialId::from_bytes(id(2)),
                        kind: Kind::Agent,
                        hash: SecretHash([0xab; 32]),
                        holder: PersonId::from_bytes(id(3)),
                        expires_at: None,
                        companion_of: Some(CredentialId::from_bytes(id(4))),
                    },
                },
                PlacedChange {
                    position: Position(8),
                    change: Change::CredentialRevoked { credential: CredentialId::from_bytes(id(2)) },
                },
            ],
        };
        let text = serde_json::to_string(&changes).unwrap();
        let expected = concat!(
            r#"{"after":6,"position":8,"team":"01010101-0101-0101-0101-010101010101","changes":["#,
            r#"{"position":7,"type":"credential_issued","credential":"02020202-0202-0202-0202-020202020202","kind":"agent","#,
            r#""hash":"abababababababababababababababababababababababababababababababab","#,
            r#""holder":"03030303-0303-0303-0303-030303030303","expires_at":null,"#,
            r#""companion_of":"04040404-0404-0404-0404-040404040404"},"#,
            r#"{"position":8,"type":"credential_revoked","credential":"02020202-0202-0202-0202-020202020202"}]}"#,
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Changes>(&text).unwrap(), changes);
        assert!(serde_json::from_str::<Changes>(&text.replace("abab", "ab")).is_err());
        let head = HeadMessage {
            after: Some(Position(8)),
            position: Some(Position(9)),
            digest: Digest::from_bytes(&[0xab; 32]),
            at: Timestamp::from_micros(1),
        };
        let text = serde_json::to_string(&head).unwrap();
        let digits = "ab".repeat(32);
        let expected = format!(r#"{{"after":8,"position":9,"digest":"{digits}","at":"1970-01-01T00:00:00.000001Z"}}"#);
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<HeadMessage>(&text).unwrap(), head);
        assert!(serde_json::from_str::<HeadMessage>(&text.replace("abab", "ab")).is_err());
    }
}
