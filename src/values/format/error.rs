//! The error of the format.

use std::fmt;
use std::fmt::Display;

use serde::de;
use serde::ser;

/// Why a value was not written or read: the words of the user's `Serialize` or `Deserialize`, or of the format.
///
/// One pointer, so that results stay small.
#[derive(Debug)]
pub(in crate::values) struct Error(Box<Text>);

#[derive(Debug)]
struct Text(String);

impl Error {
    #[cold]
    pub(super) fn new(text: impl Into<String>) -> Error {
        Error(Box::new(Text(text.into())))
    }

    /// The bytes are not in the format.
    #[cold]
    pub(super) fn malformed() -> Error {
        Error::new("the bytes are not a value")
    }

    #[cold]
    pub(super) fn too_short() -> Error {
        Error::new("the bytes end too early")
    }

    /// The real reason is in the budget of the walk.
    #[cold]
    pub(super) fn too_deep() -> Error {
        Error::new("nested too deeply")
    }

    /// The real reason is in the output.
    #[cold]
    pub(super) fn no_room() -> Error {
        Error::new("there is no room for its bytes")
    }

    pub(in crate::values) fn into_text(self) -> String {
        self.0.0
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.0)
    }
}

impl std::error::Error for Error {}

#[cold]
fn custom(text: &dyn Display) -> Error {
    let text = text.to_string();
    Error::new(if text.is_empty() { "its error has no text".to_owned() } else { text })
}

impl ser::Error for Error {
    fn custom<T: Display>(text: T) -> Error {
        custom(&text)
    }
}

impl de::Error for Error {
    fn custom<T: Display>(text: T) -> Error {
        custom(&text)
    }
}
