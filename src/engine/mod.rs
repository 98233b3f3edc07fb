//! Makes the stages of an experiment: teachers answer through ONNX Runtime, everything else is computed by libtorch and our own kernels.
//!
//! What the stages are, and when one is made, [`crate::run`] says.

mod recovery;
mod students;

use std::path::{Path, PathBuf};

use crate::config::{self, RecoverConfig};
use crate::data::{Dataset, png};
use crate::progress::Progress;
use crate::recover::{self, balance};
use crate::relabel::{Relabel, Teachers};
use crate::run::files::{ACCURACY, AUTO, LABELS, VERDICT, write_json};
use crate::run::stage::{Store, WorkDir};
use crate::run::{Failure, Maker, RecoverTask, RelabelTask, ValidateTask, WholeTask};
use crate::teacher::{Bundle, Runtime, verify};

/// Why the engine refuses.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("bundle `{bundle}` failed its verification{}; `scdd verify` shows every check", .divergence.as_ref().map_or(String::new(), |d| format!(": {d}")))]
    Unverified { bundle: String, divergence: Option<String> },
    #[error("{} has changed while the run was on; run again", .bundle.display())]
    Changed { bundle: PathBuf },
    #[error("can't start threads for students: {why}")]
    Threads { why: String },
    #[error("CUDA was asked for (`device: cuda`), but libtorch finds no CUDA device; use `device: cpu` or `auto`")]
    NoCuda,
}

/// What stages are made with.
pub struct Engine<'a> {
    /// Answers for the teachers.
    runtime: &'a Runtime,
    progress: &'a dyn Progress,
    device: tch::Device,
}

impl<'a> Engine<'a> {
    /// An engine on `device`.
    ///
    /// # Errors
    /// When that is CUDA and there is none.
    pub fn new(runtime: &'a Runtime, progress: &'a dyn Progress, device: config::Device) -> Result<Self, EngineError> {
        Ok(Self { runtime, progress, device: find(device)? })
    }
}

impl Maker for Engine<'_> {
    fn verify(&self, work: &WorkDir, bundle: &Bundle) -> Result<(), Failure> {
        self.progress.start(&format!("verify {}", bundle.name()), 1, "bundle");
        let verdict = verify(bundle, self.runtime)?;
        if !verdict.passed() {
            let bundle = bundle.name().into();
            return Err(EngineError::Unverified { bundle, divergence: verdict.divergence }.into());
        }
        self.progress.finish("passed");
        Ok(write_json(work, VERDICT, &verdict)?)
    }

    fn balance(&self, work: &WorkDir, teacher: &Bundle, config: &RecoverConfig) -> Result<(), Failure> {
        Ok(write_json(work, AUTO, &balance::auto(teacher, config, self.device)?)?)
    }

    fn recover(&self, work: &WorkDir, task: &RecoverTask) -> Result<Option<String>, Failure> {
        recovery::recover(work, task, self.device, self.progress)?;
        let without_effect = task.config.bf16 && self.device == tch::Device::Cpu;
        Ok(without_effect
            .then(|| "`recover.bf16` has no effect on the CPU, whose kernels compute in float32".to_owned()))
    }

    fn accuracy(&self, work: &WorkDir, images: &Path, verifier: &Bundle, classes: &[u32]) -> Result<(), Failure> {
        let set = png::read_set(images)?;
        Ok(write_json(work, ACCURACY, &recover::accuracy(verifier, self.runtime, &set, classes)?)?)
    }

    fn relabel(&self, work: &WorkDir, task: &RelabelTask) -> Result<Option<String>, Failure> {
        let &RelabelTask { images, formation, teachers, config, seed, key } = task;
        let set = png::read_set(images)?;
        let (mut answering, remark) = Teachers::open(teachers, self.runtime, config, self.device)?;
        let relabel = Relabel { bundles: teachers, config, formation, seed, key };
        relabel.run(&set, &mut answering, &work.path().join(LABELS), self.progress)?;
        Ok(remark)
    }

    fn validate(&self, work: &WorkDir, task: &ValidateTask, student: &Bundle, test: &Dataset) -> Result<(), Failure> {
        students::train(work, task, student, test, self.device, self.progress)
    }

    fn validate_all(&self, store: &Store, tasks: Vec<ValidateTask>, test: &Dataset) -> Result<(), Failure> {
        match self.device {
            tch::Device::Cpu => students::train_all(store, tasks, test, self.progress),
            _ => Ok(()),
        }
    }

    fn whole(&self, work: &WorkDir, task: &WholeTask) -> Result<(), Failure> {
        students::train_on_whole(work, task, self.device, self.progress)
    }
}

fn find(device: config::Device) -> Result<tch::Device, EngineError> {
    let found = tch::Cuda::is_available();
    match device {
        config::Device::Cuda if !found => Err(EngineError::NoCuda),
        config::Device::Cuda => Ok(tch::Device::Cuda(0)),
        config::Device::Auto if found => Ok(tch::Device::Cuda(0)),
        config::Device::Auto | config::Device::Cpu => Ok(tch::Device::Cpu),
    }
}
