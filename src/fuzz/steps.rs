//! Sequences of steps against the rings and against a pool, decoded from bytes.

use std::time::Duration;

use serde::Deserialize;

use crate::schedule::PoolPolicy;
use crate::schedule::size::Size;
use crate::schedule::walk;
use crate::schedule::walk::Event;
use crate::transport::ring::parent::hostile;
use crate::transport::ring::parent::hostile::Misdeed;
use crate::transport::ring::parent::hostile::Step;
use crate::values::message;
use crate::work::unbegun::Grain;

/// Maximum steps of one run.
const STEPS_MAX: usize = 300;
/// Maximum length of a record, and of a misdeed's bytes.
const LEN_MAX: usize = 60_000;

/// The steps that the bytes encode. Bytes that do not decode are skipped.
fn decoded<T: for<'de> Deserialize<'de>>(mut data: &[u8]) -> Vec<T> {
    let mut steps = Vec::new();
    while !data.is_empty() && steps.len() < STEPS_MAX {
        match message::parse_front(data) {
            Some((step, rest)) => {
                steps.push(step);
                data = rest;
            }
            None => data = &data[1..],
        }
    }
    steps
}

/// The parent's end of the rings: its calls in any order, between honest steps and misdeeds of a worker.
pub fn rings(data: &[u8]) {
    hostile::run(decoded(data).into_iter().map(bounded).collect());
}

/// Bounds a step to what the engine and the memory can do.
fn bounded(step: Step) -> Step {
    match step {
        Step::SendItems { lens, function } => {
            let lens: Vec<usize> = lens.into_iter().take(100).map(|len| len % LEN_MAX).collect();
            Step::SendItems { lens: if lens.is_empty() { vec![0] } else { lens }, function }
        }
        Step::SendNote { len, is_attached } => Step::SendNote { len: len % 3000, is_attached },
        Step::Finish { kind, len } => Step::Finish { kind, len: len % LEN_MAX },
        Step::Misdeed(misdeed) => Step::Misdeed(match misdeed {
            Misdeed::NearlyRight { sent, done, flags } => {
                Misdeed::NearlyRight { sent: sent.clamp(-1 << 20, 1 << 20), done: done.clamp(-1 << 20, 1 << 20), flags }
            }
            Misdeed::Bytes { is_up, position, mut bytes } => {
                bytes.truncate(LEN_MAX);
                Misdeed::Bytes { is_up, position, bytes }
            }
            Misdeed::Forged { mut heads, done } => {
                heads.truncate(1000);
                Misdeed::Forged { heads, done }
            }
            other => other,
        }),
        other => other,
    }
}

/// The schedule, and a world of jobs, links and workers around it. The first three bytes are the size of the pool, the
/// share and age of a worker, and the grain and the number of processors.
pub fn session(data: &[u8]) {
    let [processes, share, grain_and_processors, events @ ..] = data else { return };
    let max = usize::from(processes % 4) + 1;
    let size = match processes >> 4 {
        0 => Size::fixed(max),
        idle_ms => Size::elastic(usize::from(processes >> 2 & 3), max, Duration::from_millis(idle_ms.into())),
    };
    let grain = if grain_and_processors & 1 == 0 { Grain::Frame } else { Grain::Item };
    let tasks_max = Some(u64::from(share % 8)).filter(|&max| max > 0);
    let age_max = Some(u64::from(share >> 3)).filter(|&max| max > 0).map(Duration::from_millis);
    let events: Vec<Event> = decoded(events).into_iter().map(likely).collect();
    let processors = usize::from(grain_and_processors >> 1 & 3) + 1;
    walk::walk(PoolPolicy { size, tasks_max, age_max, grain, processors }, &events);
}

/// Bounds an event to the range of those that the walk's own tests draw.
fn likely(event: Event) -> Event {
    match event {
        Event::Open { fixed_chunk, feeding, retries, timeout_ms } => Event::Open {
            fixed_chunk: fixed_chunk.map(|items| items % 4 + 1),
            feeding,
            retries: retries % 3,
            timeout_ms: timeout_ms.map(|millis| millis % 20 + 1),
        },
        Event::Resize { processes } => Event::Resize { processes: processes % 4 + 1 },
        Event::Submit { job, items } => Event::Submit { job, items: items % 8 + 1 },
        Event::Wait { millis } => Event::Wait { millis: millis % 1000 },
        other => other,
    }
}
