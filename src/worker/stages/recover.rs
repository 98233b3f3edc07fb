//! Recovers images batch by batch. Batches that an interrupted attempt or another process finished
//! are kept.

use std::path::Path;
use std::sync::PoisonError;

use serde_json::json;

use crate::{Tools, WorkerError};
use scdd_artifacts::files::{self, FOLDER, read_json, write_images};
use scdd_artifacts::records::{Auto, Point};
use scdd_artifacts::stage::WorkDir;
use scdd_compute::synthesis::PlanOptions;
use scdd_distill::progress::{Activity, Progress};
use scdd_distill::recover::{Batch, Item, Observer, Recover, RecoverError};
use scdd_distill::teacher::{Bundle, verify_plan};
use scdd_experiment::config::Precision;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::recover::RecoverTask;

use super::{StateFile, wait_for_part};

/// Gives a remark for the user.
pub fn make(task: &RecoverTask, work: &WorkDir, tools: &Tools) -> Result<Option<String>, Failure> {
    let recovery = BatchRecovery { task, work, tools, recover: open(task, work, tools)? };
    recovery.run(&recovery.label(), &|_| true, Others::WaitFor)?;
    let without_effect = tools.device.precision == Precision::Bf16 && tools.device.is_cpu();
    Ok(without_effect.then(|| {
        "`precision: bf16` has no effect on the CPU, whose kernels compute in float32".to_owned()
    }))
}

/// Recovers the batches that are this process's.
pub fn make_parts(
    task: &RecoverTask,
    work: &WorkDir,
    tools: &Tools,
    is_own: &dyn Fn(usize) -> bool,
) -> Result<(), Failure> {
    let recovery = BatchRecovery { task, work, tools, recover: open(task, work, tools)? };
    recovery.run(&recovery.label(), is_own, Others::WaitFor)
}

/// Recovers batches beside the process `whom`, which makes the stage.
pub fn help(task: &RecoverTask, work: &WorkDir, tools: &Tools, whom: &str) -> Result<(), Failure> {
    let recovery = BatchRecovery { task, work, tools, recover: open(task, work, tools)? };
    recovery.run(&format!("{}, beside {whom}", recovery.label()), &|_| true, Others::Leave)
}

fn open<'a>(task: &'a RecoverTask, work: &WorkDir, tools: &Tools) -> Result<Recover<'a>, Failure> {
    work.goes_on_here()?;
    let config = &task.config;
    let balances = task.balances.iter().map(|file| Ok(read_json::<Auto>(file)?.r_bn));
    let balances = balances.collect::<Result<Vec<f64>, Failure>>()?;
    let options = tools.device.plan_options(tools.threads);
    if !tools.device.is_cpu() {
        for teacher in [task.teacher].into_iter().chain(task.others.iter().copied()) {
            prove(teacher, &options, tools)?;
        }
    }
    let recover = Recover::with_committee(task.teacher, &task.others, config, &balances, options)?;
    Ok(match task.train {
        Some(train) => recover.with_data(train.images()?),
        None => recover,
    })
}

/// Checks once that the plan of `teacher` with these `options` computes as its golden probe says.
/// The stage that verifies bundles does that on the CPU.
fn prove(teacher: &Bundle, options: &PlanOptions, tools: &Tools) -> Result<(), Failure> {
    let mut proven = tools.proven.lock().unwrap_or_else(PoisonError::into_inner);
    if proven.contains(&teacher.hash) {
        return Ok(());
    }
    let checks = verify_plan(teacher, options.clone(), tools.device.precision)?;
    if let Some(failed) = checks.iter().find(|check| !check.passed) {
        let what = format!("{} {:.1e}, limit {:.0e}", failed.name, failed.error, failed.limit);
        let (bundle, device) = (teacher.name().into(), tools.device.to_string());
        return Err(WorkerError::Inexact { bundle, device, what }.into());
    }
    proven.insert(teacher.hash.clone());
    Ok(())
}

/// What to do about batches that other processes are at.
#[derive(Clone, Copy, PartialEq)]
enum Others {
    WaitFor,
    Leave,
}

struct BatchRecovery<'a> {
    task: &'a RecoverTask<'a>,
    work: &'a WorkDir,
    tools: &'a Tools<'a>,
    recover: Recover<'a>,
}

impl BatchRecovery<'_> {
    fn label(&self) -> String {
        let RecoverTask { teacher, ipc, seed, .. } = self.task;
        format!("recover {}, {ipc} per class, seed {seed}", teacher.name())
    }

    /// Recovers all batches of this process that no other is at. [`Others::WaitFor`] then waits for
    /// the rest, and recovers those whose process died.
    fn run(
        &self,
        label: &str,
        is_own: &dyn Fn(usize) -> bool,
        others: Others,
    ) -> Result<(), Failure> {
        let batches = self.recover.batches(&self.task.chosen, self.task.ipc, self.task.seed);
        let own: Vec<_> = batches.iter().enumerate().filter(|batch| is_own(batch.0)).collect();
        let steps = own.iter().map(|(_, batch)| self.recover.steps(batch));
        let mut progress = self.tools.progress.start(label, steps.sum(), "it");
        let (mut done, mut left) = (0, Vec::new());
        for batch in own {
            self.tools.stop.check()?;
            match self.work.take(&batch.0.to_string())? {
                Some(_part) => self.recover_batch(batch, done, progress.as_mut())?,
                None => left.push((batch, done)),
            }
            done += self.recover.steps(batch.1);
        }
        if others == Others::WaitFor {
            // A stage that waits keeps no other from starting.
            self.tools.threads.reached_peak();
            for (batch, done) in left {
                let part = batch.0.to_string();
                if let Some(_part) = wait_for_part(self.work, self.tools, &part, "batch")? {
                    self.recover_batch(batch, done, progress.as_mut())?;
                }
            }
        }
        progress.finish("");
        Ok(())
    }

    /// Recovers the batch with this `number`, unless it is there already. `done` is the number of
    /// steps of the batches before it.
    fn recover_batch(
        &self,
        (number, batch): (usize, &Batch),
        done: u64,
        progress: &mut dyn Activity,
    ) -> Result<(), Failure> {
        let &Self { task, work, tools, ref recover } = self;
        let curve_file = files::curve(number);
        let has_image =
            |item: &Item| work.has(files::image(Path::new(FOLDER), *item, task.classes));
        let mut keeper = StateFile::new(work, tools.stop, files::batch_state(number));
        if work.has(&curve_file) && batch.items.iter().all(has_image) {
            return keeper.remove();
        }
        if !work.is_under_way() {
            return Ok(());
        }
        let mut observer = BatchObserver {
            recovery: self,
            batch,
            done,
            progress,
            curve: String::new(),
            balance: String::new(),
        };
        let images = recover.run(batch, task.seed, &mut keeper, &mut observer)?;
        let curve = observer.curve;
        let (_, channels, height, width) = images.dim();
        let (pixels, shape) = (recover.to_pixels(&images)?, [channels, height, width]);
        let folder = Path::new(FOLDER);
        let write = || write_images(work, folder, task.classes, &batch.items, &pixels, shape);
        tools.threads.run(write)?;
        // The curve is written last, so it marks a complete batch (unless an image was deleted
        // since).
        work.write_last_of_part(&curve_file, curve.as_bytes())?;
        keeper.remove()
    }
}

/// Shows and records how a batch fares.
struct BatchObserver<'a, 'b> {
    recovery: &'a BatchRecovery<'b>,
    batch: &'a Batch,
    /// The number of steps of the batches before it.
    done: u64,
    progress: &'a mut dyn Activity,
    /// The lines of the curve.
    curve: String,
    /// The latest balance of the gradients.
    balance: String,
}

impl Observer for BatchObserver<'_, '_> {
    fn step(&mut self, point: Point) {
        let step = u64::from(point.iteration - self.batch.first) + 1;
        if let Some(gradients) = point.gradients {
            self.balance = format!(", gradients {gradients}");
        }
        let Point { loss, ce, bn, .. } = point;
        let about = format!("loss {loss:.2}, ce {ce:.2}, bn {bn:.2}{}", self.balance);
        self.progress.at(self.done + step, &about);
        self.curve.push_str(&json!(point).to_string());
        self.curve.push('\n');
    }

    fn snapshot(
        &mut self,
        step: u32,
        pixels: &[u8],
        shape: [usize; 3],
    ) -> Result<(), RecoverError> {
        let BatchRecovery { task, work, .. } = self.recovery;
        let (folder, items) = (files::snapshot(step), &self.batch.items);
        let written = write_images(work, &folder, task.classes, items, pixels, shape);
        written.map_err(|what| RecoverError::Snapshot(what.into()))
    }
}
