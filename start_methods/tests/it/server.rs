//! The fork server: what it preloads, how it dies, how it is replaced.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use nix::unistd::getppid;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
use start_methods::Exit;
use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::forkserver;

use crate::Case;
use crate::audit::children;
use crate::helper::SOON;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::start_ready;
use crate::helper::status_line;
use crate::helper::until_message;
use crate::once;

pub(crate) const CASES: &[Case] = &[
    once("one_server_serves_all_starters", one_server_serves_all_starters),
    once("its_name_and_group_are_its_own", its_name_and_group_are_its_own),
    once("it_leaves_no_zombie", it_leaves_no_zombie),
    once("every_status_is_exact", every_status_is_exact),
    once("threads_may_ask_at_once", threads_may_ask_at_once),
    once("a_killed_server_is_replaced", a_killed_server_is_replaced),
    once("a_silent_server_is_replaced", a_silent_server_is_replaced),
    once("keys_at_the_terminal_do_not_end_it", keys_at_the_terminal_do_not_end_it),
    once("it_can_be_stopped", it_can_be_stopped),
    once("preloads_run_once_and_are_shared", preloads_run_once_and_are_shared),
    once("preloads_run_again_in_the_next_server", preloads_run_again_in_the_next_server),
    once("it_is_too_late_to_preload", it_is_too_late_to_preload),
    once("a_panic_in_a_preload_is_typed", a_panic_in_a_preload_is_typed),
    once("a_preload_that_leaves_threads_is_typed", a_preload_that_leaves_threads_is_typed),
    once("a_preload_that_exits_is_typed", a_preload_that_exits_is_typed),
];

fn serve(boot: &Boot<'_>) -> Child {
    start_ready(StartMethod::Forkserver, boot)
}

fn server() -> Pid {
    Pid::from_raw(forkserver::pid().unwrap().try_into().unwrap())
}

fn one_server_serves_all_starters() {
    assert_eq!(forkserver::pid(), None);
    let starters = [(); 3].map(|()| Starter::new(StartMethod::Forkserver).unwrap());
    assert_eq!(children(), "", "making a starter starts no process");

    for starter in &starters {
        starter.start(&Boot::new(exit_with).payload(&[0])).unwrap().wait().unwrap();
    }

    assert_eq!(children().trim(), server().to_string());
}

fn its_name_and_group_are_its_own() {
    drop(serve(&Boot::new(until_message)));
    let pid = server();

    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();

    assert_eq!(name, "forkserver\n");
    assert_eq!(nix::unistd::getpgid(Some(pid)), Ok(pid));
    assert_eq!(nix::unistd::getsid(Some(pid)), Ok(pid));
    let ignored = u64::from_str_radix(&status_line(pid.as_raw().unsigned_abs(), "SigIgn"), 16);
    let bit = |signal: Signal| 1_u64 << (signal as i32 - 1);
    let expected = [Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGTTOU];
    let ignored = ignored.unwrap() & !crate::host::of_the_c_library();
    assert_eq!(ignored, expected.map(bit).iter().sum());
}

fn it_leaves_no_zombie() {
    for _ in 0..50 {
        serve(&Boot::new(exit_with).payload(&[0])).wait().unwrap();
    }
    let of_server = format!("/proc/{0}/task/{0}/children", server());
    assert_eq!(std::fs::read_to_string(of_server).unwrap(), "");
}

fn every_status_is_exact() {
    fn end_by_signal(birth: Birth) -> u8 {
        // As numbers: the real-time signals have no names.
        let number = birth.payload[0].to_string();
        let pid = std::process::id().to_string();
        std::process::Command::new("kill").args(["-s", &number, &pid]).status().unwrap();
        0
    }
    for expected in [0, 1, 2, 63, 64, 127, 128, 200, 255] {
        let exit = serve(&Boot::new(exit_with).payload(&[expected])).wait().unwrap();
        assert_eq!(code(exit), Some(expected.into()));
    }
    for expected in [1, 6, 9, 11, 15, 34, 50, 64] {
        let exit = serve(&Boot::new(end_by_signal).payload(&[expected])).wait().unwrap();
        assert_eq!(exit.status().unwrap().signal(), Some(expected.into()), "{exit}");
    }
}

fn threads_may_ask_at_once() {
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                for number in 0..25 {
                    let expected = thread * 25 + number;
                    let exit = serve(&Boot::new(exit_with).payload(&[expected])).wait().unwrap();
                    assert_eq!(code(exit), Some(expected.into()));
                }
            });
        }
    });
    assert_eq!(children().trim(), server().to_string(), "there was one server");
}

/// The status of a child whose server is dead may be lost, but its end is detected.
fn ends_with_5_or_unknown(child: &Child) {
    send_text(child.control(), "enough");
    let before = Instant::now();
    match child.wait().unwrap() {
        Exit::Unknown => {}
        exit => assert_eq!(code(exit), Some(5)),
    }
    assert!(before.elapsed() < Duration::from_secs(2));
}

fn a_killed_server_is_replaced() {
    let old_child = serve(&Boot::new(until_message));
    let old = server();
    kill(old, Signal::SIGKILL).unwrap();

    let new_child = serve(&Boot::new(until_message));

    assert_ne!(server(), old);
    assert_eq!(old_child.try_wait().unwrap(), None, "it was not affected");
    ends_with_5_or_unknown(&old_child);
    send_text(new_child.control(), "enough");
    assert_eq!(code(new_child.wait().unwrap()), Some(5));
}

fn a_silent_server_is_replaced() {
    let old_child = serve(&Boot::new(until_message));
    let old = server();
    kill(old, Signal::SIGSTOP).unwrap();

    let new_child = serve(&Boot::new(until_message));

    assert_ne!(server(), old);
    assert!(kill(old, None).is_err(), "the old one is dead and reaped");
    assert_eq!(old_child.try_wait().unwrap(), None, "it was not affected");
    ends_with_5_or_unknown(&old_child);
    drop(new_child);
}

fn keys_at_the_terminal_do_not_end_it() {
    drop(serve(&Boot::new(until_message)));
    let before = server();
    kill(before, Signal::SIGINT).unwrap();
    kill(before, Signal::SIGHUP).unwrap();

    assert_eq!(code(serve(&Boot::new(exit_with).payload(&[1])).wait().unwrap()), Some(1));

    assert_eq!(server(), before);
}

fn it_can_be_stopped() {
    forkserver::stop();
    let child = serve(&Boot::new(until_message));
    let before = server();

    forkserver::stop();

    assert_eq!(forkserver::pid(), None);
    assert!(kill(before, None).is_err(), "it is dead and reaped");
    assert_eq!(child.try_wait().unwrap(), None, "its child lives on");
    drop(child);
    drop(serve(&Boot::new(until_message)));
    assert_ne!(server(), before);
}

static RUNS: AtomicU32 = AtomicU32::new(0);
static LOADED_BY: AtomicU32 = AtomicU32::new(0);

fn load() {
    RUNS.fetch_add(1, Ordering::Relaxed);
    LOADED_BY.store(std::process::id(), Ordering::Relaxed);
}

fn load_more() {
    // Runs after the other preload.
    assert_eq!(RUNS.fetch_add(10, Ordering::Relaxed), 1);
}

fn send_loaded(birth: Birth) -> u8 {
    let (runs, by) = (RUNS.load(Ordering::Relaxed), LOADED_BY.load(Ordering::Relaxed));
    send_text(&birth.control, &format!("{runs} {}", i64::from(by) == i64::from(getppid().as_raw())));
    0
}

fn preloads_run_once_and_are_shared() {
    forkserver::preload(load).unwrap();
    forkserver::preload(load_more).unwrap();

    for _ in 0..3 {
        let child = serve(&Boot::new(send_loaded));
        assert_eq!(receive_text(child.control()), "11 true");
    }

    assert_eq!(RUNS.load(Ordering::Relaxed), 0, "not here");
    let spawned = start_ready(StartMethod::Spawn, &Boot::new(send_loaded));
    assert_eq!(receive_text(spawned.control()), "0 false");
}

fn preloads_run_again_in_the_next_server() {
    forkserver::preload(load).unwrap();
    for _ in 0..2 {
        let child = serve(&Boot::new(send_loaded));
        assert_eq!(receive_text(child.control()), "1 true");
        forkserver::stop();
    }
}

fn it_is_too_late_to_preload() {
    drop(serve(&Boot::new(until_message)));
    match forkserver::preload(load).unwrap_err() {
        StartError::AlreadyRunning { pid } => assert_eq!(Some(pid), forkserver::pid()),
        other => panic!("{other}"),
    }
    forkserver::stop();
    forkserver::preload(load).unwrap();
}

fn preload_fails(f: fn()) -> StartError {
    forkserver::preload(f).unwrap();
    let error = start_methods::start(StartMethod::Forkserver, &Boot::new(exit_with)).unwrap_err();
    assert_eq!(children(), "", "no server is left");
    error
}

fn a_panic_in_a_preload_is_typed() {
    fn fail() {
        panic!("the table of {} is missing", "contents");
    }
    match preload_fails(fail) {
        StartError::Preload { message } => assert_eq!(message, "the table of contents is missing"),
        other => panic!("{other}"),
    }
}

fn a_preload_that_leaves_threads_is_typed() {
    fn leave_a_thread() {
        thread::spawn(|| thread::sleep(Duration::from_secs(1000)));
    }
    match preload_fails(leave_a_thread) {
        StartError::Preload { message } => assert!(message.contains("1 thread"), "{message}"),
        other => panic!("{other}"),
    }
}

fn a_preload_that_exits_is_typed() {
    fn exit() {
        std::process::exit(33);
    }
    let before = Instant::now();
    match preload_fails(exit) {
        StartError::Forkserver { detail } => assert!(detail.contains("33"), "{detail}"),
        other => panic!("{other}"),
    }
    assert!(before.elapsed() < SOON);
}
