//! The seals: every map of all streams that the ledger has appended, made anew from the events before it.
//!
//! A seal may be of a little less than what stands before it, because other commits were under way: the heads that the
//! newest commits have left are kept in a queue, in front of those that every seal to come must count.

use std::collections::VecDeque;

use keyledger_events::{
    Event, Position, Revision, TeamId, event::HistorySealedV1, record::StreamHead, stream_map::StreamMap,
};

use super::history::{Facts, Flaw};

/// How many commits a seal may be behind its own place.
const LAG_COMMITS_MAX: usize = 65_536;

/// All streams as the next seal must see them.
#[derive(Default)]
pub(super) struct Seals {
    /// What the last seal saw.
    map: StreamMap,
    /// What has changed since, as far as the next seal must know of it, by the number of its team.
    settled: Vec<Option<StreamHead>>,
    /// The numbers of those teams.
    changed: Vec<u32>,
    /// All teams, by their numbers.
    teams: Vec<TeamId>,
    /// The position before which all is settled.
    settled_at: Position,
    /// What the next seal may know of.
    pending: VecDeque<Left>,
    /// How many seals there were.
    count: u64,
    /// What the last one was of.
    through: Position,
}

/// What a commit has left.
struct Left {
    team: u32,
    head: StreamHead,
    end: Position,
}

impl Seals {
    /// How many seals there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many events the last one is of.
    pub fn through(&self) -> Position {
        self.through
    }

    /// Takes in the next commit, whose chain holds and whose team has this number; judges its seals. A team's number is
    /// that of the teams that came before it.
    pub fn apply(&mut self, facts: &Facts<'_>, team: u32) -> Result<(), Flaw> {
        if team as usize == self.teams.len() {
            self.teams.push(facts.first.team);
            self.settled.push(None);
        }
        if facts.first.team == TeamId::SYSTEM {
            for (record, position) in facts.records.iter().zip(facts.first_position.0..) {
                if let Event::HistorySealed(seal) = &record.event {
                    let position = Position(position);
                    self.judge(seal, position).map_err(|what| Flaw { position, what })?;
                }
            }
        }
        let events = facts.records.len() as u64;
        if self.pending.len() == LAG_COMMITS_MAX {
            self.settle_one();
        }
        self.pending.push_back(Left {
            team,
            head: StreamHead { revision: Revision(facts.first.revision.0 + events - 1), hash: facts.last_hash },
            end: Position(facts.first_position.0 + events),
        });
        Ok(())
    }

    fn settle_one(&mut self) {
        if let Some(left) = self.pending.pop_front() {
            self.settled_at = left.end;
            if self.settled[left.team as usize].replace(left.head).is_none() {
                self.changed.push(left.team);
            }
        }
    }

    fn judge(&mut self, seal: &HistorySealedV1, position: Position) -> Result<(), String> {
        let HistorySealedV1 { through, teams, root } = *seal;
        if through > position {
            return Err(format!("a seal through position {through}, which is still to come"));
        }
        if through < self.through {
            return Err(format!(
                "a seal through position {through}, less than the one before, through {}",
                self.through
            ));
        }
        while self.pending.front().is_some_and(|left| left.end <= through) {
            self.settle_one();
        }
        if self.settled_at > through {
            return Err(format!("a seal through position {through}, more than {LAG_COMMITS_MAX} commits behind"));
        }
        if self.settled_at < through {
            return Err(format!("a seal through position {through}, in the middle of a commit"));
        }
        for number in self.changed.drain(..).map(|number| number as usize) {
            self.settled[number].take().into_iter().for_each(|head| self.map.insert(self.teams[number], head));
        }
        let (found_teams, found) = (self.map.teams(), self.map.root());
        if (found_teams, found) != (teams, root) {
            return Err(format!(
                "the seal through position {through} says root {root} over {teams} teams, the events before it give \
                 {found} over {found_teams}"
            ));
        }
        self.count += 1;
        self.through = through;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keyledger_events::{
        CommitNumber, CorrelationId, EventId, Meta, Record, RecordHash, Timestamp,
        event::TeamCreatedV1,
        record::{Actor, AuthMethod, RecordHeader},
    };

    use super::*;

    fn record(team: TeamId, revision: u64, event: Event) -> Record {
        let meta = Meta {
            actor: Actor::System,
            auth: AuthMethod::Internal,
            cause: None,
            correlation: CorrelationId::from_bytes([1; 16]),
            context: None,
        };
        Record {
            team,
            revision: Revision(revision),
            id: EventId::from_bytes([2; 16]),
            recorded_at: Timestamp::default(),
            previous: RecordHash::default(),
            salt: [3; 16],
            meta,
            event,
        }
    }

    fn apply(seals: &mut Seals, position: u64, record: &Record) -> Result<(), Flaw> {
        let first = RecordHeader::decode(&record.encode()).unwrap();
        let (number, first_position) = (CommitNumber(position), Position(position));
        let records = std::slice::from_ref(record);
        let team = u32::from(record.team == TeamId::SYSTEM);
        seals
            .apply(&Facts { number, first_position, first, last_hash: RecordHash([position as u8; 32]), records }, team)
    }

    #[test]
    fn a_seal_may_be_so_far_behind_and_no_farther() {
        let team = TeamId::from_bytes([9; 16]);
        let happened = |n| record(team, n, Event::TeamCreated(TeamCreatedV1 { name: "x".into() }));
        for (behind, holds) in [(LAG_COMMITS_MAX as u64, true), (LAG_COMMITS_MAX as u64 + 1, false)] {
            let (mut seals, through) = (Seals::default(), 10);
            (0..through + behind).for_each(|n| apply(&mut seals, n, &happened(n)).unwrap());
            let mut map = StreamMap::new();
            map.insert(team, StreamHead { revision: Revision(9), hash: RecordHash([9; 32]) });
            let seal = HistorySealedV1 { through: Position(through), teams: 1, root: map.root() };
            let judged = apply(&mut seals, through + behind, &record(TeamId::SYSTEM, 0, Event::HistorySealed(seal)));
            assert_eq!(judged.is_ok(), holds, "{judged:?}");
            assert!(holds || judged.is_err_and(|flaw| flaw.what.contains("commits behind")));
        }
    }
}
