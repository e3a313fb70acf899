//! Claim: an idle pool costs next to nothing.
//!
//! First the private memory of an idle worker: `Private_Clean` plus `Private_Dirty` of `smaps_rollup`, in KiB, mean of two
//! workers that have run a few items. Memory shared with the parent, the fork server or other workers exists once and is
//! not counted.
//!
//! - `procpool`: by each start method;
//! - `procspawn`: by its only method;
//! - `fork`, the limit: a bare forked process that blocks in a read.
//!
//! Then what large values leave behind: the memory of a pool of four, its parent included, that is mapped or held in files
//! for large values, in KiB, after 40 values of 4 MiB each way, and once more after two seconds of idleness.
//!
//! Then the processor time of idle pools of 64, all measured during the same ten seconds: workers, fork server, and the
//! threads that each pool keeps in this process. *On a processor* is from `schedstat`, exact to nanoseconds;
//! `utime + stime` is from `stat`, in ticks of 10 ms; *switches* counts context switches.

mod common {
    pub(crate) mod contest;
    pub(crate) mod fork;
    pub(crate) mod quick;
    pub(crate) mod quiet;
    pub(crate) mod table;
    pub(crate) mod threads;
}

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::hint::black_box;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use common::contest::Contest;
use common::fork::Forked;
use common::quick::sized;
use common::quiet::wait_for_one_thread;
use common::table::print_aligned;
use common::threads;
use procpool::Pool;
use procpool::StartMethod;

const WORKERS: usize = 64;

fn main() -> anyhow::Result<()> {
    procpool::init();
    procspawn::init();
    memory();
    after_large_values()?;
    processors()
}

fn after_large_values() -> anyhow::Result<()> {
    let pool = Pool::new(4)?;
    for _ in 0..sized(40, 8) {
        black_box(pool.map((0..4).map(|_| "x".repeat(4 << 20)), |text| text)?);
    }
    let used = large_value_kib(&pool)?;
    sleep(Duration::from_secs(2));
    let idle = large_value_kib(&pool)?;
    let line = |name: &str, figures: [u64; 2]| vec![name.to_owned(), figures[0].to_string(), figures[1].to_string()];
    print_aligned(&[
        vec!["idle: memory for large values, KiB".to_owned(), "in use".to_owned(), "after 2 s".to_owned()],
        line("procpool", [used, idle]),
    ]);
    pool.close();
    pool.join()?;
    Ok(())
}

/// The files for large values that the processes of a pool have open or mapped, each counted once.
fn large_value_kib(pool: &Pool) -> anyhow::Result<u64> {
    let mut files = BTreeMap::new();
    for pid in pool.pids().into_iter().chain([std::process::id()]) {
        for folder in ["fd", "map_files"] {
            for entry in fs::read_dir(format!("/proc/{pid}/{folder}"))? {
                let path = entry?.path();
                let target = fs::read_link(&path).unwrap_or_default();
                if target.to_string_lossy().starts_with("/memfd:procpool ")
                    && let Ok(file) = fs::metadata(&path)
                {
                    files.insert(file.ino(), file.blocks() / 2);
                }
            }
        }
    }
    Ok(files.values().sum())
}

fn memory() {
    Contest::new("idle: private memory of a worker in KiB, less is better", StartMethod::ALL.map(|it| it.to_string()))
        .add("procpool", || {
            let [first, second, third] = StartMethod::ALL.map(procpool_worker);
            Ok([first?, second?, third?])
        })
        .add("procspawn", || {
            let spawned = procspawn_worker()?;
            wait_for_one_thread()?;
            Ok(StartMethod::ALL.map(|method| if method == StartMethod::Spawn { spawned } else { f64::NAN }))
        })
        .add("fork (limit)", || {
            let forked = bare_process()?;
            Ok(StartMethod::ALL.map(|method| if method == StartMethod::Spawn { f64::NAN } else { forked }))
        })
        .run();
}

fn procpool_worker(method: StartMethod) -> anyhow::Result<f64> {
    let pool = Pool::builder().processes(2).start_method(method).build()?;
    black_box(pool.map(0..100, identity)?);
    let private = mean_private_kib(pool.pids());
    pool.close();
    pool.join()?;
    private
}

fn procspawn_worker() -> anyhow::Result<f64> {
    let before = children()?;
    let pool = procspawn::Pool::new(2)?;
    for item in 0..100 {
        black_box(pool.spawn(item, identity).join()?);
    }
    let private = mean_private_kib(&children()? - &before);
    pool.shutdown();
    private
}

/// The children of this process. `procspawn` has no list of its workers' pids; workers by forkserver are children of the
/// server.
fn children() -> anyhow::Result<BTreeSet<u32>> {
    let me = std::process::id().to_string();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let pid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        // A process that ends meanwhile is not one of the workers.
        if let (Some(pid), Ok(stat)) = (pid, fs::read_to_string(path.join("stat"))) {
            if stat_fields(&stat).nth(1) == Some(&me) {
                found.insert(pid);
            }
        }
    }
    Ok(found)
}

/// The fields from the third on. The second, the name, may contain anything and ends at the last parenthesis.
fn stat_fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit(')').next().unwrap_or_default().split_whitespace()
}

fn bare_process() -> anyhow::Result<f64> {
    let (near, mut far) = UnixStream::pair()?;
    let inherited = near.try_clone()?;
    let process = Forked::run(|| {
        drop(inherited);
        drop(far.read(&mut [0]));
    })?;
    let private = mean_private_kib([process.pid.as_raw().try_into()?]);
    near.shutdown(std::net::Shutdown::Both)?;
    process.wait()?;
    private
}

fn identity(item: u64) -> u64 {
    item
}

/// Mean private memory, after a pause in which the processes fall asleep.
fn mean_private_kib(pids: impl IntoIterator<Item = u32>) -> anyhow::Result<f64> {
    sleep(Duration::from_millis(20));
    let (mut processes, mut private) = (0.0, 0.0);
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        private += kib(&rollup, "Private_Clean:")? + kib(&rollup, "Private_Dirty:")?;
        processes += 1.0;
    }
    Ok(private / processes)
}

fn kib(text: &str, name: &str) -> anyhow::Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(value.trim_end_matches("kB").trim().parse()?)
}

/// Usage so far: nanoseconds, ticks, switches.
type Used = [u64; 3];

/// The kernel tasks of one pool of 64, by their folders in /proc.
struct Party {
    name: &'static str,
    tasks: Vec<PathBuf>,
}

impl Party {
    /// The workers, and the threads of this process that did not exist before.
    fn new(
        name: &'static str,
        workers: impl IntoIterator<Item = u32>,
        threads_before: &BTreeSet<PathBuf>,
    ) -> anyhow::Result<Self> {
        let mut tasks: Vec<PathBuf> = tasks_of("self")?.difference(threads_before).cloned().collect();
        for worker in workers {
            tasks.extend(tasks_of(&worker.to_string())?);
        }
        Ok(Self { name, tasks })
    }

    fn used(&self) -> anyhow::Result<Used> {
        let mut sum = [0; 3];
        for task in &self.tasks {
            let used = used_by(task).with_context(|| format!("{} of {}", task.display(), self.name))?;
            sum.iter_mut().zip(used).for_each(|(sum, used)| *sum += used);
        }
        Ok(sum)
    }
}

fn processors() -> anyhow::Result<()> {
    let before = tasks_of("self")?;
    let pool = Pool::new(WORKERS)?;
    black_box(pool.map(0..1000, identity)?);
    let workers = pool.pids().into_iter().chain(procpool::forkserver::pid());
    let ours = Party::new("procpool", workers, &before)?;

    let before = tasks_of("self")?;
    let rayon_pool = threads::thread_pool(WORKERS)?;
    threads::one_by_one(&rayon_pool, 1000);
    let rayon = Party::new("rayon", [], &before)?;

    let before = tasks_of("self")?;
    let children_before = children()?;
    let procspawn_pool = procspawn::Pool::new(WORKERS)?;
    for item in 0..1000 {
        black_box(procspawn_pool.spawn(item, identity).join()?);
    }
    let procspawn = Party::new("procspawn", &children()? - &children_before, &before)?;

    let parties = [ours, rayon, procspawn];
    // Threads that spin before they sleep are asleep after this.
    sleep(sized(Duration::from_secs(1), Duration::from_millis(100)));
    let begun = parties.iter().map(Party::used).collect::<anyhow::Result<Vec<Used>>>()?;
    let seconds = sized(10.0, 0.5);
    sleep(Duration::from_secs_f64(seconds));

    let mut lines = vec![
        format!("idle: pools of {WORKERS} in {seconds} s"),
        "tasks of the kernel".to_owned(),
        "on a processor, µs".to_owned(),
        "utime + stime, ticks".to_owned(),
        "switches".to_owned(),
    ]
    .into_iter()
    .map(|name| vec![name])
    .collect::<Vec<_>>();
    for (party, begun) in parties.iter().zip(begun) {
        let ended = party.used()?;
        let [nanos, ticks, switches] = std::array::from_fn(|index| ended[index] - begun[index]);
        let figures =
            [party.tasks.len().to_string(), (nanos / 1000).to_string(), ticks.to_string(), switches.to_string()];
        lines
            .iter_mut()
            .zip([party.name.to_owned()].into_iter().chain(figures))
            .for_each(|(line, cell)| line.push(cell));
    }
    print_aligned(&lines);
    Ok(())
}

fn tasks_of(process: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let folder = format!("/proc/{process}/task");
    Ok(fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

fn used_by(task: &Path) -> anyhow::Result<Used> {
    let schedstat = fs::read_to_string(task.join("schedstat"))?;
    let nanos = schedstat.split(' ').next().unwrap_or_default().parse()?;
    let stat = fs::read_to_string(task.join("stat"))?;
    let ticks = stat_fields(&stat).skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    let status = fs::read_to_string(task.join("status"))?;
    let switches = status.lines().filter(|line| line.contains("voluntary_ctxt_switches")).map(|line| {
        let count = line.split(':').nth(1).unwrap_or_default().trim();
        count.parse::<u64>()
    });
    Ok([nanos, ticks, switches.sum::<Result<u64, _>>()?])
}
