//! The outlets of one worker, read: records, and bytes cut into lines.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use start_methods::Child;
use start_methods::PrivateFd;
use start_methods::Received;
use start_methods::Socket;

use super::told::LogRecord;
use super::told::OutputLine;
use super::told::OutputStream;
use crate::transport::control::Lane;
use crate::transport::outlets;
use crate::transport::outlets::MESSAGE_MAX;
use crate::transport::outlets::Outlets;

/// How many records, or blocks of output, of one stream are read before the other workers have their turn.
const SHARE: usize = 64;
/// How many are read of a worker that has ended. Whoever writes more then is another process that holds its descriptors.
const LAST_SHARE: usize = 4096;
/// A line is cut at this length.
const LINE_MAX: usize = 64 * 1024;
/// How many messages that are no records are read from a worker.
const NONSENSE_MAX: usize = 64;

/// Something that a worker has told.
#[derive(Debug)]
pub(super) enum Told {
    Log(LogRecord),
    Line(OutputLine),
}

/// The outlets of one worker.
#[derive(Debug)]
pub(super) struct Outlet {
    pid: u32,
    worker: usize,
    log: Option<Socket>,
    nonsense: usize,
    lines: Vec<Lines>,
    /// Readable when the worker has ended.
    end: PrivateFd,
}

/// A stream of bytes, and what of it is no whole line yet.
#[derive(Debug)]
struct Lines {
    stream: OutputStream,
    /// `None` once it has ended.
    pipe: Option<PrivateFd>,
    line: Vec<u8>,
}

impl Outlet {
    /// # Errors
    ///
    /// No descriptor is left to see the end of the worker by.
    pub(super) fn new(child: &Child, lane: Lane, outlets: Outlets) -> io::Result<Self> {
        let end: OwnedFd = child.pidfd().try_clone_to_owned()?;
        let streams = [OutputStream::Stdout, OutputStream::Stderr];
        let pipes = streams.into_iter().zip(outlets.output.into_iter().flatten());
        Ok(Self {
            pid: child.pid(),
            worker: lane.index as usize,
            log: outlets.log,
            nonsense: 0,
            lines: pipes.map(|(stream, pipe)| Lines { stream, pipe: Some(pipe), line: Vec::new() }).collect(),
            end: PrivateFd::adopt(end)?,
        })
    }

    /// What becomes readable when there is something to read.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let pipes = self.lines.iter().filter_map(|lines| lines.pipe.as_ref());
        let log = self.log.iter().map(AsFd::as_fd);
        log.chain(pipes.map(AsFd::as_fd)).chain([self.end.as_fd()])
    }

    /// Whether the worker has ended. What it has sent before is there by then.
    pub(super) fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Reads what is there, or some of it.
    pub(super) fn read(&mut self, told: &mut Vec<Told>) {
        self.read_share(SHARE, told);
    }

    /// Reads all that is there, and takes what follows the last line for one: nothing more will come.
    pub(super) fn read_last(&mut self, told: &mut Vec<Told>) {
        self.read_share(LAST_SHARE, told);
        let (pid, worker) = (self.pid, self.worker);
        for lines in &mut self.lines {
            let rest = std::mem::take(&mut lines.line);
            told.extend((!rest.is_empty()).then(|| Told::Line(line_of(lines.stream, &rest, pid, worker))));
        }
    }

    fn read_share(&mut self, share: usize, told: &mut Vec<Told>) {
        self.read_log(share, told);
        for lines in &mut self.lines {
            lines.read(share, |stream, line| told.push(Told::Line(line_of(stream, line, self.pid, self.worker))));
        }
    }

    fn read_log(&mut self, share: usize, told: &mut Vec<Told>) {
        let mut bytes = Vec::new();
        for _ in 0..share {
            let Some(socket) = &self.log else { return };
            match socket.try_recv_bytes(&mut bytes, MESSAGE_MAX) {
                Ok(Received::Message(_)) => match record_of(&bytes, self.pid, self.worker) {
                    Some(record) => told.push(Told::Log(record)),
                    None => self.nonsense += 1,
                },
                Ok(Received::Empty) => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => self.nonsense += 1,
                Ok(Received::Closed) | Err(_) => self.log = None,
            }
            if self.nonsense > NONSENSE_MAX {
                self.log = None;
            }
        }
    }
}

fn record_of(bytes: &[u8], pid: u32, worker: usize) -> Option<LogRecord> {
    let arrived = outlets::parse(bytes)?;
    Some(LogRecord {
        level: arrived.level,
        target: arrived.target.to_owned(),
        text: arrived.text.to_owned(),
        module_path: arrived.module_path.map(str::to_owned),
        file: arrived.file.map(str::to_owned),
        line: arrived.line,
        pid,
        worker,
        dropped: arrived.dropped,
    })
}

fn line_of(stream: OutputStream, line: &[u8], pid: u32, worker: usize) -> OutputLine {
    OutputLine { stream, text: String::from_utf8_lossy(line).into_owned(), pid, worker }
}

impl Lines {
    fn read(&mut self, share: usize, mut tell: impl FnMut(OutputStream, &[u8])) {
        let mut block = [0; 4096];
        for _ in 0..share {
            let Some(pipe) = &self.pipe else { return };
            match nix::unistd::read(pipe, &mut block) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.push(&block[..count], &mut tell),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn push(&mut self, bytes: &[u8], tell: &mut impl FnMut(OutputStream, &[u8])) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.ends_with(b"\n") || self.line.len() >= LINE_MAX {
                let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
                tell(self.stream, line);
                self.line.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_cut_into_lines_wherever_they_are_split() {
        let mut text = b"one\n\ntwo".to_vec();
        text.extend(vec![b'x'; LINE_MAX + 10]);
        text.extend(b"\nlast");
        for split in [1, 2, 3, 7, 4096] {
            let mut lines = Lines { stream: OutputStream::Stdout, pipe: None, line: Vec::new() };
            let mut told: Vec<Vec<u8>> = Vec::new();
            text.chunks(split).for_each(|part| lines.push(part, &mut |_, line| told.push(line.to_vec())));
            assert_eq!(
                (told[0].as_slice(), told[1].as_slice(), lines.line.as_slice()),
                (&b"one"[..], &b""[..], &b"last"[..])
            );
            assert_eq!(told[2..].concat().len(), LINE_MAX + 13);
            assert!(told.iter().all(|line| line.len() < LINE_MAX + 4096));
        }
    }
}
