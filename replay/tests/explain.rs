//! What an auditor reads about one credential, word by word.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use keyledger_events::{
    Commit, CredentialId, PersonId, Position, TeamId, Timestamp,
    credential::{Expire, Issue, PairDevice, Revoke, Revoker, Rotate},
    event::{RevokeReason, Role},
    record::Actor,
    secret::Kind,
    store::memory::MemoryStore,
    team::{Depart, Join, RemoveMember},
};
use keyledger_replay::{
    Moment,
    explain::{Explanation, Name, NameError, explain},
    quiet,
};
use support::{Town, clear, store};

const HOUR: Duration = Duration::from_secs(3600);

/// A team's story, with everything a credential can die of.
struct Story {
    town: Town,
    team: TeamId,
    owner: PersonId,
    member: PersonId,
    commits: Vec<Commit>,
}

impl Story {
    fn begin() -> Self {
        let mut town = Town::new(2026);
        let mut commits = vec![town.found(), town.found()];
        let team = town.founded[1];
        let owner = *town.teams[&team].members.keys().next().unwrap();
        let member = town.person();
        town.wait(HOUR);
        let join = Join { member, name: clear("Mara"), role: Role::Member, invited_by: owner };
        let joined = join.decide(&town.teams[&team]);
        commits.push(town.must(team, Actor::Person(member), joined));
        Self { town, team, owner, member, commits }
    }

    fn issue(&mut self, days: Option<u16>) -> CredentialId {
        let key = self.town.key(Kind::Integration);
        let id = key.id;
        let (actor, name) = (self.member, clear("CI of the shop"));
        let issue = Issue { actor, kind: Kind::Integration, name, purpose: None, expires_in_days: days, key };
        let decision = issue.decide(&self.town.teams[&self.team], self.town.now);
        self.commits.push(self.town.must(self.team, Actor::Person(actor), decision));
        id
    }

    fn pair(&mut self) -> (CredentialId, CredentialId) {
        let (device, companion) = (self.town.key(Kind::Device), self.town.key(Kind::Agent));
        let ids = (device.id, companion.id);
        let (actor, name, companion_name) = (self.member, clear("laptop"), clear("laptop's agent"));
        let pair = PairDevice { actor, name, companion_name, device, companion };
        let decision = pair.decide(&self.town.teams[&self.team], self.town.now);
        self.commits.push(self.town.must(self.team, Actor::Person(actor), decision));
        ids
    }

    fn log(&self) -> MemoryStore {
        store(&self.commits)
    }

    fn told(&self, id: CredentialId, at: Option<Timestamp>) -> Explanation {
        explain(&self.log(), &Name::Id(id), Moment { at, known_at: None }, &|_| None, &quiet).unwrap()
    }
}

#[test]
fn a_key_revoked_with_a_note() {
    let mut story = Story::begin();
    let id = story.issue(None);
    story.town.wait(HOUR);
    let by = Revoker::Person(story.owner);
    let note = Some("seen in a build log".to_owned());
    let revoke = Revoke { by, credential: id, reason: RevokeReason::Leaked, note };
    let decision = revoke.decide(&story.town.teams[&story.team], story.town.now);
    story.commits.push(story.town.must(story.team, Actor::Person(story.owner), decision));
    insta::assert_snapshot!("revoked", story.told(id, None));
    insta::assert_snapshot!("revoked_before", story.told(id, Some(support::START.parse().unwrap())).sentence());
}

#[test]
fn a_key_rotated_and_expired_later_than_it_is_recorded() {
    let mut story = Story::begin();
    let id = story.issue(Some(30));
    story.town.wait(HOUR);
    let key = story.town.key(Kind::Integration);
    let (actor, overlap_seconds) = (story.member, 3600);
    let rotate = Rotate { actor, credential: id, overlap_seconds, expires_in_days: None, key };
    let decision = rotate.decide(&story.town.teams[&story.team], story.town.now);
    story.commits.push(story.town.must(story.team, Actor::Person(actor), decision));
    story.town.wait(HOUR);
    let end = story.town.now;
    insta::assert_snapshot!("rotated_unrecorded", story.told(id, Some(end)).sentence());
    story.town.wait(Duration::from_millis(1500));
    let decision = Expire { credential: id }.decide(&story.town.teams[&story.team], story.town.now);
    story.commits.push(story.town.must(story.team, Actor::System, decision));
    insta::assert_snapshot!("rotated", story.told(id, Some(end)));
    let before = Timestamp::from_micros(end.micros() - 1);
    insta::assert_snapshot!("rotated_before", story.told(id, Some(before)).sentence());
}

#[test]
fn a_companion_that_died_with_its_device() {
    let mut story = Story::begin();
    let (device, companion) = story.pair();
    story.town.wait(HOUR);
    let remove = RemoveMember { actor: story.owner, member: story.member };
    let decision = remove.decide(&story.town.teams[&story.team], story.town.now);
    story.commits.push(story.town.must(story.team, Actor::Person(story.owner), decision));
    insta::assert_snapshot!("companion", story.told(companion, None));
    insta::assert_snapshot!("device", story.told(device, None).sentence());
}

#[test]
fn a_key_handed_over_by_a_departure() {
    let mut story = Story::begin();
    let id = story.issue(None);
    story.town.wait(HOUR);
    let (actor, member) = (story.owner, story.member);
    let state = &story.town.teams[&story.team];
    let expected_revision = state.head.unwrap().revision;
    let depart = Depart { actor, member, revoke: vec![], hand_over: vec![(id, actor)], expected_revision };
    let decision = depart.decide(state, story.town.now);
    story.commits.push(story.town.must(story.team, Actor::Person(actor), decision));
    insta::assert_snapshot!("handed_over", story.told(id, None));
    let prefix = story.told(id, None).credential.prefix.to_string();
    let by_prefix = explain(&story.log(), &prefix.parse().unwrap(), Moment::default(), &|_| None, &quiet).unwrap();
    assert_eq!(by_prefix, story.told(id, None));
    let known = Moment { at: None, known_at: Some(Position(5)) };
    let known = explain(&story.log(), &Name::Id(id), known, &|_| None, &quiet).unwrap();
    assert_eq!(known.credential.holder, story.member, "the hand-over was not known yet");
}

#[test]
fn a_whole_secret_is_no_name() {
    let secret = "sk-kl100000000000000000000000000000000000000000001d2j2b";
    assert_eq!(secret.parse::<Name>(), Err(NameError::Secret));
    assert!(!NameError::Secret.to_string().contains("kl1"));
    assert_eq!("nobody".parse::<Name>(), Err(NameError::Shape));
    assert_eq!("sk-kl1ABCDEF".parse::<Name>(), Ok(Name::Prefix("sk-kl1ABCDEF".into())));
}
