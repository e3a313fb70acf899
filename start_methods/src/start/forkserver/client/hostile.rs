//! The parent's end of a fork server against a malicious server: any reply is accepted or ends the server, and only its
//! children are signalled.
//!
//! The server of these tests is a shell with one child. The test holds its socket, and replies before it is asked.

use std::io::BufRead;
use std::io::BufReader;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::process::Stdio;

use nix::sys::signal::Signal;
use nix::unistd::pipe;
use nix::unistd::write;

use super::*;
use crate::exit::Exit;
use crate::message::ForkFailure;
use crate::message::Hello;
use crate::message::Stage;
use crate::sys::socket::Socket;

struct Rig {
    server: Server,
    /// The server's end.
    there: Socket,
    /// The server's child.
    child: u32,
    child_pidfd: OwnedFd,
}

impl Rig {
    #[expect(clippy::zombie_processes, reason = "the owner of the pidfd reaps it")]
    fn new() -> Self {
        let (here, there) = Socket::pair().unwrap();
        let script = "sleep 1000 & echo $!; wait; exec sleep 1000";
        let mut shell = Command::new("/bin/sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let child = line.trim().parse().unwrap();
        let child_pidfd = calls::pidfd_open(child).unwrap();
        let pidfd = adopted(calls::pidfd_open(shell.id()).unwrap());
        let (lifeline, _) = Lifeline::new(LOWEST).unwrap();
        let process = Child::direct(Handle::of_pidfd(shell.id(), pidfd), here, lifeline);
        Self { server: Server { process, is_ready: true, requests: 0 }, there, child, child_pidfd }
    }

    /// The result of a request to which the server replies with this.
    fn reply_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Result<Child, StartError>, Broken> {
        self.there.send(&[IoSlice::new(bytes)], fds).unwrap();
        self.server.fork()
    }

    /// The child as an honest server would send it, and the write end of its status pipe.
    fn honest(&mut self) -> (Child, OwnedFd) {
        let (read, write) = status_pipe();
        let (ours, _theirs) = Socket::pair().unwrap();
        let pidfd = self.child_pidfd.try_clone().unwrap();
        let bytes = reply(1, self.child);
        let child = self.reply_with(&bytes, &[ours.as_fd(), pidfd.as_fd(), read.as_fd()]).unwrap().unwrap();
        (child, write)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _gone = calls::pidfd_send_signal(self.child_pidfd.as_fd(), libc::SIGKILL, 0);
    }
}

fn adopted(fd: OwnedFd) -> PrivateFd {
    PrivateFd::adopt(fd).unwrap()
}

fn status_pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK).unwrap()
}

fn reply(id: u64, pid: u32) -> Vec<u8> {
    message::encode(&Reply { id, outcome: Ok(pid) })
}

fn is_broken(result: Result<Result<Child, StartError>, Broken>, why: &str) {
    let detail = result.expect_err(why).to_string();
    assert!(detail.contains(why), "{detail:?} and not {why:?}");
}

#[test]
fn a_silent_server_is_told_with_the_time_that_it_was_given() {
    let rig = Rig::new();
    let timeout = Duration::from_millis(50);
    let error = wait_hello_unless_stopped(&rig.server.process, timeout).unwrap_err();
    assert!(matches!(error, StartError::HelloTimeout { timeout: told, .. } if told == timeout), "{error}");
}

#[test]
fn what_is_no_answer_ends_the_server() {
    let failure = ForkFailure::System { stage: Stage::Fork, errno: libc::EAGAIN };
    let of_another_version = {
        let mut bytes = reply(1, 1);
        bytes[4] ^= 0xff;
        bytes
    };
    let noise: [(&[u8], &str); 8] = [
        (b"?", "not a message of this protocol"),
        (&[0xff; 4096], "not a message of this protocol"),
        (&[0; 5000], "truncated"),
        (&of_another_version, "version"),
        (&message::encode(&Hello { build_id: Vec::new() }), "unexpected kind"),
        (&reply(1, 1)[..9], "malformed"),
        (&[&reply(1, 1)[..], &[0]].concat(), "malformed"),
        (&message::encode(&Reply { id: 2, outcome: Err(failure) }), "was not sent"),
    ];
    for (bytes, why) in noise {
        is_broken(Rig::new().reply_with(bytes, &[]), why);
    }
}

#[test]
fn an_answer_with_other_descriptors_than_promised_ends_the_server() {
    for count in [0, 1, 2, 4, 16] {
        let mut rig = Rig::new();
        let (read, _write) = pipe().unwrap();
        let bytes = reply(1, rig.child);
        is_broken(rig.reply_with(&bytes, &vec![read.as_fd(); count]), "wrong number of descriptors");
    }
}

/// Descriptors that arrive unexpectedly are closed.
#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let mut rig = Rig::new();
    let (read, write) = pipe().unwrap();
    let failure = message::encode(&Reply {
        id: 1,
        outcome: Err(ForkFailure::System { stage: Stage::Fork, errno: libc::EAGAIN }),
    });

    let answer = rig.reply_with(&failure, &[write.as_fd()]).unwrap();

    assert!(matches!(answer, Err(StartError::System { errno: libc::EAGAIN, .. })));
    drop(write);
    // A process that another test starts at this moment may hold a copy until it is executed.
    assert!(wait::hung_up(read.as_fd(), Duration::from_secs(30)).unwrap(), "a copy of the other end is left");
}

#[test]
fn processes_that_are_no_children_of_the_server_are_left_alone() {
    let own = std::process::id();
    let (of_init, of_own) = (calls::pidfd_open(1).unwrap(), calls::pidfd_open(own).unwrap());
    let (no_pidfd, _write) = pipe().unwrap();
    let (socket, _other) = Socket::pair().unwrap();
    // The process id, the pidfd and the socket that the server sends; `None` for the true one.
    type Lie<'a> = (Option<u32>, Option<BorrowedFd<'a>>, BorrowedFd<'a>);
    let lies: [Lie<'_>; 8] = [
        (Some(1), Some(of_init.as_fd()), socket.as_fd()),
        (None, Some(of_init.as_fd()), socket.as_fd()),
        (Some(own), Some(of_own.as_fd()), socket.as_fd()),
        (None, Some(of_own.as_fd()), socket.as_fd()),
        (None, Some(no_pidfd.as_fd()), socket.as_fd()),
        (Some(0), None, socket.as_fd()),
        (Some(u32::MAX), None, socket.as_fd()),
        (None, None, no_pidfd.as_fd()),
    ];
    for (pid, pidfd, control) in lies {
        let mut rig = Rig::new();
        let child_pidfd = rig.child_pidfd.try_clone().unwrap();
        let (read, _write) = status_pipe();
        let bytes = reply(1, pid.unwrap_or(rig.child));
        let fds = [control, pidfd.unwrap_or(child_pidfd.as_fd()), read.as_fd()];
        is_broken(rig.reply_with(&bytes, &fds), "is not its child");
    }
}

#[test]
fn a_child_that_is_dead_when_it_is_told_of_is_no_lie() {
    let mut rig = Rig::new();
    calls::pidfd_send_signal(rig.child_pidfd.as_fd(), libc::SIGKILL, 0).unwrap();
    assert!(wait::hung_up(rig.child_pidfd.as_fd(), REPLY_TIMEOUT).unwrap(), "the shell reaps it");

    let (child, status) = rig.honest();

    write(&status, &9_i32.to_ne_bytes()).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::from_raw(9));
}

#[test]
fn a_server_that_closes_its_socket_is_gone() {
    let mut rig = Rig::new();
    let (_kept, other) = Socket::pair().unwrap();
    rig.there = other;
    is_broken(rig.server.fork(), "cannot be sent a request");
}

#[test]
fn a_stopped_server_is_given_up_long_before_a_slow_one() {
    let mut rig = Rig::new();
    rig.server.process.signal(Signal::SIGSTOP).unwrap();
    let before = Instant::now();

    is_broken(rig.server.fork(), "stopped");

    assert!(before.elapsed() < REPLY_TIMEOUT / 2);
}

#[test]
fn a_status_counts_once_and_after_the_end() {
    let mut rig = Rig::new();
    let (child, status) = rig.honest();
    write(&status, &(3_i32 << 8).to_ne_bytes()).unwrap();
    assert_eq!(child.try_wait().unwrap(), None, "it runs");

    child.kill().unwrap();
    let exit = child.wait().unwrap();
    // A second status of the same child, after the first was received.
    write(&status, &9_i32.to_ne_bytes()).unwrap();

    // The server's report counts, although the process was killed.
    assert_eq!(exit, Exit::from_raw(3 << 8));
    assert_eq!(child.wait().unwrap(), exit);
    assert_eq!(child.try_wait().unwrap(), Some(exit));
}

#[test]
fn a_status_that_is_none_is_not_believed() {
    // Half a word, "stopped", "continued", and two words that no kernel reports.
    let words: [&[u8]; 5] = [
        &[0, 0],
        &0x137f_i32.to_ne_bytes(),
        &0xffff_i32.to_ne_bytes(),
        &i32::MIN.to_ne_bytes(),
        &0x0001_0000_i32.to_ne_bytes(),
    ];
    for word in words {
        let mut rig = Rig::new();
        let (child, status) = rig.honest();
        write(&status, word).unwrap();
        drop(status);

        child.kill().unwrap();

        // The kernel may report the status (Linux 6.15), since the shell reaps the process. It is never guessed.
        let exit = child.wait().unwrap();
        assert!(exit == Exit::Unknown || exit == Exit::from_raw(9), "{word:?}: {exit}");
    }
}
