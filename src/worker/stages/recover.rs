//! Recovers images batch by batch. Batches that an interrupted attempt finished are kept.

use serde_json::json;
use tch::Device;

use crate::Tools;
use scdd_artifacts::files::{self, read_json, write_images};
use scdd_artifacts::records::Auto;
use scdd_artifacts::stage::WorkDir;
use scdd_compute::synthesis::PlanOptions;
use scdd_distill::progress::{Activity, Progress};
use scdd_distill::recover::{Batch, Item, Recover};
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::recover::RecoverTask;

use super::StateFile;

/// Gives a remark for the user.
pub fn make(task: &RecoverTask, work: &WorkDir, tools: &Tools) -> Result<Option<String>, Failure> {
    let config = &task.config;
    let balances = task.balances.iter().map(|file| Ok(read_json::<Auto>(file)?.r_bn));
    let balances = balances.collect::<Result<Vec<f64>, Failure>>()?;
    let options = PlanOptions {
        device: tools.device,
        threads: tools.threads.clone(),
        ..PlanOptions::default()
    };
    let mut recover =
        Recover::with_committee(task.teacher, &task.others, config, &balances, options)?;
    if let Some(train) = task.train {
        recover = recover.with_data(train);
    }
    let batches = recover.batches(&task.chosen, task.ipc, task.seed);
    let label =
        format!("recover {}, {} per class, seed {}", task.teacher.name(), task.ipc, task.seed);
    let mut piece =
        tools.progress.start(&label, batches.iter().map(|batch| recover.steps(batch)).sum(), "it");
    let mut done = 0;
    for (number, batch) in batches.iter().enumerate() {
        tools.stop.check()?;
        recover_batch((work, tools), task, &recover, (number, batch), done, piece.as_mut())?;
        done += recover.steps(batch);
    }
    piece.finish("");
    let without_effect = config.bf16 && tools.device == Device::Cpu;
    Ok(without_effect.then(|| {
        "`recover.bf16` has no effect on the CPU, whose kernels compute in float32".to_owned()
    }))
}

/// Recovers the batch with this `number`, unless an interrupted run has. `done` is the number of
/// steps of the batches before it.
fn recover_batch(
    (work, tools): (&WorkDir, &Tools),
    task: &RecoverTask,
    recover: &Recover,
    (number, batch): (usize, &Batch),
    done: u64,
    progress: &mut dyn Activity,
) -> Result<(), Failure> {
    let curve_file = files::curve(number);
    let has_image = |item: &Item| work.has(files::image(*item, task.classes));
    let mut keeper = StateFile::new(work, tools.stop, files::batch_state(number));
    if work.has(&curve_file) && batch.items.iter().all(has_image) {
        return keeper.remove();
    }
    let mut curve = String::new();
    let images = recover.run(batch, task.seed, &mut keeper, &mut |point| {
        let step = u64::from(point.iteration - batch.first) + 1;
        progress.at(done + step, &format!("loss {:.2}", point.loss));
        curve.push_str(&json!(point).to_string());
        curve.push('\n');
    })?;
    let (_, channels, height, width) = images.dim();
    let pixels = recover.to_pixels(&images)?;
    write_images(work, task.classes, &batch.items, &pixels, [channels, height, width])?;
    // The curve is written last, so it marks a complete batch (unless an image was deleted since).
    work.write_last_of_part(&curve_file, curve.as_bytes())?;
    keeper.remove()
}
