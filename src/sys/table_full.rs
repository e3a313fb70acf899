//! Whether a call failed because no descriptor was left.

use std::io;

/// Whether the descriptor table of this process, or that of the system, is full; open(2).
pub(crate) fn is_table_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
pub(crate) mod tests {
    use nix::sys::resource::Resource;
    use nix::sys::resource::getrlimit;
    use nix::sys::resource::setrlimit;

    /// Raises the soft limit, for a test that needs hundreds of descriptors. That of the process that runs the tests may be
    /// lower.
    pub(crate) fn want_descriptors() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(1024)), hard).unwrap();
    }
}
