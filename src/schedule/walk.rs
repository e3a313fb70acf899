//! The schedule against a model of the world, in random walks.
//!
//! The model has jobs whose items count how often they were started and settled, and workers that read frames in order,
//! answer item by item, and die at any moment. Some items have a time limit, some are retried, and the pool grows and
//! shrinks. Links refuse frames: some because they are full, until they report that they have room; some until the next
//! answer; and some take a part only. After every step the rules of the schedule are checked. At the end of every walk
//! the world runs until nothing is left to do, and then every item must have exactly one outcome.
//!
//! Also called: model-based testing, state machine test, property test.

#![expect(clippy::unwrap_used, reason = "a walk stops at the first surprise")]

mod event;
mod model;
mod world;

#[cfg(test)]
use std::time::Duration;

#[cfg(test)]
use proptest::prelude::*;

pub(crate) use self::event::Event;
#[cfg(test)]
pub(crate) use self::event::event;
use self::world::World;
use crate::schedule::policy::PoolPolicy;
#[cfg(test)]
use crate::schedule::size::Size;
#[cfg(test)]
use crate::work::unbegun::Grain;

/// Applies the events, and then runs the world until nothing is left to do.
pub(crate) fn walk(policy: PoolPolicy, events: &[Event]) {
    let mut world = World::new(policy);
    for event in events {
        world.apply(event);
        if world.broken {
            return;
        }
    }
    world.run_out();
    if !world.broken {
        assert!(world.schedule.is_at_rest(), "the pool comes to rest");
        for item in world.jobs.values().flat_map(|job| &job.items) {
            assert_eq!(item.outcomes, 1);
        }
    }
}

#[cfg(test)]
proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_item_has_one_outcome_whatever_happens(
        processes in 1..5usize,
        tasks_max in proptest::option::of(1..7u64),
        idle in proptest::option::of((0..3usize, 1..5u64)),
        age in proptest::option::of(1..30u64),
        processors in 1..4usize,
        grain in prop_oneof![Just(Grain::Frame), Just(Grain::Item)],
        events in proptest::collection::vec(event(), 1..300),
    ) {
        let size = match idle {
            Some((min, millis)) => Size::elastic(min, processes, Duration::from_millis(millis)),
            None => Size::fixed(processes),
        };
        walk(PoolPolicy { size, tasks_max, age_max: age.map(Duration::from_millis), grain, processors }, &events);
    }
}
