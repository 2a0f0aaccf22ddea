use std::collections::HashMap;

use keyledger_events::{
    CredentialId,
    event::{
        CredentialCascadeRevokedV1, CredentialExpiredV1, CredentialHandedOverV1, CredentialIssuedV1,
        CredentialRevokedV1, ExpiryShortenedV1, MemberDepartedV1, MemberJoinedV1, RevokeReason,
    },
    record::Actor,
    secret::Kind,
};
use proptest::prelude::*;

use super::{
    audit::{Found, Query},
    directory::{EndReason, Filter, Lookups, Row, Status},
    *,
};
use crate::testing::{Issue, at, id, person, record_by, team};

fn placed(position: u64, actor: Actor, micros: u64, event: Event) -> PlacedRecord {
    let record = record_by(actor, team(0), micros, event);
    PlacedRecord { position: Position(position), hash: keyledger_events::RecordHash([position as u8; 32]), record }
}

fn view(events: impl IntoIterator<Item = (u64, Event)>) -> TeamView {
    let mut view = TeamView::default();
    for (position, (micros, event)) in (0..).zip(events) {
        view.apply(&placed(position, Actor::Person(person(0)), micros, event));
    }
    view
}

fn joined(member: u8) -> Event {
    let name = Label::Clear(format!("person {member}"));
    Event::MemberJoined(MemberJoinedV1 { member: person(member), role: Role::Member, name, invited_by: None })
}

fn departed(member: u8) -> Event {
    Event::MemberDeparted(MemberDepartedV1 { member: person(member), left_by_themselves: true })
}

fn handed_over(number: u64, from: u8, to: u8) -> Event {
    let (credential, from, to) = (id(number), person(from), person(to));
    Event::CredentialHandedOver(CredentialHandedOverV1 { credential, from, to })
}

fn revoked(number: u64) -> Event {
    crate::testing::revoked(number)
}

fn nobody_used(_: CredentialId) -> Option<Timestamp> {
    None
}

const LOOKUPS: Lookups<'_> = Lookups { last_used: &nobody_used, open: &|_| None };

#[test]
fn status_is_by_the_clock_to_the_microsecond() {
    let view = view([(1, Issue { expires_at: Some(at(100)), ..Issue::new(1) }.event())]);
    let row = view.directory.get(id(1)).unwrap();
    assert_eq!(row.status(at(99)), Status::Active);
    assert_eq!(row.status(at(100)), Status::Expired);
    let listed = |status, now| {
        let filter = Filter { status: Some(status), ..Filter::default() };
        view.directory.page(&filter, at(now), &LOOKUPS, 1, 20).total
    };
    assert_eq!([listed(Status::Active, 99), listed(Status::Active, 100)], [1, 0]);
    assert_eq!([listed(Status::Expired, 99), listed(Status::Expired, 100)], [0, 1]);
    assert_eq!(listed(Status::Revoked, 100), 0);
}

#[test]
fn a_device_and_its_companion_name_each_other_and_end_as_they_did() {
    let device = Issue { kind: Kind::Device, expires_at: Some(at(50)), ..Issue::new(1) };
    let companion = Issue { kind: Kind::Agent, companion_of: Some(id(1)), expires_at: Some(at(50)), ..Issue::new(2) };
    let cascade = |effective| {
        Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
            credential: id(2),
            device: id(1),
            effective_at: at(effective),
        })
    };
    let by_hand = view([(1, device.event()), (1, companion.event()), (9, revoked(1)), (9, cascade(9))]);
    let row = |view: &TeamView, number| view.directory.get(id(number)).unwrap().clone();
    assert_eq!((row(&by_hand, 1).device, row(&by_hand, 1).companion), (Some(id(1)), Some(id(2))));
    assert_eq!((row(&by_hand, 2).device, row(&by_hand, 2).companion), (Some(id(1)), None));
    assert_eq!(row(&by_hand, 2).status(at(10)), Status::Revoked);
    assert_eq!(row(&by_hand, 2).ended.unwrap().reason, EndReason::DeviceEnded);
    assert_eq!(by_hand.history(id(2)), [Position(1), Position(3)]);
    let expired = Event::CredentialExpired(CredentialExpiredV1 { credential: id(1), effective_at: at(50) });
    let by_time = view([(1, device.event()), (1, companion.event()), (60, expired), (60, cascade(50))]);
    assert_eq!([1, 2].map(|number| row(&by_time, number).status(at(60))), [Status::Expired; 2]);
}

#[test]
fn the_list_finds_by_name_prefix_age_and_pages_newest_first() {
    let day = keyledger_events::time::DAY_US;
    let named = |number: u64, name: &str| Issue { name: Label::Clear(name.into()), ..Issue::new(number) }.event();
    let view = view([(day, named(1, "CI deploy")), (2 * day, named(2, "nightly")), (40 * day, named(3, "ci test"))]);
    let ids = |filter: Filter<'_>, page, per_page| {
        let last_used = |wanted| (wanted == id(2)).then(|| at(39 * day));
        let lookups = Lookups { last_used: &last_used, open: &|_| None };
        let page = view.directory.page(&filter, at(41 * day), &lookups, page, per_page);
        (page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), page.total)
    };
    let all = Filter::default();
    assert_eq!(ids(all, 1, 2), (vec![id(3), id(2)], 3));
    assert_eq!(ids(all, 2, 2), (vec![id(1)], 3));
    assert_eq!(ids(all, 9, 2), (vec![], 3));
    assert_eq!(ids(Filter { q: Some("Ci "), ..all }, 1, 9).0, [id(3), id(1)]);
    assert_eq!(ids(Filter { q: Some("sk-KL1"), ..all }, 1, 9).1, 3);
    assert_eq!(ids(Filter { unused_days: Some(30), ..all }, 1, 9).0, [id(1)]);
    assert_eq!(ids(Filter { id: Some(id(2)), ..all }, 1, 9), (vec![id(2)], 1));
    assert_eq!(ids(Filter { id: Some(id(9)), ..all }, 1, 9), (vec![], 0));
    assert_eq!(ids(Filter { issued_by: Some(person(9)), ..all }, 1, 9), (vec![], 0));
}

#[test]
fn what_a_leaver_holds_is_listed_by_risk_until_decided() {
    let day = keyledger_events::time::DAY_US;
    let key = |number: u64, ends: Option<u64>| {
        Issue { holder: person(1), expires_at: ends.map(|day_number| at(day_number * day)), ..Issue::new(number) }
            .event()
    };
    let mut view = view([
        (1, joined(1)),
        (day, key(1, Some(300))),     // old, ends
        (2 * day, key(2, None)),      // never ends
        (3 * day, key(3, Some(300))), // used lately
        (4 * day, key(4, Some(300))), // used just now
        (5 * day, key(5, Some(90))),  // over by then
        (6 * day, key(6, None)),      // revoked
        (7 * day, key(7, None)),      // never ends, newer than 2
        (8 * day, Issue { kind: Kind::Device, holder: person(1), ..Issue::new(8) }.event()),
        (9 * day, revoked(6)),
        (9 * day, Issue { holder: person(2), ..Issue::new(9) }.event()), // another's
    ]);
    let now = at(100 * day);
    let last_used = |wanted: CredentialId| match wanted {
        wanted if wanted == id(1) => Some(at(50 * day)),
        wanted if wanted == id(3) => Some(at(90 * day)),
        wanted if wanted == id(4) => Some(at(99 * day)),
        _ => None,
    };
    let dossier = view.dossier(person(1), now, &last_used).unwrap();
    let ids: Vec<_> = dossier.to_decide.iter().map(|key| key.row.id).collect();
    assert_eq!(ids, [4, 3, 2, 7, 1].map(id));
    assert_eq!(dossier.ending.iter().map(|row| row.id).collect::<Vec<_>>(), [id(8)]);
    assert_eq!(view.undecided(now, &last_used).len(), 0);
    assert!(view.dossier(person(7), now, &last_used).is_none());
    let mut next = |micros, event| {
        let position = view.position.unwrap().0 + 1;
        view.apply(&placed(position, Actor::System, micros, event));
        view.undecided(now, &last_used).iter().map(|key| key.row.id).collect::<Vec<_>>()
    };
    assert_eq!(next(10 * day, departed(1)), [4, 3, 2, 7, 1].map(id));
    assert_eq!(next(11 * day, handed_over(3, 1, 2)), [4, 2, 7, 1].map(id));
    assert_eq!(next(12 * day, revoked(4)), [2, 7, 1].map(id));
    // Whoever comes back answers for their keys again.
    assert_eq!(next(13 * day, joined(1)), []);
}

#[test]
fn a_late_record_counts_from_when_it_held_and_a_position_knows_nothing_newer() {
    let cascade = CredentialCascadeRevokedV1 { credential: id(2), device: id(1), effective_at: at(50) };
    let expired = CredentialExpiredV1 { credential: id(1), effective_at: at(50) };
    let events: Vec<_> = [
        (1, Issue { kind: Kind::Device, expires_at: Some(at(50)), ..Issue::new(1) }.event()),
        (1, Issue { kind: Kind::Agent, companion_of: Some(id(1)), ..Issue::new(2) }.event()),
        (80, Event::CredentialExpired(expired)),
        (80, Event::CredentialCascadeRevoked(cascade)),
    ]
    .into_iter()
    .zip(0..)
    .map(|((micros, event), position)| placed(position, Actor::System, micros, event))
    .collect();
    let status = |until, now| {
        let mut view = TeamView::default();
        events.iter().filter(|placed| Until::includes(until, placed)).for_each(|placed| view.apply(placed));
        view.directory.get(id(2)).unwrap().status(at(now))
    };
    // By all we know, the companion (which had no end of its own) was dead at 60; at position 1 nobody knew.
    assert_eq!(status(Until::Instant(at(60)), 60), Status::Revoked);
    assert_eq!(status(Until::Instant(at(49)), 49), Status::Active);
    assert_eq!(status(Until::Position(Position(1)), 60), Status::Active);
    assert_eq!(status(Until::Now, 90), Status::Revoked);
}

/// Any events about six credentials and four persons, some impossible.
fn story() -> impl Strategy<Value = Vec<PlacedRecord>> {
    let event = (0..9usize, 0..6u64, 0..4u8, proptest::option::of(0..40u64));
    proptest::collection::vec((event, 0..5u8, 0..3u64, 1..3u64), 1..60).prop_map(|steps| {
        let (mut micros, mut position) = (0, 0);
        steps
            .into_iter()
            .map(|((what, number, member, ends), actor, wait, gap)| {
                micros += wait;
                position += gap;
                let credential = id(number);
                let kind = Kind::ALL[number as usize % 3];
                let event = match what {
                    0..3 => Event::CredentialIssued(CredentialIssuedV1 {
                        purpose: ends.map(|ends| ends.to_string()),
                        ..issued(Issue { kind, holder: person(member), expires_at: ends.map(at), ..Issue::new(number) })
                    }),
                    3 => Event::CredentialRevoked(CredentialRevokedV1 {
                        credential,
                        reason: RevokeReason::Leaked,
                        note: None,
                    }),
                    4 => Event::CredentialExpired(CredentialExpiredV1 { credential, effective_at: at(micros / 2) }),
                    5 => Event::ExpiryShortened(ExpiryShortenedV1 { credential, from: None, to: at(micros + 3) }),
                    6 => handed_over(number, 0, member),
                    7 => joined(member),
                    _ => departed(member),
                };
                let actor = match actor {
                    0 => Actor::System,
                    1 => Actor::Credential(credential),
                    _ => Actor::Person(person(actor)),
                };
                placed(position, actor, micros, event)
            })
            .collect()
    })
}

fn issued(issue: Issue) -> CredentialIssuedV1 {
    let Event::CredentialIssued(event) = issue.event() else { unreachable!() };
    event
}

fn fold(events: &[PlacedRecord], until: Until) -> TeamView {
    let mut view = TeamView::default();
    events.iter().filter(|placed| until.includes(placed)).for_each(|placed| view.apply(placed));
    view
}

fn passes(view: &TeamView, row: &Row, filter: &Filter<'_>, now: Timestamp) -> bool {
    let gone = |person| view.members.get(&person).is_some_and(|member: &Member| member.departed_at.is_some());
    filter.kind.is_none_or(|kind| kind == row.kind)
        && filter.status.is_none_or(|status| status == row.status(now))
        && filter.issued_by.is_none_or(|person| row.issued_by == Actor::Person(person))
        && filter.holder.is_none_or(|person| row.holder == person)
        && (!filter.departed || gone(row.holder))
        && filter.expires_before.is_none_or(|before| row.expires_at.is_some_and(|end| end < before))
        && filter.own_devices_of.is_none_or(|person| row.device.is_none() || row.holder == person)
}

proptest! {
    #[test]
    fn an_audit_query_finds_what_a_scan_finds(
        events in story(), credential in proptest::option::of(0..7u64), actor in proptest::option::of(0..6u8),
        kind in proptest::option::of(3..13u16), from in proptest::option::of(0..90u64),
        to in proptest::option::of(0..90u64), newest_first: bool, limit in 1..9usize,
    ) {
        let view = fold(&events, Until::Now);
        let actor = actor.map(|actor| if actor == 0 { Actor::System } else { Actor::Person(person(actor)) });
        let mut query = Query {
            credential: credential.map(id), actor, kind, from: from.map(at), to: to.map(at),
            after: None, newest_first, limit,
        };
        let mut expected: Vec<Position> = events
            .iter()
            .filter(|placed| {
                let record = &placed.record;
                query.credential.is_none_or(|id| record.event.credential() == Some(id) && view.directory.get(id).is_some_and(|row| row.issued_position <= placed.position))
                    && actor.is_none_or(|actor| record.meta.actor == actor)
                    && kind.is_none_or(|kind| record.event.header().0 == kind)
                    && query.from.is_none_or(|from| from <= record.recorded_at)
                    && query.to.is_none_or(|to| record.recorded_at < to)
            })
            .map(|placed| placed.position)
            .collect();
        if newest_first {
            expected.reverse();
        }
        let mut found = vec![];
        loop {
            let Found { positions, next } = view.audit(&query);
            prop_assert!(positions.len() <= limit && (next.is_none() || positions.len() == limit));
            found.extend(positions);
            query.after = next;
            if next.is_none() {
                break;
            }
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn the_list_shows_what_a_scan_of_the_rows_finds(
        events in story(), now in 0..90u64, kind in proptest::option::of(0..4usize),
        status in proptest::option::of(0..3usize), people in proptest::array::uniform3(proptest::option::of(0..5u8)),
        departed: bool, expires_before in proptest::option::of(0..60u64),
    ) {
        let view = fold(&events, Until::Now);
        let [issued_by, holder, own_devices_of] = people.map(|number| number.map(person));
        let filter = Filter {
            kind: kind.map(|kind| Kind::ALL[kind]), status: status.map(|status| Status::ALL[status]), issued_by, holder,
            departed, expires_before: expires_before.map(at), own_devices_of, ..Filter::default()
        };
        let now = at(now);
        let expected: Vec<_> =
            view.directory.rows().iter().rev().filter(|row| passes(&view, row, &filter, now)).map(|row| row.id).collect();
        let found: Vec<_> = view.directory.select(&filter, now, &LOOKUPS).map(|row| row.id).collect();
        prop_assert_eq!(found, expected);
        let queue = view.undecided(now, &nobody_used);
        let gone = Filter { status: Some(Status::Active), departed: true, ..Filter::default() };
        let expected = view.directory.rows().iter().filter(|row| passes(&view, row, &gone, now) && row.device.is_none());
        prop_assert_eq!(queue.len(), expected.count());
    }

    /// What a key is worth at an instant, told by the definition: issued ≤ t < min(expires_at, revoked_at).
    #[test]
    fn as_of_an_instant_tells_what_held(events in story(), t in 0..90u64) {
        let view = fold(&events, Until::Instant(at(t)));
        let mut alive: HashMap<CredentialId, bool> = HashMap::new();
        let mut ends: HashMap<CredentialId, u64> = HashMap::new();
        for placed in events.iter().filter(|placed| effective_at(placed) <= at(t)) {
            match &placed.record.event {
                Event::CredentialIssued(e) if !alive.contains_key(&e.credential) => {
                    alive.insert(e.credential, true);
                    ends.insert(e.credential, e.expires_at.map_or(u64::MAX, Timestamp::micros));
                }
                Event::CredentialRevoked(e) => drop(alive.get_mut(&e.credential).map(|alive| *alive = false)),
                Event::CredentialExpired(e) => drop(alive.get_mut(&e.credential).map(|alive| *alive = false)),
                Event::ExpiryShortened(e) => {
                    ends.entry(e.credential).and_modify(|end| *end = (*end).min(e.to.micros()));
                }
                _ => {}
            }
        }
        for (credential, alive) in alive {
            let expected = alive && t < ends[&credential];
            let row = view.directory.get(credential).unwrap();
            prop_assert_eq!(row.status(at(t)) == Status::Active, expected);
        }
    }

    #[test]
    fn folding_in_two_parts_gives_the_same_view(events in story(), cut in 0..60usize) {
        let cut = cut.min(events.len());
        let mut view = fold(&events[..cut], Until::Now);
        if let Some(last) = events[..cut].last() {
            prop_assert_eq!(&view, &fold(&events, Until::Position(last.position)));
        }
        events[cut..].iter().for_each(|placed| view.apply(placed));
        prop_assert_eq!(view, fold(&events, Until::Now));
    }
}
