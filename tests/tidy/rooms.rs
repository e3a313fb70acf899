//! The order of a crate's rooms, and that no files import each other in a circle.
//!
//! A *room* is a folder or file directly under `src`. `lib.rs` is in no room: it only re-exports.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::imports::Import;
use crate::imports::ROOT_FILE;
use crate::imports::Sources;
use crate::imports::imports;

/// Levels from the bottom up; the rooms of one level are side by side and do not import from each other.
pub(crate) type Rooms = [&'static [&'static str]];

/// Everything that is wrong: files in no room, imports that do not lead to a lower level, and circles.
pub(crate) fn check(rooms: &Rooms, sources: &Sources) -> Vec<String> {
    let levels: BTreeMap<&str, usize> =
        rooms.iter().enumerate().flat_map(|(level, rooms)| rooms.iter().map(move |room| (*room, level))).collect();
    let level_of = |file: &str| levels.get(room_of(file));
    let (imports, mut wrong) = imports(sources);
    let homeless = sources.keys().filter(|file| *file != ROOT_FILE && level_of(file).is_none());
    wrong.extend(homeless.map(|file| format!("{file}: its room is not in the list")));
    let empty = levels.keys().filter(|room| !sources.keys().any(|file| room_of(file) == **room));
    wrong.extend(empty.map(|room| format!("{room}: the room has no files")));
    for import in &imports {
        let Import { from, line, to, path } = import;
        let (room, other) = (room_of(from), room_of(to));
        if to == ROOT_FILE {
            wrong.push(format!("{from}:{line}: `{path}` is in lib.rs, which is above all rooms"));
        } else if room != other && level_of(from) <= level_of(to) {
            wrong.push(format!("{from}:{line}: `{path}` is in `{other}`, which is not below `{room}`"));
        }
    }
    wrong.extend(circles(&imports));
    wrong
}

pub(crate) fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// One report for each set of files that reach each other, with every import that ties it.
fn circles(imports: &[Import]) -> Vec<String> {
    let mut targets: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        targets.entry(&import.from).or_default().insert(&import.to);
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> = targets.keys().map(|file| (*file, reachable(file, &targets))).collect();
    let mut circles: BTreeSet<Vec<&str>> = BTreeSet::new();
    for (file, reached) in &reach {
        let back = |other: &&&str| reach.get(**other).is_some_and(|files| files.contains(file));
        let circle: Vec<&str> = reached.iter().filter(back).copied().collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    circles.into_iter().map(|circle| describe_circle(&circle, imports)).collect()
}

fn describe_circle(circle: &[&str], imports: &[Import]) -> String {
    let mut text = format!("circle of {}:", circle.join(", "));
    for Import { from, line, to, path } in imports {
        if circle.contains(&from.as_str()) && circle.contains(&to.as_str()) {
            text += &format!("\n    {from}:{line}: `{path}` is in {to}");
        }
    }
    text
}

fn reachable<'a>(start: &str, targets: &BTreeMap<&str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![start];
    while let Some(file) = open.pop() {
        for target in targets.get(file).into_iter().flatten() {
            if found.insert(*target) {
                open.push(target);
            }
        }
    }
    found
}
