//! A channel into whose memory another process writes between the calls of an honest one.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::ipc::channel::Options;
use crate::ipc::channel::Receiver;
use crate::ipc::channel::Sender;

const MESSAGES: usize = 4;
const BYTES: usize = 4096;
/// The head, and the ring behind it.
const MEMORY: u64 = 4096 + BYTES as u64;
/// The words of the two latches. A number there is an id of a thread, for which calls wait a few milliseconds; unit tests
/// of `ipc::channel` write them.
const LATCHES: [u64; 2] = [64 + 64, 64 + 192];
/// One step: what is done, a place, and a number.
const STEP: usize = 11;

/// Steps: a number is written anywhere into the memory, a message is sent or received, an end is opened again.
///
/// Nothing waits, and no message is longer than the longest that was sent. With no write in the memory, what is received
/// is what was sent.
///
/// # Panics
///
/// One of this does not hold.
pub fn channel(data: &[u8]) {
    let Ok((tx, rx)) = Options::new(MESSAGES).bytes(BYTES).open::<Vec<u8>>() else { return };
    let Ok(memory) = rx.to_fds()[0].try_clone_to_owned().map(std::fs::File::from) else { return };
    let mut is_honest = true;
    let mut sent = std::collections::VecDeque::new();
    for step in data.chunks_exact(STEP) {
        let (&[action, low, high], number) = step.split_first_chunk().expect("a step has 11 bytes");
        let place = u64::from(u16::from_le_bytes([low, high])) % (MEMORY - 8);
        match action % 5 {
            0 | 1 => {
                // Half of the writes go to the words, which are few.
                let place = if action % 2 == 0 { place % 448 } else { place };
                if LATCHES.iter().all(|latch| place + 8 <= *latch || latch + 4 <= place) {
                    is_honest = false;
                    let _: std::io::Result<()> = memory.write_all_at(number, place);
                }
            }
            2 => {
                let message = vec![low; usize::from(high) * 20];
                if tx.try_send(message.clone()).is_ok() {
                    sent.push_back(message);
                }
            }
            3 => {
                let received = rx.try_recv();
                if is_honest {
                    assert_eq!(received.expect("nothing is wrong"), sent.pop_front());
                } else {
                    let _ = (received, rx.recv_timeout(Duration::from_micros(1)), rx.len(), rx.arm(), tx.arm());
                }
            }
            _ => reopen(&tx, &rx),
        }
    }
}

/// As a process does that is sent the ends.
fn reopen(tx: &Sender<Vec<u8>>, rx: &Receiver<Vec<u8>>) {
    let clones = |fds: Vec<std::os::fd::BorrowedFd<'_>>| -> Option<Vec<OwnedFd>> {
        fds.iter().map(|fd| fd.as_fd().try_clone_to_owned().ok()).collect()
    };
    if let (Some(tx), Some(rx)) = (clones(tx.to_fds()), clones(rx.to_fds())) {
        let _ = (Sender::<Vec<u8>>::from_fds(tx), Receiver::<Vec<u8>>::from_fds(rx));
    }
}
