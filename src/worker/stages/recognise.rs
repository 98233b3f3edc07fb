//! Shows a finished set to a labelling teacher. Refuses a set in another order of classes.

use crate::{Tools, WorkerError};
use scdd_artifacts::files::{RECOGNISED, write_json};
use scdd_artifacts::stage::WorkDir;
use scdd_distill::progress::Progress;
use scdd_distill::teacher::{percent, recognise};
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::recognise::RecogniseTask;

use super::read_named;

pub fn make(task: &RecogniseTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let RecogniseTask { name, is_mapped, images, teacher, classes } = task;
    let set = read_named(images, name)?;
    let label = format!("recognise {name} with {}", teacher.name());
    let mut piece = tools.progress.start(&label, set.len() as u64, "image");
    let seen =
        recognise(teacher, tools.runtime, &set, tools.threads, &mut |done| piece.at(done, ""))?;
    seen.judge((name, *is_mapped), teacher.name(), classes)
        .map_err(|what| WorkerError::Misordered { what })?;
    piece.finish(&format!("top-1 {}", percent(seen.measured.accuracy())));
    Ok(write_json(work, RECOGNISED, &seen)?)
}
