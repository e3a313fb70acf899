//! Values of users' types, from bytes that claim to be them.

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

/// The first byte says which type the others claim to be.
pub fn value(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 7 {
        0 => decoded::<List>(bytes),
        1 => decoded::<Tree>(bytes),
        2 => decoded::<Sorted>(bytes),
        3 => decoded::<Term>(bytes),
        4 => decoded::<Flat>(bytes),
        5 => decoded::<Texts>(bytes),
        _ => decoded::<Result<Vec<u64>, String>>(bytes),
    }
}

/// What was read is written as something no longer, which comes back as it is. And all of it can be dropped.
fn decoded<T: Serialize + DeserializeOwned + 'static>(bytes: &[u8]) {
    match codec::decode::<T>(bytes) {
        Ok(value) => {
            let written = encoded(&value);
            assert!(written.len() <= bytes.len());
            let again = codec::decode::<T>(&written).expect("it was written a moment ago");
            assert!(encoded(&again) == written);
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
