//! Files that a worker may send in the place of a large value.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::FallocateFlags;
use nix::fcntl::FcntlArg;
use nix::fcntl::SealFlag;
use nix::fcntl::fallocate;
use nix::fcntl::fcntl;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use start_methods::PrivateFd;

use crate::values::blob::Blob;
use crate::values::blob::BlobCache;

/// Its length in units of this goes up to the double of what is mapped.
const UNIT: u64 = 2048;
/// A length that no memory has.
const FAR: u64 = 1 << 60;

/// What is done to the file, by the bits of a byte.
const SHORTER: u8 = 1;
const LONGER: u8 = 2;
const HOLE: u8 = 4;
const FAR_LONGER: u8 = 8;
const SEALED_AT_LAST: u8 = 16;
/// The end is what the bytes happen to be.
const WITHOUT_END: u8 = 32;
/// The end says that somebody waits for the file.
const LENT: u8 = 64;

/// A file: what is done before it is received, its seals, what is done after that, its length, and what is in it again
/// and again.
pub fn blob(data: &[u8]) {
    let [before, seals, after, len, bytes @ ..] = data else { return };
    let Ok(file) = memfd_create("fuzz", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING) else { return };
    let file = File::from(file);
    let len = u64::from(*len) * UNIT;
    let wanted = usize::try_from(len).expect("it is small");
    let content = [bytes, &[7]].concat();
    let content = content.repeat(wanted.div_ceil(content.len()));
    file.write_all_at(&content[..wanted], 0).expect("there is memory");
    tamper(&file, *before);
    let announced = length(&file);
    let end = u128::from(announced) | u128::from(before & LENT != 0) << 64;
    // Refused if it is sealed already.
    let has_end = before & WITHOUT_END == 0 && file.write_all_at(&end.to_le_bytes(), announced).is_ok();
    seal(&file, SealFlag::from_bits_truncate(i32::from(*seals)));
    let received = PrivateFd::adopt(OwnedFd::from(file.try_clone().expect("there is a descriptor")));
    let blob = match received.and_then(|fd| Blob::receive(fd, &BlobCache::of_parent())) {
        Ok(blob) => blob,
        Err(error) if error.kind() == io::ErrorKind::InvalidData && !has_end => return,
        Err(error) => panic!("{error}"),
    };
    let announced = if has_end { announced } else { blob.len() };
    tamper(&file, *after);
    let there = length(&file);

    assert_eq!(read(&blob.read_start(100), announced.min(100), there), Ok(()));
    let bytes = blob.read();
    assert_eq!(read(&bytes, announced, there), Ok(()));
    if let Ok(bytes) = bytes {
        let mut now = vec![0; bytes.len()];
        file.read_exact_at(&mut now, 0).expect("it is as long as that");
        assert!(*now == bytes[..]);
    }
}

/// Read is what was announced, or nothing.
fn read(result: &io::Result<impl std::ops::Deref<Target = [u8]>>, announced: u64, there: u64) -> Result<(), String> {
    match result {
        Ok(bytes) if bytes.len() as u64 == announced && announced <= there => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && there < announced => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory && announced >= FAR => Ok(()),
        other => Err(format!("{:?} of {announced}, and {there} are there", other.as_ref().map(|bytes| bytes.len()))),
    }
}

fn length(file: &File) -> u64 {
    file.metadata().expect("a file has a length").len()
}

fn seal(file: &File, seals: SealFlag) {
    // Refused where it has been done before.
    let _: Result<_, _> = fcntl(file, FcntlArg::F_ADD_SEALS(seals));
}

/// What the seals forbid is refused, and that is all that they are for.
fn tamper(file: &File, deeds: u8) {
    let len = length(file);
    if deeds & SHORTER != 0 {
        drop(file.set_len(len / 2));
    }
    if deeds & LONGER != 0 {
        drop(file.set_len(len + 3 * UNIT));
    }
    if deeds & HOLE != 0 {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _: Result<_, _> = fallocate(file, flags, 4096, 8192);
    }
    if deeds & FAR_LONGER != 0 {
        drop(file.set_len(FAR));
    }
    if deeds & SEALED_AT_LAST != 0 {
        seal(file, SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW);
    }
}
