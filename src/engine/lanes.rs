//! Lanes: small numbers for workers, so that one who watches a pool sees as many rows as the pool has places.
//!
//! A worker has one lane for its whole life. A replacement takes over the lane of the worker that it replaces, even while
//! that one is still leaving; so for a moment a lane may have several workers.

use std::collections::BTreeMap;

use crate::schedule::WorkerId;

/// Which worker has which lane.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// The workers of each lane, the newest last. All others are leaving.
    lanes: Vec<Vec<WorkerId>>,
    of: BTreeMap<WorkerId, u32>,
}

impl Lanes {
    /// Gives a new worker a lane: of one that is leaving, or else the lowest that is free. `is_leaving` says whether a
    /// worker is.
    pub(super) fn enter(&mut self, worker: WorkerId, is_leaving: impl Fn(WorkerId) -> bool) -> u32 {
        let is_left = |lane: &Vec<WorkerId>| lane.last().is_some_and(|&newest| is_leaving(newest));
        let place = self.lanes.iter().position(is_left).or_else(|| self.lanes.iter().position(Vec::is_empty));
        let place = place.unwrap_or_else(|| {
            self.lanes.push(Vec::new());
            self.lanes.len() - 1
        });
        self.lanes[place].push(worker);
        let number = u32::try_from(place).expect("there are fewer workers than process ids");
        self.of.insert(worker, number);
        number
    }

    /// The worker is gone.
    pub(super) fn leave(&mut self, worker: WorkerId) {
        if let Some(number) = self.of.remove(&worker) {
            self.lanes[number as usize].retain(|&other| other != worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE_LEAVES: fn(WorkerId) -> bool = |_| false;

    #[test]
    fn a_replacement_has_the_lane_of_the_worker_that_it_replaces() {
        let mut lanes = Lanes::default();
        let entered: Vec<u32> = (0..4).map(|worker| lanes.enter(WorkerId(worker), NONE_LEAVES)).collect();
        assert_eq!(entered, [0, 1, 2, 3]);
        lanes.leave(WorkerId(1));
        assert_eq!(lanes.enter(WorkerId(4), NONE_LEAVES), 1, "that worker was dead");
        assert_eq!(lanes.enter(WorkerId(5), |worker| worker == WorkerId(2)), 2, "that one is still leaving");
        assert_eq!(lanes.enter(WorkerId(6), |worker| worker == WorkerId(2)), 4, "its lane has a successor");
        let are_leaving = |worker| worker == WorkerId(2) || worker == WorkerId(5);
        assert_eq!(lanes.enter(WorkerId(7), are_leaving), 2, "the successor leaves before the first is gone");
        for gone in [5, 2, 7] {
            lanes.leave(WorkerId(gone));
        }
        assert_eq!(lanes.enter(WorkerId(8), NONE_LEAVES), 2);
    }
}
