//! Values of users' types, from arbitrary bytes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
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
/// Serde reads these three through its own buffers.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    Both { left: Box<Untagged>, right: Option<Box<Untagged>> },
    Many(Vec<Untagged>),
    Term(Term),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    None,
    Inner(Flattened),
    List { list: List },
}

#[derive(Serialize, Deserialize)]
struct Flattened {
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u8>,
    #[serde(flatten)]
    rest: BTreeMap<String, Untagged>,
}

/// Runs, blocks, and their elements one by one.
type Numbers = (Vec<u16>, VecDeque<u16>, BTreeSet<i64>, Vec<bool>, Box<[f32]>, Vec<[u8; 2]>);

type Texts = (String, Vec<String>, BTreeMap<String, u32>);

/// The first byte selects the type that the others are decoded as.
pub fn value(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 11 {
        0 => assert_round_trip::<List>(bytes),
        1 => assert_round_trip::<Tree>(bytes),
        2 => assert_round_trip::<Sorted>(bytes),
        3 => assert_round_trip::<Term>(bytes),
        4 => assert_round_trip::<Flat>(bytes),
        5 => assert_round_trip::<Texts>(bytes),
        6 => assert_round_trip::<Result<Vec<u64>, String>>(bytes),
        7 => assert_round_trip::<Untagged>(bytes),
        8 => assert_round_trip::<Tagged>(bytes),
        9 => assert_round_trip::<Flattened>(bytes),
        _ => assert_round_trip::<Numbers>(bytes),
    }
}

/// A value that decodes encodes to bytes that decode to the same. And it can be dropped.
pub(super) fn assert_round_trip<T: Serialize + DeserializeOwned + 'static>(bytes: &[u8]) {
    match codec::decode::<T>(bytes) {
        Ok(value) => {
            let encoding = encoded(&value);
            let again = codec::decode::<T>(&encoding).expect("it was encoded a moment ago");
            // From the second time on, structs are written by position.
            let encoding = encoded(&again);
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

/// Values with which a fuzzer may begin: for each, a name, the number of its type, and its bytes.
#[cfg(test)]
pub(super) fn samples() -> Vec<(&'static str, u8, Vec<u8>)> {
    // Twice, so that structs are written by position.
    fn sample<T: Serialize + 'static>(name: &'static str, which: u8, value: &T) -> (&'static str, u8, Vec<u8>) {
        encoded(value);
        (name, which, encoded(value))
    }
    let term =
        |name: &str| Term::Call { name: name.to_owned(), of: vec![Term::Both(1, Box::new(Term::Zero)), Term::Zero] };
    let list = || List { value: 1, next: Some(Box::new(List { value: 2, next: None })) };
    let map = |untagged| BTreeMap::from([("rest".to_owned(), untagged), ("more".to_owned(), Untagged::Number(7))]);
    let both = || Untagged::Both { left: Box::new(Untagged::Number(1)), right: None };
    vec![
        ("named", 0, encoded_by_a_new_thread(list)),
        sample("list", 0, &list()),
        sample("tree", 1, &Tree(vec![Tree(vec![]), Tree(vec![Tree(vec![])])])),
        sample("sorted", 2, &Sorted(BTreeMap::from([(1, Sorted(BTreeMap::new()))]))),
        sample("term", 3, &Term::Not(Box::new(term("f")))),
        sample("flat", 4, &(7u64, -7i32, Some(1.5f64), 'é', true, [1u8, 2, 3], 9u16)),
        sample("texts", 5, &("one", vec!["two", "three"], BTreeMap::from([("four", 4u32)]))),
        sample("result", 6, &Ok::<Vec<u64>, String>(vec![1, 1 << 40])),
        sample("untagged", 7, &Untagged::Many(vec![both(), Untagged::Term(term("g"))])),
        sample("tagged", 8, &Tagged::List { list: list() }),
        sample("flattened", 9, &Flattened { first: Some(1), rest: map(both()) }),
        sample("numbers", 10, &(vec![1u16, 2], vec![3u16], [-4i64], [true, false], [0.5f32], [[1u8, 2]])),
        sample("run", 10, &(VecDeque::from([1u16, 2]), VecDeque::from([3u16]), (), (), (), ())),
    ]
}

/// Of a thread that has not written any struct yet, and so writes names.
#[cfg(test)]
fn encoded_by_a_new_thread<T: Serialize + 'static>(value: impl FnOnce() -> T + Send + 'static) -> Vec<u8> {
    std::thread::spawn(|| encoded(&value())).join().expect("it does not panic")
}
