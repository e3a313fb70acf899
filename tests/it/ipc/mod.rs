//! Processes that talk and share: channels, descriptors inside values, memory that is only read, and what a death costs.

use std::fs::File;
use std::io::Read;
use std::io::Write;

use nix::fcntl::OFlag;
use procpool::Fd;
use procpool::Pool;
use procpool::StartMethod;

use crate::harness::stage;
use crate::harness::sys;

pub(crate) mod peers;

crate::harness::modules![
    carry,
    channels,
    departures,
    ends,
    flood,
    #[cfg(debug_assertions)]
    last_leases,
    #[cfg(debug_assertions)]
    last_words,
    leases,
    locks,
    meetings,
    memory,
    scarce,
    shared,
    torture,
    travel,
    waiting,
];

/// A pool that may hold hundreds of descriptors, as its workers may. The suite also runs with a low limit.
fn pool_with_descriptors(method: StartMethod, processes: usize) -> Pool {
    sys::want_descriptors(1000);
    stage::pool(method, processes)
}

/// The end of a pipe that is read, as a value that travels.
pub(crate) type Reader = Fd<File>;
/// The end that is written.
pub(crate) type Writer = Fd<File>;

pub(crate) fn say(writer: &Writer, text: &str) {
    (&**writer).write_all(text.as_bytes()).unwrap();
}

/// A pipe: the end to read from, and the end to write to, as a value that travels.
pub(crate) fn pipe() -> (File, Fd<File>) {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    (File::from(reader), Fd::new(File::from(writer)))
}

/// Copies of the end of a pipe.
fn clones(writer: &Fd<File>, count: usize) -> Vec<Fd<File>> {
    (0..count).map(|_| Fd::new(writer.try_clone().unwrap())).collect()
}

/// Everything that is written before all other ends are closed. The deadline of the case bounds the wait.
pub(crate) fn read_to_end(mut reader: impl Read) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}
