//! The control socket, with a peer that may send anything.

use std::io;
use std::io::ErrorKind;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::sendmsg;
use start_methods::PrivateFd;
use start_methods::Received;
use start_methods::Socket;

use crate::Case;
use crate::audit::fds;
use crate::helper::want_descriptors;
use crate::helper::with_spare_descriptors;
use crate::once;

pub(crate) const CASES: &[Case] = &[
    once("messages_are_whole_and_in_order", messages_are_whole_and_in_order),
    once("the_end_comes_after_the_data", the_end_comes_after_the_data),
    once("a_reset_ends_nothing", a_reset_ends_nothing),
    once("an_empty_message_is_refused", an_empty_message_is_refused),
    once("a_full_socket_is_no_error", a_full_socket_is_no_error),
    once("a_closed_socket_raises_no_signal", a_closed_socket_raises_no_signal),
    once("a_long_message_is_an_error", a_long_message_is_an_error),
    once("as_many_descriptors_as_the_kernel_takes", as_many_descriptors_as_the_kernel_takes),
    once("a_full_table_loses_no_descriptor", a_full_table_loses_no_descriptor),
    once(
        "a_message_arrives_without_the_descriptors_that_find_no_room",
        a_message_arrives_without_the_descriptors_that_find_no_room,
    ),
    once("low_numbers_are_moved_up", low_numbers_are_moved_up),
];

fn send(socket: &Socket, text: &str) {
    socket.send(&[IoSlice::new(text.as_bytes())], &[]).unwrap();
}

fn receive(socket: &Socket) -> io::Result<(Received, String, Vec<PrivateFd>)> {
    let mut buffer = [0; 64];
    let mut fds = Vec::new();
    let received = socket.try_recv(&mut buffer, &mut fds)?;
    let len = if let Received::Message(len) = received { len } else { 0 };
    Ok((received, String::from_utf8(buffer[..len].to_vec()).unwrap(), fds))
}

fn text(socket: &Socket) -> String {
    let (received, text, fds) = receive(socket).unwrap();
    assert!(matches!(received, Received::Message(_)), "{received:?}");
    assert!(fds.is_empty());
    text
}

fn ends(socket: &Socket) -> bool {
    receive(socket).unwrap().0 == Received::Closed
}

fn messages_are_whole_and_in_order() {
    let (here, there) = Socket::pair().unwrap();
    assert_eq!(receive(&there).unwrap().0, Received::Empty);
    here.send(&[IoSlice::new(b"one, "), IoSlice::new(b""), IoSlice::new(b"two")], &[]).unwrap();
    send(&here, "three");

    assert_eq!(text(&there), "one, two");
    assert_eq!(text(&there), "three");
    assert_eq!(receive(&there).unwrap().0, Received::Empty);
}

fn the_end_comes_after_the_data() {
    let (here, there) = Socket::pair().unwrap();
    send(&here, "last words");
    drop(here);

    assert_eq!(text(&there), "last words");
    assert!(ends(&there));
    assert!(ends(&there), "and stays");
}

/// The kernel reports that the peer died with unread input before the messages that the peer had sent.
fn a_reset_ends_nothing() {
    let (here, there) = Socket::pair().unwrap();
    send(&there, "a task that is never read");
    send(&here, "a finished result");
    drop(here);

    assert_eq!(text(&there), "a finished result");
    assert!(ends(&there));
}

fn an_empty_message_is_refused() {
    let (here, there) = Socket::pair().unwrap();

    assert_eq!(here.send(&[], &[]).unwrap_err().kind(), ErrorKind::InvalidInput);
    let empty = [IoSlice::new(b"")];
    assert_eq!(here.try_send(&empty, &[]).unwrap_err().kind(), ErrorKind::InvalidInput);

    // From a peer that does not use this crate.
    sendmsg::<()>(here.as_fd().as_raw_fd(), &empty, &[], MsgFlags::empty(), None).unwrap();
    assert_eq!(receive(&there).unwrap_err().kind(), ErrorKind::InvalidData);
    send(&here, "something");
    assert_eq!(text(&there), "something");
}

fn a_full_socket_is_no_error() {
    let (here, there) = Socket::pair().unwrap();
    let part = [IoSlice::new(&[7; 1000])];
    let mut sent = 0;
    while here.try_send(&part, &[]).unwrap() {
        sent += 1;
    }
    let mut received = 0;
    while let Received::Message(len) = there.try_recv(&mut [0; 1000], &mut Vec::new()).unwrap() {
        assert_eq!(len, 1000);
        received += 1;
    }
    assert_eq!(received, sent);
    assert!(here.try_send(&part, &[]).unwrap());
}

fn a_closed_socket_raises_no_signal() {
    let (here, there) = Socket::pair().unwrap();
    drop(there);
    let error = here.send(&[IoSlice::new(b"hello?")], &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

fn a_long_message_is_an_error() {
    let (here, there) = Socket::pair().unwrap();
    let before = fds();
    here.send(&[IoSlice::new(&[7; 65])], &[io::stderr().as_fd()]).unwrap();
    send(&here, "the next one");

    let error = receive(&there).unwrap_err();

    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert_eq!(fds(), before, "the descriptor that came with it is closed");
    assert_eq!(text(&there), "the next one");
}

fn as_many_descriptors_as_the_kernel_takes() {
    want_descriptors(1024);
    let (here, there) = Socket::pair().unwrap();
    let stderr = io::stderr();
    let many: Vec<BorrowedFd<'_>> = vec![stderr.as_fd(); 253];
    let word = [IoSlice::new(b"descriptors")];
    here.send(&word, &many).unwrap();
    let (_, text, received) = receive(&there).unwrap();
    assert_eq!((text.as_str(), received.len()), ("descriptors", 253));
    drop(received);

    let before = fds();
    let more = vec![stderr.as_fd(); 254];
    assert_eq!(here.send(&word, &more).unwrap_err().kind(), ErrorKind::InvalidInput);
    // Nor does the kernel take more from a peer that does not use this crate.
    let raw = [2; 254];
    let control = [ControlMessage::ScmRights(&raw)];
    sendmsg::<()>(here.as_fd().as_raw_fd(), &word, &control, MsgFlags::empty(), None).unwrap_err();
    assert_eq!(fds(), before);
}

fn a_full_table_loses_no_descriptor() {
    let (here, there) = Socket::pair().unwrap();
    let stderr = io::stderr();
    here.send(&[IoSlice::new(b"three")], &[stderr.as_fd(); 3]).unwrap();
    let before = fds();
    let result = with_spare_descriptors(1, || receive(&there));

    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EMFILE));
    assert_eq!(fds(), before);
}

fn a_message_arrives_without_the_descriptors_that_find_no_room() {
    let (here, there) = Socket::pair().unwrap();
    let stderr = io::stderr();
    here.send(&[IoSlice::new(b"three")], &[stderr.as_fd(); 3]).unwrap();
    let before = fds();
    let (mut buffer, mut arrived) = ([0; 64], Vec::new());
    let received = with_spare_descriptors(1, || there.recv_or_drop_fds(&mut buffer, &mut arrived));

    assert_eq!(received.unwrap(), Received::Message(5));
    assert_eq!((&buffer[..5], arrived.len()), (&b"three"[..], 0));
    assert_eq!(fds(), before);
}

fn low_numbers_are_moved_up() {
    let stdin = nix::unistd::dup(io::stdin()).unwrap();
    nix::unistd::close(0).unwrap();
    let low = nix::unistd::dup(&stdin).unwrap();
    assert_eq!(low.as_raw_fd(), 0);

    let private = PrivateFd::adopt(low).unwrap();

    assert!(private.as_raw_fd() > 2);
    assert!(!fds().contains_key(&0));
    nix::unistd::dup2_stdin(&stdin).unwrap();
}
