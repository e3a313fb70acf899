//! A bell: wakes whoever sleeps on its descriptor, in this process or another.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;
use start_methods::PrivateFd;

use crate::sys::failpoint::fault;

/// An eventfd: ringing it never blocks, and rings that nobody has answered yet are one.
#[derive(Debug)]
pub(crate) struct Bell(PrivateFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        fault!("eventfd");
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(PrivateFd::adopt(OwnedFd::from(event))?))
    }

    pub(crate) fn ring(&self) {
        // It can fail only when 2^64 - 2 rings are unanswered, and then it is loud enough.
        let _ = nix::unistd::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(crate) fn quiet(&self) {
        // Empty: nobody has rung, or somebody else has answered.
        let _ = nix::unistd::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
