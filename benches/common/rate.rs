//! How many a second: a number of items that takes long enough to be timed, found by doing.

use std::time::Duration;
use std::time::Instant;

use crate::common::quick::sized;

/// "Do this many", with the number that took about one turn the last time.
pub(crate) struct Rate<F> {
    run: F,
    count: u64,
}

impl<F: FnMut(u64) -> anyhow::Result<()>> Rate<F> {
    pub(crate) fn new(run: F) -> Self {
        Self { run, count: 1 }
    }

    /// Does as many as take one turn. The first call begins with one, and finds out.
    pub(crate) fn per_second(&mut self) -> anyhow::Result<f64> {
        let turn = sized(Duration::from_millis(200), Duration::from_millis(20));
        loop {
            let count = self.count;
            let began = Instant::now();
            (self.run)(count)?;
            let took = began.elapsed();
            self.count = scaled(count, turn.as_secs_f64() / took.as_secs_f64());
            // Long enough, or as long as it gets.
            if took >= turn / 4 || self.count <= count {
                return Ok(count as f64 / took.as_secs_f64());
            }
        }
    }
}

/// At most eight times as many: what is fast for a few may be slow for many.
#[expect(clippy::cast_possible_truncation, reason = "a count of items is small and positive")]
fn scaled(count: u64, factor: f64) -> u64 {
    ((count as f64 * factor.min(8.0)) as u64).max(1)
}
