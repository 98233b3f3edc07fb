//! Measures a teacher on real test images; one whose labels would be wrong is refused.

use crate::progress::Progress;
use crate::run::Failure;
use crate::run::files::{MEASURED, write_json};
use crate::run::stage::WorkDir;
use crate::run::stages::measure::Task;
use crate::teacher::{Measured, measure, percent};
use crate::worker::{Worker, WorkerError};

pub fn make(task: &Task, work: &WorkDir, worker: &Worker) -> Result<(), Failure> {
    let Task { teacher, test } = task;
    let images = Measured::images_of(test.len(), test.classes.len());
    let label = format!("measure {} on {}", teacher.name(), test.name);
    let mut piece = worker.progress.start(&label, images as u64, "image");
    let measured = measure(teacher, worker.runtime, test, &mut |done| piece.at(done, ""))?;
    measured
        .judge(&teacher.manifest, &test.name, &test.classes)
        .map_err(|what| WorkerError::Mislabels { path: teacher.dir.clone(), what })?;
    piece.finish(&format!("top-1 {}", percent(measured.accuracy())));
    Ok(write_json(work, MEASURED, &measured)?)
}
