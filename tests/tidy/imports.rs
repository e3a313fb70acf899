//! Which file of a crate imports from which: the module tree, and every path in the code resolved in it.
//!
//! A path leads to the *file* that defines what it names: the longest prefix that is a module, through `use` and
//! `pub use` on the path. Names that come through a glob import are taken to be in the module of the glob's `use`.
//! Methods and macros in textual scope are no imports. Code for tests only is not read.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::lex::Token;
use crate::lex::starts_with;
use crate::lex::tokens;

/// Path below `src`, such as `engine/mod.rs`, and text.
pub(crate) type Sources = BTreeMap<String, String>;

pub(crate) const ROOT_FILE: &str = "lib.rs";

/// Follows at most as many re-exports as this for one path.
const REEXPORTS_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    pub(crate) from: String,
    pub(crate) line: usize,
    pub(crate) to: String,
    /// As written.
    pub(crate) path: String,
}

/// The imports between different files, but for those of `lib.rs`; and what is wrong with the tree.
pub(crate) fn imports(sources: &Sources) -> (Vec<Import>, Vec<String>) {
    let mut tree = Tree { sources, modules: Vec::new(), paths: Vec::new(), wrong: Vec::new() };
    tree.read_file(ROOT_FILE.to_owned(), Place::default());
    let declared: BTreeSet<&String> = tree.modules.iter().map(|module| &module.file).collect();
    let lost = sources.keys().filter(|file| !declared.contains(file));
    tree.wrong.extend(lost.map(|file| format!("{file}: no `mod` declares this file")).collect::<Vec<_>>());
    let mut found: Vec<Import> = tree.paths.iter().filter_map(|path| tree.import(path)).collect();
    found.sort();
    found.dedup();
    (found, tree.wrong)
}

/// Where a module is declared.
#[derive(Clone, Copy, Default)]
struct Place {
    parent: Option<usize>,
    in_test: bool,
}

struct Module {
    file: String,
    place: Place,
    children: BTreeMap<String, usize>,
    /// What `use` brings into scope, as written.
    names: BTreeMap<String, Vec<String>>,
}

struct NamedPath {
    module: usize,
    is_use: bool,
    line: usize,
    segments: Vec<String>,
}

struct Tree<'a> {
    sources: &'a Sources,
    modules: Vec<Module>,
    paths: Vec<NamedPath>,
    wrong: Vec<String>,
}

impl<'a> Tree<'a> {
    fn read_file(&mut self, file: String, place: Place) -> usize {
        let module = self.add_module(file.clone(), place);
        if let Some(text) = self.sources.get(&file) {
            self.read_module(&tokens(text), module, &module_folder(&file));
        } else {
            self.wrong.push(format!("{file}: there is no such file"));
        }
        module
    }

    fn add_module(&mut self, file: String, place: Place) -> usize {
        self.modules.push(Module { file, place, children: BTreeMap::new(), names: BTreeMap::new() });
        self.modules.len() - 1
    }

    /// The tokens of one module, inline modules included. The files of child modules are in `folder`.
    fn read_module(&mut self, tokens: &[Token<'a>], module: usize, folder: &str) {
        let mut at = 0;
        while at < tokens.len() {
            let in_test = tokens[at].in_test || self.modules[module].place.in_test;
            if tokens[at].text == "mod" && starts_with(tokens, at + 2, &[";"]) {
                self.read_child(tokens[at + 1].text, module, folder, in_test);
                at += 3;
            } else if tokens[at].text == "mod" && starts_with(tokens, at + 2, &["{"]) {
                let name = tokens[at + 1].text;
                let close = crate::lex::closing(tokens, at + 2);
                let child = self.add_module(self.modules[module].file.clone(), Place { parent: Some(module), in_test });
                self.modules[module].children.insert(name.to_owned(), child);
                self.read_module(&tokens[at + 3..close], child, &format!("{folder}{name}/"));
                at = close + 1;
            } else if in_test {
                at += 1;
            } else if tokens[at].text == "use" {
                at = self.read_use(tokens, at + 1, module, &[]);
            } else {
                at = self.read_path(tokens, at, module);
            }
        }
    }

    fn read_child(&mut self, name: &str, module: usize, folder: &str, in_test: bool) {
        let candidates = [format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")];
        let found = candidates.iter().find(|file| self.sources.contains_key(*file)).unwrap_or(&candidates[0]);
        let child = self.read_file(found.clone(), Place { parent: Some(module), in_test });
        self.modules[module].children.insert(name.to_owned(), child);
    }

    /// One tree of a `use`, after the segments in `prefix`. Returns the index of the token that ends it.
    fn read_use(&mut self, tokens: &[Token<'a>], mut at: usize, module: usize, prefix: &[String]) -> usize {
        let mut segments = prefix.to_vec();
        let mut name = segments.last().cloned();
        let line = tokens.get(at).map_or(0, |token| token.line);
        while at < tokens.len() {
            match tokens[at].text {
                "{" => {
                    at += 1;
                    while at < tokens.len() && tokens[at].text != "}" {
                        at = self.read_use(tokens, at, module, &segments);
                        at += usize::from(starts_with(tokens, at, &[","]));
                    }
                    return at + 1;
                }
                ";" | "," | "}" => break,
                "::" => {}
                "*" => name = None,
                "as" => {
                    at += 1;
                    name = tokens.get(at).map(|token| token.text.to_owned());
                }
                "self" if !segments.is_empty() => {}
                segment => {
                    segments.push(segment.to_owned());
                    name = segments.last().cloned();
                }
            }
            at += 1;
        }
        if let Some(name) = name.filter(|name| name != "_") {
            self.modules[module].names.insert(name, segments.clone());
        }
        self.paths.push(NamedPath { module, is_use: true, line, segments });
        at
    }

    /// A path in the midst of code, if one begins at `at`. Returns the index of the token to read next.
    fn read_path(&mut self, tokens: &[Token<'a>], at: usize, module: usize) -> usize {
        let before = at.checked_sub(1).map_or("", |index| tokens[index].text);
        let is_visibility = before == "in" && at >= 2 && tokens[at - 2].text == "(";
        let is_fragment = before == "$" && tokens[at].text != "crate";
        let begins = is_word(tokens[at].text) && !["::", "."].contains(&before) && !is_visibility && !is_fragment;
        if !begins || !starts_with(tokens, at + 1, &["::"]) {
            return at + 1;
        }
        let mut segments = vec![tokens[at].text.to_owned()];
        let mut next = at + 1;
        while starts_with(tokens, next, &["::"]) && tokens.get(next + 1).is_some_and(|token| is_word(token.text)) {
            segments.push(tokens[next + 1].text.to_owned());
            next += 2;
        }
        self.paths.push(NamedPath { module, is_use: false, line: tokens[at].line, segments });
        next
    }

    fn import(&self, path: &NamedPath) -> Option<Import> {
        let from = &self.modules[path.module];
        let to = &self.modules[self.resolve(path.module, &path.segments, REEXPORTS_MAX)?];
        if path.segments.len() > 1 && !path.is_use && from.names.contains_key(&path.segments[0]) {
            // `Name::new()` after `use …::Name`: the `use` is the import, unless the name is a module's.
            let named = self.resolve(path.module, &path.segments[..1], REEXPORTS_MAX)?;
            if self.modules[named].file == to.file {
                return None;
            }
        }
        (from.file != to.file && from.file != ROOT_FILE && !to.place.in_test).then(|| Import {
            from: from.file.clone(),
            line: path.line,
            to: to.file.clone(),
            path: path.segments.join("::"),
        })
    }

    /// The module that defines what a path names, or `None` for what is of another crate.
    fn resolve(&self, from: usize, segments: &[String], reexports_left: usize) -> Option<usize> {
        let mut module = from;
        let mut rest = segments;
        let mut is_relative = true;
        while let Some((first, tail)) = rest.split_first() {
            match first.as_str() {
                "crate" => module = 0,
                "self" => {}
                "super" => module = self.modules[module].place.parent?,
                _ => break,
            }
            is_relative = false;
            rest = tail;
        }
        while let Some((first, tail)) = rest.split_first() {
            let Module { children, names, .. } = &self.modules[module];
            if let Some(child) = children.get(first) {
                module = *child;
            } else if let Some(path) = names.get(first).filter(|path| path.as_slice() != segments) {
                let path = [path.as_slice(), tail].concat();
                return self.resolve(module, &path, reexports_left.checked_sub(1)?);
            } else if is_relative {
                return None;
            } else {
                break;
            }
            is_relative = false;
            rest = tail;
        }
        Some(module)
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Where the child modules of a file are: beside `mod.rs` and `lib.rs`, else in the folder of its name.
fn module_folder(file: &str) -> String {
    let folder_len = file.rfind('/').map_or(0, |at| at + 1);
    match &file[folder_len..] {
        "mod.rs" | ROOT_FILE => file[..folder_len].to_owned(),
        _ => format!("{}/", file.trim_end_matches(".rs")),
    }
}
