//! What is passed to a process and comes back, and how it begins.

use std::path::PathBuf;
use std::thread;

use procpool::Fd;
use procpool::Limit;
use procpool::SharedSlice;
use procpool::Side;
use procpool::StartError;
use procpool::StartMethod;
use procpool::process::ProcessError;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use super::by;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;
use crate::ipc;
use crate::ipc::Reader;
use crate::ipc::Writer;

cases![
    functions_of_every_kind_run,
    arguments_and_results_of_every_length,
    result_that_nobody_asks_for_holds_nothing_up,
    arguments_are_held_by_the_process_alone,
    descriptors_travel_both_ways,
    shared_slices_travel_both_ways,
    values_that_do_not_travel_are_told,
    function_outside_any_image_is_refused,
    settings_are_in_force,
    settings_that_are_refused_are_told_by_spawn,
    fork_beside_threads_is_refused,
    process_has_a_session_and_no_input,
    fork_server_of_its_own_lives_as_long_as_the_process,
];

#[derive(Serialize, Deserialize)]
struct Upper {
    text: String,
    times: usize,
}

impl Upper {
    fn run(self) -> String {
        self.text.to_uppercase().repeat(self.times)
    }
}

fn functions_of_every_kind_run(method: StartMethod) {
    assert_ne!(by(method).spawn((), std::process::id).unwrap().join().unwrap(), std::process::id());
    by(method).spawn((), || ()).unwrap().join().unwrap();
    let upper = Upper { text: "ab".to_owned(), times: 2 };
    assert_eq!(by(method).spawn((upper,), Upper::run).unwrap().join().unwrap(), "ABAB");
    let twelve = (1u8, 2u8, 3u8, 4u8, 5u8, 6u8, 7u8, 8u8, 9u8, 10u8, 11u8, 12u8);
    let sum =
        by(method).spawn(twelve, |a, b, c, d, e, f, g, h, i, j, k, l| a + b + c + d + e + f + g + h + i + j + k + l);
    assert_eq!(sum.unwrap().join().unwrap(), 78);
    let data: Result<u8, String> =
        by(method).spawn((0u8,), |x| x.checked_sub(1).ok_or("underflow".to_owned())).unwrap().join().unwrap();
    assert_eq!(data, Err("underflow".to_owned()));
    let ok: fn(u8) -> anyhow::Result<u8> = |x| Ok(x + 1);
    assert_eq!(by(method).spawn((1u8,), ok).unwrap().join().unwrap(), 2);
}

fn arguments_and_results_of_every_length(method: StartMethod) {
    for len in [0usize, 1, 16 << 10, 17 << 10, 60 << 10, 61 << 10, 1 << 20, 20 << 20] {
        let bytes: Vec<u8> = (0..len).map(|index| (index % 251).to_le_bytes()[0]).collect();
        let process = by(method).spawn((bytes.clone(),), |bytes: Vec<u8>| bytes).unwrap();
        assert!(process.join().unwrap() == bytes, "{len} bytes came back changed");
    }
}

fn result_that_nobody_asks_for_holds_nothing_up(method: StartMethod) {
    let large: fn(usize) -> Vec<u8> = |len| vec![7; len];
    let some: Vec<_> =
        [100usize, 50_000, 30 << 20].into_iter().map(|len| (len, by(method).spawn((len,), large).unwrap())).collect();
    stage::until("the end of all", || some.iter().all(|(_, process)| !process.is_alive()));
    for (len, process) in &some {
        let exit = process.exit_status().unwrap().unwrap();
        assert!(exit.success(), "{exit}");
        assert_eq!(process.join().unwrap().len(), *len);
    }
}

fn arguments_are_held_by_the_process_alone(method: StartMethod) {
    for padding in [0usize, 1 << 20] {
        let (reader, writer) = ipc::pipe();
        let speak: fn(Writer, String) = |writer, _| ipc::say(&writer, "said");
        let process = by(method).spawn((writer, "x".repeat(padding)), speak).unwrap();
        // To the end: no other process holds the other end, and neither does the handle.
        assert_eq!(ipc::read_to_end(reader), "said");
        process.join().unwrap();
    }
}

fn descriptors_travel_both_ways(method: StartMethod) {
    let announce: fn(String) -> Vec<Reader> = |text| {
        let (reader, writer) = ipc::pipe();
        ipc::say(&writer, &text);
        vec![Fd::new(reader)]
    };
    let process = by(method).spawn(("hello".to_owned(),), announce).unwrap();
    // Decoded anew each time; the pipe is one.
    let (first, second) = (process.join().unwrap(), process.join().unwrap());
    drop(process);
    let read = |mut readers: Vec<Reader>| ipc::read_to_end(readers.remove(0).into_inner());
    assert_eq!([read(first), read(second)], ["hello", ""]);
}

fn shared_slices_travel_both_ways(method: StartMethod) {
    let numbers: Vec<u64> = (0..100_000).collect();
    let slice = SharedSlice::new(&numbers).unwrap();
    let double: fn(SharedSlice<u64>) -> anyhow::Result<SharedSlice<u64>> =
        |numbers| Ok(SharedSlice::new(&numbers.iter().map(|x| 2 * x).collect::<Vec<u64>>())?);
    let process = by(method).spawn((slice,), double).unwrap();
    let doubled = process.join().unwrap();
    drop(process);
    assert!(doubled.iter().zip(&numbers).all(|(double, x)| *double == 2 * x));
}

/// Refuses to be written, or to be read, in this process or in others.
struct Stubborn(u8);

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            0 => Err(serde::ser::Error::custom("not written")),
            1 => panic!("written in panic"),
            other => other.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            2 => Err(serde::de::Error::custom("not read")),
            3 => panic!("read in panic"),
            other => Ok(Stubborn(other)),
        }
    }
}

fn values_that_do_not_travel_are_told(method: StartMethod) {
    for (kind, text) in [(0, "not written"), (1, "written in panic")] {
        let refused = by(method).spawn((Stubborn(kind),), |_: Stubborn| ()).unwrap_err();
        let ProcessError::Encode { side: Side::Argument, message, .. } = &refused else { panic!("{refused:?}") };
        assert!(message.contains(text), "{refused}");
        let process = by(method).spawn((kind,), Stubborn).unwrap();
        let Err(error) = process.join() else { panic!("{kind} was written") };
        let ProcessError::Encode { side: Side::Result, message, .. } = &error else { panic!("{error:?}") };
        assert!(message.contains(text), "{error}");
        assert_eq!(process.exit_status().unwrap().unwrap().status().unwrap().code(), Some(1));
    }
    for (kind, text) in [(2, "not read"), (3, "read in panic")] {
        let process = by(method).spawn((Stubborn(kind),), |_: Stubborn| ()).unwrap();
        let error = process.join().unwrap_err();
        let ProcessError::Decode { side: Side::Argument, message, .. } = &error else { panic!("{error:?}") };
        assert!(message.contains(text), "{error}");
        let process = by(method).spawn((kind,), Stubborn).unwrap();
        for _ in 0..2 {
            let Err(error) = process.join() else { panic!("{kind} was read") };
            let ProcessError::Decode { side: Side::Result, message, .. } = &error else { panic!("{error:?}") };
            assert!(message.contains(text), "{error}");
        }
        assert!(process.exit_status().unwrap().unwrap().success(), "it does not know that");
    }
}

fn function_outside_any_image_is_refused(method: StartMethod) {
    let error = by(method).spawn((1u8,), sys::function_outside_any_image()).unwrap_err();
    assert!(matches!(error, ProcessError::FunctionNotFound { .. }), "{error:?}");
}

fn settings_are_in_force(method: StartMethod) {
    sys::set_env("PROCPOOL_IT_HERE", "here");
    let see = || {
        let var = |name: &str| std::env::var(name).ok();
        (var("PROCPOOL_IT_HERE"), var("PROCPOOL_IT_THERE"), std::env::current_dir().unwrap(), sys::open_files())
    };
    procpool::forkserver::stop();
    let (here, there, _, _) = by(method).spawn((), see).unwrap().join().unwrap();
    assert_eq!((here.as_deref(), there), (Some("here"), None));
    let builder = by(method).env_remove("PROCPOOL_IT_HERE").env("PROCPOOL_IT_THERE", "there");
    let builder = builder.current_dir("/usr").rlimit(Limit::OpenFiles, 99, Some(99));
    let (here, there, folder, open_files) = builder.spawn((), see).unwrap().join().unwrap();
    assert_eq!((here, there.as_deref(), folder, open_files), (None, Some("there"), PathBuf::from("/usr"), 99));
    let cleared = by(method).env_clear().env("ONLY", "1").spawn((), || std::env::vars_os().count());
    assert_eq!(cleared.unwrap().join().unwrap(), 1);
    assert_eq!(std::env::var("PROCPOOL_IT_HERE").as_deref(), Ok("here"), "nothing has changed here");
}

fn settings_that_are_refused_are_told_by_spawn(method: StartMethod) {
    let error = by(method).current_dir("/no/such/place").spawn((), || ()).unwrap_err();
    let ProcessError::Start(StartError::Directory { path, errno }) = &error else { panic!("{error:?}") };
    assert_eq!((path.to_str(), *errno), (Some("/no/such/place"), libc::ENOENT));
    let error = by(method).rlimit(Limit::OpenFiles, 100, Some(99)).spawn((), || ()).unwrap_err();
    assert!(matches!(error, ProcessError::Start(StartError::Limit { .. })), "{error:?}");
    let error = by(method).env("A=B", "C").spawn((), || ()).unwrap_err();
    assert!(matches!(error, ProcessError::Start(StartError::Environment { .. })), "{error:?}");
    let error = by(method).name("x".repeat(100_000)).spawn((), || ()).unwrap_err();
    assert!(matches!(error, ProcessError::Start(StartError::BootTooLarge { .. })), "{error:?}");
    by(method).spawn((), || ()).unwrap().join().unwrap();
}

fn fork_beside_threads_is_refused(method: StartMethod) {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let foreign = thread::Builder::new().name("a-bystander".to_owned()).spawn(move || wait.recv()).unwrap();
    let spawned = by(method).spawn((2u32, 10), u32::pow);
    match method {
        StartMethod::Fork => {
            let error = spawned.unwrap_err();
            let ProcessError::Start(StartError::ForeignThreads { count: 1, names }) = &error else {
                panic!("{error:?}")
            };
            assert_eq!(names, &["a-bystander"]);
        }
        StartMethod::Spawn | StartMethod::Forkserver => assert_eq!(spawned.unwrap().join().unwrap(), 1024),
    }
    let insisted = sys::process_despite_threads(by(method)).spawn((2u32, 10), u32::pow);
    assert_eq!(insisted.unwrap().join().unwrap(), 1024);
    release.send(()).unwrap();
    foreign.join().unwrap().unwrap();
    assert_eq!(by(method).spawn((2u32, 10), u32::pow).unwrap().join().unwrap(), 1024);
}

fn process_has_a_session_and_no_input(method: StartMethod) {
    let see: fn() -> anyhow::Result<(i32, i32, PathBuf)> = || {
        let session = nix::unistd::getsid(None)?.as_raw();
        Ok((session, nix::unistd::getpgrp().as_raw(), std::fs::read_link("/proc/self/fd/0")?))
    };
    let process = by(method).spawn((), see).unwrap();
    let pid = i32::try_from(process.pid()).unwrap();
    assert_eq!(process.join().unwrap(), (pid, pid, PathBuf::from("/dev/null")));
}

fn fork_server_of_its_own_lives_as_long_as_the_process(method: StartMethod) {
    let exe = std::env::current_exe().unwrap();
    let process = by(method).executable(exe).spawn((), super::park).unwrap();
    let children = processes::children(std::process::id()).len();
    assert_eq!(children, 1, "the process, or the server that has forked it");
    process.terminate().unwrap();
    let ProcessError::Died { status: Some(status), .. } = process.join().unwrap_err() else { panic!("it has died") };
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
    drop(process);
    assert_eq!(processes::children(std::process::id()).len(), 0);
}
