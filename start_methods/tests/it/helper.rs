//! What many cases do: start something, ask it, hear its answer.

use std::fs;
use std::io::IoSlice;
use std::process::Command;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
use start_methods::Entry;
use start_methods::Exit;
use start_methods::Received;
use start_methods::Socket;
use start_methods::StartMethod;

use crate::audit::fds;

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A child that has said hello.
pub(crate) fn up(method: StartMethod, boot: &Boot<'_>) -> Child {
    let child = start_methods::start(method, boot).unwrap();
    child.wait_hello(SOON).unwrap();
    child
}

/// What a child that runs `entry` says.
pub(crate) fn answer(method: StartMethod, entry: Entry) -> String {
    let child = up(method, &Boot::new(entry));
    let text = hear(child.control());
    assert!(child.wait().unwrap().success());
    text
}

pub(crate) fn say(socket: &Socket, text: &str) {
    socket.send(&[IoSlice::new(text.as_bytes())], &[]).unwrap();
}

pub(crate) fn hear(socket: &Socket) -> String {
    let mut buffer = [0; 4096];
    match socket.recv(&mut buffer, &mut Vec::new()).unwrap() {
        Received::Message(len) => String::from_utf8(buffer[..len].to_vec()).unwrap(),
        other => panic!("no message but {other:?}"),
    }
}

pub(crate) fn code(exit: Exit) -> Option<i32> {
    exit.status().and_then(|status| status.code())
}

/// Ends with the code in its payload.
pub(crate) fn exit_with(birth: Birth) -> u8 {
    birth.payload[0]
}

/// Ends with code 5 when it is told anything, or when nobody is left who could.
pub(crate) fn until_told(birth: Birth) -> u8 {
    let received = birth.control.recv(&mut [0; 64], &mut Vec::new());
    if let Ok(Received::Message(_)) = received { 5 } else { 6 }
}

/// Uses its processor until it is killed.
pub(crate) fn busy(_: Birth) -> u8 {
    loop {
        std::hint::spin_loop();
    }
}

/// Runs an inner case in a program of its own.
pub(crate) fn inner(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.env(crate::CASE, format!("inner::{name}"));
    command
}

/// Runs `command` to its end, which must be a good one.
pub(crate) fn succeed(mut command: Command) {
    let status: ExitStatus = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// One line of /proc/PID/status.
pub(crate) fn status_line(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// Lets the process have `spare` more descriptors than it has, while `f` runs.
pub(crate) fn with_spare_descriptors<R>(spare: usize, f: impl FnOnce() -> R) -> R {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = fds();
    // The limit is one of numbers: below it, so many must be free.
    let limit = (0..).filter(|number| !open.contains_key(number)).nth(spare).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(limit).unwrap(), hard).unwrap();
    let result = f();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    result
}
