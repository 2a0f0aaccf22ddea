//! Commits for tests, without a service that would decide on them.

use crate::{
    CommitBody, CorrelationId, CredentialId, Event, EventId, OperationId, PersonId, TeamId, Timestamp,
    commit::{Envelope, NewEvent, RequestDigest},
    event::{CredentialIssuedV1, CredentialRevokedV1, RevokeReason, TeamCreatedV1},
    record::{Actor, AuthMethod, StreamHead},
    seal::Label,
    secret::{Kind, RANDOM_LEN, Secret},
    store::Proposal,
};

/// Writes the commits of one team, one behind the other. Everything it draws is a function of the team and a counter,
/// so two authors of the same team and history write the same bytes.
#[derive(Clone, Debug)]
pub struct Author {
    /// The team.
    pub team: TeamId,
    /// The stream's head as this author knows it: what the next proposal expects.
    pub head: Option<StreamHead>,
    /// The recorded time of what it writes next.
    pub now: Timestamp,
    /// How many commits it has written.
    pub written: u64,
}

impl Author {
    /// An author for team number `team` with an empty stream, at 2026-01-01T00:00:00Z.
    pub fn new(team: u64) -> Self {
        let mut id = [0x7e; 16];
        id[8..].copy_from_slice(&team.to_be_bytes());
        Self {
            team: TeamId::from_bytes(id),
            head: None,
            now: Timestamp::from_micros(1_767_225_600_000_000),
            written: 0,
        }
    }

    /// The next commit, with these events; the author counts on its being appended.
    ///
    /// # Panics
    /// If there are no events.
    pub fn propose(&mut self, events: Vec<Event>) -> Proposal {
        let expected = self.head;
        let first = expected.map_or(0, |head| head.revision.0 + 1);
        let envelope = Envelope {
            team: self.team,
            recorded_at: self.now,
            actor: Actor::Person(PersonId::from_bytes(self.draw(b'p', 0))),
            auth: AuthMethod::Session,
            correlation: CorrelationId::from_bytes(self.draw(b'c', self.written)),
            context: None,
            operation: OperationId::from_bytes(self.draw(b'o', self.written)),
            request: RequestDigest(*blake3::hash(&self.written.to_le_bytes()).as_bytes()),
        };
        let events = (first..).zip(events).map(|(revision, event)| NewEvent {
            id: EventId::from_bytes(self.draw(b'e', revision)),
            salt: self.draw(b's', revision),
            cause: None,
            event,
        });
        let (body, head) = CommitBody::build(expected, &envelope, events.collect());
        self.head = Some(head);
        self.written += 1;
        Proposal { team: self.team, expected, body, essential: false }
    }

    /// The next commit, with `count` events: an issue, a revocation, an issue …
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn propose_sample(&mut self, count: u64) -> Proposal {
        let first = self.head.map_or(0, |head| head.revision.0 + 1);
        let events = (first..first + count).map(|revision| sample_event(self.team, revision)).collect();
        self.propose(events)
    }

    fn draw(&self, what: u8, number: u64) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.team.as_bytes()).update(&[what]).update(&number.to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        id
    }
}

/// An event of about 150 bytes: the team's creation, then by turns an issue and a revocation.
pub fn sample_event(team: TeamId, revision: u64) -> Event {
    let credential = |number: u64| {
        let mut id = *team.as_bytes();
        id[..8].copy_from_slice(&number.to_be_bytes());
        CredentialId::from_bytes(id)
    };
    match revision {
        0 => Event::TeamCreated(TeamCreatedV1 { name: "Acme".into() }),
        odd if odd % 2 == 1 => {
            let mut random = [0; RANDOM_LEN];
            for (place, byte) in random.iter_mut().zip(team.as_bytes().iter().chain(&odd.to_le_bytes())) {
                *place = byte % 62;
            }
            let secret = Secret::new(Kind::Integration, &random);
            Event::CredentialIssued(CredentialIssuedV1 {
                credential: credential(odd),
                kind: Kind::Integration,
                hash: secret.hash(),
                prefix: secret.prefix(),
                name: Label::Clear("nightly build".into()),
                purpose: None,
                holder: PersonId::from_bytes(*team.as_bytes()),
                expires_at: Some(Timestamp::from_micros(1_790_000_000_000_000)),
                rotated_from: None,
                companion_of: None,
            })
        }
        even => Event::CredentialRevoked(CredentialRevokedV1 {
            credential: credential(even - 1),
            reason: RevokeReason::Requested,
            note: None,
        }),
    }
}
