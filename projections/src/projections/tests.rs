use std::fs;

use keyledger_events::{
    Event,
    event::{CredentialCascadeRevokedV1, CredentialExpiredV1, MemberDepartedV1, MemberJoinedV1, Role, TeamCreatedV1},
    seal::Label,
    secret::Kind,
    store::{Store, contract::Author, memory::MemoryStore},
};
use proptest::prelude::*;

use super::*;
use crate::testing::{Issue, at, id, person, revoked};

/// A log, its authors, and the projections that follow it.
struct World {
    log: MemoryStore,
    authors: Vec<Author>,
    issued: u64,
}

impl World {
    fn new(teams: u64) -> Self {
        Self { log: MemoryStore::new(), authors: (0..teams).map(Author::new).collect(), issued: 0 }
    }

    /// Appends a commit of `team` and returns it.
    fn commit(&mut self, team: usize, events: Vec<Event>) -> Commit {
        let proposal = self.authors[team].propose(events);
        let appended = self.log.append(proposal).unwrap();
        self.log.commit(appended.number).unwrap().unwrap()
    }

    /// One of the things that happen, told by three numbers.
    fn step(&mut self, team: usize, what: u8, number: u64) -> Commit {
        let micros = self.authors[team].now.micros() + number % 3;
        self.authors.iter_mut().for_each(|author| author.now = at(micros));
        let of_team = self.authors[team].team;
        let some = number % (self.issued + 1);
        let member = person((number % 5) as u8);
        let mut issue = |issue: Issue| {
            self.issued += 1;
            Issue { team: of_team, holder: member, ..Issue { number: self.issued, ..issue } }.event()
        };
        let ends = (number % 2 == 1).then(|| at(micros + number));
        let events = match what {
            0 | 1 => vec![issue(Issue { expires_at: ends, ..Issue::new(0) })],
            2 => {
                let device = issue(Issue { kind: Kind::Device, expires_at: ends, ..Issue::new(0) });
                let of = device.credential();
                vec![device, issue(Issue { kind: Kind::Agent, companion_of: of, ..Issue::new(0) })]
            }
            3 => vec![revoked(some)],
            4 => vec![
                revoked(some),
                Event::CredentialCascadeRevoked(CredentialCascadeRevokedV1 {
                    credential: id(some + 1),
                    device: id(some),
                    effective_at: at(micros),
                }),
            ],
            5 => vec![Event::CredentialExpired(CredentialExpiredV1 { credential: id(some), effective_at: at(micros) })],
            6 => vec![Event::TeamCreated(TeamCreatedV1 { name: format!("team {number}") })],
            7 => vec![Event::MemberDeparted(MemberDepartedV1 { member, left_by_themselves: true })],
            _ => vec![Event::MemberJoined(MemberJoinedV1 {
                member,
                role: Role::ALL[(number % 5) as usize],
                name: Label::Clear(format!("person {number}")),
                invited_by: None,
            })],
        };
        self.commit(team, events)
    }

    /// Some of everything.
    fn lived() -> Self {
        let mut world = Self::new(3);
        for number in 0..200u64 {
            world.step(number as usize % 3, (number % 9) as u8, number * 7);
        }
        world
    }
}

fn open(world: &World, dir: &Path) -> (Projections, Opened) {
    Projections::open(&world.log, dir).unwrap()
}

fn rebuilt(world: &World) -> Digests {
    Projections::rebuild(&world.log, Path::new("nowhere"), &mut |_, _| {}).unwrap().digests()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Applied one by one, rebuilt from the log, and continued from a checkpoint: the same, after every commit.
    #[test]
    fn a_rebuild_equals_the_live_projections_after_every_commit(
        steps in proptest::collection::vec((0..3usize, 0..9u8, 0..1_000u64), 1..30), checkpoint_at in 0..30usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(3);
        let (mut live, _) = open(&world, dir.path());
        for (number, (team, what, with)) in steps.into_iter().enumerate() {
            // So that views are resident while commits arrive, and folded while they don't.
            if number % 2 == 0 {
                live.team_view(&world.log, world.authors[team].team).unwrap();
            }
            let commit = world.step(team, what, with);
            live.apply(&commit).unwrap();
            live.apply(&commit).unwrap();
            // A view that was folded with the commit in it may meet it once more.
            live.apply_to_view(&Decoded::of(&commit).unwrap());
            prop_assert_eq!(live.digests(), rebuilt(&world));
            for author in &world.authors {
                let resident = live.team_view(&world.log, author.team).unwrap();
                let folded = live.team_view_until(&world.log, author.team, Until::Now).unwrap();
                prop_assert_eq!(resident.map(|view| view.read().clone()), folded);
            }
            if number == checkpoint_at {
                live.checkpoint().unwrap();
                let (reopened, opened) = open(&world, dir.path());
                prop_assert_eq!(opened.checkpoint, Some((1, live.applied().1)));
                live = reopened;
            }
        }
    }
}

#[test]
fn a_checkpoint_is_continued_from_where_it_stands() {
    let (mut world, dir) = (World::lived(), tempfile::tempdir().unwrap());
    let (live, opened) = open(&world, dir.path());
    assert_eq!((opened.checkpoint, opened.applied), (None, world.log.head().position.0));
    let written = live.checkpoint().unwrap().unwrap();
    assert_eq!((written.generation, written.digests), (1, live.digests()));
    assert_eq!(fs::read_to_string(dir.path().join("digests")).unwrap(), written.digests.to_json());
    assert_eq!(live.checkpoint().unwrap(), None, "nothing has happened since");
    let before = live.applied().1;
    let commit = world.step(0, 2, 4);
    live.apply(&commit).unwrap();
    let (reopened, opened) = open(&world, dir.path());
    assert_eq!((opened.checkpoint, opened.applied), (Some((1, before)), 2));
    assert_eq!(reopened.digests(), live.digests());
    reopened.checkpoint().unwrap();
    assert_eq!(checkpoint::generations(dir.path()), [2]);
}

#[test]
fn a_commit_that_does_not_follow_is_refused_and_changes_nothing() {
    let mut world = World::new(1);
    let (live, _) = open(&world, Path::new("nowhere"));
    world.step(0, 6, 1);
    let second = world.step(0, 0, 1);
    assert!(matches!(live.apply(&second), Err(FoldError::Missing(CommitNumber(0)))));
    assert_eq!(live.applied(), (CommitNumber(0), Position(0)));
    assert!(live.active().is_empty());
}

#[test]
fn a_checkpoint_of_another_past_or_a_longer_log_is_discarded() {
    let (world, dir) = (World::lived(), tempfile::tempdir().unwrap());
    open(&world, dir.path()).0.checkpoint().unwrap();
    let shorter = {
        let mut world = World::new(3);
        world.step(0, 6, 1);
        world
    };
    let mut other = World::new(3);
    for number in 0..200u64 {
        other.step(number as usize % 3, (number % 9) as u8, number * 7 + 30);
    }
    assert!(other.log.head().position >= world.log.head().position);
    for (world, why) in [(shorter, "ahead of the log"), (other, "another past")] {
        let (opened_anew, opened) = open(&world, dir.path());
        assert!(opened.checkpoint.is_none() && opened.discarded[0].1.contains(why), "{opened:?}");
        assert_eq!(opened_anew.digests(), rebuilt(&world));
    }
}

/// Whatever happens to a generation's files, what is opened is what the log says.
#[test]
fn a_damaged_checkpoint_is_discarded_and_rebuilt() {
    let (world, origin) = (World::lived(), tempfile::tempdir().unwrap());
    open(&world, origin.path()).0.checkpoint().unwrap();
    let expected = rebuilt(&world);
    let generation = origin.path().join("gen-1");
    let mut files = vec![];
    let mut folders = vec![generation.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let (mut discarded, mut damages) = (0, 0);
    for file in &files {
        let bytes = fs::read(file).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        let mut variants: Vec<Option<Vec<u8>>> = vec![None, Some(vec![]), Some(bytes[..used / 2].to_vec())];
        for at in (0..used).step_by((used / 40).max(1)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            variants.push(Some(flipped));
        }
        for variant in variants {
            let dir = tempfile::tempdir().unwrap();
            copy(&generation, &dir.path().join("gen-1"));
            let target = dir.path().join("gen-1").join(file.strip_prefix(&generation).unwrap());
            match variant {
                None => fs::remove_file(target).unwrap(),
                Some(bytes) => fs::write(target, bytes).unwrap(),
            }
            let (opened_anew, opened) = open(&world, dir.path());
            assert_eq!(opened_anew.digests(), expected);
            assert_eq!(opened.checkpoint.is_none(), opened.discarded.len() == 1);
            damages += 1;
            discarded += opened.discarded.len();
            // The next checkpoint takes the damaged one's place.
            if damages % 20 == 0 {
                opened_anew.checkpoint().unwrap();
                assert_eq!(open(&world, dir.path()).1.discarded, []);
            }
        }
    }
    assert!(discarded * 2 > damages, "{discarded} of {damages} damages were noticed");
}

/// sled may give back other bytes than were written and find nothing wrong with them: the generation's own hashes do.
#[test]
fn values_that_the_database_vouches_for_are_checked_all_the_same() {
    let (world, origin) = (World::lived(), tempfile::tempdir().unwrap());
    open(&world, origin.path()).0.checkpoint().unwrap();
    let keys: Vec<_> = {
        let db = sled::open(origin.path().join("gen-1")).unwrap();
        db.iter().keys().map(|key| key.unwrap()).collect()
    };
    assert_eq!(keys.len(), 5, "streams, people, bindings, rows and the table of contents");
    for key in keys {
        for remove in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            copy(&origin.path().join("gen-1"), &dir.path().join("gen-1"));
            {
                let db = sled::open(dir.path().join("gen-1")).unwrap();
                let mut value = db.remove(&key).unwrap().unwrap().to_vec();
                let middle = value.len() / 2;
                value[middle] ^= 4;
                if !remove {
                    db.insert(&key, value).unwrap();
                }
                db.flush().unwrap();
            }
            let (opened_anew, opened) = open(&world, dir.path());
            let why = if remove { "missing" } else { "has changed" };
            assert!(opened.discarded.len() == 1 && opened.discarded[0].1.contains(why), "{opened:?}");
            assert_eq!(opened_anew.digests(), rebuilt(&world));
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Readers of views, people and verdicts, and checkpoints, go on while commits are applied; nobody waits for ever.
#[test]
fn readers_and_checkpoints_run_beside_the_projector() {
    let (mut world, dir) = (World::new(3), tempfile::tempdir().unwrap());
    (0..3).for_each(|team| drop(world.step(team, 6, 1)));
    let (live, _) = open(&world, dir.path());
    let (log, teams) = (world.log.clone(), world.authors.iter().map(|author| author.team).collect::<Vec<_>>());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (live, log, teams, done) = (&live, &log, &teams, &done);
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Acquire) {
                    for team in teams {
                        let view = live.team_view(log, *team).unwrap().unwrap();
                        let view = view.read();
                        // While the view is held, everything else may be asked for.
                        assert!(live.team_commits(*team).len() >= view.directory.len().min(1));
                        assert!(live.people().team(*team).is_some());
                        assert!(live.team_view(log, teams[reader]).unwrap().is_some());
                    }
                }
            });
        }
        let checkpoints = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                live.checkpoint().unwrap();
            }
        });
        for number in 0..3_000u64 {
            let commit = world.step(number as usize % 3, (number % 9) as u8, number * 7);
            live.apply(&commit).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        checkpoints.join().unwrap();
    });
    live.checkpoint().unwrap();
    let (reopened, opened) = open(&world, dir.path());
    assert_eq!(opened.applied, 0);
    assert_eq!(reopened.digests(), rebuilt(&world));
    let folded = |projections: &Projections, team| projections.team_view_until(&world.log, team, Until::Now).unwrap();
    for team in teams {
        let resident = live.team_view(&world.log, team).unwrap().map(|view| view.read().clone());
        assert_eq!(resident, folded(&reopened, team));
    }
}
