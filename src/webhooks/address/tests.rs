//! Every place on the inside, in every spelling, and a name that means another place a moment later.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::webhooks::sending::{Envelope, Outcome, Sender};

/// URLs that are refused when they are added: one a line.
const HOSTILE: &str = include_str!("../../../tests/fixtures/hostile-urls.txt");

#[test]
fn no_hostile_url_is_added() {
    let hostile: Vec<_> = HOSTILE.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(hostile.len() >= 60);
    let allowed = Allowed::default();
    for url in hostile {
        assert!(allowed.url(url).is_err(), "{url}");
    }
}

#[test]
fn what_is_public_is_added_as_a_parser_writes_it_out() {
    for (given, kept) in [
        ("https://hooks.example", "https://hooks.example/"),
        ("https://HOOKS.example:443/a?b=c", "https://hooks.example/a?b=c"),
        ("https://hooks.example:8443/", "https://hooks.example:8443/"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://hooks.example/a/../b", "https://hooks.example/b"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700::1111]/", "https://[2606:4700::1111]/"),
        ("https://[64:ff9b::808:808]/", "https://[64:ff9b::808:808]/"),
        ("https://hooks.internal.example/", "https://hooks.internal.example/"),
    ] {
        assert_eq!(Allowed::default().url(given).unwrap().as_str(), kept);
    }
}

#[test]
fn what_the_operator_opens_is_open_and_no_more() {
    let allowed = Allowed::new(vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()]);
    for (url, may) in [
        ("https://10.1.2.3/", true),
        ("https://[::ffff:10.1.2.3]/", true),
        ("https://[fd00:1::7]/", true),
        ("https://hooks/", true),
        ("https://8.8.8.8/", true),
        ("https://10.2.0.1/", false),
        ("https://[fd00:2::7]/", false),
        ("https://127.0.0.1/", false),
        ("http://10.1.2.3/", false),
        ("https://10.1.2.3:22/", false),
    ] {
        assert_eq!(allowed.url(url).is_ok(), may, "{url}");
    }
}

/// A name's addresses, another list at each look-up; and how often it was looked up.
fn rebinding(answers: Vec<Vec<&'static str>>) -> (Lookup, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let lookup: Lookup = Arc::new(move |_| {
        let answer = answers[count.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)].clone();
        Box::pin(async move { Ok(answer.iter().map(|address| address.parse().unwrap()).collect()) })
    });
    (lookup, asked)
}

fn envelope() -> Envelope {
    Envelope { id: "msg_1".to_owned(), timestamp_seconds: 1, signature: "v1,x".to_owned(), body: b"{}".to_vec() }
}

#[tokio::test]
async fn a_name_is_judged_by_the_address_that_is_connected_to() {
    let now = keyledger_events::Timestamp::from_micros(1);
    for answers in [
        vec!["127.0.0.1"],
        vec!["10.0.0.1"],
        vec!["::1"],
        vec!["::ffff:169.254.169.254"],
        vec!["64:ff9b::a00:1"],
        // One of several is enough: which is asked would be chance.
        vec!["8.8.8.8", "192.168.0.1"],
    ] {
        let (lookup, asked) = rebinding(vec![answers.clone()]);
        let sender = Sender::new(Allowed::default(), lookup, Vec::new());
        let outcome = sender.send("https://hooks.example/", envelope(), now).await;
        assert_eq!(outcome, Outcome::Forbidden(Forbidden::InsideAddress), "{answers:?}");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}

/// First the name is fine, then it leads to a listener on the inside. Only 127.0.0.2 is open here, which plays the
/// public address; the listener is on 127.0.0.1.
#[tokio::test]
async fn a_name_that_is_bound_anew_leads_nowhere() {
    let now = keyledger_events::Timestamp::from_micros(1);
    let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://hooks.example:{}/", inside.local_addr().unwrap().port());
    let connected = tokio::spawn(async move { inside.accept().await.map(drop) });
    let (lookup, asked) = rebinding(vec![vec!["127.0.0.2"], vec!["127.0.0.1"]]);
    let sender = Sender::new(Allowed::new(vec!["127.0.0.2".parse().unwrap()]), lookup, Vec::new());
    let first = sender.send(&url, envelope(), now).await;
    assert_eq!(first, Outcome::Failed("the receiver could not be reached"), "the address that was judged, once");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let second = sender.send(&url, envelope(), now).await;
    assert_eq!(second, Outcome::Forbidden(Forbidden::InsideAddress));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert!(!connected.is_finished(), "nobody has knocked on the inside");
    connected.abort();
}

proptest! {
    /// What the standard library calls by these names is never public, and no disguise makes it so.
    #[test]
    fn no_special_address_is_public_in_any_disguise(bits in any::<u32>(), network in 0..NOT_PUBLIC_V4.len()) {
        let (base, prefix) = NOT_PUBLIC_V4[network];
        let host = bits.checked_shr(prefix).unwrap_or(0);
        for v4 in [Ipv4Addr::from_bits(bits), Ipv4Addr::from_bits(base.to_bits() | host)] {
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            let public = is_public(v4.into());
            prop_assert!(!(special && public), "{v4}");
            prop_assert_eq!(public, is_public(v4.to_ipv6_mapped().into()));
            prop_assert_eq!(public, is_public(Ipv6Addr::from_bits(NAT64 | u128::from(v4.to_bits())).into()));
            prop_assert!(!is_public(Ipv6Addr::from_bits(u128::from(v4.to_bits())).into()), "the old ::{}", v4);
            let six_to_four = (0x2002_u128 << 112) | (u128::from(v4.to_bits()) << 80);
            prop_assert!(!is_public(Ipv6Addr::from_bits(six_to_four).into()));
        }
        prop_assert!(!is_public(Ipv4Addr::from_bits(base.to_bits() | host).into()));
    }

    #[test]
    fn no_v6_outside_global_unicast_is_public(bits in any::<u128>()) {
        let v6 = Ipv6Addr::from_bits(bits);
        let nat64 = bits >> 32 == NAT64 >> 32;
        let special = v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unique_local()
            || v6.is_unicast_link_local() || v6.to_ipv4().is_some();
        prop_assert!(!(is_public(v6.into()) && (special || bits >> 125 != 1) && !nat64));
        let local = Ipv6Addr::from_bits(bits >> 7 | 0xfc << 120);
        prop_assert!(!is_public(local.into()), "{}", local);
    }

    /// No text makes it panic, and what is taken is https, without userinfo, and taken again as it was written out.
    #[test]
    fn any_text_is_taken_or_refused(text in "\\PC{0,60}|https://[a-z0-9.:@\\[\\]%#/?-]{0,40}|https://[0-9a-fx.]{1,20}/") {
        if let Ok(url) = Allowed::default().url(&text) {
            prop_assert!(url.scheme() == "https" && url.username().is_empty() && url.fragment().is_none());
            prop_assert_eq!(Allowed::default().url(url.as_str()), Ok(url.clone()));
            match url.host().unwrap() {
                Host::Ipv4(v4) => prop_assert!(is_public(v4.into())),
                Host::Ipv6(v6) => prop_assert!(is_public(v6.into())),
                Host::Domain(name) => prop_assert!(name.contains('.')),
            }
        }
    }
}
