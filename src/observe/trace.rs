//! A timeline as JSON in the Trace Event Format, which Perfetto and chrome://tracing read.

use std::fmt::Write;

use crate::observe::event::Departure;
use crate::observe::record::Outcome;
use crate::observe::record::Records;
use crate::observe::record::What;
use crate::observe::report::call_name;

/// Text as a JSON string.
fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if u32::from(c) < 0x20 => write!(json, "\\u{:04x}", u32::from(c)).expect("a string takes any text"),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

pub(crate) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Value => "value",
        Outcome::Failed => "failed",
        Outcome::Lost => "lost",
        Outcome::TimedOut => "timed out",
        Outcome::Cancelled => "cancelled",
        Outcome::Running => "still running",
    }
}

pub(crate) fn mark_name(what: What) -> String {
    match what {
        What::Started => "started".to_owned(),
        What::Up => "ready".to_owned(),
        What::Gone(Departure::Stopped) => "stopped".to_owned(),
        What::Gone(Departure::Recycled) => "recycled".to_owned(),
        What::Gone(Departure::Died(Some(status))) => format!("died: {status}"),
        What::Gone(Departure::Died(None)) => "died".to_owned(),
        What::Gone(Departure::TimedOut) => "killed at the time limit of its item".to_owned(),
        What::Gone(Departure::Cancelled) => "killed with its cancelled item".to_owned(),
        What::Gone(Departure::Spoilt) => "replaced because a task had spoilt its connection".to_owned(),
        What::Retried { call, index } => format!("item {index} of call {call} is run again"),
        What::Slow { call, index } => format!("item {index} of call {call} is slow"),
    }
}

/// The JSON.
pub(crate) fn write(records: &Records) -> String {
    let micros = |at: u64| at.saturating_sub(records.from) as f64 / 1e3;
    let mut events = vec![r#"{"ph":"M","pid":1,"name":"process_name","args":{"name":"procpool"}}"#.to_owned()];
    for lane in 0..records.lanes() {
        let name = format!(r#"{{"ph":"M","pid":1,"tid":{lane},"name":"thread_name","args":{{"name":"lane {lane}"}}}}"#);
        events.push(name);
    }
    for run in &records.runs {
        let name = quoted(&call_name(run.call, records.label(run.call)));
        let (from, took, outcome) = (micros(run.from), (run.to - run.from) as f64 / 1e3, outcome_name(run.outcome));
        events.push(format!(
            r#"{{"ph":"X","pid":1,"tid":{},"name":{name},"ts":{from:.3},"dur":{took:.3},"args":{{"first item":{},"items":{},"outcome":"{outcome}","process":{},"exact":{}}}}}"#,
            run.lane, run.first, run.items, run.pid, run.is_exact,
        ));
    }
    for mark in &records.marks {
        let (name, at) = (quoted(&mark_name(mark.what)), micros(mark.at));
        events.push(format!(
            r#"{{"ph":"i","s":"t","pid":1,"tid":{},"name":{name},"ts":{at:.3},"args":{{"process":{}}}}}"#,
            mark.lane, mark.pid,
        ));
    }
    for call in &records.calls {
        let (name, from) = (quoted(&call_name(call.call, call.label.as_ref())), micros(call.from));
        let to = micros(call.to.unwrap_or(records.to));
        let id = call.call;
        events.push(format!(r#"{{"ph":"b","cat":"call","id":{id},"pid":1,"tid":0,"name":{name},"ts":{from:.3}}}"#));
        events.push(format!(r#"{{"ph":"e","cat":"call","id":{id},"pid":1,"tid":0,"name":{name},"ts":{to:.3}}}"#));
    }
    for depth in &records.depths {
        let (at, queued, held) = (micros(depth.at), depth.queued, depth.held);
        events.push(format!(
            r#"{{"ph":"C","pid":1,"name":"items","ts":{at:.3},"args":{{"queued":{queued},"held by workers":{held}}}}}"#
        ));
    }
    format!("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n", events.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample;

    #[test]
    fn a_trace_is_json_with_every_run_mark_and_call() {
        let records = sample::records();
        let trace: serde_json::Value = serde_json::from_str(&write(&records)).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let count = |phase: &str| events.iter().filter(|event| event["ph"] == phase).count();
        assert_eq!(count("X"), records.runs.len());
        assert_eq!(count("i"), records.marks.len());
        assert_eq!((count("b"), count("e")), (records.calls.len(), records.calls.len()));
        assert_eq!(count("C"), records.depths.len());
        let labelled =
            events.iter().find(|event| event["name"] == "resize \"a\" & <b>\n").expect("the label, unharmed");
        assert_eq!((&labelled["ts"], &labelled["dur"]), (&serde_json::json!(10_000.0), &serde_json::json!(20_000.0)));
    }
}
