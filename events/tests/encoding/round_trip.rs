//! What is written is read back, and says the same.

use keyledger_events::{
    Commit, CommitBody, CommitNumber, Event, Position, Record,
    commit::COMMIT_LEN_MAX,
    record::{self, RecordHeader, follow_chain},
};
use proptest::prelude::*;

use crate::strategies::{envelope, event, head, new_events, record};

proptest! {
    #[test]
    fn every_event(event in event()) {
        let (kind, version) = event.header();
        let bytes = event.encode(Vec::new());
        prop_assert!(!bytes.is_empty());
        prop_assert_eq!(Event::decode(kind, version, &bytes).unwrap(), event.clone());
        // Behind other bytes it is the same.
        prop_assert_eq!(&event.encode(vec![1, 2, 3])[3..], bytes);
    }

    #[test]
    fn every_record(record in record()) {
        let bytes = record.encode();
        prop_assert_eq!(Record::decode(&bytes).unwrap(), record.clone());
        let header = RecordHeader::decode(&bytes).unwrap();
        prop_assert_eq!((header.kind, header.version), record.event.header());
        prop_assert_eq!((header.team, header.revision, header.id), (record.team, record.revision, record.id));
        prop_assert_eq!((header.recorded_at, header.previous), (record.recorded_at, record.previous));
    }

    #[test]
    fn every_commit(head in head(), envelope in envelope(), events in new_events()) {
        let (body, next) = CommitBody::build(head, &envelope, events.clone());
        prop_assert!(body.bytes().len() < COMMIT_LEN_MAX);
        let parsed = CommitBody::parse(body.bytes()).unwrap();
        prop_assert_eq!(&parsed, &body);
        let view = parsed.view();
        prop_assert_eq!((view.operation(), view.request()), (envelope.operation, envelope.request));
        prop_assert_eq!(view.count(), events.len() as u64);

        let commit = Commit { number: CommitNumber(3), first_position: Position(40), body: parsed.clone() };
        prop_assert_eq!(commit.end(), Position(40 + events.len() as u64));
        let mut last = head;
        for ((placed, found), new) in commit.records().zip(view.records()).zip(&events) {
            let placed = placed.unwrap();
            follow_chain(last, &RecordHeader::decode(found.bytes()).unwrap()).unwrap();
            prop_assert_eq!(placed.hash, found.hash());
            let record = placed.record;
            last = Some(record::StreamHead { revision: record.revision, hash: placed.hash });
            prop_assert_eq!((record.team, record.recorded_at), (envelope.team, envelope.recorded_at));
            prop_assert_eq!((record.id, record.salt, record.meta.cause), (new.id, new.salt, new.cause));
            prop_assert_eq!((record.meta.actor, record.meta.auth), (envelope.actor, envelope.auth));
            prop_assert_eq!(&record.meta.context, &envelope.context);
            prop_assert_eq!(&record.event, &new.event);
        }
        prop_assert_eq!(last, Some(next));
    }
}

/// A chain names its predecessor by revision and by hash; neither may be off.
#[test]
fn a_chain_has_no_gap_and_no_other_past() {
    use keyledger_events::{
        RecordHash, Revision,
        record::{ChainError, StreamHead},
    };
    let header = |revision, previous| {
        let mut bytes = [0; 103];
        bytes[0] = record::RECORD_FORMAT;
        bytes[21..29].copy_from_slice(&u64::to_le_bytes(revision));
        bytes[53..85].copy_from_slice(&[previous; 32]);
        RecordHeader::decode(&bytes).unwrap()
    };
    let head = Some(StreamHead { revision: Revision(4), hash: RecordHash([7; 32]) });
    let wrong = |expected, found| Err(ChainError::Revision { expected: Revision(expected), found: Revision(found) });
    let other = |expected, found| {
        Err(ChainError::Previous { expected: RecordHash([expected; 32]), found: RecordHash([found; 32]) })
    };
    let rows = [
        (None, header(0, 0), Ok(())),
        (None, header(1, 0), wrong(0, 1)),
        (None, header(0, 7), other(0, 7)),
        (head, header(5, 7), Ok(())),
        (head, header(4, 7), wrong(5, 4)),
        (head, header(6, 7), wrong(5, 6)),
        (head, header(0, 0), wrong(5, 0)),
        (head, header(5, 0), other(7, 0)),
    ];
    for (head, header, outcome) in rows {
        assert_eq!(follow_chain(head, &header), outcome);
    }
}
