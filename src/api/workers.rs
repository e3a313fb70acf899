//! [`Workers`]: what a pool of processes and a pool of threads have in common, for code that runs on either.

use std::time::Duration;

use crate::api::call::Call;
use crate::api::imap::Imap;
use crate::api::imap::ImapUnordered;
use crate::api::pool::Pool;
use crate::api::results::AsyncResult;
use crate::error::TaskError;
use crate::work::task::Args;
use crate::work::task::Data;
use crate::work::task::Outcome;

/// Only the pools of this crate are [`Workers`].
pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "no other crate may implement it, so none needs to name it")]
    #[doc(hidden)]
    pub trait Workers {}
}

/// A result that comes later, of a process or of a thread.
///
/// # Examples
///
/// ```
/// use procpool::{Handle, Pool, TaskError, Workers};
///
/// fn nine(workers: &impl Workers) -> Result<u64, TaskError> {
///     workers.apply_async((3u64, 2), u64::pow).into_value()
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     assert_eq!(nine(&Pool::new(1)?)?, 9);
///     Ok(())
/// }
/// ```
pub trait Handle<T>: sealed::Workers {
    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// As for [`Pool::apply`].
    fn into_value(self) -> Result<T, TaskError>;

    /// Waits until there is a result, at most for `timeout`; returns whether there is one.
    fn wait_timeout(&self, timeout: Duration) -> bool;

    /// Whether there is a result.
    fn ready(&self) -> bool;
}

/// What can run tasks: a [`Pool`] of processes or a pool of threads, or the options of a call on either.
///
/// Code that is generic over it can be run in threads where that is safe and quick, and in processes where it is not. Every
/// method has the documentation of the method of [`Pool`] with the same name. Results are equal, and so are errors, but
/// for what only processes can do: where threads cannot, the call is refused
/// ([`PoolError::Unsupported`](crate::PoolError::Unsupported)), and nothing is ignored silently.
///
/// Values are [`Send`] besides being [`Data`]: threads are given them as they are, without serde.
///
/// # Examples
///
/// ```
/// use procpool::{Pool, TaskError, Workers};
///
/// fn lengths(workers: &impl Workers, words: Vec<String>) -> Result<Vec<usize>, TaskError> {
///     workers.map(words, |word: String| word.len())
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     assert_eq!(lengths(&pool, vec!["ab".to_owned()])?, [2]);
///     assert_eq!(lengths(&pool.retries(1), vec!["abc".to_owned()])?, [3]);
///     // With the feature `threads`: lengths(&Pool::builder().processes(2).build_threads()?, words)
///     Ok(())
/// }
/// ```
pub trait Workers: sealed::Workers {
    /// The handle of a call that is not waited for.
    type Handle<T: Data + Send>: Handle<T>;
    /// The results of [`imap`](Self::imap).
    type Imap<I: Iterator<Item: Data + Send>, T: Data + Send>: Iterator<Item = Result<T, TaskError>>;
    /// The results of [`imap_unordered`](Self::imap_unordered).
    type ImapUnordered<I: Iterator<Item: Data + Send>, T: Data + Send>: Iterator<Item = Result<T, TaskError>>;
    /// The same with options for one call.
    type Call<'p>: Workers
    where
        Self: 'p;

    /// See [`Pool::chunk_size`].
    fn chunk_size(&self, items: usize) -> Self::Call<'_>;
    /// See [`Pool::fail_fast`].
    fn fail_fast(&self) -> Self::Call<'_>;
    /// See [`Pool::timeout`]. Threads refuse the call.
    fn timeout(&self, timeout: Duration) -> Self::Call<'_>;
    /// See [`Pool::retries`]. Threads refuse the call, unless it is 0.
    fn retries(&self, times: u32) -> Self::Call<'_>;
    /// See [`Pool::window`].
    fn window(&self, items: usize) -> Self::Call<'_>;
    /// See [`Pool::label`].
    fn label<'p>(&'p self, label: &'p str) -> Self::Call<'p>;

    /// See [`Pool::apply`].
    ///
    /// # Errors
    ///
    /// As there.
    fn apply<T, O, M>(&self, args: T, f: T::Fp<O>) -> Result<O::Value, TaskError>
    where
        T: Args + Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static;

    /// See [`Pool::apply_async`].
    fn apply_async<T, O, M>(&self, args: T, f: T::Fp<O>) -> Self::Handle<O::Value>
    where
        T: Args + Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static;

    /// See [`Pool::map`].
    ///
    /// # Errors
    ///
    /// As there.
    fn map<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Result<Vec<O::Value>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static;

    /// See [`Pool::map_results`].
    ///
    /// # Errors
    ///
    /// As there.
    fn map_results<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static;

    /// See [`Pool::starmap`].
    ///
    /// # Errors
    ///
    /// As there.
    fn starmap<I, T, O, M>(&self, items: I, f: T::Fp<O>) -> Result<Vec<O::Value>, TaskError>
    where
        I: IntoIterator<Item = T>,
        T: Args + Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static;

    /// See [`Pool::map_chunks`].
    ///
    /// # Errors
    ///
    /// As there.
    fn map_chunks<I, A, O, M>(&self, items: I, f: fn(Vec<A>) -> O) -> Result<Vec<O::Value>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static;

    /// See [`Pool::fold`].
    ///
    /// # Errors
    ///
    /// As there.
    fn fold<I, A, B, O, M>(
        &self,
        items: I,
        start: B,
        step: fn(B, A) -> O,
        combine: impl FnMut(B, B) -> B,
    ) -> Result<B, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        B: Data + Clone + Send,
        O: Outcome<M, Value = B>,
        M: 'static;

    /// See [`Pool::reduce`].
    ///
    /// # Errors
    ///
    /// As there.
    fn reduce<I, A>(&self, items: I, f: fn(A, A) -> A) -> Result<Option<A>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send;

    /// See [`Pool::imap`].
    fn imap<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Self::Imap<I::IntoIter, O::Value>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static;

    /// See [`Pool::imap_unordered`].
    fn imap_unordered<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Self::ImapUnordered<I::IntoIter, O::Value>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static;
}

impl<T> sealed::Workers for AsyncResult<T> {}

impl<T: Data + Send> Handle<T> for AsyncResult<T> {
    fn into_value(self) -> Result<T, TaskError> {
        AsyncResult::into_value(self)
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        AsyncResult::wait_timeout(self, timeout)
    }

    fn ready(&self) -> bool {
        AsyncResult::ready(self)
    }
}

/// The calls of [`Workers`], each passed on to the method with the same name.
macro_rules! pass_on {
    (@types) => {
        type Handle<T: Data + Send> = AsyncResult<T>;
        type Imap<I: Iterator<Item: Data + Send>, T: Data + Send> = Imap<I, T>;
        type ImapUnordered<I: Iterator<Item: Data + Send>, T: Data + Send> = ImapUnordered<I, T>;
    };
    (@option $own:expr) => {
        fn chunk_size(&self, items: usize) -> Self::Call<'_> {
            $own(self).chunk_size(items)
        }
        fn fail_fast(&self) -> Self::Call<'_> {
            $own(self).fail_fast()
        }
        fn timeout(&self, timeout: Duration) -> Self::Call<'_> {
            $own(self).timeout(timeout)
        }
        fn retries(&self, times: u32) -> Self::Call<'_> {
            $own(self).retries(times)
        }
        fn window(&self, items: usize) -> Self::Call<'_> {
            $own(self).window(items)
        }
        fn label<'p>(&'p self, label: &'p str) -> Self::Call<'p> {
            $own(self).label(label)
        }
    };
    (@call $own:expr) => {
        fn apply<T, O, M>(&self, args: T, f: T::Fp<O>) -> Result<O::Value, TaskError>
        where
            T: Args + Data + Send,
            O: Outcome<M, Value: Send>,
            M: 'static,
        {
            $own(self).apply(args, f)
        }

        fn apply_async<T, O, M>(&self, args: T, f: T::Fp<O>) -> Self::Handle<O::Value>
        where
            T: Args + Data + Send,
            O: Outcome<M, Value: Send>,
            M: 'static,
        {
            $own(self).apply_async(args, f)
        }

        fn map<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Result<Vec<O::Value>, TaskError>
        where
            I: IntoIterator<Item = A>,
            A: Data + Send,
            O: Outcome<M, Value: Send>,
            M: 'static,
        {
            $own(self).map(items, f)
        }

        fn map_results<I, A, O, M>(
            &self,
            items: I,
            f: fn(A) -> O,
        ) -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
        where
            I: IntoIterator<Item = A>,
            A: Data + Send,
            O: Outcome<M, Value: Send>,
            M: 'static,
        {
            $own(self).map_results(items, f)
        }

        fn starmap<I, T, O, M>(&self, items: I, f: T::Fp<O>) -> Result<Vec<O::Value>, TaskError>
        where
            I: IntoIterator<Item = T>,
            T: Args + Data + Send,
            O: Outcome<M, Value: Send>,
            M: 'static,
        {
            $own(self).starmap(items, f)
        }

        fn map_chunks<I, A, O, M>(&self, items: I, f: fn(Vec<A>) -> O) -> Result<Vec<O::Value>, TaskError>
        where
            I: IntoIterator<Item = A>,
            A: Data + Send,
            O: Outcome<M, Value: Send>,
            M: 'static,
        {
            $own(self).map_chunks(items, f)
        }

        fn fold<I, A, B, O, M>(
            &self,
            items: I,
            start: B,
            step: fn(B, A) -> O,
            combine: impl FnMut(B, B) -> B,
        ) -> Result<B, TaskError>
        where
            I: IntoIterator<Item = A>,
            A: Data + Send,
            B: Data + Clone + Send,
            O: Outcome<M, Value = B>,
            M: 'static,
        {
            $own(self).fold(items, start, step, combine)
        }

        fn reduce<I, A>(&self, items: I, f: fn(A, A) -> A) -> Result<Option<A>, TaskError>
        where
            I: IntoIterator<Item = A>,
            A: Data + Send,
        {
            $own(self).reduce(items, f)
        }

        fn imap<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Self::Imap<I::IntoIter, O::Value>
        where
            I: IntoIterator<Item = A>,
            A: Data + Send,
            O: Outcome<M, Value: Send>,
            M: 'static,
        {
            $own(self).imap(items, f)
        }

        fn imap_unordered<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Self::ImapUnordered<I::IntoIter, O::Value>
        where
            I: IntoIterator<Item = A>,
            A: Data + Send,
            O: Outcome<M, Value: Send>,
            M: 'static,
        {
            $own(self).imap_unordered(items, f)
        }
    };
}
#[cfg(feature = "threads")]
pub(crate) use pass_on;

impl sealed::Workers for Pool {}

impl Workers for Pool {
    type Call<'p> = Call<'p>;
    pass_on!(@types);
    pass_on!(@option Pool::call);
    pass_on!(@call Pool::call);
}

impl sealed::Workers for Call<'_> {}

impl<'c> Workers for Call<'c> {
    type Call<'p>
        = Call<'p>
    where
        'c: 'p;
    pass_on!(@types);
    pass_on!(@option Call::clone);
    pass_on!(@call Call::clone);
}
