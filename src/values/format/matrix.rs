//! serde's attributes × forms of structs and enums × types of fields, each sent through this format and through JSON.
//!
//! JSON describes itself, and is what users try their types with. So wherever the way through JSON ends in a value, the
//! way through this format must end in the same value or, where JSON loses something (`Some(None)`), in the original.
//! Where JSON fails, it must end in the original or in an error. There is one exception: [`is_too_large_for_a_buffer`].

use std::fmt::Debug;
use std::net::IpAddr;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::values::codec::decode;
use crate::values::codec::encode;
use crate::values::output::Output;

mod enums;
mod structs;

/// What every value of the matrix can do.
trait Value: Clone + Debug + PartialEq + Serialize + DeserializeOwned + 'static {}
impl<T: Clone + Debug + PartialEq + Serialize + DeserializeOwned + 'static> Value for T {}

fn ours<T: Value>(value: &T) -> Result<T, String> {
    let mut output = Output::default();
    encode(value, &mut output)?;
    decode(&output.into_bytes())
}

fn json<T: Value>(value: &T) -> Result<T, String> {
    serde_json::from_str(&text(value)?).map_err(|error| error.to_string())
}

fn text<T: Value>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

/// Where this format has an error and JSON a value: serde's buffers take no numbers of 128 bits. This format passes them
/// as numbers of 64 bits if they are small enough. JSON passes large ones as floats, so what it makes of them is wrong.
fn is_too_large_for_a_buffer(error: &str) -> bool {
    error.contains("as i128")
}

/// Checks all values of one form.
fn check_form<T: Value>(form: &str, values: Vec<T>) {
    for value in &values {
        // From the second time on structs are written by position.
        (1..=3).for_each(|time| check(form, time, value));
    }
}

fn check<T: Value>(form: &str, time: u32, value: &T) {
    match (ours(value), json(value)) {
        (Ok(here), Ok(there)) => assert!(
            here == *value || text(&here) == text(&there),
            "{form}, {time}: {value:?} became {here:?}, and in JSON {there:?}"
        ),
        (Ok(here), Err(_)) => assert_eq!(here, *value, "{form}, {time}"),
        (Err(_), Err(_)) => {}
        (Err(error), Ok(_)) => {
            assert!(is_too_large_for_a_buffer(&error), "{form}, {time}: {value:?}: {error}");
        }
    }
}

/// All forms, with this type of fields.
fn check_all<F: Value + Default>(f: F) {
    structs::check_all(&f);
    enums::check_all(&f);
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Plain {
    #[default]
    Unit,
    Newtype(u8),
    Tuple(u8, String),
    Struct {
        x: i16,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Pair {
    left: u8,
    right: Option<(f64, String)>,
}

macro_rules! fields {
    ($($test:ident: $($value:expr),*;)*) => {
        $(#[test]
        fn $test() {
            [$($value),*].into_iter().for_each(check_all);
        })*
    };
}

fields! {
    numbers_travel_as_through_json: 7u64, u64::MAX;
    large_numbers_travel_as_through_json: 7i128, -1i128, i128::MAX;
    texts_travel_as_through_json: "text".to_owned(), String::new();
    options_travel_as_through_json: None::<Option<Vec<u16>>>, Some(None), Some(Some(vec![1, 2]));
    enums_travel_as_through_json: Plain::Unit, Plain::Newtype(1), Plain::Tuple(1, "x".to_owned()), Plain::Struct { x: -1 };
    structs_travel_as_through_json: Pair { left: 1, right: None }, Pair { left: 1, right: Some((0.5, "x".to_owned())) };
    any_json_travels_as_through_json: serde_json::json!({"a": [1, -2, 0.5, "x", null, true, {"b": {}}]}), serde_json::Value::Null;
    addresses_travel_as_through_json: Address(IpAddr::from([1, 2, 3, 4]));
}

/// Written as text or as bytes, as the format says it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Address(IpAddr);

impl Default for Address {
    fn default() -> Address {
        Address(IpAddr::from([0; 4]))
    }
}
