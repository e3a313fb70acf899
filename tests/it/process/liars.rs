//! Processes that break the protocol: the parent is told, waits for nothing, and keeps nothing.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::fd::RawFd;
use std::time::Duration;

use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::sendmsg;
use procpool::Data;
use procpool::Side;
use procpool::StartMethod;
use procpool::process::Process;
use procpool::process::ProcessError;

use super::by;
use super::park;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;
use crate::ipc;

cases![
    nonsense_is_told_and_ends_the_process,
    flood_is_read_no_further,
    answer_of_its_own_is_a_wrong_value_at_worst,
    descriptors_that_nobody_asked_for_are_closed,
    closed_socket_holds_nothing_up,
    shut_socket_holds_nothing_up,
    silent_process_is_waited_for_no_longer_than_asked,
    everything_closed_and_replaced,
];

/// The codes of answers, with the sequence 0 behind them, as the parent expects them.
const VALUE: [u8; 5] = [16, 0, 0, 0, 0];
const ATTACHED_VALUE: [u8; 5] = [16 | 0x80, 0, 0, 0, 0];

/// The control socket of this process.
fn control() -> RawFd {
    (3..64).find(|&number| sys::carries_messages(number)).expect("a process has one")
}

fn say(bytes: &[u8]) {
    sys::write_anyway(control(), bytes);
}

fn say_with(bytes: &[u8], fds: &[RawFd]) {
    let beside = [ControlMessage::ScmRights(fds)];
    let sent = sendmsg::<()>(control(), &[IoSlice::new(bytes)], &beside, MsgFlags::MSG_DONTWAIT, None);
    sent.unwrap();
}

#[track_caller]
fn assert_protocol<V: Data + std::fmt::Debug>(process: &Process<V>, what: &str) {
    let error = process.join().unwrap_err();
    let ProcessError::Protocol { pid, .. } = &error else { panic!("{what}: {error:?}") };
    assert_eq!(pid, &process.pid());
    assert!(!process.is_alive(), "{what}: it is killed");
}

fn nonsense_is_told_and_ends_the_process(method: StartMethod) {
    let speak: fn(Vec<u8>) = |bytes| {
        say(&bytes);
        park();
    };
    let messages: [&[u8]; 9] = [
        &[0],
        &[255; 10],
        &[16],
        &[16, 1, 0, 0, 0, 7],
        &[23, 0, 0, 0, 0],
        &[16 | 0x80, 0, 0, 0, 0],
        &[16 | 0x40, 0, 0, 0, 0, 1],
        &[16 | 0xc0, 0, 0, 0, 0, 1],
        &[4, 255, 255, 255, 255, 15],
    ];
    for message in messages {
        let process = by(method).spawn((message.to_vec(),), speak).unwrap();
        assert_protocol(&process, &format!("{message:?}"));
    }
    let twice: fn() = || {
        // The last words of a process: a message, no location, no thread, no backtrace.
        let last_words = [4, 2, b'h', b'i', 0, 0, 0];
        say(&last_words);
        say(&last_words);
        park();
    };
    assert_protocol(&by(method).spawn((), twice).unwrap(), "last words twice");
    let too_long: fn() = || {
        say(&vec![16; 100_000]);
        park();
    };
    assert_protocol(&by(method).spawn((), too_long).unwrap(), "too long a message");
}

fn flood_is_read_no_further(method: StartMethod) {
    let flood: fn() = || {
        loop {
            say(&[7; 1000]);
        }
    };
    assert_protocol(&by(method).spawn((), flood).unwrap(), "a flood");
    let flood: fn() = || {
        let file = File::open("/dev/null").unwrap();
        for _ in 0..100 {
            let beside = [ControlMessage::ScmRights(&[file.as_raw_fd(); 200])];
            let bytes = [IoSlice::new(&VALUE)];
            let _full = sendmsg::<()>(control(), &bytes, &beside, MsgFlags::MSG_DONTWAIT, None);
        }
        park();
    };
    sys::want_descriptors(1000);
    let before = processes::descriptors(std::process::id()).len();
    let process = by(method).spawn((), flood).unwrap();
    assert_protocol(&process, "a flood of descriptors");
    drop(process);
    stage::until("the descriptors are closed", || processes::descriptors(std::process::id()).len() <= before + 1);
}

fn answer_of_its_own_is_a_wrong_value_at_worst(method: StartMethod) {
    // Its own answer comes second, and is not read.
    let process = by(method).spawn((), || {
        say(&[&VALUE[..], &[7]].concat());
        8u8
    });
    assert_eq!(process.unwrap().join().unwrap(), 7);
    let process: Process<String> = by(method)
        .spawn((), || {
            say(&[&VALUE[..], &[255; 30]].concat());
            "true".to_owned()
        })
        .unwrap();
    let error = process.join().unwrap_err();
    assert!(matches!(error, ProcessError::Decode { side: Side::Result, .. }), "{error:?}");
    // A panic that is none, and the text of an error that is no text.
    for (code, text) in [(18u8, "not readable"), (17, "\u{fffd}")] {
        let speak: fn(u8) = |code| say(&[code, 0, 0, 0, 0, 255, 255, 255, 255, 255]);
        let error = by(method).spawn((code,), speak).unwrap().join().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    // It claims an outcome, and goes on: the value counts, and the process is ended by the drop.
    let process = by(method).spawn((), || {
        say(&[&VALUE[..], &[9]].concat());
        park();
        0u8
    });
    let process = process.unwrap();
    assert_eq!(process.join().unwrap(), 9);
    assert!(process.is_alive());
}

fn descriptors_that_nobody_asked_for_are_closed(method: StartMethod) {
    // A pipe is no file in memory, whose reading could not wait for another process.
    let pipe: fn() = || {
        let (reader, _writer) = ipc::pipe();
        say_with(&ATTACHED_VALUE, &[reader.as_raw_fd()]);
        park();
    };
    assert_protocol(&by(method).spawn((), pipe).unwrap(), "a pipe for a file");
    let unannounced: fn() = || {
        let file = File::open("/dev/null").unwrap();
        say_with(&[&VALUE[..], &[7]].concat(), &[file.as_raw_fd()]);
        park();
    };
    assert_protocol(&by(method).spawn((), unannounced).unwrap(), "descriptors beside a plain value");
    let lingering: fn() = || {
        let (socket, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        sys::linger(&socket, 1000);
        let _ = peer.set_nonblocking(true);
        say_with(&VALUE, &[socket.as_raw_fd()]);
        park();
    };
    assert_protocol(&by(method).spawn((), lingering).unwrap(), "a socket that lingers");
    stage::until("the descriptors are closed", || {
        let here = processes::descriptors(std::process::id());
        !here.iter().any(|(_, target)| target.starts_with("pipe:") && target.contains("nothing"))
    });
}

fn closed_socket_holds_nothing_up(method: StartMethod) {
    let close: fn() -> u8 = || {
        sys::close_from(3);
        7
    };
    let process = by(method).spawn((), close).unwrap();
    // Its descriptors closed, the lifeline too: its outcome has nowhere to go.
    let error = process.join().unwrap_err();
    assert!(matches!(error, ProcessError::Died { .. }), "{error:?}");

    let close_and_stay: fn() = || {
        sys::close_from(control());
        park();
    };
    let process = by(method).spawn((), close_and_stay).unwrap();
    assert!(process.join_timeout(Duration::from_millis(50)).is_ok_and(|value| value.is_none()));
    process.kill().unwrap();
    assert!(matches!(process.join(), Err(ProcessError::Died { .. })));
}

fn shut_socket_holds_nothing_up(method: StartMethod) {
    let shut: fn(i32) -> u8 = |how| {
        sys::shut_down(control(), how);
        7
    };
    for how in [libc::SHUT_WR, libc::SHUT_RDWR] {
        let error = by(method).spawn((how,), shut).unwrap().join().unwrap_err();
        // Which of the two depends on whether it is looked at before the end.
        assert!(matches!(error, ProcessError::Died { .. } | ProcessError::Protocol { .. }), "{error:?}");
    }
    assert_eq!(by(method).spawn((libc::SHUT_RD,), shut).unwrap().join().unwrap(), 7);
}

fn silent_process_is_waited_for_no_longer_than_asked(method: StartMethod) {
    let process = by(method).spawn((), park).unwrap();
    stage::signal_if_there(process.pid(), nix::sys::signal::Signal::SIGSTOP);
    for _ in 0..3 {
        assert!(process.join_timeout(Duration::from_millis(10)).unwrap().is_none());
    }
    drop(process);
}

fn everything_closed_and_replaced(method: StartMethod) {
    let replace: fn() -> u8 = || {
        let file = File::open("/dev/null").unwrap();
        for number in 3..20 {
            if number != file.as_raw_fd() {
                sys::put_over(file.as_raw_fd(), number);
            }
        }
        std::mem::forget(file);
        7
    };
    let process = by(method).spawn((), replace).unwrap();
    let error = process.join().unwrap_err();
    assert!(matches!(error, ProcessError::Died { .. }), "{error:?}");
}
