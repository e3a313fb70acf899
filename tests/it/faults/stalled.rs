//! Fork servers and templates that are stopped or killed at bad moments, and everything that waits for them.
//!
//! They are replaced or given up, and no wait hangs. A starter is the fork server, or the template of `fork`; `spawn`
//! has none, and must be unaffected.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use procpool::AsyncResult;
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

cases![
    pools_are_made_beside_a_stopped_server,
    server_that_is_stopped_under_a_recycle_hangs_nothing,
    server_that_is_stopped_harms_no_running_task,
    server_that_is_stopped_and_continued_serves_on,
    pool_with_a_start_under_way_ends_beside_a_stopped_server,
    pool_ends_in_order_beside_a_stopped_server,
    statuses_are_exact_or_unknown_beside_a_stopped_server,
    server_that_dies_in_a_burst_of_recycles_hangs_nothing,
    server_that_stops_while_it_starts_is_replaced,
    server_that_dies_with_all_workers_is_replaced,
    idle_worker_that_is_stopped_keeps_no_item,
    idle_worker_that_is_stopped_keeps_no_item_that_brings_something,
    stopped_worker_outlives_its_server,
    starting_workers_that_die_with_their_servers_break_no_pool,
];

/// Much longer than it takes to detect a stopped server, and shorter than the timeout of a slow one.
const BOUND: Duration = Duration::from_secs(8);

/// The process that starts this pool's replacements, unless it is this one. Finding it costs a worker.
fn starter(pool: &Pool) -> Option<u32> {
    let before = stage::until_complete(pool);
    // Where workers are recycled, one of these may be about to leave.
    stage::signal_if_there(before[0], Signal::SIGKILL);
    let after = stage::until_replaced(pool, pool.processes(), &before[..1]);
    starter_of(newcomer(&before, &after))
}

/// The process that has started this worker, unless it is this one.
fn starter_of(worker: u32) -> Option<u32> {
    let parent = Process::find(worker).unwrap().parent;
    (parent != std::process::id()).then_some(parent)
}

fn newcomer(before: &[u32], after: &[u32]) -> u32 {
    *after.iter().find(|pid| !before.contains(pid)).unwrap()
}

fn stop(server: Option<u32>) {
    if let Some(pid) = server {
        stage::signal(pid, Signal::SIGSTOP);
        stage::until("a stopped server", || Process::find(pid).unwrap().state == 'T');
    }
}

/// A template that has died cannot be replaced while the case has other threads; the pool reports that when its last worker
/// is gone.
fn assert_works_or_is_lost(pool: &Pool, method: StartMethod) {
    match (method, pool.map(0..20u64, |x| x * x)) {
        (_, Ok(values)) => assert_eq!(values, (0..20u64).map(|x| x * x).collect::<Vec<_>>()),
        (StartMethod::Fork, Err(TaskError::Refused(PoolError::Broken { .. }))) => {}
        (_, Err(error)) => panic!("{error:?}"),
    }
}

fn in_time<R>(what: &str, f: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let result = f();
    assert!(began.elapsed() < BOUND, "{what} took {:?}", began.elapsed());
    result
}

fn pools_are_made_beside_a_stopped_server(method: StartMethod) {
    let old = stage::pool(method, 2);
    stage::until_all_work(&old);
    let before = old.pids();
    stop(forkserver::pid());
    let server = forkserver::pid();

    let new = in_time("a new pool", || {
        let new = stage::pool(method, 2);
        stage::assert_works(&new);
        new
    });

    assert_eq!(forkserver::pid() == server, method != StartMethod::Forkserver);
    assert!(server.is_none_or(processes::ended), "the old server is gone");
    stage::assert_works(&old);
    assert_eq!(old.pids(), before, "its workers are unharmed");
    drop(new);
}

fn server_that_is_stopped_under_a_recycle_hangs_nothing(method: StartMethod) {
    let pool = Pool::builder().processes(2).start_method(method).max_tasks_per_child(1).build().unwrap();
    stage::assert_works(&pool);
    stop(starter(&pool));
    in_time("a map over recycled workers", || assert_works_or_is_lost(&pool, method));
    in_time("another", || assert_works_or_is_lost(&pool, method));
}

fn server_that_is_stopped_harms_no_running_task(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let starter = starter(&pool);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let running = stage::held(&pool, &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    stop(starter);
    // The pool only notices the stop when it starts a worker.
    let victim = pool.pids().into_iter().find(|&other| other != pid).unwrap();
    stage::signal(victim, Signal::SIGKILL);
    in_time("a map", || stage::assert_works(&pool));
    gate.open();
    match running.get() {
        Ok(value) => assert_eq!(value, pid),
        Err(error) => panic!("{error:?}"),
    }
}

fn server_that_is_stopped_and_continued_serves_on(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let Some(pid) = starter(&pool) else { return };
    stop(Some(pid));
    stage::assert_works(&pool);
    stage::signal(pid, Signal::SIGCONT);
    stage::until("the server goes on", || Process::find(pid).unwrap().state != 'T');
    let victims = pool.pids();
    stage::signal(victims[0], Signal::SIGKILL);
    let after = stage::until_replaced(&pool, 2, &victims[..1]);
    assert_eq!(Process::find(newcomer(&victims, &after)).unwrap().parent, pid);
    stage::assert_works(&pool);
}

fn pool_with_a_start_under_way_ends_beside_a_stopped_server(method: StartMethod) {
    for terminate_first in [true, false] {
        let pool = stage::pool(method, 2);
        stop(starter(&pool));
        pool.pids().into_iter().for_each(|pid| stage::signal(pid, Signal::SIGKILL));
        in_time("the end of the pool", || {
            if terminate_first {
                pool.terminate();
            }
            drop(pool);
        });
    }
}

fn pool_ends_in_order_beside_a_stopped_server(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let starter = starter(&pool);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let results = pool.chunk_size(1).starmap_async(vec![(book.path(), gate.path()); 6], |book, gate| {
        stage::note(&book, "here");
        stage::pass(&gate);
    });
    book.wait_for(2);
    stop(starter);
    pool.close();
    gate.open();
    in_time("join", || pool.join().unwrap());
    assert_eq!(results.get().unwrap().len(), 6);
}

fn statuses_are_exact_or_unknown_beside_a_stopped_server(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let starter = starter(&pool);
    stop(starter);
    match in_time("the end of a task", || pool.apply((0u8,), |_| -> u8 { std::process::exit(3) })) {
        Err(TaskError::WorkerDied { status, .. }) => {
            let code = status.map(|status| status.code());
            assert!(code == Some(Some(3)) || (code.is_none() && starter.is_some()), "{status:?}");
        }
        other => panic!("{other:?}"),
    }
    in_time("what follows", || assert_works_or_is_lost(&pool, method));
}

fn server_that_dies_in_a_burst_of_recycles_hangs_nothing(method: StartMethod) {
    let pool = Pool::builder().processes(4).start_method(method).max_tasks_per_child(1).build().unwrap();
    stage::assert_works(&pool);
    let first = starter(&pool);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut killed = 0;
            while !over.load(Ordering::SeqCst) {
                // A template can be killed only once: it is not replaced.
                let server = forkserver::pid().or(first.filter(|_| killed == 0));
                if let Some(server) = server.filter(|&pid| !processes::ended(pid)) {
                    stage::signal_if_there(server, Signal::SIGKILL);
                    killed += 1;
                }
                std::thread::sleep(Duration::from_millis(15));
            }
            killed
        });
        for _ in 0..10 {
            let results = pool.chunk_size(1).map_results(0..20u32, |x| x);
            match (method, results) {
                (_, Ok(results)) => assert_recycled(method, &results),
                (StartMethod::Fork, Err(TaskError::Refused(PoolError::Broken { .. }))) => {}
                (_, Err(error)) => panic!("{error:?}"),
            }
        }
        over.store(true, Ordering::SeqCst);
        let killed = killer.join().unwrap();
        assert_eq!(killed > 0, method != StartMethod::Spawn);
    });
}

/// No task dies with a server or template.
fn assert_recycled(method: StartMethod, results: &[Result<u32, TaskError>]) {
    assert_eq!(results.len(), 20);
    for (x, result) in (0u32..).zip(results) {
        match result {
            Ok(value) => assert_eq!(*value, x),
            Err(TaskError::Refused(PoolError::Broken { .. })) if method == StartMethod::Fork => {}
            Err(error) => panic!("item {x}: {error:?}"),
        }
    }
}

/// A preload that stops its own server, and runs again in the next.
fn server_that_stops_while_it_starts_is_replaced(method: StartMethod) {
    forkserver::preload(|| nix::sys::signal::raise(Signal::SIGSTOP).unwrap()).unwrap();
    let built = in_time("a pool", || Pool::builder().processes(1).start_method(method).build());
    if method != StartMethod::Forkserver {
        stage::assert_works(&built.unwrap());
        return;
    }
    let error = built.unwrap_err();
    assert!(error.to_string().contains("stopped"), "{error}");
    assert_eq!(forkserver::pid(), None);
}

/// The template of `fork` as well, since this thread, which waits, is the only one of the case.
fn server_that_dies_with_all_workers_is_replaced(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for signal in [Signal::SIGKILL, Signal::SIGQUIT, Signal::SIGTERM] {
        if let Some(server) = starter(&pool) {
            stage::signal(server, signal);
        }
        for pid in pool.pids() {
            stage::signal_if_there(pid, Signal::SIGKILL);
        }
        assert_eq!(pool.map(0..20u64, |x| x * x).unwrap(), (0..20u64).map(|x| x * x).collect::<Vec<_>>());
    }
}

/// As under a debugger: what the stopped worker is given and cannot begin runs elsewhere as soon as another is free. (Over a
/// socket, only what brings nothing new: so both workers know the function.)
fn idle_worker_that_is_stopped_keeps_no_item(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let task: fn(u64) -> (u64, u32) = |x| (x + 1, std::process::id());
    let submit = || -> Vec<_> { (0..4u64).map(|x| pool.apply_async((x,), task)).collect() };
    let collect = |handles: Vec<AsyncResult<(u64, u32)>>| {
        let (values, pids): (Vec<u64>, BTreeSet<u32>) = handles.iter().map(|handle| handle.get().unwrap()).unzip();
        assert_eq!(values, [1, 2, 3, 4]);
        pids
    };
    let mut seen = BTreeSet::new();
    stage::until("both workers", || {
        seen.extend(collect(submit()));
        seen.len() == 2
    });
    for pid in pool.pids() {
        stage::signal(pid, Signal::SIGSTOP);
        stage::until("a stopped worker", || Process::find(pid).unwrap().state == 'T');
        for _ in 0..10 {
            assert!(!collect(submit()).contains(&pid));
        }
        stage::signal(pid, Signal::SIGCONT);
    }
    stage::until_all_work(&pool);
}

/// What the item brings is no reason to leave it where it is, and is there when the worker goes on.
fn idle_worker_that_is_stopped_keeps_no_item_that_brings_something(method: StartMethod) {
    type Handles = Vec<AsyncResult<(u64, u32)>>;
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let large = vec![7u8; 300_000];
    let context = || pool.with(&large);
    let calls: [&dyn Fn() -> Handles; 4] = [
        &|| (0..4u64).map(|x| pool.apply_async((x,), |x: u64| (x + 1, std::process::id()))).collect(),
        &|| {
            let task = |context: &u64, x: u64| (x + context, std::process::id());
            (0..4u64).map(|x| pool.with(&1u64).apply_async((x,), task)).collect()
        },
        &|| {
            let task = |context: &Vec<u8>, x: u64| (x + context.len() as u64 - 299_999, std::process::id());
            (0..4u64).map(|x| context().apply_async((x,), task)).collect()
        },
        &|| {
            let task = |x: u64, large: Vec<u8>| (x + large.len() as u64 - 299_999, std::process::id());
            (0..4u64).map(|x| pool.apply_async((x, large.clone()), task)).collect()
        },
    ];
    for (submit, pid) in calls.iter().zip(pool.pids().into_iter().cycle()) {
        stage::signal(pid, Signal::SIGSTOP);
        stage::until("a stopped worker", || Process::find(pid).unwrap().state == 'T');
        let (values, pids): (Vec<u64>, BTreeSet<u32>) = submit().iter().map(|handle| handle.get().unwrap()).unzip();
        assert_eq!(values, [1, 2, 3, 4]);
        assert!(!pids.contains(&pid));
        stage::signal(pid, Signal::SIGCONT);
        let mut seen = BTreeSet::new();
        stage::until("both workers", || {
            seen.extend(submit().iter().map(|handle| handle.get().unwrap().1));
            seen.len() == 2
        });
    }
    assert_eq!(pool.pids().len(), 2);
}

/// The kernel sends SIGHUP to a process group with a stopped member when it becomes orphaned: when its last tie to its
/// session ends, such as a worker's fork server. The group of a task's own programs is the worker's.
fn stopped_worker_outlives_its_server(method: StartMethod) {
    let pool = stage::pool(method, 2);
    // The first workers of `fork` are children of this process, and only those that follow are of the template.
    let first = pool.pids();
    first.iter().for_each(|&pid| stage::signal(pid, Signal::SIGKILL));
    let workers = stage::until_replaced(&pool, 2, &first);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let running = pool.apply_async((gate.path(), book.path()), |gate, book| {
        let mut program = Command::new("sleep").arg("1000").spawn().unwrap();
        stage::note(&book, std::process::id());
        stage::pass(&gate);
        let end = program.try_wait().unwrap();
        program.kill().unwrap();
        program.wait().unwrap();
        end.map(|end| end.to_string())
    });
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    assert!(workers.contains(&pid));
    stop(Some(pid));
    if let Some(server) = starter_of(pid) {
        stage::signal(server, Signal::SIGKILL);
        stage::until_ended(&[server]);
    }
    stage::signal(pid, Signal::SIGCONT);
    gate.open();
    assert_eq!(running.get().unwrap(), None, "a program of the task has ended");
}

/// In a worker that starts: kills its server, if it has one that lives, and then itself.
fn die_with_the_server(case: u32) {
    let parent = std::os::unix::process::parent_id();
    if Process::find(parent).is_some_and(|server| server.parent == case) {
        stage::signal_if_there(parent, Signal::SIGKILL);
    }
    nix::sys::signal::raise(Signal::SIGKILL).unwrap();
}

/// Their statuses are unknown, and say nothing about the next worker, as if they were known to be killed.
fn starting_workers_that_die_with_their_servers_break_no_pool(method: StartMethod) {
    const DEATHS: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let begin = |(folder, case): (PathBuf, u32)| {
        let is_first = |number: usize| stage::first_to_claim(folder.join(number.to_string()).to_str().unwrap());
        if (0..DEATHS).any(is_first) {
            die_with_the_server(case);
        }
    };
    let builder = Pool::builder().processes(2).start_method(method);
    let pool = builder.initializer(((folder.path().to_owned(), std::process::id()),), begin).build().unwrap();
    stage::assert_works(&pool);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), DEATHS);
}
