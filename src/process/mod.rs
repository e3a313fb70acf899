//! One function in a process of its own: `multiprocessing.Process`.
//!
//! ```
//! use procpool::process::{self, Process};
//!
//! fn shout(text: String, times: usize) -> String {
//!     text.to_uppercase().repeat(times)
//! }
//!
//! fn main() -> anyhow::Result<()> {
//!     procpool::init(); // First line of main: processes leave main here.
//!     let loud: String = Process::spawn(("a".to_owned(), 3), shout)?.join()?;
//!     assert_eq!(loud, "AAA");
//!     Process::spawn((), || println!("hello from {}", process::current().name()))?.join()?;
//!     Ok(())
//! }
//! ```
//!
//! A pool is the tool for many calls: its workers are started once. A process is the tool for one call that takes long,
//! for a server, for two functions that talk to each other, and where a call must not share its process with others.
//!
//! What Python's subclass of `Process` is for, its own state and a `run`, is a struct and a method:
//!
//! ```
//! use procpool::process::Process;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Countdown {
//!     from: u32,
//! }
//!
//! impl Countdown {
//!     fn run(self) -> Vec<u32> {
//!         (1..=self.from).rev().collect()
//!     }
//! }
//!
//! fn main() -> anyhow::Result<()> {
//!     procpool::init();
//!     let process = Process::spawn((Countdown { from: 3 },), Countdown::run)?;
//!     assert_eq!(process.join()?, [3, 2, 1]);
//!     Ok(())
//! }
//! ```
//!
//! # What it promises
//!
//! - [`join`](Process::join) returns what the function returned, or why there is nothing: the typed error of the
//!   function, its panic, or how the process died. What was sent before a death counts.
//! - The result is in a file or in a socket's buffer: a process that nobody joins does not wait for that.
//! - No process outlives the one that started it, however that ends. [`OnDrop`] says what becomes of it before.
//! - A drop takes no longer than [`OnDrop`] says.
//!
//! # How it ends
//!
//! | The function | exit code | printed on standard error | `join` returns |
//! |---|---|---|---|
//! | returns a value | 0 | | the value |
//! | returns the error of an `anyhow::Result` | 1 | the error | [`Failed`](ProcessError::Failed) |
//! | panics | 101 | what the panic hook prints | [`Panicked`](ProcessError::Panicked) |
//! | does not return: `exit(n)`, a signal, `exec` | n | | [`Died`](ProcessError::Died) |
//!
//! When the function has returned, standard output is flushed and the process ends. It does not wait for threads that the
//! function has started, as no Rust program does, and CPython does for those that are not daemons.
//!
//! # Start methods
//!
//! Processes are started as the workers of a pool are, with the same default and the same refusals; see
//! [`StartMethod`](crate::StartMethod). There is no setting for the whole program, CPython's `set_start_method`: it would
//! be one for the libraries of the program too. Instead [`ProcessBuilder::start_method`] and
//! [`PoolBuilder::start_method`](crate::PoolBuilder::start_method) choose one for a process and for a pool.
//!
//! [docs/process.md](https://docs.rs/crate/procpool/latest/source/docs/process.md) compares all of it with CPython.

mod builder;
mod child;
mod current;
mod error;
mod handle;
mod message;
mod registry;
mod running;

pub use self::builder::ProcessBuilder;
pub use self::current::Current;
pub use self::current::Info;
pub use self::current::active;
pub use self::current::current;
pub use self::error::ProcessError;
pub use self::handle::OnDrop;
pub use self::handle::Process;
