//! The injectors: threads that do to a pool, while it works, what must cost nothing at all.
//!
//! - *Stops*: SIGSTOP of a worker, and a moment later SIGCONT.
//! - *Servers*: SIGKILL of the process that forks the workers: the fork server, or the template of `fork`. Spawn has none.
//! - *Descriptors*: bursts of a fraction of a second in which this process can open no descriptor.
//!
//! There is none for processes: RLIMIT_NPROC does not hold the superuser, as whom a soak often runs. The cases A5 to A7 of
//! docs/reliability.md refuse the system call instead.
//!
//! As the killer does, they signal by pidfd, and only processes that are certainly of this pool.

use std::fs;
use std::fs::File;
use std::iter;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use procpool::Pool;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::Signal;
use rustix::process::pidfd_open;
use rustix::process::pidfd_send_signal;

use crate::dice::Dice;
use crate::gauges::Process;

/// How often an injector checks whether the soak is over.
const CHECK_EVERY: Duration = Duration::from_millis(5);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Stops,
    Servers,
    Descriptors,
}

impl Fault {
    pub(crate) const ALL: [Fault; 3] = [Fault::Stops, Fault::Servers, Fault::Descriptors];

    /// Milliseconds from one such fault to the next, and how long it lasts.
    fn times(self, dice: &mut Dice) -> (u64, u64) {
        match self {
            Fault::Stops if dice.once_in(20) => (dice.below(40), dice.below(100)),
            Fault::Stops => (dice.below(40), dice.below(5)),
            Fault::Servers => (50 + dice.below(200), 0),
            Fault::Descriptors => (200 + dice.below(2500), 100 + dice.below(200)),
        }
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "stops" => Fault::Stops,
            "servers" => Fault::Servers,
            "descriptors" => Fault::Descriptors,
            name => bail!("no fault is named {name:?}"),
        })
    }
}

/// What was injected, and what injectors and killer share.
#[derive(Debug, Default)]
pub(crate) struct Injected {
    /// How many faults of each kind, in the order of [`Fault::ALL`].
    counts: [AtomicU64; 3],
    /// Held while a worker is continued, and by the killer while a worker must stay stopped.
    pub(crate) continuing: Mutex<()>,
}

impl Injected {
    pub(crate) fn counts(&self) -> [u64; 3] {
        self.counts.each_ref().map(|count| count.load(SeqCst))
    }

    /// Injects faults of one kind until the soak is over.
    pub(crate) fn inject_until(&self, over: &AtomicBool, fault: Fault, pool: &Pool, dice: &mut Dice) {
        loop {
            let (pause, time) = fault.times(dice);
            if !sleep_unless(over, Duration::from_millis(pause)) {
                return;
            }
            let time = Duration::from_millis(time);
            let is_done = match fault {
                Fault::Stops => self.stop_a_worker(pool, time, dice),
                Fault::Servers => kill_server(pool),
                Fault::Descriptors => refuse_descriptors(over, time),
            };
            self.counts[fault as usize].fetch_add(is_done.is_some().into(), SeqCst);
        }
    }

    fn stop_a_worker(&self, pool: &Pool, time: Duration, dice: &mut Dice) -> Option<()> {
        let pids = pool.pids();
        if pids.is_empty() {
            return None;
        }
        let worker = open(dice.pick(&pids), Process::is_ours)?;
        pidfd_send_signal(&worker, Signal::STOP).ok()?;
        thread::sleep(time);
        let _alone = self.continuing.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails if it was killed meanwhile.
        let _result = pidfd_send_signal(&worker, Signal::CONT);
        Some(())
    }
}

/// Sleeps until the soak is over, and not longer than `time`. Returns whether it goes on.
fn sleep_unless(over: &AtomicBool, time: Duration) -> bool {
    let end = Instant::now() + time;
    while !over.load(SeqCst) && Instant::now() < end {
        thread::sleep(CHECK_EVERY.min(end.saturating_duration_since(Instant::now())));
    }
    !over.load(SeqCst)
}

/// The pidfd of a process for which `is_it` holds, asked when its id can no longer be reused.
fn open(pid: u32, is_it: impl Fn(&Process) -> bool) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
    Process::find(pid).filter(is_it).map(|_| pidfd)
}

/// Kills the process that has forked any of the workers, if that is not this process.
fn kill_server(pool: &Pool) -> Option<()> {
    let parents = pool.pids().into_iter().filter_map(|pid| Some(Process::find(pid)?.parent));
    let server = parents.filter_map(|pid| open(pid, Process::is_child)).next()?;
    pidfd_send_signal(&server, Signal::KILL).ok()
}

/// Fills the table of descriptors of this process for so long. What is closed meanwhile makes room.
fn refuse_descriptors(over: &AtomicBool, time: Duration) -> Option<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let last = descriptors().ok()?.into_iter().max()?;
    setrlimit(Resource::RLIMIT_NOFILE, last + 1, hard).ok()?;
    let fillers: Vec<File> = iter::from_fn(|| File::open("/dev/null").ok()).collect();
    sleep_unless(over, time);
    drop(fillers);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("a limit that was in force is valid");
    Some(())
}

fn descriptors() -> anyhow::Result<Vec<u64>> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let entries = fs::read_dir("/proc/self/fd")?;
    entries.map(|entry| number(entry?).context("not a number")).collect()
}
