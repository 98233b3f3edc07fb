//! Checks that no formatter does: the width of comments, unique type names, and copies between
//! devices that nobody counts.

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

/// Calls that copy between the program's memory and a device, or wait for one.
const CROSSINGS: [&str; 21] = [
    "to_device(",
    "to_device_(",
    "pin_memory(",
    "f64::try_from",
    "f32::try_from",
    "bool::try_from",
    "Vec::<f64>::try_from",
    "Vec::<f32>::try_from",
    "Vec::<i64>::try_from",
    "Vec::try_from",
    "double_value(",
    "int64_value(",
    "copy_data(",
    "copy_(",
    "f_to(",
    "f_item(",
    "local_scalar",
    "nonzero(",
    "masked_select(",
    "f_equal(",
    "f_allclose(",
];

/// Files that may use them beside `transfer`: how often, and why a GPU does not wait there at each
/// step.
const COLD: [(&str, usize, &str); 15] = [
    ("src/compute/compiled/fusion.rs", 1, "a constant, when a plan is compiled"),
    ("src/compute/compiled/mod.rs", 1, "for the CPU's kernels"),
    ("src/compute/replica/convert.rs", 1, "after `transfer::fetch`"),
    ("src/compute/replica/mod.rs", 1, "constants, when a network is opened"),
    ("src/compute/replica/ops/activation.rs", 1, "a number in the program's memory"),
    ("src/compute/replica/ops/layout.rs", 1, "a number in the program's memory"),
    ("src/compute/replica/ops/mod.rs", 1, "numbers in the program's memory"),
    ("src/compute/replica/ops/resize.rs", 1, "numbers in the program's memory"),
    ("src/compute/replica/ops/shape.rs", 1, "a number in the program's memory"),
    ("src/compute/synthesis/compile.rs", 1, "axes, when a plan is compiled"),
    ("src/distill/recover/committee.rs", 2, "once per batch of images"),
    ("src/distill/state_file.rs", 2, "after `transfer::fetch`"),
    ("src/distill/teacher/calibrate.rs", 2, "on the CPU"),
    ("src/distill/teacher/network.rs", 1, "target statistics, once per batch of images"),
    ("src/distill/validate/state.rs", 1, "when a training goes on"),
];

/// Copies within one device.
const WITHIN: [(&str, usize); 1] = [("src/distill/validate/ema.rs", 2)];

/// What bypasses `transfer` is not counted, so no test would notice it.
#[test]
fn copies_between_devices_are_counted() {
    let mut found = BTreeMap::new();
    for path in sources() {
        let name = path.strip_prefix(common::root()).unwrap().to_str().unwrap();
        let crates = ["src/compute/", "src/distill/", "src/worker/"];
        let is_test = name.ends_with("/tests.rs");
        if is_test || name.ends_with("/transfer.rs") || !crates.iter().any(|c| name.starts_with(c))
        {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let crosses = |line: &&str| CROSSINGS.iter().any(|call| line.contains(call));
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let count = lines.filter(crosses).count();
        if count > 0 {
            found.insert(name.to_owned(), count);
        }
    }
    let cold = COLD.iter().map(|&(name, count, _)| (name, count)).chain(WITHIN);
    let cold: BTreeMap<_, _> = cold.map(|(name, count)| (name.to_owned(), count)).collect();
    assert_eq!(found, cold, "use `scdd_compute::transfer`; what is left here must be rare");
}
