//! Finished sets of other code through the command line: measured beside random real images, and
//! refused with the remedy.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{bundle, contents, root, scdd, small_data, tiny_experiment};
use ndarray::{Array2, Array3};
use ndarray_npy::NpzWriter;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use scdd::data::{Dataset, DrawnMix, Size, Source, Split, View, png};
use scdd::labels::{Dtype, LabelBatch, Meta, MixKind, StoredTopK, Writer};
use serde_json::Value;

const TEACHER: &str = "resnet18-w16-moco-v2";
const SUPERVISED: &str = "resnet18-w16-supervised";

/// An experiment that takes seconds, with `more` lines of YAML and no method.
fn experiment(dir: &Path, teacher: &str, more: &str) -> PathBuf {
    let path = dir.join("finished.yaml");
    let text = format!(
        "name: finished\ndata: fashion-mnist\nteachers: {}\nstudents: {}\nseeds: [3]\n\
         relabel: {{epochs: 4, batch_size: 8}}\nvalidate: {{evaluate_every: 2}}\n{more}",
        bundle(teacher).display(),
        bundle("resnet18-w16").display()
    );
    fs::write(&path, text).unwrap();
    path
}

fn run(experiment: &Path, data: &Path, output: &Path) -> assert_cmd::assert::Assert {
    let mut scdd = scdd();
    scdd.env("SCDD_DATA", data).arg("run").arg(experiment).arg("--output").arg(output).assert()
}

fn results(report: &Path) -> Value {
    serde_json::from_slice(&fs::read(report.join("results.json")).unwrap()).unwrap()
}

/// The row of `method` with this kind of labels.
fn row<'a>(results: &'a Value, method: &str, labels: &str) -> &'a Value {
    let rows = results["results"]["rows"].as_array().unwrap();
    let mut found = rows.iter().filter(|row| row["method"] == method && row["labels"] == labels);
    let row = found.next().unwrap_or_else(|| panic!("no row {method}, {labels}"));
    assert!(found.next().is_none(), "{method}, {labels}");
    row
}

fn only_entry(dir: &Path) -> PathBuf {
    let mut entries = fs::read_dir(dir).unwrap();
    let only = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none(), "{}", dir.display());
    only
}

#[test]
fn an_exported_set_that_is_fed_back_gives_the_accuracy_of_its_own_run() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let output = dir.path().join("runs");
    let asked = "labels: [soft, hard]\nbaselines: [random_real_soft]\n";
    let own = tiny_experiment(dir.path(), &bundle(TEACHER), asked);
    run(&own, data.path(), &output).success();
    let export = |format: &str| {
        let to = dir.path().join(format);
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path()).args(["export-set", "--as", format, "--to"]).arg(&to);
        scdd.arg(&own).arg("--output").arg(&output).assert().success();
        only_entry(&to)
    };
    let folders = export("imagefolder");
    let [npz, hub] = ["npz", "huggingface"].map(export);
    let finished = format!(
        "ipc: 2\n{asked}finished:\n  read: {{images: '{}', labels: '{}'}}\n  anew: '{}'\n  hub: '{}'\n",
        folders.display(),
        only_entry(&folders.join("labels")).display(),
        npz.display(),
        hub.display()
    );
    let fed_back = experiment(dir.path(), TEACHER, &finished);
    run(&fed_back, data.path(), &output)
        .success()
        .stdout(contains("finished sets: images that a labelling teacher puts into their class"))
        .stderr(contains(format!("`{TEACHER}` puts ")));

    let (before, after) = (results(&output.join("tiny")), results(&output.join("finished")));
    for labels in ["soft", "hard"] {
        let own = row(&before, "distilled", labels);
        for method in ["read", "anew", "hub"] {
            let same = row(&after, method, labels);
            for key in ["last_accuracy", "best_accuracy", "curve", "images", "relabel_teacher"] {
                assert_eq!(same[key], own[key], "{method}, {labels}, {key}");
            }
            assert_eq!((&same["teacher"], &same["data_free"]), (&Value::Null, &false.into()));
        }
    }
    // Beside random real images, with every figure of other rows.
    let summaries = after["summaries"].as_array().unwrap();
    let soft = summaries.iter().find(|s| s["method"] == "read" && s["labels"] == "soft").unwrap();
    assert!(soft["versus_random_real"]["seeds"] == 1 && soft["ranking"]["ior"].is_f64(), "{soft}");
    assert!(after["comparisons"].as_array().unwrap().len() >= 3);
    let seen = &after["results"]["recognised"][0];
    assert_eq!(
        (&seen["images"], seen["classes"].as_array().unwrap().len()),
        (&20.into(), 10),
        "{seen}"
    );
    let table = fs::read_to_string(output.join("finished/results.csv")).unwrap();
    assert_eq!(table.lines().filter(|line| line.starts_with("read,")).count(), 2, "{table}");
    let page = fs::read_to_string(output.join("finished/report.html")).unwrap();
    assert!(page.contains("What labelling teachers see in the finished sets"));
    // The three sets are one, whatever their form, except for the labels beside the first.
    assert_eq!(fs::read_dir(output.join("stages/import")).unwrap().count(), 2);

    let files = contents(&output);
    run(&fed_back, data.path(), &output).success().stderr(contains("done in").not());
    assert!(files == contents(&output));
}

/// An archive of two real training images of each class, the first class last, with soft labels
/// that give `share` to the class and the rest to the next one.
fn real_archive(path: &Path, share: f32) {
    let set = Dataset::load(&Source::find("fashion-mnist").unwrap(), Split::Train).unwrap();
    let (mut pixels, mut labels) = (Vec::new(), Array2::<f32>::zeros((20, 10)));
    for (row, class) in (0..10).rev().flat_map(|class| [class; 2]).enumerate() {
        let mut own = (0..set.len()).filter(|&index| set.labels[index] as usize == class);
        pixels.extend_from_slice(&set.image(own.nth(row % 2).unwrap()).unwrap());
        labels[[row, class]] = share;
        labels[[row, (class + 1) % 10]] = 1.0 - share;
    }
    let mut archive = NpzWriter::new(fs::File::create(path).unwrap());
    archive.add_array("images", &Array3::from_shape_vec((20, 28, 28), pixels).unwrap()).unwrap();
    archive.add_array("labels", &labels).unwrap();
    archive.finish().unwrap();
}

#[test]
fn a_sets_own_soft_labels_are_learnt_in_place_of_classes() {
    let (data, dir) = (small_data(200, 100), tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name);
    real_archive(&path("certain.npz"), 1.0);
    real_archive(&path("even.npz"), 0.75);
    let own = |name: &str| format!("{{images: '{}', labels: own}}", path(name).display());
    let finished = format!(
        "ipc: 2\nlabels: [soft, hard]\nbaselines: []\nfinished:\n  certain: {}\n  even: {}\n",
        own("certain.npz"),
        own("even.npz")
    );
    let output = path("runs");
    let experiment = experiment(dir.path(), SUPERVISED, &finished);
    run(&experiment, data.path(), &output).success().stdout(contains("soft, by its own labels"));
    let found = results(&output.join("finished"));
    let losses = |method: &str, labels: &str| -> Vec<f64> {
        let curve = row(&found, method, labels)["curve"].as_array().unwrap();
        curve.iter().map(|point| point["train_loss"].as_f64().unwrap()).collect()
    };
    // Labels that are certain of the class are the class, but for rounding.
    let (soft, hard) = (losses("certain", "soft"), losses("certain", "hard"));
    assert!(soft.iter().zip(&hard).all(|(a, b)| (a - b).abs() < 1e-3 * b), "{soft:?}, {hard:?}");
    assert_eq!(losses("even", "hard"), hard);
    // No cross entropy is below the entropy of its labels.
    let entropy = -(0.75 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
    let even = losses("even", "soft");
    assert!(even.len() == 4 && even.iter().all(|&loss| loss > entropy), "{even:?}");
    assert_ne!(even, hard);
    let soft = row(&found, "even", "soft");
    assert_eq!(soft["relabel_teacher"], "its own labels");
    assert!(
        soft["label_bytes"].as_u64().unwrap() >= 20 * 10 * 4 && soft["cost"]["relabel"].is_null()
    );
}

/// `ipc` real training images of each class as class folders, with the folder's name of each.
fn real_folders(to: &Path, ipc: usize, name: impl Fn(usize) -> String) {
    let set = Dataset::load(&Source::find("fashion-mnist").unwrap(), Split::Train).unwrap();
    for class in 0..10 {
        let folder = to.join(name(class));
        fs::create_dir_all(&folder).unwrap();
        let own = (0..set.len()).filter(|&index| set.labels[index] as usize == class);
        for (number, index) in own.take(ipc).enumerate() {
            let file = png::encode(&set.image(index).unwrap(), 1, 28, 28).unwrap();
            fs::write(folder.join(format!("class{class:03}_id{number:03}.png")), file).unwrap();
        }
    }
}

#[test]
fn another_order_of_classes_is_refused_and_mapped() {
    let (data, dir) = (small_data(200, 50), tempfile::tempdir().unwrap());
    let (set, map) = (dir.path().join("set"), dir.path().join("map.yaml"));
    real_folders(&set, 3, |class| format!("new{:03}", (class + 1) % 10));
    let with = |more: &str| {
        let finished = format!(
            "ipc: 3\nbaselines: [random_real_hard]\nfinished: {{theirs: {{images: '{}'{more}}}}}\n",
            set.display()
        );
        experiment(dir.path(), SUPERVISED, &finished)
    };
    let output = dir.path().join("runs");
    run(&with(""), data.path(), &output).code(1).stdout(contains("failed (1 row)")).stderr(
        contains("images of `theirs` into their class, but ")
            .and(contains("in another order of classes: its `T-shirt/top` looks like `Ankle boot`"))
            .and(contains("set `finished.theirs.class_map` to a YAML file")),
    );
    let classes = Source::find("fashion-mnist").unwrap().known().unwrap().class_names();
    let line = |(class, name): (usize, &String)| format!("new{:03}: '{name}'\n", (class + 1) % 10);
    fs::write(&map, classes.iter().enumerate().map(line).collect::<String>()).unwrap();
    run(&with(&format!(", class_map: '{}'", map.display())), data.path(), &output).success();
    let found = results(&output.join("finished"));
    let seen = &found["results"]["recognised"][0];
    assert!(seen["top1"].as_u64().unwrap() > 20 && seen["teacher"] == SUPERVISED, "{seen}");
    // With hard labels alone, the same proof.
    let hard = with("").display().to_string();
    let mut hard_labels = scdd();
    hard_labels.env("SCDD_DATA", data.path()).args(["run", &hard, "--set", "labels=hard"]);
    hard_labels.arg("--output").arg(dir.path().join("hard"));
    hard_labels.assert().code(1).stderr(contains("in another order of classes"));
}

#[test]
fn unequal_classes_are_said() {
    let (data, dir) = (small_data(50, 50), tempfile::tempdir().unwrap());
    let set = dir.path().join("set");
    real_folders(&set, 2, |class| format!("{class:05}"));
    fs::remove_file(set.join("00004/class004_id001.png")).unwrap();
    let finished =
        format!("ipc: [2, 5]\nbaselines: []\nfinished: {{theirs: '{}'}}\n", set.display());
    let experiment = experiment(dir.path(), SUPERVISED, &finished);
    run(&experiment, data.path(), &dir.path().join("runs")).success().stderr(contains(
        "`theirs` holds 1 to 2 images per class (1.9 on average), not the same number of each: its rows stand at ipc 2",
    ));
    let found = results(&dir.path().join("runs/finished"));
    let row = row(&found, "theirs", "soft");
    assert_eq!((&row["ipc"], &row["images"]), (&2.into(), &19.into()));
    // A value of `ipc` without a set has no row.
    assert_eq!(found["results"]["rows"].as_array().unwrap().len(), 1);
}

/// Why `scdd run` refuses the settings of the finished set, before it makes anything.
fn refusal(data: &Path, more: &str) -> String {
    refusal_with(data, more, "name=finished")
}

/// The same, with a key set on the command line.
fn refusal_with(data: &Path, more: &str, set: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let experiment = experiment(dir.path(), SUPERVISED, more);
    let output = dir.path().join("runs");
    let mut scdd = scdd();
    scdd.env("SCDD_DATA", data).arg("run").arg(&experiment).arg("--output").arg(&output);
    let refused = scdd.args(["--set", set]).assert().code(2);
    assert!(!output.exists(), "something was left behind");
    String::from_utf8(refused.get_output().stderr.clone()).unwrap()
}

/// Labels of 20 images of 10 classes, in which only the three largest logits have a probability.
fn write_labels_without_rest(path: &Path) {
    let size = Size { height: 28, width: 28 };
    let meta = Meta {
        images: 20,
        classes: 10,
        epochs: 1,
        batch_size: 20,
        source: size,
        input: size,
        mix: MixKind::None,
        dtype: Dtype::F16,
        teacher_sha256: "0".repeat(64),
        config_hash: String::new(),
        top_k: Some(StoredTopK { k: 3, temperature: None }),
        pad: 0,
        stored_epochs: None,
        augment: None,
    };
    let batch = LabelBatch {
        indices: (0..20).collect(),
        views: vec![View::full(size).unwrap(); 20],
        operations: Vec::new(),
        mix: DrawnMix::None,
        logits: Array2::from_shape_fn((20, 10), |(image, class)| ((image + class) % 10) as f32),
    };
    let mut writer = Writer::open(path, meta).unwrap();
    writer.append(&batch).unwrap();
    writer.finish().unwrap();
}

#[test]
fn what_does_not_fit_is_refused_with_its_remedy() {
    let (data, dir) = (small_data(50, 50), tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name);
    let golden = |name: &str| root().join("tests/goldens/finished").join(name);
    let refused = |images: &Path, more: &str| {
        let finished = format!("finished: {{theirs: {{images: '{}'{more}}}}}\n", images.display());
        refusal(data.path(), &format!("ipc: 1\n{finished}"))
    };
    fs::create_dir(path("empty")).unwrap();
    real_folders(&path("whole"), 2, |class| format!("new{class:03}"));
    real_folders(&path("nine"), 1, |class| format!("new{class:03}"));
    fs::remove_dir_all(path("nine/new008")).unwrap();
    for class in 0..10 {
        for (set, channels, side) in [("small", 1, 14), ("coloured", 3, 28)] {
            let folder = path(set).join(class.to_string());
            fs::create_dir_all(&folder).unwrap();
            let pixels = vec![class as u8; channels * side * side];
            let file = png::encode(&pixels, channels, side, side).unwrap();
            fs::write(folder.join("0.png"), file).unwrap();
        }
    }
    let labels = root().join("tests/goldens/labels");
    let store = fs::read_dir(labels).unwrap().map(|entry| entry.unwrap().path());
    let store = store.into_iter().find(|path| path.extension().is_some_and(|e| e == "scdd"));
    let of_others = format!(", labels: '{}'", store.unwrap().display());
    write_labels_without_rest(&path("cut.scdd"));
    let cases = [
        (refused(&path("empty"), ""), "empty: holds no images; name a directory with"),
        (refused(&path("nine"), ""), "holds no image of class 8 (`Bag`) of fashion-mnist"),
        (
            refused(&path("small"), ""),
            "holds images of 14x14 pixels, the networks take 28x28; set `resize: true`",
        ),
        (refused(&path("coloured"), ""), "holds images of 3 channels, the networks take 1"),
        (refused(&path("whole"), ""), "holds 2 images per class, but `ipc` is [1]: set `ipc: 2`"),
        (
            refused(&golden("executable.pt"), ""),
            "its pickle calls \"__builtin__.print\", which is no array of numbers",
        ),
        (
            refused(&golden("normalised.pt"), ""),
            "which are normalised or whitened, not pixels; set `normalised: dataset`",
        ),
        (refused(&golden("short.pt"), ""), "has 6 images and 5 labels"),
        (
            refusal(
                data.path(),
                &format!(
                    "ipc: 2\nfinished: {{theirs: {{images: '{}', labels: a/soft.npz}}}}\n",
                    path("whole").display()
                ),
            ),
            "a/soft.npz: is no label store: set `labels: own` for soft labels in the set's own file",
        ),
        (
            refused(&golden("pair.pt"), ", labels: own"),
            "has labels of the shape [6, 3], but fashion-mnist has 10 classes; leave `labels` out",
        ),
        (
            refusal(
                data.path(),
                &format!(
                    "ipc: 2\nfinished: {{theirs: {{images: '{}'{of_others}}}}}\n",
                    path("whole").display()
                ),
            ),
            "but the set has 20: give the labels that were exported with it",
        ),
        (
            refusal_with(
                data.path(),
                &format!(
                    "ipc: 2\nfinished: {{theirs: {{images: '{}', labels: '{}'}}}}\n",
                    path("whole").display(),
                    path("cut.scdd").display()
                ),
                "validate.loss={type: mse_gt, ce: 0}",
            ),
            "leaves classes without a logit, which only a KL loss can learn: set another `protocols.",
        ),
        (
            refusal(data.path(), "ipc: 2\nmethods: {theirs: {images: a}}\n"),
            "is no key of a method: a set that is there already is written as `finished: {theirs: {images: …}}`",
        ),
        (
            refusal(data.path(), "ipc: 2\nfinished: {random_real: a}\n"),
            "is what the rows of a baseline are called",
        ),
        (
            refusal(data.path(), "ipc: 2\nmethods: {theirs: {}}\nfinished: {theirs: a}\n"),
            "is what rows of `methods` are called",
        ),
        (
            refusal(data.path(), "ipc: 2\nfinished: {theirs: {images: a, normalised: zca}}\n"),
            "line 9: `finished.theirs.normalised`: is no normalisation: set `dataset`, or {mean: […], std: […]}",
        ),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

/// The labels of one protocol are not read under another.
#[test]
fn labels_of_another_protocol_are_refused() {
    let (data, dir) = (small_data(50, 50), tempfile::tempdir().unwrap());
    let own = tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: []\n");
    let output = dir.path().join("runs");
    run(&own, data.path(), &output).success();
    let to = dir.path().join("out");
    let mut export = scdd();
    export.env("SCDD_DATA", data.path()).args(["export-set", "--as", "npz", "--to"]).arg(&to);
    export.arg(&own).arg("--output").arg(&output).assert().success();
    let set = only_entry(&to);
    let finished = format!(
        "ipc: 2\nbaselines: []\nfinished: {{theirs: {{images: '{}', labels: '{}'}}}}\n",
        set.display(),
        only_entry(&set.join("labels")).display()
    );
    let other = experiment(dir.path(), TEACHER, &finished);
    let with = |overrides: &[&str]| {
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path()).arg("run").arg(&other).args(overrides);
        scdd.arg("--output").arg(dir.path().join("other")).assert()
    };
    with(&["--set", "relabel.epochs=5"]).code(2).stderr(contains(
        "was made under none of the experiment's protocols (protocol `default`: in them `relabel.epochs` was 4",
    ));
    // Another teacher of the experiment proves the classes, and the row says whose labels they are.
    let teacher = format!("teachers={}", bundle(SUPERVISED).display());
    with(&["--set", &teacher]).success().stdout(contains("soft, by labels of "));
}
