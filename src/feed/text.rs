//! The feed's messages as server-sent events (WHATWG HTML §9.2).

use keyledger_events::{Event, Position, TeamId, secret::Kind};
use keyledger_projections::{
    Active,
    feed::{Change, HeadMessage, PlacedChange},
};
use serde::Serialize;

/// A comment: nothing is new, and the connection lives.
pub(super) const COMMENT: &[u8] = b":\n\n";

/// What follows `after` in a [`keyledger_projections::feed::Changes`].
#[derive(Serialize)]
struct Rest<'a> {
    position: Position,
    team: TeamId,
    changes: &'a [PlacedChange],
}

/// What of an event followers are told; none if it does not concern them, as all about `sv-` keys does not.
pub(super) fn told(active: &Active, team: TeamId, event: &Event) -> Option<Change> {
    let change = Change::of(event)?;
    let is_service = match &change {
        Change::CredentialIssued { kind, .. } => *kind == Kind::Service,
        // Only the system's team has any. A kind never changes, so that it does not matter how far the index is ahead.
        Change::CredentialRevoked { credential }
        | Change::CredentialCascadeRevoked { credential, .. }
        | Change::CredentialExpired { credential, .. }
        | Change::ExpiryShortened { credential, .. }
        | Change::CredentialHandedOver { credential, .. } => {
            team == TeamId::SYSTEM && active.kind_of(*credential) == Some(Kind::Service)
        }
    };
    (!is_service).then_some(change)
}

/// The part of a commit's message that is the same for every follower.
pub(super) fn rest(position: Position, team: TeamId, changes: &[PlacedChange]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + changes.len() * 320);
    push_rest(&mut out, position, team, changes);
    out
}

/// Appends a commit's message, of which all but the beginning is there.
pub(super) fn push_changes(out: &mut Vec<u8>, after: Option<Position>, position: Position, rest: &[u8]) {
    push_beginning(out, after, position);
    out.extend_from_slice(rest);
}

/// Appends a commit's message.
pub(super) fn push_new_changes(
    out: &mut Vec<u8>,
    after: Option<Position>,
    position: Position,
    team: TeamId,
    changes: &[PlacedChange],
) {
    push_beginning(out, after, position);
    push_rest(out, position, team, changes);
}

/// Appends the head's message.
pub(super) fn push_head(out: &mut Vec<u8>, head: &HeadMessage) {
    out.extend_from_slice(b"event: head\n");
    if let Some(position) = head.position {
        out.extend_from_slice(b"id: ");
        push_number(out, position.0);
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    push_json(out, head);
    out.extend_from_slice(b"\n\n");
}

fn push_beginning(out: &mut Vec<u8>, after: Option<Position>, position: Position) {
    out.extend_from_slice(b"event: changes\nid: ");
    push_number(out, position.0);
    out.extend_from_slice(b"\ndata: {\"after\":");
    match after {
        Some(after) => push_number(out, after.0),
        None => out.extend_from_slice(b"null"),
    }
}

fn push_rest(out: &mut Vec<u8>, position: Position, team: TeamId, changes: &[PlacedChange]) {
    let start = out.len();
    push_json(out, &Rest { position, team, changes });
    // Not the beginning of an object but more members of one.
    if let Some(brace) = out.get_mut(start) {
        *brace = b',';
    }
    out.extend_from_slice(b"\n\n");
}

fn push_json(out: &mut Vec<u8>, value: &impl Serialize) {
    // No message has a type that serde_json refuses, and a vector takes everything. It writes no line break.
    let _ = serde_json::to_writer(out, value);
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    push_json(out, &number);
}

#[cfg(test)]
mod tests {
    use keyledger_events::CredentialId;
    use keyledger_projections::feed::Changes;

    use super::*;

    #[test]
    fn a_message_is_the_types_json_behind_its_id() {
        let change = Change::CredentialRevoked { credential: CredentialId::from_bytes([7; 16]) };
        for after in [None, Some(Position(0)), Some(Position(u64::MAX))] {
            let changes = Changes {
                after,
                position: Position(8),
                team: TeamId::from_bytes([1; 16]),
                changes: vec![PlacedChange { position: Position(8), change }; 2],
            };
            let json = serde_json::to_string(&changes).unwrap();
            let expected = format!("event: changes\nid: 8\ndata: {json}\n\n");
            let (mut one, mut other) = (Vec::new(), Vec::new());
            push_new_changes(&mut one, after, changes.position, changes.team, &changes.changes);
            push_changes(&mut other, after, changes.position, &rest(changes.position, changes.team, &changes.changes));
            assert_eq!(String::from_utf8(one).unwrap(), expected);
            assert_eq!(String::from_utf8(other).unwrap(), expected);
        }
    }
}
