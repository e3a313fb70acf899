//! The limit on the length of files (RLIMIT_FSIZE), which holds for anonymous files too.
//!
//! A write beyond it raises SIGXFSZ, which ends the process by default. So the limit is asked for before every call that
//! makes a file longer or writes into it. (A limit that another thread lowers in between is not seen. Stores into a mapping
//! are not limited.)

use std::io;

use nix::sys::resource::RLIM_INFINITY;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;

/// Checks that this process may write a file up to the offset `end`.
///
/// # Errors
///
/// `FileTooLarge`: it may not.
pub(crate) fn check(end: u64) -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if limit == RLIM_INFINITY || end <= limit {
        return Ok(());
    }
    let text = format!("{end} bytes are more than RLIMIT_FSIZE (ulimit -f) allows a file of this process: {limit}");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_longer_than_every_limit() {
        check(0).unwrap();
    }
}
