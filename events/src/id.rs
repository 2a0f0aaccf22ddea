//! Identifiers and counters. Each is a type of its own, so that a position can't be passed for a revision.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self { Self(bytes) }
            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] { &self.0 }
            /// The same as a [`Uuid`].
            pub const fn uuid(self) -> Uuid { Uuid::from_bytes(self.0) }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self { Self(*id.as_bytes()) }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.uuid().fmt(f) }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.uuid().fmt(f) }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> { Uuid::try_parse(text).map(Self::from) }
        }

        /// Hyphenated text in JSON, 16 bare bytes in postcard.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { self.uuid().serialize(serializer) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

uuid_id!(
    /// A team: the access boundary. Every credential belongs to exactly one.
    TeamId
);
uuid_id!(
    /// Tells the places where one credential's secret was found from one another, without saying what they are: the
    /// first 16 bytes of a keyed BLAKE3, under a key that goes when the person's sealing key is erased.
    PlaceId
);
uuid_id!(
    /// A person, across teams. The log knows people by nothing else.
    PersonId
);
uuid_id!(
    /// A credential of any kind.
    CredentialId
);
uuid_id!(
    /// An endpoint that a team's events are sent to.
    WebhookId
);
uuid_id!(
    /// An event: a UUIDv7 (RFC 9562 §5.7).
    EventId
);
uuid_id!(
    /// What ties together everything that one request caused.
    CorrelationId
);
uuid_id!(
    /// The identity of one attempted commit; an HTTP idempotency key is hashed into one. A retry carries the same.
    OperationId
);

impl TeamId {
    /// The system stream: the ledger's own events and `sv-` credentials. Its members are the ledger's operators.
    pub const SYSTEM: Self = Self([0; 16]);
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after.
            #[must_use]
            pub const fn next(self) -> Self { Self(self.0 + 1) }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> { text.parse().map(Self) }
        }
    };
}

counter!(
    /// An event's place in the whole log, counted from 0 without a gap.
    Position
);
counter!(
    /// An event's place in its team's stream, counted from 0 without a gap.
    Revision
);
counter!(
    /// A commit's place in the whole log, counted from 0 without a gap.
    CommitNumber
);
