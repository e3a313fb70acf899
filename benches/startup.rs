//! Claim: a pool starts in milliseconds; by forkserver also when the parent is large.
//!
//! First the whole life of one process, in milliseconds: start, result, end.
//!
//! - `procpool`: `Process::spawn` and `join`, by each start method;
//! - `Command`: `/bin/true`, started and waited for; by std, which executes it from a vfork;
//! - `fork`, the limit: fork, exit and wait for one bare process.
//!
//! Then the whole life of a pool of two, in milliseconds: build, one result, close, join. By each start method; by forkserver
//! both with a server that is already running and with one that must be started. Then again while this process holds a
//! gibibyte of memory that it has written: a fork copies its page tables, the other methods should be unaffected. The
//! last lines say how much longer each takes with the gibibyte.
//!
//! - `procpool`: as above;
//! - `procspawn`: the same life, by its only method;
//! - `fork`, the limit: fork, exit and wait for one bare process.

mod common {
    pub(crate) mod contest;
    pub(crate) mod fork;
    pub(crate) mod quick;
    pub(crate) mod quiet;
    pub(crate) mod table;
}

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use common::contest::Contest;
use common::contest::Figures;
use common::fork::Forked;
use common::quick::sized;
use common::quiet::wait_for_one_thread;
use common::table::print_aligned;
use procpool::Pool;
use procpool::StartMethod;
use procpool::forkserver;
use procpool::process::Process;

const ROWS: [&str; 7] = [
    "fork",
    "spawn",
    "forkserver",
    "forkserver, with its server's start",
    "beside 1 GiB: fork",
    "beside 1 GiB: forkserver",
    "beside 1 GiB: forkserver, with its server's start",
];

fn main() -> anyhow::Result<()> {
    procpool::init();
    procspawn::init();

    processes();
    let ours = Contest::new("startup: life of a pool of 2 in ms, less is better", ROWS)
        .add("procpool", procpool_lives)
        .add("procspawn", || {
            let spawned = median(procspawn_life)?;
            wait_for_one_thread()?;
            Ok([f64::NAN, spawned, f64::NAN, f64::NAN, f64::NAN, f64::NAN, f64::NAN])
        })
        .add("fork (limit)", || {
            let small = median(bare_fork)?;
            let large = beside_memory(|| median(bare_fork))?;
            Ok([small, small, small, small, large, large, large])
        })
        .run();

    let [fork, _, forkserver, server, large_fork, large_forkserver, large_server] = ours;
    print_aligned(&[
        vec!["ours, beside 1 GiB / without".to_owned(), String::new()],
        vec!["fork".to_owned(), format!("{:.2}", large_fork / fork)],
        vec!["forkserver".to_owned(), format!("{:.2}", large_forkserver / forkserver)],
        vec!["forkserver, with its server's start".to_owned(), format!("{:.2}", large_server / server)],
    ]);
    Ok(())
}

/// The life of one process, beside those that others start.
fn processes() {
    Contest::new("startup: life of a process in ms, less is better", ["fork", "spawn", "forkserver"])
        .add("procpool", || {
            let [fork, spawn, forkserver] = StartMethod::ALL.map(|method| median(|| process_life(method)));
            Ok([fork?, spawn?, forkserver?])
        })
        .add("Command", || Ok([f64::NAN, median(command_life)?, f64::NAN]))
        .add("fork (limit)", || Ok([median(bare_fork)?; 3]))
        .run();
}

fn process_life(method: StartMethod) -> anyhow::Result<()> {
    black_box(Process::builder().start_method(method).spawn((1,), identity)?.join()?);
    Ok(())
}

fn command_life() -> anyhow::Result<()> {
    anyhow::ensure!(Command::new("/bin/true").status()?.success());
    Ok(())
}

fn procpool_lives() -> anyhow::Result<Figures<7>> {
    let fork = median(|| life(StartMethod::Fork))?;
    let spawn = median(|| life(StartMethod::Spawn))?;
    let (forkserver, server) = forkserver_lives()?;
    let (large_fork, (large_forkserver, large_server)) =
        beside_memory(|| Ok((median(|| life(StartMethod::Fork))?, forkserver_lives()?)))?;
    Ok([fork, spawn, forkserver, server, large_fork, large_forkserver, large_server])
}

/// With a server that is already running, and with one that must be started.
fn forkserver_lives() -> anyhow::Result<(f64, f64)> {
    let server = median(|| {
        forkserver::stop();
        life(StartMethod::Forkserver)
    })?;
    Ok((median(|| life(StartMethod::Forkserver))?, server))
}

fn life(method: StartMethod) -> anyhow::Result<()> {
    let pool = Pool::builder().processes(2).start_method(method).build()?;
    black_box(pool.apply((1,), identity)?);
    pool.close();
    Ok(pool.join()?)
}

fn procspawn_life() -> anyhow::Result<()> {
    let pool = procspawn::Pool::new(2)?;
    black_box(pool.spawn(1, identity).join()?);
    pool.shutdown();
    Ok(())
}

fn bare_fork() -> anyhow::Result<()> {
    Forked::run(|| ())?.wait()
}

fn identity(number: u32) -> u32 {
    number
}

/// The median of a few runs, in milliseconds.
fn median(mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let times = sized(5, 1);
    let mut millis = (0..times)
        .map(|_| {
            let began = Instant::now();
            run()?;
            Ok(began.elapsed().as_secs_f64() * 1e3)
        })
        .collect::<anyhow::Result<Vec<f64>>>()?;
    millis.sort_by(f64::total_cmp);
    Ok(millis[millis.len() / 2])
}

fn beside_memory<T>(measure: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let memory = vec![1u8; sized(1 << 30, 1 << 24)];
    let measured = measure();
    black_box(memory);
    measured
}
