//! More large values than there are descriptors, and files that may not be as long as a value: nothing is lost.

use std::fs::File;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::sys::signal::Signal;
use procpool::AsyncResult;
use procpool::Pool;
use procpool::Side;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;

cases![
    large_results_that_wait_need_few_descriptors,
    large_arguments_that_wait_need_few_descriptors,
    large_contexts_that_wait_need_few_descriptors,
    large_results_of_a_paused_imap_need_few_descriptors,
    large_results_of_a_worker_that_dies_need_few_descriptors,
    a_full_table_costs_no_large_result,
    a_full_table_costs_no_large_argument,
    a_full_table_costs_no_large_context,
    a_full_table_costs_no_large_argument_of_a_worker_that_runs_one_item,
    a_full_table_of_a_worker_costs_what_it_is_sent_only,
    no_limit_of_file_sizes_ends_the_process,
    limit_of_file_sizes_that_comes_later_ends_no_process,
    worker_with_a_limit_of_file_sizes_says_so,
    nested_pool_lives_with_a_limit_of_file_sizes,
];

const LEN: usize = 100_000;

/// Limits the descriptors of this process, and of the workers that it starts from now on.
fn allow_descriptors(limit: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, limit.min(hard), hard).unwrap();
}

fn open_descriptors() -> usize {
    processes::descriptors(std::process::id()).len()
}

fn large(x: usize) -> String {
    format!("{x:050}").repeat(LEN / 50)
}

/// Runs `body` while other code has opened every descriptor that there is.
fn with_full_table(body: impl FnOnce()) {
    allow_descriptors(256);
    let opened: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!opened.is_empty());
    body();
}

/// Waits until all jobs are done. The deadline of the case limits that.
fn until_done<R>(jobs: &[AsyncResult<R>]) {
    for job in jobs {
        while !job.ready() {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn large_results_that_wait_need_few_descriptors(method: StartMethod) {
    allow_descriptors(1024);
    let pool = stage::pool(method, 2);
    let before = open_descriptors();
    let jobs: Vec<_> = (0..3000).map(|x| pool.apply_async((x,), large)).collect();
    until_done(&jobs);
    let held = open_descriptors() - before;
    assert!(held < 256, "{held} more descriptors are open, which other code of the process may need");
    for (x, job) in jobs.into_iter().enumerate() {
        assert!(job.get().unwrap() == large(x), "item {x}");
    }
}

fn large_arguments_that_wait_need_few_descriptors(method: StartMethod) {
    allow_descriptors(1024);
    let pool = stage::pool(method, 2);
    let before = open_descriptors();
    let mut gate = Gate::closed();
    let held: Vec<_> = (0..2).map(|_| pool.apply_async((gate.path(),), |path| stage::pass(&path))).collect();
    let jobs: Vec<_> = (0..1500).map(|x| pool.apply_async((large(x),), |text| text)).collect();
    let open = open_descriptors() - before;
    assert!(open < 256, "{open} more descriptors are open, which other code of the process may need");
    gate.open();
    for (x, job) in jobs.into_iter().enumerate() {
        assert!(job.get().unwrap() == large(x), "item {x}");
    }
    held.into_iter().for_each(|job| job.get().unwrap());
}

fn large_contexts_that_wait_need_few_descriptors(method: StartMethod) {
    allow_descriptors(256);
    let pool = stage::pool(method, 2);
    let mut gate = Gate::closed();
    let held: Vec<_> = (0..2).map(|_| pool.apply_async((gate.path(),), |path| stage::pass(&path))).collect();
    let jobs: Vec<_> =
        (0..400).map(|x| pool.with(&large(x)).apply_async((x,), |context, x| (context.clone(), x))).collect();
    gate.open();
    for (x, job) in jobs.into_iter().enumerate() {
        assert!(job.get().unwrap() == (large(x), x), "item {x}");
    }
    held.into_iter().for_each(|job| job.get().unwrap());
}

fn large_results_of_a_paused_imap_need_few_descriptors(method: StartMethod) {
    allow_descriptors(256);
    let pool = stage::pool(method, 2);
    let mut results = pool.imap(0..600usize, large);
    for x in 0..600 {
        if x % 200 == 1 {
            // The workers go on meanwhile.
            thread::sleep(Duration::from_millis(200));
        }
        assert!(results.next().unwrap().unwrap() == large(x), "item {x}");
    }
    let all = pool.map_async(0..600usize, large).get().unwrap();
    assert!(all.into_iter().enumerate().all(|(x, text)| text == large(x)));
}

/// All that it had answered is taken in at once.
fn large_results_of_a_worker_that_dies_need_few_descriptors(method: StartMethod) {
    allow_descriptors(256);
    let pool = stage::pool(method, 1);
    let results = pool.map_results(0..600usize, |x| match x {
        300 => std::process::abort(),
        x => large(x),
    });
    let results = results.unwrap();
    let lost = results.iter().filter(|result| result.is_err()).count();
    assert_eq!(lost, 1, "{:?}", results.iter().enumerate().filter(|(_, result)| result.is_err()).collect::<Vec<_>>());
}

/// Other code has used up all descriptors.
fn a_full_table_costs_no_large_result(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let pids = pool.pids();
    with_full_table(|| {
        for x in 0..20 {
            assert!(pool.apply((x,), large).unwrap() == large(x), "item {x}");
        }
        let jobs: Vec<_> = (0..300).map(|x| pool.apply_async((x,), large)).collect();
        until_done(&jobs);
        for (x, job) in jobs.into_iter().enumerate() {
            assert!(job.get().unwrap() == large(x), "item {x}");
        }
    });
    assert_eq!(pool.pids(), pids, "a worker was replaced");
}

fn a_full_table_costs_no_large_argument(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let pids = pool.pids();
    with_full_table(|| {
        let lengths = pool.map((0..300).map(large), |text| text.len()).unwrap();
        assert_eq!(lengths, [LEN; 300]);
        let same = pool.imap((0..100).map(large), |text| text).enumerate();
        same.for_each(|(x, text)| assert!(text.unwrap() == large(x), "item {x}"));
    });
    assert_eq!(pool.pids(), pids, "a worker was replaced");
}

fn a_full_table_costs_no_large_context(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let pids = pool.pids();
    with_full_table(|| {
        for round in 0..20 {
            let same = pool.with(&large(round)).map(0..4usize, |context, x| (context.clone(), x)).unwrap();
            assert!(same.into_iter().eq((0..4).map(|x| (large(round), x))), "context {round}");
        }
    });
    assert_eq!(pool.pids(), pids, "a worker was replaced");
}

/// The files of their arguments are not used again.
fn a_full_table_costs_no_large_argument_of_a_worker_that_runs_one_item(method: StartMethod) {
    let pool = Pool::builder().processes(4).start_method(method).max_tasks_per_child(1).build().unwrap();
    with_full_table(|| {
        // One item for each worker: no other can be started now.
        let lengths = pool.chunk_size(1).map((0..4).map(large), |text| text.len()).unwrap();
        assert_eq!(lengths, [LEN; 4]);
    });
}

static OPENED: Mutex<Vec<File>> = Mutex::new(Vec::new());

fn a_full_table_of_a_worker_costs_what_it_is_sent_only(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    let fill: fn() = || {
        allow_descriptors(256);
        OPENED.lock().unwrap().extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
    };
    let is_missing = |error: &TaskError, expected: Side| match error {
        TaskError::Decode { side, message, .. } => *side == expected && message.contains("did not arrive"),
        _ => false,
    };
    pool.apply((), fill).unwrap();
    for _ in 0..3 {
        let error = pool.apply((large(0),), |text| text.len()).unwrap_err();
        assert!(is_missing(&error, Side::Argument), "{error:?}");
        let error = pool.with(&large(0)).apply((1u8,), |text, _| text.len()).unwrap_err();
        assert!(is_missing(&error, Side::Context), "{error:?}");
        stage::assert_works(&pool);
    }
    pool.apply((), || OPENED.lock().unwrap().clear()).unwrap();
    assert_eq!(pool.apply((large(0),), |text| text.len()).unwrap(), LEN);
    assert_eq!(pool.pids(), pids, "the worker was replaced");
}

/// Limits the length of files of this process, and of the workers that it starts from now on. A write beyond it raises
/// SIGXFSZ, which ends a process.
fn allow_file_size(limit: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, limit, hard).unwrap();
}

/// Passes values of several lengths both ways: each arrives, or the error names the limit.
fn assert_values_arrive_or_name_the_limit(pool: &Pool) {
    stage::assert_works(pool);
    for len in [10, 70_000, 300_000, 2_000_000, 20_000_000] {
        match pool.apply((len,), |len| "x".repeat(len)) {
            Ok(text) => assert_eq!(text.len(), len),
            Err(error) => assert_names_the_limit(&error, Side::Result),
        }
        match pool.apply(("x".repeat(len),), |text| text.len()) {
            Ok(taken) => assert_eq!(taken, len),
            Err(error) => assert_names_the_limit(&error, Side::Argument),
        }
        match pool.with(&"x".repeat(len)).apply((1u8,), |text, _| text.len()) {
            Ok(taken) => assert_eq!(taken, len),
            Err(error) => assert_names_the_limit(&error, Side::Context),
        }
    }
    stage::assert_works(pool);
}

fn assert_names_the_limit(error: &TaskError, expected: Side) {
    match error {
        TaskError::Encode { side, message, .. } if *side == expected && message.contains("RLIMIT_FSIZE") => {}
        other => panic!("{other:?}"),
    }
}

fn no_limit_of_file_sizes_ends_the_process(method: StartMethod) {
    for limit in [1 << 20, 140_000, 132 << 10, 4096, 0] {
        allow_file_size(limit);
        let pool = stage::pool(method, 1);
        assert_values_arrive_or_name_the_limit(&pool);
        procpool::forkserver::stop();
    }
}

/// Files that were made before are longer than the limit.
fn limit_of_file_sizes_that_comes_later_ends_no_process(method: StartMethod) {
    let pool = stage::pool(method, 1);
    assert_values_arrive_or_name_the_limit(&pool);
    pool.apply(((),), |()| allow_file_size(100_000)).unwrap();
    assert_values_arrive_or_name_the_limit(&pool);
    allow_file_size(100_000);
    assert_values_arrive_or_name_the_limit(&pool);
    stage::signal(pool.pids()[0], Signal::SIGKILL);
    assert_values_arrive_or_name_the_limit(&pool);
}

fn worker_with_a_limit_of_file_sizes_says_so(method: StartMethod) {
    let builder = Pool::builder().processes(1).start_method(method);
    let pool = builder.initializer(((),), |()| allow_file_size(100_000)).build().unwrap();
    let pids = pool.pids();
    assert_values_arrive_or_name_the_limit(&pool);
    assert_eq!(pool.pids(), pids, "the worker was replaced");
}

fn nested_pool_lives_with_a_limit_of_file_sizes(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let sum = pool.apply((method.to_string(),), |method| {
        allow_file_size(10_000);
        let pool = stage::pool(method.parse().unwrap(), 1);
        let sum: u32 = pool.map(0..10u32, |x| x).unwrap().into_iter().sum();
        pool.close();
        pool.join().unwrap();
        procpool::forkserver::stop();
        sum
    });
    assert_eq!(sum.unwrap(), 45);
}
