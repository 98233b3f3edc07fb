//! Trains a student on the whole real training set, tests it, and writes its figures.

use crate::Tools;
use scdd_artifacts::files::{TRAINING, TRAINING_STATE, write_json};
use scdd_artifacts::stage::WorkDir;
use scdd_distill::validate::{TrainingData, TrainingLabels};
use scdd_distill::views::Views;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::whole::WholeTask;

use super::{StateFile, fresh_student, input_size};

pub fn make(task: &WholeTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let mut keeper = StateFile::new(work, tools.stop, TRAINING_STATE);
    if work.has(TRAINING) {
        return keeper.remove();
    }
    work.goes_on_here()?;
    let &WholeTask { student, train, test, ref views, ref config, seed } = task;
    let (train, test) = (train.images()?, test.images()?);
    let mut fresh = fresh_student(student, seed, tools)?;
    let views = Views::new(views, 1, seed, train, input_size(student));
    let data = TrainingData { images: train, views, labels: TrainingLabels::Classes };
    let training = fresh.train(&data, test, config, &mut keeper, &tools.progress)?;
    write_json(work, TRAINING, &training)?;
    keeper.remove()
}
