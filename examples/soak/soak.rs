//! One soak: a pool, its callers, its killer, and a look at the gauges whenever it is quiet.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use procpool::Pool;
use procpool::StartMethod;
use procpool::forkserver;

use crate::calls;
use crate::dice::Dice;
use crate::gauges;
use crate::gauges::Gauges;
use crate::killer::Killer;
use crate::ledger;
use crate::ledger::Ledger;
use crate::options::Options;
use crate::pool_log;
use crate::tally::Tally;
use crate::verdict::Left;
use crate::verdict::Verdict;
use crate::watchdog;
use crate::work;

/// What is not quiet after this time never will be.
const QUIET_TIMEOUT: Duration = Duration::from_secs(10);
/// Two looks that see the same, so far apart, see a quiet pool.
const QUIET_FOR: Duration = Duration::from_millis(50);

/// Soaks a pool of this method.
pub(crate) fn run(method: StartMethod, options: &Options) -> anyhow::Result<Verdict> {
    let began = Instant::now();
    drop(pool_log::take());
    let descriptors_before = gauges::own_descriptor_count()?;
    let tally = Arc::new(Tally::new(options.tasks, options.seed));
    let ledger = Ledger::new()?;
    let mut builder = Pool::builder().processes(options.processes).start_method(method).name("soak");
    if let Some(items) = options.tasks_max {
        builder = builder.max_tasks_per_child(items);
    }
    // A pool by fork must be made before there is any thread, the watchdog's included.
    let pool = builder.initializer((ledger.path(), options.seed), ledger::open_in_worker).build()?;

    let over = AtomicBool::new(false);
    let (killer, [first, warm, last]) = thread::scope(|scope| {
        scope.spawn(|| watchdog::watch_until(&over, &method.to_string(), &pool, &tally));
        let seen = soak(&pool, &tally, options);
        over.store(true, SeqCst);
        seen
    })?;
    drop(pool);
    forkserver::stop();

    let mut verdict = Verdict::judge(&ledger, &tally, &killer.kills, options)?;
    drop(ledger);
    let left = gauges::look_until(gauges::descendants, Vec::is_empty);
    verdict.left = Left {
        descriptors_in_use: warm.descriptors.max(last.descriptors) as i64 - first.descriptors as i64,
        descriptors_at_end: gauges::own_descriptor_count()? as i64 - descriptors_before as i64,
        zombies: [first, warm, last].map(|gauges| gauges.zombies).into_iter().max().unwrap_or(0),
        processes: left.len(),
        resident_kib: last.resident_kib as i64 - warm.resident_kib as i64,
    };
    verdict.hear(pool_log::take());
    verdict.took = began.elapsed();
    Ok(verdict)
}

/// All items, in two parts, and the gauges before, between and after.
fn soak(pool: &Pool, tally: &Arc<Tally>, options: &Options) -> anyhow::Result<(Killer, [Gauges; 3])> {
    let mut killer = Killer::default();
    let next = AtomicU32::new(0);
    // A pool by fork starts its first workers in another way than those that follow: begin with the latter.
    killer.kill_everybody(pool);
    let first = quiet(pool, tally, None)?;
    // The first part warms up whatever grows to its size and stays there.
    work_under_fire(pool, tally, options, &next, options.tasks / 4, &mut killer);
    let warm = quiet(pool, tally, Some(first))?;
    work_under_fire(pool, tally, options, &next, options.tasks, &mut killer);
    let last = quiet(pool, tally, Some(first))?;
    pool.close();
    // It returns when every callback has run.
    pool.join().context("join")?;
    tally.tick();
    Ok((killer, [first, warm, last]))
}

fn work_under_fire(
    pool: &Pool,
    tally: &Arc<Tally>,
    options: &Options,
    next: &AtomicU32,
    end: u32,
    killer: &mut Killer,
) {
    let over = AtomicBool::new(false);
    let over = &over;
    let mut dice = Dice::new(options.seed, (1 << 48) + u64::from(end));
    thread::scope(|scope| {
        scope.spawn(move || killer.kill_until(over, pool, options.kill_every, &mut dice));
        calls::call_until(pool, tally, &options.mix, next, end);
        over.store(true, SeqCst);
    });
}

/// Looks at the gauges when nobody is called, killed, born or buried any more. What does not come back to where it was
/// at first has leaked, and shows.
fn quiet(pool: &Pool, tally: &Tally, first: Option<Gauges>) -> anyhow::Result<Gauges> {
    // Nobody is killed now, so this must work.
    let answers = pool.map_results(0..64u32, work::work_aside)?;
    (0..).zip(answers).for_each(|(x, answer)| tally.check_aside(x, answer));
    let give_up = Instant::now() + QUIET_TIMEOUT;
    let mut before = None;
    loop {
        tally.tick();
        let pids = pool.pids();
        let gauges = Gauges::read(&pids)?;
        let is_quiet = pids.len() == pool.processes()
            && before.is_some_and(|before: Gauges| before.descriptors == gauges.descriptors)
            && first.is_none_or(|first| first.descriptors == gauges.descriptors)
            && gauges.zombies == 0;
        if is_quiet || Instant::now() >= give_up {
            return Ok(gauges);
        }
        before = Some(gauges);
        thread::sleep(QUIET_FOR);
    }
}
