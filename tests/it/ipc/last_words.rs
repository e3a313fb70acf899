//! A process dies, or is stopped, at each step of a call on a channel.
//!
//! The points are those of `src/ipc`: of a latch, of a gate, and of a channel. What the dead had taken is lost; every other
//! message arrives, once and in order, and no process waits for the dead.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::StartMethod;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::SendError;
use procpool::channel::Sender;
use start_methods::Birth;

use crate::faults::failpoints::arm;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::processes::Process;
use crate::harness::stage;
use crate::ipc::peers::Handed;
use crate::ipc::peers::LONG;
use crate::ipc::peers::Peer;

cases![
    sender_may_die_at_any_step_of_a_latch,
    sender_may_die_at_any_step_of_a_gate,
    sender_may_die_at_any_step_of_a_message,
    receiver_may_die_at_any_step_of_a_latch,
    receiver_may_die_at_any_step_of_a_gate,
    receiver_may_die_at_any_step_of_a_message,
    files_that_died_with_their_receivers_hold_up_nothing,
    sender_that_is_stopped_inside_holds_up_no_call_that_does_not_wait,
    receiver_that_is_stopped_inside_holds_up_no_call_that_does_not_wait,
];

/// The sender of a message, its number, and something that makes some messages long.
type Message = (u32, u32, Vec<u8>);

const COUNT: u32 = 60;
/// The victim is sender 0, and the honest one is sender 1.
const HONEST: u32 = 1;

const POINTS_OF_A_LATCH: [&str; 3] = ["latch_announced", "latch_taken", "latch_releasing"];
const POINTS_OF_A_GATE: [&str; 6] =
    ["gate_waking", "gate_token", "gate_woken", "gate_arming", "gate_drained", "gate_armed"];
const POINTS_OF_A_SENDER: [&str; 4] = ["channel_numbered", "channel_attached", "channel_written", "channel_sent"];
const POINTS_OF_A_RECEIVER: [&str; 3] = ["channel_copied", "channel_detached", "channel_taken"];

/// Every third message travels in a file.
fn padding(number: u32) -> Vec<u8> {
    vec![1; if number % 3 == 0 { 20_000 } else { 100 }]
}

fn send(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (tx, sender) = (handed.sender::<Message>(), handed.payload.parse().unwrap());
    (0..COUNT).for_each(|number| tx.send((sender, number, padding(number))).unwrap());
    0
}

/// Passes on what it receives, without the padding.
fn receive(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    let (rx, tx) = (handed.receiver::<Message>(), handed.sender::<(u32, u32)>());
    for message in &rx {
        let (sender, number, bytes) = message.unwrap();
        assert_eq!(bytes, padding(number));
        tx.send((sender, number)).unwrap();
    }
    0
}

/// Waits until the victim has died. If it never came by its point often enough, it has finished instead.
fn end(victim: Peer) {
    let pid = victim.pid();
    stage::until("the end of the victim", || processes::ended(pid));
    drop(victim);
}

fn assert_once_and_in_order(messages: &[(u32, u32)]) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for sender in [0, HONEST] {
        let numbers: Vec<u32> =
            messages.iter().filter(|message| message.0 == sender).map(|message| message.1).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "twice or out of order: {numbers:?}");
        counts.insert(sender, u32::try_from(numbers.len()).unwrap());
    }
    counts
}

fn sender_may_die_at_any_step_of_a_latch(method: StartMethod) {
    sender_may_die_at(method, &POINTS_OF_A_LATCH);
}

fn sender_may_die_at_any_step_of_a_gate(method: StartMethod) {
    sender_may_die_at(method, &POINTS_OF_A_GATE);
}

fn sender_may_die_at_any_step_of_a_message(method: StartMethod) {
    sender_may_die_at(method, &POINTS_OF_A_SENDER);
}

fn sender_may_die_at(method: StartMethod, points: &[&str]) {
    for point in points {
        for hit in [1, 7] {
            arm(&format!("victim {point} {hit} kill"));
            let (tx, rx) = channel::bounded::<Message>(3).unwrap();
            let victim = Peer::start(method, "victim", send, &tx.to_fds(), "0");
            let honest = Peer::start(method, "honest", send, &tx.to_fds(), &HONEST.to_string());
            drop(tx);
            let messages: Vec<_> = rx
                .iter()
                .map(|message| {
                    let (sender, number, bytes) = message.unwrap();
                    assert_eq!(bytes, padding(number), "{point}");
                    (sender, number)
                })
                .collect();
            end(victim);
            honest.join();
            let counts = assert_once_and_in_order(&messages);
            assert_eq!(counts[&HONEST], COUNT, "{point} {hit}");
        }
    }
}

fn receiver_may_die_at_any_step_of_a_latch(method: StartMethod) {
    receiver_may_die_at(method, &POINTS_OF_A_LATCH);
}

fn receiver_may_die_at_any_step_of_a_gate(method: StartMethod) {
    receiver_may_die_at(method, &POINTS_OF_A_GATE);
}

fn receiver_may_die_at_any_step_of_a_message(method: StartMethod) {
    receiver_may_die_at(method, &POINTS_OF_A_RECEIVER);
}

fn receiver_may_die_at(method: StartMethod, points: &[&str]) {
    for point in points {
        for hit in [1, 7] {
            arm(&format!("victim {point} {hit} kill"));
            let (tx, rx) = channel::bounded::<Message>(3).unwrap();
            let (seen_tx, seen_rx) = channel::bounded::<(u32, u32)>(2 * COUNT as usize).unwrap();
            let fds = [rx.to_fds(), seen_tx.to_fds()].concat();
            let victim = Peer::start(method, "victim", receive, &fds, "");
            let honest = Peer::start(method, "honest", receive, &fds, "");
            drop((rx, seen_tx));
            for number in 0..COUNT {
                tx.send((HONEST, number, padding(number))).unwrap();
            }
            drop(tx);
            end(victim);
            honest.join();
            let mut messages: Vec<_> = seen_rx.iter().map(Result::unwrap).collect();
            messages.sort_unstable();
            let counts = assert_once_and_in_order(&messages);
            assert!(counts[&HONEST] + 1 >= COUNT, "{point} {hit}: more than one is lost: {messages:?}");
        }
    }
}

/// A file that a receiver has taken and not read is never given back to its sender.
fn files_that_died_with_their_receivers_hold_up_nothing(method: StartMethod) {
    arm("victim channel_taken 1 kill");
    let (tx, rx) = channel::bounded::<Message>(8).unwrap();
    for number in [0, 3, 6, 9] {
        tx.send((HONEST, number, padding(number))).unwrap();
        Peer::start(method, "victim", receive_alone, &rx.to_fds(), "").killed();
        assert!(rx.is_empty());
    }
    for number in 0..8 {
        tx.send((HONEST, 3 * number, padding(3 * number))).unwrap();
    }
    for number in 0..8 {
        assert_eq!(rx.recv(), Ok((HONEST, 3 * number, padding(3 * number))));
    }
}

fn send_for_ever(birth: Birth) -> u8 {
    let tx = Handed::new(birth).sender::<Message>();
    while tx.send((0, 0, Vec::new())).is_ok() {}
    0
}

fn until_stopped(peer: &Peer) {
    stage::until("a stopped process", || Process::find(peer.pid()).is_some_and(|process| process.state == 'T'));
}

/// None of these waits for the process that is stopped.
fn call_everything(tx: &Sender<Message>, rx: &Receiver<Message>) {
    let short = Duration::from_millis(20);
    for _ in 0..3 {
        let sent = [tx.try_send((HONEST, 0, Vec::new())), tx.send_timeout((HONEST, 0, Vec::new()), short)];
        assert!(sent.iter().all(|sent| matches!(sent, Ok(()) | Err(SendError::Full(_)))), "{sent:?}");
        assert!(rx.try_recv().is_ok() && rx.recv_timeout(short).is_ok());
        let _ = (tx.len(), rx.is_full(), tx.arm(), rx.arm());
    }
}

/// Stops a peer at its third pass of a point, and calls everything meanwhile. The peer has the end that `fds` chooses.
fn stop_at(
    method: StartMethod,
    point: &str,
    entry: fn(Birth) -> u8,
    fds: for<'a> fn(&'a Sender<Message>, &'a Receiver<Message>) -> Vec<BorrowedFd<'a>>,
) {
    arm(&format!("victim {point} 3 stop"));
    let (tx, rx) = channel::bounded::<Message>(1000).unwrap();
    (0..5).for_each(|number| tx.send((HONEST, number, Vec::new())).unwrap());
    let victim = Peer::start(method, "victim", entry, &fds(&tx, &rx), "0");
    until_stopped(&victim);
    call_everything(&tx, &rx);
    stage::signal(victim.pid(), Signal::SIGCONT);
    // It goes on where it was stopped, and nothing has gone wrong meanwhile. A sender goes on until the channel is full.
    stage::until("room", || rx.try_recv().is_ok() && tx.try_send((HONEST, 3, Vec::new())).is_ok());
    victim.kill();
    while rx.try_recv().unwrap().is_some() {}
    tx.send_timeout((HONEST, 3, Vec::new()), LONG).unwrap();
    while rx.try_recv().unwrap().is_some() {}
}

fn sender_that_is_stopped_inside_holds_up_no_call_that_does_not_wait(method: StartMethod) {
    for point in ["latch_taken", "channel_written", "latch_releasing"] {
        stop_at(method, point, send_for_ever, |tx, _| tx.to_fds());
    }
}

fn receive_alone(birth: Birth) -> u8 {
    let mut handed = Handed::new(birth);
    handed.receiver::<Message>().iter().for_each(drop);
    0
}

fn receiver_that_is_stopped_inside_holds_up_no_call_that_does_not_wait(method: StartMethod) {
    for point in ["latch_taken", "channel_copied", "latch_releasing"] {
        stop_at(method, point, receive_alone, |_, rx| rx.to_fds());
    }
}
