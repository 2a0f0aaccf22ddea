//! Power losses: of what was not synced, any sector may be there or not.

use super::{
    sim::{Fault, SimDisk},
    *,
};
use crate::CommitBody;

/// Decides which unsynced sectors survive, in one of several manners.
fn keeping(seed: u64) -> impl FnMut() -> bool {
    let mut dice = Dice(seed);
    let manner = dice.roll(6);
    let mut ended = false;
    move || match manner {
        0 => false,
        1 => true,
        2 => dice.roll(2) == 0,
        3 => dice.roll(10) != 0,
        4 => dice.roll(10) == 0,
        _ => {
            ended |= dice.roll(4) == 0;
            !ended
        }
    }
}

/// Writes until the power goes. What was handed in, in order, and how many of it were acknowledged.
fn write_until_off(
    disk: &SimDisk,
    dice: &mut Dice,
    authors: &mut [Author],
    before: Vec<CommitBody>,
) -> (Vec<CommitBody>, usize) {
    let (mut submitted, mut acknowledged) = (before, 0);
    let Ok((store, _)) = open_sim(disk) else { return (submitted, acknowledged) };
    acknowledged = submitted.len();
    for _ in 0..12 {
        let tickets: Vec<_> = (0..1 + dice.roll(6))
            .map(|_| {
                let proposal = authors[dice.roll(3) as usize].propose_sample(1 + dice.roll(8));
                submitted.push(proposal.body.clone());
                store.submit(proposal)
            })
            .collect();
        for ticket in tickets {
            if let Ok(appended) = ticket.wait() {
                assert_eq!(appended.number.0, acknowledged as u64);
                acknowledged += 1;
            }
        }
        if store.fatal().is_some() {
            break;
        }
    }
    (submitted, acknowledged)
}

#[test]
fn whenever_the_power_goes_what_was_acknowledged_is_there_and_nothing_else_but_a_prefix() {
    let seeds = if std::env::var_os("KEYLEDGER_SOAK").is_some() { 50_000 } else { 2_000 };
    let (mut trimmed, mut unacknowledged) = (0, 0);
    for seed in 0..seeds {
        let mut dice = Dice(seed);
        let disk = SimDisk::default();
        let mut authors: Vec<_> = (1..=3).map(Author::new).collect();
        let mut before = Vec::new();
        if dice.roll(2) == 0 {
            let (store, _) = open_sim(&disk).unwrap();
            for _ in 0..dice.roll(6) {
                let proposal = authors[dice.roll(3) as usize].propose_sample(1);
                before.push(proposal.body.clone());
                store.append(proposal).unwrap();
            }
        }
        disk.set_fault(Some(Fault::PowerOff(dice.roll(130))));
        let (submitted, acknowledged) = write_until_off(&disk, &mut dice, &mut authors, before);
        let mut disk = disk.after_power_loss(keeping(seed));
        if dice.roll(3) == 0 {
            // It goes again while the log is opened.
            disk.set_fault(Some(Fault::PowerOff(dice.roll(12))));
            drop(open_sim(&disk));
            disk = disk.after_power_loss(keeping(!seed));
        }
        let (store, recovery) = open_sim(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        trimmed += usize::from(recovery.trimmed.is_some());
        let recovered = read_whole(&store);
        assert!(recovered.len() >= acknowledged, "seed {seed}: {} of {acknowledged}", recovered.len());
        unacknowledged += recovered.len() - acknowledged;
        for (commit, body) in recovered.iter().zip(&submitted) {
            assert_eq!(commit.body, *body, "seed {seed}: commit {}", commit.number);
        }
        assert!(recovered.len() <= submitted.len(), "seed {seed}");
        store.append(Author::new(7).propose_sample(1)).unwrap();
        drop(store);
        let log = FileLog::open_on(&disk, Path::new(DIR), None).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(read_whole(&log).len(), recovered.len() + 1, "seed {seed}");
        tiles::assert_whole(&disk, &format!("seed {seed}"));
    }
    assert!(trimmed > seeds as usize / 200 && unacknowledged > 0, "{trimmed} trimmed, {unacknowledged} more");
}
