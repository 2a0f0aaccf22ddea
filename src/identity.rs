//! Who a person is: one-time links, sessions, access tokens, pairings in flight. Nothing here is in the log; all of it
//! may be lost, and people then ask for a new link.

pub mod link;
pub mod pairing;
pub mod session;
pub mod token;

/// What is kept of a token that somebody else holds: its BLAKE3 `derive_key`.
fn token_hash(token: &str) -> [u8; 32] {
    blake3::derive_key("keyledger 2026-11 link and session token v1", token.as_bytes())
}
