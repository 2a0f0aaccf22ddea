//! Bytes that nobody wrote: never a panic, never a guess.

use std::slice;

use keyledger_events::{
    CommitBody, Event, Record,
    commit::{CommitError, CommitRef},
    event::EventError,
    record::{RecordError, RecordHeader},
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::strategies::{envelope, event, head, new_events, record};

/// One change to some bytes.
#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = || any::<Index>();
    let one = prop_oneof![
        4 => (at(), 0..8u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        1 => at().prop_map(Edit::Remove),
        1 => at().prop_map(Edit::Cut),
    ];
    vec(one, 1..4)
}

fn edit(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let len = bytes.len();
        match edit {
            _ if len == 0 => break,
            Edit::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Edit::Set(at, byte) => bytes[at.index(len)] = *byte,
            Edit::Insert(at, byte) => bytes.insert(at.index(len + 1), *byte),
            Edit::Remove(at) => {
                bytes.remove(at.index(len));
            }
            Edit::Cut(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

/// `written` is what the decoded value would be written as: the same, or the shorter spelling of some number.
fn same_or_shorter(read: &[u8], written: &[u8]) -> bool {
    read == written || written.len() < read.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_an_event(kind in 0..20u16, version in 0..3u16, bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(event) = Event::decode(kind, version, &bytes) {
            prop_assert_eq!(event.header(), (kind, version));
            let written = event.encode(Vec::new());
            prop_assert!(same_or_shorter(&bytes, &written));
            prop_assert_eq!(Event::decode(kind, version, &written).unwrap(), event);
        }
    }

    #[test]
    fn any_bytes_as_a_record_or_a_commit(mut bytes in vec(any::<u8>(), 0..300), formats in any::<bool>()) {
        if let (true, Some(first)) = (formats, bytes.first_mut()) {
            *first = 1;
        }
        let _ = RecordHeader::decode(&bytes);
        let _ = Record::decode(&bytes);
        let _ = CommitRef::parse(&bytes);
    }

    #[test]
    fn an_edited_event(event in event(), edits in edits()) {
        let (kind, version) = event.header();
        let bytes = edit(event.encode(Vec::new()), &edits);
        if let Ok(event) = Event::decode(kind, version, &bytes) {
            prop_assert!(same_or_shorter(&bytes, &event.encode(Vec::new())));
        }
    }

    #[test]
    fn an_edited_record(record in record(), edits in edits()) {
        let bytes = edit(record.encode(), &edits);
        if let Ok(read) = Record::decode(&bytes) {
            let written = read.encode();
            prop_assert!(same_or_shorter(&bytes, &written));
            prop_assert_eq!(Record::decode(&written).unwrap(), read);
        }
    }

    #[test]
    fn an_edited_commit(head in head(), envelope in envelope(), events in new_events(), edits in edits()) {
        let (body, _) = CommitBody::build(head, &envelope, events);
        let bytes = edit(body.bytes().to_vec(), &edits);
        if let Ok(parsed) = CommitBody::parse(bytes.as_slice()) {
            prop_assert_eq!(parsed.bytes(), &bytes);
            let view = parsed.view();
            prop_assert!(view.count() >= 1);
            prop_assert_eq!(view.records().count() as u64, view.count());
            prop_assert!(view.first().is_ok());
            view.records().for_each(|record| drop(Record::decode(record.bytes())));
        }
    }

    #[test]
    fn a_byte_more_or_less_is_a_hard_error(record in record(), more in any::<u8>()) {
        let (kind, version) = record.event.header();
        let mut body = record.event.encode(Vec::new());
        body.push(more);
        prop_assert_eq!(Event::decode(kind, version, &body), Err(EventError::Trailing(1)));
        let bytes = record.encode();
        prop_assert!((0..bytes.len()).all(|len| Record::decode(&bytes[..len]).is_err()));
        let longer = [bytes.as_slice(), &[more]].concat();
        prop_assert_eq!(Record::decode(&longer), Err(RecordError::Event(EventError::Trailing(1))));
    }
}

#[test]
fn unknown_types_versions_and_formats_stop_the_reader() {
    let known: Vec<(u16, u16)> = Event::TYPES.iter().map(|(kind, version, _)| (*kind, *version)).collect();
    for kind in 0..40u16 {
        for version in 0..5u16 {
            let unknown = Event::decode(kind, version, &[]) == Err(EventError::Unknown { kind, version });
            assert_eq!(unknown, !known.contains(&(kind, version)), "type {kind} version {version}");
        }
    }
    for format in 0..=255 {
        let bytes = [[format; 1].as_slice(), &[0; 200]].concat();
        if format != 1 {
            assert_eq!(Record::decode(&bytes), Err(RecordError::Format(format)));
        }
        if format != 129 {
            assert_eq!(CommitBody::parse(bytes.as_slice()), Err(CommitError::Format(format)));
        }
    }
}

/// The smallest commit, and what is wrong with each neighbour of it.
#[test]
fn a_commit_of_the_wrong_shape_is_named() {
    let record = |team: u8, recorded_at: u64| {
        let mut bytes = vec![0; 103];
        bytes[0] = 1;
        bytes[5..21].fill(team);
        bytes[45..53].copy_from_slice(&recorded_at.to_le_bytes());
        bytes
    };
    let commit = |count: u16, records: &[Vec<u8>]| {
        let mut bytes = vec![129];
        bytes.extend(count.to_le_bytes());
        bytes.extend([0; 48]);
        for record in records {
            bytes.extend((record.len() as u32).to_le_bytes());
            bytes.extend(record);
        }
        bytes
    };
    let (one, end_of_time) = (record(1, 5), 253_402_300_799_999_999);
    let rows = [
        (commit(1, slice::from_ref(&one)), Ok(())),
        (commit(2, &[one.clone(), one.clone()]), Ok(())),
        (commit(0, &[]), Err(CommitError::Empty)),
        (commit(0, slice::from_ref(&one)), Err(CommitError::Empty)),
        (commit(1, &[]), Err(CommitError::Short)),
        (commit(2, slice::from_ref(&one)), Err(CommitError::Short)),
        (commit(1, &[one.clone(), one.clone()]), Err(CommitError::Trailing(107))),
        (commit(2, &[one.clone(), record(2, 5)]), Err(CommitError::Mixed)),
        (commit(2, &[one.clone(), record(1, 6)]), Err(CommitError::Mixed)),
        (commit(1, &[record(1, end_of_time)]), Ok(())),
        (commit(1, &[record(1, end_of_time + 1)]), Err(CommitError::Record(RecordError::Time))),
        (commit(1, &[vec![]]), Err(CommitError::Record(RecordError::Short))),
        (commit(1, &[one[..102].to_vec()]), Err(CommitError::Record(RecordError::Short))),
    ];
    for (index, (bytes, outcome)) in rows.into_iter().enumerate() {
        assert_eq!(CommitBody::parse(bytes.as_slice()).map(drop), outcome, "row {index}");
        for len in 0..if outcome.is_ok() { bytes.len() } else { 0 } {
            assert!(CommitBody::parse(&bytes[..len]).is_err(), "row {index} cut to {len}");
        }
    }
    // A length that reaches beyond any memory.
    let mut endless = commit(1, &[one]);
    endless[51..55].fill(0xff);
    assert_eq!(CommitBody::parse(endless.as_slice()), Err(CommitError::Short));
}

/// A number may be spelt longer than it need be; what it says is the same.
#[test]
fn a_longer_spelling_of_a_number_is_the_same_event() {
    let id = [7; 16];
    let short = [id.as_slice(), &[5]].concat();
    let long = [id.as_slice(), &[0x85, 0x00]].concat();
    let (kind, version) = (9, 1);
    let event = Event::decode(kind, version, &short).unwrap();
    assert_eq!(Event::decode(kind, version, &long).unwrap(), event);
    assert_eq!(event.encode(Vec::new()), short);
}
