//! Labels a set of images.

use std::time::{Duration, Instant};

use crate::Tools;
use crate::device::ComputeDevice;
use scdd_artifacts::files::{LABEL_FIGURES, LABELS, STORE_UNDER_WAY, write_json};
use scdd_artifacts::labels::LabelStore;
use scdd_artifacts::stage::WorkDir;
use scdd_distill::progress::Progress;
use scdd_distill::relabel::{LabelPlace, Relabel, Teachers};
use scdd_distill::teacher::Provider;
use scdd_experiment::config::{Device, Precision};
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::relabel::RelabelTask;

use super::read_named;

/// The interval between two records of the stage's cost so far. Each takes some milliseconds.
const NOTE_EVERY: Duration = Duration::from_secs(5);

pub fn make(task: &RelabelTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let RelabelTask { name, images, formation, teachers, config, seed, key } = task;
    // The store gets its name when it is whole.
    if work.has(LABELS) {
        work.remove(format!("{LABELS}{STORE_UNDER_WAY}"))?;
        return note_figures(work);
    }
    let set = read_named(images, name)?;
    let tf32 = tools.device.precision != Precision::Fp32;
    let may_be_on_gpu =
        config.provider != Device::Cpu && tools.runtime.has(Provider::Cuda { tf32 }).is_ok();
    // A stage that waits keeps no other from starting.
    tools.threads.reached_peak();
    let _alone = may_be_on_gpu.then(|| tools.lock_gpu());
    let place = LabelPlace { tensors: tools.device.tensors, tf32 };
    let say = |what: &str| tools.progress.tell(&format!("{name}: {what}"));
    let mut answering =
        Teachers::open(teachers, tools.runtime, config, place, tools.threads, &say)?;
    let place = ComputeDevice::of_labels(answering.are_on_gpu(), tools.device.precision);
    if !place.is_cpu() {
        say(&format!("soft labels are computed on {place}"));
    }
    work.computes_on(place.computed_on(&tools.runtime.file_name()));
    work.goes_on_here()?;
    let relabel = Relabel { config, formation: *formation, seed: *seed, key };
    let path = work.path().join(LABELS);
    let mut noted = Instant::now();
    let mut batch_done = |ends_epoch: bool| {
        if ends_epoch && noted.elapsed() >= NOTE_EVERY {
            // If the record fails, only the cost of an interrupted stage is incomplete.
            let _ = work.note_cost();
            noted = Instant::now();
        }
        Ok(tools.stop.check()?)
    };
    relabel.run(&set, &mut answering, &path, &tools.progress, &mut batch_done)?;
    note_figures(work)
}

fn note_figures(work: &WorkDir) -> Result<(), Failure> {
    let store = LabelStore::open(&work.path().join(LABELS))?;
    Ok(write_json(work, LABEL_FIGURES, &store.figures()?)?)
}
