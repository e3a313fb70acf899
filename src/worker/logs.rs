//! Records of the crate `log` that are made in a worker, on their way to the parent.
//!
//! A program has one logger for ever, and a worker that is forked from it inherits that logger with its locks. So there
//! are two ways. In a worker that begins without a logger, this one is set once the initializer has run, which may have
//! set its own. And a program may set its logger by [`set_logger`], as a part of this one: then workers by fork have it too,
//! and never call the program's.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use log::LevelFilter;
use log::Log;
use log::Metadata;
use log::Record;
use log::SetLoggerError;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use start_methods::Offered;
use start_methods::Socket;

use super::per_depth::PerDepth;
use crate::transport::outlets;

/// How long a record waits for room, in milliseconds, unless the one before it has waited in vain.
const PATIENCE: u8 = 20;

/// The way to the parent.
#[derive(Debug)]
struct Outlet {
    socket: Socket,
    level: LevelFilter,
    /// Records that were dropped and that no record has told of yet.
    dropped: AtomicU64,
    /// The last record found no room, although it waited.
    is_stuck: AtomicBool,
}

static OUTLET: PerDepth<Outlet> = PerDepth::new();
/// Whether this logger is that of the program.
static IS_SET: AtomicBool = AtomicBool::new(false);
/// The program's own, behind this one.
static PROGRAMS: OnceLock<Box<dyn Log>> = OnceLock::new();

/// The logger of workers.
struct Forward;

static FORWARD: Forward = Forward;

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        match OUTLET.get() {
            Some(outlet) => metadata.level() <= outlet.level,
            None => programs().is_some_and(|logger| logger.enabled(metadata)),
        }
    }

    fn log(&self, record: &Record<'_>) {
        match OUTLET.get() {
            Some(outlet) if record.level() <= outlet.level => outlet.send(record),
            Some(_) => {}
            None => programs().into_iter().for_each(|logger| logger.log(record)),
        }
    }

    fn flush(&self) {
        if OUTLET.get().is_none() {
            programs().into_iter().for_each(|logger| logger.flush());
        }
    }
}

fn programs() -> Option<&'static dyn Log> {
    PROGRAMS.get().map(|logger| &**logger)
}

impl Outlet {
    fn send(&self, record: &Record<'_>) {
        // Relaxed: the numbers stand alone. Of two threads that log at once, either may tell of what was dropped.
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let bytes = outlets::encode(record, dropped);
        let is_sent = self.offer(&bytes) || (self.waits_for_room() && self.offer(&bytes));
        self.is_stuck.store(!is_sent, Ordering::Relaxed);
        if !is_sent {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    /// Whether the socket has taken it. If the parent is gone, the record is lost like everything else.
    fn offer(&self, bytes: &[u8]) -> bool {
        !matches!(self.socket.offer(&[IoSlice::new(bytes)], &[]), Ok(Offered::Full | Offered::TooManyInFlight))
    }

    /// Waits a moment for room, so that a burst is not cut; not again and again, so that a flood takes no time.
    fn waits_for_room(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        !self.is_stuck.load(Ordering::Relaxed)
            && poll(&mut fds, PollTimeout::from(PATIENCE)).is_ok_and(|ready| ready > 0)
    }
}

/// Records of this worker go to the parent from now on, if it begins with this logger.
pub(super) fn begin(socket: Socket, level: LevelFilter) {
    OUTLET.set(Outlet { socket, level, dropped: AtomicU64::new(0), is_stuck: AtomicBool::new(false) });
    if IS_SET.load(Ordering::Relaxed) {
        log::set_max_level(level);
    }
}

/// Sets this logger, unless there is one: that which the initializer has set, or `main` before `init`, or which was
/// inherited by fork.
pub(super) fn install() {
    if let Some(outlet) = OUTLET.get()
        && log::set_logger(&FORWARD).is_ok()
    {
        IS_SET.store(true, Ordering::Relaxed);
        log::set_max_level(outlet.level);
    }
}

/// Sets the logger of this program, as `log::set_boxed_logger` does, in such a way that workers by
/// [fork](crate::StartMethod::Fork) never call it.
///
/// A forked worker inherits the program's logger, and the locks of that one as they were at the fork: the classic deadlock
/// of logging and fork. With this function, records that are made in a forked worker travel to this process, as those of
/// workers by spawn and forkserver do in any case; see [`PoolBuilder::logs`](crate::PoolBuilder::logs).
///
/// Set the level by [`log::set_max_level`], before pools are built. CPython has `logging.handlers.QueueHandler` for the same
/// purpose.
///
/// # Errors
///
/// The program has a logger already.
///
/// # Examples
///
/// ```
/// use procpool::{Pool, StartMethod};
///
/// struct Stderr;
///
/// impl log::Log for Stderr {
///     fn enabled(&self, _: &log::Metadata<'_>) -> bool {
///         true
///     }
///
///     fn log(&self, record: &log::Record<'_>) {
///         eprintln!("{}: {}", record.level(), record.args());
///     }
///
///     fn flush(&self) {}
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     procpool::set_logger(Box::new(Stderr)).expect("the first"); // Of a crate: its logger, not its `init`.
///     log::set_max_level(log::LevelFilter::Info);
///     let pool = Pool::builder().processes(2).start_method(StartMethod::Fork).build()?;
///     pool.map(0..3u32, |x| log::info!("item {x}"))?; // INFO: worker 0 (4711): item 0
///     pool.close();
///     pool.join()?;
///     Ok(())
/// }
/// ```
pub fn set_logger(logger: Box<dyn Log>) -> Result<(), SetLoggerError> {
    log::set_logger(&FORWARD)?;
    IS_SET.store(true, Ordering::Relaxed);
    let _first = PROGRAMS.set(logger);
    Ok(())
}
