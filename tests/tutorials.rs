//! The tutorials' files and commands, taken from their pages and run in order.
//!
//! A code block whose first line is a comment with a file's name becomes that file; a block of `sh`
//! is run where the files are.

#[allow(dead_code, reason = "its main is for the command line")]
#[path = "../examples/own_loop.rs"]
mod own_loop;

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::{CACHE, bundle, root, small_data};

/// The language and the lines of each code block of a page.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let parts = page.split("```").skip(1).step_by(2);
    parts.filter_map(|block| block.split_once('\n')).collect()
}

/// The file that a block is, by its first line.
fn file_name(block: &str) -> Option<&str> {
    let name = block.lines().next()?.strip_prefix("# ")?;
    (name.contains('.') && !name.contains(' ')).then_some(name)
}

/// The programs of this build and of the Python environment, before all others.
fn path() -> std::ffi::OsString {
    let scdd = assert_cmd::cargo::cargo_bin!("scdd");
    let mut places = vec![scdd.parent().unwrap().to_path_buf()];
    places.extend(std::env::var_os("VIRTUAL_ENV").map(|python| PathBuf::from(python).join("bin")));
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    std::env::join_paths(places).unwrap()
}

/// Runs a tutorial in a directory of its own, which has what a checkout has. Returns the directory
/// and what the commands printed.
fn run(tutorial: &str) -> (tempfile::TempDir, String) {
    let page = fs::read_to_string(root().join("docs/tutorials").join(tutorial)).unwrap();
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    for part in ["datasets", "exporters", "onnx"] {
        std::os::unix::fs::symlink(root().join(part), dir.path().join(part)).unwrap();
    }
    let mut printed = String::new();
    for (language, block) in blocks(&page) {
        if let Some(name) = file_name(block) {
            fs::write(dir.path().join(name), block).unwrap();
        } else if language == "sh" {
            let mut bash = Command::new("bash");
            bash.args(["-euo", "pipefail", "-c", block]).current_dir(dir.path());
            bash.env("PATH", path()).env("SCDD_DATA", data.path()).env(CACHE.0, CACHE.1);
            let done = bash.assert().success();
            printed.push_str(&String::from_utf8_lossy(&done.get_output().stdout));
        }
    }
    (dir, printed)
}

fn has(dir: &Path, file: &str) {
    assert!(dir.join(file).is_file(), "{file} was not made");
}

#[test]
fn own_photos() {
    let (dir, printed) = run("own-photos.md");
    has(dir.path(), "runs/photos/report.html");
    assert!(printed.contains("distilled from photos-resnet10"), "{printed}");
}

#[test]
fn a_checkpoint_from_the_web() {
    let (dir, printed) = run("checkpoint.md");
    has(dir.path(), "runs/web/report.html");
    for part in ["layout kuangliu", "missed none", "  verified", "distilled from ckpt"] {
        assert!(printed.contains(part), "{part:?} is not in {printed}");
    }
}

#[test]
fn the_distilled_set_in_pytorch() {
    let (dir, printed) = run("pytorch.md");
    let set = "distilled-from-resnet18-w16-supervised-ipc2-seed0";
    has(dir.path(), &format!("folders/{set}/README.md"));
    let losses: Vec<f64> =
        printed.lines().filter_map(|line| line.rsplit_once("loss ")?.1.parse().ok()).collect();
    assert!(losses.len() == 4 && losses[3] < losses[0], "{losses:?}");
    assert!(printed.contains("test accuracy "), "{printed}");
}

#[test]
fn a_loop_in_rust() {
    let dir = tempfile::tempdir().unwrap();
    let losses = own_loop::recover(&bundle("resnet18-w16-supervised"), dir.path()).unwrap();
    assert!(losses[0] > 2.0 && losses[losses.len() - 1] < 0.1, "{losses:?}");
    has(dir.path(), "00009.png");
}

/// The page of the Rust library runs the example, which `a_loop_in_rust` does; all others are run.
#[test]
fn every_tutorial_is_listed() {
    let list = fs::read_to_string(root().join("docs/tutorials/README.md")).unwrap();
    let mut pages: Vec<String> = fs::read_dir(root().join("docs/tutorials"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != "README.md")
        .collect();
    pages.sort();
    assert_eq!(pages, ["checkpoint.md", "own-photos.md", "pytorch.md", "rust-library.md"]);
    for page in pages {
        assert!(list.contains(&format!("]({page})")), "{page}");
    }
}
