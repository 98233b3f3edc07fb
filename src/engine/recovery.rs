//! A set of recovered images, batch by batch: what an interrupted run had finished stays.

use serde_json::json;
use tch::Device;

use crate::progress::{Piece, Progress};
use crate::recover::{Batch, Item, Recover};
use crate::replica::PlanOptions;
use crate::run::files::{self, read_json, write_images, write_json};
use crate::run::stage::WorkDir;
use crate::run::{Failure, RecoverTask};

/// How the batches' convolutions are computed, so that a resumed run goes on in the same way.
const ENGINES: &str = "engines.json";

/// Recovers the images of `task`.
pub fn recover(work: &WorkDir, task: &RecoverTask, device: Device, progress: &dyn Progress) -> Result<(), Failure> {
    let options = PlanOptions { device, ..PlanOptions::default() };
    let mut recover = Recover::with_committee(task.teacher, &task.others, &task.config, options)?;
    if let Some(data) = task.data {
        recover = recover.with_data(data);
    }
    if work.has(ENGINES) {
        recover.follow(read_json(&work.path().join(ENGINES))?);
    }
    let batches = recover.batches(&task.chosen, task.ipc, task.seed);
    let label = format!("recover {}, {} per class, seed {}", task.teacher.name(), task.ipc, task.seed);
    let mut piece = progress.start(&label, batches.iter().map(|batch| recover.steps(batch)).sum(), "it");
    let mut done = 0;
    for (number, batch) in batches.iter().enumerate() {
        recover_batch(work, task, &recover, (number, batch), done, piece.as_mut())?;
        done += recover.steps(batch);
    }
    piece.finish("");
    Ok(())
}

/// Recovers the `batch` of this `number`, before which `done` steps are done, unless an interrupted run had.
fn recover_batch(
    work: &WorkDir,
    task: &RecoverTask,
    recover: &Recover,
    (number, batch): (usize, &Batch),
    done: u64,
    progress: &mut dyn Piece,
) -> Result<(), Failure> {
    let curve_file = files::curve(number);
    let has_image = |item: &Item| work.has(files::image(*item, task.classes));
    if work.has(&curve_file) && batch.items.iter().all(has_image) {
        return Ok(());
    }
    let mut curve = String::new();
    let images = recover.run(batch, task.seed, &mut |point| {
        let step = u64::from(point.iteration - batch.first) + 1;
        progress.at(done + step, &format!("loss {:.2}", point.loss));
        curve.push_str(&json!(point).to_string());
        curve.push('\n');
    })?;
    if let Some(choices) = recover.measured() {
        write_json(work, ENGINES, &choices)?;
    }
    let (_, channels, height, width) = images.dim();
    let pixels = recover.to_pixels(&images)?;
    write_images(work, task.classes, &batch.items, &pixels, [channels, height, width])?;
    // A batch whose curve is there is complete, unless an image was lost since.
    work.write_last_of_part(&curve_file, curve.as_bytes())?;
    Ok(())
}
