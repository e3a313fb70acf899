//! Claim: watching a pool costs little, and not watching it costs nothing.
//!
//! Processor time for each item of `imap` and `map` of a function that returns its argument, in a pool of two, in
//! nanoseconds: of the workers, and of the thread that made the call (`schedstat`, exact to nanoseconds). The least of
//! several rounds, which take turns in one run:
//!
//! - `off`: nothing is asked of the pool;
//! - `stats`: another thread takes a snapshot a thousand times a second;
//! - `events`: a function for events is set, and slow items are looked for;
//! - `recording`: a timeline is kept.
//!
//! Then the time of one snapshot, of pools of 2 and of 64. Then the processor time of an idle pool of 64 that records and
//! tells events, during two seconds.

mod common {
    pub(crate) mod quick;
    pub(crate) mod table;
}

use std::fs;
use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use common::quick::sized;
use common::table::print_aligned;
use procpool::Pool;
use procpool::PoolBuilder;
use procpool::TaskError;

const ROUNDS: usize = 9;

fn main() -> anyhow::Result<()> {
    procpool::init();
    items()?;
    snapshots()?;
    idle()
}

fn identity(item: u64) -> u64 {
    item
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watching {
    Off,
    Stats,
    Events,
    Recording,
}

impl Watching {
    const ALL: [Self; 4] = [Self::Off, Self::Stats, Self::Events, Self::Recording];

    fn name(self) -> &'static str {
        match self {
            Watching::Off => "off",
            Watching::Stats => "stats",
            Watching::Events => "events",
            Watching::Recording => "recording",
        }
    }

    fn set(self, builder: PoolBuilder) -> PoolBuilder {
        match self {
            Watching::Off | Watching::Stats => builder,
            Watching::Events => {
                builder.slow_after(Duration::from_secs(1)).on_event(|event| drop(black_box(event.clone())))
            }
            Watching::Recording => builder.record(1_000_000),
        }
    }
}

/// The time on a processor of a kernel task.
fn on_processor(task: &str) -> anyhow::Result<u64> {
    let schedstat = fs::read_to_string(format!("/proc/{task}/schedstat"))?;
    Ok(schedstat.split(' ').next().context("a first field")?.parse()?)
}

fn of_workers(pool: &Pool) -> anyhow::Result<u64> {
    pool.pids().into_iter().map(|pid| on_processor(&pid.to_string())).sum()
}

/// The time of workers and caller for each item of one round, in nanoseconds.
fn round(pool: &Pool, call: &str, watching: Watching) -> anyhow::Result<[f64; 2]> {
    let items = sized(400_000u64, 20_000);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        if watching == Watching::Stats {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    black_box(pool.stats());
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let before = [of_workers(pool)?, on_processor("thread-self")?];
        match call {
            "imap" => pool.imap(0..items, identity).try_for_each(|item| {
                black_box(item?);
                Ok::<(), TaskError>(())
            })?,
            _ => drop(black_box(pool.map(0..items, identity)?)),
        }
        let after = [of_workers(pool)?, on_processor("thread-self")?];
        is_over.store(true, Ordering::Relaxed);
        Ok([0, 1].map(|party| (after[party] - before[party]) as f64 / items as f64))
    })
}

fn items() -> anyhow::Result<()> {
    let pools: Vec<Pool> = Watching::ALL
        .map(|watching| watching.set(Pool::builder().processes(2)).build())
        .into_iter()
        .collect::<Result<_, _>>()?;
    for call in ["imap", "map"] {
        let mut least = [[f64::INFINITY; 3]; Watching::ALL.len()];
        for _ in 0..sized(ROUNDS, 2) {
            for ((watching, pool), least) in Watching::ALL.into_iter().zip(&pools).zip(&mut least) {
                let [workers, caller] = round(pool, call, watching)?;
                for (least, time) in least.iter_mut().zip([workers, caller, workers + caller]) {
                    *least = least.min(time);
                }
            }
        }
        let title = format!("observe: {call}, ns of processor time for each item");
        let mut table = vec![[title.as_str(), "workers", "caller", "both", "of off"].map(str::to_owned).to_vec()];
        let [_, _, off] = least[0];
        for (watching, [workers, caller, both]) in Watching::ALL.into_iter().zip(least) {
            let mut line = vec![watching.name().to_owned()];
            line.extend([workers, caller, both].map(|time| format!("{time:.1}")));
            line.push(format!("{:.2} x", both / off));
            table.push(line);
        }
        print_aligned(&table);
    }
    Ok(())
}

fn snapshots() -> anyhow::Result<()> {
    let mut table = vec![vec!["observe: one snapshot, ns".to_owned(), "least".to_owned()]];
    for processes in [2, 64] {
        let pool = Pool::new(processes)?;
        pool.map(0..1000u64, identity)?;
        let calls = sized(2000u32, 100);
        let mut least = f64::INFINITY;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            (0..calls).for_each(|_| drop(black_box(pool.stats())));
            least = least.min(began.elapsed().as_nanos() as f64 / f64::from(calls));
        }
        table.push(vec![format!("{processes} workers"), format!("{least:.0}")]);
    }
    print_aligned(&table);
    Ok(())
}

fn idle() -> anyhow::Result<()> {
    let builder = Watching::Events.set(Watching::Recording.set(Pool::builder().processes(64)));
    let pool = builder.build()?;
    pool.map(0..1000u64, identity)?;
    // Until every worker is ready and asleep.
    thread::sleep(Duration::from_millis(sized(2000, 300)));
    let threads = || -> anyhow::Result<u64> {
        let tasks = fs::read_dir("/proc/self/task")?;
        tasks.map(|task| on_processor(&format!("self/task/{}", task?.file_name().to_string_lossy()))).sum()
    };
    let before = [of_workers(&pool)?, threads()?];
    let time = Duration::from_millis(sized(2000, 200));
    thread::sleep(time);
    let used = of_workers(&pool)? - before[0];
    // This thread has read /proc.
    let by_threads = threads()?.saturating_sub(before[1]);
    print_aligned(&[
        vec![
            "observe: idle pool of 64 that records, µs on a processor".to_owned(),
            "workers".to_owned(),
            "this process".to_owned(),
        ],
        vec![format!("in {time:?}"), (used / 1000).to_string(), (by_threads / 1000).to_string()],
    ]);
    Ok(())
}
