//! The system has no more to give: a typed error or a working pool, and nothing leaked by half a start.

use nix::sys::resource::Resource;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::processes;
use crate::stage;

cases![
    few_descriptors_give_an_error_or_a_pool,
    descriptors_that_run_out_later_cost_no_results,
    payloads_need_no_descriptors_that_are_not_there,
    large_items_that_wait_need_few_descriptors,
];

/// Runs `body` while at most `spare` more descriptors can be opened than are open now.
fn with_spare_descriptors<T>(spare: usize, body: impl FnOnce() -> T) -> T {
    let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let used: Vec<i32> = processes::descriptors(std::process::id()).into_iter().map(|(fd, _)| fd).collect();
    // The limit is on the number that a descriptor has: numbers that are free below it count too.
    let first_too_many = (0..).filter(|fd| !used.contains(fd)).nth(spare).unwrap();
    let limit = u64::try_from(first_too_many).unwrap();
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
    let result = body();
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    result
}

/// Ways to say that something could not be had.
fn is_scarcity(error: &PoolError) -> bool {
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

/// Nothing on the way of a task opens anything, and replacing a worker waits for better days.
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

/// Large values travel by descriptor. Where there is none left, the item may be lost, and is told so.
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
            // Its answer could not be taken in, so the worker had to go.
            Err(TaskError::WorkerDied { started: true, .. }) => {}
            Err(TaskError::Refused(error)) => assert!(is_scarcity(&error), "{error:?}"),
            Err(other) => panic!("{other:?}"),
        }
        // In the shortage no worker could be started, so that a pool of one may have given up.
        match pool.apply((vec![7u8; 3_000_000],), |bytes| bytes.len()) {
            Ok(length) => assert_eq!(length, 3_000_000),
            Err(TaskError::Refused(error)) => assert!(is_scarcity(&error), "{error:?}"),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Large items wait in line for busy workers, far more of them than there may be descriptors.
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
