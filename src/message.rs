//! The few messages on a worker's control socket: how it is set up, and that it is ready.
//!
//! These are rare, so they are plain postcard. The parent's bytes are trusted (same build, checked at the hello); the
//! worker's are not: [`parse_report`] takes arbitrary bytes.

use serde::Deserialize;
use serde::Serialize;

use crate::codec;
use crate::function::Definition;

/// The longest message that a worker sends here.
pub(crate) const REPORT_MAX: usize = 8 * 1024;
/// An error text in a report is cut at this length, so that the report fits.
pub(crate) const REPORT_TEXT_MAX: usize = 4 * 1024;

/// The payload of a worker's birth. Its descriptors: the road, then the arguments of the initializer if attached.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) initializer: Option<Initializer>,
}

/// What a worker runs before its first task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Initializer {
    pub(crate) definition: Definition,
    /// `None`: attached as a blob.
    pub(crate) args: Option<Vec<u8>>,
}

/// What a worker says of itself, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// It waits for work.
    Ready,
    /// Its initializer failed; it is about to leave.
    InitializerFailed { message: String },
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::append(message, &mut bytes).expect("our own messages serialize");
    bytes
}

/// What a worker said.
pub(crate) fn parse_report(bytes: &[u8]) -> Result<Report, String> {
    codec::parse(bytes)
}

/// Cuts a text to at most `max` bytes, at a character.
pub(crate) fn cut_text(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_from_its_bytes() {
        let report = Report::InitializerFailed { message: "no".to_owned() };
        assert_eq!(parse_report(&encode(&report)), Ok(report));
    }

    #[test]
    fn noise_is_an_error_and_not_a_report() {
        for noise in [&[][..], &[9], &[1, 255, 255, 255, 255, 15], &[0, 0]] {
            parse_report(noise).unwrap_err();
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut_text("aé".to_owned(), 2), "a");
    }
}
