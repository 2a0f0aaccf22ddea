//! Where and from where a secret is presented: as much of it as the ledger keeps in clear.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::secret::Kind;

/// Where a credential is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Surface {
    /// The products' programming interface.
    Runtime,
    /// Model Context Protocol servers.
    Mcp,
    /// The agents' interface.
    Agent,
    /// The ledger's own management calls, which never include credentials.
    Management,
}

impl Surface {
    /// All surfaces.
    pub const ALL: [Self; 4] = [Self::Runtime, Self::Mcp, Self::Agent, Self::Management];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Mcp => "mcp",
            Self::Agent => "agent",
            Self::Management => "management",
        }
    }

    /// Whether it takes credentials of this kind.
    pub const fn takes(self, kind: Kind) -> bool {
        match self {
            Self::Runtime => matches!(kind, Kind::Integration | Kind::Device),
            Self::Mcp => matches!(kind, Kind::Integration),
            Self::Agent => matches!(kind, Kind::Agent),
            Self::Management => matches!(kind, Kind::Device),
        }
    }
}

impl FromStr for Surface {
    type Err = UnknownSurface;

    fn from_str(text: &str) -> Result<Self, UnknownSurface> {
        Self::ALL.into_iter().find(|surface| surface.name() == text).ok_or(UnknownSurface)
    }
}

/// No surface has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a surface: runtime, mcp, agent or management")]
pub struct UnknownSurface;

/// From which part of the network: all that is kept of an address where the address itself would be personal data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressClass {
    /// Nobody said.
    #[default]
    Unknown,
    /// The same machine (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3).
    Loopback,
    /// A private network (RFC 1918, RFC 4193), or the same link (RFC 3927, RFC 4291 §2.5.6).
    Private,
    /// Behind a provider's address translation (RFC 6598).
    Shared,
    /// Anywhere else.
    Public,
}

impl AddressClass {
    /// All classes.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Loopback, Self::Private, Self::Shared, Self::Public];

    /// An address's class. An IPv4 address in IPv6 form is judged as the IPv4 address.
    pub const fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    const fn of_v4(v4: Ipv4Addr) -> Self {
        match v4.octets() {
            [0, 0, 0, 0] => Self::Unknown,
            [127, ..] => Self::Loopback,
            [100, second, ..] if second & 0xc0 == 64 => Self::Shared,
            _ if v4.is_private() || v4.is_link_local() => Self::Private,
            _ => Self::Public,
        }
    }

    const fn of_v6(v6: Ipv6Addr) -> Self {
        if v6.is_unspecified() {
            Self::Unknown
        } else if v6.is_loopback() {
            Self::Loopback
        } else if v6.is_unique_local() || v6.is_unicast_link_local() {
            Self::Private
        } else {
            Self::Public
        }
    }

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Public => "public",
        }
    }

    /// The class in words, after "from".
    pub const fn words(self) -> &'static str {
        match self {
            Self::Unknown => "an unknown address",
            Self::Loopback => "the ledger's own machine",
            Self::Private => "a private network",
            Self::Shared => "a provider's shared network",
            Self::Public => "the internet",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_classes() {
        for (class, addresses) in [
            (AddressClass::Unknown, ["0.0.0.0", "::", "::ffff:0.0.0.0"]),
            (AddressClass::Loopback, ["127.0.0.1", "127.255.1.2", "::1"]),
            (AddressClass::Private, ["10.1.2.3", "172.31.255.255", "::ffff:192.168.0.1"]),
            (AddressClass::Private, ["169.254.1.1", "fd00::1", "fe80::1"]),
            (AddressClass::Shared, ["100.64.0.1", "100.127.255.255", "::ffff:100.64.0.1"]),
            (AddressClass::Public, ["100.63.0.1", "100.128.0.1", "172.32.0.1"]),
            (AddressClass::Public, ["192.0.2.1", "2001:db8::1", "fbff::1"]),
        ] {
            for address in addresses {
                assert_eq!(AddressClass::of(address.parse().unwrap()), class, "{address}");
            }
        }
    }
}
