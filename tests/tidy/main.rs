//! The rules of this repository that the compiler does not check.
//!
//! 1. The rooms of each crate have an order, and imports go down only. No files import each other in a circle.
//! 2. Only the listed files contain `unsafe`.
//! 3. Every file, tests included, begins with a line that says what it is, and has at most 400 lines of code.
//! 4. `docs/ARCHITECTURE.md` is short and names every room. Paths and cases that the pages name exist.
//! 5. Every fuzz target also runs in the plain tests, with a corpus.
//!
//! The checks are functions of texts, so that `planted.rs` can show that they find what they are there for.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod imports;
mod lex;
mod pages;
mod planted;
mod rooms;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use imports::Sources;
use rooms::Rooms;

struct Crate {
    src: &'static str,
    rooms: &'static Rooms,
    /// The files that may lift the lint `unsafe_code`, which the workspace denies.
    unsafe_files: &'static [&'static str],
}

const CRATES: &[Crate] = &[PROCPOOL, START_METHODS];

const PROCPOOL: Crate = Crate {
    src: "src",
    rooms: &[
        &["error"],
        &["sys"],
        &["observe"],
        &["values"],
        &["work"],
        &["transport", "schedule", "ipc"],
        &["engine", "worker"],
        &["driver", "process"],
        &["api"],
        &["threads"],
        &["fuzz"],
    ],
    unsafe_files: &[
        "src/api/builder.rs",
        "src/engine/watch.rs",
        "src/fuzz/heap.rs",
        "src/ipc/latch/thread.rs",
        "src/ipc/memory/array.rs",
        "src/ipc/memory/atomics.rs",
        "src/ipc/segment.rs",
        "src/process/builder.rs",
        "src/sys/clock.rs",
        "src/sys/owner_process.rs",
        "src/sys/stack.rs",
        "src/sys/start_choice.rs",
        "src/transport/ring/memory.rs",
        "src/values/blob/buffer.rs",
        "src/values/blob/constant.rs",
        "src/values/blob/mapping.rs",
        "src/values/blob/tests.rs",
        "src/values/format/numbers.rs",
        "src/work/function.rs",
    ],
};

const START_METHODS: Crate = Crate {
    src: "start_methods/src",
    rooms: &[
        &["exit", "method", "settings"],
        &["error"],
        &["sys"],
        &["message"],
        &["child"],
        &["birth"],
        &["start"],
        &["fuzz"],
    ],
    unsafe_files: &[
        "start_methods/src/birth/function.rs",
        "start_methods/src/fuzz/record.rs",
        "start_methods/src/start/starter.rs",
        "start_methods/src/sys/calls.rs",
        "start_methods/src/sys/environ.rs",
        "start_methods/src/sys/faults.rs",
        "start_methods/src/sys/image.rs",
    ],
};

/// In tests, benches and examples.
const OTHER_UNSAFE_FILES: &[&str] = &[
    "benches/common/fork.rs",
    "benches/common/futex.rs",
    "benches/common/mapped.rs",
    "benches/common/shared.rs",
    "examples/async/tokio_channel.rs",
    "examples/async/tokio_process.rs",
    "examples/fork_deadlock.rs",
    "examples/soak/soak.rs",
    "start_methods/tests/it/copies.rs",
    "start_methods/tests/it/early.rs",
    "start_methods/tests/it/host.rs",
    "start_methods/tests/it/parent.rs",
    "start_methods/tests/it/refusal.rs",
    "start_methods/tests/it/tree.rs",
    "tests/it/harness/sys.rs",
];

const CODE_LINES_MAX: usize = 400;
const ARCHITECTURE_LINES_MAX: usize = 150;

#[test]
fn imports_go_down() {
    let mut wrong = Vec::new();
    for Crate { src, rooms, .. } in CRATES {
        let sources =
            files(src, "rs").into_iter().map(|(path, text)| (path[src.len() + 1..].to_owned(), text)).collect();
        wrong.extend(rooms::check(rooms, &sources).into_iter().map(|error| format!("{src}: {error}")));
    }
    assert_none(&wrong);
}

#[test]
fn unsafe_is_where_we_say() {
    let mut wrong = Vec::new();
    let mut listed: BTreeSet<&str> = CRATES.iter().flat_map(|one| one.unsafe_files).copied().collect();
    listed.extend(OTHER_UNSAFE_FILES);
    let folders = ["src", "start_methods/src", "start_methods/tests", "tests", "examples", "benches"];
    for (path, text) in folders.into_iter().flat_map(|folder| files(folder, "rs")) {
        let tokens = lex::tokens(&text);
        let lifts =
            (0..tokens.len()).any(|at| !tokens[at].in_test && lex::starts_with(&tokens, at, &["(", "unsafe_code"]));
        match (lifts, listed.remove(path.as_str())) {
            (true, false) => wrong.push(format!("{path}: lifts the lint `unsafe_code` and is not listed")),
            (false, true) => wrong.push(format!("{path}: is listed and does not lift the lint `unsafe_code`")),
            _ => {}
        }
    }
    wrong.extend(listed.into_iter().map(|path| format!("{path}: is listed and does not exist")));
    assert_none(&wrong);
}

#[test]
fn files_are_short_and_introduced() {
    let folders =
        ["src", "start_methods/src", "start_methods/tests", "tests", "examples", "benches", "fuzz/fuzz_targets"];
    let mut wrong = Vec::new();
    for (path, text) in folders.into_iter().flat_map(|folder| files(folder, "rs")) {
        let code_line_count = lex::code_line_count(&lex::tokens(&text));
        if !text.starts_with("//! ") {
            wrong.push(format!("{path}: the first line must say what this file is"));
        }
        if code_line_count > CODE_LINES_MAX {
            wrong.push(format!("{path}: {code_line_count} lines of code, more than {CODE_LINES_MAX}"));
        }
    }
    assert_none(&wrong);
}

#[test]
fn architecture_is_short_and_names_every_room() {
    let text = read("docs/ARCHITECTURE.md");
    let mut wrong = Vec::new();
    let line_count = text.lines().count();
    if line_count > ARCHITECTURE_LINES_MAX {
        wrong.push(format!("{line_count} lines, more than {ARCHITECTURE_LINES_MAX}"));
    }
    for Crate { src, rooms, .. } in CRATES {
        let rooms = rooms.iter().copied().flatten();
        let missing = rooms.filter(|room| !pages::has_word(&text, room));
        wrong.extend(missing.map(|room| format!("does not name {src}/{room}")));
    }
    assert_none(&wrong);
}

#[test]
fn pages_name_what_exists() {
    let top = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned);
    let top = top.into_iter().filter(|path| root().join(path).exists()).map(|path| (path.clone(), read(&path)));
    let pages: Sources = top.chain(files("docs", "md")).collect();
    let exists = |path: &str| root().join(path).exists();
    let mut wrong: Vec<String> = pages.iter().flat_map(|(page, text)| pages::dead_paths(page, text, exists)).collect();
    let cases: BTreeSet<String> = ["tests/it", "start_methods/tests/it"]
        .into_iter()
        .flat_map(|folder| files(folder, "rs"))
        .flat_map(|(path, text)| pages::cases_in(Path::new(&path).file_stem().unwrap().to_str().unwrap(), &text))
        .collect();
    assert!(cases.len() > 100, "the lists of cases are not read: {cases:?}");
    for page in ["docs/ARCHITECTURE.md", "docs/futures.md", "docs/reliability.md"] {
        wrong.extend(pages::unknown_cases(page, &pages[page], &cases));
    }
    assert_none(&wrong);
}

#[test]
fn fuzz_targets_are_drilled() {
    let (manifest, readme) = (read("fuzz/Cargo.toml"), read("fuzz/README.md"));
    let drills = read("src/fuzz/drill.rs") + &read("start_methods/src/fuzz/drill.rs");
    for (path, _) in files("fuzz/fuzz_targets", "rs") {
        let name = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        let corpus = fs::read_dir(root().join("fuzz/corpus").join(name));
        assert!(corpus.is_ok_and(|mut files| files.next().is_some()), "{name}: no corpus");
        assert!(drills.contains(&format!("\"{name}\"")), "{name}: not in the plain tests");
        assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name}: not in fuzz/Cargo.toml");
        assert!(readme.contains(&format!("| `{name}` |")), "{name}: not in fuzz/README.md");
    }
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} found:\n{}", wrong.len(), wrong.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file with this extension under a folder, with its text. Paths are relative to the root of the repository.
fn files(folder: &str, extension: &str) -> Sources {
    let mut found = Sources::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if Path::new(&path).extension().is_some_and(|found| found == extension) {
                let text = read(&path);
                found.insert(path, text);
            }
        }
    }
    assert!(!found.is_empty(), "no files in {folder}: the test would pass on nothing");
    found
}
