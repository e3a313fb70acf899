//! Workers that fail to start, and system calls that fail during a start, at every point.

use std::fs;
use std::fs::File;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::faults::failpoints::arm;
use crate::faults::failpoints::assert_all_there;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;

cases![
    death_at_any_point_of_a_start_is_made_good,
    starts_that_always_die_break_the_pool,
    starts_that_are_always_killed_break_the_pool,
    worker_that_hangs_before_its_hello_is_given_up,
    workers_that_always_hang_break_the_pool,
    refused_processes_are_told_or_made_good,
    pool_goes_on_with_those_it_has,
    any_call_that_fails_once_is_told_or_made_good,
    pool_without_shared_memory_works,
    worker_that_cannot_map_its_memory_is_reached_by_a_socket,
];

/// Where the fork of a worker may fail with `method`, templates excepted: in which process, at which point.
fn refusals(method: StartMethod) -> &'static [&'static str] {
    match method {
        StartMethod::Fork => &["parent fork", "fork-template fork"],
        StartMethod::Spawn => &["parent execute"],
        StartMethod::Forkserver => &["parent execute", "forkserver fork"],
    }
}

fn build_and_map(method: StartMethod) -> Result<Vec<u32>, TaskError> {
    let pool = Pool::builder().processes(2).start_method(method).build()?;
    pool.map(0..10u32, |x| x)
}

/// Returns the error that broke the pool.
#[track_caller]
fn broken(result: Result<Vec<u32>, TaskError>) -> (u32, PoolError) {
    match result {
        Err(TaskError::Refused(PoolError::Broken { failures, last })) => (failures, *last),
        other => panic!("not broken: {other:?}"),
    }
}

fn death_at_any_point_of_a_start_is_made_good(method: StartMethod) {
    for point in ["at_birth", "before_hello", "after_hello", "before_ready", "after_ready"] {
        for action in ["kill", "exit 0", "abort"] {
            arm(&format!("procpool-0 {point} 1 {action}"));
            let pool = stage::pool(method, 2);
            stage::assert_works(&pool);
            assert_all_there(&pool);
        }
    }
}

fn starts_that_always_die_break_the_pool(method: StartMethod) {
    for point in ["before_hello", "before_ready"] {
        arm(&format!("procpool-* {point} 1 exit 3"));
        let (failures, last) = broken(build_and_map(method));
        // At most one more for each worker that was starting when the third failed.
        assert!((3..=5).contains(&failures), "{point}: {failures} starts");
        let PoolError::DiedStarting { status: Some(status), .. } = last else { panic!("{point}: {last:?}") };
        assert_eq!(status.code(), Some(3));
    }
}

/// Kills from outside may stop, so it takes many more failures.
fn starts_that_are_always_killed_break_the_pool(method: StartMethod) {
    arm("procpool-* before_hello 1 kill");
    let (failures, last) = broken(build_and_map(method));
    assert!((100..=102).contains(&failures), "{failures} starts");
    assert!(matches!(last, PoolError::DiedStarting { .. }), "{last:?}");
}

fn worker_that_hangs_before_its_hello_is_given_up(method: StartMethod) {
    for point in ["at_birth", "before_hello"] {
        let mut gate = Gate::closed();
        arm(&format!("procpool-0 {point} 1 wait {}; parent hello_timeout 1 ms 300", gate.path()));
        let pool = stage::pool(method, 1);
        let hung = stage::pool_pid(&pool);
        stage::assert_works(&pool);
        assert!(!pool.pids().contains(&hung));
        stage::until_ended(&[hung]);
        gate.open();
    }
    // A stopped process reacts to SIGKILL only.
    arm("procpool-0 before_hello 1 stop; parent hello_timeout 1 ms 300");
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
}

fn workers_that_always_hang_break_the_pool(method: StartMethod) {
    let gate = Gate::closed();
    arm(&format!("procpool-* before_hello 1 wait {}; parent hello_timeout 1- ms 100", gate.path()));
    let (_, last) = broken(build_and_map(method));
    assert!(matches!(last, PoolError::Start(StartError::HelloTimeout { .. })), "{last:?}");
}

fn refused_processes_are_told_or_made_good(method: StartMethod) {
    let before = processes::descriptors(std::process::id());
    for place in refusals(method) {
        for (errno, hits) in [(Errno::EAGAIN, "1-"), (Errno::ENOMEM, "1-"), (Errno::EAGAIN, "1"), (Errno::EAGAIN, "2")]
        {
            arm(&format!("{place} {hits} errno {}", errno as i32));
            let told = |error: PoolError| match error {
                PoolError::Start(StartError::System { errno: found, .. }) => assert_eq!(found, errno as i32),
                other => panic!("{place} {hits}: {other:?}"),
            };
            match build_and_map(method) {
                Ok(values) => assert_eq!(values, (0..10).collect::<Vec<_>>()),
                Err(TaskError::Refused(PoolError::Broken { last, .. })) => told(*last),
                Err(TaskError::Refused(error)) => told(error),
                Err(other) => panic!("{place} {hits}: {other:?}"),
            }
            stage::until_nothing_is_left(&before);
        }
    }
}

fn pool_goes_on_with_those_it_has(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let shortage = folder.path().join("shortage");
    let rules = refusals(method).iter();
    let rules = rules.map(|place| format!("{place} 1- errno {} while {};", libc::EAGAIN, shortage.display()));
    arm(&rules.collect::<String>());
    let pool = stage::pool(method, 3);
    for _ in 0..2 {
        stage::until_all_work(&pool);
        let victims = pool.pids();
        File::create(&shortage).unwrap();
        victims[..2].iter().for_each(|&pid| stage::signal(pid, Signal::SIGKILL));
        stage::until("two deaths", || pool.pids() == victims[2..]);
        for _ in 0..20 {
            stage::assert_works(&pool);
        }
        fs::remove_file(&shortage).unwrap();
        stage::until_replaced(&pool, 3, &victims[..2]);
    }
    stage::until_all_work(&pool);
    // With no worker left, the pool breaks after as many attempts as it has workers.
    File::create(&shortage).unwrap();
    pool.pids().into_iter().for_each(stage::kill_if_there);
    let (_, last) = match pool.map_results(0..10u32, |x| x) {
        Err(error) => broken(Err(error)),
        Ok(results) => broken(results.into_iter().collect()),
    };
    assert!(matches!(last, PoolError::Start(StartError::System { errno: libc::EAGAIN, .. })), "{last:?}");
}

/// The n-th call of each kind that this process makes for a pool fails, for every n until there is no n-th call.
fn any_call_that_fails_once_is_told_or_made_good(method: StartMethod) {
    arm("");
    let before = processes::descriptors(std::process::id());
    for point in ["socketpair", "memfd", "eventfd", "pipe", "lifeline", "pidfd", "fork", "execute", "thread"] {
        for hit in 1..=5 {
            arm(&format!("parent {point} {hit} errno {}", libc::ENFILE));
            match build_and_map(method) {
                Ok(values) => assert_eq!(values, (0..10).collect::<Vec<_>>()),
                Err(TaskError::Refused(PoolError::Start(_) | PoolError::System { .. })) => {}
                Err(other) => panic!("{point} {hit}: {other:?}"),
            }
            stage::until_nothing_is_left(&before);
        }
    }
}

/// The kernel has no memfds, or a seccomp filter forbids them: in this process, and in the workers.
fn pool_without_shared_memory_works(method: StartMethod) {
    for process in ["parent", "procpool-*"] {
        arm(&format!("{process} memfd 1- errno {0}; {process} blob 1- errno {0}", libc::ENOSYS));
        let pool = stage::pool(method, 2);
        stage::assert_works(&pool);
        let (sent, received) =
            (pool.apply((vec![7u8; 1 << 20],), |bytes| bytes.len()), pool.apply((1usize << 20,), |len| vec![7u8; len]));
        match process {
            // Large values from the parent need files.
            "parent" => assert!(matches!(sent, Err(TaskError::Encode { .. })), "{sent:?}"),
            _ => assert!(matches!(received, Err(TaskError::Encode { .. })), "{received:?}"),
        }
        stage::assert_works(&pool);
    }
}

fn worker_that_cannot_map_its_memory_is_reached_by_a_socket(method: StartMethod) {
    for workers in ["procpool-0", "procpool-*"] {
        arm(&format!("{workers} map 1- errno {}", libc::ENOMEM));
        let pool = stage::pool(method, 2);
        stage::assert_works(&pool);
        assert_all_there(&pool);
    }
}
