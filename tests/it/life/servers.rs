//! The fork server, and the template from which `fork` starts replacements.
//!
//! These cases run with all methods too: where a method has no such process, they check just that.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

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

cases![
    forkserver_runs_for_its_method_only,
    one_forkserver_serves_all_pools,
    running_tasks_survive_the_forkserver,
    long_task_survives_a_stopped_forkserver,
    long_task_survives_a_killed_starter,
    dead_forkserver_is_replaced,
    stopping_the_forkserver_harms_no_pool,
    forkserver_shrugs_off_the_terminals_signals,
    preload_is_seen_by_forkserver_workers_only,
    preload_after_the_start_is_refused,
    panicking_preload_is_an_error,
    dead_template_hangs_nothing,
    servers_reap_at_once,
];

static PRELOADED: AtomicU32 = AtomicU32::new(0);

fn forkserver_runs_for_its_method_only(method: StartMethod) {
    assert_eq!(forkserver::pid(), None);
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    assert_eq!(forkserver::pid().is_some(), method == StartMethod::Forkserver);
    if let Some(server) = forkserver::pid() {
        let server = Process::find(server).unwrap();
        assert_eq!(server.parent, std::process::id());
        assert_ne!(server.group, nix::unistd::getpgrp().as_raw().unsigned_abs());
        assert!(pool.pids().iter().all(|&pid| Process::find(pid).unwrap().parent == server.pid));
    }
    drop(pool);
    forkserver::stop();
    assert_eq!(forkserver::pid(), None);
}

fn one_forkserver_serves_all_pools(method: StartMethod) {
    let pools = [stage::pool(method, 1), stage::pool(method, 1), stage::pool(method, 1)];
    pools.iter().for_each(stage::assert_works);
    let parents = pools.iter().flat_map(Pool::pids).map(|pid| Process::find(pid).unwrap().parent);
    let expected = forkserver::pid().unwrap_or(std::process::id());
    assert!(parents.into_iter().all(|parent| parent == expected));
}

fn running_tasks_survive_the_forkserver(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let running = stage::held(&pool, &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    if let Some(server) = forkserver::pid() {
        stage::signal(server, Signal::SIGKILL);
        stage::until_ended(&[server]);
    }
    stage::assert_works(&pool);
    gate.open();
    assert_eq!(running.get().unwrap(), pid);
}

/// Longer than a pool waits for the exit status of a worker.
const LONG: Duration = Duration::from_millis(1500);

/// Runs a task that is still busy long after `end_the_starter`, and expects its result from the same worker.
fn assert_long_task_survives(pool: &Pool, end_the_starter: impl FnOnce()) {
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let running = stage::held(pool, &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    end_the_starter();
    let ended = Instant::now();
    assert_eq!(running.get_timeout(LONG).unwrap(), None);
    stage::until("a long time", || ended.elapsed() >= LONG);
    assert!(pool.pids().contains(&pid));
    gate.open();
    assert_eq!(running.get().unwrap(), pid);
    stage::assert_works(pool);
}

fn long_task_survives_a_stopped_forkserver(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    assert_long_task_survives(&pool, forkserver::stop);
}

/// The starter of a replacement is the template (`fork`), the server (`forkserver`) or this process (`spawn`).
fn long_task_survives_a_killed_starter(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let victims = pool.pids();
    stage::signal(victims[0], Signal::SIGKILL);
    let replacements = stage::until_replaced(&pool, 1, &victims);
    let starter = Process::find(replacements[0]).unwrap().parent;
    assert_long_task_survives(&pool, || {
        if starter != std::process::id() {
            stage::signal(starter, Signal::SIGKILL);
            stage::until_ended(&[starter]);
        }
    });
}

fn dead_forkserver_is_replaced(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..3 {
        stage::assert_works(&pool);
        let (server, victims) = (forkserver::pid(), pool.pids());
        for pid in server.iter().chain(&victims) {
            stage::signal(*pid, Signal::SIGKILL);
        }
        stage::assert_works(&pool);
        stage::until_replaced(&pool, 2, &victims);
        assert_eq!(forkserver::pid().is_some(), method == StartMethod::Forkserver);
        assert!(server.is_none() || forkserver::pid() != server);
    }
}

fn stopping_the_forkserver_harms_no_pool(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    let before = pool.pids();
    forkserver::stop();
    assert_eq!(forkserver::pid(), None);
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), before);
    stage::signal(before[0], Signal::SIGKILL);
    stage::until_replaced(&pool, 2, &before[..1]);
    stage::assert_works(&pool);
}

fn forkserver_shrugs_off_the_terminals_signals(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let server = forkserver::pid();
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        server.iter().for_each(|&pid| stage::signal(pid, signal));
    }
    // The request for a new worker comes after the signals, so the server has received them when it replies.
    let other = stage::pool(method, 1);
    stage::assert_works(&other);
    assert_eq!(forkserver::pid(), server);
    stage::assert_works(&pool);
}

fn preload_is_seen_by_forkserver_workers_only(method: StartMethod) {
    forkserver::preload(|| PRELOADED.store(PRELOADED.load(Ordering::SeqCst) + 31, Ordering::SeqCst)).unwrap();
    let pool = Pool::builder().processes(2).start_method(method).max_tasks_per_child(1).build().unwrap();
    let seen = pool.map(0..6u8, |_| PRELOADED.load(Ordering::SeqCst)).unwrap();
    let expected = if method == StartMethod::Forkserver { 31 } else { 0 };
    assert_eq!(seen, [expected; 6]);
    assert_eq!(PRELOADED.load(Ordering::SeqCst), 0, "it ran in this process");
}

fn preload_after_the_start_is_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let answer = forkserver::preload(|| PRELOADED.store(1, Ordering::SeqCst));
    assert_eq!(answer.is_err(), method == StartMethod::Forkserver, "{answer:?}");
    stage::assert_works(&pool);
}

fn panicking_preload_is_an_error(method: StartMethod) {
    forkserver::preload(|| panic!("preloading on a bad day")).unwrap();
    let built = Pool::builder().processes(1).start_method(method).build();
    if method != StartMethod::Forkserver {
        stage::assert_works(&built.unwrap());
        return;
    }
    // It is reported by `build` or by the first task, and nothing hangs.
    let error = match built {
        Err(error) => error,
        Ok(pool) => match pool.apply((1u8,), |x| x) {
            Err(TaskError::Refused(error)) => error,
            other => panic!("{other:?}"),
        },
    };
    assert!(error.to_string().contains("preloading on a bad day"), "{error}");
}

/// The parent of a replacement is the template (`fork`), the server (`forkserver`) or this process (`spawn`).
fn dead_template_hangs_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let replace = |pool: &Pool| {
        let victim = pool.pids()[0];
        stage::signal(victim, Signal::SIGKILL);
        stage::until_replaced(pool, 1, &[victim])[0]
    };
    let replacement = replace(&pool);
    stage::assert_works(&pool);
    let template = Process::find(replacement).unwrap().parent;
    if template == std::process::id() {
        assert_eq!(method, StartMethod::Spawn);
        return;
    }
    stage::signal(template, Signal::SIGKILL);
    stage::until_ended(&[template]);
    // The existing worker is unaffected.
    stage::assert_works(&pool);
    stage::signal(replacement, Signal::SIGKILL);
    // A fork server is restarted. The state of a template is lost with it, so that the pool can only report it.
    match (method, pool.map(0..10u32, |x| x)) {
        (StartMethod::Forkserver, result) => {
            assert_eq!(result.unwrap(), (0..10).collect::<Vec<_>>())
        }
        (_, Ok(values)) => assert_eq!(values, (0..10).collect::<Vec<_>>()),
        (_, Err(TaskError::Refused(error))) => {
            assert!(matches!(error, PoolError::Broken { .. }), "{error:?}")
        }
        (_, Err(other)) => panic!("{other:?}"),
    }
    pool.close();
    assert!(matches!(pool.join(), Ok(()) | Err(PoolError::Broken { .. })));
}

fn servers_reap_at_once(method: StartMethod) {
    let pool = stage::pool(method, 4);
    for _ in 0..5 {
        let victims = pool.pids();
        for &victim in &victims {
            stage::signal(victim, Signal::SIGKILL);
        }
        stage::until_replaced(&pool, 4, &victims);
        stage::until("no zombies", || victims.iter().all(|&pid| Process::find(pid).is_none()));
    }
    assert!(processes::descendants(std::process::id()).len() <= 6, "only workers and a server");
}
