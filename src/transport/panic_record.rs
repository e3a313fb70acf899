//! A panic as a worker reports it to the parent.

use serde::Deserialize;
use serde::Serialize;

/// A panic, on its way to the parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PanicRecord {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
    pub(crate) thread: Option<String>,
    pub(crate) backtrace: Option<String>,
}

impl PanicRecord {
    /// `", at file:line:column"`, if the hook has seen it.
    pub(crate) fn place(&self) -> String {
        self.location.as_ref().map(|location| format!(", at {location}")).unwrap_or_default()
    }
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
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut_text("aé".to_owned(), 2), "a");
    }
}
