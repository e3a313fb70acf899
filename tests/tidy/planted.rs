//! Errors of each kind, planted in a small crate, to see the checks find them.

use crate::imports::Sources;
use crate::rooms::Rooms;
use crate::rooms::check;

const ROOMS: &Rooms = &[&["base"], &["left", "right"], &["top"]];

/// A crate in order, but for the files given here.
fn errors_with(files: &[(&str, &str)]) -> Vec<String> {
    let mut sources: Sources = [
        ("lib.rs", "mod base; mod left; mod right; mod top; pub use top::Top;"),
        ("base.rs", "pub(crate) struct Base;"),
        ("left/mod.rs", "pub(crate) mod one; mod two; pub(crate) use two::Two; use crate::base::Base;"),
        ("left/one.rs", "pub(crate) struct One;"),
        ("left/two.rs", "use super::one::One; pub(crate) struct Two(One);"),
        ("right/mod.rs", "pub(crate) struct Right;"),
        ("top.rs", "use crate::left::Two; pub struct Top(Two);"),
    ]
    .map(|(file, text)| (file.to_owned(), text.to_owned()))
    .into();
    sources.extend(files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())));
    check(ROOMS, &sources)
}

#[track_caller]
fn assert_found(files: &[(&str, &str)], expected: &[&str]) {
    let errors = errors_with(files);
    let text = errors.join("\n");
    assert!(expected.iter().all(|part| text.contains(part)), "expected {expected:?} in:\n{text}");
    assert_eq!(errors.len(), 1, "one error was planted:\n{text}");
}

#[track_caller]
fn assert_clean(files: &[(&str, &str)]) {
    assert_eq!(errors_with(files), [""; 0]);
}

#[test]
fn crate_in_order_is_clean() {
    assert_clean(&[]);
}

#[test]
fn import_from_a_higher_room() {
    let expected = ["left/one.rs:2: `crate::right::Right` is in `right`, which is not below `left`"];
    assert_found(&[("left/one.rs", "\nuse crate::right::Right;")], &expected);
    assert_found(
        &[("right/mod.rs", "use crate::{base::Base, top::{self}};")],
        &["right/mod.rs:1: `crate::top` is in `top`"],
    );
}

#[test]
fn import_by_super() {
    let expected = ["right/deep.rs:1: `super::super::top::Top` is in `top`"];
    assert_found(&[("right/mod.rs", "mod deep;"), ("right/deep.rs", "use super::super::top::Top;")], &expected);
    assert_found(&[("base.rs", "use super::left::one;")], &["base.rs:1: `super::left::one` is in `left`"]);
}

#[test]
fn path_in_the_midst_of_code() {
    assert_found(
        &[("base.rs", "fn f() -> usize {\n    crate::right::Right::size() }")],
        &["base.rs:2: `crate::right::Right::size` is in `right`"],
    );
    assert_found(
        &[("base.rs", "macro_rules! m { () => { $crate::right::Right::new() } }")],
        &["base.rs:1: `crate::right::Right::new`"],
    );
}

#[test]
fn import_between_rooms_side_by_side() {
    assert_found(&[("right/mod.rs", "use crate::left::one::One;")], &["which is not below `right`"]);
    assert_found(&[("left/one.rs", "use crate::right::Right;")], &["which is not below `left`"]);
}

#[test]
fn import_in_a_nested_inner_module() {
    assert_found(
        &[("base.rs", "mod inner { mod innermost { use super::super::super::right::Right; } }")],
        &["base.rs:1: `super::super::super::right::Right` is in `right`"],
    );
    assert_clean(&[("base.rs", "mod left { pub struct One; } mod inner { use super::left::One; }")]);
}

#[test]
fn circle_of_files_in_a_room() {
    assert_found(
        &[("left/one.rs", "\n\nuse crate::left::Two;")],
        &[
            "circle of left/one.rs, left/two.rs:",
            "left/one.rs:3: `crate::left::Two` is in left/two.rs",
            "left/two.rs:1: `super::one::One` is in left/one.rs",
        ],
    );
}

#[test]
fn circle_of_three_files() {
    assert_found(
        &[
            ("right/mod.rs", "mod a; mod b; mod c;"),
            ("right/a.rs", "use super::b::B;"),
            ("right/b.rs", "use crate::right::c::C;"),
            ("right/c.rs", "fn f() { super::a::g() }"),
        ],
        &["circle of right/a.rs, right/b.rs, right/c.rs:"],
    );
}

#[test]
fn circle_of_a_parent_module_and_its_child() {
    let child = ("right/child.rs", "use super::Right;");
    let expected = ["circle of right/child.rs, right/mod.rs:", "right/child.rs:1: `super::Right` is in right/mod.rs"];
    assert_found(&[("right/mod.rs", "mod child; use child::Child; struct Right;"), child], &expected);
    assert_found(&[("right/mod.rs", "mod child; use self::child::Child; struct Right;"), child], &expected);
    assert_found(&[("right/mod.rs", "mod child; fn f() { child::g() } struct Right;"), child], &expected);
    assert_clean(&[("right/mod.rs", "mod child; struct Right;"), child]);
}

#[test]
fn circle_of_a_file_and_its_folder() {
    assert_found(
        &[
            ("right/mod.rs", "mod outer;"),
            ("right/outer.rs", "mod inner; use self::inner::Inner; pub struct Outer;"),
            ("right/outer/inner.rs", "use super::Outer; pub struct Inner;"),
        ],
        &["circle of right/outer.rs, right/outer/inner.rs:"],
    );
}

#[test]
fn name_that_the_parent_imports_is_resolved() {
    assert_clean(&[
        ("right/mod.rs", "mod child; use child::Child; use crate::base::Base;"),
        ("right/child.rs", "use super::Base; pub struct Child(Base);"),
    ]);
    let errors = errors_with(&[
        ("right/mod.rs", "use crate::base;\nfn f() { base::up::g() } pub(crate) struct Right;"),
        ("base.rs", "pub(crate) use crate::top as up;"),
    ]);
    assert_eq!(
        errors[..2],
        [
            "base.rs:1: `crate::top` is in `top`, which is not below `base`",
            "right/mod.rs:2: `base::up::g` is in `top`, which is not below `right`",
        ]
    );
}

#[test]
fn tests_comments_and_strings_are_not_read() {
    assert_clean(&[
        (
            "base.rs",
            "// use crate::top::Top;\n/* crate::top */ const S: &str = \"crate::top::Top\"; #[cfg(test)] mod tests;",
        ),
        ("base/tests.rs", "use crate::top::Top; mod more;"),
        ("base/tests/more.rs", "use crate::top::Top;"),
        ("right/mod.rs", "#[cfg(test)]\nmod tests { use crate::top::Top; }"),
        ("left/one.rs", "#[cfg(all(test, unix))] use crate::top::Top; pub(crate) struct One;"),
    ]);
    assert_found(&[("base.rs", "#[cfg(test)] use crate::left; use crate::right::Right;")], &["`right`"]);
    assert_found(&[("base.rs", "#[cfg(any(test, fuzzing))] use crate::right::Right;")], &["`right`"]);
}

#[test]
fn visibility_is_no_import() {
    assert_clean(&[("left/one.rs", "pub(in crate::left) struct One; pub(super) fn f() {}")]);
}

#[test]
fn name_of_the_crate_root() {
    assert_found(&[("base.rs", "use crate::Top;")], &["base.rs:1: `crate::Top` is in `top`"]);
    assert_found(&[("base.rs", "use crate::*;")], &["`crate` is in lib.rs, which is above all rooms"]);
}

#[test]
fn file_in_no_room_or_no_module() {
    assert_found(
        &[("lib.rs", "mod base; mod left; mod right; mod top; mod attic;"), ("attic.rs", "")],
        &["attic.rs: its room is not in the list"],
    );
    assert_found(&[("left/forgotten.rs", "")], &["left/forgotten.rs: no `mod` declares this file"]);
    assert_found(&[("right/mod.rs", "mod missing;"), ("top.rs", "")], &["right/missing.rs: there is no such file"]);
}
