//! Closes descriptors whose close may wait, each on a thread of its own.
//!
//! A close waits for other processes if the descriptor is, for instance, a socket that lingers, or a file whose file
//! system is a process. A hostile process can send such a descriptor. Its close must not hold up a thread that others
//! wait for, and no lock may be held meanwhile.
//!
//! A close that never returns keeps its thread for ever. Not one thread for all: what waited behind that close would stay
//! open, and be copied into every process that is forked meanwhile.

use std::os::fd::RawFd;
use std::thread;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt;

use crate::sys::calls;
use crate::sys::threads::Announced;

/// The thread makes three system calls.
const STACK_LEN: usize = 64 * 1024;

/// Whether the last close of a socket still waits for what was sent, if it was set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linger {
    Keep,
    Clear,
}

/// Closes the descriptor soon, after a call of `forget`. Without a thread, it stays open.
pub(crate) fn close_later(number: RawFd, forget: fn(RawFd), linger: Linger) {
    let announced = Announced::new();
    let builder = thread::Builder::new().name("procpool-close".to_owned()).stack_size(STACK_LEN);
    let close = move || {
        let resident = announced.enter();
        // Parked during the calls that may wait: the thread holds no lock, so forks need not wait for it.
        resident.park(|| {
            // While this process has it open, the close of a copy in a forked child is not the last one. After this, the
            // last close of a socket does not wait, wherever it is. Refused for what is no socket.
            if linger == Linger::Clear {
                let _: nix::Result<()> =
                    setsockopt(&calls::borrow(number), sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
            }
        });
        forget(number);
        resident.park(|| calls::close(number));
    };
    drop(builder.spawn(close));
}
