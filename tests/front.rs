//! `scdd` without `scdd-worker`: commands that need no network start at once, because `scdd` is not
//! linked to libtorch, which takes long to load.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::{root, small_data};
use predicates::prelude::*;
use predicates::str::{contains, starts_with};

/// Whether the program is linked to libtorch. Names in the loader's table begin and end with a zero
/// byte; names in messages do not.
fn links_libtorch(program: &Path) -> bool {
    let name = b"\0libtorch_cpu.so\0";
    fs::read(program).unwrap().windows(name.len()).any(|bytes| bytes == name)
}

/// `scdd` in its own directory, to be run in the repository's root.
fn alone(dir: &Path) -> Command {
    let program: PathBuf = dir.join("scdd");
    if !program.exists() {
        // A hard link, because the child process of another test might hold a copy open for writing
        // when it is to be started.
        let built = assert_cmd::cargo::cargo_bin!("scdd");
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
    }
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

#[test]
fn only_the_worker_links_libtorch() {
    assert!(!links_libtorch(assert_cmd::cargo::cargo_bin!("scdd")));
    assert!(links_libtorch(assert_cmd::cargo::cargo_bin!("scdd-worker")));
}

#[test]
fn what_needs_no_network_needs_no_worker() {
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
    scdd(&["run", experiment, "--dry-run", "--output", output])
        .success()
        .stdout(contains(" 0 complete; "));
    scdd(&["recover", experiment, "--dry-run", "--output", output])
        .success()
        .stdout(contains("missing"));
    scdd(&["status", experiment, "--output", output]).success().stdout(starts_with("quickstart: "));
    scdd(&["clean", experiment, "--output", output]).success().stdout("every stage is needed\n");
    scdd(&["report", experiment, "--output", output])
        .code(2)
        .stderr(contains("the experiment is not complete"));
}

#[test]
fn every_fault_of_every_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_string()
    };
    let required = "name: x\ndata: fashion-mnist\nteachers: a\nstudents: s\n";
    let one = file(
        "one.yaml",
        &format!("{required}ipc: [ten, 0]\nseed: 4\nrecover: {{iteratons: 5, flip: maybe}}\n"),
    );
    let two = file("two.yaml", "name: y\nrecover: fast\n");
    let faults = |file: &str| match file.ends_with("one.yaml") {
        true => vec![
            "e.yaml: 5 faults:",
            "line 5: `ipc[0]`: is the text `ten`, expected a whole number",
            "line 5: `ipc[1]`: 0 is out of range: must be at least 1",
            "line 6: `seed`: unknown key; did you mean `seeds`?",
            "line 7: `recover.iteratons`: unknown key; did you mean `iterations`?",
            "line 7: `recover.flip`: is the text `maybe`, expected `true` or `false`",
        ],
        false => vec![
            "o.yaml: 5 faults:",
            "`data`: this key is missing",
            "`teachers`: this key is missing",
            "`students`: this key is missing",
            "`ipc`: this key is missing",
            "line 2: `recover.preset`: there is no preset `fast`",
        ],
    };
    for file in [&one, &two] {
        let assert = alone(dir.path()).args(["run", "--dry-run", file]).assert().code(2);
        faults(file).into_iter().fold(assert, |assert, fault| assert.stderr(contains(fault)));
    }
    let assert = alone(dir.path()).args(["status", &one, &two]).assert().code(1);
    faults(&one)
        .into_iter()
        .chain(faults(&two))
        .fold(assert, |assert, fault| assert.stdout(contains(fault)));
}

#[test]
fn a_missing_worker_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = "error: cannot start scdd-worker, which belongs beside scdd: No such file or directory (os error 2)\n";
    alone(dir.path()).arg("doctor").assert().code(2).stderr(missing);
    alone(dir.path()).args(["run", "configs/quickstart.yaml"]).assert().code(2).stderr(missing);
}

#[test]
fn an_instruction_set_that_is_none_is_refused() {
    let mut scdd = assert_cmd::cargo::cargo_bin_cmd!("scdd");
    scdd.env("SCDD_MAX_ISA", "sse9").current_dir(root()).arg("doctor");
    scdd.assert()
        .code(2)
        .stderr("error: SCDD_MAX_ISA is sse9; it must be avx512, avx2 or portable\n");
}

#[test]
fn help_says_the_exit_codes() {
    let mut scdd = assert_cmd::cargo::cargo_bin_cmd!("scdd");
    scdd.arg("--help")
        .assert()
        .success()
        .stdout(contains("1  a check failed, or some rows of an experiment"));
}

#[test]
fn shells_complete_every_command() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let printed = alone(dir.path()).args(["completions", shell]).assert().success();
        let text = String::from_utf8(printed.get_output().stdout.clone()).unwrap();
        for command in commands(dir.path()) {
            assert!(text.contains(&command), "{shell}: {command}");
        }
        // If the shell is installed, it must accept its completions.
        let file = dir.path().join(shell);
        fs::write(&file, &text).unwrap();
        if let Ok(checked) = std::process::Command::new(shell).arg("-n").arg(&file).output() {
            assert!(
                checked.status.success(),
                "{shell}: {}",
                String::from_utf8_lossy(&checked.stderr)
            );
        }
    }
    alone(dir.path())
        .args(["completions", "dos"])
        .assert()
        .code(2)
        .stderr(contains("[possible values: bash"));
}

#[test]
fn a_known_data_set_that_is_nowhere_is_planned_for_by_its_description() {
    let (nowhere, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let scdd = |more: &[&str]| {
        let mut scdd = alone(dir.path());
        scdd.env("SCDD_DATA", nowhere.path()).args(["run", "configs/quickstart.yaml", "--dry-run"]);
        scdd.arg("--output").arg(dir.path().join("runs")).args(more).assert().success()
    };
    scdd(&[])
        .stdout(contains(" 0 complete; ").and(contains("GB of soft labels, ")))
        .stdout(contains(" batches to recover, 240 epochs to label, 5 students"))
        .stderr(contains("Fashion-MNIST is not on this machine: its 10000 images are planned for"))
        .stderr(contains("`python -m exporters fetch fashion-mnist`"));
    // As with the data: the numbers of images are those of its description.
    let plan = |assert: assert_cmd::assert::Assert| -> Vec<serde_json::Value> {
        let found: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        let stages = found["plan"]["stages"].as_array().unwrap().clone();
        let cost = |stage: &serde_json::Value| {
            serde_json::json!([stage["stage"], stage["passes"], stage["bytes"]])
        };
        stages.iter().map(cost).collect()
    };
    let without = plan(scdd(&["--json"]));
    let mut with = alone(dir.path());
    with.args(["run", "configs/quickstart.yaml", "--dry-run", "--json", "--output"]);
    assert_eq!(without, plan(with.arg(dir.path().join("runs")).assert().success()));
    assert!(without.iter().any(|stage| stage[0] == "relabel" && stage[2].as_u64() > Some(0)));
}

#[test]
fn bundles_that_are_not_there_are_told_with_what_makes_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut scdd = alone(dir.path());
    scdd.args(["run", "configs/imagenet-1k.yaml", "--dry-run", "--output"]).arg(dir.path());
    scdd.assert().code(2).stderr(
        contains("2 things are wrong")
            .and(contains("runs/imagenet/resnet18/manifest.yaml: "))
            .and(contains("; `python -m exporters export` writes a teacher's bundle, ")),
    );
}

#[test]
fn a_folder_is_packed_and_read_as_data() {
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("packed");
    let pack = |arguments: &[&str]| {
        let mut scdd = alone(dir.path());
        scdd.args(["pack", "tests/goldens/folder", "--only", "train", "--out"]).arg(&packed);
        scdd.args(arguments).assert()
    };
    pack(&[]).code(2).stderr(contains("give --size, the height and width that networks take"));
    pack(&["--size", "24"]).success().stdout(contains("packed: 23 train images"));
    for file in ["packed.json", "train-images.npy", "train-labels.npy"] {
        let golden = fs::read(root().join("tests/goldens/packed").join(file)).unwrap();
        assert!(fs::read(packed.join(file)).unwrap() == golden, "{file}");
    }
    pack(&["--size", "24"]).code(2).stderr(contains("exists already; choose another --out"));
    let data = small_data(200, 100);
    let arrays = dir.path().join("arrays");
    let pack = |arguments: &[&str]| {
        let mut scdd = alone(dir.path());
        scdd.env("SCDD_DATA", data.path()).args(["pack", "fashion-mnist", "--out"]).arg(&arrays);
        scdd.args(arguments).assert()
    };
    pack(&["--size", "28"]).code(2).stderr(contains("leave out --size and --gray"));
    pack(&["--json"])
        .success()
        .stdout(contains("\"images\": 200").and(contains("\"images\": 100")));
    let set = format!("data={{type: fashion-mnist, path: {}}}", arrays.display());
    let output = dir.path().join("runs");
    let mut scdd = alone(dir.path());
    scdd.args(["run", "configs/quickstart.yaml", "--dry-run", "--set", &set, "--output"]);
    scdd.arg(&output).assert().success().stdout(contains(" 0 complete; "));
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    alone(dir.path())
        .arg("man")
        .arg(&pages)
        .assert()
        .success()
        .stdout(contains("scdd-export-set.1"))
        .stdout(contains("scdd-launch-slurm.1"))
        .stdout(contains("launch-help").not());
    let read = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    for command in commands(dir.path()) {
        assert!(
            read(&format!("scdd-{command}.1")).contains(&format!(".TH scdd-{command} 1")),
            "{command}"
        );
    }
    let main = read("scdd.1");
    assert!(
        main.contains(".TH scdd 1") && main.contains("Exit codes") && main.contains(r"\-\-verbose"),
        "{main}"
    );
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    alone(dir.path())
        .arg("man")
        .arg(&file)
        .assert()
        .code(2)
        .stderr(contains(file.to_str().unwrap()));
}

/// The names of all commands except `help`, as listed by `--help`.
fn commands(dir: &Path) -> Vec<String> {
    let printed = alone(dir).arg("--help").assert().success();
    let help = String::from_utf8(printed.get_output().stdout.clone()).unwrap();
    let list = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names = list.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<String> =
        names.filter_map(|line| line.split_whitespace().next()).map(String::from).collect();
    assert!(names.len() > 10, "{help}");
    names.into_iter().filter(|name| name != "help").collect()
}

#[test]
fn only_verbose_says_what_is_used() {
    let scdd = |arguments: &[&str]| {
        let mut scdd = assert_cmd::cargo::cargo_bin_cmd!("scdd");
        scdd.current_dir(root()).args(arguments).assert().success()
    };
    let bundle = "onnx/fashion-mnist/convnet3-w128";
    scdd(&["verify", bundle, "--verbose"]).stderr(
        contains("DEBUG scdd: starting ")
            .and(contains("DEBUG scdd_distill::teacher::runtime: loaded ")),
    );
    scdd(&["verify", bundle]).stderr(contains("DEBUG").not());
}
