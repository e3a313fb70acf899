//! Claim: a fault is reported as soon as it happens.
//!
//! Median and maximum in milliseconds, for a pool of two by each start method:
//!
//! - *death to error*: from the moment a worker kills itself in a task until its caller has the error;
//! - *overshoot*: how much longer than its `timeout` of 50 ms an endless item keeps its caller waiting, measured from the
//!   moment the item began;
//! - *cancel to error*: from `cancel` of an endless item until `get` returns;
//! - *terminate, busy*: `terminate` of a pool with a million queued items whose workers run endless items;
//! - *terminate, stopped*: the same with every worker stopped (SIGSTOP).

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod common {
    pub(crate) mod quick;
}

use std::fs;
use std::hint::spin_loop;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use common::quick::sized;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::signal::raise;
use nix::time::ClockId;
use nix::time::clock_gettime;
use nix::unistd::Pid;
use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;
use tempfile::TempDir;

/// The time limit of an endless item.
const TIMEOUT: Duration = Duration::from_millis(50);

fn main() -> anyhow::Result<()> {
    procpool::init();
    println!("{:<20} | {:<10} | {:>9} | {:>9}", "faults, ms", "by", "median", "worst");
    for method in [StartMethod::Fork, StartMethod::Forkserver, StartMethod::Spawn] {
        let folder = TempDir::new()?;
        let note = folder.path().join("note").display().to_string();
        let pool = build(method)?;
        let rounds = sized(40, 2);
        print("death to error", method, (0..rounds).map(|_| death_to_error(&pool, &note)))?;
        print("overshoot", method, (0..rounds).map(|_| overshoot(&pool, &note)))?;
        print("cancel to error", method, (0..rounds).map(|_| cancel_to_error(&pool, &note)))?;
        drop(pool);
        for (name, workers) in [("terminate, busy", Workers::Busy), ("terminate, stopped", Workers::Stopped)] {
            print(name, method, (0..sized(5, 1)).map(|_| terminate(method, workers)))?;
        }
    }
    Ok(())
}

fn build(method: StartMethod) -> anyhow::Result<Pool> {
    Ok(Pool::builder().processes(2).start_method(method).build()?)
}

fn print(
    name: &str,
    method: StartMethod,
    samples: impl Iterator<Item = anyhow::Result<Duration>>,
) -> anyhow::Result<()> {
    let mut samples = samples.collect::<anyhow::Result<Vec<Duration>>>()?;
    samples.sort_unstable();
    let millis = |sample: Option<&Duration>| sample.map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e3);
    let (median, worst) = (millis(samples.get(samples.len() / 2)), millis(samples.last()));
    println!("{name:<20} | {:<10} | {median:>9.2} | {worst:>9.2}", method.to_string());
    Ok(())
}

/// CLOCK_MONOTONIC, which all processes share.
fn now() -> anyhow::Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?))
}

fn nanos() -> anyhow::Result<String> {
    Ok(now()?.as_nanos().to_string())
}

fn noted(note: &str) -> anyhow::Result<Duration> {
    let nanos = fs::read_to_string(note).context("the task has left no note")?;
    fs::remove_file(note)?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

fn die(note: String) -> anyhow::Result<()> {
    fs::write(note, nanos()?)?;
    Ok(raise(Signal::SIGKILL)?)
}

fn spin(note: String) -> anyhow::Result<()> {
    // Renamed into place: a reader that polls for the file must find it whole or not at all.
    let draft = format!("{note}.draft");
    fs::write(&draft, nanos()?)?;
    fs::rename(draft, note)?;
    loop {
        spin_loop();
    }
}

fn death_to_error(pool: &Pool, note: &str) -> anyhow::Result<Duration> {
    match pool.apply((note.to_owned(),), die) {
        Err(TaskError::WorkerDied { .. }) => Ok(now()?.saturating_sub(noted(note)?)),
        other => bail!("not a death: {other:?}"),
    }
}

fn overshoot(pool: &Pool, note: &str) -> anyhow::Result<Duration> {
    match pool.timeout(TIMEOUT).apply((note.to_owned(),), spin) {
        Err(TaskError::TimedOut { .. }) => Ok(now()?.saturating_sub(noted(note)?).saturating_sub(TIMEOUT)),
        other => bail!("not a timeout: {other:?}"),
    }
}

fn cancel_to_error(pool: &Pool, note: &str) -> anyhow::Result<Duration> {
    let handle = pool.apply_async((note.to_owned(),), spin);
    while fs::exists(note).is_ok_and(|is_there| !is_there) {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::remove_file(note)?;
    let began = now()?;
    handle.cancel();
    match handle.get() {
        Err(TaskError::Cancelled) => Ok(now()?.saturating_sub(began)),
        other => bail!("not cancelled: {other:?}"),
    }
}

/// The state of the workers when their pool is terminated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Workers {
    Busy,
    Stopped,
}

fn terminate(method: StartMethod, workers: Workers) -> anyhow::Result<Duration> {
    let folder = TempDir::new()?;
    let note = folder.path().join("note").display().to_string();
    let pool = build(method)?;
    let notes = [note.clone(), format!("{note}.2")];
    let busy = notes.clone().map(|note| pool.apply_async((note,), spin));
    while !notes.iter().all(|note| fs::exists(note).is_ok_and(|is_there| is_there)) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let queued = pool.map_async(0..sized(1_000_000u32, 1000), |x| x);
    if workers == Workers::Stopped {
        for pid in pool.pids() {
            kill(Pid::from_raw(pid.try_into()?), Signal::SIGSTOP)?;
        }
    }
    let began = now()?;
    pool.terminate();
    let took = now()?.saturating_sub(began);
    for error in busy.into_iter().map(|handle| handle.get().err()).chain([queued.get().err()]) {
        if !matches!(error, Some(TaskError::Terminated)) {
            bail!("not terminated: {error:?}");
        }
    }
    Ok(took)
}
