//! Labels a set of images, as a whole or some of its epochs.

use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use crate::Tools;
use crate::provenance::Computation;
use scdd_artifacts::files::{LABEL_FIGURES, LABELS, STORE_UNDER_WAY, label_epoch, write_json};
use scdd_artifacts::labels::LabelStore;
use scdd_artifacts::stage::WorkDir;
use scdd_distill::progress::Progress;
use scdd_distill::relabel::{AnsweringPlaces, LabelPlace, Relabel, Teachers};
use scdd_distill::teacher::Provider;
use scdd_experiment::config::{Device, Precision};
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::relabel::RelabelTask;

use super::{read_named, wait_for_part};

/// The interval between two records of the stage's cost so far. Each takes some milliseconds.
const NOTE_EVERY: Duration = Duration::from_secs(5);

pub fn make(task: &RelabelTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let RelabelTask { images, config, .. } = task;
    // The store gets its name when it is whole.
    if !work.has(LABELS) {
        let set = read_named(images, &task.name)?;
        // A stage that waits keeps no other from starting.
        tools.threads.reached_peak();
        let _alone = alone(task, tools);
        let mut teachers = open(task, work, tools)?;
        let mut noted = Instant::now();
        let mut batch_done = |ends_epoch: bool| {
            if ends_epoch && noted.elapsed() >= NOTE_EVERY {
                // If the record fails, only the cost of an interrupted stage is incomplete.
                let _ = work.note_cost();
                noted = Instant::now();
            }
            Ok(tools.stop.check()?)
        };
        let path = work.path().join(LABELS);
        relabel(task).run(&set, &mut teachers, &path, &tools.progress, &mut batch_done)?;
    }
    work.remove(format!("{LABELS}{STORE_UNDER_WAY}"))?;
    for epoch in 0..config.epochs_to_store() {
        // Another process may still be at it; the next one sees the store.
        let _part = wait_for_part(work, tools, &epoch.to_string(), "epoch")?;
        let apart = label_epoch(epoch);
        work.remove(format!("{apart}{STORE_UNDER_WAY}"))?;
        work.remove(apart)?;
    }
    note_figures(work)
}

/// Labels the epochs that are this process's, each in a file of its own.
pub fn make_parts(
    task: &RelabelTask,
    work: &WorkDir,
    tools: &Tools,
    is_own: &dyn Fn(usize) -> bool,
) -> Result<(), Failure> {
    let is_there = |epoch: &u32| work.has(label_epoch(*epoch)) || work.has(LABELS);
    let own = (0..task.config.epochs_to_store()).filter(|epoch| is_own(*epoch as usize));
    let own: Vec<u32> = own.filter(|epoch| !is_there(epoch)).collect();
    if own.is_empty() {
        return Ok(());
    }
    let set = read_named(&task.images, &task.name)?;
    tools.threads.reached_peak();
    let _alone = alone(task, tools);
    let mut teachers = open(task, work, tools)?;
    let (relabel, path) = (relabel(task), work.path().join(LABELS));
    let mut progress =
        tools.progress.start(&relabel.label(&set, &teachers), own.len() as u64, "epoch");
    for (epoch, done) in own.into_iter().zip(1..) {
        let Some(_part) = wait_for_part(work, tools, &epoch.to_string(), "epoch")? else { break };
        if !is_there(&epoch) {
            let mut batch_done = |_: bool| Ok(tools.stop.check()?);
            relabel.run_epoch(&set, &mut teachers, &path, epoch, &mut batch_done)?;
            work.note_cost()?;
        }
        progress.at(done, "");
    }
    progress.finish("");
    Ok(())
}

fn relabel<'a>(task: &'a RelabelTask) -> Relabel<'a> {
    let RelabelTask { config, formation, seed, key, .. } = task;
    Relabel { config, formation: *formation, seed: *seed, key }
}

/// Waits until no other stage labels on a GPU, if this one may.
fn alone<'a>(task: &RelabelTask, tools: &'a Tools) -> Option<MutexGuard<'a, ()>> {
    let tf32 = tools.device.precision != Precision::Fp32;
    let may_be_on_gpu =
        task.config.provider != Device::Cpu && tools.runtime.has(Provider::Cuda { tf32 }).is_ok();
    may_be_on_gpu.then(|| tools.lock_gpu())
}

/// The teachers, where they answer.
fn open<'a>(
    task: &'a RelabelTask,
    work: &WorkDir,
    tools: &'a Tools,
) -> Result<Teachers<'a>, Failure> {
    let RelabelTask { name, teachers, config, .. } = task;
    let tf32 = tools.device.precision != Precision::Fp32;
    let place = LabelPlace { tensors: tools.device.tensors, tf32 };
    let say = |what: &str| tools.progress.tell(&format!("{name}: {what}"));
    let answering = Teachers::open(teachers, tools.runtime, config, place, tools.threads, &say)?;
    let places = answering.places();
    let computation = Computation::Labels(config.teacher_bn, places);
    let computed_on = computation.record(&tools.device, &tools.runtime.file_name());
    if places != AnsweringPlaces::Cpu {
        say(&format!("soft labels are computed on {computed_on}"));
    }
    work.computes_on(computed_on);
    work.goes_on_here()?;
    Ok(answering)
}

fn note_figures(work: &WorkDir) -> Result<(), Failure> {
    let store = LabelStore::open(&work.path().join(LABELS))?;
    Ok(write_json(work, LABEL_FIGURES, &store.figures()?)?)
}
