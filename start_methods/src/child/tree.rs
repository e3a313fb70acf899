//! Everything that descends from a process, found and killed, whatever groups and sessions it has made for itself.
//!
//! ```text
//!  stop ──▶ list its children ──▶ stop each, list theirs ──▶ … until nobody is new ──▶ SIGKILL, the youngest first
//! ```
//!
//! A process that is stopped forks no more, so its list of children is final; and as long as it lives its children are
//! not handed to another parent, so nobody is lost in between. What *was* handed on before, because its parent had
//! ended (a daemon), is in nobody's list and out of reach.
//!
//! # Invariants
//!
//! - A process is signalled only by a pidfd that was open while /proc said whose child it is: a number that was given
//!   out again is never hit.
//! - The work is bounded, whatever the processes do meanwhile; nothing here waits for one of them to end.

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

/// To the process group that the process leads; Linux 6.9.
pub(crate) const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;

/// How many threads are looked at in one walk, those of processes that are looked at again included.
const LOOKS_MAX: usize = 4096;

/// How long processes that were sent SIGSTOP are watched until they have stopped. That takes as long as the system call
/// they are in; it is long for those in uninterruptible sleep, and for one that waits for its vfork(2).
const STOPPING_TIMEOUT: Duration = Duration::from_millis(5);

/// Stops all that descends from the process `pid`, which its caller has sent SIGSTOP, and sends SIGKILL to each and to
/// the groups they lead.
///
/// Where the kernel does not list children (`CONFIG_PROC_CHILDREN`) it finds nobody.
pub(crate) fn kill_descendants(pid: u32, pidfd: BorrowedFd<'_>) {
    let mut walk = Walk { known: HashSet::from([pid]), looks_left: LOOKS_MAX };
    let mut found: Vec<Found> = Vec::new();
    let give_up = Instant::now() + STOPPING_TIMEOUT;
    let mut root_is_final = false;
    loop {
        if !root_is_final {
            root_is_final = walk.look_below(pid, pidfd, &mut found);
        }
        // It grows meanwhile.
        let mut index = 0;
        while index < found.len() {
            if !found[index].is_final {
                let mut children = Vec::new();
                found[index].is_final = walk.look_below(found[index].pid, found[index].pidfd.as_fd(), &mut children);
                found.append(&mut children);
            }
            index += 1;
        }
        let is_done = root_is_final && found.iter().all(|process| process.is_final);
        if is_done || walk.looks_left == 0 || Instant::now() >= give_up {
            break;
        }
        // Some are about to stop.
        thread::yield_now();
    }
    // The youngest first: nobody is handed to another parent before it has its signal.
    for process in found.iter().rev() {
        process.signal(libc::SIGKILL);
    }
}

/// A descendant that is there, as long as this is.
#[derive(Debug)]
struct Found {
    pid: u32,
    pidfd: PrivateFd,
    /// It has stopped, or ended, and all its children have been seen.
    is_final: bool,
}

impl Found {
    /// To it and to the group that it leads. One that may not be signalled (it has changed its user) is left alone.
    fn signal(&self, signal: c_int) {
        // Before Linux 6.9 there is no such call, and the number of a group is not safe to use.
        let _result = calls::pidfd_send_signal(self.pidfd.as_fd(), signal, PIDFD_SIGNAL_PROCESS_GROUP);
        let _result = calls::pidfd_send_signal(self.pidfd.as_fd(), signal, 0);
    }
}

#[derive(Debug)]
struct Walk {
    known: HashSet<u32>,
    looks_left: usize,
}

impl Walk {
    /// Adds the new children of a process to `found`, each of them stopped; whether there will be no more.
    fn look_below(&mut self, pid: u32, pidfd: BorrowedFd<'_>, found: &mut Vec<Found>) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return true;
        };
        let mut is_final = true;
        for thread in threads {
            let Ok(thread) = thread.map(|thread| thread.path()) else { break };
            if self.looks_left == 0 {
                return false;
            }
            self.looks_left -= 1;
            // In this order: what has stopped has the children that it has.
            is_final &= Stat::read(&thread.join("stat")).map_or(true, Stat::is_at_rest);
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

/// The process by this number, stopped, if it is a child of `parent` and there is room for its descriptor.
fn open_child(pid: u32, parent: u32, parent_pidfd: BorrowedFd<'_>) -> Option<Found> {
    let pidfd = fd::open_pidfd(pid).ok()?;
    let is_child = proc_info::is_child(pid, pidfd.as_fd(), parent).ok()? && proc_info::is_there(parent_pidfd);
    let found = Found { pid, pidfd, is_final: false };
    is_child.then(|| found.signal(libc::SIGSTOP))?;
    Some(found)
}
