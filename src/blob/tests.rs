//! What blobs promise their readers, and what senders that mean harm can do about it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::fcntl::FallocateFlags;
use nix::fcntl::fallocate;
use nix::unistd::ftruncate;

use super::*;

const LEN: usize = 1 << 20;
const _: () = assert!(LEN as u64 >= MAP_MIN);

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|x| (x % 253).to_le_bytes()[0]).collect()
}

fn blob(bytes: &[u8]) -> Blob {
    let mut writer = Writer::new().unwrap();
    writer.write([&bytes[..bytes.len() / 3], &bytes[bytes.len() / 3..]]).unwrap();
    writer.finish()
}

/// A memfd of somebody else's, and what was received of it.
fn foreign(prepare: impl FnOnce(&File)) -> Blob {
    let file = File::from(memfd_create("foreign", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
    prepare(&file);
    Blob::receive(PrivateFd::adopt(file.into()).unwrap()).unwrap()
}

fn seal(fd: impl AsFd, seals: SealFlag) {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
}

fn is_mapped(bytes: &Bytes) -> bool {
    matches!(bytes.0, Kind::Mapped(_))
}

#[test]
fn a_blob_gives_back_its_bytes() {
    for len in [0, 1, 4095, 4096, 4097, 200_000, 256 * 1024 - 1, 256 * 1024, LEN + 1] {
        let bytes = bytes(len);
        let blob = blob(&bytes);
        let read = blob.read().unwrap();
        assert_eq!(is_mapped(&read), len as u64 >= MAP_MIN, "{len} bytes");
        assert!(*read == bytes[..], "{len} bytes came back changed");
        assert_eq!(blob.read_start(100).unwrap(), bytes[..len.min(100)]);
    }
}

#[test]
fn a_blob_never_changes() {
    let bytes = bytes(LEN);
    let blob = blob(&bytes);
    let read = blob.read().unwrap();
    assert_eq!(nix::unistd::write(&blob, b"x"), Err(Errno::EPERM));
    assert_eq!(nix::sys::uio::pwrite(&blob, b"x", 5), Err(Errno::EPERM));
    for len in [0, 1, LEN as i64 - 1, LEN as i64 + 1] {
        assert_eq!(ftruncate(&blob, len), Err(Errno::EPERM));
    }
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(&blob, hole, 0, 8192), Err(Errno::EPERM));
    assert_eq!(fallocate(&blob, FallocateFlags::empty(), 0, 2 * LEN as i64), Err(Errno::EPERM));
    let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let len = NonZero::new(LEN).unwrap();
    // SAFETY: a new mapping, where the kernel likes; it is refused.
    let mapped = unsafe { mmap(None, len, writable, MapFlags::MAP_SHARED, &blob, 0) };
    assert_eq!(mapped, Err(Errno::EPERM));
    let reopened = File::options().write(true).open(format!("/proc/self/fd/{}", blob.as_fd().as_raw_fd()));
    // Whether it may be opened is a matter of permissions; it may not be written.
    assert!(reopened.is_err() || reopened.is_ok_and(|file| file.write_at(b"x", 5).is_err()));
    assert_eq!(fcntl(&blob, FcntlArg::F_ADD_SEALS(SealFlag::empty())), Err(Errno::EPERM));
    assert!(is_mapped(&read) && *read == bytes[..]);
}

#[test]
fn a_mapping_outlives_its_blob() {
    let bytes = bytes(LEN);
    let read = blob(&bytes).read().unwrap();
    assert!(is_mapped(&read) && *read == bytes[..]);
}

#[test]
fn a_pipe_is_not_a_blob() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let error = Blob::receive(PrivateFd::adopt(reader.into()).unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn what_may_still_change_is_copied() {
    let bytes = bytes(LEN);
    for seals in [
        SealFlag::empty(),
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW,
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW,
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE,
    ] {
        let blob = foreign(|file| {
            file.write_all_at(&bytes, 0).unwrap();
            seal(file, seals);
        });
        let read = blob.read().unwrap();
        assert!(!is_mapped(&read), "{seals:?}");
        assert!(*read == bytes[..]);
    }
}

#[test]
fn a_writable_mapping_keeps_a_file_from_being_sealed() {
    let blob = foreign(|file| file.write_all_at(&bytes(LEN), 0).unwrap());
    let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, where the kernel likes.
    let mapped = unsafe { mmap(None, NonZero::new(LEN).unwrap(), writable, MapFlags::MAP_SHARED, &blob, 0) }.unwrap();
    assert_eq!(fcntl(&blob, FcntlArg::F_ADD_SEALS(constant())), Err(Errno::EBUSY));
    assert!(!is_mapped(&blob.read().unwrap()));
    // SAFETY: it was mapped above, with this length, and nothing refers to it.
    unsafe { munmap(mapped, LEN) }.unwrap();
}

#[test]
fn a_file_with_holes_is_copied() {
    let whole = |file: &File| file.set_len(LEN as u64).unwrap();
    let end_only = |file: &File| file.write_all_at(b"x", LEN as u64 - 1).unwrap();
    let punched = |file: &File| {
        file.write_all_at(&bytes(LEN), 0).unwrap();
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(file, hole, 8192, 4096).unwrap();
    };
    // As many blocks as a whole file has, but not where they are needed.
    let behind_the_end = |file: &File| {
        file.set_len(LEN as u64).unwrap();
        fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, LEN as i64, LEN as i64).unwrap();
    };
    let makers: [&dyn Fn(&File); 4] = [&whole, &end_only, &punched, &behind_the_end];
    for (index, make) in makers.into_iter().enumerate() {
        let blob = foreign(|file| {
            make(file);
            seal(file, constant());
        });
        let read = blob.read().unwrap();
        assert!(!is_mapped(&read), "file {index}");
        assert_eq!(read.len(), LEN);
    }
}

#[test]
fn a_file_that_became_shorter_is_an_error() {
    for (before, after) in [(100, 50), (LEN, 0), (LEN, LEN - 1), (LEN, LEN / 2)] {
        for seals in [SealFlag::empty(), constant()] {
            let blob = foreign(|file| file.write_all_at(&bytes(before), 0).unwrap());
            ftruncate(&blob, after as i64).unwrap();
            seal(&blob, seals);
            assert_eq!(blob.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[test]
fn a_file_that_became_longer_is_read_as_long_as_it_was() {
    let blob = foreign(|file| file.write_all_at(&bytes(LEN), 0).unwrap());
    ftruncate(&blob, 3 * LEN as i64).unwrap();
    seal(&blob, constant());
    assert!(*blob.read().unwrap() == bytes(LEN)[..]);
}

#[test]
fn a_file_on_a_disk_is_copied() {
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.write_all_at(&bytes(LEN), 0).unwrap();
    let blob = Blob::receive(PrivateFd::adopt(file.into()).unwrap()).unwrap();
    let read = blob.read().unwrap();
    assert!(!is_mapped(&read) && *read == bytes(LEN)[..]);
}

/// Pages of their own size, which may be missing although there is no hole.
#[test]
fn a_file_of_huge_pages_is_copied() {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB;
    // Refused where the kernel has none.
    let Ok(fd) = memfd_create("huge", flags) else { return };
    ftruncate(&fd, 2 << 20).unwrap();
    seal(&fd, constant());
    let blob = Blob::receive(PrivateFd::adopt(fd).unwrap()).unwrap();
    assert!(blob.map().is_none());
}

#[test]
fn a_length_that_no_memory_has_is_an_error() {
    let blob = foreign(|file| file.set_len(1 << 60).unwrap());
    assert_eq!(blob.read().unwrap_err().kind(), io::ErrorKind::OutOfMemory);
}
