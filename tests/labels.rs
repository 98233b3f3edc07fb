//! The soft-label store between Rust and Python: the writer makes `goldens/labels/*.scdd`;
//! `goldens/labels/replay.safetensors` holds what `exporters.labels` reads and replays from them
//! (`goldens/make_labels.py`).

mod common;

use std::fs;
use std::path::PathBuf;

use common::{bundle, root, scdd, small_data, tiny_experiment};
use ndarray::Array2;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use safetensors::SafeTensors;
use scdd::data::{Augment, Dataset, DrawnMix, Size, View};
use scdd::labels::{Dtype, LabelBatch, LabelStore, Meta, MixKind, StoredTopK, Writer};
use scdd::teacher::Bundle;
use scdd::views::{BatchViews, ViewRenderer, Views};

const TEACHER: &str = "resnet18-w16-supervised";
const SOURCE: Size = Size { height: 12, width: 10 };
const NAMES: [&str; 7] = ["f16", "f32", "i8", "top-k", "only-top-k", "rand-augment", "dsa"];

fn golden(file: &str) -> PathBuf {
    root().join("tests/goldens/labels").join(file)
}

fn meta(name: &str) -> Meta {
    let (dtype, mix) = match name {
        "f16" => (Dtype::F16, MixKind::CutMix),
        "f32" => (Dtype::F32, MixKind::MixUp),
        "i8" | "rand-augment" => (Dtype::I8, MixKind::None),
        _ => (Dtype::I8, MixKind::CutMix),
    };
    let is_newest = name == "top-k";
    Meta {
        images: 5,
        classes: 6,
        epochs: 3,
        batch_size: 3,
        source: SOURCE,
        input: Size { height: 28, width: 28 },
        mix,
        dtype,
        teacher_sha256: "0".repeat(64),
        config_hash: name.into(),
        top_k: match name {
            "top-k" => Some(StoredTopK { k: 2, temperature: Some(4.0) }),
            "only-top-k" => Some(StoredTopK { k: 2, temperature: None }),
            _ => None,
        },
        pad: if is_newest { 2 } else { 0 },
        stored_epochs: is_newest.then_some(2),
        augment: match name {
            "rand-augment" => Some(Augment::RandAugment { operations: 2, magnitude: 9 }),
            "dsa" => Some(Augment::Dsa {}),
            _ => None,
        },
    }
}

/// Logits in quarters, which every format except `i8` stores exactly; `make_labels.py` has the same
/// formula.
fn logit(epoch: usize, image: u32, class: usize) -> f32 {
    ((7 * image as usize + 3 * class * class + 5 * epoch) % 23) as f32 / 4.0 - 2.0
}

fn label_batch(meta: &Meta, epoch: usize, number: usize) -> LabelBatch {
    let indices = [vec![4, 0, 2], vec![1, 3]][number].clone();
    let border = 2 * meta.pad;
    let view = |(place, &image): (usize, &u32)| View {
        top: (place as u16 + epoch as u16) % (border + 3),
        left: image as u16 % (border + 2),
        height: 9 - place as u16,
        width: 8 - epoch as u16,
        flip: (image as usize + epoch) % 2 == 1,
    };
    let partner: Vec<u32> = (0..indices.len() as u32).rev().collect();
    let mix = match meta.mix {
        MixKind::None => DrawnMix::None,
        MixKind::CutMix => {
            DrawnMix::CutMix { partner, top: 3, left: 5 + epoch as u16, height: 14, width: 7 }
        }
        MixKind::MixUp => DrawnMix::MixUp { partner, lambda: 0.25 + 0.5 * number as f32 },
    };
    let logits =
        Array2::from_shape_fn((indices.len(), 6), |(row, class)| logit(epoch, indices[row], class));
    let views = indices.iter().enumerate().map(view).collect();
    let mut stream = scdd::rng::stream(5, "golden", (epoch * 2 + number) as u64);
    let operations =
        meta.augment.map(|augment| augment.draw(&mut stream, indices.len(), SOURCE, meta.input));
    LabelBatch { views, operations: operations.unwrap_or_default(), indices, mix, logits }
}

fn written(name: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (path, meta) = (dir.path().join("labels"), meta(name));
    let mut writer = Writer::open(&path, meta.clone()).unwrap();
    for epoch in 0..meta.stored_epochs() as usize {
        for number in 0..meta.batches() {
            writer.append(&label_batch(&meta, epoch, number)).unwrap();
        }
    }
    let bytes = writer.finish().unwrap();
    let file = fs::read(path).unwrap();
    assert_eq!(bytes, file.len() as u64);
    file
}

#[test]
#[ignore = "writes the goldens: run it, then tests/goldens/make_labels.py, when the format gets a new version"]
fn write_goldens() {
    for name in NAMES {
        fs::write(golden(&format!("{name}.scdd")), written(name)).unwrap();
    }
}

#[test]
fn what_was_written_stays_readable_and_looks_the_same() {
    for name in NAMES {
        let path = golden(&format!("{name}.scdd"));
        assert!(fs::read(&path).unwrap() == written(name), "{name}: the writer makes other bytes");
        LabelStore::open(&path).unwrap().verify().unwrap();
    }
}

fn images() -> Dataset {
    Dataset {
        name: "golden".into(),
        classes: vec!["a".into()],
        channels: 1,
        height: SOURCE.height,
        width: SOURCE.width,
        images: (0..5 * 12 * 10).map(|at| (at * 37 % 256) as u8).collect::<Vec<_>>().into(),
        labels: vec![0; 5],
    }
}

#[test]
fn python_reads_and_replays_the_same() {
    let file = fs::read(golden("replay.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&file).unwrap();
    let floats = |name: String| -> Vec<f32> {
        goldens
            .tensor(&name)
            .unwrap()
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    };
    let student = Bundle::load(&bundle("convnet3-w128")).unwrap();
    for name in NAMES {
        let store = LabelStore::open(&golden(&format!("{name}.scdd"))).unwrap();
        let renderer = ViewRenderer::new(&student, store.meta().pad).unwrap();
        for place in 0..store.meta().epochs as usize * store.meta().batches() {
            let (epoch, number) = (place / 2, place % 2);
            let batch = store.get(epoch, number).unwrap();
            let key = format!("{name}.{epoch}.{number}");
            let logits = batch.logits.clone();
            let LabelBatch { indices, views, operations, mix, .. } = batch;
            let seen = renderer
                .render(&images(), &BatchViews { indices, views, operations, mix })
                .unwrap();
            assert_eq!(logits.as_slice().unwrap(), floats(format!("{key}.logits")), "{key}");
            let expected = floats(format!("{key}.seen"));
            assert_eq!(seen.len(), expected.len());
            let furthest =
                seen.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(furthest < 1e-5, "{key}: views differ by {furthest}");
        }
    }
}

/// Runs each way of labelling and of training once, through the command line, on few images and
/// epochs.
#[test]
fn protocols_run() {
    let (data, dir) = (small_data(60, 20), tempfile::tempdir().unwrap());
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), "baselines: []\n");
    let run = |settings: &[&str]| {
        let mut command = scdd();
        command
            .env("SCDD_DATA", data.path())
            .arg("run")
            .arg(&experiment)
            .arg("--output")
            .arg(dir.path().join("runs"));
        command.args(settings.iter().flat_map(|setting| ["--set", setting])).assert()
    };
    let short = ["relabel.epochs=6", "relabel.batch_size=12", "validate.evaluate_every=6"];
    for name in scdd::config::preset_names().filter(|name| name.starts_with("protocol-")) {
        let [relabel, validate] =
            ["relabel", "validate"].map(|stage| format!("{stage}.preset={name}"));
        let stored: &[&str] = if ["protocol-lpqld", "protocol-hald"].contains(&name) {
            &["relabel.stored_epochs=2"]
        } else {
            &[]
        };
        run(&[&short[..], &[&relabel, &validate], stored].concat()).success();
    }
    run(&[
        &short[..],
        &[
            "relabel.preset=protocol-scdd",
            "relabel.compat=official",
            "validate.preset=protocol-scdd",
        ],
    ]
    .concat())
    .success();
    run(&["relabel.dtype=i8", "relabel.top_k={k: 3, temperature: 20}", "relabel.stored_epochs=1"])
        .success()
        .stderr(contains("MB of labels"));
    run(&["relabel.top_k={k: 3, temperature: null}"]).success();
    run(&["relabel.teacher_bn=batch", "validate.loss.ce=0.1"]).success();
    let other = format!(
        "relabel.ensemble=[{{bundle: {}, weight: 0.5}}]",
        bundle("resnet18-w16-moco-v2").display()
    );
    run(&[&other, "relabel.dtype=f32"])
        .success()
        .stderr(contains("seed3 with resnet18-w16-supervised + resnet18-w16-moco-v2"));
    run(&["relabel.top_k={k: 10, temperature: 20}"]).code(2).stderr(
        contains("the 10 largest of 10 logits: must be at least 1, and fewer than all")
            .and(contains("panicked").not()),
    );
}

/// A student that trains on the images' classes draws the same views that a relabelling stores.
#[test]
fn drawn_views_are_those_that_are_stored() {
    let (data, dir) = (small_data(60, 20), tempfile::tempdir().unwrap());
    let more = "baselines: []\nlabels: [soft, hard]\n";
    let experiment = tiny_experiment(dir.path(), &bundle(TEACHER), more);
    let stages = |kind: &str| {
        let found = fs::read_dir(dir.path().join("runs/stages").join(kind));
        found.map_or(Vec::new(), |found| {
            found.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        })
    };
    let run = |settings: &[&str]| {
        let mut command = scdd();
        command
            .env("SCDD_DATA", data.path())
            .arg("run")
            .arg(&experiment)
            .arg("--output")
            .arg(dir.path().join("runs"));
        command.args(settings.iter().flat_map(|setting| ["--set", setting])).assert().success();
    };
    // With hard labels alone no teacher labels.
    run(&["labels=hard", "whole_real={epochs: 1, batch_size: 8}"]);
    assert_eq!(
        (stages("relabel").len(), stages("validate").len(), stages("whole").len()),
        (0, 1, 1)
    );
    run(&["relabel.stored_epochs=3"]);
    let store = LabelStore::open(&stages("relabel")[0].join("labels.scdd")).unwrap();

    let text = fs::read_to_string(&experiment)
        .unwrap()
        .replace("epochs: 4", "epochs: 4, stored_epochs: 3");
    let protocol =
        scdd::config::Experiment::from_yaml(&text, &experiment, &[]).unwrap().protocols[0].clone();
    let images = scdd::data::png::read_set(&stages("recover")[0].join("images")).unwrap();
    let views = Views::new(&protocol.relabel, 1, 3, &images, Size { height: 28, width: 28 });
    assert_eq!((views.epochs(), views.stored_epochs(), views.batch_size()), (4, 3, 8));
    for epoch in 0..4 {
        let drawn = views.epoch(epoch % views.stored_epochs()).unwrap();
        assert_eq!(drawn.len(), store.meta().batches());
        for (number, drawn) in drawn.iter().enumerate() {
            let stored = store.get(epoch as usize, number).unwrap();
            assert_eq!(
                (&drawn.indices, &drawn.views, &drawn.mix),
                (&stored.indices, &stored.views, &stored.mix)
            );
        }
    }
}
