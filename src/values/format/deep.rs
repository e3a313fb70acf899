//! No depth overflows the stack, in either direction.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Debug;

use serde::Deserialize;
use serde::Serialize;
use serde::de;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::reader::Naming;
use super::reader::Reader;
use super::tag;
use super::tag::Kind;
use super::writer::Writer;
use crate::sys::stack::tests::on_a_stack_of;
use crate::values::output::Output;

const DEEP: usize = 1_000_000;
const STACKS: [usize; 3] = [64 << 10, 128 << 10, 2 << 20];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct List {
    value: u8,
    next: Option<Box<List>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Chain(Option<Box<Chain>>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tree(Vec<Tree>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pair((u8, Vec<Pair>));

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Term {
    Zero,
    Not(Box<Term>),
    Both(u8, Box<Term>),
    Call { of: Box<Term> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Leaf(u8),
    Node(Box<(u8, Untagged)>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sorted(BTreeMap<u8, Sorted>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Hashed(HashMap<u8, Hashed>);

/// The bytes of nested values.
#[derive(Clone, Copy)]
struct Levels {
    /// The outermost level.
    first: &'static [u8],
    /// Each level in it.
    level: &'static [u8],
    innermost: &'static [u8],
    /// Ends a level, the outermost included.
    end: &'static [u8],
}

impl Levels {
    const fn same(level: &'static [u8], innermost: &'static [u8], end: &'static [u8]) -> Levels {
        Levels { first: level, level, innermost, end }
    }

    fn nested(self, depth: usize) -> Vec<u8> {
        let levels = self.level.repeat(depth - 1);
        [self.first, &levels, self.innermost, &self.end.repeat(depth)].concat()
    }
}

const SEVEN: u8 = Kind::U8.tag();

/// What became of reading bytes.
#[derive(Debug, PartialEq)]
enum Outcome<T> {
    Value(T),
    TooDeep,
    Error(String),
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Outcome<T> {
    let mut reader = Reader::new(bytes, Naming::ByPosition);
    let result = T::deserialize(&mut reader);
    match (reader.is_too_deep(), result) {
        (true, _) => Outcome::TooDeep,
        (false, Ok(value)) => Outcome::Value(value),
        (false, Err(error)) => Outcome::Error(error.to_string()),
    }
}

fn written<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let mut output = Output::default();
    value.serialize(&mut Writer::new(&mut output))?;
    Ok(output.into_bytes())
}

/// A value far too deep is an error. The deepest value that still decodes can be cloned, compared, written and dropped.
fn assert_no_depth_overflows<T>(levels: Levels)
where
    T: Clone + Debug + PartialEq + Serialize + DeserializeOwned + 'static,
{
    for stack in STACKS {
        on_a_stack_of(stack, move || {
            let good = deepest::<T>(levels);
            assert!(good > stack / (16 << 10), "no more than {good} levels on a stack of {stack}");
            let Outcome::Value(value) = read::<T>(&levels.nested(good)) else { panic!("it was a value a moment ago") };
            assert!(value.clone() == value);
            // Twice: a struct is written by position from the second time on.
            written(&value).unwrap();
            assert!(written(&value).unwrap() == levels.nested(good), "other bytes");
        });
    }
}

fn deepest<T: DeserializeOwned>(levels: Levels) -> usize {
    let (mut good, mut bad) = (1, DEEP);
    assert!(matches!(read::<T>(&levels.nested(good)), Outcome::Value(_)), "{:?}", written_error::<T>(levels));
    assert!(matches!(read::<T>(&levels.nested(bad)), Outcome::TooDeep));
    while good + 1 < bad {
        let middle = usize::midpoint(good, bad);
        match read::<T>(&levels.nested(middle)) {
            Outcome::Value(_) => good = middle,
            Outcome::TooDeep => bad = middle,
            Outcome::Error(error) => panic!("{error}"),
        }
    }
    good
}

fn written_error<T: DeserializeOwned>(levels: Levels) -> Option<String> {
    match read::<T>(&levels.nested(1)) {
        Outcome::Error(error) => Some(error),
        _ => None,
    }
}

#[test]
fn no_list_overflows_the_stack() {
    assert_no_depth_overflows::<List>(Levels {
        first: &[
            tag::NEW_STRUCT,
            2,
            11,
            0,
            5,
            b'v',
            b'a',
            b'l',
            b'u',
            b'e',
            4,
            b'n',
            b'e',
            b'x',
            b't',
            SEVEN,
            7,
            tag::SOME,
        ],
        level: &[tag::STRUCT, 0, 0, SEVEN, 7, tag::SOME],
        innermost: &[tag::STRUCT, 0, 0, SEVEN, 7, tag::NONE],
        end: &[],
    });
}

#[test]
fn no_chain_of_options_overflows_the_stack() {
    assert_no_depth_overflows::<Chain>(Levels::same(&[tag::SOME], &[tag::NONE], &[]));
}

#[test]
fn no_tree_overflows_the_stack() {
    let empty = &[tag::SEQ, 0, 0, 0, 0, tag::END];
    assert_no_depth_overflows::<Tree>(Levels::same(&[tag::SEQ, 1, 0, 0, 0], empty, &[tag::END]));
}

#[test]
fn no_tuple_overflows_the_stack() {
    let empty = &[tag::TUPLE, SEVEN, 7, tag::SEQ, 0, 0, 0, 0, tag::END, tag::END];
    let level = &[tag::TUPLE, SEVEN, 7, tag::SEQ, 1, 0, 0, 0];
    assert_no_depth_overflows::<Pair>(Levels::same(level, empty, &[tag::END, tag::END]));
}

#[test]
fn no_enum_overflows_the_stack() {
    let zero = &[tag::UNIT_VARIANT, 255, 255, 0, 0, 0, 0, 4, 0, 0, 0, b'Z', b'e', b'r', b'o'];
    assert_no_depth_overflows::<Term>(Levels {
        first: &[tag::VARIANT, 255, 255, 1, 0, 0, 0, 3, 0, 0, 0, b'N', b'o', b't'],
        level: &[tag::VARIANT, 0, 0],
        innermost: zero,
        end: &[],
    });
    assert_no_depth_overflows::<Term>(Levels {
        first: &[tag::VARIANT, 255, 255, 2, 0, 0, 0, 4, 0, 0, 0, b'B', b'o', b't', b'h', tag::TUPLE, SEVEN, 7],
        level: &[tag::VARIANT, 0, 0, tag::TUPLE, SEVEN, 7],
        innermost: zero,
        end: &[tag::END],
    });
    assert_no_depth_overflows::<Term>(Levels {
        first: &[
            tag::VARIANT,
            255,
            255,
            3,
            0,
            0,
            0,
            4,
            0,
            0,
            0,
            b'C',
            b'a',
            b'l',
            b'l',
            tag::NEW_STRUCT,
            1,
            3,
            0,
            2,
            b'o',
            b'f',
        ],
        level: &[tag::VARIANT, 0, 0, tag::STRUCT, 0, 0],
        innermost: zero,
        end: &[],
    });
}

/// Serde reads these through a buffer of its own.
#[test]
fn no_untagged_enum_overflows_the_stack() {
    let level = &[tag::TUPLE, SEVEN, 7];
    assert_no_depth_overflows::<Untagged>(Levels::same(level, &[SEVEN, 7], &[tag::END]));
}

#[test]
fn no_map_overflows_the_stack() {
    let level = &[tag::MAP, 1, 0, 0, 0, SEVEN, 7];
    let empty = &[tag::MAP, 0, 0, 0, 0, tag::END];
    assert_no_depth_overflows::<Sorted>(Levels::same(level, empty, &[tag::END]));
    assert_no_depth_overflows::<Hashed>(Levels::same(level, empty, &[tag::END]));
}

#[test]
fn nothing_that_is_ignored_overflows_the_stack() {
    for stack in STACKS {
        on_a_stack_of(stack, || {
            let deep = Levels::same(&[tag::SEQ, 1, 0, 0, 0], &[tag::UNIT], &[tag::END]).nested(DEEP);
            assert!(matches!(read::<de::IgnoredAny>(&deep), Outcome::TooDeep));
            let chain = [vec![tag::SOME; DEEP], vec![tag::NONE]].concat();
            assert!(matches!(read::<de::IgnoredAny>(&chain), Outcome::TooDeep));
            // These levels are not the type's: it asks for a number.
            assert_eq!(read::<u8>(&[vec![tag::SOME; DEEP], vec![SEVEN, 7]].concat()), Outcome::Value(7));
        });
    }
}

#[test]
fn writing_what_is_nested_too_deeply_is_an_error() {
    for stack in STACKS {
        on_a_stack_of(stack, || {
            let mut tree = (0..DEEP).fold(Tree(Vec::new()), |inner, _| Tree(vec![inner]));
            let mut output = Output::default();
            let mut writer = Writer::new(&mut output);
            assert!(tree.serialize(&mut writer).is_err() && writer.is_too_deep());
            // Taken apart level by level: its drop would overflow this stack.
            while let Some(inner) = tree.0.pop() {
                tree = inner;
            }
        });
    }
}

/// Swallows any error.
struct Careless;

impl<'de> Deserialize<'de> for Careless {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Careless, D::Error> {
        let _ = Chain::deserialize(deserializer);
        Ok(Careless)
    }
}

#[test]
fn a_value_cannot_hide_that_it_was_too_deep() {
    let chain = |depth| Levels::same(&[tag::SOME], &[tag::NONE], &[]).nested(depth);
    assert!(matches!(read::<Careless>(&chain(3)), Outcome::Value(_)));
    assert!(matches!(read::<Careless>(&chain(DEEP)), Outcome::TooDeep));
}
