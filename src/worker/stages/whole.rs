//! Trains a student on the whole real training set, tests it, and writes its figures.

use crate::Tools;
use scdd_artifacts::files::{TRAINING, write_json};
use scdd_artifacts::stage::WorkDir;
use scdd_distill::validate::{Student, TrainingData};
use scdd_distill::views::Views;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::whole::WholeTask;

use super::{StateFile, TRAINING_STATE, input_size};

pub fn make(task: &WholeTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let &WholeTask { student, train, test, ref views, ref config, seed } = task;
    let mut fresh = Student::new(student, seed, tools.device, tools.threads.clone())?;
    let views = Views::new(views, 1, seed, train, input_size(student));
    let (data, mut keeper) =
        (TrainingData { images: train, views, labels: None }, StateFile::new(work, TRAINING_STATE));
    let training = fresh.train(&data, test, config, &mut keeper, &tools.progress)?;
    keeper.remove()?;
    Ok(write_json(work, TRAINING, &training)?)
}
