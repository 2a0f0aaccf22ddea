//! Instants, identifiers and prefixes as text, JSON and postcard.

use std::time::Duration;

use keyledger_events::{CredentialId, Position, Timestamp, secret::KeyPrefix, time::DAY_US};
use proptest::prelude::*;

#[test]
fn instants_between_1970_and_9999_and_nothing_else() {
    let rows: [(&str, Option<u64>); 17] = [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("1970-01-01T00:00:00.000001Z", Some(1)),
        ("1970-01-02T00:00:00Z", Some(DAY_US)),
        ("2026-03-03T12:00:00+01:00", Some(1_772_535_600_000_000)),
        ("2026-03-03t12:00:00z", Some(1_772_539_200_000_000)),
        // Less than a microsecond is cut off, never rounded up: an end is not put off.
        ("1970-01-01T00:00:00.0000019Z", Some(1)),
        ("9999-12-31T23:59:59.999999Z", Some(Timestamp::MAX.micros())),
        ("9999-12-31T23:59:59-00:01", None),
        ("1969-12-31T23:59:59.999999Z", None),
        ("10000-01-01T00:00:00Z", None),
        ("2026-02-29T00:00:00Z", None),
        ("2026-03-03T12:00:00", None),
        ("2026-03-03", None),
        ("2026-03-03T24:00:00Z", None),
        ("1772539200", None),
        (" 2026-03-03T12:00:00Z", None),
        ("", None),
    ];
    for (text, us) in rows {
        assert_eq!(text.parse::<Timestamp>().ok().map(Timestamp::micros), us, "{text}");
    }
}

#[test]
fn time_stops_at_its_end_instead_of_wrapping() {
    let near = Timestamp::from_micros(Timestamp::MAX.micros() - 1);
    assert_eq!(near.plus(Duration::from_micros(1)), Timestamp::MAX);
    for beyond in [Duration::from_micros(2), Duration::from_secs(u64::MAX), Duration::MAX] {
        assert_eq!(near.plus(beyond), Timestamp::MAX);
        assert_eq!(
            Timestamp::default().plus(beyond).since(Timestamp::default()),
            beyond.min(Duration::from_micros(Timestamp::MAX.micros()))
        );
    }
    assert_eq!(near.plus_days(u16::MAX), Timestamp::MAX);
    assert_eq!(Timestamp::from_micros(u64::MAX), Timestamp::MAX);
    assert_eq!(near.since(Timestamp::MAX), Duration::ZERO);
}

#[test]
fn a_stored_instant_beyond_the_end_of_time_is_refused() {
    let bytes = |us: u64| postcard::to_allocvec(&us).unwrap();
    assert!(postcard::from_bytes::<Timestamp>(&bytes(Timestamp::MAX.micros())).is_ok());
    assert!(postcard::from_bytes::<Timestamp>(&bytes(Timestamp::MAX.micros() + 1)).is_err());
    assert!(postcard::from_bytes::<Timestamp>(&bytes(u64::MAX)).is_err());
}

#[test]
fn a_prefix_that_would_steer_a_terminal_is_refused() {
    for (bytes, taken) in [(b"sk-kl1000000", true), (b"sk-kl1\x1b[2J\x07\0", false), (b"sk-kl1      ", false)] {
        assert_eq!(postcard::from_bytes::<KeyPrefix>(bytes).is_ok(), taken, "{bytes:?}");
    }
    assert!(postcard::from_bytes::<KeyPrefix>(b"sk-kl1\xc3\xbc0000").is_err());
}

#[test]
fn a_secret_or_a_prefix_is_no_credential_id() {
    let refused = ["sk-kl1000000", "sk-kl100000000000000000000000000000000000000000001d2j2b", "", "0", "..", "'; --"];
    for text in refused {
        assert!(text.parse::<CredentialId>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn an_instant_survives_text_json_and_postcard(us in 0..=Timestamp::MAX.micros()) {
        let at = Timestamp::from_micros(us);
        prop_assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        prop_assert_eq!(Timestamp::from(at.datetime()), at);
        prop_assert_eq!(serde_json::from_str::<Timestamp>(&serde_json::to_string(&at).unwrap()).unwrap(), at);
        prop_assert_eq!(postcard::from_bytes::<Timestamp>(&postcard::to_allocvec(&at).unwrap()).unwrap(), at);
    }

    /// Text order is time order, so an index of texts sorts like one of instants.
    #[test]
    fn instants_sort_as_text(a in 0..=Timestamp::MAX.micros(), b in 0..=Timestamp::MAX.micros()) {
        let (a, b) = (Timestamp::from_micros(a), Timestamp::from_micros(b));
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
    }

    #[test]
    fn an_id_survives_text_json_and_postcard(bytes in any::<[u8; 16]>()) {
        let id = CredentialId::from_bytes(bytes);
        prop_assert_eq!(id.to_string().parse::<CredentialId>().unwrap(), id);
        prop_assert_eq!(CredentialId::from(id.uuid()), id);
        prop_assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
        prop_assert_eq!(serde_json::from_str::<CredentialId>(&format!("\"{id}\"")).unwrap(), id);
        prop_assert_eq!(postcard::to_allocvec(&id).unwrap(), bytes.to_vec());
        prop_assert_eq!(postcard::from_bytes::<CredentialId>(&bytes).unwrap(), id);
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,80}") {
        let _ = text.parse::<Timestamp>();
        let _ = text.parse::<CredentialId>();
        let _ = text.parse::<Position>();
        if let Ok(prefix) = serde_json::from_str::<KeyPrefix>(&serde_json::to_string(&text).unwrap()) {
            prop_assert_eq!(prefix.as_str(), text);
        }
    }

    #[test]
    fn text_much_like_an_instant_is_read_or_refused(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?(Z|z|[+-][0-9]{2}:[0-9]{2})?") {
        if let Ok(at) = text.parse::<Timestamp>() {
            prop_assert!(at <= Timestamp::MAX);
            prop_assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        }
    }
}
