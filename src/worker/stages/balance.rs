//! Measures what `r_bn: auto` is.

use crate::recover::balance;
use crate::run::Failure;
use crate::run::files::{AUTO, write_json};
use crate::run::stage::WorkDir;
use crate::run::stages::balance::Task;
use crate::worker::Worker;

pub fn make(task: &Task, work: &WorkDir, worker: &Worker) -> Result<(), Failure> {
    Ok(write_json(work, AUTO, &balance::auto(task.teacher, &task.config, worker.device)?)?)
}
