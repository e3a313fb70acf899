//! Atomic integers that several processes share.

#![expect(unsafe_code, reason = "references to shared memory; each SAFETY note says why others may change it")]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::AtomicI8;
use std::sync::atomic::AtomicI16;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicIsize;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;

use super::region::Region;
use crate::ipc::segment::Head;
use crate::ipc::segment::Kind;
use crate::work::function::signature_of;

/// What [`Shared`] holds: an atomic integer of the standard library, or a slice of them.
///
/// `AtomicBool` is not one: another process may write any byte, and only two of them are a `bool`. Nor is `AtomicPtr`: an
/// address means something in one process only.
///
/// No other type can implement it.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::AtomicU64;
///
/// fn assert_atomic<A: procpool::Atomic + ?Sized>() {}
/// assert_atomic::<AtomicU64>();
/// assert_atomic::<[AtomicU64]>();
/// ```
#[diagnostic::on_unimplemented(
    message = "other processes may write `{Self}` while it is read: pass an atomic integer, as in `Shared<AtomicU64>`",
    label = "not an atomic integer",
    note = "`SharedArray` holds plain data that is copied in and out, `sync::Mutex` any value, `SharedSlice` what never \
            changes"
)]
pub trait Atomic: Send + Sync + sealed::InPlace + 'static {}

mod sealed {
    /// A type for which any bytes are a value, at an alignment of up to 4096, and which any process may change while it is
    /// borrowed.
    #[expect(unnameable_types, reason = "so no other crate implements it")]
    pub trait InPlace {
        /// The type of which there are one or several.
        type Item: 'static;
        const IS_SLICE: bool;

        /// # Safety
        ///
        /// `place` is aligned to 4096 and mapped for reading and writing, for `len` bytes, as long as the result is borrowed; and
        /// all accesses there are atomic ones of this size.
        unsafe fn at<'a>(place: *const u8, len: usize) -> &'a Self;
    }
}

macro_rules! atomics {
    ($($atomic:ty),+) => {
        $(
            impl sealed::InPlace for $atomic {
                type Item = $atomic;
                const IS_SLICE: bool = false;

                unsafe fn at<'a>(place: *const u8, _: usize) -> &'a Self {
                    // SAFETY: the caller promises that this is mapped and aligned; any bytes are an integer, and an atomic
                    // may be changed while it is borrowed.
                    unsafe { &*place.cast() }
                }
            }

            impl Atomic for $atomic {}
        )+
    };
}
atomics!(
    AtomicI8,
    AtomicI16,
    AtomicI32,
    AtomicI64,
    AtomicIsize,
    AtomicU8,
    AtomicU16,
    AtomicU32,
    AtomicU64,
    AtomicUsize
);

impl<A: Atomic + sealed::InPlace<Item = A>> sealed::InPlace for [A] {
    type Item = A;
    const IS_SLICE: bool = true;

    unsafe fn at<'a>(place: *const u8, len: usize) -> &'a Self {
        // SAFETY: as for one of them; so many fit into `len` bytes.
        unsafe { std::slice::from_raw_parts(place.cast(), len / size_of::<A>()) }
    }
}

impl<A: Atomic + sealed::InPlace<Item = A>> Atomic for [A] {}

/// An atomic integer, or a slice of them, in memory that processes share and change.
///
/// It derefs to the atomic, so every operation of `std::sync::atomic` is there, and means the same as between threads. It
/// travels anywhere inside a value: an argument, a result, a [context](crate::Pool::with), an argument of an
/// [initializer](crate::PoolBuilder::initializer). Clones share it, in this process and in others. The memory is freed when no
/// process has it, however they ended; nothing is named, so nothing is left behind.
///
/// A death leaves each atomic at the value of some finished operation. For changes that
/// belong together there is [`sync::Mutex`](crate::sync::Mutex), for elements that are copied [`SharedArray`](crate::SharedArray).
///
/// Each one holds a descriptor in each process that has it, so prefer one slice to many single ones.
///
/// Python's `multiprocessing.Value` and `Array` with `lock=False`, but `+=` is atomic here: `fetch_add`.
///
/// # Panics
///
/// A forked copy of the process (by fork(2) of your own) has no shared memory: deref panics there.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// use procpool::{Pool, Shared};
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     let done = Shared::<AtomicU64>::new()?;
///     let histogram = Shared::<[AtomicU64]>::zeroed(10)?;
///     pool.with(&(done.clone(), histogram.clone())).map(0..100usize, |(done, histogram), x| {
///         histogram[x % 10].fetch_add(1, Relaxed);
///         done.fetch_add(1, Relaxed);
///     })?;
///     assert_eq!(done.load(Relaxed), 100);
///     assert!(histogram.iter().all(|count| count.load(Relaxed) == 10));
///     Ok(())
/// }
/// ```
#[doc(alias = "Value")]
#[doc(alias = "Array")]
pub struct Shared<A: Atomic + ?Sized> {
    region: Region,
    atomics: PhantomData<fn() -> &'static A>,
}

impl<A: Atomic + sealed::InPlace<Item = A>> Shared<A> {
    /// A new one, which is 0.
    ///
    /// # Errors
    ///
    /// EMFILE, ENOMEM, ENOSPC: there is no descriptor or not enough memory. `FileTooLarge`: the limit of the length of files
    /// (`ulimit -f`), which holds for such memory too.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    ///
    /// let count = procpool::Shared::<AtomicU32>::new()?;
    /// count.fetch_add(2, Relaxed);
    /// assert_eq!(count.clone().load(Relaxed), 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new() -> io::Result<Self> {
        Self::create(size_of::<A>())
    }
}

impl<A: Atomic + sealed::InPlace<Item = A>> Shared<[A]> {
    /// `len` new ones, which are 0.
    ///
    /// # Errors
    ///
    /// As for [`new`](Shared::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
    ///
    /// let sums = procpool::Shared::<[AtomicI64]>::zeroed(3)?;
    /// sums[1].fetch_sub(5, Relaxed);
    /// assert_eq!((sums.len(), sums[1].load(Relaxed)), (3, -5));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn zeroed(len: usize) -> io::Result<Self> {
        Self::create(len.checked_mul(size_of::<A>()).ok_or(io::ErrorKind::OutOfMemory)?)
    }
}

impl<A: Atomic + ?Sized> Shared<A> {
    fn create(len: usize) -> io::Result<Self> {
        Ok(Self { region: Region::create(Self::head(), len)?, atomics: PhantomData })
    }

    fn head() -> Head {
        let kind = if A::IS_SLICE { Kind::Atomics } else { Kind::Atomic };
        Head { kind, signature: signature_of::<A::Item>() }
    }

    /// Whether memory of so many bytes can be this.
    fn fits(len: usize) -> bool {
        let item = size_of::<A::Item>();
        if A::IS_SLICE { len % item == 0 } else { len == item }
    }
}

impl<A: Atomic + ?Sized> Deref for Shared<A> {
    type Target = A;

    #[inline]
    fn deref(&self) -> &A {
        let place = self.region.view().start();
        // SAFETY: mapped as long as `self` is borrowed, for this length, which `create` or `fits` has found right, at a
        // multiple of 4096. Its bytes are touched by atomic operations only: no other type of memory has this head, and a
        // process that writes there by other means can make it any integer, which is expected.
        unsafe { A::at(place.as_ptr(), self.region.len()) }
    }
}

impl<A: Atomic + ?Sized> Clone for Shared<A> {
    fn clone(&self) -> Self {
        Self { region: self.region.clone(), atomics: PhantomData }
    }
}

impl<A: Atomic + ?Sized> fmt::Debug for Shared<A> {
    /// Its length only: it may be long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("len", &(self.region.len() / size_of::<A::Item>())).finish_non_exhaustive()
    }
}

impl<A: Atomic + ?Sized> Serialize for Shared<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.region.serialize(serializer)
    }
}

impl<'de, A: Atomic + ?Sized> Deserialize<'de> for Shared<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let region = Region::deserialize::<Self, D>(deserializer, Self::head())?;
        if !Self::fits(region.len()) {
            return Err(D::Error::custom(format!("{} bytes are no such atomics", region.len())));
        }
        Ok(Self { region, atomics: PhantomData })
    }
}
