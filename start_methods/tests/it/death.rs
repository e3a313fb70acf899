//! The end of a child: how it is detected, awaited and caused.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::signal::raise;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Exit;
use start_methods::StartError;
use start_methods::StartMethod;

use crate::Case;
use crate::audit::children;
use crate::each;
use crate::helper::busy;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::start_ready;
use crate::helper::status_line;
use crate::helper::until_message;

pub(crate) const CASES: &[Case] = &[
    each("an_exit_code_arrives", an_exit_code_arrives),
    each("a_deadly_signal_arrives", a_deadly_signal_arrives),
    each("wait_timeout_gives_up_in_time", wait_timeout_gives_up_in_time),
    each("try_wait_is_repeatable", try_wait_is_repeatable),
    each("the_pidfd_tells_the_end", the_pidfd_tells_the_end),
    each("a_stopped_child_can_be_killed", a_stopped_child_can_be_killed),
    each("the_whole_group_can_be_killed", the_whole_group_can_be_killed),
    each("signals_to_the_dead_are_no_errors", signals_to_the_dead_are_no_errors),
    each("dropping_reaps", dropping_reaps),
    each("dropping_before_hello_reaps", dropping_before_hello_reaps),
    each("death_before_hello_is_typed", death_before_hello_is_typed),
    each("a_silent_child_times_out", a_silent_child_times_out),
];

fn an_exit_code_arrives(method: StartMethod) {
    for expected in [0, 1, 127, 255] {
        let child = start_ready(method, &Boot::new(exit_with).payload(&[expected]));
        let exit = child.wait().unwrap();
        assert_eq!(code(exit), Some(expected.into()));
        assert_eq!(exit.success(), expected == 0);
    }
}

fn a_deadly_signal_arrives(method: StartMethod) {
    fn end_by_signal(birth: Birth) -> u8 {
        raise(Signal::try_from(i32::from(birth.payload[0])).unwrap()).unwrap();
        0
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGUSR1] {
        let number = [signal as u8];
        let child = start_ready(method, &Boot::new(end_by_signal).payload(&number));
        let exit = child.wait().unwrap();
        assert_eq!(exit.status().unwrap().signal(), Some(signal as i32), "{exit}");
    }
}

fn wait_timeout_gives_up_in_time(method: StartMethod) {
    let child = start_ready(method, &Boot::new(until_message));
    let before = Instant::now();

    assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
    assert!(before.elapsed() >= Duration::from_millis(50));
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), None);

    send_text(child.control(), "enough");
    assert_eq!(code(child.wait_timeout(Duration::MAX).unwrap().unwrap()), Some(5));
}

fn try_wait_is_repeatable(method: StartMethod) {
    let child = start_ready(method, &Boot::new(until_message));
    assert_eq!(child.try_wait().unwrap(), None);
    send_text(child.control(), "enough");

    let exit = child.wait().unwrap();

    assert_eq!(child.try_wait().unwrap(), Some(exit));
    assert_eq!(child.wait().unwrap(), exit);
    assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), Some(exit));
}

fn the_pidfd_tells_the_end(method: StartMethod) {
    use nix::poll::PollFd;
    use nix::poll::PollFlags;
    use nix::poll::PollTimeout;
    use nix::poll::poll;

    let child = start_ready(method, &Boot::new(until_message));
    let alive = poll(&mut [PollFd::new(child.pidfd(), PollFlags::POLLIN)], PollTimeout::ZERO);
    send_text(child.control(), "enough");
    let dead = poll(&mut [PollFd::new(child.pidfd(), PollFlags::POLLIN)], PollTimeout::from(10_000_u16));

    assert_eq!((alive, dead), (Ok(0), Ok(1)));
    assert_eq!(child.status_fd().is_some(), method == StartMethod::Forkserver);
    if let Some(status) = child.status_fd() {
        let timeout = PollTimeout::from(10_000_u16);
        assert_eq!(poll(&mut [PollFd::new(status, PollFlags::POLLIN)], timeout), Ok(1));
    }
    assert_eq!(code(child.try_wait().unwrap().unwrap()), Some(5));
}

fn a_stopped_child_can_be_killed(method: StartMethod) {
    let child = start_ready(method, &Boot::new(until_message));
    child.signal(Signal::SIGSTOP).unwrap();
    while !status_line(child.pid(), "State").starts_with('T') {
        std::thread::yield_now();
    }

    child.kill().unwrap();

    assert_eq!(child.wait().unwrap().status().unwrap().signal(), Some(libc::SIGKILL));
}

fn the_whole_group_can_be_killed(method: StartMethod) {
    fn have_a_child(birth: Birth) -> u8 {
        #[expect(clippy::zombie_processes, reason = "the test needs an orphan")]
        let sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
        send_text(&birth.control, &sleeper.id().to_string());
        busy(birth)
    }
    // Makes the orphan our child, so that its end can be seen.
    set_child_subreaper(true).unwrap();
    let child = start_ready(method, &Boot::new(have_a_child));
    let grandchild: i32 = receive_text(child.control()).parse().unwrap();

    child.signal_group(Signal::SIGKILL).unwrap();

    assert_eq!(child.wait().unwrap().status().unwrap().signal(), Some(libc::SIGKILL));
    // With forkserver it is a grandchild of the server, and becomes our child when its parent dies.
    let end = loop {
        match waitpid(Pid::from_raw(grandchild), None) {
            Err(nix::Error::ECHILD) => std::thread::yield_now(),
            end => break end.unwrap(),
        }
    };
    assert_eq!(end, WaitStatus::Signaled(Pid::from_raw(grandchild), Signal::SIGKILL, false));
}

fn signals_to_the_dead_are_no_errors(method: StartMethod) {
    let child = start_ready(method, &Boot::new(exit_with).payload(&[0]));
    child.wait().unwrap();

    child.signal(Signal::SIGTERM).unwrap();
    child.signal_group(Signal::SIGTERM).unwrap();
    child.kill().unwrap();
}

fn dropping_reaps(method: StartMethod) {
    let own_children = || children().split_whitespace().count();
    let child = start_ready(method, &Boot::new(busy));
    let before = Instant::now();

    drop(child);

    assert!(before.elapsed() < Duration::from_secs(1));
    let servers = usize::from(method == StartMethod::Forkserver);
    assert_eq!(own_children(), servers, "no zombie");
}

fn dropping_before_hello_reaps(method: StartMethod) {
    for _ in 0..20 {
        drop(start_methods::start(method, &Boot::new(busy)).unwrap());
    }
}

/// A child that is killed while it starts. Whether it sends its hello first is a race.
fn death_before_hello_is_typed(method: StartMethod) {
    for _ in 0..20 {
        let child = start_methods::start(method, &Boot::new(busy)).unwrap();
        child.kill().unwrap();
        let killed = Exit::Known(std::process::ExitStatus::from_raw(libc::SIGKILL));
        match child.wait_hello(Duration::from_secs(10)) {
            Ok(()) => {}
            Err(StartError::DiedBeforeHello { pid, exit }) => {
                assert_eq!((pid, exit), (child.pid(), killed));
                // The error stays the same.
                assert!(matches!(child.try_hello(), Err(StartError::DiedBeforeHello { .. })));
            }
            Err(other) => panic!("{other}"),
        }
        assert_eq!(child.wait().unwrap(), killed);
    }
}

/// A child that is stopped while it starts. Children that were faster are retried.
fn a_silent_child_times_out(method: StartMethod) {
    let timeout = Duration::from_millis(50);
    for _ in 0..1000 {
        let child = start_methods::start(method, &Boot::new(busy)).unwrap();
        child.signal(Signal::SIGSTOP).unwrap();
        match child.wait_hello(timeout) {
            Ok(()) => {}
            Err(StartError::HelloTimeout { pid, timeout: given }) => {
                assert_eq!((pid, given), (child.pid(), timeout));
                let exit = child.wait().unwrap();
                assert_eq!(exit.status().unwrap().signal(), Some(libc::SIGKILL));
                return;
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no child could be stopped before its hello");
}
