//! Checks that no formatter does: the width of comments, and unique type names.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const WIDTH: usize = 100;

/// All Rust files of the project.
fn sources() -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = ["src", "tests", "benches", "examples", "fuzz/fuzz_targets"]
        .map(|name| common::root().join(name))
        .into();
    let mut found = vec![common::root().join("build.rs")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn shown(path: &Path, line: usize) -> String {
    format!("{}:{}", path.strip_prefix(common::root()).unwrap().display(), line + 1)
}

/// rustfmt keeps code within the width, but leaves comments and strings unchanged.
#[test]
fn comments_are_at_most_100_columns_wide() {
    let mut wide = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("//") && line.chars().count() > WIDTH {
                wide.push(shown(&path, number));
            }
        }
    }
    assert!(wide.is_empty(), "comments of more than {WIDTH} columns: {wide:#?}");
}

/// The name of the type that `line` declares.
fn declared(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let rest =
        ["struct ", "enum ", "trait ", "type "].iter().find_map(|kind| line.strip_prefix(kind))?;
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    name.starts_with(char::is_uppercase).then_some(name)
}

/// Tests may have helpers with other types' names, and associated types have their trait's names.
#[test]
fn a_type_name_occurs_once_in_the_workspace() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in sources().into_iter().filter(|path| path.starts_with(common::root().join("src"))) {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        for (number, line) in code.lines().enumerate() {
            let is_associated = line.starts_with(' ') && line.trim_start().starts_with("type ");
            if let Some(name) = declared(line).filter(|_| !is_associated) {
                places.entry(name.to_owned()).or_default().push(shown(&path, number));
            }
        }
    }
    assert!(places.len() > 300, "{}", places.len());
    let twice: Vec<_> = places.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(twice.is_empty(), "names of several types: {twice:#?}");
}
