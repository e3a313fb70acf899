//! Waiting for descriptors with poll(2), until a deadline.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollTimeout;
use nix::poll::poll;

/// The pause where poll(2) refuses to wait: with an RLIMIT_NOFILE of 0, or without memory.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until something has happened to one of `fds`, or until `deadline`. Returns whether something may have happened:
/// the caller looks at the events, and at its condition.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> bool {
    loop {
        let timeout = deadline.map_or(PollTimeout::NONE, timeout_until);
        match poll(fds, timeout) {
            // Also returned for a wait longer than poll can express (24 days): continue.
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return false,
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return true,
            Err(_) => {
                thread::sleep(PAUSE);
                return true;
            }
        }
    }
}

/// Rounded up: a wait that ends slightly early would be repeated again and again.
fn timeout_until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    let milliseconds = i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
    PollTimeout::try_from(milliseconds).expect("it is not negative")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::PollFlags;

    use super::*;

    #[test]
    fn what_happens_is_seen_and_the_deadline_ends_the_wait() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
        assert!(!poll_until(&mut fds, Some(Instant::now())));
        assert!(!poll_until(&mut fds, Some(Instant::now() + Duration::from_millis(1))));
        drop(write);
        assert!(poll_until(&mut fds, None));
        assert!(fds[0].revents().unwrap().contains(PollFlags::POLLHUP));
    }
}
