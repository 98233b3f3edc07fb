//! `scdd calibrate`: measures statistics for a network without BatchNorm, and statistics per class
//! and patch for any network.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use scdd_cli::{Calibrate, CommandOutcome, Global};

use super::data::{check_classes, check_fit, training_images};
use super::{interrupt, open_runtime, progress};
use crate::StopRequest;
use scdd_artifacts::atomic;
use scdd_artifacts::bundle::files::sha256;
use scdd_compute::threads::Threads;
use scdd_data::{Dataset, sample};
use scdd_distill::teacher::{Bundle, Calibrator, Detail, verify};

/// Images per run.
const BATCH: usize = 64;
/// The seed that draws the images, fixed so that every call draws the same ones.
const SEED: u64 = 0;
/// The interval between two saves of the state.
const KEEP_EVERY: Duration = Duration::from_secs(20);

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
    let detail = Detail { per_class: command.per_class, patches: command.patches };
    let mut calibrator = Calibrator::new(&bundle, &command.nodes, detail)?;
    let classes = set.classes.len();
    let chosen = sample::even(&set.labels, classes, command.images.get(), SEED);
    let measured = chosen.len();
    let mut batches: Vec<(usize, Vec<usize>)> = Vec::new();
    for class in 0..classes {
        let of_class: Vec<usize> =
            chosen.iter().copied().filter(|&i| set.labels[i] as usize == class).collect();
        batches.extend(of_class.chunks(BATCH).map(|batch| (class, batch.to_vec())));
    }

    let (progress, stop) = (progress::progress(global), StopRequest::default());
    let state = state_of(&out);
    let measures = format!("{:?} {:?}", command.nodes, detail);
    let identity = identity(&bundle, &set, &chosen, &measures)?;
    let mut done = 0;
    if let Ok(bytes) = fs::read(&state) {
        match calibrator.resume(&bytes, &identity) {
            Ok(batches) => done = batches,
            Err(what) => progress.tell(&format!("note: {} is not used: {what}", state.display())),
        }
    }
    interrupt::stop_on_signals(stop.clone(), progress.clone())?;
    let label = format!("calibrate {} on {}", bundle.name(), set.name);
    let mut activity = progress.start(&label, batches.len() as u64, "batch");
    let mut kept = Instant::now();
    for (number, (class, batch)) in batches.iter().enumerate().skip(done) {
        calibrator.add(*class, &normalization.batch(&set, batch)?)?;
        activity.at(number as u64 + 1, "");
        if stop.is_asked() || kept.elapsed() >= KEEP_EVERY {
            let bytes = calibrator.state(number + 1, &identity).map_err(|what| anyhow!(what))?;
            atomic::write(&state, &bytes)
                .with_context(|| format!("cannot write {}", state.display()))?;
            kept = Instant::now();
        }
        if stop.is_asked() {
            progress.tell(&format!(
                "stopped: {} holds what was measured, and the same command goes on from there",
                state.display()
            ));
            return Ok(CommandOutcome::Stopped);
        }
    }
    activity.finish("");
    calibrator.write(&out, &set.name)?;
    // What can't be removed is of no use, and replaced by the next calibration.
    let _ = fs::remove_file(&state);
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

/// The file of the state while the bundle `out` is under way.
fn state_of(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("{name}.under-way"))
}

/// What a calibration's statistics depend on.
fn identity(
    bundle: &Bundle,
    set: &Dataset,
    chosen: &[usize],
    what: &str,
) -> anyhow::Result<String> {
    let mut images = String::new();
    for batch in chosen.chunks(BATCH) {
        images.push_str(&sha256(&set.pixels(batch)?));
    }
    let labels: Vec<u8> = set.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let labels = sha256(&labels);
    let all = format!("{} {images} {labels} {chosen:?} {BATCH} {what}", bundle.hash);
    Ok(sha256(all.as_bytes()))
}
