//! The calls: bars above the lanes, so many rows as fit.

use std::fmt::Write;

use super::parts::call_class;
use super::parts::escaped;
use super::parts::put;
use super::scale::LEFT;
use super::scale::Scale;
use super::scale::whole;
use crate::observe::record::CallSpan;
use crate::observe::record::Records;
use crate::observe::report::call_name;
use crate::observe::report::time_text;

const ROWS_MAX: usize = 4;
const ROW_HEIGHT: f64 = 16.0;
/// The longest are drawn.
const CALLS_MAX: usize = 200;

/// Draws the calls; returns where they end.
pub(super) fn draw(svg: &mut String, records: &Records, scale: &Scale, top: f64) -> f64 {
    let length = |call: &CallSpan| call.to.unwrap_or(records.to).saturating_sub(call.from);
    let mut calls: Vec<&CallSpan> = records.calls.iter().collect();
    calls.sort_by_key(|call| std::cmp::Reverse(length(call)));
    calls.truncate(CALLS_MAX);
    calls.sort_by_key(|call| call.from);
    let mut rows = [0.0; ROWS_MAX];
    let mut used = 0;
    for call in calls {
        let (x, width) = (scale.x(call.from), scale.width(length(call)).max(1.0));
        let Some(row) = rows.iter().position(|&end| end <= x) else { continue };
        rows[row] = x + width;
        used = used.max(row + 1);
        let y = top + ROW_HEIGHT * row as f64;
        let name = call_name(call.call, call.label.as_ref());
        let outcome = match call.to {
            Some(_) => format!("{} items, {} errors", call.items, call.errors),
            None => "unfinished".to_owned(),
        };
        put!(
            svg,
            "<rect class=\"{}\" x=\"{x:.1}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{}\" fill-opacity=\".35\">\
             <title>{}: {}, {outcome}</title></rect>",
            call_class(call.call, records),
            ROW_HEIGHT - 2.0,
            escaped(&name),
            time_text(length(call)),
        );
        let room = whole(width / 7.0) as usize;
        if room >= 4 {
            let shown: String = name.chars().take(room).collect();
            put!(svg, "<text x=\"{:.1}\" y=\"{:.0}\">{}</text>", x + 4.0, y + 11.0, escaped(&shown));
        }
        svg.push('\n');
    }
    if used > 0 {
        put!(svg, "<text class=\"end\" x=\"{:.0}\" y=\"{:.0}\">calls</text>\n", LEFT - 8.0, top + 11.0);
    }
    top + ROW_HEIGHT * used as f64
}
