//! Several starts that do not wait for each other, and processes ordered before it is known what they run.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use start_methods::Birth;
use start_methods::Boot;
use start_methods::PAYLOAD_MAX;
use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;

use crate::Case;
use crate::audit::fds;
use crate::each;
use crate::helper::SOON;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::until_message;

pub(crate) const CASES: &[Case] = &[
    each("they_hold_nothing_of_each_other", they_hold_nothing_of_each_other),
    each("those_that_are_not_finished_come_up_too", those_that_are_not_finished_come_up_too),
    each("the_template_is_settled_among_them", the_template_is_settled_among_them),
    each("an_order_is_served", an_order_is_served),
    each("an_order_that_is_dropped_harms_no_other", an_order_that_is_dropped_harms_no_other),
    each("an_order_for_too_much_harms_no_other", an_order_for_too_much_harms_no_other),
    each("what_a_dismissed_starter_has_started_lives_on", what_a_dismissed_starter_has_started_lives_on),
];

/// A starter whose fork server or template, if the method has one, has already served a request.
fn with_server(method: StartMethod) -> Starter {
    let starter = Starter::new(method).unwrap();
    starter.settle().unwrap();
    assert_works(&starter);
    starter
}

#[track_caller]
fn assert_works(starter: &Starter) {
    let child = starter.start(&Boot::new(exit_with).payload(&[7])).unwrap();
    assert_eq!(code(child.wait().unwrap()), Some(7));
}

/// Sends the number of its control socket, and those of its other descriptors beyond the standard streams.
fn send_descriptors(birth: Birth) -> u8 {
    let control = birth.control.as_fd().as_raw_fd();
    let others = fds().into_iter().filter(|(number, _)| *number > 2 && *number != control);
    let text: Vec<_> = others.map(|(number, target)| format!("{number}={target}")).collect();
    send_text(&birth.control, &text.join(" "));
    until_message(birth)
}

fn they_hold_nothing_of_each_other(method: StartMethod) {
    let own: Vec<_> = fds().into_iter().map(|(number, target)| format!("{number}={target}")).collect();
    let starter = Starter::new(method).unwrap();
    let mut starts = starter.several();
    let children: Vec<_> = (0..4).map(|_| starts.start(&Boot::new(send_descriptors)).unwrap()).collect();
    starts.finish().unwrap();

    for child in children {
        child.wait_hello(SOON).unwrap();
        let text = receive_text(child.control());
        let ours: Vec<_> = text.split(' ').filter(|fd| !own.iter().any(|own| own == fd)).collect();
        assert!(matches!(ours[..], [lifeline] if lifeline.contains("=socket:")), "{text}");
    }
}

fn those_that_are_not_finished_come_up_too(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    let mut starts = starter.several();
    let children = [1, 2, 3].map(|code| starts.start(&Boot::new(exit_with).payload(&[code])).unwrap());
    drop(starts);

    assert_eq!(children.map(|child| code(child.wait().unwrap())), [Some(1), Some(2), Some(3)]);
}

fn the_template_is_settled_among_them(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    let mut starts = starter.several();
    let before = starts.start(&Boot::new(exit_with).payload(&[1])).unwrap();
    starts.settle().unwrap();
    // Forked from the template, if there is one, though no call has waited until it is ready.
    let after = starts.start(&Boot::new(exit_with).payload(&[2])).unwrap();
    starts.finish().unwrap();

    assert_eq!([before, after].map(|child| code(child.wait().unwrap())), [Some(1), Some(2)]);
    assert_works(&starter);
}

fn an_order_is_served(method: StartMethod) {
    let starter = with_server(method);
    for expected in [0, 9] {
        let mut starts = starter.several();
        let order = starts.order();
        let payload = [expected];
        let child = order.start(&Boot::new(exit_with).payload(&payload)).unwrap();
        assert_eq!(code(child.wait().unwrap()), Some(expected.into()));
    }
}

fn an_order_that_is_dropped_harms_no_other(method: StartMethod) {
    let starter = with_server(method);
    drop(starter.several().order());
    assert_works(&starter);
}

fn an_order_for_too_much_harms_no_other(method: StartMethod) {
    let starter = with_server(method);
    let payload = vec![0; PAYLOAD_MAX + 1];
    let error = starter.several().order().start(&Boot::new(exit_with).payload(&payload)).unwrap_err();
    assert!(matches!(error, StartError::BootTooLarge { .. }), "{error}");
    assert_works(&starter);
}

fn what_a_dismissed_starter_has_started_lives_on(method: StartMethod) {
    let starter = with_server(method);
    let child = starter.start(&Boot::new(until_message)).unwrap();
    child.wait_hello(SOON).unwrap();

    starter.dismiss();
    match starter.start(&Boot::new(exit_with).payload(&[7])) {
        Ok(next) => assert_eq!(code(next.wait().unwrap()), Some(7)),
        Err(error) => assert!(method == StartMethod::Fork && matches!(error, StartError::TemplateDied), "{error}"),
    }
    drop(starter);

    assert!(child.try_wait().unwrap().is_none());
    send_text(child.control(), "leave");
    // The server that would report how it ended may be gone.
    let exit = child.wait().unwrap();
    assert!(exit.status().is_none_or(|status| status.code() == Some(5)), "{exit}");
}
