//! Experiments under adverse conditions: damaged stages, foreign files, single failures, other
//! processes, signals.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::assert::Assert;
use common::{CACHE, bundle, contents, root, scdd, small_data, tiny_experiment};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use tempfile::TempDir;

const TEACHER: &str = "resnet18-w16-moco-v2";

/// A tiny experiment on a few images, in its own directory.
struct Trial {
    data: TempDir,
    dir: TempDir,
    file: PathBuf,
    output: PathBuf,
}

impl Trial {
    /// With `more` lines of YAML.
    fn new(more: &str) -> Self {
        let (data, dir) = (small_data(50, 20), tempfile::tempdir().unwrap());
        let file = tiny_experiment(dir.path(), &bundle(TEACHER), &format!("baselines: []\n{more}"));
        let output = dir.path().join("runs");
        Self { data, dir, file, output }
    }

    fn scdd(&self, arguments: &[&str]) -> Assert {
        let mut command = scdd();
        command
            .env("SCDD_DATA", self.data.path())
            .args(arguments)
            .arg("--output")
            .arg(&self.output)
            .assert()
    }

    /// Runs an `scdd` command on the experiment.
    fn on_it(&self, command: &str, more: &[&str]) -> Assert {
        self.scdd(&[&[command, self.file.to_str().unwrap()], more].concat())
    }

    /// The only stage directory of this kind.
    fn stage(&self, kind: &str) -> PathBuf {
        let mut found = fs::read_dir(self.output.join("stages").join(kind))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let stage = found.next().unwrap();
        assert_eq!(found.next(), None, "more than one {kind}");
        stage
    }

    /// Starts `scdd run`, to be stopped before its end.
    fn spawn(&self, more: &[&str]) -> std::process::Child {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("scdd"));
        command.current_dir(root()).env(CACHE.0, CACHE.1);
        command.env("SCDD_DATA", self.data.path()).arg("run").arg(&self.file);
        command
            .args(more)
            .arg("--output")
            .arg(&self.output)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

fn text(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn image(stage: &Path, class: &str, file: &str) -> PathBuf {
    stage.join("images").join(class).join(file)
}

#[test]
fn damaged_stages_are_made_again_with_the_same_bytes() {
    let trial = Trial::new("");
    trial.on_it("run", &["--quiet"]).success();
    let whole = contents(&trial.output);
    let (images, labels) = (trial.stage("recover"), trial.stage("relabel").join("labels.scdd"));
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let place = bytes.len() - 60;
        bytes[place] ^= 8;
        fs::write(path, bytes).unwrap();
    };
    let (shirt, boot) = (
        image(&images, "00_t-shirt-top", "00000.png"),
        image(&images, "09_ankle-boot", "00001.png"),
    );
    let damages: [(&dyn Fn(), &str); 6] = [
        (&|| fs::remove_file(&boot).unwrap(), "images/09_ankle-boot/00001.png is missing"),
        (&|| fs::copy(&shirt, &boot).map(drop).unwrap(), "images/09_ankle-boot/00001.png has"),
        (&|| flip(&labels), "labels.scdd has other bytes than were written"),
        (&|| fs::write(&labels, "SCDDSOFT").unwrap(), "labels.scdd has 8 bytes"),
        (&|| fs::remove_file(&labels).unwrap(), "labels.scdd is missing"),
        (
            &|| fs::remove_file(images.join("curves/batch-00000.jsonl")).unwrap(),
            "curves/batch-00000.jsonl is missing",
        ),
    ];
    for (damage, what) in damages {
        damage();
        trial.on_it("report", &[]).code(2).stderr(contains(what).and(contains("`scdd run`")));
        assert!(text(&trial.on_it("status", &[])).contains("1 damaged"));
        // Damage is also found before a student trains on the store.
        fs::remove_dir_all(trial.output.join("stages/validate")).unwrap();
        trial
            .on_it("run", &["--quiet"])
            .success()
            .stderr(contains(what).and(contains("is made again")));
        assert!(contents(&trial.output) == whole, "{what}");
    }
    // Follows the store's own advice: remove the file and relabel.
    fs::remove_file(&labels).unwrap();
    trial.on_it("relabel", &["--quiet"]).success();
    assert!(contents(&trial.output) == whole);
}

#[test]
fn a_foreign_file_in_a_stage_is_refused_and_stays() {
    let trial = Trial::new("");
    trial.on_it("run", &["--quiet"]).success();
    let extra = image(&trial.stage("recover"), "00_t-shirt-top", "mine.png");
    fs::write(&extra, "mine").unwrap();
    trial
        .on_it("run", &[])
        .code(2)
        .stderr(contains("mine.png is no file of its stage").and(contains("move it away")));
    assert_eq!(fs::read(&extra).unwrap(), b"mine");
    fs::remove_file(&extra).unwrap();
    trial.on_it("run", &["--quiet"]).success();
}

#[test]
fn an_image_that_an_interrupted_recovery_lost_is_made_again() {
    let trial = Trial::new("");
    trial.on_it("recover", &["--quiet"]).success();
    let (stage, whole) = (trial.stage("recover"), contents(&trial.output));
    let partial = PathBuf::from(format!("{}.partial", stage.display()));
    fs::rename(&stage, &partial).unwrap();
    fs::remove_file(image(&partial, "00_t-shirt-top", "00000.png")).unwrap();
    trial.on_it("recover", &["--quiet"]).success();
    assert!(contents(&trial.output) == whole);
}

#[test]
fn files_that_scdd_did_not_write_are_never_replaced() {
    let trial = Trial::new("");
    // The experiment file is at the path of the resolved one.
    let home = trial.output.join("tiny");
    fs::create_dir_all(&home).unwrap();
    let own = home.join("experiment.yaml");
    let words = format!("# my notes\n{}", fs::read_to_string(&trial.file).unwrap());
    fs::write(&own, &words).unwrap();
    let run = |file: &Path| trial.scdd(&["run", "--quiet", file.to_str().unwrap()]);
    run(&own)
        .code(2)
        .stderr(contains("experiment.yaml is not as scdd wrote it").and(contains("move it away")));
    assert_eq!(fs::read_to_string(&own).unwrap(), words);
    assert!(!trial.output.join("stages").exists(), "refused before anything was made");
    fs::remove_file(&own).unwrap();
    for file in ["report.html", "results.json", "timing.json", "results.csv"] {
        fs::write(home.join(file), "mine").unwrap();
        run(&trial.file).code(2).stderr(contains(file).and(contains("not replaced")));
        assert_eq!(fs::read(home.join(file)).unwrap(), b"mine");
        fs::remove_file(home.join(file)).unwrap();
    }
    run(&trial.file).success();
    // scdd's own resolved file may be replaced; after an edit it belongs to the user.
    run(&own).success();
    let resolved = fs::read_to_string(&own).unwrap();
    fs::write(&own, resolved.replace("iterations: 3", "iterations: 2 # fewer")).unwrap();
    run(&own).code(2).stderr(contains("experiment.yaml is not as scdd wrote it"));
    assert!(fs::read_to_string(&own).unwrap().contains("# fewer"));
    fs::write(&own, resolved).unwrap();

    let docs = trial.dir.path().join("docs");
    fs::create_dir(&docs).unwrap();
    let (report, to) = (home.to_str().unwrap(), docs.to_str().unwrap());
    for (option, file) in [
        ("--markdown", "a.md"),
        ("--markdown", "b-1.svg"),
        ("--snapshot", "c.json"),
        ("--to", "report.html"),
    ] {
        let (path, target) = (docs.join(file), docs.join(file.replace("-1.svg", ".md")));
        let target = if option == "--to" { to } else { target.to_str().unwrap() };
        fs::write(&path, "mine").unwrap();
        trial
            .scdd(&["report", report, option, target])
            .code(2)
            .stderr(contains(file).and(contains("not replaced")));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        trial.scdd(&["report", report, option, target]).success();
        trial.scdd(&["report", report, option, target]).success();
    }
    trial
        .on_it("run", &["--set", "name=stages"])
        .code(2)
        .stderr(contains("`name`").and(contains("choose another")));
}

/// Two methods; one can't be recovered, because the teacher has no patch statistics.
const HALF: &str = "methods:\n  bad: {iterations: 3, batch_size: 20, r_patch: 1}\n  good: {iterations: 3, batch_size: 20}\n";

#[test]
fn one_failure_costs_its_own_rows_alone_and_is_named_everywhere() {
    let trial = Trial::new("");
    let text_of = fs::read_to_string(&trial.file).unwrap();
    let lines: Vec<&str> = text_of.lines().filter(|line| !line.starts_with("recover:")).collect();
    fs::write(&trial.file, format!("{}\n{HALF}", lines.join("\n"))).unwrap();
    let named = format!("error: recover method `bad` from teacher `{TEACHER}`, ipc 2, seed 3: ");
    let assert = trial.on_it("run", &["--quiet"]).code(1).stderr(contains(named.as_str()));
    let table = text(&assert);
    let line =
        |name: &str| table.lines().find(|line| line.starts_with(name)).map(str::to_owned).unwrap();
    assert!(
        line("bad from").contains("failed") && !line("good from").contains("failed"),
        "{table}"
    );
    assert!(line("failed (1 row): recover method `bad`").contains("r_patch"), "{table}");

    let home = trial.output.join("tiny");
    let results: serde_json::Value =
        serde_json::from_slice(&fs::read(home.join("results.json")).unwrap()).unwrap();
    let failed = results["results"]["failed"].as_array().unwrap();
    assert_eq!(
        (failed.len(), &failed[0]["method"], &failed[0]["seed"]),
        (1, &"bad".into(), &3.into())
    );
    assert_eq!(results["results"]["rows"].as_array().unwrap().len(), 1);
    let page = fs::read_to_string(home.join("report.html")).unwrap();
    assert!(
        page.contains("What failed")
            && page.contains("<b>failed</b>")
            && page.contains("recover method `bad`")
    );
    let json = text(&trial.on_it("run", &["--quiet", "--json"]).code(1));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (json["failed"].as_array().unwrap().len(), json["summaries"].as_array().unwrap().len()),
        (1, 1)
    );
    let snapshot = trial.dir.path().join("a.json");
    trial
        .scdd(&["report", home.to_str().unwrap(), "--snapshot", snapshot.to_str().unwrap()])
        .success();
    assert!(
        text(&trial.scdd(&["report", snapshot.to_str().unwrap()]))
            .contains("failed (1 row): recover method `bad`")
    );
    trial.on_it("recover", &["--quiet"]).code(1).stderr(contains(named.as_str()));
    // Without any complete row there is no report.
    trial
        .on_it("run", &["--quiet", "--set", "methods.good.r_patch=1", "--set", "name=none"])
        .code(2)
        .stderr(contains("nothing could be made"));
    assert!(!trial.output.join("none").exists());
}

#[test]
fn several_bad_bundles_are_named_at_once() {
    let trial = Trial::new("");
    let broken = common::copy_bundle(TEACHER);
    fs::write(broken.path.join("bn_stats.safetensors"), "short").unwrap();
    let teachers = format!("teachers=[{}, nowhere/a, nowhere/b]", broken.path.display());
    let all = contains("3 things are wrong")
        .and(contains("bn_stats"))
        .and(contains("nowhere/a/"))
        .and(contains("nowhere/b/"));
    trial.on_it("run", &["--set", &teachers]).code(2).stderr(all);
    let [first, second] = ["convnet3-w128", "convnet3-w128-in"].map(bundle);
    let misfits = format!("teachers=[{}, {}]", first.display(), second.display());
    let all = contains("2 things are wrong")
        .and(contains("convnet3-w128: "))
        .and(contains("convnet3-w128-in: "));
    trial.on_it("run", &["--set", &misfits]).code(2).stderr(all);
}

#[test]
fn status_and_clean_survive_an_experiment_whose_data_has_moved() {
    let trial = Trial::new("");
    trial.on_it("run", &["--quiet"]).success();
    let moved = small_data(40, 10);
    let data = format!("data={{type: fashion-mnist, path: {}}}", moved.path().display());
    let other = format!("teachers={}", bundle("resnet18-w16-swav").display());
    trial
        .on_it("run", &["--quiet", "--set", "name=second", "--set", &data, "--set", &other])
        .success();
    trial.on_it("recover", &["--quiet", "--set", "recover.iterations=1"]).success();
    fs::rename(moved.path().join("fashion-mnist"), moved.path().join("gone")).unwrap();
    let status = text(&trial.scdd(&["status"]).code(1));
    assert!(
        status.contains("tiny: 6 complete\n") && status.contains("second: can't be told: "),
        "{status}"
    );
    // What it would cost elsewhere follows from the description of the data set.
    trial
        .on_it("run", &["--dry-run", "--set", "name=second", "--set", &data])
        .success()
        .stderr(contains("planned for by its description"));
    let json: serde_json::Value =
        serde_json::from_str(&text(&trial.scdd(&["status", "--json"]))).unwrap();
    assert_eq!(
        (json["experiments"][0]["name"].as_str(), json["unreadable"].as_array().unwrap().len()),
        (Some("tiny"), 1)
    );

    let homes = ["tiny", "second"].map(|name| trial.output.join(name));
    let [first, second] = homes.each_ref().map(|home| home.to_str().unwrap());
    // The set of one iteration uses the first's teacher, so it is not kept. Both need the student.
    let clean = trial
        .scdd(&["clean", first, second])
        .code(1)
        .stderr(contains("every stage of its networks is kept"));
    assert!(text(&clean).contains("1 stages"), "{}", text(&clean));
    let before = fs::read_dir(trial.output.join("stages/recover")).unwrap().count();
    trial.scdd(&["clean", first, second, "--yes"]).code(1);
    assert_eq!(fs::read_dir(trial.output.join("stages/recover")).unwrap().count(), before - 1);
    fs::rename(moved.path().join("gone"), moved.path().join("fashion-mnist")).unwrap();
    let status = text(&trial.scdd(&["status"]).success());
    assert!(status.contains("second: 6 complete\n"), "nothing that it needs went: {status}");
}

#[test]
fn an_interrupted_run_says_what_stays_and_status_shows_it_before_there_is_a_report() {
    let trial = Trial::new("");
    let long = ["--quiet", "--set", "recover.iterations=100000"];
    let mut child = trial.spawn(&long);
    let (locks, started) = (trial.output.join("stages/.locks"), Instant::now());
    // The first batch is taken.
    let begun = || {
        let mut locks = fs::read_dir(&locks).into_iter().flatten();
        locks.any(|lock| lock.unwrap().path().join("0").exists())
    };
    while !begun() {
        assert!(
            started.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    // SIGINT is ignored if tests run in the background.
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(75), "{said}");
    assert!(said.contains("SIGTERM: ") && said.contains("the same command goes on"), "{said}");

    let shown = text(&trial.scdd(&["status"]).success());
    for part in [
        "no experiment has its report",
        "verify    2 complete",
        "recover   1 interrupted",
        "scdd status EXPERIMENT",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&text(&trial.scdd(&["status", "--json"]))).unwrap();
    // Two verified networks, the measured teacher, and the begun set.
    assert_eq!(json["other_stages"].as_array().unwrap().len(), 4);
}

#[test]
fn who_waits_for_another_process_says_for_which_and_at_what() {
    let trial = Trial::new("");
    let plan: serde_json::Value =
        serde_json::from_str(&text(&trial.on_it("run", &["--dry-run", "--json"]).success()))
            .unwrap();
    let stages = plan["plan"]["stages"].as_array().unwrap();
    let recover = stages.iter().find(|stage| stage["stage"] == "recover").unwrap()["directory"]
        .as_str()
        .unwrap();
    let name = Path::new(recover).file_name().unwrap().to_str().unwrap();
    let locks = trial.output.join("stages/.locks");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("recover-{name}"))).unwrap();
    lock.lock().unwrap();
    fs::write(locks.join(format!("recover-{name}")), "process 4711 on elsewhere").unwrap();
    assert!(text(&trial.on_it("status", &[])).contains("1 running"));

    let mut child = trial.spawn(&["--quiet"]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let waiting = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("waiting"));
    assert_eq!(
        waiting,
        Some(format!("waiting for process 4711 on elsewhere, which is at recover/{name}"))
    );
    drop(lock);
    // Reads further output, so that the pipe does not fill up.
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_device_is_said_at_the_start() {
    let trial = Trial::new("");
    trial
        .on_it("recover", &[])
        .success()
        .stderr(contains("computing on cpu: there is no NVIDIA driver").or(contains("cuda:0")));
    trial
        .on_it("recover", &["--set", "device=cpu"])
        .success()
        .stderr(contains("computing on cpu\n"));
}

/// Kind and directory of every stage that `scdd run` needs.
fn planned(trial: &Trial, more: &[&str]) -> Vec<(String, String)> {
    let dry = text(&trial.on_it("run", &[&["--dry-run", "--json"], more].concat()).success());
    let plan: serde_json::Value = serde_json::from_str(&dry).unwrap();
    let stages = plan["plan"]["stages"].as_array().unwrap().iter();
    stages
        .map(|one| ["stage", "directory"].map(|key| one[key].as_str().unwrap().to_owned()).into())
        .collect()
}

#[test]
fn the_plan_of_an_automatic_weight_is_that_of_the_run() {
    let trial = Trial::new("");
    let auto = ["--set", "recover.r_bn=auto"];
    let before = planned(&trial, &auto);
    assert!(before.iter().any(|(kind, _)| kind == "balance"));
    trial.on_it("run", &[&["--quiet"][..], &auto].concat()).success();
    assert_eq!(planned(&trial, &auto), before);
    assert!(
        before.iter().all(|(_, directory)| Path::new(directory).join("contents.json").is_file())
    );
    let clean = trial.scdd(&["clean", trial.output.join("tiny").to_str().unwrap()]).success();
    assert_eq!(text(&clean), "every stage is needed\n");
}
