//! Counts the images that a verifier classifies correctly.

use crate::Tools;
use scdd_artifacts::files::{ACCURACY, write_json};
use scdd_artifacts::stage::WorkDir;
use scdd_data::png;
use scdd_distill::recover;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::verifier::VerifierTask;

pub fn make(task: &VerifierTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let set = png::read_set(&task.images)?;
    Ok(write_json(
        work,
        ACCURACY,
        &recover::accuracy(task.verifier, tools.runtime, &set, tools.threads)?,
    )?)
}
