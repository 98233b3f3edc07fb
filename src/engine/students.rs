//! Students of several rows at once, each on its share of the processor: small networks leave a second thread too little to do.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rayon::ThreadPoolBuilder;
use tch::Device;

use super::EngineError;
use crate::data::{Dataset, png};
use crate::progress::Progress;
use crate::relabel::{Relabel, store};
use crate::run::files::{TRAINING, write_json};
use crate::run::stage::{Store, WorkDir};
use crate::run::{Failure, ValidateTask, WholeTask};
use crate::teacher::Bundle;
use crate::validate::{Lesson, Student};

/// Trains the student of `task`, tests it, and leaves weights and figures in `work`.
pub fn train(
    work: &WorkDir,
    task: &ValidateTask,
    student: &Bundle,
    test: &Dataset,
    device: Device,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let images = png::read_set(&task.images)?;
    let labels = store::Store::open(&task.labels)?;
    let mut fresh = Student::new(student, task.seed, device)?;
    let training = fresh.train(&Lesson { images: &images, labels: &labels }, test, &task.config, progress)?;
    work.write("student.safetensors", &fresh.checkpoint()?)?;
    Ok(write_json(work, TRAINING, &training)?)
}

/// Trains a student on the whole training set, tests it, and leaves the figures in `work`.
pub fn train_on_whole(
    work: &WorkDir,
    task: &WholeTask,
    device: Device,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let &WholeTask { student, train, test, views, config, seed, key } = task;
    let path = work.scratch("views");
    Relabel { bundles: &[(student, 1.0)], config: views, formation: 1, seed, key }.views(train, &path)?;
    let labels = store::Store::open(&path)?;
    let mut fresh = Student::new(student, seed, device)?;
    let training = fresh.train(&Lesson { images: train, labels: &labels }, test, config, progress)?;
    drop(labels);
    work.discard(&path)?;
    Ok(write_json(work, TRAINING, &training)?)
}

/// Makes the stages of `tasks` on the CPU, as many at once as the processor has cores; those that are complete are left alone.
///
/// # Errors
/// The first that a task has; no further one is begun after it.
pub fn train_all(
    store: &Store,
    tasks: Vec<ValidateTask>,
    test: &Dataset,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let tasks = open(store, tasks)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if tasks.len() < 2 || cores < 2 {
        // One after the other as their rows come up, each with a progress of its own.
        return Ok(());
    }
    let workers = cores.min(tasks.len());
    let total: u64 = tasks.iter().map(|task| u64::from(task.epochs)).sum();
    progress.start(&format!("validate {} students, {workers} at once", tasks.len()), total, "epoch");
    let next = AtomicUsize::new(0);
    let done = thread::scope(|scope| {
        let (sender, receiver) = channel();
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                let (sender, tasks, next) = (sender.clone(), &tasks, &next);
                scope.spawn(move || work_off(store, tasks, next, cores / workers, test, &sender))
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

/// The tasks that are still to be done, each once.
fn open(store: &Store, tasks: Vec<ValidateTask>) -> Result<Vec<ValidateTask>, Failure> {
    let mut seen = BTreeSet::new();
    let mut open = Vec::new();
    for task in tasks {
        if seen.insert(store.path(&task.stage)) && store.find(&task.stage)?.is_none() {
            open.push(task);
        }
    }
    Ok(open)
}

/// One worker: takes task after task until there is none, or one has failed.
fn work_off(
    store: &Store,
    tasks: &[ValidateTask],
    next: &AtomicUsize,
    threads: usize,
    test: &Dataset,
    sender: &Sender<String>,
) -> Result<(), Failure> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| EngineError::Threads { why: error.to_string() })?;
    while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
        let done = pool.install(|| {
            let (path, hash) = &task.student;
            let student = Bundle::load(path)?;
            if student.hash != *hash {
                return Err(EngineError::Changed { bundle: path.clone() }.into());
            }
            let told = Told(sender.clone());
            store.run(&task.stage, |work| train(work, task, &student, test, Device::Cpu, &told)).map(drop)
        });
        if done.is_err() {
            next.store(tasks.len(), Ordering::Relaxed);
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
