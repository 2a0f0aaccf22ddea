use keyledger_events::secret::Kind;
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn session(n: u8) -> Uuid {
    Uuid::from_bytes([n; 16])
}

fn asking(client_id: Option<&str>) -> Asking {
    let client_id = client_id.map(str::to_owned);
    Asking { device_name: "laptop".into(), address: "192.0.2.1".into(), client_id }
}

fn start(pairings: &Pairings) -> (String, String) {
    pairings.start(asking(None), NOW).unwrap()
}

fn approve(pairings: &Pairings, user_code: &str) {
    let undecided = pairings.claim(user_code, session(9), NOW).unwrap();
    undecided.approve(random::secret(Kind::Device), random::secret(Kind::Agent));
}

fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

#[test]
fn secrets_are_handed_over_once() {
    let pairings = Pairings::default();
    let (device_code, user_code) = start(&pairings);
    assert!(matches!(pairings.poll(&device_code, None, NOW), Ok(Polled::Pending)));
    let typed = format!(" {} ", user_code.to_lowercase().replace('-', " "));
    let undecided = pairings.claim(&typed, session(1), NOW).unwrap();
    assert_eq!(pairings.claim(&user_code, session(2), NOW).err(), Some(CodeError::Decided), "decided once");
    undecided.approve(random::secret(Kind::Device), random::secret(Kind::Agent));
    assert!(matches!(pairings.poll(&device_code, None, NOW), Ok(Polled::Approved { .. })));
    assert_eq!(pairings.poll(&device_code, None, NOW).err(), Some(PollError::Unknown));
    assert_eq!(pairings.look_up(&user_code, session(1), NOW), Err(CodeError::Decided));
}

#[test]
fn of_many_that_fetch_at_once_one_gets_it() {
    let pairings = Pairings::default();
    for _ in 0..50 {
        let (device_code, user_code) = start(&pairings);
        approve(&pairings, &user_code);
        let got = std::thread::scope(|scope| {
            let polls: Vec<_> =
                (0..4).map(|_| scope.spawn(|| pairings.poll(&device_code, None, NOW).is_ok())).collect();
            polls.into_iter().map(|poll| poll.join().unwrap()).filter(|got| *got).count()
        });
        assert_eq!(got, 1);
    }
}

#[test]
fn a_device_code_is_its_clients_alone() {
    let pairings = Pairings::default();
    let (oauth, user_code) = pairings.start(asking(Some("cli")), NOW).unwrap();
    let (desktop, desktop_code) = start(&pairings);
    approve(&pairings, &user_code);
    approve(&pairings, &desktop_code);
    for (code, client_id) in [(&oauth, None), (&oauth, Some("other")), (&desktop, Some("cli"))] {
        assert_eq!(pairings.poll(code, client_id, NOW).err(), Some(PollError::Unknown), "{client_id:?}");
    }
    assert!(matches!(pairings.poll(&oauth, Some("cli"), NOW), Ok(Polled::Approved { .. })));
    assert!(matches!(pairings.poll(&desktop, None, NOW), Ok(Polled::Approved { .. })));
}

#[test]
fn who_asks_too_soon_waits_five_seconds_more_each_time() {
    let pairings = Pairings::default();
    let (device_code, user_code) = pairings.start(asking(Some("cli")), NOW).unwrap();
    // When it asks, and the interval it is told if that was too soon.
    for (at, slower) in [(0, None), (5, None), (9, Some(10)), (18, Some(15)), (33, None), (47, Some(20)), (67, None)] {
        match (pairings.poll(&device_code, Some("cli"), later(at)).unwrap(), slower) {
            (Polled::Pending, None) => {}
            (Polled::TooSoon { interval }, Some(seconds)) => assert_eq!(interval.as_secs(), seconds, "at {at}"),
            (polled, _) => panic!("{polled:?} at {at}"),
        }
    }
    // What is decided is told at any pace.
    approve(&pairings, &user_code);
    assert!(matches!(pairings.poll(&device_code, Some("cli"), later(68)), Ok(Polled::Approved { .. })));
    // The contract's poll has no pace.
    let (device_code, _) = start(&pairings);
    for _ in 0..3 {
        assert!(matches!(pairings.poll(&device_code, None, NOW), Ok(Polled::Pending)));
    }
}

#[test]
fn a_decision_that_fails_leaves_the_pairing_pending() {
    let pairings = Pairings::default();
    let (_, user_code) = start(&pairings);
    drop(pairings.claim(&user_code, session(1), NOW).unwrap());
    assert!(pairings.claim(&user_code, session(1), NOW).is_ok());
}

#[test]
fn a_pairing_ends_at_its_instant_and_is_forgotten_later() {
    let pairings = Pairings::default();
    let (device_code, user_code) = start(&pairings);
    let (approved, approved_code) = start(&pairings);
    approve(&pairings, &approved_code);
    let end = NOW.plus(PAIRING_TTL);
    let before = Timestamp::from_micros(end.micros() - 1);
    assert!(pairings.look_up(&user_code, session(1), before).is_ok());
    assert_eq!(pairings.look_up(&user_code, session(1), end), Err(CodeError::Expired));
    assert_eq!(pairings.poll(&device_code, None, end).err(), Some(PollError::Expired));
    assert!(pairings.poll(&approved, None, end).is_err(), "too late, and its secrets are wiped");
    assert!(
        !pairings.0.lock().unwrap().by_device.values().any(|pairing| matches!(pairing.state, State::Approved { .. }))
    );
    let long_after = end.plus(REMEMBERED);
    assert_eq!(pairings.look_up(&user_code, session(1), long_after), Err(CodeError::Unknown));
    assert_eq!(pairings.poll(&device_code, None, long_after).err(), Some(PollError::Unknown));
    assert!(pairings.0.lock().unwrap().by_device.is_empty());
}

#[test]
fn guesses_run_out() {
    let pairings = Pairings::default();
    let (_, user_code) = start(&pairings);
    for _ in 0..GUESSES_PER_SESSION_MAX {
        assert_eq!(pairings.look_up("BBBB-BBBB", session(1), NOW), Err(CodeError::Unknown));
    }
    assert_eq!(pairings.look_up(&user_code, session(1), NOW), Err(CodeError::TooManyGuesses));
    assert!(pairings.look_up(&user_code, session(2), NOW).is_ok(), "others are not locked out");
}

#[test]
fn when_full_what_is_over_makes_room() {
    let pairings = Pairings::default();
    for _ in 0..PAIRINGS_MAX {
        pairings.start(asking(None), later(1)).unwrap();
    }
    assert!(pairings.start(asking(None), later(2)).is_none());
    assert!(pairings.start(asking(None), later(1).plus(PAIRING_TTL)).is_some());
}

proptest! {
    /// Whatever the order of polls and decisions: secrets at most once, only after approval, only to their client.
    #[test]
    fn no_order_of_things_hands_secrets_out_twice(
        steps in prop::collection::vec((0u8..5, 0u64..40), 1..40),
    ) {
        let pairings = Pairings::default();
        let (device_code, user_code) = pairings.start(asking(Some("cli")), NOW).unwrap();
        let (mut now, mut approved, mut fetched, mut session_number) = (NOW, false, false, 0);
        for (step, seconds) in steps {
            now = now.plus(Duration::from_secs(seconds));
            session_number += 1;
            match step {
                0 | 1 => match pairings.poll(&device_code, Some("cli"), now) {
                    Ok(Polled::Approved { .. }) => {
                        prop_assert!(approved && !fetched && now < NOW.plus(PAIRING_TTL));
                        fetched = true;
                    }
                    Ok(Polled::Pending | Polled::TooSoon { .. }) => prop_assert!(!approved),
                    Ok(Polled::Denied) => prop_assert!(!approved),
                    Err(_) => prop_assert!(fetched || now >= NOW.plus(PAIRING_TTL)),
                },
                2 => prop_assert!(pairings.poll(&device_code, Some("other"), now).is_err()),
                3 => if let Ok(undecided) = pairings.claim(&user_code, session(session_number), now) {
                    prop_assert!(!approved);
                    undecided.approve(random::secret(Kind::Device), random::secret(Kind::Agent));
                    approved = true;
                },
                _ => drop(pairings.claim(&user_code, session(session_number), now)),
            }
        }
    }
}
