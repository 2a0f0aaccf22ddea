//! The machine against a model of the ledger, the network and the disk, with everything that may go wrong: messages lost,
//! doubled, swapped, garbled, late; connections cut; a ledger that is away, or comes back with less history or
//! another one; an edge that starts anew, from its file or without.
//!
//! After every step: nothing is accepted that the ledger had ended longer ago than the policy allows, nor anything that
//! the edge once knew to have ended; and what is held is what some history of the ledger was at that position. In
//! the end the faults stop, and the edge catches up, unless the history it remembers is none of this ledger's.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use keyledger_events::{
    CredentialId, Position, Timestamp,
    secret::{Kind, SecretHash},
};
use proptest::{prelude::*, sample::Index};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::{
    EdgeState,
    machine::{Effect, Left, Machine, Moment, News, Next, Reading, Refusal},
    tree::{TreeCheck, TreeFault},
};
use crate::{
    Active,
    feed::{Change, Changes, HeadMessage, PlacedChange, snapshot::Header},
    testing::{id, person, team},
};

const MAX: Duration = Duration::from_secs(5);
const SECOND_US: u64 = 1_000_000;

fn hash(number: u64) -> SecretHash {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    SecretHash(bytes)
}

/// What one commit did; `pad` positions before it concern nobody here.
#[derive(Clone, Debug, Hash)]
struct Commit {
    at_us: u64,
    pad: u64,
    what: What,
}

#[derive(Clone, Debug, Hash)]
enum What {
    Issue(u64),
    /// A device and its companion, the next number.
    Pair(u64),
    Revoke(u64),
    /// A device, and with it its companion.
    RevokePair(u64),
}

impl What {
    fn changes(&self, at: Timestamp) -> Vec<Change> {
        let issued = |number, kind, companion_of: Option<u64>| Change::CredentialIssued {
            credential: id(number),
            kind,
            hash: hash(number),
            holder: person(0),
            expires_at: None,
            companion_of: companion_of.map(id),
        };
        let revoked = |number| Change::CredentialRevoked { credential: id(number) };
        match *self {
            Self::Issue(number) => vec![issued(number, Kind::Integration, None)],
            Self::Pair(number) => {
                vec![issued(number, Kind::Device, None), issued(number + 1, Kind::Agent, Some(number))]
            }
            Self::Revoke(number) => vec![revoked(number)],
            Self::RevokePair(number) => {
                let cascade = Change::CredentialCascadeRevoked { credential: id(number + 1), effective_at: at };
                vec![revoked(number), cascade]
            }
        }
    }

    fn ends(&self) -> Vec<u64> {
        match *self {
            Self::Revoke(number) => vec![number],
            Self::RevokePair(number) => vec![number, number + 1],
            _ => vec![],
        }
    }
}

/// A history, from its beginning.
#[derive(Clone, Debug, Default)]
struct History(Vec<Commit>);

impl History {
    /// Each commit with the position before it and its last one.
    fn placed(&self) -> impl Iterator<Item = (Option<Position>, Position, &Commit)> {
        let mut next = 0;
        self.0.iter().map(move |commit| {
            let before = u64::checked_sub(next, 1).map(Position);
            next += commit.pad + commit.what.changes(Timestamp::default()).len() as u64;
            (before, Position(next - 1), commit)
        })
    }

    fn end(&self) -> Option<Position> {
        self.placed().last().map(|(_, end, _)| end)
    }

    fn index_at(&self, held: Option<Position>) -> Active {
        let index = Active::default();
        for (_, end, commit) in self.placed() {
            if Some(end) <= held {
                let at = Timestamp::from_micros(commit.at_us);
                commit.what.changes(at).iter().for_each(|change| index.apply_change(team(0), change));
            }
        }
        index
    }

    fn message(&self, after: Option<Position>, wanted: Position) -> Changes {
        let (_, position, commit) = self.placed().find(|(_, end, _)| *end == wanted).unwrap();
        let changes = commit.what.changes(Timestamp::from_micros(commit.at_us));
        let first = position.0 + 1 - changes.len() as u64;
        let changes = changes
            .into_iter()
            .zip(first..)
            .map(|(change, at)| PlacedChange { position: Position(at), change })
            .collect();
        Changes { after, position, team: team(0), changes }
    }

    /// As a tree: size and root.
    fn tree_at(&self, end: Option<Position>) -> (u64, u64) {
        let mut hasher = DefaultHasher::new();
        self.placed()
            .filter(|(_, position, _)| Some(*position) <= end)
            .for_each(|(_, _, commit)| commit.hash(&mut hasher));
        (end.map_or(0, |end| end.0 + 1), hasher.finish())
    }
}

#[derive(Clone, Debug)]
struct World {
    now_us: u64,
    /// The first is the true one; others are what it became by a lie or a restored backup.
    histories: Vec<History>,
    current: usize,
    switched_us: u64,
    up: bool,
    next_number: u64,
    alive: Vec<(u64, bool)>,
}

impl World {
    fn history(&self) -> &History {
        &self.histories[self.current]
    }
}

#[derive(Clone, Debug)]
enum Step {
    Issue {
        pair: bool,
        pad: u64,
    },
    Revoke(Index),
    Wait {
        ms: u64,
    },
    Deliver {
        count: usize,
    },
    Lose(Index),
    Double(Index),
    Swap(Index),
    Garble(Index),
    /// A change is left out of a message that can be read.
    Lie(Index),
    Cut,
    Try,
    Down,
    Up,
    Rollback {
        commits: usize,
    },
    Fork {
        commits: usize,
    },
    Truth,
    Save,
    Restart {
        damaged: bool,
    },
}

impl ReferenceStateMachine for World {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self {
            now_us: 1_000 * SECOND_US,
            histories: vec![History::default()],
            current: 0,
            switched_us: 0,
            up: true,
            next_number: 0,
            alive: vec![],
        })
        .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        prop_oneof![
            4 => (any::<bool>(), 0..3u64).prop_map(|(pair, pad)| Step::Issue { pair, pad }),
            4 => any::<Index>().prop_map(Step::Revoke),
            5 => (1..2_500u64).prop_map(|ms| Step::Wait { ms }),
            9 => (1..9usize).prop_map(|count| Step::Deliver { count }),
            1 => any::<Index>().prop_map(Step::Lose),
            1 => any::<Index>().prop_map(Step::Double),
            1 => any::<Index>().prop_map(Step::Swap),
            1 => any::<Index>().prop_map(Step::Garble),
            1 => any::<Index>().prop_map(Step::Lie),
            1 => Just(Step::Cut),
            7 => Just(Step::Try),
            1 => Just(Step::Down),
            2 => Just(Step::Up),
            1 => (1..4usize).prop_map(|commits| Step::Rollback { commits }),
            1 => (1..4usize).prop_map(|commits| Step::Fork { commits }),
            2 => Just(Step::Truth),
            1 => Just(Step::Save),
            1 => prop::bool::weighted(0.2).prop_map(|damaged| Step::Restart { damaged }),
        ]
        .boxed()
    }

    fn apply(mut world: Self, step: &Step) -> Self {
        match step {
            Step::Issue { pair, pad } if world.up => {
                let number = world.next_number;
                world.next_number += 2;
                let what = if *pair { What::Pair(number) } else { What::Issue(number) };
                let commit = Commit { at_us: world.now_us, pad: *pad, what };
                world.histories[world.current].0.push(commit);
                world.alive.push((number, *pair));
            }
            Step::Revoke(which) if world.up => {
                let mut known: Vec<_> = world.alive.clone();
                let ended: Vec<_> = world.history().0.iter().flat_map(|commit| commit.what.ends()).collect();
                let issued = |number: u64| {
                    let is = |what: &What| matches!(what, What::Issue(n) | What::Pair(n) if *n == number);
                    world.history().0.iter().any(|commit| is(&commit.what))
                };
                known.retain(|(number, _)| !ended.contains(number) && issued(*number));
                if !known.is_empty() {
                    let (number, pair) = *which.get(&known);
                    let what = if pair { What::RevokePair(number) } else { What::Revoke(number) };
                    let commit = Commit { at_us: world.now_us, pad: 0, what };
                    world.histories[world.current].0.push(commit);
                }
            }
            Step::Wait { ms } => world.now_us += ms * 1_000,
            Step::Down => world.up = false,
            Step::Up => world.up = true,
            Step::Rollback { commits } | Step::Fork { commits } => {
                let mut other = world.history().clone();
                other.0.truncate(other.0.len().saturating_sub(*commits));
                if matches!(step, Step::Fork { .. }) {
                    // As many events, of another content.
                    while other.end() < world.history().end() {
                        let what = What::Issue(world.next_number);
                        world.next_number += 2;
                        other.0.push(Commit { at_us: world.now_us, pad: 0, what });
                    }
                }
                world.histories.push(other);
                world.current = world.histories.len() - 1;
                world.switched_us = world.now_us;
            }
            Step::Truth if world.current != 0 => {
                world.current = 0;
                world.switched_us = world.now_us;
            }
            _ => {}
        }
        world
    }
}

#[derive(Clone, Debug)]
enum Message {
    Changes(Changes),
    /// Something was left out.
    Lie(Changes),
    Head(HeadMessage),
    Garbage,
}

struct Edge {
    machine: Machine,
    closed: bool,
    news: Option<News>,
    /// Size and root of the newest tree found good.
    remembered: Option<(u64, u64)>,
    /// The tree found last, not believed yet.
    found: Option<(u64, u64)>,
    /// What was known to have ended whenever a head was believed.
    known_dead: BTreeSet<u64>,
    connection: Option<Connection>,
    /// Something was left out since a head was believed.
    lied_to: bool,
    /// A head of another history than the true one was believed.
    followed_other: bool,
    file: Option<File>,
}

/// The ledger's side, and what is under way.
struct Connection {
    told: Option<Position>,
    last_head_us: u64,
    messages: VecDeque<Message>,
}

struct File {
    held: Option<Position>,
    highest: Option<Position>,
    history: History,
    remembered: Option<(u64, u64)>,
    news: News,
    known_dead: BTreeSet<u64>,
    followed_other: bool,
}

fn reading(world: &World) -> Reading {
    Reading { mono: Moment(world.now_us), wall: Timestamp::from_micros(world.now_us + 77) }
}

impl Edge {
    fn fresh(left: Option<Left>) -> Self {
        Self {
            machine: Machine::new(None, Some(MAX / 2), left),
            closed: true,
            news: None,
            remembered: None,
            found: None,
            known_dead: BTreeSet::new(),
            connection: None,
            lied_to: false,
            followed_other: false,
            file: None,
        }
    }

    fn carry_out(&mut self, world: &World, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Close => self.closed = true,
                Effect::Disconnect => self.connection = None,
                Effect::Open(news) => {
                    self.closed = false;
                    self.news = Some(news);
                    self.lied_to = false;
                    self.remembered = self.found.take().or(self.remembered);
                    let truth = world.history().index_at(self.machine.held()).nameless_digest(None);
                    assert_eq!(self.machine.index().nameless_digest(None), truth, "a gap was believed");
                    self.followed_other |= world.current != 0;
                    let dead = |number: &u64| {
                        self.machine.index().judge(&hash(*number), None, None, Timestamp::default()).is_err()
                    };
                    let issued = self.machine.index().freeze();
                    let issued: BTreeSet<CredentialId> = issued.rows().map(|row| row.credential).collect();
                    let known = (0..world.next_number + 2).filter(|number| issued.contains(&id(*number)));
                    self.known_dead.extend(known.filter(dead));
                }
                Effect::Ended(_) | Effect::Replaced => {}
            }
        }
    }

    /// The edge's next try.
    fn attempt(&mut self, world: &World) {
        if self.connection.is_some() {
            return;
        }
        if !world.up {
            let effects = self.machine.refused(Refusal::Away);
            return self.carry_out(world, effects);
        }
        match self.machine.next() {
            Next::Snapshot => {
                let index = world.history().index_at(world.history().end());
                let header = Header {
                    position: world.history().end(),
                    credentials: index.len() as u64,
                    digest: index.nameless_digest(None),
                    teams: None,
                    at: Timestamp::from_micros(world.now_us),
                };
                let effects = self.machine.snapshot(&header, index);
                self.carry_out(world, effects);
            }
            Next::Feed(after) => {
                self.look_at_tree(world);
                self.machine.connecting(reading(world));
                if after > world.history().end() {
                    let effects = self.machine.refused(Refusal::Shorter);
                    return self.carry_out(world, effects);
                }
                self.connection = Some(Connection { told: after, last_head_us: 0, messages: VecDeque::new() });
                self.tell(world);
            }
        }
    }

    fn look_at_tree(&mut self, world: &World) {
        let size = |end: Option<Position>| end.map_or(0, |end| end.0 + 1);
        let newest = world.history().tree_at(world.history().end());
        let check = match self.remembered {
            None => TreeCheck::Continues { size: newest.0 },
            Some((old, _)) if old > size(world.history().end()) => TreeCheck::Fault(TreeFault::Shorter),
            Some((old, root)) => match world.history().tree_at(old.checked_sub(1).map(Position)).1 == root {
                true => TreeCheck::Continues { size: newest.0 },
                false => TreeCheck::Fault(TreeFault::Forked),
            },
        };
        if matches!(check, TreeCheck::Continues { .. }) {
            self.found = Some(newest);
        }
        let effects = self.machine.tree(&check);
        self.carry_out(world, effects);
    }

    /// The ledger tells what is new, and each second a head.
    fn tell(&mut self, world: &World) {
        let Some(connection) = &mut self.connection else { return };
        let new: Vec<_> =
            world.history().placed().map(|(_, end, _)| end).filter(|end| Some(*end) > connection.told).collect();
        for end in new {
            let changes = world.history().message(connection.told, end);
            connection.messages.push_back(Message::Changes(changes));
            connection.told = Some(end);
        }
        if world.now_us - connection.last_head_us >= SECOND_US {
            connection.last_head_us = world.now_us;
            connection.messages.push_back(Message::Head(HeadMessage {
                after: connection.told,
                position: connection.told,
                digest: world.history().index_at(connection.told).nameless_digest(None),
                at: Timestamp::from_micros(world.now_us),
            }));
        }
    }

    fn deliver(&mut self, world: &World) {
        let Some(message) = self.connection.as_mut().and_then(|connection| connection.messages.pop_front()) else {
            return;
        };
        let effects = match message {
            Message::Changes(changes) => self.machine.changes(&changes),
            Message::Lie(changes) => {
                self.lied_to = true;
                self.machine.changes(&changes)
            }
            Message::Head(head) => self.machine.head(reading(world), &head),
            Message::Garbage => self.machine.malformed(),
        };
        self.carry_out(world, effects);
    }

    fn cut(&mut self) {
        if self.connection.take().is_some() {
            self.machine.lost();
        }
    }

    fn restart(&mut self, damaged: bool) {
        let file = self.file.take().filter(|_| !damaged);
        let Some(file) = file else { return *self = Self::fresh(None) };
        let left = Left { index: file.history.index_at(file.held), held: file.held, highest: file.highest };
        *self = Self {
            closed: false,
            news: Some(file.news),
            remembered: file.remembered,
            known_dead: file.known_dead.clone(),
            followed_other: file.followed_other,
            // What was saved without a head over it may not go with what comes next.
            lied_to: file.held > file.highest,
            file: Some(file),
            ..Self::fresh(Some(left))
        };
    }

    fn accepts(&self, world: &World, number: u64) -> bool {
        let fresh = self.news.is_some_and(|news| reading(world).mono.since(news.as_of.mono) <= MAX);
        !self.closed && fresh && self.machine.index().judge(&hash(number), None, None, Timestamp::default()).is_ok()
    }

    fn is_open(&self, world: &World) -> bool {
        !self.closed && self.news.is_some_and(|news| reading(world).mono.since(news.as_of.mono) <= MAX)
    }
}

impl StateMachineTest for Edge {
    type SystemUnderTest = Self;
    type Reference = World;

    fn init_test(_: &World) -> Self {
        Self::fresh(None)
    }

    fn apply(mut edge: Self, world: &World, step: Step) -> Self {
        let messages = edge.connection.as_mut().map(|connection| &mut connection.messages).filter(|m| !m.is_empty());
        match (step, messages) {
            (Step::Deliver { count }, _) => (0..count).for_each(|_| edge.deliver(world)),
            (Step::Lose(which), Some(messages)) => drop(messages.remove(which.index(messages.len()))),
            (Step::Double(which), Some(messages)) => {
                let at = which.index(messages.len());
                messages.insert(at, messages[at].clone());
            }
            (Step::Swap(which), Some(messages)) => {
                let at = which.index(messages.len());
                messages.swap(0, at);
            }
            (Step::Garble(which), Some(messages)) => {
                let at = which.index(messages.len());
                messages[at] = match messages[at].clone() {
                    Message::Head(head) => Message::Head(HeadMessage { digest: Default::default(), ..head }),
                    _ => Message::Garbage,
                };
            }
            (Step::Lie(which), Some(messages)) => {
                let at = which.index(messages.len());
                if let Message::Changes(mut changes) = messages[at].clone() {
                    changes.changes.pop();
                    messages[at] = Message::Lie(changes);
                }
            }
            (Step::Cut | Step::Down, _) => edge.cut(),
            (Step::Rollback { .. } | Step::Fork { .. } | Step::Truth, _) => {
                edge.cut();
                // What comes next may not go with what no head has confirmed yet.
                edge.lied_to = true;
            }
            (Step::Try, _) => edge.attempt(world),
            (Step::Save, _) => {
                let of = world.histories.iter().find(|history| {
                    history.index_at(edge.machine.held()).nameless_digest(None)
                        == edge.machine.index().nameless_digest(None)
                });
                if let (Some(news), Some(history), true) = (edge.news, of, edge.machine.is_sound() && !edge.closed) {
                    edge.file = Some(File {
                        held: edge.machine.held(),
                        highest: edge.machine.highest(),
                        history: history.clone(),
                        remembered: edge.remembered,
                        news,
                        known_dead: edge.known_dead.clone(),
                        followed_other: edge.followed_other,
                    });
                }
            }
            (Step::Restart { damaged }, _) => edge.restart(damaged),
            _ => {}
        }
        if world.up {
            edge.tell(world);
        } else {
            edge.cut();
        }
        edge
    }

    fn check_invariants(edge: &Self, world: &World) {
        for commit in &world.history().0 {
            for number in commit.what.ends() {
                let known_us = commit.at_us.max(world.switched_us);
                let long_ago = world.now_us > known_us + MAX.as_micros() as u64;
                assert!(!(long_ago && edge.accepts(world, number)), "{number} was ended at {known_us}");
            }
        }
        for number in &edge.known_dead {
            assert!(!edge.accepts(world, *number), "{number} was known to have ended");
        }
        if edge.machine.is_sound() && edge.machine.held().is_some() {
            let mine = edge.machine.index().nameless_digest(None);
            let held = edge.machine.held();
            let fits = |history: &History| history.index_at(held).nameless_digest(None) == mine;
            // What a lie has left out, or another history brought in, the next head finds.
            assert!(world.histories.iter().any(fits) || edge.lied_to, "a gap was applied");
        }
    }

    fn teardown(mut edge: Self, mut world: World) {
        world.up = true;
        if world.current != 0 {
            world.current = 0;
            world.switched_us = world.now_us;
        }
        edge.cut();
        for _ in 0..8 {
            world.now_us += SECOND_US;
            edge.attempt(&world);
            edge.tell(&world);
            (0..200).for_each(|_| edge.deliver(&world));
            Self::check_invariants(&edge, &world);
        }
        let of_this_ledger = edge.remembered.is_none_or(|(size, root)| {
            size <= world.history().tree_at(world.history().end()).0
                && world.history().tree_at(size.checked_sub(1).map(Position)).1 == root
        });
        // What it has believed beyond the tree it remembers may be another history's, too.
        if edge.machine.state() == EdgeState::Forked {
            assert!(!edge.is_open(&world) && (edge.followed_other || !of_this_ledger));
        } else if of_this_ledger && edge.machine.highest() <= world.history().end() {
            assert!(edge.is_open(&world), "{:?}", edge.machine.state());
            assert_eq!(edge.machine.held(), world.history().end());
            let truth = world.history().index_at(world.history().end());
            assert_eq!(edge.machine.index().nameless_digest(None), truth.nameless_digest(None));
        } else {
            assert!(
                matches!(edge.machine.state(), EdgeState::Forked | EdgeState::Behind),
                "{:?}",
                edge.machine.state()
            );
            assert!(!edge.is_open(&world));
        }
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(400)))]

    #[test]
    fn whatever_goes_wrong_nothing_dead_is_accepted_and_the_edge_catches_up(sequential 1..80 => Edge);
}
