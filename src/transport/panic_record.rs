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

/// Cuts a text to at most `max` bytes, at a character, with a mark of the cut at its end.
pub(crate) fn cut_text(text: String, max: usize) -> String {
    match text.len() {
        len if len <= max => text,
        len => cut(&text, len as u64, max),
    }
}

/// A text of `len` bytes, of which only the start is here, as [`cut_text`] would cut it.
pub(crate) fn cut_start(start: &[u8], len: u64) -> String {
    let text = String::from_utf8_lossy(start);
    match start.len() as u64 {
        here if here >= len => text.into_owned(),
        _ => cut(&text, len, start.len()),
    }
}

fn cut(text: &str, len: u64, max: usize) -> String {
    let mark = format!("… [cut: {len} bytes]");
    let mut end = max.saturating_sub(mark.len()).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned() + &mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        let text = "aé".repeat(100);
        assert_eq!(cut_text(text.clone(), 300), text);
        let cut = cut_text(text.clone(), 50);
        assert!(cut.starts_with("aéaéaé") && cut.ends_with("é… [cut: 300 bytes]") && cut.len() <= 50, "{cut}");
        for len in 40..60 {
            let cut = cut_start(&text.as_bytes()[..len], 300);
            assert!(
                cut.starts_with("aéaéaé") && cut.ends_with("… [cut: 300 bytes]") && !cut.contains('\u{fffd}'),
                "{cut}"
            );
        }
        assert_eq!(cut_start(text.as_bytes(), 300), text);
    }
}
