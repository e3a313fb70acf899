//! Faults at a chosen point: in a worker with an item, in one that leaves, and in the process that forks workers.
//!
//! The syntax of a rule is in the documentation of `start_methods::failpoint`. Each case arms its rules before it
//! makes a pool.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;
use start_methods::failpoint;

use crate::faults::deaths;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::processes::Process;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    worker_that_cannot_be_killed_costs_its_item_only,
    death_at_any_point_of_an_item_costs_that_item,
    death_in_the_midst_of_a_large_result_costs_that_item,
    death_between_the_items_of_a_chunk_costs_one_at_most,
    exit_between_two_items_costs_one_at_most,
    death_before_the_first_order_is_read_costs_nothing,
    death_at_the_moment_of_the_first_order_costs_nothing,
    death_of_a_worker_that_leaves_anyway_costs_nothing,
    server_that_dies_at_any_point_of_a_start,
    server_that_always_dies_is_told,
    report_of_a_panic_does_not_count_as_the_items_time,
    new_template_that_fails_at_once_is_replaced_by_another,
];

/// Arms rules for this process and all that it starts from now on, the fork server included.
pub(crate) fn arm(rules: &str) {
    sys::set_env(failpoint::VARIABLE, rules);
    failpoint::arm(rules);
    procpool::forkserver::stop();
}

/// Whether workers are reached through shared memory here.
pub(crate) fn with_rings() -> bool {
    std::env::var_os("PROCPOOL_LINK").is_none_or(|link| link != "socket")
}

fn noted(item: (u32, String)) -> u32 {
    let (x, book) = item;
    stage::note(&book, x);
    x
}

/// Maps `count` items in chunks. Returns the results, and how often each item was begun.
fn map_noted(pool: &Pool, count: u32, chunk_size: usize) -> (Vec<Result<u32, TaskError>>, BTreeMap<u32, u32>) {
    let book = Notebook::new();
    let items = (0..count).map(|x| (x, book.path()));
    let results = pool.chunk_size(chunk_size).map_results(items, noted).unwrap();
    let mut begun = BTreeMap::new();
    for line in book.lines() {
        *begun.entry(line.parse().unwrap()).or_insert(0) += 1;
    }
    assert!(begun.values().all(|&count| count == 1), "an item was run twice: {begun:?}");
    (results, begun)
}

fn lost(results: &[Result<u32, TaskError>]) -> Vec<usize> {
    (0..results.len()).filter(|&index| results[index].is_err()).collect()
}

fn death_at_any_point_of_an_item_costs_that_item(method: StartMethod) {
    for hit in [1usize, 2, 5] {
        for point in ["after_receive", "before_run", "after_run", "mid_answer", "after_answer", "after_write"] {
            if point == "mid_answer" && !with_rings() {
                // A datagram has no middle.
                continue;
            }
            arm(&format!("procpool-0 {point} {hit} kill"));
            let pool = stage::pool(method, 1);
            let first = stage::pool_pid(&pool);
            let (mut results, begun) = map_noted(&pool, 8, 1);
            match (point, &lost(&results)[..]) {
                // An answer that was sent counts. If the next item began with it, that one is lost.
                ("after_write", []) => {}
                ("after_write", &[index]) => assert_eq!(index, hit, "{point} {hit}"),
                (_, &[index]) => {
                    assert_eq!(index, hit - 1, "{point} {hit}");
                    let death = deaths::death(results.swap_remove(index));
                    assert_eq!((death.pid, death.signal), (first, Some(9)));
                    let was_run = !matches!(point, "after_receive" | "before_run");
                    assert_eq!(begun.contains_key(&u32::try_from(index).unwrap()), was_run, "{point} {hit}");
                }
                (_, lost) => panic!("{point} {hit} cost {lost:?}"),
            }
            stage::assert_works(&pool);
        }
    }
}

fn death_in_the_midst_of_a_large_result_costs_that_item(method: StartMethod) {
    let points: &[(&str, u32)] = match with_rings() {
        true => {
            &[("mid_blob", 1), ("mid_blob", 2), ("before_attachment", 1), ("after_attachment", 1), ("mid_answer", 2)]
        }
        false => &[("mid_blob", 1), ("mid_blob", 2), ("after_answer", 2)],
    };
    for (point, hit) in points {
        arm(&format!("procpool-0 {point} {hit} kill"));
        let pool = stage::pool(method, 1);
        let sizes = [10usize, 1 << 20, 20, 1 << 20];
        // Written in two pieces: the vector is written to the file when it is full, and at the end.
        let results =
            pool.chunk_size(1).map_results(sizes, |size| (vec![7u8; size], vec![8u8; 70_000.min(size)])).unwrap();
        for (index, result) in results.into_iter().enumerate() {
            match index {
                1 => assert_eq!(deaths::death(result).signal, Some(9), "{point} {hit}"),
                _ => assert_eq!(result.unwrap().0, vec![7u8; sizes[index]], "{point} {hit}"),
            }
        }
    }
}

fn death_between_the_items_of_a_chunk_costs_one_at_most(method: StartMethod) {
    for hit in [1, 4, 5, 6, 13] {
        for point in ["after_run", "after_answer", "after_write"] {
            arm(&format!("procpool-0 {point} {hit} kill"));
            let pool = stage::pool(method, 1);
            let (results, _) = map_noted(&pool, 20, 5);
            stage::assert_one_lost_at_most(results, 20);
            stage::assert_works(&pool);
        }
    }
}

/// The worker exits normally while it holds items.
fn exit_between_two_items_costs_one_at_most(method: StartMethod) {
    for point in ["after_receive", "after_write"] {
        for action in ["exit 0", "exit 3", "abort"] {
            arm(&format!("procpool-0 {point} 3 {action}"));
            let pool = stage::pool(method, 1);
            let (results, _) = map_noted(&pool, 10, 1);
            let lost = lost(&results);
            assert!(lost.len() <= 1 && (point == "after_write" || lost == [2]), "{point} {action} cost {lost:?}");
            stage::assert_works(&pool);
        }
    }
}

/// The worker is ready but does not read, so its orders are unread when it is killed.
fn death_before_the_first_order_is_read_costs_nothing(method: StartMethod) {
    let mut gate = Gate::closed();
    arm(&format!("procpool-0 after_ready 1 wait {}", gate.path()));
    let pool = stage::pool(method, 1);
    let handle = pool.map_async(0..100u32, |x| x);
    let large = pool.apply_async((vec![7u8; 1 << 20],), |bytes| bytes.len());
    assert!(!handle.wait_timeout(std::time::Duration::from_millis(50)));
    stage::signal(stage::pool_pid(&pool), Signal::SIGKILL);
    assert_eq!(handle.get().unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!(large.get().unwrap(), 1 << 20);
    gate.open();
}

fn death_at_the_moment_of_the_first_order_costs_nothing(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    arm(&format!("procpool-* after_ready 1 kill once {}", token.display()));
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    for _ in 0..10 {
        // The next worker to start dies at the moment in which it is sent the items.
        File::create(&token).unwrap();
        let victim = stage::pool_pid(&pool);
        stage::signal(victim, Signal::SIGKILL);
        let handle = pool.map_async(0..100u32, |x| x);
        stage::until("a death", || !token.exists());
        let values = handle.get();
        // Only the item that the first victim had begun may be lost; then the map fails with that error.
        match values {
            Ok(values) => assert_eq!(values, (0..100).collect::<Vec<_>>()),
            Err(TaskError::WorkerDied { pid, .. }) => assert_eq!(pid, victim),
            Err(other) => panic!("{other:?}"),
        }
        assert_all_there(&pool);
    }
}

fn death_of_a_worker_that_leaves_anyway_costs_nothing(method: StartMethod) {
    for action in ["kill", "exit 9", "abort"] {
        arm(&format!("procpool-* before_exit 1 {action}"));
        let pool = Pool::builder().processes(2).start_method(method).max_tasks_per_child(3).build().unwrap();
        let (results, begun) = map_noted(&pool, 30, 1);
        assert_eq!((lost(&results), begun.len()), (vec![], 30), "{action}");
        assert_all_there(&pool);
        pool.close();
        pool.join().unwrap();
    }
}

/// Workers are forked by a server, a template, or the pool's own process, which is not killed here.
fn server_name(method: StartMethod) -> Option<&'static str> {
    match method {
        StartMethod::Fork => Some("fork-template"),
        StartMethod::Forkserver => Some("forkserver"),
        StartMethod::Spawn => None,
    }
}

fn server_that_dies_at_any_point_of_a_start(method: StartMethod) {
    let Some(server) = server_name(method) else { return };
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    for point in ["before_fork", "after_fork", "after_reply"] {
        for (hit, action) in [(1, "kill"), (2, "kill"), (2, "exit 4")] {
            File::create(&token).unwrap();
            arm(&format!("{server} {point} {hit} {action} once {}", token.display()));
            let pool = stage::pool(method, 2);
            let first = pool.pids();
            stage::assert_works(&pool);
            // The first workers of a fork pool are not children of the template; later ones are.
            first.iter().for_each(|&pid| stage::kill_if_there(pid));
            match (method, pool.map_results(0..20u32, |x| x)) {
                (StartMethod::Fork, Err(TaskError::Refused(PoolError::Broken { .. }))) => {}
                (_, Ok(results)) => {
                    for result in results {
                        match result {
                            Ok(_) | Err(TaskError::WorkerDied { .. }) => {}
                            // A template cannot be replaced.
                            Err(TaskError::Refused(PoolError::Broken { .. })) => assert_eq!(method, StartMethod::Fork),
                            Err(other) => panic!("{point} {hit} {action}: {other:?}"),
                        }
                    }
                }
                (_, other) => panic!("{point} {hit} {action}: {other:?}"),
            }
            if method == StartMethod::Forkserver {
                assert_all_there(&pool);
                assert!(!token.exists(), "{point} {hit} {action}: no server died");
            }
        }
    }
}

fn server_that_always_dies_is_told(method: StartMethod) {
    let Some(server) = server_name(method) else { return };
    for rule in ["before_serve 1 exit 4", "before_hello 1 kill", "before_fork 1 kill"] {
        arm(&format!("{server} {rule}"));
        let built = Pool::builder().processes(2).start_method(method).build();
        match (method, built.map_err(TaskError::from).and_then(|pool| pool.map(0..10u32, |x| x))) {
            (_, Err(TaskError::Refused(PoolError::Start(_) | PoolError::Broken { .. }))) => {}
            // The first workers do not need the template.
            (StartMethod::Fork, Ok(_)) => assert!(rule.starts_with("before_fork")),
            (_, other) => panic!("{rule}: {other:?}"),
        }
    }
}

/// Waits until the pool has all its workers, and runs an item on each.
#[track_caller]
pub(crate) fn assert_all_there(pool: &Pool) {
    stage::until_complete(pool);
    stage::assert_works(pool);
}

/// Runs for ever, and notes by which process.
fn endless(book: &str) -> u8 {
    stage::note(book, std::process::id());
    loop {
        std::thread::park();
    }
}

/// As a worker in uninterruptible sleep: SIGKILL has no effect on it for as long as a file exists.
fn worker_that_cannot_be_killed_costs_its_item_only(method: StartMethod) {
    let (folder, book) = (tempfile::tempdir().unwrap(), Notebook::new());
    let token = folder.path().join("token");
    File::create(&token).unwrap();
    arm(&format!("parent kill_worker 1- errno 1 while {}", token.display()));
    let pool = stage::pool(method, 2);
    let task: fn(String) -> u8 = |book| endless(&book);

    let limit = std::time::Duration::from_millis(50);
    let error = pool.timeout(limit).apply((book.path(),), task).unwrap_err();
    assert!(matches!(error, TaskError::TimedOut { .. }), "{error:?}");
    let cancelled = pool.apply_async((book.path(),), task);
    book.wait_for(2);
    assert!(cancelled.cancel());
    assert!(matches!(cancelled.get().unwrap_err(), TaskError::Cancelled));

    // Two others have taken their places.
    stage::until_all_work(&pool);
    let undead: Vec<u32> = book.lines().iter().map(|pid| pid.parse().unwrap()).collect();
    assert!(undead.iter().all(|pid| !pool.pids().contains(pid)));
    pool.close();
    let Err(PoolError::Unreaped { mut pids }) = pool.join() else { panic!("two workers are left") };
    pids.sort_unstable();
    assert_eq!(pids, std::collections::BTreeSet::from_iter(undead).into_iter().collect::<Vec<_>>());

    std::fs::remove_file(&token).unwrap();
    pids.into_iter().for_each(|pid| stage::signal(pid, Signal::SIGKILL));
    pool.join().unwrap();
}

/// The item takes half of its time, and then the report as much again and more: symbols of a large program are slow.
/// Only the rings have a way to say that the item has ended.
fn report_of_a_panic_does_not_count_as_the_items_time(method: StartMethod) {
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    arm(&format!("procpool-* before_report 1 wait {}", gate.path()));
    let pool = stage::pool(method, 1);
    let limit = Duration::from_secs(14);
    let call = pool.timeout(limit);
    let panics = |book: String| -> u8 {
        std::thread::sleep(Duration::from_secs(8));
        stage::note(&book, "panics");
        panic!("in time")
    };
    let handle = call.apply_async((book.path(),), panics);
    book.wait_for(1);
    std::thread::sleep(Duration::from_secs(8));
    gate.open();
    match stage::error(handle.get()) {
        TaskError::Panicked(panic) => assert_eq!(panic.message, "in time"),
        TaskError::TimedOut { .. } => assert!(!with_rings()),
        other => panic!("{other:?}"),
    }
}

/// After that as well, workers are forked from a template and not from this process.
fn new_template_that_fails_at_once_is_replaced_by_another(method: StartMethod) {
    if method != StartMethod::Fork {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    File::create(&token).unwrap();
    arm(&format!("fork-template before_fork 1 kill once {}", token.display()));
    let pool = sys::despite_threads(Pool::builder().processes(2).start_method(method)).build().unwrap();
    let (here, workers) = (std::process::id(), pool.pids());
    let templates: Vec<u32> =
        processes::children(here).into_iter().map(|child| child.pid).filter(|pid| !workers.contains(pid)).collect();
    assert_eq!(templates.len(), 1);
    stage::signal(templates[0], Signal::SIGKILL);
    stage::until_ended(&templates);
    stage::signal(workers[0], Signal::SIGKILL);
    let after = stage::until_replaced(&pool, 2, &workers[..1]);
    assert!(!token.exists(), "the second template has not failed");
    let replacement = *after.iter().find(|pid| !workers.contains(pid)).unwrap();
    assert_ne!(Process::find(replacement).unwrap().parent, here);
    stage::assert_works(&pool);
}
