//! The message of a panic, extracted from its payload.

use std::any::Any;

/// The text that a panic was raised with, or `"Box<dyn Any>"`, as the standard library prints it.
pub(crate) fn text(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "Box<dyn Any>".to_owned(),
    }
}

/// As [`text`]. The payload is leaked: its `Drop` is user code, and may panic again.
pub(crate) fn into_text(payload: Box<dyn Any + Send>) -> String {
    let text = text(payload.as_ref());
    std::mem::forget(payload);
    text
}
