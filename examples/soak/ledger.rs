//! The ledger: what the workers themselves record. Births, and which worker began and finished which item, in order.
//!
//! It is a log in an anonymous file, to which each event is appended by one write(2) with `O_APPEND`. Counters in
//! shared memory would do for counting. The log has three advantages:
//!
//! - It needs no `unsafe`: no mapping, and no atomics on memory that another process writes.
//! - It keeps the order. If a worker began another item after this one, it had sent this one's answer, since a worker
//!   answers each item before it begins the next.
//! - It names the worker, so a death can be attributed to the right one, even if process ids are reused.
//!
//! A record is complete or absent. The kernel holds the file's lock during an append, so records do not mix. A record
//! never crosses a page, because its length divides that of a page, and SIGKILL interrupts a write only between pages.
//! (Records of 12 bytes would sometimes cross pages, and might be torn.)

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process;
use std::sync::OnceLock;

use anyhow::Context;
use anyhow::ensure;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;

const RECORD_BYTES: usize = 16;
/// How many records are read at a time.
const BLOCK_RECORDS: usize = 4096;
/// Numbers of items are below this.
pub(crate) const INDEX_MAX: u32 = 100_000_000;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) pid: u32,
    pub(crate) event: Event,
}

/// What happened in a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its initializer ran, with this many descriptors open.
    Born { descriptors: u32 },
    /// It began the item.
    Started(u32),
    /// It had the item's answer, and was about to return it.
    Finished(u32),
    /// It ran a task that is not an item of the soak.
    Aside,
}

impl Record {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let (kind, detail) = match self.event {
            Event::Born { descriptors } => (1, descriptors),
            Event::Started(index) => (2, index),
            Event::Finished(index) => (3, index),
            Event::Aside => (4, 0),
        };
        let mut bytes = [0; RECORD_BYTES];
        for (place, word) in bytes.chunks_exact_mut(4).zip([kind, self.pid, detail]) {
            place.copy_from_slice(&u32::to_le_bytes(word));
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        let word =
            |position: usize| -> anyhow::Result<u32> { Ok(u32::from_le_bytes(bytes[4 * position..][..4].try_into()?)) };
        let (kind, pid, detail) = (word(0)?, word(1)?, word(2)?);
        let event = match kind {
            1 => Event::Born { descriptors: detail },
            2 => Event::Started(detail),
            3 => Event::Finished(detail),
            4 => Event::Aside,
            kind => anyhow::bail!("the ledger has a record of kind {kind}"),
        };
        Ok(Self { pid, event })
    }
}

struct Pen {
    file: File,
    seed: u64,
}

static PEN: OnceLock<Pen> = OnceLock::new();

/// The initializer: opens the ledger for appending, and records the birth.
pub(crate) fn open_in_worker(path: String, seed: u64) -> anyhow::Result<()> {
    let file = OpenOptions::new().append(true).open(&path).with_context(|| format!("cannot open {path}"))?;
    ensure!(PEN.set(Pen { file, seed }).is_ok(), "the initializer ran twice");
    let descriptors = u32::try_from(fs::read_dir("/proc/self/fd")?.count())?;
    note(Event::Born { descriptors });
    Ok(())
}

/// The seed of the soak, for tasks that have no context.
pub(crate) fn seed() -> u64 {
    pen().seed
}

pub(crate) fn note_started(index: u32) {
    note(Event::Started(index));
}

pub(crate) fn note_finished(index: u32) {
    note(Event::Finished(index));
}

pub(crate) fn note_aside() {
    note(Event::Aside);
}

/// A panic here becomes an error of its item, which the tally reports.
fn note(event: Event) {
    let bytes = Record { pid: process::id(), event }.to_bytes();
    let written = (&pen().file).write(&bytes).expect("the ledger takes a record");
    assert_eq!(written, RECORD_BYTES, "a record was written in parts");
}

fn pen() -> &'static Pen {
    PEN.get().expect("the initializer ran before any task")
}

/// The parent's end of the ledger. The file disappears when it is closed, even if this process is killed.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: File,
}

impl Ledger {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let file = memfd_create("soak", MFdFlags::MFD_CLOEXEC).context("memfd_create")?;
        Ok(Self { file: File::from(file) })
    }

    /// The path by which any process of this user can open it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// Reads all records, in the order in which they were written.
    pub(crate) fn replay(&self, mut read: impl FnMut(Record)) -> anyhow::Result<()> {
        let len = self.file.metadata()?.len();
        ensure!(len % RECORD_BYTES as u64 == 0, "the ledger ends in the middle of a record");
        let mut block = vec![0; BLOCK_RECORDS * RECORD_BYTES];
        let mut offset = 0;
        while offset < len {
            let bytes = usize::try_from(len - offset)?.min(block.len());
            self.file.read_exact_at(&mut block[..bytes], offset)?;
            for record in block[..bytes].chunks_exact(RECORD_BYTES) {
                read(Record::from_bytes(record)?);
            }
            offset += bytes as u64;
        }
        Ok(())
    }
}
