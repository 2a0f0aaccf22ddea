//! The signing key's rotation, cut short at every call that changes something.

use std::ops::Range;

use super::{
    super::{
        rotate::{Fresh, RotateError, Settled, rotate_on, settle_on},
        slots,
    },
    sim::{Fault, SimDisk},
    *,
};
use crate::{
    CorrelationId, Event, EventId, OperationId, TeamId, Timestamp,
    rotation::{Certificate, RotationError},
    store::keyring::{load_seed_on, save_seed_on},
};

const KEY: &str = "/ledger/keys/signing.key";

fn signer_of(seed: &[u8; 32]) -> HeadSigner {
    HeadSigner::new("ledger.example/1", seed).unwrap()
}

fn fresh(number: u8) -> Fresh {
    Fresh {
        seed: [number; 32].into(),
        event: EventId::from_bytes([number; 16]),
        salt: [number; 16],
        operation: OperationId::from_bytes([number; 16]),
        correlation: CorrelationId::from_bytes([number; 16]),
        now: Timestamp::from_micros(1),
    }
}

/// A ledger with a system stream and a team, under the key of seed 3, cleanly closed.
fn ledger() -> SimDisk {
    let disk = SimDisk::default();
    save_seed_on(&disk, Path::new(KEY), &[3; 32]).unwrap();
    write(&disk, &[3; 32], &mut Author { team: TeamId::SYSTEM, ..Author::new(0) });
    write(&disk, &[3; 32], &mut Author::new(1));
    disk
}

fn write(disk: &SimDisk, seed: &[u8; 32], author: &mut Author) {
    let (store, _) = open_by(disk, seed).unwrap();
    author.head = store.stream_head(author.team).unwrap();
    author.written = store.head().commits.0;
    for _ in 0..3 {
        store.append(author.propose_sample(1)).unwrap();
    }
}

fn open_by(disk: &SimDisk, seed: &[u8; 32]) -> Result<(FileStore, Recovery), ReadError> {
    FileStore::open_on(Arc::new(disk.clone()), Path::new(DIR), signer_of(seed), &small())
}

fn rotate(disk: &SimDisk, number: u8) -> Result<Certificate, RotateError> {
    rotate_on(&(Arc::new(disk.clone()) as Arc<dyn Disk>), Path::new(DIR), &fresh(number), &small())
}

fn settle(disk: &SimDisk) -> Result<Option<Settled>, RotateError> {
    settle_on(&(Arc::new(disk.clone()) as Arc<dyn Disk>), Path::new(DIR), &small())
}

/// Everything that must hold of a settled ledger; how many keys it has had.
fn check(disk: &SimDisk, seeds: Range<u8>, what: &str) -> usize {
    let in_force = load_seed_on(disk, Path::new(KEY)).unwrap().unwrap();
    let key = signer_of(&in_force).verifier();
    assert_eq!(slots::load_verifier(disk, Path::new(DIR)).unwrap(), Some(key.clone()), "{what}");
    let keys = slots::load_keys(disk, Path::new(DIR)).unwrap();
    let recorded: Vec<Certificate> = {
        let (store, recovery) = open_by(disk, &in_force).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(recovery.unreadable_heads.is_empty(), "{what}");
        let records = read_whole(&store).into_iter().flat_map(|commit| commit.records().collect::<Vec<_>>());
        let events = records.map(|placed| placed.unwrap().record.event);
        events
            .filter_map(|event| match event {
                Event::SigningKeyRotated(e) => Some(Certificate::parse(&e.certificate).unwrap()),
                _ => None,
            })
            .collect()
    };
    assert_eq!(keys.as_ref().map_or(&[][..], |keys| keys.certificates()), recorded, "{what}");
    assert_eq!(recorded.last().map(|last| last.new_key()), keys.as_ref().map(|_| &key), "{what}");
    let left = disk.names().into_iter().filter(|name| name.to_string_lossy().contains("signing.key.next"));
    assert_eq!(left.count(), 0, "{what}: a seed is left behind");
    for seed in seeds.take(recorded.len() + 1) {
        // Whoever has pinned a key that was ever in force reads on.
        let log = FileLog::open_on(disk, Path::new(DIR), Some(&signer_of(&[seed; 32]).verifier()));
        log.unwrap_or_else(|error| panic!("{what}: pinned to key {seed}: {error}"));
    }
    recorded.len() + 1
}

#[test]
fn a_key_gives_way_to_the_next_and_that_to_another() {
    let disk = ledger();
    let first = rotate(&disk, 4).unwrap();
    assert_eq!((first.position(), first.old()), (Position(6), &signer_of(&[3; 32]).verifier()));
    assert_eq!(first.at(), Timestamp::from_micros(1_767_225_600_000_000), "never before what is in the log");
    assert!(matches!(open_by(&disk, &[3; 32]), Err(ReadError::TreeHead { what: HeadError::Key, .. })));
    write(&disk, &[4; 32], &mut Author::new(1));
    assert_eq!(rotate(&disk, 5).unwrap().position(), Position(10));
    write(&disk, &[5; 32], &mut Author::new(2));
    assert_eq!(check(&disk, 3..6, "twice"), 3);
    let stranger = FileLog::open_on(&disk, Path::new(DIR), Some(&signer_of(&[9; 32]).verifier()));
    assert!(matches!(stranger.err(), Some(ReadError::Keys { what: RotationError::NotLed, .. })));
    // Without the certificates only the newest key opens it.
    disk.forget(&Path::new(DIR).join("ledger.keys"));
    let old = FileLog::open_on(&disk, Path::new(DIR), Some(&signer_of(&[4; 32]).verifier()));
    assert!(matches!(old.err(), Some(ReadError::Keys { what: RotationError::NotLed, .. })));
    FileLog::open_on(&disk, Path::new(DIR), Some(&signer_of(&[5; 32]).verifier())).unwrap();
    // And the next rotation brings them back from the log.
    rotate(&disk, 6).unwrap();
    assert_eq!(check(&disk, 3..7, "certificates from the log"), 4);
}

#[test]
fn wherever_the_power_goes_one_key_is_in_force_and_the_log_says_which() {
    let calls = {
        let disk = ledger();
        disk.set_fault(None);
        rotate(&disk, 4).unwrap();
        disk.calls()
    };
    let (mut taken_back, mut finished) = (0, 0);
    for at in 0..calls + 3 {
        for manner in 0..6u64 {
            let what = format!("off at call {at}, manner {manner}");
            let mut dice = Dice(at * 100 + manner);
            let disk = ledger();
            disk.set_fault(Some(Fault::PowerOff(at)));
            let rotated = rotate(&disk, 4);
            let mut disk = disk.after_power_loss(|| match manner {
                0 => false,
                1 => true,
                _ => dice.roll(2) == 0,
            });
            if manner % 3 == 2 {
                // It goes again while it is settled.
                disk.set_fault(Some(Fault::PowerOff(dice.roll(20))));
                drop(settle(&disk));
                disk = disk.after_power_loss(|| dice.roll(2) == 0);
            }
            let settled = settle(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            taken_back += usize::from(settled == Some(Settled::TakenBack));
            finished += usize::from(matches!(settled, Some(Settled::Finished(_))));
            let keys = check(&disk, 3..5, &what);
            assert!(keys == 2 || rotated.is_err(), "{what}: what was answered is undone");
            assert_eq!(settle(&disk).unwrap(), None, "{what}");
            rotate(&disk, 5).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(check(&disk, if keys == 2 { 3..6 } else { 5..5 }, &what), keys + 1);
        }
    }
    assert!(calls > 30 && taken_back > 20 && finished > 20, "{calls} calls, {taken_back} back, {finished} forth");
}

#[test]
fn a_disk_that_is_full_or_can_not_sync_leaves_one_key_in_force() {
    let calls = {
        let disk = ledger();
        disk.set_fault(None);
        rotate(&disk, 4).unwrap();
        disk.calls()
    };
    for at in 0..calls {
        for fault in [
            Fault::FullOnce(at),
            Fault::FullFrom(at),
            Fault::ShortThenFull(at),
            Fault::SyncLost(at),
            Fault::SyncPersisted(at),
        ] {
            let what = format!("{fault:?}");
            let disk = ledger();
            disk.set_fault(Some(fault));
            let rotated = rotate(&disk, 4);
            let disk = disk.image();
            settle(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            let keys = check(&disk, 3..5, &what);
            assert!(keys == 2 || rotated.is_err(), "{what}: what was answered is undone");
        }
    }
}

#[test]
fn the_new_key_signs_no_head_of_the_old_ones_time() {
    let disk = ledger();
    let size = rotate(&disk, 4).unwrap().position().0 + 1;
    let (store, _) = open_by(&disk, &[4; 32]).unwrap();
    let tree = store.tree();
    assert_eq!(tree.signed_at(size).unwrap().head.size, size);
    assert!(matches!(tree.signed_at(size - 1), Err(TreeError::BeforeKey { .. })));
}

#[test]
fn nothing_is_rotated_where_nothing_is_or_somebody_works() {
    let disk = SimDisk::default();
    assert!(matches!(rotate(&disk, 4), Err(RotateError::NoLedger(_))));
    assert_eq!(settle(&disk).unwrap(), None);
    assert!(disk.names().is_empty());
    // A log without its system stream has never served.
    let disk = written(3).0;
    save_seed_on(&disk, Path::new(KEY), &[3; 32]).unwrap();
    assert!(matches!(rotate(&disk, 4), Err(RotateError::NoLedger(_))));
    let disk = ledger();
    let (store, _) = open_by(&disk, &[3; 32]).unwrap();
    let before = disk.calls();
    assert!(matches!(rotate(&disk, 4), Err(RotateError::Log(ReadError::Locked { .. }))));
    assert_eq!(disk.calls(), before, "nothing was touched");
    drop(store);
    assert_eq!(check(&disk, 3..4, "refused"), 1);
}
