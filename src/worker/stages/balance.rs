//! Measures the value of `r_bn: auto`.

use crate::Tools;
use scdd_artifacts::files::{AUTO, write_json};
use scdd_artifacts::stage::WorkDir;
use scdd_distill::recover::balance;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::balance::BalanceTask;

pub fn make(task: &BalanceTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    Ok(write_json(work, AUTO, &balance::auto(task.teacher, &task.config, tools.device.tensors)?)?)
}
