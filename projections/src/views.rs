//! The team views that are in memory: as many as fit, the least recently used go first.

use std::{collections::HashMap, sync::Arc};

use keyledger_events::TeamId;
use parking_lot::RwLock;

use crate::team_view::TeamView;

/// A team's view that others share. Hold a guard no longer than a page takes: the projector waits for it.
pub type SharedView = Arc<RwLock<TeamView>>;

/// All resident views weigh at most this, in [`TeamView::weight`]; but one may always stay.
const WEIGHT_MAX: usize = 4_000_000;

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
        if self.weight <= WEIGHT_MAX || self.by_team.len() < 2 {
            return;
        }
        // Rare and short: room for a tenth is made at once.
        let mut by_age: Vec<_> = self.by_team.iter().map(|(team, resident)| (resident.used, *team)).collect();
        by_age.sort_unstable();
        by_age.pop();
        for (_, team) in by_age {
            if self.weight <= WEIGHT_MAX / 10 * 9 {
                break;
            }
            if let Some(gone) = self.by_team.remove(&team) {
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
    fn the_least_recently_used_views_go_first_and_the_last_stays() {
        let mut views = Views::default();
        let light = TeamView::default().weight();
        let fits = WEIGHT_MAX / light;
        // Views weigh little; pretend each is a third of all there may be.
        for number in 0..3 {
            views.put(team(number), TeamView::default());
            let resident = views.by_team.get_mut(&team(number)).unwrap();
            resident.weight = light * (fits / 3);
            views.weight += resident.weight - light;
        }
        assert!(views.get(team(0)).is_some());
        views.put(team(3), TeamView::default());
        views.put(team(4), TeamView::default());
        views.weight += WEIGHT_MAX;
        views.by_team.get_mut(&team(4)).unwrap().weight += WEIGHT_MAX;
        views.make_room();
        assert_eq!(views.by_team.keys().copied().collect::<Vec<_>>(), [team(4)]);
    }
}
