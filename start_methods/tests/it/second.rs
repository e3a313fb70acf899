//! A program with two copies of this crate, as one has that depends on two versions of it.

use start_methods::Boot;
use start_methods::StartMethod;
use start_methods_second_copy as second;

use crate::Case;
use crate::each;
use crate::helper::SOON;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::start_ready;

pub(crate) const CASES: &[Case] = &[
    each("both_copies_start_their_own_children", both_copies_start_their_own_children),
    each("the_init_of_each_is_needed", the_init_of_each_is_needed),
];

fn method_there(method: StartMethod) -> second::StartMethod {
    method.to_string().parse().unwrap()
}

/// The generation that each copy sees: only one of them has started this process.
fn depths(_: second::Birth) -> u8 {
    u8::try_from(16 * start_methods::depth() + second::depth()).unwrap()
}

/// In the executed processes, `main` calls the `init` of the first copy, which must hand over to the second.
fn both_copies_start_their_own_children(method: StartMethod) {
    second::init();
    for _ in 0..2 {
        let child = second::start(method_there(method), &second::Boot::new(depths)).unwrap();
        child.wait_hello(SOON).unwrap();
        assert_eq!(child.wait().unwrap().status().and_then(|status| status.code()), Some(1));
        let child = start_ready(method, &Boot::new(exit_with).payload(&[7]));
        assert_eq!(code(child.wait().unwrap()), Some(7));
    }
    second::forkserver::stop();
}

fn the_init_of_each_is_needed(method: StartMethod) {
    let starter = second::Starter::new(method_there(method));
    match method {
        StartMethod::Fork => assert!(starter.is_ok()),
        StartMethod::Spawn | StartMethod::Forkserver => {
            let error = starter.unwrap_err();
            assert!(matches!(error, second::StartError::NotInitialized));
            assert!(error.to_string().contains("cargo tree -d"), "{error}");
        }
    }
}
