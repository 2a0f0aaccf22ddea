use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyledger_events::{
    event::{CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialHandedOverV1, ExpiryShortenedV1},
    secret::Kind,
};
use proptest::prelude::*;

use super::*;
use crate::testing::{Issue, at, id, person, revoked, secret, team};

fn verdict(active: &Active, issue: &Issue, now: u64) -> Result<Verdict, Denied> {
    active.verify(issue.secret().expose().as_bytes(), None, Some(issue.team), at(now))
}

#[test]
fn a_credential_is_active_until_the_microsecond_before_its_end() {
    let issue = Issue { expires_at: Some(at(1_000)), ..Issue::new(1) };
    let active = Active::default();
    assert_eq!(verdict(&active, &issue, 5), Err(Denied::Unknown));
    issue.apply(&active);
    assert_eq!(verdict(&active, &issue, 999).unwrap().expires_at, Some(at(1_000)));
    assert_eq!(verdict(&active, &issue, 1_000), Err(Denied::Expired));
    assert_eq!(verdict(&active, &issue, 1_001), Err(Denied::Expired));
    // Shortened: the new end counts, to the microsecond; an attempt to lengthen it does not.
    let shortened =
        |to| Event::ExpiryShortened(ExpiryShortenedV1 { credential: id(1), from: Some(at(1_000)), to: at(to) });
    active.apply_event(issue.team, &shortened(500));
    active.apply_event(issue.team, &shortened(5_000));
    assert!(verdict(&active, &issue, 499).is_ok());
    assert_eq!(verdict(&active, &issue, 500), Err(Denied::Expired));
    // Once its end is recorded, a clock that jumps back does not revive it.
    active.apply_event(
        issue.team,
        &Event::CredentialExpired(CredentialExpiredV1 { credential: id(1), effective_at: at(500) }),
    );
    assert_eq!(verdict(&active, &issue, 1), Err(Denied::Expired));
}

#[test]
fn each_doubt_has_its_code() {
    let active = Active::default();
    let live = Issue::new(1);
    let gone = Issue::new(2);
    let foreign = Issue { team: team(1), ..Issue::new(3) };
    [&live, &gone, &foreign].into_iter().for_each(|issue| issue.apply(&active));
    active.apply_event(gone.team, &revoked(2));
    active.apply_event(live.team, &revoked(3)); // another team's event ends nothing
    let text = |issue: &Issue| issue.secret().expose().as_bytes().to_vec();
    let table = [
        (b"sk-kl1".to_vec(), None, "malformed"),
        (text(&Issue::new(9)), None, "unknown"),
        (text(&gone), None, "revoked"),
        (text(&gone), Some(Surface::Agent), "revoked"),
        (text(&foreign), None, "wrong_team"),
        (text(&foreign), Some(Surface::Agent), "wrong_team"),
        (text(&live), Some(Surface::Agent), "insufficient_scope"),
    ];
    for (presented, surface, code) in table {
        let denied = active.verify(&presented, surface, Some(team(0)), at(7)).unwrap_err();
        assert_eq!(denied.code(), code);
    }
    assert_eq!(active.verify(&text(&foreign), None, None, at(7)).unwrap().team, team(1));
}

#[test]
fn surfaces_take_what_the_contract_says() {
    use Kind::{Agent, Device, Integration, Service};
    let table = [
        ("runtime", vec![Integration, Device]),
        ("mcp", vec![Integration]),
        ("agent", vec![Agent]),
        ("management", vec![Device]),
    ];
    let active = Active::default();
    for (kind, number) in [Integration, Agent, Device, Service].into_iter().zip(0..) {
        Issue { kind, ..Issue::new(number) }.apply(&active);
        for (name, takes) in &table {
            let surface: Surface = name.parse().unwrap();
            let outcome = active.verify(secret(kind, number).expose().as_bytes(), Some(surface), None, at(1));
            assert_eq!(outcome.is_ok(), takes.contains(&kind), "{kind} on {name}");
        }
    }
    assert_eq!("Runtime".parse::<Surface>(), Err(UnknownSurface));
}

#[test]
fn a_companion_ends_with_its_device() {
    let active = Active::default();
    Issue { kind: Kind::Device, expires_at: Some(at(100)), ..Issue::new(1) }.apply(&active);
    let companion = Issue { kind: Kind::Agent, companion_of: Some(id(1)), ..Issue::new(2) };
    companion.apply(&active);
    assert!(verdict(&active, &companion, 99).is_ok());
    assert_eq!(verdict(&active, &companion, 100), Err(Denied::Expired));
    active.apply_event(
        companion.team,
        &Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
            credential: id(2),
            device: id(1),
            effective_at: at(50),
        }),
    );
    assert_eq!(verdict(&active, &companion, 1), Err(Denied::Revoked));
}

#[test]
fn a_key_handed_over_says_its_new_holder_and_keeps_its_name() {
    let active = Active::default();
    let issue = Issue::new(1);
    issue.apply(&active);
    let handed = CredentialHandedOverV1 { credential: id(1), from: person(0), to: person(1) };
    active.apply_event(issue.team, &Event::CredentialHandedOver(handed));
    let found = verdict(&active, &issue, 1).unwrap();
    assert_eq!(found.holder, person(1));
    assert_eq!(active.name(found.handle), issue.name);
}

#[test]
fn an_id_issued_twice_gives_no_second_key() {
    let active = Active::default();
    Issue::new(1).apply(&active);
    let Event::CredentialIssued(again) = Issue::new(2).event() else { unreachable!() };
    let again = keyledger_events::event::CredentialIssuedV1 { credential: id(1), ..again };
    active.apply_event(team(0), &Event::CredentialIssued(again));
    assert_eq!(verdict(&active, &Issue::new(2), 1), Err(Denied::Unknown));
    assert!(verdict(&active, &Issue::new(1), 1).is_ok());
}

#[test]
fn due_lists_what_has_ended_until_an_event_says_so() {
    let active = Active::default();
    let minute = 60_000_000;
    for (number, ends) in [(1, minute * 3), (2, minute * 3 + 1), (3, minute * 90), (4, minute * 2)] {
        Issue { expires_at: Some(at(ends)), ..Issue::new(number) }.apply(&active);
    }
    Issue::new(5).apply(&active);
    active.apply_event(team(0), &revoked(4));
    let due = |now| active.due(at(now), 10).into_iter().map(|(_, id, _)| id).collect::<Vec<_>>();
    assert_eq!(due(minute * 3 - 1), []);
    assert_eq!(due(minute * 3), [id(1)]);
    assert_eq!(due(minute * 3 + 1), [id(1), id(2)]);
    assert_eq!(active.due(at(minute * 4), 1).len(), 1);
    let expired = CredentialExpiredV1 { credential: id(1), effective_at: at(minute * 3) };
    active.apply_event(team(0), &Event::CredentialExpired(expired));
    assert_eq!(due(minute * 4), [id(2)]);
    let shortened = ExpiryShortenedV1 { credential: id(3), from: None, to: at(minute * 5) };
    active.apply_event(team(0), &Event::ExpiryShortened(shortened));
    assert_eq!(active.due(at(minute * 5), 10)[1], (team(0), id(3), at(minute * 5)));
    assert_eq!(active.ending().count(), 2);
}

/// Readers never accept what was revoked before they began, and never miss what was issued before they began, while
/// the writer inserts, revokes and lets the table grow.
#[test]
fn readers_see_what_was_applied_before_they_began() {
    const KEYS: u64 = 20_000;
    let secrets: Vec<_> = (0..KEYS).map(|number| secret(Kind::Integration, number)).collect();
    let (active, issued, ended, done) =
        (Active::default(), AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (active, issued, ended, done, secrets) = (&active, &issued, &ended, &done, &secrets);
            scope.spawn(move || {
                let mut random = reader + 1;
                while !done.load(Ordering::Acquire) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let number = (random >> 33) % KEYS;
                    let (was_ended, was_issued) = (ended.load(Ordering::Acquire), issued.load(Ordering::Acquire));
                    let outcome = active.verify(secrets[number as usize].expose().as_bytes(), None, None, at(1));
                    // Even numbers are revoked, in order.
                    if number.is_multiple_of(2) && number < was_ended {
                        assert_eq!(outcome, Err(Denied::Revoked));
                    } else if number % 2 == 1 && number < was_issued {
                        assert_eq!(outcome.unwrap().credential, id(number));
                    }
                }
            });
        }
        for number in 0..KEYS {
            Issue::new(number).apply(&active);
            issued.store(number + 1, Ordering::Release);
            if number >= 500 {
                let number = number - 500;
                if number % 2 == 0 {
                    active.apply_event(team(0), &revoked(number));
                }
                ended.store(number + 1, Ordering::Release);
            }
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(active.len() as u64, KEYS);
}

#[test]
fn the_index_stays_small() {
    let (active, credentials) = (Active::default(), 100_000);
    for number in 0..credentials {
        let ends = Some(at(number % 365 * 86_400_000_000));
        Issue { expires_at: ends, ..Issue::new(number) }.apply(&active);
    }
    let per_credential = active.memory_bytes().index as u64 / credentials;
    assert!(per_credential <= 110, "{per_credential} bytes a credential");
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Issue(u64, Option<u64>),
    Revoke(u64),
    Expire(u64),
    Shorten(u64, u64),
    HandOver(u64, u8),
    EndWithDevice(u64, u64),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let number = 0..30u64;
    prop_oneof![
        4 => (number.clone(), proptest::option::of(0..1_000u64)).prop_map(|(n, ends)| Step::Issue(n, ends)),
        1 => number.clone().prop_map(Step::Revoke),
        1 => number.clone().prop_map(Step::Expire),
        1 => (number.clone(), 0..1_000u64).prop_map(|(n, to)| Step::Shorten(n, to)),
        1 => (number.clone(), 0..4u8).prop_map(|(n, to)| Step::HandOver(n, to)),
        1 => (number, 0..1_000u64).prop_map(|(n, at_us)| Step::EndWithDevice(n, at_us)),
    ]
}

pub(super) fn apply(active: &Active, step: Step, team: TeamId) {
    active.apply_event(team, &event_of(step));
}

/// Mostly integration keys.
fn kind_of(number: u64) -> Kind {
    if number < 20 { Kind::Integration } else { Kind::ALL[(number % 4) as usize] }
}

pub(super) fn event_of(step: Step) -> Event {
    match step {
        Step::Issue(n, ends) => Issue { kind: kind_of(n), expires_at: ends.map(at), ..Issue::new(n) }.event(),
        Step::Revoke(n) => revoked(n),
        Step::Expire(n) => Event::CredentialExpired(CredentialExpiredV1 { credential: id(n), effective_at: at(9) }),
        Step::Shorten(n, to) => Event::ExpiryShortened(ExpiryShortenedV1 { credential: id(n), from: None, to: at(to) }),
        Step::HandOver(n, to) => {
            Event::CredentialHandedOver(CredentialHandedOverV1 { credential: id(n), from: person(0), to: person(to) })
        }
        Step::EndWithDevice(n, at_us) => Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
            credential: id(n),
            device: id(n ^ 1),
            effective_at: at(at_us),
        }),
    }
}

proptest! {
    #[test]
    fn a_checkpoint_restores_the_same_index(
        steps in proptest::collection::vec(step(), 0..80), cut in 0usize..80, chunk_len in 1usize..500,
    ) {
        let active = Active::default();
        let cut = cut.min(steps.len());
        steps[..cut].iter().for_each(|step| apply(&active, *step, team(0)));
        let frozen = active.freeze();
        let chunks: Vec<_> = frozen.chunks(chunk_len).collect();
        let restored = Active::restore(frozen.len(), &chunks).unwrap();
        prop_assert_eq!(restored.digest(), active.digest());
        steps[cut..].iter().for_each(|step| {
            apply(&active, *step, team(0));
            apply(&restored, *step, team(0));
        });
        prop_assert_eq!(restored.digest(), active.digest());
        for number in 0..30 {
            for now in [0, 8, 9, 10, 500, 999, 1_000] {
                let text = secret(kind_of(number), number);
                let of = |active: &Active| active.verify(text.expose().as_bytes(), None, None, at(now));
                prop_assert_eq!(of(&active), of(&restored));
            }
        }
        prop_assert_eq!(active.due(at(500), 99), restored.due(at(500), 99));
        let mut spelt_out = Digest::default();
        for row in active.freeze().rows() {
            let mut bytes = Vec::new();
            row.write_bytes(&mut bytes);
            spelt_out.add(&bytes);
        }
        prop_assert_eq!(spelt_out, active.digest());
    }

    #[test]
    fn restoring_damaged_chunks_never_panics(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..5), count in any::<usize>(),
    ) {
        let _ = Active::restore(count % 1000, &chunks);
    }
}
