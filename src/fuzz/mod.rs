//! Fuzz targets: one function for each decoder of what other processes write, which states what must hold for any bytes.
//!
//! Compiled for tests, which run each function over its corpus, over all variations of that, and over noise; and for
//! `cargo fuzz`, whose targets are these functions. The corpus and the targets are in the folder `fuzz` of the
//! repository. Nothing here is part of the crate's interface.
//!
//! Also called: libFuzzer, property test, corpus replay.

mod blobs;
mod channels;
mod describing;
#[cfg(test)]
mod drill;
#[cfg(test)]
mod heap;
mod messages;
#[cfg(test)]
mod record;
mod steps;
mod values;

pub use self::blobs::blob;
pub use self::channels::channel;
pub use self::describing::describing;
pub use self::messages::arrivals;
pub use self::messages::frame;
pub use self::messages::report;
pub use self::steps::rings;
pub use self::steps::session;
pub use self::values::value;
