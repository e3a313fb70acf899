//! Many processes at once, killed at random and at every step of their lives.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use procpool::StartError;
use procpool::StartMethod;
use procpool::process;
use procpool::process::OnDrop;
use procpool::process::Process;
use procpool::process::ProcessError;
use start_methods::failpoint;

use super::by;
use crate::faults::failpoints;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;

cases![
    many_processes_at_once,
    many_threads_start_processes,
    killed_at_any_time_it_answers_or_is_told,
    death_at_any_point_is_told,
    starts_that_fail_leave_nothing,
    long_running_parent_leaks_nothing,
];

fn square(x: u64) -> u64 {
    x * x
}

fn many_processes_at_once(method: StartMethod) {
    sys::want_descriptors(1000);
    let all: Vec<Process<u64>> = (0..60u64).map(|x| by(method).spawn((x,), square).unwrap()).collect();
    for (x, process) in (0..60u64).zip(&all) {
        assert_eq!(process.join().unwrap(), x * x);
        assert_eq!(process.name(), format!("Process-{}", x + 1));
    }
}

fn many_threads_start_processes(method: StartMethod) {
    if method == StartMethod::Fork {
        // Refused beside threads; see `spawns::fork_beside_threads_is_refused`.
        return;
    }
    thread::scope(|scope| {
        for thread in 0..8u64 {
            scope.spawn(move || {
                for x in thread * 5..thread * 5 + 5 {
                    let process = by(method).spawn((x,), square).unwrap();
                    assert_eq!(process.join().unwrap(), x * x);
                }
            });
        }
    });
    assert!(process::active().is_empty());
}

/// The steps of a generator of numbers that look random (SplitMix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn killed_at_any_time_it_answers_or_is_told(method: StartMethod) {
    let mut state = u64::from(std::process::id());
    let mut answers = [0; 2];
    for round in 0..60u64 {
        let len = [8, 1000, 200_000][usize::try_from(round % 3).unwrap()];
        let process = by(method).spawn((len, round), |len: usize, x: u64| vec![x; len]).unwrap();
        // Up to twice as long as a start takes on a quick machine: some have not begun, some have ended.
        thread::sleep(Duration::from_micros(random(&mut state) % 8000));
        process.kill().unwrap();
        match process.join() {
            Ok(values) => {
                assert!(values.len() == len && values.iter().all(|&value| value == round));
                answers[0] += 1;
            }
            Err(ProcessError::Died { status: Some(status), .. }) => {
                assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
                answers[1] += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
        assert!(!process.is_alive());
    }
    assert_eq!(answers.iter().sum::<i32>(), 60);
}

fn death_at_any_point_is_told(method: StartMethod) {
    for point in ["at_birth", "before_hello", "before_run", "after_run", "after_answer"] {
        for len in [1usize, 1 << 20] {
            failpoints::arm(&format!("victim {point} 1 kill;newborn {point} 1 kill"));
            let builder = by(method).env(failpoint::VARIABLE, format!("* {point} 1 kill"));
            let result = builder.name("victim").spawn((len,), |len| vec![7u8; len]).and_then(|process| process.join());
            match result {
                // What was sent before the death counts.
                Ok(bytes) => assert!(point == "after_answer" && bytes.len() == len, "{point}"),
                Err(ProcessError::Died { status: Some(status), .. }) => {
                    assert!(point != "after_answer", "an answer was lost");
                    assert_eq!(status.signal(), Some(libc::SIGKILL), "{point}");
                }
                // At its birth a fork server has no other name than a process.
                Err(ProcessError::Start(StartError::Forkserver { .. })) if point == "at_birth" => {}
                Err(error) => panic!("{point}: {error:?}"),
            }
        }
    }
    failpoints::arm("");
}

fn starts_that_fail_leave_nothing(method: StartMethod) {
    let before = processes::descriptors(std::process::id());
    let mut errors = BTreeMap::new();
    for point in ["socketpair", "lifeline", "fork", "pipe", "blob"] {
        failpoints::arm(&format!("parent {point} 1 errno {}", libc::EMFILE));
        match by(method).spawn((vec![7u8; 100_000],), |bytes: Vec<u8>| bytes.len()) {
            Ok(process) => assert_eq!(process.join().unwrap(), 100_000, "{point}"),
            Err(error) => *errors.entry(error.to_string()).or_insert(0) += 1,
        }
    }
    failpoints::arm("");
    assert!(!errors.is_empty(), "no start has failed");
    stage::until_nothing_is_left(&before);
}

fn long_running_parent_leaks_nothing(method: StartMethod) {
    let round = |x: u64| {
        let process = by(method).spawn((x,), square).unwrap();
        match x % 4 {
            0 => assert_eq!(process.join().unwrap(), x * x),
            1 => drop(process),
            2 => process.detach(),
            _ => process.kill().unwrap(),
        }
        drop(by(method).on_drop(OnDrop::Join).spawn((x,), |x| vec![x; 100_000]).unwrap());
    };
    (0..4).for_each(round);
    stage::until("their ends", || process::active().is_empty());
    let before = processes::descriptors(std::process::id());
    (0..20).for_each(round);
    stage::until("their ends", || process::active().is_empty());
    assert_eq!(processes::descriptors(std::process::id()), before);
}
