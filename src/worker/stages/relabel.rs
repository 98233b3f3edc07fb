//! Labels a set of images.

use crate::Tools;
use scdd_artifacts::files::LABELS;
use scdd_artifacts::stage::WorkDir;
use scdd_distill::relabel::{Relabel, Teachers};
use scdd_distill::teacher::Provider;
use scdd_experiment::config::Device;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::relabel::RelabelTask;

use super::read_named;

pub fn make(task: &RelabelTask, work: &WorkDir, tools: &Tools) -> Result<Option<String>, Failure> {
    let RelabelTask { name, images, formation, teachers, config, seed, key } = task;
    let set = read_named(images, name)?;
    let may_be_on_gpu = config.provider != Device::Cpu && tools.runtime.has(Provider::Cuda).is_ok();
    let _alone = may_be_on_gpu.then(|| tools.lock_gpu());
    let (mut answering, remark) =
        Teachers::open(teachers, tools.runtime, config, tools.device, tools.threads)?;
    let threads = tools.threads.clone();
    let relabel =
        Relabel { bundles: teachers, config, formation: *formation, seed: *seed, key, threads };
    relabel.run(&set, &mut answering, &work.path().join(LABELS), &tools.progress)?;
    Ok(remark)
}
