//! `scdd inspect` through the command line.

mod common;

use std::fs;

use common::{bundle, features_only, scdd, small_data};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

#[test]
fn teachers_are_compared_at_noise_and_at_real_images() {
    let (data, dir) = (small_data(60, 10), tempfile::tempdir().unwrap());
    let teachers =
        [bundle("resnet18-w16-supervised"), bundle("resnet18-w16-moco-v2"), features_only()];
    let inspect = |out: &str| {
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path()).arg("inspect").args(&teachers);
        scdd.args(["--data", "fashion-mnist", "--images", "20", "--out"]).arg(dir.path().join(out));
        scdd
    };
    inspect("a").assert().success().stdout(
        contains("running means of all layers")
            .and(contains("20 × noise"))
            .and(contains("20 × fashion-mnist")),
    );
    inspect("a")
        .assert()
        .success()
        .stdout(contains("20 training images, drawn with seed 0, equally many of each class"));
    let drawn = |seed: &str| {
        let output = inspect("c").args(["--json", "--seed", seed]).assert().success();
        let found: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        (found[0]["gradients"][0].clone(), found[0]["gradients"][1].clone())
    };
    let (zero, one) = (drawn("0"), drawn("1"));
    assert!(
        zero == drawn("0") && zero.0 == one.0 && zero.1 != one.1,
        "the seed draws the real images alone"
    );
    let output = inspect("b").args(["--json", "--quiet"]).assert().success();
    let found: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let balance = |teacher: usize, at: usize| found[teacher]["gradients"][at]["balance"].as_f64();
    let bn =
        |teacher: usize, at: usize| found[teacher]["gradients"][at]["bn"]["loss"].as_f64().unwrap();
    for teacher in 0..2 {
        assert!(balance(teacher, 0).unwrap() > 0.0);
        // Real images match the network's statistics, noise does not.
        assert!(bn(teacher, 1) < 0.5 * bn(teacher, 0));
    }
    assert_eq!((balance(2, 0), found[2]["scheme"].as_str()), (None, Some("moco_v3")));
    for file in ["inspect.html", "inspect.csv", "inspect.json"] {
        let read = |out: &str| fs::read(dir.path().join(out).join(file)).unwrap();
        assert_eq!(read("a"), read("b"), "{file}");
    }
}

#[test]
fn what_can_not_be_inspected_is_explained() {
    let (data, out) = (small_data(10, 10), tempfile::tempdir().unwrap());
    let inspect = |arguments: &[&str], message: &str| {
        let mut scdd = scdd();
        scdd.env("SCDD_DATA", data.path())
            .arg("inspect")
            .args(arguments)
            .arg("--out")
            .arg(out.path());
        scdd.assert().code(2).stderr(contains(message));
    };
    let named = |name: &str| bundle(name).display().to_string();
    inspect(&[&named("convnet3-w128-in")], "has no statistics to inspect");
    inspect(&[&named("nothing")], "nothing/manifest.yaml: No such file");
    inspect(
        &[&named("resnet18-w16-supervised"), "--data", "cifar-10"],
        "data set cifar-10 not found",
    );
    inspect(&[&named("resnet18-w16-supervised"), "--images", "0"], "--images");
    let twice =
        [named("resnet18-w16-supervised"), format!("{}/", named("resnet18-w16-supervised"))];
    inspect(&[&twice[0], &twice[1]], "is the bundle that");
    let file = out.path().with_extension("txt");
    fs::write(&file, "mine").unwrap();
    for place in [file.clone(), file.join("below")] {
        let mut scdd = scdd();
        scdd.arg("inspect").arg(&twice[0]).arg("--out").arg(place);
        let nothing_computed =
            contains("is a file; --out wants a directory").and(contains("inspect: ").not());
        scdd.assert().code(2).stderr(nothing_computed);
    }
    fs::remove_file(file).unwrap();
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}
