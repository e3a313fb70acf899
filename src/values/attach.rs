//! Descriptors that travel with a value: gathered while it is encoded, found again while it is decoded.
//!
//! ```text
//!   encode   a handle's Serialize ──▶ attach: the thread's table ──▶ its place in the table is written
//!   send     the bytes, and beside them the table: descriptors over a socket (SCM_RIGHTS)
//!   decode   deliver ──▶ a handle's Deserialize reads the place ──▶ arrived: the descriptor
//! ```
//!
//! The tables are of the thread, because serde passes nothing else to a `Serialize` inside a value. They are open only
//! while a value is encoded or decoded that the pool sends or has received; guards open and close them, also around a
//! panic. Values may be nested in time: a `Deserialize` that waits for another result decodes that with a table of its own.
//!
//! Looking a descriptor up leaves it in the table, so a value may be decoded again.
//!
//! Also called: SCM_RIGHTS, handle passing, out-of-band data.

use std::any::Any;
use std::any::TypeId;
use std::cell::RefCell;
use std::fmt;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Maximum descriptors of one value: the kernel's limit for one message (SCM_MAX_FD).
pub(crate) const FDS_MAX: usize = 253;

/// What can be attached: it keeps a descriptor open.
pub(crate) trait Descriptor: AsFd + fmt::Debug + Send + Sync {}

impl<T: AsFd + fmt::Debug + Send + Sync> Descriptor for T {}

/// A descriptor that several values may carry.
pub(crate) type SharedFd = Arc<dyn Descriptor>;

/// The descriptors of one value, by their places. Clones share them. Most values have none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried(Option<Arc<Table>>);

/// The fields are dropped in this order: what was made of descriptors is the last to have them.
#[derive(Debug)]
struct Table {
    fds: Vec<SharedFd>,
    made: Mutex<Vec<Made>>,
}

/// What was made of descriptors when the value was decoded, for when it is decoded again.
#[derive(Debug)]
struct Made {
    /// Of the type for which it was made.
    key: TypeId,
    places: Vec<u32>,
    object: Arc<dyn Any + Send + Sync>,
}

/// The process that sent a value, by how far it is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The parent, which has checked what it passes on.
    Parent,
    /// Any other process, which may send anything.
    Other,
}

/// Why a handle cannot be encoded or decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachError {
    /// No value is being encoded that is sent.
    NotSending,
    /// The table is full.
    TooMany,
    /// No value is being decoded that has been received, or it has no descriptor at this place.
    NotReceived,
}

impl Carried {
    pub(crate) fn new(fds: Vec<SharedFd>) -> Self {
        Self(if fds.is_empty() { None } else { Some(Arc::new(Table { fds, made: Mutex::default() })) })
    }

    pub(crate) fn len(&self) -> usize {
        self.fds().len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn fds(&self) -> &[SharedFd] {
        self.0.as_ref().map(|table| table.fds.as_slice()).unwrap_or_default()
    }

    /// The descriptors, in order of their places.
    pub(crate) fn borrowed(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fds().iter().map(|fd| fd.as_fd())
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::NotSending => f.write_str(
                "a descriptor travels only inside a value that procpool sends: an argument, a result, a context, an \
                 argument of an initializer, or a message of a channel; pass the handle itself instead of bytes that \
                 were made of it",
            ),
            AttachError::TooMany => write!(
                f,
                "a value carries at most {FDS_MAX} descriptors, and one less if its bytes are too many for a frame; send \
                 several values instead"
            ),
            AttachError::NotReceived => f.write_str(
                "its descriptor is not there: it can be decoded only as part of the value with which it was sent; pass the \
                 handle itself instead of bytes that were made of it",
            ),
        }
    }
}

/// What has been received with the next value.
type Delivered = (Carried, Source);

thread_local! {
    /// The table of the value that is being encoded.
    static GATHERED: RefCell<Option<Vec<SharedFd>>> = const { RefCell::new(None) };
    /// The descriptors of the value that is decoded next.
    static DELIVERED: RefCell<Option<Delivered>> = const { RefCell::new(None) };
    /// The table of the value that is being decoded.
    static ARRIVED: RefCell<Option<Delivered>> = const { RefCell::new(None) };
}

/// Open while a value is encoded. When it is dropped, what was gathered is dropped with it.
#[derive(Debug)]
pub(crate) struct Gathering {
    /// The table of the value whose encoding waits for this one.
    outer: Option<Vec<SharedFd>>,
}

/// Begins to gather the descriptors of a value.
#[inline]
pub(crate) fn gather() -> Gathering {
    // At the end of a thread the table may be gone, and then nothing can be attached.
    Gathering { outer: GATHERED.try_with(|table| table.replace(Some(Vec::new()))).ok().flatten() }
}

impl Gathering {
    /// What was attached.
    #[inline]
    pub(crate) fn finish(self) -> Carried {
        let gathered = GATHERED.try_with(|table| table.borrow_mut().as_mut().map(std::mem::take));
        Carried::new(gathered.ok().flatten().unwrap_or_default())
    }
}

impl Drop for Gathering {
    #[inline]
    fn drop(&mut self) {
        let gathered = GATHERED.try_with(|table| table.replace(self.outer.take()));
        drop(gathered);
    }
}

/// Attaches a descriptor to the value that is being encoded; its place. The same one twice has one place.
///
/// # Errors
///
/// [`AttachError::NotSending`], [`AttachError::TooMany`].
pub(crate) fn attach(fd: &SharedFd) -> Result<u32, AttachError> {
    let attached = GATHERED.try_with(|table| {
        let mut table = table.borrow_mut();
        let table = table.as_mut().ok_or(AttachError::NotSending)?;
        let known = table.iter().position(|known| ptr::addr_eq(Arc::as_ptr(known), Arc::as_ptr(fd)));
        if known.is_none() && table.len() == FDS_MAX {
            return Err(AttachError::TooMany);
        }
        let place = known.unwrap_or_else(|| {
            table.push(Arc::clone(fd));
            table.len() - 1
        });
        Ok(u32::try_from(place).expect("the table is short"))
    });
    attached.unwrap_or(Err(AttachError::NotSending))
}

/// Keeps what was delivered for the next value until that is decoded, or this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Delivery;

/// The next value that this thread decodes has these descriptors. They are dropped when it is decoded.
pub(crate) fn deliver(carried: Carried, source: Source) -> Delivery {
    if !carried.is_empty() {
        DELIVERED.set(Some((carried, source)));
    }
    Delivery
}

impl Drop for Delivery {
    fn drop(&mut self) {
        drop(DELIVERED.try_with(|delivered| delivered.take()));
    }
}

/// Open while a value is decoded.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// The table of the value whose decoding waits for this one.
    outer: Option<Delivered>,
}

/// Begins to decode a value, with what has been delivered for it.
#[inline]
pub(crate) fn arrive() -> Arriving {
    let delivered = DELIVERED.try_with(|delivered| delivered.take()).ok().flatten();
    Arriving { outer: ARRIVED.try_with(|arrived| arrived.replace(delivered)).ok().flatten() }
}

impl Drop for Arriving {
    #[inline]
    fn drop(&mut self) {
        let arrived = ARRIVED.try_with(|arrived| arrived.replace(self.outer.take()));
        drop(arrived);
    }
}

/// The descriptor at a place of the value that is being decoded, and the process that sent it.
///
/// # Errors
///
/// [`AttachError::NotReceived`].
pub(crate) fn arrived(place: u32) -> Result<(SharedFd, Source), AttachError> {
    let found = ARRIVED.try_with(|arrived| {
        let arrived = arrived.borrow();
        let (carried, source) = arrived.as_ref()?;
        let fd = carried.fds().get(usize::try_from(place).ok()?)?;
        Some((Arc::clone(fd), *source))
    });
    found.ok().flatten().ok_or(AttachError::NotReceived)
}

/// What is made for a `T` of the descriptors at these places of the value that is being decoded: what was made before, or what
/// `make` makes.
///
/// # Errors
///
/// [`AttachError::NotReceived`], or the error of `make`, after which the descriptors are there still.
pub(crate) fn arrived_as<T: 'static, O: Any + Send + Sync, E: From<AttachError>>(
    places: Vec<u32>,
    make: impl FnOnce(Vec<SharedFd>) -> Result<O, E>,
) -> Result<Arc<O>, E> {
    let carried = ARRIVED.try_with(|arrived| arrived.borrow().as_ref().map(|(carried, _)| carried.clone()));
    let table = carried.ok().flatten().and_then(|carried| carried.0).ok_or(AttachError::NotReceived)?;
    let key = TypeId::of::<T>();
    // Locked while the object is made: of two threads that decode the same value, one makes it.
    let mut made = table.made.lock().unwrap_or_else(PoisonError::into_inner);
    let known = made.iter().find(|known| known.key == key && known.places == places);
    if let Some(object) = known.and_then(|known| Arc::clone(&known.object).downcast().ok()) {
        return Ok(object);
    }
    let fd_at = |place: &u32| table.fds.get(usize::try_from(*place).ok()?).map(Arc::clone);
    let fds = places.iter().map(fd_at).collect::<Option<_>>().ok_or(AttachError::NotReceived)?;
    let object = Arc::new(make(fds)?);
    made.push(Made { key, places, object: Arc::clone(&object) as Arc<dyn Any + Send + Sync> });
    Ok(object)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::panic::AssertUnwindSafe;
    use std::panic::catch_unwind;

    use super::*;
    use crate::sys::table_full::tests::want_descriptors;

    fn some_fd() -> SharedFd {
        Arc::new(File::open("/dev/null").unwrap())
    }

    #[test]
    fn nothing_is_attached_or_found_where_no_value_travels() {
        assert_eq!(attach(&some_fd()), Err(AttachError::NotSending));
        assert_eq!(arrived(0).unwrap_err(), AttachError::NotReceived);
        let gathering = gather();
        attach(&some_fd()).unwrap();
        drop(gathering);
        assert_eq!(attach(&some_fd()), Err(AttachError::NotSending));
    }

    #[test]
    fn one_descriptor_has_one_place_and_the_table_has_an_end() {
        want_descriptors();
        let gathering = gather();
        let (first, second) = (some_fd(), some_fd());
        assert_eq!([attach(&first), attach(&second), attach(&first)], [Ok(0), Ok(1), Ok(0)]);
        for place in 2..253 {
            assert_eq!(attach(&some_fd()), Ok(place));
        }
        assert_eq!(attach(&some_fd()), Err(AttachError::TooMany));
        assert_eq!(attach(&second), Ok(1));
        let carried = gathering.finish();
        assert_eq!(carried.len(), 253);
        assert_eq!(Arc::strong_count(&first), 2, "the table is the only other owner");
        drop(carried);
        assert_eq!(Arc::strong_count(&first), 1);
    }

    #[test]
    fn a_value_inside_another_has_its_own_table() {
        let outer = gather();
        attach(&some_fd()).unwrap();
        let inner = gather();
        assert_eq!(attach(&some_fd()), Ok(0));
        assert_eq!(inner.finish().len(), 1);
        assert_eq!(attach(&some_fd()), Ok(1));
        assert_eq!(outer.finish().len(), 2);

        let _delivered = deliver(Carried::new(vec![some_fd()]), Source::Other);
        let outer = arrive();
        assert!(arrived(0).is_ok() && arrived(1).is_err());
        let inner = arrive();
        assert_eq!(arrived(0).unwrap_err(), AttachError::NotReceived);
        drop(inner);
        assert!(arrived(0).is_ok());
        drop(outer);
        assert_eq!(arrived(0).unwrap_err(), AttachError::NotReceived);
    }

    #[test]
    fn what_was_made_once_is_found_again() {
        let carried = Carried::new(vec![some_fd(), some_fd()]);
        let decode = |places: &[u32], made: &mut usize| {
            let _delivery = deliver(carried.clone(), Source::Other);
            let _arriving = arrive();
            arrived_as::<u8, Vec<SharedFd>, AttachError>(places.to_vec(), |fds| {
                *made += 1;
                Ok(fds)
            })
        };
        let mut made = 0;
        let first = decode(&[1, 0], &mut made).unwrap();
        assert!(Arc::ptr_eq(&first, &decode(&[1, 0], &mut made).unwrap()));
        assert!(!Arc::ptr_eq(&first, &decode(&[0, 1], &mut made).unwrap()));
        assert_eq!(made, 2);
        assert_eq!(decode(&[2], &mut made).unwrap_err(), AttachError::NotReceived);
        let _delivery = deliver(carried.clone(), Source::Other);
        let _arriving = arrive();
        let failed = arrived_as::<u16, (), _>(vec![1, 0], |_| Err(AttachError::TooMany));
        assert_eq!(failed.unwrap_err(), AttachError::TooMany);
        // It is another type, and so another object.
        let made = arrived_as::<u16, usize, AttachError>(vec![1, 0], |fds| Ok(fds.len()));
        assert_eq!(*made.unwrap(), 2);
        drop((first, carried));
    }

    #[test]
    fn what_is_not_decoded_is_dropped_all_the_same() {
        let fd = some_fd();
        let delivered = deliver(Carried::new(vec![Arc::clone(&fd)]), Source::Parent);
        assert_eq!(Arc::strong_count(&fd), 2);
        drop(delivered);
        assert_eq!(Arc::strong_count(&fd), 1);
    }

    #[test]
    fn a_panic_closes_the_tables() {
        let fd = some_fd();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _gathering = gather();
            attach(&fd).unwrap();
            let _delivered = deliver(Carried::new(vec![Arc::clone(&fd)]), Source::Parent);
            let _arriving = arrive();
            panic!("half way");
        }));
        panicked.unwrap_err();
        assert_eq!(Arc::strong_count(&fd), 1);
        assert_eq!(attach(&fd), Err(AttachError::NotSending));
        assert_eq!(arrived(0).unwrap_err(), AttachError::NotReceived);
    }
}
