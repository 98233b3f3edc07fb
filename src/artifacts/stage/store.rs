//! The directory of all stages: finds, makes, helps, lists and removes them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::clock::{Begun, Clock};
use super::contents::{self, Problem};
use super::lock::{self, Lock};
use super::work_dir::WorkDir;
use super::{
    ComputedOn, PARTIAL, RECORD, Stage, StageError, State, Tell, entries, io_error, is_scratch,
    partial_name, parts, write_atomic,
};
use crate::atomic::SCRATCH;

pub(super) const LOCKS: &str = ".locks";
const FAILURES: &str = ".failures";
/// The lock of a directory while it is filled.
pub(super) const FILLING: &str = ".scdd-lock";

/// The outcome of an attempt at a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The directory of the complete result.
    Complete(PathBuf),
    /// Another process is at the stage: who, and at what.
    Elsewhere(String),
}

/// A stage of which a process makes parts.
#[derive(Debug)]
pub enum Share {
    /// All parts are there.
    Complete,
    /// Parts may be missing in this directory.
    Open(Box<WorkDir>),
    /// Another process is about to make the directory.
    Elsewhere(String),
}

/// A stage's directory, as an attempt finds it.
enum OpenedStage {
    Complete(PathBuf),
    Elsewhere(String),
    /// The directory, and the stage's lock.
    Partial(Lock, Box<WorkDir>),
}

/// The contents found under a stage's final name.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// All files are intact, in this directory.
    Complete(PathBuf),
    /// A file is damaged or missing, as described.
    Damaged(String),
}

/// The directory that holds all stage directories.
#[derive(Debug, Clone)]
pub struct StageStore {
    pub(super) root: PathBuf,
    pub(super) clock: Clock,
    /// What computes the stages, if that matters.
    computed_on: Option<ComputedOn>,
}

impl StageStore {
    /// A store below `root`, which is created by the first stage.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), clock: Clock::default(), computed_on: None }
    }

    /// The same store, for a run that computes on this.
    pub fn computing_on(&self, computed_on: ComputedOn) -> Self {
        Self { computed_on: Some(computed_on), ..self.clone() }
    }

    /// The final path of `stage`, whether or not it exists.
    pub fn path(&self, stage: &Stage) -> PathBuf {
        self.root.join(&stage.stage).join(stage.directory_name())
    }

    /// Checks the directory with the final name of `stage`. An error if it holds other work.
    pub fn look(&self, stage: &Stage) -> Result<Found, StageError> {
        let directory = self.path(stage);
        match directory.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(Found::Nothing),
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(Found::Nothing),
            Err(source) => {
                return Err(StageError::Io { action: "look for", path: directory, source });
            }
        }
        if let Some(difference) = stage.difference(&directory) {
            return Err(StageError::Mismatch { directory, difference });
        }
        match contents::problem(&directory)? {
            None => Ok(Found::Complete(directory)),
            Some(Problem::Damage(damage)) => Ok(Found::Damaged(damage)),
            Some(Problem::Foreign(file)) => Err(StageError::Foreign { file }),
        }
    }

    /// Looks for `stage` anew: a network file system renews what it knows of a folder when that is
    /// opened.
    pub fn look_again(&self, stage: &Stage) {
        // A folder that is not there has nothing to renew.
        let _ = fs::read_dir(self.root.join(&stage.stage));
    }

    /// The complete result of `stage`, if there is one; an error if it is damaged.
    pub fn find(&self, stage: &Stage) -> Result<Option<PathBuf>, StageError> {
        match self.look(stage)? {
            Found::Nothing => Ok(None),
            Found::Complete(directory) => Ok(Some(directory)),
            Found::Damaged(damage) => {
                Err(StageError::Damaged { directory: self.path(stage), damage })
            }
        }
    }

    /// Makes `stage` by `work`, unless it is complete or another process is at it.
    ///
    /// `work` gets a directory that may hold files that an interrupted run committed, and should
    /// keep them. A damaged result is removed and made again, which is told. After an error the
    /// directory stays for the next attempt, unless it is empty.
    pub fn attempt<E: From<StageError>>(
        &self,
        stage: &Stage,
        tell: Tell,
        work: impl FnOnce(&WorkDir) -> Result<(), E>,
    ) -> Result<Attempt, E> {
        let (_lock, partial) = match self.open(stage, tell)? {
            OpenedStage::Complete(directory) => return Ok(Attempt::Complete(directory)),
            OpenedStage::Elsewhere(whom) => return Ok(Attempt::Elsewhere(whom)),
            OpenedStage::Partial(lock, partial) => (lock, partial),
        };
        tracing::debug!("making {}", self.path(stage).display());
        if let Err(error) = work(&partial) {
            partial.remove_if_untouched();
            return Err(error);
        }
        let directory = partial.commit(&self.path(stage))?;
        self.forget_progress(stage);
        // If the note can't be removed it is ignored, because the stage is complete.
        let _ = fs::remove_file(self.failure_path(stage));
        Ok(Attempt::Complete(directory))
    }

    /// Opens the directory of `stage`, unless the stage is complete or another process makes it.
    fn open(&self, stage: &Stage, tell: Tell) -> Result<OpenedStage, StageError> {
        if let Found::Complete(directory) = self.look(stage)? {
            tracing::debug!("complete {}", directory.display());
            return Ok(OpenedStage::Complete(directory));
        }
        let directory = self.path(stage);
        let lock_path = self.lock_path(&directory);
        let Some(lock) = Lock::attempt(&lock_path)? else {
            let whom = lock::holder(&lock_path);
            return Ok(OpenedStage::Elsewhere(format!(
                "{whom}, which is at {}",
                label(&directory)
            )));
        };
        match self.look(stage)? {
            Found::Complete(directory) => return Ok(OpenedStage::Complete(directory)),
            Found::Damaged(damage) => {
                tell(&format!("{}: {damage}; the stage is made again", directory.display()));
                self.discard(&directory)?;
            }
            Found::Nothing => {}
        }
        let partial = WorkDir::open(&directory, stage, self.parts_path(stage), self.begin())?;
        Ok(OpenedStage::Partial(lock, Box::new(partial)))
    }

    /// The directory of `stage` for a process that makes some of its parts, as others may at the
    /// same time. None of them completes the stage; the next [`attempt`](Self::attempt) does.
    ///
    /// # Errors
    /// When the directory can't be made, or holds other work.
    pub fn share(&self, stage: &Stage, tell: Tell) -> Result<Share, StageError> {
        let whom = match self.open(stage, tell)? {
            OpenedStage::Complete(_) => return Ok(Share::Complete),
            OpenedStage::Elsewhere(whom) => whom,
            OpenedStage::Partial(..) => "another process".to_owned(),
        };
        Ok(self.join(stage).map_or(Share::Elsewhere(whom), |work| Share::Open(Box::new(work))))
    }

    /// The directory in which another process is making `stage`, to help it with its parts. `None`
    /// if there is none.
    pub fn join(&self, stage: &Stage) -> Option<WorkDir> {
        WorkDir::join(&self.path(stage), stage, self.parts_path(stage), self.begin())
    }

    pub(super) fn begin(&self) -> (Begun, Option<ComputedOn>) {
        (self.clock.begin(), self.computed_on.clone())
    }

    /// Stores why an attempt at `stage` failed, until the stage is complete.
    pub fn note_failure(&self, stage: &Stage, reason: &str) -> Result<(), StageError> {
        write_atomic(&self.failure_path(stage), format!("{reason}\n").as_bytes())
    }

    /// Why the last attempt at `stage` failed, if it was noted.
    pub fn failure(&self, stage: &Stage) -> Option<String> {
        fs::read_to_string(self.failure_path(stage)).ok().map(|reason| reason.trim_end().to_owned())
    }

    /// When [`failure`](Self::failure) was noted.
    pub fn failed_at(&self, stage: &Stage) -> Option<SystemTime> {
        fs::metadata(self.failure_path(stage)).and_then(|found| found.modified()).ok()
    }

    fn failure_path(&self, stage: &Stage) -> PathBuf {
        self.root.join(FAILURES).join(label(&self.path(stage)).replace('/', "-"))
    }

    /// The state of `stage`; an error if its directory holds other work.
    pub fn state(&self, stage: &Stage) -> Result<State, StageError> {
        let path = self.path(stage);
        Ok(match self.look(stage)? {
            Found::Complete(_) => State::Complete,
            _ if self.is_being_made(&path)? => State::Running,
            Found::Damaged(_) => State::Damaged,
            Found::Nothing if partial_name(&path).exists() => State::Interrupted,
            Found::Nothing => State::Missing,
        })
    }

    /// The state of a `directory` listed by [`StageStore::all`].
    pub fn state_of(&self, directory: &Path) -> Result<State, StageError> {
        let path = Self::final_name(directory);
        Ok(match contents::problem(directory)? {
            _ if self.is_being_made(&path)? => State::Running,
            _ if path != directory => State::Interrupted,
            None => State::Complete,
            Some(_) => State::Damaged,
        })
    }

    /// Whether some process is at the stage with the final name `path`, or at a part of it.
    pub fn is_being_made(&self, path: &Path) -> Result<bool, StageError> {
        let lock = self.lock_path(path);
        Ok(Lock::is_held(&lock)? || parts::are_held(&parts_of(&lock))?)
    }

    /// Every stage directory, complete or partial, with its kind; sorted.
    pub fn all(&self) -> Result<Vec<(String, PathBuf)>, StageError> {
        let mut found = Vec::new();
        if !self.root.is_dir() {
            return Ok(found);
        }
        for (kind, _) in
            entries(&self.root)?.into_iter().filter(|(path, is_dir)| *is_dir && !is_hidden(path))
        {
            let name = kind.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let stages = entries(&kind)?
                .into_iter()
                .filter(|(path, is_dir)| *is_dir && path.join(RECORD).is_file());
            found.extend(stages.map(|(path, _)| (name.clone(), path)));
        }
        found.sort();
        Ok(found)
    }

    /// The final name of a `directory` listed by [`StageStore::all`].
    pub fn final_name(directory: &Path) -> PathBuf {
        match directory.to_str().and_then(|name| name.strip_suffix(PARTIAL)) {
            Some(name) => PathBuf::from(name),
            None => directory.to_path_buf(),
        }
    }

    /// Removes a `directory` listed by [`StageStore::all`]. A kill meanwhile leaves no part of it
    /// under its name. Returns false if it must not be removed: a process is making it, or it no
    /// longer exists.
    pub fn remove(&self, directory: &Path) -> Result<bool, StageError> {
        let lock = self.lock_path(&Self::final_name(directory));
        let parts = parts_of(&lock);
        match Lock::attempt(&lock)? {
            Some(_lock) if directory.exists() && !parts::are_held(&parts)? => {
                self.discard(directory)?;
                // What can't be removed is of no use, and in nobody's way.
                let _ = fs::remove_dir_all(parts);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Removes `directory`, whose lock is held.
    fn discard(&self, directory: &Path) -> Result<(), StageError> {
        let mut scratch = tempfile::Builder::new();
        let scratch = scratch
            .prefix(SCRATCH)
            .tempdir_in(&self.root)
            .map_err(io_error("write in", &self.root))?;
        fs::rename(directory, scratch.path().join("removed"))
            .map_err(io_error("move away", directory))?;
        scratch.close().map_err(io_error("remove", directory))
    }

    /// The folder of the locks of the parts of `stage`.
    fn parts_path(&self, stage: &Stage) -> PathBuf {
        parts_of(&self.lock_path(&self.path(stage)))
    }

    /// The lock file of the stage with the final name `path`: `<kind>-<directory name>`.
    pub(super) fn lock_path(&self, path: &Path) -> PathBuf {
        self.root.join(LOCKS).join(label(path).replace('/', "-"))
    }
}

/// The folder of the locks of a stage's parts, beside its own `lock`.
fn parts_of(lock: &Path) -> PathBuf {
    PathBuf::from(format!("{}.parts", lock.display()))
}

/// The display name of the stage in `directory`: `<kind>/<directory name>`.
fn label(directory: &Path) -> String {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
    };
    format!("{}/{}", name(directory.parent()), name(Some(directory)))
}

/// Lets `write` fill `directory` with [`write_atomic`], file by file and one process at a time.
/// Scratch files of a killed process are removed.
///
/// # Errors
/// Errors of `write`, or when the directory can't be made or locked.
pub fn fill<E: From<StageError>>(
    directory: &Path,
    tell: Tell,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let _lock = Lock::wait(&directory.join(FILLING), &directory.display().to_string(), tell)?;
    for (path, is_directory) in entries(directory)? {
        if !is_directory && is_scratch(&path) {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    write(directory)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}
