//! One soak: a pool, its callers, its killer, and readings of the gauges at quiet points.

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
use crate::verdict::KEPT_MAX;
use crate::verdict::Left;
use crate::verdict::Verdict;
use crate::watchdog;
use crate::work;

/// A pool that is not quiet after this time never will be.
const QUIET_TIMEOUT: Duration = Duration::from_secs(10);
/// Two equal readings this far apart mean that the pool is quiet.
const QUIET_FOR: Duration = Duration::from_millis(50);

/// Soaks a pool with this start method.
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
    // A fork pool must be made before any other thread, the watchdog included.
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
    let left = gauges::poll_until(gauges::descendants, Vec::is_empty);
    verdict.left = Left {
        descriptors_in_use: warm.descriptors.max(last.descriptors) as i64 - first.descriptors as i64,
        descriptors_at_end: gauges::own_descriptor_count()? as i64 - descriptors_before as i64,
        zombies: [first, warm, last].map(|gauges| gauges.zombies).into_iter().max().unwrap_or(0),
        processes: left.len(),
        resident_kib: last.resident_kib as i64 - warm.resident_kib as i64,
    };
    verdict.add_log(pool_log::take());
    verdict.took = began.elapsed();
    Ok(verdict)
}

/// Runs all items in two parts, and reads the gauges before, between and after.
fn soak(pool: &Pool, tally: &Arc<Tally>, options: &Options) -> anyhow::Result<(Killer, [Gauges; 3])> {
    let mut killer = Killer::default();
    let next = AtomicU32::new(0);
    // A fork pool starts its first workers differently from replacements: begin with replacements.
    killer.kill_everybody(pool);
    let first = quiet(pool, tally, None)?;
    // The first part warms up everything that grows to a stable size.
    work_under_fire(pool, tally, options, &next, options.tasks / 4, &mut killer);
    let warm = quiet(pool, tally, Some(first))?;
    work_under_fire(pool, tally, options, &next, options.tasks, &mut killer);
    let last = quiet(pool, tally, Some(first))?;
    pool.close();
    // `join` returns when every callback has run.
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

/// Reads the gauges when no call, kill, start or reaping is under way. The pool may keep [`KEPT_MAX`] descriptors more than
/// at `first`; a reading that stays above that shows a leak.
fn quiet(pool: &Pool, tally: &Tally, first: Option<Gauges>) -> anyhow::Result<Gauges> {
    // No worker is killed now, so this must succeed.
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
            && first.is_none_or(|first| gauges.descriptors <= first.descriptors + KEPT_MAX)
            && gauges.zombies == 0;
        if is_quiet || Instant::now() >= give_up {
            return Ok(gauges);
        }
        before = Some(gauges);
        thread::sleep(QUIET_FOR);
    }
}
