//! Mismatched inputs are refused: classes in another order, networks or data that only share a
//! name, sets larger than the data.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use common::{bundle, copy_bundle, scdd};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use scdd::data::{Dataset, Source, Split, png};

const TEACHER: &str = "resnet18-w16-supervised";
const STUDENT: &str = "resnet18-w16";
/// Fashion-MNIST's class names as directory names.
const NAMES: [&str; 10] = [
    "T-shirt_top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Creates an image folder with a class map, with `per_class` training and as many test images of
/// each class. Fashion-MNIST's class `c` is in the directory `names[c]`; the map lists the
/// directories in the order of `order`.
fn folder(root: &Path, per_class: usize, names: [&str; 10], order: [usize; 10]) {
    let source =
        Source::find("fashion-mnist").expect("the tests need Fashion-MNIST: run `make data`");
    for (split, directory) in [(Split::Train, "train"), (Split::Test, "test")] {
        let set = Dataset::load(&source, split).unwrap();
        let mut counts = [0; 10];
        for (index, &label) in set.labels.iter().enumerate() {
            let class = root.join("toy").join(directory).join(names[label as usize]);
            if counts[label as usize] < per_class {
                counts[label as usize] += 1;
                fs::create_dir_all(&class).unwrap();
                let image = png::encode(&set.image(index).unwrap(), 1, 28, 28).unwrap();
                fs::write(class.join(png::file_name(index)), image).unwrap();
            }
        }
    }
    let map: String =
        order.iter().map(|&class| format!("{:?}: {:?}\n", names[class], names[class])).collect();
    fs::write(root.join("map.yaml"), map).unwrap();
}

const RIGHT: [usize; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// Runs `scdd COMMAND` on a small experiment on the folder in `root`, with `more` settings.
fn run(root: &Path, command: &str, teachers: &str, more: &[&str]) -> Assert {
    let experiment = root.join("e.yaml");
    let text = format!(
        "name: e\ndata: {{type: image-folder, path: {root}/toy, class_map: {root}/map.yaml}}\nteachers: {teachers}\nstudents: {student}\nipc: 2\n\
         recover: {{iterations: 2, batch_size: 20}}\nrelabel: {{epochs: 2, batch_size: 20}}\nvalidate: {{evaluate_every: 2}}\nbaselines: []\n",
        root = root.display(),
        student = bundle(STUDENT).display(),
    );
    fs::write(&experiment, text).unwrap();
    let mut scdd = scdd();
    scdd.arg(command).arg("--quiet").arg(&experiment).arg("--output").arg(root.join("runs"));
    scdd.args(more.iter().flat_map(|one| ["--set", one])).assert()
}

fn teacher() -> String {
    bundle(TEACHER).display().to_string()
}

/// The stages of one kind below the runs of `root`.
fn stages(root: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("runs/stages").join(kind));
    let mut found: Vec<PathBuf> =
        entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn classes_in_another_order_are_refused_before_anything_is_labelled() {
    // Meaningless names in the right order give a remark.
    let root = tempfile::tempdir().unwrap();
    let strange = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"];
    folder(root.path(), 6, strange, RIGHT);
    run(root.path(), "relabel", &teacher(), &[]).success().stderr(
        contains("note: ")
            .and(contains("no class of toy is called as in the bundle"))
            .and(contains("class_map")),
    );

    // The same names in another order are refused, because the teacher's outputs reveal it.
    let root = tempfile::tempdir().unwrap();
    folder(root.path(), 6, strange, [3, 0, 1, 2, 4, 5, 6, 7, 8, 9]);
    run(root.path(), "relabel", &teacher(), &[]).code(2).stderr(
        contains("in another order of classes it would be")
            .and(contains("images of the data's class 0 (`n3`) are the bundle's class 3 (`Dress`)"))
            .and(contains("its manifest says 9")),
    );
    assert!(stages(root.path(), "recover").is_empty(), "nothing was made");

    // Two directories were swapped: names match, images don't.
    let root = tempfile::tempdir().unwrap();
    let mut swapped = NAMES;
    swapped.swap(1, 9);
    folder(root.path(), 30, swapped, [0, 9, 2, 3, 4, 5, 6, 7, 8, 1]);
    run(root.path(), "relabel", &teacher(), &[]).code(2).stderr(contains(
        "images of the data's class 1 (`Trouser`) are the bundle's class 9 (`Ankle boot`)",
    ));

    // A known name at another index, among unknown ones.
    let root = tempfile::tempdir().unwrap();
    let mut moved = strange;
    moved[4] = "Bag";
    folder(root.path(), 2, moved, RIGHT);
    run(root.path(), "recover", &teacher(), &[])
        .code(2)
        .stderr(contains("`Bag` is class 8 of the bundle and class 4 of toy"));
}

#[test]
fn a_teacher_that_is_far_from_its_manifest_is_refused() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path(), 6, NAMES, RIGHT);
    let copy = copy_bundle(TEACHER);
    copy.edit_manifest(|manifest| manifest["preprocessing"]["mean"][0] = 9.0.into());
    let spoilt = copy.path.display().to_string();
    run(root.path(), "relabel", &spoilt, &[]).code(2).stderr(
        contains("its manifest says 9")
            .and(contains("preprocessing"))
            .and(contains("of 60 test images of toy")),
    );
    // Without labels the teacher's accuracy does not matter.
    run(root.path(), "recover", &spoilt, &[]).success();
    // Without a recorded accuracy there is nothing to compare with.
    copy.edit_manifest(|manifest| {
        manifest.as_mapping_mut().unwrap().remove("accuracy");
    });
    run(root.path(), "relabel", &spoilt, &[])
        .success()
        .stderr(contains("not clearly more than by chance (10.0 %)"));
    assert_eq!(stages(root.path(), "measure").len(), 1);

    let data = root.path().join("toy");
    let verify = |teacher: &str| {
        let mut scdd = scdd();
        scdd.arg("verify").arg(teacher).arg("--data").arg(&data).assert()
    };
    // Without a map the directories are classes in alphabetical order, which is another order.
    verify(&teacher())
        .code(1)
        .stdout(contains("FAILED top-1 on 60 test images").and(contains("in another order")));
    let mut known = scdd();
    known.args(["verify", &teacher(), "--data", "fashion-mnist", "--json"]);
    let found = known.assert().success().get_output().stdout.clone();
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    let data = &found[0]["data"];
    assert_eq!(
        (&data["measured"]["images"], &data["problem"]),
        (&2000.into(), &serde_json::Value::Null)
    );
    let accuracy = data["measured"]["top1"].as_f64().unwrap() / 2000.0;
    assert!((accuracy - data["recorded"].as_f64().unwrap()).abs() < 0.03, "{data}");
}

#[test]
fn a_student_is_no_teacher_wherever_it_is_named() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path(), 2, NAMES, RIGHT);
    let student = bundle(STUDENT).display().to_string();
    let refused = |teachers: &str, more: &[&str], part: &str| {
        let said = format!("is a student bundle, the experiment names it as {part}");
        run(root.path(), "recover", teachers, more).code(2).stderr(contains(said));
    };
    refused(&student, &[], "a teacher");
    refused(&teacher(), &[&format!("relabel_teachers=[{student}]")], "a labelling teacher");
    refused(&teacher(), &[&format!("recover.verifier=[{student}]")], "a verifier");
}

#[test]
fn what_makes_a_row_is_content() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path(), 6, NAMES, RIGHT);
    let (other, same) = (copy_bundle(TEACHER), copy_bundle(TEACHER));
    other.edit_manifest(|manifest| manifest["pretraining"]["epochs"] = 77.into());
    fs::copy(bundle(TEACHER).join("manifest.yaml"), same.path.join("manifest.yaml")).unwrap();
    let teachers = format!("[{}, {}, {}]", teacher(), other.path.display(), same.path.display());
    let table =
        run(root.path(), "run", &teachers, &[]).success().stderr(contains("is the same bundle as"));
    let table = String::from_utf8(table.get_output().stdout.clone()).unwrap();
    let is_row = |line: &&str| {
        line.starts_with("distilled from ") && line.contains(" soft, by the same  1 ")
    };
    let rows: Vec<&str> = table.lines().filter(is_row).collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(rows.iter().all(|row| row.contains(&format!("distilled from {TEACHER}@"))), "{table}");
    assert_eq!(stages(root.path(), "recover").len(), 2);

    // Reports of experiments on data sets that only share their name.
    let elsewhere = tempfile::tempdir().unwrap();
    folder(elsewhere.path(), 5, NAMES, RIGHT);
    fs::remove_dir_all(elsewhere.path().join("toy/test")).unwrap();
    copy_all(&root.path().join("toy/test"), &elsewhere.path().join("toy/test"));
    let test = elsewhere.path().join("toy/test/Bag");
    let mut images: Vec<PathBuf> =
        fs::read_dir(&test).unwrap().map(|entry| entry.unwrap().path()).collect();
    images.sort();
    fs::copy(&images[0], &images[1]).unwrap();
    run(elsewhere.path(), "run", &teacher(), &[]).success();
    let reports = [root.path(), elsewhere.path()].map(|path| path.join("runs/e"));
    let mut report = scdd();
    report.arg("report").args(&reports).assert().code(2).stderr(
        contains("toy (60 test images, 10 classes, content ")
            .and(contains("their accuracies do not compare")),
    );
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn more_images_than_the_data_has_are_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path(), 3, NAMES, RIGHT);
    let one =
        fs::read_dir(root.path().join("toy/train/Coat")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(one).unwrap();
    let refused = |more: &[&str], what: &str| {
        let more = [&["ipc=[2, 3]"], more].concat();
        let said = contains(
            "needs 3 training images of every class, but `Coat` of toy has 2: lower `ipc`",
        );
        run(root.path(), "run", &teacher(), &more).code(2).stderr(said.and(contains(what)));
    };
    refused(&["baselines=[random_real_hard]"], "the baseline `random_real`");
    refused(&["baselines=[nearest_mean_soft]"], "the baseline `nearest_mean`");
    refused(&["baselines=[rded_crops_soft]"], "the baseline `rded_crops`");
    refused(&["recover.start={type: real, mean_of: 1}"], "`recover.start`");
    refused(&["recover.start={type: clusters, images: 9}"], "`recover.start`");
    assert!(stages(root.path(), "recover").is_empty());
    run(root.path(), "recover", &teacher(), &["ipc=[3]"]).success();
}

#[test]
fn small_sets_are_the_beginning_of_a_large_one_where_a_method_says_so() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path(), 2, NAMES, RIGHT);
    let subset = ["recover.subset_of=3", "ipc=[1, 3]"];
    let table = run(root.path(), "run", &teacher(), &subset).success();
    let table = String::from_utf8(table.get_output().stdout.clone()).unwrap();
    assert!(
        table.contains(", 1 image per class") && table.contains(", 3 images per class"),
        "{table}"
    );
    let ([whole], [part]) =
        (&stages(root.path(), "recover")[..], &stages(root.path(), "subset")[..])
    else {
        panic!("one recovery, of which one set is the beginning")
    };
    let (whole, part) = (
        png::read_set(&whole.join("images")).unwrap(),
        png::read_set(&part.join("images")).unwrap(),
    );
    assert_eq!((whole.len(), part.len(), &part.classes), (30, 10, &whole.classes));
    assert!((0..10).all(|class| part.image(class).unwrap() == whole.image(3 * class).unwrap()));
    let results = fs::read(root.path().join("runs/e/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
    let rows = results["results"]["rows"].as_array().unwrap();
    let small = rows.iter().find(|row| row["ipc"] == 1).unwrap();
    assert_eq!((&small["images"], &small["recovered"]), (&10.into(), &30.into()));
    let refused = contains(
        "`recover.subset_of`: a set of 3 images per class (`ipc`) can't be the beginning of one of 2",
    );
    run(root.path(), "recover", &teacher(), &["recover.subset_of=2", "ipc=[1, 3]"])
        .code(2)
        .stderr(refused);
}
