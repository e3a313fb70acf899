//! Addresses that become functions again: the entry of a child, and the preloads of a fork server.
//!
//! # Invariants
//!
//! - Only for addresses that [`ImageRef::resolve_code`](crate::image::ImageRef::resolve_code) returned in this process:
//!   they lie in executable memory of an image of the same build.

#![expect(unsafe_code, reason = "an address becomes a function")]

use std::mem;

use crate::birth::boot::Birth;
use crate::birth::boot::Entry;

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
