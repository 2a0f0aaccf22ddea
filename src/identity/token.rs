//! Access tokens for programs: short-lived JWTs (RFC 7519) signed with Ed25519 (RFC 8037), each bound to a session, so
//! that ending the session ends the token.

use std::{fmt, time::Duration};

use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use keyledger_events::{PersonId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::session::Session;

/// How long an access token lives.
pub const TOKEN_TTL: Duration = Duration::from_secs(3_600);
const ISSUER: &str = "keyledger";

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    sid: Uuid,
    iat: u64,
    exp: u64,
}

/// Signs and reads access tokens. Its key is derived from the ledger's seed, so tokens outlive a restart.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// What a good token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Who.
    pub person: PersonId,
    /// In which session.
    pub session: Uuid,
}

impl Tokens {
    /// From the ledger's 32-byte seed.
    ///
    /// # Errors
    /// If the key can't be put into the form the JWT library wants.
    pub fn new(seed: &[u8; 32]) -> Result<Self, ed25519_dalek::pkcs8::Error> {
        let key = SigningKey::from_bytes(&blake3::derive_key("keyledger 2026-11 access token signing key v1", seed));
        let encoding = EncodingKey::from_ed_der(key.to_pkcs8_der()?.as_bytes());
        Ok(Self { encoding, decoding: DecodingKey::from_ed_der(key.verifying_key().as_bytes()) })
    }

    /// A token for a session, and when it ends: never after the session.
    pub fn issue(&self, session: &Session, now: Timestamp) -> Option<(String, Timestamp)> {
        let expires_at = now.plus(TOKEN_TTL).min(session.expires_at);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: ISSUER.to_owned(),
            sub: session.person.uuid(),
            sid: session.id,
            iat: now.micros() / 1_000_000,
            exp: expires_at.micros() / 1_000_000,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.encoding).ok()?;
        Some((token, expires_at))
    }

    /// What a token says, if it is ours and has not run out. Whether its session goes on is not looked at.
    pub fn read(&self, token: &str, now: Timestamp) -> Option<Bearer> {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[ISSUER]);
        // Our own clock judges, not the library's: it is the one that never goes backwards.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok()?.claims;
        let bearer = Bearer { person: claims.sub.into(), session: claims.sid };
        (now.micros() / 1_000_000 < claims.exp).then_some(bearer)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> (Session, Timestamp) {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let person = PersonId::from_bytes([1; 16]);
        (Session { id: Uuid::from_bytes([2; 16]), person, expires_at: now.plus_days(30) }, now)
    }

    #[test]
    fn a_token_is_good_for_its_hour_and_for_its_ledger() {
        let (session, now) = session();
        let tokens = Tokens::new(&[1; 32]).unwrap();
        let (token, expires_at) = tokens.issue(&session, now).unwrap();
        assert_eq!(tokens.read(&token, now), Some(Bearer { person: session.person, session: session.id }));
        assert!(tokens.read(&token, expires_at).is_none());
        assert!(Tokens::new(&[2; 32]).unwrap().read(&token, now).is_none());
        let mut none = token.split('.').collect::<Vec<_>>();
        none[0] = "eyJhbGciOiJub25lIn0";
        assert!(tokens.read(&none.join("."), now).is_none());
    }

    proptest! {
        #[test]
        fn no_text_is_a_token(text in "\\PC{0,200}") {
            let (_, now) = session();
            prop_assert!(Tokens::new(&[1; 32]).unwrap().read(&text, now).is_none());
        }
    }
}
