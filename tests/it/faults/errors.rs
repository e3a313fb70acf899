//! Tasks that fail: the error that the caller receives, and no effect on other items.

use std::error::Error;
use std::panic::panic_any;

use anyhow::Context as _;
use procpool::Panic;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Notebook;

cases![
    panic_is_reported_in_full,
    panic_payloads_of_any_type_are_survived,
    panic_leaves_the_worker_alive,
    panic_after_a_caught_one_is_the_one_reported,
    long_panic_message_arrives,
    long_texts_are_harmless,
    anyhow_error_arrives_as_its_chain,
    own_result_is_a_value,
    map_gives_the_error_of_the_lowest_index,
    map_settles_every_item_before_it_fails,
    fail_fast_skips_what_was_not_handed_out,
    fail_fast_changes_nothing_without_a_failure,
    fail_fast_gives_the_failure_and_not_a_skipped_item,
    fail_fast_names_a_failure_behind_items_that_were_taken_back,
    one_failing_job_leaves_the_others_alone,
    errors_are_ordinary_error_values,
];

fn panic_of<T: std::fmt::Debug>(result: Result<T, TaskError>) -> Panic {
    match result {
        Err(TaskError::Panicked(panic)) => panic,
        other => panic!("not a panic: {other:?}"),
    }
}

fn panic_is_reported_in_full(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let line = line!() + 1;
    let panic = panic_of(pool.apply((4u8,), |x| -> u8 { panic!("four is {x}") }));
    assert_eq!(panic.message, "four is 4");
    let location = panic.location.expect("a location");
    assert!(location.contains(&format!("errors.rs:{line}:")), "{location}");
    assert_eq!(panic.thread.as_deref(), Some("main"));
    assert_eq!(vec![panic.pid], pool.pids());
    assert_eq!(panic_of(pool.apply((4u8,), |_| -> u8 { panic!("plain text") })).message, "plain text");
    let overflow = panic_of(pool.apply((250u8, 10u8), |a, b| a.checked_add(b).expect("no room")));
    assert_eq!(overflow.message, "no room");
}

fn panic_payloads_of_any_type_are_survived(method: StartMethod) {
    struct Grenade;
    impl Drop for Grenade {
        fn drop(&mut self) {
            panic!("a payload that panics when it is dropped");
        }
    }
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    assert_eq!(panic_of(pool.apply((4u8,), |x| -> u8 { panic_any(x) })).message, "Box<dyn Any>");
    assert_eq!(panic_of(pool.apply((4u8,), |_| -> u8 { panic_any("text".to_owned()) })).message, "text");
    assert_eq!(panic_of(pool.apply((4u8,), |_| -> u8 { panic_any(Grenade) })).message, "Box<dyn Any>");
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids);
}

fn panic_leaves_the_worker_alive(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pid = pool.apply((0u8,), |_| std::process::id()).unwrap();
    for _ in 0..50 {
        assert_eq!(panic_of(pool.apply((0u8,), |_| -> u8 { panic!("again") })).pid, pid);
    }
    assert_eq!(pool.apply((0u8,), |_| std::process::id()).unwrap(), pid);
}

fn caught(message: &'static str) {
    std::panic::catch_unwind(|| panic!("{message}")).unwrap_err();
}

/// The task catches one panic, continues, and does not catch the next.
fn panic_after_a_caught_one_is_the_one_reported(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let line = line!() + 3;
    let panic = panic_of(pool.apply((1u8,), |_| -> u8 {
        caught("harmless");
        panic!("the one that counts")
    }));
    assert_eq!(panic.message, "the one that counts");
    assert!(panic.location.as_ref().is_some_and(|it| it.contains(&format!("errors.rs:{line}:"))), "{panic:?}");
    let survived = pool.apply((1u8,), |x| {
        caught("first");
        caught("second");
        x
    });
    assert_eq!(survived.unwrap(), 1);
}

/// The pool may truncate it, but the beginning must arrive, and how long it was; and the pool must survive.
fn long_panic_message_arrives(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let panic = panic_of(pool.apply((0u8,), |_| -> u8 { panic!("start {}", "x".repeat(10_000_000)) }));
    assert!(panic.message.starts_with("start xxxx"), "{} bytes", panic.message.len());
    assert!(panic.message.ends_with("xx… [cut: 10000006 bytes]"), "{} bytes", panic.message.len());
    stage::assert_works(&pool);
}

/// Texts that are longer than a frame, in every kind of failure of a task, between items that succeed. The characters
/// have three bytes, so truncation may hit the middle of one.
fn long_texts_are_harmless(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    let results = pool.chunk_size(8).map_results(0..32u32, |x| -> anyhow::Result<u32> {
        let text = || format!("item {x} {}", "長".repeat(350_000));
        match x % 8 {
            1 => anyhow::bail!(text()),
            2 => anyhow::Result::<u32>::Err(anyhow::anyhow!(text())).context(text()),
            4 => panic!("{}", text()),
            5 => panic_any(text()),
            6 => std::panic::resume_unwind(Box::new(text())),
            _ => Ok(x),
        }
    });
    for (x, result) in (0u32..).zip(results.unwrap()) {
        let (message, pid) = match (x % 8, result) {
            (1 | 2, Err(TaskError::Failed(failure))) => (failure.message, failure.pid),
            (4..=6, Err(TaskError::Panicked(panic))) => (panic.message, panic.pid),
            (_, result) => {
                assert_eq!(result.unwrap(), x);
                continue;
            }
        };
        assert!(message.starts_with(&format!("item {x} 長長長")), "{:.40}", message);
        let cut = message.chars().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<String>();
        assert!(cut.contains("長… [cut: ") && cut.ends_with(" bytes]"), "{cut}");
        assert_eq!(pids, [pid]);
    }
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids, "the worker was replaced");
}

fn anyhow_error_arrives_as_its_chain(method: StartMethod) {
    fn fails(x: u32) -> anyhow::Result<u32> {
        let parsed: Result<u32, _> = "x".parse::<u32>();
        parsed.context("cannot parse").with_context(|| format!("item {x}"))
    }
    let pool = stage::pool(method, 1);
    let error = stage::error(pool.apply((5u32,), fails));
    let TaskError::Failed(failure) = &error else { panic!("{error:?}") };
    assert_eq!(failure.message, "item 5: cannot parse: invalid digit found in string");
    assert_eq!(vec![failure.pid], pool.pids());
    assert_eq!(pool.map([1u32, 2], |x| -> anyhow::Result<u32> { Ok(x) }).unwrap(), [1, 2]);
}

fn own_result_is_a_value(method: StartMethod) {
    fn typed(text: String) -> Result<i32, String> {
        text.parse().map_err(|_| text)
    }
    let pool = stage::pool(method, 1);
    let results = pool.map(["1".to_owned(), "x".to_owned()], typed).unwrap();
    assert_eq!(results, [Ok(1), Err("x".to_owned())]);
    let handle = pool.apply_async(("x".to_owned(),), typed);
    assert_eq!(handle.get().unwrap(), Err("x".to_owned()));
    assert!(handle.successful(), "an Err in the user's own Result is a value");
}

/// Item 7 fails before item 2, and the error is still that of item 2.
fn map_gives_the_error_of_the_lowest_index(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let items: Vec<(u32, String)> = (0..10).map(|x| (x, book.path())).collect();
    let panic = panic_of(pool.chunk_size(1).map(items, |(x, book)| -> u32 {
        match x {
            2 => {
                stage::until("item 9", || stage::lines_of(&book).contains(&"9".to_owned()));
                panic!("two");
            }
            7 => panic!("seven"),
            _ => stage::note(&book, x),
        }
        x
    }));
    assert_eq!(panic.message, "two");
}

fn map_settles_every_item_before_it_fails(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let items: Vec<(u32, String)> = (0..100).map(|x| (x, book.path())).collect();
    let panic = panic_of(pool.map(items, |(x, book)| {
        stage::note(&book, x);
        assert!(x != 0, "the first");
    }));
    assert!(panic.message.contains("the first"));
    assert_eq!(book.lines().len(), 100);
}

/// The first item fails before the only worker can have been sent all the others.
fn fail_fast_skips_what_was_not_handed_out(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let items: Vec<(u32, String)> = (0..20_000).map(|x| (x, book.path())).collect();
    let results = pool
        .fail_fast()
        .chunk_size(1)
        .map_results(items, |(x, book)| {
            stage::note(&book, x);
            assert!(x != 0, "the first");
        })
        .unwrap();
    assert!(matches!(&results[0], Err(TaskError::Panicked(_))), "{:?}", results[0]);
    assert!(matches!(results.last(), Some(Err(TaskError::Skipped))), "{:?}", results.last());
    let skipped = results.iter().filter(|result| matches!(result, Err(TaskError::Skipped))).count();
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(1 + done + skipped, 20_000);
    assert_eq!(book.lines().len(), 1 + done, "a skipped item was run, or an item was run twice");
}

fn fail_fast_changes_nothing_without_a_failure(method: StartMethod) {
    let pool = stage::pool(method, 2);
    assert_eq!(pool.fail_fast().map(0..500u32, |x| x).unwrap(), (0..500).collect::<Vec<_>>());
    assert_eq!(pool.fail_fast().starmap([(1u32, 2u32)], |a, b| a + b).unwrap(), [3]);
    assert_eq!(pool.fail_fast().imap(0..5u32, |x| x).map(Result::unwrap).count(), 5);
}

fn fail_fast_gives_the_failure_and_not_a_skipped_item(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for failing in [0u32, 1, 50, 999] {
        let items: Vec<(u32, u32)> = (0..1000).map(|x| (x, failing)).collect();
        let panic = panic_of(pool.fail_fast().map(items, |(x, failing)| assert!(x != failing, "failing {x}")));
        assert!(panic.message.contains(&format!("failing {failing}")), "{}", panic.message);
    }
}

/// Items sent behind the long one are recalled and skipped, although they come before the one that fails.
fn fail_fast_names_a_failure_behind_items_that_were_taken_back(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..20 {
        let handle = pool.fail_fast().map_async(0..2000u32, |x| -> anyhow::Result<u32> {
            if x == 500 {
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
            anyhow::ensure!(x != 1990, "a late failure");
            Ok(x)
        });
        match handle.get() {
            Err(error @ TaskError::Failed(_)) => assert!(error.to_string().contains("a late failure"), "{error}"),
            other => panic!("not the failure: {other:?}"),
        }
    }
}

fn one_failing_job_leaves_the_others_alone(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let jobs: Vec<_> = (0..20u32)
        .map(|job| {
            pool.map_async((0..50u32).map(|x| (job, x)), |(job, x)| if job % 2 == 0 { panic!("even") } else { x })
        })
        .collect();
    for (job, handle) in (0u32..).zip(&jobs) {
        match handle.get() {
            Ok(values) => assert!(job % 2 == 1 && values == (0..50).collect::<Vec<_>>()),
            Err(TaskError::Panicked(_)) => assert_eq!(job % 2, 0),
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn errors_are_ordinary_error_values(method: StartMethod) {
    fn assert_error<T: Error + Clone + Send + Sync + 'static>(_: &T) {}
    let pool = stage::pool(method, 1);
    let error = stage::error(pool.apply((1u8,), |_| -> u8 { panic!("shown") }));
    assert_error(&error);
    assert!(error.to_string().contains("shown"), "{error}");
    pool.close();
    let error = stage::error(pool.apply((1u8,), |x| x));
    assert!(matches!(error, TaskError::Refused(PoolError::Closed)), "{error:?}");
    assert!(error.to_string().contains("the pool is closed"), "{error}");
    pool.join().unwrap();
}
