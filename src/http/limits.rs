//! How often somebody may ask: per address, per person or key, tighter where no credential is needed.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

use super::{metrics::Metrics, problem::Problem};

/// Requests a minute; 0 is no limit. A minute's worth may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of one address, of any kind. Verification by the fast path is not counted.
    pub address_per_minute: u32,
    /// Of one address, where nobody is signed in: pairing, links, leaks.
    pub anonymous_per_minute: u32,
    /// Verifications of one address that fail. A secret has 256 bits and can't be guessed; this bounds noise.
    pub verify_failures_per_minute: u32,
    /// Of one person or key.
    pub key_per_minute: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            address_per_minute: 120_000,
            anonymous_per_minute: 120,
            verify_failures_per_minute: 120_000,
            key_per_minute: 120_000,
        }
    }
}

impl Rates {
    /// No limit at all.
    pub const OFF: Self =
        Self { address_per_minute: 0, anonymous_per_minute: 0, verify_failures_per_minute: 0, key_per_minute: 0 };
}

/// How many an address or key has left, in memory. It forgets who has not asked for a while.
pub struct RateLimits {
    address: Limiter<Address>,
    anonymous: Limiter<Address>,
    verify_failures: Limiter<Address>,
    key: Limiter<[u8; 16]>,
    counted: AtomicU64,
    metrics: Arc<Metrics>,
}

/// After so many requests those who have not asked for a while are forgotten, so that memory stays bounded by the rate at
/// which addresses can turn up.
const FORGET_EVERY: u64 = 8_192;

/// Who counts as one: an IPv4 address, or an IPv6 network of 64 bits, which is what one subscriber gets.
type Address = [u8; 8];
type Limiter<K> = Option<DefaultKeyedRateLimiter<K>>;

impl RateLimits {
    /// Nobody has asked yet.
    pub fn new(rates: Rates, metrics: Arc<Metrics>) -> Self {
        Self {
            address: limiter(rates.address_per_minute),
            anonymous: limiter(rates.anonymous_per_minute),
            verify_failures: limiter(rates.verify_failures_per_minute),
            key: limiter(rates.key_per_minute),
            counted: AtomicU64::new(0),
            metrics,
        }
    }

    /// Counts any request of an address.
    ///
    /// # Errors
    /// 429 with `Retry-After`.
    pub fn address(&self, address: IpAddr) -> Result<(), Problem> {
        self.count(&self.address, &one(address))
    }

    /// Counts a request that needs no credential.
    ///
    /// # Errors
    /// 429 with `Retry-After`.
    pub fn anonymous(&self, address: IpAddr) -> Result<(), Problem> {
        self.count(&self.anonymous, &one(address))
    }

    /// Counts a verification that failed. Ask it only then: who presents good keys is never slowed down by bad ones that
    /// come from the same gateway.
    ///
    /// # Errors
    /// 429 with `Retry-After`, to be answered instead of the 401.
    pub fn verify_failure(&self, address: IpAddr) -> Result<(), Problem> {
        self.count(&self.verify_failures, &one(address))
    }

    /// Counts a request of a person or key, by the bytes of their id.
    ///
    /// # Errors
    /// 429 with `Retry-After`.
    pub fn key(&self, id: &[u8; 16]) -> Result<(), Problem> {
        self.count(&self.key, id)
    }

    fn count<K: Hash + Eq + Clone>(&self, limiter: &Limiter<K>, who: &K) -> Result<(), Problem> {
        let Some(limiter) = limiter else { return Ok(()) };
        if self.counted.fetch_add(1, Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            // Whoever is back at their full allowance need not be remembered.
            limiter.retain_recent();
        }
        limiter.check_key(who).map_err(|early| {
            self.metrics.rate_limited.increment(1);
            Problem::too_many_requests(
                early.wait_time_from(DefaultClock::default().now()).max(Duration::from_millis(1)),
            )
        })
    }
}

impl std::fmt::Debug for RateLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RateLimits")
    }
}

fn limiter<K: Hash + Eq + Clone>(per_minute: u32) -> Limiter<K> {
    NonZeroU32::new(per_minute).map(|count| RateLimiter::keyed(Quota::per_minute(count)))
}

fn one(address: IpAddr) -> Address {
    let mut one = [0; 8];
    match address.to_canonical() {
        // No subscriber's network begins with 0:0, so the two can't meet.
        IpAddr::V4(v4) => one[4..].copy_from_slice(&v4.octets()),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => one[7] = 1,
        IpAddr::V6(v6) => one.copy_from_slice(&v6.octets()[..8]),
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rates: Rates) -> RateLimits {
        RateLimits::new(rates, Arc::new(Metrics::new()))
    }

    #[test]
    fn a_minutes_worth_then_429_with_a_time_to_wait() {
        let limits = limits(Rates { anonymous_per_minute: 3, ..Rates::OFF });
        let address = "192.0.2.1".parse().unwrap();
        for _ in 0..3 {
            limits.anonymous(address).unwrap();
        }
        let problem = limits.anonymous(address).unwrap_err();
        assert_eq!(problem.code(), "rate_limited");
        let response: http::Response<Vec<u8>> = problem.into_http();
        let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=20).contains(&wait), "{wait}");
        limits.anonymous("192.0.2.2".parse().unwrap()).unwrap();
        limits.address(address).unwrap();
        limits.key(&[0; 16]).unwrap();
        assert!(limits.anonymous(address).is_err());
    }

    #[test]
    fn who_is_back_at_their_full_allowance_is_forgotten() {
        // One each 10 ms; governor keeps everybody for twice that.
        let limits = limits(Rates { anonymous_per_minute: 6_000, ..Rates::OFF });
        for round in 0..3 {
            for number in 0..FORGET_EVERY as u32 {
                limits.anonymous(IpAddr::V4((round * 100_000 + number).into())).unwrap();
            }
            std::thread::sleep(Duration::from_millis(40));
        }
        limits.counted.store(FORGET_EVERY - 1, Relaxed);
        limits.anonymous("192.0.2.1".parse().unwrap()).unwrap();
        let remembered = limits.anonymous.as_ref().unwrap().len();
        assert!(remembered < 100, "{remembered}");
        // Forgetting gives nobody more than they had.
        let address = "192.0.2.7".parse().unwrap();
        assert!((0..7_000).any(|_| limits.anonymous(address).is_err()));
        limits.counted.store(FORGET_EVERY - 1, Relaxed);
        limits.anonymous("192.0.2.1".parse().unwrap()).unwrap();
        assert!((0..20).any(|_| limits.anonymous(address).is_err()));
    }

    #[test]
    fn who_counts_as_one() {
        for (one_text, other, same) in [
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(one(one_text.parse().unwrap()) == one(other.parse().unwrap()), same, "{one_text} {other}");
        }
    }
}
