//! Verifies a bundle.

use crate::progress::Progress;
use crate::run::Failure;
use crate::run::files::{VERDICT, write_json};
use crate::run::stage::WorkDir;
use crate::run::stages::verify::Task;
use crate::teacher::verify;
use crate::worker::{Worker, WorkerError};

pub fn make(task: &Task, work: &WorkDir, worker: &Worker) -> Result<(), Failure> {
    let (bundle, progress) = (task.bundle, &worker.progress);
    let piece = progress.start(&format!("verify {}", bundle.name()), 1, "bundle");
    let verdict = verify(bundle, worker.runtime, &|what| progress.tell(what))?;
    if !verdict.passed() {
        let bundle = bundle.name().into();
        return Err(WorkerError::Unverified { bundle, divergence: verdict.divergence }.into());
    }
    piece.finish("passed");
    Ok(write_json(work, VERDICT, &verdict)?)
}
