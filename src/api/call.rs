//! The options of one call, as views with the same methods as the pool; and the way all those methods go.

use std::sync::Arc;
use std::time::Duration;

use crate::api::imap::Imap;
use crate::api::imap::ImapUnordered;
use crate::api::map;
use crate::api::map::Stop;
use crate::api::prepare::Options;
use crate::api::prepare::Prepared;
use crate::api::results::AsyncResult;
use crate::api::results::read_all;
use crate::api::results::read_one;
use crate::driver::Backend;
use crate::driver::IfClosed;
use crate::driver::More;
use crate::error::TaskError;
use crate::work::batch::ChunkSize;
use crate::work::function::LocalFunction;
use crate::work::function::Map;
use crate::work::function::MapWith;
use crate::work::function::Star;
use crate::work::function::StarWith;
use crate::work::jobs::Log;
use crate::work::task::Args;
use crate::work::task::Data;
use crate::work::task::Outcome;

/// Everything of a call but its items: the same for calls with and without a context.
struct Request<'c, C> {
    backend: &'c Arc<dyn Backend>,
    options: Options,
    function: LocalFunction,
    context: Option<&'c C>,
}

impl<C: Data> Request<'_, C> {
    fn prepare(&self, default_chunk: ChunkSize) -> Result<Prepared, TaskError> {
        Prepared::new(self.backend, self.options, default_chunk, self.function, self.context)
    }

    fn apply<T: Data, V: Data>(&self, args: &T) -> Result<V, TaskError> {
        let (job, mut encoder) = self.prepare(ChunkSize::Fixed(1))?.open(IfClosed::Refuse)?;
        // From here on, its drop abandons the job.
        let handle = AsyncResult::new(Arc::clone(self.backend), job, read_one::<V>);
        encoder.push(args);
        self.backend.submit(job, encoder.take(), More::Never)?;
        let log = self.backend.wait(job, None)?;
        drop(handle);
        read_one(&log.expect("without a deadline there is a result"))
    }

    fn apply_async<T: Data, V: Data>(&self, args: T) -> AsyncResult<V> {
        self.submit_all(std::iter::once(args), ChunkSize::Fixed(1), read_one)
    }

    fn map_async<A: Data, V: Data>(&self, items: impl Iterator<Item = A>) -> AsyncResult<Vec<V>> {
        self.submit_all(items, ChunkSize::Adaptive, read_all)
    }

    fn submit_all<A: Data, R>(
        &self,
        items: impl Iterator<Item = A>,
        default_chunk: ChunkSize,
        read: fn(&Log) -> Result<R, TaskError>,
    ) -> AsyncResult<R> {
        let backend = Arc::clone(self.backend);
        match self.prepare(default_chunk).and_then(|prepared| map::submit_all(prepared, items)) {
            Ok(job) => AsyncResult::new(backend, job, read),
            Err(error) => AsyncResult::refused(backend, error, read),
        }
    }

    fn map<A: Data, V: Data>(&self, items: impl Iterator<Item = A>) -> Result<Vec<V>, TaskError> {
        let stop = if self.options.fail_fast { Stop::AtError } else { Stop::Never };
        map::values(self.prepare(ChunkSize::Adaptive)?, items, stop)
    }

    fn map_results<A: Data, V: Data>(
        &self,
        items: impl Iterator<Item = A>,
    ) -> Result<Vec<Result<V, TaskError>>, TaskError> {
        map::results(self.prepare(ChunkSize::Adaptive)?, items)
    }
}

/// Options for one call without a context: made by [`Pool::chunk_size`](crate::Pool::chunk_size),
/// [`Pool::fail_fast`](crate::Pool::fail_fast), [`Pool::timeout`](crate::Pool::timeout) and
/// [`Pool::retries`](crate::Pool::retries), with the same methods as the pool.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// let squares = pool.chunk_size(100).fail_fast().map(0..10_000u64, |x| x * x)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
#[must_use = "a view does nothing until it is called"]
pub struct Call<'p> {
    pub(super) backend: &'p Arc<dyn Backend>,
    pub(super) options: Options,
}

/// Options for one call with a context: made by [`Pool::with`](crate::Pool::with), with the same methods as the pool,
/// for functions that take the context by reference before their arguments.
#[must_use = "a view does nothing until it is called"]
pub struct CallWith<'p, 'c, C> {
    call: Call<'p>,
    context: &'c C,
}

impl<C> Clone for CallWith<'_, '_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for CallWith<'_, '_, C> {}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<C> std::fmt::Debug for CallWith<'_, '_, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallWith").field("options", &self.call.options).finish_non_exhaustive()
    }
}

impl<'p> Call<'p> {
    /// Gives the call a context; see [`Pool::with`](crate::Pool::with).
    pub fn with<C: Data>(self, context: &C) -> CallWith<'p, '_, C> {
        CallWith { call: self, context }
    }

    fn request(&self, function: LocalFunction) -> Request<'_, ()> {
        Request { backend: self.backend, options: self.options, function, context: None }
    }
}

impl<C: Data> CallWith<'_, '_, C> {
    fn request(&self, function: LocalFunction) -> Request<'_, C> {
        Request { backend: self.call.backend, options: self.call.options, function, context: Some(self.context) }
    }
}

/// The methods that both views have; they differ in the type of the function only.
macro_rules! calls {
    ($item:ty, $item_shape:ty, $args:ty, $args_shape:ty) => {
        /// Runs `f` on `args` and waits; see [`Pool::apply`](crate::Pool::apply).
        ///
        /// # Errors
        ///
        /// Why there is no value.
        pub fn apply<T, O, M>(&self, args: T, f: $args) -> Result<O::Value, TaskError>
        where
            T: Args + Data,
            O: Outcome<M>,
            M: 'static,
        {
            self.request(LocalFunction::task::<$args_shape, M>(f)).apply(&args)
        }

        /// Runs `f` on `args`; see [`Pool::apply_async`](crate::Pool::apply_async).
        pub fn apply_async<T, O, M>(&self, args: T, f: $args) -> AsyncResult<O::Value>
        where
            T: Args + Data,
            O: Outcome<M>,
            M: 'static,
        {
            self.request(LocalFunction::task::<$args_shape, M>(f)).apply_async(args)
        }

        /// Runs `f` on every item and waits; see [`Pool::map`](crate::Pool::map).
        ///
        /// # Errors
        ///
        /// The error of the lowest index; of a fail-fast call, the first that arrived.
        pub fn map<I, A, O, M>(&self, items: I, f: $item) -> Result<Vec<O::Value>, TaskError>
        where
            I: IntoIterator<Item = A>,
            A: Data,
            O: Outcome<M>,
            M: 'static,
        {
            self.request(LocalFunction::task::<$item_shape, M>(f)).map(items.into_iter())
        }

        /// Runs `f` on every item and waits for each outcome; see [`Pool::map_results`](crate::Pool::map_results).
        ///
        /// # Errors
        ///
        /// The call was refused as a whole, or the pool ended under it.
        pub fn map_results<I, A, O, M>(&self, items: I, f: $item) -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
        where
            I: IntoIterator<Item = A>,
            A: Data,
            O: Outcome<M>,
            M: 'static,
        {
            self.request(LocalFunction::task::<$item_shape, M>(f)).map_results(items.into_iter())
        }

        /// Runs `f` on every item; see [`Pool::map_async`](crate::Pool::map_async).
        pub fn map_async<I, A, O, M>(&self, items: I, f: $item) -> AsyncResult<Vec<O::Value>>
        where
            I: IntoIterator<Item = A>,
            A: Data,
            O: Outcome<M>,
            M: 'static,
        {
            self.request(LocalFunction::task::<$item_shape, M>(f)).map_async(items.into_iter())
        }

        /// Runs `f` on every tuple of arguments and waits; see [`Pool::starmap`](crate::Pool::starmap).
        ///
        /// # Errors
        ///
        /// The error of the lowest index; of a fail-fast call, the first that arrived.
        pub fn starmap<I, T, O, M>(&self, items: I, f: $args) -> Result<Vec<O::Value>, TaskError>
        where
            I: IntoIterator<Item = T>,
            T: Args + Data,
            O: Outcome<M>,
            M: 'static,
        {
            self.request(LocalFunction::task::<$args_shape, M>(f)).map(items.into_iter())
        }

        /// Runs `f` on every tuple of arguments and waits for each outcome; see
        /// [`Pool::starmap_results`](crate::Pool::starmap_results).
        ///
        /// # Errors
        ///
        /// The call was refused as a whole, or the pool ended under it.
        pub fn starmap_results<I, T, O, M>(
            &self,
            items: I,
            f: $args,
        ) -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
        where
            I: IntoIterator<Item = T>,
            T: Args + Data,
            O: Outcome<M>,
            M: 'static,
        {
            self.request(LocalFunction::task::<$args_shape, M>(f)).map_results(items.into_iter())
        }

        /// Runs `f` on every tuple of arguments; see [`Pool::starmap_async`](crate::Pool::starmap_async).
        pub fn starmap_async<I, T, O, M>(&self, items: I, f: $args) -> AsyncResult<Vec<O::Value>>
        where
            I: IntoIterator<Item = T>,
            T: Args + Data,
            O: Outcome<M>,
            M: 'static,
        {
            self.request(LocalFunction::task::<$args_shape, M>(f)).map_async(items.into_iter())
        }

        /// Results in the order of the input, as they come; see [`Pool::imap`](crate::Pool::imap).
        pub fn imap<I, A, O, M>(&self, items: I, f: $item) -> Imap<I::IntoIter, O::Value>
        where
            I: IntoIterator<Item = A>,
            A: Data,
            O: Outcome<M>,
            M: 'static,
        {
            let request = self.request(LocalFunction::task::<$item_shape, M>(f));
            Imap::new(Arc::clone(request.backend), request.prepare(ChunkSize::Fixed(1)), items.into_iter())
        }

        /// Results as they come, in any order; see [`Pool::imap_unordered`](crate::Pool::imap_unordered).
        pub fn imap_unordered<I, A, O, M>(&self, items: I, f: $item) -> ImapUnordered<I::IntoIter, O::Value>
        where
            I: IntoIterator<Item = A>,
            A: Data,
            O: Outcome<M>,
            M: 'static,
        {
            let request = self.request(LocalFunction::task::<$item_shape, M>(f));
            ImapUnordered::new(Arc::clone(request.backend), request.prepare(ChunkSize::Fixed(1)), items.into_iter())
        }
    };
}

impl Call<'_> {
    calls!(fn(A) -> O, Map<A, O>, T::Fp<O>, Star<T, O>);
}

impl<C: Data> CallWith<'_, '_, C> {
    calls!(fn(&C, A) -> O, MapWith<C, A, O>, T::FpWith<C, O>, StarWith<C, T, O>);
}

/// The options themselves, for both views.
macro_rules! options {
    ($self:ident, $options:expr) => {
        /// Items travel `items` at a time; see [`Pool::chunk_size`](crate::Pool::chunk_size).
        pub fn chunk_size(mut $self, items: usize) -> Self {
            $options.chunk_size = Some(items);
            $self
        }

        /// Each item may run for so long; see [`Pool::timeout`](crate::Pool::timeout).
        pub fn timeout(mut $self, timeout: Duration) -> Self {
            $options.timeout = Some(timeout);
            $self
        }

        /// Items that are lost with their workers run again, so many times; see
        /// [`Pool::retries`](crate::Pool::retries).
        pub fn retries(mut $self, times: u32) -> Self {
            $options.retries = times;
            $self
        }

        /// The first error ends the call; see [`Pool::fail_fast`](crate::Pool::fail_fast).
        pub fn fail_fast(mut $self) -> Self {
            $options.fail_fast = true;
            $self
        }
    };
}

impl Call<'_> {
    options!(self, self.options);
}

impl<C> CallWith<'_, '_, C> {
    options!(self, self.call.options);
}
