//! Files that a hostile worker may send in place of a large value.

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

/// The unit of a file's length: 255 of them are about twice the shortest file that is mapped.
const UNIT: u64 = 2048;
/// A length that exceeds any memory.
const FAR: u64 = 1 << 60;

/// What is done to the file: the bits of a byte.
const SHORTER: u8 = 1;
const LONGER: u8 = 2;
const HOLE: u8 = 4;
const FAR_LONGER: u8 = 8;
const SEALED_AT_LAST: u8 = 16;
/// No footer is written: the last bytes of the content stand in its place.
const WITHOUT_FOOTER: u8 = 32;
/// The footer claims that the writer waits for the file.
const LENT: u8 = 64;

/// A file. The bytes: what is done to it before it is received, its seals, what is done to it afterwards, its length, and
/// its content, which is repeated.
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
    let footer = u128::from(announced) | u128::from(before & LENT != 0) << 64;
    // Refused if the file is sealed already.
    let has_footer = before & WITHOUT_FOOTER == 0 && file.write_all_at(&footer.to_le_bytes(), announced).is_ok();
    seal(&file, SealFlag::from_bits_truncate(i32::from(*seals)));
    let received = PrivateFd::adopt(OwnedFd::from(file.try_clone().expect("there is a descriptor")));
    let blob = match received.and_then(|fd| Blob::receive(fd, &BlobCache::of_parent())) {
        Ok(blob) => blob,
        Err(error) if error.kind() == io::ErrorKind::InvalidData && !has_footer => return,
        Err(error) => panic!("{error}"),
    };
    let announced = if has_footer { announced } else { blob.len() };
    tamper(&file, *after);
    let actual = length(&file);

    assert_eq!(check_read(&blob.read_start(100), announced.min(100), actual), Ok(()));
    let bytes = blob.read();
    assert_eq!(check_read(&bytes, announced, actual), Ok(()));
    if let Ok(bytes) = bytes {
        let mut now = vec![0; bytes.len()];
        file.read_exact_at(&mut now, 0).expect("it is as long as that");
        assert!(*now == bytes[..]);
    }
}

/// Either as many bytes were read as the footer announced, or the error is justified by the actual length.
fn check_read(
    result: &io::Result<impl std::ops::Deref<Target = [u8]>>,
    announced: u64,
    actual: u64,
) -> Result<(), String> {
    match result {
        Ok(bytes) if bytes.len() as u64 == announced && announced <= actual => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && actual < announced => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory && announced >= FAR => Ok(()),
        other => Err(format!("{:?} of {announced}, and {actual} exist", other.as_ref().map(|bytes| bytes.len()))),
    }
}

fn length(file: &File) -> u64 {
    file.metadata().expect("a file has a length").len()
}

fn seal(file: &File, seals: SealFlag) {
    // Refused if the file is sealed against sealing already.
    let _: Result<_, _> = fcntl(file, FcntlArg::F_ADD_SEALS(seals));
}

/// Tampers with the file. Errors are ignored: the seals may forbid it, which is their purpose.
fn tamper(file: &File, changes: u8) {
    let len = length(file);
    if changes & SHORTER != 0 {
        drop(file.set_len(len / 2));
    }
    if changes & LONGER != 0 {
        drop(file.set_len(len + 3 * UNIT));
    }
    if changes & HOLE != 0 {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _: Result<_, _> = fallocate(file, flags, 4096, 8192);
    }
    if changes & FAR_LONGER != 0 {
        drop(file.set_len(FAR));
    }
    if changes & SEALED_AT_LAST != 0 {
        seal(file, SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW);
    }
}
