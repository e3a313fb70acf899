//! Streams: the results of an `imap` without blocking, wake-ups, and what becomes of what runs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::thread;

use futures_core::FusedStream;
use futures_core::Stream;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::polling::Counting;
use crate::harness::polling::Queue;
use crate::harness::polling::collect;
use crate::harness::polling::next;
use crate::harness::polling::poll_next;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    stream_yields_in_the_order_of_the_items,
    unordered_stream_yields_every_item,
    positions_are_told,
    positions_are_told_when_the_pool_ends,
    infinite_input_is_drawn_as_far_as_the_window,
    stream_blocks_no_thread,
    stream_lets_other_tasks_run,
    latest_waker_is_woken,
    streams_at_once_lose_no_wake_up,
    stream_beside_threads_that_wait,
    dropped_stream_lets_items_run_on,
    dropped_stream_cancels_if_asked,
    dropped_stream_drops_its_waker,
    closed_pool_ends_a_stream,
    terminated_pool_ends_a_stream,
    refused_stream_has_one_error,
    panicking_input_of_a_stream,
];

/// An upper limit for what is drawn ahead of a consumer that takes a thousand results.
const READ_AHEAD_MAX: u64 = 20_000;

/// Streams are sent to other threads and need not be pinned.
fn is_send_and_unpin<S: Send + Unpin>(stream: S) -> S {
    stream
}

fn stream_yields_in_the_order_of_the_items(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut squares = is_send_and_unpin(pool.imap(0..5000u64, |x| x * x).into_stream());
    assert_eq!(squares.size_hint(), (5000, Some(5000)));
    for x in 0..5000 {
        assert_eq!(next(&mut squares).unwrap().unwrap(), x * x);
    }
    assert!(!squares.is_terminated());
    assert!(next(&mut squares).is_none() && next(&mut squares).is_none() && squares.is_terminated());
    assert_eq!(squares.size_hint(), (0, Some(0)));
    // Begun as an iterator.
    let mut iterator = pool.imap(0..10u64, |x| x);
    assert_eq!(iterator.next().unwrap().unwrap(), 0);
    let rest: Result<Vec<u64>, _> = collect(&mut iterator.into_stream()).into_iter().collect();
    assert_eq!(rest.unwrap(), (1..10).collect::<Vec<_>>());
}

fn unordered_stream_yields_every_item(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut stream = is_send_and_unpin(pool.imap_unordered(0..5000u64, |x| x).into_stream());
    let values: BTreeSet<u64> = collect(&mut stream).into_iter().map(Result::unwrap).collect();
    assert_eq!(values.len(), 5000);
    assert!(collect(&mut pool.imap(std::iter::empty::<u8>(), |x| x).into_stream()).is_empty());
}

fn positions_are_told(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let task = |x: u32| if x % 10 == 3 { panic!("told") } else { x };
    let mut results = pool.imap_unordered(0..500u32, task).indexed().collect::<Vec<_>>();
    results.extend(collect(&mut pool.imap_unordered(0..500u32, task).indexed().into_stream()));
    let mut seen = BTreeMap::new();
    for (index, result) in results {
        *seen.entry(index).or_insert(0) += 1;
        match result {
            Ok(value) => assert_eq!(value as usize, index),
            Err(error) => assert!(index % 10 == 3 && error.origin().unwrap().index() == Some(index), "{error:?}"),
        }
    }
    assert_eq!(seen, (0..500).map(|index| (index, 2)).collect());
}

fn positions_are_told_when_the_pool_ends(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let gate = Gate::closed();
    let path = gate.path();
    // Every other item is stuck.
    let mut results = pool
        .window(6)
        .imap_unordered((0u32..).map(|x| (x, path.clone())), |(x, gate)| {
            if x == 1 {
                stage::pass(&gate);
            }
            x
        })
        .indexed();
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let (index, result) = results.next().unwrap();
        assert_eq!(result.unwrap() as usize, index);
        assert!(seen.insert(index) && index != 1);
    }
    pool.terminate();
    for (index, result) in results {
        assert!(seen.insert(index), "{index} twice");
        assert!(matches!(result, Ok(_) | Err(TaskError::Terminated | TaskError::Refused(_))), "{result:?}");
    }
    assert!(seen.contains(&1));
    assert_eq!(seen.len(), seen.last().unwrap() + 1, "no position is missing");
}

/// The tasks do not end, so the number of items drawn is final.
fn infinite_input_is_drawn_as_far_as_the_window(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (drawn, mut gate) = (Cell::new(0u64), Gate::closed());
    let path = gate.path();
    let input = std::iter::repeat_with(|| {
        drawn.set(drawn.get() + 1);
        assert!(drawn.get() < READ_AHEAD_MAX, "drew {} items and got no result", drawn.get());
        path.clone()
    });
    let mut stream = pool.imap(input, |gate| stage::pass(&gate)).into_stream();
    for _ in 0..3 {
        assert!(poll_next(&mut stream, Waker::noop()).is_pending());
    }
    let ahead = drawn.get();
    assert!((1..=4).contains(&ahead), "two for each worker: {ahead}");
    gate.open();
    for _ in 0..1000 {
        next(&mut stream).unwrap().unwrap();
    }
    // The consumer pauses: nothing is drawn meanwhile.
    let drawn_before = drawn.get();
    assert!(drawn_before < READ_AHEAD_MAX, "{drawn_before}");
    stage::assert_works(&pool);
    assert_eq!(drawn.get(), drawn_before);
}

/// One thread polls the stream and then opens the gate that the stream's item waits for.
fn stream_blocks_no_thread(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let mut stream = pool.imap([gate.path()], |gate| stage::pass(&gate)).into_stream();
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(Arc::clone(&counting));
    assert!(poll_next(&mut stream, &waker).is_pending());
    assert_eq!(counting.count(), 0);
    gate.open();
    stage::until("the waker", || counting.count() == 1);
    assert!(matches!(poll_next(&mut stream, &waker), Poll::Ready(Some(Ok(())))));
    assert!(matches!(poll_next(&mut stream, &waker), Poll::Ready(None)));
    assert_eq!(counting.count(), 1, "woken once");
}

/// Results are always there: the stream returns to its runtime nevertheless, and asks to be polled again.
fn stream_lets_other_tasks_run(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut stream = pool.window(5000).imap(0..20_000u64, |x| x).into_stream();
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(Arc::clone(&counting));
    let (mut in_a_row, mut longest) = (0, 0);
    loop {
        let woken = counting.count();
        match poll_next(&mut stream, &waker) {
            Poll::Ready(Some(result)) => drop(result.unwrap()),
            Poll::Ready(None) => break,
            Poll::Pending => {
                stage::until("the waker", || counting.count() > woken);
                longest = longest.max(in_a_row);
                in_a_row = 0;
                continue;
            }
        }
        in_a_row += 1;
        assert!(in_a_row <= 128, "no other task runs");
    }
    assert!(longest > 0);
}

fn latest_waker_is_woken(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let mut stream = pool.imap([gate.path()], |gate| stage::pass(&gate)).into_stream();
    let [first, second] = [Arc::new(Counting::default()), Arc::new(Counting::default())];
    assert!(poll_next(&mut stream, &Waker::from(Arc::clone(&first))).is_pending());
    assert!(poll_next(&mut stream, &Waker::from(Arc::clone(&second))).is_pending());
    // Sent to another thread, which consumes it.
    thread::scope(|scope| {
        scope.spawn(|| {
            gate.open();
            stage::until("the waker", || second.count() == 1);
            next(&mut stream).unwrap().unwrap();
        });
    });
    assert_eq!(first.count(), 0);
}

/// A lost wake-up would be a consumer that sleeps for ever.
fn streams_at_once_lose_no_wake_up(method: StartMethod) {
    let pool = stage::pool(method, 2);
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                for (round, window) in (0..40).zip((1..10usize).cycle()) {
                    // Different windows, some streams dropped half way, items that take a while among those that do not.
                    let items = 10 + 7 * round;
                    let task = |x: u64| {
                        if x % 13 == 0 {
                            stage::doze(1);
                        }
                        x
                    };
                    let mut stream = pool.window(window).imap(0..items, task).into_stream();
                    let consumed = if (round + thread) % 3 == 0 { items / 2 } else { items };
                    for x in 0..consumed {
                        assert_eq!(next(&mut stream).unwrap().unwrap(), x);
                    }
                    if consumed == items {
                        assert!(next(&mut stream).is_none());
                    }
                }
            });
        }
    });
    stage::assert_works(&pool);
}

/// The threads take the seat from the background thread again and again.
fn stream_beside_threads_that_wait(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (stop, stopped) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let pool = &pool;
        scope.spawn(move || {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                stage::assert_works(pool);
            }
        });
        for _ in 0..10 {
            let mut stream = pool.imap(0..200u64, |x| x).into_stream();
            assert_eq!(collect(&mut stream).len(), 200);
        }
        drop(stop);
    });
}

fn held_stream(
    pool: &Pool,
    gate: &Gate,
    book: &Notebook,
) -> procpool::ImapStream<impl Iterator<Item = (String, String)>, ()> {
    let items = vec![(gate.path(), book.path()); 5];
    let mut stream = pool
        .chunk_size(1)
        .imap_unordered(items, |(gate, book)| {
            stage::note(&book, std::process::id());
            stage::pass(&gate);
        })
        .into_stream();
    assert!(poll_next(&mut stream, Waker::noop()).is_pending());
    stream
}

fn dropped_stream_lets_items_run_on(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let stream = held_stream(&pool, &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    drop(stream);
    gate.open();
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), [pid]);
}

fn dropped_stream_cancels_if_asked(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let stream = held_stream(&pool, &gate, &book).cancel_on_drop();
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    drop(stream);
    stage::until_ended(&[pid]);
    stage::assert_works(&pool);
    // At the end there is nothing to cancel.
    let done: Vec<_> = collect(&mut pool.imap(0..10u8, |x| x).cancel_on_drop().into_stream());
    assert_eq!(done.len(), 10);
    // The iterator does it too.
    let gate = Gate::closed();
    let items = [0, 1].map(|x| (x, gate.path()));
    let mut iterator = pool
        .imap(items, |(x, gate)| {
            if x == 1 {
                stage::pass(&gate)
            }
        })
        .cancel_on_drop();
    iterator.next().unwrap().unwrap();
    drop(iterator);
    stage::assert_works(&pool);
}

/// The waker's drop uses the pool, which would wait for ever under a lock of the pool.
fn dropped_stream_drops_its_waker(method: StartMethod) {
    struct Uses(Arc<Pool>, mpsc::Sender<usize>);
    impl Wake for Uses {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Uses {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.processes());
        }
    }
    let pool = Arc::new(stage::pool(method, 1));
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let mut stream = held_stream(&pool, &gate, &book);
    let (told, telling) = mpsc::channel();
    let waker = Waker::from(Arc::new(Uses(Arc::clone(&pool), told)));
    assert!(poll_next(&mut stream, &waker).is_pending());
    drop(waker);
    drop(stream);
    assert_eq!(telling.recv().unwrap(), 1);
    gate.open();
}

fn closed_pool_ends_a_stream(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut stream = pool.imap(0u64.., |x| x).into_stream();
    assert_eq!(next(&mut stream).unwrap().unwrap(), 0);
    pool.close();
    let mut rest = collect(&mut stream);
    assert!(matches!(rest.pop(), Some(Err(TaskError::Refused(PoolError::Closed)))));
    let drawn = 1 + rest.len() as u64;
    assert!(rest.into_iter().map(Result::unwrap).eq(1..drawn), "what was drawn is yielded");
    assert_eq!(stream.size_hint(), (0, Some(0)));
    pool.join().unwrap();
}

fn terminated_pool_ends_a_stream(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let mut stream = held_stream(&pool, &gate, &book);
    book.wait_for(1);
    let counting = Arc::new(Counting::default());
    assert!(poll_next(&mut stream, &Waker::from(Arc::clone(&counting))).is_pending());
    pool.terminate();
    stage::until("the waker", || counting.count() == 1);
    let rest = collect(&mut stream);
    assert!(!rest.is_empty());
    assert!(rest.iter().all(|result| matches!(result, Err(TaskError::Terminated | TaskError::Refused(_)))), "{rest:?}");
}

fn refused_stream_has_one_error(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.close();
    let results = collect(&mut pool.imap(0u64.., |x| x).into_stream());
    assert!(matches!(&results[..], [Err(TaskError::Refused(PoolError::Closed))]), "{results:?}");
    let mut results = pool.imap_unordered(0u64.., |x| x).indexed();
    assert!(matches!(results.next(), Some((0, Err(TaskError::Refused(_))))));
    assert!(results.next().is_none());
    let results = collect(&mut pool.stream(Queue::of(0..3u64), |x| x));
    assert!(matches!(&results[..], [Err(TaskError::Refused(PoolError::Closed))]), "{results:?}");
}

fn panicking_input_of_a_stream(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let input = (0..10u32).map(|x| if x == 3 { panic!("an input that panics on purpose") } else { x });
    let results = collect(&mut pool.imap(input, |x| x).into_stream());
    assert!(matches!(&results[..], [Ok(0), Ok(1), Ok(2), Err(TaskError::Input { .. })]), "{results:?}");
    stage::assert_works(&pool);
}
