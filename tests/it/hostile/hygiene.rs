//! The state in which a worker starts, and tasks that change or misuse their process.

use std::fs;
use std::io::Read;
use std::io::Write;

use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;
use nix::sched::CpuSet;
use nix::sched::sched_getaffinity;
use nix::sched::sched_setaffinity;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use procpool::Pool;
use procpool::StartMethod;

use crate::faults::failpoints::arm;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::processes::Process;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    worker_has_its_own_group_and_a_clean_signal_state,
    worker_carries_the_name_of_the_pool,
    worker_has_few_descriptors,
    workers_of_one_pool_hold_nothing_of_another,
    descriptors_that_the_parent_has_leaked_reach_no_executed_program,
    task_that_reads_stdin_sees_its_end,
    task_that_prints_works,
    printed_output_is_not_doubled,
    task_that_starts_threads_and_children_works,
    task_that_closes_its_descriptors_loses_only_itself,
    task_that_writes_into_every_descriptor_hangs_nothing,
    task_that_changes_its_signal_mask_works_on,
    interrupting_the_parents_group_spares_workers,
    environment_changes_stay_in_the_worker,
    bursts_of_calls_change_no_set_of_processors,
    one_processor_is_enough_for_bursts_of_calls,
    filter_that_kills_for_migrating_kills_no_worker,
];

fn status_field(name: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

fn worker_has_its_own_group_and_a_clean_signal_state(method: StartMethod) {
    sys::ignore(Signal::SIGUSR1);
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGUSR2);
    mask.thread_block().unwrap();
    let pool = stage::pool(method, 2);
    let ids: fn(u8) -> [i32; 3] = |_| {
        let session = nix::unistd::getsid(None).unwrap();
        [nix::unistd::getpid(), nix::unistd::getpgrp(), session].map(nix::unistd::Pid::as_raw)
    };
    let ids = pool.map(0..20u8, ids).unwrap();
    assert!(ids.iter().all(|&[pid, group, session]| pid == group && pid == session), "{ids:?}");
    assert_eq!(pool.apply((0u8,), |_| status_field("SigBlk:")).unwrap(), "0000000000000000");
    let ignored = pool.apply((0u8,), |_| status_field("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(&ignored, 16).unwrap();
    assert_eq!(ignored & (1 << (Signal::SIGUSR1 as i32 - 1)), 0, "SIGUSR1 is still ignored");
    mask.thread_unblock().unwrap();
}

fn worker_carries_the_name_of_the_pool(method: StartMethod) {
    let pool = Pool::builder().processes(2).start_method(method).name("resizer").build().unwrap();
    stage::until_all_work(&pool);
    for pid in pool.pids() {
        let comm = Process::find(pid).unwrap().comm;
        assert!(comm.starts_with("resizer"), "{comm}");
    }
}

/// 0, 1, 2, the control socket, the link and the lifeline: none of them leads to another worker.
fn worker_has_few_descriptors(method: StartMethod) {
    let own: Vec<(i32, String)> = processes::descriptors(std::process::id());
    let pool = stage::pool(method, 4);
    stage::until_all_work(&pool);
    for pid in pool.pids() {
        let descriptors = processes::descriptors(pid);
        assert_eq!(descriptors[0], (0, "/dev/null".to_owned()));
        // A fork keeps descriptors that were open before the pool was made: they are the user's.
        let ours: Vec<_> = descriptors.iter().filter(|entry| entry.0 > 2 && !own.contains(entry)).collect();
        let sockets = ours.iter().filter(|(_, target)| target.starts_with("socket:")).count();
        assert!(sockets <= 3 && ours.len() <= 4, "{descriptors:?}");
    }
}

fn workers_of_one_pool_hold_nothing_of_another(method: StartMethod) {
    let first = stage::pool(method, 2);
    stage::until_all_work(&first);
    let second = stage::pool(method, 2);
    stage::until_all_work(&second);
    let holdings: Vec<Vec<String>> = first.pids().into_iter().chain(second.pids()).map(own_sockets).collect();
    for (index, sockets) in holdings.iter().enumerate() {
        assert!(!sockets.is_empty());
        for others in &holdings[..index] {
            assert!(sockets.iter().all(|socket| !others.contains(socket)), "{holdings:?}");
        }
    }
}

/// With both ways to close them: all from a number on, where the C library can, and each by its number.
fn descriptors_that_the_parent_has_leaked_reach_no_executed_program(method: StartMethod) {
    let leaked = fcntl(std::io::stderr(), FcntlArg::F_DUPFD(200)).unwrap();
    for rules in ["", "parent close_from 1- errno 38"] {
        arm(rules);
        let pool = stage::pool(method, 1);
        let leaks = pool.apply((leaked,), |number| {
            processes::descriptors(std::process::id()).iter().any(|(open, _)| *open == number)
        });
        // A fork copies what the user has open.
        assert_eq!(leaks.unwrap(), method == StartMethod::Fork, "{rules:?}");
    }
    nix::unistd::close(leaked).unwrap();
}

fn own_sockets(pid: u32) -> Vec<String> {
    let targets = processes::descriptors(pid).into_iter().map(|(_, target)| target);
    targets.filter(|target| target.starts_with("socket:")).collect()
}

fn task_that_reads_stdin_sees_its_end(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let read = pool.apply((0u8,), |_| {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(read.unwrap(), "");
}

fn task_that_prints_works(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let written = pool.map(0..50u32, |x| {
        let line = format!("{x} {}\n", "printed by a task ".repeat(50));
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        line.len()
    });
    assert!(written.unwrap().iter().all(|&length| length > 900));
}

/// Output that this process has buffered when workers start must not be printed by them as well.
fn printed_output_is_not_doubled(method: StartMethod) {
    let book = Notebook::new();
    let file = fs::OpenOptions::new().append(true).create(true).open(book.path()).unwrap();
    let saved = nix::unistd::dup(std::io::stdout()).unwrap();
    nix::unistd::dup2_stdout(&file).unwrap();
    drop(file);
    // No newline: it stays in the buffer.
    std::io::stdout().write_all(b"buffered in the parent;").unwrap();
    let pool = stage::pool(method, 3);
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
    std::io::stdout().write_all(b"\n").unwrap();
    std::io::stdout().flush().unwrap();
    nix::unistd::dup2_stdout(&saved).unwrap();
    assert_eq!(book.lines().concat().matches("buffered in the parent;").count(), 1);
}

fn task_that_starts_threads_and_children_works(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let sums = pool.map(0..10u32, |x| {
        let threads: Vec<_> = (0..4).map(|y| std::thread::spawn(move || x * y)).collect();
        let echoed = std::process::Command::new("echo").arg(x.to_string()).output().unwrap();
        let echoed: u32 = String::from_utf8(echoed.stdout).unwrap().trim().parse().unwrap();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>() + echoed
    });
    assert_eq!(sums.unwrap(), (0..10).map(|x| 7 * x).collect::<Vec<_>>());
}

fn task_that_closes_its_descriptors_loses_only_itself(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let results = pool
        .chunk_size(1)
        .map_results(0..20u32, |x| {
            if x == 7 {
                for fd in 3..200 {
                    let _ = nix::unistd::close(fd);
                }
            }
            x
        })
        .unwrap();
    assert_eq!(results.len(), 20);
    for (x, result) in (0u32..).zip(results) {
        match result {
            Ok(value) => assert_eq!(value, x),
            Err(error) => assert_eq!(x, 7, "{error:?}"),
        }
    }
    stage::assert_works(&pool);
}

fn task_that_writes_into_every_descriptor_hangs_nothing(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let results = pool
        .chunk_size(1)
        .map_results(0..20u32, |x| {
            if x == 7 {
                for (fd, _) in processes::descriptors(std::process::id()).into_iter().filter(|(fd, _)| *fd > 2) {
                    sys::write_anyway(fd, b"hello, is anybody there? this is no frame of yours");
                }
            }
            x
        })
        .unwrap();
    for (x, result) in (0u32..).zip(results) {
        match result {
            Ok(value) => assert_eq!(value, x),
            Err(error) => assert_eq!(x, 7, "{error:?}"),
        }
    }
    stage::assert_works(&pool);
}

fn task_that_changes_its_signal_mask_works_on(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.apply((0u8,), |_| SigSet::all().thread_block().unwrap()).unwrap();
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
}

fn interrupting_the_parents_group_spares_workers(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    let before = pool.pids();
    sys::ignore(Signal::SIGINT);
    nix::sys::signal::killpg(nix::unistd::getpgrp(), Signal::SIGINT).unwrap();
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), before);
}

fn environment_changes_stay_in_the_worker(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let here = std::env::current_dir().unwrap();
    pool.apply((0u8,), |_| std::env::set_current_dir("/").unwrap()).unwrap();
    assert_eq!(pool.apply((0u8,), |_| std::env::current_dir().unwrap()).unwrap().display().to_string(), "/");
    assert_eq!(std::env::current_dir().unwrap(), here);
}

/// Bursts after pauses make a worker migrate from the CPU of its caller.
fn burst(pool: &Pool) {
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        for x in 0..100u32 {
            assert_eq!(pool.apply((x,), |x| x + 1).unwrap(), x + 1);
        }
    }
}

fn bursts_of_calls_change_no_set_of_processors(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let allowed = status_field("Cpus_allowed:");
    burst(&pool);
    for _ in 0..4 {
        assert_eq!(pool.apply((0,), |_: u8| status_field("Cpus_allowed:")).unwrap(), allowed);
    }
    assert_eq!(status_field("Cpus_allowed:"), allowed);
}

/// With a single CPU there is none to migrate to.
fn one_processor_is_enough_for_bursts_of_calls(method: StartMethod) {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).unwrap();
    let first = (0..CpuSet::count()).find(|&number| allowed.is_set(number).unwrap()).unwrap();
    let mut only = CpuSet::new();
    only.set(first).unwrap();
    sched_setaffinity(this_thread, &only).unwrap();
    let pool = stage::pool(method, 2);
    burst(&pool);
    assert_eq!(pool.map(0..1000u32, |x| x).unwrap(), (0..1000).collect::<Vec<_>>());
}

fn forbid_moves(_: u8) {
    sys::kill_for_moves();
}

/// The filter is installed before the pool is made, or by its initializer.
fn filter_that_kills_for_migrating_kills_no_worker(method: StartMethod) {
    let pool = Pool::builder().processes(2).start_method(method).initializer((0,), forbid_moves).build().unwrap();
    stage::until_all_work(&pool);
    let pids = pool.pids();
    burst(&pool);
    assert_eq!(pool.pids(), pids);
    drop(pool);
    sys::kill_for_moves();
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let pids = pool.pids();
    burst(&pool);
    assert_eq!(pool.pids(), pids);
}
