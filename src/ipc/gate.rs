//! A gate: sleeping until another process changes something, and waking all who sleep.
//!
//! Two sides share a SOCK_SEQPACKET pair; each process of a side holds the same end of it. A *token* is a message to the
//! other side. It makes that end readable for everybody on the side, until it is taken out. When the last process of a
//! side is gone, however it ended, the kernel tells the other side (POLLHUP). Any poll(2), epoll(7) or reactor can wait.
//!
//! A gate is one direction of the pair, with one *flag* in shared memory and the latch under which the condition changes:
//! senders change "there is a message" under their latch, and receivers "there is room" under theirs. All of the following
//! is done under that latch, by the side that changes or by the side that waits.
//!
//! ```text
//!   change   flag is not QUIET: put a token, flag = QUIET      wake first,
//!            the one store that changes the condition          publish last
//!   arm      the condition does not hold, and
//!            flag is not ARMED: take out all tokens, flag = ARMED
//!            (then, without the latch: poll)
//!   repair   the last holder died inside: flag = UNKNOWN
//! ```
//!
//! # Why no sleeper is forgotten, whoever dies
//!
//! *While the flag is QUIET, a token lies in the socket, or more; while it is ARMED, there is none.* A change puts one before
//! it says QUIET; the latch keeps others out in between. Tokens are taken out by `arm` alone, under the latch, before it
//! says ARMED. A thread sleeps only after `arm`; from then on the next change puts a token, and the token stays until a
//! thread has seen under the latch that the condition does not hold.
//!
//! A death inside `change` or `arm` may leave any flag with or without tokens. The kernel marks the latch, and the next
//! holder says UNKNOWN: then a change puts a token, and `arm` takes tokens out. A death after the token and before the store
//! that publishes is as if nothing had happened: the sleepers wake up, find nothing, and sleep again. No process owns a
//! token, so one that was woken and dies takes nothing with it.
//!
//! (Without UNKNOWN, a token that is left beside ARMED would never be taken out: sleepers would not sleep, but poll in a
//! loop until the next change.)
//!
//! Tokens are sent with MSG_DONTWAIT. (An eventfd would be smaller, but whether a write to it may block is a flag that all
//! processes share: a hostile one could clear it.) A socket that is full of tokens is readable, which is all that counts.
//!
//! # Orderings
//!
//! The flag is only touched under the latch, which orders its accesses: Relaxed. The condition's own store is Release,
//! by its owner; see `channel::ring`.
//!
//! Also called: event count, condition variable, wake-up channel, self-pipe.

use std::io::IoSlice;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use start_methods::Received;

use crate::sys::failpoint;
use crate::values::handle::SharedSocket;

/// There is a token: no sleeper needs another.
const QUIET: u32 = 0;
/// There is none, and a sleeper may need one.
const ARMED: u32 = 1;
/// There may be one, and a sleeper may need one. A new gate begins like this.
const UNKNOWN: u32 = 2;

/// More tokens than this are left for the next time. A socket holds fewer, unless a process goes on filling it.
const DRAINED_MAX: usize = 1000;

/// The flag in shared memory. Any other number counts as [`UNKNOWN`].
trait Flag {
    fn load(&self) -> u32;
    fn store(&self, value: u32);
}

macro_rules! flag {
    ($atomic:ty) => {
        impl Flag for $atomic {
            #[inline]
            fn load(&self) -> u32 {
                self.load(Ordering::Relaxed)
            }

            #[inline]
            fn store(&self, value: u32) {
                self.store(value, Ordering::Relaxed);
            }
        }
    };
}
flag!(AtomicU32);

// Behind the macro, which it uses.
#[cfg(all(test, loom))]
mod model;

/// Whether there is a token where the sleepers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Done,
    Failed,
}

/// One end of the pair.
trait Tokens {
    /// Wakes the other side.
    fn put(&self) -> Put;
    /// Takes out the tokens for this side.
    fn drain(&self);
    /// A step at which tests let the process die.
    fn step(&self, name: &str);
}

/// Wakes the sleepers, before a change of the condition. Under the latch.
#[inline]
fn wake<F: Flag, T: Tokens>(flag: &F, tokens: &T) {
    if flag.load() != QUIET {
        wake_sleepers(flag, tokens);
    }
}

#[cold]
fn wake_sleepers<F: Flag, T: Tokens>(flag: &F, tokens: &T) {
    tokens.step("gate_waking");
    let put = tokens.put();
    tokens.step("gate_token");
    // Without a token the flag stays as it is, so that the next change tries again.
    if put == Put::Done {
        flag.store(QUIET);
    }
    tokens.step("gate_woken");
}

/// Prepares to sleep. Under the latch, and only while the condition does not hold.
fn arm<F: Flag, T: Tokens>(flag: &F, tokens: &T) {
    tokens.step("gate_arming");
    if flag.load() != ARMED {
        tokens.drain();
        tokens.step("gate_drained");
        flag.store(ARMED);
    }
    tokens.step("gate_armed");
}

/// Repairs what a dead holder of the latch has left.
fn repair<F: Flag>(flag: &F) {
    flag.store(UNKNOWN);
}

/// One direction, as seen from one of its two sides. Every call is made under the latch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate<'a> {
    pub(super) flag: &'a AtomicU32,
    /// This side's end of the pair.
    pub(super) tokens: &'a SharedSocket,
}

impl Gate<'_> {
    /// Wakes the other side, before the store that changes the condition for which it waits.
    #[inline]
    pub(super) fn wake(self) {
        wake(self.flag, self.tokens);
    }

    /// Prepares to sleep on this side's end until it is readable, because the condition does not hold.
    pub(super) fn arm(self) {
        arm(self.flag, self.tokens);
    }
}

/// After the holder of the latch of a gate has died, and at the beginning.
pub(super) fn reset(flag: &AtomicU32) {
    repair(flag);
}

impl Tokens for SharedSocket {
    fn put(&self) -> Put {
        match self.try_send(&[IoSlice::new(b"t")], &[]) {
            // Full: there are tokens.
            Ok(_) => Put::Done,
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // The other side is gone: there are no sleepers.
                Some(Errno::EPIPE | Errno::ECONNRESET) => Put::Done,
                _ => {
                    log::debug!("a token was not sent: {error}");
                    Put::Failed
                }
            },
        }
    }

    fn drain(&self) {
        let mut bytes = Vec::new();
        for _ in 0..DRAINED_MAX {
            if !matches!(self.try_recv_bytes(&mut bytes, 8), Ok(Received::Message(_))) {
                return;
            }
        }
    }

    #[inline]
    fn step(&self, name: &str) {
        failpoint::pass(name);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::PollFd;
    use nix::poll::PollFlags;
    use nix::poll::PollTimeout;
    use nix::poll::poll;

    use super::*;
    use crate::values::handle::socket_pair;

    fn is_readable(socket: &SharedSocket) -> bool {
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_change_wakes_all_once() {
        let (here, there) = socket_pair().unwrap();
        let flag = AtomicU32::new(ARMED);
        let (changes, waits) = (Gate { flag: &flag, tokens: &here }, Gate { flag: &flag, tokens: &there });
        waits.arm();
        assert!(!is_readable(&there));
        changes.wake();
        changes.wake();
        assert!(is_readable(&there) && is_readable(&there));
        waits.arm();
        assert!(!is_readable(&there));
        changes.wake();
        assert!(is_readable(&there));
    }

    #[test]
    fn a_token_that_the_dead_have_left_is_taken_out() {
        let (here, there) = socket_pair().unwrap();
        let flag = AtomicU32::new(ARMED);
        let waits = Gate { flag: &flag, tokens: &there };
        // A death between the token and the flag.
        assert_eq!(here.put(), Put::Done);
        reset(&flag);
        waits.arm();
        assert!(!is_readable(&there));
        // The next change wakes all the same.
        Gate { flag: &flag, tokens: &here }.wake();
        assert!(is_readable(&there));
    }

    #[test]
    fn a_full_socket_and_a_side_that_is_gone_count_as_woken() {
        let (here, there) = socket_pair().unwrap();
        while here.try_send(&[IoSlice::new(b"t")], &[]).unwrap() {}
        let flag = AtomicU32::new(ARMED);
        let changes = Gate { flag: &flag, tokens: &here };
        changes.wake();
        assert_eq!(flag.load(Ordering::Relaxed), QUIET);
        reset(&flag);
        assert_eq!(flag.load(Ordering::Relaxed), UNKNOWN);
        drop(there);
        changes.wake();
        assert_eq!(flag.load(Ordering::Relaxed), QUIET);
    }
}
