//! Kills all descendants of a process, whatever process groups and sessions they have created.
//!
//! ```text
//!  stop ──▶ list its children ──▶ stop each, list theirs ──▶ … until none is new ──▶ SIGKILL, youngest first
//! ```
//!
//! A stopped process cannot fork, so its list of children is final. While it lives its children are not reparented, so
//! none is lost in between. Processes that were reparented *before*, because their parent had ended (daemons), are in
//! no list and out of reach.
//!
//! Also called: process tree kill, recursive kill.
//!
//! # Invariants
//!
//! - A process is signalled only through a pidfd that was open while /proc reported its parent: a reused process id is
//!   never signalled.
//! - The work is bounded, whatever the processes do meanwhile. Nothing here waits for a process to end.

use std::collections::HashSet;
use std::ffi::c_int;
use std::fs;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::child::proc_info;
use crate::child::proc_info::Stat;
use crate::sys::calls;
use crate::sys::fd;
use crate::sys::fd::PrivateFd;

/// Signals the process group that the process leads; Linux 6.9.
pub(crate) const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;

/// Maximum threads examined in one walk, repeated examinations included.
const CHECKS_MAX: usize = 4096;

/// How long to wait until processes that were sent SIGSTOP have stopped. That takes as long as the system call they are
/// in, which is long for uninterruptible sleep and for a process that waits for its vfork(2).
const STOPPING_TIMEOUT: Duration = Duration::from_millis(5);

/// Stops all descendants of `pid`, to which the caller has sent SIGSTOP, and sends SIGKILL to each and to the groups
/// that they lead.
///
/// Finds none where the kernel does not list children (`CONFIG_PROC_CHILDREN`).
pub(crate) fn kill_descendants(pid: u32, pidfd: BorrowedFd<'_>) {
    let mut walk = Walk { known: HashSet::from([pid]), checks_left: CHECKS_MAX };
    let mut found: Vec<Found> = Vec::new();
    let give_up = Instant::now() + STOPPING_TIMEOUT;
    let mut root_is_final = false;
    loop {
        if !root_is_final {
            root_is_final = walk.stop_children(pid, pidfd, &mut found);
        }
        // `found` grows during the loop.
        let mut index = 0;
        while index < found.len() {
            if !found[index].is_final {
                let mut children = Vec::new();
                found[index].is_final = walk.stop_children(found[index].pid, found[index].pidfd.as_fd(), &mut children);
                found.append(&mut children);
            }
            index += 1;
        }
        let is_done = root_is_final && found.iter().all(|process| process.is_final);
        if is_done || walk.checks_left == 0 || Instant::now() >= give_up {
            break;
        }
        // Some have been signalled but have not stopped yet.
        thread::yield_now();
    }
    // Youngest first: no process is reparented before it has its signal.
    for process in found.iter().rev() {
        process.signal(libc::SIGKILL);
    }
}

/// A descendant, held by its pidfd.
#[derive(Debug)]
struct Found {
    pid: u32,
    pidfd: PrivateFd,
    /// It has stopped or ended, and all its children have been listed.
    is_final: bool,
}

impl Found {
    /// Signals the process and the group that it leads. Ignores processes that may not be signalled (other user).
    fn signal(&self, signal: c_int) {
        // Before Linux 6.9 this call does not exist, and signalling a group by its id could hit a reused id.
        let _result = calls::pidfd_send_signal(self.pidfd.as_fd(), signal, PIDFD_SIGNAL_PROCESS_GROUP);
        let _result = calls::pidfd_send_signal(self.pidfd.as_fd(), signal, 0);
    }
}

#[derive(Debug)]
struct Walk {
    known: HashSet<u32>,
    checks_left: usize,
}

impl Walk {
    /// Stops the new children of a process and adds them to `found`. Returns whether there can be no more.
    fn stop_children(&mut self, pid: u32, pidfd: BorrowedFd<'_>, found: &mut Vec<Found>) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return true;
        };
        let mut is_final = true;
        for thread in threads {
            let Ok(thread) = thread.map(|thread| thread.path()) else { break };
            if self.checks_left == 0 {
                return false;
            }
            self.checks_left -= 1;
            // State first, then children: the list of a process that has stopped is final.
            is_final &= Stat::read(&thread.join("stat")).map_or(true, Stat::is_stopped_or_ended);
            let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter_map(|child| child.parse().ok()) {
                if self.known.insert(child) {
                    found.extend(open_child(child, pid, pidfd));
                }
            }
        }
        is_final
    }
}

/// Opens and stops the process with this id, if it is a child of `parent` and a descriptor is free.
fn open_child(pid: u32, parent: u32, parent_pidfd: BorrowedFd<'_>) -> Option<Found> {
    let pidfd = fd::open_pidfd(pid).ok()?;
    let is_child = proc_info::is_child(pid, pidfd.as_fd(), parent).ok()? && proc_info::is_unreaped(parent_pidfd);
    let found = Found { pid, pidfd, is_final: false };
    is_child.then(|| found.signal(libc::SIGSTOP))?;
    Some(found)
}
