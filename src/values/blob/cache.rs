//! What is kept to be used again: files for large values, and the memory into which they are read.
//!
//! A pool has one, and so has each worker. It keeps no more than a few values have needed, and nothing before there was
//! the first; when its pool has ended it keeps nothing any more.
//!
//! A forked copy of the process finds nothing on it: the files are the original's to write, and a lock may be held for ever.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use nix::sys::stat::fstat;
use parking_lot::Mutex;
use start_methods::PrivateFd;

use super::Foot;
use super::REUSE_MAX;
use super::State;
use super::buffer::Buffer;
use super::mapping::Mapping;
use crate::sys::owner_process::OwnerProcess;

/// So many bytes of buffers are kept that are not used at the moment, and so many buffers.
const BUFFER_BYTES_MAX: usize = 32 << 20;
const BUFFERS_MAX: usize = 16;
/// So many files of a worker are with their readers, or on their way back.
const LOANS_MAX: usize = 3;
/// So many bytes of buffers stay mapped, and so many buffers.
const VIEW_BYTES_MAX: usize = 32 << 20;
const VIEWS_MAX: usize = 16;
/// So many pieces of memory are kept.
const MEMORIES_MAX: usize = 2;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct BlobCache {
    /// Who may use it.
    owner: OwnerProcess,
    is_closed: AtomicBool,
    supply: Supply,
    memories: Mutex<Vec<Vec<u8>>>,
    /// Buffers of our parent's, mapped, by what file they are; used last stands last.
    views: Mutex<VecDeque<(FileId, Arc<Mapping>)>>,
}

/// Device and inode: no other file has the same while this one is mapped, as far as inodes are numbered in 64 bits.
type FileId = (libc::dev_t, libc::ino_t);

/// How files come back.
#[derive(Debug)]
enum Supply {
    /// From inside this process.
    Buffers(Mutex<VecDeque<Buffer>>),
    /// By a note in their feet.
    Loans(Mutex<Vec<Loan>>),
}

/// A file to be used again.
#[derive(Debug)]
pub(super) enum Kept {
    Buffer(Buffer),
    Loan(Loan),
}

/// A worker's file that is with a reader, or was.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) fd: Arc<PrivateFd>,
    /// How many bytes have room. The foot stands behind them.
    pub(super) capacity: u64,
}

impl Loan {
    fn is_returned(&self) -> bool {
        Foot::read(&*self.fd, self.capacity + Foot::LEN as u64).is_ok_and(|foot| foot.state == State::Returned)
    }
}

impl BlobCache {
    /// For one who sends to processes that it does not trust.
    pub(crate) fn of_parent() -> Arc<Self> {
        Self::new(Supply::Buffers(Mutex::default()))
    }

    /// For one whose reader tells when it has read, and who trusts the processes that send to it.
    pub(crate) fn of_worker() -> Arc<Self> {
        Self::new(Supply::Loans(Mutex::default()))
    }

    fn new(supply: Supply) -> Arc<Self> {
        Arc::new(Self {
            owner: OwnerProcess::here(),
            is_closed: AtomicBool::new(false),
            supply,
            memories: Mutex::default(),
            views: Mutex::default(),
        })
    }

    /// Keeps nothing any more.
    pub(crate) fn close(&self) {
        if !self.is_here() {
            return;
        }
        // Before: who puts something there meanwhile either sees it, or has put it there when it is taken away.
        self.is_closed.store(true, Ordering::Relaxed);
        let buffers = match &self.supply {
            Supply::Buffers(buffers) => std::mem::take(&mut *buffers.lock()),
            Supply::Loans(_) => VecDeque::new(),
        };
        drop(buffers);
        let memories = std::mem::take(&mut *self.memories.lock());
        drop(memories);
    }

    /// Whether this is no forked copy.
    pub(super) fn is_here(&self) -> bool {
        self.owner.is_here()
    }

    fn is_open(&self) -> bool {
        self.is_here() && !self.is_closed.load(Ordering::Relaxed)
    }

    /// Memory of this length at least, with anything in it.
    ///
    /// # Errors
    ///
    /// There is not so much.
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
        if memory.len() as u64 <= REUSE_MAX && memories.len() < MEMORIES_MAX && self.is_open() {
            memories.push(memory);
        }
    }

    /// The smallest buffer that has room for so many bytes; or a file that has been returned, if possible one with
    /// such room.
    pub(super) fn take(&self, len: u64) -> Option<Kept> {
        if !self.is_open() {
            return None;
        }
        match &self.supply {
            Supply::Buffers(buffers) => {
                let mut buffers = buffers.lock();
                let fitting = buffers.iter().enumerate().filter(|(_, buffer)| buffer.capacity() as u64 >= len);
                let (best, _) = fitting.min_by_key(|(_, buffer)| buffer.capacity())?;
                buffers.remove(best).map(Kept::Buffer)
            }
            Supply::Loans(loans) => {
                let mut loans = loans.lock();
                let returned = loans.iter().enumerate().filter(|(_, loan)| loan.is_returned());
                let (best, _) = returned.max_by_key(|(_, loan)| loan.capacity >= len)?;
                Some(Kept::Loan(loans.swap_remove(best)))
            }
        }
    }

    /// The largest buffer, if it has room for so many bytes: for a value that has turned out to be longer than it seemed.
    pub(super) fn take_largest(&self, len: u64) -> Option<Buffer> {
        let Supply::Buffers(buffers) = &self.supply else { return None };
        if !self.is_open() {
            return None;
        }
        let mut buffers = buffers.lock();
        let (largest, buffer) = buffers.iter().enumerate().max_by_key(|(_, buffer)| buffer.capacity())?;
        if buffer.capacity() as u64 >= len { buffers.remove(largest) } else { None }
    }

    /// The oldest go if it becomes too much: what is sent now is of another length.
    pub(super) fn put_buffer(&self, buffer: Buffer) {
        let Supply::Buffers(buffers) = &self.supply else { return };
        if !self.is_here() {
            return;
        }
        let mut buffers = buffers.lock();
        let mut surplus = Vec::new();
        match self.is_open() {
            true => buffers.push_back(buffer),
            false => surplus.push(buffer),
        }
        while buffers.len() > BUFFERS_MAX || buffers.iter().map(Buffer::capacity).sum::<usize>() > BUFFER_BYTES_MAX {
            surplus.extend(buffers.pop_front());
        }
        // What unmapping takes is nobody's to wait for.
        drop(buffers);
        drop(surplus);
    }

    /// The beginning of somebody's buffer, mapped, if who sends buffers is trusted.
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
                // All of it: the next value may be longer.
                let room = u64::try_from(status.st_size).ok()?.checked_sub(Foot::LEN as u64)?;
                Arc::new(Mapping::of_buffer(file, room)?)
            }
        };
        views.push_back((id, Arc::clone(&view)));
        while views.len() > VIEWS_MAX || views.iter().map(|(_, view)| view.len()).sum::<usize>() > VIEW_BYTES_MAX {
            views.pop_front();
        }
        drop(views);
        (view.len() as u64 >= len).then_some(view)
    }

    /// Whether files become buffers.
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

    pub(super) fn note_loan(&self, loan: Loan) {
        if let Supply::Loans(loans) = &self.supply {
            loans.lock().push(loan);
        }
    }
}

/// Memory of exactly this length.
///
/// # Errors
///
/// There is not so much.
pub(super) fn zeros(len: usize) -> io::Result<Vec<u8>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    memory.resize(len, 0);
    Ok(memory)
}
