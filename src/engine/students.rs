//! Students: trained on what is on disk, tested, and left there with their figures.

use tch::Device;

use crate::data::Size;
use crate::progress::Progress;
use crate::relabel::{Views, store};
use crate::run::files::{TRAINING, write_json};
use crate::run::stage::WorkDir;
use crate::run::{Failure, ValidateTask, WholeTask};
use crate::teacher::Bundle;
use crate::validate::{Lesson, Student};

use super::read_named;

/// Trains the student of `task`, tests it, and leaves weights and figures in `work`.
pub fn train(work: &WorkDir, task: &ValidateTask, device: Device, progress: &dyn Progress) -> Result<(), Failure> {
    let images = read_named(&task.images, &task.name)?;
    let labels = task.labels.as_deref().map(store::Store::open).transpose()?;
    labels.as_ref().map(store::Store::check).transpose()?;
    let mut fresh = Student::new(task.student, task.seed, device)?;
    let views = Views::new(&task.views, task.formation, task.seed, &images, input(task.student));
    let lesson = Lesson { images: &images, views, labels: labels.as_ref() };
    let training = fresh.train(&lesson, task.test, &task.config, progress)?;
    work.write("student.safetensors", &fresh.checkpoint()?)?;
    Ok(write_json(work, TRAINING, &training)?)
}

/// Trains a student on the whole training set, tests it, and leaves the figures in `work`.
pub fn train_on_whole(
    work: &WorkDir,
    task: &WholeTask,
    device: Device,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let &WholeTask { student, train, test, ref views, ref config, seed } = task;
    let mut fresh = Student::new(student, seed, device)?;
    let views = Views::new(views, 1, seed, train, input(student));
    let training = fresh.train(&Lesson { images: train, views, labels: None }, test, config, progress)?;
    Ok(write_json(work, TRAINING, &training)?)
}

fn input(student: &Bundle) -> Size {
    let [_, height, width] = student.image_shape();
    Size { height, width }
}
