//! A pool of worker *processes*: `multiprocessing.Pool` for Rust, with the start methods fork, spawn and forkserver.
//!
//! # When to use it
//!
//! For work that threads cannot be trusted with: code that may crash, leak, hang, or hold a global lock; code that must
//! be killed at a deadline; memory that must go back to the system. A worker that dies costs the one item it was
//! running. If the work is safe in threads, and its items are tiny, use rayon: here every argument and every result is
//! encoded and copied, but for what is in a [`SharedSlice`].
//!
//! Linux only: kernel 5.4 or newer, 64 bits, `/proc` mounted.
//!
//! # Hello world
//!
//! ```
//! use procpool::Pool;
//!
//! fn main() -> anyhow::Result<()> {
//!     procpool::init(); // First line of main: worker processes leave main here.
//!     let pool = Pool::new(2)?;
//!
//!     let nine: u64 = pool.apply((3u64, 2), u64::pow)?;
//!     let squares: Vec<u64> = pool.map(0..10, |x| x * x)?;
//!     let sums: Vec<u32> = pool.starmap([(1, 2), (3, 4)], |a, b| a + b)?;
//!     for cube in pool.imap_unordered(0u64.., |x| x * x * x).take(100) {
//!         println!("{}", cube?);
//!     }
//!     # assert_eq!((nine, squares[9], sums), (9, 81, vec![3, 7]));
//!
//!     pool.close(); // Dropping the pool instead would terminate it.
//!     pool.join()?;
//!     Ok(())
//! }
//! ```
//!
//! Spawn and forkserver run this program again, up to [`init`]. Test binaries under libtest have no `main` of yours and
//! use [`test_init!`] once instead.
//!
//! # Tasks and values
//!
//! Tasks are `fn` pointers: functions, methods, and closures that capture nothing. A capture is a compile error that
//! names the variable. What a task needs besides its arguments comes from [`Pool::with`] (once per call), an
//! [initializer](PoolBuilder::initializer) (once per worker) or [`forkserver::preload`] (once per fork server).
//!
//! Arguments and results travel through serde in a format that describes itself, as JSON does, with numbers as they lie
//! in memory: types with `untagged`, `flatten`, `tag` or `skip_serializing_if` travel, and a `Vec<f64>` anywhere inside a
//! value is copied as a whole. A value that is nested too deeply for the stack of a thread that reads or writes it is an
//! error of its item, never an overflow.
//!
//! Files and sockets travel as [`Fd`], large data that is only read as [`SharedSlice`], and memory that tasks change as
//! [`Shared`] atomics and [`SharedArray`], anywhere inside a value.
//!
//! # Errors
//!
//! Every item gets exactly one outcome: its value, or a [`TaskError`] that says which item it is, which process
//! died, and how. A [`PoolError`] is the result of a call on the pool itself.
//!
//! ```
//! use procpool::{Pool, TaskError};
//!
//! fn divide(a: i32, b: i32) -> anyhow::Result<i32> {
//!     if b == 13 {
//!         std::process::abort(); // Stands for a crash.
//!     }
//!     a.checked_div(b).ok_or_else(|| anyhow::anyhow!("division by zero"))
//! }
//!
//! fn main() -> anyhow::Result<()> {
//!     procpool::init();
//!     let pool = Pool::new(2)?;
//!     let outcomes = pool.starmap_results([(6, 2), (6, 0), (6, 13)], divide)?;
//!     assert!(matches!(outcomes[0], Ok(3)));
//!     assert!(matches!(&outcomes[1], Err(TaskError::Failed(failure)) if failure.message == "division by zero"));
//!     assert!(matches!(outcomes[2], Err(TaskError::WorkerDied { .. })));
//!     Ok(())
//! }
//! ```
//!
//! A task may return any serializable value. A `Result` with a serializable error is such a value, and passes through
//! unchanged. An `anyhow::Result` is the analogue of raising: its error arrives as [`TaskError::Failed`] with the whole
//! chain of causes as text.
//!
//! # What it promises
//!
//! 1. **It never hangs and never loses a result.** Every handle resolves. What a dead worker had not begun runs on
//!    another worker, and a replacement starts. [`Pool::timeout`], [`AsyncResult::cancel`] and [`Pool::terminate`] stop
//!    whatever runs.
//! 2. **It is as easy as a closure.** No macros on functions, no traits to derive beyond serde's.
//! 3. **It isolates processes, and workers share nothing that can change**, unless a value brings it to them. No lock
//!    is held across processes, so no crash can block the pool.
//!
//! # Start methods
//!
//! | | [`Forkserver`](StartMethod::Forkserver), the default | [`Spawn`](StartMethod::Spawn) | [`Fork`](StartMethod::Fork) |
//! |---|---|---|---|
//! | a worker begins | as a fork of a small single-threaded server | as a second run of this program | as a copy of this process |
//! | it inherits | what [`forkserver::preload`] loaded | no memory | all memory, as of [`PoolBuilder::build`] |
//! | this process may have threads | yes | yes | no, or with an `unsafe` promise |
//! | choose it | unless there is a reason not to | for a fresh process every time | for large read-only data that is loaded already |
//!
//! # Where next
//!
//! - [`Pool`] has the calls, [`PoolBuilder`] the settings, [`AsyncResult`] callbacks, futures and `cancel`. [`wait`](wait())
//!   and [`as_completed`] wait for several handles, and [`Imap::into_stream`] makes a stream.
//! - [futures.md](https://docs.rs/crate/procpool/latest/source/docs/futures.md) maps `concurrent.futures` to this crate, and
//!   says how async programs use it.
//! - [`PoolBuilder::logs`] and [`PoolBuilder::on_output`] say how what workers log and print arrives, [`worker`] where a
//!   task runs, and [`Workers`] how code runs on threads as well.
//! - The [guide](https://docs.rs/crate/procpool/latest/source/docs/guide.md) explains timeouts, initializers, tests, what
//!   to do when a program hangs, and how to port programs from rayon and from Python's `multiprocessing`.

#![warn(unnameable_types)]

mod api;
mod driver;
mod engine;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod ipc;
mod observe;
pub mod process;
mod schedule;
mod sys;
#[cfg(feature = "threads")]
mod threads;
mod transport;
mod values;
mod work;
mod worker;

pub mod channel {
    //! Channels between processes: a queue with any number of senders and receivers, in any processes of the program.
    //!
    //! ```
    //! use procpool::channel;
    //!
    //! let (tx, rx) = channel::bounded::<(usize, f32)>(1024)?;
    //! let sender = std::thread::spawn(move || (0..10).try_for_each(|i| tx.send((i, 0.5))));
    //! for message in &rx {
    //!     let (index, share) = message?;
    //!     println!("{index}: {share}");
    //! }
    //! # sender.join().unwrap()?;
    //! # Ok::<(), Box<dyn std::error::Error>>(())
    //! ```
    //!
    //! # Ends travel
    //!
    //! An end may stand anywhere inside any value that this crate sends: an argument, a result, a
    //! [context](crate::Pool::with), an argument of an [initializer](crate::PoolBuilder::initializer), or a message of a
    //! channel, be it the same one. What arrives is another end on the same side of the same channel; the one that was sent
    //! stays as it is. `Sender<T>` and `Receiver<T>` travel whatever `T` is.
    //!
    //! ```
    //! use procpool::{Pool, channel};
    //!
    //! fn main() -> anyhow::Result<()> {
    //!     procpool::init();
    //!     let pool = Pool::new(2)?;
    //!     // Progress from all workers, while the results come.
    //!     let (tx, rx) = channel::bounded::<(u32, f32)>(1024)?;
    //!     let squares = pool.with(&tx).map_async(0..10u32, |tx, i| {
    //!         tx.send((i, 0.5)).ok();
    //!         i * i
    //!     });
    //!     drop(tx); // Then the loop ends when the last task has.
    //!     let mut reports = 0;
    //!     for message in &rx {
    //!         let (_, _share) = message?;
    //!         reports += 1;
    //!     }
    //!     assert_eq!((reports, squares.get()?[9]), (10, 81));
    //!     Ok(())
    //! }
    //! ```
    //!
    //! As long as the pool needs an end, it keeps it open; [`Fd`](crate::Fd#lifetimes) says how long that is. So drop your own
    //! end before you wait for the other side to see the end.
    //!
    //! Two tasks that wait for each other need two workers: in a pool of one, or with one queued behind the other, both wait
    //! for ever.
    //!
    //! In a generic struct of your own, the derives of serde ask that `T` is serializable where `Sender<T>` needs no such
    //! thing: `#[serde(bound = "")]`.
    //!
    //! | Python | here |
    //! |---|---|
    //! | `Queue(n)`, `SimpleQueue()` | [`bounded`] |
    //! | `Pipe()` | [`duplex`] |
    //! | a queue for one reply | [`oneshot`] |
    //!
    //! # What it promises
    //!
    //! Whichever process dies, at whichever instruction:
    //!
    //! - A message is received *once at most*. It is lost only if a receiver dies that has taken it.
    //! - The messages of one sender arrive in the order in which it sent them.
    //! - The channel never holds more messages than it may: `send` waits. A process that has returned from `send` may
    //!   exit at once; nothing is buffered in it.
    //! - When all senders are gone, in all processes and however they ended, receivers get what is left and then
    //!   [`Disconnected`](RecvError::Disconnected). When all receivers are gone, senders are told; if they were killed, a
    //!   few messages may be accepted before.
    //! - No process that lives waits for one that is dead.
    //!
    //! A process that is *stopped* (SIGSTOP) in the midst of a call holds up the others that use this channel, until it
    //! goes on or dies; calls that do not wait, and calls with a timeout, return nevertheless.
    //!
    //! # What it costs
    //!
    //! While both sides are awake, a message takes no system call. Each end holds three descriptors, whatever the number
    //! of its clones in one process; an end of a [`oneshot`] holds one.

    pub use crate::ipc::channel::Answer;
    pub use crate::ipc::channel::Duplex;
    pub use crate::ipc::channel::IntoIter;
    pub use crate::ipc::channel::Iter;
    pub use crate::ipc::channel::Options;
    pub use crate::ipc::channel::Receiver;
    pub use crate::ipc::channel::RecvError;
    pub use crate::ipc::channel::Reply;
    pub use crate::ipc::channel::SendError;
    pub use crate::ipc::channel::Sender;
    pub use crate::ipc::channel::bounded;
    pub use crate::ipc::channel::duplex;
    pub use crate::ipc::channel::oneshot;
}

pub mod wait {
    //! Waiting for the first of several things: messages of channels, results, descriptors.
    //!
    //! For handles of pools alone there is the function [`wait`](super::wait()) beside this module.

    #[doc(hidden)]
    pub use crate::ipc::wait::Bell;
    pub use crate::ipc::wait::Readable;
    #[doc(hidden)]
    pub use crate::ipc::wait::Turn;
    pub use crate::ipc::wait::Waitable;
    pub use crate::ipc::wait::any;
    pub use crate::ipc::wait::readable;
}

pub mod sync {
    //! Locks and their kin between processes. A process that dies holds nothing, and the next one is told.
    //!
    //! ```
    //! use procpool::Pool;
    //! use procpool::sync::Mutex;
    //!
    //! fn main() -> anyhow::Result<()> {
    //!     procpool::init();
    //!     let pool = Pool::new(2)?;
    //!     let longest = Mutex::new(String::new())?;
    //!     let words = ["a", "word", "or", "two"].map(str::to_owned);
    //!     pool.with(&longest).map(words, |longest, word| -> anyhow::Result<()> {
    //!         let mut longest = longest.lock()?;
    //!         if word.len() > longest.len() {
    //!             *longest = word;
    //!         }
    //!         Ok(())
    //!     })?;
    //!     assert_eq!(*longest.lock()?, "word");
    //!     Ok(())
    //! }
    //! ```
    //!
    //! | Python | here | a death |
    //! |---|---|---|
    //! | `Value`, `Manager().dict()`, `Namespace` | [`Mutex`]: any value, inside | the value is the one before; the next holder is told |
    //! | `Lock`, `RLock` | [`Lock`], [`Lock::reentrant`] | everyone is told, until one has recovered |
    //! | `Semaphore`, `BoundedSemaphore` | [`Semaphore`] | its permits come back |
    //! | `Condition` | [`Condvar`] | its notification is passed on |
    //! | `Event` | [`Event`] | costs nothing |
    //! | `Barrier` | [`Barrier`] | the others are told, if it was waiting |
    //!
    //! All of them travel anywhere inside a value. A call that waits sleeps without using the processor, and is woken by the
    //! death of a holder at once. A process that is *stopped* (SIGSTOP) while it holds something keeps it, until it goes on
    //! or dies; calls that do not wait, and calls with a timeout, return nevertheless.

    pub use crate::ipc::sync::Barrier;
    pub use crate::ipc::sync::BarrierError;
    pub use crate::ipc::sync::Condvar;
    pub use crate::ipc::sync::Event;
    pub use crate::ipc::sync::Lock;
    pub use crate::ipc::sync::LockError;
    pub use crate::ipc::sync::LockGuard;
    pub use crate::ipc::sync::Mutex;
    pub use crate::ipc::sync::MutexGuard;
    pub use crate::ipc::sync::Permit;
    pub use crate::ipc::sync::Semaphore;
}

pub use api::builder::PoolBuilder;
pub use api::call::Call;
pub use api::call::CallWith;
pub use api::forkserver;
pub use api::future::AsCompleted;
pub use api::future::CancelOnDrop;
pub use api::future::Until;
pub use api::future::as_completed;
pub use api::future::wait;
pub use api::imap::Imap;
pub use api::imap::ImapUnordered;
pub use api::imap::Indexed;
pub use api::init::init;
pub use api::observe::Progress;
pub use api::pool::Pool;
pub use api::progress::ProgressExt;
pub use api::progress::WithProgress;
pub use api::results::AsyncResult;
pub use api::reusable::reusable;
pub use api::stream::ImapStream;
pub use api::stream::IndexedStream;
pub use api::stream::PoolStream;
pub use api::workers::Handle;
pub use api::workers::Workers;
pub use driver::told::LogRecord;
pub use driver::told::OutputLine;
pub use driver::told::OutputStream;
pub use error::Failure;
pub use error::Origin;
pub use error::Panic;
pub use error::PoolError;
pub use error::Side;
pub use error::TaskError;
pub use error::TimedOut;
pub use ipc::memory::Atomic;
pub use ipc::memory::Shared;
pub use ipc::memory::SharedArray;
pub use observe::event::Departure;
pub use observe::event::Event;
pub use observe::report::LaneReport;
pub use observe::report::Report;
pub use observe::report::Slow;
pub use observe::stats::Current;
pub use observe::stats::Stats;
pub use observe::stats::Totals;
pub use observe::stats::WorkerState;
pub use observe::stats::WorkerStats;
pub use observe::timeline::Timeline;
pub use start_methods::Exit;
pub use start_methods::ParseStartMethodError;
#[doc(inline)]
pub use start_methods::Resource as Limit;
pub use start_methods::StartError;
pub use start_methods::StartMethod;
#[cfg(feature = "threads")]
pub use threads::ThreadCall;
#[cfg(feature = "threads")]
pub use threads::ThreadImap;
#[cfg(feature = "threads")]
pub use threads::ThreadPool;
#[cfg(feature = "threads")]
pub use threads::ThreadResult;
pub use values::fd::Fd;
pub use values::shared::SharedBytes;
pub use values::shared::SharedSlice;
pub use work::task::Args;
pub use work::task::Data;
pub use work::task::Fallible;
pub use work::task::Initialized;
pub use work::task::Outcome;
pub use work::task::Plain;
pub use worker::deadline::deadline;
pub use worker::info::WorkerInfo;
pub use worker::info::worker;
pub use worker::logs::set_logger;

/// `#[serde(with = "procpool::fd")]`: a file or a socket in a field, that travels with the value.
///
/// The field keeps its type; everything else is as for [`Fd`].
///
/// # Examples
///
/// ```
/// use std::io::{PipeWriter, Read, Write};
///
/// use procpool::Pool;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Job {
///     name: String,
///     #[serde(with = "procpool::fd")]
///     log: PipeWriter,
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(1)?;
///     let (mut reader, log) = std::io::pipe()?;
///     pool.apply((Job { name: "one".to_owned(), log },), |mut job| -> anyhow::Result<()> {
///         Ok(job.log.write_all(job.name.as_bytes())?)
///     })?;
///     let mut text = String::new();
///     reader.read_to_string(&mut text)?;
///     assert_eq!(text, "one");
///     Ok(())
/// }
/// ```
pub mod fd {
    pub use crate::values::fd::deserialize;
    pub use crate::values::fd::serialize;
}

/// For [`init_before_main!`] and [`test_init!`] alone.
#[doc(hidden)]
pub use start_methods as __start_methods;

/// The programs of the guide, as tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
struct Guide;

/// The programs of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
