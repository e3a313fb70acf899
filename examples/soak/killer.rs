//! The killer: a thread that sends SIGKILL to one worker after another.
//!
//! It signals by pidfd, and only processes that are certainly workers: `Pool::pids` names it, and once the pidfd is
//! open, so that the id can no longer be reused unnoticed, it must be a child of this process or of one of its
//! helpers, or have a worker's name.
//!
//! # Harmless kills
//!
//! One kill in four is preceded by a SIGSTOP. If the stopped worker is found in poll(2), where it waits for orders
//! and where no task of the soak ever is, it has sent the answer of every item that it began, and will never read
//! another order. So its death must not lose anything: neither an answer that has not been read yet, nor an item that
//! was sent to it and not read.

use std::fs;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use procpool::Pool;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::Signal;
use rustix::process::pidfd_open;
use rustix::process::pidfd_send_signal;

use crate::dice::Dice;
use crate::gauges;
use crate::gauges::Process;

/// How long to wait for a SIGSTOP to take effect before the kill proceeds without it.
const STOP_TIMEOUT: Duration = Duration::from_millis(5);
/// How long a stopped worker is left stopped at most, so that the pool may send it something.
const STOPPED_MICROS_MAX: u64 = 1500;

/// The system calls by which a worker waits for orders.
#[cfg(target_arch = "x86_64")]
const WAITS: [libc::c_long; 2] = [libc::SYS_poll, libc::SYS_ppoll];
#[cfg(not(target_arch = "x86_64"))]
const WAITS: [libc::c_long; 1] = [libc::SYS_ppoll];

/// What a kill may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// One item.
    Harmful,
    /// Nothing.
    Harmless,
}

/// Whether a victim is stopped first, and for how long.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Never,
    For(Duration),
}

/// Kills workers, and records the kills.
#[derive(Debug, Default)]
pub(crate) struct Killer {
    /// The workers that were killed, and how. Process ids are reused, so one may appear more than once.
    pub(crate) kills: Vec<(u32, Blow)>,
    /// Victims that have not ended yet: none is killed twice.
    dying: Vec<(u32, OwnedFd)>,
}

impl Killer {
    /// Kills all present workers, and waits until they are gone. None of them has an item.
    pub(crate) fn kill_everybody(&mut self, pool: &Pool) {
        let victims = pool.pids();
        for &pid in &victims {
            if self.strike(pid, Stop::Never, &Mutex::new(())).is_some() {
                self.kills.push((pid, Blow::Harmless));
            }
        }
        gauges::poll_until(|| pool.pids(), |pids| pids.iter().all(|pid| !victims.contains(pid)));
        self.dying.clear();
    }

    /// Kills a worker every `kill_every`, give or take half of it, until the soak is over. No stopped worker is continued
    /// while it holds `continuing`.
    pub(crate) fn kill_until(
        &mut self,
        over: &AtomicBool,
        pool: &Pool,
        kill_every: Duration,
        continuing: &Mutex<()>,
        dice: &mut Dice,
    ) {
        let half_micros = u64::try_from(kill_every.as_micros() / 2).unwrap_or(u64::MAX / 4);
        while !over.load(SeqCst) && half_micros > 0 {
            thread::sleep(Duration::from_micros(half_micros + dice.below(2 * half_micros + 1)));
            let pids = pool.pids();
            if pids.is_empty() {
                continue;
            }
            let pid = dice.pick(&pids);
            let stop = match (dice.once_in(4), dice.once_in(2)) {
                (false, _) => Stop::Never,
                (true, false) => Stop::For(Duration::ZERO),
                (true, true) => Stop::For(Duration::from_micros(dice.below(STOPPED_MICROS_MAX))),
            };
            let blow = self.strike(pid, stop, continuing);
            self.kills.extend(blow.map(|blow| (pid, blow)));
        }
        self.dying.clear();
    }

    /// Kills the worker; `None` if it has ended, or is about to.
    fn strike(&mut self, pid: u32, stop: Stop, continuing: &Mutex<()>) -> Option<Blow> {
        self.dying.retain(|(_, pidfd)| !has_ended(pidfd));
        if self.dying.iter().any(|&(dying, _)| dying == pid) {
            return None;
        }
        let pidfd = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
        if !Process::find(pid)?.is_ours() || has_ended(&pidfd) {
            return None;
        }
        let mut blow = Blow::Harmful;
        let _alone = continuing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stop::For(time) = stop {
            pidfd_send_signal(&pidfd, Signal::STOP).ok()?;
            if is_stopped_idle(pid) {
                blow = Blow::Harmless;
            }
            thread::sleep(time);
        }
        pidfd_send_signal(&pidfd, Signal::KILL).ok()?;
        self.dying.push((pid, pidfd));
        Some(blow)
    }
}

fn has_ended(pidfd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn is_stopped_idle(pid: u32) -> bool {
    let give_up = Instant::now() + STOP_TIMEOUT;
    loop {
        match Process::find(pid) {
            Some(process) if process.state == 'T' => break,
            Some(_) if Instant::now() < give_up => thread::yield_now(),
            _ => return false,
        }
    }
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call.split_whitespace().next().and_then(|number| number.parse().ok());
    number.is_some_and(|number: libc::c_long| WAITS.contains(&number))
}
