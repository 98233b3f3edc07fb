//! Students of several rows at once, each on its share of the processor: small networks leave a second thread too little to do.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rayon::ThreadPoolBuilder;
use tch::Device;

use super::RunError;
use super::pieces::{TRAINING, write_json};
use super::stage::{Stage, Store, WorkDir};
use crate::config::ValidateConfig;
use crate::data::{Dataset, png};
use crate::progress::Progress;
use crate::relabel::{RelabelError, store};
use crate::teacher::Bundle;
use crate::validate::{Lesson, Student};

/// One student to train: files only, so that it can go to another thread.
pub struct Job {
    pub stage: Stage,
    /// An ImageFolder.
    pub images: PathBuf,
    /// The label store.
    pub labels: PathBuf,
    /// Epochs that the labels have.
    pub epochs: u32,
    /// The student's bundle, and its hash when it was verified.
    pub student: (PathBuf, String),
    pub config: ValidateConfig,
    pub seed: u64,
}

impl Job {
    /// Trains the student, tests it, and leaves weights and figures in `work`.
    pub fn run(
        &self,
        work: &WorkDir,
        student: &Bundle,
        test: &Dataset,
        device: Device,
        progress: &dyn Progress,
    ) -> Result<(), RunError> {
        let images = png::read_set(&self.images)?;
        let labels = store::Store::open(&self.labels).map_err(RelabelError::from)?;
        let mut fresh = Student::new(student, self.seed, device)?;
        let training = fresh.train(&Lesson { images: &images, labels: &labels }, test, &self.config, progress)?;
        work.write("student.safetensors", &fresh.checkpoint()?)?;
        write_json(work, TRAINING, &training)
    }
}

/// Makes the stages of `jobs` on the CPU, as many at once as the processor has cores; those that are complete are left alone.
///
/// # Errors
/// The first that a job has; no further job is begun after it.
pub fn train_all(store: &Store, jobs: Vec<Job>, test: &Dataset, progress: &dyn Progress) -> Result<(), RunError> {
    let jobs = open(store, jobs)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if jobs.len() < 2 || cores < 2 {
        // One after the other as their rows come up, each with a progress of its own.
        return Ok(());
    }
    let workers = cores.min(jobs.len());
    let total: u64 = jobs.iter().map(|job| u64::from(job.epochs)).sum();
    progress.start(&format!("validate {} students, {workers} at once", jobs.len()), total, "epoch");
    let next = AtomicUsize::new(0);
    let done = thread::scope(|scope| {
        let (sender, receiver) = channel();
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                let (sender, jobs, next) = (sender.clone(), &jobs, &next);
                scope.spawn(move || work_off(store, jobs, next, cores / workers, test, &sender))
            })
            .collect();
        drop(sender);
        for (count, note) in (1..).zip(receiver) {
            progress.at(count, &note);
        }
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    progress.finish("");
    done
}

/// The jobs that are still to be done, each once.
fn open(store: &Store, jobs: Vec<Job>) -> Result<Vec<Job>, RunError> {
    let mut seen = BTreeSet::new();
    let mut open = Vec::new();
    for job in jobs {
        if seen.insert(store.path(&job.stage)) && store.find(&job.stage)?.is_none() {
            open.push(job);
        }
    }
    Ok(open)
}

/// One worker: takes job after job until there is none, or one has failed.
fn work_off(
    store: &Store,
    jobs: &[Job],
    next: &AtomicUsize,
    threads: usize,
    test: &Dataset,
    sender: &Sender<String>,
) -> Result<(), RunError> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| RunError::Threads { why: error.to_string() })?;
    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
        let done = pool.install(|| {
            let (path, hash) = &job.student;
            let student = Bundle::load(path)?;
            if student.hash != *hash {
                return Err(RunError::Changed { bundle: path.clone() });
            }
            let told = Told(sender.clone());
            store.run(&job.stage, |work| job.run(work, &student, test, Device::Cpu, &told)).map(drop)
        });
        if done.is_err() {
            next.store(jobs.len(), Ordering::Relaxed);
        }
        done?;
    }
    Ok(())
}

/// Sends the newest figure once for every epoch.
struct Told(Sender<String>);

impl Progress for Told {
    fn start(&self, _: &str, _: u64, _: &str) {}

    fn at(&self, _: u64, note: &str) {
        // Nobody listens any more only when the run is about to end.
        let _ = self.0.send(note.to_owned());
    }

    fn finish(&self, _: &str) {}
}
