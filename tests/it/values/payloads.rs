//! Values of every size, in both directions: around the sizes of buffers, and far beyond them.

use procpool::Pool;
use procpool::StartMethod;

use crate::harness::cases;
use crate::harness::stage;

cases![
    sizes_around_every_power_of_two,
    sizes_around_64_kib_byte_by_byte,
    sizes_around_the_socket_limit,
    twenty_mebibytes_both_ways,
    many_large_values_at_once,
    small_values_pass_among_large_ones,
    large_context_and_large_items,
    large_results_of_an_unread_imap,
];

/// A pattern in which missing, doubled and foreign bytes show; cheap even without optimisation.
fn pattern(size: usize) -> Vec<u8> {
    let mut bytes = vec![size.to_le_bytes()[0]; size];
    for index in (0..size).step_by(509) {
        bytes[index] = (index / 509).to_le_bytes()[0] ^ (index >> 16).to_le_bytes()[0];
    }
    bytes
}

fn assert_size_passes(pool: &Pool, size: usize) {
    let bytes = pattern(size);
    assert!(pool.apply((size,), pattern).unwrap() == bytes, "a result of {size} bytes came back changed");
    assert!(
        pool.apply((bytes,), |bytes| bytes == pattern(bytes.len())).unwrap(),
        "an argument of {size} bytes changed"
    );
}

fn sizes_around_every_power_of_two(method: StartMethod) {
    let pool = stage::pool(method, 1);
    for power in 0..19 {
        for size in (1usize << power).saturating_sub(2)..=(1 << power) + 2 {
            assert_size_passes(&pool, size);
        }
    }
    assert_size_passes(&pool, 300 * 1024);
}

/// Each size as a separate batch, and all of them in one: frames reach the end of a buffer at every offset.
fn sizes_around_64_kib_byte_by_byte(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let sizes: Vec<usize> = (65_536 - 100..65_536 + 100).collect();
    for (size, bytes) in sizes.iter().zip(pool.map(sizes.clone(), pattern).unwrap()) {
        assert!(bytes == pattern(*size), "a result of {size} bytes came back changed");
    }
    let good = pool.map(sizes.iter().map(|&size| pattern(size)), |bytes| bytes == pattern(bytes.len())).unwrap();
    assert!(good.iter().all(|good| *good));
    let small: Vec<usize> = (0..2000).collect();
    for (size, bytes) in small.iter().zip(pool.map(small.clone(), pattern).unwrap()) {
        assert!(bytes == pattern(*size), "a result of {size} bytes came back changed");
    }
}

/// One message on a socket holds at most 212 960 bytes by default.
fn sizes_around_the_socket_limit(method: StartMethod) {
    let pool = stage::pool(method, 1);
    for edge in [96 * 1024, 128 * 1024, 212_960, 212_992, 256 * 1024] {
        for size in edge - 24..edge + 4 {
            assert_size_passes(&pool, size);
        }
    }
}

fn twenty_mebibytes_both_ways(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let bytes = vec![5u8; 20 << 20];
    let back = pool.apply((bytes,), |mut bytes: Vec<u8>| {
        bytes[1 << 20] = 6;
        bytes
    });
    let back = back.unwrap();
    assert_eq!((back.len(), back[0], back[1 << 20]), (20 << 20, 5, 6));
}

fn many_large_values_at_once(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let results = pool.map((0..40u8).map(|x| vec![x; 1 << 20]), |bytes| bytes).unwrap();
    for (x, bytes) in (0u8..).zip(results) {
        assert!(bytes == vec![x; 1 << 20], "item {x} came back changed");
    }
}

fn small_values_pass_among_large_ones(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let sizes: Vec<usize> = (0..300).map(|x| if x % 7 == 0 { 200_000 + x } else { x }).collect();
    let results = pool.chunk_size(5).map(sizes.iter().map(|&size| pattern(size)), |bytes| bytes).unwrap();
    for (size, bytes) in sizes.iter().zip(results) {
        assert!(bytes == pattern(*size), "an item of {size} bytes came back changed");
    }
}

fn large_context_and_large_items(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let context = pattern(3_000_000);
    let same = pool.with(&context).map(vec![context.clone(); 6], |context, item| *context == item).unwrap();
    assert_eq!(same, [true; 6]);
}

/// The results have to wait; the pool must not block.
fn large_results_of_an_unread_imap(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut unread = pool.imap(0..8usize, |x| vec![7u8; (1 << 20) + x]);
    assert_eq!(unread.next().unwrap().unwrap().len(), 1 << 20);
    stage::assert_works(&pool);
    let rest: Vec<usize> = unread.map(|result| result.unwrap().len()).collect();
    assert_eq!(rest, (1..8).map(|x| (1 << 20) + x).collect::<Vec<_>>());
}
