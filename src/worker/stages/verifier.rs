//! Counts the images that a verifier classifies correctly, finished and on the way.

use std::path::Path;

use crate::Tools;
use scdd_artifacts::files::{ACCURACY, write_json};
use scdd_artifacts::records::{Accuracy, SnapshotAccuracy, VerifierAccuracy};
use scdd_artifacts::stage::WorkDir;
use scdd_data::png;
use scdd_distill::recover;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::verifier::VerifierTask;

pub fn make(task: &VerifierTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let measured = |folder: &Path| -> Result<Accuracy, Failure> {
        let set = png::read_set(folder)?;
        Ok(recover::accuracy(task.verifier, tools.runtime, &set, task.formation, tools.threads)?)
    };
    let snapshots = task
        .snapshots
        .iter()
        .map(|(step, folder)| Ok(SnapshotAccuracy { step: *step, accuracy: measured(folder)? }));
    let snapshots = snapshots.collect::<Result<Vec<_>, Failure>>()?;
    let found = VerifierAccuracy { finished: measured(&task.images)?, snapshots };
    Ok(write_json(work, ACCURACY, &found)?)
}
