//! Handles that are dropped, detached, or copied by a fork.

use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::StartMethod;
use procpool::process;
use procpool::process::OnDrop;
use procpool::process::Process;
use procpool::process::ProcessError;

use super::by;
use super::park;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    dropped_process_is_terminated,
    stubborn_process_is_killed,
    stopped_process_is_killed,
    drop_that_joins_waits,
    detached_process_goes_on,
    detached_process_is_reaped_later,
    drop_of_an_ended_process_does_nothing,
    unread_results_are_dropped,
    start_that_is_dropped_at_once_leaves_nothing,
    forked_copy_of_a_handle_is_refused,
    forked_copy_of_a_handle_harms_nothing,
];

fn dropped_process_is_terminated(method: StartMethod) {
    let book = Notebook::new();
    let process = by(method).spawn((book.path(),), |book| {
        let pid = std::process::Command::new("sleep").arg("1000").spawn().unwrap().id();
        stage::note(&book, pid);
        park();
    });
    let process = process.unwrap();
    let program: u32 = book.wait_for(1)[0].parse().unwrap();
    let pid = process.pid();
    drop(process);
    assert!(processes::Process::find(pid).is_none() || method == StartMethod::Forkserver, "it is reaped");
    stage::until_ended(&[pid, program]);
}

/// Ignores polite requests.
fn stubborn(book: String) {
    sys::ignore(Signal::SIGTERM);
    stage::note(&book, "here");
    park();
}

fn stubborn_process_is_killed(method: StartMethod) {
    let book = Notebook::new();
    let process = by(method).spawn((book.path(),), stubborn).unwrap();
    book.wait_for(1);
    let pid = process.pid();
    process.terminate().unwrap();
    assert!(process.join_timeout(Duration::from_millis(20)).unwrap().is_none());
    drop(process);
    assert!(processes::ended(pid));
}

fn stopped_process_is_killed(method: StartMethod) {
    let book = Notebook::new();
    let process = by(method).spawn((book.path(),), stubborn).unwrap();
    book.wait_for(1);
    let pid = process.pid();
    stage::signal(pid, Signal::SIGSTOP);
    drop(process);
    assert!(processes::ended(pid));
}

fn drop_that_joins_waits(method: StartMethod) {
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let work = |gate: String, book: String| {
        stage::pass(&gate);
        stage::note(&book, "done");
    };
    let process = by(method).on_drop(OnDrop::Join).spawn((gate.path(), book.path()), work).unwrap();
    let pid = process.pid();
    gate.open();
    drop(process);
    assert_eq!(book.lines(), ["done"]);
    assert!(processes::ended(pid));
}

fn detached_process_goes_on(method: StartMethod) {
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let work = |gate: String, book: String| {
        stage::pass(&gate);
        stage::note(&book, "done");
    };
    let builder = by(method).name("goes on");
    builder.clone().spawn((gate.path(), book.path()), work).unwrap().detach();
    drop(builder.on_drop(OnDrop::Detach).spawn((gate.path(), book.path()), work).unwrap());
    let names: Vec<String> = process::active().iter().map(|child| child.name().to_owned()).collect();
    assert_eq!(names, ["goes on", "goes on"]);
    gate.open();
    assert_eq!(book.wait_for(2), ["done", "done"]);
    stage::until("their ends", || process::active().is_empty());
}

fn detached_process_is_reaped_later(method: StartMethod) {
    by(method).spawn((), || ()).unwrap().detach();
    let pid = {
        let mut active = process::active();
        active.pop().map_or(0, |child| child.pid())
    };
    if pid != 0 {
        stage::until_ended(&[pid]);
    }
    // Any start does it, and any drop.
    by(method).spawn((), || ()).unwrap().join().unwrap();
    stage::until("the reaping", || {
        drop(by(method).spawn((), || ()).unwrap());
        pid == 0 || processes::Process::find(pid).is_none()
    });
    assert!(process::active().is_empty());
}

fn drop_of_an_ended_process_does_nothing(method: StartMethod) {
    for on_drop in [OnDrop::Terminate, OnDrop::Join, OnDrop::Detach] {
        let process = by(method).on_drop(on_drop).spawn((7u8,), |x| x).unwrap();
        assert_eq!(process.join().unwrap(), 7);
        drop(process);
        assert!(process::active().is_empty());
    }
}

fn unread_results_are_dropped(method: StartMethod) {
    let before = processes::descriptors(std::process::id());
    let some: Vec<Process<Vec<u8>>> =
        (0..5).map(|_| by(method).spawn((1usize << 20,), |len| vec![7; len]).unwrap()).collect();
    stage::until("their ends", || some.iter().all(|process| !process.is_alive()));
    drop(some);
    stage::until_nothing_is_left(&before);
}

fn start_that_is_dropped_at_once_leaves_nothing(method: StartMethod) {
    let before = processes::descriptors(std::process::id());
    for _ in 0..20 {
        drop(by(method).spawn((), park).unwrap());
    }
    assert!(process::active().is_empty());
    stage::until_nothing_is_left(&before);
}

fn forked_copy_of_a_handle_is_refused(method: StartMethod) {
    let mut gate = Gate::closed();
    let wait: fn(String) -> u8 = |gate| {
        stage::pass(&gate);
        7
    };
    let process = by(method).spawn((gate.path(),), wait).unwrap();
    let wrong = sys::in_a_forked_copy(|| {
        let answers = [
            matches!(process.join(), Err(ProcessError::ForkedCopy)),
            matches!(process.join_timeout(Duration::ZERO), Err(ProcessError::ForkedCopy)),
            process.terminate().is_err(),
            process.kill().is_err(),
            process.kill_tree().is_err(),
            process.exit_status().is_err(),
            !process.is_alive(),
            process::active().is_empty(),
            process.name() == "Process-1",
        ];
        answers.iter().fold(0, |bits, &good| 2 * bits + u8::from(!good))
    });
    assert_eq!(wrong, 0, "bits of the answers that were wrong: {wrong:b}");
    gate.open();
    assert_eq!(process.join().unwrap(), 7);
}

fn forked_copy_of_a_handle_harms_nothing(method: StartMethod) {
    for on_drop in [OnDrop::Terminate, OnDrop::Join, OnDrop::Detach] {
        let mut gate = Gate::closed();
        let wait: fn(String) -> u8 = |gate| {
            stage::pass(&gate);
            7
        };
        let mut slot = Some(by(method).on_drop(on_drop).spawn((gate.path(),), wait).unwrap());
        let code = sys::in_a_forked_copy(|| {
            drop(slot.take());
            0
        });
        assert_eq!(code, 0);
        gate.open();
        assert_eq!(slot.unwrap().join().unwrap(), 7);
    }
}
