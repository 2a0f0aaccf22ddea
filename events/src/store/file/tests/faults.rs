//! Full disks, short writes and failing syncs at every single call that changes something.

use super::{
    sim::{Fault, SimDisk},
    *,
};
use crate::CommitBody;

/// What became of the commits of [`write_some`].
#[derive(Default)]
struct Written {
    acknowledged: Vec<(Appended, CommitBody)>,
    /// Of which the store said that nothing of them was written.
    refused: Vec<CommitBody>,
}

/// Three teams write by turns, up to three commits at once. Whoever is refused decides again, once.
fn write_some(store: &FileStore, authors: &mut [Author], rounds: u64, essential: impl Fn(u64) -> bool) -> Written {
    let mut written = Written::default();
    for round in 0..rounds {
        let tickets: Vec<_> = authors
            .iter_mut()
            .take(1 + round as usize % 3)
            .map(|author| {
                let proposal = Proposal { essential: essential(round), ..author.propose_sample(1) };
                (proposal.body.clone(), store.submit(proposal))
            })
            .collect();
        for (body, ticket) in tickets {
            match ticket.wait() {
                Ok(appended) => written.acknowledged.push((appended, body)),
                Err(AppendError::NotWritten(_) | AppendError::Conflict { .. }) => written.refused.push(body),
                Err(AppendError::Fatal(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for author in &mut *authors {
            author.head = store.stream_head(author.team).unwrap();
        }
    }
    written
}

fn authors() -> Vec<Author> {
    (1..=3).map(Author::new).collect()
}

/// Nothing acknowledged is missing, nothing refused is there.
fn check(commits: &[Commit], written: &Written, what: &str) {
    for (appended, body) in &written.acknowledged {
        assert_eq!(commits.get(appended.number.0 as usize).map(|commit| &commit.body), Some(body), "{what}");
    }
    for body in &written.refused {
        assert!(commits.iter().all(|commit| commit.body != *body), "{what}: what was refused is there");
    }
}

/// How many calls the script makes when nothing goes wrong.
fn calls(essential: impl Fn(u64) -> bool) -> u64 {
    let disk = SimDisk::default();
    let (store, _) = open_sim(&disk).unwrap();
    let written = write_some(&store, &mut authors(), 9, essential);
    assert_eq!((written.acknowledged.len(), written.refused.len()), (18, 0));
    drop(store);
    disk.calls()
}

#[test]
fn a_full_disk_or_a_short_write_at_any_call_refuses_and_passes() {
    let essential = |round: u64| round % 4 == 3;
    let mut refused = 0;
    for at in 0..calls(essential) + 3 {
        for fault in [Fault::FullOnce(at), Fault::ShortThenFull(at), Fault::FullFrom(at)] {
            let what = format!("{fault:?}");
            let disk = SimDisk::default();
            disk.set_fault(Some(fault));
            let mut authors = authors();
            let mut written = Written::default();
            if let Ok((store, _)) = open_sim(&disk) {
                written = write_some(&store, &mut authors, 9, essential);
                assert_eq!(store.fatal(), None, "{what}");
                refused += written.refused.len();
                disk.set_fault(None);
                let after = write_some(&store, &mut authors, 2, |_| false);
                assert_eq!(after.refused.len(), 0, "{what}: once there is room, it goes on");
                written.acknowledged.extend(after.acknowledged);
                check(&read_whole(&store), &written, &what);
            }
            disk.set_fault(None);
            let (store, recovery) = open_sim(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(recovery.trimmed, None, "{what}");
            check(&read_whole(&store), &written, &what);
            drop(store);
            FileLog::open_on(&disk, Path::new(DIR), None).unwrap_or_else(|error| panic!("{what}: {error}"));
            tiles::assert_whole(&disk, &what);
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn on_a_full_disk_what_ends_credentials_is_still_written() {
    for at in 0..calls(|_| false) {
        let disk = SimDisk::default();
        disk.set_fault(Some(Fault::FullFrom(at)));
        let Ok((store, _)) = open_sim(&disk) else { continue };
        let mut authors = authors();
        let mut written = write_some(&store, &mut authors, 40, |_| false);
        assert!(!written.refused.is_empty(), "call {at}: without room, others are refused");
        let mut author = Author::new(9);
        let proposal = Proposal { essential: true, ..author.propose_sample(1) };
        let appended = store.append(proposal.clone()).unwrap_or_else(|error| panic!("call {at}: {error}"));
        written.acknowledged.push((appended, proposal.body));
        drop(store);
        // A restart under a full disk keeps what is kept for them.
        let (store, _) = open_sim(&disk).unwrap();
        check(&read_whole(&store), &written, &format!("call {at}"));
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged() {
    let mut poisoned = 0;
    for at in 0..calls(|_| false) {
        for fault in [Fault::SyncLost(at), Fault::SyncPersisted(at)] {
            let what = format!("{fault:?}");
            let disk = SimDisk::default();
            disk.set_fault(Some(fault));
            let mut authors = authors();
            let mut written = Written::default();
            if let Ok((store, _)) = open_sim(&disk) {
                written = write_some(&store, &mut authors, 9, |_| false);
                if store.fatal().is_some() {
                    poisoned += 1;
                    for essential in [false, true] {
                        let proposal = Proposal { essential, ..Author::new(8).propose_sample(1) };
                        assert!(matches!(store.append(proposal), Err(AppendError::Fatal(_))), "{what}");
                    }
                }
            }
            disk.set_fault(None);
            // The power goes at once, or a process opens it again and sees what the page cache still holds.
            for kept in [false, true] {
                let lost = disk.after_power_loss(|| kept);
                let (store, _) = open_sim(&lost).unwrap_or_else(|error| panic!("{what}: {error}"));
                check(&read_whole(&store), &written, &what);
            }
            let (store, _) = open_sim(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            let seen = read_whole(&store);
            check(&seen, &written, &what);
            let lost = disk.after_power_loss(|| false);
            drop(store);
            let (store, _) = open_sim(&lost).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(read_whole(&store), seen, "{what}: what was shown once stays");
        }
    }
    assert!(poisoned > 40, "{poisoned}");
}
