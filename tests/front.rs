//! `scdd` without `scdd-engine`: what needs no network runs at once, because libtorch, whose loading takes longer, is not even linked.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::{root, small_data};
use predicates::str::{contains, starts_with};

/// Whether the loader is told to load libtorch: names in its table end and begin with a zero byte, those in messages do not.
fn links_libtorch(program: &Path) -> bool {
    let name = b"\0libtorch_cpu.so\0";
    fs::read(program).unwrap().windows(name.len()).any(|bytes| bytes == name)
}

/// `scdd` in a directory of its own, to be run in the repository's root.
fn alone(dir: &Path) -> Command {
    let program: PathBuf = dir.join("scdd");
    if !program.exists() {
        // A link, because another test's child process might still hold a copy open for writing when it is to be started.
        let built = assert_cmd::cargo::cargo_bin!("scdd");
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
    }
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

#[test]
fn only_the_engine_links_libtorch() {
    assert!(!links_libtorch(assert_cmd::cargo::cargo_bin!("scdd")));
    assert!(links_libtorch(assert_cmd::cargo::cargo_bin!("scdd-engine")));
}

#[test]
fn what_needs_no_network_needs_no_engine() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let scdd = |arguments: &[&str]| {
        let mut scdd = alone(dir.path());
        scdd.env("SCDD_DATA", data.path()).args(arguments).assert()
    };
    let output = dir.path().join("runs");
    let output = output.to_str().unwrap();
    let experiment = "configs/quickstart.yaml";
    scdd(&["--help"]).success().stdout(starts_with("Distils an image data set"));
    scdd(&["--version"]).success().stdout(starts_with("scdd "));
    scdd(&["schema"]).success().stdout(starts_with("{"));
    scdd(&["ops"]).success().stdout(contains("BatchNormalization"));
    scdd(&["run", experiment, "--dry-run", "--output", output]).success().stdout(contains(" 0 complete; "));
    scdd(&["recover", experiment, "--dry-run", "--output", output]).success().stdout(contains("missing"));
    scdd(&["status", experiment, "--output", output]).success().stdout(starts_with("quickstart: "));
    scdd(&["clean", experiment, "--output", output]).success().stdout("every stage is needed\n");
    scdd(&["report", experiment, "--output", output]).code(2).stderr(contains("the experiment is not complete"));
}

#[test]
fn a_missing_engine_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing =
        "error: cannot start scdd-engine, which belongs beside scdd: No such file or directory (os error 2)\n";
    alone(dir.path()).arg("doctor").assert().code(2).stderr(missing);
    alone(dir.path()).args(["run", "configs/quickstart.yaml"]).assert().code(2).stderr(missing);
}

#[test]
fn an_instruction_set_that_is_none_is_refused() {
    let mut scdd = assert_cmd::cargo::cargo_bin_cmd!("scdd");
    scdd.env("SCDD_MAX_ISA", "sse9").current_dir(root()).arg("doctor");
    scdd.assert().code(2).stderr("error: SCDD_MAX_ISA is sse9; it must be avx512, avx2 or portable\n");
}
