//! Claim: a message to another process costs about as much as a message to another thread.
//!
//! One sender and one receiver; messages per second. Rows: numbers one way; a number there and one back, one at a time;
//! requests that carry a number and are answered, each on a channel of its own (ours: a thread answers, since the reply's
//! end cannot travel yet); messages of 8 MiB. Contestants:
//!
//! - `procpool`: `channel::bounded(1024)` between two processes; `oneshot` for the answers;
//! - `ipc-channel`: its unbounded channel, between two processes;
//! - `multiprocessing`: `Queue` of CPython, if there is a `python3`;
//! - `crossbeam`: `bounded(1024)`, between two *threads*;
//! - `std`: `mpsc::sync_channel(1024)`, between two threads;
//! - `seqpacket`: a bare socket pair, one message a system call.

mod common {
    pub(crate) mod contest;
    pub(crate) mod fork;
    pub(crate) mod quick;
    pub(crate) mod rate;
    pub(crate) mod table;
}

use std::hint::black_box;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use anyhow::Context;
use common::contest::Contest;
use common::fork::Forked;
use common::rate::Rate;
use ipc_channel::ipc;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::recv;
use nix::sys::socket::send;
use nix::sys::socket::socketpair;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::Sender;

const CAPACITY: usize = 1024;
const LARGE: usize = 8 << 20;

fn main() -> anyhow::Result<()> {
    procpool::init();
    let rows = ["u64 one way", "u64 there and back", "u64 and a oneshot", "8 MiB one way"];
    let mut ours =
        (Rate::new(ours_one_way), Rate::new(ours_round_trip), Rate::new(ours_oneshot), Rate::new(ours_large));
    let mut ipc = (Rate::new(ipc_one_way), Rate::new(ipc_round_trip), Rate::new(ipc_oneshot), Rate::new(ipc_large));
    let mut crossbeam = (Rate::new(crossbeam_one_way), Rate::new(crossbeam_round_trip));
    let mut std = (Rate::new(std_one_way), Rate::new(std_round_trip));
    let mut seqpacket = (Rate::new(seqpacket_one_way), Rate::new(seqpacket_round_trip), Rate::new(stream_large));
    let none = f64::NAN;
    Contest::new("channel: messages/s, more is better", rows)
        .add("procpool", || {
            Ok([ours.0.per_second()?, ours.1.per_second()?, ours.2.per_second()?, ours.3.per_second()?])
        })
        .add("ipc-channel", || Ok([ipc.0.per_second()?, ipc.1.per_second()?, ipc.2.per_second()?, ipc.3.per_second()?]))
        .add("multiprocessing", || Ok([python_one_way()?, none, none, none]))
        .add("crossbeam threads", || Ok([crossbeam.0.per_second()?, crossbeam.1.per_second()?, none, none]))
        .add("std threads", || Ok([std.0.per_second()?, std.1.per_second()?, none, none]))
        .add("socket pair", || {
            Ok([seqpacket.0.per_second()?, seqpacket.1.per_second()?, none, seqpacket.2.per_second()?])
        })
        .run();
    Ok(())
}

/// In a forked copy: duplicates of the descriptors that it was forked with.
fn inherited(fds: &[BorrowedFd<'_>]) -> Vec<OwnedFd> {
    fds.iter().map(|fd| fd.try_clone_to_owned().expect("there are descriptors left")).collect()
}

fn ours_one_way(count: u64) -> anyhow::Result<()> {
    let (tx, rx) = channel::bounded::<u64>(CAPACITY)?;
    let (done_tx, done_rx) = channel::bounded::<u64>(1)?;
    let child = Forked::run(|| {
        let rx = Receiver::<u64>::from_fds(inherited(&rx.to_fds())).expect("an end");
        let done = Sender::<u64>::from_fds(inherited(&done_tx.to_fds())).expect("an end");
        for _ in 0..count {
            black_box(rx.recv().expect("a message"));
        }
        done.send(count).expect("the parent is there");
    })?;
    (0..count).try_for_each(|number| tx.send(number))?;
    done_rx.recv()?;
    child.wait()
}

fn ours_round_trip(count: u64) -> anyhow::Result<()> {
    let (tx, from_here) = channel::bounded::<u64>(CAPACITY)?;
    let (to_here, rx) = channel::bounded::<u64>(CAPACITY)?;
    let child = Forked::run(|| {
        let rx = Receiver::<u64>::from_fds(inherited(&from_here.to_fds())).expect("an end");
        let tx = Sender::<u64>::from_fds(inherited(&to_here.to_fds())).expect("an end");
        (0..count).for_each(|_| tx.send(rx.recv().expect("a message")).expect("the parent is there"));
    })?;
    for number in 0..count {
        tx.send(number)?;
        black_box(rx.recv()?);
    }
    child.wait()
}

fn ours_oneshot(count: u64) -> anyhow::Result<()> {
    let (tx, rx) = std::sync::mpsc::sync_channel::<(u64, channel::Reply<u64>)>(CAPACITY);
    let server = thread::spawn(move || rx.iter().for_each(|(number, reply)| reply.send(number).expect("it waits")));
    for number in 0..count {
        let (reply, answer) = channel::oneshot()?;
        tx.send((number, reply)).context("the server has ended")?;
        black_box(answer.recv()?);
    }
    drop(tx);
    server.join().map_err(|_| anyhow::anyhow!("the server has panicked"))
}

fn ours_large(count: u64) -> anyhow::Result<()> {
    let (tx, rx) = channel::bounded::<serde_bytes::ByteBuf>(4)?;
    let (done_tx, done_rx) = channel::bounded::<u64>(1)?;
    let child = Forked::run(|| {
        let rx = Receiver::<serde_bytes::ByteBuf>::from_fds(inherited(&rx.to_fds())).expect("an end");
        let done = Sender::<u64>::from_fds(inherited(&done_tx.to_fds())).expect("an end");
        for _ in 0..count {
            black_box(rx.recv().expect("a message"));
        }
        done.send(count).expect("the parent is there");
    })?;
    let message = serde_bytes::ByteBuf::from(vec![7; LARGE]);
    (0..count).try_for_each(|_| tx.send_ref(&message))?;
    done_rx.recv()?;
    child.wait()
}

fn ipc_one_way(count: u64) -> anyhow::Result<()> {
    let (tx, rx) = ipc::channel::<u64>()?;
    let (done_tx, done_rx) = ipc::channel::<u64>()?;
    let child = Forked::run(move || {
        for _ in 0..count {
            black_box(rx.recv().expect("a message"));
        }
        done_tx.send(count).expect("the parent is there");
    })?;
    (0..count).try_for_each(|number| tx.send(number))?;
    done_rx.recv()?;
    child.wait()
}

fn ipc_round_trip(count: u64) -> anyhow::Result<()> {
    let (tx, from_here) = ipc::channel::<u64>()?;
    let (to_here, rx) = ipc::channel::<u64>()?;
    let child = Forked::run(move || {
        (0..count).for_each(|_| to_here.send(from_here.recv().expect("a message")).expect("the parent is there"));
    })?;
    for number in 0..count {
        tx.send(number)?;
        black_box(rx.recv()?);
    }
    child.wait()
}

fn ipc_oneshot(count: u64) -> anyhow::Result<()> {
    let (tx, rx) = std::sync::mpsc::sync_channel::<(u64, ipc::IpcSender<u64>)>(CAPACITY);
    let server = thread::spawn(move || rx.iter().for_each(|(number, reply)| reply.send(number).expect("it waits")));
    for number in 0..count {
        let (reply, answer) = ipc::channel()?;
        tx.send((number, reply)).context("the server has ended")?;
        black_box(answer.recv()?);
    }
    drop(tx);
    server.join().map_err(|_| anyhow::anyhow!("the server has panicked"))
}

fn ipc_large(count: u64) -> anyhow::Result<()> {
    let (tx, rx) = ipc::bytes_channel()?;
    let (done_tx, done_rx) = ipc::channel::<u64>()?;
    let child = Forked::run(move || {
        for _ in 0..count {
            black_box(rx.recv().expect("a message"));
        }
        done_tx.send(count).expect("the parent is there");
    })?;
    let message = vec![7; LARGE];
    (0..count).try_for_each(|_| tx.send(&message))?;
    done_rx.recv()?;
    child.wait()
}

fn python_one_way() -> anyhow::Result<f64> {
    const PROGRAM: &str = "
import multiprocessing, sys, time
context = multiprocessing.get_context('fork')
queue, done, count = context.Queue(), context.SimpleQueue(), int(sys.argv[1])
def receive():
    for _ in range(count): queue.get()
    done.put(1)
process = context.Process(target=receive)
process.start()
began = time.perf_counter()
for number in range(count): queue.put(number)
done.get()
print(count / (time.perf_counter() - began))
process.join()
";
    let count = common::quick::sized("20000", "100");
    let output = Command::new("python3").args(["-c", PROGRAM, count]).output().context("python3")?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

fn crossbeam_one_way(count: u64) -> anyhow::Result<()> {
    let (tx, rx) = crossbeam_channel::bounded::<u64>(CAPACITY);
    thread::scope(|scope| {
        scope.spawn(move || {
            rx.iter().for_each(|number| {
                black_box(number);
            });
        });
        (0..count).try_for_each(|number| tx.send(number))?;
        drop(tx);
        Ok(())
    })
}

fn crossbeam_round_trip(count: u64) -> anyhow::Result<()> {
    let (tx, from_here) = crossbeam_channel::bounded::<u64>(CAPACITY);
    let (to_here, rx) = crossbeam_channel::bounded::<u64>(CAPACITY);
    thread::scope(|scope| {
        scope.spawn(move || from_here.iter().for_each(|number| to_here.send(number).expect("it waits")));
        for number in 0..count {
            tx.send(number)?;
            black_box(rx.recv()?);
        }
        drop(tx);
        Ok(())
    })
}

fn std_one_way(count: u64) -> anyhow::Result<()> {
    let (tx, rx) = std::sync::mpsc::sync_channel::<u64>(CAPACITY);
    thread::scope(|scope| {
        scope.spawn(move || {
            rx.iter().for_each(|number| {
                black_box(number);
            });
        });
        (0..count).try_for_each(|number| tx.send(number))?;
        drop(tx);
        Ok(())
    })
}

fn std_round_trip(count: u64) -> anyhow::Result<()> {
    let (tx, from_here) = std::sync::mpsc::sync_channel::<u64>(CAPACITY);
    let (to_here, rx) = std::sync::mpsc::sync_channel::<u64>(CAPACITY);
    thread::scope(|scope| {
        scope.spawn(move || from_here.iter().for_each(|number| to_here.send(number).expect("it waits")));
        for number in 0..count {
            tx.send(number)?;
            black_box(rx.recv()?);
        }
        drop(tx);
        Ok(())
    })
}

fn seqpacket() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

fn put(socket: &OwnedFd, number: u64) -> nix::Result<()> {
    send(socket.as_raw_fd(), &number.to_ne_bytes(), MsgFlags::empty()).map(drop)
}

fn get(socket: &OwnedFd) -> nix::Result<u64> {
    let mut bytes = [0; 8];
    recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

fn seqpacket_one_way(count: u64) -> anyhow::Result<()> {
    let (here, there) = seqpacket()?;
    let child = Forked::run(|| {
        for _ in 0..count {
            black_box(get(&there).expect("a message"));
        }
        put(&there, count).expect("the parent is there");
    })?;
    (0..count).try_for_each(|number| put(&here, number))?;
    get(&here)?;
    child.wait()
}

fn seqpacket_round_trip(count: u64) -> anyhow::Result<()> {
    let (here, there) = seqpacket()?;
    let child =
        Forked::run(|| (0..count).for_each(|_| put(&there, get(&there).expect("a message")).expect("it is there")))?;
    for number in 0..count {
        put(&here, number)?;
        black_box(get(&here)?);
    }
    child.wait()
}

fn stream_large(count: u64) -> anyhow::Result<()> {
    let (mut here, mut there) = UnixStream::pair()?;
    let child = Forked::run(|| {
        for _ in 0..count {
            let mut message = vec![0; LARGE];
            there.read_exact(&mut message).expect("a message");
            black_box(message);
        }
        there.write_all(&[1]).expect("the parent is there");
    })?;
    let message = vec![7; LARGE];
    (0..count).try_for_each(|_| here.write_all(&message))?;
    here.read_exact(&mut [0; 1])?;
    child.wait()
}
