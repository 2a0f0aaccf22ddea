//! Projections thrown away and made anew.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use keyledger_events::store::file::FileLog;
use keyledger_projections::Projections;
use keyledger_replay::{
    quiet,
    rebuild::{RebuildError, rebuild},
    verify::{Options, verify},
};
use support::{Town, directory};

#[test]
fn what_is_rebuilt_is_what_was_served() {
    let commits = Town::new(21).history(500);
    let half = &commits[..commits.len() / 2];
    let events = commits.last().unwrap().end();
    let dir = tempfile::tempdir().unwrap();
    directory::write(dir.path(), &commits);

    let fresh = rebuild(dir.path(), &quiet).unwrap();
    assert_eq!((fresh.events, fresh.served_position), (events.0, None));
    let again = rebuild(dir.path(), &quiet).unwrap();
    assert_eq!((again.served_position, &again.digests), (Some(events.0), &fresh.digests));
    assert_eq!(verify(dir.path(), &Options::default()).unwrap().digests_position, Some(events.0));

    // Served when the log was shorter: compared where they were served.
    directory::write_digests(dir.path(), &directory::digests(half));
    fs::write(dir.path().join("projections/rubbish"), "to be thrown away").unwrap();
    let later = rebuild(dir.path(), &quiet).unwrap();
    assert_eq!(later.served_position, Some(half.last().unwrap().end().0));
    assert_eq!(later.digests, fresh.digests);
    assert!(!dir.path().join("projections/rubbish").exists());

    // The server goes on from the new checkpoint without reading the log again.
    let log = FileLog::open(dir.path()).unwrap();
    let (_, opened) = Projections::open(&log, &dir.path().join("projections")).unwrap();
    assert_eq!((opened.checkpoint.unwrap().1, opened.applied), (events, 0));
}

#[test]
fn what_was_served_wrongly_is_told_and_put_right() {
    let commits = Town::new(22).history(200);
    let dir = tempfile::tempdir().unwrap();
    directory::write(dir.path(), &commits);
    let others = directory::digests(&Town::new(23).history(200));
    let at = |text: &str| text[..text.find(',').unwrap()].to_owned();
    let honest = directory::digests(&commits);
    directory::write_digests(dir.path(), &others.replace(&at(&others), &at(&honest)));
    assert!(matches!(rebuild(dir.path(), &quiet), Err(RebuildError::Differs { projection: "active", .. })));
    assert_eq!(fs::read_to_string(dir.path().join("projections/digests")).unwrap().trim(), honest);
    rebuild(dir.path(), &quiet).unwrap();
}

#[test]
fn nothing_is_touched_while_a_server_runs_or_when_the_log_is_shorter_than_what_was_served() {
    let commits = Town::new(24).history(100);
    let dir = tempfile::tempdir().unwrap();
    directory::write(dir.path(), &commits);
    let honest = directory::digests(&commits);
    directory::write_digests(dir.path(), &honest);
    let lock = fs::File::create(dir.path().join("lock")).unwrap();
    lock.try_lock().unwrap();
    assert!(matches!(rebuild(dir.path(), &quiet), Err(RebuildError::Locked(_))));
    drop(lock);
    let events = commits.last().unwrap().end().0;
    directory::write_digests(dir.path(), &honest.replace(&format!(":{events},"), &format!(":{},", events + 1)));
    assert!(matches!(rebuild(dir.path(), &quiet), Err(RebuildError::Served(_))));
    assert!(dir.path().join("projections/digests").exists());
}
