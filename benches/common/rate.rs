//! Throughput: finds a number of items that takes long enough to time, and returns items per second.

use std::time::Duration;
use std::time::Instant;

use crate::common::quick::sized;

/// A function that processes `count` items, with the count that last took about one turn.
pub(crate) struct Rate<F> {
    run: F,
    count: u64,
}

impl<F: FnMut(u64) -> anyhow::Result<()>> Rate<F> {
    pub(crate) fn new(run: F) -> Self {
        Self { run, count: 1 }
    }

    /// Processes as many items as take one turn. The first call starts with one item and scales up.
    pub(crate) fn per_second(&mut self) -> anyhow::Result<f64> {
        let turn = sized(Duration::from_millis(200), Duration::from_millis(20));
        loop {
            let count = self.count;
            let began = Instant::now();
            (self.run)(count)?;
            let took = began.elapsed();
            self.count = scaled(count, turn.as_secs_f64() / took.as_secs_f64());
            // Long enough, or the count does not grow any more.
            if took >= turn / 4 || self.count <= count {
                return Ok(count as f64 / took.as_secs_f64());
            }
        }
    }
}

/// Grows eightfold at most: a rate measured on few items may not hold for many.
#[expect(clippy::cast_possible_truncation, reason = "a count of items is small and positive")]
fn scaled(count: u64, factor: f64) -> u64 {
    ((count as f64 * factor.min(8.0)) as u64).max(1)
}
