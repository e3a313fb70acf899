//! Threads in place of processes: the same calls, results and errors.

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use procpool::Handle;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::ThreadPool;
use procpool::Workers;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    contract_holds_for_both,
    what_needs_processes_is_refused,
    threads_end_with_join,
    initializer_runs_on_each_thread,
    dropped_pool_runs_nothing_more,
    task_may_wait_for_others_of_its_pool,
    closed_pool_ends_what_it_has,
    input_is_drawn_as_results_are_consumed,
];

fn threads(count: usize) -> ThreadPool {
    Pool::builder().processes(count).build_threads().unwrap()
}

fn end(pool: &ThreadPool) {
    pool.close();
    pool.join().unwrap();
}

/// What an error is, without the process that it names.
fn told<T: Debug>(result: Result<T, TaskError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(TaskError::Failed(failure)) => format!("failed: {}, {:?}", failure.message, failure.origin.index()),
        Err(TaskError::Panicked(panic)) => {
            assert!(panic.location.is_some_and(|location| location.contains("threads.rs")));
            format!("panicked: {}, {:?}", panic.message, panic.origin.index())
        }
        Err(error) => format!("{error:?}"),
    }
}

fn third(x: u32) -> u32 {
    assert!(x != 3, "three");
    12 / x
}

fn checked(x: u32) -> anyhow::Result<u32> {
    anyhow::ensure!(x != 5, "no {x}");
    Ok(x + 1)
}

fn add_checked(sum: u32, x: u32) -> anyhow::Result<u32> {
    Ok(sum + checked(x)?)
}

/// Every call, with values, errors, panics and options.
fn contract(workers: &impl Workers) -> Vec<String> {
    let mut all = vec![
        told(workers.apply((3u64, 2), u64::pow)),
        told(workers.apply((), || "nothing".to_owned())),
        told(workers.apply((0u32,), third)),
        told(workers.apply((5u32,), checked)),
        told(workers.apply((5u32,), |x| -> Result<u32, String> { Err(format!("data {x}")) })),
        told(workers.apply_async(("ab".to_owned(), 2), |text: String, times| text.repeat(times)).into_value()),
        told(workers.label("thirds").map(0..10, third)),
        told(workers.map(["a", "bc"].map(str::to_owned), |word: String| word.len())),
        told(workers.map(Vec::<u32>::new(), third)),
        told(workers.map(3..8, checked)),
        told(workers.starmap([(1u32, 2u32), (3, 4)], |a, b| a + b)),
        told(workers.chunk_size(3).map_chunks(0..8u32, |chunk: Vec<u32>| chunk.iter().sum::<u32>())),
        told(workers.fold(0..1000u64, 0, |sum, x| sum + x * x, |left, right| left + right)),
        told(workers.chunk_size(4).fold(0..20, 0, add_checked, |left, right| left + right)),
        told(workers.reduce((0..500).map(|x| x.to_string()), |left, right| left + &right)),
        told(workers.reduce(0..0u64, u64::max)),
        told(workers.window(3).imap(0u64.., |x| x * 2).take(50).collect::<Result<Vec<_>, _>>()),
        told(workers.chunk_size(0).map(0..3, third)),
        told(workers.window(0).map(0..3, third)),
        told(workers.map((0..9u32).inspect(|&x| assert!(x < 7, "an input")), |x| x)),
    ];
    all.extend(workers.map_results(1..7, third).unwrap().into_iter().map(told));
    all.extend(workers.imap(1..7, checked).map(told));
    let mut unordered: Vec<String> = workers.imap_unordered(1..7, checked).map(told).collect();
    unordered.sort();
    all.extend(unordered);
    let skipped = workers.fail_fast().map_results(0..2000, |x| if x == 0 { checked(5) } else { Ok(x) }).unwrap();
    assert!(skipped.len() == 2000 && matches!(skipped.last(), Some(Err(TaskError::Skipped) | Ok(1999))));
    all.push(told(workers.fail_fast().map(4..6, checked)));
    all
}

fn contract_holds_for_both(method: StartMethod) {
    for size in [1, 3] {
        // First: a fork beside threads is refused.
        let pool = stage::pool(method, size);
        let by_processes = contract(&pool);
        pool.terminate();
        pool.join().unwrap();
        let threads = threads(size);
        assert_eq!(contract(&threads), by_processes);
        end(&threads);
    }
}

fn what_needs_processes_is_refused(_: StartMethod) {
    fn unsupported<T: Debug>(result: Result<T, TaskError>, name: &str) {
        let error = result.unwrap_err();
        let TaskError::Refused(PoolError::Unsupported { option, by: "threads" }) = error else { panic!("{error:?}") };
        assert_eq!(option, name);
    }
    let pool = threads(1);
    let timed = pool.timeout(Duration::from_secs(60));
    unsupported(timed.apply((1u32,), third), "timeout");
    unsupported(timed.apply_async((1u32,), third).into_value(), "timeout");
    unsupported(timed.map([1], third), "timeout");
    unsupported(timed.imap([1], third).next().unwrap(), "timeout");
    unsupported(timed.fold([1], 0, |sum, x| sum + x, |left, _| left), "timeout");
    unsupported(pool.retries(1).reduce([1], |left, _| left), "retries");
    unsupported(pool.retries(1).map_chunks([1u32], |chunk: Vec<u32>| chunk.len()), "retries");
    assert_eq!(pool.retries(0).map([1], third).unwrap(), [12]);
    assert!(matches!(
        pool.timeout(Duration::ZERO).map([1], third),
        Err(TaskError::Refused(PoolError::ZeroLimit { option: "timeout" }))
    ));
    end(&pool);

    let second = Duration::from_secs(1);
    for (builder, name) in [
        (Pool::builder().start_method(StartMethod::Spawn), "start_method"),
        (Pool::builder().max_tasks_per_child(1), "max_tasks_per_child"),
        (Pool::builder().max_rss_per_child(1), "max_rss_per_child"),
        (Pool::builder().max_age_per_child(second), "max_age_per_child"),
        (Pool::builder().idle_timeout(second), "idle_timeout"),
        (Pool::builder().min_processes(1), "idle_timeout"),
        (Pool::builder().initializer_timeout(second), "initializer_timeout"),
        (Pool::builder().finalizer((), || ()), "finalizer"),
        (Pool::builder().on_log(|_| ()), "logs, on_log or on_output"),
        (Pool::builder().pin_workers(), "pin_workers or affinity"),
        (Pool::builder().executable("/bin/true"), "executable"),
        (Pool::builder().env("A", "B"), "env, current_dir or rlimit"),
        (Pool::builder().rlimit(procpool::Limit::CoreSize, 0, None), "env, current_dir or rlimit"),
    ] {
        let refused = builder.build_threads();
        assert!(matches!(&refused, Err(PoolError::Unsupported { option, .. }) if *option == name), "{refused:?}");
    }
    assert!(matches!(Pool::builder().processes(0).build_threads(), Err(PoolError::ZeroProcesses)));
}

fn threads_end_with_join(_: StartMethod) {
    let count = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = count();
    let pool = threads(4);
    assert!(matches!(pool.join(), Err(PoolError::StillRunning)));
    assert_eq!((pool.processes(), count()), (4, before + 4));
    let own = pool.map(0..100u32, |_| std::thread::current().name().map(str::to_owned)).unwrap();
    assert!(own.iter().all(|name| name.as_ref().is_some_and(|name| name.starts_with("procpool-"))));
    end(&pool);
    stage::until("the threads are gone", || count() == before);
    assert!(matches!(stage::error(pool.map([1], third)), TaskError::Refused(PoolError::Closed)));
    pool.join().unwrap();
}

fn initializer_runs_on_each_thread(_: StartMethod) {
    thread_local! {
        static SETTING: Cell<u32> = const { Cell::new(0) };
    }
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let set = |setting| {
        RUNS.fetch_add(1, Ordering::SeqCst);
        SETTING.set(setting);
    };
    let pool = Pool::builder().processes(3).initializer((7u32,), set).build_threads().unwrap();
    assert!(pool.map(0..100u32, |_| SETTING.get()).unwrap().iter().all(|&setting| setting == 7));
    assert_eq!(RUNS.load(Ordering::SeqCst), 3);
    end(&pool);
    let failed = Pool::builder().processes(2).initializer((), || Err("no setting")).build_threads();
    assert!(matches!(&failed, Err(PoolError::Initializer { message }) if message == "no setting"), "{failed:?}");
    let failed = Pool::builder().processes(2).initializer((), || -> () { panic!("a panic") }).build_threads();
    assert!(matches!(&failed, Err(PoolError::Initializer { message }) if message.contains("a panic")), "{failed:?}");
}

fn dropped_pool_runs_nothing_more(_: StartMethod) {
    let count = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = count();
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let pool = threads(1);
    let held = pool.apply_async((gate.path(), book.path()), |gate, book| {
        stage::note(&book, "here");
        stage::pass(&gate);
    });
    book.wait_for(1);
    let queued = pool.apply_async((book.path(),), |book| stage::note(&book, "never"));
    assert!(!queued.ready() && !queued.wait_timeout(Duration::from_millis(1)));
    drop(pool);
    gate.open();
    held.into_value().unwrap();
    assert!(matches!(queued.into_value(), Err(TaskError::Terminated)));
    assert_eq!(book.lines(), ["here"]);
    stage::until("its thread is gone", || count() == before);
}

/// One thread, on which a task waits for tasks that need a thread.
fn task_may_wait_for_others_of_its_pool(_: StartMethod) {
    static POOL: std::sync::OnceLock<ThreadPool> = std::sync::OnceLock::new();
    let pool = POOL.get_or_init(|| threads(1));
    let sum = pool.apply((4u64,), |n| {
        let pool = POOL.get().unwrap();
        assert!(matches!(pool.join(), Err(PoolError::StillRunning)));
        let squares: u64 = pool.map(0..n, |x| x * x).unwrap().into_iter().sum();
        squares + pool.apply_async((n,), |n| n).into_value().unwrap()
    });
    assert_eq!(sum.unwrap(), 18);
    end(pool);
}

fn closed_pool_ends_what_it_has(_: StartMethod) {
    let pool = threads(2);
    let handles: Vec<_> = (0..50u64).map(|x| pool.apply_async((x,), |x| stage::doze(x % 3) + x)).collect();
    end(&pool);
    for (x, handle) in (0..50u64).zip(handles) {
        assert!(handle.ready());
        assert_eq!(handle.into_value().unwrap(), x % 3 + x);
    }
}

fn input_is_drawn_as_results_are_consumed(_: StartMethod) {
    let pool = threads(2);
    let drawn = Cell::new(0u64);
    let input = || (0u64..).inspect(|_| drawn.set(drawn.get() + 1));
    let mut results = pool.imap(input(), |x| x);
    assert_eq!(drawn.get(), 0);
    for x in 0..100 {
        assert_eq!(results.next().unwrap().unwrap(), x);
        assert!(drawn.get() <= x + 1 + 4, "{} drawn for {x}", drawn.get());
    }
    drop(results);
    end(&pool);
}
