//! A pool of worker *processes*, for work that threads cannot be trusted with: code that may crash, leak, hang or hold
//! a global lock. It is `multiprocessing.Pool` for Rust.
//!
//! ```
//! use procpool::Pool;
//!
//! fn main() -> anyhow::Result<()> {
//!     procpool::init(); // Workers begin here; a no-op in the parent.
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
//!     pool.close();
//!     pool.join()?;
//!     Ok(())
//! }
//! ```
//!
//! # What it promises
//!
//! 1. **It never hangs and never loses an answer.** Every handle resolves: with the value, or with an error that says
//!    which process died, how, and whether the task had begun. A worker that dies costs the item it was running; what
//!    it had not begun runs elsewhere, and another worker takes its place.
//! 2. **It is as easy as a closure.** No macros on functions, no traits to derive beyond serde's. Tasks are `fn`
//!    pointers, so a closure that captures something is a compile error that names the captured variable; what a task
//!    needs besides its arguments is given with [`Pool::with`] or an [initializer](PoolBuilder::initializer).
//! 3. **It isolates processes, and workers share nothing.** No lock exists that two processes hold, so no crash can
//!    wedge the pool.
//!
//! # Start methods
//!
//! | | [`Forkserver`](StartMethod::Forkserver), the default | [`Spawn`](StartMethod::Spawn) | [`Fork`](StartMethod::Fork) |
//! |---|---|---|---|
//! | a worker begins | as a fork of a small single-threaded server | as a second run of this program | as a copy of this process |
//! | it sees | what [`forkserver::preload`] loaded | nothing | everything, as of [`PoolBuilder::build`] |
//! | this process may have threads | yes | yes | no, or with an `unsafe` promise |
//! | choose it | unless there is a reason | for a fresh process every time | for big read-only data that is there already |
//!
//! Spawn and forkserver run this program again, up to [`init`], which must be the first line of `main`. Test binaries
//! under libtest, whose `main` is not theirs, say [`test_init!`] once instead.
//!
//! # Values
//!
//! Arguments and results travel through serde in a format that does not describe itself (postcard), so types that use
//! `skip_serializing_if`, `untagged`, `flatten` or `deserialize_any` do not survive. A task may return any serializable
//! value, a `Result` with a serializable error among them, which passes through as it is; or an `anyhow::Result`, whose
//! error arrives as [`TaskError::Failed`] with the whole chain of causes as text. A value that is nested too deeply for
//! the stack of a thread that reads or writes it is an error of its item, never an overflow.
//!
//! # Errors
//!
//! A [`TaskError`] comes back in the place of one result; a [`PoolError`] answers a call on the pool itself.
//!
//! Linux only: kernel 5.4 or newer, 64 bits, /proc mounted.

#![warn(unnameable_types)]

mod api;
mod driver;
mod engine;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod schedule;
mod sys;
mod transport;
mod values;
mod work;
mod worker;

pub use api::builder::PoolBuilder;
pub use api::call::Call;
pub use api::call::CallWith;
pub use api::forkserver;
pub use api::imap::Imap;
pub use api::imap::ImapUnordered;
pub use api::init::init;
pub use api::pool::Pool;
pub use api::results::AsyncResult;
pub use error::Failure;
pub use error::Panic;
pub use error::PoolError;
pub use error::Side;
pub use error::TaskError;
pub use error::TimedOut;
pub use start_methods::Exit;
pub use start_methods::ParseStartMethodError;
#[doc(inline)]
pub use start_methods::Resource as Limit;
pub use start_methods::StartError;
pub use start_methods::StartMethod;
pub use work::task::Args;
pub use work::task::Data;
pub use work::task::Fallible;
pub use work::task::Initialized;
pub use work::task::Outcome;
pub use work::task::Plain;
pub use worker::deadline::deadline;

/// For [`test_init!`] alone.
#[doc(hidden)]
pub use start_methods as __start_methods;
