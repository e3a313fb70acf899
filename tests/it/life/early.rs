//! Threads that exist before `init`: they are in every spawned worker and in the fork server as well.
//!
//! The program of these cases is this binary again, which starts a thread in `main` before it calls `init`, as
//! `#[tokio::main]` does.

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use procpool::Pool;
use procpool::PoolError;
use procpool::StartError;
use procpool::StartMethod;

use crate::harness;
use crate::harness::cases;
use crate::harness::stage;
use crate::harness::sys;

cases![
    threads_before_init_are_named_with_a_way_out,
    pool_without_a_chosen_method_works_beside_threads_before_init,
    pool_without_a_chosen_method_is_refused_inside_a_runtime,
    threads_before_init_may_be_promised_to_hold_no_lock,
];

/// What a thread of tokio is called, and one of another library.
const NAMES: [&str; 2] = ["tokio-runtime-worker", "blas"];

type Scene = fn(StartMethod) -> String;

/// Those of [`OF_ANOTHER_LIBRARY`] are not inside a runtime.
const SCENES: &[(&str, Scene)] =
    &[("chosen", chosen), ("default", default), (OF_ANOTHER_LIBRARY, default), ("promised", promised)];
const OF_ANOTHER_LIBRARY: &str = "default beside a library";

/// Called by `main` before `init`, in the processes that play a scene here.
pub(crate) fn begin_main(scene: &str) {
    let name = NAMES[usize::from(scene.starts_with(OF_ANOTHER_LIBRARY))];
    // A thread has its name once it runs.
    let (started, starting) = mpsc::channel();
    let body = move || {
        started.send(()).unwrap();
        loop {
            thread::park();
        }
    };
    drop(thread::Builder::new().name(name.to_owned()).spawn(body).unwrap());
    starting.recv().unwrap();
}

/// Runs `scene|method`, and prints what it returns.
pub(crate) fn play(name: &str) -> ExitCode {
    let (scene, method) = name.split_once('|').unwrap();
    let (_, scene) = SCENES.iter().find(|(known, _)| *known == scene).unwrap();
    std::io::stdout().write_all(scene(method.parse().unwrap()).as_bytes()).unwrap();
    ExitCode::SUCCESS
}

fn outcome(scene: &str, method: StartMethod) -> String {
    let output = harness::again("early", &format!("{scene}|{method}")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Works, dies, is replaced, works.
fn check(pool: &Pool) -> String {
    stage::assert_works(pool);
    pool.apply((1u8,), |_| -> u8 { std::process::abort() }).unwrap_err();
    stage::assert_works(pool);
    pool.terminate();
    pool.join().unwrap();
    "works".to_owned()
}

fn report(built: Result<Pool, PoolError>) -> String {
    match built {
        Ok(pool) => check(&pool),
        Err(error @ PoolError::Start(StartError::ForeignThreads { .. })) => format!("beside threads: {error}"),
        Err(error @ PoolError::Start(StartError::ServerThreads { .. })) => format!("server with threads: {error}"),
        Err(error @ PoolError::Start(StartError::InRuntime)) => format!("inside a runtime: {error}"),
        Err(error) => panic!("{error:?}"),
    }
}

fn chosen(method: StartMethod) -> String {
    report(Pool::builder().processes(2).start_method(method).build())
}

fn threads_before_init_are_named_with_a_way_out(method: StartMethod) {
    let outcome = outcome("chosen", method);
    match method {
        StartMethod::Spawn => {
            assert!(outcome.starts_with("inside a runtime: "), "{outcome}");
            assert!(outcome.contains("runtime.block_on("), "{outcome}");
        }
        StartMethod::Fork => {
            assert!(outcome.starts_with("beside threads: "), "{outcome}");
            assert!(outcome.contains("\"tokio-runtime-w\"") && outcome.contains("use spawn"), "{outcome}");
            assert!(outcome.contains("make the pool, here") && outcome.contains("runtime.block_on("), "{outcome}");
        }
        StartMethod::Forkserver => {
            assert!(outcome.starts_with("server with threads: "), "{outcome}");
            assert!(outcome.contains("\"tokio-runtime-w\"") && outcome.contains("runtime.block_on("), "{outcome}");
        }
    }
}

fn default(_: StartMethod) -> String {
    report(Pool::new(2))
}

fn pool_without_a_chosen_method_works_beside_threads_before_init(method: StartMethod) {
    assert_eq!(outcome(OF_ANOTHER_LIBRARY, method), "works");
}

fn pool_without_a_chosen_method_is_refused_inside_a_runtime(method: StartMethod) {
    let outcome = outcome("default", method);
    assert!(outcome.starts_with("inside a runtime: ") && outcome.contains("runtime.block_on("), "{outcome}");
}

fn promised(method: StartMethod) -> String {
    report(sys::despite_threads(Pool::builder().processes(2).start_method(method)).build())
}

fn threads_before_init_may_be_promised_to_hold_no_lock(method: StartMethod) {
    // There is nothing to promise for spawn: the runtime is in the way, and not its threads.
    let expected = if method == StartMethod::Spawn { "inside a runtime: " } else { "works" };
    assert!(outcome("promised", method).starts_with(expected));
}
