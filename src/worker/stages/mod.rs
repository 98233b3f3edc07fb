//! Makes each kind of stage, one file per kind. A stage writes its [files](scdd_artifacts::files)
//! into its working directory, and reuses the parts that an interrupted attempt had committed
//! there.

mod balance;
mod import;
mod measure;
mod real;
mod recognise;
mod recover;
mod relabel;
mod subset;
mod validate;
mod verifier;
mod verify;
mod whole;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{StopRequest, Tools};
use scdd_artifacts::stage::{TakenPart, Wait, WorkDir};
use scdd_data::{DataError, Dataset, Size, png};
use scdd_distill::keeper::Keeper;
use scdd_distill::progress::Progress;
use scdd_distill::teacher::Bundle;
use scdd_distill::validate::{Student, ValidateError};
use scdd_experiment::config::Precision;
use scdd_experiment::run::Failure;
use scdd_experiment::run::stages::Task;

/// Makes the stage of `task` in `work`. Returns a remark for the user.
pub fn make(task: &Task, work: &WorkDir, tools: &Tools) -> Result<Option<String>, Failure> {
    match task {
        Task::Verify(task) => verify::make(task, work, tools).map(|()| None),
        Task::Measure(task) => measure::make(task, work, tools).map(|()| None),
        Task::Balance(task) => balance::make(task, work, tools).map(|()| None),
        Task::Recover(task) => recover::make(task, work, tools),
        Task::Subset(task) => subset::make(task, work).map(|()| None),
        Task::Real(task) => real::make(task, work).map(|()| None),
        Task::Import(task) => import::make(task, work).map(|()| None),
        Task::Recognise(task) => recognise::make(task, work, tools).map(|()| None),
        Task::Verifier(task) => verifier::make(task, work, tools).map(|()| None),
        Task::Relabel(task) => relabel::make(task, work, tools).map(|()| None),
        Task::Validate(task) => validate::make(task, work, tools).map(|()| None),
        Task::Whole(task) => whole::make(task, work, tools).map(|()| None),
    }
}

/// Makes parts of the stage of `task`, which the process `whom` is making in `work`, if its kind
/// has parts.
pub fn help(task: &Task, work: &WorkDir, tools: &Tools, whom: &str) -> Result<(), Failure> {
    match task {
        Task::Recover(task) => recover::help(task, work, tools, whom),
        _ => Ok(()),
    }
}

/// Makes those parts of the stage of `task` in `work` that are this process's, if its
/// kind has parts.
pub fn make_parts(
    task: &Task,
    work: &WorkDir,
    tools: &Tools,
    is_own: &dyn Fn(usize) -> bool,
) -> Result<(), Failure> {
    match task {
        Task::Recover(task) => recover::make_parts(task, work, tools, is_own),
        Task::Relabel(task) => relabel::make_parts(task, work, tools, is_own),
        _ => Ok(()),
    }
}

/// The interval between two looks at a part that another process is at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Takes the part `part`, a `kind` of part, as soon as no other process is at it. `None` if the
/// stage became complete meanwhile.
fn wait_for_part(
    work: &WorkDir,
    tools: &Tools,
    part: &str,
    kind: &str,
) -> Result<Option<TakenPart>, Failure> {
    let mut wait = Wait::begin();
    while work.is_under_way() {
        tools.stop.check()?;
        if let Some(taken) = work.take(part)? {
            return Ok(Some(taken));
        }
        let whom = format!("{}, which is at {kind} {part}", work.who_is_at(part));
        if let Some(report) = wait.report(&whom) {
            tools.progress.tell(&report);
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(None)
}

/// The images of the ImageFolder `images`, as a data set called `name`.
fn read_named(images: &Path, name: &str) -> Result<Dataset, DataError> {
    Ok(Dataset { name: name.to_owned(), ..png::read_set(images)? })
}

/// Keeps the state of work that is under way in a file of the stage's directory, which is gone when
/// the stage is complete. When the run is asked to stop, the work ends with the next state.
struct StateFile<'a> {
    work: &'a WorkDir,
    stop: &'a StopRequest,
    name: String,
    /// When it was kept last.
    kept: Instant,
}

/// The minimum interval between two saves, after steps or epochs. A save takes some
/// milliseconds.
const KEEP_EVERY: Duration = Duration::from_secs(20);

impl<'a> StateFile<'a> {
    fn new(work: &'a WorkDir, stop: &'a StopRequest, name: impl Into<String>) -> Self {
        Self { work, stop, name: name.into(), kept: Instant::now() }
    }

    fn remove(&self) -> Result<(), Failure> {
        Ok(self.work.remove(&self.name)?)
    }
}

impl Keeper for StateFile<'_> {
    fn kept(&self) -> Option<Vec<u8>> {
        fs::read(self.work.path().join(&self.name)).ok()
    }

    fn is_due(&self) -> bool {
        self.stop.is_asked() || self.kept.elapsed() >= KEEP_EVERY
    }

    fn keep(&mut self, state: &[u8]) -> Result<(), Failure> {
        self.work.write_last_of_part(&self.name, state)?;
        self.kept = Instant::now();
        Ok(self.stop.check()?)
    }
}

/// A student with weights drawn from `seed`, in the run's precision.
fn fresh_student<'a>(
    network: &'a Bundle,
    seed: u64,
    tools: &Tools,
) -> Result<Student<'a>, ValidateError> {
    let fresh = Student::new(network, seed, tools.device.tensors, tools.threads.clone())?;
    Ok(match tools.device.arithmetic() {
        Precision::Bf16 => fresh.with_convolutions_in(tch::Kind::BFloat16),
        Precision::Fp32 | Precision::Tf32 => fresh,
    })
}

/// The size of the images that `network` accepts.
fn input_size(network: &Bundle) -> Size {
    let [_, height, width] = network.image_shape();
    Size { height, width }
}
