//! Runs the stages of an experiment. Teachers run in ONNX Runtime; everything else runs in libtorch
//! and our own kernels.
//!
//! The input is a [`StageGraph`], the output an [`Outcome`]. Each kind of stage has a file in
//! `stages`, with the same name as its description in [`scdd_experiment::run::stages`].

pub mod commands;
pub mod memory;

mod device;
mod provenance;
mod recorded;
mod scheduler;
mod stages;
mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use scdd_artifacts::stage::{Attempt, Share, StageStore};
use scdd_compute::cuda::NoCuda;
use scdd_compute::threads::Threads;
use scdd_distill::progress::Progress;
use scdd_distill::teacher::Runtime;
use scdd_experiment::config::Experiment;
use scdd_experiment::run::graph::StageGraph;
use scdd_experiment::run::shards::Shard;
use scdd_experiment::run::stages::{NodeId, StageNode, Task};
use scdd_experiment::run::{Outcome, RunError};

use device::ComputeDevice;
use provenance::Computation;
use recorded::RecordedProgress;
use scheduler::{Job, Made, MemoryAwareProgress};
pub use stop::StopRequest;

/// Why the worker can't start or run a stage.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("bundle `{bundle}` failed its verification{}; `scdd verify` shows every check", .divergence.as_ref().map_or(String::new(), |d| format!(": {d}")))]
    Unverified { bundle: String, divergence: Option<String> },
    #[error(
        "CUDA was asked for (`device: cuda`), but {reason}: {}; `device: cpu` or `auto` needs none", reason.remedy()
    )]
    NoCuda { reason: NoCuda },
    #[error("{0}; `device: cpu` needs no such setting")]
    Precision(String),
    #[error(
        "bundle `{bundle}` computes otherwise on {device} than its golden probe says ({what}): `precision: fp32` or `device: cpu` may be exact enough"
    )]
    Inexact { bundle: String, device: String, what: String },
    #[error("{}: {what}", path.display())]
    Mislabels { path: std::path::PathBuf, what: String },
    #[error("{what}")]
    Misordered { what: String },
    #[error("{}: changed while this ran; start it again", path.display())]
    Changed { path: std::path::PathBuf },
}

/// Runs stages.
pub struct Worker<'a> {
    /// Runs the teachers.
    runtime: &'a Runtime,
    progress: &'a dyn Progress,
    device: ComputeDevice,
    /// The maximum number of stages at once.
    lanes: NonZeroUsize,
    stop: StopRequest,
    /// The keys of stages that another process was at, and whether this one has helped it.
    elsewhere: Mutex<BTreeMap<String, bool>>,
    /// Locked while ONNX Runtime labels on a GPU, because the scheduler does not check the GPU's
    /// memory.
    gpu: Mutex<()>,
    /// Hashes of the bundles that compute on the GPU as their golden probe says.
    proven: Mutex<BTreeSet<String>>,
}

impl<'a> Worker<'a> {
    /// A worker for `experiment`, which stops on `stop`. On the CPU at most `jobs` stages run at
    /// once, by default as many as there are cores; on CUDA, one. Tells where it computes.
    ///
    /// # Errors
    /// When the experiment's device is CUDA and there is none.
    pub fn new(
        runtime: &'a Runtime,
        progress: &'a dyn Progress,
        experiment: &Experiment,
        jobs: Option<NonZeroUsize>,
        stop: StopRequest,
    ) -> Result<Self, WorkerError> {
        let (device, no_cuda) = ComputeDevice::open(experiment.device, experiment.precision)?;
        progress.tell(&device.told(no_cuda.as_ref()));
        let cores = NonZeroUsize::new(rayon::current_num_threads()).unwrap_or(NonZeroUsize::MIN);
        let lanes = if device.is_cpu() { jobs.unwrap_or(cores) } else { NonZeroUsize::MIN };
        tracing::debug!("at most {lanes} stages at once, {cores} cores");
        Ok(Self {
            runtime,
            progress,
            device,
            lanes,
            stop,
            elsewhere: Mutex::default(),
            gpu: Mutex::default(),
            proven: Mutex::default(),
        })
    }

    /// Makes every stage of `graph` that is not complete in `store`, several at once. A failure is
    /// reported at once, and skips only the stages that depend on the failed one. A stage that
    /// another process is at is left to it, and waited for last.
    ///
    /// # Errors
    /// When the run was asked to stop, or a failure would hit every stage, such as a full disk; no
    /// stage starts after it.
    pub fn make_all(&self, graph: &StageGraph, store: &StageStore) -> Result<Outcome, RunError> {
        let make = |id, threads: &Threads| self.make(graph.node(id), store, threads);
        self.work_off(graph, graph.open(store)?, &make)
    }

    /// Makes the units of `shard` that `store` lacks, and the undivided stages that they need,
    /// which all shards share. Failures are as in [`make_all`](Self::make_all).
    ///
    /// # Errors
    /// Also when a stage of an earlier goal is not complete.
    pub fn make_shard(
        &self,
        graph: &StageGraph,
        store: &StageStore,
        shard: Shard,
    ) -> Result<Outcome, RunError> {
        let make = |id, threads: &Threads| {
            let units = graph.units().into_iter().find(|units| units.node == id);
            match units.filter(|_| graph.node(id).task.has_parts()) {
                Some(units) => {
                    let is_own = |part: usize| shard.has(units.first + part as u64);
                    self.make_parts(graph.node(id), store, threads, &is_own)
                }
                None => self.make(graph.node(id), store, threads),
            }
        };
        self.work_off(graph, graph.of_shard(shard, store)?, &make)
    }

    /// The store, for what this computes for `task`.
    fn computing(&self, store: &StageStore, task: &Task) -> StageStore {
        match Computation::of(task) {
            Some(what) => store.computing_on(what.record(&self.device, &self.runtime.file_name())),
            None => store.clone(),
        }
    }

    fn work_off(
        &self,
        graph: &StageGraph,
        ids: Vec<NodeId>,
        make: &(dyn Fn(NodeId, &Threads) -> Result<Made, RunError> + Sync),
    ) -> Result<Outcome, RunError> {
        let job = |id| {
            let StageNode { title, needs, .. } = graph.node(id);
            Job { id, title: title.clone(), needs: needs.clone() }
        };
        let jobs = ids.into_iter().map(job).collect();
        scheduler::work_off(jobs, self.lanes, self.progress, &self.stop, make)
    }

    /// Makes the stage of `node`, unless another process is at it.
    fn make(
        &self,
        node: &StageNode,
        store: &StageStore,
        threads: &Threads,
    ) -> Result<Made, RunError> {
        let store = &self.computing(store, &node.task);
        let recorded = RecordedProgress { inner: self.progress, store, stage: &node.stage };
        let tools = self.tools(&recorded, threads);
        let mut remark = None;
        let attempt = store.attempt(&node.stage, &|what| self.progress.tell(what), |work| {
            remark = stages::make(&node.task, work, &tools)?;
            Ok::<_, RunError>(())
        });
        match attempt {
            Ok(Attempt::Complete(_)) => Ok(Made::Complete(remark)),
            Ok(Attempt::Elsewhere(whom)) => self.help(node, store, &tools, whom),
            Err(error) => Err(noted(error, node, store)?),
        }
    }

    /// Makes the parts of the stage of `node` that are this process's.
    fn make_parts(
        &self,
        node: &StageNode,
        store: &StageStore,
        threads: &Threads,
        is_own: &dyn Fn(usize) -> bool,
    ) -> Result<Made, RunError> {
        let store = &self.computing(store, &node.task);
        let recorded = RecordedProgress { inner: self.progress, store, stage: &node.stage };
        let tools = self.tools(&recorded, threads);
        let work = match store.share(&node.stage, &|what| self.progress.tell(what))? {
            Share::Complete => return Ok(Made::Complete(None)),
            Share::Elsewhere(whom) => return Ok(Made::Elsewhere(whom)),
            Share::Open(work) => work,
        };
        match stages::make_parts(&node.task, &work, &tools, is_own) {
            Ok(()) => Ok(Made::Complete(None)),
            Err(error) => Err(noted(RunError::Make(error), node, store)?),
        }
    }

    fn tools<'b>(&'b self, recorded: &'b RecordedProgress, threads: &'b Threads) -> Tools<'b> {
        Tools {
            runtime: self.runtime,
            progress: MemoryAwareProgress(recorded, threads.clone()),
            device: self.device,
            threads,
            stop: &self.stop,
            gpu: &self.gpu,
            proven: &self.proven,
        }
    }

    /// Makes parts of the stage of `node`, which `whom` is at. Other stages come first, so this
    /// waits until the stage is met again; a stage is helped once.
    fn help(
        &self,
        node: &StageNode,
        store: &StageStore,
        tools: &Tools,
        whom: String,
    ) -> Result<Made, RunError> {
        let lock = || self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        let key = node.stage.key();
        let has_helped = lock().get(&key).copied();
        match has_helped {
            None => lock().insert(key, false),
            Some(false) if let Some(work) = store.join(&node.stage) => {
                match stages::help(&node.task, &work, tools, &whom).map_err(RunError::Make) {
                    Err(error) if stop::is_stop(&error) => return Err(RunError::Stopped),
                    // If it is the work that fails, whoever makes the stage meets the same.
                    Err(error) => self.progress.tell(&format!("note: can't help {whom}: {error}")),
                    Ok(()) => {}
                }
                lock().insert(key, true)
            }
            Some(_) => None,
        };
        Ok(Made::Elsewhere(whom))
    }
}

/// The error of an attempt at the stage of `node`, which is noted unless it was asked for or hits
/// all stages.
fn noted(error: RunError, node: &StageNode, store: &StageStore) -> Result<RunError, RunError> {
    if stop::is_stop(&error) {
        return Ok(RunError::Stopped);
    }
    if !scheduler::ends_all(&error) {
        store.note_failure(&node.stage, &format!("{}: {error}", node.title))?;
    }
    Ok(error)
}

/// The resources for making one stage.
struct Tools<'a> {
    /// Runs the teachers.
    runtime: &'a Runtime,
    progress: MemoryAwareProgress<'a>,
    device: ComputeDevice,
    threads: &'a Threads,
    /// Work that takes long looks at it at every step.
    stop: &'a StopRequest,
    gpu: &'a Mutex<()>,
    proven: &'a Mutex<BTreeSet<String>>,
}

impl Tools<'_> {
    /// Waits until no other stage labels on a GPU.
    fn lock_gpu(&self) -> MutexGuard<'_, ()> {
        self.gpu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
