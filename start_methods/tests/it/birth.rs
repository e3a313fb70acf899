//! The state in which a child starts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::signal::SigSet;
use nix::unistd::getpgrp;
use nix::unistd::getpid;
use nix::unistd::getppid;
use nix::unistd::getsid;
use nix::unistd::pipe;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::PAYLOAD_MAX;
use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::forkserver;

use crate::Case;
use crate::audit::fds;
use crate::each;
use crate::helper::answer_of;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::start_ready;
use crate::helper::status_line;
use crate::helper::until_message;
use crate::host::handle;
use crate::host::ignore;
use crate::host::of_the_c_library;

pub(crate) const CASES: &[Case] = &[
    each("the_payload_arrives", the_payload_arrives),
    each("descriptors_arrive_in_order", descriptors_arrive_in_order),
    each("what_is_too_large_is_refused", what_is_too_large_is_refused),
    each("the_parent_is_who_it_should_be", the_parent_is_who_it_should_be),
    each("standard_input_is_dev_null", standard_input_is_dev_null),
    each("it_leads_a_group_of_its_own", it_leads_a_group_of_its_own),
    each("signals_are_as_after_a_fresh_start", signals_are_as_after_a_fresh_start),
    each("it_has_no_descriptor_but_its_own", it_has_no_descriptor_but_its_own),
    each("its_name_is_visible", its_name_is_visible),
    each("it_dumps_no_core", it_dumps_no_core),
    each("a_panic_is_exit_code_101", a_panic_is_exit_code_101),
    each("output_is_neither_lost_nor_doubled", output_is_neither_lost_nor_doubled),
    each("children_have_children", children_have_children),
    each("the_tenth_generation_is_the_last", the_tenth_generation_is_the_last),
    each("the_marker_is_gone", the_marker_is_gone),
    each("many_at_once", many_at_once),
];

fn the_payload_arrives(method: StartMethod) {
    fn check(birth: Birth) -> u8 {
        let expected = (0..PAYLOAD_MAX).map(|index| (index % 251).to_le_bytes()[0]);
        u8::from(!birth.payload.into_iter().eq(expected))
    }
    let payload: Vec<u8> = (0..PAYLOAD_MAX).map(|index| (index % 251).to_le_bytes()[0]).collect();

    let child = start_ready(method, &Boot::new(check).payload(&payload));

    assert_eq!(code(child.wait().unwrap()), Some(0));
}

fn descriptors_arrive_in_order(method: StartMethod) {
    fn write_each(birth: Birth) -> u8 {
        for (number, fd) in birth.fds.iter().enumerate() {
            assert!(fd.as_raw_fd() > 2);
            nix::unistd::write(fd, format!("pipe {number}").as_bytes()).unwrap();
        }
        u8::try_from(birth.fds.len()).unwrap()
    }
    let pipes: Vec<_> = (0..8).map(|_| pipe().unwrap()).collect();
    let ends: Vec<_> = pipes.iter().map(|(_, write)| write.as_fd()).collect();

    let child = start_ready(method, &Boot::new(write_each).fds(&ends));

    assert_eq!(code(child.wait().unwrap()), Some(8));
    for (number, (read, write)) in pipes.into_iter().enumerate() {
        drop(write);
        let mut text = String::new();
        fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("pipe {number}"));
    }
}

fn what_is_too_large_is_refused(method: StartMethod) {
    let payload = vec![0; PAYLOAD_MAX + 1];
    let stderr = std::io::stderr();
    let nine = [stderr.as_fd(); 9];
    let starter = Starter::new(method).unwrap();

    let large = starter.start(&Boot::new(exit_with).payload(&payload)).unwrap_err();
    let many = starter.start(&Boot::new(exit_with).fds(&nine)).unwrap_err();

    assert!(matches!(large, StartError::BootTooLarge { limit: PAYLOAD_MAX, .. }), "{large}");
    assert!(matches!(many, StartError::BootTooLarge { len: 9, limit: 8 }), "{many}");
}

fn the_parent_is_who_it_should_be(method: StartMethod) {
    fn report(birth: Birth) -> u8 {
        send_text(&birth.control, &format!("{} {}", getppid(), birth.method));
        0
    }
    let text = answer_of(method, report);

    let parent = match method {
        StartMethod::Fork | StartMethod::Spawn => std::process::id(),
        StartMethod::Forkserver => forkserver::pid().unwrap(),
    };
    assert_eq!(text, format!("{parent} {method}"));
}

fn standard_input_is_dev_null(method: StartMethod) {
    fn report(birth: Birth) -> u8 {
        send_text(&birth.control, fs::read_link("/proc/self/fd/0").unwrap().to_str().unwrap());
        0
    }
    assert_eq!(answer_of(method, report), "/dev/null");
}

fn it_leads_a_group_of_its_own(method: StartMethod) {
    fn report(birth: Birth) -> u8 {
        send_text(&birth.control, &format!("{}", getpgrp() == getpid() && getsid(None) == Ok(getpid())));
        0
    }
    assert_eq!(answer_of(method, report), "true");
}

/// Bit masks as in /proc/PID/status.
fn signals_are_as_after_a_fresh_start(method: StartMethod) {
    fn report(birth: Birth) -> u8 {
        let line = |key| status_line(std::process::id(), key);
        let text = ["SigBlk", "SigIgn", "SigCgt"].map(line).join(" ");
        send_text(&birth.control, &text);
        0
    }
    ignore(libc::SIGTERM);
    ignore(libc::SIGRTMIN() + 3);
    handle(libc::SIGUSR2);
    SigSet::all().thread_block().unwrap();

    let text = answer_of(method, report);

    SigSet::all().thread_unblock().unwrap();
    let masks: Vec<u64> = text.split(' ').map(|mask| u64::from_str_radix(mask, 16).unwrap()).collect();
    let bit = |signal: i32| 1_u64 << (signal - 1);
    assert_eq!(masks[0], 0, "blocked: {text}");
    assert_eq!(masks[1] & !of_the_c_library(), bit(libc::SIGPIPE) | bit(libc::SIGTTOU), "ignored: {text}");
    // Faults are handled to report a stack overflow.
    let of_std = bit(libc::SIGSEGV) | bit(libc::SIGBUS);
    assert_eq!(masks[2] & !of_the_c_library(), of_std, "caught: {text}");
}

fn it_has_no_descriptor_but_its_own(method: StartMethod) {
    fn report(birth: Birth) -> u8 {
        let text: Vec<_> = fds().into_iter().map(|(number, target)| format!("{number}={target}")).collect();
        send_text(&birth.control, &format!("{} {}", birth.control.as_fd().as_raw_fd(), text.join(" ")));
        until_message(birth)
    }
    let mut own: Vec<_> = fds().into_keys().filter(|number| *number > 2).collect();
    own.push(100);
    own.sort_unstable();
    // Neither private nor closed on exec: a descriptor leaked by a library.
    let leaked = fcntl(std::io::stderr(), FcntlArg::F_DUPFD(100)).unwrap();
    let settled = Starter::new(method).unwrap();
    let siblings: Vec<_> = (0..3).map(|_| start_ready(method, &Boot::new(until_message))).collect();

    let child = start_ready(method, &Boot::new(report));
    let text = receive_text(child.control());
    settled.settle().unwrap();
    let of_template = settled.start(&Boot::new(report)).unwrap();
    of_template.wait_hello(crate::helper::SOON).unwrap();
    let text_of_template = receive_text(of_template.control());

    nix::unistd::close(leaked).unwrap();
    drop(siblings);
    for text in [text, text_of_template] {
        let (control, rest) = text.split_once(' ').unwrap();
        let open: Vec<_> = rest.split(' ').map(|fd| fd.split_once('=').unwrap()).collect();
        let open: BTreeMap<i32, &str> =
            open.into_iter().map(|(number, target)| (number.parse().unwrap(), target)).collect();
        let control: i32 = control.parse().unwrap();
        let others: Vec<_> = open.keys().filter(|number| **number > 2 && **number != control).collect();
        // Only a forked child inherits it; with the other methods the same numbers are free.
        let own: &[i32] = if method == StartMethod::Fork { &own } else { &[] };
        let (inherited, ours): (Vec<i32>, Vec<i32>) = others.into_iter().partition(|number| own.contains(number));
        assert!(matches!(ours[..], [lifeline] if open[&lifeline].starts_with("socket:")), "{text}");
        match method {
            StartMethod::Fork => assert_eq!(inherited, own, "{text}"),
            _ => assert!(inherited.is_empty(), "{text}"),
        }
        assert_eq!(open.len(), 5 + inherited.len(), "{text}");
    }
}

fn its_name_is_visible(method: StartMethod) {
    let child = start_ready(method, &Boot::new(until_message).name("a-name-that-is-rather-long"));

    let name = fs::read_to_string(format!("/proc/{}/comm", child.pid())).unwrap();

    assert_eq!(name, "a-name-that-is-\n");
}

fn it_dumps_no_core(method: StartMethod) {
    fn report(birth: Birth) -> u8 {
        send_text(&birth.control, &getrlimit(Resource::RLIMIT_CORE).unwrap().0.to_string());
        0
    }
    assert_eq!(answer_of(method, report), "0");
}

fn a_panic_is_exit_code_101(method: StartMethod) {
    fn fail(_: Birth) -> u8 {
        panic!("requested by the test");
    }
    let child = start_ready(method, &Boot::new(fail));

    assert_eq!(code(child.wait().unwrap()), Some(101));
}

/// Standard output is a file here, so that the test can read it through its descriptor.
fn output_is_neither_lost_nor_doubled(method: StartMethod) {
    fn speak(_: Birth) -> u8 {
        print!("<child>");
        0
    }
    print!("<parent>");

    assert!(start_ready(method, &Boot::new(speak)).wait().unwrap().success());

    std::io::stdout().flush().unwrap();
    let printed = fs::read_to_string("/proc/self/fd/1").unwrap();
    assert_eq!(printed.matches("<parent>").count(), 1, "{printed}");
    assert_eq!(printed.matches("<child>").count(), 1, "{printed}");
}

fn children_have_children(method: StartMethod) {
    fn have_a_child(birth: Birth) -> u8 {
        assert_eq!(start_methods::depth(), 1);
        let child = start_ready(birth.method, &Boot::new(grandchild).payload(&[17]));
        let exit = child.wait().unwrap();
        drop(child);
        forkserver::stop();
        code(exit).unwrap().try_into().unwrap()
    }
    fn grandchild(birth: Birth) -> u8 {
        assert_eq!(start_methods::depth(), 2);
        birth.payload[0]
    }
    assert_eq!(start_methods::depth(), 0);

    let child = start_ready(method, &Boot::new(have_a_child));

    assert_eq!(code(child.wait().unwrap()), Some(17));
}

fn the_tenth_generation_is_the_last(method: StartMethod) {
    fn go_deeper(birth: Birth) -> u8 {
        match start_methods::start(birth.method, &Boot::new(go_deeper)) {
            Ok(child) => code(child.wait().unwrap()).unwrap().try_into().unwrap(),
            Err(StartError::NestedTooDeep { limit: 10, .. }) => u8::try_from(start_methods::depth()).unwrap(),
            Err(_) => 99,
        }
    }
    let child = start_ready(method, &Boot::new(go_deeper));

    assert_eq!(code(child.wait().unwrap()), Some(10));
}

fn the_marker_is_gone(method: StartMethod) {
    fn look(_: Birth) -> u8 {
        u8::from(std::env::var_os("START_METHODS_CHILD").is_some())
    }
    assert_eq!(code(start_ready(method, &Boot::new(look)).wait().unwrap()), Some(0));
}

fn many_at_once(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    let children: Vec<_> =
        (0..40_u8).map(|code| starter.start(&Boot::new(exit_with).payload(&[code])).unwrap()).collect();

    for (expected, child) in children.iter().enumerate() {
        assert_eq!(code(child.wait().unwrap()), Some(i32::try_from(expected).unwrap()));
    }
}
