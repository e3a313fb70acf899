//! `Pool::stats`: what a snapshot says of workers, queue and totals, and that it agrees with what has happened.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::Pool;
use procpool::StartMethod;
use procpool::Stats;
use procpool::TaskError;
use procpool::Totals;
use procpool::WorkerState;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    every_item_is_in_one_total,
    running_item_is_shown_with_its_label,
    time_of_a_running_item_grows,
    queue_and_held_items_add_up,
    worker_has_memory_and_busy_time,
    each_end_of_a_worker_is_counted_by_its_cause,
    retries_are_counted,
    replacement_takes_over_the_lane,
    joined_pool_keeps_its_totals,
    snapshots_from_many_threads_never_go_back,
    failed_starts_are_counted,
];

/// Waits until the totals satisfy a condition.
fn until_totals(pool: &Pool, what: &str, condition: impl Fn(&Totals) -> bool) -> Totals {
    stage::until_some(what, || Some(pool.stats().totals).filter(&condition))
}

fn outcomes(totals: &Totals) -> u64 {
    totals.items_done
        + totals.items_failed
        + totals.items_lost
        + totals.items_timed_out
        + totals.items_cancelled
        + totals.items_terminated
}

fn misbehave(item: u32) -> anyhow::Result<u32> {
    match item % 10 {
        0 => anyhow::bail!("failed"),
        1 => panic!("panicked"),
        2 if item == 12 => std::process::abort(),
        3 if item == 13 => Ok(u32::try_from(stage::doze(600_000))?),
        _ => Ok(item),
    }
}

fn every_item_is_in_one_total(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let results = pool.timeout(Duration::from_secs(3)).map_results(0..40u32, misbehave).unwrap();
    let count = |is: fn(&TaskError) -> bool| results.iter().filter(|it| it.as_ref().is_err_and(is)).count() as u64;
    let totals = pool.stats().totals;
    assert_eq!(totals.items_submitted, 40);
    assert_eq!(totals.items_done, results.iter().filter(|result| result.is_ok()).count() as u64);
    assert_eq!(totals.items_failed, count(|it| matches!(it, TaskError::Failed(_) | TaskError::Panicked(_))));
    assert_eq!(totals.items_lost, count(|it| matches!(it, TaskError::WorkerDied { .. })));
    assert_eq!(totals.items_timed_out, count(|it| matches!(it, TaskError::TimedOut { .. })));
    assert_eq!((totals.items_failed, totals.items_lost, totals.items_timed_out), (8, 1, 1));
    assert_eq!(outcomes(&totals), 40);
    // A call that stops at its first error.
    let error = pool.chunk_size(1).fail_fast().map(0..1000u32, misbehave).unwrap_err();
    assert!(matches!(error, TaskError::Failed(_) | TaskError::Panicked(_)), "{error:?}");
    let totals = until_totals(&pool, "every item", |totals| outcomes(totals) == totals.items_submitted);
    assert!(totals.items_cancelled > 0, "{totals:?}");
    // A pool that ends.
    let gate = Gate::closed();
    let handles: Vec<_> = (0..20).map(|_| pool.apply_async((gate.path(),), |gate| stage::pass(&gate))).collect();
    pool.terminate();
    assert!(handles.iter().all(|handle| matches!(handle.get(), Err(TaskError::Terminated))));
    let totals = pool.stats().totals;
    assert_eq!((outcomes(&totals), totals.items_terminated), (totals.items_submitted, 20));
}

fn running_item_is_shown_with_its_label(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let book = Notebook::new();
    let items = (0..3u32).map(|item| (gate.path(), book.path(), item));
    let call = pool.label("resize images").chunk_size(1).starmap_async(items, |gate, book, item| {
        if item == 1 {
            stage::note(&book, "here");
            stage::pass(&gate);
        }
        item
    });
    book.wait_for(1);
    let current = stage::until_some("item 1", || {
        let stats = pool.stats();
        let current = stats.workers.first()?.current.clone()?;
        (current.index == 1).then_some(current)
    });
    assert_eq!(current.label.as_deref(), Some("resize images"));
    let stats = pool.stats();
    assert_eq!(stats.workers[0].state, WorkerState::Busy);
    assert_eq!((stats.calls, stats.queued + stats.under_way), (1, 2));
    gate.open();
    assert_eq!(call.get().unwrap(), [0, 1, 2]);
    let stats = pool.stats();
    assert!(stats.workers[0].current.is_none());
    assert_eq!((stats.workers[0].state, stats.workers[0].items_done, stats.calls), (WorkerState::Idle, 3, 0));
}

fn time_of_a_running_item_grows(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let book = Notebook::new();
    let handle = stage::held(&pool, &gate, &book);
    book.wait_for(1);
    let time = || pool.stats().workers[0].current.as_ref().map(|current| current.at_most);
    let first = stage::until_some("the item", time);
    stage::until("more time", || time().is_some_and(|time| time > first + Duration::from_millis(20)));
    gate.open();
    handle.get().unwrap();
}

fn queue_and_held_items_add_up(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut gate = Gate::closed();
    let book = Notebook::new();
    let handles: Vec<_> = (0..10).map(|_| stage::held(&pool, &gate, &book)).collect();
    book.wait_for(2);
    let stats = pool.stats();
    assert_eq!((stats.queued + stats.under_way, stats.calls), (10, 10));
    assert_eq!(stats.workers.iter().map(|worker| worker.held).sum::<u64>(), stats.under_way);
    gate.open();
    assert!(handles.iter().all(|handle| handle.get().is_ok()));
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.under_way), (0, 0));
    assert_eq!(stats.workers.iter().map(|worker| worker.items_done).sum::<u64>(), 10);
}

fn worker_has_memory_and_busy_time(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pid = pool.apply((0,), |_: u8| std::process::id()).unwrap();
    pool.map([5, 5, 5], stage::doze).unwrap();
    let busy = |stats: &Stats| stats.workers[0].busy;
    // The worker writes the time of an item down behind its answer.
    let stats = stage::until_some("the time of three items", || {
        Some(pool.stats()).filter(|stats| busy(stats) >= Duration::from_millis(15))
    });
    let worker = &stats.workers[0];
    assert_eq!(worker.pid, pid);
    assert!(worker.busy <= stats.at - worker.started_at);
    let resident = worker.resident_bytes().unwrap();
    assert!(resident > 4096, "{resident}");
    pool.terminate();
    assert_eq!(worker.resident_bytes(), None, "it has ended");
}

fn each_end_of_a_worker_is_counted_by_its_cause(method: StartMethod) {
    let pool = Pool::builder().processes(1).start_method(method).max_tasks_per_child(3).build().unwrap();
    let lost = pool.apply((0,), |_: u8| -> u8 { std::process::abort() });
    assert!(matches!(lost, Err(TaskError::WorkerDied { .. })), "{lost:?}");
    until_totals(&pool, "a death", |totals| totals.workers_died == 1);
    assert!(pool.timeout(Duration::from_millis(50)).apply((600_000,), stage::doze).is_err());
    until_totals(&pool, "a time limit", |totals| totals.workers_timed_out == 1);
    let book = Notebook::new();
    let gate = Gate::closed();
    let handle = stage::held(&pool, &gate, &book);
    book.wait_for(1);
    assert!(handle.cancel());
    until_totals(&pool, "a cancellation", |totals| totals.workers_cancelled == 1);
    pool.map(0..3u32, |x| x).unwrap();
    until_totals(&pool, "a recycled worker", |totals| totals.workers_recycled == 1);
    let pid = pool.apply((0,), |_: u8| std::process::id()).unwrap();
    stage::signal(pid, Signal::SIGKILL);
    until_totals(&pool, "a second death", |totals| totals.workers_died == 2);
    pool.apply((0,), |_: u8| ()).unwrap();
    pool.close();
    pool.join().unwrap();
    let totals = pool.stats().totals;
    assert_eq!(totals.workers_stopped, totals.workers_started - 5, "{totals:?}");
    assert_eq!((totals.workers_spoilt, totals.starts_failed), (0, 0), "{totals:?}");
}

fn retries_are_counted(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let value = pool.retries(5).apply((book.path(),), |book| {
        stage::note(&book, "run");
        if stage::lines_of(&book).len() < 3 {
            std::process::abort();
        }
        7
    });
    assert_eq!(value.unwrap(), 7);
    let totals = until_totals(&pool, "two deaths", |totals| totals.workers_died == 2);
    assert_eq!((totals.retries, totals.items_lost, totals.items_done), (2, 0, 1), "{totals:?}");
}

fn replacement_takes_over_the_lane(method: StartMethod) {
    let pool = Pool::builder().processes(2).start_method(method).max_tasks_per_child(1).build().unwrap();
    for item in 0..12u32 {
        pool.apply((item,), |x| x).unwrap();
        let stats = pool.stats();
        assert!(stats.workers.iter().all(|worker| worker.lane < 2), "{stats:?}");
        if item % 4 == 0 {
            stage::kill_if_there(stage::pool_pid(&pool));
        }
    }
    let lanes = || {
        let mut lanes: Vec<u32> = pool.stats().workers.iter().map(|worker| worker.lane).collect();
        lanes.sort_unstable();
        lanes
    };
    stage::until("one worker in each lane", || lanes() == [0, 1]);
}

fn joined_pool_keeps_its_totals(method: StartMethod) {
    let pool = stage::pool(method, 2);
    pool.map(0..100u32, |x| x).unwrap();
    pool.close();
    pool.join().unwrap();
    let stats = pool.stats();
    assert!(stats.workers.is_empty());
    assert_eq!((stats.totals.items_done, stats.totals.workers_stopped), (100, 2));
    assert_eq!((stats.queued, stats.under_way, stats.calls), (0, 0, 0));
}

fn snapshots_from_many_threads_never_go_back(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut before = pool.stats().totals;
                while !is_over.load(Ordering::Relaxed) {
                    let stats = pool.stats();
                    let now = stats.totals;
                    assert!(now.items_done >= before.items_done && now.items_submitted >= before.items_submitted);
                    assert_eq!(outcomes(&now) + stats.queued + stats.under_way, now.items_submitted);
                    before = now;
                    thread::sleep(Duration::from_micros(200));
                }
            });
        }
        assert_eq!(pool.imap_unordered(0..200_000u32, |x| x).filter(|item| item.is_ok()).count(), 200_000);
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(pool.stats().totals.items_done, 200_000);
}

fn failed_starts_are_counted(method: StartMethod) {
    let fail = |_: u8| -> anyhow::Result<()> { anyhow::bail!("no luck") };
    let pool = Pool::builder().processes(1).start_method(method).initializer((0,), fail).build().unwrap();
    assert!(pool.apply((1,), |x: u8| x).is_err());
    let stats = stage::until_some("the failed starts", || {
        Some(pool.stats()).filter(|stats| stats.totals.starts_failed > 0 && stats.workers.is_empty())
    });
    assert_eq!(stats.totals.items_terminated, 1);
    let processes = processes::children(std::process::id());
    assert!(stats.totals.starts_failed <= stats.totals.workers_started, "{stats:?} {processes:?}");
}
