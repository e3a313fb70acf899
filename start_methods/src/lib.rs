//! Starts a function of this program in a child process, by fork, spawn or forkserver, with one signature.
//!
//! ```
//! use std::io::IoSlice;
//!
//! use start_methods::{Birth, Boot, Received, StartMethod};
//!
//! fn greet(birth: Birth) -> u8 {
//!     let name = String::from_utf8(birth.payload).unwrap();
//!     birth.control.send(&[IoSlice::new(format!("hello, {name}").as_bytes())], &[]).unwrap();
//!     0
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     start_methods::init(); // Children run from here and never return.
//!     for method in StartMethod::ALL {
//!         let child = start_methods::start(method, &Boot::new(greet).payload(b"world"))?;
//!         child.wait_hello(std::time::Duration::from_secs(10))?;
//!         let mut buffer = [0; 64];
//!         let Received::Message(len) = child.control().recv(&mut buffer, &mut Vec::new())? else {
//!             panic!("the child ended without a message");
//!         };
//!         assert_eq!(&buffer[..len], b"hello, world");
//!         assert!(child.wait()?.success());
//!     }
//!     Ok(())
//! }
//! ```
//!
//! | | fork | spawn | forkserver |
//! |---|---|---|---|
//! | the child starts | as a copy of the parent | in `main`, which it leaves in [`init`] | as a copy of a server that started in `main` |
//! | sees the parent's memory | yes, as of the start (or of [`Starter::settle`]) | no | no; sees that of [`forkserver::preload`] |
//! | parent with other threads | refused | yes | yes |
//! | parent of the process | this process (or the template) | this process | the server |
//! | inherited descriptors | the parent's, except those of this crate | 0, 1, 2 | 0, 1, 2 |
//! | cost | grows with the parent's memory | an exec | a small fork |
//!
//! With every method, a child has /dev/null as standard input, default signal dispositions (except SIGPIPE and SIGTTOU,
//! which are ignored), an empty signal mask, its own session (so no controlling terminal), process group and name, one
//! descriptor of this crate (its *control socket*), and a *lifeline*: the kernel kills it when the process that started
//! it dies. It dumps no core. [`Boot`] can set its environment, its directory and its resource limits ([`Resource`]),
//! with the same calls and the same errors for each method.
//!
//! A child is killed when its [`Child`] is dropped. This crate never waits for children that it has not started,
//! installs no signal handler, and starts no thread.
//!
//! Linux only: kernel 5.4 or newer, 64 bits, /proc mounted.
//!
//! Also called: subprocess, worker process, zygote (forkserver), process supervision.

#[cfg(not(target_os = "linux"))]
compile_error!("start_methods supports Linux only");

mod birth;
mod child;
mod error;
mod exit;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod message;
mod method;
mod settings;
mod start;
mod sys;

pub use birth::boot::BOOT_FDS_MAX;
pub use birth::boot::Birth;
pub use birth::boot::Boot;
pub use birth::boot::DEPTH_MAX;
pub use birth::boot::Entry;
pub use birth::boot::PAYLOAD_MAX;
pub use birth::boot::SETTINGS_MAX;
pub use birth::boot::depth;
pub use birth::entry::init;
pub use birth::entry::initialized;
pub use child::child::Child;
pub use error::StartError;
pub use exit::Exit;
/// [`init_before_main!`], by a fitting name for a file of tests without a `main` of its own.
///
/// ```standalone_crate
/// start_methods::test_init!();
/// # fn main() { assert!(start_methods::initialized()); }
/// ```
pub use init_before_main as test_init;
pub use method::ParseStartMethodError;
pub use method::StartMethod;
pub use settings::Resource;
pub use start::forkserver;
pub use start::starter::Order;
pub use start::starter::Starter;
pub use start::starter::Starts;
pub use start::starter::start;
#[doc(hidden)]
pub use sys::failpoint;
pub use sys::fd::PrivateFd;
pub use sys::image;
pub use sys::socket::Offered;
pub use sys::socket::Received;
pub use sys::socket::Socket;
pub use sys::threads;
