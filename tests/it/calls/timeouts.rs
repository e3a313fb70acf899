//! `timeout`: an item that runs too long is stopped, and other items are unaffected.

use std::env;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::harness::stage::doze;

cases![
    item_that_never_ends_is_stopped,
    every_kind_of_call_has_it,
    only_that_item_fails,
    items_in_one_chunk_are_stopped_one_by_one,
    every_item_may_be_stopped,
    waiting_for_a_worker_does_not_count,
    time_of_the_items_before_does_not_count,
    decoding_the_context_does_not_count,
    stopped_and_stubborn_tasks_end,
    what_the_task_has_started_ends_with_it,
    item_of_another_call_is_unharmed,
    no_thread_needs_to_wait_for_it,
    it_is_not_tried_again,
    workers_leave_after_their_share_all_the_same,
    task_knows_its_deadline,
    task_may_end_by_itself,
    centuries_are_no_limit,
    no_time_at_all_is_refused,
    closed_pool_still_stops_items,
];

const SHORT: Duration = Duration::from_millis(50);
/// Longer than any well-behaved item takes.
const LONG: Duration = Duration::from_secs(20);

/// Returns at once, or never.
fn hang_at_7(x: u32) -> u32 {
    if x == 7 {
        loop {
            std::hint::spin_loop();
        }
    }
    x
}

#[track_caller]
fn assert_timed_out<T: std::fmt::Debug>(result: Result<T, TaskError>, limit: Duration) -> u32 {
    match result {
        Err(TaskError::TimedOut { pid, timeout, .. }) if timeout == limit => pid,
        other => panic!("not a timeout of {limit:?}: {other:?}"),
    }
}

fn item_that_never_ends_is_stopped(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let before = pool.pids();
    stage::assert_works(&pool);
    let pid = assert_timed_out(pool.timeout(SHORT).apply((7u32,), hang_at_7), SHORT);
    assert_eq!(before, [pid]);
    stage::until_ended(&[pid]);
    stage::until_replaced(&pool, 1, &[pid]);
    stage::assert_works(&pool);
}

fn every_kind_of_call_has_it(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let call = pool.timeout(SHORT);
    assert_timed_out(call.apply((7u32,), hang_at_7), SHORT);
    assert_timed_out(call.apply_async((7u32,), hang_at_7).get(), SHORT);
    assert_timed_out(call.map([1, 7, 3], hang_at_7), SHORT);
    assert_timed_out(call.map_async([1, 7, 3], hang_at_7).get(), SHORT);
    assert_timed_out(call.starmap([(1,), (7,)], hang_at_7), SHORT);
    assert_timed_out(call.starmap_async([(7,), (2,)], hang_at_7).get(), SHORT);
    assert_timed_out(call.fail_fast().map([7, 7], hang_at_7), SHORT);
    assert_timed_out(call.with(&7u32).apply((0u8,), |x, _| hang_at_7(*x)), SHORT);
    let ordered: Vec<_> = call.imap([1, 7, 3], hang_at_7).collect();
    assert!(matches!(ordered[..], [Ok(1), Err(TaskError::TimedOut { .. }), Ok(3)]), "{ordered:?}");
    let unordered: Vec<_> = call.imap_unordered([1, 7, 3], hang_at_7).collect();
    assert_eq!(unordered.iter().filter(|result| result.is_ok()).count(), 2, "{unordered:?}");
}

fn only_that_item_fails(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for chunk in [1, 10, 1000] {
        let results = pool.timeout(SHORT).chunk_size(chunk).map_results(0..200, hang_at_7).unwrap();
        for (x, result) in (0..).zip(results) {
            match x {
                7 => drop(assert_timed_out(result, SHORT)),
                _ => assert_eq!(result.unwrap(), x),
            }
        }
    }
}

fn items_in_one_chunk_are_stopped_one_by_one(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let items = (0..12u32).map(|x| (book.path(), x));
    let results = pool.timeout(SHORT).chunk_size(12).starmap_results(items, |book, x| {
        stage::note(&book, x);
        hang_at_7(if x % 4 == 3 { 7 } else { x })
    });
    for (x, result) in (0u32..).zip(results.unwrap()) {
        match x % 4 {
            3 => drop(assert_timed_out(result, SHORT)),
            _ => assert_eq!(result.unwrap(), x),
        }
    }
    let begun: Vec<u32> = book.lines().iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(begun, (0..12).collect::<Vec<_>>(), "each item begins once");
}

fn every_item_may_be_stopped(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let results = pool.timeout(Duration::from_millis(5)).map_results([7; 40], hang_at_7).unwrap();
    assert_eq!(results.len(), 40);
    for result in results {
        assert_timed_out(result, Duration::from_millis(5));
    }
    stage::assert_works(&pool);
}

fn waiting_for_a_worker_does_not_count(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let limit = Duration::from_secs(3);
    let handles: Vec<_> = (0..8).map(|_| pool.timeout(limit).apply_async((500u64,), doze)).collect();
    handles.into_iter().for_each(|handle| assert_eq!(handle.get().unwrap(), 500));
}

fn time_of_the_items_before_does_not_count(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let limit = Duration::from_secs(3);
    assert_eq!(pool.timeout(limit).chunk_size(8).map([500; 8], doze).unwrap(), [500; 8]);
    // After quick ones the worker no longer looks at the clock for each.
    let mixed: Vec<u64> = (0..4000).map(|index| if index % 500 > 497 { 1600 * (index / 3500) } else { 0 }).collect();
    assert_eq!(pool.timeout(limit).chunk_size(4000).map(mixed.clone(), doze).unwrap(), mixed);
}

/// Slow to decode.
#[derive(Serialize)]
struct Slow;

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        doze(2500);
        <()>::deserialize(deserializer).map(|()| Slow)
    }
}

fn decoding_the_context_does_not_count(method: StartMethod) {
    let limit = match env::var_os("PROCPOOL_LINK") {
        None => Duration::from_millis(1000),
        // Without shared memory the parent cannot see where it ends.
        Some(_) => LONG,
    };
    let pool = stage::pool(method, 1);
    assert_eq!(pool.timeout(limit).with(&Slow).map([1u32, 2], |_, x| x).unwrap(), [1, 2]);
}

fn stopped_and_stubborn_tasks_end(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let misdeeds: [fn(u32); 3] = [
        // A task that was stopped once resumes when its process group is continued.
        |_| loop {
            nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
        },
        |_| loop {
            thread::park();
        },
        |_| {
            SigSet::all().thread_block().unwrap();
            doze(1_000_000);
        },
    ];
    for misdeed in misdeeds {
        assert_timed_out(pool.timeout(SHORT).apply((0u32,), misdeed), SHORT);
    }
    stage::assert_works(&pool);
}

fn what_the_task_has_started_ends_with_it(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let result = pool.timeout(Duration::from_millis(500)).apply((book.path(),), |book| {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        stage::note(&book, child.id());
        let mut far = Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
        stage::note(&book, far.id());
        far.wait().unwrap();
        child.wait().unwrap();
    });
    let pids: Vec<u32> = book.lines().iter().map(|line| line.parse().unwrap()).collect();
    // On a slow machine it may be stopped before it begins.
    assert_timed_out(result, Duration::from_millis(500));
    stage::until_ended(&pids);
}

fn item_of_another_call_is_unharmed(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    for _ in 0..5 {
        let stuck = pool.timeout(SHORT).apply_async((7u32,), hang_at_7);
        let path = book.path();
        let others = pool.map_async((0..50u32).map(|x| (path.clone(), x)), |(book, x)| {
            stage::note(&book, x);
            x
        });
        assert_timed_out(stuck.get(), SHORT);
        assert_eq!(others.get().unwrap(), (0..50).collect::<Vec<_>>());
    }
    assert_eq!(book.lines().len(), 250, "no item begins twice");
}

fn no_thread_needs_to_wait_for_it(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let handle = pool.timeout(SHORT).apply_async((7u32,), hang_at_7);
    let pid = pool.pids()[0];
    stage::until_ended(&[pid]);
    stage::until("the answer", || handle.ready());
    assert_eq!(assert_timed_out(handle.get(), SHORT), pid);
}

fn it_is_not_tried_again(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let result = pool.timeout(Duration::from_millis(500)).retries(5).apply((book.path(),), |book| {
        stage::note(&book, "begun");
        hang_at_7(7)
    });
    assert_timed_out(result, Duration::from_millis(500));
    assert!(book.lines().len() <= 1, "{:?}", book.lines());
}

fn workers_leave_after_their_share_all_the_same(method: StartMethod) {
    let pool = procpool::Pool::builder().processes(2).start_method(method).max_tasks_per_child(3).build().unwrap();
    let results = pool.timeout(SHORT).map_results((0..40u32).map(|x| x % 10), hang_at_7).unwrap();
    for (n, result) in (0..).zip(results) {
        match n % 10 {
            7 => drop(assert_timed_out(result, SHORT)),
            x => assert_eq!(result.unwrap(), x),
        }
    }
}

fn left() -> Option<Duration> {
    procpool::deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

fn task_knows_its_deadline(method: StartMethod) {
    let pool = stage::pool(method, 1);
    assert_eq!(procpool::deadline(), None);
    let reported = pool.timeout(LONG).map([0, 300, 0], |millis| {
        doze(millis);
        thread::spawn(left).join().unwrap()
    });
    let reported: Vec<Duration> = reported.unwrap().into_iter().map(Option::unwrap).collect();
    assert!(reported.iter().all(|left| *left <= LONG && !left.is_zero()), "{reported:?}");
    assert!(reported[1] <= LONG - Duration::from_millis(300), "{reported:?}");
    assert_eq!(pool.apply((0u8,), |_| left()).unwrap(), None);
}

fn task_may_end_by_itself(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let counts = pool.timeout(Duration::from_secs(10)).map([0u64; 2], |mut count| {
        let enough = procpool::deadline().unwrap() - Duration::from_secs(9);
        while Instant::now() < enough {
            count += 1;
        }
        count
    });
    assert_eq!(counts.unwrap().len(), 2);
}

fn centuries_are_no_limit(method: StartMethod) {
    let pool = stage::pool(method, 1);
    for limit in [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_nanos(u64::MAX)] {
        assert_eq!(pool.timeout(limit).map([1; 10], hang_at_7).unwrap().len(), 10);
    }
}

fn no_time_at_all_is_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let error = stage::error(pool.timeout(Duration::ZERO).apply((1u32,), hang_at_7));
    assert!(matches!(error, TaskError::Refused(PoolError::ZeroLimit { option: "timeout" })), "{error:?}");
}

fn closed_pool_still_stops_items(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let handle = pool.timeout(SHORT).map_async([1, 7, 7, 2], hang_at_7);
    let pids = pool.pids();
    pool.close();
    pool.join().unwrap();
    assert_timed_out(handle.get(), SHORT);
    assert!(pids.into_iter().all(processes::ended));
}
