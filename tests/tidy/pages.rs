//! What the pages say of the tree: paths, links and names of cases must exist.

use std::collections::BTreeSet;

/// Paths in backticks that begin so are paths of this repository.
const FOLDERS: &[&str] = &["src/", "tests/", "start_methods/", "docs/", "benches/", "examples/", "fuzz/", ".ci/"];

/// Paths in backticks and relative links of a page, each with its line, that `exists` denies. Links start at `folder`.
pub(crate) fn dead_paths(page: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = page.rfind('/').map_or("", |at| &page[..=at]);
    let mut dead = Vec::new();
    for (line_index, line) in prose(text) {
        let named = quoted(line).filter(|path| is_path(path)).map(str::to_owned);
        let links = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let linked = links.filter(|link| !link.is_empty() && !link.contains(':')).map(|link| joined(folder, link));
        let missing = named.chain(linked).filter(|path| !exists(path));
        dead.extend(missing.map(|path| format!("{page}:{}: there is no `{path}`", line_index + 1)));
    }
    dead
}

/// `module::case` in the tables of a page that is not among `cases`.
pub(crate) fn unknown_cases(page: &str, text: &str, cases: &BTreeSet<String>) -> Vec<String> {
    let rows = prose(text).filter(|(_, line)| line.starts_with('|'));
    let named = rows.flat_map(|(index, line)| quoted(line).map(move |name| (index, name)));
    named
        .filter(|(_, name)| is_case(name) && !cases.contains(*name))
        .map(|(line_index, name)| format!("{page}:{}: there is no case `{name}`", line_index + 1))
        .collect()
}

/// The cases that a module of `tests/it` lists by `cases![name, …]`, or one of start_methods by `each("name", …)`.
pub(crate) fn cases_in(module: &str, text: &str) -> Vec<String> {
    let lists = text.split("cases![").skip(1).filter_map(|rest| rest.split(']').next());
    let listed = lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| is_name(name));
    let calls = ["each(", "once("].into_iter().flat_map(|call| text.split(call).skip(1));
    let called = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    listed.chain(called).map(|case| format!("{module}::{case}")).collect()
}

/// Whether a page has a word, alone or as part of a path.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

/// The lines outside fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fence && !is_fenced
    })
}

/// What stands between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn is_path(text: &str) -> bool {
    let is_plain = text.chars().all(|c| c.is_alphanumeric() || "_-./".contains(c));
    is_plain && FOLDERS.iter().any(|folder| text.starts_with(folder))
}

fn is_case(text: &str) -> bool {
    text.split_once("::").is_some_and(|(module, case)| is_name(module) && is_name(case))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// A link from a page in `folder`, as a path from the root.
fn joined(folder: &str, link: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[test]
fn dead_paths_are_found() {
    let text = "`src/gone.rs` and `src/here.rs`, [a](gone.md#b), [b](../README.md), [c](https://x.y), `src/*.rs`
```text
`src/gone.rs`
```";
    let exists = |path: &str| ["src/here.rs", "README.md"].contains(&path);
    let dead = dead_paths("docs/page.md", text, exists);
    assert_eq!(dead, ["docs/page.md:1: there is no `src/gone.rs`", "docs/page.md:1: there is no `docs/gone.md`"]);
}

#[test]
fn unknown_cases_are_found() {
    let listed = cases_in("life", "const A: u8 = 1;\ncases![\n    starts,\n    ends,\n];\n");
    let called = cases_in("death", "&[each(\"comes\", comes), once(\n\"goes\", goes)]");
    let cases: BTreeSet<String> = listed.into_iter().chain(called).collect();
    let text =
        "`life::not_in_a_table`\n| `life::starts`, `death::goes` | `life::gone`, `Job::settle`, `death::comes` |";
    assert_eq!(unknown_cases("a.md", text, &cases), ["a.md:2: there is no case `life::gone`"]);
}
