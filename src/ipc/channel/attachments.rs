//! What travels beside the ring: descriptors, on a SOCK_SEQPACKET pair of the channel.
//!
//! A sender that holds the senders' latch takes the next number, sends the number with the descriptors, and then publishes
//! a record with that number. So an attachment is there before its record. A receiver that holds the receivers' latch
//! takes attachments up to the number of its record:
//!
//! - smaller numbers are of senders that died before they published; they are closed;
//! - if the number is there, it belongs to the record;
//! - if the next is larger, or there is none, a receiver died with it, after it took the attachment and before it removed
//!   the record. The message is lost with that receiver, and the record is skipped.
//!
//! Also called: SCM_RIGHTS, descriptor passing.

use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::recv;
use start_methods::PrivateFd;
use start_methods::Received;

use super::record::NUMBER_LEN;
use crate::sys::table_full::is_table_full;
use crate::values::handle::SharedSocket;

/// More attachments than this are not passed over at once. A socket holds fewer, unless a process goes on filling it.
const PASSED_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Done,
    /// The socket is full, or too many descriptors of this user are on their way.
    NoRoom,
    /// The receivers are gone.
    Gone,
}

/// Sends descriptors under a number.
///
/// # Errors
///
/// The error of sendmsg(2), for any other reason than those of [`Sent`].
pub(super) fn send(socket: &SharedSocket, number: u64, fds: &[BorrowedFd<'_>]) -> io::Result<Sent> {
    match socket.try_send(&[IoSlice::new(&number.to_le_bytes())], fds) {
        Ok(true) => Ok(Sent::Done),
        Ok(false) => Ok(Sent::NoRoom),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPIPE | Errno::ECONNRESET) => Ok(Sent::Gone),
            Some(Errno::ETOOMANYREFS | Errno::ENOBUFS) => Ok(Sent::NoRoom),
            _ => Err(error),
        },
    }
}

#[derive(Debug)]
pub(super) enum Taken {
    Here(Vec<PrivateFd>),
    /// A receiver has died with it.
    Gone,
    /// There is no room for it in the descriptor table of this process. It is closed.
    TableFull,
}

/// Takes the attachment with this number, and closes those before it.
pub(super) fn take(socket: &SharedSocket, number: u64) -> Taken {
    for _ in 0..PASSED_MAX {
        match next_number(socket) {
            Some(next) if next < number => pass_over(socket),
            Some(next) if next == number => return take_next(socket),
            _ => return Taken::Gone,
        }
    }
    Taken::Gone
}

fn take_next(socket: &SharedSocket) -> Taken {
    let mut fds = Vec::new();
    match socket.try_recv(&mut [0; NUMBER_LEN], &mut fds) {
        Ok(Received::Message(_)) => Taken::Here(fds),
        Err(error) if is_table_full(&error) => Taken::TableFull,
        // A process that does not keep to the protocol was here.
        Ok(Received::Empty | Received::Closed) | Err(_) => Taken::Gone,
    }
}

/// The number of the next attachment, which stays where it is.
fn next_number(socket: &SharedSocket) -> Option<u64> {
    let mut bytes = [0; NUMBER_LEN];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    for _ in 0..PASSED_MAX {
        match recv(socket.as_fd().as_raw_fd(), &mut bytes, flags) {
            // Too short for a number: nonsense.
            Ok(len) if len < NUMBER_LEN && len > 0 => pass_over(socket),
            Ok(NUMBER_LEN) => return Some(u64::from_le_bytes(bytes)),
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Ok(_) | Err(_) => return None,
        }
    }
    None
}

fn pass_over(socket: &SharedSocket) {
    // It was there a moment ago; if another process has taken it, so much the better.
    let _: io::Result<Received> = socket.try_recv_bytes(&mut Vec::new(), 1);
}

/// Closes all attachments: no record is left that could name one.
pub(super) fn discard(socket: &SharedSocket) {
    let mut bytes = Vec::new();
    for _ in 0..PASSED_MAX {
        if !matches!(socket.try_recv_bytes(&mut bytes, 1), Ok(Received::Message(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::handle::socket_pair;

    fn pair_with(numbers: &[u64]) -> (SharedSocket, SharedSocket) {
        let (here, there) = socket_pair().unwrap();
        for &number in numbers {
            assert_eq!(send(&here, number, &[here.as_fd()]).unwrap(), Sent::Done);
        }
        (here, there)
    }

    fn is_here(taken: Taken) -> bool {
        match taken {
            Taken::Here(fds) => fds.len() == 1,
            Taken::Gone | Taken::TableFull => false,
        }
    }

    #[test]
    fn attachments_are_taken_by_number() {
        let (_here, there) = pair_with(&[1, 2, 3, 5]);
        assert!(is_here(take(&there, 1)));
        assert!(is_here(take(&there, 3)), "2 is passed over");
        assert!(!is_here(take(&there, 4)), "it is gone");
        assert!(is_here(take(&there, 5)), "a later one stays");
        assert!(!is_here(take(&there, 6)));
    }

    #[test]
    fn what_is_discarded_or_nonsense_is_closed() {
        let (here, there) = pair_with(&[1, 2]);
        discard(&there);
        assert!(!is_here(take(&there, 2)));
        assert!(here.try_send(&[IoSlice::new(b"x")], &[here.as_fd()]).unwrap());
        assert_eq!(send(&here, 3, &[here.as_fd()]).unwrap(), Sent::Done);
        assert!(is_here(take(&there, 3)));
    }

    #[test]
    fn a_full_socket_has_no_room_and_one_without_receivers_is_gone() {
        let (here, there) = pair_with(&[]);
        let mut number = 0;
        while send(&here, number, &[]).unwrap() == Sent::Done {
            number += 1;
        }
        assert_eq!(send(&here, number, &[]).unwrap(), Sent::NoRoom);
        drop(there);
        assert_eq!(send(&here, number, &[]).unwrap(), Sent::Gone);
    }
}
