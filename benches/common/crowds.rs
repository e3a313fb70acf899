//! What waits or works beside a call: queued calls, idle workers, busy workers.
//!
//! Each row has a workload beside few others and beside many, as the time of one call, and their ratio: one is the best
//! possible. The two are measured in turns. The first table is the memory of this process for each call that waits.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::fs;
use std::hint::black_box;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use super::quick::is_quick;
use super::quick::sized;
use super::table::print_aligned;
use anyhow::Context;
use procpool::AsyncResult;
use procpool::Pool;

/// Prints both tables.
pub(crate) fn measure() -> anyhow::Result<()> {
    // First: what earlier calls have given back would be used again.
    memory_of_waiting_calls()?;
    println!("scaling: µs for each call, less is better; {}", sized("medians of 5 rounds", "quick: no figures"));
    let mut lines = vec![["workload", "few", "many", "many/few"].map(str::to_owned).to_vec()];
    lines.push(row("close: 4,000 and 40,000 queued", sized([4_000, 40_000], [100, 200]), closing)?);
    lines.push(row("the same without close", sized([4_000, 40_000], [100, 200]), draining)?);
    lines.push(row("cancel: 8,000 and 80,000 queued", sized([8_000, 80_000], [100, 200]), cancelling)?);
    lines.push(row("apply: 2 and 64 idle workers", sized([2, 64], [2, 4]), beside_idle)?);
    lines.push(row("apply: 2 and 256 idle workers", sized([2, 256], [2, 4]), beside_idle)?);
    lines.push(row("apply_async: 2 and 256 busy workers", sized([2, 256], [2, 4]), beside_busy)?);
    print_aligned(&lines);
    Ok(())
}

fn identity(number: u32) -> u32 {
    black_box(number)
}

fn forever(_: u32) {
    loop {
        sleep(Duration::from_secs(3600));
    }
}

/// Measures the workload beside few and beside many, in turns.
fn row(name: &str, sizes: [usize; 2], workload: fn(usize) -> anyhow::Result<Duration>) -> anyhow::Result<Vec<String>> {
    let mut rounds = Vec::new();
    for _ in 0..sized(5, 1) {
        let few = workload(sizes[0])?.as_secs_f64() * 1e6;
        let many = workload(sizes[1])?.as_secs_f64() * 1e6;
        rounds.push([few, many, many / few]);
    }
    let median = |column: usize| {
        let mut sorted: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
        sorted.sort_by(f64::total_cmp);
        format!("{:.2}", sorted[sorted.len() / 2])
    };
    Ok(vec![name.to_owned(), median(0), median(1), median(2)])
}

fn each(time: Duration, calls: usize) -> Duration {
    time.div_f64(calls as f64)
}

/// A pool of one whose worker waits for the file to go, and calls that are queued behind.
fn queued(calls: usize) -> anyhow::Result<(Pool, tempfile::NamedTempFile, Vec<AsyncResult<u32>>)> {
    let pool = Pool::new(1)?;
    let gate = tempfile::NamedTempFile::new()?;
    let path = gate.path().display().to_string();
    drop(pool.apply_async((path,), |path| {
        while fs::exists(&path).unwrap_or(false) {
            sleep(Duration::from_millis(1));
        }
    }));
    let handles = (0..calls).map(|_| pool.apply_async((1,), identity)).collect();
    Ok((pool, gate, handles))
}

fn closing(calls: usize) -> anyhow::Result<Duration> {
    let (pool, gate, handles) = queued(calls)?;
    let began = Instant::now();
    pool.close();
    drop(gate);
    for handle in handles {
        black_box(handle.get()?);
    }
    let time = began.elapsed();
    pool.join()?;
    Ok(each(time, calls))
}

fn draining(calls: usize) -> anyhow::Result<Duration> {
    let (_pool, gate, handles) = queued(calls)?;
    let began = Instant::now();
    drop(gate);
    for handle in handles {
        black_box(handle.get()?);
    }
    Ok(each(began.elapsed(), calls))
}

fn cancelling(calls: usize) -> anyhow::Result<Duration> {
    let (_pool, _gate, handles) = queued(calls)?;
    let began = Instant::now();
    handles.iter().rev().for_each(|handle| {
        black_box(handle.cancel());
    });
    Ok(each(began.elapsed(), calls))
}

/// A pool of which every worker is ready.
fn ready(workers: usize) -> anyhow::Result<Pool> {
    let pool = Pool::new(workers)?;
    let pause = |_: u32| sleep(Duration::from_millis(sized(100, 1)));
    pool.chunk_size(1).map(0..u32::try_from(workers)?, pause)?;
    Ok(pool)
}

fn beside_idle(workers: usize) -> anyhow::Result<Duration> {
    let calls = sized(20_000, 100);
    let pool = ready(workers)?;
    for number in 0..sized(1000, 10) {
        black_box(pool.apply((number,), identity)?);
    }
    let began = Instant::now();
    for number in 0..calls {
        black_box(pool.apply((number,), identity)?);
    }
    Ok(each(began.elapsed(), calls as usize))
}

fn beside_busy(workers: usize) -> anyhow::Result<Duration> {
    let calls = sized(5000, 100);
    let pool = ready(workers)?;
    let busy: Vec<_> = (0..workers).map(|_| pool.apply_async((1,), forever)).collect();
    sleep(Duration::from_millis(sized(200, 10)));
    let began = Instant::now();
    let handles: Vec<_> = (0..calls).map(|number| pool.apply_async((number,), identity)).collect();
    let time = began.elapsed();
    pool.terminate();
    drop((busy, handles));
    Ok(each(time, calls as usize))
}

fn memory_of_waiting_calls() -> anyhow::Result<()> {
    let calls = sized(100_000, 100);
    let (pool, gate, warm_up) = queued(10)?;
    let before = resident_bytes()?;
    let handles: Vec<_> = (0..calls).map(|_| pool.apply_async((1,), identity)).collect();
    let growth = resident_bytes()? - before;
    drop((gate, warm_up));
    let handles_done: u32 = handles.into_iter().map(|handle| handle.get()).sum::<Result<_, _>>()?;
    black_box(handles_done);
    let figure = if is_quick() { "-".to_owned() } else { format!("{}", growth / calls) };
    print_aligned(&[
        vec!["scaling: memory of this process".to_owned(), "bytes for each call".to_owned()],
        vec![format!("apply_async, {calls} queued"), figure],
    ]);
    Ok(())
}

fn resident_bytes() -> anyhow::Result<i64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse::<i64>()? * 1024)
}
