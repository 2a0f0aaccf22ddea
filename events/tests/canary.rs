//! A secret and a person's key are put into every public type that can hold one, and everything that type can be shown
//! as is searched for them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

use std::fmt::{Debug, Display};

use keyledger_events::{
    CredentialId, Event, PersonId, Timestamp,
    credential::{Issue, IssueService, KeyMaterial, PairDevice, Rotate},
    head::{HeadSigner, HeadVerifier},
    seal::{Label, PersonKey, SEALED_MAX, Sealed},
    secret::{KeyPrefix, Kind, PREFIX_LEN, Presented, RANDOM_LEN, Secret},
    store::keyring::Keyring,
    team::{DenyPairing, TeamState},
};
use serde::Serialize;

const PERSON: PersonId = PersonId::from_bytes([1; 16]);
const ID: CredentialId = CredentialId::from_bytes([2; 16]);

fn secret(kind: Kind) -> Secret {
    Secret::new(kind, &std::array::from_fn::<_, RANDOM_LEN, _>(|place| (place * 23 % 62) as u8))
}

/// Key bytes of which no four in a row occur by chance.
fn key_bytes() -> [u8; 32] {
    std::array::from_fn(|place| (place * 37 + 11) as u8)
}

/// Whether `shown` has any part of the secret behind the prefix that the ledger keeps.
fn shows_secret(shown: &str) -> bool {
    let shown = shown.as_bytes();
    Kind::ALL.iter().any(|kind| {
        let secret = secret(*kind);
        let hidden = &secret.expose().as_bytes()[PREFIX_LEN..];
        hidden.windows(5).any(|part| shown.windows(5).any(|window| window == part))
    })
}

/// Whether `shown` has four bytes of the key in a row: raw, in hexadecimal, as a list of numbers or in Base64.
fn shows_key(shown: &[u8]) -> bool {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let contains = |part: &[u8]| shown.windows(part.len()).any(|window| window == part);
    let key = key_bytes();
    let base64 = (0..3)
        .flat_map(|skip| STANDARD.encode(&key[skip..]).into_bytes().windows(6).map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect::<Vec<_>>();
    key.windows(4).any(|bytes| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = |between: &str| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(between);
        let spaced_hex = bytes.iter().map(|byte| format!("{byte:x}")).collect::<Vec<_>>().join(", ");
        [hex.to_uppercase(), hex, list(","), list(", "), list(",\n    "), spaced_hex]
            .iter()
            .any(|part| contains(part.as_bytes()))
            || contains(bytes)
    }) || base64.iter().any(|part| contains(part))
}

fn check(what: &str, shown: &str) {
    assert!(!shows_secret(shown), "{what} shows the secret: {shown}");
    assert!(!shows_key(shown.as_bytes()), "{what} shows the key: {shown}");
}

fn check_debug(what: &str, value: &impl Debug) {
    for shown in [format!("{value:?}"), format!("{value:#?}"), format!("{value:x?}"), format!("{value:X?}")] {
        check(what, &shown);
    }
}

fn check_error(what: &str, error: &(impl Debug + Display)) {
    check_debug(what, error);
    check(what, &error.to_string());
}

fn check_serialized(what: &str, value: &impl Serialize) {
    check(what, &serde_json::to_string(value).unwrap());
    check(what, &serde_json::to_string_pretty(value).unwrap());
    let bytes = postcard::to_allocvec(value).unwrap();
    check(what, &String::from_utf8_lossy(&bytes));
    assert!(!shows_key(&bytes), "{what}");
}

/// The test's own eyes: each way to show something is seen.
#[test]
fn the_search_finds_what_it_looks_for() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    assert!(shows_secret(&format!("a {} b", secret(Kind::Agent).expose())));
    assert!(!shows_secret(secret(Kind::Agent).prefix().as_str()));
    let key = key_bytes();
    let ways = [
        format!("{key:?}"),
        format!("{key:#?}"),
        format!("{key:x?}"),
        STANDARD.encode(key),
        STANDARD.encode(&key[9..]),
    ];
    for shown in ways {
        assert!(shows_key(shown.as_bytes()), "{shown}");
    }
    assert!(shows_key(&key) && !shows_key(b"nothing"));
}

#[test]
fn nothing_that_holds_a_secret_shows_it() {
    for kind in Kind::ALL {
        let secret = secret(kind);
        let key = KeyMaterial::new(ID, &secret);
        let name = Label::Clear("x".into());
        check_debug("Secret", &secret);
        check_debug("Secret in an Option", &Some(secret.clone()));
        check_debug("Presented", &Presented::parse(secret.expose().as_bytes()).unwrap());
        check_debug("SecretHash", &secret.hash());
        check_error("KeyPrefix", &secret.prefix());
        check_serialized("KeyPrefix", &secret.prefix());
        check_debug("KeyMaterial", &key);

        let issue =
            Issue { actor: PERSON, kind, name: name.clone(), purpose: None, expires_in_days: None, key: key.clone() };
        check_debug("Issue", &issue);
        let (credential, overlap_seconds) = (ID, 0);
        check_debug(
            "Rotate",
            &Rotate { actor: PERSON, credential, overlap_seconds, expires_in_days: None, key: key.clone() },
        );
        check_debug(
            "IssueService",
            &IssueService { actor: PERSON, name: "x".into(), expires_in_days: None, key: key.clone() },
        );
        let (device, companion) = (key.clone(), key.clone());
        let pair = PairDevice { actor: PERSON, name: name.clone(), companion_name: name.clone(), device, companion };
        check_debug("PairDevice", &pair);
        check_debug("TeamState", &TeamState::default());

        let event = Event::CredentialIssued(keyledger_events::event::CredentialIssuedV1 {
            credential: ID,
            kind,
            hash: key.hash,
            prefix: key.prefix,
            name,
            purpose: None,
            holder: PERSON,
            expires_at: None,
            rotated_from: None,
            companion_of: None,
        });
        check_debug("Event", &event);
        check_serialized("Event", &event);
        check("Event's bytes", &String::from_utf8_lossy(&event.encode(Vec::new())));
    }
}

#[test]
fn no_error_repeats_what_was_presented() {
    for kind in Kind::ALL {
        let secret = secret(kind);
        let good = secret.expose();
        let mut wrong = good.to_owned();
        wrong.replace_range(54.., if good.ends_with('0') { "1" } else { "0" });
        for presented in [wrong.as_str(), &good[..54], &format!("{good}0"), &format!(" {good}"), &good.to_lowercase()] {
            check_error("Malformed", &Secret::parse(presented.as_bytes()).unwrap_err());
            check_error("Malformed", &Presented::parse(presented.as_bytes()).unwrap_err());
        }
        check_error("CredentialId", &good.parse::<CredentialId>().unwrap_err());
        check_error("PersonId", &good.parse::<PersonId>().unwrap_err());
        check_error("Timestamp", &good.parse::<Timestamp>().unwrap_err());
        check_error("Revision", &good.parse::<keyledger_events::Revision>().unwrap_err());
        check_error("HeadVerifier", &good.parse::<HeadVerifier>().unwrap_err());
        check_error("HeadSigner", &HeadSigner::new(&format!("{good} +"), &key_bytes()).unwrap_err());
        let json = format!("\"{good}\"");
        check_error("CredentialId in JSON", &serde_json::from_str::<CredentialId>(&json).unwrap_err());
        check_error("Timestamp in JSON", &serde_json::from_str::<Timestamp>(&json).unwrap_err());
        check_error("KeyPrefix in JSON", &serde_json::from_str::<KeyPrefix>(&json).unwrap_err());
        // Where a whole secret is read as an event's bytes.
        check_error("Event", &Event::decode(6, 1, good.as_bytes()).unwrap_err());
        check_error("Record", &keyledger_events::Record::decode(good.as_bytes()).unwrap_err());
        check_error("Commit", &keyledger_events::CommitBody::parse(good.as_bytes()).unwrap_err());
    }
}

#[test]
fn nothing_that_holds_a_key_shows_it() {
    let key = PersonKey::from_bytes(key_bytes());
    check_debug("PersonKey", &key);
    check_debug("PersonKey in a list", &[Some(key.clone())]);
    check_error("TooLong", &key.seal(PERSON, [9; 24], &"x".repeat(SEALED_MAX + 1)).unwrap_err());

    let signer = HeadSigner::new("ledger.example", &key_bytes()).unwrap();
    check_debug("HeadSigner", &signer);
    check_error("HeadVerifier", &signer.verifier());
}

/// The file that holds the keys may be damaged in any byte; what is said of it shows none of them.
#[test]
fn a_damaged_keyring_is_refused_without_showing_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("persons.keys");
    let ring = Keyring::open(&path).unwrap();
    ring.insert(PERSON, PersonKey::from_bytes(key_bytes())).unwrap();
    check_debug("Keyring", &ring);
    drop(ring);
    let whole = std::fs::read(&path).unwrap();
    assert!(shows_key(&whole), "the key is in the file");
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&path, &damaged).unwrap();
        match Keyring::open(&path) {
            Ok(ring) => check_debug("Keyring", &ring),
            Err(error) => {
                refused += 1;
                check_error("KeyringError", &error);
            }
        }
    }
    assert!(refused > 0);

    std::fs::write(&path, &whole).unwrap();
    let ring = Keyring::open(&path).unwrap();
    assert!(ring.erase(PERSON).unwrap());
    let again = ring.insert(PERSON, PersonKey::from_bytes(key_bytes()));
    check_error("KeyringError", &again.unwrap_err());
    assert!(!shows_key(&std::fs::read(&path).unwrap()), "an erased key is gone from the file");
}

#[test]
fn what_is_sealed_is_not_shown_either() {
    let key = PersonKey::from_bytes(key_bytes());
    let text = "Anna Beispiel, 203.0.113.7";
    let sealed = key.seal(PERSON, [9; 24], text).unwrap();
    let label = Label::Sealed(sealed.clone());
    let denied = DenyPairing { actor: PERSON, device_name: label.clone() };
    let event = denied.clone().decide(&TeamState::default());
    let event_shown = Event::PairingDenied(keyledger_events::event::PairingDeniedV1 { device_name: label.clone() });
    let shown = [
        format!("{sealed:?} {label:?} {denied:?} {event:?} {event_shown:#?}"),
        serde_json::to_string(&event_shown).unwrap(),
        String::from_utf8_lossy(&event_shown.encode(Vec::new())).into_owned(),
    ];
    for shown in shown {
        assert!(!["Anna", "Beispiel", "203.0"].iter().any(|part| shown.contains(part)), "{shown}");
        check("Sealed", &shown);
    }
    let other = PersonKey::from_bytes([7; 32]).open(&sealed).unwrap_err();
    check_error("Unreadable", &other);
    assert!(!other.to_string().contains("Anna"));
    let moved = Sealed { person: PersonId::from_bytes([8; 16]), ..sealed };
    check_error("Unreadable", &key.open(&moved).unwrap_err());
}

/// Whether a type has a trait, at compile time: the inherent constant wins where its bound holds.
macro_rules! has {
    ($type:ty: $bound:path) => {{
        #[allow(dead_code)]
        struct Probe<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code)]
        trait Lacks {
            const HAS: bool = false;
        }
        impl<T: ?Sized> Lacks for Probe<T> {}
        #[allow(dead_code)]
        impl<T: ?Sized + $bound> Probe<T> {
            const HAS: bool = true;
        }
        <Probe<$type>>::HAS
    }};
}

#[test]
fn secrets_and_keys_can_be_neither_printed_nor_serialized() {
    assert!(has!(KeyPrefix: Display) && has!(KeyPrefix: Serialize), "the probe sees what is there");
    assert!(!has!(Secret: Display) && !has!(Secret: Serialize) && !has!(Secret: AsRef<str>));
    assert!(!has!(Presented<'static>: Display) && !has!(Presented<'static>: Serialize));
    assert!(!has!(PersonKey: Display) && !has!(PersonKey: Serialize));
    assert!(!has!(HeadSigner: Display) && !has!(HeadSigner: Serialize));
    assert!(!has!(KeyMaterial: Serialize) && !has!(KeyMaterial: Display));
    // What is compared in variable time is compared by hash.
    assert!(!has!(Secret: PartialEq) && !has!(PersonKey: PartialEq));
}
