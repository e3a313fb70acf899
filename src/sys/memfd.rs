//! New anonymous files in memory: memfd_create(2).

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;

/// An empty memfd that can be sealed and is closed on exec. The name is what /proc/PID/maps shows.
///
/// # Errors
///
/// The error of memfd_create(2): no descriptor is left, for instance.
pub(crate) fn new(name: &str) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Never executable, where the kernel knows that flag (6.3).
    match memfd_create(name, flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}
