//! What workers tell beside their answers, as the user gets it: records of their logs, and lines of their output.

use std::fmt;
use std::sync::Arc;

use log::Level;

/// A record of the crate `log` that was made in a worker; see [`PoolBuilder::on_log`](crate::PoolBuilder::on_log).
///
/// # Examples
///
/// ```
/// use procpool::{LogRecord, Pool};
///
/// fn tell(record: &LogRecord) {
///     println!("{} of worker {} ({}): {}", record.level, record.worker, record.pid, record.text);
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::builder().processes(2).logs(log::LevelFilter::Info).on_log(tell).build()?;
///     pool.map(0..3u32, |x| log::info!("item {x}"))?;
///     pool.close();
///     pool.join()?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRecord {
    /// How important it is.
    pub level: Level,
    /// What it is about: the path of the module, unless the macro was given another `target`.
    pub target: String,
    /// The text. It is cut at 12 KiB, and says so.
    pub text: String,
    /// The path of the module in which it was made.
    pub module_path: Option<String>,
    /// The file in which it was made.
    pub file: Option<String>,
    /// The line of the file.
    pub line: Option<u32>,
    /// The process id of the worker.
    pub pid: u32,
    /// The [index](crate::WorkerInfo::index) of the worker.
    pub worker: usize,
    /// How many records of this worker were dropped before this one, since the one that arrived last.
    pub dropped: u64,
}

/// A stream to which a worker writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// The standard output.
    Stdout,
    /// The standard error.
    Stderr,
}

/// A line that a worker has written; see [`PoolBuilder::on_output`](crate::PoolBuilder::on_output).
///
/// # Examples
///
/// ```
/// use procpool::{OutputLine, OutputStream, Pool};
///
/// fn tell(line: &OutputLine) {
///     let mark = if line.stream == OutputStream::Stderr { "!" } else { " " };
///     println!("{mark} worker {} ({}): {}", line.worker, line.pid, line.text);
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::builder().processes(2).on_output(tell).build()?;
///     pool.map(0..3u32, |x| println!("item {x}"))?;
///     pool.close();
///     pool.join()?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputLine {
    /// Where it was written.
    pub stream: OutputStream,
    /// The line, without its end. What is no UTF-8 is replaced by `U+FFFD`; a line of more than 64 KiB comes in parts.
    pub text: String,
    /// The process id of the worker.
    pub pid: u32,
    /// The [index](crate::WorkerInfo::index) of the worker.
    pub worker: usize,
}

/// A function of the user's that is told something.
pub(crate) struct Hook<T>(Arc<dyn Fn(&T) + Send + Sync>);

impl<T> Hook<T> {
    pub(crate) fn new(f: impl Fn(&T) + Send + Sync + 'static) -> Self {
        Self(Arc::new(f))
    }

    /// Whether it is the same function.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn call(&self, told: &T) {
        (self.0)(told);
    }
}

impl<T> Clone for Hook<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Hook<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Whom to tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    /// In place of the logger of this process.
    pub(crate) on_log: Option<Hook<LogRecord>>,
    pub(crate) on_output: Option<Hook<OutputLine>>,
}

impl LogRecord {
    /// Gives it to the logger of this process, as a record of its own place.
    pub(super) fn relay(&self) {
        let Self { level, target, text, module_path, file, line, pid, worker, dropped } = self;
        if *level > log::max_level() {
            return;
        }
        let mut builder = log::Record::builder();
        builder.level(*level).target(target).module_path(module_path.as_deref()).file(file.as_deref()).line(*line);
        let logger = log::logger();
        if logger.enabled(builder.args(format_args!("")).build().metadata()) {
            if *dropped > 0 {
                log::warn!(
                    "worker {worker} ({pid}): {dropped} records of its log were dropped here: it makes too many"
                );
            }
            logger.log(&builder.args(format_args!("worker {worker} ({pid}): {text}")).build());
        }
    }
}
