//! The rules of this house that the compiler does not check, asked of both crates.
//!
//! 1. Every file has a floor, and imports only from lower floors: no cycles, one reading order. The doors that lead
//!    up are listed, each with its reason.
//! 2. `unsafe` is written in the listed files only.
//! 3. Every file, tests included, opens by saying what it is, and is short enough to be read in one sitting.
//! 4. `docs/ARCHITECTURE.md` names every file, so the map cannot go stale.
//! 5. What is fuzzed is also asked by the plain tests, with a corpus.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// A crate: where its sources are, and the order in which they may know of each other.
struct House {
    src: &'static str,
    /// From the ground up. A file may name files of lower floors only.
    floors: &'static [&'static [&'static str]],
    /// `(from, to)`: imports that lead up, and why each is no knot.
    doors: &'static [(&'static str, &'static str, &'static str)],
    unsafe_files: &'static [&'static str],
}

const HOUSES: &[House] = &[POOL, START_METHODS];

const POOL: House = House {
    src: "src",
    floors: &[
        &[
            "error",
            "failpoint",
            "task",
            "restarts",
            "condvar",
            "origin",
            "stack",
            "clock",
            "deadline",
            "patience",
            "number",
            "processor",
        ],
        &["bell", "blob", "explain", "standing"],
        &["output"],
        &["codec", "forkserver", "init"],
        &["function"],
        &["batch", "panics"],
        &["frame", "load", "message"],
        &["jobs", "queue"],
        &["schedule"],
        &["transport", "callbacks", "watch"],
        &["member", "worker"],
        &["engine", "config"],
        &["driver"],
        &["submit", "results"],
        &["imap"],
        &["map"],
        &["call"],
        &["pool"],
        &["builder"],
        &["fuzz"],
    ],
    doors: &[],
    unsafe_files: &[
        "src/blob/buffer.rs",
        "src/blob/mapping.rs",
        "src/blob/tests.rs",
        "src/builder.rs",
        "src/function.rs",
        "src/fuzz/heap.rs",
        "src/origin.rs",
        "src/stack.rs",
        "src/transport/ring/memory.rs",
        "src/watch.rs",
    ],
};

const START_METHODS: House = House {
    src: "start_methods/src",
    floors: &[
        &["exit", "method", "image", "settings", "wait"],
        &["error", "message"],
        &["process"],
        &["failpoint", "threads"],
        &["sys"],
        &["fd", "kin", "signals"],
        &["lifeline", "socket", "tree"],
        &["boot"],
        &["child", "entry"],
        &["born"],
        &["fork", "spawn"],
        &["forkserver"],
        &["starter"],
        &["fuzz"],
    ],
    doors: &[
        ("process", "fd", "holds the registry, and only names its type"),
        ("process", "lifeline", "holds the lifeline, and only names its type"),
        ("process", "threads", "holds the gate, and only names its type"),
        ("process", "forkserver", "holds the server's slot, and only names its type"),
        ("sys", "starter", "an unsafe function of the starter is written where unsafe may be"),
        ("entry", "born", "a program that was executed to be a child lives there, and never comes back"),
    ],
    unsafe_files: &[
        "start_methods/src/entry.rs",
        "start_methods/src/fuzz/record.rs",
        "start_methods/src/image.rs",
        "start_methods/src/sys.rs",
    ],
};

/// In tests and benches.
const UNSAFE_FILES_BESIDE_THE_HOUSES: &[&str] =
    &["tests/it/sys.rs", "benches/common/fork.rs", "benches/common/futex.rs", "benches/common/shared.rs"];

const CODE_LINES_MAX: usize = 400;

#[test]
fn imports_go_down() {
    let mut wrong = Vec::new();
    for house in HOUSES {
        for (path, text) in sources(house.src) {
            check_imports(house, &path, &text, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "imports must go down:\n{}", wrong.join("\n"));
}

fn check_imports(house: &House, path: &Path, text: &str, wrong: &mut Vec<String>) {
    let floors = house.floors.iter().enumerate();
    let floor_of: BTreeMap<&str, usize> =
        floors.flat_map(|(floor, modules)| modules.iter().map(move |module| (*module, floor))).collect();
    let Some(module) = module_of(house, path) else { return };
    let Some(&floor) = floor_of.get(module.as_str()) else {
        wrong.push(format!("{}: not in the floors; say where it lives", path.display()));
        return;
    };
    for (line_index, line) in code_lines(text).filter(|(_, line)| !is_comment(line)) {
        let here = format!("{}:{}", path.display(), line_index + 1);
        if line.contains("crate::{") {
            wrong.push(format!("{here}: one `use crate::` path per line, so that we can read it"));
        }
        for name in modules_named(line) {
            let Some(&target) = floor_of.get(name) else { continue };
            let door = house.doors.iter().any(|(from, to, _)| *from == module && *to == name);
            if name != module && target >= floor && !door {
                wrong.push(format!("{here}: {module} uses {name}"));
            }
        }
    }
}

/// A door that nobody goes through any more is to be walled up.
#[test]
fn doors_are_in_use_and_explained() {
    for house in HOUSES {
        for (from, to, reason) in house.doors {
            assert!(reason.len() > 10, "say why {from} may use {to}");
            let used = sources(house.src).iter().any(|(path, text)| {
                module_of(house, path).as_deref() == Some(from)
                    && code_lines(text)
                        .any(|(_, line)| !is_comment(line) && modules_named(line).any(|name| name == *to))
            });
            assert!(used, "{from} does not use {to}: take the door out of the list");
        }
    }
}

/// The lint `unsafe_code` is denied for the whole workspace; these files alone may lift it.
#[test]
fn unsafe_is_where_we_say() {
    for house in HOUSES {
        for (path, text) in sources(house.src) {
            let listed = house.unsafe_files.iter().any(|file| path.ends_with(file));
            let lifted = code_lines(&text).any(|(_, line)| line.contains("(unsafe_code"));
            assert_eq!(lifted, listed, "{}: lifts the lint, or is listed for nothing", path.display());
        }
    }
    for (path, text) in ["tests", "benches"].into_iter().flat_map(sources) {
        let lifted = text.lines().any(|line| line.starts_with("#![") && line.contains("(unsafe_code"));
        let listed = UNSAFE_FILES_BESIDE_THE_HOUSES.iter().any(|file| path.ends_with(file));
        assert_eq!(lifted, listed, "{}: lifts the lint, or is listed for nothing", path.display());
    }
}

#[test]
fn files_are_short_and_introduced() {
    let folders =
        ["src", "start_methods/src", "start_methods/tests", "tests", "examples", "benches", "fuzz/fuzz_targets"];
    let mut wrong = Vec::new();
    for (path, text) in folders.into_iter().flat_map(sources) {
        let code_line_count =
            code_lines(&text).filter(|(_, line)| !line.trim().is_empty() && !is_comment(line)).count();
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: say what this file is", path.display()));
        }
        if code_line_count > CODE_LINES_MAX {
            wrong.push(format!("{}: {code_line_count} lines of code", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn map_names_every_file() {
    let map = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let mut missing = Vec::new();
    for (path, _) in ["src", "start_methods/src", "tests", "benches"].into_iter().flat_map(sources) {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        // The programs that trybuild compiles are named by their folders.
        if !name.starts_with("tests/compile/") && !map.contains(&format!("`{name}`")) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md does not name:\n{}", missing.join("\n"));
}

/// A decoder that is fuzzed is also asked by the plain tests, with a corpus.
#[test]
fn fuzz_targets_are_drilled() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let (manifest, readme) = (read("fuzz/Cargo.toml"), read("fuzz/README.md"));
    let drills = read("src/fuzz/drill.rs") + &read("start_methods/src/fuzz/drill.rs");
    let targets = sources("fuzz/fuzz_targets");
    assert!(!targets.is_empty());
    for (path, _) in targets {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let corpus = fs::read_dir(root().join("fuzz/corpus").join(name));
        assert!(corpus.is_ok_and(|mut files| files.next().is_some()), "{name}: no corpus");
        assert!(drills.contains(&format!("\"{name}\"")), "{name}: not in the plain tests");
        assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name}: not in fuzz/Cargo.toml");
        assert!(readme.contains(&format!("| `{name}` |")), "{name}: not in fuzz/README.md");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under a folder of the workspace, with its text. Folders that hold none yet are fine, but not `src`.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty() || !folder.ends_with("src"), "no sources: the tests would pass on nothing");
    found.sort();
    found
}

/// `src/transport/ring/mod.rs` belongs to `transport`; `src/lib.rs` stands above all floors.
fn module_of(house: &House, path: &Path) -> Option<String> {
    let first = path.strip_prefix(root().join(house.src)).unwrap().components().next()?;
    let name = first.as_os_str().to_str()?.trim_end_matches(".rs");
    (name != "lib").then(|| name.to_owned())
}

/// The lines before the unit tests, which may import anything.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]")
}

/// `pool` in `use crate::pool::Pool;` and in `super::pool::Pool`.
fn modules_named(line: &str) -> impl Iterator<Item = &str> {
    ["crate::", "super::"]
        .into_iter()
        .flat_map(move |root| line.split(root).skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(""))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}
