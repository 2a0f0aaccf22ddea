//! Seals of the map of streams: what a ledger may say of its streams, and what it may not.
#![allow(clippy::unwrap_used)]

mod support;

use keyledger_events::{Commit, Event, Position, TeamId, event::HistorySealedV1, record::Actor, stream_map::MapRoot};
use keyledger_replay::verify::{Broken, Report, verify_log};
use support::{Town, directory, sealed};

fn verified(commits: &[Commit]) -> Result<Report, Broken> {
    verify_log(&support::store(commits), &directory::signer().verifier(), &[])
}

/// A history, what a seal of it honestly says, and the town that goes on.
fn history(events: u64) -> (Town, Vec<Commit>) {
    let mut town = Town::new(31);
    let commits = town.history(events);
    (town, commits)
}

fn append(town: &mut Town, commits: &mut Vec<Commit>, seal: HistorySealedV1) {
    let actor = Actor::System;
    commits.push(town.forge(TeamId::SYSTEM, actor, vec![Event::HistorySealed(seal).into()]));
}

#[test]
fn seals_that_tell_the_truth_are_counted() {
    let (mut town, mut commits) = history(50);
    for events in [100, 200, 300] {
        town.seal(&mut commits);
        commits.extend(town.history(events));
    }
    // Others were under way: it is of less than what stands before it.
    let behind = sealed(&commits[..commits.len() - 20]);
    append(&mut town, &mut commits, behind.clone());
    // Two that sealed at once.
    append(&mut town, &mut commits, behind.clone());
    let report = verified(&commits).unwrap();
    assert_eq!((report.seals, report.sealed_through), (5, behind.through.0));
}

#[test]
fn a_seal_that_lies_is_found_at_its_position() {
    let (_, commits) = history(300);
    let honest = sealed(&commits);
    let through = honest.through;
    let middle = commits.iter().rev().find(|commit| commit.body.view().count() > 1).unwrap();
    let shorter = sealed(&commits[..commits.len() - 1]);
    let lies = [
        ("another root", HistorySealedV1 { root: MapRoot([1; 32]), ..honest.clone() }, "says root"),
        ("a team too many", HistorySealedV1 { teams: honest.teams + 1, ..honest.clone() }, "says root"),
        ("a hidden tail", HistorySealedV1 { through, ..shorter }, "says root"),
        ("a future", HistorySealedV1 { through: Position(through.0 + 1), ..honest.clone() }, "still to come"),
        (
            "half a commit",
            HistorySealedV1 { through: Position(middle.end().0 - 1), ..honest.clone() },
            "middle of a commit",
        ),
    ];
    for (name, lie, why) in lies {
        let (mut town, mut commits) = history(300);
        append(&mut town, &mut commits, lie);
        let broken = verified(&commits).expect_err(name);
        assert_eq!(broken.position, through, "{name}");
        assert!(broken.what.contains(why), "{name}: {broken}");
    }
}

#[test]
fn a_seal_is_never_of_less_than_the_one_before() {
    let (mut town, mut commits) = history(100);
    let first = sealed(&commits[..commits.len() / 2]);
    town.seal(&mut commits);
    let at = commits.last().unwrap().end();
    append(&mut town, &mut commits, first);
    let broken = verified(&commits).unwrap_err();
    assert!(broken.position == at && broken.what.contains("less than the one before"), "{broken}");
}

#[test]
fn only_the_ledger_itself_seals() {
    let (mut town, mut commits) = history(100);
    let (team, seal) = (town.founded[1], Event::HistorySealed(sealed(&commits)));
    commits.push(town.forge(team, Actor::System, vec![seal.into()]));
    assert!(verified(&commits).unwrap_err().what.contains("outside the system stream"));

    let (mut town, mut commits) = history(100);
    let operator = *town.teams[&TeamId::SYSTEM].members.keys().next().unwrap();
    let seal = Event::HistorySealed(sealed(&commits));
    commits.push(town.forge(TeamId::SYSTEM, Actor::Person(operator), vec![seal.into()]));
    assert!(verified(&commits).unwrap_err().what.contains("not the ledger"));
}
