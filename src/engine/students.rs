//! Students: trained on what is on disk, tested, and left there with their figures.

use tch::Device;

use crate::progress::Progress;
use crate::relabel::{Relabel, store};
use crate::run::files::{TRAINING, write_json};
use crate::run::stage::WorkDir;
use crate::run::{Failure, ValidateTask, WholeTask};
use crate::validate::{Lesson, Student};

use super::read_named;

/// Trains the student of `task`, tests it, and leaves weights and figures in `work`.
pub fn train(work: &WorkDir, task: &ValidateTask, device: Device, progress: &dyn Progress) -> Result<(), Failure> {
    let images = read_named(&task.images, &task.name)?;
    let labels = store::Store::open(&task.labels)?;
    labels.check()?;
    let mut fresh = Student::new(task.student, task.seed, device)?;
    let lesson = Lesson { images: &images, labels: &labels };
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
    let &WholeTask { student, train, test, ref views, ref config, seed, ref key } = task;
    let path = work.scratch("views");
    Relabel { bundles: &[(student, 1.0)], config: views, formation: 1, seed, key }.views(train, &path)?;
    let labels = store::Store::open(&path)?;
    let mut fresh = Student::new(student, seed, device)?;
    let training = fresh.train(&Lesson { images: train, labels: &labels }, test, config, progress)?;
    drop(labels);
    work.discard(&path)?;
    Ok(write_json(work, TRAINING, &training)?)
}
