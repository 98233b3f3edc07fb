//! Counts the images that a verifier puts into their classes.

use crate::data::png;
use crate::recover;
use crate::run::Failure;
use crate::run::files::{ACCURACY, write_json};
use crate::run::stage::WorkDir;
use crate::run::stages::verifier::Task;
use crate::worker::Worker;

pub fn make(task: &Task, work: &WorkDir, worker: &Worker) -> Result<(), Failure> {
    let set = png::read_set(&task.images)?;
    Ok(write_json(work, ACCURACY, &recover::accuracy(task.verifier, worker.runtime, &set)?)?)
}
