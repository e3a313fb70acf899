//! Every call and every option of a call, written once: for [`Pool`], [`Call`] and [`CallWith`].
//!
//! The methods are listed as `Pool` has them, with their documentation. The two macros pass those on unchanged (the
//! compiler's messages quote the lines below), and derive the methods of the views, whose documentation is the first
//! line and a link.

use std::time::Duration;

use futures_core::Stream;

use crate::api::call::Call;
use crate::api::call::CallWith;
use crate::api::imap::Imap;
use crate::api::imap::ImapUnordered;
use crate::api::pool::Pool;
use crate::api::results::AsyncResult;
use crate::api::stream::PoolStream;
use crate::error::TaskError;
use crate::work::function::LocalFunction;
use crate::work::shape::Map;
use crate::work::shape::MapWith;
use crate::work::shape::Star;
use crate::work::shape::StarWith;
use crate::work::task::Args;
use crate::work::task::Data;
use crate::work::task::Outcome;

/// The type of a function that takes a context before the arguments of this one.
macro_rules! with_context {
    (fn($A:ident) -> $O:ident) => { fn(&C, $A) -> $O };
    (fn(Vec<$A:ident>) -> $O:ident) => { fn(&C, Vec<$A>) -> $O };
    ($T:ident::Fp<$O:ident>) => { $T::FpWith<C, $O> };
}

/// How a worker calls this function.
macro_rules! shape {
    (fn($A:ident) -> $O:ident) => { Map<$A, $O> };
    (fn(Vec<$A:ident>) -> $O:ident) => { Map<Vec<$A>, $O> };
    ($T:ident::Fp<$O:ident>) => { Star<$T, $O> };
}

/// How a worker calls this function, with a context.
macro_rules! shape_with_context {
    (fn($A:ident) -> $O:ident) => { MapWith<C, $A, $O> };
    (fn(Vec<$A:ident>) -> $O:ident) => { MapWith<C, Vec<$A>, $O> };
    ($T:ident::Fp<$O:ident>) => { StarWith<C, $T, $O> };
}

/// The link of a view's method to the documentation of the pool's.
macro_rules! see {
    ($name:ident) => {
        concat!(
            "See [`Pool::",
            stringify!($name),
            "`](crate::Pool::",
            stringify!($name),
            ") for details and an example."
        )
    };
}

/// The methods that run a function. `request => …` is what they do with the function once it is located.
macro_rules! calls {
    ($(
        #[doc = $summary:literal]
        $(#[$doc:meta])*
        pub fn $name:ident<$($P:ident),+>(&$self:ident, $input:ident: $Input:ident, $f:ident: $($function:tt)+)
            -> $Output:ty
        where ($($bounds:tt)+)
        { $request:ident => $run:expr }
    )+) => {
        /// Calls.
        impl Pool {$(
            #[doc = $summary]
            $(#[$doc])*
            pub fn $name<$($P),+>(&$self, $input: $Input, $f: $($function)+) -> $Output
            where
                $($bounds)+
            {
                let call = $self.call();
                let $request = call.request(LocalFunction::task::<shape!($($function)+), M>($f));
                $run
            }
        )+}

        /// Calls. All are documented at [`Pool`].
        #[expect(clippy::missing_errors_doc, reason = "each is a link to the method of the pool")]
        impl Call<'_> {$(
            #[doc = $summary]
            #[doc = ""]
            #[doc = see!($name)]
            pub fn $name<$($P),+>(&$self, $input: $Input, $f: $($function)+) -> $Output
            where
                $($bounds)+
            {
                let $request = $self.request(LocalFunction::task::<shape!($($function)+), M>($f));
                $run
            }
        )+}

        /// Calls. All are documented at [`Pool`]; here `f` takes the context before its arguments.
        #[expect(clippy::missing_errors_doc, reason = "each is a link to the method of the pool")]
        impl<C: Data> CallWith<'_, '_, C> {$(
            #[doc = $summary]
            #[doc = ""]
            #[doc = see!($name)]
            pub fn $name<$($P),+>(&$self, $input: $Input, $f: with_context!($($function)+)) -> $Output
            where
                $($bounds)+
            {
                let $request = $self.request(LocalFunction::task::<shape_with_context!($($function)+), M>($f));
                $run
            }
        )+}
    };
}

calls! {
    /// Runs `f` on `args`, a tuple, in a worker, and waits for the result.
    ///
    /// The arguments are encoded on this thread, and the result is decoded on it. Named `apply` in CPython.
    ///
    /// # Errors
    ///
    /// - [`TaskError::Failed`]: `f` returned `Err` as an `anyhow::Result`. Any other `Result` is the value itself.
    /// - [`TaskError::Panicked`]: `f` panicked.
    /// - [`TaskError::WorkerDied`]: the worker ended while it ran `f`, as often as [`retries`](Self::retries) allow.
    /// - [`TaskError::TimedOut`]: `f` ran for longer than the [`timeout`](Self::timeout) of the call.
    /// - [`TaskError::Encode`], [`TaskError::Decode`]: the arguments, the result or the context could not be
    ///   serialized or deserialized.
    /// - [`TaskError::FunctionNotFound`]: `f` is in no loaded image of this program, or not in the worker's.
    /// - [`TaskError::Terminated`]: the pool was terminated or dropped before there was a result.
    /// - [`TaskError::Refused`]: the pool took no more tasks (closed, terminated, broken), an option of the call is
    ///   zero, or this process is a forked copy of the one that made the pool. It holds the
    ///   [`PoolError`](crate::PoolError).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let nine: u64 = pool.apply((3u64, 2), u64::pow)?;
    /// assert_eq!(nine, 9);
    /// # Ok(())
    /// # }
    /// ```
    pub fn apply<T, O, M>(&self, args: T, f: T::Fp<O>) -> Result<O::Value, TaskError>
    where (T: Args + Data, O: Outcome<M>, M: 'static)
    { request => request.apply(&args) }

    /// Runs `f` on `args`, a tuple, in a worker; the handle returns the result.
    ///
    /// The arguments are encoded before this returns. Every error, a pool that takes no more tasks included, is
    /// returned by the handle. Named `apply_async` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let handle = pool.apply_async(("ab".to_owned(), 3), |text, times| text.repeat(times));
    /// assert_eq!(handle.get()?, "ababab");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "submit")]
    pub fn apply_async<T, O, M>(&self, args: T, f: T::Fp<O>) -> AsyncResult<O::Value>
    where (T: Args + Data, O: Outcome<M>, M: 'static)
    { request => request.apply_async(args) }

    /// Runs `f` on every item, and waits for all results, in the order of the items.
    ///
    /// Items are drawn and encoded while others run already. `f` takes one argument; see [`starmap`](Self::starmap) for
    /// more. Named `map` in CPython.
    ///
    /// # Errors
    ///
    /// The error of the lowest index, once every item has settled, so that it does not depend on timing:
    ///
    /// - the errors of [`apply`](Self::apply), each for one item;
    /// - [`TaskError::Input`]: the iterator panicked. No further item was drawn.
    ///
    /// [`map_results`](Self::map_results) returns every error, and [`fail_fast`](Self::fail_fast) stops at the first.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let squares: Vec<u64> = pool.map(0..10, |x| x * x)?;
    /// assert_eq!(squares[9], 81);
    /// # Ok(())
    /// # }
    /// ```
    pub fn map<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Result<Vec<O::Value>, TaskError>
    where (I: IntoIterator<Item = A>, A: Data, O: Outcome<M>, M: 'static)
    { request => request.map(items.into_iter()) }

    /// Runs `f` on every item, and waits for the outcome of each, in the order of the items.
    ///
    /// Every item has its place, with a value or with an error as [`map`](Self::map) lists them. Not in CPython, where
    /// one error hides all results.
    ///
    /// # Errors
    ///
    /// The call as a whole has no outcomes:
    ///
    /// - [`TaskError::Encode`]: the context could not be serialized.
    /// - [`TaskError::FunctionNotFound`]: `f` is in no loaded image of this program.
    /// - [`TaskError::Terminated`]: the pool was terminated or dropped during the call.
    /// - [`TaskError::Refused`]: as for [`apply`](Self::apply), or the pool broke during the call.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let quotients = pool.map_results([6u32, 0, 3], |x| 12 / x)?;
    /// assert!(matches!(quotients[1], Err(procpool::TaskError::Panicked(_))));
    /// assert!(matches!(quotients[2], Ok(4)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_results<I, A, O, M>(&self, items: I, f: fn(A) -> O)
        -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
    where (I: IntoIterator<Item = A>, A: Data, O: Outcome<M>, M: 'static)
    { request => request.map_results(items.into_iter()) }

    /// Runs `f` on every item; the handle returns all results, in the order of the items.
    ///
    /// The whole input is drawn and encoded before this returns, so it must not be infinite. The handle returns the
    /// errors of [`map`](Self::map), a pool that takes no more tasks included. Named `map_async` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let squares = pool.map_async(0..10u64, |x| x * x);
    /// let cubes = pool.map_async(0..10u64, |x| x * x * x);
    /// assert_eq!((squares.get()?[9], cubes.get()?[9]), (81, 729));
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_async<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> AsyncResult<Vec<O::Value>>
    where (I: IntoIterator<Item = A>, A: Data, O: Outcome<M>, M: 'static)
    { request => request.map_async(items.into_iter()) }

    /// As [`map`](Self::map), with items that are tuples of arguments.
    ///
    /// Named `starmap` in CPython.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let sums: Vec<u32> = pool.starmap([(1, 2), (3, 4)], |a, b| a + b)?;
    /// assert_eq!(sums, [3, 7]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn starmap<I, T, O, M>(&self, items: I, f: T::Fp<O>) -> Result<Vec<O::Value>, TaskError>
    where (I: IntoIterator<Item = T>, T: Args + Data, O: Outcome<M>, M: 'static)
    { request => request.map(items.into_iter()) }

    /// As [`map_results`](Self::map_results), with items that are tuples of arguments.
    ///
    /// # Errors
    ///
    /// As for [`map_results`](Self::map_results).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let quotients = pool.starmap_results([(12u32, 4), (12, 0)], |a, b| a / b)?;
    /// assert!(matches!(quotients[0], Ok(3)));
    /// assert!(matches!(quotients[1], Err(procpool::TaskError::Panicked(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn starmap_results<I, T, O, M>(&self, items: I, f: T::Fp<O>)
        -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
    where (I: IntoIterator<Item = T>, T: Args + Data, O: Outcome<M>, M: 'static)
    { request => request.map_results(items.into_iter()) }

    /// As [`map_async`](Self::map_async), with items that are tuples of arguments.
    ///
    /// Named `starmap_async` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let powers = pool.starmap_async([(2u64, 10), (3, 2)], u64::pow);
    /// assert_eq!(powers.get()?, [1024, 9]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn starmap_async<I, T, O, M>(&self, items: I, f: T::Fp<O>) -> AsyncResult<Vec<O::Value>>
    where (I: IntoIterator<Item = T>, T: Args + Data, O: Outcome<M>, M: 'static)
    { request => request.map_async(items.into_iter()) }

    /// Runs `f` on every item; results come in the order of the items, lazily.
    ///
    /// The iterator is pulled by the caller: `next()` draws from the input while its window has room. So the input may
    /// borrow, need not be `Send`, and may be infinite. Between calls of `next()`, no more than the window is worked
    /// on: about two chunks for each worker, more only while items take microseconds. An error, as [`map`](Self::map)
    /// lists them, takes the place of one result, and iteration goes on.
    ///
    /// After [`close`](Self::close) nothing more is drawn: what was drawn is yielded, and then, if there was more, one
    /// [`TaskError::Refused`]. Named `imap` in CPython, where a thread draws the whole input at once.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// for (x, square) in pool.imap(0u64.., |x| x * x).take(100).enumerate() {
    ///     assert_eq!(square?, (x * x) as u64);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn imap<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Imap<I::IntoIter, O::Value>
    where (I: IntoIterator<Item = A>, A: Data, O: Outcome<M>, M: 'static)
    { request => request.imap(items.into_iter()) }

    /// Runs `f` on every item; each result comes as soon as it has arrived, in any order.
    ///
    /// Everything else is as for [`imap`](Self::imap). [`indexed`](crate::ImapUnordered::indexed) tells which item a
    /// result is of. Named `imap_unordered` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let mut squares = pool.imap_unordered(0..10u64, |x| x * x).collect::<Result<Vec<_>, _>>()?;
    /// squares.sort();
    /// assert_eq!(squares[9], 81);
    /// # Ok(())
    /// # }
    /// ```
    pub fn imap_unordered<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> ImapUnordered<I::IntoIter, O::Value>
    where (I: IntoIterator<Item = A>, A: Data, O: Outcome<M>, M: 'static)
    { request => request.imap_unordered(items.into_iter()) }

    /// Runs `f` on every chunk of the items, a `Vec` of them, and waits for all results, in the order of the chunks.
    ///
    /// For functions that answer once for many items: they pay once what is dear (a connection, a statement, a batch of a
    /// model), or return less than they get. For sums and the like there are [`reduce`](Self::reduce) and
    /// [`fold`](Self::fold).
    ///
    /// A chunk is one item of the call: it has one outcome, [`timeout`](Self::timeout) and [`retries`](Self::retries) hold
    /// for it as a whole, and the index in an error is that of the chunk. [`chunk_size`](Self::chunk_size) sets how many
    /// items it has. By default it has a 256th of those that the iterator's `size_hint` announces, rounded up, and at most
    /// 4096; 256 if it announces nothing. So chunks depend on the input alone, and are the same on every machine. Set
    /// the size if items are large: a whole chunk is in memory at once.
    ///
    /// Not in CPython, where `chunksize` is a matter of transport.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// fn longest(words: Vec<String>) -> usize {
    ///     words.iter().map(String::len).max().unwrap_or(0)
    /// }
    ///
    /// let words = ["a", "bcd", "ef", "ghij"].map(str::to_owned);
    /// assert_eq!(pool.chunk_size(3).map_chunks(words, longest)?, [3, 4]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "par_chunks")]
    pub fn map_chunks<I, A, O, M>(&self, items: I, f: fn(Vec<A>) -> O) -> Result<Vec<O::Value>, TaskError>
    where (I: IntoIterator<Item = A>, A: Data, O: Outcome<M>, M: 'static)
    { request => request.map_chunks(items.into_iter()) }

    /// Runs `f` on every item of a stream; the results are a stream, in the order of the items.
    ///
    /// As [`imap`](Self::imap), for async code whose input is a stream too: of requests, lines, messages. Backpressure
    /// works both ways: the input is polled only while the window has room, and results wait until they are consumed.
    /// It needs no particular runtime, and a result is yielded while the input has nothing. A panic of the input is
    /// [`TaskError::Input`] at its position; nothing more is drawn. An input that is an iterator needs
    /// [`Imap::into_stream`](crate::Imap::into_stream) only.
    ///
    /// Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::pin::Pin;
    /// # use std::task::{Context, Poll, Waker};
    /// # use futures_core::Stream;
    /// # struct Numbers(std::ops::Range<u64>);
    /// # impl Stream for Numbers {
    /// #     type Item = u64;
    /// #     fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<u64>> {
    /// #         Poll::Ready(self.0.next())
    /// #     }
    /// # }
    /// # fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    /// #     loop {
    /// #         if let Poll::Ready(next) = Pin::new(&mut *stream).poll_next(&mut Context::from_waker(Waker::noop())) {
    /// #             return next;
    /// #         }
    /// #         std::thread::yield_now();
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let numbers = Numbers(0..10); // Any stream: of requests, lines, messages.
    /// let mut squares = pool.stream(numbers, |x| x * x);
    /// // In async code, with `StreamExt` of the crate `futures`: `squares.next().await`.
    /// let mut sum = 0;
    /// while let Some(square) = next(&mut squares) {
    ///     sum += square?;
    /// }
    /// assert_eq!(sum, 285);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "buffered")]
    pub fn stream<S, A, O, M>(&self, items: S, f: fn(A) -> O) -> PoolStream<S, O::Value>
    where (S: Stream<Item = A>, A: Data, O: Outcome<M>, M: 'static)
    { request => request.stream(items) }

    /// Runs `f` on every item of a stream; the results are a stream, each as soon as it has arrived.
    ///
    /// Everything else is as for [`stream`](Self::stream). Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::pin::Pin;
    /// # use std::task::{Context, Poll, Waker};
    /// # use futures_core::Stream;
    /// # struct Numbers(std::ops::Range<u64>);
    /// # impl Stream for Numbers {
    /// #     type Item = u64;
    /// #     fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<u64>> {
    /// #         Poll::Ready(self.0.next())
    /// #     }
    /// # }
    /// # fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    /// #     loop {
    /// #         if let Poll::Ready(next) = Pin::new(&mut *stream).poll_next(&mut Context::from_waker(Waker::noop())) {
    /// #             return next;
    /// #         }
    /// #         std::thread::yield_now();
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let numbers = Numbers(0..10); // Any stream: of requests, lines, messages.
    /// let mut squares = pool.stream_unordered(numbers, |x| x * x);
    /// // In async code, with `StreamExt` of the crate `futures`: `squares.next().await`.
    /// let mut largest = 0;
    /// while let Some(square) = next(&mut squares) {
    ///     largest = square?.max(largest);
    /// }
    /// assert_eq!(largest, 81);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "buffer_unordered")]
    pub fn stream_unordered<S, A, O, M>(&self, items: S, f: fn(A) -> O) -> PoolStream<S, O::Value>
    where (S: Stream<Item = A>, A: Data, O: Outcome<M>, M: 'static)
    { request => request.stream_unordered(items) }
}

/// The methods that set an option of one call.
macro_rules! options {
    ($(
        #[doc = $summary:literal]
        $(#[$doc:meta])*
        pub fn $name:ident($($value:ident: $Value:ty)?) { $option:ident = $set:expr }
    )+) => {
        /// Options of one call.
        impl Pool {$(
            #[doc = $summary]
            $(#[$doc])*
            pub fn $name<'p>(&'p self, $($value: $Value)?) -> Call<'p> {
                let mut call = self.call();
                call.options.$option = $set;
                call
            }
        )+}

        /// Options of one call. All are documented at [`Pool`].
        impl<'p> Call<'p> {$(
            #[doc = $summary]
            #[doc = ""]
            #[doc = see!($name)]
            pub fn $name(mut self, $($value: $Value)?) -> Self {
                self.options.$option = $set;
                self
            }
        )+}

        /// Options of one call. All are documented at [`Pool`].
        impl<'p, C> CallWith<'p, '_, C> {$(
            #[doc = $summary]
            #[doc = ""]
            #[doc = see!($name)]
            pub fn $name(mut self, $($value: $Value)?) -> Self {
                self.call.options.$option = $set;
                self
            }
        )+}
    };
}

options! {
    /// For one call: items travel to a worker `items` at a time.
    ///
    /// By default `map` and `starmap` measure: a worker is given what takes about a tenth of a millisecond, and near
    /// the end its fair share. `imap` and `imap_unordered` send items one by one, as in CPython. Whatever travels
    /// together, each item has its own result, its own error, and counts for itself.
    ///
    /// The call fails with [`PoolError::ZeroChunkSize`](crate::PoolError::ZeroChunkSize) for 0. Named `chunksize` in
    /// CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let squares = pool.chunk_size(100).map(0..10_000u64, |x| x * x)?;
    /// assert_eq!(squares[100], 10_000);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "chunksize")]
    pub fn chunk_size(items: usize) { chunk_size = Some(items) }

    /// For one call: the first error ends it.
    ///
    /// `map` returns that error at once. Items that no worker has been given yet are not run;
    /// [`map_results`](Self::map_results) has [`TaskError::Skipped`] in their places. Not in CPython, where `map` runs
    /// everything.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use procpool::TaskError;
    ///
    /// fn check(x: u32) -> anyhow::Result<u32> {
    ///     anyhow::ensure!(x != 0, "zero");
    ///     std::thread::sleep(std::time::Duration::from_millis(20));
    ///     Ok(x)
    /// }
    ///
    /// let outcomes = pool.fail_fast().map_results(0..100, check)?;
    /// assert!(matches!(outcomes[0], Err(TaskError::Failed(_))));
    /// assert!(matches!(outcomes[99], Err(TaskError::Skipped)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_fast() { fail_fast = true }

    /// For one call: each item may run for `timeout`; then its worker is killed and replaced.
    ///
    /// Only that item fails, with [`TaskError::TimedOut`]; what its worker had not begun runs elsewhere. The time is
    /// that of the item alone: it includes decoding the item, but not waiting for a worker, nor what the worker
    /// decodes for the whole call (see [`with`](Self::with)). It needs no cooperation: the item ends whatever the task
    /// does or waits for. A task that would rather end by itself asks for its [`deadline`](crate::deadline()).
    ///
    /// A result that has been returned counts, however late. Where workers are reached without shared memory, the time
    /// begins when the worker is given the item. The call fails with
    /// [`PoolError::ZeroLimit`](crate::PoolError::ZeroLimit) for a `timeout` of zero.
    ///
    /// Named `timeout` in pebble, `time_limit` in Celery; not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use std::time::Duration;
    ///
    /// use procpool::TaskError;
    ///
    /// fn wait(millis: u64) -> u64 {
    ///     std::thread::sleep(Duration::from_millis(millis));
    ///     millis
    /// }
    ///
    /// let waited = pool.timeout(Duration::from_secs(2)).map_results([1, 1_000_000], wait)?;
    /// assert!(matches!(waited[0], Ok(1)));
    /// assert!(matches!(waited[1], Err(TaskError::TimedOut { .. })));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "time_limit")]
    pub fn timeout(timeout: Duration) { timeout = Some(timeout) }

    /// For one call: an item that was lost with its worker is run again, up to `times` times.
    ///
    /// For tasks that may be run twice: a worker that died may have done anything before. By default nothing is run
    /// twice, and such an item is [`TaskError::WorkerDied`]. An item that kills each worker that runs it fails in the
    /// end, and the error says after how many. Errors, panics and [timeouts](Self::timeout) are outcomes, and are not
    /// retried. Not in CPython, where a worker that dies takes its items with it and the call never returns.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use procpool::TaskError;
    ///
    /// fn crash(_: u32) {
    ///     std::process::abort()
    /// }
    ///
    /// let crash = pool.retries(2).apply((1,), crash);
    /// assert!(matches!(crash, Err(TaskError::WorkerDied { attempts: 3, .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn retries(times: u32) { retries = times }

    /// For one call: at most so many items are drawn from the input whose results were not consumed.
    ///
    /// For [`imap`](Self::imap), [`imap_unordered`](Self::imap_unordered) and streams. It replaces the window that is
    /// measured by default, both ways: a small one keeps an input that is costly to hold, a large one keeps workers
    /// busy while the consumer pauses. In [`map`](Self::map) it bounds the items that are encoded and have no outcome
    /// yet. Calls that draw the whole input before they return, such as [`map_async`](Self::map_async), ignore it.
    ///
    /// The call fails with [`PoolError::ZeroLimit`](crate::PoolError::ZeroLimit) for 0. Named `buffersize` in CPython's
    /// `Executor.map`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use std::cell::Cell;
    ///
    /// let drawn = Cell::new(0);
    /// let input = (0u64..).inspect(|_| drawn.set(drawn.get() + 1));
    /// let mut squares = pool.window(3).imap(input, |x| x * x);
    /// assert!(matches!(squares.next(), Some(Ok(0))));
    /// assert!(drawn.get() <= 4);
    /// # drop(squares);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "buffersize")]
    pub fn window(items: usize) { window = Some(items) }

    /// For one call: its errors name it.
    ///
    /// The label is in the text of each [`TaskError`] that has an [`Origin`](crate::Origin), before what happened, and
    /// in [`Origin::label`](crate::Origin::label). Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let resize = |edge: u32| -> anyhow::Result<u32> { edge.checked_sub(1).ok_or(anyhow::anyhow!("no pixels")) };
    ///
    /// let error = pool.label("resize").map([3, 0, 2], resize).unwrap_err();
    /// assert_eq!(error.to_string(), "item 1 of \"resize\": task failed: no pixels");
    /// # Ok(())
    /// # }
    /// ```
    pub fn label(label: &'p str) { label = Some(label) }
}
