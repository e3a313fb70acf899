//! Helpers of many cases: start a process, send it a message, receive its reply.

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

/// A child that has sent its hello.
pub(crate) fn start_ready(method: StartMethod, boot: &Boot<'_>) -> Child {
    let child = start_methods::start(method, boot).unwrap();
    child.wait_hello(SOON).unwrap();
    child
}

/// The message that a child with this `entry` sends.
pub(crate) fn answer_of(method: StartMethod, entry: Entry) -> String {
    let child = start_ready(method, &Boot::new(entry));
    let text = receive_text(child.control());
    assert!(child.wait().unwrap().success());
    text
}

pub(crate) fn send_text(socket: &Socket, text: &str) {
    socket.send(&[IoSlice::new(text.as_bytes())], &[]).unwrap();
}

pub(crate) fn receive_text(socket: &Socket) -> String {
    let mut buffer = [0; 4096];
    match socket.recv(&mut buffer, &mut Vec::new()).unwrap() {
        Received::Message(len) => String::from_utf8(buffer[..len].to_vec()).unwrap(),
        other => panic!("no message but {other:?}"),
    }
}

pub(crate) fn code(exit: Exit) -> Option<i32> {
    exit.status().and_then(|status| status.code())
}

/// Exits with the code in its payload.
pub(crate) fn exit_with(birth: Birth) -> u8 {
    birth.payload[0]
}

/// Exits with code 5 when it receives a message, or when the other end is closed.
pub(crate) fn until_message(birth: Birth) -> u8 {
    let received = birth.control.recv(&mut [0; 64], &mut Vec::new());
    if let Ok(Received::Message(_)) = received { 5 } else { 6 }
}

/// Runs a busy loop until it is killed.
pub(crate) fn busy(_: Birth) -> u8 {
    loop {
        std::hint::spin_loop();
    }
}

/// Runs an inner case in a separate process.
pub(crate) fn inner(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.env(crate::CASE, format!("inner::{name}"));
    command
}

/// Runs `command`, which must succeed.
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

/// Raises the soft limit of open files, for a case that needs so many. The suite also runs with a low one.
pub(crate) fn want_descriptors(wanted: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted.min(hard)), hard).unwrap();
}

/// Limits this process to `spare` more descriptors than it has, while `f` runs.
pub(crate) fn with_spare_descriptors<R>(spare: usize, f: impl FnOnce() -> R) -> R {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = fds();
    // The limit is an upper bound of the numbers: there must be this many free numbers below it.
    let limit = (0..).filter(|number| !open.contains_key(number)).nth(spare).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(limit).unwrap(), hard).unwrap();
    let result = f();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    result
}
