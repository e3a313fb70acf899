//! The end of a child: how it is detected, awaited and caused.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::signal::raise;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
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
    each("a_stack_overflow_is_reported", a_stack_overflow_is_reported),
    each("a_fault_arrives_as_its_signal", a_fault_arrives_as_its_signal),
    each("wait_timeout_gives_up_in_time", wait_timeout_gives_up_in_time),
    each("try_wait_is_repeatable", try_wait_is_repeatable),
    each("the_pidfd_tells_the_end", the_pidfd_tells_the_end),
    each("a_stopped_child_can_be_killed", a_stopped_child_can_be_killed),
    each("the_whole_group_can_be_killed", the_whole_group_can_be_killed),
    each("signals_to_the_dead_are_no_errors", signals_to_the_dead_are_no_errors),
    each("a_tracer_of_the_dead_holds_up_nobody", a_tracer_of_the_dead_holds_up_nobody),
    each("dropping_what_a_tracer_holds_does_not_wait", dropping_what_a_tracer_holds_does_not_wait),
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
    // The last two are also those of faults, which std handles.
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGUSR1, Signal::SIGSEGV, Signal::SIGBUS] {
        let number = [signal as u8];
        let child = start_ready(method, &Boot::new(end_by_signal).payload(&number));
        let exit = child.wait().unwrap();
        assert_eq!(exit.status().unwrap().signal(), Some(signal as i32), "{exit}");
    }
}

fn a_stack_overflow_is_reported(method: StartMethod) {
    #[expect(unconditional_recursion, reason = "this is the point")]
    fn endless(depth: u64) -> u64 {
        let room = std::hint::black_box([depth; 64]);
        endless(depth + 1) + room[3]
    }
    fn overflow(birth: Birth) -> u8 {
        nix::unistd::dup2_stderr(&birth.fds[0]).unwrap();
        u8::try_from(endless(0)).unwrap()
    }
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let child = start_ready(method, &Boot::new(overflow).fds(&[writer.as_fd()]));
    drop(writer);

    let mut text = String::new();
    fs::File::from(reader).read_to_string(&mut text).unwrap();
    let exit = child.wait().unwrap();

    assert!(text.contains("has overflowed its stack"), "{text}");
    assert_eq!(exit.status().unwrap().signal(), Some(Signal::SIGABRT as i32), "{exit}");
}

fn a_fault_arrives_as_its_signal(method: StartMethod) {
    /// Executes memory that is not executable.
    fn fault(_: Birth) -> u8 {
        let room = Box::leak(Box::new([0xc3_u8; 64]));
        crate::host::run_at(room.as_ptr() as usize);
        0
    }
    let exit = start_ready(method, &Boot::new(fault)).wait().unwrap();
    assert_eq!(exit.status().unwrap().signal(), Some(Signal::SIGSEGV as i32), "{exit}");
}

/// Attaches to the process whose id it is sent, and holds its end back until it is sent another message.
fn trace(birth: Birth) -> u8 {
    let traced = Pid::from_raw(receive_text(&birth.control).parse().unwrap());
    ptrace::seize(traced, ptrace::Options::empty()).unwrap();
    send_text(&birth.control, "attached");
    receive_text(&birth.control);
    0
}

/// A child that is dead, and the process that holds it.
fn held_dead(method: StartMethod) -> (Child, Child) {
    let tracer = start_ready(StartMethod::Spawn, &Boot::new(trace));
    let child = start_ready(method, &Boot::new(until_message));
    send_text(tracer.control(), &child.pid().to_string());
    assert_eq!(receive_text(tracer.control()), "attached");
    child.kill().unwrap();
    (child, tracer)
}

/// The processor time of a process, with that of children that it has reaped.
fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn a_tracer_of_the_dead_holds_up_nobody(method: StartMethod) {
    let (child, tracer) = held_dead(method);
    let watched = [Some(std::process::id()), start_methods::forkserver::pid()].into_iter().flatten();
    let before: Vec<_> = watched.map(|pid| (pid, processor_time(pid))).collect();
    let begin = Instant::now();

    let held = child.wait_timeout(Duration::from_secs(1)).unwrap();
    let again = child.wait_timeout(Duration::from_secs(1)).unwrap();

    // Only the parent of the process can wait until the tracer lets it go; the server's child is known to be dead.
    let expected = (method == StartMethod::Forkserver).then_some(Exit::Unknown);
    assert_eq!((held, again), (expected, expected));
    thread::sleep(Duration::from_secs(2).saturating_sub(begin.elapsed()));
    for (pid, before) in before {
        // A loop without pauses would have taken two seconds, or most of them.
        assert!(processor_time(pid) - before < Duration::from_millis(300), "process {pid} is busy");
    }
    send_text(tracer.control(), "enough");
    let exit = child.wait().unwrap();
    let killed = exit.status().and_then(|status| status.signal()) == Some(Signal::SIGKILL as i32);
    assert_eq!(killed, method != StartMethod::Forkserver, "{exit}");
    assert!(tracer.wait().unwrap().success());
}

fn dropping_what_a_tracer_holds_does_not_wait(method: StartMethod) {
    let (child, tracer) = held_dead(method);
    drop(child);
    // The tracer, and the zombie or the server whose zombie it is.
    assert_eq!(children().split_ascii_whitespace().count(), 2);
    send_text(tracer.control(), "enough");
    assert!(tracer.wait().unwrap().success());
    // Any start or drop tries again.
    drop(tracer);
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
