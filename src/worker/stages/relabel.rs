//! Labels a set of images.

use crate::config::Device;
use crate::relabel::{Relabel, Teachers};
use crate::run::Failure;
use crate::run::files::LABELS;
use crate::run::stage::WorkDir;
use crate::run::stages::relabel::Task;
use crate::teacher::Provider;
use crate::worker::Worker;

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
