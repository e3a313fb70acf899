//! What all parts of the picture are written with: text as XML, and the classes of items.

use crate::observe::record::Outcome;
use crate::observe::record::Records;

/// Text as XML. Control characters, which XML has no place for, become spaces.
pub(super) fn escaped(text: &str) -> String {
    let mut xml = String::new();
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            c if c.is_control() => xml.push(' '),
            c => xml.push(c),
        }
    }
    xml
}

/// Appends formatted text.
macro_rules! put {
    ($svg:expr, $($format:tt)+) => {
        write!($svg, $($format)+).expect("a string takes any text")
    };
}
pub(super) use put;

/// The class of items by their outcome, or else of their call.
pub(super) fn class(outcome: Outcome, call: u64, records: &Records) -> String {
    match outcome {
        Outcome::Failed => "failed".to_owned(),
        Outcome::Lost => "lost".to_owned(),
        Outcome::TimedOut => "late".to_owned(),
        Outcome::Cancelled => "cut".to_owned(),
        Outcome::Value => call_class(call, records),
        Outcome::Running => format!("{} runs", call_class(call, records)),
    }
}

pub(super) fn call_class(call: u64, records: &Records) -> String {
    let place = records.calls.binary_search_by_key(&call, |span| span.call).unwrap_or(0);
    format!("c{}", place % 6)
}
