//! Counts the words of every text file under some folders, once for each start method, and compares the counts.
//!
//! ```text
//! cargo run --release --example wordcount -- [options] [folder or file]...
//! ```
//!
//! One file is one item. A file that cannot be read, or is not UTF-8, does not affect the others.

#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(clippy::print_stderr, reason = "errors are printed to stderr, apart from the results")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::num::NonZero;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use anyhow::Context;
use anyhow::anyhow;
use anyhow::bail;
use procpool::Pool;
use procpool::StartMethod;
use procpool::forkserver;
use serde::Deserialize;
use serde::Serialize;

const HELP: &str = "\
Counts words with a pool of worker processes, once for each start method.

usage: wordcount [options] [folder or file]...

  --method METHOD           fork, spawn or forkserver; may be given again (default: each of them)
  --processes N             how many workers (default: one for each processor)
  --max-tasks-per-child N   replace a worker after N files (default: never)
  --help                    show this

Without a folder it reads the folder of this project. Folders called `target` and `.git` are skipped, and symbolic
links are not followed. A word is a run of letters and digits; upper and lower case are the same.
Exit status: 0 if the counts are the same for all methods, 1 if not or if a pool fails, 2 for a wrong command line.";

/// How many words are shown, and how many workers for each parent.
const SHOWN_MAX: usize = 10;

#[derive(Debug, Default)]
struct Options {
    methods: Vec<StartMethod>,
    processes: Option<NonZero<usize>>,
    max_tasks_per_child: Option<NonZero<usize>>,
    roots: Vec<PathBuf>,
    help: bool,
}

type Words = HashMap<String, u64>;

/// A worker's report on one file.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    pid: u32,
    parent: u32,
    /// The words, or the reason why there are none.
    words: Result<Words, String>,
}

/// The results of one pool.
#[derive(Debug, Default)]
struct Counts {
    words: Words,
    files: usize,
    /// Path and reason of every file that could not be counted, in the order of the input.
    problems: Vec<(PathBuf, String)>,
    /// How many of these have no value from the task, so that the file need not be the cause.
    lost: usize,
    workers_of: BTreeMap<u32, BTreeSet<u32>>,
    took: Duration,
}

fn main() -> ExitCode {
    procpool::init();
    let options = match parse(env::args_os().skip(1)) {
        Ok(options) if options.help => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(options) => options,
        Err(error) => {
            eprintln!("wordcount: {error:#}; see --help");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("wordcount: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<Options> {
    let mut options = Options::default();
    let mut arguments = arguments;
    let mut only_paths = false;
    while let Some(argument) = arguments.next() {
        // An argument that is not UTF-8 cannot be an option.
        let text = argument.to_str().unwrap_or_default();
        if only_paths || !text.starts_with('-') {
            options.roots.push(existing(argument)?);
            continue;
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (text, None),
        };
        let mut value = || {
            let value = value.clone().or_else(|| arguments.next()).with_context(|| format!("{name} needs a value"))?;
            value.into_string().map_err(|value| anyhow!("{name}: {} is not UTF-8", value.to_string_lossy()))
        };
        match name {
            "--method" => options.methods.push(value()?.parse()?),
            "--processes" => options.processes = Some(number(name, &value()?)?),
            "--max-tasks-per-child" => options.max_tasks_per_child = Some(number(name, &value()?)?),
            "--help" | "-h" if text == name => options.help = true,
            "--" if text == name => only_paths = true,
            _ => bail!("unknown option {text}"),
        }
    }
    if options.methods.is_empty() {
        options.methods = StartMethod::ALL.to_vec();
    }
    if options.roots.is_empty() {
        let project = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        // The program may have been copied to a machine without this folder.
        options.roots = vec![if project.is_dir() { project } else { Path::new(".") }.to_owned()];
    }
    Ok(options)
}

fn existing(argument: OsString) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(argument);
    let kind = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.file_type();
    if !kind.is_dir() && !kind.is_file() {
        bail!("{} is neither a folder nor a file", path.display());
    }
    Ok(path)
}

fn number(name: &str, text: &str) -> anyhow::Result<NonZero<usize>> {
    text.parse().map_err(|_| anyhow!("{name} takes a number of at least 1, not {text:?}"))
}

/// Every file under `roots`, sorted, each once, and the folders that could not be read.
fn walk(roots: &[PathBuf]) -> (Vec<PathBuf>, Vec<(PathBuf, String)>) {
    let mut found = BTreeSet::new();
    let mut problems = Vec::new();
    let (mut folders, files): (Vec<PathBuf>, Vec<PathBuf>) = roots.iter().cloned().partition(|path| path.is_dir());
    found.extend(files);
    while let Some(folder) = folders.pop() {
        if let Err(error) = list(&folder, &mut folders, &mut found) {
            problems.push((folder, error.to_string()));
        }
    }
    (found.into_iter().collect(), problems)
}

fn list(folder: &Path, folders: &mut Vec<PathBuf>, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let is_skipped = ["target", ".git"].into_iter().any(|name| entry.file_name() == name);
        if kind.is_dir() && !is_skipped {
            folders.push(entry.path());
        } else if kind.is_file() {
            // Only files: opening a pipe without a writer would block for ever.
            files.insert(entry.path());
        }
    }
    Ok(())
}

/// The task. The path is an `OsString`, which serde serializes with any bytes; it serializes a `PathBuf` only if it is
/// UTF-8.
fn count_file(path: OsString) -> anyhow::Result<Report> {
    let (pid, parent) = pid_and_parent()?;
    let words = match fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => Ok(count(&text)),
        Ok(Err(error)) => Err(format!("not UTF-8 text: {}", error.utf8_error())),
        Err(error) => Err(error.to_string()),
    };
    Ok(Report { pid, parent, words })
}

fn count(text: &str) -> Words {
    let mut words = Words::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *words.entry(word.to_lowercase()).or_default() += 1;
    }
    words
}

/// Reads /proc/self/stat: `pid (name) state parent ...`, where the name may contain any character, parentheses
/// included.
fn pid_and_parent() -> anyhow::Result<(u32, u32)> {
    let pid = std::process::id();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading /proc/PID/stat")?;
    let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
    Ok((pid, parent.context("/proc/PID/stat names no parent")?.parse()?))
}

fn count_all(method: StartMethod, options: &Options, paths: &[PathBuf]) -> anyhow::Result<Counts> {
    let began = Instant::now();
    let mut builder = Pool::builder().start_method(method).name("wordcount");
    if let Some(processes) = options.processes {
        builder = builder.processes(processes.get());
    }
    if let Some(files) = options.max_tasks_per_child {
        builder = builder.max_tasks_per_child(files.get());
    }
    let pool = builder.build()?;
    let mut counts = Counts::default();
    // In order, so that an error in the place of a report can be attributed to its file.
    let reports = pool.imap(paths.iter().map(|path| path.clone().into_os_string()), count_file);
    for (path, report) in paths.iter().zip(reports) {
        match report {
            Ok(report) => counts.add(path, report),
            // The worker died on this file, or could not process it. The other files are unaffected.
            Err(error) => {
                counts.lost += 1;
                counts.problems.push((path.clone(), error.to_string()));
            }
        }
    }
    pool.close();
    pool.join()?;
    counts.took = began.elapsed();
    Ok(counts)
}

impl Counts {
    fn add(&mut self, path: &Path, report: Report) {
        self.workers_of.entry(report.parent).or_default().insert(report.pid);
        match report.words {
            Err(reason) => self.problems.push((path.to_owned(), reason)),
            Ok(words) => {
                self.files += 1;
                for (word, times) in words {
                    *self.words.entry(word).or_default() += times;
                }
            }
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        let places = |counts: &Self| counts.problems.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        self.words == other.words && self.files == other.files && places(self) == places(other)
    }

    /// The most frequent words, in alphabetical order where counts are equal.
    fn top(&self) -> Vec<(&str, u64)> {
        let mut words: Vec<(&str, u64)> = self.words.iter().map(|(word, times)| (word.as_str(), *times)).collect();
        words.sort_unstable_by(|(a, a_times), (b, b_times)| b_times.cmp(a_times).then(a.cmp(b)));
        words.truncate(SHOWN_MAX);
        words
    }
}

/// Whether all methods agree.
fn run(options: &Options) -> anyhow::Result<bool> {
    let began = SystemTime::now();
    let (paths, unread_folders) = walk(&options.roots);
    println!("{} files", paths.len());
    for (folder, reason) in &unread_folders {
        eprintln!("skipped folder {}: {reason}", folder.display());
    }
    let mut first: Option<Counts> = None;
    let mut agree = true;
    let mut lost = 0;
    for &method in &options.methods {
        let counts = count_all(method, options, &paths).with_context(|| format!("the pool by {method}"))?;
        show(method, &counts);
        lost += counts.lost;
        // The problem of a file is reported once, that of a worker each time.
        if first.is_none() || counts.lost > 0 {
            report_problems(method, &counts);
        }
        match &first {
            Some(first) => agree &= counts.is_same(first),
            None => first = Some(counts),
        }
    }
    let methods = options.methods.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (options.methods.len(), agree) {
        (1, _) => println!("\none method ({methods}), nothing to compare"),
        (_, true) => println!("\nthe counts are the same for {methods}"),
        (_, false) => {
            eprintln!("\nthe counts DIFFER between {methods}");
            report_changes(&paths, began, lost);
        }
    }
    Ok(agree)
}

fn show(method: StartMethod, counts: &Counts) {
    let seconds = counts.took.as_secs_f64();
    let files = counts.files + counts.problems.len();
    println!("\n{method}");
    for (parent, workers) in &counts.workers_of {
        let mut pids = workers.iter().take(SHOWN_MAX).map(ToString::to_string).collect::<Vec<_>>().join(" ");
        if workers.len() > SHOWN_MAX {
            pids += &format!(" and {} more", workers.len() - SHOWN_MAX);
        }
        println!("  workers {pids}; their parent is {parent}, {}", describe_parent(*parent));
    }
    println!(
        "  {:.0} files per second ({files} in {seconds:.3} s, from making the pool to its end)",
        files as f64 / seconds
    );
    println!("  {} counted, {} not; the most frequent words:", counts.files, counts.problems.len());
    for (word, times) in counts.top() {
        println!("{times:>12}  {word}");
    }
}

fn report_problems(method: StartMethod, counts: &Counts) {
    for (path, reason) in &counts.problems {
        eprintln!("  {method}: not counted: {}: {reason}", path.display());
    }
}

/// Counts may only differ for files that have changed meanwhile.
fn report_changes(paths: &[PathBuf], since: SystemTime, lost: usize) {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let changed: Vec<&PathBuf> =
        paths.iter().filter(|path| modified(path).map_or(true, |modified| modified >= since)).collect();
    for path in &changed {
        eprintln!("  changed or removed meanwhile: {}", path.display());
    }
    match (lost, changed.len()) {
        (0, 0) => eprintln!("  no file has changed and no worker was lost: the pool is at fault, please report it"),
        (0, _) => {}
        (lost, _) => eprintln!("  files that have no count because of their worker: {lost}; see above"),
    }
}

fn describe_parent(parent: u32) -> &'static str {
    if parent == std::process::id() {
        "this process"
    } else if forkserver::pid() == Some(parent) {
        "the fork server"
    } else {
        "the single-threaded copy of this process that forks replacements"
    }
}
