//! Ends that travelled go with the values that had them: whatever becomes of a value, the end of a side is seen. What is no
//! end is an error.

use std::time::Duration;

use procpool::StartMethod;
use procpool::TaskError;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::RecvError;
use procpool::channel::Reply;
use procpool::channel::SendError;
use procpool::channel::Sender;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::value::SeqDeserializer;
use serde::ser::Error as _;
use serde::ser::SerializeTuple;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::harness::sys;
use crate::ipc::peers::LONG;
use crate::ipc::pool_with_descriptors;

cases![
    types_are_checked,
    outside_a_value_it_is_a_typed_error,
    end_is_seen_after_every_manner_of_ending,
    end_is_seen_after_what_never_ran,
    retry_sends_it_again,
    message_that_fails_keeps_nothing,
    messages_of_the_dead_end_with_them,
    as_many_as_a_value_carries,
    forked_copies_send_none,
];

/// Says what it is not.
#[derive(Serialize)]
struct Lying(Sender<u64>);

impl<'de> Deserialize<'de> for Lying {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Sender::<String>::deserialize(deserializer).map(|_| unreachable!("it is one of numbers"))
    }
}

#[derive(Serialize)]
struct Turned(Sender<u64>);

impl<'de> Deserialize<'de> for Turned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Reply::<u64>::deserialize(deserializer).map(|_| unreachable!("it is an end with memory"))
    }
}

fn types_are_checked(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<u64>(4).unwrap();
    let error = stage::error(pool.apply((Lying(tx.clone()),), |_: Lying| ()));
    assert!(matches!(&error, TaskError::Decode { message, .. } if message.contains("another type")), "{error}");
    let error = stage::error(pool.apply((Turned(tx),), |_: Turned| ()));
    assert!(matches!(&error, TaskError::Decode { message, .. } if message.contains("one descriptor")), "{error}");
    assert_eq!(rx.recv(), Err(RecvError::Disconnected));
    stage::assert_works(&pool);
}

fn outside_a_value_it_is_a_typed_error(method: StartMethod) {
    fn assert_refused(tx: &Sender<u64>) {
        struct ByOther<'a>(&'a Sender<u64>);
        impl std::fmt::Display for ByOther<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.serialize(f)
            }
        }
        let mut text = String::new();
        std::fmt::Write::write_fmt(&mut text, format_args!("{}", ByOther(tx))).unwrap_err();
        type Bytes = SeqDeserializer<std::array::IntoIter<u32, 3>, serde::de::value::Error>;
        let error = Sender::<u64>::deserialize(Bytes::new([0u32, 1, 2].into_iter())).unwrap_err().to_string();
        assert!(!error.is_empty());
    }
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<u64>(4).unwrap();
    assert_refused(&tx);
    pool.apply((tx,), |tx: Sender<u64>| assert_refused(&tx)).unwrap();
    assert_eq!(rx.recv(), Err(RecvError::Disconnected));
}

fn assert_ended(rx: &Receiver<u8>) {
    assert_eq!(rx.recv_timeout(LONG), Err(RecvError::Disconnected));
}

fn forever(tx: Sender<u8>) {
    loop {
        stage::doze(10);
        assert!(!tx.is_full());
    }
}

fn end_is_seen_after_every_manner_of_ending(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let returns: fn(Sender<u8>) = |_| ();
    let dies: fn(Sender<u8>) = |_| std::process::abort();
    let panics: fn(Sender<u8>) = |_| panic!("as planned");
    for (task, is_right) in [(returns, true), (dies, false), (panics, false)] {
        let (tx, rx) = channel::bounded::<u8>(4).unwrap();
        let handle = pool.apply_async((tx,), task);
        assert_ended(&rx);
        assert_eq!(handle.get().is_ok(), is_right);
    }
    let (tx, rx) = channel::bounded::<u8>(4).unwrap();
    let timed = pool.timeout(Duration::from_millis(50)).apply_async((tx,), forever);
    assert_ended(&rx);
    assert!(matches!(timed.get(), Err(TaskError::TimedOut { .. })));
    let (tx, rx) = channel::bounded::<u8>(4).unwrap();
    let cancelled = pool.apply_async((tx,), forever);
    assert_eq!(rx.recv_timeout(Duration::from_millis(20)), Ok(None));
    assert!(cancelled.cancel());
    assert_ended(&rx);
    let ends: Vec<_> = (0..6).map(|_| channel::bounded::<u8>(4).unwrap()).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
    let handles: Vec<_> = senders.into_iter().map(|tx| pool.apply_async((tx,), forever)).collect();
    pool.terminate();
    receivers.iter().for_each(assert_ended);
    assert!(handles.iter().all(|handle| matches!(handle.get(), Err(TaskError::Terminated))));
}

fn end_is_seen_after_what_never_ran(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (busy_tx, busy_rx) = channel::bounded::<u8>(4).unwrap();
    let busy = pool.apply_async((busy_tx,), forever);
    let (tx, rx) = channel::bounded::<u8>(4).unwrap();
    let queued = pool.apply_async((tx.clone(),), forever);
    let with_context = pool.with(&tx).map_async(0..10u8, |_, i| i);
    drop(tx);
    assert!(queued.cancel() && with_context.cancel());
    assert_ended(&rx);
    drop(pool);
    assert_ended(&busy_rx);
    busy.get().unwrap_err();
}

fn retry_sends_it_again(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (tx, rx) = channel::bounded::<u8>(4).unwrap();
    let book = Notebook::new();
    let result = pool.retries(3).apply((tx, book.path()), |tx: Sender<u8>, path| {
        tx.send(1).unwrap();
        stage::note(&path, "here");
        if stage::lines_of(&path).len() < 3 {
            std::process::abort();
        }
    });
    result.unwrap();
    assert_eq!(rx.iter().collect::<Vec<_>>(), [Ok(1), Ok(1), Ok(1)]);
}

/// Fails half way, when it is encoded or when it is decoded.
#[derive(Debug)]
struct Half {
    tx: Sender<u8>,
    encodes: bool,
}

impl Serialize for Half {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&self.tx)?;
        if !self.encodes {
            return Err(S::Error::custom("half way"));
        }
        tuple.serialize_element(&self.encodes)?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Half {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <(Sender<u8>, bool)>::deserialize(deserializer)?;
        panic!("half way")
    }
}

fn message_that_fails_keeps_nothing(_: StartMethod) {
    let (tx, rx) = channel::bounded::<Half>(4).unwrap();
    for encodes in [false, true] {
        let (inner_tx, inner_rx) = channel::bounded::<u8>(1).unwrap();
        match tx.send(Half { tx: inner_tx, encodes }) {
            Ok(()) => {
                let error = rx.recv().unwrap_err();
                assert!(matches!(&error, RecvError::Decode { message, .. } if message.contains("half way")), "{error}");
            }
            Err(error) => assert!(matches!(&error, SendError::Encode { message, .. } if message.contains("half way"))),
        }
        assert_ended(&inner_rx);
    }
}

/// What lies in a channel without receivers, or was taken by a receiver that died, is closed.
fn messages_of_the_dead_end_with_them(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<Sender<u8>>(100).unwrap();
    let ends: Vec<_> = (0..20).map(|_| channel::bounded::<u8>(1).unwrap()).collect();
    let receivers: Vec<_> = ends
        .into_iter()
        .map(|(inner_tx, inner_rx)| {
            tx.send(inner_tx).unwrap();
            inner_rx
        })
        .collect();
    let taken = pool.apply_async((rx,), |rx: Receiver<Sender<u8>>| {
        let kept: Vec<_> = rx.iter().take(10).map(Result::unwrap).collect();
        if kept.len() == 10 {
            std::process::abort();
        }
    });
    receivers.iter().for_each(assert_ended);
    taken.get().unwrap_err();
    let (inner_tx, inner_rx) = channel::bounded::<u8>(1).unwrap();
    // The receivers were killed: a message may be accepted before that is noticed.
    let _: Result<(), SendError<_>> = tx.send(inner_tx.clone());
    assert!(matches!(tx.send(inner_tx), Err(SendError::Disconnected(_))));
    assert_ended(&inner_rx);
}

fn as_many_as_a_value_carries(method: StartMethod) {
    let pool = pool_with_descriptors(method, 1);
    let (tx, rx) = channel::bounded::<Vec<Reply<u8>>>(4).unwrap();
    let server = pool.apply_async((rx,), |rx: Receiver<Vec<Reply<u8>>>| {
        rx.iter().flat_map(Result::unwrap).for_each(|reply| reply.send(1).unwrap());
    });
    let (replies, answers): (Vec<_>, Vec<_>) = (0..253).map(|_| channel::oneshot::<u8>().unwrap()).unzip();
    tx.send(replies).unwrap();
    assert!(answers.into_iter().all(|answer| answer.recv() == Ok(1)));
    let (replies, answers): (Vec<_>, Vec<_>) = (0..254).map(|_| channel::oneshot::<u8>().unwrap()).unzip();
    let error = tx.send(replies).unwrap_err();
    assert!(matches!(&error, SendError::Encode { message, .. } if message.contains("at most 253")), "{error}");
    drop(error.into_value());
    assert!(answers.into_iter().all(|answer| answer.recv() == Err(RecvError::Disconnected)));
    drop(tx);
    server.get().unwrap();
}

fn forked_copies_send_none(_: StartMethod) {
    let (tx, rx) = channel::bounded::<Sender<u8>>(4).unwrap();
    let (inner_tx, inner_rx) = channel::bounded::<u8>(1).unwrap();
    let code = sys::in_a_forked_copy(|| {
        let (copy_tx, _copy_rx) = channel::bounded::<Sender<u8>>(4).unwrap();
        let error = copy_tx.send(inner_tx.clone()).unwrap_err();
        assert!(matches!(&error, SendError::Encode { message, .. } if message.contains("forked copy")), "{error}");
        3
    });
    assert_eq!(code, 3);
    tx.send(inner_tx).unwrap();
    drop(rx);
    assert_ended(&inner_rx);
}
