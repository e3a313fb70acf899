//! Channels between processes.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::StartMethod;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::RecvError;
use procpool::channel::Reply;
use procpool::channel::SendError;
use procpool::channel::Sender;
use serde::Deserialize;
use serde::Serialize;
use start_methods::Birth;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::processes::Process;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::sys;
use crate::ipc::peers::Handed;
use crate::ipc::peers::LONG;
use crate::ipc::peers::Peer;

cases![
    values_pass_there_and_back,
    two_processes_talk_without_their_parent,
    several_processes_send_and_receive,
    sender_that_exits_at_once_loses_nothing,
    channel_of_one_message_works,
    large_messages_use_their_files_again,
    killed_sender_is_seen_at_once,
    killed_receiver_is_seen_at_once,
    killed_receiver_frees_a_sender_that_waits_for_room,
    end_in_one_process_is_not_the_end_of_the_others,
    closing_is_seen_by_all_processes,
    stopped_receiver_holds_up_no_one_else,
    forked_copy_has_no_channel,
    reply_comes_from_another_process,
    dead_process_is_no_reply,
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Message {
    Line(String),
    Count { of: Vec<u32>, n: u64 },
    Bytes(Vec<u8>),
}

fn double(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (rx, tx) = (handed.receiver::<Message>(), handed.sender::<Message>());
    for message in &rx {
        tx.send(match message.unwrap() {
            Message::Line(line) => Message::Line(line.repeat(2)),
            Message::Count { of, n } => Message::Count { of, n: 2 * n },
            Message::Bytes(bytes) => Message::Bytes([bytes.as_slice(), &bytes].concat()),
        })
        .unwrap();
    }
    0
}

fn values_pass_there_and_back(method: StartMethod) {
    let (to_peer, from_here) = channel::bounded(4).unwrap();
    let (to_here, from_peer) = channel::bounded(4).unwrap();
    let peer = Peer::start(method, "peer", double, &[from_here.to_fds(), to_here.to_fds()].concat(), "");
    drop((from_here, to_here));
    for n in 0..100 {
        to_peer.send(Message::Line("ab".to_owned())).unwrap();
        to_peer.send(Message::Count { of: vec![1, 2], n }).unwrap();
        assert_eq!(from_peer.recv(), Ok(Message::Line("abab".to_owned())));
        assert_eq!(from_peer.recv(), Ok(Message::Count { of: vec![1, 2], n: 2 * n }));
    }
    for len in [10_000, 20_000, 10_000_000] {
        to_peer.send(Message::Bytes(vec![7; len])).unwrap();
        assert!(from_peer.recv() == Ok(Message::Bytes(vec![7; 2 * len])), "{len} bytes");
    }
    drop(to_peer);
    assert_eq!(from_peer.recv(), Err(RecvError::Disconnected));
    peer.join();
}

fn count_up(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (tx, count) = (handed.sender::<u64>(), handed.payload.parse::<u64>().unwrap());
    (0..count).for_each(|number| tx.send(number).unwrap());
    0
}

fn sum_up(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (rx, tx) = (handed.receiver::<u64>(), handed.sender::<u64>());
    tx.send(rx.iter().map(Result::unwrap).sum()).unwrap();
    0
}

fn two_processes_talk_without_their_parent(method: StartMethod) {
    let (tx, rx) = channel::bounded::<u64>(16).unwrap();
    let (sum_tx, sum_rx) = channel::bounded::<u64>(1).unwrap();
    let sender = Peer::start(method, "sender", count_up, &tx.to_fds(), "10000");
    let receiver = Peer::start(method, "receiver", sum_up, &[rx.to_fds(), sum_tx.to_fds()].concat(), "");
    drop((tx, rx, sum_tx));
    assert_eq!(sum_rx.recv_timeout(LONG), Ok(Some((0..10_000).sum())));
    sender.join();
    receiver.join();
    assert_eq!(sum_rx.recv(), Err(RecvError::Disconnected));
}

fn send_own(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (tx, sender) = (handed.sender::<(u64, u64)>(), handed.payload.parse().unwrap());
    (0..1000).for_each(|number| tx.send((sender, number)).unwrap());
    0
}

fn collect(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (rx, tx) = (handed.receiver::<(u64, u64)>(), handed.sender::<Vec<(u64, u64)>>());
    tx.send(rx.iter().map(Result::unwrap).collect()).unwrap();
    0
}

fn several_processes_send_and_receive(method: StartMethod) {
    let (tx, rx) = channel::bounded::<(u64, u64)>(10).unwrap();
    let (lists_tx, lists_rx) = channel::bounded::<Vec<(u64, u64)>>(4).unwrap();
    let senders: Vec<_> =
        (0..3).map(|id| Peer::start(method, "sender", send_own, &tx.to_fds(), &format!("{id}"))).collect();
    let fds = [rx.to_fds(), lists_tx.to_fds()].concat();
    let receivers: Vec<_> = (0..2).map(|_| Peer::start(method, "receiver", collect, &fds, "")).collect();
    drop((tx, rx, lists_tx));
    let lists: Vec<_> = lists_rx.iter().map(Result::unwrap).collect();
    assert_eq!(lists.len(), 2);
    for list in &lists {
        for sender in 0..3 {
            assert!(list.iter().filter(|message| message.0 == sender).is_sorted(), "out of order");
        }
    }
    let all: BTreeSet<_> = lists.iter().flatten().collect();
    assert_eq!((all.len(), lists.concat().len()), (3000, 3000), "each message is received once");
    senders.into_iter().chain(receivers).for_each(Peer::join);
}

fn sender_that_exits_at_once_loses_nothing(method: StartMethod) {
    let (tx, rx) = channel::bounded::<u64>(1000).unwrap();
    let sender = Peer::start(method, "sender", count_up, &tx.to_fds(), "1000");
    drop(tx);
    // CPython would wait here for ever, if nothing were received (join before get).
    sender.join();
    assert_eq!(rx.len(), 1000);
    assert!(rx.iter().map(Result::unwrap).eq(0..1000));
}

fn channel_of_one_message_works(method: StartMethod) {
    let (tx, rx) = channel::bounded::<u64>(1).unwrap();
    let sender = Peer::start(method, "sender", count_up, &tx.to_fds(), "2000");
    drop(tx);
    for number in 0..2000 {
        assert!(rx.len() <= 1);
        assert_eq!(rx.recv(), Ok(number));
    }
    assert_eq!(rx.recv(), Err(RecvError::Disconnected));
    sender.join();
}

fn large_messages_use_their_files_again(_: StartMethod) {
    let (tx, rx) = channel::bounded::<Vec<u8>>(2).unwrap();
    let before = processes::descriptors(std::process::id()).len();
    for round in 0..50u8 {
        let len = 100_000 + usize::from(round) * 10_000;
        tx.send(vec![round; len]).unwrap();
        tx.send(vec![round + 100; 20_000]).unwrap();
        assert!(rx.recv().unwrap() == vec![round; len]);
        assert!(rx.recv().unwrap() == vec![round + 100; 20_000]);
    }
    let after = processes::descriptors(std::process::id()).len();
    assert!(after <= before + 3, "{after} descriptors, {before} before");
}

/// Says that it is there, and stays.
fn hold_sender(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let tx = handed.sender::<u64>();
    tx.send(1).unwrap();
    stage::pass(&handed.payload);
    0
}

fn killed_sender_is_seen_at_once(method: StartMethod) {
    let gate = Gate::closed();
    let (tx, rx) = channel::bounded::<u64>(4).unwrap();
    let sender = Peer::start(method, "sender", hold_sender, &tx.to_fds(), &gate.path());
    drop(tx);
    assert_eq!(rx.recv_timeout(LONG), Ok(Some(1)));
    assert_eq!(rx.try_recv(), Ok(None));
    sender.kill();
    assert_eq!(rx.try_recv(), Err(RecvError::Disconnected));
    assert_eq!(rx.recv(), Err(RecvError::Disconnected));
}

/// Says on its second channel that it is there; receives what it is told to, and stays.
fn hold_receiver(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (rx, tx) = (handed.receiver::<u64>(), handed.sender::<u64>());
    tx.send(rx.recv().unwrap()).unwrap();
    stage::pass(&handed.payload);
    0
}

/// A channel whose receiver is a peer that has received one message.
fn with_receiver(method: StartMethod, gate: &Gate) -> (Sender<u64>, Peer) {
    let (tx, rx) = channel::bounded::<u64>(4).unwrap();
    let (seen_tx, seen_rx) = channel::bounded::<u64>(4).unwrap();
    let fds = [rx.to_fds(), seen_tx.to_fds()].concat();
    let receiver = Peer::start(method, "receiver", hold_receiver, &fds, &gate.path());
    drop(rx);
    tx.send(1).unwrap();
    assert_eq!(seen_rx.recv_timeout(LONG), Ok(Some(1)));
    (tx, receiver)
}

fn killed_receiver_is_seen_at_once(method: StartMethod) {
    let gate = Gate::closed();
    let (tx, receiver) = with_receiver(method, &gate);
    receiver.kill();
    // One message may have been on its way when it died.
    let _: Result<(), SendError<u64>> = tx.send(2);
    assert!(matches!(tx.send(3), Err(SendError::Disconnected(3))));
    assert!(matches!(tx.try_send(4), Err(SendError::Disconnected(4))));
}

fn killed_receiver_frees_a_sender_that_waits_for_room(method: StartMethod) {
    let gate = Gate::closed();
    let (tx, receiver) = with_receiver(method, &gate);
    (0..4).for_each(|number| tx.send(number).unwrap());
    let waits = tx.clone();
    let sender = std::thread::spawn(move || waits.send(5));
    // Whether it sleeps already does not matter.
    std::thread::sleep(Duration::from_millis(20));
    receiver.kill();
    assert!(matches!(sender.join().unwrap(), Err(SendError::Disconnected(5))));
}

fn end_in_one_process_is_not_the_end_of_the_others(method: StartMethod) {
    let gate = Gate::closed();
    let (tx, rx) = channel::bounded::<u64>(4).unwrap();
    let [one, two] = [1, 2].map(|_| Peer::start(method, "sender", hold_sender, &tx.to_fds(), &gate.path()));
    drop(tx);
    assert_eq!((rx.recv(), rx.recv()), (Ok(1), Ok(1)));
    one.kill();
    assert_eq!(rx.recv_timeout(Duration::from_millis(20)), Ok(None));
    two.kill();
    assert_eq!(rx.recv(), Err(RecvError::Disconnected));
}

fn wait_for_the_close(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (rx, tx) = (handed.receiver::<u64>(), handed.sender::<u64>());
    tx.send(1).unwrap();
    assert_eq!(rx.recv(), Err(RecvError::Closed));
    0
}

fn fill_until_the_close(birth: Birth) -> u8 {
    let tx = Handed::new(birth).sender::<u64>();
    loop {
        match tx.send(2) {
            Ok(()) => {}
            Err(SendError::Closed(2)) => return 0,
            Err(_) => return 1,
        }
    }
}

fn closing_is_seen_by_all_processes(method: StartMethod) {
    let (tx, rx) = channel::bounded::<u64>(4).unwrap();
    let (full_tx, full_rx) = channel::bounded::<u64>(4).unwrap();
    let fds = [rx.to_fds(), full_tx.to_fds()].concat();
    let receiver = Peer::start(method, "receiver", wait_for_the_close, &fds, "");
    assert_eq!(full_rx.recv(), Ok(1));
    let sender = Peer::start(method, "sender", fill_until_the_close, &full_tx.to_fds(), "");
    stage::until("a full channel", || full_rx.is_full());
    rx.close();
    full_tx.close();
    receiver.join();
    sender.join();
    assert_eq!(full_rx.iter().count(), 4);
    assert!(matches!(tx.send(1), Err(SendError::Closed(1))));
}

fn receive_for_ever(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (rx, tx) = (handed.receiver::<u64>(), handed.sender::<u64>());
    rx.iter().for_each(|message| tx.send(message.unwrap()).unwrap());
    0
}

/// Stopped while it sleeps or works; not in the midst of a call, which is a case of `last_words`.
fn stopped_receiver_holds_up_no_one_else(method: StartMethod) {
    let (tx, rx) = channel::bounded::<u64>(4).unwrap();
    let (seen_tx, seen_rx) = channel::bounded::<u64>(4).unwrap();
    let fds = [rx.to_fds(), seen_tx.to_fds()].concat();
    let receiver = Peer::start(method, "receiver", receive_for_ever, &fds, "");
    tx.send(1).unwrap();
    assert_eq!(seen_rx.recv_timeout(LONG), Ok(Some(1)));
    // Stopped inside a latch it would hold up all others, as documented. While it holds one it does not sleep.
    stage::until("a receiver that waits", || Process::find(receiver.pid()).unwrap().state == 'S');
    stage::signal(receiver.pid(), Signal::SIGSTOP);
    tx.send(2).unwrap();
    let taken = rx.recv_timeout(LONG);
    assert_eq!(taken, Ok(Some(2)), "this process takes it instead");
    stage::signal(receiver.pid(), Signal::SIGCONT);
    tx.send(3).unwrap();
    assert!(seen_rx.recv_timeout(LONG) == Ok(Some(3)));
    drop((tx, rx));
    receiver.join();
}

fn forked_copy_has_no_channel(_: StartMethod) {
    let (tx, rx) = channel::bounded::<u64>(4).unwrap();
    tx.send(1).unwrap();
    let code = sys::in_a_forked_copy(|| {
        let is_broken = matches!(tx.send(2), Err(SendError::Broken { .. }))
            && matches!(rx.recv(), Err(RecvError::Broken { .. }))
            && matches!(rx.try_recv(), Err(RecvError::Broken { .. }))
            && (tx.len(), tx.arm(), rx.arm()) == (0, false, false);
        tx.close();
        drop((tx.clone(), rx.clone()));
        // A channel of its own works: the thread has another id here.
        let (own_tx, own_rx) = channel::bounded::<u64>(4).unwrap();
        own_tx.send(7).unwrap();
        u8::from(!(is_broken && own_rx.recv() == Ok(7)))
    });
    assert_eq!(code, 0);
    assert_eq!(rx.recv(), Ok(1));
    tx.send(2).unwrap();
    assert_eq!(rx.recv(), Ok(2));
}

fn reply_to(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let reply = Reply::<Vec<u8>>::from_fd(handed.one()).unwrap();
    reply.send(vec![7; handed.payload.parse().unwrap()]).unwrap();
    0
}

fn reply_comes_from_another_process(method: StartMethod) {
    for len in [1, 100_000] {
        let (reply, answer) = channel::oneshot::<Vec<u8>>().unwrap();
        let peer = Peer::start(method, "peer", reply_to, &[reply.to_fd()], &format!("{len}"));
        drop(reply);
        assert!(answer.recv_timeout(LONG) == Ok(Some(vec![7; len])));
        assert_eq!(answer.recv(), Err(RecvError::Disconnected));
        peer.join();
    }
}

fn hold_reply(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let _reply = handed.one();
    handed.sender::<u64>().send(1).unwrap();
    stage::pass(&handed.payload);
    0
}

fn dead_process_is_no_reply(method: StartMethod) {
    let gate = Gate::closed();
    let (reply, answer) = channel::oneshot::<u64>().unwrap();
    let (tx, rx): (Sender<u64>, Receiver<u64>) = channel::bounded(1).unwrap();
    let fds = [vec![reply.to_fd()], tx.to_fds()].concat();
    let peer = Peer::start(method, "peer", hold_reply, &fds, &gate.path());
    drop(reply);
    assert_eq!(rx.recv(), Ok(1));
    assert_eq!(answer.try_recv(), Ok(None));
    peer.kill();
    assert_eq!(answer.recv(), Err(RecvError::Disconnected));
}
