//! Values nested too deeply for any stack: an error of their item, in the parent and in the worker.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use procpool::Side;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use crate::harness::cases;
use crate::harness::stage;
use crate::values::values::assert_decode;
use crate::values::values::assert_encode;

cases![results_are_errors, arguments_are_errors, values_on_small_stacks, values_in_a_callback,];

/// A depth of nesting for which no stack is large enough.
const TOO_DEEP: usize = 1_000_000;

/// Longer than it takes until a callback is called.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A nested value that can be dropped at any depth.
#[derive(Serialize, Deserialize)]
struct Nest(Vec<Nest>);

impl Nest {
    fn new(depth: usize) -> Nest {
        (0..depth).fold(Nest(Vec::new()), |inner, _| Nest(vec![inner]))
    }

    fn depth(&self) -> usize {
        let mut depth = 0;
        let mut nest = self;
        while let Some(inner) = nest.0.first() {
            (depth, nest) = (depth + 1, inner);
        }
        depth
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        while let Some(mut inner) = self.0.pop() {
            self.0.append(&mut inner.0);
        }
    }
}

/// A nested value that takes much more stack to read than to write, so that its writer does not notice that it is too deep
/// for its reader. A worker with a larger stack, or a hostile one, may send the like.
#[derive(Debug)]
struct Forged(usize);

/// A depth at which a [`Forged`] can be written, but not read.
const UNREADABLE: usize = 1500;

impl Serialize for Forged {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.checked_sub(1) {
            Some(inner) => serializer.serialize_some(&Forged(inner)),
            None => serializer.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for Forged {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Forged, D::Error> {
        let mut ballast = [0u8; 4 << 10];
        black_box(&mut ballast);
        let inner = Option::<Box<Forged>>::deserialize(deserializer)?;
        black_box(&ballast);
        Ok(Forged(inner.map_or(0, |inner| inner.0 + 1)))
    }
}

/// The error says what is wrong and what to do about it, and nothing else.
#[track_caller]
fn assert_told_too_deep(error: &TaskError) {
    let text = error.to_string();
    assert!(text.contains("nested too deeply") && text.contains("larger stack"), "{text}");
    assert!(!text.contains("Deserialize must"), "{text}");
}

#[track_caller]
fn assert_too_deep_to_read<T: std::fmt::Debug>(result: Result<T, TaskError>, expected: Side) {
    let error = stage::error(result);
    assert_told_too_deep(&error);
    assert_decode::<T>(Err(error), expected);
}

#[track_caller]
fn assert_too_deep_to_write<T: std::fmt::Debug>(result: Result<T, TaskError>, expected: Side) {
    let error = stage::error(result);
    assert_told_too_deep(&error);
    assert_encode::<T>(Err(error), expected);
}

fn results_are_errors(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let pids = pool.pids();
    assert_too_deep_to_read(pool.apply((UNREADABLE,), Forged), Side::Result);
    assert_too_deep_to_read(pool.imap([UNREADABLE], Forged).next().unwrap(), Side::Result);
    let handle = pool.apply_async((UNREADABLE,), Forged);
    assert_too_deep_to_read(handle.get(), Side::Result);
    assert_too_deep_to_read(handle.get(), Side::Result);
    assert_too_deep_to_write(pool.apply((TOO_DEEP,), Nest::new).map(drop), Side::Result);
    let results = pool.chunk_size(10).map_results((0..20).map(|x| if x % 5 == 3 { UNREADABLE } else { x }), Forged);
    for (index, result) in results.unwrap().into_iter().enumerate() {
        match index % 5 {
            3 => assert_too_deep_to_read(result, Side::Result),
            _ => assert_eq!(result.unwrap().0, index),
        }
    }
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids);
}

fn arguments_are_errors(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let pids = pool.pids();
    assert_eq!(pool.apply((Nest::new(20),), |nest| nest.depth()).unwrap(), 20);
    assert_too_deep_to_write(pool.apply((Nest::new(TOO_DEEP),), |nest| nest.depth()), Side::Argument);
    assert_too_deep_to_write(pool.map([Nest::new(TOO_DEEP)], |nest| nest.depth()), Side::Argument);
    assert_too_deep_to_write(pool.imap([Nest::new(TOO_DEEP)], |nest| nest.depth()).next().unwrap(), Side::Argument);
    assert_too_deep_to_read(pool.apply((Forged(UNREADABLE),), |forged| forged.0), Side::Argument);
    let arguments = (0..20).map(|x| Forged(if x % 5 == 3 { UNREADABLE } else { x }));
    let results = pool.chunk_size(10).map_results(arguments, |forged| forged.0).unwrap();
    for (index, result) in results.into_iter().enumerate() {
        match index % 5 {
            3 => assert_too_deep_to_read(result, Side::Argument),
            _ => assert_eq!(result.unwrap(), index),
        }
    }
    let nest = Nest::new(TOO_DEEP);
    let call = pool.with(&nest);
    assert_too_deep_to_write(call.apply((1u8,), |nest, _| nest.depth()), Side::Context);
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids, "a worker was replaced");
}

fn values_on_small_stacks(method: StartMethod) {
    let pool = stage::pool(method, 1);
    for stack_size in [64 << 10, 128 << 10] {
        let forged = pool.apply_async((UNREADABLE,), Forged);
        let flat = pool.apply_async((5u8,), |x| (x, "flat".to_owned()));
        forged.wait();
        flat.wait();
        thread::scope(|scope| {
            let thread = thread::Builder::new().stack_size(stack_size);
            let ask = || {
                assert_too_deep_to_read(forged.get(), Side::Result);
                assert_eq!(flat.get().unwrap(), (5, "flat".to_owned()));
            };
            thread.spawn_scoped(scope, ask).unwrap().join().unwrap();
        });
    }
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(128 << 10);
        let ask = || {
            assert_too_deep_to_write(pool.apply((Nest::new(TOO_DEEP),), |nest| nest.depth()), Side::Argument);
            assert_too_deep_to_read(pool.apply((UNREADABLE,), Forged), Side::Result);
            stage::assert_works(&pool);
        };
        thread.spawn_scoped(scope, ask).unwrap().join().unwrap();
    });
    stage::assert_works(&pool);
}

fn values_in_a_callback(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 1));
    let (sender, received) = mpsc::channel();
    let inner = Arc::clone(&pool);
    let handle = pool.apply_async((UNREADABLE,), Forged).on_error(move |error| {
        let read = inner.apply((UNREADABLE,), Forged);
        let written = inner.apply((Nest::new(TOO_DEEP),), |nest| nest.depth());
        sender.send((error, read, written)).unwrap();
    });
    let (error, read, written) = received.recv_timeout(WAIT_MAX).unwrap();
    assert_too_deep_to_read::<Forged>(Err(error), Side::Result);
    assert_too_deep_to_read(read, Side::Result);
    assert_too_deep_to_write(written, Side::Argument);
    assert_too_deep_to_read(handle.get(), Side::Result);
    stage::assert_works(&pool);
}
