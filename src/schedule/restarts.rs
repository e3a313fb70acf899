//! Limits on failed starts: how often starting a worker may fail before the pool gives up. Pure.
//!
//! Only starts count. A worker that becomes ready resets the count, so deaths in the middle of work never break a pool.
//!
//! Also called: circuit breaker, exponential backoff, crash loop.

use std::time::Duration;
use std::time::Instant;

/// Starts that may fail in a row while no worker is ready; or one per worker, if that is more.
const START_FAILURES_MAX: u32 = 3;
/// Starts that may be ended by SIGKILL, or in an unknown way, in a row while no worker is ready. The signal comes from
/// outside, so a retry is likely to succeed, and needs no pause; but it may be an OOM killer that kills every one.
const START_KILLS_MAX: u32 = 100;
/// How long starts may fail for want of processes, descriptors or memory while no worker is ready. Such a want often
/// passes: another program ends, or closes what it had open.
const SCARCITY_MAX: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How a worker ended, as far as it matters for starting the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By SIGKILL from another process, or in an unknown way together with its server. That predicts nothing about the
    /// next worker.
    Killed,
    /// It was not made for want of processes, descriptors or memory, which other programs may give back at any time.
    Scarcity,
    Other,
}

/// The starts that have failed since a worker last became ready.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    failures: u32,
    /// Starts that were ended by SIGKILL or in an unknown way.
    kills: u32,
    /// Starts that failed for want of something, and when the first of them did.
    shortages: u32,
    scarce_since: Option<Instant>,
    again_at: Option<Instant>,
}

impl Restarts {
    /// A worker became ready.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A start has failed.
    pub(crate) fn failed(&mut self, ending: Ending, now: Instant) {
        match ending {
            Ending::Killed => self.kills = self.kills.saturating_add(1),
            Ending::Scarcity => {
                self.shortages = self.shortages.saturating_add(1);
                self.scarce_since.get_or_insert(now);
                self.pause(self.shortages, now);
            }
            Ending::Other => {
                self.failures = self.failures.saturating_add(1);
                self.pause(self.failures, now);
            }
        }
    }

    fn pause(&mut self, failures: u32, now: Instant) {
        let backoff = BACKOFF_MIN * 2u32.saturating_pow(failures.min(16) - 1);
        self.again_at = Some(now + backoff.min(BACKOFF_MAX));
    }

    /// Whether a pool of `processes` workers, none of which serves, should give up.
    pub(crate) fn are_too_many(&self, processes: usize, now: Instant) -> bool {
        let per_worker = u32::try_from(processes).unwrap_or(u32::MAX);
        self.failures >= START_FAILURES_MAX.max(per_worker)
            || self.kills >= START_KILLS_MAX.max(per_worker)
            || self.scarce_since.is_some_and(|since| now >= since + SCARCITY_MAX)
    }

    /// How many starts have failed in a row.
    pub(crate) fn count(&self) -> u32 {
        self.failures.saturating_add(self.kills).saturating_add(self.shortages)
    }

    /// When the next start may be tried, if not yet.
    pub(crate) fn again_at(&self, now: Instant) -> Option<Instant> {
        self.again_at.filter(|&at| now < at)
    }

    /// When the next start may be tried after the last failure, even if that time has passed.
    pub(crate) fn timer(&self) -> Option<Instant> {
        self.again_at
    }

    /// The time of the next start has come.
    pub(crate) fn clear_timer(&mut self) {
        self.again_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_are_too_many() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        for _ in 0..2 {
            restarts.failed(Ending::Other, now);
            assert!(!restarts.are_too_many(2, now));
        }
        restarts.failed(Ending::Other, now);
        assert!(restarts.are_too_many(2, now));
        assert!(!restarts.are_too_many(4, now), "one try for each worker at least");
    }

    #[test]
    fn a_worker_that_became_ready_resets_the_count() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        restarts.failed(Ending::Other, now);
        restarts.failed(Ending::Killed, now);
        restarts.succeeded();
        assert_eq!((restarts.count(), restarts.timer()), (0, None));
    }

    #[test]
    fn the_pause_doubles_and_a_kill_needs_none() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        restarts.failed(Ending::Killed, now);
        assert_eq!(restarts.again_at(now), None);
        restarts.failed(Ending::Other, now);
        assert_eq!(restarts.again_at(now), Some(now + BACKOFF_MIN));
        restarts.failed(Ending::Other, now);
        assert_eq!(restarts.again_at(now), Some(now + 2 * BACKOFF_MIN));
        (0..100).for_each(|_| restarts.failed(Ending::Other, now));
        assert_eq!(restarts.again_at(now), Some(now + BACKOFF_MAX));
    }

    #[test]
    fn want_of_resources_has_its_time_and_growing_pauses() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let (mut now, mut tries) = (start, 0);
        while !restarts.are_too_many(2, now) {
            restarts.failed(Ending::Scarcity, now);
            now = restarts.again_at(now).unwrap();
            tries += 1;
        }
        assert!(now >= start + SCARCITY_MAX && tries < 60, "{tries} tries");
        restarts.succeeded();
        assert!(!restarts.are_too_many(2, now));
    }
}
