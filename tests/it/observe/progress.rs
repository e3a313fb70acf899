//! Progress: of a handle, and of any iterator.

use std::cell::RefCell;

use procpool::ProgressExt;
use procpool::StartMethod;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![handle_tells_how_far_it_is, refused_call_has_none, iterators_tell_after_each_item, infinite_input_has_no_total,];

fn handle_tells_how_far_it_is(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let book = Notebook::new();
    let items = (0..10u32).map(|item| (gate.path(), book.path(), item));
    let handle = pool.chunk_size(1).starmap_async(items, |gate, book, item| {
        if item == 4 {
            stage::note(&book, "here");
            stage::pass(&gate);
        }
        item
    });
    book.wait_for(1);
    stage::until("four items", || handle.progress().done == 4);
    assert_eq!(handle.progress().total, 10);
    gate.open();
    handle.wait();
    assert_eq!((handle.progress().done, handle.progress().total), (10, 10));
    pool.terminate();
    assert_eq!(handle.progress().done, 10, "also when the pool is gone");
}

fn refused_call_has_none(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.close();
    let handle = pool.map_async(0..10u32, |x| x);
    assert_eq!((handle.progress().done, handle.progress().total), (0, 0));
}

fn iterators_tell_after_each_item(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let told = RefCell::new(Vec::new());
    let tell = |done: u64, total: Option<u64>| told.borrow_mut().push((done, total));
    let sum: u32 = pool.imap(0..100u32, |x| x).progress(tell).map(Result::unwrap).sum();
    assert_eq!(sum, 4950);
    let expected: Vec<_> = (1..=100).map(|done| (done, Some(100))).collect();
    assert_eq!(told.take(), expected);
    let count = pool.imap_unordered(0..50u32, |x| x).progress(tell).count();
    assert_eq!((count, told.take().last().copied()), (50, Some((50, Some(50)))));
}

fn infinite_input_has_no_total(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut last = None;
    let taken = pool.imap(0u64.., |x| x).progress(|done, total| last = Some((done, total))).take(7).count();
    assert_eq!((taken, last), (7, Some((7, None))));
}
