//! A pool of threads with the calls of a pool of processes, on rayon-core. With the feature `threads` only.
//!
//! Tasks are the same `fn` pointers, and values are moved instead of encoded. A panic is an error of its item, as in a
//! process. What needs a process is refused: see [`ThreadPool`].

mod build;
mod handle;
mod pull;
mod team;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::handle::Slot;
pub use self::handle::ThreadResult;
use self::pull::Order;
pub use self::pull::ThreadImap;
use self::pull::Work;
use self::pull::refused;
use self::team::Team;
use self::team::run_task;
use crate::api::chunks::Chunks;
use crate::api::prepare::Options;
use crate::api::reductions::combine_some;
use crate::api::workers::Workers;
use crate::api::workers::pass_on;
use crate::api::workers::sealed;
use crate::error::Label;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::work::task::Args;
use crate::work::task::Data;
use crate::work::task::Fallible;
use crate::work::task::Outcome;
use crate::work::task::Plain;

/// How many items of a `map` are ahead of the results, for each thread.
const MAP_AHEAD: usize = 64;
/// How many items of an `imap`.
const IMAP_AHEAD: usize = 2;

/// A pool of threads of this process, with the calls of a [`Pool`](crate::Pool): [`Workers`] has them.
///
/// For work that is safe in threads, where a process is not worth its price: an item takes well under a microsecond more than
/// the function, and values are not copied. Made by [`PoolBuilder::build_threads`](crate::PoolBuilder::build_threads).
///
/// What threads cannot do is refused with [`PoolError::Unsupported`]: a [`timeout`](Workers::timeout) and
/// [`retries`](Workers::retries) by the call, limits, recycling and everything else that is a setting of processes by the
/// builder. A task that crashes, exits or hangs does that to this process. A dropped pool lets running tasks end; what has
/// not begun does not run, and resolves to [`TaskError::Terminated`].
///
/// A task may wait for others of its own pool: its thread runs other tasks meanwhile.
///
/// Named `ThreadPool` in CPython's `multiprocessing.pool`.
///
/// # Examples
///
/// ```
/// use procpool::{Pool, TaskError, Workers};
///
/// fn squares(workers: &impl Workers) -> Result<Vec<u64>, TaskError> {
///     workers.map(0..4u64, |x| x * x)
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let processes = Pool::builder().processes(2);
///     let threads = Pool::builder().processes(2).build_threads()?;
///     assert_eq!(squares(&threads)?, squares(&processes.build()?)?);
///     Ok(())
/// }
/// ```
pub struct ThreadPool {
    team: Arc<Team>,
}

/// The options of one call in threads: [`Workers`] has its methods.
#[derive(Clone, Copy)]
#[must_use = "a view does nothing until it is called"]
pub struct ThreadCall<'p> {
    team: &'p Arc<Team>,
    options: Options<'p>,
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool").field("processes", &self.team.size).finish_non_exhaustive()
    }
}

impl fmt::Debug for ThreadCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadCall").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ThreadPool {
    /// Starts the threads; see [`PoolBuilder::build_threads`](crate::PoolBuilder::build_threads).
    pub(crate) fn start(
        size: usize,
        name: &str,
        begin: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Result<Self, PoolError> {
        Ok(Self { team: Arc::new(Team::start(size, name, begin)?) })
    }

    /// How many threads the pool has.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.team.size
    }

    /// Takes no more tasks. Those that were accepted run. See [`Pool::close`](crate::Pool::close).
    pub fn close(&self) {
        self.team.close();
    }

    /// Waits until every task and every thread has ended. See [`Pool::join`](crate::Pool::join).
    ///
    /// # Errors
    ///
    /// - [`PoolError::StillRunning`]: the pool was not closed.
    /// - [`PoolError::WouldDeadlock`]: this is a task of the same pool, for which `join` would wait.
    pub fn join(&self) -> Result<(), PoolError> {
        self.team.join()
    }

    fn call(&self) -> ThreadCall<'_> {
        ThreadCall { team: &self.team, options: Options::default() }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.team.end();
    }
}

impl ThreadCall<'_> {
    /// Checks the options.
    ///
    /// # Errors
    ///
    /// One makes no sense, or is nothing that threads can do.
    fn check(&self) -> Result<Label, TaskError> {
        let unsupported = |option| Err(PoolError::Unsupported { option, by: "threads" });
        let supported = match self.options {
            Options { timeout: Some(_), .. } => unsupported("timeout"),
            Options { retries: 1.., .. } => unsupported("retries"),
            _ => Ok(()),
        };
        let open = || self.team.refusal().map_or(Ok(()), Err);
        self.options.check().and(supported).and_then(|()| open()).map_err(refused)?;
        Ok(Label::new(self.options.label))
    }

    fn work<A, O, M>(
        &self,
        ahead: usize,
        f: impl Fn(A) -> O + Send + Sync + 'static,
    ) -> Result<Work<A, O::Value>, TaskError>
    where
        O: Outcome<M>,
        M: 'static,
    {
        let label = self.check()?;
        let window = self.options.window.unwrap_or(ahead.saturating_mul(self.team.size));
        let task = Arc::new(move |item| run_task::<O, M>(|| f(item)));
        Ok(Work { team: Arc::clone(self.team), label, window, task })
    }

    fn pull<I, O, M>(
        &self,
        items: I,
        ahead: usize,
        order: Order,
        f: impl Fn(I::Item) -> O + Send + Sync + 'static,
    ) -> ThreadImap<I, O::Value>
    where
        I: Iterator,
        O: Outcome<M>,
        M: 'static,
    {
        ThreadImap::new(items, self.work::<I::Item, O, M>(ahead, f), order)
    }

    /// The results of all items, in their order. With `fail_fast`, items that have not begun are skipped after an error.
    fn collect<I, O, M>(
        &self,
        items: I,
        f: impl Fn(I::Item) -> O + Send + Sync + 'static,
    ) -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
    where
        I: Iterator<Item: Send + 'static>,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        let work = self.work::<I::Item, O, M>(MAP_AHEAD, f)?;
        let mut results: Vec<Option<Result<O::Value, TaskError>>> = Vec::new();
        let mut pull = ThreadImap::new(items, Ok(work), Order::Completion);
        while let Some((index, result)) = pull.next_indexed() {
            if self.options.fail_fast && result.is_err() {
                pull.skip_rest();
            }
            let index = usize::try_from(index).expect("a position in a vector");
            results.resize_with(results.len().max(index + 1), || None);
            results[index] = Some(result);
        }
        Ok(results.into_iter().map(|result| result.expect("every item has a result")).collect())
    }

    /// The values of all items, or the error that a `map` returns.
    fn values<I, O, M>(
        &self,
        items: I,
        f: impl Fn(I::Item) -> O + Send + Sync + 'static,
    ) -> Result<Vec<O::Value>, TaskError>
    where
        I: Iterator<Item: Send + 'static>,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        let results = self.collect::<I, O, M>(items, f)?;
        // With `fail_fast` the first error in time counts, which is the only one that is not an item that was skipped.
        let is_cause =
            |result: &Result<_, TaskError>| matches!(result, Err(error) if !matches!(error, TaskError::Skipped));
        match results.iter().position(is_cause) {
            Some(at) => Err(results.into_iter().nth(at).and_then(Result::err).expect("there is an error")),
            None => results.into_iter().collect(),
        }
    }

    /// The chunks of a call, and the call without the option that sets their size.
    fn in_chunks<I: Iterator>(&self, items: I) -> (Self, Chunks<I>) {
        let mut call = *self;
        let size = call.options.chunk_size.take().unwrap_or_else(|| Chunks::size_for(&items));
        (call, Chunks::new(items, size.max(1)))
    }

    fn combine<I, O, M>(
        &self,
        items: I,
        f: impl Fn(Vec<I::Item>) -> O + Send + Sync + 'static,
        combine: impl FnMut(O::Value, O::Value) -> O::Value,
    ) -> Result<Option<O::Value>, TaskError>
    where
        I: Iterator<Item: Send + 'static>,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        self.check()?;
        let (call, chunks) = self.in_chunks(items);
        let mut error = None;
        let results = call.pull::<_, O, M>(chunks, MAP_AHEAD, Order::Input, f);
        let reduced = results.map_while(|result| result.map_err(|failed| error = Some(failed)).ok()).reduce(combine);
        error.map_or(Ok(reduced), Err)
    }

    fn set(mut self, set: impl FnOnce(&mut Options<'_>)) -> Self {
        set(&mut self.options);
        self
    }
}

impl sealed::Workers for ThreadPool {}
impl sealed::Workers for ThreadCall<'_> {}

macro_rules! types {
    () => {
        type Handle<T: Data + Send> = ThreadResult<T>;
        type Imap<I: Iterator<Item: Data + Send>, T: Data + Send> = ThreadImap<I, T>;
        type ImapUnordered<I: Iterator<Item: Data + Send>, T: Data + Send> = ThreadImap<I, T>;
    };
}

/// The options of a call, each with what `$call` makes of `&self`.
macro_rules! options {
    ($call:expr) => {
        fn chunk_size(&self, items: usize) -> Self::Call<'_> {
            $call(self).set(|options| options.chunk_size = Some(items))
        }

        fn fail_fast(&self) -> Self::Call<'_> {
            $call(self).set(|options| options.fail_fast = true)
        }

        fn timeout(&self, timeout: Duration) -> Self::Call<'_> {
            $call(self).set(|options| options.timeout = Some(timeout))
        }

        fn retries(&self, times: u32) -> Self::Call<'_> {
            $call(self).set(|options| options.retries = times)
        }

        fn window(&self, items: usize) -> Self::Call<'_> {
            $call(self).set(|options| options.window = Some(items))
        }

        fn label<'p>(&'p self, label: &'p str) -> Self::Call<'p> {
            let mut call: ThreadCall<'p> = $call(self);
            call.options.label = Some(label);
            call
        }
    };
}

impl Workers for ThreadPool {
    type Call<'p> = ThreadCall<'p>;
    types!();
    options!(ThreadPool::call);
    pass_on!(@call ThreadPool::call);
}

impl<'c> Workers for ThreadCall<'c> {
    type Call<'p>
        = ThreadCall<'p>
    where
        'c: 'p;
    types!();

    options!(ThreadCall::clone);

    fn apply<T, O, M>(&self, args: T, f: T::Fp<O>) -> Result<O::Value, TaskError>
    where
        T: Args + Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        crate::api::workers::Handle::into_value(self.apply_async(args, f))
    }

    fn apply_async<T, O, M>(&self, args: T, f: T::Fp<O>) -> ThreadResult<O::Value>
    where
        T: Args + Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        let slot = Slot::new();
        let there = Arc::clone(&slot);
        let submitted = self.check().and_then(|label| {
            let task = move |may_run| {
                let result = if may_run { run_task::<O, M>(|| args.call(f)) } else { Err(TaskError::Terminated) };
                there.fill(result.map_err(|error| error.of(label.call())));
            };
            self.team.run(task).map_err(refused)
        });
        match submitted {
            Ok(()) => ThreadResult::new(slot, Some(Arc::clone(self.team))),
            Err(error) => {
                slot.fill(Err(error));
                ThreadResult::new(slot, None)
            }
        }
    }

    fn map<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Result<Vec<O::Value>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        self.values::<_, O, M>(items.into_iter(), f)
    }

    fn map_results<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        self.collect::<_, O, M>(items.into_iter(), f)
    }

    fn starmap<I, T, O, M>(&self, items: I, f: T::Fp<O>) -> Result<Vec<O::Value>, TaskError>
    where
        I: IntoIterator<Item = T>,
        T: Args + Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        self.values::<_, O, M>(items.into_iter(), move |args: T| args.call(f))
    }

    fn map_chunks<I, A, O, M>(&self, items: I, f: fn(Vec<A>) -> O) -> Result<Vec<O::Value>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        self.check()?;
        let (call, chunks) = self.in_chunks(items.into_iter());
        call.values::<_, O, M>(chunks, f)
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
        // Each chunk begins with a clone that was made here: what is cloned need not be `Sync`.
        let chunks_start = Mutex::new(start.clone());
        let fold = move |items: Vec<A>| -> anyhow::Result<B> {
            let start = chunks_start.lock().clone();
            let folded = items.into_iter().try_fold(start, |folded, item| step(folded, item).into_value());
            folded.map_err(anyhow::Error::msg)
        };
        Ok(self.combine::<_, anyhow::Result<B>, Fallible>(items.into_iter(), fold, combine)?.unwrap_or(start))
    }

    fn reduce<I, A>(&self, items: I, f: fn(A, A) -> A) -> Result<Option<A>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
    {
        let reduce = move |items: Vec<A>| items.into_iter().reduce(f);
        Ok(self.combine::<_, Option<A>, Plain>(items.into_iter(), reduce, combine_some(f))?.flatten())
    }

    fn imap<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> ThreadImap<I::IntoIter, O::Value>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        self.pull::<_, O, M>(items.into_iter(), IMAP_AHEAD, Order::Input, f)
    }

    fn imap_unordered<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> ThreadImap<I::IntoIter, O::Value>
    where
        I: IntoIterator<Item = A>,
        A: Data + Send,
        O: Outcome<M, Value: Send>,
        M: 'static,
    {
        self.pull::<_, O, M>(items.into_iter(), IMAP_AHEAD, Order::Completion, f)
    }
}
