//! `scdd watch` beside a run, after it, and where a stage failed.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{CACHE, bundle, copy_bundle, root, scdd, small_data, tiny_experiment};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::{contains, ends_with};
use prost::Message;
use serde_json::Value;

const TEACHER: &str = "resnet18-w16-moco-v2";

fn run(experiment: &Path, data: &Path, output: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("scdd"));
    command.current_dir(root()).env(CACHE.0, CACHE.1).env("SCDD_DATA", data);
    command.args(["run", "--quiet", "--jobs", "1"]).arg(experiment).arg("--output").arg(output);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn watch(data: &Path, directory: &Path) -> assert_cmd::Command {
    let mut command = scdd();
    // Not where the run was started: its paths start from there all the same.
    command.current_dir(std::env::temp_dir()).env("SCDD_DATA", data).arg("watch").arg(directory);
    command
}

/// The events of a run that is watched from its first stages to its end.
fn events(experiment: &Path, data: &Path, output: &Path) -> (Vec<Value>, Option<i32>) {
    let mut child = run(experiment, data, output).spawn().unwrap();
    let announced = output.join("stages/.locks/tiny.run/experiment.json");
    while !announced.exists() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it was announced");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let found = watch(data, output).arg("--json").assert();
    child.wait().unwrap();
    let found = found.get_output();
    let lines = String::from_utf8(found.stdout.clone()).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), found.status.code())
}

#[test]
fn a_run_is_watched_until_it_is_complete() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "");
    let output = dir.path().join("runs");
    let (events, code) = events(&experiment, data.path(), &output);
    assert_eq!(code, Some(0));
    let [begin, .., end] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&begin["event"], &begin["experiment"]), (&"begin".into(), &"tiny".into()));
    assert_eq!((&end["event"], &end["outcome"]), (&"end".into(), &"complete".into()));
    // Every stage is done at the end, by the events alone.
    let mut standings: std::collections::BTreeMap<&str, &str> = Default::default();
    let stages = begin["stages"].as_array().unwrap().iter();
    for stage in stages.chain(events.iter().filter(|event| event["event"] == "stage")) {
        standings.insert(stage["title"].as_str().unwrap(), stage["standing"].as_str().unwrap());
    }
    assert!(standings.len() > 15 && standings.values().all(|one| *one == "done"), "{standings:?}");
    let progress: Vec<&Value> = events.iter().filter(|e| e["event"] == "progress").collect();
    let done: Vec<u64> = progress.iter().map(|event| event["done"].as_u64().unwrap()).collect();
    assert!(done.is_sorted() && done.last() == Some(&(standings.len() as u64)), "{done:?}");
    // It said of a running stage how far it was, or there was none at any look.
    let under_way = progress.iter().flat_map(|event| event["under_way"].as_array().unwrap());
    assert!(under_way.filter(|one| one.get("total").is_some()).all(|one| one["total"] != 0));

    // Afterwards the same is said at once, also of the experiment's own directory.
    let all = format!("tiny: {0} of {0} stages done, complete\n", standings.len());
    for directory in [output.clone(), output.join("tiny")] {
        watch(data.path(), &directory).assert().success().stdout(all.clone());
    }
    let dry = scdd()
        .env("SCDD_DATA", data.path())
        .args(["run", "--dry-run"])
        .arg(&experiment)
        .arg("--output")
        .arg(&output)
        .assert()
        .success();
    let stages = format!("{0} stages, {0} complete", standings.len());
    dry.stdout(contains(stages));
}

#[test]
fn what_failed_is_said_with_its_reason() {
    let (data, dir) = (small_data(50, 20), tempfile::tempdir().unwrap());
    let copy = copy_bundle(TEACHER);
    let mut model =
        scdd::graph::proto::ModelProto::decode(copy.read("model.onnx").as_slice()).unwrap();
    let weights = &mut model.graph.as_mut().unwrap().initializer;
    let weight = weights.iter_mut().find(|t| t.name.as_deref() == Some("layer3.0.conv2.weight"));
    weight.unwrap().raw_data.as_mut().unwrap()[..4].copy_from_slice(&0.5f32.to_le_bytes());
    copy.replace("model.onnx", &model.encode_to_vec());
    let experiment = tiny_experiment(dir.path(), &copy.path, "baselines: [random_real_hard]\n");
    let output = dir.path().join("runs");
    assert_eq!(run(&experiment, data.path(), &output).status().unwrap().code(), Some(1));
    watch(data.path(), &output)
        .assert()
        .code(1)
        .stdout(contains("failed").and(ends_with("failed\n")));
    let found = watch(data.path(), &output).arg("--json").assert().code(1);
    let lines = String::from_utf8(found.get_output().stdout.clone()).unwrap();
    let begin: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let failed = |stage: &&Value| stage["standing"] == "failed";
    let failed: Vec<&Value> = begin["stages"].as_array().unwrap().iter().filter(failed).collect();
    let reasons: Vec<&str> = failed.iter().filter_map(|stage| stage["failure"].as_str()).collect();
    assert!(failed.len() > 3, "what needs it failed too: {failed:?}");
    assert!(reasons.len() == 1 && reasons[0].contains("failed its verification"), "{reasons:?}");
}

#[test]
fn without_a_run_there_is_nothing_to_watch() {
    let (data, dir) = (small_data(1, 1), tempfile::tempdir().unwrap());
    let said = contains("no experiment was run in").and(contains("scdd run EXPERIMENT.yaml"));
    watch(data.path(), dir.path()).assert().code(2).stderr(said);
}
