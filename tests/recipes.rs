//! Runs every recipe through the command line: each preset's recovery for a few steps on the
//! shipped teachers.

mod common;

use std::fs;

use common::{bundle, scdd, small_data};

const TEACHER: &str = "resnet18-w16-supervised";

/// Presets whose starts read real images, with the source that each file names.
const REAL: [(&str, &str); 10] = [
    ("dwa-cifar100", "arXiv 2409.17612"),
    ("dwa-imagenet", "arXiv 2409.17612"),
    ("edc-cifar10", "arXiv 2404.13733"),
    ("edc-imagenet", "arXiv 2404.13733"),
    ("rded-cifar100", "arXiv 2312.03526"),
    ("rded-imagenet", "arXiv 2312.03526"),
    ("fadrm-cifar100", "Jiacheng8/FADRM"),
    ("fadrm-tiny-imagenet", "Jiacheng8/FADRM, recover/scripts/tiny_imagenet"),
    ("fadrm-imagenet", "Jiacheng8/FADRM"),
    ("delt-imagenet", "arXiv 2411.19946"),
];
const NOISE: [(&str, &str); 12] = [
    ("sre2l-cifar100", "arXiv 2306.13092"),
    ("sre2l-tiny-imagenet", "recover_tiny.py"),
    ("sre2l-imagenet", "arXiv 2306.13092"),
    ("scdd-cifar100", "arXiv 2404.07976"),
    ("scdd-tiny-imagenet", "source/parameter.png"),
    ("scdd-imagenet", "arXiv 2404.07976"),
    ("cda-cifar100", "appendix"),
    ("cda-tiny-imagenet", "recover_cda_tiny.py"),
    ("cda-imagenet", "arXiv 2311.18838"),
    ("g-vbsm-cifar10", "arXiv 2311.17950"),
    ("g-vbsm-imagenet", "arXiv 2311.17950"),
    ("lpld-imagenet", "arXiv 2410.15919"),
];
/// Presets of labels and training only; `labels.rs` runs them.
const PROTOCOLS: [(&str, &str); 15] = [
    ("protocol-scdd", "arXiv 2404.07976"),
    ("protocol-sre2l", "arXiv 2306.13092"),
    ("protocol-tiny-imagenet", "zeyuanyin/tiny-imagenet, script/train_kd.sh"),
    ("protocol-rded", "arXiv 2312.03526"),
    ("protocol-edc", "arXiv 2404.13733"),
    ("protocol-edc-cifar100", "Branch_CIFAR_100/train"),
    ("protocol-cvdd", "Jiacheng8/CV-DD"),
    ("protocol-fadrm", "Jiacheng8/FADRM"),
    ("protocol-ccfs", "CYDaaa30/CCFS"),
    ("protocol-bps", "BeCarefulOfYournaoke/BPS"),
    ("protocol-lpqld", "he-y/soft-label-pruning-quantization-for-dataset-distillation"),
    ("protocol-hald", "Jiacheng8/HALD"),
    ("protocol-gift", "LINs-lab/GIFT"),
    ("protocol-rd3", "arXiv 2509.19743"),
    ("protocol-hard", "arXiv 2006.05929"),
];

#[test]
fn every_preset_is_here_with_its_source() {
    let folder = common::root().join("src/experiment/config/presets");
    let mut files: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|name| name != "default")
        .collect();
    files.sort();
    let all = || REAL.iter().chain(&NOISE).chain(&PROTOCOLS);
    let mut here: Vec<&str> = all().map(|(name, _)| *name).collect();
    here.sort_unstable();
    assert_eq!(files, here);
    let mut known: Vec<&str> =
        scdd::config::preset_names().filter(|name| *name != "default").collect();
    known.sort_unstable();
    assert_eq!(files, known);
    for (name, source) in all() {
        let text = fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
        let comments: Vec<&str> =
            text.lines().filter_map(|line| line.trim_start().strip_prefix('#')).collect();
        let comments = comments.join("").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(comments.contains(source), "{name} does not name its source, {source}: {comments}");
    }
}

/// The experiment's YAML: each of `presets` as a method of few steps, with `more` settings.
fn experiment(presets: &[&str], more: &str) -> String {
    let method = |preset: &&str| {
        // Crops need four images of each class, so recipes without steps use the minimum.
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

/// The directories of images that `scdd recover` makes, in any order.
fn recover(yaml: &str) -> (tempfile::TempDir, Vec<std::path::PathBuf>) {
    let (data, dir) = (small_data(400, 20), tempfile::tempdir().unwrap());
    let file = dir.path().join("recipes.yaml");
    fs::write(&file, yaml).unwrap();
    let mut command = scdd();
    command
        .env("SCDD_DATA", data.path())
        .arg("recover")
        .arg(&file)
        .arg("--output")
        .arg(dir.path().join("runs"));
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
    let (_dir, found) = recover(&experiment(&NOISE.map(|(name, _)| name), ""));
    // Two pairs of recipes differ only in numbers. Only CDA's and SRe2L's at CIFAR size are equal.
    assert_eq!(found.len(), NOISE.len() - 1, "{found:?}");
    assert!(found.iter().all(|directory| images(directory) == 10));
}

#[test]
fn presets_that_start_from_real_images_recover_images_and_say_so() {
    let (_dir, found) = recover(&experiment(&REAL.map(|(name, _)| name), ""));
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
    let first = |directory: &std::path::PathBuf| {
        fs::read(directory.join("images/03_dress/00000.png")).unwrap()
    };
    let images: Vec<Vec<u8>> = found.iter().map(first).collect();
    assert!(images[0] != images[1] && images[1] != images[2] && images[0] != images[2]);
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
    command
        .env("SCDD_DATA", data.path())
        .arg("relabel")
        .arg(&file)
        .arg("--output")
        .arg(dir.path().join("runs"));
    let output = command.assert().success().get_output().stdout.clone();
    let labels =
        std::path::Path::new(String::from_utf8(output).unwrap().trim()).join("labels.scdd");
    let store = scdd::labels::LabelStore::open(&labels).unwrap();
    let views: Vec<_> = (0..6).flat_map(|epoch| store.get(epoch, 0).unwrap().views).collect();
    let cell = |from: u16, length: u16| (from / 14, (from + length - 1) / 14);
    assert!(views.iter().all(|v| cell(v.top, v.height).0 == cell(v.top, v.height).1));
    assert!(views.iter().all(|v| cell(v.left, v.width).0 == cell(v.left, v.width).1));
    let cells: std::collections::BTreeSet<_> =
        views.iter().map(|v| (v.top / 14, v.left / 14)).collect();
    assert_eq!(cells.len(), 4);
}
