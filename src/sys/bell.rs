//! A bell: wakes the thread that polls its descriptor, in this process or another.
//!
//! Also called: eventfd, wake-up, event notification.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;
use start_methods::PrivateFd;

use crate::sys::failpoint::fault;

/// An eventfd. Ringing it never blocks, and all rings since the last [`quiet`](Self::quiet) count as one.
#[derive(Debug)]
pub(crate) struct Bell(PrivateFd);

impl Bell {
    /// A new bell that has not been rung.
    ///
    /// # Errors
    ///
    /// eventfd(2) failed: no descriptor is left, for instance.
    pub(crate) fn new() -> io::Result<Self> {
        fault!("eventfd");
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(PrivateFd::adopt(OwnedFd::from(event))?))
    }

    /// Makes the descriptor readable until [`quiet`](Self::quiet).
    pub(crate) fn ring(&self) {
        // It can fail only while 2^64 - 2 rings are unanswered, and then the descriptor is readable already.
        let _ = nix::unistd::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Resets the bell: the descriptor is no longer readable.
    pub(crate) fn quiet(&self) {
        // Empty if the bell has not been rung, or if another thread has reset it first.
        let _ = nix::unistd::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
