//! The settings of workers: `env`, `current_dir` and `rlimit`, in the first workers and in replacements.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::signal::Signal;
use procpool::Limit;
use procpool::Pool;
use procpool::PoolBuilder;
use procpool::PoolError;
use procpool::StartError;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::forkserver;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::error;
use crate::harness::sys;

cases![
    variables_are_set_in_every_worker,
    variables_are_removed,
    cleared_environment_has_what_is_set,
    initializer_sees_the_settings,
    impossible_variable_is_told_by_build,
    directory_is_entered,
    relative_directory_is_that_of_the_call,
    missing_directory_is_told_by_build,
    directory_that_vanishes_breaks_the_pool_with_its_name,
    limits_are_observed,
    refused_limit_is_told_by_build,
    core_size_is_zero_unless_asked_for,
    hungry_task_costs_its_item,
    busy_task_dies_of_its_processor_time,
    few_open_files_are_enough,
    replacements_have_the_same_settings,
    building_leaves_nothing_of_its_trial,
];

fn builder(method: StartMethod, processes: usize) -> PoolBuilder {
    Pool::builder().processes(processes).start_method(method)
}

fn variable(name: String) -> Option<String> {
    env::var(name).ok()
}

fn ask(pool: &Pool, name: &str) -> Option<String> {
    pool.apply((name.to_owned(),), variable).unwrap()
}

fn directory(_: u8) -> String {
    env::current_dir().unwrap().to_str().unwrap().to_owned()
}

/// The soft and the hard limit.
fn own_limits(_: u8) -> [(u64, u64); 4] {
    [Resource::RLIMIT_NOFILE, Resource::RLIMIT_CORE, Resource::RLIMIT_CPU, Resource::RLIMIT_AS]
        .map(|resource| getrlimit(resource).unwrap())
}

/// The error that `build` returns. Nothing is left of it but the server that all pools share.
fn refused(builder: PoolBuilder) -> StartError {
    let PoolError::Start(error) = builder.build().unwrap_err() else { panic!("not the start") };
    let left = processes::children(std::process::id());
    assert!(left.iter().all(|child| Some(child.pid) == forkserver::pid()), "{left:?}");
    error
}

fn variables_are_set_in_every_worker(method: StartMethod) {
    let pool = builder(method, 3).env("IT_A", "lost").env("IT_A", "1 = 1").env("IT_B", "").build().unwrap();
    stage::until_all_work(&pool);
    let seen = pool.chunk_size(1).map(vec!["IT_A".to_owned(); 60], variable).unwrap();
    assert!(seen.iter().all(|value| value.as_deref() == Some("1 = 1")), "{seen:?}");
    assert_eq!(ask(&pool, "IT_B").as_deref(), Some(""));
    assert_eq!(variable("IT_A".to_owned()), None, "this process keeps its own");
    assert_eq!(ask(&stage::pool(method, 1), "IT_A"), None, "and so does every other pool");
}

fn variables_are_removed(method: StartMethod) {
    sys::set_env("IT_INHERITED", "yes");
    assert_eq!(ask(&stage::pool(method, 1), "IT_INHERITED").as_deref(), Some("yes"));
    let pool = builder(method, 1).env_remove("IT_INHERITED").env("IT_A", "1").env_remove("IT_A").build().unwrap();
    assert_eq!(ask(&pool, "IT_INHERITED"), None);
    assert_eq!(ask(&pool, "IT_A"), None);
    assert_eq!(variable("IT_INHERITED".to_owned()).as_deref(), Some("yes"));
}

fn cleared_environment_has_what_is_set(method: StartMethod) {
    let pool = builder(method, 1).env("IT_BEFORE", "1").env_clear().env("IT_AFTER", "2").build().unwrap();
    let all = pool.apply((0u8,), |_| env::vars().collect::<Vec<_>>()).unwrap();
    assert_eq!(all, [("IT_AFTER".to_owned(), "2".to_owned())]);
}

fn initializer_sees_the_settings(method: StartMethod) {
    fn look(expected: &str) -> anyhow::Result<()> {
        let seen = format!("{:?} {} {}", env::var("IT_A"), directory(0), own_limits(0)[0].0);
        anyhow::ensure!(seen == expected, "{seen}");
        Ok(())
    }
    let pool = builder(method, 2)
        .env("IT_A", "1")
        .current_dir("/")
        .rlimit(Limit::OpenFiles, 77, None)
        .initializer(("Ok(\"1\") / 77",), look)
        .build()
        .unwrap();
    stage::assert_works(&pool);
}

fn impossible_variable_is_told_by_build(method: StartMethod) {
    for name in ["", "A=B", "A\0"] {
        let error = refused(builder(method, 2).env(name, "1"));
        assert!(matches!(&error, StartError::Environment { name: told } if *told == *name), "{error}");
    }
    let error = refused(builder(method, 2).env("A", "x".repeat(1 << 20)));
    assert!(matches!(error, StartError::BootTooLarge { .. }), "{error}");
}

fn directory_is_entered(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().canonicalize().unwrap();
    let here = env::current_dir().unwrap();
    let pool = builder(method, 2).current_dir(&inside).build().unwrap();
    let seen: BTreeSet<String> = pool.chunk_size(1).map(0..20u8, directory).unwrap().into_iter().collect();
    assert_eq!(seen, BTreeSet::from([inside.display().to_string()]));
    assert_eq!(env::current_dir().unwrap(), here);
}

fn relative_directory_is_that_of_the_call(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().canonicalize().unwrap().join("inside");
    fs::create_dir(&inside).unwrap();
    let here = env::current_dir().unwrap();
    env::set_current_dir(folder.path()).unwrap();
    let asked = builder(method, 1).current_dir("inside").max_tasks_per_child(1);
    env::set_current_dir(here).unwrap();
    let pool = asked.build().unwrap();
    for _ in 0..3 {
        assert_eq!(pool.apply((0u8,), directory).unwrap(), inside.display().to_string());
    }
}

fn missing_directory_is_told_by_build(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let error = builder(method, 2).current_dir(&missing).build().unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("cannot enter the directory {missing:?}")) && text.contains("create it"), "{text}");
    match refused(builder(method, 2).current_dir(&missing)) {
        StartError::Directory { path, errno } => assert_eq!((path, errno), (missing.clone(), libc::ENOENT)),
        other => panic!("{other}"),
    }
    fs::write(&missing, "a file").unwrap();
    let error = refused(builder(method, 1).current_dir(&missing));
    assert!(matches!(error, StartError::Directory { errno: libc::ENOTDIR, .. }), "{error}");
}

/// Too late for `build`: the replacements cannot start.
fn directory_that_vanishes_breaks_the_pool_with_its_name(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().canonicalize().unwrap();
    let pool = builder(method, 1).current_dir(&inside).build().unwrap();
    stage::assert_works(&pool);
    drop(folder);
    stage::signal(pool.pids()[0], Signal::SIGKILL);
    // The worker that is dying may still have sent an answer.
    let mut answers = (0..100).map(|_| pool.apply((0u8,), directory));
    let broken = answers.find(|answer| matches!(answer, Err(TaskError::Refused(_)))).expect("a broken pool");
    let TaskError::Refused(PoolError::Broken { last, .. }) = error(broken) else { panic!("not broken") };
    let PoolError::Start(StartError::Directory { path, errno: libc::ENOENT }) = *last else { panic!("{last}") };
    assert_eq!(path, inside);
}

fn limits_are_observed(method: StartMethod) {
    let own = own_limits(0);
    let soft = [100, 4096, 1000, 1 << 40];
    let asked = builder(method, 2)
        .rlimit(Limit::OpenFiles, 100, None)
        .rlimit(Limit::CoreSize, 4096, None)
        .rlimit(Limit::CpuTime, 1000, None)
        .rlimit(Limit::AddressSpace, 1 << 40, None);
    let seen = asked.build().unwrap().map(0..8u8, own_limits).unwrap();
    assert!(seen.iter().all(|limits| limits.map(|(soft, _)| soft) == soft), "{seen:?}");
    assert!(seen.iter().all(|limits| limits.map(|(_, hard)| hard) == own.map(|(_, hard)| hard)), "{seen:?}");

    let asked = builder(method, 1)
        .rlimit(Limit::OpenFiles, 100, Some(200))
        .rlimit(Limit::CpuTime, Limit::UNLIMITED, Some(Limit::UNLIMITED))
        .rlimit(Limit::CpuTime, 1000, Some(2000))
        .rlimit(Limit::AddressSpace, 1 << 40, Some(1 << 41));
    let seen = asked.build().unwrap().apply((0u8,), own_limits).unwrap();
    assert_eq!([seen[0], seen[2], seen[3]], [(100, 200), (1000, 2000), (1 << 40, 1 << 41)]);
    assert_eq!(own_limits(0), own, "this process keeps its own");
}

fn refused_limit_is_told_by_build(method: StartMethod) {
    // Above fs.nr_open, which no process may exceed.
    let error = builder(method, 2).rlimit(Limit::OpenFiles, 10, Some(Limit::UNLIMITED)).build().unwrap_err();
    assert!(error.to_string().contains("cannot start a worker: the new process cannot be limited"), "{error}");
    let error = refused(builder(method, 2).rlimit(Limit::OpenFiles, 10, Some(Limit::UNLIMITED)));
    let StartError::Limit { resource, soft: 10, hard: Some(_), errno: libc::EPERM } = error else { panic!("{error}") };
    assert_eq!(resource, Limit::OpenFiles);
    let error = refused(builder(method, 2).rlimit(Limit::CpuTime, 10, Some(9)));
    assert!(matches!(error, StartError::Limit { errno: libc::EINVAL, .. }), "{error}");
}

fn core_size_is_zero_unless_asked_for(method: StartMethod) {
    let (_, hard) = own_limits(0)[1];
    assert_eq!(stage::pool(method, 1).apply((0u8,), own_limits).unwrap()[1], (0, hard));
    let pool = builder(method, 1).rlimit(Limit::CoreSize, 0, Some(0)).build().unwrap();
    assert_eq!(pool.apply((0u8,), own_limits).unwrap()[1], (0, 0));
    let died = error(pool.apply((0u8,), |_| -> u8 { sys::die_of(Signal::SIGSEGV) }));
    let TaskError::WorkerDied { status: Some(status), .. } = died else { panic!("{died:?}") };
    assert!(status.signal() == Some(Signal::SIGSEGV as i32) && !status.core_dumped(), "{status}");
}

/// One item checks its allocation and returns an error, another does not check and aborts. The other items are
/// unaffected.
fn hungry_task_costs_its_item(method: StartMethod) {
    fn eat(item: u32) -> anyhow::Result<usize> {
        let bytes = if item % 10 == 3 { 8 << 30 } else { 1 << 20 };
        let mut memory = Vec::<u8>::new();
        match item {
            3 => memory.try_reserve(bytes)?,
            _ => memory.reserve(bytes),
        }
        Ok(memory.capacity() >> 20)
    }
    let pool = builder(method, 2).rlimit(Limit::AddressSpace, 2 << 30, None).build().unwrap();
    let results = pool.map_results(0..40u32, eat).unwrap();
    for (item, result) in results.into_iter().enumerate() {
        match (item, result) {
            (3, result) => assert!(matches!(result, Err(TaskError::Failed(_))), "{result:?}"),
            (13 | 23 | 33, result) => {
                let TaskError::WorkerDied { status: Some(status), .. } = error(result) else {
                    panic!("item {item}");
                };
                assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
            }
            (_, result) => assert_eq!(result.unwrap(), 1, "item {item}"),
        }
    }
    stage::assert_works(&pool);
}

fn busy_task_dies_of_its_processor_time(method: StartMethod) {
    fn work(item: u32) -> u32 {
        loop {
            if std::hint::black_box(item) != 1 {
                return item;
            }
        }
    }
    let pool = builder(method, 1).rlimit(Limit::CpuTime, 1, None).build().unwrap();
    let results = pool.map_results(0..3u32, work).unwrap();
    let [Ok(0), Err(TaskError::WorkerDied { status: Some(status), .. }), Ok(2)] = &results[..] else {
        panic!("{results:?}");
    };
    assert_eq!(status.signal(), Some(Signal::SIGXCPU as i32), "{status}");
    stage::assert_works(&pool);
}

/// All descriptors of a worker may have higher numbers than the limit allows.
fn few_open_files_are_enough(method: StartMethod) {
    for limit in [0, 3] {
        let pool = builder(method, 2).rlimit(Limit::OpenFiles, limit, Some(limit)).build().unwrap();
        stage::assert_works(&pool);
        let opened = pool.apply((0u8,), |_| fs::File::open("/dev/null").is_ok()).unwrap();
        assert!(!opened, "{limit}");
        pool.close();
        pool.join().unwrap();
    }
}

/// After their share, after a death, and after this process has changed its own settings.
fn replacements_have_the_same_settings(method: StartMethod) {
    fn settings(_: u8) -> (u32, Option<String>, String, [(u64, u64); 4]) {
        (std::process::id(), variable("IT_A".to_owned()), directory(0), own_limits(0))
    }
    let here = env::current_dir().unwrap();
    let pool = builder(method, 1)
        .max_tasks_per_child(2)
        .env("IT_A", "1")
        .current_dir("/")
        .rlimit(Limit::OpenFiles, 50, Some(60))
        .rlimit(Limit::CpuTime, 1000, None)
        .build()
        .unwrap();
    env::set_current_dir("/proc").unwrap();
    let (first, variable, directory, limits) = pool.apply((0u8,), settings).unwrap();
    assert_eq!((variable.as_deref(), directory.as_str(), limits[0]), (Some("1"), "/", (50, 60)));
    let mut pids = BTreeSet::from([first]);
    for round in 0..8 {
        let (pid, variable_now, directory_now, limits_now) = pool.apply((0u8,), settings).unwrap();
        assert_eq!((&variable_now, &directory_now, limits_now), (&variable, &directory, limits));
        pids.insert(pid);
        if round == 4 {
            let died = pool.apply((0u8,), |_| -> u8 { sys::die_of(Signal::SIGKILL) });
            assert!(matches!(died, Err(TaskError::WorkerDied { .. })), "{died:?}");
        }
    }
    assert!(pids.len() >= 5, "{pids:?}");
    env::set_current_dir(here).unwrap();
}

/// To check that the settings can be applied, `build` starts a process that is not a worker.
fn building_leaves_nothing_of_its_trial(method: StartMethod) {
    let pool = builder(method, 3).current_dir("/").build().unwrap();
    let workers: BTreeSet<u32> = pool.pids().into_iter().collect();
    assert_eq!(workers.len(), 3);
    stage::assert_works(&pool);
    let all = processes::descendants(std::process::id());
    let others: Vec<_> = all.iter().filter(|process| !workers.contains(&process.pid)).collect();
    // The server, or the template.
    let expected = if method == StartMethod::Spawn { 0 } else { 1 };
    assert_eq!(others.len(), expected, "{others:?}");
}
