//! Exhausted system resources: a typed error or a working pool, and no leaks from a start that failed half way.

use std::thread;

use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use procpool::Pool;
use procpool::PoolError;
use procpool::Side;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;
use crate::harness::warnings;

cases![
    few_descriptors_give_an_error_or_a_pool,
    descriptors_that_run_out_later_cost_no_results,
    starts_go_on_while_a_caller_waits,
    starts_go_on_during_a_join,
    payloads_need_no_descriptors_that_are_not_there,
    large_items_that_wait_need_few_descriptors,
    large_values_that_no_file_takes,
    want_of_descriptors_breaks_no_pool,
    pool_that_has_shrunk_to_nothing_survives_a_want_of_descriptors,
];

/// Runs `body` while at most `spare` more descriptors can be opened.
pub(crate) fn with_spare_descriptors<T>(spare: usize, body: impl FnOnce() -> T) -> T {
    let used: Vec<i32> = processes::descriptors(std::process::id()).into_iter().map(|(fd, _)| fd).collect();
    // The limit is on the number of a descriptor, so free numbers below it can be used too.
    let first_too_many = (0..).filter(|fd| !used.contains(fd)).nth(spare).unwrap();
    with_descriptors_below(u64::try_from(first_too_many).unwrap(), body)
}

/// Runs `body` while only descriptors below `limit` can be opened, even if others are closed meanwhile.
fn with_descriptors_below<T>(limit: u64, body: impl FnOnce() -> T) -> T {
    let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
    let result = body();
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    result
}

/// Whether the error reports an exhausted resource.
pub(crate) fn is_scarcity(error: &PoolError) -> bool {
    matches!(error, PoolError::Start(_) | PoolError::System { .. } | PoolError::Broken { .. })
}

fn few_descriptors_give_an_error_or_a_pool(method: StartMethod) {
    let before = processes::descriptors(std::process::id());
    let (mut failures, mut successes) = (0, 0);
    for spare in 0..30 {
        let outcome = with_spare_descriptors(spare, || -> Result<Vec<u32>, TaskError> {
            let pool = Pool::builder().processes(1).start_method(method).build()?;
            let answer = pool.map(0..10u32, |x| x);
            drop(pool);
            answer
        });
        match outcome {
            Ok(values) => {
                assert_eq!(values, (0..10).collect::<Vec<_>>());
                successes += 1;
            }
            Err(TaskError::Refused(error)) if is_scarcity(&error) => failures += 1,
            Err(other) => panic!("{spare} to spare: {other:?}"),
        }
        procpool::forkserver::stop();
        assert_eq!(processes::descriptors(std::process::id()), before, "{spare} to spare");
        assert_eq!(processes::children(std::process::id()).len(), 0, "{spare} to spare");
    }
    assert!(failures > 0 && successes > 0, "the sweep missed the edge: {failures} failures, {successes} successes");
}

/// Running a task opens no descriptor, and replacements wait until descriptors are available.
fn descriptors_that_run_out_later_cost_no_results(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    let pids = pool.pids();
    with_spare_descriptors(0, || {
        stage::assert_works(&pool);
        assert_eq!(pool.imap(0..100u32, |x| x).map(Result::unwrap).count(), 100);
        assert_eq!(pool.apply_async((1u8,), |x| x).get().unwrap(), 1);
    });
    with_spare_descriptors(0, || {
        stage::signal(pids[0], nix::sys::signal::Signal::SIGKILL);
        stage::assert_works(&pool);
    });
    stage::until_replaced(&pool, 2, &pids[..1]);
    stage::assert_works(&pool);
}

/// One worker is held at the gate, so that the pool does not break, and the other does all other work.
fn with_one_worker_held(method: StartMethod, scene: impl FnOnce(&Pool, u32, &mut Gate)) {
    let pool = stage::pool(method, 2);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let held = pool.apply_async((book.path(), gate.path()), |book, gate| {
        stage::note(&book, std::process::id());
        stage::pass(&gate);
    });
    let holder = book.wait_for(1)[0].parse().unwrap();
    warnings::collect();
    scene(&pool, holder, &mut gate);
    gate.open();
    held.get().unwrap();
    log::set_max_level(log::LevelFilter::Off);
}

/// Kills the worker that is not held, runs `wait` in a thread, and lets several starts fail meanwhile. Then
/// descriptors are available again, and `after` runs. Only the waiting thread uses the pool, so it is the one that
/// has to notice when the next start is due.
fn wait_through_a_shortage<T: Send>(
    pool: &Pool,
    holder: u32,
    wait: impl FnOnce() -> T + Send,
    after: impl FnOnce(),
) -> T {
    let victim = pool.pids().into_iter().find(|&pid| pid != holder).unwrap();
    thread::scope(|scope| {
        // The standard streams are open, so none is available, not even the numbers that the victim's death frees.
        let waiting = with_descriptors_below(3, || {
            stage::signal(victim, Signal::SIGKILL);
            stage::until("it is reaped", || !pool.pids().contains(&victim));
            let waiting = scope.spawn(wait);
            let before = warnings::lines().len();
            stage::until("starts that fail", || warnings::lines().len() >= before + 3);
            waiting
        });
        after();
        waiting.join().unwrap()
    })
}

fn starts_go_on_while_a_caller_waits(method: StartMethod) {
    type Wait = fn(&Pool) -> Result<u32, TaskError>;
    const WAITS: [Wait; 4] = [
        |pool| pool.apply((5u32,), |x| x),
        |pool| pool.apply_async((5u32,), |x| x).get(),
        |pool| pool.map([5u32], |x| x).map(|values| values[0]),
        |pool| pool.imap([5u32], |x| x).next().unwrap(),
    ];
    with_one_worker_held(method, |pool, holder, _| {
        for wait in WAITS {
            stage::until_complete(pool);
            assert_eq!(wait_through_a_shortage(pool, holder, || wait(pool), || ()).unwrap(), 5);
        }
    });
}

fn starts_go_on_during_a_join(method: StartMethod) {
    with_one_worker_held(method, |pool, holder, gate| {
        let book = Notebook::new();
        let close_and_join = || {
            // As many items as workers: a single one might be given to the worker that is held.
            let jobs = [0u32, 1].map(|x| pool.apply_async((book.path(), x), |book, x| stage::note(&book, x)));
            pool.close();
            (pool.join(), jobs.map(|job| job.get()))
        };
        let (joined, jobs) = wait_through_a_shortage(pool, holder, close_and_join, || {
            book.wait_for(2);
            gate.open();
        });
        joined.unwrap();
        jobs.into_iter().for_each(|job| job.unwrap());
    });
}

/// Large values are passed as descriptors. If none is left, the item may be lost with an error.
fn payloads_need_no_descriptors_that_are_not_there(method: StartMethod) {
    for spare in [0, 1, 2, 3, 10] {
        let pool = stage::pool(method, 1);
        stage::assert_works(&pool);
        let answer = with_spare_descriptors(spare, || pool.apply((vec![7u8; 3_000_000],), |bytes| bytes));
        match answer {
            Ok(bytes) => assert!(bytes == vec![7u8; 3_000_000]),
            Err(TaskError::Encode { message, .. } | TaskError::Decode { message, .. }) => {
                assert!(!message.is_empty())
            }
            // The answer could not be received, so the worker was killed.
            Err(TaskError::WorkerDied { .. }) => {}
            Err(TaskError::Refused(error)) => assert!(is_scarcity(&error), "{error:?}"),
            Err(other) => panic!("{other:?}"),
        }
        // No worker could start in the meantime, so a pool of one may be broken.
        match pool.apply((vec![7u8; 3_000_000],), |bytes| bytes.len()) {
            Ok(length) => assert_eq!(length, 3_000_000),
            Err(TaskError::Refused(error)) => assert!(is_scarcity(&error), "{error:?}"),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// More large items are queued for busy workers than there may be descriptors.
fn large_items_that_wait_need_few_descriptors(method: StartMethod) {
    const ITEMS: usize = 1000;
    let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, 256, hard).unwrap();
    let pool = stage::pool(method, 2);
    let lengths = pool.map((0..ITEMS).map(|_| "x".repeat(100_000)), |text| {
        std::thread::sleep(std::time::Duration::from_millis(2));
        text.len()
    });
    assert_eq!(lengths.unwrap(), [100_000; ITEMS]);
    drop(pool);
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
}

/// Limits files of this process to one mebibyte, anonymous ones included.
fn allow_small_files_only() {
    sys::ignore(Signal::SIGXFSZ);
    let (_, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    nix::sys::resource::setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, hard).unwrap();
}

/// The write fails in the middle of the value, in the parent and in the worker.
fn large_values_that_no_file_takes(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    pool.apply(((),), |()| allow_small_files_only()).unwrap();
    let sizes = [10, 4 << 20, 500_000, 2 << 20, 70_000];
    let check = |side: Side, index: usize, result: Result<usize, TaskError>| match (sizes[index], result) {
        (size, Ok(len)) if size < 1 << 20 => assert_eq!(len, size),
        (size, Err(TaskError::Encode { side: found, message, .. })) if size > 1 << 20 => {
            assert_eq!(found, side);
            assert!(message.contains("no anonymous file takes"), "{message}");
        }
        (size, other) => panic!("{size} bytes: {other:?}"),
    };
    let made = pool.map_results(sizes, |size| vec![7u8; size]).unwrap();
    for (index, made) in made.into_iter().enumerate() {
        check(Side::Result, index, made.map(|bytes| bytes.len()));
    }
    allow_small_files_only();
    let taken = pool.map_results(sizes.map(|size| vec![7u8; size]), |bytes| bytes.len()).unwrap();
    for (index, taken) in taken.into_iter().enumerate() {
        check(Side::Argument, index, taken);
    }
    let context = vec![7u8; 4 << 20];
    match pool.with(&context).apply((1u8,), |_, x| x) {
        Err(TaskError::Encode { side: Side::Context, .. }) => {}
        other => panic!("{other:?}"),
    }
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids, "the worker was replaced");
}

/// The last worker dies while no other can be made, and work waits.
fn want_of_descriptors_breaks_no_pool(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let handles: Vec<_> = with_spare_descriptors(0, || {
        stage::kill_if_there(pool.pids()[0]);
        let handles = (0..50u32).map(|x| pool.retries(5).apply_async((x,), |x| x + 1)).collect();
        thread::sleep(std::time::Duration::from_millis(300));
        handles
    });
    let values: Vec<u32> = handles.iter().map(|handle| handle.get().unwrap()).collect();
    assert_eq!(values, (1..51).collect::<Vec<_>>());
}

fn pool_that_has_shrunk_to_nothing_survives_a_want_of_descriptors(method: StartMethod) {
    let idle = std::time::Duration::from_millis(5);
    let pool = Pool::builder().processes(2).start_method(method).idle_timeout(idle).build().unwrap();
    stage::assert_works(&pool);
    stage::until("an empty pool", || pool.pids().is_empty());
    let handle = with_spare_descriptors(0, || {
        let handle = pool.apply_async((1u32,), |x| x + 1);
        thread::sleep(std::time::Duration::from_millis(300));
        handle
    });
    assert_eq!(handle.get().unwrap(), 2);
}
