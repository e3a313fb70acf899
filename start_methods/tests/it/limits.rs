//! Full descriptor tables, in the parent and in the fork server.

use std::sync::Mutex;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::unistd::Uid;
use nix::unistd::setuid;
use start_methods::Boot;
use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::forkserver;

use crate::Case;
use crate::audit::fds;
use crate::each;
use crate::helper::SOON;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::with_spare_descriptors;
use crate::once;

pub(crate) const CASES: &[Case] = &[
    each("a_full_table_is_survived_cold", |method| sweep(method, Server::Cold)),
    each("a_full_table_is_survived_warm", |method| sweep(method, Server::Warm)),
    once("a_full_table_in_the_server_is_typed", a_full_table_in_the_server_is_typed),
    once("too_many_processes_in_the_server_is_typed", too_many_processes_in_the_server_is_typed),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Cold,
    Warm,
}

fn sweep(method: StartMethod, server: Server) {
    let mut worked = 0;
    for spare in 0..12 {
        let starter = Starter::new(method).unwrap();
        if server == Server::Warm {
            starter.settle().unwrap();
            let child = starter.start(&Boot::new(exit_with).payload(&[0])).unwrap();
            child.wait_hello(SOON).unwrap();
            child.wait().unwrap();
        }
        let before = fds();

        let result = with_spare_descriptors(spare, || {
            let child = starter.start(&Boot::new(exit_with).payload(&[7]))?;
            child.wait_hello(SOON)?;
            Ok(code(child.wait().unwrap()))
        });

        match result {
            Ok(code) => {
                assert_eq!(code, Some(7), "{spare} spare");
                worked += 1;
            }
            Err(StartError::System { errno: libc::EMFILE, .. } | StartError::Refused { .. }) => {}
            Err(other) => panic!("{spare} spare: {other:?}"),
        }
        if server == Server::Cold {
            forkserver::stop();
        }
        assert_eq!(fds(), before, "{spare} spare");
    }
    assert!(worked > 0, "twelve are sufficient");
}

fn a_full_table_in_the_server_is_typed() {
    fn leave_no_room() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 6, hard).unwrap();
    }
    forkserver::preload(leave_no_room).unwrap();
    for _ in 0..3 {
        let boot = Boot::new(exit_with);
        match start_methods::start(StartMethod::Forkserver, &boot).unwrap_err() {
            StartError::System { doing, errno: libc::EMFILE } => {
                assert!(doing.contains("fork server"), "{doing}");
            }
            other => panic!("{other:?}"),
        }
    }
}

fn too_many_processes_in_the_server_is_typed() {
    // Root is exempt from the limit, so the server changes its user to nobody. Without root this cannot be tested.
    static NOBODY: Mutex<u32> = Mutex::new(65534);
    fn allow_no_process() {
        setuid(Uid::from_raw(*NOBODY.lock().unwrap())).unwrap();
        setrlimit(Resource::RLIMIT_NPROC, 0, 0).unwrap();
    }
    if !Uid::effective().is_root() {
        return;
    }
    forkserver::preload(allow_no_process).unwrap();
    let boot = Boot::new(exit_with);
    match start_methods::start(StartMethod::Forkserver, &boot).unwrap_err() {
        StartError::System { doing, errno: libc::EAGAIN } => {
            assert!(doing.contains("fork server"), "{doing}");
        }
        other => panic!("{other:?}"),
    }
}
