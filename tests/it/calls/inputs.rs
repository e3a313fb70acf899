//! A stream as input, and how far inputs are drawn: the window.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::thread;

use futures_core::FusedStream;
use futures_core::Stream;
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
    stream_is_an_input,
    result_is_yielded_while_the_input_has_nothing,
    input_stream_is_polled_as_far_as_the_window,
    input_stream_that_panics_ends_with_an_error,
    input_stream_ends_with_a_closed_pool,
    input_stream_takes_a_context_and_options,
    stream_of_a_stream,
    window_bounds_what_is_drawn,
    window_may_be_large,
    window_of_a_map,
    window_of_zero_is_refused,
];

/// Streams are sent to other threads and need not be pinned.
fn is_send_and_unpin<S: Send + Unpin>(stream: S) -> S {
    stream
}

fn stream_is_an_input(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut results = is_send_and_unpin(pool.stream(Queue::of(0..5000u64), |x| x * x));
    for x in 0..5000 {
        assert_eq!(next(&mut results).unwrap().unwrap(), x * x);
    }
    assert!(next(&mut results).is_none() && results.is_terminated());
    let results = collect(&mut pool.stream_unordered(Queue::of(0..5000u64), |x| x));
    assert_eq!(results.into_iter().map(Result::unwrap).collect::<BTreeSet<_>>().len(), 5000);
    assert!(collect(&mut pool.stream(Queue::of([0u8; 0]), |x| x)).is_empty());
    // A producer on another thread that is sometimes slower and sometimes quicker than the pool.
    let queue = Queue::open([]);
    let input = queue.clone();
    thread::scope(|scope| {
        scope.spawn(move || {
            for x in 0..2000u64 {
                if x % 100 == 0 {
                    stage::doze(1);
                }
                queue.push(x);
            }
            queue.close();
        });
        let results: Result<Vec<u64>, _> = collect(&mut pool.stream(input, |x| x)).into_iter().collect();
        assert_eq!(results.unwrap(), (0..2000).collect::<Vec<_>>());
    });
}

fn result_is_yielded_while_the_input_has_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let queue = Queue::open([1u32]);
    let mut results = pool.stream(queue.clone(), |x| x + 1);
    assert_eq!(next(&mut results).unwrap().unwrap(), 2);
    let counting = Arc::new(Counting::default());
    assert!(poll_next(&mut results, &Waker::from(Arc::clone(&counting))).is_pending());
    queue.push(5);
    stage::until("the waker", || counting.count() == 1);
    assert_eq!(next(&mut results).unwrap().unwrap(), 6);
    assert!(poll_next(&mut results, &Waker::from(Arc::clone(&counting))).is_pending());
    queue.close();
    stage::until("the waker", || counting.count() == 2);
    assert!(next(&mut results).is_none());
}

fn input_stream_is_polled_as_far_as_the_window(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let queue = Queue::of((0..1000u32).map(|_| gate.path()));
    let mut results = pool.window(7).stream(queue.clone(), |gate| stage::pass(&gate));
    for _ in 0..3 {
        assert!(poll_next(&mut results, Waker::noop()).is_pending());
    }
    assert!((4..=7).contains(&queue.drawn()), "{}", queue.drawn());
    gate.open();
    for consumed in 1..=100 {
        next(&mut results).unwrap().unwrap();
        assert!(queue.drawn() <= consumed + 7);
    }
    let drawn = queue.drawn();
    stage::assert_works(&pool);
    assert_eq!(queue.drawn(), drawn);
    assert_eq!(collect(&mut results).len(), 900);
}

fn input_stream_that_panics_ends_with_an_error(method: StartMethod) {
    struct Panics(u32);
    impl Stream for Panics {
        type Item = u32;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<u32>> {
            self.0 += 1;
            assert!(self.0 < 4, "an input that panics on purpose");
            Poll::Ready(Some(self.0))
        }
    }
    let pool = stage::pool(method, 2);
    let results = collect(&mut pool.stream(Panics(0), |x| x));
    assert!(matches!(&results[..], [Ok(1), Ok(2), Ok(3), Err(TaskError::Input { .. })]), "{results:?}");
    stage::assert_works(&pool);
}

fn input_stream_ends_with_a_closed_pool(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let queue = Queue::open([1u32]);
    let mut results = pool.stream(queue.clone(), |x| x);
    assert_eq!(next(&mut results).unwrap().unwrap(), 1);
    pool.close();
    assert!(poll_next(&mut results, Waker::noop()).is_pending(), "the next item gets the error");
    queue.push(2);
    queue.push(3);
    assert!(matches!(next(&mut results), Some(Err(TaskError::Refused(PoolError::Closed)))));
    assert!(next(&mut results).is_none());
    assert_eq!(queue.drawn(), 2, "and nothing more is drawn");
    assert!(queue.is_alone(), "the input is dropped");
    pool.join().unwrap();
}

fn input_stream_takes_a_context_and_options(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let call = pool.with(&100u32).label("sums");
    let results = collect(&mut call.stream(Queue::of([1, 2, 0]), |base, x: u32| base / x));
    assert!(matches!(&results[..2], [Ok(100), Ok(50)]));
    let error = results[2].as_ref().unwrap_err();
    assert_eq!(error.origin().map(|origin| (origin.index(), origin.label())), Some((Some(2), Some("sums"))));
}

/// The results of one stream are the input of another, in the same pool.
fn stream_of_a_stream(method: StartMethod) {
    struct Values<S>(S);
    impl<S: Stream<Item = Result<u64, TaskError>> + Unpin> Stream for Values<S> {
        type Item = u64;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<u64>> {
            Pin::new(&mut self.0).poll_next(context).map(|next| next.map(Result::unwrap))
        }
    }
    let pool = stage::pool(method, 2);
    let first = pool.imap(0u64.., |x| x + 1).into_stream();
    let mut second = pool.stream(Values(first), |x| 2 * x);
    for x in 0..1000 {
        assert_eq!(next(&mut second).unwrap().unwrap(), 2 * (x + 1));
    }
}

fn window_bounds_what_is_drawn(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for window in [1usize, 2, 5, 100] {
        let drawn = Cell::new(0usize);
        let input = (0u64..).inspect(|_| drawn.set(drawn.get() + 1));
        let mut results = pool.window(window).imap(input, |x| x);
        for consumed in 1..=300 {
            results.next().unwrap().unwrap();
            assert!(drawn.get() <= consumed + window, "{} drawn, {consumed} consumed, {window}", drawn.get());
        }
    }
}

/// More than one window's worth of long items would be drawn by default.
fn window_may_be_large(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (drawn, mut gate) = (Cell::new(0usize), Gate::closed());
    let input = std::iter::repeat_with(|| {
        drawn.set(drawn.get() + 1);
        gate.path()
    });
    let mut stream = pool.window(500).imap(input, |gate| stage::pass(&gate)).into_stream();
    assert!(poll_next(&mut stream, Waker::noop()).is_pending());
    assert_eq!(drawn.get(), 500);
    drop(stream);
    gate.open();
}

fn window_of_a_map(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let drawn = Cell::new(0usize);
    let input = (0..200usize).map(|x| {
        drawn.set(drawn.get() + 1);
        // Those with an outcome are behind it by now; those that have begun tell at least how many.
        assert!(drawn.get() <= book.lines().len() + 4, "{} drawn", drawn.get());
        (book.path(), x)
    });
    let values = pool.window(3).map(input, |(book, x)| {
        stage::note(&book, x);
        x
    });
    assert_eq!(values.unwrap(), (0..200).collect::<Vec<_>>());
}

fn window_of_zero_is_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let is_told =
        |error: Option<TaskError>| matches!(error, Some(TaskError::Refused(PoolError::ZeroLimit { option: "window" })));
    assert!(is_told(pool.window(0).imap(0..3u8, |x| x).next().unwrap().err()));
    assert!(is_told(pool.window(0).map(0..3u8, |x| x).err()));
    assert!(is_told(next(&mut pool.window(0).stream(Queue::of(0..3u8), |x| x)).unwrap().err()));
}
