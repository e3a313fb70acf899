//! Pools that change: resized while they work, shrunk while idle, and workers recycled by age or memory.

use std::thread;
use std::time::Duration;

use procpool::Pool;
use procpool::PoolBuilder;
use procpool::PoolError;
use procpool::StartMethod;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    larger_pool_works_with_all_its_workers,
    smaller_pool_lets_idle_workers_go,
    smaller_pool_lets_busy_workers_end_what_they_run,
    resizing_while_it_works_loses_nothing,
    resizing_to_the_same_size_keeps_the_workers,
    no_size_at_all_is_refused,
    pool_that_takes_no_tasks_is_not_resized,
    idle_workers_leave,
    idle_pool_keeps_its_least,
    pool_without_workers_serves_again,
    pool_grows_when_there_is_more_to_do,
    no_item_waits_behind_a_long_one_in_a_small_pool,
    idle_timeout_and_resize_get_along,
    idle_pool_closes,
    busy_workers_do_not_leave,
    old_workers_are_replaced,
    old_workers_end_what_they_run,
    fat_workers_are_replaced,
    fat_workers_lose_nothing,
    lean_workers_stay,
    limits_of_nothing_are_refused,
];

fn builder(method: StartMethod, processes: usize) -> PoolBuilder {
    Pool::builder().processes(processes).start_method(method)
}

fn until_strength(pool: &Pool, count: usize) {
    stage::until(&format!("{count} workers"), || pool.pids().len() == count);
}

fn larger_pool_works_with_all_its_workers(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    pool.resize(4).unwrap();
    assert_eq!(pool.processes(), 4);
    until_strength(&pool, 4);
    stage::until_all_work(&pool);
}

fn smaller_pool_lets_idle_workers_go(method: StartMethod) {
    let pool = stage::pool(method, 4);
    stage::until_all_work(&pool);
    let before = pool.pids();
    pool.resize(1).unwrap();
    until_strength(&pool, 1);
    let gone: Vec<u32> = before.iter().copied().filter(|pid| !pool.pids().contains(pid)).collect();
    assert_eq!(gone.len(), 3);
    stage::until_ended(&gone);
    stage::assert_works(&pool);
}

fn smaller_pool_lets_busy_workers_end_what_they_run(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let items: Vec<_> = (0..30u32).map(|x| (gate.path(), book.path(), x)).collect();
    let handle = pool.chunk_size(5).starmap_async(items, |gate, book, x| {
        stage::note(&book, x);
        stage::pass(&gate);
        x
    });
    book.wait_for(3);
    pool.resize(1).unwrap();
    gate.open();
    assert_eq!(handle.get().unwrap(), (0..30).collect::<Vec<_>>());
    assert_eq!(book.lines().len(), 30, "no item begins twice");
    until_strength(&pool, 1);
}

fn resizing_while_it_works_loses_nothing(method: StartMethod) {
    let pool = stage::pool(method, 2);
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            for _ in 0..20 {
                assert_eq!(pool.map(0..2000u64, |x| x * x).unwrap(), (0..2000).map(|x| x * x).collect::<Vec<_>>());
            }
        });
        for (round, size) in (0..).zip([5, 1, 3, 2, 4, 1, 2].into_iter().cycle()) {
            pool.resize(size).unwrap();
            // Longer and longer: on a machine that is busy, workers would else leave before they are ready, for ever.
            thread::sleep(Duration::from_millis(3 + round / 10));
            if working.is_finished() {
                break;
            }
        }
    });
    pool.resize(2).unwrap();
    until_strength(&pool, 2);
}

fn resizing_to_the_same_size_keeps_the_workers(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let before = pool.pids();
    pool.resize(2).unwrap();
    stage::until_all_work(&pool);
    assert_eq!(pool.pids(), before);
}

fn no_size_at_all_is_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    assert!(matches!(pool.resize(0), Err(PoolError::ZeroProcesses)));
    assert!(matches!(pool.resize(1 << 40), Err(PoolError::TooManyProcesses { .. })));
    stage::assert_works(&pool);
}

fn pool_that_takes_no_tasks_is_not_resized(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.close();
    assert!(matches!(pool.resize(3), Err(PoolError::Closed)));
    pool.terminate();
    assert!(matches!(pool.resize(3), Err(PoolError::Terminated)));
    pool.join().unwrap();
    assert_eq!(pool.processes(), 1);
}

fn shrinking(method: StartMethod, processes: usize, least: usize) -> Pool {
    builder(method, processes).idle_timeout(Duration::from_millis(20)).min_processes(least).build().unwrap()
}

fn idle_workers_leave(method: StartMethod) {
    let pool = shrinking(method, 3, 0);
    let first = pool.pids();
    until_strength(&pool, 0);
    stage::until_ended(&first);
    assert_eq!(pool.processes(), 3);
}

fn idle_pool_keeps_its_least(method: StartMethod) {
    let pool = shrinking(method, 4, 2);
    until_strength(&pool, 2);
    let kept = pool.pids();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(pool.pids(), kept);
    stage::assert_works(&pool);
}

fn pool_without_workers_serves_again(method: StartMethod) {
    let pool = shrinking(method, 2, 0);
    for x in 0..3u32 {
        until_strength(&pool, 0);
        assert_eq!(pool.apply((x,), |x| x + 1).unwrap(), x + 1);
    }
    until_strength(&pool, 0);
    assert_eq!(pool.imap(0..5u32, |x| x).map(Result::unwrap).sum::<u32>(), 10);
}

fn pool_grows_when_there_is_more_to_do(method: StartMethod) {
    let pool = shrinking(method, 3, 1);
    until_strength(&pool, 1);
    stage::until_all_work(&pool);
    until_strength(&pool, 1);
}

fn no_item_waits_behind_a_long_one_in_a_small_pool(method: StartMethod) {
    let pool = shrinking(method, 2, 1);
    stage::assert_works(&pool);
    until_strength(&pool, 1);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let items: Vec<_> = (0..10u32).map(|x| (gate.path(), book.path(), x)).collect();
    let handle = pool.chunk_size(1).starmap_async(items, |gate, book, x| {
        stage::note(&book, x);
        if x == 0 {
            stage::pass(&gate);
        }
    });
    book.wait_for(10);
    gate.open();
    handle.get().unwrap();
}

fn idle_timeout_and_resize_get_along(method: StartMethod) {
    let pool = shrinking(method, 2, 2);
    pool.resize(4).unwrap();
    until_strength(&pool, 2);
    pool.resize(1).unwrap();
    until_strength(&pool, 1);
    pool.resize(2).unwrap();
    stage::until_all_work(&pool);
}

fn idle_pool_closes(method: StartMethod) {
    let pool = shrinking(method, 2, 0);
    until_strength(&pool, 0);
    let handle = pool.map_async(0..10u32, |x| x);
    pool.close();
    pool.join().unwrap();
    assert_eq!(handle.get().unwrap().len(), 10);
}

fn busy_workers_do_not_leave(method: StartMethod) {
    let pool = shrinking(method, 1, 0);
    let pids = pool.chunk_size(2).map([300u64, 0], |millis| {
        stage::doze(millis);
        std::process::id()
    });
    let pids = pids.unwrap();
    assert_eq!(pids[0], pids[1]);
}

fn own_pid(_: u32) -> u32 {
    std::process::id()
}

fn old_workers_are_replaced(method: StartMethod) {
    let pool = builder(method, 2).max_age_per_child(Duration::from_millis(200)).build().unwrap();
    let first = pool.pids();
    stage::until_replaced(&pool, 2, &first);
    let mut seen = vec![pool.apply((0,), own_pid).unwrap()];
    stage::until("another worker", || {
        seen.push(pool.apply((0,), own_pid).unwrap());
        seen[0] != seen[seen.len() - 1]
    });
    stage::until_ended(&first);
}

fn old_workers_end_what_they_run(method: StartMethod) {
    let pool = builder(method, 2).max_age_per_child(Duration::from_millis(50)).build().unwrap();
    let book = Notebook::new();
    let items = (0..40u32).map(|x| (book.path(), x));
    let values = pool.starmap(items, |book, x| {
        stage::note(&book, x);
        stage::doze(10);
        x
    });
    assert_eq!(values.unwrap(), (0..40).collect::<Vec<_>>());
    assert_eq!(book.lines().len(), 40, "no item begins twice");
}

/// Leaks memory.
fn leak(megabytes: usize) -> u32 {
    std::mem::forget(vec![1u8; megabytes << 20]);
    std::process::id()
}

fn fat_workers_are_replaced(method: StartMethod) {
    let pool = builder(method, 1).max_rss_per_child(300 << 20).build().unwrap();
    let pids: Vec<u32> = (0..4).map(|_| pool.apply((400usize,), leak).unwrap()).collect();
    assert!(pids.windows(2).all(|pair| pair[0] != pair[1]), "{pids:?}");
    stage::until_ended(&pids);
}

fn fat_workers_lose_nothing(method: StartMethod) {
    let pool = builder(method, 2).max_rss_per_child(200 << 20).build().unwrap();
    let pids = pool.map([30usize; 40], leak).unwrap();
    assert_eq!(pids.len(), 40);
    stage::assert_works(&pool);
}

fn lean_workers_stay(method: StartMethod) {
    let pool = builder(method, 1).max_rss_per_child(2 << 30).build().unwrap();
    let pids: Vec<u32> = (0..10).map(|x| pool.apply((x,), own_pid).unwrap()).collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

fn limits_of_nothing_are_refused(method: StartMethod) {
    let builders = [
        ("max_rss_per_child", builder(method, 1).max_rss_per_child(0)),
        ("max_age_per_child", builder(method, 1).max_age_per_child(Duration::ZERO)),
        ("idle_timeout", builder(method, 1).idle_timeout(Duration::ZERO)),
    ];
    for (name, builder) in builders {
        let error = builder.build().unwrap_err();
        assert!(matches!(error, PoolError::ZeroLimit { option } if option == name), "{error:?}");
    }
}
