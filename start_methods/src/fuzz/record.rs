//! Writes the corpus: messages of real processes.
//!
//! `cargo test -p start_methods --lib record_the_corpus -- --ignored`

#![expect(unsafe_code, reason = "a function that runs before the harness is put into a section by name")]

use std::fs;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::path::Path;
use std::path::PathBuf;

use crate::birth::boot::Birth;
use crate::birth::boot::Boot;
use crate::birth::entry::own_marker;
use crate::child::child::Child;
use crate::child::lifeline::Lifeline;
use crate::message;
use crate::message::Request;
use crate::method::StartMethod;
use crate::settings::Resource;
use crate::start::forkserver::server;
use crate::start::forkserver::server::Plan;
use crate::start::spawn;
use crate::sys::fd::LOWEST;
use crate::sys::image;
use crate::sys::socket::Received;
use crate::sys::socket::Socket;
use crate::sys::threads::ForeignThreads;

crate::test_init!();

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

/// The next message, undecoded.
fn receive(control: &Socket) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 17];
    let Received::Message(len) = control.recv(&mut buffer, &mut Vec::new()).unwrap() else { panic!("it sent nothing") };
    buffer.truncate(len);
    buffer
}

fn start(boot: &Boot<'_>, executable: Option<&Path>) -> Child {
    spawn::start(boot, StartMethod::Spawn, executable).unwrap()
}

/// Sends a marker as the parent makes it: `init` has removed the real one from the environment.
fn answer(birth: Birth) -> u8 {
    let marker = own_marker(std::process::id(), crate::depth());
    birth.control.send(&[IoSlice::new(marker.as_bytes())], &[]).unwrap();
    0
}

/// The boot message that `boot` sends.
fn boot_message(boot: &Boot<'_>) -> Vec<u8> {
    let (here, there) = Socket::pair().unwrap();
    boot.prepare(StartMethod::Forkserver).unwrap().send(&here).unwrap();
    receive(&there)
}

#[test]
#[ignore = "writes into fuzz/corpus"]
fn record_the_corpus() {
    let boot = Boot::new(answer).name("worker-0").payload(b"payload").env("A", "b").env_remove("C").current_dir("/");
    let boot = boot.rlimit(Resource::OpenFiles, 64, None).rlimit(Resource::CpuTime, 10, Some(20));
    write("message", "boot", &boot_message(&boot));
    let child = start(&boot, None);
    write("message", "hello", &receive(child.control()));
    write("marker", "child", &receive(child.control()));
    assert!(child.wait().unwrap().success());

    let refusals = [
        ("refused-directory", Boot::new(answer).current_dir("/nowhere")),
        ("refused-limit", Boot::new(answer).rlimit(Resource::OpenFiles, 20, Some(10))),
    ];
    for (name, boot) in refusals {
        let child = start(&boot, None);
        write("message", name, &receive(child.control()));
        child.wait().unwrap();
    }

    let preloads = Plan { preloads: Vec::new(), foreign: ForeignThreads::Tolerate }.encode();
    let child = start(&Boot::new(server::serve).payload(&preloads), None);
    receive(child.control());
    write("message", "ready", &receive(child.control()));
    let request = message::encode(&Request { id: 1 });
    write("message", "request", &request);
    let (_lifeline, their_end) = Lifeline::new(LOWEST).unwrap();
    child.control().send(&[IoSlice::new(&request)], &[their_end.as_fd()]).unwrap();
    write("message", "reply", &receive(child.control()));
    drop(child);

    let child = start(&Boot::new(server::serve).payload(&[1]), None);
    receive(child.control());
    write("message", "ready-garbled-preloads", &receive(child.control()));
    drop(child);

    let code = image::locate(answer as *const () as usize).unwrap();
    let (_, _, offset): (String, Vec<u8>, u64) = postcard::from_bytes(&postcard::to_allocvec(&code).unwrap()).unwrap();
    write("place", "code", &[&[2][..], &offset.to_le_bytes(), &[8, 0, 0, 0, 1]].concat());
    write("place", "library", &[&[3][..], &64u64.to_le_bytes(), &[8, 0, 0, 0, 8], b"libc.so.6"].concat());
}
