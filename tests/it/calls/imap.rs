//! `imap` and `imap_unordered`: results one by one, pulled by the caller.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::TimedOut;
use serde::Deserialize;
use serde::Serialize;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

/// An upper limit for the read-ahead of one worker that does not answer.
const READ_AHEAD_MAX: u64 = 20_000;

cases![
    yields_in_the_order_of_the_items,
    unordered_yields_as_they_are_done,
    takes_infinite_inputs,
    takes_inputs_that_borrow_and_are_not_send,
    reads_ahead_only_so_far,
    cold_one_reads_ahead_only_so_far,
    one_after_quick_calls_reads_ahead_only_so_far,
    draws_nothing_before_it_is_asked,
    timeout_consumes_nothing,
    unordered_timeout_consumes_nothing,
    size_hint_follows_the_input,
    stays_at_its_end,
    error_stands_at_its_position,
    unordered_goes_on_after_errors,
    chunks_do_not_change_what_is_seen,
    dropped_half_way_leaves_the_pool_working,
    dropped_half_way_lets_close_and_join_end,
    two_iterators_take_turns,
    may_move_to_another_thread,
    empty_input_ends_at_once,
    refused_after_close,
    draws_one_more_item_at_most_after_close,
    item_that_panics_when_dropped_leaves_the_pool_ending,
];

/// The first item finishes last, and is still returned first.
fn yields_in_the_order_of_the_items(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let path = book.path();
    let results = pool.chunk_size(1).imap((0..50u32).map(|x| (x, path.clone())), |(x, book)| {
        if x == 0 {
            stage::until("another item", || !stage::lines_of(&book).is_empty());
        }
        stage::note(&book, x);
        x
    });
    assert_eq!(results.map(Result::unwrap).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    assert_ne!(book.lines()[0], "0");
}

fn unordered_yields_as_they_are_done(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut gate = Gate::closed();
    let path = gate.path();
    let mut results = pool.chunk_size(1).imap_unordered((0..20u32).map(|x| (x, path.clone())), |(x, gate)| {
        if x == 0 {
            stage::pass(&gate);
        }
        x
    });
    let mut seen: Vec<u32> = results.by_ref().take(19).map(Result::unwrap).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..20).collect::<Vec<_>>());
    gate.open();
    assert_eq!(results.next().unwrap().unwrap(), 0);
    assert!(results.next().is_none());
}

fn takes_infinite_inputs(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let ordered: Vec<u64> = pool.imap(0u64.., |x| 2 * x).take(1000).map(Result::unwrap).collect();
    assert_eq!(ordered, (0..1000).map(|x| 2 * x).collect::<Vec<_>>());
    let unordered: BTreeSet<u64> = pool.imap_unordered(0u64.., |x| x).take(1000).map(Result::unwrap).collect();
    assert_eq!(unordered.len(), 1000);
    stage::assert_works(&pool);
}

fn takes_inputs_that_borrow_and_are_not_send(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let words = ["a".to_owned(), "bb".to_owned(), "ccc".to_owned()];
    let lengths: Vec<usize> = pool.imap(words.iter().cloned(), |word| word.len()).map(Result::unwrap).collect();
    assert_eq!(lengths, [1, 2, 3]);
    let shared = Rc::new(vec![1u8, 2, 3]);
    let clone = Rc::clone(&shared);
    let mut doubled: Vec<u8> =
        pool.imap_unordered((0..3usize).map(move |index| clone[index]), |x| 2 * x).map(Result::unwrap).collect();
    doubled.sort_unstable();
    assert_eq!(doubled, [2, 4, 6]);
    assert_eq!(Rc::strong_count(&shared), 1);
}

/// The input is infinite and the tasks do not end, so the number of items drawn is final.
fn reads_ahead_only_so_far(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (drawn, mut gate) = (Cell::new(0u64), Gate::closed());
    let path = gate.path();
    let input = std::iter::repeat_with(|| {
        drawn.set(drawn.get() + 1);
        assert!(drawn.get() < READ_AHEAD_MAX, "drew {} items and got no result", drawn.get());
        path.clone()
    });
    let mut results = pool.imap(input, |gate| stage::pass(&gate));
    for _ in 0..20 {
        assert_eq!(results.next_timeout(Duration::from_millis(10)).unwrap_err(), TimedOut);
    }
    gate.open();
    results.next().unwrap().unwrap();
    assert!(drawn.get() >= 1);
}

fn cold_one_reads_ahead_only_so_far(method: StartMethod) {
    for _ in 0..30 {
        assert_long_items_are_read_ahead_only_so_far(&stage::pool(method, 2));
    }
}

fn one_after_quick_calls_reads_ahead_only_so_far(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..30 {
        pool.map(0..100u32, |x| x).unwrap();
        assert_long_items_are_read_ahead_only_so_far(&pool);
    }
}

/// The first item takes long and the others do not end, so the number of items drawn once it is answered is final: one
/// item in progress and one behind it for each worker, or twice that by the time that a window is refilled.
fn assert_long_items_are_read_ahead_only_so_far(pool: &Pool) {
    let (drawn, book) = (Cell::new(0u64), Notebook::new());
    let (mut first, mut others) = (Gate::closed(), Gate::closed());
    let gates = [first.path(), others.path()];
    let input = std::iter::repeat_with(|| {
        let number = drawn.replace(drawn.get() + 1);
        (book.path(), gates[usize::from(number > 0)].clone())
    });
    let mut results = pool.imap(input.take(1000), |(book, gate)| {
        stage::note(&book, &gate);
        stage::pass(&gate);
    });
    let mut time_out = |millis| {
        let result = results.next_timeout(Duration::from_millis(millis));
        assert_eq!(result.unwrap_err(), TimedOut);
    };
    stage::until("the first item to begin", || {
        time_out(1);
        book.lines().contains(&gates[0])
    });
    // From its beginning on it takes as long as this at least.
    time_out(10);
    first.open();
    results.next().unwrap().unwrap();
    assert_eq!(results.next_timeout(Duration::from_millis(1)).unwrap_err(), TimedOut);
    assert!(drawn.get() <= 8, "drew {} items while two workers had ended one", drawn.get());
    others.open();
}

/// Only `next` draws past the window; making the iterator need not wait, and an unused one draws at most its window.
fn draws_nothing_before_it_is_asked(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let drawn = Cell::new(0u64);
    let mut results = pool.imap(
        (0u64..).inspect(|_| {
            drawn.set(drawn.get() + 1);
            assert!(drawn.get() < READ_AHEAD_MAX, "drew {} items, asked for one", drawn.get());
        }),
        |x| x,
    );
    pool.map(0..1000u32, |x| x).unwrap();
    let before = drawn.get();
    stage::assert_works(&pool);
    assert_eq!(drawn.get(), before, "drew without a call to `next`");
    assert_eq!(results.next().unwrap().unwrap(), 0);
    assert!(drawn.get() >= 1);
}

fn timeout_consumes_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let path = gate.path();
    let mut results = pool.imap((0..3u32).map(|x| (x, path.clone())), |(x, gate)| {
        stage::pass(&gate);
        x
    });
    for timeout_ms in [0, 1, 10] {
        assert_eq!(results.next_timeout(Duration::from_millis(timeout_ms)).unwrap_err(), TimedOut);
    }
    gate.open();
    assert_eq!(results.next_timeout(Duration::from_secs(50)).unwrap().unwrap().unwrap(), 0);
    assert_eq!(results.next().unwrap().unwrap(), 1);
    assert_eq!(results.next_timeout(Duration::MAX).unwrap().unwrap().unwrap(), 2);
    assert!(results.next_timeout(Duration::from_secs(50)).unwrap().is_none());
    assert!(results.next_timeout(Duration::ZERO).unwrap().is_none());
}

fn unordered_timeout_consumes_nothing(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut gate = Gate::closed();
    let mut results = pool.imap_unordered([gate.path(), gate.path()], |gate| stage::pass(&gate));
    assert_eq!(results.next_timeout(Duration::from_millis(5)).unwrap_err(), TimedOut);
    gate.open();
    results.next_timeout(Duration::from_secs(50)).unwrap().unwrap().unwrap();
    results.next().unwrap().unwrap();
    assert!(results.next_timeout(Duration::from_secs(50)).unwrap().is_none());
}

fn size_hint_follows_the_input(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut ordered = pool.imap(0..10u32, |x| x);
    let mut unordered = pool.imap_unordered(0..10u32, |x| x);
    for left in (0..10).rev() {
        ordered.next().unwrap().unwrap();
        assert_eq!(ordered.size_hint(), (left, Some(left)));
        unordered.next().unwrap().unwrap();
        assert_eq!(unordered.size_hint(), (left, Some(left)));
    }
    assert_eq!(pool.imap(0u64.., |x| x).size_hint(), (0, None));
    let (low, high) = pool.imap((0..10u32).filter(|x| x % 2 == 0), |x| x).size_hint();
    assert!(low <= 5 && high.is_some_and(|high| (5..=10).contains(&high)), "{low} {high:?}");
}

fn stays_at_its_end(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut results = pool.imap(0..2u32, |x| x);
    assert_eq!(results.by_ref().count(), 2);
    assert!(results.next().is_none() && results.next().is_none());
    let mut results = pool.imap_unordered(0..2u32, |x| x);
    assert_eq!(results.by_ref().count(), 2);
    assert!(results.next().is_none() && results.next().is_none());
}

fn error_stands_at_its_position(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for chunk_size in [1, 4, 100] {
        let results = pool.chunk_size(chunk_size).imap(0..10u32, |x| if x == 3 { panic!("three") } else { x });
        for (x, result) in (0u32..).zip(results) {
            match result {
                Ok(value) => assert!(value == x && x != 3, "{value} at {x}"),
                Err(TaskError::Panicked(panic)) => assert!(panic.message == "three" && x == 3),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

fn unordered_goes_on_after_errors(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for chunk_size in [1, 4, 100] {
        let results: Vec<_> = pool
            .chunk_size(chunk_size)
            .imap_unordered(0..10u32, |x| -> anyhow::Result<u32> {
                anyhow::ensure!(x != 3, "three");
                Ok(x)
            })
            .collect();
        let mut values: Vec<u32> = results.iter().filter_map(|result| result.as_ref().ok()).copied().collect();
        values.sort_unstable();
        assert_eq!(values, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(results.len(), 10);
    }
}

fn chunks_do_not_change_what_is_seen(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for chunk_size in [1, 3, 64, 1000] {
        let ordered: Vec<u32> = pool.chunk_size(chunk_size).imap(0..200u32, |x| x).map(Result::unwrap).collect();
        assert_eq!(ordered, (0..200).collect::<Vec<_>>());
        let first = pool.chunk_size(chunk_size).imap(0u32.., |x| x).next_timeout(Duration::from_secs(50));
        assert_eq!(first.unwrap().unwrap().unwrap(), 0);
    }
}

fn dropped_half_way_leaves_the_pool_working(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..20 {
        let mut results = pool.imap(0u64.., |x| x);
        assert_eq!(results.next().unwrap().unwrap(), 0);
        drop(results);
        let mut results = pool.imap_unordered(0u64.., |x| x);
        results.next().unwrap().unwrap();
    }
    stage::assert_works(&pool);
}

fn dropped_half_way_lets_close_and_join_end(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut results = pool.imap(0u64.., |x| x);
    assert_eq!(results.next().unwrap().unwrap(), 0);
    drop(results);
    pool.close();
    pool.join().unwrap();
}

fn two_iterators_take_turns(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut up = pool.imap(0i64.., |x| x);
    let mut down = pool.imap((0i64..).map(|x| -x), |x| x);
    for x in 0..500 {
        assert_eq!(up.next().unwrap().unwrap(), x);
        assert_eq!(down.next().unwrap().unwrap(), -x);
    }
}

fn may_move_to_another_thread(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut results = pool.imap(0..100u32, |x| x);
    assert_eq!(results.next().unwrap().unwrap(), 0);
    let rest = thread::scope(|scope| scope.spawn(move || results.map(Result::unwrap).count()).join().unwrap());
    assert_eq!(rest, 99);
}

fn empty_input_ends_at_once(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let nothing: [u8; 0] = [];
    assert!(pool.imap(nothing, |x| x).next().is_none());
    assert!(pool.imap_unordered(nothing, |x| x).next().is_none());
    assert!(pool.imap(nothing, |x| x).next_timeout(Duration::ZERO).unwrap().is_none());
}

fn refused_after_close(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.close();
    let results: Vec<_> = pool.imap(0u64.., |x| x).collect();
    assert!(matches!(&results[..], [Err(TaskError::Refused(PoolError::Closed))]), "{results:?}");
    let results: Vec<_> = pool.imap_unordered(0u64.., |x| x).collect();
    assert!(matches!(&results[..], [Err(TaskError::Refused(PoolError::Closed))]), "{results:?}");
    pool.join().unwrap();
}

/// One more item is drawn, to learn whether any was left; the items drawn before are answered.
fn draws_one_more_item_at_most_after_close(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let drawn = Cell::new(0u64);
    let mut results = pool.chunk_size(1).imap((0u64..).inspect(|_| drawn.set(drawn.get() + 1)), |x| x);
    assert_eq!(results.next().unwrap().unwrap(), 0);
    let before = drawn.get();
    pool.close();
    let values = results.by_ref().map_while(Result::ok).count() as u64;
    assert!(results.by_ref().all(|result| result.is_err()));
    assert!(values < before, "{values} more values of {before} items");
    assert!(drawn.get() <= before + 1, "drew {} items after the close", drawn.get() - before);
    pool.join().unwrap();
}

/// Number 3 of these items panics when it is dropped in this process; tasks forget theirs.
#[derive(Debug, Serialize, Deserialize)]
struct Bomb(u64);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(self.0 != 3 || thread::panicking(), "a drop that panics on purpose");
    }
}

fn item_that_panics_when_dropped_leaves_the_pool_ending(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut results = pool.imap((0..10).map(Bomb), |bomb| ManuallyDrop::new(bomb).0);
    let (mut panics, mut answers) = (0, 0);
    loop {
        match catch_unwind(AssertUnwindSafe(|| results.next())) {
            Err(_) => panics += 1,
            Ok(Some(_)) => answers += 1,
            Ok(None) => break,
        }
        assert!(answers <= 10 && panics <= 10, "{answers} answers, {panics} panics, and no end");
    }
    assert_eq!(panics, 1);
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
    drop(results);
}
