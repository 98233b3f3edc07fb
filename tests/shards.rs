//! Shards of an experiment, made one after the other or at once, leave the bytes of one process.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{CACHE, assert_same, bundle, root, small_data, tiny_experiment};
use predicates::prelude::*;
use predicates::str::{contains, starts_with};

const TEACHER: &str = "resnet18-w16-moco-v2";

/// `scdd` in the repository's root, with this data.
fn scdd(data: &Path, output: &Path, arguments: &[&str]) -> assert_cmd::Command {
    let mut command = common::scdd();
    command.env("SCDD_DATA", data).args(arguments).arg("--output").arg(output);
    command
}

/// The shards of `goal` at once, each a process.
fn all_shards(data: &Path, output: &Path, experiment: &str, goal: &str, count: u32) {
    let start = |shard: u32| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("scdd"));
        command.current_dir(root()).env(CACHE.0, CACHE.1).env("SCDD_DATA", data);
        command.args([goal, experiment, "--shards", &count.to_string(), "--shard", "auto"]);
        command.env("JOB_COMPLETION_INDEX", shard.to_string());
        command.arg("--output").arg(output).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = (0..count).map(start).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn shards_leave_the_bytes_of_one_process() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment =
        tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: [random_real_soft]\n");
    let experiment = experiment.to_str().unwrap();
    let [alone, shared] = ["alone", "shared"].map(|name| dir.path().join(name));
    scdd(data.path(), &alone, &["run", experiment]).assert().success();
    let run = |arguments: &[&str]| scdd(data.path(), &shared, arguments).assert();

    // What is missing is told, and nothing is made before it is there.
    run(&["gate", "recover", experiment]).code(2).stderr(contains("by `--shards N`"));
    let third = ["--shards", "3", "--shard"];
    run(&[&["recover", experiment][..], &third, &["1"]].concat())
        .success()
        .stderr(contains("shard 1 of 3 is complete"));
    let missing = starts_with("missing of 3 shards: 0,2\n");
    run(&["gate", "recover", experiment]).code(3).stdout(missing);
    run(&[&["relabel", experiment][..], &third, &["0"]].concat())
        .code(3)
        .stderr(contains("which is not complete yet"));
    run(&["validate", experiment, "--shards", "4", "--shard", "0"])
        .code(2)
        .stderr(contains("`tiny` is divided into 3 shards"));
    let other = ["recover", experiment, "--shard", "0", "--set", "recover.iterations=4"];
    run(&other).code(2).stderr(contains("divided with another configuration"));
    run(&["recover", experiment, "--shard", "3"]).code(2).stderr(contains("shards are 0 to 2"));
    run(&["recover", experiment, "--shard", "auto"])
        .code(2)
        .stderr(contains("JOB_COMPLETION_INDEX"));

    for goal in ["recover", "relabel", "validate"] {
        all_shards(data.path(), &shared, experiment, goal, 3);
        run(&["gate", goal, experiment]).success();
    }
    fs::remove_dir_all(shared.join("shards")).unwrap();
    assert_same(&shared, &alone);
    run(&[&["recover", experiment][..], &third, &["1"]].concat())
        .success()
        .stderr(contains("done in").not());
}

#[test]
fn job_files_are_printed_without_slurm() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(
        dir.path(),
        &bundle(TEACHER),
        "baselines: [random_real_soft]\ndevice: cpu\n",
    );
    let output = dir.path().join("out");
    let launch = ["launch", "slurm", experiment.to_str().unwrap(), "--shards", "2"];
    let run = |more: &[&str]| {
        scdd(data.path(), &output, &[&launch[..], more].concat()).env("PATH", dir.path()).assert()
    };
    let printed = run(&["--dry-run", "--max-running", "1", "--time", "1:00:00"]).success();
    // Three batches of images, two sets of labels of four epochs, two students.
    let printed = printed
        .stdout(contains("#SBATCH --job-name=tiny-recover\n#SBATCH --array=0-1%1\n"))
        .stdout(contains("#SBATCH --time=1:00:00\n#SBATCH --requeue\n"))
        .stdout(contains(" --shards 2 --shard auto\n").count(3))
        .stdout(contains("scdd gate validate ").count(1))
        .stdout(contains("--gres").not());
    drop(printed);
    run(&["--dry-run", "--sbatch-arg", "mem"]).code(2).stderr(contains("is no option of sbatch"));
    run(&[]).code(2).stderr(contains("run this where Slurm is"));
    assert!(!output.exists(), "nothing was written");
}

#[test]
fn processes_on_several_devices_leave_the_bytes_of_one() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(
        dir.path(),
        &bundle(TEACHER),
        "baselines: [random_real_soft]\ndevice: cpu\n",
    );
    let experiment = experiment.to_str().unwrap();
    let [alone, shared] = ["alone", "shared"].map(|name| dir.path().join(name));
    let one = scdd(data.path(), &alone, &["run", experiment]).assert().success();
    let two = scdd(data.path(), &shared, &["run", experiment, "--devices", "0,1"]).assert();
    let two = two
        .success()
        .stderr(contains("[0] computing on cpu"))
        .stderr(contains("[1] computing on cpu"));
    let said = String::from_utf8_lossy(&two.get_output().stderr).into_owned();
    let trained =
        said.lines().filter(|line| line.contains("] validate ") && line.contains("done in"));
    assert_eq!(trained.count(), 2, "{said}");
    let last = |assert: &assert_cmd::assert::Assert| {
        let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
        text.lines().next().unwrap().to_owned()
    };
    assert_eq!(last(&two), last(&one), "one table");
    assert_same(&shared, &alone);
}
