//! Handles, and decoding: outcomes become values here, on the thread that asks for them.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use crate::driver::Backend;
use crate::driver::Leftover;
use crate::error::Label;
use crate::error::Origin;
use crate::error::Side;
use crate::error::TaskError;
use crate::ipc::wait::Bell;
use crate::ipc::wait::Turn;
use crate::ipc::wait::Waitable;
use crate::transport::frame::ItemReader;
use crate::values::attach::Source;
use crate::values::codec;
use crate::work::batch::JobId;
use crate::work::jobs::Callback;
use crate::work::jobs::Log;
use crate::work::jobs::SettledRef;
use crate::work::task::Data;

/// Decodes the outcomes and calls `f` with each in order, until it returns an error. `origin` says where an outcome came
/// from that is an error, by how many came before it.
pub(super) fn read_outcomes<T: Data, E>(
    outcomes: SettledRef<'_>,
    origin: impl Fn(u64) -> Origin,
    mut f: impl FnMut(Result<T, TaskError>) -> Result<(), E>,
) -> Result<(), E> {
    let undecoded = |message, origin| TaskError::Decode { side: Side::Result, message, origin };
    match outcomes {
        SettledRef::Values { items, bytes } => {
            let values = ItemReader(bytes).take(items as usize);
            let values = values.map(|value| value.expect("lengths were checked when the values came"));
            let mut before = 0;
            codec::decode_each(values, |value: Result<T, String>| {
                let value = value.map_err(|message| undecoded(message, origin(before)));
                before += 1;
                f(value)
            })
        }
        SettledRef::Parcel(parcel) => {
            f(codec::decode_parcel(parcel, Source::Other).map_err(|message| undecoded(message, origin(0))))
        }
        SettledRef::Error(error) => f(Err(error.clone().of(origin(0)))),
    }
}

/// How the finished log of a call becomes its result.
pub(super) struct Reader<T> {
    read: fn(&Log, &Label) -> Result<T, TaskError>,
    label: Label,
}

impl<T: Data> Reader<T> {
    /// Of a call that has one item.
    pub(super) fn of_one(label: Label) -> Self {
        Self { read: read_one, label }
    }
}

impl<T: Data> Reader<Vec<T>> {
    /// Of a call that has any number of items.
    pub(super) fn of_all(label: Label) -> Self {
        Self { read: read_all, label }
    }
}

impl<T> Reader<T> {
    pub(super) fn read(&self, log: &Log) -> Result<T, TaskError> {
        (self.read)(log, &self.label)
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self { read: self.read, label: self.label.clone() }
    }
}

/// The value of a job of one item.
fn read_one<T: Data>(log: &Log, label: &Label) -> Result<T, TaskError> {
    // The first outcome ends the walk, so it is returned as the walk's error.
    let read = log.outcomes().try_for_each(|(_, outcomes)| read_outcomes(outcomes, |_| label.call(), Err));
    match (read, &log.rest) {
        (Err(result), _) => result,
        (Ok(()), Some(error)) => Err(TaskError::clone(error)),
        (Ok(()), None) => unreachable!("a finished log has every outcome"),
    }
}

/// The values of a job in the order of its input, or the error of the lowest index.
fn read_all<T: Data>(log: &Log, label: &Label) -> Result<Vec<T>, TaskError> {
    let mut values = Vec::new();
    let mut skipped = None;
    let mut next = 0;
    let read = log.outcomes_in_order().into_iter().try_for_each(|(first, outcomes)| {
        // A gap is there because the pool has ended. What follows it does not count.
        if first != next {
            return Ok(());
        }
        read_outcomes(
            outcomes,
            |before| label.item(first + before),
            |outcome| {
                next += 1;
                match outcome {
                    Ok(value) => values.push(value),
                    // Skipped because of an error with a higher index, which is the one to return.
                    Err(TaskError::Skipped) => skipped = Some(TaskError::Skipped),
                    Err(error) => return Err(error),
                }
                Ok(())
            },
        )
    });
    match (read, log.rest.as_deref().cloned().or(skipped)) {
        (Err(error), _) | (Ok(()), Some(error)) => Err(error),
        (Ok(()), None) => Ok(values),
    }
}

enum State {
    /// The job runs, or has run, in the pool.
    Job(JobId),
    /// No job was opened. The log holds the reason.
    Refused(Arc<Log>),
}

/// The handle of a call that runs while the caller does something else.
///
/// The result can be fetched any number of times ([`get`](Self::get) takes `&self`), from any thread, also after the
/// pool is gone. Dropping the handle drops the result, not the work: what was submitted runs, and callbacks are
/// called.
///
/// It is also a [`Future`], and needs no particular runtime.
///
/// Named `AsyncResult` (`ApplyResult`, `MapResult`) in CPython.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// let handle = pool.apply_async((6u32, 7u32), |a, b| a * b);
/// // Something else.
/// assert_eq!(handle.get()?, 42);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "ApplyResult")]
#[doc(alias = "MapResult")]
#[doc(alias = "Future")]
#[doc(alias = "JoinHandle")]
pub struct AsyncResult<T> {
    backend: Arc<dyn Backend>,
    state: State,
    reader: Reader<T>,
}

impl<T> AsyncResult<T> {
    pub(super) fn new(backend: Arc<dyn Backend>, job: JobId, reader: Reader<T>) -> Self {
        Self { backend, state: State::Job(job), reader }
    }

    pub(super) fn refused(backend: Arc<dyn Backend>, error: TaskError, reader: Reader<T>) -> Self {
        let log = Log::refused(error);
        Self { backend, state: State::Refused(Arc::new(log)), reader }
    }

    /// Waits for the result.
    ///
    /// It may be called again, and returns the same. It may be called from a callback of the same pool, since the
    /// result whose callback runs is there already. Named `get` in CPython.
    ///
    /// # Errors
    ///
    /// A handle always resolves. The errors are those of the call that made it, [`Pool::apply`](crate::Pool::apply) or
    /// [`Pool::map`](crate::Pool::map); for a `map_async`, the error of the lowest index. Besides:
    ///
    /// - [`TaskError::Cancelled`]: the handle was [cancelled](Self::cancel) before there was a result.
    /// - [`TaskError::Terminated`]: the pool was terminated or dropped before there was a result.
    /// - [`TaskError::Refused`]: the pool did not take the task, or this process is a forked copy of the one that made
    ///   the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let handle = pool.apply_async((6u32, 7u32), |a, b| a * b);
    /// assert_eq!(handle.get()?, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "result")]
    #[doc(alias = "exception")]
    pub fn get(&self) -> Result<T, TaskError> {
        match self.log_by(None)? {
            Some(log) => self.reader.read(&log),
            None => unreachable!("without a deadline there is a result"),
        }
    }

    /// Waits for the result for at most `timeout`; `Ok(None)` means *not yet*.
    ///
    /// The task is not cancelled, and the result may be asked for again. A `timeout` of zero does not wait. Named
    /// `get(timeout)` in CPython, which raises `TimeoutError`.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use std::time::Duration;
    ///
    /// let handle = pool.map_async(0..1000u64, |x| x * x);
    /// match handle.get_timeout(Duration::from_millis(200))? {
    ///     Some(squares) => println!("{} squares", squares.len()),
    ///     None => println!("still working"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_timeout(&self, timeout: Duration) -> Result<Option<T>, TaskError> {
        match self.log_by(Instant::now().checked_add(timeout))? {
            Some(log) => self.reader.read(&log).map(Some),
            None => Ok(None),
        }
    }

    /// As [`get`](Self::get), and drops what the handle keeps: the result can be fetched no more.
    ///
    /// A result that carries descriptors, an [`Fd`](crate::Fd) for instance, stays open in this process as long as its handle
    /// lives, because it may be fetched again. After this call only the value that it returns has them.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use std::io::Read;
    ///
    /// use procpool::Fd;
    ///
    /// fn announce(text: String) -> std::io::Result<std::io::PipeReader> {
    ///     let (reader, mut writer) = std::io::pipe()?;
    ///     std::thread::spawn(move || std::io::Write::write_all(&mut writer, text.as_bytes()));
    ///     Ok(reader)
    /// }
    ///
    /// let handle = pool.apply_async(("hello".to_owned(),), |text| anyhow::Ok(Fd::new(announce(text)?)));
    /// let mut reader = handle.into_value()?;
    /// let mut text = String::new();
    /// reader.read_to_string(&mut text)?;
    /// assert_eq!(text, "hello");
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_value(self) -> Result<T, TaskError> {
        let value = self.get();
        drop(self);
        value
    }

    /// Waits until there is a result, be it a value or an error.
    ///
    /// Named `wait` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let handle = pool.apply_async((1u32, 0u32), |a, b| a / b);
    /// handle.wait();
    /// assert!(handle.ready() && handle.get().is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait(&self) {
        // An error here is a result too; `get` returns it.
        drop(self.log_by(None));
    }

    /// Waits until there is a result, for at most `timeout`; returns whether there is.
    ///
    /// Named `wait(timeout)` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use std::time::Duration;
    ///
    /// let handle = pool.apply_async((6u32, 7u32), |a, b| a * b);
    /// while !handle.wait_timeout(Duration::from_millis(200)) {
    ///     println!("still working");
    /// }
    /// assert_eq!(handle.get()?, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.log_by(Instant::now().checked_add(timeout)).is_ok_and(|log| log.is_some())
    }

    /// Whether there is a result, so that [`get`](Self::get) would not wait.
    ///
    /// Named `ready` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let handle = pool.apply_async((6u32, 7u32), |a, b| a * b);
    /// handle.wait();
    /// assert!(handle.ready());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "done")]
    #[must_use]
    pub fn ready(&self) -> bool {
        self.wait_timeout(Duration::ZERO)
    }

    /// Whether the result is a value; `false` also while there is none yet.
    ///
    /// It decodes the value to find out. Named `successful` in CPython, which raises `ValueError` if there is no
    /// result yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let handle = pool.apply_async((1u32, 0u32), |a, b| a / b);
    /// handle.wait();
    /// assert!(!handle.successful());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn successful(&self) -> bool {
        self.log_by(Some(Instant::now())).is_ok_and(|log| log.is_some_and(|log| self.reader.read(&log).is_ok()))
    }

    /// Cancels the call: items that have not begun do not run, and a worker that runs one is killed and replaced.
    ///
    /// Returns whether the call was unfinished. Every item without an outcome gets [`TaskError::Cancelled`], so that
    /// the result of a `map_async` is that error. An outcome that was there before counts: after `cancel` the handle
    /// resolves soon, and [`get`](Self::get) says to what. Items of other calls are unaffected. It does not wait.
    ///
    /// [`timeout`](crate::Pool::timeout) does the same by itself to items that run for too long, and
    /// [`cancel_on_drop`](Self::cancel_on_drop) to a future that is dropped. Not in CPython; what `concurrent.futures`
    /// names `cancel` is [`cancel_pending`](Self::cancel_pending).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use procpool::TaskError;
    ///
    /// fn spin(_: u32) -> u32 {
    ///     loop {}
    /// }
    ///
    /// let handle = pool.map_async(0..10, spin);
    /// assert!(handle.cancel());
    /// assert!(matches!(handle.get(), Err(TaskError::Cancelled)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel(&self) -> bool {
        match &self.state {
            State::Refused(_) => false,
            State::Job(job) => self.backend.cancel(*job),
        }
    }

    /// Cancels what has not begun: those items do not run, and items that run go on to their end.
    ///
    /// Returns whether the whole call was cancelled: nothing of it has run or will run, and the result is
    /// [`TaskError::Cancelled`]. If part of a `map_async` has begun, the rest is cancelled and it returns `false`; the
    /// result is then the error of the lowest index. It does not wait.
    ///
    /// It is exact: an item that is cancelled has not begun and never will, and an item that has begun is never
    /// reported as cancelled. (An item that is run again after a [retry](crate::Pool::retries) has not begun until
    /// that try does.) Over sockets, an item has begun once its worker has read the chunk that it is in.
    ///
    /// Named `cancel` in CPython's `concurrent.futures`, which cannot cancel an item in its queue to the workers.
    /// [`cancel`](Self::cancel) also stops what runs.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(1)?;
    /// use procpool::TaskError;
    ///
    /// let first = pool.apply_async((100,), |ms| std::thread::sleep(std::time::Duration::from_millis(ms)));
    /// let second = pool.apply_async((1u32,), |x| x);
    /// if second.cancel_pending() {
    ///     assert!(matches!(second.get(), Err(TaskError::Cancelled)));
    /// } else {
    ///     assert_eq!(second.get()?, 1); // It had begun.
    /// }
    /// first.get()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel_pending(&self) -> bool {
        match &self.state {
            State::Refused(_) => false,
            State::Job(job) => self.backend.cancel_pending(*job),
        }
    }

    /// Whether a worker is running an item of the call.
    ///
    /// Of what is known here: a worker may have ended the item, or not quite begun it. `false` while all items wait,
    /// and once there is a result. Named `running` in CPython's `concurrent.futures`, where it is also true for items
    /// in the queue to the workers.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(1)?;
    /// fn spin(_: u8) {
    ///     loop {}
    /// }
    ///
    /// let handle = pool.apply_async((0,), spin);
    /// while !handle.is_running() {
    ///     std::thread::yield_now();
    /// }
    /// handle.cancel();
    /// handle.wait();
    /// assert!(!handle.is_running());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "running")]
    #[must_use]
    pub fn is_running(&self) -> bool {
        match &self.state {
            State::Refused(_) => false,
            State::Job(job) => self.backend.is_running(*job),
        }
    }

    /// Whether the result is [`TaskError::Cancelled`]; `false` also while there is none yet.
    ///
    /// Named `cancelled` in CPython's `concurrent.futures`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(1)?;
    /// fn spin(_: u8) {
    ///     loop {}
    /// }
    ///
    /// let handle = pool.apply_async((0,), spin);
    /// assert!(!handle.is_cancelled());
    /// handle.cancel();
    /// handle.wait();
    /// assert!(handle.is_cancelled());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "cancelled")]
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let Ok(Some(log)) = self.log_by(Some(Instant::now())) else { return false };
        // Decodes only where some item was cancelled: in a `map_async`, an error of a lower index comes before.
        log.has_cancelled() && matches!(self.reader.read(&log), Err(TaskError::Cancelled))
    }

    /// Calls `f` once, when there is a result, be it a value or an error; also if there is one already.
    ///
    /// No value is decoded. Everything else is as for [`on_success`](Self::on_success): `f` runs on the pool's callback
    /// thread, in the order in which callbacks were attached. Named `add_done_callback` in CPython's
    /// `concurrent.futures`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// let handle = pool.apply_async((6u32, 7u32), |a, b| a * b).on_done(move || sender.send("done").unwrap());
    /// assert_eq!(receiver.recv()?, "done");
    /// assert_eq!(handle.get()?, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "add_done_callback")]
    #[must_use = "the handle is returned; drop it if it is not needed"]
    pub fn on_done(self, f: impl FnOnce() + Send + 'static) -> Self {
        self.attach(Box::new(move |_| f()));
        self
    }

    /// The job and its backend; the log of a call that was refused.
    pub(super) fn place(&self) -> Result<(&Arc<dyn Backend>, JobId), &Log> {
        match &self.state {
            State::Refused(log) => Err(log),
            State::Job(job) => Ok((&self.backend, *job)),
        }
    }

    /// The finished log; `None` once the deadline has passed, never without one.
    fn log_by(&self, deadline: Option<Instant>) -> Result<Option<Arc<Log>>, TaskError> {
        match &self.state {
            State::Refused(log) => Ok(Some(Arc::clone(log))),
            State::Job(job) => Ok(self.backend.wait(*job, deadline)?),
        }
    }

    /// Calls the callback with the finished log: soon if the job is finished, otherwise when it is.
    fn attach(&self, callback: Callback) {
        match &self.state {
            State::Refused(log) => self.backend.call_back(callback, Arc::clone(log)),
            State::Job(job) => self.backend.on_finished(*job, callback),
        }
    }
}

impl<T: 'static> AsyncResult<T> {
    /// Calls `f` with the value, once, if the result is a value; also if it is there already.
    ///
    /// `f` runs on the pool's callback thread, after the result is there ([`ready`](Self::ready) is true, other
    /// threads may have seen it), and never under a lock of the pool. It may submit to the pool, wait for other jobs
    /// of it, and terminate it. A callback that blocks delays the callbacks behind it and nothing else. A panic in it
    /// is logged through `log`, and affects nothing else.
    ///
    /// The value is decoded anew for each callback and each `get`, so `T` need not be `Clone`.
    ///
    /// Named `callback` in CPython, where it is an argument of the call.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let handle = pool
    ///     .apply_async(("42".to_owned(),), |text: String| -> anyhow::Result<u32> { Ok(text.parse()?) })
    ///     .on_success(|number| println!("parsed {number}"))
    ///     .on_error(|error| println!("no number: {error}"));
    /// assert_eq!(handle.get()?, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the handle is returned; drop it if it is not needed"]
    pub fn on_success(self, f: impl FnOnce(T) + Send + 'static) -> Self {
        let reader = self.reader.clone();
        self.attach(Box::new(move |log| {
            if let Ok(value) = reader.read(log) {
                f(value);
            }
        }));
        self
    }

    /// Calls `f` with the error, once, if the result is an error; also if it is there already.
    ///
    /// Everything else is as for [`on_success`](Self::on_success). Named `error_callback` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let (sender, receiver) = std::sync::mpsc::channel();
    /// let handle = pool
    ///     .apply_async(("x".to_owned(),), |text: String| -> anyhow::Result<u32> { Ok(text.parse()?) })
    ///     .on_error(move |error| sender.send(error.to_string()).unwrap());
    /// assert!(receiver.recv()?.contains("invalid digit"));
    /// # drop(handle);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the handle is returned; drop it if it is not needed"]
    pub fn on_error(self, f: impl FnOnce(TaskError) + Send + 'static) -> Self {
        let reader = self.reader.clone();
        self.attach(Box::new(move |log| {
            if let Err(error) = reader.read(log) {
                f(error);
            }
        }));
        self
    }
}

impl<T> Future for AsyncResult<T> {
    type Output = Result<T, TaskError>;

    fn poll(self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let job = match &self.state {
            State::Refused(log) => return Poll::Ready(self.reader.read(log)),
            State::Job(job) => *job,
        };
        // Cloned before any lock is taken: a waker's `clone` is the user's code.
        match self.backend.poll(job, context.waker().clone()) {
            Ok(Some(log)) => Poll::Ready(self.reader.read(&log)),
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl<T> Waitable for AsyncResult<T> {
    fn turn<'a>(&'a self, bell: &Bell) -> io::Result<Turn<'a>> {
        let Ok((backend, job)) = self.place() else { return Ok(Turn::Come) };
        // A forked copy: the error is its result.
        let is_unfinished = matches!(backend.poll(job, bell.waker()?), Ok(None));
        Ok(if is_unfinished { Turn::AskWhenRung } else { Turn::Come })
    }

    fn leave(&self) {
        if let Ok((backend, job)) = self.place() {
            // In place of the waker, which would keep descriptors until the job has finished.
            drop(backend.poll(job, Waker::noop().clone()));
        }
    }
}

impl<T> Drop for AsyncResult<T> {
    fn drop(&mut self) {
        if let State::Job(job) = self.state {
            self.backend.abandon(job, Leftover::Run);
        }
    }
}

impl<T> fmt::Debug for AsyncResult<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult").finish_non_exhaustive()
    }
}
