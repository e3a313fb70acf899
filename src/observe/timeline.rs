//! The timeline of a pool, to look at: a picture, a trace for Perfetto, a report as text.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::observe::record::Records;
use crate::observe::report;
use crate::observe::report::Report;
use crate::observe::svg;
use crate::observe::trace;

/// What a pool has done so far, from [`Pool::timeline`](crate::Pool::timeline).
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// use procpool::Pool;
///
/// let pool = Pool::builder().processes(2).record(100_000).build()?;
/// pool.map(0..100u64, |x| x * x)?;
/// let timeline = pool.timeline();
/// println!("{}", timeline.report(5));
/// # let folder = std::env::temp_dir().join(format!("procpool-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # std::env::set_current_dir(&folder)?;
/// timeline.write_svg("run.svg")?; // Open it in a browser.
/// timeline.write_trace("run.json")?; // Open it in https://ui.perfetto.dev.
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Timeline {
    records: Records,
}

impl Timeline {
    pub(crate) fn new(records: Records) -> Self {
        Self { records }
    }

    /// The timeline as a picture: one self-contained file for a browser, light or dark as the browser is.
    ///
    /// It has a row for each [lane](crate::WorkerStats::lane), with the items that ran there and the moments at which
    /// workers started, died, were recycled or killed; the calls above, the depth of the queue below, and the slowest
    /// items at the end. Hovering tells what is what. Items narrower than a pixel are drawn together, as a shade that says
    /// how busy the lane was. There is no script in it.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::builder().processes(2).record(1000).build()?;
    /// pool.map(0..10u64, |x| x * x)?;
    /// assert!(pool.timeline().to_svg().starts_with("<svg"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn to_svg(&self) -> String {
        svg::draw(&self.records)
    }

    /// The timeline as JSON for <https://ui.perfetto.dev> and `chrome://tracing`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::builder().processes(2).record(1000).build()?;
    /// pool.map(0..10u64, |x| x * x)?;
    /// assert!(pool.timeline().to_trace().contains("traceEvents"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn to_trace(&self) -> String {
        trace::write(&self.records)
    }

    /// Writes [`to_svg`](Self::to_svg) into a file.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    ///
    /// # Examples
    ///
    /// See [`Timeline`].
    pub fn write_svg(&self, path: impl AsRef<Path>) -> io::Result<()> {
        fs::write(path, self.to_svg())
    }

    /// Writes [`to_trace`](Self::to_trace) into a file.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    ///
    /// # Examples
    ///
    /// See [`Timeline`].
    pub fn write_trace(&self, path: impl AsRef<Path>) -> io::Result<()> {
        fs::write(path, self.to_trace())
    }

    /// The `slowest` slowest items, and how each lane spent its time. Its `Display` is a table.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// use std::thread::sleep;
    /// use std::time::Duration;
    ///
    /// let pool = procpool::Pool::builder().processes(2).record(1000).build()?;
    /// pool.map(0..10u64, |x| sleep(Duration::from_millis(x)))?;
    /// let report = pool.timeline().report(3);
    /// assert_eq!((report.slowest[0].index, report.lanes.len()), (9, 2));
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn report(&self, slowest: usize) -> Report {
        report::make(&self.records, slowest)
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeline")
            .field("runs", &self.records.runs.len())
            .field("seconds", &self.records.seconds(self.records.to))
            .finish_non_exhaustive()
    }
}
