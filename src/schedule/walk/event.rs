//! The events of a walk, and how random ones are drawn.

#[cfg(test)]
use proptest::prelude::*;
use serde::Deserialize;
use serde::Serialize;

/// One event. A number selects among the jobs or workers that exist, modulo their count.
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
    /// A worker is no longer trusted with work.
    Dismiss {
        worker: usize,
    },
    /// The next frame for a worker that already holds one is refused.
    Refuse {
        refusal: SendRefusal,
    },
    /// A full link reports that it has room.
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
    /// What no worker has begun of a job is taken back and not run.
    CancelPending {
        job: usize,
    },
}

/// How a link refuses a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SendRefusal {
    /// Until it reports that it has room, which it eventually does.
    Full,
    /// Until the worker's next answer; the link reports nothing.
    Later,
    /// As `Later`, but it takes the first half.
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
        1 => pick.clone().prop_map(|job| Event::CancelPending { job }),
        4 => proptest::bool::weighted(0.9).prop_map(|works| Event::Start { works }),
        4 => pick.clone().prop_map(|worker| Event::Ready { worker }),
        9 => pick.clone().prop_map(|worker| Event::Read { worker }),
        12 => pick.clone().prop_map(|worker| Event::Answer { worker }),
        2 => (pick, any::<bool>()).prop_map(|(worker, killed)| Event::Die { worker, killed }),
        1 => (0..100usize).prop_map(|worker| Event::Dismiss { worker }),
        3 => prop_oneof![Just(SendRefusal::Full), Just(SendRefusal::Later), Just(SendRefusal::Part)].prop_map(|refusal| Event::Refuse { refusal }),
        4 => (0..100usize).prop_map(|worker| Event::Room { worker }),
        3 => (0..3u64).prop_map(|millis| Event::Wait { millis }),
        1 => (1..5usize).prop_map(|processes| Event::Resize { processes }),
        1 => Just(Event::Close),
    ]
}
