//! Makes the stages of an experiment: teachers answer through ONNX Runtime, everything else is computed by libtorch and our own kernels.
//!
//! What the stages are, and when one is made, [`crate::run`] says.

mod lanes;
mod recovery;
mod students;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::config::{self, RecoverConfig};
use crate::data::{DataError, Dataset, png};
use crate::progress::Progress;
use crate::recover::{self, balance};
use crate::relabel::{Relabel, Teachers};
use crate::run::files::{ACCURACY, AUTO, LABELS, MEASURED, VERDICT, write_json};
use crate::run::stage::WorkDir;
use crate::run::{Failure, Maker, RecoverTask, RelabelTask, RunError, Task, ValidateTask, WholeTask, WorkedOff};
use crate::teacher::{Bundle, Measured, Provider, Runtime, measure, percent, verify};

use lanes::Noting;

/// Why the engine refuses.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("bundle `{bundle}` failed its verification{}; `scdd verify` shows every check", .divergence.as_ref().map_or(String::new(), |d| format!(": {d}")))]
    Unverified { bundle: String, divergence: Option<String> },
    #[error(
        "CUDA was asked for (`device: cuda`), but libtorch finds no CUDA device: {reason}; use `device: cpu` or `auto`"
    )]
    NoCuda { reason: String },
    #[error("{}: {what}", path.display())]
    Mislabels { path: PathBuf, what: String },
}

/// What stages are made with.
pub struct Engine<'a> {
    /// Answers for the teachers.
    runtime: &'a Runtime,
    progress: Noting<'a>,
    device: tch::Device,
    /// Stages that may be under way at once.
    lanes: NonZeroUsize,
    /// Held while ONNX Runtime labels on a GPU, whose memory nobody looks at.
    gpu: Mutex<()>,
}

impl<'a> Engine<'a> {
    /// An engine on `device`. At most `jobs` stages are made at once on the CPU, by default as many as it has cores; one on CUDA.
    ///
    /// # Errors
    /// When `device` is CUDA and there is none.
    pub fn new(
        runtime: &'a Runtime,
        progress: &'a dyn Progress,
        device: config::Device,
        jobs: Option<NonZeroUsize>,
    ) -> Result<Self, EngineError> {
        let device = find(device)?;
        let cores = NonZeroUsize::new(rayon::current_num_threads()).unwrap_or(NonZeroUsize::MIN);
        let lanes = if device == tch::Device::Cpu { jobs.unwrap_or(cores) } else { NonZeroUsize::MIN };
        Ok(Self { runtime, progress: Noting(progress), device, lanes, gpu: Mutex::default() })
    }

    /// Where tensors live.
    pub fn device(&self) -> tch::Device {
        self.device
    }
}

impl Maker for Engine<'_> {
    fn verify(&self, work: &WorkDir, bundle: &Bundle) -> Result<(), Failure> {
        let piece = self.progress.start(&format!("verify {}", bundle.name()), 1, "bundle");
        let verdict = verify(bundle, self.runtime, &|what| self.progress.tell(what))?;
        if !verdict.passed() {
            let bundle = bundle.name().into();
            return Err(EngineError::Unverified { bundle, divergence: verdict.divergence }.into());
        }
        piece.finish("passed");
        Ok(write_json(work, VERDICT, &verdict)?)
    }

    fn measure(&self, work: &WorkDir, teacher: &Bundle, test: &Dataset) -> Result<(), Failure> {
        let images = Measured::images_of(test.len(), test.classes.len());
        let label = format!("measure {} on {}", teacher.name(), test.name);
        let mut piece = self.progress.start(&label, images as u64, "image");
        let measured = measure(teacher, self.runtime, test, &mut |done| piece.at(done, ""))?;
        measured
            .judge(&teacher.manifest, &test.name, &test.classes)
            .map_err(|what| EngineError::Mislabels { path: teacher.dir.clone(), what })?;
        piece.finish(&format!("top-1 {}", percent(measured.accuracy())));
        Ok(write_json(work, MEASURED, &measured)?)
    }

    fn balance(&self, work: &WorkDir, teacher: &Bundle, config: &RecoverConfig) -> Result<(), Failure> {
        Ok(write_json(work, AUTO, &balance::auto(teacher, config, self.device)?)?)
    }

    fn recover(&self, work: &WorkDir, task: &RecoverTask) -> Result<Option<String>, Failure> {
        recovery::recover(work, task, self.device, &self.progress)?;
        let without_effect = task.config.bf16 && self.device == tch::Device::Cpu;
        Ok(without_effect
            .then(|| "`recover.bf16` has no effect on the CPU, whose kernels compute in float32".to_owned()))
    }

    fn accuracy(&self, work: &WorkDir, images: &Path, verifier: &Bundle) -> Result<(), Failure> {
        let set = png::read_set(images)?;
        Ok(write_json(work, ACCURACY, &recover::accuracy(verifier, self.runtime, &set)?)?)
    }

    fn relabel(&self, work: &WorkDir, task: &RelabelTask) -> Result<Option<String>, Failure> {
        let RelabelTask { name, images, formation, teachers, config, seed, key } = task;
        let set = read_named(images, name)?;
        let may_be_on_gpu = config.provider != config::Device::Cpu && self.runtime.has(Provider::Cuda).is_ok();
        let _alone = may_be_on_gpu.then(|| self.gpu.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut answering, remark) = Teachers::open(teachers, self.runtime, config, self.device)?;
        let relabel = Relabel { bundles: teachers, config, formation: *formation, seed: *seed, key };
        relabel.run(&set, &mut answering, &work.path().join(LABELS), &self.progress)?;
        Ok(remark)
    }

    fn validate(&self, work: &WorkDir, task: &ValidateTask) -> Result<(), Failure> {
        students::train(work, task, self.device, &self.progress)
    }

    fn whole(&self, work: &WorkDir, task: &WholeTask) -> Result<(), Failure> {
        students::train_on_whole(work, task, self.device, &self.progress)
    }

    fn work_off(&self, tasks: Vec<Task>) -> Result<WorkedOff, RunError> {
        lanes::work_off(tasks, self.lanes, &self.progress)
    }

    fn tell(&self, what: &str) {
        self.progress.tell(what);
    }
}

/// The ImageFolder `images`, which is called `name`.
fn read_named(images: &Path, name: &str) -> Result<Dataset, DataError> {
    Ok(Dataset { name: name.to_owned(), ..png::read_set(images)? })
}

/// Why libtorch finds no CUDA device, as far as can be told.
pub fn why_no_cuda() -> String {
    let version = env!("SCDD_TORCH");
    if version.contains("+cpu") {
        return format!("libtorch {version} was built without CUDA");
    }
    match Path::new("/proc/driver/nvidia/version").exists() {
        true => format!("there is an NVIDIA driver, but libtorch {version} sees no device through it"),
        false => "no NVIDIA driver is here".to_owned(),
    }
}

fn find(device: config::Device) -> Result<tch::Device, EngineError> {
    let found = tch::Cuda::is_available();
    match device {
        config::Device::Cuda if !found => Err(EngineError::NoCuda { reason: why_no_cuda() }),
        config::Device::Cuda => Ok(tch::Device::Cuda(0)),
        config::Device::Auto if found => Ok(tch::Device::Cuda(0)),
        config::Device::Auto | config::Device::Cpu => Ok(tch::Device::Cpu),
    }
}
