//! Values to bytes and back: the only file that names the serializer (postcard, by way of serde), but for
//! [`explain`], which is asked why a value did not go through.
//!
//! The user's `Serialize` and `Deserialize` run in here, and may panic. [`encode`] and [`decode`] turn that into an
//! error like any other, because one bad value must not take a job, let alone the parent, with it.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::Deserialize;

use crate::explain;

/// Appends to a vector, so that items are encoded where they will stay.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends the bytes of `value`; after an error `bytes` is as it was. A panic passes through.
pub(crate) fn append<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) -> Result<(), String> {
    let start = bytes.len();
    postcard::serialize_with_flavor(value, Append(bytes)).map_err(|error| {
        // First, because asking for the reason runs the user's code again, and may panic.
        bytes.truncate(start);
        // Any other error is the format's own: the value has said nothing that could be asked for.
        let custom = match error {
            postcard::Error::SerdeSerCustom => explain::why_not_encoded(value),
            _ => None,
        };
        custom.unwrap_or_else(|| explain::in_words(&error))
    })
}

/// Appends the bytes of `value`; after an error, or a panic in `Serialize`, `bytes` is as it was.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) -> Result<(), String> {
    let start = bytes.len();
    // The vector is cut back below, so nobody sees what the panic left half done.
    let result = catch_unwind(AssertUnwindSafe(|| append(value, bytes)));
    result.unwrap_or_else(|payload| {
        bytes.truncate(start);
        Err(format!("panic in Serialize: {}", payload_text(payload)))
    })
}

/// The value of exactly these bytes. A panic passes through.
pub(crate) fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
        Err(error) => {
            let custom = match error {
                postcard::Error::SerdeDeCustom => explain::why_not_decoded::<T>(bytes),
                _ => None,
            };
            Err(custom.unwrap_or_else(|| explain::in_words(&error)))
        }
    }
}

/// The value of exactly these bytes; a panic in `Deserialize` is an error.
pub(crate) fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, String> {
    // `T` is not seen again after a panic.
    catch_unwind(AssertUnwindSafe(|| parse(bytes)))
        .unwrap_or_else(|payload| Err(format!("panic in Deserialize: {}", payload_text(payload))))
}

/// What a panic said. The payload is leaked: its `Drop` is the user's, and may panic again.
pub(crate) fn payload_text(payload: Box<dyn Any + Send>) -> String {
    let text = match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "Box<dyn Any>".to_owned(),
    };
    std::mem::forget(payload);
    text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZero;

    use serde::Serializer;
    use serde::ser::Error as _;

    use super::*;

    struct Bad;

    impl Serialize for Bad {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("not today")
        }
    }

    #[test]
    fn a_value_comes_back_from_its_bytes() {
        let mut bytes = vec![9];
        encode(&(7u64, "seven".to_owned()), &mut bytes).unwrap();
        assert_eq!(decode::<(u64, String)>(&bytes[1..]).unwrap(), (7, "seven".to_owned()));
    }

    #[test]
    fn bytes_too_many_are_an_error() {
        assert_eq!(decode::<u8>(&[1, 2]), Err("1 bytes too many".to_owned()));
    }

    #[test]
    fn a_panic_in_serialize_leaves_the_buffer_as_it_was() {
        let mut bytes = vec![1, 2, 3];
        let error = encode(&(1u64, Bad), &mut bytes).unwrap_err();
        assert_eq!(error, "panic in Serialize: not today");
        assert_eq!(bytes, [1, 2, 3]);
    }

    /// Fails when it is written for the first time, and panics from then on.
    struct Worse(Cell<bool>);

    impl Serialize for Worse {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            assert!(!self.0.replace(true), "not again");
            Err(S::Error::custom("not today"))
        }
    }

    #[test]
    fn a_panic_of_a_value_that_is_asked_why_is_like_any_other() {
        let mut bytes = vec![1, 2, 3];
        let error = encode(&(1u64, Worse(Cell::new(false))), &mut bytes).unwrap_err();
        assert_eq!(error, "panic in Serialize: not again");
        assert_eq!(bytes, [1, 2, 3]);
    }

    struct Refusing;

    impl Serialize for Refusing {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("will not be written"))
        }
    }

    #[test]
    fn the_words_of_a_value_are_the_message() {
        let mut bytes = vec![1, 2, 3];
        assert_eq!(append(&(1u64, Refusing), &mut bytes), Err("will not be written".to_owned()));
        assert_eq!(encode(&(1u64, Refusing), &mut bytes), Err("will not be written".to_owned()));
        assert_eq!(bytes, [1, 2, 3]);
        let zero = "invalid value: integer `0`, expected a nonzero u8";
        assert_eq!(parse::<NonZero<u8>>(&[0]), Err(zero.to_owned()));
        assert_eq!(decode::<NonZero<u8>>(&[0]), Err(zero.to_owned()));
    }

    #[test]
    fn without_words_of_the_value_the_message_is_of_the_format() {
        let error = decode::<(u8, String)>(&[1]).unwrap_err();
        assert!(error.starts_with("the bytes end too early"), "{error}");
        assert!(error.contains("Hit the end of buffer"), "{error}");
    }
}
