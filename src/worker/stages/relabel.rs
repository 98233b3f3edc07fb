//! Labels a set of images.

use crate::Worker;
use scdd_artifacts::files::LABELS;
use scdd_artifacts::stage::WorkDir;
use scdd_distill::relabel::{Relabel, Teachers};
use scdd_distill::teacher::Provider;
use scdd_experiment::config::Device;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::relabel::Task;

use super::read_named;

pub fn make(task: &Task, work: &WorkDir, worker: &Worker) -> Result<Option<String>, Failure> {
    let Task { name, images, formation, teachers, config, seed, key } = task;
    let set = read_named(images, name)?;
    let may_be_on_gpu = config.provider != Device::Cpu && worker.runtime.has(Provider::Cuda).is_ok();
    let _alone = may_be_on_gpu.then(|| worker.lock_gpu());
    let (mut answering, remark) = Teachers::open(teachers, worker.runtime, config, worker.device)?;
    let relabel = Relabel { bundles: teachers, config, formation: *formation, seed: *seed, key };
    relabel.run(&set, &mut answering, &work.path().join(LABELS), &worker.progress)?;
    Ok(remark)
}
