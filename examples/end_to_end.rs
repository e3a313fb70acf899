//! Checks every kind of call with every start method, to be built with different profiles.
//!
//! Optimizers merge functions, strip names and move code, and a panic may abort. None of that may change a result,
//! and the message of a panic that aborts its worker must still be reported.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;

fn parse(text: String) -> anyhow::Result<i64> {
    Ok(text.parse()?)
}

// The same code as `twice_too`, so that optimizers may merge the two.
fn twice(x: u64) -> u64 {
    x * 2
}

fn twice_too(x: u64) -> u64 {
    x * 2
}

fn generic<T: std::fmt::Display>(value: T) -> String {
    format!("<{value}>")
}

fn check(method: StartMethod) -> anyhow::Result<()> {
    let pool = Pool::builder().processes(3).start_method(method).max_tasks_per_child(500).build()?;

    assert_eq!(pool.apply((3u64, 4), u64::pow)?, 81);
    assert_eq!(pool.map(0..5u64, twice)?, [0, 2, 4, 6, 8]);
    assert_eq!(pool.map(0..5u64, twice_too)?, [0, 2, 4, 6, 8]);
    assert_eq!(pool.map(0..5u64, |x| x * 2)?, [0, 2, 4, 6, 8]);
    assert_eq!(pool.map([1u8, 2], generic)?, ["<1>", "<2>"]);
    assert_eq!(pool.map([1.5f64], generic)?, ["<1.5>"]);
    assert_eq!(pool.starmap([(1, 2), (3, 4)], |a, b| a + b)?, [3, 7]);
    assert_eq!(pool.with(&10u32).chunk_size(7).map(0..100u32, |ten, x| ten * x)?[99], 990);
    assert_eq!(pool.imap(0..1000u64, twice).map(|x| x.unwrap_or_default()).sum::<u64>(), 999_000);
    assert_eq!(pool.imap_unordered(0u64.., twice).take(300).count(), 300);

    let sums = pool.map_async((0..10_000u64).collect::<Vec<_>>(), |x| x + 1);
    assert_eq!(sums.get()?.len(), 10_000);

    let error = pool.apply(("x".to_owned(),), parse);
    assert!(matches!(error, Err(TaskError::Failed(failure)) if failure.message.contains("invalid digit")));
    check_panic(&pool);

    pool.close();
    pool.join()?;
    Ok(())
}

fn check_panic(pool: &Pool) {
    let error = pool.apply((0u32,), |x| 1 / x);
    let panic = match error {
        Err(TaskError::Panicked(panic)) if cfg!(panic = "unwind") => panic,
        Err(TaskError::WorkerDied { panic: Some(panic), .. }) if cfg!(panic = "abort") => *panic,
        other => panic!("expected a panic, not {other:?}"),
    };
    assert!(panic.message.contains("divide by zero"), "{panic}");
    assert!(panic.location.is_some_and(|place| place.contains("end_to_end")));
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    for method in StartMethod::ALL {
        check(method)?;
        println!("{method}: all results are correct");
    }
    Ok(())
}
