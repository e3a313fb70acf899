//! Slices of plain data in sealed memory: written once, sent without a copy, read by any number of processes.
//!
//! What travels is a descriptor. Each process maps the memory once, however many values have it, and for as long as one of
//! them lives: what is mapped is listed by device and inode.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::io::Seek;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::TryLockError;
use std::sync::Weak;

use bytemuck::AnyBitPattern;
use bytemuck::NoUninit;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use serde::ser::Error as _;

use crate::values::attach;
use crate::values::attach::SharedFd;
use crate::values::attach::Source;
use crate::values::blob::ConstantFile;
use crate::values::blob::FileId;

/// Bytes that processes share; see [`SharedSlice`].
///
/// # Examples
///
/// ```
/// use procpool::{Pool, SharedBytes};
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     let text = SharedBytes::new(b"to be or not to be")?;
///     let counts = pool.with(&text).map(*b"bet", |text, letter| text.iter().filter(|byte| **byte == letter).count())?;
///     assert_eq!(counts, [2, 2, 3]);
///     Ok(())
/// }
/// ```
pub type SharedBytes = SharedSlice<u8>;

/// A slice of plain data in memory that processes share, read-only, without copies.
///
/// It is made once, by the parent or by a worker, and sealed: from then on no process can change it, the one that made it
/// included. It may stand anywhere inside an argument, a result, a [context](crate::Pool::with) or an argument of an
/// [initializer](crate::PoolBuilder::initializer). What travels is a descriptor, in the same time whatever the length; each
/// process maps the memory once. Clones share it, in this process and in others. The memory is freed when no process has it.
///
/// It derefs to `[T]`. `T` is plain data by the traits of [bytemuck](https://docs.rs/bytemuck): `AnyBitPattern` to have and
/// to read it (any bytes are a value), `NoUninit` besides to make it (no padding). Numbers and arrays of them are; for
/// structs there are derives. It has at least one byte, and an alignment of at most 4096.
///
/// | to make it from | use | copies |
/// |---|---|---|
/// | a slice or a `Vec` | [`new`](Self::new) | one |
/// | nothing: it is computed | [`build`](Self::build) | none |
/// | a file | [`from_file`](Self::from_file) | one, in the kernel |
///
/// Each one holds a descriptor in each process that has it, so make few large ones, not many small ones. In a forked copy of
/// a process it can be read and sent as in the original.
///
/// Python's `multiprocessing.shared_memory.SharedMemory` and `Array` serve the same purpose; they have names, or locks, and
/// any process may write them.
///
/// # Examples
///
/// A matrix for all workers, summed by rows:
///
/// ```
/// use procpool::{Pool, SharedSlice};
///
/// const COLUMNS: usize = 100;
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     let matrix = SharedSlice::<f64>::build(50 * COLUMNS, |cells| {
///         cells.iter_mut().enumerate().for_each(|(index, cell)| *cell = index as f64);
///     })?;
///     let sums = pool.with(&matrix).map(0..50usize, |matrix, row| {
///         matrix[row * COLUMNS..][..COLUMNS].iter().sum::<f64>()
///     })?;
///     assert_eq!(sums[1], 14950.0);
///
///     // As an argument among others, and as a result.
///     let doubled = pool.apply((matrix.clone(), 2.0), |matrix: SharedSlice<f64>, factor| {
///         let fill = |cells: &mut [f64]| cells.iter_mut().zip(&matrix).for_each(|(cell, x)| *cell = x * factor);
///         anyhow::Ok(SharedSlice::build(matrix.len(), fill)?)
///     })?;
///     assert_eq!(doubled[7], 14.0);
///     Ok(())
/// }
/// ```
#[doc(alias = "Frozen")]
#[doc(alias = "SharedMemory")]
#[doc(alias = "shared_memory")]
pub struct SharedSlice<T: AnyBitPattern> {
    /// `None`: it is empty.
    memory: Option<Arc<Memory>>,
    items: PhantomData<T>,
}

impl<T: AnyBitPattern> SharedSlice<T> {
    const IS_PLAIN: () = {
        assert!(size_of::<T>() > 0, "a shared slice has items of at least one byte");
        assert!(align_of::<T>() <= 4096, "memory is mapped at multiples of 4096");
    };

    /// Copies `items` into memory that can be shared.
    ///
    /// # Errors
    ///
    /// - EMFILE, ENOMEM, ENOSPC: there is no descriptor or not enough memory.
    /// - `FileTooLarge`: the limit of the length of files (`ulimit -f`), which holds for such memory too.
    /// - `Unsupported`: the system has no memory that can be sealed.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::SharedSlice;
    ///
    /// let primes = SharedSlice::new(&[2u32, 3, 5, 7])?;
    /// assert_eq!(primes[2], 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(items: &[T]) -> io::Result<Self>
    where
        T: NoUninit,
    {
        const { Self::IS_PLAIN };
        match bytemuck::cast_slice(items) {
            [] => Ok(Self::default()),
            bytes => Self::of_file(ConstantFile::of_bytes(bytes)?),
        }
    }

    /// Lets `fill` write `len` items in place. They are zeros before.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new). Then `fill` has not been called, or what it wrote is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::SharedSlice;
    ///
    /// let squares = SharedSlice::<u64>::build(100, |items| {
    ///     items.iter_mut().zip(0..).for_each(|(item, x)| *item = x * x);
    /// })?;
    /// assert_eq!(squares[9], 81);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn build(len: usize, fill: impl FnOnce(&mut [T])) -> io::Result<Self>
    where
        T: NoUninit,
    {
        const { Self::IS_PLAIN };
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        if bytes == 0 {
            fill(&mut []);
            return Ok(Self::default());
        }
        Self::of_file(ConstantFile::filled_by(bytes, |bytes| fill(bytemuck::cast_slice_mut(bytes)))?)
    }

    /// Copies what a regular file has from its offset to its end.
    ///
    /// A copy, in the kernel, and not a mapping of the file: what is mapped from a file changes with the file, and reading
    /// it ends the process (SIGBUS) once another process has truncated the file. No file system can be asked to forbid
    /// either, and memory shares no blocks with a disk (no reflink).
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and:
    ///
    /// - `InvalidInput`: it is not a regular file.
    /// - `InvalidData`: its length is not a multiple of an item's.
    /// - `UnexpectedEof`: it became shorter meanwhile.
    /// - Those of lseek(2) and of reading the file.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use procpool::SharedBytes;
    ///
    /// let manifest = SharedBytes::from_file(&File::open("Cargo.toml")?)?;
    /// assert!(manifest.starts_with(b"["));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_file(mut file: &File) -> io::Result<Self> {
        const { Self::IS_PLAIN };
        let status = file.metadata()?;
        if !status.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only regular files are copied: this is none"));
        }
        match status.len().saturating_sub(file.stream_position()?) {
            0 => Ok(Self::default()),
            len => {
                check_len::<T>(len)?;
                Self::of_file(ConstantFile::copy_of(file, len)?)
            }
        }
    }

    fn of_file(file: ConstantFile) -> io::Result<Self> {
        let id = file.id()?;
        Ok(Self { memory: Some(list(id, file)), items: PhantomData })
    }

    /// The slice whose memory another process has sent.
    fn receive(fd: BorrowedFd<'_>, source: Source) -> io::Result<Self> {
        const { Self::IS_PLAIN };
        let (id, len) = ConstantFile::identify(fd)?;
        check_len::<T>(len)?;
        let memory = match listed(id) {
            Some(memory) => memory,
            None => list(id, ConstantFile::receive(fd, len, source)?),
        };
        Ok(Self { memory: Some(memory), items: PhantomData })
    }
}

/// Checks that so many bytes are a whole number of items.
fn check_len<T>(len: u64) -> io::Result<()> {
    if len % size_of::<T>() as u64 == 0 {
        return Ok(());
    }
    let text = format!("{len} bytes are no whole number of items of {} bytes", size_of::<T>());
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

impl<T: AnyBitPattern> Deref for SharedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let Some(memory) = &self.memory else { return &[] };
        bytemuck::try_cast_slice(memory.file.bytes()).expect("its length and its alignment were checked")
    }
}

impl<T: AnyBitPattern> AsRef<[T]> for SharedSlice<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: AnyBitPattern> Clone for SharedSlice<T> {
    fn clone(&self) -> Self {
        Self { memory: self.memory.clone(), items: PhantomData }
    }
}

impl<T: AnyBitPattern> Default for SharedSlice<T> {
    fn default() -> Self {
        Self { memory: None, items: PhantomData }
    }
}

impl<'a, T: AnyBitPattern> IntoIterator for &'a SharedSlice<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: AnyBitPattern + PartialEq> PartialEq for SharedSlice<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: AnyBitPattern + Eq> Eq for SharedSlice<T> {}

impl<T: AnyBitPattern> fmt::Debug for SharedSlice<T> {
    /// Its length only: it may be long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSlice").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The place of the memory in the table of its value.
#[derive(Serialize, Deserialize)]
#[serde(rename = "SharedSlice")]
struct Place(u32);

/// The place of an empty slice, which has no memory.
const EMPTY: u32 = u32::MAX;

impl<T: AnyBitPattern> Serialize for SharedSlice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = match &self.memory {
            None => EMPTY,
            Some(memory) => {
                let fd: SharedFd = Arc::clone(memory) as SharedFd;
                attach::attach(&fd).map_err(S::Error::custom)?
            }
        };
        Place(place).serialize(serializer)
    }
}

impl<'de, T: AnyBitPattern> Deserialize<'de> for SharedSlice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Place(place) = Place::deserialize(deserializer)?;
        if place == EMPTY {
            return Ok(Self::default());
        }
        let (fd, source) = attach::arrived(place).map_err(D::Error::custom)?;
        Self::receive(fd.as_fd(), source).map_err(D::Error::custom)
    }
}

/// Mapped memory.
#[derive(Debug)]
struct Memory {
    id: FileId,
    file: ConstantFile,
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What this process has mapped. An identity is unique as long as the memory lives.
type Listed = BTreeMap<FileId, Weak<Memory>>;

static LISTED: Mutex<Listed> = Mutex::new(Listed::new());

/// How often a thread tries to lock the list. It is held for less than a microsecond; but in a forked copy of the process
/// it may be locked for ever. Without the list, memory is mapped once more.
const TRIES_MAX: usize = 1000;

fn lock() -> Option<MutexGuard<'static, Listed>> {
    (0..TRIES_MAX).find_map(|_| match LISTED.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(PoisonError::into_inner(poisoned)),
        Err(TryLockError::WouldBlock) => {
            std::thread::yield_now();
            None
        }
    })
}

/// The memory, if this process has it.
fn listed(id: FileId) -> Option<Arc<Memory>> {
    lock()?.get(&id)?.upgrade()
}

/// Lists memory that was mapped; the one that is listed already, if another thread was faster.
fn list(id: FileId, file: ConstantFile) -> Arc<Memory> {
    let new = Arc::new(Memory { id, file });
    let Some(mut listed) = lock() else { return new };
    let known = listed.get(&id).and_then(Weak::upgrade);
    if known.is_none() {
        listed.insert(id, Arc::downgrade(&new));
    }
    // Unlocked first: dropping `new` locks the list.
    drop(listed);
    known.unwrap_or(new)
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(mut listed) = lock() else { return };
        // Another thread may have mapped it anew.
        if listed.get(&self.id).is_some_and(|memory| memory.strong_count() == 0) {
            listed.remove(&self.id);
        }
    }
}
