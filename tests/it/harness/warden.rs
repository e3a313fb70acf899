//! The warden of one trial: starts the case, enforces its deadline, and detects the processes it leaves behind.
//!
//! It is a subreaper, so each process that the case orphans becomes a child of the warden. A descendant that is still
//! alive a short grace period after the case has escaped, and is an error.

use std::io;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitPidFlag;
use nix::unistd::Pid;

use crate::harness;
use crate::harness::processes;
use crate::harness::processes::Process;
use crate::harness::sys;

/// Grace period for processes that the case leaves and that end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// Runs `case`. The exit code is 0 if it passed and left no process.
pub(crate) fn watch(case: &str) -> ExitCode {
    nix::sys::prctl::set_child_subreaper(true).expect("Linux 3.4");
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("a valid signal");
    let mut child = harness::again("case", case).spawn().expect("this very binary");
    let pidfd = sys::pidfd_open(child.id()).expect("Linux 5.3");
    match judge(&mut child, &pidfd) {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            let _ = writeln!(io::stderr(), "{complaint}");
            ExitCode::FAILURE
        }
    }
}

fn judge(child: &mut Child, pidfd: &OwnedFd) -> Result<(), String> {
    let deadline = harness::deadline();
    if !sys::readable_within(pidfd, deadline).expect("poll") {
        dump_descendants();
        kill_descendants();
        let _ = child.wait();
        return Err(format!("not done within {deadline:?}; killed"));
    }
    let status = child.wait().expect("our own child");
    let grace_over = Instant::now() + GRACE;
    while !strays().is_empty() && Instant::now() < grace_over {
        std::thread::sleep(Duration::from_millis(5));
    }
    let strays = strays();
    if !strays.is_empty() {
        dump_descendants();
        kill_descendants();
    }
    if status.code() != Some(i32::from(harness::PASSED)) {
        return Err(format!("the case failed: {status}"));
    }
    if strays.is_empty() { Ok(()) } else { Err(format!("{} processes outlived the case", strays.len())) }
}

/// Reaps adopted children that have ended, and returns the descendants that live.
fn strays() -> Vec<Process> {
    for process in processes::children(std::process::id()).iter().filter(|process| process.is_zombie()) {
        reap(process.pid);
    }
    processes::descendants(std::process::id())
}

fn reap(pid: u32) {
    let _ = nix::sys::wait::waitpid(signed(pid), Some(WaitPidFlag::WNOHANG));
}

fn dump_descendants() {
    let mut out = io::stderr();
    for process in processes::descendants(std::process::id()) {
        processes::dump(&process, &mut out);
    }
}

/// Kills all descendants. Processes orphaned meanwhile are reparented to this one, so the list does become empty.
fn kill_descendants() {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let living: Vec<Process> =
            processes::descendants(std::process::id()).into_iter().filter(|process| !process.is_zombie()).collect();
        if living.is_empty() || Instant::now() > give_up {
            return;
        }
        for process in living {
            let _ = nix::sys::signal::kill(signed(process.pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signed(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a pid fits pid_t"))
}
