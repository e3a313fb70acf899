//! What the parent is told of the time that items take.

use start_methods::PrivateFd;

use super::parent::ParentEnd;
use super::worker::WorkerEnd;
use crate::sys::bell::Bell;
use crate::transport::frame::AnswerKind;
use crate::transport::record::Next;
use crate::work::batch::Batch;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::batch::Target;
use crate::work::function::Completion;
use crate::work::function::FunctionId;

fn ends() -> (ParentEnd, WorkerEnd) {
    let (parent, memory) = ParentEnd::new().unwrap();
    let bell = Bell::new().unwrap();
    let bell = PrivateFd::adopt(std::os::fd::AsFd::as_fd(&bell).try_clone_to_owned().unwrap()).unwrap();
    (parent, WorkerEnd::new(memory, bell).unwrap())
}

/// One item without arguments, for the function with this number.
fn item(function: u32) -> Span {
    let target = Target { function: FunctionId(function), context: 0, timeout: None };
    let items = Items::Inline { bytes: vec![0; 4], ends: vec![4] };
    Span::whole(Batch { job: JobId(1), target, first_index: 0, items })
}

/// Ends the record that has been read, and reads the next if it has begun.
fn finish(worker: &mut WorkerEnd) -> Next {
    if !worker.current().is_order {
        worker.answer(AnswerKind::Completion(Completion::Value), &[]).unwrap();
    }
    let next = worker.finish();
    if next == Next::HasBegun {
        worker.read().unwrap();
    }
    next
}

/// An order takes microseconds. With its time for that of the first item, a job of long items would be sent hundreds.
#[test]
fn orders_are_no_items() {
    let (mut parent, mut worker) = ends();
    (0..3).for_each(|function| assert_eq!(parent.send_items(&item(function)), 1));
    worker.begin(None);
    worker.read().unwrap();
    for answered in 0..3 {
        assert!(worker.current().is_order);
        assert_eq!(finish(&mut worker), Next::HasBegun);
        assert_eq!(parent.take_service_time(answered), None, "nothing but an order was done");
        finish(&mut worker);
        assert_eq!(parent.take_service_time(answered).map(|time| time.items), Some(1));
    }
}

/// The time of an item may be shown after the answer was taken in, and is not that of the next job's items.
#[test]
fn the_time_of_an_earlier_job_is_not_that_of_a_later_one() {
    let (mut parent, mut worker) = ends();
    assert_eq!(parent.send_items(&item(0)), 1);
    worker.begin(None);
    worker.read().unwrap();
    finish(&mut worker);
    finish(&mut worker);
    assert_eq!(parent.take_service_time(1), None, "one item was measured, and the later job begins with the second");
    assert_eq!(parent.send_items(&item(0)), 1);
    worker.begin(None);
    worker.read().unwrap();
    finish(&mut worker);
    assert_eq!(parent.take_service_time(1).map(|time| time.items), Some(1));
}
