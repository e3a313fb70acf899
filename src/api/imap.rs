//! `imap` and `imap_unordered`: results as they arrive, pulled by the caller.
//!
//! `next()` draws from the input while the window has room, and then waits. So the input may borrow, need not be `Send`,
//! and may be infinite. How that works is in `pull.rs`; the same as streams is in `stream.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::api::arrived::Arrived;
use crate::api::arrived::position;
use crate::api::input::Input;
use crate::api::prepare::Prepared;
use crate::api::pull::IfDropped;
use crate::api::pull::Pull;
use crate::api::stream::ImapStream;
use crate::api::stream::IndexedStream;
use crate::driver::Backend;
use crate::error::TaskError;
use crate::error::TimedOut;
use crate::work::task::Data;

macro_rules! pulled {
    (
        $(#[$doc:meta])*
        $name:ident -> $Next:ty, $stream:ident, |$index:ident, $result:ident| $next:expr, $example:literal
    ) => {
        $(#[$doc])*
        #[must_use = "an iterator does nothing until it is consumed"]
        pub struct $name<I: Iterator, T>(Pull<Input<I>, T>);

        impl<I: Iterator, T> $name<I, T> {
            /// Turns the iterator into a stream, for async code: the same results, without blocking a thread.
            ///
            /// It needs no particular runtime. Everything that holds for the iterator holds for the stream: the window,
            /// infinite inputs, errors in the place of results. The input is drawn by the task that polls the stream, so
            /// it should not block. Not in CPython.
            ///
            /// # Examples
            ///
            /// ```
            /// # use std::pin::Pin;
            /// # use std::task::{Context, Poll, Waker};
            /// # use futures_core::Stream;
            /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// # procpool::init();
            /// # let pool = procpool::Pool::new(2)?;
            #[doc = $example]
            /// // In async code: `while let Some(result) = squares.next().await`, with `StreamExt` of the crate `futures`.
            /// # let mut context = Context::from_waker(Waker::noop());
            /// # while Pin::new(&mut squares).poll_next(&mut context).is_pending() {
            /// #     std::thread::sleep(std::time::Duration::from_millis(1));
            /// # }
            /// # Ok(())
            /// # }
            /// ```
            pub fn into_stream(self) -> $stream<I, T> {
                $stream::new(self.0)
            }

            /// Stops what runs if the iterator is dropped before its end: those workers are killed and replaced.
            ///
            /// Without it, items that run go on to their end and keep their workers busy; items that have not begun do
            /// not run in either case. It holds for the stream too. Not in CPython.
            ///
            /// # Examples
            ///
            /// ```
            /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// # procpool::init();
            /// # let pool = procpool::Pool::new(2)?;
            /// use std::time::Duration;
            ///
            /// fn wait(seconds: u64) -> u64 {
            ///     std::thread::sleep(Duration::from_secs(seconds));
            ///     seconds
            /// }
            ///
            /// let first = pool.imap_unordered([0, 3600], wait).cancel_on_drop().next();
            /// assert!(matches!(first, Some(Ok(0))));
            /// assert_eq!(pool.map([0, 0], wait)?, [0, 0]); // Both workers are free.
            /// # Ok(())
            /// # }
            /// ```
            pub fn cancel_on_drop(mut self) -> Self {
                self.0.if_dropped = IfDropped::Cancel;
                self
            }
        }

        impl<I: Iterator<Item: Data>, T: Data> $name<I, T> {
            /// Waits for the next result for at most `timeout`; `Ok(None)` at the end.
            ///
            /// The time counts waiting for results only: drawing from the input is not interrupted. Named
            /// `next(timeout)` in CPython.
            ///
            /// # Errors
            ///
            /// [`TimedOut`]: there is no result yet. Nothing is lost; a later call returns it.
            ///
            /// # Examples
            ///
            /// ```
            /// # fn main() {
            /// # procpool::init();
            /// # let pool = procpool::Pool::new(2).unwrap();
            /// use std::time::Duration;
            ///
            /// let mut squares = pool.imap(0..10u64, |x| x * x);
            /// loop {
            ///     match squares.next_timeout(Duration::from_millis(100)) {
            ///         Ok(Some(square)) => println!("{square:?}"),
            ///         Ok(None) => break,
            ///         Err(procpool::TimedOut) => println!("still waiting"),
            ///     }
            /// }
            /// # }
            /// ```
            pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<$Next>, TimedOut> {
                let next = self.0.next_by(Instant::now().checked_add(timeout))?;
                Ok(next.map(|($index, $result)| $next))
            }
        }

        impl<I: Iterator<Item: Data>, T: Data> Iterator for $name<I, T> {
            type Item = $Next;

            fn next(&mut self) -> Option<Self::Item> {
                let next = self.0.next_by(None).unwrap_or_else(|TimedOut| unreachable!("there is no deadline"));
                next.map(|($index, $result)| $next)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }
        }

        impl<I: Iterator<Item: Data>, T: Data> std::iter::FusedIterator for $name<I, T> {}

        impl<I: Iterator, T> fmt::Debug for $name<I, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

pulled! {
    /// The results of [`Pool::imap`](crate::Pool::imap), in the order of the input.
    ///
    /// Each item is a `Result`: an error takes the place of one result, and iteration goes on. If the iterator is
    /// dropped before its end, items that no worker has been given yet are not run, and the pool is unaffected.
    ///
    /// Named `IMapIterator` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let mut squares = pool.imap(0u64.., |x| x * x);
    /// assert!(matches!(squares.next(), Some(Ok(0))));
    /// assert!(matches!(squares.next(), Some(Ok(1))));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "IMapIterator")]
    Imap -> Result<T, TaskError>, ImapStream, |_index, result| result,
    "let mut squares = pool.imap(0u64.., |x| x * x).into_stream();"
}

pulled! {
    /// The results of [`Pool::imap_unordered`](crate::Pool::imap_unordered), each as soon as it has arrived.
    ///
    /// Everything else is as for [`Imap`]. Named `IMapUnorderedIterator` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let sum: u64 = pool.imap_unordered(0..10u64, |x| x * x).sum::<Result<_, _>>()?;
    /// assert_eq!(sum, 285);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "IMapUnorderedIterator")]
    ImapUnordered -> Result<T, TaskError>, ImapStream, |_index, result| result,
    "let mut squares = pool.imap_unordered(0u64.., |x| x * x).into_stream();"
}

pulled! {
    /// The results of [`ImapUnordered::indexed`], each with the position of its item in the input.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let words = ["a", "bcd", "ef"].map(str::to_owned);
    /// for (index, length) in pool.imap_unordered(words.clone(), |word: String| word.len()).indexed() {
    ///     assert_eq!(length?, words[index].len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    Indexed -> (usize, Result<T, TaskError>), IndexedStream, |index, result| (position(index), result),
    "let mut squares = pool.imap_unordered(0u64.., |x| x * x).indexed().into_stream();"
}

impl<I: Iterator, T> Imap<I, T> {
    pub(super) fn new(backend: Arc<dyn Backend>, prepared: Result<Prepared, TaskError>, items: I) -> Self {
        Self(Pull::new(backend, prepared, Input::new(items), Arrived::ordered()))
    }
}

impl<I: Iterator, T> ImapUnordered<I, T> {
    pub(super) fn new(backend: Arc<dyn Backend>, prepared: Result<Prepared, TaskError>, items: I) -> Self {
        Self(Pull::new(backend, prepared, Input::new(items), Arrived::unordered()))
    }

    /// Yields each result with the position of its item in the input, counted from 0.
    ///
    /// Without it, a value does not say which item it belongs to (an error does, by its
    /// [`origin`](TaskError::origin)). An error that refuses the whole call has position 0. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// for (index, square) in pool.imap_unordered(0..10u64, |x| x * x).indexed() {
    ///     assert_eq!(square?, (index * index) as u64);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "enumerate")]
    pub fn indexed(self) -> Indexed<I, T> {
        Indexed(self.0)
    }
}
