//! What is reused, and when: never while a reader may still need its content.

use proptest::prelude::*;

use super::*;
use crate::sys::table_full::tests::want_descriptors;

#[test]
fn a_buffer_is_reused_when_its_last_clone_is_dropped() {
    let cache = BlobCache::of_parent();
    let first = write(Some(&cache), &bytes(LEN));
    let kept = first.clone();
    let file = inode(&first);
    release(first);
    let other = write(Some(&cache), &[1; LEN]);
    assert_ne!(inode(&other), file);
    drop(kept);
    let again = write(Some(&cache), &[2; 100_000]);
    assert_eq!(inode(&again), file);
    assert!(*pass(&again, &BlobCache::of_worker()).read().unwrap() == [2; 100_000], "it has its own length");
    assert!(*other.read().unwrap() == [1; LEN]);
}

/// It was never sent, or was sent to a worker that is being killed and may still be reading it.
#[test]
fn a_buffer_is_not_reused_before_there_is_an_answer() {
    let cache = BlobCache::of_parent();
    let blob = write(Some(&cache), &bytes(LEN));
    let received = pass(&blob, &BlobCache::of_worker());
    let read = received.read().unwrap();
    drop(blob);
    let next = write(Some(&cache), &[1; LEN]);
    assert_ne!(inode(&next), inode(&received));
    assert!(is_viewed(&read) && *read == bytes(LEN)[..]);
}

#[test]
fn a_worker_keeps_what_it_is_sent_mapped() {
    let (parent, worker) = (BlobCache::of_parent(), BlobCache::of_worker());
    let send = |byte: u8, len: usize| {
        let blob = write(Some(&parent), &vec![byte; len]);
        let bytes = pass(&blob, &worker).read().unwrap();
        assert!(is_viewed(&bytes) && *bytes == vec![byte; len]);
        release(blob);
        bytes.as_ptr()
    };
    let place = send(1, LEN);
    for (byte, len) in [(2, LEN), (3, LEN / 2), (4, LEN - 1), (5, LEN)] {
        assert_eq!(send(byte, len), place);
    }
    assert_ne!(send(6, LEN + 1), place);
}

#[test]
fn a_value_that_outgrows_its_buffer_moves_to_another() {
    let cache = BlobCache::of_parent();
    let short = write(Some(&cache), &bytes(90_000));
    let file = inode(&short);
    release(short);
    let longer = write(Some(&cache), &bytes(LEN));
    assert_ne!(inode(&longer), file);
    assert!(*longer.read().unwrap() == bytes(LEN)[..]);
    assert_eq!(inode(&write(Some(&cache), &bytes(90_000))), file, "the short one is there for the next");
}

#[test]
fn a_cache_keeps_what_was_used_last() {
    let cache = BlobCache::of_parent();
    let old: Vec<_> = (0..6).map(|_| write(Some(&cache), &bytes(LONG / 2))).collect();
    let new: Vec<_> = (0..3).map(|_| write(Some(&cache), &bytes(LONG - 1))).collect();
    let files: Vec<_> = new.iter().map(inode).collect();
    old.into_iter().chain(new).for_each(release);
    let again = [(); 2].map(|()| write(Some(&cache), &bytes(LONG - 1)));
    assert!(again.iter().all(|blob| files[1..].contains(&inode(blob))), "{files:?}, then {again:?}");
}

#[test]
fn a_lent_file_is_reused_when_its_reader_is_done() {
    let (worker, parent) = (BlobCache::of_worker(), BlobCache::of_parent());
    let lend = |bytes: &[u8]| {
        let blob = write(Some(&worker), bytes);
        (inode(&blob), pass(&blob, &parent))
    };
    let (first, received) = lend(&bytes(LEN));
    let (second, other) = lend(&[1; LEN]);
    assert_ne!(first, second);
    let clone = received.clone();
    drop(received);
    let (third, _other) = lend(&[2; 10]);
    assert!(![first, second].contains(&third), "it is still being read");
    assert!(*clone.read().unwrap() == bytes(LEN)[..]);
    drop(clone);
    let (again, received) = lend(&[3; 2 * LEN]);
    assert_eq!(again, first);
    assert!(*received.read().unwrap() == [3; 2 * LEN], "it has become longer");
    drop(received);
    let (again, received) = lend(&[4; 100_000]);
    assert_eq!(again, first);
    assert!(*received.read().unwrap() == [4; 100_000]);
    assert!(*other.read().unwrap() == [1; LEN]);
}

#[test]
fn no_more_than_a_few_files_are_lent() {
    let (worker, parent) = (BlobCache::of_worker(), BlobCache::of_parent());
    let received: Vec<_> = (0..6).map(|_| pass(&write(Some(&worker), &bytes(LEN)), &parent)).collect();
    let lent = received.iter().filter(|blob| matches!(blob.file.held, Some(Held::Lent(..)))).count();
    assert_eq!(lent, 3);
    received.iter().for_each(|blob| assert!(*blob.read().unwrap() == bytes(LEN)[..]));
}

#[test]
fn the_memory_of_a_copy_is_reused() {
    let cache = BlobCache::of_parent();
    let worker = BlobCache::of_worker();
    let read = |byte, len| {
        let bytes = pass(&write(Some(&worker), &vec![byte; len]), &cache).read().unwrap();
        assert!(*bytes == vec![byte; len]);
        bytes.as_ptr()
    };
    let place = read(1, LEN);
    assert_eq!(read(2, LEN - 5), place);
    assert_eq!(read(3, LEN), place);
}

/// One step of a walk: write a value of this length, or release the value at this index.
#[derive(Clone, Debug)]
enum CacheStep {
    Write(usize),
    Drop(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<CacheStep>> {
    let write = prop_oneof![0..300usize, 60_000..70_000usize, 0..400_000usize].prop_map(CacheStep::Write);
    prop::collection::vec(prop_oneof![3 => write, 2 => any::<prop::sample::Index>().prop_map(CacheStep::Drop)], 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However files are reused: a value that is still held is what was written.
    #[test]
    fn values_that_are_held_stay_as_they_are(steps in steps(), by_parent: bool) {
        want_descriptors();
        let (parent, worker) = (BlobCache::of_parent(), BlobCache::of_worker());
        let (from, to) = if by_parent { (&parent, &worker) } else { (&worker, &parent) };
        let mut held: Vec<(Blob, Blob, Vec<u8>)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                CacheStep::Write(len) => {
                    let bytes: Vec<u8> = (0..len).map(|place| ((place + 31 * number) % 251).to_le_bytes()[0]).collect();
                    let blob = write(Some(from), &bytes);
                    let received = pass(&blob, to);
                    held.push((blob, received, bytes));
                }
                CacheStep::Drop(_) if held.is_empty() => {}
                CacheStep::Drop(index) => {
                    let (blob, received, _) = held.swap_remove(index.index(held.len()));
                    drop(received);
                    release(blob);
                }
            }
            for (_, received, bytes) in &held {
                prop_assert!(*received.read().unwrap() == bytes[..]);
            }
        }
    }
}

/// By the thread that settles it, or by a reader, whichever comes first; and not at all if no one wants it.
#[test]
fn one_in_excess_is_copied_once_and_its_file_returned() {
    for order in 0..4 {
        let (worker, parent) = (BlobCache::of_worker(), BlobCache::of_parent());
        let blob = write(Some(&worker), &bytes(LEN));
        let file = inode(&blob);
        let excess = pass(&blob, &parent).in_excess();
        drop(blob);
        assert!(excess.is_excess());
        let read = || {
            assert!(*excess.read_start(10).unwrap() == bytes(LEN)[..10]);
            assert!(*excess.read().unwrap() == bytes(LEN)[..]);
        };
        match order {
            0 => read(),
            1 => excess.clone().settle(),
            2 => std::thread::scope(|scope| {
                scope.spawn(|| excess.clone().settle());
                scope.spawn(read);
            }),
            _ => {}
        }
        if order < 3 {
            assert_eq!(inode(&write(Some(&worker), &[1; LEN])), file, "the worker has it back");
            read();
        } else {
            assert_ne!(inode(&write(Some(&worker), &[1; 10])), file, "it is still in use");
            excess.settle();
            assert_eq!(inode(&write(Some(&worker), &[1; LEN])), file);
        }
    }
}
