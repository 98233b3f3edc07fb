//! Verifies a bundle.

use crate::{Tools, WorkerError};
use scdd_artifacts::files::{VERDICT, write_json};
use scdd_artifacts::stage::WorkDir;
use scdd_distill::progress::Progress;
use scdd_distill::teacher::verify;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::verify::VerifyTask;

pub fn make(task: &VerifyTask, work: &WorkDir, tools: &Tools) -> Result<(), Failure> {
    let (bundle, progress) = (task.bundle, &tools.progress);
    let piece = progress.start(&format!("verify {}", bundle.name()), 1, "bundle");
    let verdict = verify(bundle, tools.runtime, tools.threads, &|what| progress.tell(what))?;
    if !verdict.passed() {
        let bundle = bundle.name().into();
        return Err(WorkerError::Unverified { bundle, divergence: verdict.divergence }.into());
    }
    piece.finish("passed");
    Ok(write_json(work, VERDICT, &verdict)?)
}
