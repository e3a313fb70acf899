//! The seals that files of large values have; see fcntl(2).

use nix::fcntl::SealFlag;

/// The seals of a file whose bytes can no longer change. F_SEAL_WRITE is refused while any process has a writable mapping
/// of the file, and allows none later; with F_SEAL_GROW nothing can be allocated behind the end.
pub(super) fn constant() -> SealFlag {
    SealFlag::F_SEAL_WRITE | fixed_length()
}

/// The seals of a file whose length cannot change.
pub(super) fn fixed_length() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// F_SEAL_FUTURE_WRITE (Linux 5.1): no new way to write the file.
pub(super) const FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE);
