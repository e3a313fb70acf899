//! Addresses that become functions again: the entry of a child, the preloads of a fork server, and the `init` of another
//! copy of this crate.
//!
//! # Invariants
//!
//! - Only for addresses that [`ImageRef::resolve_code`](crate::image::ImageRef::resolve_code) returned in this process:
//!   they lie in executable memory of an image of the same build. A [`CrateCopy`] lies in readable memory of one
//!   ([`ImageRef::resolve_data`](crate::image::ImageRef::resolve_data)), and is recognised by its magic bytes.

#![expect(unsafe_code, reason = "an address becomes a function")]

use std::mem;

use crate::birth::boot::Birth;
use crate::birth::boot::Entry;

/// How one copy of this crate finds another one in the same program, which may be of another version. The layout is the
/// same in all versions.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct CrateCopy {
    magic: [u8; 16],
    /// As [`init`](crate::init), of that copy.
    init: extern "C" fn(),
}

const MAGIC: [u8; 16] = *b"start_methods/1\n";

impl CrateCopy {
    pub(crate) const fn new(init: extern "C" fn()) -> Self {
        Self { magic: MAGIC, init }
    }
}

/// The `init` of the copy whose [`CrateCopy`] is at this address, if one is there.
pub(crate) fn init_of_copy_at(address: usize) -> Option<extern "C" fn()> {
    let place = address as *const CrateCopy;
    // SAFETY: `resolve_data` was asked for as many readable and aligned bytes; any bytes are values of this type.
    let magic = unsafe { place.cast::<[u8; 16]>().read() };
    if magic != MAGIC {
        return None;
    }
    // SAFETY: nothing but a `CrateCopy` begins with these bytes at a place that the parent, which is trusted and runs
    // the same build of this image, has named as one.
    let copy = unsafe { place.read() };
    Some(copy.init)
}

/// The entry at this address.
pub(crate) fn entry_at(address: usize) -> Entry {
    let address = address as *const ();
    // SAFETY: the parent, which is trusted and runs the same build (compared before), made the address from an
    // `Entry`, and it lies in executable memory of the same image.
    unsafe { mem::transmute::<*const (), fn(Birth) -> u8>(address) }
}

/// The preload function at this address.
pub(crate) fn preload_at(address: usize) -> fn() {
    let address = address as *const ();
    // SAFETY: as in `entry_at`, made from a `fn()`.
    unsafe { mem::transmute::<*const (), fn()>(address) }
}
