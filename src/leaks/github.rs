//! GitHub's secret scanning partner program: reports that are signed, and answers that say which finds were real
//! (docs.github.com, "Secret scanning partner program").
//!
//! `Github-Public-Key-Signature` is ECDSA over NIST P-256 with SHA-256 of the raw body, in DER and base64;
//! `Github-Public-Key-Identifier` names the key, which is fetched and kept for a while.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderName};
use p256::{
    ecdsa::{Signature, VerifyingKey, signature::Verifier as _},
    pkcs8::DecodePublicKey as _,
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use ureq::Agent;

/// Where GitHub publishes its keys.
pub const KEYS_URL: &str = "https://api.github.com/meta/public_keys/secret_scanning";

const KEY_HEADER: HeaderName = HeaderName::from_static("github-public-key-identifier");
const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("github-public-key-signature");
/// More than a key's name needs, and a P-256 signature in DER and base64.
const HEADER_LEN_MAX: usize = 200;
/// How long the keys are believed without asking again.
const KEYS_KEPT: Duration = Duration::from_secs(3600);
/// How often they are fetched at most, whoever names whatever keys.
const FETCH_EVERY: Duration = Duration::from_secs(60);
const FETCH_WITHIN: Duration = Duration::from_secs(10);
const KEYS_BYTES_MAX: u64 = 64 * 1024;
const KEYS_MAX: usize = 64;

/// What a report's signature is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// It has none, or none is looked at here.
    No,
    /// It is good.
    Good,
    /// It is not: not of its form, of no key that is published, or of another body.
    Bad,
    /// The keys can't be had at present. The report counts like anybody's.
    Unknown,
}

/// The published keys, as far as they are known here.
pub struct LeakKeys {
    /// None: signatures are not looked at.
    url: Option<String>,
    agent: Agent,
    known: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    by_id: Arc<HashMap<String, VerifyingKey>>,
    /// When they were fetched.
    fetched: Option<Instant>,
    /// When that was last tried.
    tried: Option<Instant>,
}

#[derive(Deserialize)]
struct Published {
    public_keys: Vec<PublishedKey>,
}

#[derive(Deserialize)]
struct PublishedKey {
    key_identifier: String,
    /// PEM.
    key: String,
}

impl LeakKeys {
    /// Of the keys at an address; an empty one is none.
    pub fn new(url: &str) -> Self {
        let config = Agent::config_builder()
            .max_redirects(0)
            .timeout_global(Some(FETCH_WITHIN))
            .user_agent(concat!("keyledger/", env!("CARGO_PKG_VERSION")));
        let url = (!url.is_empty()).then(|| url.to_owned());
        Self { url, agent: config.build().new_agent(), known: Mutex::default() }
    }

    /// Judges a report by its headers and its raw body.
    pub async fn judge(&self, headers: &HeaderMap, body: &[u8]) -> Signed {
        if self.url.is_none() {
            return Signed::No;
        }
        let (id, signature) = match (headers.get(KEY_HEADER), headers.get(SIGNATURE_HEADER)) {
            (None, None) => return Signed::No,
            (Some(id), Some(signature)) => (id, signature),
            _ => return Signed::Bad,
        };
        let text = |value: &http::HeaderValue| {
            value.to_str().ok().filter(|text| text.len() <= HEADER_LEN_MAX).map(str::to_owned)
        };
        let Some((id, signature)) = text(id).zip(text(signature).and_then(|text| signature_of(&text))) else {
            return Signed::Bad;
        };
        match self.key(&id).await {
            Some(Some(key)) if key.verify(body, &signature).is_ok() => Signed::Good,
            Some(_) => Signed::Bad,
            None => Signed::Unknown,
        }
    }

    /// The key of that name; `None` if it can't be said whether there is one. One fetch at a time; the others wait for it.
    async fn key(&self, id: &str) -> Option<Option<VerifyingKey>> {
        let mut known = self.known.lock().await;
        let fresh = known.fetched.is_some_and(|at| at.elapsed() < KEYS_KEPT);
        let may_fetch = known.tried.is_none_or(|at| at.elapsed() >= FETCH_EVERY);
        if may_fetch && !(fresh && known.by_id.contains_key(id)) {
            known.tried = Some(Instant::now());
            if let Some(keys) = self.fetch().await {
                known.by_id = Arc::new(keys);
                known.fetched = known.tried;
            }
        }
        // A list of an hour ago, and no newer one to be had, tells nothing any more.
        let fresh = known.fetched.is_some_and(|at| at.elapsed() < KEYS_KEPT);
        let key = known.by_id.get(id).copied();
        // What a list does not hold that could not be asked for again may be newer than the list.
        (fresh && (key.is_some() || known.fetched == known.tried)).then_some(key)
    }

    async fn fetch(&self) -> Option<HashMap<String, VerifyingKey>> {
        let (agent, url) = (self.agent.clone(), self.url.clone()?);
        let fetched = tokio::task::spawn_blocking(move || {
            let mut response = agent.get(&url).call().map_err(|error| error.to_string())?;
            let body = response.body_mut().with_config().limit(KEYS_BYTES_MAX).read_to_vec();
            keys_of(&body.map_err(|error| error.to_string())?)
        });
        match fetched.await {
            Ok(Ok(keys)) => Some(keys),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the keys for signed leak reports can't be had; such reports count like anybody's");
                None
            }
            Err(_) => None,
        }
    }
}

/// The keys in a published list. One that is not of P-256 is passed over.
fn keys_of(json: &[u8]) -> Result<HashMap<String, VerifyingKey>, String> {
    // What it says instead is somebody else's text.
    let published: Published = serde_json::from_slice(json).map_err(|_| "not a list of public keys".to_owned())?;
    let keys = published.public_keys.into_iter().take(KEYS_MAX);
    Ok(keys
        .filter(|key| key.key_identifier.len() <= HEADER_LEN_MAX)
        .filter_map(|key| Some((key.key_identifier, VerifyingKey::from_public_key_pem(key.key.trim()).ok()?)))
        .collect())
}

fn signature_of(base64: &str) -> Option<Signature> {
    Signature::from_der(&BASE64.decode(base64.trim()).ok()?).ok()
}

/// The form in which an answer names a token: SHA-256 in base64.
pub fn token_hash(token: &str) -> String {
    BASE64.encode(Sha256::digest(token))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// GitHub's own example, of its test key.
    const KEY_ID: &str = "f9525bf080f75b3506ca1ead061add62b8633a346606dc5fe544e29231c6ee0d";
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEsz9ugWDj5jK5ELBK42ynytbo38gP\nHzZFI03Exwz8Lh/tCfL3YxwMdLjB+bMznsanlhK0RwcGP3IDb34kQDIo3Q==\n-----END PUBLIC KEY-----";
    const SIGNATURE: &str =
        "MEUCIFLZzeK++IhS+y276SRk2Pe5LfDrfvTXu6iwKKcFGCrvAiEAhHN2kDOhy2I6eGkOFmxNkOJ+L2y8oQ9A2T9GGJo6WJY=";
    const BODY: &[u8] = br#"[{"token":"some_token","type":"some_type","url":"some_url","source":"some_source"}]"#;

    fn keys() -> LeakKeys {
        let list = serde_json::json!({ "public_keys": [
            { "key_identifier": "of another kind", "key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "is_current": false },
            { "key_identifier": KEY_ID, "key": KEY, "is_current": true },
        ] });
        let by_id = keys_of(list.to_string().as_bytes()).unwrap();
        assert_eq!(by_id.len(), 1);
        let now = Some(Instant::now());
        let known = Mutex::new(Keys { by_id: Arc::new(by_id), fetched: now, tried: now });
        LeakKeys { known, ..LeakKeys::new("http://127.0.0.1:9/") }
    }

    fn judge(keys: &LeakKeys, id: &[u8], signature: &[u8], body: &[u8]) -> Signed {
        let headers = [(KEY_HEADER, id), (SIGNATURE_HEADER, signature)];
        let headers =
            headers.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_bytes(value).ok()?)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(keys.judge(&headers.collect(), body))
    }

    #[test]
    fn the_documented_example_is_good_and_nothing_beside_it() {
        let keys = keys();
        assert_eq!(judge(&keys, KEY_ID.as_bytes(), SIGNATURE.as_bytes(), BODY), Signed::Good);
        assert_eq!(judge(&keys, KEY_ID.as_bytes(), SIGNATURE.as_bytes(), &BODY[1..]), Signed::Bad);
        assert_eq!(judge(&keys, b"another", SIGNATURE.as_bytes(), BODY), Signed::Bad);
        assert_eq!(judge(&keys, KEY_ID.as_bytes(), b"MEUCIQ==", BODY), Signed::Bad);
        assert_eq!(judge(&keys, KEY_ID.as_bytes(), "x".repeat(201).as_bytes(), BODY), Signed::Bad);
        for bit in 0..SIGNATURE.len() * 8 {
            let mut damaged = SIGNATURE.as_bytes().to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(judge(&keys, KEY_ID.as_bytes(), &damaged, BODY), Signed::Good, "{bit}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(keys.judge(&HeaderMap::new(), BODY)), Signed::No);
        let one: HeaderMap = [(KEY_HEADER, HeaderValue::from_static(KEY_ID))].into_iter().collect();
        assert_eq!(runtime.block_on(keys.judge(&one, BODY)), Signed::Bad);
        assert_eq!(runtime.block_on(LeakKeys::new("").judge(&one, BODY)), Signed::No);
    }

    proptest! {
        #[test]
        fn no_header_and_no_list_makes_it_panic(
            id in proptest::collection::vec(any::<u8>(), 0..80),
            der in proptest::collection::vec(any::<u8>(), 0..80),
            body in proptest::collection::vec(any::<u8>(), 0..80),
            list in "\\PC{0,80}",
            key in "(-----BEGIN PUBLIC KEY-----\n)?[A-Za-z0-9+/=\n]{0,120}(\n-----END PUBLIC KEY-----)?",
        ) {
            let keys = keys();
            prop_assert_ne!(judge(&keys, &id, BASE64.encode(&der).as_bytes(), &body), Signed::Good);
            prop_assert_ne!(judge(&keys, KEY_ID.as_bytes(), BASE64.encode(&der).as_bytes(), &body), Signed::Good);
            prop_assert_ne!(judge(&keys, KEY_ID.as_bytes(), &der, &body), Signed::Good);
            let _ = keys_of(list.as_bytes());
            let list = serde_json::json!({ "public_keys": [{ "key_identifier": "x", "key": key }] });
            let _ = keys_of(list.to_string().as_bytes());
        }
    }
}
