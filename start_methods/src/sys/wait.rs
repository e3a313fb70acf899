//! Waiting for descriptors with poll(2), until a deadline.
//!
//! # Invariants
//!
//! - A signal neither ends a wait early nor prolongs it.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

/// Waits until one of `fds` is readable or hung up; `false` if the deadline passed first.
pub(crate) fn readable(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    poll_until(&mut fds, deadline)
}

/// Waits until `fd` is hung up; for a pidfd: until the process has been reaped. `false` if the timeout passed first.
pub(crate) fn hung_up(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    poll_until(&mut fds, Instant::now().checked_add(timeout))
}

/// Whether `fd` is readable or hung up now.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll_until(&mut fds, Some(Instant::now()))
}

/// poll(2) until `deadline`, or for ever; `false` if the deadline passed first.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let timeout = deadline.map_or(PollTimeout::NONE, timeout_until);
        match poll(fds, timeout) {
            Ok(0) => {
                // Also returned for a wait longer than poll can express (24 days): continue.
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok(false);
                }
            }
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Rounded up: a wait that ends slightly early would be repeated again and again.
fn timeout_until(deadline: Instant) -> PollTimeout {
    let rest = deadline.saturating_duration_since(Instant::now());
    let milliseconds = rest.as_nanos().div_ceil(1_000_000);
    let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
    PollTimeout::try_from(milliseconds).expect("it is not negative")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_deadline_is_rounded_up_to_whole_milliseconds() {
        assert_eq!(timeout_until(Instant::now()), PollTimeout::ZERO);
        let soon = Instant::now() + Duration::from_micros(100_900);
        assert_eq!(timeout_until(soon), PollTimeout::from(101_u8));
    }

    #[test]
    fn the_end_of_a_pipe_is_readable_when_the_other_is_gone() {
        let (read, write) = nix::unistd::pipe().unwrap();
        assert!(!is_readable(read.as_fd()).unwrap());
        drop(write);
        assert!(is_readable(read.as_fd()).unwrap());
    }
}
