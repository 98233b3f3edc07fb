//! Makes the stages of an experiment: teachers answer through ONNX Runtime, everything else is
//! computed by libtorch and our own kernels.
//!
//! A [`StageGraph`] comes in, an [`Outcome`] goes out. How a kind of stage is made is in a file of
//! `stages` that is called as its description in [`scdd_experiment::run::stages`].

pub mod commands;
pub mod memory;

mod scheduler;
mod stages;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use scdd_artifacts::stage::StageStore;
use scdd_compute::threads::Threads;
use scdd_distill::progress::Progress;
use scdd_distill::teacher::Runtime;
use scdd_experiment::config;
use scdd_experiment::run::graph::{StageGraph, StageNode};
use scdd_experiment::run::{Outcome, RunError};

use scheduler::{Job, MemoryAwareProgress};

/// Why the worker refuses.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("bundle `{bundle}` failed its verification{}; `scdd verify` shows every check", .divergence.as_ref().map_or(String::new(), |d| format!(": {d}")))]
    Unverified { bundle: String, divergence: Option<String> },
    #[error(
        "CUDA was asked for (`device: cuda`), but libtorch finds no CUDA device: {reason}; use `device: cpu` or `auto`"
    )]
    NoCuda { reason: String },
    #[error("{}: {what}", path.display())]
    Mislabels { path: std::path::PathBuf, what: String },
}

/// Makes stages.
pub struct Worker<'a> {
    /// Answers for the teachers.
    runtime: &'a Runtime,
    progress: &'a dyn Progress,
    device: tch::Device,
    /// Stages that may be under way at once.
    lanes: NonZeroUsize,
    /// Held while ONNX Runtime labels on a GPU, whose memory nobody looks at.
    gpu: Mutex<()>,
}

impl<'a> Worker<'a> {
    /// A worker on `device`. At most `jobs` stages are made at once on the CPU, by default as many
    /// as it has cores; one on CUDA.
    ///
    /// # Errors
    /// When `device` is CUDA and there is none.
    pub fn new(
        runtime: &'a Runtime,
        progress: &'a dyn Progress,
        device: config::Device,
        jobs: Option<NonZeroUsize>,
    ) -> Result<Self, WorkerError> {
        let device = find(device)?;
        let cores = NonZeroUsize::new(rayon::current_num_threads()).unwrap_or(NonZeroUsize::MIN);
        let lanes =
            if device == tch::Device::Cpu { jobs.unwrap_or(cores) } else { NonZeroUsize::MIN };
        tracing::debug!("tensors are on {device:?}; at most {lanes} stages at once, {cores} cores");
        Ok(Self { runtime, progress, device, lanes, gpu: Mutex::default() })
    }

    /// Where tensors live.
    pub fn device(&self) -> tch::Device {
        self.device
    }

    /// Makes every stage of `graph` that is not complete in `store`, several at once where that is
    /// faster. A stage that fails is told at once, and ends those alone that need it.
    ///
    /// # Errors
    /// What would end every stage, such as a full disk; none is begun after it.
    pub fn make_all(&self, graph: &StageGraph, store: &StageStore) -> Result<Outcome, RunError> {
        let job = |id| {
            let StageNode { title, needs, .. } = graph.node(id);
            Job { id, title: title.clone(), needs: needs.clone() }
        };
        let jobs = graph.open(store)?.into_iter().map(job).collect();
        let make = |id, threads: &Threads| self.make(graph.node(id), store, threads);
        scheduler::work_off(jobs, self.lanes, self.progress, &make)
    }

    /// Makes the stage of `node`; gives a remark for the user.
    fn make(
        &self,
        node: &StageNode,
        store: &StageStore,
        threads: &Threads,
    ) -> Result<Option<String>, RunError> {
        let tools = Tools {
            runtime: self.runtime,
            progress: MemoryAwareProgress(self.progress, threads.clone()),
            device: self.device,
            threads,
            gpu: &self.gpu,
        };
        let mut remark = None;
        let made = store.run(&node.stage, &|what| self.progress.tell(what), |work| {
            remark = stages::make(&node.task, work, &tools)?;
            Ok::<_, RunError>(())
        });
        if let Err(error) = &made
            && !scheduler::ends_all(error)
        {
            store.note_failure(&node.stage, &format!("{}: {error}", node.title))?;
        }
        made.map(|_| remark)
    }
}

/// What one stage is made with.
struct Tools<'a> {
    /// Answers for the teachers.
    runtime: &'a Runtime,
    progress: MemoryAwareProgress<'a>,
    device: tch::Device,
    threads: &'a Threads,
    gpu: &'a Mutex<()>,
}

impl Tools<'_> {
    /// Waits until nobody else labels on a GPU.
    fn lock_gpu(&self) -> MutexGuard<'_, ()> {
        self.gpu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why libtorch finds no CUDA device, as far as can be told.
pub fn why_no_cuda() -> String {
    let version = env!("SCDD_TORCH");
    if version.contains("+cpu") {
        return format!("libtorch {version} was built without CUDA");
    }
    match Path::new("/proc/driver/nvidia/version").exists() {
        true => {
            format!("there is an NVIDIA driver, but libtorch {version} sees no device through it")
        }
        false => "no NVIDIA driver is here".to_owned(),
    }
}

fn find(device: config::Device) -> Result<tch::Device, WorkerError> {
    let found = tch::Cuda::is_available();
    match device {
        config::Device::Cuda if !found => Err(WorkerError::NoCuda { reason: why_no_cuda() }),
        config::Device::Cuda => Ok(tch::Device::Cuda(0)),
        config::Device::Auto if found => Ok(tch::Device::Cuda(0)),
        config::Device::Auto | config::Device::Cpu => Ok(tch::Device::Cpu),
    }
}
