//! A timeline as text: the slowest items, and how each lane spent its time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::observe::event::Departure;
use crate::observe::record::Outcome;
use crate::observe::record::Records;
use crate::observe::record::What;

/// A report on a timeline, from [`Timeline::report`](crate::Timeline::report).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// How long the pool has been recorded.
    pub time: Duration,
    /// The slowest items whose own time is known, the slowest first.
    pub slowest: Vec<Slow>,
    /// The lanes, in order.
    pub lanes: Vec<LaneReport>,
    /// Runs of items that were dropped because the record was full. The report is on what came after them.
    pub dropped: u64,
}

/// A slow item.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Slow {
    /// The number of its call.
    pub call: u64,
    /// The label of its call.
    pub label: Option<Arc<str>>,
    /// Its position in the input of the call.
    pub index: u64,
    /// The process that ran it.
    pub pid: u32,
    /// The lane of that process.
    pub lane: u32,
    /// How long it ran. One that still runs has run for so long.
    pub took: Duration,
}

/// How one lane spent its time.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct LaneReport {
    /// The lane.
    pub lane: u32,
    /// Items that ran on it.
    pub items: u64,
    /// How long it ran items.
    pub working: Duration,
    /// How long a process was starting on it, initializer included, and none was ready.
    pub starting: Duration,
    /// The rest of the time.
    pub waiting: Duration,
    /// Workers that it had.
    pub workers: u32,
    /// How many of them died unasked.
    pub died: u32,
}

/// When a lane had no worker that was ready, and one that was starting.
fn starting_ns(records: &Records, lane: u32) -> u64 {
    let (mut up, mut starting) = (0i64, 0i64);
    let (mut total, mut since) = (0, None);
    for mark in records.marks.iter().filter(|mark| mark.lane == lane) {
        match mark.what {
            What::Started => starting += 1,
            What::Up => (up, starting) = (up + 1, starting - 1),
            // One that never became ready leaves those that start.
            What::Gone(_) if up > 0 => up -= 1,
            What::Gone(_) => starting = (starting - 1).max(0),
            What::Retried { .. } | What::Slow { .. } => {}
        }
        match (since, up == 0 && starting > 0) {
            (None, true) => since = Some(mark.at),
            (Some(from), false) => {
                total += mark.at.saturating_sub(from);
                since = None;
            }
            _ => {}
        }
    }
    total + since.map_or(0, |from| records.to.saturating_sub(from))
}

/// Makes the report.
pub(crate) fn make(records: &Records, slowest: usize) -> Report {
    let time = records.to.saturating_sub(records.from);
    let mut lanes: BTreeMap<u32, LaneReport> =
        (0..records.lanes()).map(|lane| (lane, LaneReport { lane, ..LaneReport::default() })).collect();
    for run in &records.runs {
        let Some(lane) = lanes.get_mut(&run.lane) else { continue };
        lane.items += u64::from(run.items) * u64::from(run.outcome != Outcome::Running);
        lane.working += Duration::from_nanos(run.to - run.from);
    }
    for mark in &records.marks {
        let Some(lane) = lanes.get_mut(&mark.lane) else { continue };
        lane.workers += u32::from(mark.what == What::Started);
        lane.died += u32::from(matches!(mark.what, What::Gone(Departure::Died(_))));
    }
    let lanes = lanes.into_values().map(|lane| {
        let starting = Duration::from_nanos(starting_ns(records, lane.lane));
        let waiting = Duration::from_nanos(time).saturating_sub(lane.working + starting);
        LaneReport { starting, waiting, ..lane }
    });
    let slowest = records.slowest(slowest).into_iter().map(|run| Slow {
        call: run.call,
        label: records.label(run.call).cloned(),
        index: run.first,
        pid: run.pid,
        lane: run.lane,
        took: Duration::from_nanos(run.to - run.from),
    });
    Report {
        time: Duration::from_nanos(time),
        slowest: slowest.collect(),
        lanes: lanes.collect(),
        dropped: records.runs_dropped,
    }
}

/// A call by its label, or else by its number.
pub(crate) fn call_name(call: u64, label: Option<&Arc<str>>) -> String {
    label.map_or_else(|| format!("call {call}"), |label| label.to_string())
}

/// A time with three digits, in the unit that suits it.
pub(crate) fn time_text(ns: u64) -> String {
    let (unit, name) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (1e3, "µs"),
        1_000_000..1_000_000_000 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    let value = ns as f64 / unit;
    match value {
        ..10.0 => format!("{value:.2} {name}"),
        ..100.0 => format!("{value:.1} {name}"),
        _ => format!("{value:.0} {name}"),
    }
}

fn text(time: Duration) -> String {
    time_text(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: u64 = self.lanes.iter().map(|lane| lane.items).sum();
        writeln!(f, "{items} items on {} lanes in {}", self.lanes.len(), text(self.time))?;
        writeln!(f, "lane      items   working  starting   waiting  workers  died")?;
        let share = |time: Duration| {
            let share = 100.0 * time.as_secs_f64() / self.time.as_secs_f64().max(1e-9);
            format!("{share:.1}%")
        };
        for LaneReport { lane, items, working, starting, waiting, workers, died } in &self.lanes {
            let (working, starting, waiting) = (share(*working), share(*starting), share(*waiting));
            writeln!(f, "{lane:>4} {items:>10} {working:>9} {starting:>9} {waiting:>9} {workers:>8} {died:>5}")?;
        }
        if !self.slowest.is_empty() {
            writeln!(f, "slowest items:")?;
        }
        for Slow { call, label, index, pid, lane, took } in &self.slowest {
            let name = call_name(*call, label.as_ref());
            writeln!(f, "{:>12}  item {index} of {name}, lane {lane}, process {pid}", text(*took))?;
        }
        match self.dropped {
            0 => Ok(()),
            dropped => writeln!(f, "{dropped} older runs were dropped, since the record was full"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample;

    #[test]
    fn a_report_is_a_table() {
        let report = make(&sample::records(), 3);
        assert_eq!(report.to_string(), sample::REPORT);
        let total = report.lanes.iter().map(|lane| lane.working + lane.waiting + lane.starting);
        assert!(total.into_iter().all(|sum| sum == report.time));
    }

    #[test]
    fn times_have_three_digits() {
        let texts = [7, 1_234, 45_600, 789_000, 1_000_000, 12_345_678, 5_000_000_000].map(time_text);
        assert_eq!(texts, ["7 ns", "1.23 µs", "45.6 µs", "789 µs", "1.00 ms", "12.3 ms", "5.00 s"]);
    }
}
