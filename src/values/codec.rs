//! Values to bytes and back: the only file that names the serializer (postcard, by way of serde), but for
//! [`explain`], which is asked why a value did not go through.
//!
//! Values are walked by recursion, and no bytes may make that overflow the stack. Every level of a value that has an
//! end has bytes of its own (an option's tag, a sequence's length, the number of a variant), so the two flavors in
//! here, through which all bytes go, see every level at its depth, and end the walk with an error where the
//! [`Room`] ends.
//!
//! The user's `Serialize` and `Deserialize` run in here, and may panic. [`encode`] and [`decode`] turn that into an
//! error like any other, because one bad value must not take a job, let alone the parent, with it.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;

use postcard::de_flavors;
use postcard::de_flavors::Slice;
use postcard::ser_flavors;
use serde::Deserialize;
use serde::Serialize;

use crate::error::TOO_DEEP;
use crate::sys::payload;
use crate::sys::stack::Room;
use crate::values::explain;
use crate::values::number;
use crate::values::number::WrongLen;
use crate::values::output::Full;
use crate::values::output::Output;
use crate::values::output::no_room;

/// Appends to an output, so that values are encoded where they will stay.
struct Append<'a> {
    output: &'a mut Output,
    room: Room,
}

impl Append<'_> {
    /// Postcard makes another error of this one; it is known again by the room.
    #[inline]
    fn check(&mut self) -> postcard::Result<()> {
        if self.room.is_left() { Ok(()) } else { Err(postcard::Error::SerializeBufferFull) }
    }
}

impl ser_flavors::Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.check()?;
        self.output.push(byte).map_err(|Full| postcard::Error::SerializeBufferFull)
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        // No level begins with so many: it would be a length that no memory has. It is a number with a point, or text.
        if bytes.len() < 8 {
            self.check()?;
        }
        self.output.extend(bytes).map_err(|Full| postcard::Error::SerializeBufferFull)
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Takes from a slice.
struct Take<'de> {
    slice: Slice<'de>,
    room: Room,
}

impl<'de> de_flavors::Flavor<'de> for Take<'de> {
    type Remainder = (&'de [u8], Room);
    type Source = &'de [u8];

    /// Levels begin with this. It is known by the room that the error is not what it says.
    #[inline]
    fn pop(&mut self) -> postcard::Result<u8> {
        if self.room.is_left() { self.slice.pop() } else { Err(postcard::Error::DeserializeUnexpectedEnd) }
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.slice.size_hint()
    }

    #[inline]
    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'de [u8]> {
        self.slice.try_take_n(count)
    }

    fn finalize(self) -> postcard::Result<(&'de [u8], Room)> {
        Ok((self.slice.finalize()?, self.room))
    }
}

/// Why a walk through a value came to no good end.
enum Stopped {
    TooDeep,
    ByPostcard(postcard::Error),
}

/// By itself, because only of an argument is it known that nothing else points to the output: of long sequences of small
/// numbers, a quarter of the time.
#[inline(never)]
fn write<T: Serialize + ?Sized>(value: &T, output: &mut Output) -> Result<(), Stopped> {
    let mut serializer = postcard::Serializer { output: Append { output, room: Room::from_here() } };
    let result = value.serialize(&mut serializer);
    // A value may have made something else of the error that stopped it.
    if serializer.output.room.is_used_up() {
        return Err(Stopped::TooDeep);
    }
    result.map_err(Stopped::ByPostcard)
}

/// The value, and the bytes that are left.
fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<(T, &'de [u8]), Stopped> {
    let take = Take { slice: Slice::new(bytes), room: Room::from_here() };
    let mut deserializer = postcard::Deserializer::from_flavor(take);
    let result = T::deserialize(&mut deserializer);
    let (rest, room) = deserializer.finalize().map_err(Stopped::ByPostcard)?;
    if room.is_used_up() {
        return Err(Stopped::TooDeep);
    }
    Ok((result.map_err(Stopped::ByPostcard)?, rest))
}

/// What to tell; the value is asked if it has stopped the walk itself.
fn in_words(stopped: Stopped, ask: impl FnOnce() -> Option<String>) -> String {
    use postcard::Error;
    match stopped {
        Stopped::TooDeep => TOO_DEEP.to_owned(),
        Stopped::ByPostcard(error) => {
            // Any other error is the format's own: the value has said nothing that could be asked for.
            let custom = matches!(error, Error::SerdeSerCustom | Error::SerdeDeCustom).then(ask).flatten();
            custom.unwrap_or_else(|| explain::in_words(&error))
        }
    }
}

/// Appends the bytes of `value`; after an error `output` is as it was. A panic passes through.
#[inline]
pub(crate) fn append<T: Serialize + 'static>(value: &T, output: &mut Output) -> Result<(), String> {
    output.begin();
    if let Some(number) = number::to_bytes(value) {
        return output.extend(number.as_slice()).map_err(|Full| unreachable!("a number fits a frame"));
    }
    append_serialized(value, output)
}

fn append_serialized<T: Serialize>(value: &T, output: &mut Output) -> Result<(), String> {
    write(value, output).map_err(|stopped| {
        // First, because asking for the reason runs the user's code again, and may panic.
        match output.roll_back() {
            Some(error) => no_room(&error),
            None => in_words(stopped, || explain::why_not_encoded(value)),
        }
    })
}

/// The bytes of a message of ours, however long.
pub(crate) fn to_vec<T: Serialize>(message: &T) -> Result<Vec<u8>, String> {
    postcard::to_stdvec(message).map_err(|error| explain::in_words(&error))
}

/// Appends the bytes of `value`; after an error, or a panic in `Serialize`, `output` is as it was.
pub(crate) fn encode<T: Serialize + 'static>(value: &T, output: &mut Output) -> Result<(), String> {
    // It is rolled back below, so nobody sees what the panic left half done.
    let result = catch_unwind(AssertUnwindSafe(|| append(value, output)));
    result.unwrap_or_else(|payload| {
        output.roll_back();
        Err(panic_in("Serialize", payload))
    })
}

/// The value of exactly these bytes. A panic passes through.
#[inline]
pub(crate) fn parse<'de, T: Deserialize<'de> + 'static>(bytes: &'de [u8]) -> Result<T, String> {
    match number::from_bytes(bytes) {
        Some(Ok(number)) => Ok(number),
        Some(Err(WrongLen { wanted })) => Err(not_so_long(bytes.len(), wanted)),
        None => parse_serialized(bytes),
    }
}

#[cold]
fn not_so_long(len: usize, wanted: usize) -> String {
    match len.checked_sub(wanted) {
        Some(more) => too_many(more),
        None => explain::in_words(&postcard::Error::DeserializeUnexpectedEnd),
    }
}

fn too_many(bytes: usize) -> String {
    format!("{bytes} bytes too many")
}

/// The value of exactly the bytes that a serializer has written, of [`to_vec`], say. A panic passes through.
pub(crate) fn parse_serialized<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, String> {
    match read(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(too_many(rest.len())),
        Err(stopped) => Err(in_words(stopped, || explain::why_not_decoded::<T>(bytes))),
    }
}

/// The value at the front of these bytes, and the bytes behind it.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_front<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Option<(T, &'de [u8])> {
    read(bytes).ok()
}

/// The value of exactly these bytes; a panic in `Deserialize` is an error.
pub(crate) fn decode<'de, T: Deserialize<'de> + 'static>(bytes: &'de [u8]) -> Result<T, String> {
    // `T` is not seen again after a panic.
    catch_unwind(AssertUnwindSafe(|| parse(bytes))).unwrap_or_else(|payload| Err(panic_in("Deserialize", payload)))
}

/// Shows the value of each of `items`, or why it has none, until `f` answers with an error. A panic in `Deserialize` is
/// an error of its item; one in `f` passes through.
pub(crate) fn decode_each<'de, T: Deserialize<'de> + 'static, E>(
    mut items: impl Iterator<Item = &'de [u8]>,
    mut f: impl FnMut(Result<T, String>) -> Result<(), E>,
) -> Result<(), E> {
    let mut is_parsing = false;
    loop {
        // Caught once for many items, since small ones take less time than that. The value that was parsed is not seen
        // again after a panic; `items` and `f` have nothing half done, or are not used again either.
        let shown = catch_unwind(AssertUnwindSafe(|| {
            items.by_ref().try_for_each(|item| {
                is_parsing = true;
                let value = parse(item);
                is_parsing = false;
                f(value)
            })
        }));
        match shown {
            Ok(result) => return result,
            Err(payload) if is_parsing => f(Err(panic_in("Deserialize", payload)))?,
            Err(payload) => resume_unwind(payload),
        }
    }
}

/// The message of an error that was a panic in the user's `Serialize` or `Deserialize`.
pub(crate) fn panic_in(what: &str, payload: Box<dyn Any + Send>) -> String {
    format!("panic in {what}: {}", payload::into_text(payload))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::collections::HashMap;
    use std::fmt::Debug;
    use std::num::NonZero;
    use std::thread;

    use serde::Serializer;
    use serde::de::DeserializeOwned;
    use serde::ser::Error as _;

    use super::*;

    struct Bad;

    impl Serialize for Bad {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("not today")
        }
    }

    fn holding(bytes: &[u8]) -> Output {
        let mut output = Output::default();
        output.extend(bytes).unwrap();
        output
    }

    #[test]
    fn a_value_comes_back_from_its_bytes() {
        let mut output = holding(&[9]);
        encode(&(7u64, "seven".to_owned()), &mut output).unwrap();
        assert_eq!(decode::<(u64, String)>(&output.bytes()[1..]).unwrap(), (7, "seven".to_owned()));
    }

    #[test]
    fn bytes_too_many_are_an_error() {
        assert_eq!(decode::<u8>(&[1, 2]), Err("1 bytes too many".to_owned()));
    }

    /// Refuses 1 by a panic.
    #[derive(Debug, PartialEq)]
    struct Picky(u8);

    impl<'de> Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let number = u8::deserialize(deserializer)?;
            assert!(number != 1, "not one");
            Ok(Self(number))
        }
    }

    #[test]
    fn one_value_of_many_that_does_not_decode_costs_only_itself() {
        let items: [&[u8]; 6] = [&[0], &[1], &[], &[1], &[4], &[5, 5]];
        let mut seen = Vec::new();
        let shown = decode_each(items.into_iter(), |value: Result<Picky, String>| {
            seen.push(value.map_err(|message| message.chars().take(30).collect::<String>()));
            Ok::<(), ()>(())
        });
        assert_eq!(shown, Ok(()));
        let panic = || Err("panic in Deserialize: not one".to_owned());
        assert!(seen[2].as_ref().is_err_and(|message| message.starts_with("the bytes end too early")), "{seen:?}");
        drop(seen.remove(2));
        assert_eq!(seen, [Ok(Picky(0)), panic(), panic(), Ok(Picky(4)), Err("1 bytes too many".to_owned())]);
    }

    #[test]
    fn whoever_looks_at_values_may_stop_or_panic() {
        let items = || [&[0u8][..], &[2], &[3]].into_iter();
        let mut seen = 0;
        let stopped = decode_each(items(), |value: Result<u8, String>| {
            seen += 1;
            if value == Ok(2) { Err("enough") } else { Ok(()) }
        });
        assert_eq!((stopped, seen), (Err("enough"), 2));
        let panicked = catch_unwind(|| decode_each::<u8, ()>(items(), |_| panic!("looked")));
        assert_eq!(payload::into_text(panicked.unwrap_err()), "looked");
    }

    #[test]
    fn a_panic_in_serialize_leaves_the_buffer_as_it_was() {
        let mut output = holding(&[1, 2, 3]);
        let error = encode(&(1u64, Bad), &mut output).unwrap_err();
        assert_eq!(error, "panic in Serialize: not today");
        assert_eq!(output.bytes(), &[1, 2, 3]);
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
        let mut output = holding(&[1, 2, 3]);
        let error = encode(&(1u64, Worse(Cell::new(false))), &mut output).unwrap_err();
        assert_eq!(error, "panic in Serialize: not again");
        assert_eq!(output.bytes(), &[1, 2, 3]);
    }

    struct Refusing;

    impl Serialize for Refusing {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("will not be written"))
        }
    }

    #[test]
    fn the_words_of_a_value_are_the_message() {
        let mut output = holding(&[1, 2, 3]);
        assert_eq!(append(&(1u64, Refusing), &mut output), Err("will not be written".to_owned()));
        assert_eq!(encode(&(1u64, Refusing), &mut output), Err("will not be written".to_owned()));
        assert_eq!(output.bytes(), &[1, 2, 3]);
        let zero = "invalid value: integer `0`, expected a nonzero u8";
        assert_eq!(parse::<NonZero<u8>>(&[0]), Err(zero.to_owned()));
        assert_eq!(decode::<NonZero<u8>>(&[0]), Err(zero.to_owned()));
    }

    /// Large enough to be half in a file when it fails.
    #[test]
    fn a_large_value_that_fails_leaves_the_buffer_as_it_was() {
        let mut output = holding(&[1, 2, 3]);
        let large = vec![7u64; 100_000];
        assert_eq!(append(&(large.clone(), Refusing), &mut output), Err("will not be written".to_owned()));
        assert_eq!(encode(&(large.clone(), Bad), &mut output), Err("panic in Serialize: not today".to_owned()));
        assert_eq!((output.len(), &output.bytes()[..]), (0, &[1, 2, 3][..]));
        encode(&large, &mut output).unwrap();
        let blob = output.take_blob().unwrap();
        assert_eq!(decode::<Vec<u64>>(&blob.read().unwrap()), Ok(large));
        assert_eq!(output.bytes(), &[1, 2, 3]);
    }

    #[test]
    fn without_words_of_the_value_the_message_is_of_the_format() {
        let error = decode::<(u8, String)>(&[1]).unwrap_err();
        assert!(error.starts_with("the bytes end too early"), "{error}");
        assert!(error.contains("Hit the end of buffer"), "{error}");
    }

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
    enum Term {
        Zero,
        Not(Box<Term>),
        Both(u8, Box<Term>),
        Call { of: Vec<Term> },
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Sorted(BTreeMap<u8, Sorted>);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Hashed(HashMap<u8, Hashed>);

    const DEEP: usize = 1_000_000;
    const STACKS: [usize; 3] = [64 << 10, 128 << 10, 2 << 20];

    fn on_a_stack_of<R: Send + 'static>(size: usize, f: impl FnOnce() -> R + Send + 'static) -> R {
        thread::Builder::new().stack_size(size).spawn(f).unwrap().join().unwrap()
    }

    /// Bytes with this at every level but the last, which has nothing but zeros.
    fn nested(level: &[u8], depth: usize) -> Vec<u8> {
        let last = if level.first() == Some(&0) { level.len() } else { 1 };
        let mut bytes = level.repeat(depth);
        bytes.resize(bytes.len() + last, 0);
        bytes
    }

    /// Far too deep is an error; what is only just not is a value with which the usual can be done, and then dropped.
    fn assert_no_depth_overflows<T>(level: &'static [u8])
    where
        T: Clone + Debug + PartialEq + Serialize + DeserializeOwned + 'static,
    {
        for stack in STACKS {
            on_a_stack_of(stack, move || {
                assert_eq!(decode::<T>(&nested(level, DEEP)).err().as_deref(), Some(TOO_DEEP));
                let (mut good, mut bad) = (1, DEEP);
                while good + 1 < bad {
                    let middle = usize::midpoint(good, bad);
                    match decode::<T>(&nested(level, middle)) {
                        Ok(_) => good = middle,
                        Err(_) => bad = middle,
                    }
                }
                assert!(good > stack / (16 << 10), "no more than {good} levels on a stack of {stack}");
                let value = decode::<T>(&nested(level, good)).unwrap();
                assert!(value.clone() == value);
                let mut output = Output::default();
                append(&value, &mut output).unwrap();
                assert!(output.fits_a_frame(), "these levels are small");
                assert_eq!(output.into_bytes(), nested(level, good));
            });
        }
    }

    #[test]
    fn no_list_overflows_the_stack() {
        assert_no_depth_overflows::<List>(&[0, 1]);
    }

    #[test]
    fn no_chain_of_options_overflows_the_stack() {
        assert_no_depth_overflows::<Chain>(&[1]);
    }

    #[test]
    fn no_tree_overflows_the_stack() {
        assert_no_depth_overflows::<Tree>(&[1]);
    }

    #[test]
    fn no_enum_overflows_the_stack() {
        assert_no_depth_overflows::<Term>(&[1]);
        assert_no_depth_overflows::<Term>(&[2, 7]);
        assert_no_depth_overflows::<Term>(&[3, 1]);
    }

    #[test]
    fn no_map_overflows_the_stack() {
        assert_no_depth_overflows::<Sorted>(&[1, 7]);
        assert_no_depth_overflows::<Hashed>(&[1, 7]);
    }

    #[test]
    fn writing_what_is_nested_too_deeply_is_an_error() {
        for stack in STACKS {
            on_a_stack_of(stack, || {
                let mut tree = (0..DEEP).fold(Tree(Vec::new()), |inner, _| Tree(vec![inner]));
                let mut output = holding(&[1, 2, 3]);
                assert_eq!(append(&tree, &mut output).err().as_deref(), Some(TOO_DEEP));
                assert_eq!(output.bytes(), &[1, 2, 3]);
                // Its own drop is the recursion that this is about.
                while let Some(inner) = tree.0.pop() {
                    tree = inner;
                }
            });
        }
    }

    /// Takes any error for an empty value.
    struct Careless(Option<Chain>);

    impl<'de> Deserialize<'de> for Careless {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Careless, D::Error> {
            Ok(Careless(Chain::deserialize(deserializer).ok()))
        }
    }

    #[test]
    fn nobody_can_hide_that_a_value_was_too_deep() {
        assert!(decode::<Careless>(&nested(&[1], 3)).unwrap().0.is_some());
        assert_eq!(decode::<Careless>(&nested(&[1], DEEP)).err().as_deref(), Some(TOO_DEEP));
    }
}
