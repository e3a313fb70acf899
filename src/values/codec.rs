//! Serialization of values, in the [format](crate::values::format) of this crate.
//!
//! Values are walked by recursion, and no bytes may make that overflow the stack: the reader and the writer check their
//! [`StackBudget`](crate::sys::stack::StackBudget) at every level.
//!
//! The user's `Serialize` and `Deserialize` are called from here, and may panic. [`encode`] and [`decode`] turn a panic
//! into an error, because one bad value must not end a job, let alone the parent.
//!
//! Also called: codec, marshalling.

use std::any::Any;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys::payload;
use crate::values::attach;
use crate::values::attach::Source;
use crate::values::format;
use crate::values::format::Naming;
use crate::values::format::Reader;
use crate::values::format::Writer;
use crate::values::number;
use crate::values::number::WrongLen;
use crate::values::output::Full;
use crate::values::output::Output;
use crate::values::output::no_room;
use crate::values::parcel::Parcel;

/// The message of a value that would have overflowed the stack of the thread that reads or writes it.
const TOO_DEEP: &str = "it is nested too deeply for the stack of the thread that reads or writes it; use a thread with a \
                        larger stack, or a type that is flatter";

/// What the author of a type can do about bytes that do not decode.
const ADVICE: &str = "its Deserialize must accept what its Serialize writes";

/// Why a walk through a value failed.
enum Stopped {
    TooDeep,
    Error(format::Error),
}

impl Stopped {
    fn into_message(self) -> String {
        match self {
            Stopped::TooDeep => TOO_DEEP.to_owned(),
            Stopped::Error(error) => error.into_text(),
        }
    }
}

/// Never inlined, because the compiler knows only of an argument that nothing else points to the output: that saves a
/// quarter of the time of long sequences of small numbers.
#[inline(never)]
fn write<T: Serialize + ?Sized>(value: &T, output: &mut Output) -> Result<(), Stopped> {
    let mut writer = Writer::new(output);
    let result = value.serialize(&mut writer);
    // Checked first: the value may have replaced the error that stopped it, or swallowed it.
    if writer.is_too_deep() {
        return Err(Stopped::TooDeep);
    }
    result.and_then(|()| writer.finish()).map_err(Stopped::Error)
}

/// The value that is encoded in exactly these bytes.
#[inline]
fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Stopped> {
    let mut reader = Reader::new(bytes, Naming::ByPosition);
    let error = match read_with(&mut reader) {
        Ok(value) => return Ok(value),
        Err(stopped @ Stopped::TooDeep) => return Err(stopped),
        Err(Stopped::Error(error)) => error,
    };
    // By name it may be a value all the same.
    if reader.has_used_positions() { read_by_name(bytes) } else { Err(Stopped::Error(error)) }
}

#[cold]
fn read_by_name<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Stopped> {
    read_with(&mut Reader::new(bytes, Naming::ByName))
}

fn read_with<'de, T: Deserialize<'de>>(reader: &mut Reader<'de>) -> Result<T, Stopped> {
    let result = T::deserialize(&mut *reader);
    if reader.is_too_deep() {
        return Err(Stopped::TooDeep);
    }
    result.and_then(|value| reader.finish().map(|()| value)).map_err(Stopped::Error)
}

/// The message for a value of a user's type.
#[cold]
fn undecoded(stopped: Stopped) -> String {
    match stopped {
        Stopped::TooDeep => TOO_DEEP.to_owned(),
        Stopped::Error(error) => with_advice(&error.into_text()),
    }
}

fn with_advice(message: &str) -> String {
    format!("{message}; {ADVICE}")
}

/// Appends the bytes of `value`, and keeps the descriptors that it carries in `output`. After an error, `output` is as it
/// was. A panic passes through.
///
/// # Errors
///
/// The message says why the value does not serialize.
#[inline]
pub(crate) fn append<T: Serialize + 'static>(value: &T, output: &mut Output) -> Result<(), String> {
    output.begin();
    if let Some(number) = number::to_bytes(value) {
        return output.extend(number.as_slice()).map_err(|Full| unreachable!("a number fits a frame"));
    }
    append_serialized(value, output)
}

fn append_serialized<T: Serialize>(value: &T, output: &mut Output) -> Result<(), String> {
    let gathering = attach::gather();
    let written = write(value, output).map_err(|stopped| match output.roll_back() {
        Some(error) => no_room(&error),
        None => stopped.into_message(),
    });
    written.map(|()| output.carry(gathering.finish()))
}

/// As [`append`], but a panic in `Serialize` is an error as well, after which `output` is as it was.
pub(crate) fn encode<T: Serialize + 'static>(value: &T, output: &mut Output) -> Result<(), String> {
    guarded(output, |output| append(value, output))
}

/// As [`encode`], for a value that is decoded as a pair.
pub(crate) fn encode_pair<A: Serialize, B: Serialize>(pair: (&A, &B), output: &mut Output) -> Result<(), String> {
    guarded(output, |output| {
        output.begin();
        append_serialized(&pair, output)
    })
}

fn guarded(output: &mut Output, append: impl FnOnce(&mut Output) -> Result<(), String>) -> Result<(), String> {
    // Unwind safe: what the panic left half done is rolled back below.
    let result = catch_unwind(AssertUnwindSafe(|| append(output)));
    result.unwrap_or_else(|payload| {
        output.roll_back();
        Err(panic_in(Coding::Serialize, payload))
    })
}

/// The value that is encoded in exactly these bytes, with the descriptors that were [delivered](attach::deliver) for it. A
/// panic passes through.
///
/// # Errors
///
/// The message says why the bytes are not a value, and what the author of the type can do about it.
#[inline]
pub(crate) fn parse<'de, T: Deserialize<'de> + 'static>(bytes: &'de [u8]) -> Result<T, String> {
    match number::from_bytes(bytes) {
        Some(Ok(number)) => Ok(number),
        Some(Err(WrongLen { wanted })) => Err(with_advice(&wrong_len(bytes.len(), wanted))),
        None => {
            let _arriving = attach::arrive();
            read(bytes).map_err(undecoded)
        }
    }
}

#[cold]
fn wrong_len(len: usize, wanted: usize) -> String {
    match len.checked_sub(wanted) {
        Some(more) => format!("{more} bytes too many"),
        None => "the bytes end too early".to_owned(),
    }
}

/// Walks through the value in these bytes with a seed.
#[cfg(any(test, fuzzing))]
pub(crate) fn walk<'de, S: serde::de::DeserializeSeed<'de>>(bytes: &'de [u8], seed: S) -> Result<S::Value, String> {
    let mut reader = Reader::new(bytes, Naming::ByPosition);
    seed.deserialize(&mut reader).map_err(format::Error::into_text)
}

/// As [`parse`], but a panic in `Deserialize` is an error as well.
pub(crate) fn decode<'de, T: Deserialize<'de> + 'static>(bytes: &'de [u8]) -> Result<T, String> {
    // Unwind safe: the half-made value is not used after a panic.
    catch_unwind(AssertUnwindSafe(|| parse(bytes)))
        .unwrap_or_else(|payload| Err(panic_in(Coding::Deserialize, payload)))
}

/// The value that a process of this kind has sent by itself, with what it carries. It may be decoded again.
///
/// # Errors
///
/// As for [`decode`]; or the bytes cannot be read.
pub(crate) fn decode_parcel<T: DeserializeOwned + 'static>(parcel: &Parcel, source: Source) -> Result<T, String> {
    let bytes = parcel.read().map_err(|error| error.to_string())?;
    let _delivery = attach::deliver(parcel.carried().clone(), source);
    decode(&bytes)
}

/// Passes the value of each of `items`, or the reason why it has none, to `f`, until `f` returns an error. A panic in
/// `Deserialize` is an error of its item; a panic in `f` passes through.
///
/// # Errors
///
/// The error that `f` returned.
pub(crate) fn decode_each<'de, T: Deserialize<'de> + 'static, E>(
    mut items: impl Iterator<Item = &'de [u8]>,
    mut f: impl FnMut(Result<T, String>) -> Result<(), E>,
) -> Result<(), E> {
    if number::len_of::<T>().is_some() {
        // No code of the user's runs.
        return items.try_for_each(|item| f(parse(item)));
    }
    let mut is_parsing = false;
    loop {
        // One catch_unwind serves many items, because it takes longer than decoding a small one. Unwind safe: the value
        // that was being parsed is not used after a panic; `items` and `f` were not running then, and if `f` has
        // panicked neither is used again.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            items.by_ref().try_for_each(|item| {
                is_parsing = true;
                let value = parse(item);
                is_parsing = false;
                f(value)
            })
        }));
        match outcome {
            Ok(result) => return result,
            Err(payload) if is_parsing => f(Err(panic_in(Coding::Deserialize, payload)))?,
            Err(payload) => resume_unwind(payload),
        }
    }
}

/// The user's code that runs when a value is decoded or encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Deserialize,
    Serialize,
}

/// The message for a panic in that code.
pub(crate) fn panic_in(coding: Coding, payload: Box<dyn Any + Send>) -> String {
    panic_text(coding, &payload::into_text(payload))
}

/// The message for a panic in that code that says `text`.
pub(crate) fn panic_text(coding: Coding, text: &str) -> String {
    match coding {
        Coding::Deserialize => with_advice(&format!("panic in Deserialize: {text}")),
        Coding::Serialize => format!("panic in Serialize: {text}"),
    }
}

thread_local! {
    /// What the last panic that passed through [`coding`] came from.
    static PANICKED: Cell<Option<Coding>> = const { Cell::new(None) };
}

/// Runs `f`, which decodes or encodes a value. A panic passes through, and [`panicked`] then tells where it came from: a
/// `catch_unwind` here would cost time for each value, and this costs none unless there is a panic.
#[inline]
pub(crate) fn coding<R>(coding: Coding, f: impl FnOnce() -> R) -> R {
    struct Passing(Coding);
    impl Drop for Passing {
        fn drop(&mut self) {
            PANICKED.set(Some(self.0));
        }
    }
    let passing = Passing(coding);
    let result = f();
    std::mem::forget(passing);
    result
}

/// What the panic came from that has just been caught on this thread; `None` if not from a value's own code.
pub(crate) fn panicked() -> Option<Coding> {
    PANICKED.take()
}

#[cfg(test)]
mod tests {
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
        assert_eq!(decode::<u8>(&[1, 2]), Err(with_advice("1 bytes too many")));
    }

    /// Refuses 1 by a panic.
    #[derive(Debug, PartialEq, Serialize)]
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
        let bytes = |number: u8| {
            let mut output = Output::default();
            encode(&Picky(number), &mut output).unwrap();
            output.into_bytes()
        };
        let items = [bytes(0), bytes(1), vec![], bytes(1), bytes(4), [bytes(5), vec![5]].concat()];
        let items = items.iter().map(Vec::as_slice);
        let mut seen = Vec::new();
        let shown = decode_each(items, |value: Result<Picky, String>| {
            seen.push(value);
            Ok::<(), ()>(())
        });
        assert_eq!(shown, Ok(()));
        let panic = || Err(with_advice("panic in Deserialize: not one"));
        assert!(seen[2].as_ref().is_err_and(|message| message.starts_with("the bytes end too early")), "{seen:?}");
        drop(seen.remove(2));
        assert_eq!(seen, [Ok(Picky(0)), panic(), panic(), Ok(Picky(4)), Err(with_advice("1 bytes too many"))]);
    }

    #[test]
    fn the_consumer_of_values_may_stop_or_panic() {
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

    struct Refusing;

    impl Serialize for Refusing {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("will not be written"))
        }
    }

    #[test]
    fn the_error_of_a_value_is_the_message() {
        let mut output = holding(&[1, 2, 3]);
        assert_eq!(append(&(1u64, Refusing), &mut output), Err("will not be written".to_owned()));
        assert_eq!(encode(&(1u64, Refusing), &mut output), Err("will not be written".to_owned()));
        assert_eq!(output.bytes(), &[1, 2, 3]);
        let mut zero = Output::default();
        encode(&Some(0u8), &mut zero).unwrap();
        let message = "invalid value: integer `0`, expected a nonzero u8";
        assert_eq!(parse::<NonZero<u8>>(zero.bytes()), Err(with_advice(message)));
        assert_eq!(decode::<NonZero<u8>>(zero.bytes()), Err(with_advice(message)));
    }

    /// The value is large enough to be partly in a file when it fails.
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
    fn bytes_that_are_no_value_are_an_error() {
        let error = decode::<(u8, String)>(&[1]).unwrap_err();
        assert_eq!(error, with_advice("invalid type: unit value, expected a tuple of size 2"));
        assert_eq!(decode::<(u8, String)>(&[11, 33]), Err(with_advice("the bytes end too early")));
    }
}
