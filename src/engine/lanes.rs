//! Lanes: the places of a pool's workers, numbered from 0. A replacement takes the lane of the worker that it replaces.
//!
//! A pool of `n` workers has the lanes 0 to `n - 1`. A start takes the lowest lane that no worker has that is to stay. A
//! worker that is about to leave keeps its lane until it has ended, so for that time two workers may have the same one.

use crate::schedule::WorkerId;
use crate::transport::control::Lane;

/// Who has a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// A worker that is being started.
    Start,
    /// A worker that was started. It may have ended, or be about to.
    Worker(WorkerId),
}

/// One lane, by its index in the list.
#[derive(Debug)]
struct Place {
    holder: Holder,
    /// How many workers have been started for it.
    starts: u64,
}

/// The lanes of a pool.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    places: Vec<Place>,
}

impl Lanes {
    /// The lane of a worker that is about to be started: the lowest one that no worker has for which `stays` is true.
    pub(super) fn claim(&mut self, stays: impl Fn(WorkerId) -> bool) -> Lane {
        let is_free = |place: &Place| match place.holder {
            Holder::Nobody => true,
            Holder::Start => false,
            Holder::Worker(worker) => !stays(worker),
        };
        let index = self.places.iter().position(is_free).unwrap_or_else(|| {
            self.places.push(Place { holder: Holder::Nobody, starts: 0 });
            self.places.len() - 1
        });
        let place = &mut self.places[index];
        let index = u32::try_from(index).expect("there are fewer workers than process ids");
        let lane = Lane { index, generation: place.starts };
        *place = Place { holder: Holder::Start, starts: place.starts + 1 };
        lane
    }

    /// The worker for which the lane was claimed has been started.
    pub(super) fn occupy(&mut self, lane: Lane, worker: WorkerId) {
        self.set(lane, Holder::Worker(worker));
    }

    /// The worker for which the lane was claimed has not been started.
    pub(super) fn release(&mut self, lane: Lane) {
        self.set(lane, Holder::Nobody);
    }

    fn set(&mut self, lane: Lane, holder: Holder) {
        self.places[lane.index as usize].holder = holder;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_takes_the_lane_of_the_one_that_leaves() {
        let mut lanes = Lanes::default();
        let first: Vec<Lane> = (0..3).map(|_| lanes.claim(|_| true)).collect();
        assert_eq!(
            first.iter().map(|lane| (lane.index, lane.generation)).collect::<Vec<_>>(),
            [(0, 0), (1, 0), (2, 0)]
        );
        first.iter().zip(1..).for_each(|(&lane, worker)| lanes.occupy(lane, WorkerId(worker)));

        let second = lanes.claim(|worker| worker != WorkerId(2));
        assert_eq!((second.index, second.generation), (1, 1));
        // Not twice: the start has it now, although the worker still lives.
        assert_eq!(lanes.claim(|worker| worker != WorkerId(2)).index, 3);

        lanes.release(second);
        assert_eq!(lanes.claim(|_| true), Lane { index: 1, generation: 2 });
    }
}
