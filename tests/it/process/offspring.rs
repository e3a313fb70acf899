//! Processes in workers and in processes, pools in processes; and that none of them outlives its parent.

use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::PoolError;
use procpool::StartError;
use procpool::StartMethod;
use procpool::process::OnDrop;
use procpool::process::ProcessError;

use super::by;
use super::park;
use super::parse;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    processes_in_workers_and_in_processes,
    pools_in_processes,
    eleventh_generation_is_refused,
    killed_parent_takes_its_processes_along,
    parent_that_ends_takes_its_processes_along,
    detached_process_of_a_worker_ends_with_it,
    copy_that_returns_from_the_function_answers_nothing,
    copy_that_stays_holds_nothing_up,
];

fn square(x: u64) -> u64 {
    x * x
}

fn square_there(method: String, x: u64) -> u64 {
    by(parse(&method)).spawn((x,), square).unwrap().join().unwrap()
}

fn processes_in_workers_and_in_processes(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for inner in StartMethod::ALL {
        let squares = pool.starmap((0..4u64).map(|x| (inner.to_string(), x)), square_there).unwrap();
        assert_eq!(squares, [0, 1, 4, 9], "{inner} in a worker by {method}");
        let process = by(method).spawn((inner.to_string(), 5), square_there).unwrap();
        assert_eq!(process.join().unwrap(), 25, "{inner} in {method}");
    }
    // The processes were forked in the middle of a task: the panics of both are told by their own.
    let panics: fn(String) -> String = |method| {
        let inside: fn() = || panic!("inside");
        let error: ProcessError = by(parse(&method)).spawn((), inside).unwrap().join().unwrap_err();
        panic!("outside of: {error}")
    };
    for inner in StartMethod::ALL {
        let error = pool.apply((inner.to_string(),), panics).unwrap_err().to_string();
        assert!(error.contains("outside of: process ") && error.contains("panicked: inside"), "{error}");
    }
}

fn pools_in_processes(method: StartMethod) {
    let sum: fn(String) -> u64 = |method| {
        let pool = stage::pool(parse(&method), 2);
        let sum = pool.map(0..10u64, square).unwrap().iter().sum();
        pool.close();
        pool.join().unwrap();
        sum
    };
    for inner in StartMethod::ALL {
        assert_eq!(by(method).spawn((inner.to_string(),), sum).unwrap().join().unwrap(), 285, "{inner} in {method}");
    }
}

/// Starts the next generation; returns how many there were, and the error that ended it.
fn descend(method: String) -> (u32, String) {
    let nested = by(parse(&method)).spawn((method,), descend);
    match nested {
        Ok(process) => {
            let (count, error) = process.join().unwrap();
            (count + 1, error)
        }
        Err(ProcessError::Start(StartError::NestedTooDeep { limit: 10, .. })) => {
            let pool = procpool::Pool::new(1);
            assert!(matches!(pool, Err(PoolError::NestedTooDeep { .. })));
            (0, "too deep".to_owned())
        }
        Err(error) => (0, error.to_string()),
    }
}

fn eleventh_generation_is_refused(method: StartMethod) {
    assert_eq!(descend(method.to_string()), (10, "too deep".to_owned()));
}

/// Starts one process of each kind, notes them, and ends in the way that is asked for.
fn father(method: String, book: String, way: String) {
    let builder = by(parse(&method));
    let held = builder.clone().spawn((), park).unwrap();
    let detached = builder.clone().on_drop(OnDrop::Detach).spawn((), park).unwrap();
    let joined = builder.clone().on_drop(OnDrop::Join).spawn((), park).unwrap();
    [&held, &detached, &joined].into_iter().for_each(|process| stage::note(&book, process.pid()));
    let leaked = builder.spawn((), park).unwrap();
    stage::note(&book, leaked.pid());
    std::mem::forget(leaked);
    detached.detach();
    match way.as_str() {
        "exit" => std::process::exit(0),
        "abort" => std::process::abort(),
        "end" => {
            // What would wait for ever.
            std::mem::forget(joined);
        }
        _ => park(),
    }
}

/// Starts a father, and returns it with its children.
fn family(method: StartMethod, way: &str) -> (procpool::process::Process<()>, Vec<u32>) {
    let book = Notebook::new();
    let father = by(method).spawn((method.to_string(), book.path(), way.to_owned()), father).unwrap();
    let pids = book.wait_for(4).iter().map(|line| line.parse().unwrap()).collect();
    (father, pids)
}

fn killed_parent_takes_its_processes_along(method: StartMethod) {
    for stopped in [false, true] {
        let (father, mut pids) = family(method, "wait");
        pids.extend(processes::descendants(father.pid()).iter().map(|process| process.pid));
        let pidfds: Vec<_> = pids.iter().map(|&pid| sys::pidfd_open(pid).unwrap()).collect();
        if stopped {
            pids.iter().for_each(|&pid| stage::signal(pid, Signal::SIGSTOP));
        }
        father.kill().unwrap();
        father.join().unwrap_err();
        for pidfd in &pidfds {
            assert!(sys::readable_within(pidfd, Duration::from_secs(20)).unwrap(), "it outlived its parent");
        }
    }
}

fn parent_that_ends_takes_its_processes_along(method: StartMethod) {
    for way in ["exit", "abort", "end"] {
        let (father, pids) = family(method, way);
        assert_eq!(father.join().is_ok(), way == "end");
        stage::until_ended(&pids);
    }
}

fn detached_process_of_a_worker_ends_with_it(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let start: fn(String) -> u32 = |method| {
        let process = by(parse(&method)).spawn((), park).unwrap();
        let pid = process.pid();
        process.detach();
        pid
    };
    let pid = pool.apply((method.to_string(),), start).unwrap();
    assert!(!processes::ended(pid));
    drop(pool);
    stage::until_ended(&[pid]);
}

fn copy_that_returns_from_the_function_answers_nothing(method: StartMethod) {
    for len in [1usize, 1 << 20] {
        let forks: fn(usize) -> (bool, Vec<u8>) = |len| {
            let is_original = sys::fork().is_some();
            (is_original, vec![7; len])
        };
        let process = by(method).spawn((len,), forks).unwrap();
        let (is_original, bytes) = process.join().unwrap();
        assert!(is_original && bytes.len() == len);
        assert!(process.exit_status().unwrap().unwrap().success());
    }
}

fn copy_that_stays_holds_nothing_up(method: StartMethod) {
    let forks: fn() -> u32 = sys::forked_copy;
    let process = by(method).spawn((), forks).unwrap();
    let copy = process.join().unwrap();
    stage::kill_if_there(copy);

    let dies: fn(String) -> u32 = |book| {
        stage::note(&book, sys::forked_copy());
        std::process::abort()
    };
    let book = Notebook::new();
    let process = by(method).spawn((book.path(),), dies).unwrap();
    assert!(matches!(process.join(), Err(ProcessError::Died { .. })));
    stage::kill_if_there(book.lines()[0].parse().unwrap());
}
