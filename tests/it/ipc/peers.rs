//! Processes that are handed ends of channels.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use procpool::Data;
use procpool::StartMethod;
use procpool::channel::Receiver;
use procpool::channel::Sender;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
use start_methods::PrivateFd;

/// Longer than anything that a case waits for, shorter than its deadline.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A process that runs `entry` with these descriptors. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Peer(Child);

impl Peer {
    pub(crate) fn start(
        method: StartMethod,
        name: &str,
        entry: fn(Birth) -> u8,
        fds: &[BorrowedFd<'_>],
        payload: &str,
    ) -> Peer {
        let boot = Boot::new(entry).name(name).fds(fds).payload(payload.as_bytes());
        Peer(start_methods::start(method, &boot).unwrap())
    }

    /// Waits until it has ended by itself, without an error.
    pub(crate) fn join(self) {
        let exit = self.0.wait_timeout(LONG).unwrap().expect("it ends");
        assert!(exit.success(), "{exit:?}");
    }

    /// Waits until it has been killed.
    pub(crate) fn killed(self) {
        let exit = self.0.wait_timeout(LONG).unwrap().expect("it ends");
        assert!(!exit.success(), "{exit:?}");
    }

    pub(crate) fn kill(self) {
        self.0.kill().unwrap();
        self.killed();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }
}

/// In a peer: what it was handed, in the order in which it was handed over.
#[derive(Debug)]
pub(crate) struct Handed {
    fds: std::vec::IntoIter<PrivateFd>,
    pub(crate) payload: String,
}

impl Handed {
    pub(crate) fn new(birth: Birth) -> Handed {
        Handed { fds: birth.fds.into_iter(), payload: String::from_utf8(birth.payload).unwrap() }
    }

    fn three(&mut self) -> Vec<OwnedFd> {
        self.fds.by_ref().take(3).map(|fd| fd.as_fd().try_clone_to_owned().unwrap()).collect()
    }

    pub(crate) fn one(&mut self) -> OwnedFd {
        self.fds.next().unwrap().as_fd().try_clone_to_owned().unwrap()
    }

    pub(crate) fn sender<T: Data>(&mut self) -> Sender<T> {
        Sender::from_fds(self.three()).unwrap()
    }

    pub(crate) fn receiver<T: Data>(&mut self) -> Receiver<T> {
        Receiver::from_fds(self.three()).unwrap()
    }
}
