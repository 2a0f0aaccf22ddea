use keyledger_events::Position;

use super::{
    machine::{Effect, Machine, Moment, News, Next, Reading},
    reports::Waiting,
    tree::TreeCheck,
    *,
};
use crate::{
    Active,
    feed::{HeadMessage, snapshot::Header},
    testing::{Issue, at},
};

const MAX: Duration = Duration::from_secs(5);

fn news(as_of: Reading, at: Timestamp) -> News {
    News { as_of, heard: as_of, at }
}

#[test]
fn the_gate_judges_the_newss_age_by_either_clock_and_the_end_by_the_ledgers() {
    let index = Active::default();
    let key = Issue { expires_at: Some(Timestamp::from_micros(u64::MAX / 4)), ..Issue::new(1) };
    key.apply(&index);
    let gate = Gate::new(Policy::Strict { max: Duration::from_secs(3_600) }, Arc::new(index));
    let judge = |now| gate.pass(now, |index, now| index.judge(&key.hash(), None, None, now).is_ok());
    let now = gate::wall();
    assert_eq!((judge(now), gate.age()), (Err(Barred::Closed), None));
    gate.open(&news(gate.reading(), now));
    assert_eq!(judge(now), Ok(true));
    assert_eq!(judge(now.plus(Duration::from_secs(3_500))), Ok(true));
    // The caller's clock went on while the monotonic one stood still.
    assert_eq!(judge(now.plus(Duration::from_secs(3_700))), Err(Barred::Stale));
    gate.close();
    assert_eq!((judge(now), gate.fresh_for()), (Err(Barred::Closed), Duration::ZERO));
    // The ledger's clock is far ahead of ours: the key has ended.
    gate.open(&news(gate.reading(), Timestamp::MAX));
    assert_eq!(judge(now), Ok(false));
    assert!(gate.now() > now.plus_days(365));

    let gate = Gate::new(Policy::Strict { max: Duration::ZERO }, Arc::default());
    gate.open(&news(gate.reading(), now));
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(gate.pass(now, |_, _| ()), Err(Barred::Stale));
    let gate = Gate::new(Policy::BestEffort, Arc::default());
    gate.open(&news(Reading { mono: Moment(0), wall: Timestamp::default() }, now));
    assert_eq!(gate.pass(Timestamp::MAX, |_, _| ()), Ok(()));
}

/// A machine that has a snapshot of nothing, and is connected.
fn connected(now: Reading) -> Machine {
    let mut machine = Machine::new(None, Some(MAX / 2), None);
    assert_eq!(machine.next(), Next::Snapshot);
    let header = Header {
        position: Some(Position(3)),
        credentials: 0,
        digest: Active::default().nameless_digest(None),
        teams: None,
        at: at(0),
    };
    machine.snapshot(&header, Active::default());
    machine.tree(&TreeCheck::Continues { size: 4 });
    assert_eq!(machine.next(), Next::Feed(Some(Position(3))));
    machine.connecting(now);
    machine
}

fn seconds(mono: u64, wall: u64) -> Reading {
    Reading { mono: Moment(mono * 1_000_000), wall: at(wall * 1_000_000) }
}

/// What a head that the ledger made at `made` seconds of its clock and that came at `now` leads to.
fn head(machine: &mut Machine, now: Reading, made: u64) -> Vec<Effect> {
    let digest = Active::default().nameless_digest(None);
    let head = HeadMessage { after: Some(Position(3)), position: Some(Position(3)), digest, at: at(made * 1_000_000) };
    machine.head(now, &head)
}

#[test]
fn a_head_is_as_old_as_the_ledger_says_and_not_as_its_arrival() {
    // The three clocks agree in nothing but how fast they go.
    for (what, now, made, as_of, disconnects) in [
        ("in time", seconds(101, 501), 901, seconds(101, 501), false),
        ("a second late", seconds(110, 510), 909, seconds(109, 509), false),
        ("very late", seconds(110, 510), 906, seconds(106, 506), true),
        ("after a night's suspension", seconds(102, 30_502), 902, seconds(102, 502), true),
        ("the ledger's clock has jumped", seconds(102, 502), 999, seconds(102, 502), false),
    ] {
        let mut machine = connected(seconds(100, 500));
        head(&mut machine, seconds(100, 500), 900);
        let effects = head(&mut machine, now, made);
        let Some(Effect::Open(news)) = effects.first() else { panic!("{what}: {effects:?}") };
        assert_eq!((news.as_of, news.heard), (as_of, now), "{what}");
        assert_eq!(matches!(effects.last(), Some(Effect::Disconnect)), disconnects, "{what}: {effects:?}");
    }
}

#[test]
fn no_head_is_believed_before_the_tree_is() {
    let mut machine = connected(seconds(1, 1));
    machine.tree(&TreeCheck::Unknown);
    assert!(machine.wants_tree() && head(&mut machine, seconds(1, 1), 1).is_empty());
    machine.tree(&TreeCheck::Continues { size: 4 });
    assert!(matches!(head(&mut machine, seconds(2, 2), 2)[..], [Effect::Open(_)]));
}

#[test]
fn a_flood_of_one_dead_key_is_one_line_a_minute_and_what_was_not_taken_comes_again() {
    let (dead, queue) = DeadKeys::new(true);
    let mut waiting = Waiting::new(queue);
    let knock = |number: u64, minute: u64| {
        dead.heard(Issue::new(number).hash(), &Question::default(), at(minute * 60_000_000 + number));
    };
    (0..900).for_each(|_| knock(1, 7));
    knock(2, 7);
    waiting.take_knocks();
    knock(1, 7);
    knock(1, 8);
    waiting.take_knocks();
    let index = Active::default();
    Issue::new(3).apply(&index);
    let verdict = index.judge(&Issue::new(3).hash(), None, None, at(1)).unwrap();
    index.touch(verdict.handle, at(9 * 60_000_000), Some(Surface::Runtime), || AddressClass::Private);
    waiting.take_uses(&index);
    let report = waiting.next().unwrap();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(text.matches("hash").count(), 3, "{text}");
    let used = r#""at":"1970-01-01T00:09:00.000000Z","surface":"runtime","address":"private"}]"#;
    assert!(text.contains(used), "{text}");
    assert!(waiting.next().is_none());
    waiting.put_back(report);
    assert_eq!(serde_json::to_string(&waiting.next().unwrap()).unwrap(), text);
    // Nobody waits for a thread that is busy.
    (0..9_000).for_each(|number| knock(number, 9));
    waiting.take_knocks();
    assert!(waiting.next().is_some());
    let (dead, queue) = DeadKeys::new(false);
    dead.heard(Issue::new(1).hash(), &Question::default(), at(1));
    assert!(Waiting::new(queue).next().is_none());
}

fn snapshot_of(numbers: &[u64], dead: &[u64], position: u64) -> (Header, Active) {
    let index = Active::default();
    numbers.iter().for_each(|number| Issue::new(*number).apply(&index));
    dead.iter().for_each(|number| index.apply_event(crate::testing::team(0), &crate::testing::revoked(*number)));
    let digest = index.nameless_digest(None);
    let credentials = numbers.len() as u64;
    (Header { position: Some(Position(position)), credentials, digest, teams: None, at: at(0) }, index)
}

#[test]
fn a_snapshot_that_takes_back_what_a_head_has_confirmed_is_a_fork() {
    let mut machine = Machine::new(None, None, None);
    let (header, index) = snapshot_of(&[1, 2], &[1], 3);
    machine.snapshot(&header, index);
    machine.tree(&TreeCheck::Continues { size: 4 });
    machine.connecting(seconds(1, 1));
    let head = HeadMessage { after: Some(Position(3)), position: Some(Position(3)), digest: header.digest, at: at(0) };
    assert!(matches!(machine.head(seconds(1, 1), &head)[..], [Effect::Open(_)]));
    let other = HeadMessage { digest: Active::default().nameless_digest(None), ..head };
    machine.head(seconds(2, 2), &other);
    assert_eq!((machine.state(), machine.next()), (EdgeState::Resyncing(ResyncCause::Digest), Next::Snapshot));
    for (numbers, dead) in [(&[1, 2, 3][..], &[][..]), (&[1], &[1]), (&[2, 3], &[])] {
        let (header, index) = snapshot_of(numbers, dead, 9);
        assert!(matches!(machine.snapshot(&header, index)[..], [Effect::Close]));
        assert_eq!((machine.state(), machine.next()), (EdgeState::Forked, Next::Snapshot), "{numbers:?} {dead:?}");
    }
    let (header, index) = snapshot_of(&[1, 2, 3], &[1, 2], 9);
    assert!(matches!(machine.snapshot(&header, index)[..], [Effect::Replaced]));
    let (header, index) = snapshot_of(&[1, 2, 3], &[1, 2], 2);
    assert!(matches!(machine.snapshot(&header, index)[..], [Effect::Close]));
    assert_eq!(machine.state(), EdgeState::Behind);
}

#[test]
fn a_feed_that_has_less_than_the_tree_is_behind() {
    let mut machine = connected(seconds(1, 1));
    machine.tree(&TreeCheck::Continues { size: 9 });
    // What the tree says while the feed goes on may be newer than the message.
    assert!(matches!(head(&mut machine, seconds(1, 1), 1)[..], [Effect::Open(_)]));
    machine.connecting(seconds(1, 1));
    assert!(matches!(head(&mut machine, seconds(1, 1), 1)[..], [Effect::Close, Effect::Disconnect]));
    assert_eq!(machine.state(), EdgeState::Behind);
}
