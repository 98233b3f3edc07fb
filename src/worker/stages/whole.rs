//! Trains a student on the whole real training set, tests it, and leaves its figures.

use crate::relabel::Views;
use crate::run::Failure;
use crate::run::files::{TRAINING, write_json};
use crate::run::stage::WorkDir;
use crate::run::stages::whole::Task;
use crate::validate::{Lesson, Student};
use crate::worker::Worker;

use super::{TrainingFile, input_size};

pub fn make(task: &Task, work: &WorkDir, worker: &Worker) -> Result<(), Failure> {
    let &Task { student, train, test, ref views, ref config, seed } = task;
    let mut fresh = Student::new(student, seed, worker.device)?;
    let views = Views::new(views, 1, seed, train, input_size(student));
    let (lesson, mut keeper) = (Lesson { images: train, views, labels: None }, TrainingFile::new(work));
    let training = fresh.train(&lesson, test, config, &mut keeper, &worker.progress)?;
    keeper.remove()?;
    Ok(write_json(work, TRAINING, &training)?)
}
