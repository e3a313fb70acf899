//! What leaves a worker beside its answers: records of the crate `log`, and the bytes of its standard output and error.
//!
//! ```text
//!  worker ── log records ──▶ socket ──┐
//!         ── stdout ───────▶ pipe ────┼──▶ the thread of the parent that passes them on (`driver/listener.rs`)
//!         ── stderr ───────▶ pipe ────┘
//! ```
//!
//! Each worker has descriptors of its own for them, which the engine never touches: a flood fills its own socket and holds
//! up nothing else. The kernel keeps what a worker has sent, however it ends. A record that finds no room is dropped, after
//! a moment of waiting, and counted; the next one says how many were dropped before it.
//!
//! The bytes come from a process that is not trusted: [`parse`] takes arbitrary ones.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use log::Level;
use log::LevelFilter;
use serde::Deserialize;
use serde::Serialize;
use start_methods::PrivateFd;
use start_methods::Socket;

use crate::transport::panic_record::cut_text;
use crate::values::message;

/// The longest message on a log socket.
pub(crate) const MESSAGE_MAX: usize = 16 * 1024;
/// The text of a record is cut at this length.
const TEXT_MAX: usize = 12 * 1024;
/// Names of targets, modules and files are cut at this length.
const NAME_MAX: usize = 512;

/// Which outlets the workers of a pool have.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// The most verbose level whose records travel, 0 for none.
    level: u8,
    /// Whether lines of the standard output and error travel.
    pub(crate) output: bool,
}

impl Wanted {
    #[cfg(any(test, fuzzing))]
    pub(crate) const NOTHING: Self = Self { level: 0, output: false };

    pub(crate) fn new(level: LevelFilter, output: bool) -> Self {
        Self { level: level as u8, output }
    }

    pub(crate) fn level(self) -> LevelFilter {
        level_of(self.level).map_or(LevelFilter::Off, |level| level.to_level_filter())
    }

    pub(crate) fn logs(self) -> bool {
        self.level > 0
    }

    pub(crate) fn is_something(self) -> bool {
        self.logs() || self.output
    }
}

fn level_of(number: u8) -> Option<Level> {
    Level::iter().find(|&level| level as usize == usize::from(number))
}

/// The parent's ends. The log socket and the pipes do not block when they are read.
#[derive(Debug, Default)]
pub(crate) struct Outlets {
    pub(crate) log: Option<Socket>,
    /// Standard output and error.
    pub(crate) output: Option<[PrivateFd; 2]>,
}

/// The worker's ends, which the parent drops when it has been started.
#[derive(Debug, Default)]
pub(crate) struct WorkerEnds {
    log: Option<Socket>,
    output: Option<[PrivateFd; 2]>,
}

impl WorkerEnds {
    /// In the order in which [`receive`](Self::receive) expects them.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let log = self.log.iter().map(AsFd::as_fd);
        log.chain(self.output.iter().flatten().map(AsFd::as_fd))
    }

    /// The ends that this worker was given: the log socket, and what becomes its standard output and error.
    ///
    /// # Errors
    ///
    /// There are too few.
    pub(crate) fn receive(
        wanted: Wanted,
        fds: &mut impl Iterator<Item = PrivateFd>,
    ) -> io::Result<(Option<Socket>, Option<[PrivateFd; 2]>)> {
        let mut fd = || fds.next().ok_or_else(|| io::Error::other("started without an outlet"));
        let log = if wanted.logs() { Some(Socket::from_fd(fd()?)) } else { None };
        let output = if wanted.output { Some([fd()?, fd()?]) } else { None };
        Ok((log, output))
    }
}

/// Makes the outlets of one more worker.
///
/// # Errors
///
/// The system refused a descriptor.
pub(crate) fn open(wanted: Wanted) -> io::Result<(Outlets, WorkerEnds)> {
    let (mut here, mut there) = (Outlets::default(), WorkerEnds::default());
    if wanted.logs() {
        let (mut ours, theirs) = Socket::pair()?;
        ours.distrust();
        (here.log, there.log) = (Some(ours), Some(theirs));
    }
    if wanted.output {
        let ((out, out_end), (err, err_end)) = (PrivateFd::pipe()?, PrivateFd::pipe()?);
        (here.output, there.output) = (Some([out, err]), Some([out_end, err_end]));
    }
    Ok((here, there))
}

/// A record as it travels.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Message<'a> {
    level: u8,
    target: &'a str,
    #[serde(borrow)]
    module_path: Option<&'a str>,
    #[serde(borrow)]
    file: Option<&'a str>,
    line: Option<u32>,
    text: &'a str,
    dropped: u64,
}

/// A record that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arrived<'a> {
    pub(crate) level: Level,
    pub(crate) target: &'a str,
    pub(crate) module_path: Option<&'a str>,
    pub(crate) file: Option<&'a str>,
    pub(crate) line: Option<u32>,
    pub(crate) text: &'a str,
    /// How many records were dropped between the one before and this one.
    pub(crate) dropped: u64,
}

/// Encodes a record, before which so many were dropped. Calls the `Display` of what is logged.
pub(crate) fn encode(record: &log::Record<'_>, dropped: u64) -> Vec<u8> {
    let text = cut_text(record.args().to_string(), TEXT_MAX);
    let message = Message {
        level: record.level() as u8,
        target: cut_name(record.target()),
        module_path: record.module_path().map(cut_name),
        file: record.file().map(cut_name),
        line: record.line(),
        text: &text,
        dropped,
    };
    message::to_vec(&message)
}

fn cut_name(name: &str) -> &str {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// The record in these bytes; `None` if they are none.
pub(crate) fn parse(bytes: &[u8]) -> Option<Arrived<'_>> {
    let Message { level, target, module_path, file, line, text, dropped } = message::parse(bytes).ok()?;
    Some(Arrived { level: level_of(level)?, target, module_path, file, line, text, dropped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_from_its_bytes() {
        let mut builder = log::Record::builder();
        builder.level(Level::Debug).target("there").file(Some("a.rs")).line(Some(7));
        let bytes = encode(&builder.args(format_args!("one {}", 1)).build(), 3);
        let arrived = parse(&bytes).unwrap();
        assert_eq!((arrived.level, arrived.target, arrived.text), (Level::Debug, "there", "one 1"));
        assert_eq!((arrived.file, arrived.line, arrived.dropped), (Some("a.rs"), Some(7), 3));
    }

    #[test]
    fn the_longest_record_fits_a_message() {
        let long = "é".repeat(100_000);
        let mut builder = log::Record::builder();
        builder.target(&long).module_path(Some(&long)).file(Some(&long)).line(Some(u32::MAX));
        let bytes = encode(&builder.args(format_args!("{long}")).build(), u64::MAX);
        assert!(bytes.len() <= MESSAGE_MAX, "{}", bytes.len());
        assert!(parse(&bytes).is_some());
    }

    #[test]
    fn noise_is_no_record() {
        let record = encode(&log::Record::builder().args(format_args!("text")).build(), 0);
        for len in 0..record.len() {
            assert_eq!(parse(&record[..len]), None);
        }
        let [mut level, mut text] = [record.clone(), record.clone()];
        level[0] = 6;
        text[record.len() - 2] = 0xff;
        assert_eq!((parse(&level), parse(&text)), (None, None));
        assert_eq!(parse(&[record, vec![0]].concat()), None);
    }
}
