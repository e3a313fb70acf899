//! Pools in tasks: a worker that makes a pool, by every method inside every method.

use std::sync::OnceLock;

use nix::sys::signal::Signal;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::forkserver;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::processes::Process;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    task_may_make_a_pool,
    task_may_make_pools_again_and_again,
    nested_pool_has_a_fork_server_of_its_own,
    nested_workers_that_die_are_replaced,
    tenth_generation_is_the_last,
    killed_worker_takes_its_pool_along,
    killed_parent_takes_nested_workers_along,
    terminated_pool_takes_nested_workers_along,
    leaked_pool_ends_with_its_worker,
    leaked_pool_ends_with_a_recycled_worker,
];

/// Start methods are passed by name.
fn parse(method: &str) -> StartMethod {
    method.parse().unwrap()
}

fn square_in_a_pool(inner: String, x: u64) -> u64 {
    let pool = stage::pool(parse(&inner), 2);
    let squares = pool.map(0..=x, |x| x * x).unwrap();
    pool.close();
    pool.join().unwrap();
    *squares.last().unwrap()
}

fn task_may_make_a_pool(method: StartMethod) {
    for inner in StartMethod::ALL {
        let pool = stage::pool(method, 2);
        let answers = pool.starmap((0..4u64).map(|x| (inner.to_string(), x)), square_in_a_pool).unwrap();
        assert_eq!(answers, [0, 1, 4, 9], "{inner} in {method}");
    }
}

fn task_may_make_pools_again_and_again(method: StartMethod) {
    let pool = stage::pool(method, 1);
    for round in 0..2u64 {
        for inner in StartMethod::ALL {
            let handle = pool.apply_async((inner.to_string(), 3 + round), square_in_a_pool);
            assert_eq!(handle.get().unwrap(), (3 + round).pow(2), "{inner} in {method}");
        }
    }
}

fn nested_pool_has_a_fork_server_of_its_own(method: StartMethod) {
    let outer = stage::pool(method, 1);
    stage::assert_works(&outer);
    let before = forkserver::pid();
    let (worker, server, parents) = outer
        .apply((0u8,), |_| {
            assert_eq!(forkserver::pid(), None, "the fork server of the parent belongs to the parent");
            let pool = stage::pool(StartMethod::Forkserver, 2);
            stage::assert_works(&pool);
            let parents: Vec<u32> = pool.pids().into_iter().map(|pid| Process::find(pid).unwrap().parent).collect();
            (std::process::id(), forkserver::pid().unwrap(), parents)
        })
        .unwrap();
    assert_eq!(outer.pids(), [worker]);
    assert_eq!(parents, [server, server]);
    assert_eq!(forkserver::pid(), before, "the fork server of this process is unaffected");
    assert_eq!(Process::find(server).unwrap().parent, worker);
    stage::assert_works(&outer);
}

fn nested_workers_that_die_are_replaced(method: StartMethod) {
    fn lose_one(inner: String) -> usize {
        let pool = stage::pool(parse(&inner), 2);
        let results = pool.chunk_size(1).map_results(0..20u32, |x| {
            if x == 7 {
                sys::end_now(3);
            }
            x
        });
        stage::assert_works(&pool);
        results.unwrap().into_iter().filter(Result::is_err).count()
    }
    let pool = stage::pool(method, 2);
    let lost = pool.map(StartMethod::ALL.map(|inner| inner.to_string()), lose_one).unwrap();
    assert_eq!(lost, [1; 3]);
}

/// How deep pools can be nested, each in a task of another.
fn dive(method: String) -> Result<u32, (u32, u32, String)> {
    match Pool::builder().processes(1).start_method(parse(&method)).build() {
        Ok(pool) => pool.apply((method,), dive).unwrap().map(|below| below + 1),
        Err(PoolError::NestedTooDeep { depth, limit }) => {
            Err((depth, limit, PoolError::NestedTooDeep { depth, limit }.to_string()))
        }
        Err(other) => panic!("{other}"),
    }
}

fn tenth_generation_is_the_last(method: StartMethod) {
    let (depth, limit, text) = dive(method.to_string()).unwrap_err();
    assert_eq!((depth, limit), (11, 10));
    assert!(text.contains("11") && text.contains("10"), "{text}");
}

/// In a task: makes a pool with a busy, a stopped and a waiting worker, notes their process ids, and waits.
fn have_a_pool(inner: String, book: String, gate: String) {
    let pool = stage::pool(parse(&inner), 3);
    stage::until_all_work(&pool);
    let pids = pool.pids();
    let _spinning = pool.apply_async((0u8,), |_| -> u8 {
        loop {
            std::hint::spin_loop();
        }
    });
    stage::signal(pids[1], Signal::SIGSTOP);
    stage::note(&book, std::process::id());
    pids.iter().chain(forkserver::pid().iter()).for_each(|pid| stage::note(&book, pid));
    stage::note(&book, "ready");
    stage::pass(&gate);
}

/// Makes pools in tasks by all methods. Returns the worker of each, and all processes below it.
fn families(pool: &Pool, gate: &Gate, wanted: &[StartMethod]) -> Vec<(u32, Vec<u32>)> {
    wanted
        .iter()
        .map(|inner| {
            let book = Notebook::new();
            drop(pool.apply_async((inner.to_string(), book.path(), gate.path()), have_a_pool));
            stage::until("the nested pool", || book.lines().contains(&"ready".to_owned()));
            let pids: Vec<u32> = book.lines().iter().filter_map(|line| line.parse().ok()).collect();
            assert!(pids.len() >= 4);
            let mut all = pids[1..].to_vec();
            all.extend(processes::descendants(pids[0]).iter().map(|process| process.pid));
            (pids[0], all)
        })
        .collect()
}

fn killed_worker_takes_its_pool_along(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let gate = Gate::closed();
    for (worker, family) in families(&pool, &gate, &StartMethod::ALL) {
        assert!(family.iter().all(|&pid| !processes::ended(pid)));
        stage::signal(worker, Signal::SIGKILL);
        stage::until_ended(&family);
    }
    stage::assert_works(&pool);
}

/// The parent here is a worker, and its pool the outer one: two generations end with it.
fn killed_parent_takes_nested_workers_along(method: StartMethod) {
    fn have_a_pool_of_pools(method: String, book: String, gate: String) {
        let pool = stage::pool(parse(&method), 3);
        let gate_here = Gate::closed();
        for (worker, family) in families(&pool, &gate_here, &StartMethod::ALL) {
            family.iter().chain([&worker]).for_each(|pid| stage::note(&book, pid));
        }
        stage::note(&book, "ready");
        stage::pass(&gate);
    }
    let pool = stage::pool(StartMethod::Spawn, 1);
    let (book, gate) = (Notebook::new(), Gate::closed());
    drop(pool.apply_async((method.to_string(), book.path(), gate.path()), have_a_pool_of_pools));
    stage::until("the pools", || book.lines().contains(&"ready".to_owned()));
    let pids: Vec<u32> = book.lines().iter().filter_map(|line| line.parse().ok()).collect();
    assert!(pids.iter().all(|&pid| !processes::ended(pid)));
    stage::signal(pool.pids()[0], Signal::SIGKILL);
    stage::until_ended(&pids);
}

fn terminated_pool_takes_nested_workers_along(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let gate = Gate::closed();
    let families = families(&pool, &gate, &StartMethod::ALL);
    pool.terminate();
    pool.join().unwrap();
    families.iter().for_each(|(_, family)| stage::until_ended(family));
}

static LEAKED: OnceLock<Pool> = OnceLock::new();

/// In a task: makes a pool that is never dropped, and returns while it works.
fn leak_a_pool(inner: String) -> Vec<u32> {
    let pool = LEAKED.get_or_init(|| stage::pool(parse(&inner), 2));
    stage::assert_works(pool);
    std::mem::forget(pool.map_async(0..100_000u64, |x| x * x));
    pool.pids()
}

fn leaked_pool_ends_with_its_worker(method: StartMethod) {
    for inner in StartMethod::ALL {
        let pool = stage::pool(method, 1);
        let pids = pool.apply((inner.to_string(),), leak_a_pool).unwrap();
        stage::assert_works(&pool);
        pool.close();
        pool.join().unwrap();
        stage::until_ended(&pids);
    }
}

fn leaked_pool_ends_with_a_recycled_worker(method: StartMethod) {
    let pool = Pool::builder().processes(1).start_method(method).max_tasks_per_child(1).build().unwrap();
    for inner in StartMethod::ALL {
        let pids = pool.apply((inner.to_string(),), leak_a_pool).unwrap();
        stage::until_ended(&pids);
    }
    assert!(matches!(pool.apply((0u8,), |_| std::process::id()), Ok(pid) if pid != std::process::id()));
    let error: Result<u8, TaskError> = pool.apply((0u8,), |_| -> u8 { sys::end_now(4) });
    assert!(matches!(error, Err(TaskError::WorkerDied { .. })), "{error:?}");
}
