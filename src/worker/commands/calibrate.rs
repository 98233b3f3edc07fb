//! `scdd calibrate`: measures statistics for a network without BatchNorm, and statistics per class
//! and patch for any network.

use anyhow::ensure;
use scdd_cli::{Calibrate, CommandOutcome, Global};

use super::data::{check_classes, check_fit, training_images};
use super::open_runtime;
use scdd_compute::threads::Threads;
use scdd_data::sample;
use scdd_distill::teacher::{Bundle, Calibrator, Detail, verify};

/// Images per run.
const BATCH: usize = 64;
/// The seed that draws the images, fixed so that every call draws the same ones.
const SEED: u64 = 0;

pub fn run(command: Calibrate, global: &Global) -> anyhow::Result<CommandOutcome> {
    let bundle = Bundle::load(&command.bundle)?;
    let verdict =
        verify(&bundle, &open_runtime(global)?, &Threads::all(), &|what| eprintln!("{what}"))?;
    ensure!(verdict.passed(), "bundle `{}` does not verify; see `scdd verify`", bundle.name());
    let out = command.out.unwrap_or_else(|| {
        let name = command.bundle.file_name().unwrap_or(bundle.name().as_ref());
        command.bundle.with_file_name(format!("{}-calibrated", name.to_string_lossy()))
    });
    ensure!(!out.exists(), "{}: exists already; choose another --out", out.display());
    let set = training_images(&command.data, &bundle)?;
    check_fit(&bundle, &set)?;
    if command.per_class {
        check_classes(&bundle, &set)?;
        let (images, classes) = (command.images.get(), set.classes.len());
        ensure!(
            images >= classes,
            "--images {images}: --per-class needs an image of each of {classes} classes at least"
        );
    }

    let normalization = bundle.normalization()?;
    let mut calibrator = Calibrator::new(
        &bundle,
        &command.nodes,
        Detail { per_class: command.per_class, patches: command.patches },
    )?;
    let classes = set.classes.len();
    let chosen = sample::even(&set.labels, classes, command.images.get(), SEED);
    let measured = chosen.len();
    for class in 0..classes {
        let of_class: Vec<usize> =
            chosen.iter().copied().filter(|&i| set.labels[i] as usize == class).collect();
        for batch in of_class.chunks(BATCH) {
            calibrator.add(class, &normalization.batch(&set, batch)?)?;
        }
    }
    calibrator.write(&out, &set.name)?;
    let written = Bundle::load(&out)?;
    let layers = written.layers.len();
    if global.json {
        println!("{}", serde_json::json!({"bundle": out, "layers": layers, "images": measured}));
    } else {
        println!(
            "{}: statistics of {layers} activations, measured on {measured} training images of {}, equally many of each class",
            out.display(),
            set.name
        );
    }
    Ok(CommandOutcome::Done)
}
