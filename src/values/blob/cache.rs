//! Files for large values, their mappings, and the memory into which they are read, kept for reuse.
//!
//! A pool has one cache, and so has each worker. It keeps no more than a few values have needed, nothing before the first
//! large value, nothing when there was none for a second, and nothing after its pool has ended.
//!
//! A forked copy of the process finds the cache empty: only the original may write the files, and a lock may be held for
//! ever in the copy.
//!
//! Also called: buffer pool, object pool, free list.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use nix::sys::stat::fstat;
use parking_lot::Mutex;
use start_methods::PrivateFd;

use super::buffer::Buffer;
use super::footer;
use super::footer::Footer;
use super::limits::REUSE_MAX;
use super::mapping::Mapping;
use super::reserve::Reserve;
use crate::sys::owner_process::OwnerProcess;

/// Maximum bytes of buffers that are kept while they are not in use.
const BUFFER_BYTES_MAX: usize = 32 << 20;
/// Maximum buffers that are kept while they are not in use.
const BUFFERS_MAX: usize = 16;
/// Maximum files lent out at once, counting those that are returned and not reused yet.
const LOANS_MAX: usize = 3;
/// Maximum bytes of the parent's buffers that a worker keeps mapped.
const VIEW_BYTES_MAX: usize = 32 << 20;
/// Maximum buffers of the parent that a worker keeps mapped.
const VIEWS_MAX: usize = 16;
/// Maximum pieces of memory that are kept for copies.
const MEMORIES_MAX: usize = 2;

/// The cache of one pool, or of one worker.
#[derive(Debug)]
pub(crate) struct BlobCache {
    /// The process that may use it.
    owner: OwnerProcess,
    is_closed: AtomicBool,
    /// There was no large value for a while: nothing is kept until there is one.
    is_resting: AtomicBool,
    supply: Supply,
    memories: Mutex<Vec<Vec<u8>>>,
    reserve: Reserve,
    /// Mapped buffers of the parent. The most recently used is at the back.
    views: Mutex<VecDeque<(FileId, Arc<Mapping>)>>,
}

/// What a cache has kept. To be dropped where the time that the kernel takes for that matters to no one else.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    _buffers: VecDeque<Buffer>,
    _loans: Vec<Loan>,
    _memories: Vec<Vec<u8>>,
    _views: VecDeque<(FileId, Arc<Mapping>)>,
}

/// Device and inode: unique while the file is mapped, provided that inode numbers have 64 bits.
type FileId = (libc::dev_t, libc::ino_t);

/// How files become available for reuse.
#[derive(Debug)]
enum Supply {
    /// This process puts them back.
    Buffers(Mutex<VecDeque<Buffer>>),
    /// The reader marks them as returned in their footers.
    Loans(Mutex<Vec<Loan>>),
}

/// A file for reuse.
#[derive(Debug)]
pub(super) enum Reusable {
    Buffer(Buffer),
    Loan(Loan),
}

/// A file that this worker has lent to a reader.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) fd: Arc<PrivateFd>,
    /// How many bytes fit before the footer.
    pub(super) capacity: u64,
}

impl Loan {
    fn is_returned(&self) -> bool {
        footer::is_marked_returned(&*self.fd)
    }
}

impl BlobCache {
    /// For a process that sends to processes that it does not trust.
    pub(crate) fn of_parent() -> Arc<Self> {
        let cache = Self::new(Supply::Buffers(Mutex::default()));
        cache.restore_room();
        cache
    }

    /// For a process whose reader marks files as returned, and which trusts the processes that send to it.
    pub(crate) fn of_worker() -> Arc<Self> {
        Self::new(Supply::Loans(Mutex::default()))
    }

    /// For a process that only receives, now and then, from processes that it does not trust. It keeps nothing.
    pub(crate) fn of_receiver() -> Arc<Self> {
        let cache = Self::new(Supply::Buffers(Mutex::default()));
        cache.close();
        cache
    }

    fn new(supply: Supply) -> Arc<Self> {
        Arc::new(Self {
            owner: OwnerProcess::here(),
            is_closed: AtomicBool::new(false),
            is_resting: AtomicBool::new(false),
            supply,
            memories: Mutex::default(),
            reserve: Reserve::default(),
            views: Mutex::default(),
        })
    }

    /// Drops the buffers and the memory that are kept, and keeps none from now on.
    pub(crate) fn close(&self) {
        if !self.is_here() {
            return;
        }
        // Before the lists are emptied. `put_buffer` and `put_memory` check the flag under the lock of their
        // list: either they come first, and what they put is taken below, or they come later, and see the flag. Relaxed:
        // the locks order both.
        self.is_closed.store(true, Ordering::Relaxed);
        drop(self.take_all());
        self.reserve.clear();
    }

    /// Returns all that is kept, to be dropped, and keeps nothing until [`wake`](Self::wake).
    ///
    /// A file that is lent at this time is given to its reader: what it still reads stays until it has read it.
    pub(crate) fn rest(&self) -> Kept {
        if !self.is_here() {
            return Kept::default();
        }
        // As in `close`.
        self.is_resting.store(true, Ordering::Relaxed);
        self.take_all()
    }

    /// Keeps again what has been used.
    pub(crate) fn wake(&self) {
        self.is_resting.store(false, Ordering::Relaxed);
    }

    /// Whether something is kept.
    pub(crate) fn has_something(&self) -> bool {
        let has_files = match &self.supply {
            Supply::Buffers(buffers) => !buffers.lock().is_empty(),
            Supply::Loans(loans) => !loans.lock().is_empty(),
        };
        has_files || !self.memories.lock().is_empty() || !self.views.lock().is_empty()
    }

    fn take_all(&self) -> Kept {
        let (buffers, loans) = match &self.supply {
            Supply::Buffers(buffers) => (std::mem::take(&mut *buffers.lock()), Vec::new()),
            Supply::Loans(loans) => (VecDeque::new(), std::mem::take(&mut *loans.lock())),
        };
        Kept {
            _buffers: buffers,
            _loans: loans,
            _memories: std::mem::take(&mut *self.memories.lock()),
            _views: std::mem::take(&mut *self.views.lock()),
        }
    }

    /// Closes a descriptor that was kept for this, so that one can be received; false if there is none.
    pub(crate) fn make_room(&self) -> bool {
        self.is_here() && self.reserve.make_room()
    }

    /// Opens again what [`make_room`](Self::make_room) has closed, as far as there is room.
    pub(crate) fn restore_room(&self) {
        if self.is_here() {
            self.reserve.fill(|| self.is_open());
        }
    }

    /// Whether this process made the cache, and is no forked copy.
    pub(super) fn is_here(&self) -> bool {
        self.owner.is_here()
    }

    fn keeps(&self) -> bool {
        self.is_open() && !self.is_resting.load(Ordering::Relaxed)
    }

    fn is_open(&self) -> bool {
        self.is_here() && !self.is_closed.load(Ordering::Relaxed)
    }

    /// Memory of at least this length, with arbitrary content.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`.
    pub(super) fn memory(&self, len: usize) -> io::Result<Vec<u8>> {
        let kept = if self.is_open() { self.memories.lock().pop() } else { None };
        match kept {
            Some(mut memory) if memory.capacity() >= len => {
                if memory.len() < len {
                    memory.resize(len, 0);
                }
                Ok(memory)
            }
            _ => zeros(len),
        }
    }

    pub(super) fn put_memory(&self, memory: Vec<u8>) {
        if !self.is_here() {
            return;
        }
        let mut memories = self.memories.lock();
        if memory.len() as u64 <= REUSE_MAX && memories.len() < MEMORIES_MAX && self.keeps() {
            memories.push(memory);
        }
    }

    /// The smallest buffer into which `len` bytes fit; or a file that has been returned, preferably one into which they fit.
    pub(super) fn take(&self, len: u64) -> Option<Reusable> {
        if !self.is_open() {
            return None;
        }
        match &self.supply {
            Supply::Buffers(buffers) => {
                let mut buffers = buffers.lock();
                let fitting = buffers.iter().enumerate().filter(|(_, buffer)| buffer.capacity() as u64 >= len);
                let (best, _) = fitting.min_by_key(|(_, buffer)| buffer.capacity())?;
                buffers.remove(best).map(Reusable::Buffer)
            }
            Supply::Loans(loans) => {
                let mut loans = loans.lock();
                let returned = loans.iter().enumerate().filter(|(_, loan)| loan.is_returned());
                let (best, _) = returned.max_by_key(|(_, loan)| loan.capacity >= len)?;
                let loan = loans.swap_remove(best);
                // Now: with the mark, the file would count as returned as soon as it is lent.
                footer::unmark_returned(&*loan.fd).ok()?;
                Some(Reusable::Loan(loan))
            }
        }
    }

    /// The largest buffer, if `len` bytes fit into it: for a value that turned out longer than expected.
    pub(super) fn take_largest(&self, len: u64) -> Option<Buffer> {
        let Supply::Buffers(buffers) = &self.supply else { return None };
        if !self.is_open() {
            return None;
        }
        let mut buffers = buffers.lock();
        let (largest, buffer) = buffers.iter().enumerate().max_by_key(|(_, buffer)| buffer.capacity())?;
        if buffer.capacity() as u64 >= len { buffers.remove(largest) } else { None }
    }

    /// Keeps a buffer. If there are too many, the oldest are dropped: what is sent now has other lengths.
    pub(super) fn put_buffer(&self, buffer: Buffer) {
        let Supply::Buffers(buffers) = &self.supply else { return };
        if !self.is_here() {
            return;
        }
        let mut buffers = buffers.lock();
        let mut surplus = Vec::new();
        match self.keeps() {
            true => buffers.push_back(buffer),
            false => surplus.push(buffer),
        }
        while buffers.len() > BUFFERS_MAX || buffers.iter().map(Buffer::capacity).sum::<usize>() > BUFFER_BYTES_MAX {
            surplus.extend(buffers.pop_front());
        }
        // Unlocked first: other threads need not wait for the unmapping.
        drop(buffers);
        drop(surplus);
    }

    /// A mapping of at least `len` bytes of a buffer, if this cache is of a process that trusts the sender of buffers.
    pub(super) fn view(&self, file: impl AsFd, len: u64) -> Option<Arc<Mapping>> {
        let Supply::Loans(_) = &self.supply else { return None };
        if !self.is_here() {
            return None;
        }
        let status = fstat(&file).ok()?;
        let id = (status.st_dev, status.st_ino);
        let mut views = self.views.lock();
        let known = views.iter().position(|(known, _)| *known == id).and_then(|place| views.remove(place));
        let view = match known {
            Some((_, mapping)) => mapping,
            None => {
                // All of it: the next value in it may be longer.
                let capacity = u64::try_from(status.st_size).ok()?.checked_sub(Footer::LEN as u64)?;
                Arc::new(Mapping::of_buffer(file, capacity)?)
            }
        };
        views.push_back((id, Arc::clone(&view)));
        while views.len() > VIEWS_MAX || views.iter().map(|(_, view)| view.len()).sum::<usize>() > VIEW_BYTES_MAX {
            views.pop_front();
        }
        drop(views);
        (view.len() as u64 >= len).then_some(view)
    }

    /// Whether files are turned into buffers.
    pub(super) fn has_buffers(&self) -> bool {
        matches!(self.supply, Supply::Buffers(_))
    }

    /// Whether another file may be lent.
    pub(super) fn may_lend(&self) -> bool {
        match &self.supply {
            Supply::Loans(loans) => self.is_open() && loans.lock().len() < LOANS_MAX,
            Supply::Buffers(_) => false,
        }
    }

    /// Remembers a file that has been lent.
    pub(super) fn put_loan(&self, loan: Loan) {
        if let Supply::Loans(loans) = &self.supply {
            loans.lock().push(loan);
        }
    }
}

/// Memory of exactly this length.
///
/// # Errors
///
/// `OutOfMemory`.
pub(super) fn zeros(len: usize) -> io::Result<Vec<u8>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    memory.resize(len, 0);
    Ok(memory)
}
