//! Whether the holder of a lease lives.
//!
//! A pidfd names one process, whatever becomes of its id, and is readable once all of its threads have ended, a moment
//! before it is reaped. Where pidfds are refused (valgrind, filters of system calls) or none is free, /proc is read every
//! few milliseconds.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use start_methods::PrivateFd;

use super::lease::Lease;
use super::lease::Me;
use crate::ipc::latch;
use crate::sys::owner_process::OwnerProcess;
use crate::sys::poll::poll_until;

/// At most so many pidfds for one wait: a process may write down any number of holders.
const PIDFDS_MAX: usize = 32;
/// How often holders without a pidfd are looked up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

thread_local! {
    static KNOWN: Cell<Option<(OwnerProcess, Me)>> = const { Cell::new(None) };
}

/// This thread.
#[inline]
pub(super) fn me() -> Me {
    match KNOWN.try_with(Cell::get) {
        // In a forked copy of the process the thread has another id.
        Ok(Some((owner, me))) if owner.is_here() => me,
        _ => ask(),
    }
}

#[cold]
fn ask() -> Me {
    let start = Stat::of(std::process::id()).map(|stat| stat.start);
    let me = Me { pid: std::process::id(), tid: latch::thread_id(), start: *start.as_ref().unwrap_or(&0) };
    // Without a free descriptor it is not known, and will be asked for again.
    if start.is_ok() {
        // While the thread ends, there is no place for it.
        let _: Result<(), _> = KNOWN.try_with(|known| known.set(Some((OwnerProcess::here(), me))));
    }
    me
}

/// What /proc says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    has_ended: bool,
    /// In clock ticks since the system began.
    start: u64,
}

impl Stat {
    fn of(pid: u32) -> io::Result<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat"))?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The name is in parentheses, and may contain any character.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let is_zombie = matches!(fields.next()?, "Z" | "X");
        // Fields 20 and 22 of proc_pid_stat(5), counted from 1; the state is 3.
        let threads: u32 = fields.nth(16)?.parse().ok()?;
        let start = fields.nth(1)?.parse().ok()?;
        // A main thread that has ended is a zombie while other threads run.
        Some(Self { has_ended: is_zombie && threads <= 1, start })
    }
}

/// A lease that is watched, at its index among those of its object.
#[derive(Debug)]
struct Watch {
    index: usize,
    lease: Lease,
    pidfd: Option<PrivateFd>,
}

/// The holders that a thread watches while it waits.
#[derive(Debug, Default)]
pub(super) struct Watches(Vec<Watch>);

/// A holder that has died, by the index of its lease.
pub(super) type Gone = Vec<(usize, Lease)>;

/// How a thread sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sleep {
    /// Until the gate is readable.
    AtTheGate,
    /// For so long, whatever is at the gate.
    Nap(Duration),
}

/// Why a sleep has ended.
#[derive(Debug)]
pub(super) enum Woken {
    /// The condition may hold.
    Maybe,
    Gone(Gone),
    TimedOut,
}

impl Watches {
    /// Watches these leases from now on. Returns those whose holders are gone.
    pub(super) fn update(&mut self, leases: &[(usize, Lease)], own_pid: u32) -> Gone {
        let mut gone = Gone::new();
        let mut before = std::mem::take(&mut self.0);
        let mut pidfds = 0;
        for &(index, lease) in leases.iter().filter(|(_, lease)| lease.holder.pid() != own_pid) {
            let known = before.iter().position(|known| known.index == index && known.lease == lease);
            let known = known.map(|at| before.swap_remove(at)).filter(|known| known.pidfd.is_some());
            let life = match known {
                Some(Watch { pidfd, .. }) => Life::Lives(pidfd),
                None if pidfds < PIDFDS_MAX => look(lease),
                None => look_in_proc(lease),
            };
            match life {
                Life::Gone => gone.push((index, lease)),
                Life::Lives(pidfd) => {
                    pidfds += usize::from(pidfd.is_some());
                    self.0.push(Watch { index, lease, pidfd });
                }
            }
        }
        gone
    }

    /// Sleeps until the gate is readable or the nap is over, a holder is gone, or the time is up.
    pub(super) fn sleep(&self, gate: impl AsFd, sleep: Sleep, deadline: Option<Instant>) -> Woken {
        let watched: Vec<&Watch> = self.0.iter().filter(|watch| watch.pidfd.is_some()).collect();
        let mut polled: Vec<PollFd<'_>> = watched
            .iter()
            .flat_map(|watch| &watch.pidfd)
            .map(|pidfd| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN))
            .collect();
        let short = match sleep {
            Sleep::AtTheGate => {
                polled.push(PollFd::new(gate.as_fd(), PollFlags::POLLIN));
                (watched.len() < self.0.len()).then_some(LOOK_EVERY)
            }
            Sleep::Nap(nap) => Some(nap),
        };
        let until = deadline.into_iter().chain(short.map(|short| Instant::now() + short)).min();
        if !poll_until(&mut polled, until) {
            let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            return if is_over { Woken::TimedOut } else { Woken::Maybe };
        }
        let is_ready = |polled: &PollFd<'_>| polled.revents().is_some_and(|events| !events.is_empty());
        let gone = watched.iter().zip(&polled).filter(|(_, polled)| is_ready(polled));
        let gone: Gone = gone.map(|(watch, _)| (watch.index, watch.lease)).collect();
        if gone.is_empty() { Woken::Maybe } else { Woken::Gone(gone) }
    }
}

enum Life {
    Lives(Option<PrivateFd>),
    Gone,
}

fn look(lease: Lease) -> Life {
    // No process has the id 0.
    let pid = lease.holder.pid();
    match PrivateFd::of_process(pid) {
        // Its id was reused before the pidfd was opened, if the process has another start time now.
        Ok(_) if has_other_start(lease) => Life::Gone,
        Ok(pidfd) => Life::Lives(Some(pidfd)),
        Err(_) => look_in_proc(lease),
    }
}

fn look_in_proc(lease: Lease) -> Life {
    let pid = lease.holder.pid();
    let is_no_process = pid == 0
        || i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
        || Stat::of(pid).is_ok_and(|stat| stat.has_ended);
    if is_no_process || has_other_start(lease) { Life::Gone } else { Life::Lives(None) }
}

/// Whether the process with this id is known to be another one. (/proc may hide the processes of other users: then
/// nothing is known.)
fn has_other_start(lease: Lease) -> bool {
    lease.start != 0 && Stat::of(lease.holder.pid()).is_ok_and(|stat| stat.start != lease.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_file_is_read_behind_its_name() {
        let numbers = "1 17 17 0 -1 4194560 100 0 0 0 1 2 0 0 20 0";
        let stat = |state: &str, threads: u32| {
            Stat::parse(&format!("17 (x) Z 1 (y)) {state} {numbers} {threads} 0 4711 9 9\n"))
        };
        assert_eq!(stat("S", 3), Some(Stat { has_ended: false, start: 4711 }));
        assert_eq!(stat("Z", 3), Some(Stat { has_ended: false, start: 4711 }));
        assert_eq!(stat("Z", 1), Some(Stat { has_ended: true, start: 4711 }));
        for garbled in ["", "17 (sh", "17 (sh)", "17 (sh) S 1 2"] {
            assert_eq!(Stat::parse(garbled), None, "{garbled:?}");
        }
    }

    fn gone(watches: &mut Watches, lease: Lease) -> bool {
        let leases = [(3, lease)];
        // As if it were seen from process 1.
        if !watches.update(&leases, 1).is_empty() {
            return true;
        }
        let (reader, _writer) = std::io::pipe().unwrap();
        matches!(watches.sleep(reader, Sleep::AtTheGate, Some(Instant::now())), Woken::Gone(gone) if gone == leases)
    }

    #[test]
    fn a_holder_is_gone_when_it_has_ended_or_its_id_is_anothers() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let start = Stat::of(child.id()).unwrap().start;
        let lease = Me { pid: child.id(), tid: child.id(), start }.lease(1);
        let mut watches = Watches::default();
        assert!(!gone(&mut watches, lease) && !gone(&mut watches, lease));
        assert!(matches!(look_in_proc(lease), Life::Lives(None)));
        assert!(gone(&mut watches, Lease { start: start + 1, ..lease }));
        assert!(gone(&mut watches, Me { pid: 0, tid: 1, start: 0 }.lease(1)));
        assert!(!gone(&mut watches, lease));
        child.kill().unwrap();
        // A zombie has ended.
        while !gone(&mut watches, lease) {
            std::thread::yield_now();
        }
        assert!(matches!(look_in_proc(lease), Life::Gone));
        child.wait().unwrap();
        assert!(gone(&mut Watches::default(), lease));
    }
}
