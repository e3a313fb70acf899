//! Values come back, and what is not a value is an error.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::net::IpAddr;

use proptest::prelude::*;
use serde::Deserialize;
use serde::Serialize;
use serde::Serializer;
use serde::de;
use serde::de::DeserializeOwned;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde::ser::Error as _;
use serde::ser::SerializeMap;
use serde::ser::SerializeSeq;
use serde::ser::SerializeStruct;

use crate::values::codec::decode;
use crate::values::codec::encode;
use crate::values::output::Output;

fn written<T: Serialize + 'static>(value: &T) -> Result<Vec<u8>, String> {
    let mut output = Output::default();
    encode(value, &mut output)?;
    Ok(match output.fits_a_frame() {
        true => output.into_bytes(),
        false => output.take_blob().unwrap().read().unwrap().to_vec(),
    })
}

/// Comes back, also in pieces of other values, and also when its structs are known already.
#[track_caller]
fn assert_comes_back<T: Serialize + DeserializeOwned + Debug + PartialEq + 'static>(value: T) {
    for _ in 0..2 {
        assert_eq!(decode::<T>(&written(&value).unwrap()).as_ref(), Ok(&value));
    }
    let both = (vec![value], 7u8, "text".to_owned());
    assert_eq!(decode(&written(&both).unwrap()), Ok(both));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Newtype<T>(T);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Fields<T> {
    before: f64,
    slot: T,
    after: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Choice<T> {
    Unit,
    Newtype(T),
    Tuple(char, T),
    Struct { before: i128, slot: T },
}

#[test]
fn every_type_of_serde_comes_back() {
    assert_comes_back((true, false, 'ö', 1u8, -2i8, 3u16, -4i16));
    assert_comes_back((5u32, -6i32, 7u64, -8i64, u128::MAX, i128::MIN, 0.5f32, f64::MIN_POSITIVE));
    assert_comes_back((String::from("text"), serde_bytes::ByteBuf::from(vec![1, 2, 3]), (), Unit, Newtype(9usize)));
    assert_comes_back((None::<u8>, Some(1u8), Some(Some(())), Some(None::<()>), None::<Option<()>>));
    assert_comes_back([
        Choice::Unit,
        Choice::Newtype(1u8),
        Choice::Tuple('x', 2),
        Choice::Struct { before: 3, slot: 4 },
    ]);
    assert_comes_back(vec![Ok("fine".to_owned()), Err(Fields { before: 0.5, slot: Unit, after: "!".to_owned() })]);
    assert_comes_back(BTreeMap::from([
        ("a".to_owned(), BTreeMap::from([(1u8, 'x')])),
        ("b".to_owned(), BTreeMap::new()),
    ]));
    assert_comes_back(IpAddr::from([1, 2, 3, 4]));
    assert_comes_back([[1u8; 32]; 2]);
    assert_comes_back(vec![[1.5f32; 3]; 5]);
}

#[test]
fn numbers_in_any_container_come_back() {
    assert_comes_back(vec![1u8, 2, 255]);
    assert_comes_back(vec![true, false, true]);
    assert_comes_back(vec![1usize, usize::MAX]);
    assert_comes_back(vec![isize::MIN, 1]);
    assert_comes_back(vec![u128::MAX, 0]);
    assert_comes_back(VecDeque::from([1.5f64, -0.0]));
    assert_comes_back(Vec::<i16>::new());
    assert_comes_back(HashSet::from([1u64, 2, 3]));
    assert_comes_back(vec![1i64; 3].into_boxed_slice());
    assert_comes_back(vec![Newtype(1u32), Newtype(2)]);
    assert_comes_back(Fields { before: 1.0, slot: vec![vec![1u16, 2], vec![], vec![3]], after: String::new() });
}

/// Longer than a run, and than what is gathered in memory.
#[test]
fn long_sequences_come_back() {
    assert_comes_back((0..100_000u32).collect::<VecDeque<_>>());
    assert_comes_back((0..100_000u64).collect::<Vec<_>>());
    assert_comes_back(
        (0..100_000usize).map(|x| Fields { before: 0.5, slot: x, after: x.to_string() }).collect::<Vec<_>>(),
    );
    assert_comes_back((0..30_000).map(|x| format!("{x}")).collect::<Vec<_>>());
    assert_comes_back("long".repeat(100_000));
}

proptest! {
    #[test]
    fn slices_of_numbers_keep_all_bits(a: Vec<u8>, b: Vec<i16>, c: Vec<u32>, d: Vec<u64>, e: Vec<i128>, f: Vec<bool>) {
        let floats: Vec<f64> = d.iter().map(|bits| f64::from_bits(*bits)).collect();
        let bits = |floats: &[f64]| floats.iter().map(|float| float.to_bits()).collect::<Vec<_>>();
        let value = (a, b, c, d, e, f);
        prop_assert_eq!(decode(&written(&value).unwrap()), Ok(value));
        prop_assert_eq!(bits(&decode::<Vec<f64>>(&written(&floats).unwrap()).unwrap()), bits(&floats));
    }

    #[test]
    fn elements_one_by_one_come_back(numbers: Vec<Option<u32>>, mixed: Vec<(u8, String)>) {
        prop_assert_eq!(decode(&written(&numbers).unwrap()), Ok(numbers));
        prop_assert_eq!(decode(&written(&mixed).unwrap()), Ok(mixed));
    }
}

/// Writes elements one by one, claims another length than it has, and mixes kinds of numbers.
struct Mixed;

impl Serialize for Mixed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(1 << 40))?;
        for number in 0..3000u32 {
            seq.serialize_element(&number)?;
        }
        seq.serialize_element(&1u8)?;
        seq.serialize_element(&Some(2u64))?;
        seq.serialize_element(&&3u64)?;
        seq.end()
    }
}

#[test]
fn a_sequence_may_claim_any_length() {
    let bytes = written(&Mixed).unwrap();
    let expected: Vec<u64> = (0..3000).chain([1, 2, 3]).collect();
    assert_eq!(decode::<Vec<u32>>(&bytes).map(|all| all.len()), Ok(expected.len()));
    assert_eq!(decode::<Vec<u64>>(&bytes), Ok(expected.clone()));
    assert_eq!(decode::<VecDeque<u64>>(&bytes), Ok(expected.iter().copied().collect()));
    assert_eq!(decode::<VecDeque<u16>>(&bytes).map(|all| all.len()), Ok(expected.len()));
}

struct Unsized;

impl Serialize for Unsized {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("evens", &Evens)?;
        map.serialize_key("odds")?;
        map.serialize_value(&vec![1u8])?;
        map.end()
    }
}

struct Evens;

impl Serialize for Evens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..10u8).filter(|x| x % 2 == 0))
    }
}

#[test]
fn sequences_and_maps_of_unknown_length_come_back() {
    let expected = BTreeMap::from([("evens".to_owned(), vec![0, 2, 4, 6, 8]), ("odds".to_owned(), vec![1u8])]);
    assert_eq!(decode(&written(&Unsized).unwrap()), Ok(expected));
}

/// A visitor whose value is a vector, but which is not the vector's own.
#[derive(Debug, PartialEq, Serialize)]
struct Doubled(Vec<u32>);

impl<'de> Deserialize<'de> for Doubled {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Doubled, D::Error> {
        struct Doubling;
        impl<'de> Visitor<'de> for Doubling {
            type Value = Vec<u32>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Vec<u32>, A::Error> {
                let mut numbers = Vec::new();
                assert_eq!(access.size_hint(), Some(3));
                while let Some(number) = access.next_element::<u32>()? {
                    numbers.push(2 * number);
                }
                Ok(numbers)
            }
        }
        deserializer.deserialize_seq(Doubling).map(Doubled)
    }
}

#[test]
fn only_the_visitor_of_the_vector_itself_is_bypassed() {
    assert_eq!(decode(&written(&Doubled(vec![1, 2, 3])).unwrap()), Ok(Doubled(vec![2, 4, 6])));
}

/// Fields come and go from value to value.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Sparse {
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    b: Vec<Sparse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    c: Option<u8>,
    last: u8,
}

fn sparse() -> impl Strategy<Value = Sparse> {
    let leaf = (any::<Option<u8>>(), any::<Option<u8>>(), any::<u8>()).prop_map(|(a, c, last)| Sparse {
        a,
        b: Vec::new(),
        c,
        last,
    });
    leaf.prop_recursive(4, 32, 4, |inner| {
        (any::<Option<u8>>(), proptest::collection::vec(inner, 0..4), any::<Option<u8>>(), any::<u8>())
            .prop_map(|(a, b, c, last)| Sparse { a, b, c, last })
    })
}

proptest! {
    /// On a new thread, which knows no structs, so that every order of shapes is met.
    #[test]
    fn fields_that_come_and_go_come_back(values in proptest::collection::vec(sparse(), 1..6)) {
        std::thread::spawn(|| {
            for value in values {
                assert_eq!(decode(&written(&value).unwrap()), Ok(value));
            }
        })
        .join()
        .unwrap();
    }
}

mod elsewhere {
    use serde::Deserialize;
    use serde::Serialize;

    /// The same name and number of fields as another struct has.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Unlike {
        pub(super) left: u8,
        pub(super) right: u8,
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Unlike {
    right: u8,
    wrong: u8,
}

#[test]
fn structs_of_the_same_name_are_not_mixed_up() {
    let one = || Unlike { right: 1, wrong: 2 };
    let other = || elsewhere::Unlike { left: 3, right: 4 };
    assert_comes_back((one(), other(), one()));
    assert_comes_back(vec![(other(), one())]);
}

/// Announces one number of fields and writes another.
struct Liar(usize);

impl Serialize for Liar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Liar", 2)?;
        for name in ["one", "two", "three"].into_iter().take(self.0) {
            fields.serialize_field(name, &1u8)?;
        }
        fields.end()
    }
}

#[test]
fn a_struct_that_announces_another_number_of_fields_is_no_other_value() {
    let names = |count| decode::<BTreeMap<String, u8>>(&written(&Liar(count))?).map(|map| map.len());
    std::thread::spawn(move || {
        assert_eq!(names(3), Ok(3));
        assert_eq!(names(2), Ok(2));
        assert_eq!(names(1), Ok(1));
    })
    .join()
    .unwrap();
    std::thread::spawn(move || {
        assert_eq!(names(2), Ok(2));
        assert_eq!(names(3), Err("a struct has more fields than it has announced".to_owned()));
        assert_eq!(names(1), Ok(1));
        assert_eq!(names(3), Ok(3));
    })
    .join()
    .unwrap();
}

/// Reads by name only, as formats of text make it.
#[derive(Debug, PartialEq, Serialize)]
struct ByName {
    x: u8,
}

impl<'de> Deserialize<'de> for ByName {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<ByName, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = ByName;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<ByName, A::Error> {
                let (name, x) = access.next_entry::<String, u8>()?.ok_or_else(|| A::Error::missing_field("x"))?;
                if name == "x" { Ok(ByName { x }) } else { Err(A::Error::custom("another name")) }
            }
        }
        deserializer.deserialize_struct("ByName", &["x"], Names)
    }
}

#[test]
fn a_type_that_reads_by_name_only_comes_back() {
    assert_comes_back(ByName { x: 7 });
}

struct Refusing;

impl Serialize for Refusing {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("will not be written"))
    }
}

impl<'de> Deserialize<'de> for Refusing {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Refusing, D::Error> {
        let number = u8::deserialize(deserializer)?;
        Err(D::Error::custom(format_args!("will not be read: {number}")))
    }
}

/// Ignores the error of its element.
struct Ignoring;

impl Serialize for Ignoring {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        let _ = seq.serialize_element(&Some(Refusing));
        seq.end()
    }
}

#[test]
fn the_words_of_an_error_are_kept() {
    assert_eq!(written(&(1u8, Some(vec![Refusing]))), Err("will not be written".to_owned()));
    assert_eq!(written(&Ignoring), Err("will not be written".to_owned()));
    let bytes = written(&Choice::Struct { before: 1, slot: vec![Some(7u8)] }).unwrap();
    let message = decode::<Choice<Vec<Option<Refusing>>>>(&bytes).err().unwrap();
    assert!(message.starts_with("will not be read: 7; "), "{message}");
}

/// A failure that the type recovers from is not the type's failure, if it is known where it ends.
#[derive(Debug, PartialEq)]
struct Forgiving(bool);

impl<'de> Deserialize<'de> for Forgiving {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Forgiving, D::Error> {
        Ok(Forgiving(Refusing::deserialize(deserializer).is_err()))
    }
}

#[test]
fn an_error_that_is_ignored_makes_no_other_value() {
    assert_eq!(decode(&written(&(7u8, 8u8)).unwrap()), Ok((Forgiving(true), 8u8)));
    assert_eq!(decode(&written(&("7".to_owned(), 8u8)).unwrap()), Ok((Forgiving(true), 8u8)));
    let bytes = written(&(vec![7u64, 9], 8u8)).unwrap();
    assert!(decode::<(Forgiving, u8)>(&bytes).unwrap_err().contains("ignored that error"));
}

/// Formatting it into a `String` would panic.
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Err(std::fmt::Error)
    }
}

impl Serialize for Unspeakable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[test]
fn a_display_that_fails_does_not_panic() {
    assert_eq!(written(&Unspeakable), Err("a `Display` that is written as text failed".to_owned()));
}

#[test]
fn what_is_borrowed_stays_borrowed() {
    let bytes = written(&("text".to_owned(), serde_bytes::ByteBuf::from(b"bytes".to_vec()), vec![1u8])).unwrap();
    let (text, more, block) = decode_borrowed::<(&str, &[u8], &serde_bytes::Bytes)>(&bytes);
    assert_eq!((text, more, &block[..]), ("text", b"bytes".as_slice(), &[1u8][..]));
    assert!(bytes.as_ptr_range().contains(&text.as_ptr()));
}

fn decode_borrowed<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> T {
    T::deserialize(&mut super::Reader::new(bytes, super::Naming::ByPosition)).unwrap()
}
