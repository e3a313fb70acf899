//! Values of users' types, from arbitrary bytes.

use std::collections::BTreeMap;
use std::num::NonZero;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::values::codec;
use crate::values::output::Output;

#[derive(Serialize, Deserialize)]
struct List {
    value: u8,
    next: Option<Box<List>>,
}

#[derive(Serialize, Deserialize)]
struct Tree(Vec<Tree>);

#[derive(Serialize, Deserialize)]
struct Sorted(BTreeMap<u8, Sorted>);

#[derive(Serialize, Deserialize)]
enum Term {
    Zero,
    Not(Box<Term>),
    Both(u8, Box<Term>),
    Call { name: String, of: Vec<Term> },
}

type Flat = (u64, i32, Option<f64>, char, bool, [u8; 3], NonZero<u16>);
type Texts = (String, Vec<String>, BTreeMap<String, u32>);

/// The first byte selects the type that the others are decoded as.
pub fn value(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 7 {
        0 => assert_round_trip::<List>(bytes),
        1 => assert_round_trip::<Tree>(bytes),
        2 => assert_round_trip::<Sorted>(bytes),
        3 => assert_round_trip::<Term>(bytes),
        4 => assert_round_trip::<Flat>(bytes),
        5 => assert_round_trip::<Texts>(bytes),
        _ => assert_round_trip::<Result<Vec<u64>, String>>(bytes),
    }
}

/// A value that decodes encodes to at most as many bytes, which decode to the same. And it can be dropped.
fn assert_round_trip<T: Serialize + DeserializeOwned + 'static>(bytes: &[u8]) {
    match codec::decode::<T>(bytes) {
        Ok(value) => {
            let encoding = encoded(&value);
            assert!(encoding.len() <= bytes.len());
            let again = codec::decode::<T>(&encoding).expect("it was encoded a moment ago");
            assert!(encoded(&again) == encoding);
        }
        Err(error) => assert!(!error.is_empty() && !error.starts_with("panic"), "{error}"),
    }
}

fn encoded<T: Serialize + 'static>(value: &T) -> Vec<u8> {
    let mut output = Output::default();
    codec::encode(value, &mut output).expect("what was read can be written");
    match output.fits_a_frame() {
        true => output.into_bytes(),
        false => output.take_blob().and_then(|blob| blob.read()).expect("there is memory").to_vec(),
    }
}
