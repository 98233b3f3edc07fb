//! Trains a student on a set of images, tests it, and writes its weights and figures.

use crate::Tools;
use scdd_artifacts::files::{STUDENT, TRAINING, TRAINING_STATE, write_json};
use scdd_artifacts::labels;
use scdd_artifacts::stage::WorkDir;
use scdd_distill::validate::TrainingData;
use scdd_distill::views::Views;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::validate::ValidateTask;

use super::{StateFile, fresh_student, input_size, read_named};

pub fn make(task: &ValidateTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let mut keeper = StateFile::new(work, tools.stop, TRAINING_STATE);
    if work.has(TRAINING) {
        return keeper.remove();
    }
    work.goes_on_here()?;
    let images = read_named(&task.images, &task.name)?;
    let labels = task.labels.as_deref().map(labels::LabelStore::open).transpose()?;
    labels.as_ref().map(labels::LabelStore::check).transpose()?;
    let mut fresh = fresh_student(task.student, task.seed, tools)?;
    let views =
        Views::new(&task.views, task.formation, task.seed, &images, input_size(task.student));
    let data = TrainingData { images: &images, views, labels: labels.as_ref() };
    let training =
        fresh.train(&data, task.test.images()?, &task.config, &mut keeper, &tools.progress)?;
    work.write(STUDENT, &fresh.checkpoint()?)?;
    // Written last: it marks a complete training.
    write_json(work, TRAINING, &training)?;
    keeper.remove()
}
