//! One soak: a pool, its callers, its killer, and readings of the gauges at quiet points.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use procpool::Limit;
use procpool::Pool;
use procpool::PoolBuilder;
use procpool::StartMethod;
use procpool::forkserver;

use crate::calls;
use crate::dice::Dice;
use crate::gauges;
use crate::gauges::Counted;
use crate::gauges::Gauges;
use crate::injector::Fault;
use crate::injector::Injected;
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
/// The soft limit of open files of workers.
const WORKER_DESCRIPTORS_MAX: u64 = 1024;
/// Two equal readings this far apart mean that the pool is quiet.
const QUIET_FOR: Duration = Duration::from_millis(50);

/// Soaks a pool with this start method.
pub(crate) fn run(method: StartMethod, options: &Options) -> anyhow::Result<Verdict> {
    let began = Instant::now();
    drop(pool_log::take());
    let descriptors_before = gauges::own_descriptor_count()?;
    let tally = Arc::new(Tally::new(options.tasks, options.seed));
    let ledger = Ledger::new()?;
    let mut builder = Pool::builder().processes(options.processes).start_method(method).name(gauges::worker_name());
    if let Some(items) = options.tasks_max {
        builder = builder.max_tasks_per_child(items);
    }
    if options.faults.contains(&Fault::Descriptors) {
        // A worker that is started when there are none must not have that limit.
        builder = builder.rlimit(Limit::OpenFiles, WORKER_DESCRIPTORS_MAX, None);
    }
    if options.faults.contains(&Fault::Servers) {
        builder = fork_despite_threads(builder);
    }
    // A fork pool without that promise must be made before any other thread, the watchdog included.
    let pool = builder.initializer((ledger.path(), options.seed), ledger::open_in_worker).build()?;

    let over = AtomicBool::new(false);
    let injected = Injected::default();
    let (killer, [first, warm, last]) = thread::scope(|scope| {
        scope.spawn(|| watchdog::watch_until(&over, &method.to_string(), &pool, &tally));
        let seen = soak(&pool, &tally, &injected, method, options);
        over.store(true, SeqCst);
        seen
    })?;
    drop(pool);
    forkserver::stop();

    let mut verdict = Verdict::judge(&ledger, &tally, &killer.kills, options)?;
    if copies_are_made_at_any_time(method, options) {
        // They have what the threads of the soak have open at that moment.
        verdict.kept_by_workers = 0;
    }
    verdict.injected = injected.counts();
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
fn soak(
    pool: &Pool,
    tally: &Arc<Tally>,
    injected: &Injected,
    method: StartMethod,
    options: &Options,
) -> anyhow::Result<(Killer, [Gauges; 3])> {
    let counted = if copies_are_made_at_any_time(method, options) { Counted::Own } else { Counted::All };
    let mut killer = Killer::default();
    let next = AtomicU32::new(0);
    let fire = Fire { pool, tally, injected, options, next: &next };
    // A fork pool starts its first workers differently from replacements: begin with replacements.
    killer.kill_everybody(pool);
    let first = quiet(pool, tally, counted, None)?;
    // The first part warms up everything that grows to a stable size.
    fire.work(options.tasks / 4, &mut killer);
    replace_server(pool, options, &mut killer);
    let warm = quiet(pool, tally, counted, Some(first))?;
    fire.work(options.tasks, &mut killer);
    replace_server(pool, options, &mut killer);
    let last = quiet(pool, tally, counted, Some(first))?;
    pool.close();
    // `join` returns when every callback has run.
    pool.join().context("join")?;
    tally.tick();
    Ok((killer, [first, warm, last]))
}

/// Work while workers are killed and faults are injected.
struct Fire<'a> {
    pool: &'a Pool,
    tally: &'a Arc<Tally>,
    injected: &'a Injected,
    options: &'a Options,
    /// The first item that has not been submitted.
    next: &'a AtomicU32,
}

impl Fire<'_> {
    /// Runs all items below `end`.
    fn work(&self, end: u32, killer: &mut Killer) {
        let &Fire { pool, tally, injected, options, next } = self;
        let over = AtomicBool::new(false);
        let over = &over;
        let mut dice = Dice::new(options.seed, (1 << 48) + u64::from(end));
        thread::scope(|scope| {
            for &fault in &options.faults {
                let mut dice = Dice::new(dice.next(), 0);
                scope.spawn(move || injected.inject_until(over, fault, pool, &mut dice));
            }
            scope.spawn(move || {
                killer.kill_until(over, pool, options.kill_every, &injected.continuing, &mut dice);
            });
            calls::call_until(pool, tally, &options.mix, next, end);
            over.store(true, SeqCst);
        });
    }
}

/// Makes sure that there is a server again, which is read with the gauges.
fn replace_server(pool: &Pool, options: &Options, killer: &mut Killer) {
    if options.faults.contains(&Fault::Servers) {
        killer.kill_everybody(pool);
    }
}

/// Whether templates of `fork` are copied while the threads of the soak run.
fn copies_are_made_at_any_time(method: StartMethod, options: &Options) -> bool {
    method == StartMethod::Fork && options.faults.contains(&Fault::Servers)
}

/// With the template of a pool by fork, its replacement is forked while the threads of the soak run.
#[expect(unsafe_code, reason = "no other way to replace a template beside threads")]
fn fork_despite_threads(builder: PoolBuilder) -> PoolBuilder {
    // SAFETY: the threads of the soak call the pool, allocate and log. A worker does not wait for the pool's locks, the
    // logger does nothing in another process, and the heap of the C library is usable after a fork.
    unsafe { builder.fork_despite_threads() }
}

/// Reads the gauges when no call, kill, start or reaping is under way. The pool may keep [`KEPT_MAX`] descriptors more than
/// at `first`; a reading that stays above that shows a leak.
fn quiet(pool: &Pool, tally: &Tally, counted: Counted, first: Option<Gauges>) -> anyhow::Result<Gauges> {
    // No worker is killed now, so this must succeed.
    let answers = pool.map_results(0..64u32, work::work_aside)?;
    (0..).zip(answers).for_each(|(x, answer)| tally.check_aside(x, answer));
    let give_up = Instant::now() + QUIET_TIMEOUT;
    let mut before = None;
    loop {
        tally.tick();
        let pids = pool.pids();
        let gauges = Gauges::read(&pids, counted)?;
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
