//! Serialization of the messages between parent and worker: postcard, because they are short and their types are ours.
//!
//! None of these types contains itself, so no bytes make their reader recurse.

use serde::Deserialize;
use serde::Serialize;

/// The bytes of a message, of any length.
///
/// # Panics
///
/// If it does not serialize: every type of ours does.
pub(crate) fn to_vec<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("our own messages serialize")
}

/// The message that [`to_vec`] has encoded in exactly these bytes.
///
/// # Errors
///
/// The text says why the bytes are not a message.
pub(crate) fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

/// The message at the front of these bytes, and the bytes behind it.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_front<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Option<(T, &'de [u8])> {
    postcard::take_from_bytes(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_from_exactly_its_bytes() {
        let message = (7u64, "seven".to_owned());
        let mut bytes = to_vec(&message);
        assert_eq!(parse(&bytes), Ok(message));
        bytes.push(0);
        assert_eq!(parse::<(u64, String)>(&bytes), Err("1 bytes too many".to_owned()));
        assert!(parse::<(u64, String)>(&bytes[..3]).is_err());
    }
}
