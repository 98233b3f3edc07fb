//! Whole experiments through the command line: completed, resumed after SIGKILL, refused.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::{
    CACHE, assert_same, bundle, contents, copy_bundle, features_only, root, scdd, small_data,
    tiny_experiment,
};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

const TEACHER: &str = "resnet18-w16-moco-v2";

#[test]
fn a_run_is_complete_and_a_second_one_does_nothing() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "");
    let output = dir.path().join("runs");
    let run = |command: &str| {
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path())
            .arg(command)
            .arg(&experiment)
            .arg("--output")
            .arg(&output);
        scdd
    };
    run("report").assert().code(2).stderr(contains("the experiment is not complete"));
    let images =
        String::from_utf8(run("recover").assert().success().get_output().stdout.clone()).unwrap();
    assert_eq!(
        images.lines().count(),
        4,
        "one recovery; random images, those nearest to the mean, crops: {images}"
    );
    run("run")
        .assert()
        .success()
        .stdout(contains("distilled from resnet18-w16-moco-v2").and(contains("report: ")));

    let html = fs::read_to_string(output.join("tiny/report.html")).unwrap();
    assert!(html.contains("data:image/png;base64,") && html.contains("<svg"));
    let results: serde_json::Value =
        serde_json::from_slice(&fs::read(output.join("tiny/results.json")).unwrap()).unwrap();
    let rows = results["results"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 7);
    let mut probabilities: Vec<f64> =
        rows.iter().filter_map(|row| row["label_probability"].as_f64()).collect();
    let mut expected: Vec<f64> = label_files(&output).iter().map(|file| sureness(file)).collect();
    probabilities.sort_by(f64::total_cmp);
    expected.sort_by(f64::total_cmp);
    assert_eq!(probabilities.len(), 4);
    let pairs = probabilities.iter().zip(&expected);
    assert!(pairs.clone().all(|(found, own)| (found - own).abs() < 1e-6), "{pairs:?}");
    for row in rows {
        let accuracy = |name: &str| row[name].as_f64().unwrap();
        let [top1, top5] = ["last_accuracy", "last_top5"].map(accuracy);
        let images = top5 * 100.0;
        assert!(top1 <= top5 && (images - images.round()).abs() < 1e-9, "{row}");
    }
    let recovered =
        fs::read_dir(output.join("stages/recover")).unwrap().next().unwrap().unwrap().path();
    let classes: Vec<_> = fs::read_dir(recovered.join("images")).unwrap().collect();
    assert_eq!(classes.len(), 10);

    let markdown = dir.path().join("docs/tiny.md");
    run("report").arg("--markdown").arg(&markdown).assert().success();
    let text = fs::read_to_string(&markdown).unwrap();
    assert!(
        text.contains("| distilled from resnet18-w16-moco-v2 | yes |")
            && text.contains("](tiny-1.svg)"),
        "{text}"
    );
    let chart = fs::read_to_string(markdown.with_file_name("tiny-1.svg")).unwrap();
    assert_eq!(chart.matches("<circle").count(), 7, "{chart}");

    assert_recorded(&output, "verify", &[TORCH, RUNTIME]);
    assert_recorded(&output, "measure", &[RUNTIME]);
    assert_recorded(&output, "recover", &[TORCH]);
    assert_recorded(&output, "relabel", &[RUNTIME]);
    assert_recorded(&output, "validate", &[TORCH]);
    assert_recorded(&output, "real", &[]);

    let before = contents(&output);
    run("run").assert().success().stderr(contains("done in").not());
    run("report").assert().success();
    assert_eq!(before, contents(&output));
}

/// How the names of libraries begin.
const TORCH: &str = "libtorch ";
const RUNTIME: &str = "libonnxruntime.so";

/// Checks that the stages of this `kind` record that the CPU computed them in float32, by these
/// `libraries` and no others; without libraries, that nothing did.
fn assert_recorded(output: &Path, kind: &str, libraries: &[&str]) {
    let stages: Vec<_> = fs::read_dir(output.join("stages").join(kind)).unwrap().collect();
    assert!(!stages.is_empty(), "{kind}");
    for stage in stages {
        let timing = fs::read(stage.unwrap().path().join("timing.json")).unwrap();
        let timing: serde_json::Value = serde_json::from_slice(&timing).unwrap();
        let on = &timing["computed_on"];
        if libraries.is_empty() {
            assert!(on.is_null(), "{kind}: {on}");
            continue;
        }
        assert_eq!((&on["device"], &on["precision"]), (&"cpu".into(), &"float32".into()), "{kind}");
        let found: Vec<_> = on["libraries"].as_str().unwrap().split(", ").collect();
        assert_eq!(found.len(), libraries.len(), "{kind}: {found:?}");
        let starts = |(found, start): (&&str, &&str)| found.starts_with(start);
        assert!(found.iter().zip(libraries).all(starts), "{kind}: {found:?}");
    }
}

/// The label stores below `output`.
fn label_files(output: &Path) -> Vec<PathBuf> {
    let stages = fs::read_dir(output.join("stages/relabel")).unwrap();
    stages.map(|stage| stage.unwrap().path().join("labels.scdd")).collect()
}

/// The mean of each stored view's largest softmax probability.
fn sureness(file: &Path) -> f64 {
    let store = scdd::labels::LabelStore::open(file).unwrap();
    let mut found = Vec::new();
    for (epoch, batch) in (0..4).flat_map(|epoch| (0..3).map(move |batch| (epoch, batch))) {
        for logits in store.get(epoch, batch).unwrap().logits.rows() {
            let powers: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
            let sum: f64 = powers.iter().sum();
            found.push(powers.into_iter().fold(0.0, f64::max) / sum);
        }
    }
    found.iter().sum::<f64>() / found.len() as f64
}

#[test]
fn a_term_that_does_nothing_is_a_remark() {
    let (data, dir) = (small_data(50, 20), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: []\n");
    let run = |r_bn: &str| {
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path()).arg("run").arg(&experiment);
        scdd.args(["--set", &format!("recover.r_bn={r_bn}")]);
        scdd.arg("--output").arg(dir.path().join(r_bn)).assert().success()
    };
    let balance = |r_bn: &str| {
        let file = dir.path().join(r_bn).join("tiny/results.json");
        let results: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let start = &results["results"]["recoveries"][0]["balance"]["start"];
        start["ce"].as_f64().unwrap() / start["bn"].as_f64().unwrap()
    };
    let offer = "BN statistics alignment is negligible beside cross entropy";
    run("1e-9").stderr(contains(offer).and(contains("`recover.r_bn: auto` gives both the same")));
    assert!(balance("1e-9") > 1e4);
    run("auto").stderr(contains("negligible").not());
    // The balance was measured on other noise and without views.
    assert!((0.2..5.0).contains(&balance("auto")), "{}", balance("auto"));
}

/// Starts the run with `jobs` stages at once.
fn start(experiment: &Path, data: &Path, output: &Path, jobs: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("scdd"));
    command
        .current_dir(root())
        .env(CACHE.0, CACHE.1)
        .env("SCDD_DATA", data)
        .args(["run", "--jobs", jobs]);
    command.arg(experiment).arg("--output").arg(output).stdout(Stdio::null());
    command
}

/// Starts `run`, sends it `signal` after `delay`, and returns whether it had finished before.
/// Checks that a run that can answer the signal says that its state is kept.
fn stopped(run: &mut Command, signal: &str, delay: Duration) -> bool {
    let mut child = run.arg("--quiet").stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while started.elapsed() < delay {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // scdd-worker has replaced scdd in the same process.
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        // The signal came before the first stage, or after the last one.
        None | Some(0) => output.status.success(),
        code => {
            assert_eq!((signal, code), ("-TERM", Some(75)), "{said}");
            assert!(said.contains("SIGTERM: ") && said.contains("stopped: "), "{said}");
            false
        }
    }
}

/// Runs the experiment to its end, one stage after the other.
fn finish(experiment: &Path, data: &Path, output: &Path) {
    let mut run = start(experiment, data, output, "1");
    assert!(stopped(&mut run, "-KILL", Duration::from_secs(600)));
}

/// The label store of the only relabelling below `output`, complete or unfinished, once it exists.
fn label_file(output: &Path, name: &str) -> Option<PathBuf> {
    let stages = fs::read_dir(output.join("stages/relabel")).ok()?;
    stages.map(|stage| stage.unwrap().path().join(name)).find(|file| file.exists())
}

#[test]
fn a_killed_relabelling_goes_on_and_leaves_the_same_bytes() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: []\n");
    let relabel = |output: &Path| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("scdd"));
        command
            .current_dir(root())
            .env(CACHE.0, CACHE.1)
            .env("SCDD_DATA", data.path())
            .stdout(Stdio::null());
        command.args(["relabel", "--quiet", "--set", "relabel.epochs=400"]);
        command.arg(&experiment).arg("--output").arg(output);
        command
    };
    let (calm, killed) = (dir.path().join("calm"), dir.path().join("killed"));
    assert!(relabel(&calm).status().unwrap().success());
    let expected = fs::read(label_file(&calm, "labels.scdd").unwrap()).unwrap();
    let mut child = relabel(&killed).spawn().unwrap();
    let begun = loop {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it could be killed");
        let file = label_file(&killed, "labels.scdd.under-way");
        match file.and_then(|file| Some((fs::metadata(&file).ok()?.len(), file))) {
            Some((bytes, file)) if bytes > expected.len() as u64 / 8 => break file,
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = fs::read(&begun).unwrap();
    assert!(kept.len() < expected.len() && expected.starts_with(&kept[..expected.len() / 8]));
    assert!(relabel(&killed).status().unwrap().success());
    let file = label_file(&killed, "labels.scdd").unwrap();
    assert!(fs::read(&file).unwrap() == expected, "the labels differ");
    assert!(!begun.exists() && label_file(&killed, "labels.scdd.under-way").is_none());
    let timing: serde_json::Value =
        serde_json::from_slice(&fs::read(file.with_file_name("timing.json")).unwrap()).unwrap();
    assert_eq!(timing["resumed"], true);
}

/// As a kill leaves it that comes after the work and before the stage's directory gets its name.
#[test]
fn work_that_is_done_is_not_done_again_for_want_of_a_name() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: []\n");
    let output = dir.path().join("runs");
    finish(&experiment, data.path(), &output);
    let before = contents(&output);
    for (kind, file) in [("relabel", "labels.scdd"), ("validate", "student.safetensors")] {
        let stage = fs::read_dir(output.join("stages").join(kind)).unwrap().next().unwrap();
        let stage = stage.unwrap().path();
        let partial = PathBuf::from(format!("{}.partial", stage.display()));
        let written = fs::metadata(stage.join(file)).unwrap().modified().unwrap();
        fs::remove_file(stage.join("contents.json")).unwrap();
        let under_way = if kind == "relabel" { "labels.scdd" } else { "training" };
        fs::write(stage.join(format!("{under_way}.under-way")), "left").unwrap();
        fs::rename(&stage, &partial).unwrap();
        finish(&experiment, data.path(), &output);
        assert_eq!(fs::metadata(stage.join(file)).unwrap().modified().unwrap(), written, "{kind}");
    }
    assert!(before == contents(&output), "nothing is left behind");
}

#[test]
fn a_run_of_several_stages_at_once_that_was_ended_again_and_again_leaves_the_same_bytes() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "");
    let (calm, ended) = (dir.path().join("calm"), dir.path().join("ended"));
    let started = Instant::now();
    finish(&experiment, data.path(), &calm);
    let whole = started.elapsed();
    // Each attempt gets a little longer, so that the ends hit every stage and the last attempt
    // has none.
    let mut ends = 0;
    let run = || start(&experiment, data.path(), &ended, "3");
    while !stopped(
        &mut run(),
        if ends % 2 == 0 { "-KILL" } else { "-TERM" },
        whole.mul_f64(0.1 + 0.06 * f64::from(ends)),
    ) {
        ends += 1;
    }
    assert!(ends >= 2, "the run was ended {ends} times only");
    assert_same(&ended, &calm);
}

#[test]
fn two_processes_at_one_directory_share_the_stages_and_leave_the_same_bytes() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "");
    let (alone, shared) = (dir.path().join("alone"), dir.path().join("shared"));
    finish(&experiment, data.path(), &alone);
    let run = || start(&experiment, data.path(), &shared, "1").stderr(Stdio::piped()).spawn();
    let trained = [run().unwrap(), run().unwrap()].map(|child| {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let is_training = |line: &&str| line.starts_with("validate ") && line.contains("done in");
        said.lines().filter(is_training).count()
    });
    assert_same(&shared, &alone);
    let students = fs::read_dir(shared.join("stages/validate")).unwrap().count();
    assert_eq!(trained.iter().sum::<usize>(), students, "{trained:?}");
}

/// An experiment of ten batches of images.
const BATCHES: [&str; 4] = ["--set", "recover.batch_size=2", "--set", "recover.iterations=100"];

/// Starts a recovery in ten batches.
fn recover(experiment: &Path, data: &Path, output: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("scdd"));
    command
        .current_dir(root())
        .env(CACHE.0, CACHE.1)
        .env("SCDD_DATA", data)
        .arg("recover")
        .args(BATCHES);
    command.arg(experiment).arg("--output").arg(output);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Waits until the recovery below `output` has made so many batches, and returns how many it has.
fn await_batches(output: &Path, count: usize) -> usize {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let stages = fs::read_dir(output.join("stages/recover")).into_iter().flatten();
        let curves = stages.flat_map(|stage| fs::read_dir(stage.unwrap().path().join("curves")));
        let made = curves.flatten().count();
        if made >= count && output.join("stages/recover").exists() {
            return made;
        }
        assert!(Instant::now() < end, "there are {made} batches only");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn processes_share_the_batches_of_one_recovery_and_leave_the_same_bytes() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: []\n");
    let run = |output: &Path| recover(&experiment, data.path(), output);
    let [alone, shared, ended] = ["alone", "shared", "ended"].map(|name| dir.path().join(name));
    assert!(run(&alone).status().unwrap().success());
    let first = run(&shared).spawn().unwrap();
    await_batches(&shared, 0);
    let said = [first, run(&shared).spawn().unwrap()].map(|child| {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    });
    assert_same(&shared, &alone);
    let helped = |said: &String| {
        said.lines().any(|line| line.contains(", beside process ") && line.contains("done in"))
    };
    assert!(said.iter().any(helped), "{said:?}");
    // One of the two is killed in the midst of its batches, whichever makes the stage.
    for victim in [0, 1] {
        let mut two = [run(&ended).spawn().unwrap(), run(&ended).spawn().unwrap()];
        assert!(await_batches(&ended, 4) < 10);
        two[victim].kill().unwrap();
        let ended_by = two[victim].wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended_by), Some(9));
        let [first, second] = two.map(|child| child.wait_with_output().unwrap());
        let survivor = if victim == 0 { second } else { first };
        assert!(survivor.status.success(), "{}", String::from_utf8_lossy(&survivor.stderr));
        assert_same(&ended, &alone);
        fs::remove_dir_all(&ended).unwrap();
    }
}

#[test]
fn a_calibration_that_was_stopped_again_and_again_leaves_the_same_bytes() {
    let (data, dir) = (small_data(3000, 100), tempfile::tempdir().unwrap());
    let calibrate = |out: &Path| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("scdd"));
        command.current_dir(root()).args([
            "calibrate",
            "--per-class",
            "--images",
            "3000",
            "--data",
        ]);
        command.arg(data.path().join("fashion-mnist")).arg(bundle(TEACHER)).arg("--out").arg(out);
        command.stdout(Stdio::null());
        command
    };
    let [calm, ended] = ["calm", "ended"].map(|name| dir.path().join(name).join("bundle"));
    for out in [&calm, &ended] {
        fs::create_dir(out.parent().unwrap()).unwrap();
    }
    let started = Instant::now();
    assert!(stopped(&mut calibrate(&calm), "-TERM", Duration::from_secs(600)));
    let (whole, state) = (started.elapsed(), ended.with_file_name("bundle.under-way"));
    let (mut stops, mut kept) = (0, 0);
    let delay = |stops: u32| whole.mul_f64(0.3 + 0.1 * f64::from(stops));
    while !stopped(&mut calibrate(&ended), "-TERM", delay(stops)) {
        stops += 1;
        kept += u32::from(state.exists());
    }
    assert!(kept >= 1, "nothing was kept in {stops} stops");
    assert_same(ended.parent().unwrap(), calm.parent().unwrap());
}

/// Sets the time of change of the files of `small_data` to that of the year 2001.
fn settle(data: &Path) {
    for file in fs::read_dir(data.join("fashion-mnist")).unwrap() {
        let file = fs::File::options().append(true).open(file.unwrap().path()).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    }
}

#[test]
fn pixels_are_read_only_by_the_stages_that_need_them() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    settle(data.path());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: []\n");
    let output = dir.path().join("runs");
    let run = |arguments: &[&str]| {
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path()).env("SCDD_CACHE", dir.path().join("cache"));
        scdd.args(arguments).arg(&experiment).arg("--output").arg(&output).assert()
    };
    let plan = || {
        let shown = run(&["run", "--dry-run", "--json"]).success().get_output().stdout.clone();
        String::from_utf8(shown).unwrap()
    };
    let before = plan();
    // The same sizes and times, but other pixels: who looks at them notices.
    let images = data.path().join("fashion-mnist/t10k-images-idx3-ubyte");
    let mut bytes = fs::read(&images).unwrap();
    bytes[16] = !bytes[16];
    fs::write(&images, &bytes).unwrap();
    settle(data.path());
    assert_eq!(plan(), before);
    run(&["recover", "--quiet"]).success();
    run(&["status"]).success().stdout(contains("recover"));
    run(&["run", "--quiet"]).code(2).stderr(contains("start it again"));
    // The lie is found out, so the images are read anew.
    assert_ne!(plan(), before);
    run(&["run", "--quiet"]).success();
}

#[test]
fn a_bundle_that_does_not_verify_costs_all_that_needs_it() {
    use prost::Message;
    let (data, dir, copy) =
        (small_data(50, 20), tempfile::tempdir().unwrap(), copy_bundle(TEACHER));
    let mut model =
        scdd::graph::proto::ModelProto::decode(copy.read("model.onnx").as_slice()).unwrap();
    let weight = &mut model.graph.as_mut().unwrap().initializer;
    let weight =
        weight.iter_mut().find(|t| t.name.as_deref() == Some("layer3.0.conv2.weight")).unwrap();
    weight.raw_data.as_mut().unwrap()[..4].copy_from_slice(&0.5f32.to_le_bytes());
    copy.replace("model.onnx", &model.encode_to_vec());
    let experiment = tiny_experiment(dir.path(), &copy.path, "");
    let output = dir.path().join("runs");
    let scdd = |command: &str| {
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path())
            .arg(command)
            .arg(&experiment)
            .arg("--output")
            .arg(&output);
        scdd
    };
    let why = "failed its verification: first diverging node: layer3.0.conv2 (Conv)";
    // Hard labels of real images need no teacher, so these rows are completed.
    let made = "failed (5 rows): verify `resnet18-w16-moco-v2`";
    scdd("run").assert().code(1).stderr(contains(why)).stdout(contains(made));
    assert!(!output.join("stages/recover").exists() && !output.join("stages/measure").exists());
    assert_eq!(
        fs::read_dir(output.join("stages/verify")).unwrap().count(),
        1,
        "the student's verdict alone"
    );
    // Later commands know the failures, too.
    scdd("report").assert().success().stdout(contains(made));
    scdd("status")
        .assert()
        .success()
        .stdout(contains(format!("failed: verify `{TEACHER}`")).and(contains(why)));
    // Without these rows nothing can be made.
    scdd("recover")
        .args(["--set", "baselines=[]"])
        .assert()
        .code(2)
        .stderr(contains("nothing could be made"));
}

#[test]
fn a_backbone_without_classifier_gives_images_but_no_labels() {
    let (data, dir) = (small_data(100, 50), tempfile::tempdir().unwrap());
    let labeller = format!("relabel_teachers: {}\n", bundle(TEACHER).display());
    let run = |command: &str, more: &str| {
        let experiment = tiny_experiment(dir.path(), &features_only(), more);
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path())
            .arg(command)
            .arg(experiment)
            .arg("--output")
            .arg(dir.path().join("runs"));
        scdd.args(["--set", "recover.iterations=30", "--set", "recover.crop=null"]).assert()
    };
    run("recover", "").code(2).stderr(contains("can't label images").and(contains("Probe one: ")));
    run("run", &labeller)
        .success()
        .stdout(
            contains("distilled from features-only").and(contains("soft, by resnet18-w16-moco-v2")),
        )
        .stderr(contains("note: `features-only` has no classifier: cross entropy is off"));
    let mut recovered = fs::read_dir(dir.path().join("runs/stages/recover"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let own = |path: &std::path::PathBuf| {
        path.file_name().unwrap().to_str().unwrap().starts_with("features-only")
    };
    let curve = recovered.find(own).unwrap();
    let curve = fs::read_to_string(curve.join("curves/batch-00000.jsonl")).unwrap();
    let points: Vec<serde_json::Value> =
        curve.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(points.iter().all(|point| point["ce"] == 0.0) && points.len() == 30, "{curve}");
    assert!(points[29]["bn"].as_f64() < points[0]["bn"].as_f64(), "{curve}");

    let off = format!("{labeller}baselines: []\n");
    let experiment = tiny_experiment(dir.path(), &features_only(), &off);
    scdd()
        .env("SCDD_DATA", data.path())
        .arg("recover")
        .arg(experiment)
        .args(["--set", "recover.r_bn=0", "--output"])
        .arg(dir.path().join("off"))
        .assert()
        .code(2)
        .stderr(contains("there is nothing to recover from"));
    let experiment = tiny_experiment(dir.path(), &features_only(), &off);
    scdd()
        .env("SCDD_DATA", data.path())
        .arg("recover")
        .arg(experiment)
        .args(["--set", "recover.r_bn=auto", "--output"])
        .arg(dir.path().join("off"))
        .assert()
        .code(2)
        .stderr(contains("but the teacher has no classifier; give `recover.r_bn` a number"));
}

/// A limit on file sizes replaces a full disk, which a test can't create: the student's weights are
/// the first file above it.
#[test]
fn a_file_that_cannot_be_written_stops_the_run_which_then_goes_on() {
    let (data, dir) = (small_data(50, 20), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "");
    let output = dir.path().join("runs");
    let mut limited = assert_cmd::Command::new("sh");
    limited
        .current_dir(root())
        .env(CACHE.0, CACHE.1)
        .env("SCDD_DATA", data.path())
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$@\""]);
    limited
        .arg("sh")
        .arg(assert_cmd::cargo::cargo_bin!("scdd"))
        .arg("run")
        .arg(&experiment)
        .arg("--output")
        .arg(&output);
    limited.assert().code(2).stderr(contains("cannot write").and(contains("File too large")));
    let complete = |stage: &str| {
        let entries = fs::read_dir(output.join("stages").join(stage))
            .map(|d| d.flatten().collect())
            .unwrap_or(vec![]);
        entries.iter().filter(|e| !e.file_name().to_string_lossy().ends_with(".partial")).count()
    };
    // The first student needs distilled images; whether RDED's crops were begun by then depends on
    // the processor.
    assert!(complete("recover") >= 1 && complete("validate") == 0);
    scdd()
        .env("SCDD_DATA", data.path())
        .arg("run")
        .arg(&experiment)
        .arg("--output")
        .arg(&output)
        .assert()
        .success();
}

#[test]
fn the_balance_of_the_loss_terms_is_measured_once_and_recorded() {
    let (data, dir) = (small_data(50, 20), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: []\n");
    let recover = |teacher: &Path, r_bn: &str| {
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path()).arg("recover").arg(&experiment);
        scdd.args([
            "--set",
            &format!("recover.r_bn={r_bn}"),
            "--set",
            &format!("teachers={}", teacher.display()),
        ]);
        scdd.arg("--output").arg(dir.path().join("runs")).assert()
    };
    let first = recover(&bundle(TEACHER), "auto")
        .success()
        .stderr(contains("`recover.r_bn: auto` is, with resnet18"));
    let directory = String::from_utf8(first.get_output().stdout.clone()).unwrap();
    let record = fs::read(Path::new(directory.trim()).join("stage.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(
        (&record["config"]["r_bn"], record["inputs"]["balance"].is_string()),
        (&"auto".into(), true)
    );
    let again = recover(&bundle(TEACHER), "auto").success().stderr(contains("done in").not());
    assert_eq!(String::from_utf8(again.get_output().stdout.clone()).unwrap(), directory);
    // The images were recovered with the measured number.
    let measured = fs::read_dir(dir.path().join("runs/stages/balance"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let measured: serde_json::Value =
        serde_json::from_slice(&fs::read(measured.join("r_bn.json")).unwrap()).unwrap();
    assert_recorded(&dir.path().join("runs"), "balance", &[TORCH]);
    let weight = measured["r_bn"].as_f64().unwrap();
    assert!(weight > 0.0, "{measured}");
    let fixed =
        recover(&bundle(TEACHER), &weight.to_string()).success().get_output().stdout.clone();
    let images = |directory: &str| contents(&Path::new(directory.trim()).join("images"));
    assert_eq!(images(&directory), images(&String::from_utf8(fixed).unwrap()));
}

/// The error of `scdd run`, which must leave nothing at `output`.
fn refusal(experiment: &str, data: Option<&Path>, output: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("e.yaml"), experiment).unwrap();
    fs::write(dir.path().join("a-file"), "").unwrap();
    let mut command = scdd();
    if let Some(data) = data {
        command.env("SCDD_DATA", data);
    }
    let output = dir.path().join(output);
    let assert = command
        .arg("run")
        .arg(dir.path().join("e.yaml"))
        .arg("--output")
        .arg(&output)
        .assert()
        .code(2);
    assert!(!output.is_dir(), "something was left behind");
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn bad_experiments_are_explained_and_leave_nothing_behind() {
    let plain = format!(
        "name: x\ndata: fashion-mnist\nteachers: {}\nstudents: {}\nipc: 1\n",
        bundle(TEACHER).display(),
        bundle("resnet18-w16").display()
    );
    let small = small_data(200, 20);
    let broken = small_data(20, 10);
    fs::write(broken.path().join("fashion-mnist/t10k-images-idx3-ubyte"), "short").unwrap();
    let nothing = tempfile::tempdir().unwrap();
    // The program sees no GPU, but the driver of a machine that has one.
    let no_gpu = match Path::new("/proc/driver/nvidia/version").exists() {
        true => "CUDA was asked for (`device: cuda`), but the NVIDIA driver",
        false => "CUDA was asked for (`device: cuda`), but there is no NVIDIA driver",
    };
    let data = Some(small.path());
    let cases = [
        (
            refusal(&format!("{plain}recover: {{iteratons: 3}}\n"), data, "runs"),
            "did you mean `iterations`?",
        ),
        (
            refusal(&plain.replace("resnet18-w16-moco-v2", "nothing"), data, "runs"),
            "nothing/manifest.yaml: No such file",
        ),
        (
            refusal(&plain.replace("resnet18-w16-moco-v2", "convnet3-w128"), data, "runs"),
            "is a student bundle",
        ),
        (refusal(&plain, data, "a-file/runs"), "a file is where a directory should be"),
        (refusal(&plain, Some(broken.path()), "runs"), "t10k-images-idx3-ubyte"),
        (
            refusal(&plain, Some(nothing.path()), "runs"),
            "data set fashion-mnist not found; looked in",
        ),
        (refusal(&format!("{plain}device: cuda\n"), data, "runs"), no_gpu),
        (refusal("name: [\n", data, "runs"), "e.yaml"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn cuda_labels_without_cuda_are_an_error_or_the_configured_fallback() {
    let (data, dir) = (small_data(50, 20), tempfile::tempdir().unwrap());
    let relabel = |fallback: &str| {
        let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: []\n");
        let mut command = scdd();
        command.env("SCDD_DATA", data.path()).arg("relabel").arg(&experiment);
        command.args([
            "--set",
            "relabel.provider=cuda",
            "--set",
            &format!("relabel.fallback={fallback}"),
        ]);
        command.arg("--output").arg(dir.path().join("runs")).assert()
    };
    relabel("error").code(2).stderr(contains("CUDA was asked for").and(contains("fallback: cpu")));
    relabel("cpu").success().stderr(contains("soft labels are computed on the CPU"));
}

/// A matrix of two methods under a soft and a hard protocol, with both kinds of labels.
const MATRIX: &str = "methods:\n  few: {iterations: 2, batch_size: 20}\n  fewer: {iterations: 1, batch_size: 20}\n\
    protocols:\n  mixed: {relabel: {epochs: 2, batch_size: 20}, validate: {evaluate_every: 2}}\n\
    \x20 own: {relabel: {epochs: 2, batch_size: 20, mix: {type: none}}, validate: {loss: {type: ce}, evaluate_every: 2}}\n\
    labels: [soft, hard]\nbaselines: [random_real_soft, random_real_hard]\n";

/// The JSON output of `scdd` with `arguments`.
fn json(data: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = scdd()
        .env("SCDD_DATA", data)
        .args(arguments)
        .arg("--json")
        .assert()
        .success()
        .get_output()
        .clone();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_matrix_is_planned_run_reported_run_again_from_its_resolved_file_and_cleaned() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let file = dir.path().join("matrix.yaml");
    let head = format!(
        "name: matrix\ndata: {{type: fashion-mnist, path: {}}}\nteachers: {}\nstudents: {}\nipc: 2\nseeds: [3]\n",
        data.path().display(),
        bundle(TEACHER).display(),
        bundle("resnet18-w16").display()
    );
    fs::write(&file, format!("{head}{MATRIX}")).unwrap();
    let output = dir.path().join("runs");
    let (file, runs) = (file.to_str().unwrap(), output.to_str().unwrap());
    let elsewhere = tempfile::tempdir().unwrap();
    let json =
        |arguments: &[&str]| json(elsewhere.path(), &[arguments, &["--output", runs]].concat());

    // 2 bundles, of which the teacher is measured. 2 recoveries and 1 set of real images, each
    // relabelled under the soft protocol. For each set, students train on soft and on hard labels
    // under the first protocol, and on hard labels without relabelling under the second.
    let dry = json(&["run", "--dry-run", file]);
    let stages = dry["plan"]["stages"].as_array().unwrap();
    let count = |kind: &str| stages.iter().filter(|stage| stage["stage"] == kind).count();
    assert_eq!(
        ["verify", "measure", "recover", "real", "relabel", "validate"].map(count),
        [2, 1, 2, 1, 3, 9]
    );
    assert!(stages.iter().all(|stage| stage["state"] == "missing" && stage["seconds"].is_null()));
    assert_eq!(dry["seconds"].to_string(), "0.0");
    assert!(!output.exists(), "a dry run leaves nothing");
    let recovery = stages.iter().find(|stage| stage["stage"] == "recover").unwrap();
    assert_eq!(recovery["passes"], 2 * 20 * 2);

    let summaries = json(&["run", "--quiet", file])["summaries"].as_array().unwrap().clone();
    assert_eq!(summaries.len(), 9);
    let distilled = summaries.iter().filter(|summary| summary["data_free"] == true);
    let mut rows: Vec<String> = distilled
        .map(|s| format!("{} {} {}", s["method"], s["protocol"], s["labels"]).replace('"', ""))
        .collect();
    rows.sort();
    let expected = [
        "few mixed hard",
        "few mixed soft",
        "few own hard",
        "fewer mixed hard",
        "fewer mixed soft",
        "fewer own hard",
    ];
    assert_eq!(rows, expected);
    let planned: Vec<_> = stages.iter().map(|stage| stage["directory"].as_str().unwrap()).collect();
    assert!(planned.iter().all(|directory| Path::new(directory).join("timing.json").is_file()));

    // The resolved file beside the report describes the same experiment.
    let resolved = output.join("matrix/experiment.yaml");
    let before = contents(&output);
    json(&["run", "--quiet", resolved.to_str().unwrap()]);
    assert_eq!(contents(&output), before);

    // A longer variant shares unchanged stages, and its cost is estimated from measured times.
    let longer =
        ["run", "--dry-run", file, "--set", "methods.few.iterations=4", "--set", "name=longer"];
    let dry = json(&longer);
    let stages = dry["plan"]["stages"].as_array().unwrap();
    let missing: Vec<_> = stages.iter().filter(|stage| stage["state"] == "missing").collect();
    assert_eq!((stages.len(), missing.len()), (18, 1 + 1 + 3));
    assert!(missing.iter().all(|stage| stage["seconds"].as_f64().unwrap() > 0.0), "{missing:#?}");

    let status = String::from_utf8(
        scdd().args(["status", "--output", runs]).assert().success().get_output().stdout.clone(),
    );
    assert!(status.as_ref().unwrap().starts_with("matrix: 18 complete\n"), "{status:?}");

    // Stages that only the longer variant needs are removed if it is not listed.
    json(&[&["run", "--quiet"][..], &longer[2..]].concat());
    let listed = json(&["clean", file]);
    assert_eq!(
        (listed["stages"].as_array().unwrap().len(), listed["removed"].as_bool()),
        (5, Some(false))
    );
    json(&["clean", file, "--yes"]);
    assert_eq!(json(&["clean", file])["stages"].as_array().unwrap().len(), 0);
    let kept: Vec<_> =
        contents(&output).into_iter().filter(|(path, _)| path.starts_with("stages")).collect();
    let stages_before: Vec<_> =
        before.into_iter().filter(|(path, _)| path.starts_with("stages")).collect();
    let names = |files: &[(PathBuf, Vec<u8>)]| -> Vec<_> {
        files
            .iter()
            .map(|(path, _)| path.clone())
            .filter(|path| !path.starts_with("stages/.locks"))
            .collect()
    };
    assert_eq!(names(&kept), names(&stages_before));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("scdd"))
        .current_dir(root())
        .arg("ops")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_schema_is_printed() {
    let schema = json(Path::new("."), &["schema"]);
    assert_eq!(schema["properties"]["methods"]["type"], "object");
    assert!(
        schema["$defs"]["RecoverConfig"]["properties"]["r_bn"]["description"]
            .as_str()
            .unwrap()
            .contains("Published")
    );
}

#[test]
fn without_real_data_images_of_chosen_classes_are_recovered_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (experiment, output) = (dir.path().join("e.yaml"), dir.path().join("runs"));
    let text = |verifier: &str| {
        format!(
            "name: e\ndata: none\nteachers: {}\nipc: 2\nrecover: {{iterations: 2, classes: [7, 2], verifier: [{}]}}\n",
            bundle(TEACHER).display(),
            bundle(verifier).display()
        )
    };
    let run = |verifier: &str| {
        fs::write(&experiment, text(verifier)).unwrap();
        scdd()
            .env("SCDD_DATA", dir.path())
            .arg("run")
            .arg(&experiment)
            .arg("--output")
            .arg(&output)
            .assert()
    };
    run("resnet18-w16").code(2).stderr(contains("is a student bundle"));
    run("resnet18-w16-supervised")
        .success()
        .stdout(contains("recovered images that a verifier puts into"));
    let recovered =
        fs::read_dir(output.join("stages/recover")).unwrap().next().unwrap().unwrap().path();
    let mut classes: Vec<_> = fs::read_dir(recovered.join("images"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    classes.sort();
    assert_eq!(classes, ["02_pullover", "07_sneaker"]);

    let results = fs::read(output.join("e/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
    let verified = &results["results"]["recoveries"][0]["verified"];
    let accuracy: serde_json::Value = serde_json::from_slice(
        &fs::read(
            fs::read_dir(output.join("stages/verifier"))
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .path()
                .join("accuracy.json"),
        )
        .unwrap(),
    )
    .unwrap();
    assert_eq!(
        (&verified[0]["top1"], &verified[0]["images"]),
        (&accuracy["top1"], &serde_json::json!(4))
    );
    assert!(
        fs::read_to_string(output.join("e/report.html"))
            .unwrap()
            .contains("What other networks see")
    );
    // Another verifier does not change the images.
    run(TEACHER).success();
    assert_eq!(fs::read_dir(output.join("stages/recover")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(output.join("stages/verifier")).unwrap().count(), 2);
}

/// Images on the way are kept beside the finished ones, which they leave as they are.
#[test]
fn verifiers_look_at_images_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let (experiment, output) = (dir.path().join("e.yaml"), dir.path().join("runs"));
    let teacher = bundle(TEACHER);
    let text = format!(
        "name: e\ndata: none\nteachers: {0}\nipc: 1\nrecover: {{iterations: 7, classes: [7, 2], verifier: [{0}], snapshots: 0}}\n",
        teacher.display(),
    );
    fs::write(&experiment, text).unwrap();
    let run = |snapshots: u32| {
        let set = format!("recover.snapshots={snapshots}");
        let mut command = scdd();
        command.arg("run").arg(&experiment).arg("--output").arg(&output).args(["--set", &set]);
        command.assert().success();
    };
    let stages = |kind: &str| -> Vec<std::path::PathBuf> {
        let found = fs::read_dir(output.join("stages").join(kind)).unwrap();
        found.map(|entry| entry.unwrap().path()).collect()
    };
    let image = "02_pullover/00000.png";
    run(0);
    let plain = stages("recover").remove(0);
    run(2);
    let kept = stages("recover").into_iter().find(|stage| *stage != plain).unwrap();
    let finished = |stage: &Path| fs::read(stage.join("images").join(image)).unwrap();
    assert!(finished(&plain) == finished(&kept));
    let on_the_way =
        |step: u32| fs::read(kept.join(format!("snapshots/step-{step:06}")).join(image)).unwrap();
    // 2 of 7 steps divide them into thirds.
    assert!(on_the_way(2) != on_the_way(4) && on_the_way(4) != finished(&kept));
    let results = fs::read(output.join("e/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
    let seen = &results["results"]["recoveries"][0]["verified"][0];
    let steps: Vec<_> =
        seen["snapshots"].as_array().unwrap().iter().map(|at| &at["step"]).collect();
    assert_eq!(steps, [2, 4]);
    assert!(seen["snapshots"].as_array().unwrap().iter().all(|at| at["images"] == seen["images"]));
    let page = fs::read_to_string(output.join("e/report.html")).unwrap();
    assert!(page.contains("while they were recovered"));
    assert_recorded(&output, "verifier", &[RUNTIME]);
}

#[test]
fn reports_of_two_experiments_are_compared_and_their_sets_exported() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let more = "labels: [soft, hard]\nwhole_real: {epochs: 1, batch_size: 50}\n\
                baselines: [random_real_soft, random_real_hard, nearest_mean_soft, nearest_mean_hard]\n";
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), more);
    let output = dir.path().join("runs");
    let (file, runs) = (experiment.to_str().unwrap(), output.to_str().unwrap());
    let scdd = |arguments: &[&str]| {
        let mut command = scdd();
        command.env("SCDD_DATA", data.path()).args(arguments).args(["--output", runs]);
        command
    };
    let table = scdd(&["run", "--quiet", file]).assert().success().get_output().stdout.clone();
    let table = String::from_utf8(table).unwrap();
    for expected in [
        "nearest mean",
        "whole real",
        "HLR",
        "fewer than five seeds (1)",
        "resnet18-w16, 20 images per class",
    ] {
        assert!(table.contains(expected), "{expected:?} is not in {table}");
    }
    scdd(&["run", "--quiet", file, "--set", "name=other", "--set", "recover.iterations=2"])
        .assert()
        .success();

    let both =
        [output.join("tiny"), output.join("other")].map(|path| path.to_str().unwrap().to_string());
    let to = dir.path().join("compared");
    let report = scdd(&["report", &both[0], &both[1], "--to", to.to_str().unwrap(), "--json"])
        .assert()
        .success();
    let report: serde_json::Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    let mut methods: Vec<String> =
        report["summaries"].as_array().unwrap().iter().map(|s| s["method"].to_string()).collect();
    methods.sort();
    methods.dedup();
    let expected =
        ["distilled (other)", "distilled (tiny)", "nearest_mean", "random_real", "whole_real"];
    assert_eq!(methods, expected.map(|method| format!("\"{method}\"")));
    let soft = report["summaries"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["data_free"] == true && s["labels"] == "soft");
    let ranking = &soft.unwrap()["ranking"];
    assert!(ranking["lrs"].as_f64().unwrap() > 0.0 && ranking["ars"].is_null(), "{ranking}");
    assert_eq!(report["comparisons"].as_array().unwrap().len(), 2, "soft rows, hard rows");
    assert!(report["costs"][0]["seconds_per_image"].as_f64().unwrap() > 0.0);
    assert!(fs::read_to_string(to.join("report.html")).unwrap().contains("distilled (tiny) from"));
    scdd(&["report", &both[0], dir.path().to_str().unwrap()])
        .assert()
        .code(2)
        .stderr(contains("results.json"));

    // A snapshot can replace the report from which it was made.
    let [part, whole, markdown] =
        ["tiny.json", "results.json", "results.md"].map(|name| dir.path().join("docs").join(name));
    let [part, whole, markdown] = [&part, &whole, &markdown].map(|path| path.to_str().unwrap());
    scdd(&["report", file, "--snapshot", part]).assert().success();
    let arguments =
        ["report", part, &both[1], "--json", "--markdown", markdown, "--snapshot", whole];
    let again = scdd(&arguments).assert().success();
    let again: serde_json::Value = serde_json::from_slice(&again.get_output().stdout).unwrap();
    assert_eq!((&again["summaries"], &again["costs"]), (&report["summaries"], &report["costs"]));
    let table: serde_json::Value = serde_json::from_slice(&fs::read(whole).unwrap()).unwrap();
    assert_eq!(
        table["rows"].as_array().unwrap().len(),
        report["summaries"].as_array().unwrap().len()
    );
    assert!(fs::read_to_string(markdown).unwrap().contains("| s/image | memory | label size |"));
    scdd(&["report", part, "--set", "name=x"])
        .assert()
        .code(2)
        .stderr(contains("--set is for experiment files"));

    for (format, expected) in [
        ("imagefolder", "images/00_t-shirt-top/00000.png"),
        ("npz", "images.npz"),
        ("huggingface", "train/metadata.jsonl"),
    ] {
        let to = dir.path().join(format);
        let arguments = ["export-set", &both[0], "--as", format, "--to", to.to_str().unwrap()];
        scdd(&arguments)
            .assert()
            .success()
            .stdout(contains("distilled-from-resnet18-w16-moco-v2-ipc2-seed3"));
        let set = to.join("distilled-from-resnet18-w16-moco-v2-ipc2-seed3");
        assert!(set.join(expected).is_file(), "{expected}");
        let card = fs::read_to_string(set.join("README.md")).unwrap();
        for part in [
            "fashion-mnist",
            "| teacher | resnet18-w16-moco-v2 (SHA-256 `",
            "## Licence",
            "iterations: 3",
        ] {
            assert!(card.contains(part), "{part:?} is not in {card}");
        }
        let labels = set.join("labels/default-by-resnet18-w16-moco-v2.scdd");
        let stored = scdd::labels::LabelStore::open(&labels).unwrap();
        assert_eq!(stored.meta().images, 20);
        scdd(&arguments).assert().code(2).stderr(contains("is there already"));
    }
    let metadata =
        fs::read_to_string(dir.path().join(
            "huggingface/distilled-from-resnet18-w16-moco-v2-ipc2-seed3/train/metadata.jsonl",
        ));
    let lines: Vec<serde_json::Value> =
        metadata.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (lines.len(), lines[19]["label"].as_u64(), lines[0]["class"].as_str()),
        (20, Some(9), Some("T-shirt/top"))
    );
    let npz = fs::File::open(
        dir.path().join("npz/distilled-from-resnet18-w16-moco-v2-ipc2-seed3/images.npz"),
    )
    .unwrap();
    let images: ndarray::Array4<u8> =
        ndarray_npy::NpzReader::new(npz).unwrap().by_name("images").unwrap();
    assert_eq!(images.dim(), (20, 28, 28, 1));
}

#[test]
fn crops_are_chosen_by_each_labelling_teacher_and_anew_for_each_seed() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let (first, second) = ("resnet18-w16-supervised", TEACHER);
    let more = format!(
        "relabel_teachers: [{}, {}]\nbaselines: [rded_crops_soft, rded_crops_hard]\n",
        bundle(first).display(),
        bundle(second).display()
    );
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), &more);
    let output = dir.path().join("runs");
    let (file, runs) = (experiment.to_str().unwrap(), output.to_str().unwrap());
    let found =
        json(data.path(), &["run", "--quiet", file, "--set", "seeds=[3, 4]", "--output", runs]);
    let rows = found["summaries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|summary| summary["method"] == "rded_crops");
    let rows: Vec<[&str; 3]> = rows
        .map(|row| {
            ["labels", "teacher", "relabel_teacher"].map(|key| row[key].as_str().unwrap_or("none"))
        })
        .collect();
    assert_eq!(rows, [["soft", second, second], ["soft", first, first], ["hard", first, "none"]]);

    let crops = |teacher: &str, seed: u64| {
        let of = |path: &Path| -> serde_json::Value {
            serde_json::from_slice(&fs::read(path.join("stage.json")).unwrap()).unwrap()
        };
        let sets =
            fs::read_dir(output.join("stages/recover")).unwrap().map(|entry| entry.unwrap().path());
        let mut sets =
            sets.filter(|path| of(path)["config"]["iterations"] == 0 && of(path)["seed"] == seed);
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with(teacher);
        contents(&sets.find(|path| name(path)).unwrap().join("images"))
    };
    assert_ne!(crops(first, 3), crops(second, 3));
    assert_ne!(crops(first, 3), crops(first, 4));
    // A method with RDED's preset and the same teacher is the same work.
    let plan = json(
        data.path(),
        &["run", "--dry-run", file, "--set", "recover=rded-cifar100", "--output", runs],
    );
    let stages = plan["plan"]["stages"].as_array().unwrap();
    assert!(
        stages
            .iter()
            .filter(|stage| stage["stage"] == "recover")
            .all(|stage| stage["state"] == "complete")
    );
}

/// The stages of the tiny experiment on `data`, without their display names.
fn stage_keys(dir: &Path, data: &str) -> Vec<String> {
    let experiment = tiny_experiment(dir, &bundle(TEACHER), "baselines: [random_real_hard]\n");
    let text = fs::read_to_string(&experiment).unwrap().replace("data: fashion-mnist", data);
    fs::write(&experiment, text).unwrap();
    let plan = json(Path::new("."), &["run", "--dry-run", experiment.to_str().unwrap()]);
    let stages = plan["plan"]["stages"].as_array().unwrap().iter();
    stages
        .map(|s| s["directory"].as_str().unwrap().rsplit('-').next().unwrap().to_string())
        .collect()
}

#[test]
fn the_same_images_are_the_same_data_in_every_form() {
    use scdd::data::{Dataset, Source, Split, png, registry};
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let idx = data.path().join("fashion-mnist");
    let source = Source::find_at("fashion-mnist", data.path()).unwrap();
    let mut npz = ndarray_npy::NpzWriter::new_compressed(
        fs::File::create(dir.path().join("set.npz")).unwrap(),
    );
    for (split, images, labels) in
        [(Split::Train, "x_train", "y_train"), (Split::Test, "x_test", "y_test")]
    {
        let set = Dataset::load(&source, split).unwrap();
        let shape = (set.len(), set.height, set.width);
        npz.add_array(
            images,
            &ndarray::Array3::from_shape_vec(shape, set.all_pixels().unwrap().into_owned())
                .unwrap(),
        )
        .unwrap();
        npz.add_array(labels, &ndarray::Array1::from_vec(set.labels.clone())).unwrap();
        let folder =
            dir.path().join("folder").join(if split == Split::Train { "train" } else { "test" });
        for (index, &label) in set.labels.iter().enumerate() {
            // The directories' names sort in reverse order, which the class map corrects.
            let class = folder.join(format!("c{}", 9 - label));
            fs::create_dir_all(&class).unwrap();
            let image = png::encode(&set.image(index).unwrap(), 1, 28, 28).unwrap();
            fs::write(class.join(png::file_name(index)), image).unwrap();
        }
    }
    npz.finish().unwrap();
    let map: String = (0..10).map(|class| format!("c{}: class {class}\n", 9 - class)).collect();
    fs::write(dir.path().join("map.yaml"), map).unwrap();

    let keys = |data: String| stage_keys(dir.path(), &data);
    let path = |name: &str| dir.path().join(name).display().to_string();
    let known = keys(format!("data: {{type: fashion-mnist, path: {}}}", data.path().display()));
    assert_eq!(keys(format!("data: {{type: idx, path: {}}}", idx.display())), known);
    assert_eq!(keys(format!("data: {{type: npz, path: {}}}", path("set.npz"))), known);

    // Folders are read class by class, so the order of the data, and thus its hash, differs; the
    // student's training is equally valid.
    let folder = format!(
        "data: {{type: image-folder, path: {}, class_map: {}}}",
        path("folder"),
        path("map.yaml")
    );
    assert_ne!(keys(folder.clone()), known);
    let experiment = dir.path().join("tiny.yaml");
    let mut command = scdd();
    command
        .arg("validate")
        .arg(&experiment)
        .arg("--output")
        .arg(dir.path().join("runs"))
        .arg("--quiet");
    command.assert().success();
    let first =
        fs::read_dir(dir.path().join("runs/stages/real")).unwrap().next().unwrap().unwrap().path();
    let real = png::read_set(&first.join("images")).unwrap();
    let train = Dataset::load(&source, Split::Train).unwrap();
    let classes = registry::find("fashion-mnist").unwrap().class_names();
    let reversed: String = (0..10).map(|c| format!("c{c}: {:?}\n", classes[9 - c])).collect();
    fs::write(dir.path().join("map.yaml"), reversed).unwrap();
    let mut command = scdd();
    command
        .args(["run", "--dry-run"])
        .arg(&experiment)
        .assert()
        .code(2)
        .stderr(contains("in another order than"));
    let label_of = |image: &[u8]| {
        (0..train.len()).find(|&i| *train.image(i).unwrap() == *image).map(|i| train.labels[i])
    };
    assert!((0..real.len()).all(|i| label_of(&real.image(i).unwrap()) == Some(real.labels[i])));
}
