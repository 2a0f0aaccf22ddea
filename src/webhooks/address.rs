//! Where a webhook may lead: to the public internet, and to what the operator has opened by name. The check is made on
//! the address that is then connected to, not on a name that may mean something else a moment later.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use keyledger_events::team::WEBHOOK_URL_LEN_MAX;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::{
    config::Network,
    scrub::{holds_secret, url_holds_secret},
};

/// The one port below this that may be asked; what else listens there speaks no HTTPS.
const HTTPS_PORT: u16 = 443;
const FREE_PORTS_MIN: u16 = 1024;

/// Ends of names that mean a place on the inside (RFC 6761, RFC 6762, RFC 8375, ICANN's `.internal`).
const INSIDE_NAMES: &[&str] = &["localhost", "local", "internal", "home.arpa", "intranet", "lan"];

/// IPv4 that is not the public internet (IANA's special-purpose registry, RFC 6890), and the one public address that is
/// a cloud's own metadata service.
const NOT_PUBLIC_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// IPv6 inside 2000::/3, the only public unicast there is, that is not public all the same: IETF protocol assignments
/// with Teredo, documentation twice, and 6to4, which leads to any IPv4 address.
const NOT_PUBLIC_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// NAT64's well-known prefix (RFC 6052): the IPv4 address stands in the last 32 bits.
const NAT64: u128 = 0x0064_ff9b_u128 << 96;

/// Whether an address is one of the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !NOT_PUBLIC_V4.iter().any(|(network, bits)| (v4.to_bits() ^ network.to_bits()) >> (32 - bits) == 0)
        }
        IpAddr::V6(v6) if v6.to_bits() >> 32 == NAT64 >> 32 => {
            is_public(IpAddr::V4(Ipv4Addr::from_bits(v6.to_bits() as u32)))
        }
        IpAddr::V6(v6) => {
            v6.to_bits() >> 125 == 0b001
                && !NOT_PUBLIC_V6.iter().any(|(network, bits)| (v6.to_bits() ^ network.to_bits()) >> (128 - bits) == 0)
        }
    }
}

/// Why nothing is sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// No URL, or longer than is kept.
    #[error("the url is no https:// URL of at most {WEBHOOK_URL_LEN_MAX} characters")]
    NotHttps,
    /// A user name or password stands in it.
    #[error("the url must hold no user name and no password")]
    UserInfo,
    /// Something behind `#`, which is never sent.
    #[error("the url must hold no fragment")]
    Fragment,
    /// It holds a secret of the ledger's.
    #[error("the url holds a secret of the ledger; revoke that key")]
    Secret,
    /// A port of another service.
    #[error("the url's port must be {HTTPS_PORT}, or {FREE_PORTS_MIN} and above")]
    Port,
    /// A name that means something on the inside.
    #[error("the url's host is a name on the inside")]
    InsideName,
    /// An address that is not public.
    #[error("the host's address is not a public one")]
    InsideAddress,
}

/// Where webhooks may lead.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// What the operator has opened on the inside.
    inside: Vec<Network>,
}

impl Allowed {
    /// The public internet, and these networks.
    pub fn new(inside: Vec<Network>) -> Self {
        Self { inside }
    }

    /// # Errors
    /// [`Forbidden::InsideAddress`].
    pub fn address(&self, address: IpAddr) -> Result<(), Forbidden> {
        let opened = self.inside.iter().any(|network| network.contains(address));
        if opened || is_public(address) { Ok(()) } else { Err(Forbidden::InsideAddress) }
    }

    /// The URL as it will be asked, if it may be. A name in it is resolved, and judged again, at each request.
    ///
    /// # Errors
    /// [`Forbidden`].
    pub fn url(&self, text: &str) -> Result<Url, Forbidden> {
        if text.len() > WEBHOOK_URL_LEN_MAX {
            return Err(Forbidden::NotHttps);
        }
        let url = Url::parse(text).map_err(|_| Forbidden::NotHttps)?;
        if url.scheme() != "https" || url.as_str().len() > WEBHOOK_URL_LEN_MAX {
            return Err(Forbidden::NotHttps);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Forbidden::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(Forbidden::Fragment);
        }
        // The host, too: a browser's address bar has been known to take a key for a name.
        if holds_secret(text) || holds_secret(url.as_str()) || url_holds_secret(url.path(), url.query()) {
            return Err(Forbidden::Secret);
        }
        let port = url.port_or_known_default().ok_or(Forbidden::Port)?;
        if port != HTTPS_PORT && port < FREE_PORTS_MIN {
            return Err(Forbidden::Port);
        }
        match url.host().ok_or(Forbidden::NotHttps)? {
            Host::Ipv4(v4) => self.address(v4.into())?,
            Host::Ipv6(v6) => self.address(v6.into())?,
            // Where the inside is open, its names are too; their addresses are judged when they are known.
            Host::Domain(name) if self.inside.is_empty() && is_inside_name(name) => return Err(Forbidden::InsideName),
            Host::Domain(_) => {}
        }
        Ok(url)
    }
}

fn is_inside_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let ends_with = |end: &str| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    !name.contains('.') || INSIDE_NAMES.iter().any(|end| ends_with(end))
}

/// A look-up of a name's addresses.
pub type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

/// The operating system's.
pub fn system_lookup() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, HTTPS_PORT)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Resolves a name once for each connection. What is returned is what is connected to: nobody looks it up again.
#[derive(Clone)]
pub struct Resolver {
    allowed: Arc<Allowed>,
    lookup: Lookup,
}

impl Resolver {
    /// Of names by `lookup`, as far as their addresses are allowed.
    pub fn new(allowed: Arc<Allowed>, lookup: Lookup) -> Self {
        Self { allowed, lookup }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (allowed, found) = (self.allowed.clone(), (self.lookup)(name.as_str().to_owned()));
        Box::pin(async move {
            let addresses = found.await?;
            // One bad address spoils the name: which of them is asked would be chance.
            addresses.iter().try_for_each(|address| allowed.address(*address))?;
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests;
