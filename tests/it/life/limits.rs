//! Arguments at their limits, and uses that the pool must refuse.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use procpool::Pool;
use procpool::PoolError;
use procpool::Side;
use procpool::StartError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    zeroes_are_refused,
    refusals_start_nothing,
    forgotten_init_is_told_before_anything_starts,
    fork_beside_threads_is_refused,
    fork_beside_threads_may_be_insisted_on,
    fork_beside_threads_needs_no_lock_of_the_loader,
    forked_copy_is_refused,
    forked_copy_harms_nothing,
    more_workers_than_processors,
    nested_pool_in_a_task,
    nesting_has_an_end,
    killing_a_worker_kills_its_nested_pool,
    panicking_input_is_an_error_at_its_position,
    panicking_input_of_an_imap_ends_it,
    missing_executable_is_told,
    worker_of_another_build_is_refused,
    function_outside_any_image_is_refused,
    long_running_parent_leaks_nothing,
];

fn zeroes_are_refused(method: StartMethod) {
    assert!(matches!(Pool::new(0), Err(PoolError::ZeroProcesses)));
    let builder = || Pool::builder().processes(1).start_method(method);
    assert!(matches!(builder().processes(0).build(), Err(PoolError::ZeroProcesses)));
    for many in [1 << 40, usize::MAX] {
        let refused = builder().processes(many).build();
        assert!(
            matches!(refused, Err(PoolError::TooManyProcesses { processes, .. }) if processes == many),
            "{refused:?}"
        );
    }
    assert!(matches!(builder().max_tasks_per_child(0).build(), Err(PoolError::ZeroMaxTasksPerChild)));
    let pool = builder().build().unwrap();
    let zero = |result: Result<u8, TaskError>| matches!(result, Err(TaskError::Refused(PoolError::ZeroChunkSize)));
    assert!(zero(pool.chunk_size(0).map([1u8], |x| x).map(|values| values[0])));
    assert!(zero(pool.chunk_size(0).map_async([1u8], |x| x).get().map(|values| values[0])));
    assert!(zero(pool.chunk_size(0).imap([1u8], |x| x).next().unwrap()));
    assert!(zero(pool.chunk_size(0).imap_unordered([1u8], |x| x).next().unwrap()));
    assert!(zero(pool.chunk_size(0).starmap([(1u8,)], |x| x).map(|values| values[0])));
    stage::assert_works(&pool);
}

fn refusals_start_nothing(method: StartMethod) {
    Pool::builder().processes(0).start_method(method).build().unwrap_err();
    Pool::builder().processes(2).max_tasks_per_child(0).start_method(method).build().unwrap_err();
    assert_eq!(processes::children(std::process::id()).len(), 0);
    assert_eq!(procpool::forkserver::pid(), None);
}

/// The victim never called `init`. Its pool must report that before it runs the program again, which would make another
/// pool, and so on. A fork runs no program, and works.
fn forgotten_init_is_told_before_anything_starts(method: StartMethod) {
    let output = harness::again("forgetful", &method.to_string()).output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    let expected = if method == StartMethod::Fork { "works" } else { "refused, and no child" };
    assert_eq!(report, expected, "{complaint}");
    assert!(output.status.success(), "{complaint}");
}

/// The victim of the case above.
pub(crate) fn forget_init(method: &str) -> ExitCode {
    let built = Pool::builder().processes(2).start_method(method.parse().unwrap()).build();
    let children = processes::descendants(std::process::id()).len();
    let report = match (&built, children) {
        (Ok(pool), _) => {
            stage::assert_works(pool);
            "works".to_owned()
        }
        (Err(PoolError::NotInitialized), 0) => "refused, and no child".to_owned(),
        (Err(error), children) => format!("{error}, and {children} children"),
    };
    std::io::stdout().write_all(report.as_bytes()).unwrap();
    ExitCode::SUCCESS
}

fn fork_beside_threads_is_refused(method: StartMethod) {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let foreign = thread::Builder::new().name("a-bystander".to_owned()).spawn(move || wait.recv()).unwrap();
    let built = Pool::builder().processes(1).start_method(method).build();
    match method {
        StartMethod::Fork => {
            let error = built.unwrap_err();
            let PoolError::Start(StartError::ForeignThreads { count: 1, names }) = &error else { panic!("{error:?}") };
            assert_eq!(names, &["a-bystander"]);
        }
        StartMethod::Spawn | StartMethod::Forkserver => stage::assert_works(&built.unwrap()),
    }
    release.send(()).unwrap();
    foreign.join().unwrap().unwrap();
    stage::assert_works(&stage::pool(method, 1));
}

fn fork_beside_threads_may_be_insisted_on(method: StartMethod) {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let foreign = thread::spawn(move || wait.recv());
    let builder = Pool::builder().processes(2).start_method(method);
    let pool = sys::despite_threads(builder).build().unwrap();
    stage::assert_works(&pool);
    release.send(()).unwrap();
    foreign.join().unwrap().unwrap();
}

fn fork_beside_threads_needs_no_lock_of_the_loader(method: StartMethod) {
    let is_over = AtomicBool::new(false);
    let walk_through_images = || {
        while !is_over.load(Ordering::Relaxed) {
            drop(start_methods::image::locate(stage::doze as *const () as usize));
            // Long enough for a thread that waits for the lock: it is not fair.
            thread::sleep(Duration::from_micros(20));
        }
    };
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(walk_through_images);
        }
        for _ in 0..20 {
            let builder = Pool::builder().processes(2).start_method(method);
            let pool = sys::despite_threads(builder).build().unwrap();
            stage::assert_works(&pool);
            pool.map(0..4u64, stage::doze).unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

static SHARED: OnceLock<Pool> = OnceLock::new();

fn is_copy<T>(result: &Result<T, TaskError>) -> bool {
    matches!(result, Err(TaskError::Refused(PoolError::ForkedCopy)))
}

fn forked_copy_is_refused(method: StartMethod) {
    let pool = SHARED.get_or_init(|| stage::pool(method, 1));
    stage::assert_works(pool);
    let wrong = sys::in_a_forked_copy(|| {
        let answers = [
            is_copy(&pool.apply((1u8,), |x| x)),
            is_copy(&pool.map([1u8], |x| x)),
            is_copy(&pool.apply_async((1u8,), |x| x).get()),
            is_copy(&pool.imap([1u8], |x| x).next().unwrap()),
            matches!(pool.join(), Err(PoolError::ForkedCopy)),
        ];
        answers.iter().fold(0, |bits, &good| 2 * bits + u8::from(!good))
    });
    assert_eq!(wrong, 0, "bits of the answers that were wrong: {wrong:b}");
    stage::assert_works(pool);
    // A static is never dropped, so the pool must be ended explicitly.
    pool.terminate();
    pool.join().unwrap();
}

fn forked_copy_harms_nothing(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    let before = pool.pids();
    let mut gate = Gate::closed();
    let running = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    let mut slot = Some(pool);
    let code = sys::in_a_forked_copy(|| {
        let pool = slot.take().unwrap();
        pool.terminate();
        pool.close();
        drop(pool);
        0
    });
    assert_eq!(code, 0);
    // What the copy took out of its slot is still in the slot of this process.
    let pool = slot.unwrap();
    stage::assert_works(&pool);
    gate.open();
    running.get().unwrap();
    assert_eq!(pool.pids(), before);
}

/// All workers at once: each item waits for all the others. Ten descriptors for each are more than they need.
fn more_workers_than_processors(method: StartMethod) {
    sys::want_descriptors(10 * 64);
    let pool = stage::pool(method, 64);
    let book = Notebook::new();
    let mut pids = pool
        .chunk_size(1)
        .map(vec![book.path(); 64], |book| {
            stage::note(&book, "here");
            stage::until("all", || fs::metadata(&book).unwrap().len() == 64 * 5);
            std::process::id()
        })
        .unwrap();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 64);
}

fn nested_pool_in_a_task(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let sums = pool.starmap((0..4u64).map(|x| (x, method.to_string())), |x, method| {
        let inner = stage::pool(method.parse().unwrap(), 2);
        let sum: u64 = inner.map(0..10, |y: u64| y * y).unwrap().iter().sum();
        inner.close();
        inner.join().unwrap();
        sum + x
    });
    assert_eq!(sums.unwrap(), [285, 286, 287, 288]);
}

/// Nests pools and returns how deep it got: each task makes a pool with a task that makes a pool.
fn dive(method: String) -> Result<u32, String> {
    let pool = Pool::builder().processes(1).start_method(method.parse().unwrap()).build();
    let pool = pool.map_err(|error| error.to_string())?;
    match pool.apply((method,), dive) {
        Ok(Ok(depth)) => Ok(depth + 1),
        Ok(Err(_)) => Ok(1),
        Err(error) => Err(error.to_string()),
    }
}

fn nesting_has_an_end(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let depth = pool.apply((method.to_string(),), dive).unwrap();
    // The worker that runs the first dive is at depth 1; the limit of ten counts processes, one per level.
    assert_eq!(depth, Ok(9));
}

fn killing_a_worker_kills_its_nested_pool(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (book, gate) = (Notebook::new(), Gate::closed());
    let handle = pool.apply_async((book.path(), gate.path(), method.to_string()), |book, gate, method| {
        let inner = stage::pool(method.parse().unwrap(), 1);
        inner
            .apply((book, gate), |book, gate| {
                stage::note(&book, std::process::id());
                stage::pass(&gate);
            })
            .map_err(|error| error.to_string())
    });
    let inner: u32 = book.wait_for(1)[0].parse().unwrap();
    let outer = pool.pids();
    assert!(!outer.contains(&inner));
    stage::signal(outer[0], nix::sys::signal::Signal::SIGKILL);
    stage::until_ended(&[inner]);
    assert!(matches!(handle.get(), Err(TaskError::WorkerDied { .. })));
    stage::assert_works(&pool);
}

fn stumbling(at: u32) -> impl Iterator<Item = u32> {
    (0..).inspect(move |&x| assert!(x < at, "the input stumbles at {x}"))
}

fn is_stumble<T>(result: &Result<T, TaskError>) -> bool {
    matches!(result, Err(TaskError::Input { message, .. }) if message.contains("the input stumbles"))
}

fn panicking_input_is_an_error_at_its_position(method: StartMethod) {
    let pool = stage::pool(method, 2);
    assert!(is_stumble(&pool.map(stumbling(10), |x| x)));
    assert!(is_stumble(&pool.map_async(stumbling(10), |x| x).get()));
    assert!(is_stumble(&pool.starmap(stumbling(0).map(|x| (x,)), |x| x)));
    let results = pool.map_results(stumbling(10), |x| x).unwrap();
    assert!(results.len() == 11 && is_stumble(&results[10]), "{results:?}");
    let values: Vec<u32> = results.into_iter().take(10).map(Result::unwrap).collect();
    assert_eq!(values, (0..10).collect::<Vec<_>>());
    stage::assert_works(&pool);
}

fn panicking_input_of_an_imap_ends_it(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for chunk_size in [1, 4, 100] {
        let mut results = pool.chunk_size(chunk_size).imap(stumbling(10), |x| x);
        for x in 0..10 {
            assert_eq!(results.next().unwrap().unwrap(), x);
        }
        assert!(is_stumble(&results.next().unwrap()));
        assert!(results.next().is_none());
        let unordered = pool.chunk_size(chunk_size).imap_unordered(stumbling(10), |x| x);
        let (mut values, mut stumbles) = (0, 0);
        for result in unordered {
            stumbles += usize::from(is_stumble(&result));
            values += usize::from(result.is_ok());
        }
        assert_eq!((values, stumbles), (10, 1));
    }
    stage::assert_works(&pool);
}

/// The program of the workers does not exist: a typed error, from `build` or from every handle.
fn missing_executable_is_told(method: StartMethod) {
    let built = Pool::builder().processes(1).start_method(method).executable("/nowhere/at-all").build();
    match (method, built) {
        // Fork runs no program.
        (StartMethod::Fork, built) => stage::assert_works(&built.unwrap()),
        (_, Err(error)) => assert!(matches!(&error, PoolError::Start(_)), "{error:?}"),
        (_, Ok(pool)) => match pool.apply((1u8,), |x| x) {
            Err(TaskError::Refused(PoolError::Broken { last, .. })) => {
                assert!(matches!(*last, PoolError::Start(_)))
            }
            other => panic!("{other:?}"),
        },
    }
}

/// A copy of this program with another build id, in which functions might be at any address.
fn worker_of_another_build_is_refused(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    let mut program = fs::read("/proc/self/exe").unwrap();
    let build_id = start_methods::image::build_id();
    let at = program.windows(build_id.len()).position(|window| window == build_id).expect("a linker that leaves one");
    program[at] ^= 0xff;
    fs::write(&other, program).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    let built = Pool::builder().processes(1).start_method(method).executable(&other).build();
    let error = match (method, built) {
        // Fork runs no program.
        (StartMethod::Fork, built) => return stage::assert_works(&built.unwrap()),
        (_, Err(error)) => error,
        (_, Ok(pool)) => match pool.apply((1u8,), |x| x) {
            Err(TaskError::Refused(error)) => error,
            other => panic!("{other:?}"),
        },
    };
    assert!(error.to_string().contains("build"), "{error}");
}

fn function_outside_any_image_is_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let nowhere = sys::function_outside_any_image();
    assert!(matches!(pool.apply((1u8,), nowhere), Err(TaskError::FunctionNotFound { .. })));
    assert!(matches!(pool.map(0..3u8, nowhere), Err(TaskError::FunctionNotFound { .. })));
    assert!(matches!(pool.map_async(0..3u8, nowhere).get(), Err(TaskError::FunctionNotFound { .. })));
    let mut items = pool.imap(0..3u8, nowhere);
    assert!(matches!(items.next(), Some(Err(TaskError::FunctionNotFound { .. }))));
    assert!(items.next().is_none());
    stage::assert_works(&pool);
}

fn long_running_parent_leaks_nothing(method: StartMethod) {
    let book = Notebook::new();
    let mut counts = Vec::new();
    for _ in 0..15 {
        let pool = stage::pool(method, 2);
        stage::assert_works(&pool);
        let failed = pool.apply((book.path(),), |_| -> anyhow::Result<()> { anyhow::bail!("no") });
        failed.unwrap_err();
        let encode = pool.apply((1u8,), |_| Unwritable).err();
        assert!(matches!(encode, Some(TaskError::Encode { side: Side::Result, .. })));
        drop(pool);
        counts.push((processes::descriptors(std::process::id()).len(), processes::thread_count()));
    }
    assert!(counts[1..].iter().all(|count| *count == counts[1]), "(descriptors, threads): {counts:?}");
}

#[derive(serde::Deserialize)]
struct Unwritable;

impl serde::Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("unwritable"))
    }
}
