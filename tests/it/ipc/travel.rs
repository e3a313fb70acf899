//! Ends of channels travel inside values, from any process to any other, and are ends of the same channel there.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use procpool::Pool;
use procpool::StartMethod;
use procpool::channel;
use procpool::channel::Answer;
use procpool::channel::Duplex;
use procpool::channel::Receiver;
use procpool::channel::RecvError;
use procpool::channel::Reply;
use procpool::channel::SendError;
use procpool::channel::Sender;
use serde::Deserialize;
use serde::Serialize;

use crate::harness::cases;
use crate::harness::stage;
use crate::ipc::peers::LONG;

cases![
    from_workers_while_results_come,
    anywhere_inside_a_value,
    results_bring_ends,
    result_that_is_read_twice_is_one_end,
    two_workers_talk_without_their_parent,
    initializers_and_their_replacements_have_it,
    channels_pass_through_channels,
    channel_passes_through_itself,
    chain_of_ends_that_nobody_takes_ends,
    large_messages_carry_too,
    requests_bring_the_way_back,
    replies_bring_ends,
    both_ends_in_one_value_are_one_channel,
];

fn from_workers_while_results_come(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (tx, rx) = channel::bounded::<(u32, u32)>(8).unwrap();
    let squares = pool.with(&tx).map_async(0..50u32, |tx, i| {
        (0..10).for_each(|step| tx.send((i, step)).unwrap());
        i * i
    });
    drop(tx);
    let mut steps = BTreeMap::<u32, Vec<u32>>::new();
    for message in &rx {
        let (i, step) = message.unwrap();
        steps.entry(i).or_default().push(step);
    }
    assert_eq!(steps.len(), 50);
    assert!(steps.values().all(|steps| steps.iter().copied().eq(0..10)), "{steps:?}");
    assert_eq!(squares.get().unwrap()[7], 49);
}

#[derive(Serialize, Deserialize)]
struct Route {
    name: String,
    sinks: Vec<Sink>,
    by_number: BTreeMap<u32, Option<Sender<String>>>,
    ends: Duplex<u8, u16>,
}

#[derive(Serialize, Deserialize)]
enum Sink {
    Nowhere,
    Texts(Sender<String>),
    Boxed { boxed: Box<(u8, Sender<String>)> },
}

fn anywhere_inside_a_value(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<String>(8).unwrap();
    let (here, there) = channel::duplex::<u16, u8>(1).unwrap();
    let route = Route {
        name: "a".to_owned(),
        sinks: vec![Sink::Nowhere, Sink::Texts(tx.clone()), Sink::Boxed { boxed: Box::new((1, tx.clone())) }],
        by_number: BTreeMap::from([(1, None), (2, Some(tx))]),
        ends: there,
    };
    here.send(7).unwrap();
    let count = pool.apply((vec![route], 5u8), |mut routes, byte| {
        let route = routes.remove(0);
        for sink in &route.sinks {
            match sink {
                Sink::Nowhere => {}
                Sink::Texts(tx) => tx.send(route.name.clone()).unwrap(),
                Sink::Boxed { boxed } => boxed.1.send("boxed".to_owned()).unwrap(),
            }
        }
        route.by_number[&2].as_ref().unwrap().send("by number".to_owned()).unwrap();
        route.ends.send(byte + u8::try_from(route.ends.recv().unwrap()).unwrap()).unwrap();
        route.sinks.len()
    });
    assert_eq!(count.unwrap(), 3);
    assert!(rx.iter().map(Result::unwrap).eq(["a", "boxed", "by number"]));
    assert_eq!((here.recv(), here.recv()), (Ok(12), Err(RecvError::Disconnected)));
}

/// A channel that a worker made, and goes on using when it has returned an end.
fn stay_behind(count: u64) -> anyhow::Result<Receiver<u64>> {
    let (tx, rx) = channel::bounded(3)?;
    std::thread::spawn(move || (0..count).for_each(|number| tx.send(number).unwrap()));
    Ok(rx)
}

fn results_bring_ends(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let rx = pool.apply((100,), stay_behind).unwrap();
    assert!(rx.iter().map(Result::unwrap).eq(0..100));
    // As one that is passed on to another worker.
    let rx = pool.apply((100,), stay_behind).unwrap();
    let sum = pool.apply((rx,), |rx: Receiver<u64>| rx.iter().map(Result::unwrap).sum::<u64>());
    assert_eq!(sum.unwrap(), 4950);
    // In an error of the user's, and among many.
    let failed = pool.apply((1u8,), |_| Err::<(), _>(channel::bounded::<u8>(1).unwrap()));
    let (tx, rx) = failed.unwrap().unwrap_err();
    tx.send(3).unwrap();
    assert_eq!(rx.recv(), Ok(3));
    let ends = pool.map(0..20u64, |number| {
        let (tx, rx) = channel::bounded(1).unwrap();
        tx.send(number).unwrap();
        rx
    });
    let numbers: Vec<u64> = ends.unwrap().iter().map(|rx| rx.recv().unwrap()).collect();
    assert!(numbers.into_iter().eq(0..20));
}

fn result_that_is_read_twice_is_one_end(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let handle = pool.apply_async((1u8,), |_| {
        let (tx, rx) = channel::bounded::<u8>(4).unwrap();
        (tx.clone(), tx, rx)
    });
    let (tx, other_tx, rx) = handle.get().unwrap();
    let maps = |_: ()| std::fs::read_to_string("/proc/self/maps").unwrap().matches("procpool-ipc").count();
    let before = maps(());
    let (again, _, _) = handle.get().unwrap();
    assert_eq!(maps(()), before, "mapped again");
    for tx in [&tx, &other_tx, &again] {
        tx.send(1).unwrap();
    }
    assert_eq!((rx.len(), rx.try_iter().count()), (3, 3));
    // The handle keeps its own.
    drop((tx, other_tx, again));
    assert_eq!(rx.try_recv(), Ok(None));
    drop(handle);
    assert_eq!(rx.recv(), Err(RecvError::Disconnected));
}

fn two_workers_talk_without_their_parent(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (tx, rx) = channel::bounded::<Vec<f64>>(4).unwrap();
    let producer = pool.apply_async((tx, 1000u32), |tx: Sender<Vec<f64>>, count| {
        (0..count).for_each(|number| tx.send(vec![f64::from(number); 100]).unwrap());
    });
    let consumer =
        pool.apply_async((rx,), |rx: Receiver<Vec<f64>>| rx.iter().map(|block| block.unwrap()[0]).sum::<f64>());
    producer.get().unwrap();
    assert_eq!(consumer.get().unwrap(), 499_500.0);
}

fn initializers_and_their_replacements_have_it(method: StartMethod) {
    let (tx, rx) = channel::bounded::<u32>(100).unwrap();
    let pool = Pool::builder()
        .processes(2)
        .start_method(method)
        .max_tasks_per_child(2)
        .initializer((tx,), |tx: Sender<u32>| tx.send(std::process::id()).unwrap())
        .build()
        .unwrap();
    pool.chunk_size(1).map(0..10u32, |i| i).unwrap();
    let pids: BTreeSet<u32> = rx.try_iter().map(Result::unwrap).collect();
    assert!(pids.len() >= 4, "{pids:?}");
    assert!(rx.recv_timeout(Duration::from_millis(1)).is_ok(), "the pool keeps it for later workers");
    drop(pool);
    assert!(rx.iter().all(|pid| !pids.contains(&pid.unwrap())));
}

/// Each message is the sender of the next.
#[derive(Serialize, Deserialize)]
enum Relay {
    Over(Sender<Relay>),
    Text(String),
}

fn channels_pass_through_channels(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<Relay>(1).unwrap();
    let echo = pool.apply_async((rx,), |rx: Receiver<Relay>| {
        let mut answers = Vec::new();
        for message in &rx {
            match message.unwrap() {
                Relay::Over(tx) => answers.push(tx),
                Relay::Text(text) => answers.iter().for_each(|tx| tx.send(Relay::Text(text.repeat(2))).unwrap()),
            }
        }
        answers.len()
    });
    let listeners: Vec<_> = (0..5).map(|_| channel::bounded::<Relay>(1).unwrap()).collect();
    let receivers: Vec<_> = listeners
        .into_iter()
        .map(|(listener, rx)| {
            tx.send(Relay::Over(listener)).unwrap();
            rx
        })
        .collect();
    tx.send(Relay::Text("ab".to_owned())).unwrap();
    drop(tx);
    for rx in receivers {
        assert!(matches!(rx.recv(), Ok(Relay::Text(text)) if text == "abab"));
        assert!(matches!(rx.recv(), Err(RecvError::Disconnected)));
    }
    assert_eq!(echo.get().unwrap(), 5);
}

fn channel_passes_through_itself(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<Relay>(4).unwrap();
    tx.send(Relay::Over(tx.clone())).unwrap();
    tx.send(Relay::Text("last".to_owned())).unwrap();
    let task = pool.apply_async((rx.clone(),), |rx: Receiver<Relay>| {
        let Ok(Relay::Over(tx)) = rx.recv() else { panic!("the sender comes first") };
        let Ok(Relay::Text(text)) = rx.recv() else { panic!("then a text") };
        tx.send(Relay::Text(text.repeat(2))).unwrap();
    });
    task.get().unwrap();
    drop(tx);
    assert!(matches!(rx.recv(), Ok(Relay::Text(text)) if text == "lastlast"));
    // The only sender left is on its way in the channel itself.
    assert!(matches!(rx.recv(), Err(RecvError::Disconnected)));
}

#[derive(Serialize, Deserialize)]
struct Nest(Option<(Sender<Nest>, Receiver<Nest>)>);

/// Each channel is a message in the next. The kernel collects what only messages hold.
fn chain_of_ends_that_nobody_takes_ends(_: StartMethod) {
    let (outer_tx, outer_rx) = channel::bounded::<Nest>(2).unwrap();
    let (probe_tx, probe_rx) = channel::bounded::<Nest>(2).unwrap();
    let mut inner = probe_tx;
    for _ in 0..10 {
        let (tx, rx) = channel::bounded::<Nest>(2).unwrap();
        tx.send(Nest(Some((inner, rx.clone())))).unwrap();
        // It holds its own receiver, and nobody else will.
        tx.send(Nest(Some((tx.clone(), rx)))).unwrap();
        inner = tx;
    }
    outer_tx.send(Nest(Some((inner, outer_rx)))).unwrap();
    drop(outer_tx);
    assert!(matches!(probe_rx.recv_timeout(LONG), Err(RecvError::Disconnected)));
}

fn large_messages_carry_too(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<(Vec<u8>, Sender<usize>)>(4).unwrap();
    let server = pool.apply_async((rx,), |rx: Receiver<(Vec<u8>, Sender<usize>)>| {
        for message in &rx {
            let (bytes, tx) = message.unwrap();
            assert!(bytes.iter().all(|&byte| byte == 7));
            tx.send(bytes.len()).unwrap();
        }
    });
    for len in [0, 10_000, 16_370, 16_380, 20_000, 3 << 20, 40 << 20] {
        let (len_tx, len_rx) = channel::bounded(1).unwrap();
        tx.send((vec![7; len], len_tx)).unwrap();
        assert_eq!(len_rx.recv(), Ok(len));
        assert_eq!(len_rx.recv(), Err(RecvError::Disconnected));
    }
    drop(tx);
    server.get().unwrap();
}

#[derive(Serialize, Deserialize)]
enum Request {
    Add(u64, Reply<u64>),
    Forget(Reply<u64>),
    Stop,
}

fn serve(requests: Receiver<Request>) {
    let mut total = 0;
    for request in requests {
        match request.unwrap() {
            Request::Add(number, reply) => {
                total += number;
                // Whoever asked may be gone.
                let _: Result<(), SendError<u64>> = reply.send(total);
            }
            Request::Forget(reply) => drop(reply),
            Request::Stop => break,
        }
    }
}

fn requests_bring_the_way_back(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let (tx, rx) = channel::bounded(4).unwrap();
    let server = pool.apply_async((rx,), serve);
    let ask = |tx: &Sender<Request>, number| {
        let (reply, answer) = channel::oneshot().unwrap();
        tx.send(Request::Add(number, reply)).unwrap();
        answer.recv().unwrap()
    };
    assert_eq!((ask(&tx, 2), ask(&tx, 3)), (2, 5));
    let (reply, answer) = channel::oneshot::<u64>().unwrap();
    tx.send(Request::Forget(reply)).unwrap();
    assert_eq!(answer.recv(), Err(RecvError::Disconnected));
    let (reply, answer) = channel::oneshot::<u64>().unwrap();
    drop(answer);
    tx.send(Request::Add(1, reply)).unwrap();
    // Other workers ask too.
    pool.with(&tx)
        .map(0..100u64, |tx, _| {
            let (reply, answer) = channel::oneshot::<u64>().unwrap();
            tx.send(Request::Add(1, reply)).unwrap();
            assert!(answer.recv().unwrap() > 6);
        })
        .unwrap();
    assert_eq!(ask(&tx, 1), 107);
    tx.send(Request::Stop).unwrap();
    server.get().unwrap();
    assert!(matches!(tx.send(Request::Stop), Err(SendError::Disconnected(_))));
}

fn replies_bring_ends(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (reply, answer) = channel::oneshot::<(Vec<u8>, Receiver<u8>)>().unwrap();
    let task = pool.apply_async((reply,), |reply: Reply<(Vec<u8>, Receiver<u8>)>| {
        let (tx, rx) = channel::bounded(4).unwrap();
        reply.send((vec![1; 100_000], rx)).unwrap();
        tx.send(7).unwrap();
    });
    let (bytes, rx) = answer.recv().unwrap();
    assert!(bytes == vec![1; 100_000]);
    assert_eq!((rx.recv(), rx.recv()), (Ok(7), Err(RecvError::Disconnected)));
    task.get().unwrap();
    // The other end travels as well.
    let (reply, answer) = channel::oneshot::<u8>().unwrap();
    let task = pool.apply_async((answer,), |answer: Answer<u8>| answer.recv().unwrap());
    reply.send(9).unwrap();
    assert_eq!(task.get().unwrap(), 9);
}

fn both_ends_in_one_value_are_one_channel(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<u8>(4).unwrap();
    let ends = (tx.clone(), rx.clone(), tx.clone(), rx.clone());
    let back =
        pool.apply((ends,), |(tx, rx, other_tx, other_rx): (Sender<u8>, Receiver<u8>, Sender<u8>, Receiver<u8>)| {
            tx.send(1).unwrap();
            other_tx.send(2).unwrap();
            assert_eq!((other_rx.recv(), rx.recv()), (Ok(1), Ok(2)));
            (other_tx, other_rx)
        });
    let (back_tx, back_rx) = back.unwrap();
    back_tx.send(3).unwrap();
    assert_eq!(rx.recv(), Ok(3));
    tx.send(4).unwrap();
    assert_eq!(back_rx.recv(), Ok(4));
    drop((rx, back_rx));
    // The worker drops what it has returned a moment later.
    stage::until("the end", || match tx.try_send(5) {
        Ok(()) | Err(SendError::Full(5)) => false,
        Err(error) => matches!(error, SendError::Disconnected(5)),
    });
}
