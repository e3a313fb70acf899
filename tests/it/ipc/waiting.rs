//! `wait::any`: the first of messages, results and descriptors.

use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use procpool::StartMethod;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::RecvError;
use procpool::channel::Reply;
use procpool::channel::SendError;
use procpool::channel::Sender;
use procpool::wait;
use procpool::wait::Waitable;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::ipc::peers::LONG;
use crate::ipc::pipe;
use crate::ipc::say;

cases![
    first_of_everything,
    all_whose_turn_it_is,
    ends_of_sides_are_turns,
    room_for_what_had_none,
    results_of_several_pools,
    nothing_in_time,
    waiting_leaves_nothing,
    several_threads_wait_for_one_channel,
    workers_wait_too,
];

/// Waits for one of these; the case's deadline bounds it.
fn any(of: &[&dyn Waitable]) -> Vec<usize> {
    wait::any(of, None).unwrap()
}

fn first_of_everything(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let (tx, rx) = channel::bounded::<u8>(4).unwrap();
    let (reply, answer) = channel::oneshot::<u8>().unwrap();
    let (here, there) = channel::duplex::<u8, u8>(4).unwrap();
    let (reader, writer) = pipe();
    let (path, reader_ready) = (gate.path(), wait::readable(&reader));
    let task = pool.apply_async((path, reply), |path: String, reply: Reply<u8>| {
        stage::pass(&path);
        reply.send(1).unwrap();
    });
    let of: [&dyn Waitable; 5] = [&rx, &answer, &task, &reader_ready, &here];
    assert_eq!(wait::any(&of, Some(Duration::ZERO)).unwrap(), [] as [usize; 0]);
    let after = |action: Box<dyn FnOnce() + Send>| {
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            action();
        })
    };
    let sends = tx.clone();
    let thread = after(Box::new(move || sends.send(1).unwrap()));
    assert_eq!(any(&of), [0]);
    assert_eq!((any(&of), rx.try_recv()), (vec![0], Ok(Some(1))), "a look takes nothing");
    thread.join().unwrap();
    let thread = after(Box::new(move || say(&writer, "x")));
    assert_eq!(any(&of), [3]);
    thread.join().unwrap();
    let of: [&dyn Waitable; 4] = [&rx, &answer, &task, &here];
    let thread = after(Box::new(move || there.send(1).unwrap()));
    assert_eq!((any(&of), here.recv()), (vec![3], Ok(1)));
    thread.join().unwrap();
    gate.open();
    assert_eq!(any(&[&rx, &answer]), [1]);
    assert_eq!((any(&[&rx, &task]), task.get().unwrap()), (vec![1], ()));
    assert_eq!(answer.try_recv(), Ok(Some(1)));
    drop(tx);
}

fn all_whose_turn_it_is(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let done = pool.apply_async((1u8,), |x| x);
    done.wait();
    let (tx, rx) = channel::bounded::<u8>(4).unwrap();
    let (_idle_tx, idle_rx) = channel::bounded::<u8>(4).unwrap();
    let (reader, writer) = pipe();
    say(&writer, "x");
    tx.send(1).unwrap();
    let refused = {
        let pool = stage::pool(method, 1);
        pool.terminate();
        pool.apply_async((1u8,), |x| x)
    };
    assert_eq!(any(&[&rx, &idle_rx, &done, &wait::readable(&reader), &refused, &rx]), [0, 2, 3, 4, 5]);
    assert_eq!(any(&[]), [] as [usize; 0]);
}

fn ends_of_sides_are_turns(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<u8>(4).unwrap();
    let (reply, answer) = channel::oneshot::<u8>().unwrap();
    let dies = pool.apply_async((tx, reply), |tx: Sender<u8>, _: Reply<u8>| {
        tx.send(1).unwrap();
        if stage::doze(20) > 0 {
            std::process::abort();
        }
    });
    assert_eq!((any(&[&answer, &rx]), rx.recv()), (vec![1], Ok(1)));
    // SIGABRT is noticed without a message.
    while rx.try_recv() != Err(RecvError::Disconnected) {
        any(&[&rx]);
    }
    assert_eq!((any(&[&answer]), answer.try_recv()), (vec![0], Err(RecvError::Disconnected)));
    dies.get().unwrap_err();
    let (tx, rx) = channel::bounded::<u8>(1).unwrap();
    let (_other_tx, other_rx) = channel::bounded::<u8>(1).unwrap();
    let closes = rx.clone();
    let thread = thread::spawn(move || closes.close());
    assert_eq!(any(&[&other_rx, &rx]), [1]);
    assert_eq!(rx.try_recv(), Err(RecvError::Closed));
    thread.join().unwrap();
    drop(tx);
}

fn room_for_what_had_none(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<u8>(1).unwrap();
    assert_eq!(any(&[&tx]), [0], "there is room");
    tx.send(1).unwrap();
    assert!(matches!(tx.try_send(2), Err(SendError::Full(2))));
    assert_eq!(wait::any(&[&tx], Some(Duration::from_millis(1))).unwrap(), [] as [usize; 0]);
    let takes = pool.apply_async((rx,), |rx: Receiver<u8>| rx.recv().unwrap());
    assert_eq!(any(&[&tx]), [0]);
    assert_eq!(takes.get().unwrap(), 1);
    while tx.try_send(3).is_ok() {}
    // Nobody is left who would make room.
    assert_eq!(any(&[&tx]), [0]);
}

fn results_of_several_pools(method: StartMethod) {
    let pools = [stage::pool(method, 1), stage::pool(method, 1)];
    let mut gates = [Gate::closed(), Gate::closed()];
    let handles: Vec<_> = pools
        .iter()
        .zip(&gates)
        .map(|(pool, gate)| pool.apply_async((gate.path(),), |path: String| stage::pass(&path)))
        .collect();
    assert_eq!(wait::any(&[&handles[0], &handles[1]], Some(Duration::from_millis(1))).unwrap(), [] as [usize; 0]);
    gates[1].open();
    assert_eq!(any(&[&handles[0], &handles[1]]), [1]);
    gates[0].open();
    assert_eq!(any(&[&handles[0]]), [0]);
    assert!(handles.iter().all(|handle| handle.get().is_ok()));
}

fn nothing_in_time(_: StartMethod) {
    let (_tx, rx) = channel::bounded::<u8>(1).unwrap();
    for timeout in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(30)] {
        assert_eq!(wait::any(&[&rx], Some(timeout)).unwrap(), [] as [usize; 0]);
    }
}

/// The handle keeps nothing of a wait that was given up, although its task runs on.
fn waiting_leaves_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let task = pool.apply_async((gate.path(),), |path: String| stage::pass(&path));
    let (_tx, rx) = channel::bounded::<u8>(1).unwrap();
    let count = || processes::descriptors(std::process::id()).len();
    wait::any(&[&task, &rx], Some(Duration::from_millis(1))).unwrap();
    let before = count();
    for _ in 0..20 {
        wait::any(&[&task, &rx, &task], Some(Duration::from_millis(1))).unwrap();
    }
    stage::until("no descriptors", || count() <= before);
    gate.open();
    task.get().unwrap();
}

/// Each is woken, as long as there are messages for all.
fn several_threads_wait_for_one_channel(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (tx, rx) = channel::bounded::<u32>(2).unwrap();
    let sends = pool.apply_async((tx,), |tx: Sender<u32>| (0..300).for_each(|number| tx.send(number).unwrap()));
    let received: usize = thread::scope(|scope| {
        let receives = || {
            let mut count = 0;
            loop {
                assert_eq!(wait::any(&[&rx], Some(LONG)).unwrap(), [0]);
                match rx.try_recv() {
                    Ok(message) => count += usize::from(message.is_some()),
                    Err(RecvError::Disconnected) => return count,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(receives)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(received, 300);
    sends.get().unwrap();
}

fn workers_wait_too(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let ends: Vec<_> = (0..3).map(|_| channel::bounded::<u32>(4).unwrap()).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
    let merged = pool.apply_async((receivers,), |mut receivers: Vec<Receiver<u32>>| {
        let mut all = Vec::new();
        while !receivers.is_empty() {
            let of: Vec<&dyn Waitable> = receivers.iter().map(|rx| rx as &dyn Waitable).collect();
            for index in wait::any(&of, None).unwrap().into_iter().rev() {
                match receivers[index].try_recv() {
                    Ok(message) => all.extend(message),
                    Err(_) => drop(receivers.remove(index)),
                }
            }
        }
        all.sort_unstable();
        all
    });
    for number in 0..30u32 {
        senders[number as usize % 3].send(number).unwrap();
    }
    assert!(senders.iter().all(|tx| tx.as_raw_fd() > 2));
    drop(senders);
    assert!(merged.get().unwrap().into_iter().eq(0..30));
}
