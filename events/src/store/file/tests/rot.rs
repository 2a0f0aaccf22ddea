//! Bits that flip and bytes that go missing while nobody looks.

use proptest::prelude::*;

use super::*;

/// What opening a damaged log may say.
fn names_the_place(error: &ReadError, path: &Path) -> bool {
    match error {
        ReadError::Damaged { file, .. } => file == path,
        ReadError::BehindHead { .. } => true,
        _ => false,
    }
}

#[test]
fn every_flipped_bit_of_the_segments_is_refused_or_was_never_written() {
    let (disk, commits) = written(6);
    let (mut refused, mut trimmed) = (0, 0);
    let mut paths: Vec<_> = disk.names();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    assert!(paths.len() >= 3, "{paths:?}");
    for path in &paths {
        let bytes = disk.bytes(path);
        for bit in 0..bytes.len() * 8 {
            let disk = disk.image();
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            disk.set_bytes(path, bytes);
            let read = FileLog::open_on(&disk, Path::new(DIR), None).err().expect("a strict reader finds every bit");
            assert!(names_the_place(&read, path), "{path:?} bit {bit}: {read}");
            match recover_sim(&disk) {
                Err(error) => {
                    assert!(names_the_place(&error, path), "{path:?} bit {bit}: {error}");
                    refused += 1;
                }
                Ok((recovered, recovery)) => {
                    let cut = recovery.trimmed.expect("nothing is mended in silence");
                    assert_eq!((&cut.file, cut.position), (path, recovered.head.position), "bit {bit}");
                    assert!(cut.offset <= bit as u64 / 8 && bit as u64 / 8 < cut.offset + cut.len, "bit {bit}");
                    assert_eq!(recovered.head.commits.0, commits.len() as u64, "{path:?} bit {bit}");
                    assert!(recover_sim(&disk).unwrap().1.trimmed.is_none(), "trimmed once");
                    trimmed += 1;
                }
            }
        }
    }
    assert!(refused > 15_000 && trimmed > 100, "{refused} refused, {trimmed} trimmed");
}

#[test]
fn every_flipped_bit_of_a_tree_head_is_seen_and_the_other_one_holds() {
    let (disk, commits) = written(5);
    for name in ["head.0", "head.1"] {
        let path = Path::new(DIR).join(LOG_DIR).join(name);
        let bytes = disk.bytes(&path);
        // Each bit is tried where slots are parsed; here it is about what an opening makes of it.
        for bit in (0..bytes.len() * 8).step_by(61) {
            let disk = disk.image();
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            disk.set_bytes(&path, bytes);
            let read = FileLog::open_on(&disk, Path::new(DIR), None).err();
            assert!(matches!(&read, Some(ReadError::TreeHead { file, .. }) if *file == path), "bit {bit}: {read:?}");
            let (recovered, recovery) = recover_sim(&disk).unwrap();
            assert_eq!(recovery.unreadable_heads, std::slice::from_ref(&path), "bit {bit}");
            assert_eq!(recovered.head.commits.0, commits.len() as u64);
            assert_eq!(recovery.signed.unwrap().size, recovered.head.position.0, "both say the same at rest");
        }
    }
    let (store, recovery) = {
        disk.set_bytes(&Path::new(DIR).join(LOG_DIR).join("head.1"), b"rot".to_vec());
        open_sim(&disk).unwrap()
    };
    assert_eq!(recovery.unreadable_heads.len(), 1);
    drop(store);
    FileLog::open_on(&disk, Path::new(DIR), None).unwrap();
}

#[test]
fn a_log_cut_at_any_byte_is_refused_behind_the_head_and_trimmed_after_it() {
    let (disk, commits) = written(6);
    let unsigned = disk.image();
    let (store, _) = open_sim(&unsigned).unwrap();
    // The first of these is signed at once, the later ones are not, because the process is killed.
    let mut author = Author::new(3);
    store.append(author.propose_sample(1)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while signer().verifier().verify(&store.tree_head()).unwrap().size <= commits.last().unwrap().end().0 {
        assert!(Instant::now() < deadline, "the first event is signed at once");
        std::thread::sleep(Duration::from_millis(1));
    }
    store.append(author.propose_sample(1)).unwrap();
    store.append(author.propose_sample(1)).unwrap();
    let killed = unsigned.image();
    let all = read_whole(&store);
    let signed_size = signer().verifier().verify(&store.tree_head()).unwrap().size;
    drop(store);

    let (mut refused, mut trimmed) = (0, 0);
    for path in killed.names().iter().filter(|path| path.extension().is_some_and(|extension| extension == "seg")) {
        let bytes = killed.bytes(path);
        for len in 0..bytes.len() {
            let disk = killed.image();
            disk.set_bytes(path, bytes[..len].to_vec());
            match recover_sim(&disk) {
                Ok((recovered, _)) => {
                    let head = recovered.head;
                    assert!(head.position.0 >= signed_size, "{path:?} cut to {len}");
                    assert_eq!(all[head.commits.0 as usize - 1].end(), head.position, "{path:?} cut to {len}");
                    trimmed += 1;
                }
                Err(error) => {
                    assert!(names_the_place(&error, path), "{path:?} cut to {len}: {error}");
                    refused += 1;
                }
            }
        }
        let disk = killed.image();
        disk.forget(path);
        let outcome = recover_sim(&disk).map(|(recovered, _)| recovered.head.position.0 >= signed_size);
        assert!(outcome.as_ref().is_err() || outcome.is_ok_and(|behind_nothing| behind_nothing), "{path:?} removed");
    }
    assert!(refused > 1000 && trimmed > 100, "{refused} refused, {trimmed} trimmed");
}

#[test]
fn bits_that_rot_before_anything_was_signed_are_found_behind_a_later_batch() {
    let disk = sim::SimDisk::default();
    let (store, _) = open_sim(&disk).unwrap();
    let mut author = Author::new(1);
    for _ in 0..2 {
        store.append(author.propose_sample(1)).unwrap();
    }
    let unsigned = disk.image();
    for name in ["head.0", "head.1"] {
        // As they were before the first event.
        unsigned.set_bytes(&Path::new(DIR).join(LOG_DIR).join(name), {
            let empty = sim::SimDisk::default();
            drop(open_sim(&empty).unwrap());
            empty.bytes(&Path::new(DIR).join(LOG_DIR).join(name))
        });
    }
    drop(store);
    let path = segment_path(0);
    let bytes = unsigned.bytes(&path);
    let first_len = frame::frame_len(u32::from_le_bytes(*bytes[64 + 8..].first_chunk().unwrap()) as usize);
    for at in 64..64 + first_len {
        let disk = unsigned.image();
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        disk.set_bytes(&path, bytes);
        match recover_sim(&disk) {
            Err(ReadError::Damaged { file, offset: 64, position: Position(0), .. }) if file == path => {}
            other => panic!("byte {at}: {:?}", other.map(|(recovered, _)| recovered.head)),
        }
    }
}

#[test]
fn history_that_was_rewritten_with_valid_checksums_has_another_root() {
    let (disk, _) = written(1);
    let foreign = {
        let foreign = sim::SimDisk::default();
        let (store, _) = open_sim(&foreign).unwrap();
        store.append(Author::new(5).propose_sample(1)).unwrap();
        drop(store);
        foreign
    };
    disk.set_bytes(&segment_path(0), foreign.bytes(&segment_path(0)));
    // With its own checkpoint an opening hashes nothing anew: that is what replay is for.
    assert!(recover_sim(&disk).is_ok());
    disk.forget(&Path::new(DIR).join(LOG_DIR).join("checked"));
    assert!(matches!(recover_sim(&disk), Err(ReadError::OtherRoot { size: 1, .. })));
}

#[test]
fn missing_files_and_another_ledgers_key_are_refused() {
    let (disk, _) = written(6);
    let log = Path::new(DIR).join(LOG_DIR);
    let without = |names: &[PathBuf]| {
        let disk = disk.image();
        names.iter().for_each(|name| disk.forget(name));
        recover_sim(&disk)
    };
    let segments: Vec<_> =
        disk.names().into_iter().filter(|name| name.extension().is_some_and(|extension| extension == "seg")).collect();
    let missing = |outcome| matches!(outcome, Err(ReadError::Damaged { what: Damage::Missing, .. }));
    assert!(missing(without(&segments[..1])), "the first segment");
    assert!(missing(without(&segments)), "all segments");
    assert!(missing(without(&[log.join("head.0"), log.join("head.1")])), "both tree heads");
    assert!(
        matches!(without(&segments[segments.len() - 1..]), Err(ReadError::BehindHead { .. })),
        "the last segment"
    );
    let middle = without(&segments[1..2]);
    assert!(matches!(middle, Err(ReadError::Damaged { what: Damage::Sequence { .. }, .. })), "one in the middle");
    assert!(without(&[log.join("spare"), log.join("checked")]).is_ok());
    let other = HeadSigner::new("ledger.example/1", &[4; 32]).unwrap();
    let opened = FileStore::open_on(Arc::new(disk.clone()), Path::new(DIR), other, &small());
    assert!(matches!(opened, Err(ReadError::TreeHead { what: HeadError::Key, .. })));
}

#[test]
fn rot_under_a_running_store_is_named_by_every_read_again_and_again() {
    let disk = sim::SimDisk::default();
    let options = Options { segment_bytes: 1 << 20, reserve_bytes: 1 << 20, ..small() };
    let (store, _) = FileStore::open_on(Arc::new(disk.clone()), Path::new(DIR), signer(), &options).unwrap();
    let mut author = Author::new(1);
    for _ in 0..80 {
        store.append(author.propose_sample(2)).unwrap();
    }
    let (whole, path) = (store.commit(CommitNumber(50)).unwrap().unwrap(), segment_path(0));
    let (mut bytes, body) = (disk.bytes(&path), whole.body.bytes());
    let at = bytes.windows(body.len()).position(|window| window == body).unwrap();
    let good = bytes.clone();
    bytes[at + 60] ^= 1;
    disk.set_bytes(&path, bytes);
    let is_named = |error: ReadError| {
        let expected = (at - frame::FRAME_HEADER_LEN) as u64;
        matches!(error, ReadError::Damaged { file, offset, position, what: Damage::Checksum }
            if file == path && offset == expected && position == whole.first_position)
    };
    let mut follow = store.follow(CommitNumber(40)).unwrap();
    for _ in 40..50 {
        assert!(follow.next(Duration::ZERO).unwrap().is_some());
    }
    for _ in 0..3 {
        assert!(is_named(store.commit(CommitNumber(50)).unwrap_err()));
        assert!(is_named(follow.next(Duration::ZERO).unwrap_err()));
    }
    assert!(store.commit(CommitNumber(49)).is_ok() && store.commit(CommitNumber(51)).is_ok());
    store.append(author.propose_sample(1)).unwrap();
    let mut healed = disk.bytes(&path);
    healed[..good.len().min(at + body.len())].copy_from_slice(&good[..good.len().min(at + body.len())]);
    disk.set_bytes(&path, healed);
    for number in 50..81 {
        assert_eq!(follow.next(Duration::ZERO).unwrap().unwrap().number.0, number);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn whatever_is_written_over_a_log_no_reader_panics_or_invents_commits(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 1..80),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        static WRITTEN: std::sync::LazyLock<(sim::SimDisk, Vec<Commit>)> = std::sync::LazyLock::new(|| written(6));
        let (disk, commits) = (WRITTEN.0.image(), &WRITTEN.1);
        let mut names = disk.names();
        names.retain(|name| !name.ends_with("spare"));
        let name = which.get(&names);
        let mut bytes = disk.bytes(name);
        let at = at.index(bytes.len());
        for (byte, with) in bytes[at..].iter_mut().zip(with) {
            *byte = with;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        disk.set_bytes(name, bytes);
        if let Ok(log) = FileLog::open_on(&disk, Path::new(DIR), None) {
            prop_assert_eq!(&read_whole(&log), commits);
        }
        if let Ok((store, _)) = open_sim(&disk) {
            prop_assert_eq!(&read_whole(&store), commits);
        }
    }
}
