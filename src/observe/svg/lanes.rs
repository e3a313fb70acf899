//! The lanes: what ran on each, and what happened to its workers.
//!
//! Runs that are wide enough are drawn one by one. The others are drawn together, as a shade for each column that says how
//! busy the lane was. Both are limited in number: the more there is, the wider a run must be to be drawn by itself, and the
//! wider the columns are.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::parts::class;
use super::parts::escaped;
use super::parts::put;
use super::scale::LEFT;
use super::scale::Scale;
use super::scale::whole;
use crate::observe::event::Departure;
use crate::observe::record::Mark;
use crate::observe::record::Outcome;
use crate::observe::record::Records;
use crate::observe::record::Run;
use crate::observe::record::What;
use crate::observe::report::call_name;
use crate::observe::report::time_text;
use crate::observe::trace::mark_name;
use crate::observe::trace::outcome_name;

/// All lanes together are about so high, unless each would be too low or too high.
const HEIGHT: f64 = 520.0;
const LANE_MIN: f64 = 7.0;
const LANE_MAX: f64 = 28.0;
/// How many runs are drawn one by one, how many shades, and how many marks.
const RUNS_MAX: usize = 900;
const SHADES_MAX: usize = 700;
const MARKS_MAX: usize = 400;
/// The least width of a run that is drawn by itself.
const WIDTH_MIN: f64 = 0.8;
/// A lane that was busy for this share of a column has the next darker shade.
const SHADES: f64 = 5.0;

/// What is drawn together in one column of a lane.
#[derive(Clone, Debug, Default)]
struct Column {
    busy_ns: u64,
    items: u64,
    class: String,
}

/// Neighbouring columns of one shade.
#[derive(Debug)]
struct Shade {
    lane: u32,
    first: usize,
    columns: usize,
    level: u32,
    busy_ns: u64,
    items: u64,
    class: String,
}

struct Layout {
    top: f64,
    pitch: f64,
}

impl Layout {
    fn y(&self, lane: u32) -> f64 {
        self.top + self.pitch * f64::from(lane)
    }

    fn height(&self) -> f64 {
        self.pitch * 0.8
    }

    fn middle(&self, lane: u32) -> f64 {
        self.y(lane) + self.height() / 2.0
    }
}

/// Draws the lanes; returns where they end.
pub(super) fn draw(svg: &mut String, records: &Records, scale: &Scale, top: f64) -> f64 {
    let lanes = records.lanes();
    let pitch = (HEIGHT / f64::from(lanes.max(1))).clamp(LANE_MIN, LANE_MAX);
    let layout = Layout { top, pitch };
    draw_rows(svg, lanes, scale, &layout);
    draw_lives(svg, records, scale, &layout);
    draw_runs(svg, records, scale, &layout);
    draw_marks(svg, records, scale, &layout);
    layout.y(lanes)
}

fn draw_rows(svg: &mut String, lanes: u32, scale: &Scale, layout: &Layout) {
    // A number for each lane needs some room.
    let every = whole((13.0 / layout.pitch).ceil());
    for lane in 0..lanes {
        let (y, height) = (layout.y(lane), layout.height());
        put!(
            svg,
            "<rect class=\"row\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.0}\" height=\"{height:.1}\"/>",
            scale.plot()
        );
        if lane % every == 0 {
            let name = if layout.pitch < 16.0 { format!("{lane}") } else { format!("lane {lane}") };
            put!(
                svg,
                "<text class=\"end\" x=\"{:.0}\" y=\"{:.1}\">{name}</text>",
                LEFT - 8.0,
                layout.middle(lane) + 4.0
            );
        }
    }
    svg.push('\n');
}

/// When each worker was starting, and when it was ready.
fn draw_lives(svg: &mut String, records: &Records, scale: &Scale, layout: &Layout) {
    let mut lives: BTreeMap<(u32, u32), [Option<u64>; 3]> = BTreeMap::new();
    for Mark { at, lane, pid, what } in records.marks.iter().take(20 * MARKS_MAX) {
        let life = lives.entry((*lane, *pid)).or_default();
        match what {
            What::Started => life[0] = Some(*at),
            What::Up => life[1] = Some(*at),
            What::Gone(_) => life[2] = Some(*at),
            What::Retried { .. } | What::Slow { .. } => {}
        }
    }
    for ((lane, pid), [started, up, gone]) in lives.into_iter().take(2 * MARKS_MAX) {
        let end = gone.unwrap_or(records.to);
        let mut bar = |class: &str, from: u64, to: u64, name: &str| {
            let (x, width) = (scale.x(from), scale.width(to.saturating_sub(from)));
            if width >= 0.3 {
                let y = layout.middle(lane) - 1.5;
                put!(
                    svg,
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"3\">\
                     <title>process {pid}: {name}, {}</title></rect>",
                    time_text(to.saturating_sub(from)),
                );
            }
        };
        if let Some(started) = started {
            bar("start", started, up.unwrap_or(end), "starting");
        }
        if let Some(up) = up {
            bar("life", up, end, "ready");
        }
    }
    svg.push('\n');
}

fn draw_runs(svg: &mut String, records: &Records, scale: &Scale, layout: &Layout) {
    let is_wide = |run: &&Run, width: f64| scale.width(run.to - run.from) >= width;
    let widths = std::iter::successors(Some(WIDTH_MIN), |width| Some(width * 1.5));
    let counted = |width: f64| records.runs.iter().filter(|run| is_wide(run, width)).count();
    let width_min = widths.into_iter().find(|&width| counted(width) <= RUNS_MAX).unwrap_or(WIDTH_MIN);
    let (wide, narrow): (Vec<&Run>, Vec<&Run>) = records.runs.iter().partition(|run| is_wide(run, width_min));
    let columns = std::iter::successors(Some(1.0), |width| Some(width * 2.0));
    let shades = columns.map(|width| (width, shades(&narrow, records, scale, width)));
    let (column, shades) = shades.into_iter().find(|(_, shades)| shades.len() <= SHADES_MAX).expect("one at last");
    for shade in shades {
        let (x, width) = (LEFT + column * shade.first as f64, column * shade.columns as f64);
        put!(
            svg,
            "<rect class=\"{}\" x=\"{x:.0}\" y=\"{:.1}\" width=\"{:.0}\" height=\"{:.1}\" fill-opacity=\"{:.1}\">\
             <title>{} items, {} on average</title></rect>",
            shade.class,
            layout.y(shade.lane),
            width.min(LEFT + scale.plot() - x).max(0.0),
            layout.height(),
            f64::from(shade.level) / SHADES,
            shade.items,
            time_text(shade.busy_ns / shade.items.max(1)),
        );
    }
    svg.push('\n');
    for run in wide {
        draw_run(svg, run, records, scale, layout);
    }
    svg.push('\n');
}

fn draw_run(svg: &mut String, run: &Run, records: &Records, scale: &Scale, layout: &Layout) {
    let took = run.to - run.from;
    let what = match run.items {
        1 => format!("item {}: {}", run.first, time_text(took)),
        items => {
            let last = run.first + u64::from(items) - 1;
            format!("items {} to {last}: {}, {} each", run.first, time_text(took), time_text(took / u64::from(items)))
        }
    };
    let outcome = if run.outcome == Outcome::Value { "" } else { outcome_name(run.outcome) };
    let separator = if outcome.is_empty() { "" } else { ", " };
    let name = call_name(run.call, records.label(run.call));
    put!(
        svg,
        "<rect class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
        class(run.outcome, run.call, records),
        scale.x(run.from),
        layout.y(run.lane),
        (scale.width(took) - 0.3).max(0.5),
        layout.height(),
        escaped(&format!("{name}, {what}{separator}{outcome}, process {}", run.pid)),
    );
}

/// The narrow runs, by columns of this width.
fn shades(narrow: &[&Run], records: &Records, scale: &Scale, width: f64) -> Vec<Shade> {
    let mut columns: BTreeMap<(u32, usize), Column> = BTreeMap::new();
    for run in narrow {
        let place = whole((scale.x(run.from) - LEFT) / width) as usize;
        let column = columns.entry((run.lane, place)).or_default();
        column.busy_ns += run.to - run.from;
        column.items += u64::from(run.items);
        // What went wrong is seen, however little it is.
        if column.class.is_empty() || run.outcome != Outcome::Value {
            column.class = class(run.outcome, run.call, records);
        }
    }
    let column_ns = width * (records.to.saturating_sub(records.from)) as f64 / scale.plot();
    let mut shades: Vec<Shade> = Vec::new();
    for ((lane, place), column) in columns {
        let level = whole((SHADES * column.busy_ns as f64 / column_ns.max(1.0)).ceil().clamp(1.0, SHADES));
        match shades.last_mut() {
            Some(last)
                if (last.lane, last.first + last.columns) == (lane, place)
                    && (last.level, last.class.as_str()) == (level, column.class.as_str()) =>
            {
                last.columns += 1;
                last.busy_ns += column.busy_ns;
                last.items += column.items;
            }
            _ => {
                let Column { busy_ns, items, class } = column;
                shades.push(Shade { lane, first: place, columns: 1, level, busy_ns, items, class });
            }
        }
    }
    shades
}

fn shape(how: Departure) -> Option<&'static str> {
    match how {
        Departure::Died(_) => Some("died"),
        Departure::TimedOut => Some("timed-out"),
        Departure::Spoilt => Some("spoilt"),
        Departure::Cancelled => Some("cancelled"),
        Departure::Recycled => Some("recycled"),
        Departure::Stopped => None,
    }
}

fn draw_marks(svg: &mut String, records: &Records, scale: &Scale, layout: &Layout) {
    let ends = |mark: &&Mark| match mark.what {
        What::Gone(how) => shape(how).is_some(),
        _ => false,
    };
    let mut marks: Vec<&Mark> = records.marks.iter().filter(ends).collect();
    // Planned ends give way to the others if there are too many.
    marks.sort_by_key(|mark| mark.what == What::Gone(Departure::Recycled));
    marks.truncate(MARKS_MAX);
    for mark in marks {
        let What::Gone(how) = mark.what else { continue };
        let Some(shape) = shape(how) else { continue };
        put!(
            svg,
            "<use href=\"#{shape}\" x=\"{:.1}\" y=\"{:.1}\"><title>process {}: {}, at {:.3} s</title></use>",
            scale.x(mark.at),
            layout.middle(mark.lane),
            mark.pid,
            escaped(&mark_name(mark.what)),
            records.seconds(mark.at),
        );
    }
    svg.push('\n');
}
