//! `max_tasks_per_child`: a worker leaves after its share of items and is replaced.

use std::collections::BTreeMap;

use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Notebook;

cases![
    worker_is_replaced_after_its_share,
    counts_items_and_not_chunks,
    one_item_for_each_worker,
    counts_over_calls_of_every_kind,
    counts_items_that_fail,
    close_with_replacements_pending,
    initializer_runs_in_every_replacement,
    pool_stays_at_its_strength,
    leaves_no_zombies_meanwhile,
    keeps_the_order_of_results,
    share_larger_than_the_job,
];

fn recycling(method: StartMethod, processes: usize, share: usize) -> Pool {
    Pool::builder().processes(processes).start_method(method).max_tasks_per_child(share).build().unwrap()
}

/// How many items each process ran.
fn shares(pids: impl IntoIterator<Item = u32>) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for pid in pids {
        *counts.entry(pid).or_insert(0) += 1;
    }
    counts
}

fn own_pid(_: u32) -> u32 {
    std::process::id()
}

fn worker_is_replaced_after_its_share(method: StartMethod) {
    let pool = recycling(method, 1, 3);
    let pids: Vec<u32> = (0..9u32).map(|x| pool.apply((x,), own_pid).unwrap()).collect();
    assert!(pids.chunks(3).all(|chunk| chunk.iter().all(|pid| *pid == chunk[0])), "{pids:?}");
    assert_eq!(shares(pids).len(), 3);
}

fn counts_items_and_not_chunks(method: StartMethod) {
    for chunk_size in [1, 4, 10, 25, 100] {
        let pool = recycling(method, 1, 10);
        let pids = pool.chunk_size(chunk_size).map(0..100u32, own_pid).unwrap();
        let shares = shares(pids);
        assert!(shares.len() == 10 && shares.values().all(|&share| share == 10), "chunk size {chunk_size}: {shares:?}");
    }
}

fn one_item_for_each_worker(method: StartMethod) {
    let pool = recycling(method, 2, 1);
    assert_eq!(shares(pool.map(0..30u32, own_pid).unwrap()).len(), 30);
}

fn counts_over_calls_of_every_kind(method: StartMethod) {
    let pool = recycling(method, 1, 5);
    let mut pids = vec![pool.apply((0u32,), own_pid).unwrap()];
    pids.extend(pool.map(0..2u32, own_pid).unwrap());
    pids.extend(pool.starmap([(1u32,)], own_pid).unwrap());
    pids.extend(pool.imap(0..7u32, own_pid).map(Result::unwrap));
    pids.extend(pool.imap_unordered(0..4u32, own_pid).map(Result::unwrap));
    let shares = shares(pids);
    assert!(shares.len() == 3 && shares.values().all(|&share| share == 5), "{shares:?}");
}

fn counts_items_that_fail(method: StartMethod) {
    let pool = recycling(method, 1, 2);
    let pids = (0..6u32).map(|x| match pool.apply((x,), |_| -> u32 { panic!("counted") }) {
        Err(TaskError::Panicked(panic)) => panic.pid,
        other => panic!("{other:?}"),
    });
    let shares = shares(pids);
    assert!(shares.len() == 3 && shares.values().all(|&share| share == 2), "{shares:?}");
}

fn close_with_replacements_pending(method: StartMethod) {
    let pool = recycling(method, 3, 1);
    let handle = pool.map_async(0..60u32, own_pid);
    pool.close();
    pool.join().unwrap();
    assert_eq!(shares(handle.get().unwrap()).len(), 60);
}

fn initializer_runs_in_every_replacement(method: StartMethod) {
    let book = Notebook::new();
    let pool = Pool::builder()
        .processes(2)
        .start_method(method)
        .max_tasks_per_child(2)
        .initializer((book.path(),), |book| stage::note(&book, std::process::id()))
        .build()
        .unwrap();
    let pids = pool.map(0..20u32, own_pid).unwrap();
    let initialized = shares(book.lines().iter().map(|line| line.parse().unwrap()));
    assert!(initialized.values().all(|&times| times == 1), "{initialized:?}");
    assert!(shares(pids).keys().all(|pid| initialized.contains_key(pid)));
}

fn pool_stays_at_its_strength(method: StartMethod) {
    let pool = recycling(method, 3, 1);
    let first = pool.pids();
    stage::until("three new workers", || {
        pool.map(0..30u32, own_pid).unwrap();
        let now = pool.pids();
        now.len() == 3 && now.iter().all(|pid| !first.contains(pid))
    });
    assert_eq!(pool.processes(), 3);
    stage::assert_works(&pool);
}

fn leaves_no_zombies_meanwhile(method: StartMethod) {
    let pool = recycling(method, 2, 1);
    pool.map(0..50u32, own_pid).unwrap();
    stage::until("no zombie among our descendants", || {
        processes::descendants(std::process::id()).iter().all(|process| !process.is_zombie())
    });
    stage::assert_works(&pool);
}

fn keeps_the_order_of_results(method: StartMethod) {
    let pool = recycling(method, 3, 4);
    assert_eq!(pool.map(0..200u32, |x| x).unwrap(), (0..200).collect::<Vec<_>>());
    assert_eq!(pool.imap(0..200u32, |x| x).map(Result::unwrap).collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
}

fn share_larger_than_the_job(method: StartMethod) {
    let pool = recycling(method, 1, usize::MAX);
    assert_eq!(shares(pool.map(0..1000u32, own_pid).unwrap()).len(), 1);
}
