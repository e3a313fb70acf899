//! How a process ends: by its function, by itself, by a signal; and what is told, printed and flushed.

use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use procpool::Fd;
use procpool::StartMethod;
use procpool::process::Process;
use procpool::process::ProcessError;

use super::by;
use super::park;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    code_says_what_the_function_did,
    errors_and_panics_are_printed,
    output_is_flushed,
    ends_without_a_result_are_told,
    panic_that_aborts_is_told,
    panic_of_another_thread_is_its_own,
    threads_are_not_waited_for,
    signals_end_it,
    signals_reach_its_group,
    signals_after_the_end_do_nothing,
    stopped_process_goes_on,
    whole_tree_is_killed,
    limit_of_processor_time_ends_it,
];

fn code<V>(process: &Process<V>) -> Option<i32> {
    process.exit_status().unwrap().expect("it has ended").status().and_then(|status| status.code())
}

#[track_caller]
fn died<V: std::fmt::Debug>(result: Result<V, ProcessError>) -> ExitStatus {
    match result {
        Err(ProcessError::Died { status, .. }) => status.expect("a status"),
        other => panic!("{other:?}"),
    }
}

fn code_says_what_the_function_did(method: StartMethod) {
    let good = by(method).spawn((), || 5u8).unwrap();
    assert_eq!((good.join().unwrap(), code(&good)), (5, Some(0)));

    let fails: fn() -> anyhow::Result<()> = || Err(anyhow::anyhow!("inner").context("outer"));
    let failed = by(method).spawn((), fails).unwrap();
    let ProcessError::Failed(failure) = failed.join().unwrap_err() else { panic!("it fails") };
    assert_eq!((failure.message.as_str(), failure.pid, code(&failed)), ("outer: inner", failed.pid(), Some(1)));

    let panics: fn(Vec<u8>) -> u8 = |items| items[2];
    let panicked = by(method).spawn((vec![1],), panics).unwrap();
    let ProcessError::Panicked(panic) = panicked.join().unwrap_err() else { panic!("it panics") };
    assert_eq!(panic.message, "index out of bounds: the len is 1 but the index is 2");
    assert!(panic.location.unwrap().contains("exits.rs"));
    assert_eq!((panic.pid, code(&panicked)), (panicked.pid(), Some(101)));
}

/// The standard error or output of this process goes to a file from now on.
fn redirect(file: &Fd<File>, number: i32) {
    sys::put_over(file.as_raw_fd(), number);
}

/// A file that the process writes, and the case reads from its start.
fn page() -> (Fd<File>, impl Fn() -> String) {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile().unwrap();
    let ours = file.try_clone().unwrap();
    let read = move || {
        let mut bytes = vec![0; usize::try_from(ours.metadata().unwrap().len()).unwrap()];
        ours.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    (Fd::new(file), read)
}

fn errors_and_panics_are_printed(method: StartMethod) {
    let (file, text) = page();
    let fails: fn(Fd<File>) -> anyhow::Result<()> = |file| {
        redirect(&file, 2);
        anyhow::bail!("as planned")
    };
    let failed = by(method).name("loser").spawn((file,), fails).unwrap();
    failed.join().unwrap_err();
    assert_eq!(text(), format!("loser: process {} failed: as planned\n", failed.pid()));

    let (file, text) = page();
    let panics: fn(Fd<File>) = |file| {
        redirect(&file, 2);
        panic!("out of plan")
    };
    by(method).spawn((file,), panics).unwrap().join().unwrap_err();
    assert!(text().contains("out of plan") && text().contains("exits.rs"), "{}", text());

    let (file, text) = page();
    let has_a_hook: fn(Fd<File>) = |file| {
        redirect(&file, 2);
        std::panic::set_hook(Box::new(|_| io::stderr().write_all(b"the hook of the function\n").unwrap()));
        panic!("out of plan")
    };
    let error = by(method).spawn((file,), has_a_hook).unwrap().join().unwrap_err();
    assert!(matches!(error, ProcessError::Panicked(panic) if panic.message == "out of plan"));
    assert_eq!(text(), "the hook of the function\n");
}

fn output_is_flushed(method: StartMethod) {
    let (file, text) = page();
    let process = by(method).spawn((file,), |file: Fd<File>| {
        redirect(&file, 1);
        io::stdout().write_all(b"no end of line").unwrap();
    });
    process.unwrap().join().unwrap();
    assert_eq!(text(), "no end of line");
}

fn ends_without_a_result_are_told(method: StartMethod) {
    let ways: fn(u8) -> u8 = |way| match way {
        0 => std::process::exit(0),
        1 => std::process::exit(3),
        2 => sys::end_now(4),
        3 => std::process::abort(),
        4 => sys::die_of(Signal::SIGSEGV),
        5 => sys::die_of(Signal::SIGKILL),
        _ => panic!("not executed: {}", Command::new("sh").args(["-c", "exit 9"]).exec()),
    };
    let ends = (0..7u8).map(|way| died(by(method).spawn((way,), ways).unwrap().join()));
    let ends: Vec<_> = ends.map(|status| status.code().or(status.signal().map(|signal| -signal))).collect();
    let [abort, segv, kill] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGKILL].map(|signal| Some(-signal));
    assert_eq!(ends, [Some(0), Some(3), Some(4), abort, segv, kill, Some(9)]);
}

fn panic_that_aborts_is_told(method: StartMethod) {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the second");
        }
    }
    let process = by(method).spawn((), || {
        let _bomb = Bomb;
        if std::hint::black_box(true) {
            panic!("the first");
        }
    });
    match process.unwrap().join().unwrap_err() {
        ProcessError::Died { status: Some(status), panic: Some(panic), .. } => {
            assert_eq!(status.signal(), Some(libc::SIGABRT));
            assert!(panic.message.starts_with("the "), "{panic:?}");
        }
        other => panic!("{other:?}"),
    }
}

fn panic_of_another_thread_is_its_own(method: StartMethod) {
    let process = by(method).spawn((), || std::thread::spawn(|| panic!("beside")).join().is_err());
    assert!(process.unwrap().join().unwrap());
}

fn threads_are_not_waited_for(method: StartMethod) {
    let process = by(method).spawn((), || drop(std::thread::spawn(park))).unwrap();
    process.join().unwrap();
    assert!(process.exit_status().unwrap().unwrap().success());
}

fn signals_end_it(method: StartMethod) {
    type Way = fn(&Process<()>) -> io::Result<()>;
    let ways: [(Way, i32); 4] = [
        (Process::terminate, libc::SIGTERM),
        (Process::interrupt, libc::SIGINT),
        (Process::kill, libc::SIGKILL),
        (Process::kill_tree, libc::SIGKILL),
    ];
    for (way, signal) in ways {
        let book = Notebook::new();
        let process = by(method).spawn((book.path(),), |book| {
            stage::note(&book, "here");
            park();
        });
        let process = process.unwrap();
        book.wait_for(1);
        way(&process).unwrap();
        assert_eq!(died(process.join()).signal(), Some(signal));
        // At once, whatever it has come to.
        let process = by(method).spawn((), park).unwrap();
        way(&process).unwrap();
        assert_eq!(died(process.join()).signal(), Some(signal));
    }
}

/// Runs a program, notes its id, and waits for it.
fn run_sleep(book: String) -> anyhow::Result<()> {
    let mut program = Command::new("sleep").arg("1000").spawn()?;
    stage::note(&book, program.id());
    program.wait()?;
    Ok(())
}

fn signals_reach_its_group(method: StartMethod) {
    for way in [Process::terminate, Process::interrupt, Process::kill] {
        let book = Notebook::new();
        let process = by(method).spawn((book.path(),), run_sleep).unwrap();
        let program: u32 = book.wait_for(1)[0].parse().unwrap();
        way(&process).unwrap();
        drop(process.join());
        stage::until_ended(&[program]);
    }
}

fn signals_after_the_end_do_nothing(method: StartMethod) {
    let process = by(method).spawn((), || ()).unwrap();
    process.join().unwrap();
    process.terminate().unwrap();
    process.interrupt().unwrap();
    process.kill().unwrap();
    process.kill_tree().unwrap();
    assert!(process.exit_status().unwrap().unwrap().success());
    process.join().unwrap();
}

fn stopped_process_goes_on(method: StartMethod) {
    let process = by(method).spawn((7u8,), |x| x).unwrap();
    stage::signal_if_there(process.pid(), Signal::SIGSTOP);
    let _early = process.join_timeout(std::time::Duration::from_millis(20)).unwrap();
    stage::signal_if_there(process.pid(), Signal::SIGCONT);
    assert_eq!(process.join().unwrap(), 7);
}

fn whole_tree_is_killed(method: StartMethod) {
    let run: fn(String) -> anyhow::Result<()> = |book| {
        let script = format!("echo $$ >> {book}; exec sleep 1000");
        Command::new("setsid").args(["--wait", "sh", "-c", &script]).status()?;
        Ok(())
    };
    let book = Notebook::new();
    let process = by(method).spawn((book.path(),), run).unwrap();
    let program: u32 = book.wait_for(1)[0].parse().unwrap();
    process.kill_tree().unwrap();
    drop(process.join());
    stage::until_ended(&[program]);
    assert!(processes::ended(process.pid()));
}

fn limit_of_processor_time_ends_it(method: StartMethod) {
    let spin: fn() = || {
        loop {
            std::hint::spin_loop();
        }
    };
    let process = by(method).rlimit(procpool::Limit::CpuTime, 1, None).spawn((), spin).unwrap();
    assert_eq!(died(process.join()).signal(), Some(libc::SIGXCPU));
}
