//! Every recipe through the command line: each preset's recovery for a few steps on the shipped teachers.

mod common;

use std::fs;

use common::{bundle, scdd, small_data};

const TEACHER: &str = "resnet18-w16-supervised";

/// Presets whose starts read real images.
const REAL: [&str; 9] = [
    "dwa-cifar100",
    "dwa-imagenet",
    "edc-cifar10",
    "edc-imagenet",
    "rded-cifar100",
    "rded-imagenet",
    "fadrm-cifar100",
    "fadrm-imagenet",
    "delt-imagenet",
];
const NOISE: [&str; 9] = [
    "sre2l-cifar100",
    "sre2l-imagenet",
    "scdd-cifar100",
    "scdd-imagenet",
    "cda-cifar100",
    "cda-imagenet",
    "g-vbsm-cifar10",
    "g-vbsm-imagenet",
    "lpld-imagenet",
];

/// The experiment's YAML: each of `presets` as a method of few steps, with `more` settings.
fn experiment(presets: &[&str], more: &str) -> String {
    let method = |preset: &&str| {
        // Crops need four images of each class, and the recipes without steps have no more of them.
        let steps = if preset.starts_with("rded") { 0 } else { 8 };
        format!("  {preset}: {{preset: {preset}, iterations: {steps}{more}}}\n")
    };
    format!(
        "name: recipes\ndata: fashion-mnist\nteachers: {}\nstudents: {}\nipc: 1\nbaselines: []\nmethods:\n{}",
        bundle(TEACHER).display(),
        bundle("resnet18-w16").display(),
        presets.iter().map(method).collect::<String>()
    )
}

/// The directories that `scdd recover` leaves, in no order.
fn recover(yaml: &str) -> (tempfile::TempDir, Vec<std::path::PathBuf>) {
    let (data, dir) = (small_data(400, 20), tempfile::tempdir().unwrap());
    let file = dir.path().join("recipes.yaml");
    fs::write(&file, yaml).unwrap();
    let mut command = scdd();
    command.env("SCDD_DATA", data.path()).arg("recover").arg(&file).arg("--output").arg(dir.path().join("runs"));
    let output = command.assert().success().get_output().stdout.clone();
    let directories = String::from_utf8(output).unwrap().lines().map(Into::into).collect();
    (dir, directories)
}

fn images(directory: &std::path::Path) -> usize {
    let classes = fs::read_dir(directory.join("images")).unwrap();
    classes.map(|class| fs::read_dir(class.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn presets_that_start_from_noise_recover_images() {
    let (_dir, found) = recover(&experiment(&NOISE, ""));
    // Two pairs of recipes are equal but for their numbers, none is equal altogether but CDA's and SRe2L's at CIFAR size.
    assert_eq!(found.len(), NOISE.len() - 1, "{found:?}");
    assert!(found.iter().all(|directory| images(directory) == 10));
}

#[test]
fn presets_that_start_from_real_images_recover_images_and_say_so() {
    let (_dir, found) = recover(&experiment(&REAL, ""));
    assert_eq!(found.len(), REAL.len(), "{found:?}");
    for directory in found {
        assert_eq!(images(&directory), 10);
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(directory.join("stage.json")).unwrap()).unwrap();
        assert!(record["inputs"]["data"].is_string(), "{record}");
    }
}

#[test]
fn the_published_codes_quirks_and_a_committee_change_the_images() {
    let committee = bundle("resnet18-w16-moco-v2");
    let yaml = experiment(&["sre2l-imagenet"], "")
        + "  official: {preset: sre2l-imagenet, iterations: 8, compat: official}\n"
        + &format!(
            "  several: {{preset: sre2l-imagenet, iterations: 8, committee: {{teachers: [{}], turn: all, weights: []}}}}\n",
            committee.display()
        );
    let (_dir, found) = recover(&yaml);
    assert_eq!(found.len(), 3);
    let first = |directory: &std::path::PathBuf| fs::read(directory.join("images/03_dress/00000.png")).unwrap();
    let images: Vec<Vec<u8>> = found.iter().map(first).collect();
    assert!(images[0] != images[1] && images[1] != images[2] && images[0] != images[2]);
}

#[test]
fn measured_engines_are_recorded_beside_the_images() {
    let (_dir, found) = recover(&experiment(&["scdd-cifar100"], ", autotune: true"));
    let record = fs::read(found[0].join("engines.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let choices = record[0]["10x1x28x28"].as_array().unwrap();
    assert!(choices.iter().any(|choice| choice["measured"].as_array().unwrap().len() > 1), "{record}");
}

#[test]
fn views_of_mosaics_made_of_clusters_show_one_small_image_each() {
    let (data, dir) = (small_data(400, 20), tempfile::tempdir().unwrap());
    let file = dir.path().join("mosaics.yaml");
    let yaml = format!(
        "name: mosaics\ndata: fashion-mnist\nteachers: {}\nstudents: {}\nipc: 2\nbaselines: []\n\
         recover: {{iterations: 3, formation: 2, start: {{type: clusters, images: 30}}}}\n\
         relabel: {{epochs: 6, crop: {{type: resized, scale: [0.5, 1]}}}}\n",
        bundle(TEACHER).display(),
        bundle("resnet18-w16").display(),
    );
    fs::write(&file, yaml).unwrap();
    let mut command = scdd();
    command.env("SCDD_DATA", data.path()).arg("relabel").arg(&file).arg("--output").arg(dir.path().join("runs"));
    let output = command.assert().success().get_output().stdout.clone();
    let labels = std::path::Path::new(String::from_utf8(output).unwrap().trim()).join("labels.scdd");
    let store = scdd::relabel::store::Store::open(&labels).unwrap();
    let views: Vec<_> = (0..6).flat_map(|epoch| store.get(epoch, 0).unwrap().views).collect();
    let cell = |from: u16, length: u16| (from / 14, (from + length - 1) / 14);
    assert!(views.iter().all(|v| cell(v.top, v.height).0 == cell(v.top, v.height).1));
    assert!(views.iter().all(|v| cell(v.left, v.width).0 == cell(v.left, v.width).1));
    let cells: std::collections::BTreeSet<_> = views.iter().map(|v| (v.top / 14, v.left / 14)).collect();
    assert_eq!(cells.len(), 4);
}
