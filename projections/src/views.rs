//! The team views that are in memory: as many as fit, the least recently used go first.

use std::{collections::HashMap, sync::Arc};

use keyledger_events::TeamId;
use parking_lot::RwLock;

use crate::team_view::TeamView;

/// A team's view that others share. Hold a guard no longer than a page takes: the projector waits for it.
pub type SharedView = Arc<RwLock<TeamView>>;

/// All resident views but the heaviest weigh at most this, in [`TeamView::weight`]: roughly 100 MB. The heaviest does
/// not count: folding it anew each time that another team is looked at would cost more than its memory.
const WEIGHT_MAX: usize = 1_000_000;

#[derive(Debug, Default)]
pub(crate) struct Views {
    by_team: HashMap<TeamId, Resident>,
    weight: usize,
    clock: u64,
}

#[derive(Debug)]
struct Resident {
    view: SharedView,
    weight: usize,
    used: u64,
}

impl Views {
    /// The view of a team, if it is here.
    pub(crate) fn get(&mut self, team: TeamId) -> Option<SharedView> {
        self.clock += 1;
        let resident = self.by_team.get_mut(&team)?;
        resident.used = self.clock;
        Some(resident.view.clone())
    }

    /// The same, for who only keeps it up to date.
    pub(crate) fn peek(&self, team: TeamId) -> Option<SharedView> {
        self.by_team.get(&team).map(|resident| resident.view.clone())
    }

    /// Takes in a view that stands where its team's stream does.
    pub(crate) fn put(&mut self, team: TeamId, view: TeamView) -> SharedView {
        self.clock += 1;
        let (weight, view) = (view.weight(), Arc::new(RwLock::new(view)));
        let resident = Resident { view: view.clone(), weight, used: self.clock };
        self.weight += weight;
        if let Some(before) = self.by_team.insert(team, resident) {
            self.weight -= before.weight;
        }
        self.make_room();
        view
    }

    /// Notes what a team's view weighs now.
    pub(crate) fn reweigh(&mut self, team: TeamId, weight: usize) {
        let Some(resident) = self.by_team.get_mut(&team) else { return };
        self.weight = self.weight - resident.weight + weight;
        resident.weight = weight;
        self.make_room();
    }

    fn make_room(&mut self) {
        if self.weight <= WEIGHT_MAX {
            return;
        }
        let heaviest = self.by_team.iter().map(|(team, resident)| (resident.weight, *team)).max();
        let Some((heaviest, stays)) = heaviest else { return };
        if self.weight - heaviest <= WEIGHT_MAX {
            return;
        }
        // Room for a tenth is made at once, so that this is rare.
        let mut by_age: Vec<_> = self.by_team.iter().map(|(team, resident)| (resident.used, *team)).collect();
        by_age.sort_unstable();
        for (_, team) in by_age {
            if self.weight - heaviest <= WEIGHT_MAX / 10 * 9 {
                break;
            }
            if team != stays
                && let Some(gone) = self.by_team.remove(&team)
            {
                self.weight -= gone.weight;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::team;

    #[test]
    fn the_least_recently_used_views_go_first_and_the_heaviest_stays() {
        let mut views = Views::default();
        let put = |views: &mut Views, number, weight| {
            views.put(team(number), TeamView::default());
            views.reweigh(team(number), weight);
        };
        put(&mut views, 0, WEIGHT_MAX * 3);
        (1..4).for_each(|number| put(&mut views, number, WEIGHT_MAX / 3));
        assert!(views.get(team(1)).is_some());
        put(&mut views, 4, WEIGHT_MAX / 4);
        let mut left: Vec<_> = views.by_team.keys().copied().collect();
        left.sort();
        assert_eq!(left, [0, 1, 3, 4].map(team));
        assert_eq!(views.weight, views.by_team.values().map(|resident| resident.weight).sum::<usize>());
    }
}
