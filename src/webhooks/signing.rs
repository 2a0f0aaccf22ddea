//! The secrets that deliveries are signed with, as [Standard Webhooks](https://www.standardwebhooks.com) has it.
//!
//! None is stored. Each is derived from one random key beside the log, the endpoint's id and its generation, which is an
//! event; `events/FORMAT.md` §8 says how.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use keyledger_events::{
    TeamId, WebhookId,
    store::keyring::{KeyringError, create_signing_seed, load_signing_seed},
};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::random;

const CONTEXT: &str = "keyledger 2026-11 webhook signing secret v1";
/// What a secret begins with where people see it.
pub const SECRET_PREFIX: &str = "whsec_";

/// The key that all secrets are derived from.
pub struct Secrets(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// Reads the key, or makes it; then it is durable before any event needs it. The second is whether it was made.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn open(file: &Path) -> Result<(Self, bool), KeyringError> {
        if let Some(key) = load_signing_seed(file)? {
            return Ok((Self(key), false));
        }
        let key = Zeroizing::new(random::bytes());
        create_signing_seed(file, &key)?;
        Ok((Self(key), true))
    }

    /// One endpoint's secret.
    pub fn derive(&self, team: TeamId, webhook: WebhookId, generation: u32) -> SigningSecret {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(self.0.as_slice()).update(team.as_bytes()).update(webhook.as_bytes());
        hasher.update(&generation.to_le_bytes());
        SigningSecret(Zeroizing::new(*hasher.finalize().as_bytes()))
    }
}

/// One endpoint's secret.
pub struct SigningSecret(Zeroizing<[u8; 32]>);

impl SigningSecret {
    /// As its receiver is given it, once.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{SECRET_PREFIX}{}", STANDARD.encode(self.0.as_slice())))
    }

    /// The signature of a message, for the header.
    pub fn sign(&self, id: &str, timestamp_seconds: u64, body: &[u8]) -> String {
        // A key of any length will do for HMAC (RFC 2104).
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.0.as_slice()) else { return String::new() };
        mac.update(format!("{id}.{timestamp_seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use standardwebhooks::Webhook;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_each_secret_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("webhooks.key");
        let (secrets, made) = Secrets::open(&file).unwrap();
        assert!(made);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let (again, made) = Secrets::open(&file).unwrap();
        assert!(!made);
        let (team, webhook) = (|byte| TeamId::from_bytes([byte; 16]), |byte| WebhookId::from_bytes([byte; 16]));
        let secret = |secrets: &Secrets, t, w, g| secrets.derive(team(t), webhook(w), g).expose().to_string();
        assert_eq!(secret(&secrets, 1, 2, 0), secret(&again, 1, 2, 0));
        let all = [(1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0)].map(|(t, w, g)| secret(&secrets, t, w, g));
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        std::fs::write(&file, [0; 31]).unwrap();
        assert!(Secrets::open(&file).is_err());
    }

    #[test]
    fn the_stock_library_makes_the_same_signature() {
        let secret = SigningSecret(Zeroizing::new([7; 32]));
        let stock = Webhook::new(&secret.expose()).unwrap();
        for body in ["", "{}", "{\"type\":\"credential.revoked\"}"] {
            let theirs = stock.sign("msg_1", 1_772_539_200, body.as_bytes()).unwrap();
            assert_eq!(secret.sign("msg_1", 1_772_539_200, body.as_bytes()), theirs);
        }
    }
}
