//! Claim: a new process for each task is affordable.
//!
//! `max_tasks_per_child(1)`: each item runs in a process of its own. Items per second of a pool of two, by each start
//! method, through `imap_unordered`.
//!
//! - `procpool`: as above;
//! - `procspawn`: `procspawn::spawn`, a process for each call;
//! - `fork`, the limit: bare processes: fork, exit, wait.
//!
//! Four processes exist at a time; with `procpool`, two that work and two that will replace them.

mod common {
    pub(crate) mod contest;
    pub(crate) mod fork;
    pub(crate) mod ours;
    pub(crate) mod quick;
    pub(crate) mod rate;
    pub(crate) mod table;
}

use std::collections::VecDeque;
use std::hint::black_box;

use common::contest::Contest;
use common::fork::Forked;
use common::ours;
use common::rate::Rate;
use procpool::Pool;
use procpool::StartMethod;

const PROCESSES: usize = 4;
const METHODS: [StartMethod; 3] = [StartMethod::Fork, StartMethod::Forkserver, StartMethod::Spawn];

fn main() -> anyhow::Result<()> {
    procpool::init();
    procspawn::init();

    // The pool by fork is built first, while this process has no foreign threads.
    let pools = METHODS.map(|method| Pool::builder().processes(2).start_method(method).max_tasks_per_child(1).build());
    let mut rates = Vec::new();
    for pool in pools {
        let pool = pool?;
        rates.push(Rate::new(move |items| ours::one_by_one(&pool, items)));
    }
    let mut procspawned = Rate::new(|items| {
        overlapped(
            items,
            |item| Ok(procspawn::spawn(item, identity)),
            |handle| {
                black_box(handle.join()?);
                Ok(())
            },
        )
    });
    let mut forked = Rate::new(|items| overlapped(items, |_| Forked::run(|| ()), Forked::wait));

    Contest::new("recycle: items/s, each in a new process, more is better", METHODS.map(|method| method.to_string()))
        .add("procpool", || Ok([rates[0].per_second()?, rates[1].per_second()?, rates[2].per_second()?]))
        .add("procspawn", || Ok([f64::NAN, f64::NAN, procspawned.per_second()?]))
        .add("fork (limit)", || Ok([forked.per_second()?; 3]))
        .run();
    Ok(())
}

fn identity(item: u64) -> u64 {
    item
}

fn overlapped<P>(
    items: u64,
    start: impl Fn(u64) -> anyhow::Result<P>,
    finish: impl Fn(P) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut processes = VecDeque::new();
    for item in 0..items {
        processes.push_back(start(item)?);
        if processes.len() == PROCESSES {
            processes.pop_front().map_or(Ok(()), &finish)?;
        }
    }
    processes.into_iter().try_for_each(finish)
}
