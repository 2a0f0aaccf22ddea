//! Secrets that were found where they must not be: who says so, where, and what becomes of it.
//!
//! A report names secrets; what lives ends at once, what has ended is told to its team, what was never issued is passed
//! over. Possession of the secret is enough for any of that, so anybody may report.

pub mod github;

use keyledger_events::{
    PlaceId, Timestamp,
    credential::{ReportLeak, Revoker},
    seal::Label,
    secret::{Presented, SecretHash},
    team::TeamState,
};
use keyledger_projections::Known;

use crate::{
    app::App,
    http::text::is_unsafe,
    ledger::{LedgerError, Request, Who, Written},
    scrub::scrub_url,
};

/// The longest place, in bytes.
pub const PLACE_LEN_MAX: usize = 2_000;

/// Where a secret was found: a URL, or a file and line. It holds no secret and nothing that drives a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAt(String);

/// The text is too long, or holds control, bidirectional-formatting or invisible characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a place has at most {PLACE_LEN_MAX} bytes, and no control, bidirectional-formatting or invisible characters")]
pub struct NotAPlace;

impl FoundAt {
    /// Checks a place, and cuts secrets in it to their public prefix. Nothing but space is no place.
    ///
    /// # Errors
    /// [`NotAPlace`].
    pub fn read(text: &str) -> Result<Option<Self>, NotAPlace> {
        let text = text.trim();
        if text.len() > PLACE_LEN_MAX || text.chars().any(is_unsafe) {
            return Err(NotAPlace);
        }
        let clean = scrub_url(text);
        // What was percent-encoded is seen only now.
        if clean.chars().any(is_unsafe) {
            return Err(NotAPlace);
        }
        Ok((!clean.is_empty()).then(|| Self(clean.into_owned())))
    }
}

/// One find.
#[derive(Clone, Debug)]
pub struct Leak {
    /// Whose secret it is.
    pub known: Known,
    /// Where it was found, if anybody said.
    pub place: Option<FoundAt>,
    /// Who found it, such as a scanner's name.
    pub source: Option<String>,
}

/// The hash of what somebody reports; none if it is no secret of this ledger's form.
pub fn hash_of(token: &str) -> Option<SecretHash> {
    Presented::parse(token.trim().as_bytes()).ok().map(|presented| presented.hash())
}

impl App {
    /// Records a leak, and ends the credential if it is alive. The place is sealed for whoever answers for it.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn report_leak(&self, by: Revoker, who: Who, leak: Leak) -> Result<Written, LedgerError> {
        let Leak { known, place, source } = leak;
        let (place, place_id) = self.sealed_place(&known, place);
        let command = ReportLeak { by, credential: known.credential, place, place_id, source };
        let decide = Box::new(move |team: &TeamState, now: Timestamp| command.clone().decide(team, now));
        self.ledger.write(Request { team: known.team, who, idempotency: None, essential: true, decide }).await
    }

    fn sealed_place(&self, known: &Known, place: Option<FoundAt>) -> (Option<Label>, PlaceId) {
        let nowhere = (None, PlaceId::from_bytes([0; 16]));
        let (Some(FoundAt(place)), Some(key)) = (place, self.keyring.get(known.holder)) else { return nowhere };
        let place_id = key.place_id(known.credential, &place);
        match self.seal(known.holder, &place) {
            Some(sealed) => (Some(Label::Sealed(sealed)), place_id),
            None => nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{random, scrub::holds_secret};
    use keyledger_events::secret::Kind;

    #[test]
    fn places() {
        let place = |text: &str| FoundAt::read(text).map(|place| place.map(|place| place.0));
        assert_eq!(place(" https://x.example/a "), Ok(Some("https://x.example/a".to_owned())));
        assert_eq!(place("  "), Ok(None));
        for bad in ["a\nb", "a\u{1b}[2J", "a\u{202e}b", "a%0ab sk-kl1%61aaaaaaaaaaaaaaaaaaaaa", &"x".repeat(2_001)] {
            assert_eq!(place(bad), Err(NotAPlace), "{bad:?}");
        }
        let secret = random::secret(Kind::Agent);
        let encoded = format!("https://x.example/?k={}", secret.expose().replace('-', "%2D"));
        for text in [format!("https://x.example/?k={}", secret.expose()), encoded] {
            let shown = place(&text).unwrap().unwrap();
            assert!(!holds_secret(&shown) && shown.starts_with("https://x.example/?k=ak-kl1"), "{shown}");
            assert!(!shown.contains(&secret.expose()[12..30]), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn no_place_makes_it_panic(text in ".{0,200}|(%[0-9a-f]{2}|sk-kl1|[a-zA-Z0-9]{10}){0,20}") {
            if let Ok(Some(place)) = FoundAt::read(&text) {
                prop_assert!(!holds_secret(&place.0));
            }
        }
    }
}
