//! Trains a student on a set of images, tests it, and leaves its weights and figures.

use crate::relabel::{Views, store};
use crate::run::Failure;
use crate::run::files::{TRAINING, write_json};
use crate::run::stage::WorkDir;
use crate::run::stages::validate::Task;
use crate::validate::{Lesson, Student};
use crate::worker::Worker;

use super::{TrainingFile, input_size, read_named};

pub fn make(task: &Task, work: &WorkDir, worker: &Worker) -> Result<(), Failure> {
    let images = read_named(&task.images, &task.name)?;
    let labels = task.labels.as_deref().map(store::Store::open).transpose()?;
    labels.as_ref().map(store::Store::check).transpose()?;
    let mut fresh = Student::new(task.student, task.seed, worker.device)?;
    let views = Views::new(&task.views, task.formation, task.seed, &images, input_size(task.student));
    let lesson = Lesson { images: &images, views, labels: labels.as_ref() };
    let mut keeper = TrainingFile::new(work);
    let training = fresh.train(&lesson, task.test, &task.config, &mut keeper, &worker.progress)?;
    keeper.remove()?;
    work.write("student.safetensors", &fresh.checkpoint()?)?;
    Ok(write_json(work, TRAINING, &training)?)
}
