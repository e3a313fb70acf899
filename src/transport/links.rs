//! The kind of link to the workers of a pool, and the links themselves.
//!
//! Rings in shared memory where the kernel, its security filters and the limits of this process allow them; sockets
//! elsewhere. The choice is made when the pool is built, and once more if a worker cannot map what it was given, or if no
//! file of that length may be made any more.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use start_methods::PrivateFd;

use crate::sys::table_full::is_table_full;
use crate::transport::control::LinkKind;
use crate::transport::link::Link;
use crate::transport::ring;
use crate::work::unbegun::Grain;

/// The environment variable that chooses the kind of link: `socket` does without shared memory.
const VARIABLE: &str = "PROCPOOL_LINK";
/// Its former name.
const FORMER_VARIABLE: &str = "PROCPOOL_ROAD";

type Rings = (ring::parent::ParentEnd, PrivateFd);

/// Makes the links of one pool.
#[derive(Debug)]
pub(crate) struct Links {
    with_rings: AtomicBool,
    /// The rings that were made to find out, kept for the first worker.
    tried: Mutex<Option<Rings>>,
}

/// A new link, and the descriptors that the worker is given.
#[derive(Debug)]
pub(crate) struct NewLink {
    link: Link,
    memory: Option<PrivateFd>,
}

impl Links {
    /// Finds out whether this process can make rings, and has not been told to do without.
    pub(crate) fn choose() -> Self {
        let (with_rings, tried) = try_rings();
        Self { with_rings: AtomicBool::new(with_rings), tried: Mutex::new(tried) }
    }

    /// A link for one more worker.
    ///
    /// # Errors
    ///
    /// The system refused a descriptor or the memory.
    pub(crate) fn open(&self) -> io::Result<NewLink> {
        // Relaxed: the flag stands alone. A start that races with `fall_back` makes one more link that its worker
        // refuses, which is counted and reported like the first.
        if self.with_rings.load(Ordering::Relaxed) {
            let tried = self.tried.lock().take();
            match tried.map_or_else(ring::parent::ParentEnd::new, Ok) {
                Ok((rings, memory)) => return Ok(NewLink { link: Link::ring(rings)?, memory: Some(memory) }),
                // The limit was lowered after the pool was built.
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => self.fall_back(),
                Err(error) => return Err(error),
            }
        }
        Ok(NewLink { link: Link::socket()?, memory: None })
    }

    /// Drops the rings that were made by [`choose`](Self::choose), if no worker needed them.
    pub(crate) fn drop_leftovers(&self) {
        drop(self.tried.lock().take());
    }

    /// A worker could not use its link. Whatever keeps it from mapping memory may keep the next one from it, so later
    /// workers get sockets.
    pub(crate) fn fall_back(&self) {
        self.with_rings.store(false, Ordering::Relaxed);
    }

    /// The unit in which work can be taken back from workers.
    pub(crate) fn grain(&self) -> Grain {
        match self.with_rings.load(Ordering::Relaxed) {
            true => Grain::Item,
            false => Grain::Frame,
        }
    }
}

impl NewLink {
    pub(crate) fn kind(&self) -> LinkKind {
        match self.memory {
            Some(_) => LinkKind::Ring,
            None => LinkKind::Socket,
        }
    }

    /// What the worker must be given, in the order in which its end expects it.
    pub(crate) fn worker_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.memory.iter().map(AsFd::as_fd).chain([self.link.worker_fd()]).collect()
    }

    /// The worker has been started and has its descriptors.
    pub(crate) fn into_link(self) -> Link {
        self.link
    }
}

fn try_rings() -> (bool, Option<Rings>) {
    let chosen = std::env::var_os(VARIABLE).or_else(|| std::env::var_os(FORMER_VARIABLE));
    if chosen.is_some_and(|kind| kind == "socket") {
        return (false, None);
    }
    match ring::parent::ParentEnd::new() {
        Ok(rings) => (true, Some(rings)),
        // Too many open files is no reason: sockets would fail for it too.
        Err(error) if is_table_full(&error) => (true, None),
        Err(error) => {
            log::info!("workers are reached by sockets, because shared memory is not available: {error}");
            (false, None)
        }
    }
}
