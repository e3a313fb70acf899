//! Serialization of values. Only this file and [`explain`] name the serializer (postcard, through serde).
//!
//! Values are walked by recursion, and no bytes may make that overflow the stack. Every level of a finite value has
//! bytes of its own (the tag of an option, the length of a sequence, the index of a variant). All bytes pass through the
//! two flavors below, so these see every level at its depth, and end the walk with an error when the [`StackBudget`] is
//! exhausted.
//!
//! The user's `Serialize` and `Deserialize` are called from here, and may panic. [`encode`] and [`decode`] turn a panic
//! into an error, because one bad value must not end a job, let alone the parent.
//!
//! Messages say why *this* value failed. The advice that holds for all of them, that both sides must agree on a format
//! that does not describe itself, is appended to the message of every value that does not decode, unless its depth is
//! the reason.
//!
//! Also called: codec, wire format, marshalling, non-self-describing format.

use std::any::Any;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;

use postcard::de_flavors;
use postcard::de_flavors::Slice;
use postcard::ser_flavors;
use serde::Deserialize;
use serde::Serialize;

use crate::sys::payload;
use crate::sys::stack::StackBudget;
use crate::values::attach;
use crate::values::explain;
use crate::values::number;
use crate::values::number::WrongLen;
use crate::values::output::Full;
use crate::values::output::Output;
use crate::values::output::no_room;

/// The message of a value that would have overflowed the stack of the thread that reads or writes it.
const TOO_DEEP: &str = "it is nested too deeply for the stack of the thread that reads or writes it; use a thread with a \
                        larger stack, or a type that is flatter";

/// What the author of a type can do about bytes that do not decode.
const FORMAT_ADVICE: &str = "its Serialize and Deserialize must agree on a format that does not describe itself (no \
                             serde attribute tag, untagged, flatten, skip_serializing_if or the like)";

/// A postcard flavor that appends to an output, so that values are encoded where they will stay.
struct Append<'a> {
    output: &'a mut Output,
    budget: StackBudget,
}

impl Append<'_> {
    /// Postcard and the value may replace this error; the budget remembers what happened.
    #[inline]
    fn check(&mut self) -> postcard::Result<()> {
        if self.budget.is_left() { Ok(()) } else { Err(postcard::Error::SerializeBufferFull) }
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
        // No level begins with 8 bytes or more: as a length, that would exceed any memory. It is a float, or text.
        if bytes.len() < 8 {
            self.check()?;
        }
        self.output.extend(bytes).map_err(|Full| postcard::Error::SerializeBufferFull)
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// A postcard flavor that reads a slice.
struct Take<'de> {
    slice: Slice<'de>,
    budget: StackBudget,
}

impl<'de> de_flavors::Flavor<'de> for Take<'de> {
    type Remainder = (&'de [u8], StackBudget);
    type Source = &'de [u8];

    /// Every level begins with a call of this. Whether the error is real or a lack of stack is read from the budget.
    #[inline]
    fn pop(&mut self) -> postcard::Result<u8> {
        if self.budget.is_left() { self.slice.pop() } else { Err(postcard::Error::DeserializeUnexpectedEnd) }
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.slice.size_hint()
    }

    #[inline]
    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'de [u8]> {
        self.slice.try_take_n(count)
    }

    fn finalize(self) -> postcard::Result<(&'de [u8], StackBudget)> {
        Ok((self.slice.finalize()?, self.budget))
    }
}

/// Why a walk through a value failed.
enum Stopped {
    TooDeep,
    ByPostcard(postcard::Error),
}

/// Never inlined, because the compiler knows only of an argument that nothing else points to the output: that saves a
/// quarter of the time of long sequences of small numbers.
#[inline(never)]
fn write<T: Serialize + ?Sized>(value: &T, output: &mut Output) -> Result<(), Stopped> {
    let mut serializer = postcard::Serializer { output: Append { output, budget: StackBudget::from_here() } };
    let result = value.serialize(&mut serializer);
    // Checked first: the value may have replaced the error that stopped it, or swallowed it.
    if serializer.output.budget.is_exhausted() {
        return Err(Stopped::TooDeep);
    }
    result.map_err(Stopped::ByPostcard)
}

/// The value, and the bytes behind it.
fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<(T, &'de [u8]), Stopped> {
    let take = Take { slice: Slice::new(bytes), budget: StackBudget::from_here() };
    let mut deserializer = postcard::Deserializer::from_flavor(take);
    let result = T::deserialize(&mut deserializer);
    let (rest, budget) = deserializer.finalize().map_err(Stopped::ByPostcard)?;
    if budget.is_exhausted() {
        return Err(Stopped::TooDeep);
    }
    Ok((result.map_err(Stopped::ByPostcard)?, rest))
}

/// The message for an error of postcard. `explain` is called if the error came from the value itself.
fn message_for(error: &postcard::Error, explain: impl FnOnce() -> Option<String>) -> String {
    use postcard::Error;
    // Any other error is the format's own: the value has reported none, and asked for nothing that the format lacks.
    let is_the_types = matches!(error, Error::SerdeSerCustom | Error::SerdeDeCustom | Error::WontImplement);
    let custom = is_the_types.then(explain).flatten();
    custom.unwrap_or_else(|| explain::describe(error))
}

/// Why bytes are not a value.
enum Undecoded {
    TooDeep,
    /// The message.
    Mismatch(String),
}

impl Undecoded {
    /// For a message of ours: both sides are this crate, so there is no advice to give.
    fn for_message(self) -> String {
        match self {
            Undecoded::TooDeep => TOO_DEEP.to_owned(),
            Undecoded::Mismatch(message) => message,
        }
    }

    /// For a value of a user's type.
    fn for_value(self) -> String {
        match self {
            Undecoded::TooDeep => TOO_DEEP.to_owned(),
            Undecoded::Mismatch(message) => with_advice(&message),
        }
    }
}

fn with_advice(message: &str) -> String {
    format!("{message}; {FORMAT_ADVICE}")
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
    let written = write(value, output).map_err(|stopped| {
        // Rolled back first, because the explanation runs the user's code again, which may panic.
        match (output.roll_back(), stopped) {
            (Some(error), _) => no_room(&error),
            (None, Stopped::TooDeep) => TOO_DEEP.to_owned(),
            (None, Stopped::ByPostcard(error)) => message_for(&error, || explain::why_not_encoded(value)),
        }
    });
    written.map(|()| output.carry(gathering.finish()))
}

/// The bytes of a message between parent and worker, of any length.
///
/// # Errors
///
/// The message says why the value does not serialize.
pub(crate) fn to_vec<T: Serialize>(message: &T) -> Result<Vec<u8>, String> {
    postcard::to_stdvec(message).map_err(|error| explain::describe(&error))
}

/// As [`append`], but a panic in `Serialize` is an error as well, after which `output` is as it was.
pub(crate) fn encode<T: Serialize + 'static>(value: &T, output: &mut Output) -> Result<(), String> {
    // Unwind safe: what the panic left half done is rolled back below.
    let result = catch_unwind(AssertUnwindSafe(|| append(value, output)));
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
            parse_exactly(bytes).map_err(Undecoded::for_value)
        }
    }
}

#[cold]
fn wrong_len(len: usize, wanted: usize) -> String {
    match len.checked_sub(wanted) {
        Some(more) => too_many(more),
        None => explain::describe(&postcard::Error::DeserializeUnexpectedEnd),
    }
}

fn too_many(bytes: usize) -> String {
    format!("{bytes} bytes too many")
}

/// The message that [`to_vec`] has encoded in exactly these bytes. A panic passes through.
///
/// # Errors
///
/// The text says why the bytes are not a message.
pub(crate) fn parse_serialized<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, String> {
    parse_exactly(bytes).map_err(Undecoded::for_message)
}

fn parse_exactly<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Undecoded> {
    match read(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(Undecoded::Mismatch(too_many(rest.len()))),
        Err(Stopped::TooDeep) => Err(Undecoded::TooDeep),
        Err(Stopped::ByPostcard(error)) => {
            Err(Undecoded::Mismatch(message_for(&error, || explain::why_not_decoded::<T>(bytes))))
        }
    }
}

/// The value at the front of these bytes, and the bytes behind it.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_front<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Option<(T, &'de [u8])> {
    read(bytes).ok()
}

/// As [`parse`], but a panic in `Deserialize` is an error as well.
pub(crate) fn decode<'de, T: Deserialize<'de> + 'static>(bytes: &'de [u8]) -> Result<T, String> {
    // Unwind safe: the half-made value is not used after a panic.
    catch_unwind(AssertUnwindSafe(|| parse(bytes)))
        .unwrap_or_else(|payload| Err(panic_in(Coding::Deserialize, payload)))
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
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::collections::HashMap;
    use std::fmt::Debug;
    use std::num::NonZero;

    use serde::Serializer;
    use serde::de::DeserializeOwned;
    use serde::ser::Error as _;

    use super::*;
    use crate::sys::stack::tests::on_a_stack_of;

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

    /// Fails when it is written for the first time, and panics from then on.
    struct Worse(Cell<bool>);

    impl Serialize for Worse {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            assert!(!self.0.replace(true), "not again");
            Err(S::Error::custom("not today"))
        }
    }

    #[test]
    fn a_panic_during_the_explanation_is_an_error_like_any_other() {
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
    fn the_error_of_a_value_is_the_message() {
        let mut output = holding(&[1, 2, 3]);
        assert_eq!(append(&(1u64, Refusing), &mut output), Err("will not be written".to_owned()));
        assert_eq!(encode(&(1u64, Refusing), &mut output), Err("will not be written".to_owned()));
        assert_eq!(output.bytes(), &[1, 2, 3]);
        let zero = "invalid value: integer `0`, expected a nonzero u8";
        assert_eq!(parse::<NonZero<u8>>(&[0]), Err(with_advice(zero)));
        assert_eq!(decode::<NonZero<u8>>(&[0]), Err(with_advice(zero)));
        assert_eq!(parse_serialized::<NonZero<u8>>(&[0]), Err(zero.to_owned()));
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
    fn without_an_error_of_the_value_the_message_is_the_formats() {
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

    /// The bytes of a value with `level` at every level except the innermost, which is all zeros.
    fn nested(level: &[u8], depth: usize) -> Vec<u8> {
        let last = if level.first() == Some(&0) { level.len() } else { 1 };
        let mut bytes = level.repeat(depth);
        bytes.resize(bytes.len() + last, 0);
        bytes
    }

    /// A value far too deep is an error. The deepest value that still decodes can be cloned, compared, written and dropped.
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
                // Taken apart level by level: its drop would overflow this stack.
                while let Some(inner) = tree.0.pop() {
                    tree = inner;
                }
            });
        }
    }

    /// Swallows any error.
    struct Careless(Option<Chain>);

    impl<'de> Deserialize<'de> for Careless {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Careless, D::Error> {
            Ok(Careless(Chain::deserialize(deserializer).ok()))
        }
    }

    #[test]
    fn a_value_cannot_hide_that_it_was_too_deep() {
        assert!(decode::<Careless>(&nested(&[1], 3)).unwrap().0.is_some());
        assert_eq!(decode::<Careless>(&nested(&[1], DEEP)).err().as_deref(), Some(TOO_DEEP));
    }
}
