//! Measures a teacher on real test images. Refuses a teacher whose labels would be wrong.

use crate::{Tools, WorkerError};
use scdd_artifacts::files::{MEASURED, write_json};
use scdd_artifacts::stage::WorkDir;
use scdd_distill::progress::Progress;
use scdd_distill::teacher::{Measured, measure, percent};
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::measure::MeasureTask;

pub fn make(task: &MeasureTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let (teacher, test) = (task.teacher, task.test.images()?);
    let images = Measured::images_of(test.len(), test.classes.len());
    let label = format!("measure {} on {}", teacher.name(), test.name);
    let mut piece = tools.progress.start(&label, images as u64, "image");
    let measured =
        measure(teacher, tools.runtime, test, tools.threads, &mut |done| piece.at(done, ""))?;
    measured
        .judge(&teacher.manifest, &test.name, &test.classes)
        .map_err(|what| WorkerError::Mislabels { path: teacher.dir.clone(), what })?;
    piece.finish(&format!("top-1 {}", percent(measured.accuracy())));
    Ok(write_json(work, MEASURED, &measured)?)
}
