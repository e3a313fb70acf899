//! Values that do not serialize or deserialize: an error of that one item, in the parent and in the worker.

use procpool::Pool;
use procpool::Side;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use serde::ser::Error as _;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    argument_that_does_not_serialize,
    argument_that_does_not_deserialize,
    result_that_does_not_serialize,
    result_that_does_not_deserialize,
    other_items_of_the_job_are_unharmed,
    large_values_that_fail_half_way,
    message_of_the_value_is_kept,
    long_messages_of_values_are_harmless,
    deserializing_happens_once_for_each_side,
    large_arguments_and_results,
    large_contexts_and_initializers,
    large_values_over_sockets,
    three_hundred_mebibytes,
];

/// How a [`Tricky`] value fails, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    WriteFails,
    WritePanics,
    ReadFails,
    ReadPanics,
}

const TROUBLES: [Trouble; 5] =
    [Trouble::None, Trouble::WriteFails, Trouble::WritePanics, Trouble::ReadFails, Trouble::ReadPanics];

/// A value whose `Serialize` and `Deserialize` fail as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tricky(Trouble);

impl Tricky {
    fn of(index: usize) -> Tricky {
        Tricky(TROUBLES[index])
    }

    fn index(self) -> u8 {
        u8::try_from(TROUBLES.iter().position(|trouble| *trouble == self.0).unwrap()).unwrap()
    }
}

impl Serialize for Tricky {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Trouble::WriteFails => Err(S::Error::custom("will not be written")),
            Trouble::WritePanics => panic!("panics when written"),
            _ => serializer.serialize_u8(self.index()),
        }
    }
}

impl<'de> Deserialize<'de> for Tricky {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tricky, D::Error> {
        let value = Tricky::of(u8::deserialize(deserializer)?.into());
        match value.0 {
            Trouble::ReadFails => Err(D::Error::custom("will not be read")),
            Trouble::ReadPanics => panic!("panics when read"),
            _ => Ok(value),
        }
    }
}

#[track_caller]
pub(crate) fn assert_encode<T: std::fmt::Debug>(result: Result<T, TaskError>, expected: Side) {
    match result {
        Err(TaskError::Encode { side, message, .. }) if side == expected => {
            assert!(!message.is_empty())
        }
        other => panic!("not an Encode error of {expected:?}: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_decode<T: std::fmt::Debug>(result: Result<T, TaskError>, expected: Side) {
    match result {
        Err(TaskError::Decode { side, message, .. }) if side == expected => {
            assert!(!message.is_empty())
        }
        other => panic!("not a Decode error of {expected:?}: {other:?}"),
    }
}

/// A panic in the worker is reported as a panic, with its location; one in this process was already shown by the panic
/// hook.
/// Checks the error for an argument that fails.
#[track_caller]
fn assert_argument_trouble<T: std::fmt::Debug>(result: Result<T, TaskError>, trouble: Trouble) {
    match trouble {
        Trouble::None => drop(result.unwrap()),
        Trouble::WriteFails | Trouble::WritePanics => assert_encode(result, Side::Argument),
        Trouble::ReadFails | Trouble::ReadPanics => assert_decode(result, Side::Argument),
    }
}

/// Checks the error for a result that fails.
#[track_caller]
fn assert_result_trouble<T: std::fmt::Debug>(result: Result<T, TaskError>, trouble: Trouble) {
    match trouble {
        Trouble::None => drop(result.unwrap()),
        Trouble::WriteFails | Trouble::WritePanics => assert_encode(result, Side::Result),
        Trouble::ReadFails | Trouble::ReadPanics => assert_decode(result, Side::Result),
    }
}

fn argument_that_does_not_serialize(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    for trouble in [Trouble::WriteFails, Trouble::WritePanics] {
        assert_encode(pool.apply((Tricky(trouble),), |x| x), Side::Argument);
        assert_encode(pool.apply_async((Tricky(trouble), 1u8), |_, y| y).get(), Side::Argument);
        assert_encode(pool.map([Tricky(trouble)], |x| x), Side::Argument);
        assert_encode(pool.map_async([Tricky(trouble)], |x| x).get(), Side::Argument);
        assert_encode(pool.imap([Tricky(trouble)], |x| x).next().unwrap(), Side::Argument);
        assert_encode(pool.imap_unordered([Tricky(trouble)], |x| x).next().unwrap(), Side::Argument);
    }
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids);
}

fn argument_that_does_not_deserialize(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    for trouble in [Trouble::ReadFails, Trouble::ReadPanics] {
        assert_argument_trouble(pool.apply((Tricky(trouble),), |_| 1u8), trouble);
        assert_argument_trouble(pool.map([Tricky(trouble)], |_| 1u8), trouble);
        assert_argument_trouble(pool.imap([Tricky(trouble)], |_| 1u8).next().unwrap(), trouble);
    }
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids, "the worker was replaced");
}

fn result_that_does_not_serialize(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    for trouble in [1usize, 2] {
        assert_result_trouble(pool.apply((trouble,), Tricky::of), TROUBLES[trouble]);
        assert_result_trouble(pool.map([trouble], Tricky::of), TROUBLES[trouble]);
        assert_result_trouble(pool.imap_unordered([trouble], Tricky::of).next().unwrap(), TROUBLES[trouble]);
    }
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids, "the worker was replaced");
}

fn result_that_does_not_deserialize(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    for trouble in [3usize, 4] {
        assert_decode(pool.apply((trouble,), Tricky::of), Side::Result);
        assert_decode(pool.map([trouble], Tricky::of), Side::Result);
        assert_decode(pool.imap([trouble], Tricky::of).next().unwrap(), Side::Result);
        let handle = pool.apply_async((trouble,), Tricky::of);
        assert_decode(handle.get(), Side::Result);
        assert_decode(handle.get(), Side::Result);
    }
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids);
}

fn other_items_of_the_job_are_unharmed(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for chunk_size in [1, 5, 100] {
        let call = pool.chunk_size(chunk_size);
        let arguments = call.map_results((0..50).map(|x| Tricky::of(x % 5)), |_| 1u8).unwrap();
        let results = call.map_results((0..50usize).map(|x| x % 5), Tricky::of).unwrap();
        assert_eq!((arguments.len(), results.len()), (50, 50));
        for (index, (argument, result)) in arguments.into_iter().zip(results).enumerate() {
            assert_argument_trouble(argument, TROUBLES[index % 5]);
            assert_result_trouble(result, TROUBLES[index % 5]);
        }
    }
}

/// The value fails after many bytes, when half of a frame may already be sent.
fn large_values_that_fail_half_way(method: StartMethod) {
    let pool = stage::pool(method, 1);
    for trouble in TROUBLES {
        let argument = (vec![7u8; 300_000], Tricky(trouble), vec![8u8; 300_000]);
        let result = pool.apply((argument,), |(before, _, after)| before.len() + after.len());
        assert_argument_trouble(result, trouble);
        let index = usize::from(Tricky(trouble).index());
        let result = pool.apply((index,), |index| (vec![7u8; 300_000], Tricky::of(index), vec![8u8; 300_000]));
        assert_result_trouble(result, trouble);
        stage::assert_works(&pool);
    }
}

/// The type's own error message must arrive: it is the only hint for the author of the type.
fn message_of_the_value_is_kept(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let assert_contains = |error: TaskError, words: &str| assert!(error.to_string().contains(words), "{error}");
    assert_contains(stage::error(pool.apply((Tricky(Trouble::WriteFails),), |_| 1u8)), "will not be written");
    assert_contains(stage::error(pool.apply((Tricky(Trouble::WritePanics),), |_| 1u8)), "panics when written");
    assert_contains(stage::error(pool.apply((Tricky(Trouble::ReadFails),), |_| 1u8)), "will not be read");
    assert_contains(stage::error(pool.apply((1usize,), Tricky::of)), "will not be written");
    assert_contains(stage::error(pool.apply((3usize,), Tricky::of)), "will not be read");
    assert_contains(stage::error(pool.apply((4usize,), Tricky::of)), "panics when read");
}

/// A value with a very long message about why it cannot be written or read.
#[derive(Clone, Copy)]
struct Wordy(Trouble);

impl Wordy {
    fn words() -> String {
        format!("many words: {}", "長".repeat(350_000))
    }
}

impl Serialize for Wordy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Trouble::WriteFails => Err(S::Error::custom(Wordy::words())),
            Trouble::WritePanics => panic!("{}", Wordy::words()),
            _ => Tricky(self.0).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Wordy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wordy, D::Error> {
        match Tricky::of(u8::deserialize(deserializer)?.into()).0 {
            Trouble::ReadFails => Err(D::Error::custom(Wordy::words())),
            Trouble::ReadPanics => panic!("{}", Wordy::words()),
            trouble => Ok(Wordy(trouble)),
        }
    }
}

/// The message is longer than a frame, from either side.
fn long_messages_of_values_are_harmless(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    let call = pool.chunk_size(5);
    let arguments = call.map_results((0..20).map(|x| Wordy(TROUBLES[x % 5])), |_| 1u8).unwrap();
    let results = call.map_results((0..20usize).map(|x| x % 5), |x| Wordy(TROUBLES[x])).unwrap();
    for (index, (argument, result)) in arguments.into_iter().zip(results).enumerate() {
        for (side, error) in [(Side::Argument, argument.err()), (Side::Result, result.err())] {
            let message = match (TROUBLES[index % 5], error) {
                (Trouble::None, None) => continue,
                (
                    _,
                    Some(
                        TaskError::Encode { side: found, message, .. } | TaskError::Decode { side: found, message, .. },
                    ),
                ) => {
                    assert_eq!(found, side);
                    message
                }
                (trouble, other) => panic!("{trouble:?} of an {side:?} is {other:?}"),
            };
            assert!(message.contains("many words: 長長長"), "{message:.60}");
        }
    }
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids, "the worker was replaced");
}

/// Notes the process that deserializes it.
struct Witness(String);

impl Serialize for Witness {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Witness {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Witness, D::Error> {
        let book = String::deserialize(deserializer)?;
        stage::note(&book, std::process::id());
        Ok(Witness(book))
    }
}

fn deserializing_happens_once_for_each_side(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let worker = pool.pids()[0];
    let _ = pool.apply((Witness(book.path()),), |witness| witness).unwrap();
    assert_eq!(book.lines(), [worker.to_string(), std::process::id().to_string()]);
}

/// Bytes that serde serializes as bytes, in one piece.
#[derive(Debug, PartialEq, Eq)]
struct Block(Vec<u8>);

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Block, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Block;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Block, E> {
                Ok(Block(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// A pattern that differs from page to page, and is neither constant nor zero.
fn block(len: usize) -> Block {
    let mut bytes = vec![0xa5; len];
    bytes.iter_mut().step_by(4093).enumerate().for_each(|(index, byte)| *byte = (index % 251).to_le_bytes()[0]);
    Block(bytes)
}

/// Checks the bytes, and returns their length.
fn check(block_given: &Block) -> usize {
    assert!(*block_given == block(block_given.0.len()), "{} bytes came changed", block_given.0.len());
    block_given.0.len()
}

/// Sizes around the limit of a frame, and around the size from which files are mapped.
const LARGE: [usize; 4] = [61 << 10, (256 << 10) - 5, 1 << 20, 64 << 20];

fn assert_large_values_pass(pool: &Pool) {
    for len in LARGE {
        assert_eq!(pool.apply((block(len),), |block| check(&block)).unwrap(), len);
        assert_eq!(check(&pool.apply((len,), block).unwrap()), len);
    }
    let small_and_large: Vec<usize> = (0..60).map(|x| if x % 5 == 0 { LARGE[x % 3] } else { x }).collect();
    let lens: Vec<usize> = pool
        .imap(small_and_large.iter().map(|&len| block(len)), |block| block)
        .map(|block| check(&block.unwrap()))
        .collect();
    assert_eq!(lens, small_and_large);
}

fn large_arguments_and_results(method: StartMethod) {
    let pool = stage::pool(method, 2);
    assert_large_values_pass(&pool);
}

fn large_values_over_sockets(method: StartMethod) {
    sys::set_env("PROCPOOL_LINK", "socket");
    let pool = stage::pool(method, 2);
    assert_large_values_pass(&pool);
    let len = 300 << 20;
    assert_eq!(pool.apply((block(len),), |block| check(&block)).unwrap(), len);
}

fn large_contexts_and_initializers(method: StartMethod) {
    for len in LARGE {
        let pool = Pool::builder()
            .processes(2)
            .start_method(method)
            .initializer((block(len),), |given: Block| {
                INITIALIZED.store(check(&given), std::sync::atomic::Ordering::Relaxed);
            })
            .build()
            .unwrap();
        let context = block(len);
        let seen = pool.with(&context).map(0..4usize, |context: &Block, x: usize| {
            (check(context) + x, INITIALIZED.load(std::sync::atomic::Ordering::Relaxed))
        });
        assert_eq!(seen.unwrap(), [(len, len), (len + 1, len), (len + 2, len), (len + 3, len)]);
    }
}

static INITIALIZED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// As an argument, a context and a result.
fn three_hundred_mebibytes(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let len = 300 << 20;
    assert_eq!(pool.apply((block(len),), |block| check(&block)).unwrap(), len);
    assert_eq!(check(&pool.apply((len,), block).unwrap()), len);
    let context = block(len);
    assert_eq!(pool.with(&context).apply((1usize,), |context, x| check(context) + x).unwrap(), len + 1);
    stage::assert_works(&pool);
}
