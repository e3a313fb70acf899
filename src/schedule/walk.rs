//! The schedule against a model of the world, walked at random.
//!
//! The model has jobs whose items count how often they were started and settled, and workers that read frames in
//! order, answer item by item, and die at any moment. Some items have a time limit, some are tried again, and the pool
//! grows and shrinks. Roads refuse frames: some because they are full, until they say that
//! they have room, some until the next answer, and some all but a part. After every step the rules of the schedule are
//! checked; at the end of every walk the world is let run out, and then every item must have exactly one outcome.

#![expect(clippy::unwrap_used, reason = "a walk stops at the first surprise")]

use std::time::Duration;

#[cfg(test)]
use proptest::prelude::*;
use serde::Deserialize;
use serde::Serialize;

use self::world::World;
use crate::schedule::PoolPolicy;
use crate::schedule::size::Size;
use crate::work::unbegun::Grain;

/// One thing that happens. Numbers choose among what is there, whatever their size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    Open {
        fixed_chunk: Option<u32>,
        feeding: bool,
        retries: u32,
        timeout_ms: Option<u64>,
    },
    Submit {
        job: usize,
        items: u32,
    },
    Seal {
        job: usize,
    },
    Cancel {
        job: usize,
    },
    Start {
        works: bool,
    },
    Ready {
        worker: usize,
    },
    Read {
        worker: usize,
    },
    Answer {
        worker: usize,
    },
    Die {
        worker: usize,
        killed: bool,
    },
    /// A worker may not be trusted with more.
    Dismiss {
        worker: usize,
    },
    /// The next frame for a worker that already holds one is refused.
    Refuse {
        refusal: Refusal,
    },
    /// A full road says that it has room.
    Room {
        worker: usize,
    },
    Wait {
        millis: u64,
    },
    /// The pool is made larger or smaller.
    Resize {
        processes: usize,
    },
    Close,
}

/// Why a road takes no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// Until it says that it has room, which it does in the end.
    Full,
    /// Until the worker's next answer; the road says nothing.
    Later,
    /// As `Later`, but for the first half.
    Part,
}

#[cfg(test)]
pub(crate) fn event() -> impl Strategy<Value = Event> {
    let pick = 0..100usize;
    prop_oneof![
        1 => (proptest::option::of(1..5u32), any::<bool>(), 0..3u32, proptest::option::weighted(0.3, 1..20u64))
            .prop_map(|(fixed_chunk, feeding, retries, timeout_ms)| {
                Event::Open { fixed_chunk, feeding, retries, timeout_ms }
            }),
        4 => (pick.clone(), 1..9u32).prop_map(|(job, items)| Event::Submit { job, items }),
        1 => pick.clone().prop_map(|job| Event::Seal { job }),
        1 => pick.clone().prop_map(|job| Event::Cancel { job }),
        4 => proptest::bool::weighted(0.9).prop_map(|works| Event::Start { works }),
        4 => pick.clone().prop_map(|worker| Event::Ready { worker }),
        9 => pick.clone().prop_map(|worker| Event::Read { worker }),
        12 => pick.clone().prop_map(|worker| Event::Answer { worker }),
        2 => (pick, any::<bool>()).prop_map(|(worker, killed)| Event::Die { worker, killed }),
        1 => (0..100usize).prop_map(|worker| Event::Dismiss { worker }),
        3 => prop_oneof![Just(Refusal::Full), Just(Refusal::Later), Just(Refusal::Part)].prop_map(|refusal| Event::Refuse { refusal }),
        4 => (0..100usize).prop_map(|worker| Event::Room { worker }),
        3 => (0..3u64).prop_map(|millis| Event::Wait { millis }),
        1 => (1..5usize).prop_map(|processes| Event::Resize { processes }),
        1 => Just(Event::Close),
    ]
}

mod model;
mod world;

/// Lets all of that happen, and then the world run out.
pub(crate) fn walk(policy: PoolPolicy, events: &[Event]) {
    let mut world = World::new(policy);
    for event in events {
        world.happen(event);
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
        grain in prop_oneof![Just(Grain::Frame), Just(Grain::Item)],
        events in proptest::collection::vec(event(), 1..300),
    ) {
        let size = match idle {
            Some((least, millis)) => Size::elastic(least, processes, Duration::from_millis(millis)),
            None => Size::fixed(processes),
        };
        walk(PoolPolicy { size, tasks_max, age_max: age.map(Duration::from_millis), grain }, &events);
    }
}
