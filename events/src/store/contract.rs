//! What every back end must do, as a test suite, and helpers that write commits for it.
//!
//! A back end's own tests call [`run`] with a function that makes an empty log; each property is also a function of its
//! own. The suite is written against the trait alone, so it also holds for a log that others append to.

// A panic is how a test suite speaks.
#![allow(clippy::unwrap_used)]

mod author;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

pub use author::{Author, sample_event};

use super::{AppendError, NotWritten, Proposal, ReadLog, Store};
use crate::{
    Commit, CommitBody, CommitNumber, Event, Position, Record, RecordHash, Revision, TeamId, Timestamp,
    commit::COMMIT_LEN_MAX,
    event::TeamCreatedV1,
    record::{RecordHeader, StreamHead, follow_chain},
};

/// Longest wait for something that must come.
const SOON: Duration = Duration::from_secs(20);

/// Runs the whole suite, each property on a fresh log of `make`.
///
/// # Panics
/// If the back end breaks the contract.
pub fn run(make: impl Fn() -> Box<dyn Store>) {
    an_empty_log_is_empty(&*make());
    what_is_appended_is_read_back(&*make());
    a_stale_expectation_is_a_conflict_and_changes_nothing(&*make());
    commits_may_build_on_others_under_way(&*make());
    a_conflict_fails_everything_that_builds_on_it(&*make());
    a_retry_is_answered_with_the_first_outcome(&*make());
    what_is_not_well_formed_is_refused(&*make());
    recorded_time_never_goes_backwards(&*make());
    a_follower_sees_history_then_live_without_a_gap(&*make());
    a_follower_may_begin_anywhere(&*make());
    many_threads_leave_contiguous_whole_chains(&*make());
}

/// Reads a log from its beginning to its head, as a follower does, and checks what every reader relies on: numbers and
/// positions contiguous, recorded time never backwards, every team's chain whole.
///
/// # Panics
/// If it is not so.
pub fn read_whole(log: &(impl ReadLog + ?Sized)) -> Vec<Commit> {
    let head = log.head();
    let mut follow = log.follow(CommitNumber(0)).unwrap();
    let (mut position, mut recorded_at) = (0, Timestamp::default());
    let mut streams: HashMap<TeamId, StreamHead> = HashMap::new();
    let mut commits = Vec::new();
    while commits.len() < head.commits.0 as usize {
        let commit = follow.next(SOON).unwrap().expect("a follower reaches the head");
        assert_eq!(commit.number.0, commits.len() as u64, "commit numbers are contiguous");
        assert_eq!(commit.first_position.0, position, "positions are contiguous");
        for record in commit.body.view().records() {
            let header = RecordHeader::decode(record.bytes()).unwrap();
            Record::decode(record.bytes()).unwrap();
            follow_chain(streams.get(&header.team).copied(), &header).expect("chains are whole");
            let hash = record.hash();
            streams.insert(header.team, StreamHead { revision: header.revision, hash });
            assert!(header.recorded_at >= recorded_at, "recorded time goes backwards");
            recorded_at = header.recorded_at;
            position += 1;
        }
        commits.push(commit);
    }
    assert_eq!(position, head.position.0, "the head is where the last commit ends");
    commits
}

/// A fresh log has nothing, everywhere.
///
/// # Panics
/// If the back end breaks the contract, as all that follow.
pub fn an_empty_log_is_empty(store: &dyn Store) {
    assert_eq!(store.head(), super::Head::default());
    assert_eq!(store.commit(CommitNumber(0)).unwrap(), None);
    assert_eq!(store.locate(Position(0)).unwrap(), None);
    assert_eq!(store.stream_head(TeamId::SYSTEM).unwrap(), None);
    assert_eq!(store.follow(CommitNumber(0)).unwrap().next(Duration::ZERO).unwrap(), None);
}

/// Number, position, bytes, place and stream head are as answered.
pub fn what_is_appended_is_read_back(store: &dyn Store) {
    let (mut position, mut proposals) = (0, Vec::new());
    let mut authors = [Author::new(1), Author::new(2), Author::new(3)];
    for number in 0..60u64 {
        let author = &mut authors[number as usize % 3];
        let proposal = author.propose_sample(1 + number % 4);
        let appended = store.append(proposal.clone()).unwrap();
        assert_eq!((appended.number.0, appended.first_position.0), (number, position));
        assert!(!appended.repeated);
        position += proposal.body.view().count();
        assert_eq!(store.head().position.0, position, "what is answered is visible");
        assert_eq!(store.head().recorded_at, author.now);
        assert_eq!(store.stream_head(author.team).unwrap(), author.head);
        proposals.push(proposal);
    }
    for (number, proposal) in proposals.iter().enumerate() {
        let commit = store.commit(CommitNumber(number as u64)).unwrap().unwrap();
        assert_eq!(commit.body, proposal.body);
        for position in commit.first_position.0..commit.end().0 {
            assert_eq!(store.locate(Position(position)).unwrap(), Some(commit.number));
        }
    }
    assert_eq!(store.commit(CommitNumber(60)).unwrap(), None);
    assert_eq!(store.commit(CommitNumber(u64::MAX)).unwrap(), None);
    assert_eq!(store.locate(Position(position)).unwrap(), None);
    assert_eq!(store.locate(Position(u64::MAX)).unwrap(), None);
    assert_eq!(read_whole(store).len(), 60);
}

/// The loser learns what the stream's last event is, and other teams are not concerned.
pub fn a_stale_expectation_is_a_conflict_and_changes_nothing(store: &dyn Store) {
    let (mut winner, mut loser) = (Author::new(1), Author::new(1));
    store.append(winner.propose_sample(2)).unwrap();
    loser.written = 77;
    let refused = store.append(loser.propose_sample(1));
    assert_eq!(refused, Err(AppendError::Conflict { actual: winner.head }));
    let mut ahead = winner.clone();
    ahead.propose_sample(1);
    assert_eq!(store.append(ahead.propose_sample(1)), Err(AppendError::Conflict { actual: winner.head }));
    let mut imagined = Author::new(2);
    imagined.propose_sample(1);
    assert_eq!(store.append(imagined.propose_sample(1)), Err(AppendError::Conflict { actual: None }));
    assert_eq!(store.head().commits, CommitNumber(1));
    assert_eq!(store.stream_head(winner.team).unwrap(), winner.head);
    store.append(Author::new(3).propose_sample(1)).unwrap();
    store.append(winner.propose_sample(1)).unwrap();
}

/// Several commits of one team may be handed over before the first is durable.
pub fn commits_may_build_on_others_under_way(store: &dyn Store) {
    let mut authors: Vec<_> = (0..5).map(Author::new).collect();
    let mut tickets = Vec::new();
    for round in 0..40 {
        for author in &mut authors {
            tickets.push(store.submit(author.propose_sample(1 + round % 3)));
        }
    }
    let numbers: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap().number.0).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "commits of one thread are tried in their order");
    for author in &authors {
        assert_eq!(store.stream_head(author.team).unwrap(), author.head);
    }
    assert_eq!(read_whole(store).len(), 200);
}

/// What was built on a commit that was refused is refused as well.
pub fn a_conflict_fails_everything_that_builds_on_it(store: &dyn Store) {
    let mut author = Author::new(1);
    store.append(author.propose_sample(1)).unwrap();
    let actual = author.head;
    author.head = None;
    author.written = 100;
    let tickets: Vec<_> = (0..3).map(|_| store.submit(author.propose_sample(1))).collect();
    for ticket in tickets {
        assert_eq!(ticket.wait(), Err(AppendError::Conflict { actual }));
    }
    assert_eq!(read_whole(store).len(), 1);
}

/// The same operation is written at most once, whoever retries it when.
pub fn a_retry_is_answered_with_the_first_outcome(store: &dyn Store) {
    let mut author = Author::new(1);
    store.append(author.propose_sample(1)).unwrap();
    let proposal = author.propose_sample(2);
    let tickets = [store.submit(proposal.clone()), store.submit(proposal.clone())];
    let [first, second] = tickets.map(|ticket| ticket.wait().unwrap());
    assert_eq!((first.number, first.first_position, first.repeated), (CommitNumber(1), Position(1), false));
    assert_eq!((second.number, second.first_position, second.repeated), (CommitNumber(1), Position(1), true));
    store.append(author.propose_sample(1)).unwrap();
    let late = store.append(proposal).unwrap();
    assert_eq!((late.number, late.first_position, late.repeated), (CommitNumber(1), Position(1), true));
    assert_eq!(read_whole(store).len(), 3);
}

/// A commit must follow from its own `expected`, be of the team it is for, hold what can be read back, and not be too long.
pub fn what_is_not_well_formed_is_refused(store: &dyn Store) {
    let mut author = Author::new(1);
    store.append(author.propose_sample(1)).unwrap();
    let good = author.clone().propose_sample(2);
    let other = Some(StreamHead { revision: Revision(0), hash: RecordHash([1; 32]) });
    let undecodable = |body: &CommitBody| {
        let mut bytes = body.bytes().to_vec();
        // The first record's event type: 51 bytes of commit, 4 of length, 1 of format.
        bytes[56] = 0xff;
        CommitBody::parse(bytes).unwrap()
    };
    let cases = [
        ("another team", Proposal { team: Author::new(2).team, ..good.clone() }),
        ("another predecessor", Proposal { expected: other, ..good.clone() }),
        ("no predecessor", Proposal { expected: None, ..good.clone() }),
        ("an unknown event type", Proposal { body: undecodable(&good.body), ..good.clone() }),
    ];
    for (what, proposal) in cases {
        let outcome = store.append(proposal);
        assert!(matches!(outcome, Err(AppendError::Malformed(_))), "{what}: {outcome:?}");
    }
    let long = vec![Event::TeamCreated(TeamCreatedV1 { name: "x".repeat(COMMIT_LEN_MAX) })];
    let long = author.clone().propose(long);
    let len = long.body.bytes().len();
    assert_eq!(store.append(long), Err(AppendError::TooLarge { len, max: COMMIT_LEN_MAX }));
    let longest = |padding| vec![Event::TeamCreated(TeamCreatedV1 { name: "x".repeat(padding) })];
    let overhead = author.clone().propose(longest(500_000)).body.bytes().len() - 500_000;
    let longest = author.propose(longest(COMMIT_LEN_MAX - overhead));
    assert_eq!(longest.body.bytes().len(), COMMIT_LEN_MAX);
    store.append(longest).unwrap();
    assert_eq!(read_whole(store).len(), 2);
}

/// The log refuses to go back in time; the same instant may come again.
pub fn recorded_time_never_goes_backwards(store: &dyn Store) {
    let (mut late, mut early) = (Author::new(1), Author::new(2));
    store.append(early.clone().propose_sample(1)).unwrap();
    late.now = early.now.plus_days(1);
    store.append(late.propose_sample(1)).unwrap();
    early.propose_sample(1);
    let refused = store.append(early.propose_sample(1));
    assert!(matches!(refused, Err(AppendError::NotWritten(NotWritten::Other(_)))), "{refused:?}");
    store.append(late.propose_sample(1)).unwrap();
    assert_eq!(store.head().recorded_at, late.now);
}

/// A follower that starts before, during and after the writing sees every commit once.
pub fn a_follower_sees_history_then_live_without_a_gap(store: &dyn Store) {
    const COMMITS: u64 = 400;
    let mut author = Author::new(1);
    for _ in 0..50 {
        store.append(author.propose_sample(1)).unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut follow = store.follow(CommitNumber(0)).unwrap();
                for number in 0..COMMITS {
                    let commit = follow.next(SOON).unwrap().expect("a live commit arrives");
                    assert_eq!(commit.number.0, number);
                    assert!(commit.end() <= store.head().position, "a follower sees only what is durable");
                }
            });
        }
        let tickets: Vec<_> = (50..COMMITS).map(|_| store.submit(author.propose_sample(1))).collect();
        tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
    });
}

/// In the middle, at the end (then it waits as long as it may), and behind the end (then until that commit comes).
pub fn a_follower_may_begin_anywhere(store: &dyn Store) {
    let mut author = Author::new(1);
    for _ in 0..10 {
        store.append(author.propose_sample(3)).unwrap();
    }
    let mut middle = store.follow(CommitNumber(7)).unwrap();
    for number in 7..10 {
        assert_eq!(middle.next(Duration::ZERO).unwrap().unwrap().number.0, number);
    }
    assert_eq!(middle.next(Duration::from_millis(5)).unwrap(), None);
    let mut beyond = store.follow(CommitNumber(11)).unwrap();
    assert_eq!(beyond.next(Duration::ZERO).unwrap(), None);
    store.append(author.propose_sample(1)).unwrap();
    assert_eq!(beyond.next(Duration::ZERO).unwrap(), None);
    assert_eq!(middle.next(SOON).unwrap().unwrap().number.0, 10);
    store.append(author.propose_sample(1)).unwrap();
    assert_eq!(beyond.next(SOON).unwrap().unwrap().number.0, 11);
}

/// 64 threads, 24 teams: some fight for a team and decide again on conflict, as the service does.
pub fn many_threads_leave_contiguous_whole_chains(store: &dyn Store) {
    const THREADS: u64 = 64;
    const COMMITS_EACH: u64 = 12;
    let conflicts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let conflicts = &conflicts;
            scope.spawn(move || {
                for round in 0..COMMITS_EACH {
                    let mut author = Author::new((thread + round) % 24);
                    author.head = store.stream_head(author.team).unwrap();
                    author.written = thread * COMMITS_EACH + round;
                    while let Err(error) = store.append(author.propose_sample(1 + round % 3)) {
                        let AppendError::Conflict { actual } = error else { panic!("{error}") };
                        conflicts.fetch_add(1, Ordering::Relaxed);
                        author.head = actual;
                        author.written = thread * COMMITS_EACH + round;
                    }
                }
            });
        }
    });
    assert_eq!(read_whole(store).len() as u64, THREADS * COMMITS_EACH, "{conflicts:?} conflicts");
}
