//! Arrays of plain data that several processes change, by copies.
//!
//! An access and a change of the same bytes by another process may happen at once. Elements of 1, 2, 4 and 8 bytes are loaded
//! and stored by atomic operations, so they are never torn: what is read is what some process has written. Other elements,
//! and ranges, are copied as bytes; then each byte is one that some process has written, and any bytes are an element.
//!
//! Also called: shared array, RawArray, shared_memory.

#![expect(unsafe_code, reason = "shared memory is a raw pointer; each SAFETY note says why it is in bounds")]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytemuck::Pod;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;

use super::region::Region;
use crate::ipc::segment::Head;
use crate::ipc::segment::Kind;
use crate::values::shared::SharedSlice;
use crate::work::function::signature_of;

/// An array of plain data in memory that processes share and change, by copies.
///
/// [`get`](Self::get) and [`set`](Self::set) copy an element, [`read`](Self::read) and [`write`](Self::write) a range. Elements
/// of 1, 2, 4 or 8 bytes are never torn: `get` returns what some `set` has stored. Larger ones, and ranges, may be a
/// mixture of what several processes write at once; let each process write its own part, or use a
/// [`sync::Lock`](crate::sync::Lock).
///
/// It travels anywhere inside a value: an argument, a result, a [context](crate::Pool::with), an argument of an
/// [initializer](crate::PoolBuilder::initializer). What travels is a descriptor, in the same time whatever the length. Clones
/// share it, in this process and in others. The memory is freed when no process has it, however they ended; nothing is named,
/// so nothing is left behind.
///
/// `T` is plain data: `Pod` of [bytemuck](https://docs.rs/bytemuck), with at least one byte, and an alignment of at most 4096.
///
/// | if | use |
/// |---|---|
/// | it is written once, and then only read | [`SharedSlice`](crate::SharedSlice): a `&[T]`, safe, without copies |
/// | it is counted in | [`Shared`](crate::Shared): `fetch_add` and the like |
/// | it is written in parts, or again and again | this |
///
/// Python's `multiprocessing.Array`, `RawArray` and `SharedMemory`.
///
/// # Panics
///
/// Each call, if the index or the range does not lie in the array, or in a forked copy of the process (by fork(2) of your own),
/// which has no shared memory.
///
/// # Examples
///
/// Each task writes one row of an image:
///
/// ```
/// use procpool::{Pool, SharedArray};
///
/// const WIDTH: usize = 100;
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     let image = SharedArray::<u8>::zeroed(50 * WIDTH)?;
///     pool.with(&image).map(0..50u8, |image, row| {
///         image.write(usize::from(row) * WIDTH, &[row; WIDTH]);
///     })?;
///     let mut line = [0; WIDTH];
///     image.read(7 * WIDTH, &mut line);
///     assert_eq!(line, [7; WIDTH]);
///     Ok(())
/// }
/// ```
#[doc(alias = "Array")]
#[doc(alias = "RawArray")]
#[doc(alias = "SharedMemory")]
#[doc(alias = "shared_memory")]
pub struct SharedArray<T: Pod> {
    region: Region,
    items: PhantomData<fn(T) -> T>,
}

impl<T: Pod> SharedArray<T> {
    const IS_PLAIN: () = {
        assert!(size_of::<T>() > 0, "a shared array has elements of at least one byte");
        assert!(align_of::<T>() <= 4096, "memory is mapped at multiples of 4096");
    };

    /// A new array of `len` elements, all of whose bytes are 0.
    ///
    /// # Errors
    ///
    /// EMFILE, ENOMEM, ENOSPC: there is no descriptor or not enough memory. `FileTooLarge`: the limit of the length of files
    /// (`ulimit -f`), which holds for such memory too.
    ///
    /// # Examples
    ///
    /// ```
    /// let array = procpool::SharedArray::<f64>::zeroed(1000)?;
    /// assert_eq!((array.len(), array.get(999)), (1000, 0.0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn zeroed(len: usize) -> io::Result<Self> {
        const { Self::IS_PLAIN };
        let len = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { region: Region::create(Self::head(), len)?, items: PhantomData })
    }

    /// A new array with a copy of these elements.
    ///
    /// # Errors
    ///
    /// As for [`zeroed`](Self::zeroed).
    ///
    /// # Examples
    ///
    /// ```
    /// let array = procpool::SharedArray::new(&[1u16, 2, 3])?;
    /// array.set(1, 7);
    /// assert_eq!(array.to_vec(), [1, 7, 3]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(items: &[T]) -> io::Result<Self> {
        let array = Self::zeroed(items.len())?;
        array.write(0, items);
        Ok(array)
    }

    fn head() -> Head {
        Head { kind: Kind::Array, signature: signature_of::<T>() }
    }

    /// How many elements it has, which never changes.
    ///
    /// # Examples
    ///
    /// See [`zeroed`](Self::zeroed).
    #[must_use]
    pub fn len(&self) -> usize {
        self.region.len() / size_of::<T>()
    }

    /// Whether it has no element.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(procpool::SharedArray::<u8>::zeroed(0)?.is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of an element.
    ///
    /// # Panics
    ///
    /// See [`SharedArray`].
    ///
    /// # Examples
    ///
    /// See [`new`](Self::new).
    #[must_use]
    #[inline]
    #[track_caller]
    pub fn get(&self, index: usize) -> T {
        let place = self.place(index..index + 1);
        macro_rules! load {
            ($atomic:ty) => {{
                // SAFETY: mapped, and aligned: the memory is to 4096, and the offset is a multiple of the element's size.
                // Others may change an atomic while it is borrowed.
                let atomic = unsafe { <$atomic>::from_ptr(place.cast()) };
                bytemuck::cast(atomic.load(Ordering::Relaxed))
            }};
        }
        match size_of::<T>() {
            1 => load!(AtomicU8),
            2 => load!(AtomicU16),
            4 => load!(AtomicU32),
            8 => load!(AtomicU64),
            _ => {
                let mut item = T::zeroed();
                self.read(index, std::slice::from_mut(&mut item));
                item
            }
        }
    }

    /// Stores an element.
    ///
    /// # Panics
    ///
    /// See [`SharedArray`].
    ///
    /// # Examples
    ///
    /// See [`new`](Self::new).
    #[inline]
    #[track_caller]
    pub fn set(&self, index: usize, item: T) {
        let place = self.place(index..index + 1);
        macro_rules! store {
            ($atomic:ty) => {{
                // SAFETY: as for `get`.
                let atomic = unsafe { <$atomic>::from_ptr(place.cast()) };
                atomic.store(bytemuck::cast(item), Ordering::Relaxed);
            }};
        }
        match size_of::<T>() {
            1 => store!(AtomicU8),
            2 => store!(AtomicU16),
            4 => store!(AtomicU32),
            8 => store!(AtomicU64),
            _ => self.write(index, &[item]),
        }
    }

    /// Copies the elements from `start` on into `into`, as many as it takes.
    ///
    /// # Panics
    ///
    /// See [`SharedArray`].
    ///
    /// # Examples
    ///
    /// See [`SharedArray`].
    #[track_caller]
    pub fn read(&self, start: usize, into: &mut [T]) {
        let place = self.place(start..start.saturating_add(into.len()));
        // SAFETY: the source is mapped for the whole length, and is no Rust object, so the two do not overlap. If another
        // process writes there meanwhile the copy is some mixture of bytes, and any bytes are a `T`.
        unsafe { place.copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
    }

    /// Copies elements into the array, from `start` on.
    ///
    /// # Panics
    ///
    /// See [`SharedArray`].
    ///
    /// # Examples
    ///
    /// See [`SharedArray`].
    #[track_caller]
    pub fn write(&self, start: usize, from: &[T]) {
        let place = self.place(start..start.saturating_add(from.len()));
        // SAFETY: the destination is mapped for the whole length, and is no Rust object, so the two do not overlap. Others
        // read it by copies and by atomic operations.
        unsafe { place.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
    }

    /// A copy of all elements.
    ///
    /// # Panics
    ///
    /// In a forked copy of the process.
    ///
    /// # Examples
    ///
    /// See [`new`](Self::new).
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        let len = self.len();
        let mut items = Vec::with_capacity(len);
        let spare: &mut [MaybeUninit<T>] = &mut items.spare_capacity_mut()[..len];
        let place = self.place(0..len);
        // SAFETY: as for `read`; the destination has been reserved.
        unsafe { place.copy_to_nonoverlapping(spare.as_mut_ptr().cast(), len) };
        // SAFETY: these elements have just been written.
        unsafe { items.set_len(len) };
        items
    }

    /// Where the array begins in this process, for code that takes pointers. It is mapped as long as this handle, or one of its
    /// clones in this process, lives, and any process that has the array may write there at any time.
    ///
    /// # Panics
    ///
    /// In a forked copy of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// let array = procpool::SharedArray::new(&[1u32, 2])?;
    /// // SAFETY: in bounds, aligned, and no other process or thread has it.
    /// unsafe { array.as_ptr().add(1).write(5) };
    /// assert_eq!(array.get(1), 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn as_ptr(&self) -> *mut T {
        self.region.view().start().as_ptr().cast()
    }

    /// The elements, without a copy.
    ///
    /// # Safety
    ///
    /// No process and no thread writes any of them while the slice lives. A process that you do not trust must not have the
    /// array at all: the promise is about all that have it.
    ///
    /// # Panics
    ///
    /// In a forked copy of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Pool, SharedArray};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::new(2)?;
    ///     let squares = SharedArray::<u64>::zeroed(100)?;
    ///     pool.with(&squares).map(0..100u64, |squares, x| squares.set(x as usize, x * x))?;
    ///     // SAFETY: the map is over, its tasks have ended, and no other process or thread has the array.
    ///     let all = unsafe { squares.as_slice() };
    ///     assert_eq!(all.iter().sum::<u64>(), 328_350);
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub unsafe fn as_slice(&self) -> &[T] {
        // SAFETY: mapped as long as `self` is borrowed, for this length, aligned; any bytes are a `T`. The caller promises that
        // they do not change meanwhile.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    /// A copy of all elements in memory that never changes.
    ///
    /// # Errors
    ///
    /// As for [`SharedSlice::new`].
    ///
    /// # Panics
    ///
    /// In a forked copy of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// let array = procpool::SharedArray::new(&[1u32, 2])?;
    /// let kept = array.freeze()?;
    /// array.set(0, 9);
    /// assert_eq!(&*kept, [1, 2]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn freeze(&self) -> io::Result<SharedSlice<T>> {
        SharedSlice::build(self.len(), |items| self.read(0, items))
    }

    /// Where a range of elements begins.
    #[inline]
    #[track_caller]
    fn place(&self, range: Range<usize>) -> *mut T {
        let len = self.len();
        assert!(range.start <= range.end && range.end <= len, "the elements {range:?} are not in an array of {len}");
        // SAFETY: the range lies in the array, which is mapped for its whole length.
        unsafe { self.as_ptr().add(range.start) }
    }
}

impl<T: Pod> Clone for SharedArray<T> {
    fn clone(&self) -> Self {
        Self { region: self.region.clone(), items: PhantomData }
    }
}

impl<T: Pod> fmt::Debug for SharedArray<T> {
    /// Its length only: it may be long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedArray").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T: Pod> Serialize for SharedArray<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.region.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for SharedArray<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const { Self::IS_PLAIN };
        let region = Region::deserialize::<Self, D>(deserializer, Self::head())?;
        if region.len() % size_of::<T>() != 0 {
            let text = format!("{} bytes are no whole number of elements of {}", region.len(), size_of::<T>());
            return Err(D::Error::custom(text));
        }
        Ok(Self { region, items: PhantomData })
    }
}
