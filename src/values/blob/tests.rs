//! What blobs guarantee their readers, and what hostile senders cannot do.

#![expect(unsafe_code, reason = "tries to map what must not be mapped")]

use std::fs;
use std::io;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use libc::off_t;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::fcntl::FcntlArg;
use nix::fcntl::SealFlag;
use nix::fcntl::fallocate;
use nix::fcntl::fcntl;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;
use nix::sys::stat::fstat;
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;
use start_methods::PrivateFd;

use super::bytes::Kind;
use super::file::Held;
use super::footer::Footer;
use super::footer::LoanState;
use super::limits::MAP_MIN;
use super::limits::REUSE_MAX;
use super::mapping::Mapping;
use super::seals::FUTURE_WRITE;
use super::seals::constant;
use super::seals::fixed_length;
use super::*;

mod reuse;

const LEN: usize = 1 << 20;
const _: () = assert!(LEN as u64 >= MAP_MIN && LEN as u64 <= REUSE_MAX);
/// Too long for a file that is reused.
const LONG: usize = (16 << 20) + 1;
const _: () = assert!(LONG as u64 == REUSE_MAX + 1);

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|x| (x % 253).to_le_bytes()[0]).collect()
}

fn write(cache: Option<&Arc<BlobCache>>, bytes: &[u8]) -> Blob {
    let (first, second) = bytes.split_at(bytes.len() / 3);
    let mut writer = Writer::new(cache, first.len() as u64).unwrap();
    writer.write([&first[..first.len() / 2], &first[first.len() / 2..]]).unwrap();
    writer.write([second, &[]]).unwrap();
    writer.finish().unwrap()
}

/// The blob as it arrives at the other end of a socket.
fn pass(blob: &Blob, to: &Arc<BlobCache>) -> Blob {
    Blob::receive(PrivateFd::adopt(blob.as_fd().try_clone_to_owned().unwrap()).unwrap(), to).unwrap()
}

/// The blob that is received from a memfd that was not made by a [`Writer`].
fn foreign(prepare: impl FnOnce(&fs::File)) -> Blob {
    let file = fs::File::from(memfd_create("foreign", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
    prepare(&file);
    receive(file).unwrap()
}

fn receive(file: fs::File) -> io::Result<Blob> {
    Blob::receive(PrivateFd::adopt(file.into()).unwrap(), &BlobCache::of_parent())
}

fn put_footer(file: &fs::File, len: usize) {
    Footer { offset: len as u64, len: len as u64, loan: LoanState::Given }.write(file).unwrap();
}

fn fill(file: &fs::File, len: usize) {
    file.write_all_at(&bytes(len), 0).unwrap();
    put_footer(file, len);
}

fn seal(fd: impl AsFd, seals: SealFlag) {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
}

fn is_mapped(bytes: &Bytes) -> bool {
    matches!(bytes.0, Kind::Mapped(_))
}

fn is_viewed(bytes: &Bytes) -> bool {
    matches!(bytes.0, Kind::Viewed(..))
}

/// Drops a blob whose reader has answered.
fn release(blob: Blob) {
    blob.mark_answered();
    drop(blob);
}

fn inode(blob: &Blob) -> u64 {
    fstat(blob).unwrap().st_ino
}

#[test]
fn a_blob_gives_back_its_bytes() {
    let (parent, worker) = (BlobCache::of_parent(), BlobCache::of_worker());
    for len in [0, 1, 4095, 4096, 4097, 256 * 1024 - 1, 256 * 1024, LEN, LONG - 1, LONG, 5, 70_000] {
        let bytes = bytes(len);
        for (from, to) in [(None, &worker), (Some(&parent), &worker), (Some(&worker), &parent)] {
            let blob = write(from, &bytes);
            let received = pass(&blob, to);
            for blob in [&blob, &received] {
                let read = blob.read().unwrap();
                let is_long = len as u64 >= MAP_MIN;
                assert_eq!(is_mapped(&read), from.is_none() && is_long || len == LONG, "{len} bytes");
                assert!(*read == bytes[..], "{len} bytes came back changed");
                assert_eq!(blob.read_start(100).unwrap(), bytes[..len.min(100)]);
            }
        }
    }
}

/// Asserts that the file of a blob cannot be changed in any way.
fn assert_not_writable(blob: &Blob, len: usize) {
    assert_eq!(nix::unistd::write(blob, b"x"), Err(Errno::EPERM));
    assert_eq!(pwrite(blob, b"x", 5), Err(Errno::EPERM));
    let len = off_t::try_from(len).unwrap();
    for len in [0, 1, len - 1, len + 1, 3 * len] {
        assert_eq!(ftruncate(blob, len), Err(Errno::EPERM));
    }
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(blob, hole, 0, 8192), Err(Errno::EPERM));
    assert_eq!(fallocate(blob, FallocateFlags::empty(), 0, 2 * len), Err(Errno::EPERM));
    let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; it is refused.
    let mapped = unsafe { mmap(None, NonZero::new(4096).unwrap(), writable, MapFlags::MAP_SHARED, blob, 0) };
    assert_eq!(mapped, Err(Errno::EPERM));
    let reopened = fs::File::options().write(true).open(format!("/proc/self/fd/{}", blob.as_fd().as_raw_fd()));
    // Permissions decide whether it can be opened; it cannot be written.
    assert!(reopened.is_err() || reopened.is_ok_and(|file| file.write_at(b"x", 5).is_err()));
    assert_eq!(fcntl(blob, FcntlArg::F_ADD_SEALS(SealFlag::empty())), Err(Errno::EPERM));
}

#[test]
fn a_blob_of_its_own_never_changes() {
    let bytes = bytes(LEN);
    let blob = write(None, &bytes);
    let read = blob.read().unwrap();
    assert_not_writable(&blob, LEN);
    drop(blob);
    assert!(is_mapped(&read) && *read == bytes[..], "a mapping outlives its blob");
}

#[test]
fn only_the_parent_writes_what_it_sends() {
    let blob = write(Some(&BlobCache::of_parent()), &bytes(LEN));
    let received = pass(&blob, &BlobCache::of_worker());
    assert_not_writable(&received, LEN);
    assert!(*received.read().unwrap() == bytes(LEN)[..]);
}

/// A parent trusts no sender, whatever the seals of its file promise.
#[test]
fn what_a_worker_sends_is_never_read_in_place() {
    let blob = write(Some(&BlobCache::of_parent()), &bytes(LEN));
    assert!(!is_viewed(&pass(&blob, &BlobCache::of_parent()).read().unwrap()));
    assert!(!is_viewed(&blob.read().unwrap()));
    assert!(is_viewed(&pass(&blob, &BlobCache::of_worker()).read().unwrap()));
}

#[test]
fn only_a_buffer_is_read_in_place() {
    let worker = BlobCache::of_worker();
    for (seals, has_hole) in [
        (SealFlag::empty(), false),
        (fixed_length(), false),
        (FUTURE_WRITE, false),
        (FUTURE_WRITE | fixed_length(), true),
    ] {
        let file =
            fs::File::from(memfd_create("foreign", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
        if !has_hole {
            file.write_all_at(&bytes(LEN), 0).unwrap();
        }
        put_footer(&file, LEN);
        seal(&file, seals);
        let blob = Blob::receive(PrivateFd::adopt(file.into()).unwrap(), &worker).unwrap();
        let read = blob.read().unwrap();
        assert!(!is_viewed(&read) && read.len() == LEN, "{seals:?}");
    }
}

#[test]
fn a_pipe_is_not_a_blob() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let fd = PrivateFd::adopt(reader.into()).unwrap();
    let error = Blob::receive(fd, &BlobCache::of_parent()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_file_without_a_valid_footer_is_not_a_blob() {
    let too_long = |file: &fs::File| {
        file.write_all_at(&bytes(100), 0).unwrap();
        Footer { offset: 100, len: 101, loan: LoanState::Given }.write(file).unwrap();
    };
    let of_no_state = |file: &fs::File| file.write_all_at(&(3u128 << 64).to_le_bytes(), 100).unwrap();
    let makers: [&dyn Fn(&fs::File); 5] = [
        &|_| {},
        &|file| file.write_all_at(&[0; 15], 0).unwrap(),
        &|file| file.write_all_at(&[0xff; 200], 0).unwrap(),
        &too_long,
        &of_no_state,
    ];
    for make in makers {
        let file = fs::File::from(memfd_create("foreign", MFdFlags::MFD_CLOEXEC).unwrap());
        make(&file);
        assert_eq!(receive(file).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn what_may_still_change_is_copied() {
    for seals in [
        SealFlag::empty(),
        fixed_length(),
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW,
        fixed_length() | FUTURE_WRITE,
    ] {
        let blob = foreign(|file| {
            fill(file, LEN);
            seal(file, seals);
        });
        let read = blob.read().unwrap();
        assert!(!is_mapped(&read), "{seals:?}");
        assert!(*read == bytes(LEN)[..]);
    }
}

#[test]
fn a_writable_mapping_keeps_a_file_from_being_sealed() {
    let blob = foreign(|file| fill(file, LEN));
    let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let mapped = unsafe { mmap(None, NonZero::new(LEN).unwrap(), writable, MapFlags::MAP_SHARED, &blob, 0) }.unwrap();
    assert_eq!(fcntl(&blob, FcntlArg::F_ADD_SEALS(constant())), Err(Errno::EBUSY));
    assert!(!is_mapped(&blob.read().unwrap()));
    // SAFETY: mapped above, with this length, and nothing refers to it.
    unsafe { munmap(mapped, LEN) }.unwrap();
}

#[test]
fn a_file_with_holes_is_copied() {
    let whole = |_: &fs::File| {};
    let end_only = |file: &fs::File| file.write_all_at(b"x", LEN as u64 - 1).unwrap();
    let punched = |file: &fs::File| {
        file.write_all_at(&bytes(LEN), 0).unwrap();
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(file, hole, 8192, 4096).unwrap();
    };
    // As many blocks as a file without holes has, but behind its end.
    let behind_the_end = |file: &fs::File| {
        let len = off_t::try_from(LEN).unwrap();
        fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, len + 4096, len).unwrap();
    };
    let makers: [&dyn Fn(&fs::File); 4] = [&whole, &end_only, &punched, &behind_the_end];
    for (index, make) in makers.into_iter().enumerate() {
        let blob = foreign(|file| {
            make(file);
            put_footer(file, LEN);
            seal(file, constant());
        });
        let read = blob.read().unwrap();
        assert!(!is_mapped(&read), "file {index}");
        assert_eq!(read.len(), LEN);
    }
}

#[test]
fn a_file_that_became_shorter_is_an_error() {
    for (before, after) in [(100, 50), (LEN, 0), (LEN, LEN - 1), (LEN, 0), (LEN, LEN / 2)] {
        for seals in [SealFlag::empty(), constant()] {
            let blob = foreign(|file| fill(file, before));
            ftruncate(&blob, off_t::try_from(after).unwrap()).unwrap();
            seal(&blob, seals);
            assert_eq!(blob.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[test]
fn a_file_that_became_longer_is_read_as_long_as_it_was() {
    let blob = foreign(|file| fill(file, LEN));
    ftruncate(&blob, 3 * off_t::try_from(LEN).unwrap()).unwrap();
    seal(&blob, constant());
    assert!(*blob.read().unwrap() == bytes(LEN)[..]);
}

/// Its file system may be a process that does not answer.
#[test]
fn a_file_on_a_disk_is_not_a_blob() {
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    fill(&file, LEN);
    assert_eq!(receive(file).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

/// Huge pages may be missing although there is no hole.
#[test]
fn a_file_of_huge_pages_is_copied() {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB;
    // Refused where the kernel supports none.
    let Ok(fd) = memfd_create("huge", flags) else { return };
    ftruncate(&fd, 2 << 20).unwrap();
    seal(&fd, constant());
    let blob = receive(fd.into()).unwrap();
    assert!(Mapping::of_constant(&blob, blob.len()).is_none());
}

#[test]
fn a_length_that_no_memory_has_is_an_error() {
    let blob = foreign(|file| put_footer(file, 1 << 60));
    assert_eq!(blob.read().unwrap_err().kind(), io::ErrorKind::OutOfMemory);
}
