//! Process trees: all descendants of a child are killed with it, whatever groups and sessions they are in.

#![expect(unsafe_code, reason = "a command creates a session between fork and exec")]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
use start_methods::Entry;
use start_methods::StartMethod;

use crate::Case;
use crate::audit::children;
use crate::each;
use crate::helper::SOON;
use crate::helper::busy;
use crate::helper::exit_with;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::start_ready;
use crate::helper::until_message;

pub(crate) const CASES: &[Case] = &[
    each("sessions_of_their_own_save_nobody", sessions_of_their_own_save_nobody),
    each("children_of_all_threads_go", children_of_all_threads_go),
    each("a_family_that_grows_meanwhile_goes_whole", a_family_that_grows_meanwhile_goes_whole),
    each("a_stopped_family_goes_too", a_stopped_family_goes_too),
    each("a_large_family_goes_whole", a_large_family_goes_whole),
    each("a_child_without_family_just_dies", a_child_without_family_just_dies),
    each("siblings_are_spared", siblings_are_spared),
    each("the_dead_have_no_family", the_dead_have_no_family),
];

/// A program in a session of its own.
fn in_a_new_session(program: &str) -> Command {
    let mut command = Command::new(program);
    let start_session = || nix::unistd::setsid().map(drop).map_err(Into::into);
    // SAFETY: setsid(2) may be called between fork and exec.
    unsafe { command.pre_exec(start_session) };
    command
}

/// Starts a program that the child never waits for.
fn leave_behind(mut command: Command) -> u32 {
    command.spawn().unwrap().id()
}

/// Starts a child with descendants, which reports when they exist. Kills them all, and waits until none is left.
fn kill_family(method: StartMethod, entry: Entry) -> usize {
    // Makes orphans our children, so that their end can be seen.
    set_child_subreaper(true).unwrap();
    let child = start_ready(method, &Boot::new(entry));
    let pids: Vec<i32> = receive_text(child.control()).split_whitespace().map(|pid| pid.parse().unwrap()).collect();

    child.kill_tree().unwrap();

    assert_killed(&child);
    reap_strays(method);
    for pid in &pids {
        assert_eq!(nix::sys::signal::kill(Pid::from_raw(*pid), None), Err(nix::Error::ESRCH), "{pid} still exists");
    }
    pids.len()
}

fn assert_killed(child: &Child) {
    use std::os::unix::process::ExitStatusExt;
    let exit = child.wait_timeout(SOON).unwrap().expect("its end");
    assert_eq!(exit.status().unwrap().signal(), Some(libc::SIGKILL));
}

/// Reaps all orphans except the fork server. They are about to end, without another signal.
fn reap_strays(method: StartMethod) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let server = start_methods::forkserver::pid().map(|pid| pid.to_string());
    assert_eq!(server.is_some(), method == StartMethod::Forkserver);
    loop {
        let children = children();
        let mut strays = children.split_whitespace().filter(|pid| Some(*pid) != server.as_deref()).peekable();
        if strays.peek().is_none() {
            return;
        }
        for stray in strays {
            let pid = Pid::from_raw(stray.parse().unwrap());
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive => assert!(Instant::now() < deadline, "{stray} is still alive"),
                status => assert_eq!(status, WaitStatus::Signaled(pid, Signal::SIGKILL, false)),
            }
        }
        thread::yield_now();
    }
}

fn sessions_of_their_own_save_nobody(method: StartMethod) {
    fn found_three_sessions(birth: Birth) -> u8 {
        // Each shell has a child in a session of its own, two levels down.
        let script = "sh -c 'sleep 1000 & echo \"$1 $$ $!\"; wait' _ $$ & wait";
        let mut pids = String::new();
        for _ in 0..3 {
            let mut shell = in_a_new_session("/bin/sh");
            shell.args(["-c", script]).stdout(std::process::Stdio::piped());
            #[expect(clippy::zombie_processes, reason = "the test needs an orphan")]
            let mut shell = shell.spawn().unwrap();
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut line).unwrap();
            pids += &line;
        }
        send_text(&birth.control, &pids);
        busy(birth)
    }
    assert_eq!(kill_family(method, found_three_sessions), 9);
}

fn children_of_all_threads_go(method: StartMethod) {
    fn have_children_in_threads(birth: Birth) -> u8 {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (sender, receiver) = std::sync::mpsc::channel();
                thread::spawn(move || {
                    sender.send(leave_behind(in_a_new_session_that_sleeps())).unwrap();
                    thread::sleep(Duration::from_secs(1000));
                });
                receiver.recv().unwrap()
            })
            .chain([leave_behind(in_a_new_session_that_sleeps())])
            .collect();
        send_text(&birth.control, &threads.iter().map(|pid| format!("{pid} ")).collect::<String>());
        busy(birth)
    }
    assert_eq!(kill_family(method, have_children_in_threads), 5);
}

fn in_a_new_session_that_sleeps() -> Command {
    let mut command = in_a_new_session("sleep");
    command.arg("1000");
    command
}

fn a_family_that_grows_meanwhile_goes_whole(method: StartMethod) {
    fn have_children_without_end(birth: Birth) -> u8 {
        for _ in 0..3 {
            thread::spawn(|| {
                for _ in 0..500 {
                    leave_behind(in_a_new_session_that_sleeps());
                }
            });
        }
        send_text(&birth.control, " ");
        busy(birth)
    }
    for _ in 0..5 {
        kill_family(method, have_children_without_end);
    }
}

fn a_stopped_family_goes_too(method: StartMethod) {
    fn have_a_stopped_child(birth: Birth) -> u8 {
        let mut shell = in_a_new_session("/bin/sh");
        shell.args(["-c", "sleep 1000 & kill -STOP $$"]);
        let pid = leave_behind(shell);
        let pid = Pid::from_raw(pid.try_into().unwrap());
        while waitpid(pid, Some(WaitPidFlag::WUNTRACED)) != Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)) {}
        send_text(&birth.control, &pid.to_string());
        nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
        0
    }
    assert_eq!(kill_family(method, have_a_stopped_child), 1);
}

fn a_large_family_goes_whole(method: StartMethod) {
    fn have_many(birth: Birth) -> u8 {
        let pids: Vec<_> = (0..200).map(|_| leave_behind(in_a_new_session_that_sleeps()).to_string()).collect();
        send_text(&birth.control, &pids.join(" "));
        busy(birth)
    }
    assert_eq!(kill_family(method, have_many), 200);
}

fn a_child_without_family_just_dies(method: StartMethod) {
    let child = start_ready(method, &Boot::new(busy));
    child.kill_tree().unwrap();
    assert_killed(&child);
}

fn siblings_are_spared(method: StartMethod) {
    let [first, second] = [busy, until_message].map(|entry| start_ready(method, &Boot::new(entry)));

    first.kill_tree().unwrap();

    assert_killed(&first);
    send_text(second.control(), "go on");
    assert_eq!(second.wait().unwrap().status().unwrap().code(), Some(5));
}

fn the_dead_have_no_family(method: StartMethod) {
    let child = start_ready(method, &Boot::new(exit_with).payload(&[3]));
    let exit = child.wait().unwrap();
    child.kill_tree().unwrap();
    assert_eq!(child.try_wait().unwrap(), Some(exit));
}
