//! The hunt: starts a victim, kills it, and waits for the end of all its processes.

use std::fmt;
use std::fs;
use std::io::Read;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use procpool::StartMethod;

use crate::dice::Dice;
use crate::options::Options;
use crate::options::VICTIM;
use crate::victim::HAS_NESTED_POOL;
use crate::victim::HAS_POOL;

/// A process that lives this long after its parent was killed is an orphan.
const ORPHAN_AFTER: Duration = Duration::from_secs(2);
/// Longer than any process needs to end, unless it lacks CPU time.
const LATE_AFTER: Duration = Duration::from_millis(100);
/// A victim is killed within this time; one in four in its first moments.
const LIFE_MICROS_MAX: u64 = 150_000;
const SHORT_LIFE_MICROS_MAX: u64 = 8_000;

/// The results of one hunt.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    kills: u64,
    orphans: u64,
    /// Processes that were reparented to this one, and ended.
    went_along: u64,
    without_pool: u64,
    with_pool: u64,
    with_nested_pool: u64,
    /// From each kill to the end of the last.
    delays: Vec<Duration>,
    /// How many kills had a late process, and the last such process.
    late: u64,
    late_one: Option<String>,
    took: Duration,
    pub(crate) complaints: Vec<String>,
}

/// Kills as many parents as the options say.
pub(crate) fn run(method: StartMethod, options: &Options) -> anyhow::Result<Verdict> {
    let began = Instant::now();
    let mut verdict = Verdict::default();
    let mut dice = Dice::new(options.seed, method as u64);
    for _ in 0..options.kills {
        let longest = if dice.once_in(4) { SHORT_LIFE_MICROS_MAX } else { LIFE_MICROS_MAX };
        let life = Duration::from_micros(dice.below(longest));
        verdict.kill_one(method, dice.next(), life)?;
    }
    verdict.took = began.elapsed();
    Ok(verdict)
}

impl Verdict {
    fn kill_one(&mut self, method: StartMethod, seed: u64, life: Duration) -> anyhow::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(format!("{VICTIM}={method},{seed}")).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut victim = command.spawn().context("cannot run this program again")?;
        thread::sleep(life);
        victim.kill().context("killing a victim")?;
        let killed = Instant::now();
        victim.wait()?;
        self.kills += 1;
        self.reap_all(killed).with_context(|| format!("after seed {seed}"))?;
        // All processes with the other end are gone, so this ends.
        let mut output = Vec::new();
        victim.stdout.take().context("its standard output")?.read_to_end(&mut output)?;
        match (output.contains(&HAS_POOL), output.contains(&HAS_NESTED_POOL)) {
            (_, true) => self.with_nested_pool += 1,
            (true, false) => self.with_pool += 1,
            (false, false) => self.without_pool += 1,
        }
        Ok(())
    }

    /// Reaps until there is no child. Kills the processes that are left after their time.
    fn reap_all(&mut self, killed: Instant) -> anyhow::Result<()> {
        let (mut is_late, mut is_orphan) = (false, false);
        loop {
            if !is_late && killed.elapsed() > LATE_AFTER {
                is_late = true;
                self.late += 1;
                self.late_one = children().first().copied().map(describe).or(self.late_one.take());
            }
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => break,
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::StillAlive) if killed.elapsed() < ORPHAN_AFTER => {
                    thread::sleep(Duration::from_micros(100));
                }
                Ok(WaitStatus::StillAlive) if is_orphan => {
                    anyhow::ensure!(killed.elapsed() < ORPHAN_AFTER * 5, "an orphan survives its SIGKILL");
                    thread::sleep(Duration::from_millis(1));
                    // When they are killed, their own children are reparented to this process.
                    children().into_iter().for_each(kill_orphan);
                }
                Ok(WaitStatus::StillAlive) => {
                    is_orphan = true;
                    for pid in children() {
                        self.orphans += 1;
                        self.complaints.push(format!("an orphan: {}", describe(pid)));
                        kill_orphan(pid);
                    }
                }
                Ok(_) => self.went_along += 1,
                Err(errno) => return Err(errno.into()),
            }
        }
        self.delays.push(killed.elapsed());
        Ok(())
    }

    /// Whether there was no orphan.
    pub(crate) fn is_clean(&self) -> bool {
        self.orphans == 0
    }
}

fn kill_orphan(pid: Pid) {
    // It is a child that has not been reaped, so its id has not been reused.
    let _result = kill(pid, Signal::SIGKILL);
}

/// The children of this process, as the kernel lists them.
fn children() -> Vec<Pid> {
    let list = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

fn describe(pid: Pid) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = read("status");
    let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("State: gone");
    let (comm, wchan) = (read("comm"), read("wchan"));
    format!("pid {pid} ({}) {} wchan {wchan}", comm.trim(), state.replace('\t', " "))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut delays = self.delays.clone();
        delays.sort();
        let at = |part: usize| delays.get(delays.len() * part / 100).map_or(0.0, |delay| delay.as_secs_f64() * 1e3);
        let last = delays.last().map_or(0.0, |delay| delay.as_secs_f64() * 1e3);
        write!(
            f,
            "kills {}, orphans {} | processes that went along {}, all gone after {:.1} ms (median), {:.1} ms (99 of \
             100), {last:.1} ms (the last); later than {LATE_AFTER:?}: {} | killed before its pool {}, with a pool {}, with nested pools {} | {:.1} s",
            self.kills,
            self.orphans,
            self.went_along,
            at(50),
            at(99),
            self.late,
            self.without_pool,
            self.with_pool,
            self.with_nested_pool,
            self.took.as_secs_f64()
        )?;
        match &self.late_one {
            Some(process) => write!(f, " | after {LATE_AFTER:?} still alive: {process}"),
            None => Ok(()),
        }
    }
}
