//! Why fork and threads do not mix: a deadlock on a lock whose owner does not exist.
//!
//! ```text
//!  parent                                    forked worker
//!  ──────                                    ─────────────
//!  main thread ──── fork ──────────────────▶ main thread: runs a task, wants the lock
//!  other thread: holds the lock              (no other thread: fork copies only the caller)
//!       │                                    the lock: a copy, held for ever
//!       └─ releases the parent's lock
//! ```
//!
//! For that reason a pool refuses to fork beside threads. This program lifts the refusal with an unsafe promise, and
//! breaks the promise on purpose, in two scenes: a lock that a thread holds across the fork, which always deadlocks,
//! and a log that threads are writing to, which deadlocks by chance. In each, the stuck worker is found, inspected
//! and killed. Then the same job completes with spawn and forkserver, while the other threads continue. The third scene has
//! the cure for logs: the records of a worker travel to this process, and the worker never calls this process's logger.

#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(unsafe_code, reason = "breaks the promise of fork_despite_threads to show its purpose")]

use std::fs;
use std::fs::File;
use std::io::Write;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use procpool::AsyncResult;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

/// After this time, the worker of a job that should take microseconds is inspected.
const SUSPICIOUS: Duration = Duration::from_millis(500);
/// How long a job may take on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How many forks the second scene tries; usually one is enough.
const FORKS_MAX: u32 = 40;
/// How many forks the third scene makes, of which none may deadlock.
const CURED_FORKS: u64 = 20;

type Job = fn(&Pool) -> AsyncResult<Vec<u64>>;

static LEDGER: Mutex<u64> = Mutex::new(0);

fn deposit(amount: u64) -> u64 {
    let mut balance = LEDGER.lock().unwrap_or_else(PoisonError::into_inner);
    *balance += amount;
    amount
}

static LOG: LazyLock<Mutex<File>> =
    LazyLock::new(|| Mutex::new(File::options().write(true).open("/dev/null").expect("/dev/null exists")));

/// Ends the threads that write to the log.
static LOG_IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Formats and writes a line under a lock, as most loggers do.
fn log_line(number: u64) -> u64 {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    // It writes to /dev/null, so a failure loses nothing.
    let _ = writeln!(log, "item {number} of a job that logs what it does");
    number
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    scene_of_the_held_lock()?;
    scene_of_the_busy_log()?;
    scene_of_the_cure()?;
    println!(
        "\nWhy: fork copies the memory of a process, but only one of its threads. A lock that another thread holds is\n\
         copied as held, without the thread that would release it. It need not be your own lock: a logger or a C\n\
         library may have one. Workers by spawn and forkserver start in a process that never had the other threads,\n\
         so their locks are free. That is why forkserver is the default, and fork is refused beside threads."
    );
    Ok(())
}

fn scene_of_the_held_lock() -> anyhow::Result<()> {
    println!("Scene 1: a thread holds a lock while a pool is forked");
    let job: Job = |pool| pool.map_async(1..=4u64, deposit);
    let (say_held, held) = mpsc::channel();
    let (let_go, may_let_go) = mpsc::channel::<()>();
    let owner = thread::spawn(move || {
        let _balance = LEDGER.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = say_held.send(());
        // Returns when the other end is dropped, however the scene ends.
        let _ = may_let_go.recv();
    });
    held.recv()?;

    let refusal = Pool::builder().processes(1).start_method(StartMethod::Fork).build();
    let Err(PoolError::Start(refusal)) = refusal else { bail!("fork beside threads was not refused: {refusal:?}") };
    println!("  without the unsafe promise: {refusal}");

    let forked = fork_despite_threads()?;
    let elsewhere = [StartMethod::Spawn, StartMethod::Forkserver].map(|method| (method, pool_of(method)));
    drop(let_go);
    ensure!(owner.join().is_ok(), "the thread that held the lock panicked");
    ensure!(LEDGER.try_lock().is_ok(), "the lock in the parent is still held");
    println!("  the thread has released the lock and ended; in this process the lock is free again");

    ensure!(end_if_stuck(&forked, job)?, "the forked worker acquired a lock that no thread could release");
    for (method, pool) in elsewhere {
        run_to_the_end(method, &pool?, job)?;
    }
    Ok(())
}

fn scene_of_the_busy_log() -> anyhow::Result<()> {
    println!("\nScene 2: threads write to a log while a pool is forked");
    let job: Job = |pool| pool.map_async(1..=4u64, log_line);
    let (say_busy, busy) = mpsc::channel();
    // Not scoped threads: if this thread panicked, the scope would wait for them for ever.
    let writers = [say_busy.clone(), say_busy].map(|say_busy| {
        thread::spawn(move || {
            log_line(0);
            let _ = say_busy.send(());
            while !LOG_IS_CLOSED.load(Ordering::Relaxed) {
                log_line(0);
            }
        })
    });
    for _ in &writers {
        busy.recv()?;
    }
    show_the_busy_log(job)?;
    LOG_IS_CLOSED.store(true, Ordering::Relaxed);
    for writer in writers {
        ensure!(writer.join().is_ok(), "a thread that wrote to the log panicked");
    }
    Ok(())
}

/// How many records have come from workers.
static FROM_WORKERS: AtomicU64 = AtomicU64::new(0);

/// Writes to the log of the second scene, under its lock.
struct LockedLog;

impl log::Log for LockedLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        FROM_WORKERS.fetch_add(record.args().to_string().starts_with("worker ").into(), Ordering::Relaxed);
        log_line(0);
    }

    fn flush(&self) {}
}

fn scene_of_the_cure() -> anyhow::Result<()> {
    println!("\nScene 3: the same with the crate log, and a logger that was set by procpool::set_logger");
    ensure!(procpool::set_logger(Box::new(LockedLog)).is_ok(), "there is a logger already");
    log::set_max_level(log::LevelFilter::Info);
    let log_item = |number: u64| {
        log::info!("item {number} of a job that logs what it does");
        number
    };
    LOG_IS_CLOSED.store(false, Ordering::Relaxed);
    let writer = thread::spawn(|| {
        while !LOG_IS_CLOSED.load(Ordering::Relaxed) {
            log::info!("this process is busy");
        }
    });
    for _ in 0..CURED_FORKS {
        let pool = fork_despite_threads()?;
        let values = pool.map_async(1..=4u64, log_item).get_timeout(WAIT_MAX)?;
        ensure!(values.context("a worker waits for the lock of the log")? == [1, 2, 3, 4]);
        pool.close();
        pool.join()?;
    }
    LOG_IS_CLOSED.store(true, Ordering::Relaxed);
    ensure!(writer.join().is_ok(), "the thread that wrote to the log panicked");
    let count = FROM_WORKERS.load(Ordering::Relaxed);
    ensure!(count == 4 * CURED_FORKS, "{count} records of workers have arrived");
    println!("  {CURED_FORKS} forks, no deadlock, and all {count} records of the workers have arrived");
    Ok(())
}

fn show_the_busy_log(job: Job) -> anyhow::Result<()> {
    let mut forks = 1;
    while !end_if_stuck(&fork_despite_threads()?, job)? {
        ensure!(forks < FORKS_MAX, "{forks} forks, and the lock of the log was free in each");
        forks += 1;
    }
    println!("  forks until one deadlocked: {forks}. No code of this scene holds a lock for long");
    for method in [StartMethod::Spawn, StartMethod::Forkserver] {
        run_to_the_end(method, &pool_of(method)?, job)?;
    }
    Ok(())
}

/// Makes a pool with one worker, forked from this process in spite of its other threads.
fn fork_despite_threads() -> Result<Pool, PoolError> {
    let builder = Pool::builder().processes(1).start_method(StartMethod::Fork);
    // SAFETY: the promise is that no task waits for a lock that another thread may hold now. It is broken on purpose:
    // the tasks do. The only consequence is a worker that waits for ever: the data behind the lock are not accessed,
    // and the caller kills the worker.
    unsafe { builder.fork_despite_threads() }.build()
}

fn pool_of(method: StartMethod) -> Result<Pool, PoolError> {
    Pool::builder().processes(1).start_method(method).build()
}

/// Runs the job on `pool`. Returns whether its worker is stuck; if so, prints where, and kills the worker.
fn end_if_stuck(pool: &Pool, job: Job) -> anyhow::Result<bool> {
    let handle = job(pool);
    let pid = pool.pids().first().copied().context("the pool has no worker")?;
    let waited_since = Instant::now();
    loop {
        if let Some(values) = handle.get_timeout(SUSPICIOUS)? {
            ensure!(values == [1, 2, 3, 4]);
            return Ok(false);
        }
        match waits_for_a_lock(pid) {
            // If the system does not show it, the elapsed time decides.
            Some(true) | None => break,
            Some(false) => ensure!(waited_since.elapsed() < WAIT_MAX, "worker {pid} is slow, but waits for no lock"),
        }
    }
    println!("  fork: no result after {:.1?}; worker {pid} {}", waited_since.elapsed(), where_it_is(pid));

    let began = Instant::now();
    pool.terminate();
    let took = began.elapsed();
    let Err(error @ TaskError::Terminated) = handle.get() else {
        bail!("the handle of a terminated job returned a value")
    };
    ensure!(pool.pids().is_empty(), "worker {pid} outlived its pool");
    pool.join()?;
    println!("  fork: terminated in {took:.1?}; the handle returns: {error}");
    Ok(true)
}

fn run_to_the_end(method: StartMethod, pool: &Pool, job: Job) -> anyhow::Result<()> {
    let values = job(pool).get_timeout(WAIT_MAX)?.with_context(|| format!("{method}: not done after {WAIT_MAX:?}"))?;
    ensure!(values == [1, 2, 3, 4]);
    pool.close();
    pool.join()?;
    println!("  {method}: the same job completed: {values:?}");
    Ok(())
}

/// Whether the process sleeps in futex(2), if the system shows it.
fn waits_for_a_lock(pid: u32) -> Option<bool> {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    Some(call.split_whitespace().next()? == libc::SYS_futex.to_string())
}

/// Describes a stuck process from /proc. Fields that the system hides are shown as hidden.
fn where_it_is(pid: u32) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let status = read("status");
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).map_or("hidden", str::trim);
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).map_or("?", str::trim);
    let call = match waits_for_a_lock(pid) {
        Some(true) => "futex, which is how a thread waits for a lock".to_owned(),
        Some(false) => read("syscall").trim().to_owned(),
        None => "hidden".to_owned(),
    };
    let kernel_function = match read("wchan") {
        name if name.is_empty() || name == "0" => "hidden".to_owned(),
        name => name,
    };
    format!(
        "is in state {state}\n        with {threads} thread, in system call {call} (kernel function: {kernel_function})"
    )
}
