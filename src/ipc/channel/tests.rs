//! Channels within one process. Channels between processes, and deaths, are in `tests/it/ipc`.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use super::*;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

fn duplicates(fds: Vec<std::os::fd::BorrowedFd<'_>>) -> Vec<OwnedFd> {
    fds.into_iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect()
}

#[test]
fn so_many_messages_fit_and_no_more() {
    for capacity in [1, 2, 3, 1000] {
        let (tx, rx) = bounded::<u32>(capacity).unwrap();
        for round in 0..3 {
            for value in 0..capacity {
                assert_eq!((tx.len(), tx.is_full()), (value, false));
                tx.try_send(u32::try_from(value).unwrap()).unwrap();
            }
            assert!(tx.is_full() && rx.is_full());
            assert!(matches!(tx.try_send(7), Err(SendError::Full(7))), "round {round}");
            assert!(matches!(tx.send_timeout(7, Duration::from_millis(1)), Err(SendError::Full(7))));
            assert_eq!(
                rx.try_iter().map(Result::unwrap).map(|value| value as usize).collect::<Vec<_>>(),
                (0..capacity).collect::<Vec<_>>()
            );
            assert!(rx.is_empty() && rx.try_recv() == Ok(None));
        }
    }
}

#[test]
fn messages_of_every_length_come_back_wherever_the_ring_ends() {
    let (tx, rx) = Options::new(8).bytes(1 << 16).open::<Vec<u8>>().unwrap();
    for len in [0, 1, 7, 8, 9, 100, 4095, 16_000, 16_384, 16_385, 60_000, 1 << 20].repeat(7) {
        let message: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
        tx.send_ref(&message).unwrap();
        assert!(rx.recv().unwrap() == message, "{len} bytes");
    }
}

#[test]
fn a_ring_that_is_full_of_bytes_is_full() {
    let (tx, rx) = Options::new(1000).bytes(4096).open::<Vec<u8>>().unwrap();
    let sent = (0..).find(|_| tx.try_send(vec![1; 900]).is_err()).unwrap();
    assert_eq!((sent, tx.len(), tx.is_full()), (4, 4, false));
    // A longer one is in a file, and takes little of the ring.
    tx.try_send(vec![2; 5000]).unwrap();
    assert_eq!(rx.try_iter().map(|message| message.unwrap().len()).collect::<Vec<_>>(), [900, 900, 900, 900, 5000]);
}

#[test]
fn more_files_than_the_socket_takes_wait_for_room() {
    const COUNT: usize = 700;
    let (tx, rx) = bounded::<Vec<u8>>(1000).unwrap();
    let full = (0..COUNT).find(|_| tx.try_send(vec![3; 20_000]).is_err());
    let sent = full.expect("a socket takes fewer than 700 attachments");
    let sender = thread::spawn(move || (sent..COUNT).for_each(|_| tx.send_timeout(vec![3; 20_000], LONG).unwrap()));
    assert_eq!(rx.iter().filter(|message| message.as_ref().unwrap().len() == 20_000).count(), COUNT);
    sender.join().unwrap();
}

#[test]
fn what_a_channel_cannot_have_is_refused() {
    for options in [Options::new(0), Options::new(1 << 20), Options::new(1).bytes((1 << 30) + 1)] {
        assert_eq!(options.open::<u8>().unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
    assert!(Options::new((1 << 20) - 1).open::<u8>().is_ok());
}

#[test]
fn the_end_of_a_side_is_told_after_what_is_left() {
    let (tx, rx) = bounded(4).unwrap();
    let other = tx.clone();
    tx.send(1u8).unwrap();
    drop(tx);
    assert_eq!(rx.try_recv(), Ok(Some(1)));
    assert_eq!(rx.try_recv(), Ok(None), "one sender is left");
    other.send(2).unwrap();
    drop(other);
    assert_eq!(rx.recv(), Ok(2));
    assert_eq!((rx.recv(), rx.try_recv()), (Err(RecvError::Disconnected), Err(RecvError::Disconnected)));
    assert_eq!(rx.recv_timeout(LONG), Err(RecvError::Disconnected));
    assert_eq!((rx.iter().count(), rx.into_iter().count()), (0, 0));
}

#[test]
fn senders_without_receivers_are_told_at_once() {
    let (tx, rx) = bounded(4).unwrap();
    let other = rx.clone();
    for value in 0..10u8 {
        tx.send(value).unwrap();
        assert_eq!(rx.recv(), Ok(value));
    }
    drop(rx);
    tx.send(1).unwrap();
    drop(other);
    assert!(matches!(tx.send(2), Err(SendError::Disconnected(2))));
    assert!(matches!(tx.try_send(3), Err(SendError::Disconnected(3))));
}

#[test]
fn sleepers_are_woken_by_the_end_of_the_other_side() {
    let (tx, rx) = bounded::<u8>(1).unwrap();
    let receiver = thread::spawn(move || rx.recv());
    thread::sleep(Duration::from_millis(20));
    drop(tx);
    assert_eq!(receiver.join().unwrap(), Err(RecvError::Disconnected));

    let (tx, rx) = bounded::<u8>(1).unwrap();
    tx.send(1).unwrap();
    let sender = thread::spawn(move || tx.send(2));
    thread::sleep(Duration::from_millis(20));
    drop(rx);
    assert!(matches!(sender.join().unwrap(), Err(SendError::Disconnected(2))));
}

#[test]
fn closing_ends_the_channel_for_all() {
    for closes in [|tx: &Sender<u8>, _: &Receiver<u8>| tx.close(), |_: &Sender<u8>, rx: &Receiver<u8>| rx.close()] {
        let (tx, rx) = bounded(1).unwrap();
        tx.send(1).unwrap();
        let (sends, receives) = (tx.clone(), rx.clone());
        let sender = thread::spawn(move || sends.send(2));
        thread::sleep(Duration::from_millis(20));
        closes(&tx, &rx);
        assert!(matches!(sender.join().unwrap(), Err(SendError::Closed(2))));
        assert_eq!(receives.recv(), Ok(1), "what was sent is received");
        assert_eq!((receives.recv(), receives.try_recv()), (Err(RecvError::Closed), Err(RecvError::Closed)));
        assert!(matches!(tx.try_send(3), Err(SendError::Closed(3))));
        assert!(!tx.arm() && !rx.arm());
        drop(tx);
        assert_eq!(rx.recv(), Err(RecvError::Closed));
    }
}

#[test]
fn a_sleeping_receiver_is_told_of_the_close() {
    let (tx, rx) = bounded::<u8>(1).unwrap();
    let other = rx.clone();
    let receiver = thread::spawn(move || rx.recv());
    thread::sleep(Duration::from_millis(20));
    other.close();
    assert_eq!(receiver.join().unwrap(), Err(RecvError::Closed));
    drop(tx);
}

#[test]
fn each_message_goes_to_one_receiver_and_in_order() {
    const SENDERS: u64 = 3;
    const COUNT: u64 = 5000;
    for capacity in [1, 3, 100] {
        let (tx, rx) = bounded::<(u64, u64)>(capacity).unwrap();
        let mut received: Vec<Vec<(u64, u64)>> = thread::scope(|scope| {
            for sender in 0..SENDERS {
                let tx = tx.clone();
                scope.spawn(move || (0..COUNT).for_each(|number| tx.send((sender, number)).unwrap()));
            }
            drop(tx);
            let receivers: Vec<_> = (0..3).map(|_| scope.spawn(|| rx.iter().map(Result::unwrap).collect())).collect();
            receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect()
        });
        for messages in &received {
            for sender in 0..SENDERS {
                let numbers = messages.iter().filter(|message| message.0 == sender);
                assert!(numbers.is_sorted(), "out of order");
            }
        }
        let all: BTreeSet<_> = received.iter_mut().flat_map(std::mem::take).collect();
        assert_eq!(all.len() as u64, SENDERS * COUNT, "some are lost, or came twice");
    }
}

#[test]
fn ends_are_made_of_their_descriptors() {
    let (tx, rx) = bounded::<String>(4).unwrap();
    let (more_tx, more_rx) = (
        Sender::<String>::from_fds(duplicates(tx.to_fds())).unwrap(),
        Receiver::<String>::from_fds(duplicates(rx.to_fds())).unwrap(),
    );
    tx.send("one".to_owned()).unwrap();
    more_tx.send("two".to_owned()).unwrap();
    assert_eq!((more_rx.recv().unwrap(), rx.recv().unwrap()), ("one".to_owned(), "two".to_owned()));
    drop(tx);
    assert_eq!(rx.try_recv(), Ok(None));
    drop(more_tx);
    assert_eq!(rx.try_recv(), Err(RecvError::Disconnected));

    let refused = Receiver::<u64>::from_fds(duplicates(rx.to_fds())).unwrap_err();
    assert!(refused.to_string().contains("another type"), "{refused}");
    let mut few = duplicates(rx.to_fds());
    few.pop();
    assert!(Receiver::<String>::from_fds(few).unwrap_err().to_string().contains("3 descriptors"));
    let mut wrong = duplicates(rx.to_fds());
    wrong.swap(0, 1);
    assert!(Receiver::<String>::from_fds(wrong).is_err());
}

#[test]
fn a_message_that_does_not_serialize_is_an_error_and_comes_back() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Bad(bool);
    impl serde::Serialize for Bad {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            if self.0 { panic!("not today") } else { Err(serde::ser::Error::custom("not this one")) }
        }
    }
    let (tx, rx) = bounded(4).unwrap();
    match tx.send(Bad(false)) {
        Err(SendError::Encode { value: Bad(false), message }) => assert!(message.contains("not this one"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(tx.send(Bad(true)), Err(SendError::Encode { value: Bad(true), .. })));
    assert_eq!(rx.try_recv(), Ok(None));
}

#[test]
fn a_message_that_does_not_deserialize_costs_only_itself() {
    #[derive(Debug, PartialEq, serde::Serialize)]
    struct Picky(u8);
    impl<'de> serde::Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let number = u8::deserialize(deserializer)?;
            if number == 2 { Err(serde::de::Error::custom("not a two")) } else { Ok(Self(number)) }
        }
    }
    let (tx, rx) = bounded(4).unwrap();
    (1..=3).for_each(|number| tx.send(Picky(number)).unwrap());
    drop(tx);
    let mut messages = rx.iter();
    assert_eq!(messages.next(), Some(Ok(Picky(1))));
    assert!(matches!(messages.next(), Some(Err(RecvError::Decode { message })) if message.contains("not a two")));
    assert_eq!(messages.next(), Some(Ok(Picky(3))));
    assert_eq!(messages.next(), None);
}

/// Writes a number over a word of the channel's memory, as any process that has it may.
fn scribble(rx: &Receiver<u64>, offset: i64, number: u64) {
    let file = rx.to_fds()[0].try_clone_to_owned().unwrap();
    nix::sys::uio::pwrite(&file, &number.to_ne_bytes(), 64 + offset).unwrap();
}

#[test]
fn nonsense_in_the_memory_breaks_the_handle_and_nothing_else() {
    let nonsense = [u64::MAX, 1, 1 << 44, 1 << 63, (1 << 44) - 1];
    for (offset, number) in [72, 200].into_iter().flat_map(|offset| nonsense.map(|number| (offset, number))) {
        let (tx, rx) = bounded::<u64>(4).unwrap();
        tx.send(1).unwrap();
        scribble(&rx, offset, number);
        // Whatever it is, no call waits or panics, and what is impossible breaks the handle for good.
        for _ in 0..10 {
            let _ = (tx.try_send(7), rx.try_recv(), rx.len(), tx.arm(), rx.arm());
        }
        assert!(
            rx.recv_timeout(Duration::from_millis(1)).is_ok() || matches!(rx.try_recv(), Err(RecvError::Broken { .. }))
        );
    }
}

#[test]
fn a_record_that_is_none_breaks_the_handle() {
    for head in [u64::MAX, 5 << 32, 1 << 33, 9 | 1 << 32, 16_385] {
        let (tx, rx) = bounded::<u64>(4).unwrap();
        tx.send(1).unwrap();
        scribble(&rx, 4096 - 64, head);
        assert!(matches!(rx.try_recv(), Err(RecvError::Broken { .. })), "{head:#x}");
        assert!(matches!(rx.recv(), Err(RecvError::Broken { .. })));
        assert_eq!(rx.iter().count(), 1, "the error, once");
    }
}

#[test]
fn a_latch_that_is_never_released_holds_up_no_call_that_does_not_wait() {
    for latch in [64, 192] {
        let (tx, rx) = bounded::<u64>(4).unwrap();
        tx.send(1).unwrap();
        // The first process of the namespace: it exists, and will not release it.
        let file = rx.to_fds()[0].try_clone_to_owned().unwrap();
        nix::sys::uio::pwrite(&file, &1u32.to_ne_bytes(), 64 + latch).unwrap();
        let _ = (tx.try_send(2), rx.try_recv(), rx.try_recv(), tx.arm(), rx.arm());
        let _ = (tx.send_timeout(3, Duration::from_millis(30)), rx.recv_timeout(Duration::from_millis(30)));
        rx.close();
    }
}

#[test]
fn a_reply_is_received_once() {
    let (reply, answer) = oneshot::<String>().unwrap();
    assert_eq!(answer.try_recv(), Ok(None));
    let sender = thread::spawn(move || reply.send("hello".to_owned()));
    assert_eq!(answer.recv_timeout(LONG), Ok(Some("hello".to_owned())));
    assert_eq!(answer.recv(), Err(RecvError::Disconnected));
    sender.join().unwrap().unwrap();
}

#[test]
fn a_large_reply_is_a_file() {
    let (reply, answer) = oneshot::<Vec<u8>>().unwrap();
    reply.send(vec![7; 1 << 20]).unwrap();
    assert!(answer.recv().unwrap() == vec![7; 1 << 20]);
}

#[test]
fn nonsense_in_place_of_a_reply_is_an_error() {
    for bytes in [&b"x"[..], &[0; 9], &[9; 100]] {
        let (reply, answer) = oneshot::<u64>().unwrap();
        let socket = start_methods::Socket::from_fd(
            start_methods::PrivateFd::adopt(reply.to_fd().try_clone_to_owned().unwrap()).unwrap(),
        );
        socket.send(&[std::io::IoSlice::new(bytes)], &[]).unwrap();
        assert!(matches!(answer.recv(), Err(RecvError::Broken { .. })));
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Sender<std::cell::Cell<u8>>>();
    shareable::<Receiver<std::rc::Rc<u8>>>();
    shareable::<Reply<std::rc::Rc<u8>>>();
};
