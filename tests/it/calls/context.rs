//! `Pool::with`: a value shared by all items, sent once to each worker.

use std::collections::BTreeSet;
use std::fmt;

use nix::sys::signal::Signal;
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
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    context_that_fills_the_link_lets_items_through,
    reaches_every_kind_of_call,
    is_a_method_receiver,
    is_sent_once_to_each_worker,
    may_be_large,
    need_not_outlive_the_call,
    many_contexts_do_not_mix,
    reaches_replaced_workers,
    combines_with_chunks_and_fail_fast,
    failing_to_serialize_is_an_error,
    failing_to_deserialize_is_an_error_of_each_item,
    decoding_that_kills_the_worker_costs_its_items,
    decoding_that_never_ends_is_stopped_by_the_call,
    what_was_cancelled_before_it_began_is_not_decoded,
];

fn reaches_every_kind_of_call(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (k, prefix) = (3u32, "p".to_owned());
    let context = (k, prefix);
    let with = pool.with(&context);
    assert_eq!(with.apply((2u32,), |(k, prefix), x| format!("{prefix}{}", k * x)).unwrap(), "p6");
    assert_eq!(with.apply((2u32, 1u32), |(k, _), x, y| k * x + y).unwrap(), 7);
    assert_eq!(with.apply_async((2u32,), |(k, _), x| k * x).get().unwrap(), 6);
    assert_eq!(with.map(0..3u32, |(k, _), x| k * x).unwrap(), [0, 3, 6]);
    assert_eq!(with.map_async(0..3u32, |(k, _), x| k * x).get().unwrap(), [0, 3, 6]);
    assert_eq!(with.map_results(0..1u32, |(k, _), x| k * x).unwrap().len(), 1);
    assert_eq!(with.starmap([(1u32, 2u32)], |(k, _), a, b| k * (a + b)).unwrap(), [9]);
    assert_eq!(with.starmap_async([(1u32, 2u32)], |(k, _), a, b| k * (a + b)).get().unwrap(), [9]);
    assert_eq!(with.imap(0..3u32, |(k, _), x| k * x).map(Result::unwrap).collect::<Vec<_>>(), [0, 3, 6]);
    assert_eq!(with.imap_unordered(0..3u32, |(k, _), x| k * x).map(Result::unwrap).sum::<u32>(), 9);
}

#[derive(Serialize, Deserialize)]
struct Model {
    factor: u32,
}

impl Model {
    fn predict(&self, x: u32) -> u32 {
        self.factor * x
    }
}

fn is_a_method_receiver(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let model = Model { factor: 3 };
    assert_eq!(pool.with(&model).map(0..4, Model::predict).unwrap(), [0, 3, 6, 9]);
    assert_eq!(pool.with(&model).map(0..4, |m, i| m.predict(i)).unwrap(), [0, 3, 6, 9]);
}

/// Notes the process id each time that it is deserialized.
struct Counted {
    book: String,
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.book.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Counted, D::Error> {
        let book = String::deserialize(deserializer)?;
        stage::note(&book, std::process::id());
        Ok(Counted { book })
    }
}

fn is_sent_once_to_each_worker(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let context = Counted { book: book.path() };
    let pids = pool.with(&context).chunk_size(1).map(0..500u32, |_, _| std::process::id()).unwrap();
    let receivers = book.lines();
    let distinct: BTreeSet<String> = receivers.iter().cloned().collect();
    assert_eq!(distinct.len(), receivers.len(), "some worker got it twice: {receivers:?}");
    let users: BTreeSet<String> = pids.iter().map(u32::to_string).collect();
    assert!(users.is_subset(&distinct), "{users:?} used it, {distinct:?} got it");
}

fn may_be_large(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let table: Vec<u64> = (0..1_000_000).collect();
    let picked = pool.with(&table).map((0..1000usize).map(|i| 997 * i), |table, index| table[index]).unwrap();
    assert_eq!(picked, (0..1000).map(|i| 997 * i).collect::<Vec<_>>());
}

fn need_not_outlive_the_call(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let held = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    let handle = {
        let context = "short-lived".to_owned();
        pool.with(&context).map_async(0..3usize, |context, x| context.len() + x)
    };
    gate.open();
    assert_eq!(handle.get().unwrap(), [11, 12, 13]);
    held.get().unwrap();
}

fn many_contexts_do_not_mix(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let handles: Vec<_> =
        (0..50u32).map(|context| pool.with(&context).map_async(0..20u32, |context, x| 100 * context + x)).collect();
    for (context, handle) in (0u32..).zip(&handles) {
        assert_eq!(handle.get().unwrap(), (100 * context..100 * context + 20).collect::<Vec<_>>());
    }
}

fn reaches_replaced_workers(method: StartMethod) {
    let pool = Pool::builder().processes(1).start_method(method).max_tasks_per_child(1).build().unwrap();
    let seen = pool.with(&7u32).map(0..6u32, |context, x| (std::process::id(), context * x)).unwrap();
    assert_eq!(seen.iter().map(|(pid, _)| pid).collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(seen.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [0, 7, 14, 21, 28, 35]);
}

fn combines_with_chunks_and_fail_fast(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let expected: Vec<u32> = (5..105).collect();
    assert_eq!(pool.with(&5u32).chunk_size(16).map(0..100u32, |c, x| c + x).unwrap(), expected);
    assert_eq!(pool.chunk_size(16).with(&5u32).map(0..100u32, |c, x| c + x).unwrap(), expected);
    assert_eq!(pool.fail_fast().with(&5u32).map(0..100u32, |c, x| c + x).unwrap(), expected);
    assert_eq!(pool.with(&5u32).fail_fast().map(0..100u32, |c, x| c + x).unwrap(), expected);
}

/// A context that only one of the two sides can handle.
struct Awkward {
    serializes: bool,
}

impl Serialize for Awkward {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.serializes {
            true => serializer.serialize_u8(1),
            false => Err(S::Error::custom("awkward to write")),
        }
    }
}

impl<'de> Deserialize<'de> for Awkward {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Awkward, D::Error> {
        Err(D::Error::custom("awkward to read"))
    }
}

impl fmt::Debug for Awkward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Awkward")
    }
}

fn failing_to_serialize_is_an_error(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let context = Awkward { serializes: false };
    let error = stage::error(pool.with(&context).map(0..3u32, |_, x| x));
    assert!(
        matches!(&error, TaskError::Encode { side: Side::Context, message, .. } if !message.is_empty()),
        "{error:?}"
    );
    assert!(matches!(pool.with(&context).apply_async((1u8,), |_, x| x).get(), Err(TaskError::Encode { .. })));
    assert!(matches!(pool.with(&context).imap(0..3u32, |_, x| x).next(), Some(Err(TaskError::Encode { .. }))));
    stage::assert_works(&pool);
}

fn failing_to_deserialize_is_an_error_of_each_item(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    let context = Awkward { serializes: true };
    for result in pool.with(&context).map_results(0..3u32, |_, x| x).unwrap() {
        let error = stage::error(result);
        assert!(
            matches!(&error, TaskError::Decode { side: Side::Context, message, .. } if !message.is_empty()),
            "{error:?}"
        );
    }
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids, "the worker was replaced");
}

/// The context alone nearly fills the link, and its worker sends no answer after reading it.
fn context_that_fills_the_link_lets_items_through(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let context = vec![1u8; 59_000];
    let items = (0..20u8).map(|x| vec![x; 20_000]);
    let sums = pool.with(&context).map(items, |context, item| context.len() + item.len() + usize::from(item[0]));
    assert_eq!(sums.unwrap(), (79_000..79_020).collect::<Vec<_>>());
}

/// Kills the process that deserializes it, the first `deaths` times.
struct Deadly {
    book: String,
    deaths: usize,
}

impl Serialize for Deadly {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.book, self.deaths).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Deadly {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (book, deaths) = <(String, usize)>::deserialize(deserializer)?;
        if stage::lines_of(&book).len() < deaths {
            stage::note(&book, std::process::id());
            std::process::abort();
        }
        Ok(Self { book, deaths })
    }
}

fn decoding_that_kills_the_worker_costs_its_items(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let always = Deadly { book: book.path(), deaths: usize::MAX };
    let error = pool.with(&always).apply_async((1u8,), |_, x| x).get().unwrap_err();
    assert!(matches!(error, TaskError::WorkerDied { .. }), "{error:?}");
    assert_eq!(book.lines().len(), 1, "the item is not tried again");
    let results = pool.with(&always).map_results(0..5u32, |_, x| x).unwrap();
    assert!(results.iter().all(|result| matches!(result, Err(TaskError::WorkerDied { .. }))), "{results:?}");
    assert!(book.lines().len() <= 1 + 5, "each death costs an item");

    let book = Notebook::new();
    let twice = Deadly { book: book.path(), deaths: 2 };
    assert_eq!(pool.with(&twice).retries(2).apply((7u32,), |_, x| x).unwrap(), 7, "its retries count");
    stage::assert_works(&pool);
}

/// Never deserializes.
struct Endless;

impl Serialize for Endless {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Endless {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        loop {
            std::thread::park();
        }
    }
}

fn decoding_that_never_ends_is_stopped_by_the_call(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let call = pool.with(&Endless).apply_async((1u8,), |_, x| x);
    assert!(!call.wait_timeout(std::time::Duration::from_millis(100)));
    assert!(call.cancel());
    assert!(matches!(call.get().unwrap_err(), TaskError::Cancelled));
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
}

/// The worker is stopped when it is given the item, so both the context and the item are taken back. A context that is sent
/// again without an item would be decoded for ever, and no call would be to blame.
fn what_was_cancelled_before_it_began_is_not_decoded(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pid = pool.apply((), std::process::id).unwrap();
    stage::signal(pid, Signal::SIGSTOP);
    let call = pool.with(&Endless).apply_async((1u8,), |_, x| x);
    assert!(!call.wait_timeout(std::time::Duration::from_millis(30)));
    assert!(call.cancel());
    assert!(matches!(call.get().unwrap_err(), TaskError::Cancelled));
    stage::signal_if_there(pid, Signal::SIGCONT);
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
}
