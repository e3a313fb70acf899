//! The settings of a child: its environment, its directory and its limits.

use std::env;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;
use nix::sys::resource;
use nix::sys::resource::getrlimit;
use nix::sys::signal::Signal;
use nix::unistd::pipe;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
use start_methods::PrivateFd;
use start_methods::Resource;
use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;

use crate::Case;
use crate::each;
use crate::helper::SOON;
use crate::helper::busy;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::start_ready;
use crate::helper::want_descriptors;
use crate::once;

pub(crate) const CASES: &[Case] = &[
    each("variables_are_set_and_removed", variables_are_set_and_removed),
    each("a_cleared_environment_has_what_is_set", a_cleared_environment_has_what_is_set),
    each("variables_need_not_be_text", variables_need_not_be_text),
    each("an_impossible_variable_is_typed", an_impossible_variable_is_typed),
    each("settings_have_a_largest_size", settings_have_a_largest_size),
    each("grandchildren_inherit_settings", grandchildren_inherit_settings),
    each("the_directory_is_entered", the_directory_is_entered),
    each("a_relative_directory_is_this_processes", a_relative_directory_is_this_processes),
    each("a_missing_directory_is_typed", a_missing_directory_is_typed),
    each("what_is_no_directory_is_typed", what_is_no_directory_is_typed),
    each("limits_are_in_force", limits_are_in_force),
    each("a_limit_that_is_refused_is_typed", a_limit_that_is_refused_is_typed),
    each("no_open_files_leave_what_is_open", no_open_files_leave_what_is_open),
    each("memory_is_limited", memory_is_limited),
    each("too_little_memory_hangs_nobody", too_little_memory_hangs_nobody),
    each("processor_time_is_limited", processor_time_is_limited),
    each("one_child_s_settings_are_no_other_s", one_child_s_settings_are_no_other_s),
    once("a_template_s_children_have_settings", a_template_s_children_have_settings),
    once("spawn_executes_with_the_environment", spawn_executes_with_the_environment),
];

/// The message of a child with these settings.
fn text_of(method: StartMethod, boot: &Boot<'_>) -> String {
    receive_all(&start_ready(method, boot))
}

fn receive_all(child: &Child) -> String {
    let text = receive_text(child.control());
    assert_eq!(code(child.wait().unwrap()), Some(0));
    text
}

/// The error of a child that refuses these settings. It has ended when this returns.
fn refused(method: StartMethod, boot: &Boot<'_>) -> StartError {
    let child = start_methods::start(method, boot).unwrap();
    let error = child.wait_hello(SOON).unwrap_err();
    assert!(child.wait_timeout(SOON).unwrap().is_some());
    assert_eq!(child.try_hello().unwrap_err().to_string(), error.to_string(), "the error stays the same");
    error
}

/// A boot with an empty environment, except for the variable by which an executed program knows its case.
fn cleared(boot: Boot<'_>) -> Boot<'_> {
    boot.env_clear().env(crate::CASE, env::var_os(crate::CASE).unwrap())
}

/// Sends the number of variables, and those of the tests.
fn send_environment(birth: Birth) -> u8 {
    let mut pairs: Vec<String> = env::vars_os()
        .filter(|(name, _)| name.as_bytes().starts_with(b"IT_"))
        .map(|(name, value)| format!("{}={}", name.to_str().unwrap(), value.to_str().unwrap()))
        .collect();
    pairs.sort_unstable();
    send_text(&birth.control, &format!("{} {}", env::vars_os().count(), pairs.join(" ")));
    0
}

fn send_directory(birth: Birth) -> u8 {
    send_text(&birth.control, env::current_dir().unwrap().to_str().unwrap());
    0
}

fn variables_are_set_and_removed(method: StartMethod) {
    let before = env::vars_os().count();
    let boot = Boot::new(send_environment).env("IT_A", "lost").env("IT_A", "1").env("IT_B", "").env("IT_C", "3");

    let with = text_of(method, &boot.clone().env_remove("IT_C"));
    let without = text_of(method, &boot.env_remove("RUST_BACKTRACE").env_remove("IT_NEVER_SET").env_remove("IT_A"));

    assert_eq!(with, format!("{} IT_A=1 IT_B=", before + 2));
    assert_eq!(without, format!("{} IT_B= IT_C=3", before + 1));
    assert_eq!(env::vars_os().count(), before, "this process keeps its own environment");
    assert!(env::var_os("IT_A").is_none());
}

fn a_cleared_environment_has_what_is_set(method: StartMethod) {
    let cleared = cleared(Boot::new(send_environment).env("IT_BEFORE", "1"));

    assert_eq!(text_of(method, &cleared), "1 ");
    assert_eq!(text_of(method, &cleared.clone().env("IT_AFTER", "2 = 2")), "2 IT_AFTER=2 = 2");
    if method != StartMethod::Spawn {
        assert_eq!(text_of(method, &cleared.env_clear()), "0 ");
    }
}

fn variables_need_not_be_text(method: StartMethod) {
    fn look(_: Birth) -> u8 {
        u8::from(env::var_os(OsStr::from_bytes(b"IT_\xff")) != Some(OsStr::from_bytes(b"\xfe\n").to_owned()))
    }
    let child = start_ready(method, &Boot::new(look).env(OsStr::from_bytes(b"IT_\xff"), OsStr::from_bytes(b"\xfe\n")));

    assert_eq!(code(child.wait().unwrap()), Some(0));
}

fn an_impossible_variable_is_typed(method: StartMethod) {
    let boot = || Boot::new(exit_with).env("IT_A", "1");
    for (boot, expected) in [
        (boot().env("", "1"), ""),
        (boot().env("IT=B", "1"), "IT=B"),
        (boot().env("IT\0B", "1"), "IT\0B"),
        (boot().env("IT_C", "1\0"), "IT_C"),
        (boot().env_remove("=IT"), "=IT"),
    ] {
        match start_methods::start(method, &boot).unwrap_err() {
            StartError::Environment { name } => assert_eq!(name, expected),
            other => panic!("{other}"),
        }
    }
}

fn settings_have_a_largest_size(method: StartMethod) {
    fn send_length(birth: Birth) -> u8 {
        send_text(&birth.control, &format!("{} {}", env::var("IT_A").unwrap().len(), birth.payload.len()));
        0
    }
    let payload = vec![1; start_methods::PAYLOAD_MAX];
    let boot = |len| Boot::new(send_length).payload(&payload).env("IT_A", "x".repeat(len));
    let len = start_methods::SETTINGS_MAX - 128 - 16 - "IT_A".len();

    assert_eq!(text_of(method, &boot(len)), format!("{len} {}", payload.len()));
    let error = start_methods::start(method, &boot(len + 1)).unwrap_err();
    assert!(matches!(error, StartError::BootTooLarge { limit: start_methods::SETTINGS_MAX, .. }), "{error}");
}

fn grandchildren_inherit_settings(method: StartMethod) {
    fn have_a_child(birth: Birth) -> u8 {
        let child = start_ready(birth.method, &Boot::new(send_environment));
        send_text(&birth.control, &receive_all(&child));
        drop(child);
        start_methods::forkserver::stop();
        0
    }
    let boot = cleared(Boot::new(have_a_child)).env("IT_A", "1").current_dir("/");

    assert_eq!(text_of(method, &boot), "2 IT_A=1");
}

fn the_directory_is_entered(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    // Not UTF-8, and with a symbolic link in the path.
    let inside = folder.path().canonicalize().unwrap().join(OsStr::from_bytes(b"not text \xff"));
    fs::create_dir(&inside).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&inside, &link).unwrap();
    fn look(birth: Birth) -> u8 {
        u8::from(env::current_dir().unwrap().as_os_str().as_bytes() != birth.payload)
    }
    let expected = inside.as_os_str().as_bytes();
    let here = env::current_dir().unwrap();

    for path in [&inside, &link] {
        let child = start_ready(method, &Boot::new(look).payload(expected).current_dir(path));
        assert_eq!(code(child.wait().unwrap()), Some(0), "{path:?}");
    }
    assert_eq!(env::current_dir().unwrap(), here);
}

/// A fork server started in another directory, and so may an executed program have.
fn a_relative_directory_is_this_processes(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().canonicalize().unwrap();
    fs::create_dir(inside.join("sub")).unwrap();
    let here = env::current_dir().unwrap();
    drop(start_ready(method, &Boot::new(exit_with).payload(&[0])));
    env::set_current_dir(&inside).unwrap();
    let boot = Boot::new(send_directory).current_dir("sub");
    // Resolved when it was given, and not at the start.
    env::set_current_dir(&here).unwrap();

    assert_eq!(Path::new(&text_of(method, &boot)), inside.join("sub"));

    env::set_current_dir(&inside).unwrap();
    drop(folder);
    let nowhere = start_methods::start(method, &Boot::new(send_directory).current_dir("sub"));
    env::set_current_dir(here).unwrap();
    assert!(matches!(nowhere.unwrap_err(), StartError::Directory { errno: libc::ENOENT, .. }));
}

fn a_missing_directory_is_typed(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");

    let error = refused(method, &Boot::new(send_directory).current_dir(&missing));

    let StartError::Directory { path, errno: libc::ENOENT } = &error else { panic!("{error}") };
    assert_eq!(*path, missing);
    assert!(error.to_string().contains("create it"), "{error}");
    // The next start may succeed.
    fs::create_dir(&missing).unwrap();
    let boot = Boot::new(send_directory).current_dir(&missing);
    assert_eq!(Path::new(&text_of(method, &boot)), missing.canonicalize().unwrap());
}

fn what_is_no_directory_is_typed(method: StartMethod) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let longest = format!("/{}", "x/".repeat(2047));
    let errno_of = |error: StartError| match error {
        StartError::Directory { errno, .. } => errno,
        other => panic!("{other}"),
    };
    let asked = |path: &Path| errno_of(refused(method, &Boot::new(exit_with).current_dir(path)));
    let at_once = |path: &OsStr| {
        let started = start_methods::start(method, &Boot::new(exit_with).current_dir(path));
        errno_of(started.unwrap_err())
    };

    assert_eq!(asked(file.path()), libc::ENOTDIR);
    // The path is reported whole, whatever its length.
    assert_eq!((longest.len(), asked(longest.as_ref())), (4095, libc::ENOENT));
    assert_eq!(asked(OsStr::from_bytes(b"/a\0b").as_ref()), libc::EINVAL);
    assert_eq!(at_once("".as_ref()), libc::ENOENT);
    assert_eq!(at_once(OsString::from(longest + "x").as_ref()), libc::ENAMETOOLONG);
}

const LIMITS: [(Resource, resource::Resource); 4] = [
    (Resource::OpenFiles, resource::Resource::RLIMIT_NOFILE),
    (Resource::CoreSize, resource::Resource::RLIMIT_CORE),
    (Resource::CpuTime, resource::Resource::RLIMIT_CPU),
    (Resource::AddressSpace, resource::Resource::RLIMIT_AS),
];

fn send_limits(birth: Birth) -> u8 {
    send_text(&birth.control, &format!("{:?}", LIMITS.map(|(_, number)| getrlimit(number).unwrap())));
    0
}

fn limits_are_in_force(method: StartMethod) {
    let own = LIMITS.map(|(_, number)| getrlimit(number).unwrap());
    let soft = [100, 4096, 50, 1 << 40];
    let hard = [200, 8192, 60, 1 << 41];
    let with = |hard: [Option<u64>; 4]| {
        let limits = LIMITS.into_iter().zip(soft).zip(hard);
        limits.fold(Boot::new(send_limits), |boot, (((resource, _), soft), hard)| boot.rlimit(resource, soft, hard))
    };
    let pairs = |hard: [u64; 4]| format!("{:?}", std::array::from_fn::<_, 4, _>(|index| (soft[index], hard[index])));

    assert_eq!(text_of(method, &with([None; 4])), pairs(own.map(|(_, hard)| hard)));
    assert_eq!(text_of(method, &with(hard.map(Some))), pairs(hard));
    // Core dumps are off unless requested, and the last value counts.
    let boot = Boot::new(send_limits).rlimit(Resource::CpuTime, 1, Some(1));
    let text = text_of(method, &boot.rlimit(Resource::CpuTime, Resource::UNLIMITED, None));
    let untouched = [own[0], (0, own[1].1), (Resource::UNLIMITED, own[2].1), own[3]];
    assert_eq!(text, format!("{untouched:?}"));
    assert_eq!(LIMITS.map(|(_, number)| getrlimit(number).unwrap()), own, "this process keeps its own limits");
}

fn a_limit_that_is_refused_is_typed(method: StartMethod) {
    // Not even root may have more open files than fs.nr_open.
    let raised = refused(method, &Boot::new(exit_with).rlimit(Resource::OpenFiles, 10, Some(Resource::UNLIMITED)));
    let StartError::Limit { resource: Resource::OpenFiles, soft: 10, hard, errno: libc::EPERM } = raised else {
        panic!("{raised}");
    };
    assert_eq!(hard, Some(Resource::UNLIMITED));
    assert!(raised.to_string().contains("CAP_SYS_RESOURCE"), "{raised}");

    for (resource, _) in LIMITS {
        let error = refused(method, &Boot::new(exit_with).rlimit(resource, 1 << 20, Some(1 << 19)));
        let expected = (resource, 1 << 20, Some(1 << 19), libc::EINVAL);
        match error {
            StartError::Limit { resource, soft, hard, errno } => {
                assert_eq!((resource, soft, hard, errno), expected);
            }
            other => panic!("{other}"),
        }
    }
    let before = start_methods::start(method, &Boot::new(send_limits)).unwrap();
    before.wait_hello(SOON).unwrap();
}

/// All its descriptors have numbers above the limit: a forked child keeps what was open when it started.
fn no_open_files_leave_what_is_open(method: StartMethod) {
    fn work(birth: Birth) -> u8 {
        // A descriptor that arrives is lost, since no number below the limit is free.
        let lost = birth.control.recv(&mut [0; 8], &mut Vec::new()).unwrap_err();
        assert_eq!(lost.raw_os_error(), Some(libc::EMFILE));
        let heard = receive_text(&birth.control);
        assert_eq!(fs::File::open("/dev/null").unwrap_err().raw_os_error(), Some(libc::EMFILE));
        nix::unistd::write(&birth.fds[0], heard.as_bytes()).unwrap();
        send_text(&birth.control, &format!("{} {}", heard, birth.control.as_fd().as_raw_fd()));
        // The end of the connection is detected too.
        u8::from(birth.control.recv(&mut [0; 8], &mut Vec::new()).unwrap() != start_methods::Received::Closed)
    }
    want_descriptors(1024);
    let crowd: Vec<PrivateFd> = (0..100).map(|_| PrivateFd::adopt(pipe().unwrap().0).unwrap()).collect();
    let high = fcntl(std::io::stderr(), FcntlArg::F_DUPFD(300)).unwrap();
    for limit in [0, 1, 3] {
        let (read, write) = pipe().unwrap();
        let fds = [write.as_fd()];
        let boot = Boot::new(work).fds(&fds).rlimit(Resource::OpenFiles, limit, Some(limit));

        let child = start_ready(method, &boot);
        let null = fs::File::open("/dev/null").unwrap();
        child.control().send(&[std::io::IoSlice::new(b"lost")], &[null.as_fd()]).unwrap();
        send_text(child.control(), "heard");
        let text = receive_text(child.control());

        drop(write);
        assert!(text.starts_with("heard "), "{limit}: {text}");
        if method == StartMethod::Fork {
            assert!(text.split(' ').next_back().unwrap().parse::<i32>().unwrap() > 100, "{text}");
        }
        let mut heard = [0; 8];
        assert_eq!(nix::unistd::read(&read, &mut heard), Ok(5));
        let control = child.control().as_fd().as_raw_fd();
        nix::sys::socket::shutdown(control, nix::sys::socket::Shutdown::Both).unwrap();
        assert_eq!(code(child.wait_timeout(SOON).unwrap().unwrap()), Some(0), "{limit}");
    }
    nix::unistd::close(high).unwrap();
    drop(crowd);
}

fn memory_is_limited(method: StartMethod) {
    fn eat(birth: Birth) -> u8 {
        let much = Vec::<u8>::new().try_reserve_exact(8 << 30);
        let little = Vec::<u8>::new().try_reserve_exact(1 << 20);
        send_text(&birth.control, &format!("{} {}", much.is_err(), little.is_ok()));
        std::io::stderr().flush().unwrap();
        let all: Vec<u8> = Vec::with_capacity(8 << 30);
        u8::from(all.capacity() > 0)
    }
    let child = start_ready(method, &Boot::new(eat).rlimit(Resource::AddressSpace, 2 << 30, None));

    assert_eq!(receive_text(child.control()), "true true");
    let status = child.wait().unwrap().status().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
}

/// A limit below what the process has already: it can open nothing more, not even for its hello.
fn too_little_memory_hangs_nobody(method: StartMethod) {
    for bytes in [0, 1 << 12, 1 << 20] {
        let boot = Boot::new(exit_with).payload(&[9]).rlimit(Resource::AddressSpace, bytes, Some(bytes));
        let child = start_methods::start(method, &boot).unwrap();

        child.wait_hello(SOON).unwrap();
        assert_eq!(code(child.wait_timeout(SOON).unwrap().unwrap()), Some(9), "{bytes}");
    }
}

fn processor_time_is_limited(method: StartMethod) {
    let child = start_ready(method, &Boot::new(busy).rlimit(Resource::CpuTime, 1, None));
    // Starting a process does not use up the limit.
    let idle = start_ready(method, &Boot::new(crate::helper::until_message).rlimit(Resource::CpuTime, 1, Some(1)));

    let status = child.wait_timeout(Duration::from_secs(50)).unwrap().unwrap().status().unwrap();

    assert_eq!(status.signal(), Some(Signal::SIGXCPU as i32), "{status}");
    assert!(!status.core_dumped());
    send_text(idle.control(), "enough");
    assert_eq!(code(idle.wait().unwrap()), Some(5));
}

/// In particular, they do not stay in a fork server.
fn one_child_s_settings_are_no_other_s(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    let plain = Boot::new(send_limits);
    let first = text_of(method, &plain);
    let settled = cleared(plain.clone()).env("IT_A", "1").rlimit(Resource::OpenFiles, 30, Some(30));
    let settled = settled.current_dir("/proc");
    assert_ne!(text_of(method, &settled), first);

    assert_eq!(text_of(method, &plain), first);
    let environment = text_of(method, &plain.clone().entry(send_environment));
    assert_eq!(environment, format!("{} ", env::vars_os().count()));
    let directory = text_of(method, &plain.entry(send_directory));
    assert_eq!(Path::new(&directory), env::current_dir().unwrap());
    drop(starter);
}

fn a_template_s_children_have_settings() {
    let starter = Starter::new(StartMethod::Fork).unwrap();
    starter.settle().unwrap();
    let start = |boot: &Boot<'_>| {
        let child = starter.start(boot).unwrap();
        child.wait_hello(SOON).map(|()| receive_all(&child))
    };
    let boot = Boot::new(send_environment).env_clear().env("IT_A", "1");

    assert_eq!(start(&boot).unwrap(), "1 IT_A=1");
    let missing = Boot::new(exit_with).current_dir("/nowhere at all");
    assert!(matches!(start(&missing), Err(StartError::Directory { errno: libc::ENOENT, .. })));
    assert_eq!(start(&boot.entry(send_directory).current_dir("/")).unwrap(), "/");
}

/// The kernel keeps the environment of the exec: code that runs before `main` has seen it.
fn spawn_executes_with_the_environment() {
    fn send_first(birth: Birth) -> u8 {
        let first = fs::read("/proc/self/environ").unwrap();
        let pairs: Vec<_> = first.split(|byte| *byte == 0).filter(|pair| pair.starts_with(b"IT_")).collect();
        send_text(&birth.control, &format!("seen: {}", String::from_utf8(pairs.concat()).unwrap()));
        0
    }
    let boot = Boot::new(send_first).env("IT_A", "1");

    assert_eq!(text_of(StartMethod::Spawn, &boot), "seen: IT_A=1");
    assert_eq!(text_of(StartMethod::Forkserver, &boot), "seen: ");
}
